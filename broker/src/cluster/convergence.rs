//! How a group gets from the members it has to those it shall have: one step at a time, decided by its leader.
//!
//! Pure: from a standing and a wish to the next step. A voter is replaced only when its successor has the log, and a
//! configuration is entered only when a majority of it can be reached.

use std::collections::BTreeSet;

use crate::identity::NodeId;
use crate::replication::Standing;

/// A learner may be this many entries behind and become a voter: it catches up within a round trip or two.
pub const IN_SYNC_ENTRIES: u64 = 100;

/// What a group shall look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Exactly these vote.
    pub voters: BTreeSet<NodeId>,
    /// These listen.
    pub learners: BTreeSet<NodeId>,
    /// Who shall lead, if it can.
    pub leader: Option<NodeId>,
}

impl Wish {
    /// The same without those whose replica is damaged: they have forgotten what they promised, and may be members again
    /// only when they have forgotten all of it, as others that are new. A majority of those that vote must be sound, or
    /// the group could not let them go, and nothing is wished but what was.
    pub fn without(self, damaged: &BTreeSet<NodeId>, standing: &Standing) -> Wish {
        let sound: BTreeSet<NodeId> = standing.voters.difference(damaged).copied().collect();
        if damaged.is_empty() || 2 * sound.len() <= standing.voters.len() {
            return self;
        }
        let voters: BTreeSet<NodeId> = self.voters.difference(damaged).copied().collect();
        Wish {
            voters: if voters.is_empty() { sound } else { voters },
            learners: self.learners.difference(damaged).copied().collect(),
            leader: self.leader.filter(|leader| !damaged.contains(leader)),
        }
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is as it shall be, or nothing can be done now.
    Rest,
    /// Begin to replicate to a node.
    AddLearner(NodeId),
    /// Make exactly these the voters.
    ChangeVoters(BTreeSet<NodeId>),
    /// Stop replicating to a node that doesn't vote.
    RemoveLearner(NodeId),
    /// Give the leadership to a voter.
    Transfer(NodeId),
}

/// The next step of the group that `me` leads. `usable`: the node is linked (or this one) and may be given work.
pub fn step(me: NodeId, standing: &Standing, wish: &Wish, usable: impl Fn(NodeId) -> bool) -> Step {
    if standing.joint {
        // A leader went in the middle of a change: end it. Openraft takes the same voters as the second half.
        return Step::ChangeVoters(wish.voters.clone());
    }
    let in_sync = |node: NodeId| node == me || standing.in_sync(node, IN_SYNC_ENTRIES);
    let wanted = wish.voters.union(&wish.learners);
    let known = |node: &NodeId| standing.voters.contains(node) || standing.learners.contains(node);
    if let Some(missing) = wanted.copied().find(|node| !known(node) && usable(*node)) {
        return Step::AddLearner(missing);
    }
    if standing.voters != wish.voters && !wish.voters.is_empty() {
        let ready = |node: &&NodeId| standing.voters.contains(*node) || in_sync(**node);
        let all_ready = wish.voters.iter().all(|node| ready(&node));
        let working = wish.voters.iter().filter(|node| usable(**node) && in_sync(**node)).count();
        if all_ready && working > wish.voters.len() / 2 {
            // A leader that is to go hands over first: nobody waits for an election then.
            if !wish.voters.contains(&me)
                && let Some(heir) = heir(me, standing, &wish.voters, &usable)
            {
                return Step::Transfer(heir);
            }
            return Step::ChangeVoters(wish.voters.clone());
        }
        return Step::Rest;
    }
    let idle = |node: &&NodeId| !wish.learners.contains(*node) && !wish.voters.contains(*node);
    if let Some(idle) = standing.learners.iter().find(idle) {
        return Step::RemoveLearner(*idle);
    }
    match wish.leader {
        Some(leader)
            if leader != me && standing.voters.contains(&leader) && usable(leader) && standing.in_sync(leader, 0) =>
        {
            Step::Transfer(leader)
        }
        _ => Step::Rest,
    }
}

/// Who takes the leadership from `me`: a usable voter among `candidates` whose log is complete.
pub fn heir(
    me: NodeId,
    standing: &Standing,
    candidates: &BTreeSet<NodeId>,
    usable: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let fit =
        |node: &NodeId| *node != me && standing.voters.contains(node) && usable(*node) && standing.in_sync(*node, 0);
    candidates.iter().copied().find(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn standing(voters: &[u64], learners: &[u64], matched: &[(u64, u64)]) -> Standing {
        Standing {
            voters: set(voters),
            learners: set(learners),
            joint: false,
            last_index: Some(1_000),
            applied_index: Some(1_000),
            matched: matched.iter().map(|(node, index)| (NodeId(*node), Some(*index))).collect(),
        }
    }

    fn wish(voters: &[u64]) -> Wish {
        Wish { voters: set(voters), ..Wish::default() }
    }

    fn next(standing: &Standing, wish: &Wish) -> Step {
        step(NodeId(1), standing, wish, |_| true)
    }

    #[test]
    fn a_learner_votes_only_once_it_has_the_log() {
        let wish = wish(&[1, 2, 3]);
        assert_eq!(next(&standing(&[1], &[], &[]), &wish), Step::AddLearner(NodeId(2)));
        let one = standing(&[1], &[2, 3], &[(2, 1_000), (3, 10)]);
        assert_eq!(next(&one, &wish), Step::Rest);
        let both = standing(&[1], &[2, 3], &[(2, 1_000), (3, 950)]);
        assert_eq!(next(&both, &wish), Step::ChangeVoters(set(&[1, 2, 3])));
        assert_eq!(next(&standing(&[1, 2, 3], &[], &[]), &wish), Step::Rest);
    }

    #[test]
    fn nothing_is_sent_to_a_node_that_cannot_be_reached() {
        let wish = wish(&[1, 2, 3]);
        let reach = |node| node != NodeId(2);
        let first = step(NodeId(1), &standing(&[1], &[], &[]), &wish, reach);
        assert_eq!(first, Step::AddLearner(NodeId(3)));
        let then = step(NodeId(1), &standing(&[1], &[3], &[(3, 1_000)]), &wish, reach);
        assert_eq!(then, Step::Rest);
    }

    #[test]
    fn a_dead_voter_is_replaced_once_its_successor_is_in_sync() {
        let reach = |node| node != NodeId(3);
        let now = standing(&[1, 2, 3], &[4], &[(2, 1_000), (3, 5), (4, 1_000)]);
        let then = step(NodeId(1), &now, &wish(&[1, 2, 4]), reach);
        assert_eq!(then, Step::ChangeVoters(set(&[1, 2, 4])));
    }

    #[test]
    fn a_configuration_without_a_working_majority_is_not_entered() {
        let reach = |node| node == NodeId(1);
        let now = standing(&[1, 2, 3, 4, 5], &[], &[(2, 1_000), (3, 1_000)]);
        assert_eq!(step(NodeId(1), &now, &wish(&[1, 2, 3]), reach), Step::Rest);
    }

    #[test]
    fn a_damaged_replica_is_taken_out_and_comes_back_as_one_that_is_new() {
        let whole = standing(&[1, 2, 3], &[], &[(2, 1_000), (3, 1_000)]);
        let without = wish(&[1, 2, 3]).without(&set(&[3]), &whole);
        assert_eq!(next(&whole, &without), Step::ChangeVoters(set(&[1, 2])));
        let out = standing(&[1, 2], &[], &[(2, 1_000)]);
        assert_eq!(next(&out, &without), Step::Rest, "it stays out until it is empty");
        let early = standing(&[1, 2], &[3], &[(2, 1_000), (3, 0)]);
        assert_eq!(next(&early, &without), Step::RemoveLearner(NodeId(3)));
        let empty = wish(&[1, 2, 3]).without(&set(&[]), &out);
        assert_eq!(next(&out, &empty), Step::AddLearner(NodeId(3)));
    }

    #[test]
    fn a_damaged_replica_goes_even_where_it_was_to_be_the_only_one() {
        let shrinking = standing(&[1, 2, 3], &[], &[(2, 1_000), (3, 1_000)]);
        assert_eq!(wish(&[3]).without(&set(&[3]), &shrinking).voters, set(&[1, 2]));
    }

    #[test]
    fn nobody_is_taken_out_without_a_majority_that_is_sound() {
        let whole = standing(&[1, 2, 3], &[], &[(2, 1_000), (3, 1_000)]);
        assert_eq!(wish(&[1, 2, 3]).without(&set(&[2, 3]), &whole), wish(&[1, 2, 3]));
        let two = standing(&[1, 2], &[], &[(2, 1_000)]);
        assert_eq!(wish(&[1, 2]).without(&set(&[2]), &two), wish(&[1, 2]));
        let alone = standing(&[1], &[], &[]);
        assert_eq!(wish(&[1]).without(&set(&[1]), &alone), wish(&[1]), "a sole copy");
        let five = standing(&[1, 2, 3, 4, 5], &[], &[(2, 1_000), (3, 1_000), (4, 1_000), (5, 1_000)]);
        let without = wish(&[1, 2, 3, 4, 5]).without(&set(&[4, 5]), &five);
        assert_eq!(next(&five, &without), Step::ChangeVoters(set(&[1, 2, 3])));
    }

    #[test]
    fn a_leader_that_is_to_go_hands_over_first() {
        let now = standing(&[1, 2, 3], &[4], &[(2, 990), (3, 1_000), (4, 1_000)]);
        assert_eq!(next(&now, &wish(&[2, 3, 4])), Step::Transfer(NodeId(3)));
    }

    #[test]
    fn leadership_goes_where_it_shall_be_only_when_all_else_is_done() {
        let mut wish = wish(&[1, 2, 3]);
        wish.leader = Some(NodeId(2));
        let now = standing(&[1, 2, 3], &[9], &[(2, 1_000), (3, 1_000)]);
        assert_eq!(next(&now, &wish), Step::RemoveLearner(NodeId(9)));
        let now = standing(&[1, 2, 3], &[], &[(2, 1_000), (3, 1_000)]);
        assert_eq!(next(&now, &wish), Step::Transfer(NodeId(2)));
        let late = standing(&[1, 2, 3], &[], &[(2, 999), (3, 1_000)]);
        assert_eq!(next(&late, &wish), Step::Rest);
    }

    #[test]
    fn a_change_that_a_dead_leader_left_half_done_is_ended() {
        let mut now = standing(&[1, 2, 3], &[], &[(2, 1_000), (3, 1_000)]);
        now.joint = true;
        assert_eq!(next(&now, &wish(&[1, 2, 3])), Step::ChangeVoters(set(&[1, 2, 3])));
    }
}
