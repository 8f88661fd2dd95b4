//! Retained messages that a session has subscribed to and is being sent, a piece at a time.
//!
//! One filter after another, and the next piece only when the last has left: so a client that reads slowly costs no
//! memory. What is published meanwhile is sent as it comes, and is not followed by the retained message of before.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::limits::RETAINED_SEEN_MAX;
use crate::message::SubscriptionOptions;
use crate::shard::Place;

/// What a session has still to be sent of retained messages.
#[derive(Debug, Default)]
pub struct Readings {
    /// The first is being read.
    due: VecDeque<Reading>,
    /// Topics whose newer message was sent.
    newer: BTreeSet<Arc<str>>,
}

/// The retained messages of one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The subscription's.
    pub filter: Arc<str>,
    /// The subscription's.
    pub options: SubscriptionOptions,
    /// Where to go on.
    pub place: Place,
    /// The SUBACK that must be sent before, by its token.
    pub after: Option<u32>,
    /// The token of the question that is not answered.
    pub asked: Option<u32>,
}

impl Readings {
    /// Adds a subscription; one to the same filter is replaced.
    pub fn push(&mut self, reading: Reading) {
        self.remove(&reading.filter);
        self.due.push_back(reading);
    }

    /// Forgets a subscription.
    pub fn remove(&mut self, filter: &str) {
        self.due.retain(|reading| *reading.filter != *filter);
    }

    /// The subscriptions whose SUBACK has this token, and is still to be sent.
    pub fn after(&self, token: u32) -> impl Iterator<Item = &Reading> {
        self.due.iter().filter(move |reading| reading.after == Some(token))
    }

    /// The SUBACK of this token was sent.
    pub fn subscribed(&mut self, token: u32) {
        for reading in self.due.iter_mut().filter(|reading| reading.after == Some(token)) {
            reading.after = None;
        }
    }

    /// The subscription to ask for, unless an answer is awaited or its SUBACK has still to be sent.
    pub fn to_ask(&mut self) -> Option<&mut Reading> {
        self.due.front_mut().filter(|reading| reading.after.is_none() && reading.asked.is_none())
    }

    /// The subscription whose question had this token.
    pub fn asked(&mut self, token: u32) -> Option<&mut Reading> {
        self.due.front_mut().filter(|reading| reading.asked == Some(token))
    }

    /// The question of this token is answered: what is before `place` was sent; `None` if that was all.
    pub fn go_on(&mut self, token: u32, place: Option<Place>) {
        let Some(reading) = self.asked(token) else { return };
        reading.asked = None;
        match place {
            Some(place) => reading.place = place,
            None => drop(self.due.pop_front()),
        }
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// A message that was published with RETAIN was sent.
    pub fn note(&mut self, topic: &Arc<str>) {
        self.newer.insert(topic.clone());
        if self.newer.len() > RETAINED_SEEN_MAX {
            self.newer.pop_first();
        }
    }

    /// Whether a newer message of this topic was sent.
    pub fn is_superseded(&self, topic: &str) -> bool {
        self.newer.contains(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ShardId;

    fn reading(filter: &str, after: Option<u32>) -> Reading {
        let options = SubscriptionOptions::default();
        Reading { filter: filter.into(), options, place: Place::default(), after, asked: None }
    }

    #[test]
    fn one_filter_is_read_after_another_and_none_before_its_suback() {
        let mut readings = Readings::default();
        readings.push(reading("a", Some(1)));
        readings.push(reading("b", None));
        assert_eq!(readings.to_ask(), None);
        readings.subscribed(1);
        readings.to_ask().unwrap().asked = Some(5);
        assert_eq!(readings.to_ask(), None, "one question at a time");
        let place = Place { shard: ShardId(3), after: None };
        readings.go_on(4, None);
        readings.go_on(5, Some(place.clone()));
        assert_eq!(readings.to_ask().unwrap().place, place);
        readings.to_ask().unwrap().asked = Some(6);
        readings.go_on(6, None);
        assert_eq!(&*readings.to_ask().unwrap().filter, "b");
        readings.remove("b");
        assert!(readings.is_empty());
    }

    #[test]
    fn the_newest_topics_are_remembered() {
        let mut readings = Readings::default();
        for number in 0..=RETAINED_SEEN_MAX {
            readings.note(&format!("{number:09}").into());
        }
        assert!(!readings.is_superseded("000000000"));
        assert!(readings.is_superseded("000000001"));
    }
}
