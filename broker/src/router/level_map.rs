//! The trie turned round: from a filter to the topics that match it, in pieces of any size.
//!
//! Topics lie in a sorted map in which `/` is less than any other byte. So all topics below a level lie side by side, and a
//! search that meets a topic that doesn't match knows the next place where one could: what it costs is the matches and
//! the branches that a `+` opens, not the topics there are. A search goes on after any topic that it has given.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::levels::{literal_run, split_level};

/// Topic names and what is kept at each.
#[derive(Clone, Debug)]
pub struct LevelMap<T>(BTreeMap<Topic, T>);

/// A topic name, ordered level by level.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Topic(Arc<str>);

impl<T> Default for LevelMap<T> {
    fn default() -> Self {
        LevelMap(BTreeMap::new())
    }
}

impl<T> LevelMap<T> {
    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is kept at `topic`.
    pub fn get(&self, topic: &str) -> Option<&T> {
        self.0.get(&Topic(topic.into()))
    }

    /// Sets what is kept at `topic`; returns what was there.
    pub fn insert(&mut self, topic: Arc<str>, value: T) -> Option<T> {
        self.0.insert(Topic(topic), value)
    }

    /// Removes `topic`; returns what was kept there.
    pub fn remove(&mut self, topic: &str) -> Option<T> {
        self.0.remove(&Topic(topic.into()))
    }

    /// What is kept at each topic, in order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }

    /// Visits what is kept at the topics after `after` (none: at all topics) that match `filter`, in order, until `visit`
    /// breaks off or `steps_max` topics were looked at. Gives the topic after which to go on; `None` when that was all.
    pub fn search<'t>(
        &'t self,
        filter: &str,
        after: Option<&str>,
        steps_max: usize,
        mut visit: impl FnMut(&'t T) -> ControlFlow<()>,
    ) -> Option<Arc<str>> {
        let mut from = match after {
            Some(topic) => Bound::Excluded(Topic(topic.into())),
            None => Bound::Unbounded,
        };
        let mut last = None;
        for _ in 0..steps_max {
            let (Topic(topic), value) = self.0.range((from, Bound::Unbounded)).next()?;
            last = Some(topic);
            from = match compare(filter, topic) {
                Verdict::Matches => {
                    if visit(value).is_break() {
                        break;
                    }
                    Bound::Excluded(Topic(topic.clone()))
                }
                Verdict::NotBefore(next) => Bound::Included(Topic(next.into())),
                Verdict::NoMore => return None,
            };
        }
        last.cloned()
    }
}

/// What a topic is to a filter.
enum Verdict {
    Matches,
    /// It doesn't match, and neither does any topic between it and this text.
    NotBefore(String),
    /// Neither it nor any that follows matches.
    NoMore,
}

fn compare(filter: &str, topic: &str) -> Verdict {
    // [MQTT-4.7.2-1]
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return Verdict::NotBefore(beyond("$"));
    }
    // Where the level ends in `topic` that the last `+` so far stands for.
    let mut plus_end = None;
    let mut at = 0;
    let (mut wanted, mut found) = (Some(filter), Some(topic));
    loop {
        let Some(text) = wanted else {
            return match found {
                None => Verdict::Matches,
                // Too long; so are all that lie below it.
                Some(_) => past(topic, plus_end),
            };
        };
        let (level, after) = split_level(text);
        if level == "#" {
            return Verdict::Matches;
        }
        let Some(rest) = found else {
            // Too short: what lies below it may match, and follows it.
            return Verdict::NotBefore(format!("{topic}/{}", literal_levels(text)));
        };
        let (present, below) = split_level(rest);
        let end = at + present.len();
        if level == "+" {
            plus_end = Some(end);
        } else {
            match level.cmp(present) {
                Ordering::Equal => {}
                Ordering::Greater => return Verdict::NotBefore(format!("{}{}", &topic[..at], literal_levels(text))),
                Ordering::Less => return past(topic, plus_end),
            }
        }
        at = end + 1;
        (wanted, found) = (after, below);
    }
}

/// The next value for the last `+`; without one there is nothing more.
fn past(topic: &str, plus_end: Option<usize>) -> Verdict {
    plus_end.map_or(Verdict::NoMore, |end| Verdict::NotBefore(beyond(&topic[..end])))
}

/// Not after any text that follows `prefix` and all that lies below it.
fn beyond(prefix: &str) -> String {
    match prefix {
        // Every topic that begins so, and not only with this level.
        "$" => "%".to_owned(),
        _ => format!("{prefix}\0"),
    }
}

/// The least text that agrees with the levels of `filter` before its first wildcard.
fn literal_levels(filter: &str) -> &str {
    literal_run(filter).0.unwrap_or("")
}

impl Ord for Topic {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right) = (self.0.as_bytes(), other.0.as_bytes());
        match left.iter().zip(right).find(|(left, right)| left != right) {
            None => left.len().cmp(&right.len()),
            Some((b'/', _)) => Ordering::Less,
            Some((_, b'/')) => Ordering::Greater,
            Some((left, right)) => left.cmp(right),
        }
    }
}

impl PartialOrd for Topic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
