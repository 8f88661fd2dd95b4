//! Reading retained messages: what this node's subscribers and administrators ask of the shards, and what others ask of the
//! shards it leads.
//!
//! A page is asked of a shard's leader, again at intervals until it answers. The leader answers only once it has heard
//! from a majority that it still leads (ReadIndex): so a page has everything that was acknowledged before it was asked for
//! (K8). All questions that come while one such round is under way share the next. Deliberately absent: time and the
//! network; `shards` sends.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::{ConnectionId, Origin, ShardId};
use crate::message::Message;
use crate::shard::{Page, Place};

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A subscriber.
    Subscriber { connection: ConnectionId, token: u32 },
    /// An administrator, by a key.
    Administrator(u64),
}

/// Some retained messages for who asked.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub reader: Reader,
    pub messages: Vec<Message>,
    /// Where to go on; `None` when that was all.
    pub next: Option<Place>,
}

/// What this node's subscribers and administrators wait for.
#[derive(Debug, Default)]
pub(super) struct Reads {
    last: u64,
    waiting: BTreeMap<u64, Read>,
}

#[derive(Debug)]
struct Read {
    reader: Reader,
    filter: Arc<str>,
    place: Place,
    /// The last shard to ask.
    last: ShardId,
    /// A round of questions comes first (`retained_rounds`).
    held: bool,
    /// Not answered since before the last [`Reads::ask_again`].
    quiet: bool,
}

/// A question to the leader of a shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub shard: ShardId,
    /// Comes back with the answer.
    pub read: u64,
    pub filter: Arc<str>,
    pub after: Option<Arc<str>>,
}

impl Reads {
    /// Somebody wants what matches `filter` from `place` on. Gives the first question; `None` if nothing can be there.
    pub(super) fn begin(
        &mut self,
        reader: Reader,
        filter: Arc<str>,
        mut place: Place,
        shards: u16,
    ) -> Option<Question> {
        let mut last = ShardId(shards.checked_sub(1)?);
        if !filter.contains(['+', '#']) {
            last = ShardId::of_topic(&filter, shards);
            place.shard = last;
        }
        self.last += 1;
        let read = Read { reader, filter, place, last, held: false, quiet: false };
        let question = read.question(self.last);
        self.waiting.insert(self.last, read);
        Some(question)
    }

    /// A question that was begun is not asked before [`Reads::release`].
    pub(super) fn hold(&mut self, read: u64) {
        if let Some(read) = self.waiting.get_mut(&read) {
            read.held = true;
        }
    }

    /// The question may be asked now.
    pub(super) fn release(&mut self, number: u64) -> Option<Question> {
        let read = self.waiting.get_mut(&number)?;
        (read.held, read.quiet) = (false, false);
        Some(read.question(number))
    }

    /// A leader has answered: what who asked hears, or the next question. Neither if it was answered before.
    pub(super) fn answered(&mut self, read: u64, page: Page) -> (Option<Answer>, Option<Question>) {
        let Some(mut known) = self.waiting.remove(&read) else { return (None, None) };
        let Page { messages, next: after } = page;
        let next = match after {
            Some(_) => Some(Place { shard: known.place.shard, after }),
            None if known.place.shard >= known.last => None,
            None => Some(Place { shard: ShardId(known.place.shard.0 + 1), after: None }),
        };
        if let (true, Some(place)) = (messages.is_empty(), &next) {
            known.place = place.clone();
            self.last += 1;
            let question = known.question(self.last);
            self.waiting.insert(self.last, known);
            return (None, Some(question));
        }
        (Some(Answer { reader: known.reader, messages, next }), None)
    }

    /// Called at intervals: the questions that were not answered since before the last call.
    pub(super) fn ask_again(&mut self) -> Vec<Question> {
        let asked = self.waiting.iter_mut().filter(|(_, read)| !read.held);
        let unanswered =
            asked.filter_map(|(number, read)| std::mem::replace(&mut read.quiet, true).then(|| read.question(*number)));
        unanswered.collect()
    }

    /// Administrators who are not `present` have gone.
    pub(super) fn keep_administrators(&mut self, present: impl Fn(u64) -> bool) {
        self.waiting.retain(|_, read| match read.reader {
            Reader::Subscriber { .. } => true,
            Reader::Administrator(key) => present(key),
        });
    }

    /// The connections are over.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

impl Read {
    fn question(&self, read: u64) -> Question {
        let Place { shard, after } = self.place.clone();
        Question { shard, read, filter: self.filter.clone(), after }
    }
}

/// What the leader of a shard has been asked and may not answer yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    waiting: Vec<(Origin, Question)>,
    confirming: bool,
}

impl Asked {
    /// Takes a question. True if a round is to begin.
    pub(super) fn ask(&mut self, from: Origin, question: Question) -> bool {
        self.waiting.push((from, question));
        !std::mem::replace(&mut self.confirming, true)
    }

    /// What the round that begins now answers; nothing: none begins.
    pub(super) fn round(&mut self) -> Vec<(Origin, Question)> {
        self.confirming = !self.waiting.is_empty();
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(topics: &[&str], next: Option<&str>) -> Page {
        let message = |topic: &&str| Message { topic: (*topic).into(), ..Message::default() };
        Page { messages: topics.iter().map(message).collect(), next: next.map(Arc::from) }
    }

    fn begin(reads: &mut Reads, filter: &str, place: Place) -> Question {
        let reader = Reader::Subscriber { connection: ConnectionId::default(), token: 7 };
        reads.begin(reader, filter.into(), place, 3).unwrap()
    }

    #[test]
    fn a_topic_is_asked_of_its_shard_alone() {
        let mut reads = Reads::default();
        let question = begin(&mut reads, "a/b", Place::default());
        assert_eq!(question.shard, ShardId::of_topic("a/b", 3));
        let (answer, more) = reads.answered(question.read, page(&[], None));
        assert!(matches!(answer, Some(Answer { reader: Reader::Subscriber { token: 7, .. }, next: None, .. })));
        assert_eq!(more, None);
    }

    #[test]
    fn a_wildcard_goes_through_all_shards_and_stops_where_there_is_something() {
        let mut reads = Reads::default();
        let question = begin(&mut reads, "#", Place::default());
        assert_eq!((question.shard, question.after), (ShardId(0), None));
        let (answer, more) = reads.answered(question.read, page(&[], None));
        assert!(answer.is_none());
        let question = more.unwrap();
        assert_eq!(question.shard, ShardId(1));
        let (answer, more) = reads.answered(question.read, page(&["a"], Some("a")));
        let place = Place { shard: ShardId(1), after: Some("a".into()) };
        let Some(Answer { messages, next, .. }) = answer else { panic!("not answered") };
        assert_eq!((messages.len(), next, more), (1, Some(place.clone()), None));
        let question = begin(&mut reads, "#", place);
        let (_, more) = reads.answered(question.read, page(&[], None));
        let (answer, _) = reads.answered(more.unwrap().read, page(&[], None));
        assert!(matches!(answer, Some(Answer { next: None, .. })));
    }

    #[test]
    fn a_question_is_asked_again_until_it_is_answered_and_answered_once() {
        let mut reads = Reads::default();
        let question = begin(&mut reads, "a", Place::default());
        assert!(reads.ask_again().is_empty());
        assert_eq!(reads.ask_again(), std::slice::from_ref(&question));
        assert!(reads.answered(question.read, page(&["a"], None)).0.is_some());
        assert!(reads.answered(question.read, page(&["a"], None)).0.is_none());
        assert!(reads.ask_again().is_empty());
    }

    #[test]
    fn a_question_that_is_held_is_asked_when_it_is_released() {
        let mut reads = Reads::default();
        let question = begin(&mut reads, "a", Place::default());
        reads.hold(question.read);
        assert!((0..3).all(|_| reads.ask_again().is_empty()));
        assert_eq!(reads.release(question.read), Some(question.clone()));
        assert!(reads.ask_again().is_empty());
        assert_eq!(reads.ask_again(), std::slice::from_ref(&question));
        assert_eq!(reads.release(question.read + 1), None);
    }

    #[test]
    fn nothing_is_asked_for_an_administrator_who_has_gone() {
        let mut reads = Reads::default();
        for key in [1, 2] {
            reads.begin(Reader::Administrator(key), "#".into(), Place::default(), 3).unwrap();
        }
        begin(&mut reads, "a", Place::default());
        reads.keep_administrators(|key| key == 2);
        assert!(reads.ask_again().is_empty());
        assert_eq!(reads.ask_again().len(), 2);
    }

    #[test]
    fn questions_that_come_during_a_round_share_the_next() {
        let (mut asked, mut reads) = (Asked::default(), Reads::default());
        let question = begin(&mut reads, "a", Place::default());
        assert!(asked.ask(Origin::default(), question.clone()));
        assert_eq!(asked.round().len(), 1);
        assert!(!asked.ask(Origin::default(), question.clone()));
        assert!(!asked.ask(Origin::default(), question.clone()));
        assert_eq!(asked.round().len(), 2);
        assert!(asked.round().is_empty());
        assert!(asked.ask(Origin::default(), question));
    }
}
