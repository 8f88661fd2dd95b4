//! Shared subscriptions as a worker knows them: all members of the cluster, and which is next.

use std::cell::Cell;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Subscriber, Trie, ValueId};
use crate::door::{Heir, Recipient, RouteChange, RouteOwner};
use crate::identity::{Map, NodeId, stable_hash};
use crate::message::QoS;
use crate::share::{Kind, Member, Strategy, shared_filter};

/// Every shared subscription and its members.
#[derive(Default)]
pub(super) struct Shares {
    /// By what topics are matched against.
    groups: Trie<Vec<Group>>,
    /// This worker's own members, by their texts.
    own: Map<Arc<str>, Subscriber>,
}

/// One shared subscription.
#[derive(Debug, Default)]
pub struct Group {
    subscription: Arc<str>,
    ephemeral: Vec<Seat>,
    fleeting: Vec<Seat>,
    connected: Vec<Seat>,
    away: Vec<Seat>,
    turn: Cell<usize>,
}

/// A member and where it is. The order is that of the texts: the same for everybody.
#[derive(Debug)]
struct Seat {
    text: Arc<str>,
    owner: RouteOwner,
    /// Of the client id.
    hash: u64,
}

/// What a member is chosen for, and how.
pub struct Choice<'c> {
    /// The strategy.
    pub strategy: Strategy,
    /// Of the message.
    pub qos: QoS,
    /// Of the message.
    pub topic: &'c str,
    /// Who published it.
    pub publisher: &'c str,
    /// One that is not connected won't do.
    pub connected_only: bool,
    /// For [`Strategy::Random`].
    pub random: &'c mut SmallRng,
}

/// The member that was chosen.
pub struct Chosen<'g> {
    /// Where it is.
    pub owner: RouteOwner,
    /// Its text.
    pub text: &'g Arc<str>,
    /// See [`Recipient::heir`].
    pub heir: Option<Heir>,
}

impl Chosen<'_> {
    /// As who is beyond the worker that chose, which is on `node`, knows it.
    pub fn recipient(self, node: NodeId) -> Recipient {
        let owner = match self.owner {
            RouteOwner::Worker(_) => RouteOwner::Node(node),
            owner => owner,
        };
        Recipient { owner, text: self.text.clone(), heir: self.heir }
    }
}

impl Group {
    /// The member for a message. `None` if there is none that takes it.
    pub fn choose(&self, choice: &mut Choice<'_>) -> Option<Chosen<'_>> {
        let served_late = choice.qos > QoS::AtMostOnce;
        let connected = if served_late { &self.connected } else { &self.fleeting };
        let (first, second): (&[Seat], &[Seat]) = match self.ephemeral.is_empty() && connected.is_empty() {
            true if served_late && !choice.connected_only => (&self.away, &[]),
            _ => (&self.ephemeral, connected),
        };
        let count = first.len() + second.len();
        if count == 0 {
            return None;
        }
        let at = |place: usize| first.get(place).or_else(|| second.get(place - first.len()));
        let best = |key: u64| first.iter().chain(second).max_by_key(|seat| mix(key, seat.hash));
        let seat = match choice.strategy {
            Strategy::RoundRobin => {
                let turn = self.turn.get();
                self.turn.set(turn.wrapping_add(1));
                at(turn % count)
            }
            Strategy::Random => at(choice.random.random_range(0..count)),
            Strategy::Sticky => best(stable_hash(self.subscription.as_bytes())),
            Strategy::HashClient => best(stable_hash(choice.publisher.as_bytes())),
            Strategy::HashTopic => best(stable_hash(choice.topic.as_bytes())),
        };
        let seat = seat?;
        let heir = if served_late { self.heir(seat) } else { None };
        Some(Chosen { owner: seat.owner, text: &seat.text, heir })
    }

    /// Who has a message above QoS 0 else that is lent to the member at `seat`: for each such member the same one, as long
    /// as it is a member, so that its messages come from one shard, in order (K5).
    fn heir(&self, seat: &Seat) -> Option<Heir> {
        if matches!(seat.owner, RouteOwner::Shard(_)) {
            return None;
        }
        let persistent = self.connected.iter().chain(&self.away);
        let heir = persistent.max_by_key(|other| mix(seat.hash, other.hash))?;
        match heir.owner {
            RouteOwner::Shard(shard) => Some(Heir { shard, text: heir.text.clone() }),
            RouteOwner::Worker(_) | RouteOwner::Node(_) => None,
        }
    }

    fn seats(&mut self, kind: Kind) -> &mut Vec<Seat> {
        match kind {
            Kind::Ephemeral => &mut self.ephemeral,
            Kind::Fleeting => &mut self.fleeting,
            Kind::Connected => &mut self.connected,
            Kind::Away => &mut self.away,
        }
    }

    fn is_empty(&self) -> bool {
        [&self.ephemeral, &self.fleeting, &self.connected, &self.away].iter().all(|seats| seats.is_empty())
    }
}

/// The member with the highest of these is chosen: when one comes or goes, only what it takes changes hands.
fn mix(key: u64, member: u64) -> u64 {
    let mut mixed = key ^ member.rotate_left(29);
    mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

impl Shares {
    /// A member has come or gone. Gives the filter whose matches are others now, if that is so.
    pub(super) fn apply<'t>(&mut self, change: &'t RouteChange) -> Option<&'t str> {
        let member = Member::parse(&change.filter)?;
        let filter = shared_filter(member.subscription)?;
        let (_, groups, new) = self.groups.entry(filter, Vec::new);
        let at = groups.iter().position(|group| *group.subscription == *member.subscription);
        let at = at.unwrap_or_else(|| {
            groups.push(Group { subscription: member.subscription.into(), ..Group::default() });
            groups.len() - 1
        });
        let seats = groups[at].seats(member.kind);
        match (seats.binary_search_by(|seat| seat.text.cmp(&change.filter)), change.wanted) {
            (Ok(place), true) => seats[place].owner = change.owner,
            (Err(place), true) => {
                let hash = stable_hash(member.client_id.as_bytes());
                seats.insert(place, Seat { text: change.filter.clone(), owner: change.owner, hash });
            }
            // It may have come back elsewhere before this was heard.
            (Ok(place), false) if seats[place].owner == change.owner => drop(seats.remove(place)),
            (_, false) => {}
        }
        if groups[at].is_empty() {
            groups.remove(at);
        }
        let none = groups.is_empty();
        if none {
            self.groups.remove(filter);
        }
        (new != none).then_some(filter)
    }

    pub(super) fn put_own(&mut self, text: Arc<str>, subscriber: Subscriber) {
        self.own.insert(text, subscriber);
    }

    pub(super) fn remove_own(&mut self, text: &str) -> Option<Subscriber> {
        self.own.remove(text)
    }

    pub(super) fn own(&self, text: &str) -> Option<&Subscriber> {
        self.own.get(text)
    }

    pub(super) fn group(&self, subscription: &str) -> Option<&Group> {
        let groups = self.groups.get(shared_filter(subscription)?)?;
        groups.iter().find(|group| *group.subscription == *subscription)
    }

    pub(super) fn for_each_match(&self, topic: &str, mut visit: impl FnMut(ValueId)) {
        if !self.groups.is_empty() {
            self.groups.for_each_match(topic, |id, _| visit(id));
        }
    }

    /// See [`Trie::moves`].
    pub(super) fn moves(&self) -> u64 {
        self.groups.moves()
    }

    pub(super) fn groups(&self, id: ValueId) -> &[Group] {
        self.groups.value(id).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::identity::{NodeId, ShardId};

    const SUBSCRIPTION: &str = "$share/g/t/#";

    struct Given {
        shares: Shares,
        random: SmallRng,
    }

    impl Given {
        fn members(members: &[(Kind, &str)]) -> Given {
            let mut given = Given { shares: Shares::default(), random: SmallRng::seed_from_u64(1) };
            for (kind, client_id) in members {
                given.set(*kind, client_id, true);
            }
            given
        }

        fn set(&mut self, kind: Kind, client_id: &str, wanted: bool) -> bool {
            let owner = match kind {
                Kind::Ephemeral | Kind::Fleeting => RouteOwner::Node(NodeId(1)),
                Kind::Connected | Kind::Away => RouteOwner::Shard(ShardId(1)),
            };
            let filter = Member { subscription: SUBSCRIPTION, kind, client_id }.text();
            self.shares.apply(&RouteChange { owner, filter, wanted }).is_some()
        }

        fn choose(&mut self, strategy: Strategy, qos: QoS, topic: &str, connected_only: bool) -> Option<String> {
            let Given { shares, random } = self;
            let mut choice = Choice { strategy, qos, topic, publisher: "p", connected_only, random };
            let chosen = shares.group(SUBSCRIPTION)?.choose(&mut choice)?;
            Member::parse(chosen.text).map(|member| member.client_id.to_owned())
        }

        fn next(&mut self, strategy: Strategy) -> String {
            self.choose(strategy, QoS::AtLeastOnce, "t", false).unwrap()
        }
    }

    #[test]
    fn connected_members_take_turns_and_those_away_are_skipped() {
        let mut given = Given::members(&[(Kind::Ephemeral, "a"), (Kind::Connected, "b"), (Kind::Away, "c")]);
        let taken: Vec<String> = (0..4).map(|_| given.next(Strategy::RoundRobin)).collect();
        assert_eq!(taken, ["a", "b", "a", "b"]);
        given.set(Kind::Ephemeral, "a", false);
        given.set(Kind::Connected, "b", false);
        assert_eq!(given.next(Strategy::RoundRobin), "c", "nobody else is left");
        assert_eq!(given.choose(Strategy::RoundRobin, QoS::AtLeastOnce, "t", true), None);
        assert_eq!(given.choose(Strategy::RoundRobin, QoS::AtMostOnce, "t", false), None, "QoS 0 is not kept");
    }

    #[test]
    fn qos_0_goes_to_who_is_connected_to_a_worker() {
        let mut given = Given::members(&[(Kind::Connected, "b"), (Kind::Fleeting, "b"), (Kind::Ephemeral, "a")]);
        let taken: Vec<_> =
            (0..2).map(|_| given.choose(Strategy::RoundRobin, QoS::AtMostOnce, "t", false).unwrap()).collect();
        assert_eq!(taken, ["a", "b"]);
    }

    #[test]
    fn who_is_chosen_by_a_hash_stays_when_another_goes() {
        let mut given = Given::members(&[(Kind::Ephemeral, "a"), (Kind::Ephemeral, "b"), (Kind::Ephemeral, "c")]);
        for strategy in [Strategy::Sticky, Strategy::HashClient] {
            let first = given.next(strategy);
            assert_eq!(given.next(strategy), first);
            let other = ["a", "b", "c"].into_iter().find(|other| *other != first).unwrap();
            given.set(Kind::Ephemeral, other, false);
            assert_eq!(given.next(strategy), first);
            given.set(Kind::Ephemeral, other, true);
        }
        let mut chosen = std::collections::BTreeSet::new();
        for number in 0..60 {
            let topic = format!("t/{number}");
            let member = given.choose(Strategy::HashTopic, QoS::AtLeastOnce, &topic, false);
            assert_eq!(given.choose(Strategy::HashTopic, QoS::AtLeastOnce, &topic, false), member);
            chosen.insert(member);
        }
        assert_eq!(chosen.len(), 3, "topics are spread");
    }

    #[test]
    fn every_member_has_its_random_share() {
        let mut given = Given::members(&[(Kind::Ephemeral, "a"), (Kind::Connected, "b")]);
        let taken: std::collections::BTreeSet<_> = (0..50).map(|_| given.next(Strategy::Random)).collect();
        assert_eq!(taken.len(), 2);
    }

    #[test]
    fn only_the_first_and_the_last_member_change_what_matches() {
        let mut given = Given::members(&[]);
        assert!(given.set(Kind::Ephemeral, "a", true));
        assert!(!given.set(Kind::Ephemeral, "a", true));
        assert!(!given.set(Kind::Away, "b", true));
        assert!(!given.set(Kind::Ephemeral, "a", false));
        assert!(given.set(Kind::Away, "b", false));
        assert!(given.shares.groups.is_empty());
    }
}
