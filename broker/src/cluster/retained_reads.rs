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
use crate::limits;
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
    /// The one that a connection waits for, by its worker and place there: it reads one filter at a time.
    by_place: BTreeMap<(u16, u32), u64>,
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
    /// A subscriber is about to ask: what it, or who had its place before, asked earlier nobody wants any more (it has
    /// unsubscribed, or gone). So no client makes more wait here than it has connections (K9). Gives that read.
    pub(super) fn drop_earlier(&mut self, reader: Reader) -> Option<u64> {
        let read = self.by_place.remove(&reader.place()?)?;
        self.waiting.remove(&read);
        Some(read)
    }

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
        self.wait(read);
        Some(question)
    }

    /// A question that was begun is not asked before [`Reads::release`].
    pub(super) fn hold(&mut self, read: u64) {
        if let Some(read) = self.waiting.get_mut(&read) {
            read.held = true;
        }
    }

    /// How many may not be asked yet.
    pub(super) fn held(&self) -> usize {
        self.waiting.values().filter(|read| read.held).count()
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
        known.reader.place().map(|place| self.by_place.remove(&place));
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
            self.wait(known);
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
        self.by_place.clear();
    }

    /// Under the last number.
    fn wait(&mut self, read: Read) {
        self.by_place.extend(read.reader.place().map(|place| (place, self.last)));
        self.waiting.insert(self.last, read);
    }
}

impl Reader {
    fn place(&self) -> Option<(u16, u32)> {
        match self {
            Reader::Subscriber { connection, .. } => Some((connection.worker, connection.slot)),
            Reader::Administrator(_) => None,
        }
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
    /// Takes a question. True if a round is to begin. At the bound it is passed over, and asked again by its node.
    pub(super) fn ask(&mut self, from: Origin, question: Question) -> bool {
        if self.waiting.len() < limits::RETAINED_QUESTIONS_MAX {
            self.waiting.push((from, question));
        }
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
    fn k9_a_connection_waits_for_what_it_asked_last_and_so_does_who_takes_its_place() {
        let mut reads = Reads::default();
        let reader = |slot, generation| {
            let connection = ConnectionId { worker: 1, slot, generation };
            Reader::Subscriber { connection, token: 7 }
        };
        let mut ask = |reader, filter: &str| {
            let earlier = reads.drop_earlier(reader);
            (reads.begin(reader, filter.into(), Place::default(), 3).unwrap().read, earlier, reads.waiting.len())
        };
        let (first, _, _) = ask(reader(1, 1), "a");
        let (second, earlier, waiting) = ask(reader(1, 1), "b/#");
        assert_eq!((earlier, waiting), (Some(first), 1));
        let (third, earlier, waiting) = ask(reader(1, 2), "c/#");
        assert_eq!((earlier, waiting), (Some(second), 1));
        let (_, earlier, waiting) = ask(reader(2, 1), "d");
        assert_eq!((earlier, waiting), (None, 2), "another connection");
        assert_eq!(reads.answered(second, page(&[], None)), (None, None));
        let (_, more) = reads.answered(third, page(&[], None));
        let fourth = more.expect("the next shard").read;
        assert_eq!(reads.drop_earlier(reader(1, 2)), Some(fourth));
        assert_eq!(reads.drop_earlier(reader(1, 2)), None);
        assert_eq!((reads.waiting.len(), reads.by_place.len()), (1, 1));
    }

    #[test]
    fn k9_a_leader_passes_over_what_is_asked_beyond_the_bound() {
        let (mut asked, mut reads) = (Asked::default(), Reads::default());
        let question = begin(&mut reads, "a", Place::default());
        for _ in 0..=limits::RETAINED_QUESTIONS_MAX {
            asked.ask(Origin::default(), question.clone());
        }
        assert_eq!(asked.round().len(), limits::RETAINED_QUESTIONS_MAX);
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
