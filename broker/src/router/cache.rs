//! Answers that a worker's [`Router`](super::Router) gave lately, by topic, and when they stop being true.
//!
//! A change of a filter makes untrue only what lies under its literal levels: every change stamps the part of the trie
//! it touches with the number of the change, and an answer holds while none of the parts that its topic lies in has a
//! newer stamp. Subscribers that come to or leave a filter which stays change no answer: answers name filters. When the trie gives
//! its filters other names, no answer holds.

use std::sync::Arc;

use smallvec::SmallVec;

use super::ValueId;
use super::levels::{literal_run, split_level};
use crate::door::Targets;
use crate::identity::keyed_hash;
use crate::limits::{TOPIC_CACHE_FILTERS_MAX, TOPIC_CACHE_TOPIC_BYTES_MAX, TOPIC_CACHE_TOPICS_MAX};

/// How many parts of the trie are told apart.
const PARTS: usize = 4096;
/// How many leading levels make a part of their own.
const PART_LEVELS: usize = 3;
/// The part that every topic lies in: filters that begin with a wildcard.
const EVERYWHERE: u16 = 0;

/// Who wants a topic.
#[derive(Clone, Debug)]
pub(super) struct Matches {
    /// The topic, to be shared by the messages that leave the worker.
    pub(super) topic: Arc<str>,
    /// The filters of this worker's own subscribers.
    pub(super) local: SmallVec<[ValueId; 4]>,
    /// Everybody else, each once.
    pub(super) targets: Targets,
    /// Shared subscriptions, by what topics are matched against.
    pub(super) shared: SmallVec<[ValueId; 2]>,
    /// The changes up to this one are known not to touch this answer.
    checked: u64,
    parts: [u16; PART_LEVELS + 2],
}

/// Topics and their [`Matches`]: one answer per place, the newer replaces the older.
pub(super) struct TopicCache {
    places: Box<[Option<Box<Matches>>]>,
    /// The answer that is too large to keep.
    passing: Option<Box<Matches>>,
    /// The number of the last change.
    now: u64,
    /// The last change of each part.
    stamps: Box<[u64]>,
}

impl Default for TopicCache {
    fn default() -> Self {
        TopicCache {
            places: vec![None; TOPIC_CACHE_TOPICS_MAX].into(),
            passing: None,
            now: 0,
            stamps: vec![0; PARTS].into(),
        }
    }
}

impl TopicCache {
    /// Notes that `filter` came, went, or changed its owners.
    pub(super) fn changed(&mut self, filter: &str) {
        self.now += 1;
        self.stamps[usize::from(part_of_filter(filter))] = self.now;
    }

    /// Notes that no answer holds any more.
    pub(super) fn everything_changed(&mut self) {
        self.now += 1;
        self.stamps[usize::from(EVERYWHERE)] = self.now;
    }

    /// The answer for `topic`; `fill` finds it when it isn't known.
    pub(super) fn get_or_fill(&mut self, topic: &str, fill: impl FnOnce(&mut Matches)) -> &Matches {
        let hash = keyed_hash(topic.as_bytes());
        let place = &mut self.places[hash as usize % TOPIC_CACHE_TOPICS_MAX];
        let known = match place {
            Some(matches) if *matches.topic == *topic => {
                matches.checked == self.now || holds(matches, &self.stamps, self.now)
            }
            _ => false,
        };
        if !known {
            let mut matches = Box::new(Matches {
                topic: topic.into(),
                local: SmallVec::new(),
                targets: Targets::new(),
                shared: SmallVec::new(),
                checked: self.now,
                parts: parts_of_topic(topic, hash),
            });
            fill(&mut matches);
            if topic.len() > TOPIC_CACHE_TOPIC_BYTES_MAX || matches.local.len() > TOPIC_CACHE_FILTERS_MAX {
                return self.passing.insert(matches);
            }
            return place.insert(matches);
        }
        match place {
            Some(matches) => matches,
            None => unreachable!("a known answer has a place"),
        }
    }
}

/// Whether no part that the answer lies in has changed since; then remembers that.
fn holds(matches: &mut Matches, stamps: &[u64], now: u64) -> bool {
    let since = matches.checked;
    let holds = matches.parts.iter().all(|part| stamps[usize::from(*part)] <= since);
    if holds {
        matches.checked = now;
    }
    holds
}

fn part(hash: u64) -> u16 {
    (1 + hash % (PARTS as u64 - 1)) as u16
}

/// The part that a filter's changes touch: exactly its topic, or what lies under its first literal levels.
fn part_of_filter(filter: &str) -> u16 {
    match literal_run(filter) {
        (_, None) => part(keyed_hash(filter.as_bytes())),
        (None, Some(_)) => EVERYWHERE,
        (Some(run), Some(_)) => part(keyed_hash(first_levels(run, PART_LEVELS).as_bytes())),
    }
}

/// The parts that a topic lies in: everywhere, its first levels, itself.
fn parts_of_topic(topic: &str, hash: u64) -> [u16; PART_LEVELS + 2] {
    let mut parts = [EVERYWHERE; PART_LEVELS + 2];
    for (levels, place) in parts.iter_mut().enumerate().take(PART_LEVELS + 1).skip(1) {
        *place = part(keyed_hash(first_levels(topic, levels).as_bytes()));
    }
    parts[PART_LEVELS + 1] = part(hash);
    parts
}

fn first_levels(text: &str, levels: usize) -> &str {
    let mut end = 0;
    for _ in 0..levels {
        match split_level(&text[end..]) {
            (level, Some(_)) => end += level.len() + 1,
            (_, None) => return text,
        }
    }
    &text[..end - 1]
}
