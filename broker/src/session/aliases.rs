//! Topic aliases of one connection (section 3.3.2.3.4): numbers that stand for topics, those of each direction apart.
//!
//! The client gives its own as it likes. Those that the broker gives go to the first topics that are worth one, and stay.

use std::sync::Arc;

use crate::identity::Map;

/// A topic of fewer bytes costs less than its alias.
const TOPIC_BYTES_MIN: usize = 4;

/// What was agreed on so far.
#[derive(Debug, Default)]
pub struct Aliases {
    /// The client's; the first is 1.
    incoming: Vec<Option<Arc<str>>>,
    /// The broker's.
    outgoing: Map<Arc<str>, u16>,
}

/// How a PUBLISH to the client names its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicAlias {
    /// By its alias alone.
    Known(u16),
    /// By name, and by this alias from now on.
    New(u16),
}

impl TopicAlias {
    /// The number.
    pub fn number(self) -> u16 {
        match self {
            TopicAlias::Known(number) | TopicAlias::New(number) => number,
        }
    }
}

impl Aliases {
    /// From now on the client's `alias`, which is not 0, stands for `topic`.
    pub fn learn(&mut self, alias: u16, topic: Arc<str>) {
        let at = usize::from(alias) - 1;
        if self.incoming.len() <= at {
            self.incoming.resize(at + 1, None);
        }
        self.incoming[at] = Some(topic);
    }

    /// What the client's `alias` stands for.
    pub fn topic(&self, alias: u16) -> Option<Arc<str>> {
        self.incoming.get(usize::from(alias).checked_sub(1)?)?.clone()
    }

    /// The alias for a topic that is about to be sent, if it has one; or else a new one, if there is one of `maximum` left
    /// and `new` allows it.
    pub fn name(&mut self, topic: &str, maximum: u16, new: bool) -> Option<TopicAlias> {
        if let Some(number) = self.outgoing.get(topic) {
            return Some(TopicAlias::Known(*number));
        }
        if !new || topic.len() < TOPIC_BYTES_MIN || self.outgoing.len() >= usize::from(maximum) {
            return None;
        }
        let number = self.outgoing.len() as u16 + 1;
        self.outgoing.insert(topic.into(), number);
        Some(TopicAlias::New(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gives_and_changes_its_aliases() {
        let mut aliases = Aliases::default();
        assert_eq!(aliases.topic(2), None);
        aliases.learn(2, "a".into());
        assert_eq!((aliases.topic(1), aliases.topic(2).as_deref()), (None, Some("a")));
        aliases.learn(2, "b".into());
        aliases.learn(1, "a".into());
        assert_eq!((aliases.topic(1).as_deref(), aliases.topic(2).as_deref()), (Some("a"), Some("b")));
        assert_eq!(aliases.topic(0), None);
    }

    #[test]
    fn the_first_topics_that_are_worth_it_get_the_aliases() {
        let mut aliases = Aliases::default();
        assert_eq!(aliases.name("abc", 2, true), None, "too short");
        assert_eq!(aliases.name("topic/1", 2, false), None);
        assert_eq!(aliases.name("topic/1", 2, true), Some(TopicAlias::New(1)));
        assert_eq!(aliases.name("topic/2", 2, true), Some(TopicAlias::New(2)));
        assert_eq!(aliases.name("topic/3", 2, true), None);
        assert_eq!(aliases.name("topic/1", 2, false), Some(TopicAlias::Known(1)));
    }
}
