//! What comes before retained messages are read for a new subscription: a message that was published with RETAIN before
//! everybody knew of the subscriber has passed it by, so it must be where it is kept before that is read (K8).
//!
//! A round asks in two parts. First every member, which answers once the commands that it had under way when it was asked,
//! and that lead to a retained message, are answered. Then the leader of every shard, which has confirmed that it leads, and
//! answers once what stood in the shard's outboxes to be kept has arrived. In this order, for a command that is answered may
//! have put its message into an outbox. All who come while a round is under way share the next.
//!
//! Nobody waits for a member that was declared unreachable, as with routes (K6): what it had under way was acknowledged to
//! nobody. Deliberately absent: time and the network; `shards` sends.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::{NodeId, Origin, ShardId};

/// Which retained messages a round is about: those that one shard keeps, or all.
pub(super) type Scope = Option<ShardId>;

/// Rounds about one shard give up on others after so many ticks (10 s): a shard without a majority must not keep the
/// retained messages of all the others from their subscribers.
pub(super) const GIVE_UP_TICKS: u32 = 20;

/// Somebody to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inquiry {
    pub to: Asked,
    /// Of the round; comes back with the answer.
    pub number: u64,
    pub scope: Scope,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Node(NodeId),
    /// Its leader.
    Shard(ShardId),
}

/// Whom a round asks: the members that may accept publishes, this node among them, and all shards.
pub(super) type Everybody = (BTreeSet<NodeId>, u16);

/// The rounds of this node: for each scope one, and who waits for the next.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    last: u64,
    lanes: BTreeMap<Scope, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    round: Round,
    /// Reads that wait for the next round.
    next: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Round {
    number: u64,
    reads: BTreeSet<u64>,
    /// Who has not answered; shards only when all nodes have.
    outstanding: BTreeSet<Asked>,
    shards_asked: bool,
    ticks: u32,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    pub inquiries: Vec<Inquiry>,
    /// Reads that may begin.
    pub over: Vec<u64>,
}

impl Rounds {
    /// A read waits for a round that begins from now on.
    pub(super) fn join(&mut self, scope: Scope, read: u64, everybody: impl Fn() -> Everybody) -> Turn {
        let mut turn = Turn::default();
        let begins = !self.lanes.contains_key(&scope);
        self.lanes.entry(scope).or_default().next.insert(read);
        if begins {
            self.begin(scope, &everybody, &mut turn);
        }
        turn
    }

    /// How many reads wait.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.next.len() + lane.round.reads.len()).sum()
    }

    /// A read is not wanted any more.
    pub(super) fn leave(&mut self, read: u64) {
        for lane in self.lanes.values_mut() {
            lane.next.remove(&read);
            lane.round.reads.remove(&read);
        }
    }

    /// Somebody has answered in the round of this number.
    pub(super) fn answered(&mut self, number: u64, who: Asked, everybody: impl Fn() -> Everybody) -> Turn {
        let mut turn = Turn::default();
        let found = self.lanes.iter_mut().find(|(_, lane)| lane.round.number == number);
        let Some((&scope, lane)) = found else { return turn };
        lane.round.outstanding.remove(&who);
        self.go_on(scope, &everybody, &mut turn);
        turn
    }

    /// Called at intervals: who has not answered is asked again, and who need not answer any more is let go.
    pub(super) fn tick(&mut self, everybody: impl Fn() -> Everybody) -> Turn {
        let mut turn = Turn::default();
        if self.lanes.is_empty() {
            return turn;
        }
        let (members, _) = everybody();
        let scopes: Vec<Scope> = self.lanes.keys().copied().collect();
        for scope in scopes {
            let Some(Lane { round, .. }) = self.lanes.get_mut(&scope) else { continue };
            round.ticks += 1;
            let given_up = scope.is_some() && round.ticks > GIVE_UP_TICKS;
            round.outstanding.retain(|asked| match asked {
                Asked::Node(node) => members.contains(node),
                Asked::Shard(shard) => !given_up || scope == Some(*shard),
            });
            let number = round.number;
            turn.inquiries.extend(round.outstanding.iter().map(|to| Inquiry { to: *to, number, scope }));
            self.go_on(scope, &everybody, &mut turn);
        }
        turn
    }

    /// The rounds end here: gives all reads.
    pub(super) fn end(&mut self) -> Vec<u64> {
        let lanes = std::mem::take(&mut self.lanes);
        lanes.into_values().flat_map(|lane| lane.round.reads.into_iter().chain(lane.next)).collect()
    }

    fn begin(&mut self, scope: Scope, everybody: &impl Fn() -> Everybody, turn: &mut Turn) {
        let Some(lane) = self.lanes.get_mut(&scope) else { return };
        self.last += 1;
        let (members, _) = everybody();
        let outstanding: BTreeSet<Asked> = members.into_iter().map(Asked::Node).collect();
        let number = self.last;
        turn.inquiries.extend(outstanding.iter().map(|to| Inquiry { to: *to, number, scope }));
        let reads = std::mem::take(&mut lane.next);
        lane.round = Round { number, reads, outstanding, shards_asked: false, ticks: 0 };
        self.go_on(scope, everybody, turn);
    }

    fn go_on(&mut self, scope: Scope, everybody: &impl Fn() -> Everybody, turn: &mut Turn) {
        let Some(Lane { round, next }) = self.lanes.get_mut(&scope) else { return };
        if !round.outstanding.is_empty() {
            return;
        }
        if !round.shards_asked {
            round.shards_asked = true;
            round.ticks = 0;
            let (_, shards) = everybody();
            round.outstanding = (0..shards).map(|shard| Asked::Shard(ShardId(shard))).collect();
            let number = round.number;
            turn.inquiries.extend(round.outstanding.iter().map(|to| Inquiry { to: *to, number, scope }));
            if shards > 0 {
                return;
            }
        }
        turn.over.extend(std::mem::take(&mut round.reads));
        if next.is_empty() {
            self.lanes.remove(&scope);
        } else {
            self.begin(scope, everybody, turn);
        }
    }
}

/// What a node, or the leader of a shard, was asked and has not answered: `D` is what has to be done before.
#[derive(Debug)]
pub(super) struct Owed<D> {
    owed: Vec<OwedAnswer<D>>,
}

#[derive(Debug)]
struct OwedAnswer<D> {
    to: Origin,
    number: u64,
    scope: Scope,
    before: D,
    ticks: u32,
}

impl<D> Default for Owed<D> {
    fn default() -> Self {
        Owed { owed: Vec::new() }
    }
}

impl<D> Owed<D> {
    /// Takes a question. One that came before is owed an answer already.
    pub(super) fn owe(&mut self, to: Origin, number: u64, scope: Scope, before: D) {
        if !self.owed.iter().any(|owed| (owed.to, owed.number) == (to, number)) {
            self.owed.push(OwedAnswer { to, number, scope, before, ticks: 0 });
        }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Those whose conditions are met by now: whom to answer, and the number. `done` is told whether to be patient with other
    /// shards than that of the scope.
    pub(super) fn take_done(&mut self, mut done: impl FnMut(&D, Scope, bool) -> bool) -> Vec<(Origin, u64)> {
        let mut answers = Vec::new();
        self.owed.retain(|OwedAnswer { to, number, scope, before, ticks }| {
            let over = done(before, *scope, scope.is_none() || *ticks <= GIVE_UP_TICKS);
            if over {
                answers.push((*to, *number));
            }
            !over
        });
        answers
    }

    /// Called at intervals. Who is not `present` has gone.
    pub(super) fn tick(&mut self, present: impl Fn(Origin) -> bool) {
        self.owed.retain_mut(|owed| {
            owed.ticks = owed.ticks.saturating_add(1);
            present(owed.to)
        });
    }

    /// The run is over.
    pub(super) fn clear(&mut self) {
        self.owed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(of: &[u64]) -> BTreeSet<NodeId> {
        of.iter().copied().map(NodeId).collect()
    }

    fn asked(turn: &Turn) -> Vec<Asked> {
        turn.inquiries.iter().map(|inquiry| inquiry.to).collect()
    }

    const NODES: [Asked; 2] = [Asked::Node(NodeId(1)), Asked::Node(NodeId(2))];
    const SHARDS: [Asked; 2] = [Asked::Shard(ShardId(0)), Asked::Shard(ShardId(1))];

    #[test]
    fn all_members_are_asked_and_then_all_shards() {
        let (mut rounds, everybody) = (Rounds::default(), || (members(&[1, 2]), 2));
        let turn = rounds.join(None, 7, everybody);
        assert_eq!((asked(&turn), turn.over.len()), (NODES.to_vec(), 0));
        let number = turn.inquiries[0].number;
        assert_eq!(rounds.answered(number, NODES[0], everybody), Turn::default());
        assert_eq!(rounds.answered(number, NODES[0], everybody), Turn::default(), "it has answered already");
        assert_eq!(asked(&rounds.answered(number, NODES[1], everybody)), SHARDS);
        assert_eq!(rounds.answered(number + 1, SHARDS[1], everybody), Turn::default(), "of another round");
        assert_eq!(rounds.answered(number, SHARDS[1], everybody), Turn::default());
        assert_eq!(rounds.answered(number, SHARDS[0], everybody).over, [7]);
        assert_eq!(rounds.tick(everybody), Turn::default());
    }

    #[test]
    fn who_comes_during_a_round_waits_for_the_next_and_scopes_do_not_wait_for_each_other() {
        let (mut rounds, everybody) = (Rounds::default(), || (members(&[1]), 0));
        let first = rounds.join(None, 1, everybody).inquiries[0].number;
        assert_eq!(rounds.join(None, 2, everybody), Turn::default());
        assert_eq!(rounds.join(None, 3, everybody), Turn::default());
        let other = rounds.join(Some(ShardId(0)), 4, everybody).inquiries[0].number;
        assert_eq!(rounds.answered(other, NODES[0], everybody).over, [4]);
        let turn = rounds.answered(first, NODES[0], everybody);
        assert_eq!((turn.over, turn.inquiries.len()), (vec![1], 1));
        assert_eq!(rounds.answered(turn.inquiries[0].number, NODES[0], everybody).over, [2, 3]);
    }

    #[test]
    fn k9_nobody_waits_for_a_read_that_is_not_wanted_any_more() {
        let (mut rounds, everybody) = (Rounds::default(), || (members(&[1]), 0));
        let number = rounds.join(None, 1, everybody).inquiries[0].number;
        (2..=4).for_each(|read| drop(rounds.join(None, read, everybody)));
        [1, 3].into_iter().for_each(|read| rounds.leave(read));
        let turn = rounds.answered(number, NODES[0], everybody);
        assert_eq!(turn.over, [0; 0]);
        assert_eq!(rounds.answered(turn.inquiries[0].number, NODES[0], everybody).over, [2, 4]);
    }

    #[test]
    fn who_does_not_answer_is_asked_again_until_it_is_no_member() {
        let mut rounds = Rounds::default();
        let number = rounds.join(None, 1, || (members(&[1, 2]), 0)).inquiries[0].number;
        rounds.answered(number, NODES[0], || (members(&[1, 2]), 0));
        assert_eq!(asked(&rounds.tick(|| (members(&[1, 2, 3]), 0))), [NODES[1]], "who joins later knows the routes");
        assert_eq!(rounds.tick(|| (members(&[1]), 0)).over, [1]);
    }

    #[test]
    fn a_shard_that_does_not_answer_holds_up_only_its_own_messages_for_long() {
        let everybody = || (members(&[1]), 2);
        for (scope, given_up) in [(None, false), (Some(ShardId(1)), false), (Some(ShardId(0)), true)] {
            let mut rounds = Rounds::default();
            let number = rounds.join(scope, 1, everybody).inquiries[0].number;
            rounds.answered(number, NODES[0], everybody);
            rounds.answered(number, SHARDS[0], everybody);
            for _ in 0..GIVE_UP_TICKS {
                assert_eq!(asked(&rounds.tick(everybody)), [SHARDS[1]]);
            }
            assert_eq!(rounds.tick(everybody).over.is_empty(), !given_up, "{scope:?}");
        }
    }

    #[test]
    fn the_end_gives_back_who_waits() {
        let (mut rounds, everybody) = (Rounds::default(), || (members(&[1]), 1));
        for (scope, read) in [(None, 1), (None, 2), (Some(ShardId(0)), 3)] {
            rounds.join(scope, read, everybody);
        }
        assert_eq!(rounds.end(), [1, 2, 3]);
        assert!(rounds.end().is_empty());
    }

    #[test]
    fn a_question_is_owed_one_answer_and_patience_with_others_ends() {
        let mut owed: Owed<u64> = Owed::default();
        let from = Origin::default();
        owed.owe(from, 1, Some(ShardId(0)), 10);
        owed.owe(from, 1, Some(ShardId(0)), 20);
        owed.owe(from, 2, None, 10);
        assert!(owed.take_done(|before, _, patient| *before < 10 || !patient).is_empty());
        (0..=GIVE_UP_TICKS).for_each(|_| owed.tick(|_| true));
        assert_eq!(owed.take_done(|_, _, patient| !patient), [(from, 1)]);
        assert_eq!(owed.take_done(|before, _, _| *before == 10), [(from, 2)]);
        owed.owe(from, 3, None, 1);
        owed.tick(|_| false);
        assert!(owed.is_empty());
    }
}
