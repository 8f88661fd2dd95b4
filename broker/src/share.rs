//! Shared subscriptions (section 4.8.2): how their members are named, and which member a message goes to.
//!
//! A member is one text: it is announced as a route, so everybody who publishes knows all members, and it is written on a
//! message that is for this member alone. Deliberately absent: who knows which members there are (`router`), and what
//! becomes of a message whose member has gone (`worker`, `shard`).

use std::fmt;
use std::sync::Arc;

use crate::identity::{Incarnation, ShardId};

/// What every shared subscription's filter begins with.
const PREFIX: &str = "$share/";
/// Between the filter and the rest of a member's text: no string of MQTT has it ([MQTT-1.5.4-2]).
const SEPARATOR: char = '\0';

/// Which member a message goes to, of those that are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// One after another.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// The same as long as it is connected.
    Sticky,
    /// The same for all messages of a publisher.
    HashClient,
    /// The same for all messages of a topic.
    HashTopic,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 5] =
        [Strategy::RoundRobin, Strategy::Random, Strategy::Sticky, Strategy::HashClient, Strategy::HashTopic];
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Strategy::RoundRobin => "round_robin",
            Strategy::Random => "random",
            Strategy::Sticky => "sticky",
            Strategy::HashClient => "hash_client",
            Strategy::HashTopic => "hash_topic",
        })
    }
}

/// What a member takes, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connected to a worker, which serves it at every QoS.
    Ephemeral,
    /// Connected to a worker, which serves it at QoS 0; its shard does the rest.
    Fleeting,
    /// A persistent session in its shard, connected: above QoS 0.
    Connected,
    /// The same, not connected: it is given what nobody else can take.
    Away,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Kind::Ephemeral => 'e',
            Kind::Fleeting => 'f',
            Kind::Connected => 'c',
            Kind::Away => 'a',
        }
    }

    fn of_letter(letter: char) -> Option<Kind> {
        [Kind::Ephemeral, Kind::Fleeting, Kind::Connected, Kind::Away].into_iter().find(|kind| kind.letter() == letter)
    }
}

/// A member's text, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// `$share/NAME/FILTER`.
    pub subscription: &'a str,
    /// What it takes, and where it is.
    pub kind: Kind,
    /// Who.
    pub client_id: &'a str,
}

impl<'a> Member<'a> {
    /// Takes a text apart; `None` if it names no member.
    pub fn parse(text: &'a str) -> Option<Member<'a>> {
        let (subscription, rest) = text.split_once(SEPARATOR)?;
        let mut letters = rest.chars();
        let kind = Kind::of_letter(letters.next()?)?;
        Some(Member { subscription, kind, client_id: letters.as_str() })
    }

    /// As one text.
    pub fn text(&self) -> Arc<str> {
        format!("{}{SEPARATOR}{}{}", self.subscription, self.kind.letter(), self.client_id).into()
    }
}

/// A message that a shard has lent to a member whose session ends with its connection: it keeps the message until it is told
/// what became of it, or the node's run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// Whose.
    pub shard: ShardId,
    /// The run of the node that it was lent to.
    pub run: Incarnation,
    /// Its number among what that run was lent by the shard.
    pub number: u64,
}

/// What topics are matched against, if this is the filter of a shared subscription.
pub fn shared_filter(subscription: &str) -> Option<&str> {
    subscription.strip_prefix(PREFIX)?.split_once('/').map(|(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_one_text_whatever_its_client_id_is() {
        for client_id in ["c", "a/+/#", "", "e"] {
            for kind in [Kind::Ephemeral, Kind::Fleeting, Kind::Connected, Kind::Away] {
                let member = Member { subscription: "$share/g/a/#", kind, client_id };
                assert_eq!(Member::parse(&member.text()), Some(member));
            }
        }
        assert_eq!(Member::parse("$share/g/a/#"), None);
        assert_eq!(Member::parse("$share/g/a\0x"), None);
    }

    #[test]
    fn a_shared_filter_is_what_follows_the_name() {
        assert_eq!(shared_filter("$share/g/a/#"), Some("a/#"));
        assert_eq!(shared_filter("$share/g//"), Some("/"));
        assert_eq!(shared_filter("a/#"), None);
    }
}
