//! What a replica knows of its group: who leads, and how far the members are.

use std::collections::BTreeSet;

use openraft::{RaftMetrics, ServerState};

use super::raft::Types;
use crate::identity::NodeId;

/// Who leads a group, as this replica knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The Raft term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// This replica was elected. A cut-off leader goes on believing so: what it proposes fails.
    pub is_leader: bool,
    /// This replica leads and has applied everything committed before its term.
    pub ready: bool,
    /// Why the group has stopped here (its disk failed, usually); it is opened again when its disk allows.
    pub failed: Option<String>,
}

/// How far the members of a group are, as its leader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Those that vote. During a change of members, those of both configurations.
    pub voters: BTreeSet<NodeId>,
    /// Those that only listen.
    pub learners: BTreeSet<NodeId>,
    /// A change of members is half done.
    pub joint: bool,
    /// The last entry in this replica's log.
    pub last_index: Option<u64>,
    /// The last entry applied here.
    pub applied_index: Option<u64>,
    /// On a leader: the last entry known to be in the log of each other member.
    pub matched: Vec<(NodeId, Option<u64>)>,
}

impl Standing {
    /// Whether `node`'s log is at most `entries` behind. Only a leader knows; others say no.
    pub fn in_sync(&self, node: NodeId, entries: u64) -> bool {
        let matched = self.matched.iter().find(|(member, _)| *member == node).and_then(|(_, matched)| *matched);
        match (matched, self.last_index) {
            (Some(matched), Some(last)) => matched + entries >= last,
            _ => false,
        }
    }
}

impl Leadership {
    pub(super) fn read(metrics: &RaftMetrics<Types>) -> Leadership {
        let is_leader = metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id);
        Leadership {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            is_leader,
            ready: is_leader && metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term),
            failed: None,
        }
    }
}

/// Whether nobody else decides what is committed, nor will by what this replica's log has.
pub(super) fn is_sole_voter(metrics: &RaftMetrics<Types>) -> bool {
    metrics.membership_config.membership().voter_ids().eq([metrics.id])
}

/// Whether this replica leads a group that has no other member.
pub(super) fn leads_alone(metrics: &RaftMetrics<Types>) -> bool {
    let membership = metrics.membership_config.membership();
    Leadership::read(metrics).is_leader && membership.nodes().all(|(member, ())| *member == metrics.id)
}

impl Standing {
    pub(super) fn read(metrics: &RaftMetrics<Types>) -> Standing {
        let membership = metrics.membership_config.membership();
        let matched = metrics.replication.iter().flatten();
        Standing {
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            joint: membership.get_joint_config().len() > 1,
            last_index: metrics.last_log_index,
            applied_index: metrics.last_applied.map(|id| id.index()),
            matched: matched.map(|(node, matched)| (NodeId(*node), matched.map(|id| id.index()))).collect(),
        }
    }
}
