//! What a node can say about the cluster: reports of members, the control leader's overview, the status for administrators.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::control::{Control, MemberState};
use super::placement;
use crate::identity::{GroupId, NodeId, Origin, ShardId};
use crate::shard::Totals;
use crate::storage::Health;

/// What a member tells the control leader with each renewal of its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its client connections.
    pub connections: u32,
    /// Persistent sessions of the shards it leads.
    pub sessions: u64,
    /// It gives everything away.
    pub draining: bool,
    /// It knows all routes.
    pub synced: bool,
    /// The shards it leads.
    pub leads: Vec<ShardReport>,
}

/// A shard as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Which.
    pub shard: ShardId,
    /// The term it leads in.
    pub term: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who listens.
    pub learners: BTreeSet<NodeId>,
    /// The voters that have the log.
    pub in_sync: BTreeSet<NodeId>,
}

/// What the control leader knows from the reports, given back with each renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// By node.
    pub members: BTreeMap<NodeId, MemberReport>,
    /// By shard; a shard without a leader is absent.
    pub shards: BTreeMap<ShardId, (NodeId, ShardReport)>,
}

/// A member as the control leader heard of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its client connections.
    pub connections: u32,
    /// Persistent sessions of the shards it leads.
    pub sessions: u64,
    /// It gives everything away.
    pub draining: bool,
    /// How many shards it leads.
    pub leads: u16,
}

impl Overview {
    /// From the latest report of each member. Of two that claim a shard the later term is right.
    pub fn gather<'r>(reports: impl Iterator<Item = (Origin, &'r Report)>) -> Overview {
        let mut overview = Overview::default();
        for (origin, report) in reports {
            let member = MemberReport {
                connections: report.connections,
                sessions: report.sessions,
                draining: report.draining,
                leads: report.leads.len() as u16,
            };
            overview.members.insert(origin.node, member);
            for shard in &report.leads {
                let known = overview.shards.get(&shard.shard);
                if known.is_none_or(|(_, known)| known.term < shard.term) {
                    overview.shards.insert(shard.shard, (origin.node, shard.clone()));
                }
            }
        }
        overview
    }
}

/// What this node knows of the cluster and of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The cluster; 0: none yet.
    pub cluster: u64,
    /// This node's name.
    pub name: String,
    /// It may accept CONNECT and PUBLISH.
    pub serving: bool,
    /// It gives everything away.
    pub draining: bool,
    /// Why this node is not ready; empty when it is.
    pub not_ready: String,
    /// The factor the cluster is meant to have.
    pub factor_wanted: usize,
    /// The factor in force.
    pub factor: usize,
    /// Everybody.
    pub members: Vec<MemberStatus>,
    /// How many shards there are.
    pub shards: u16,
    /// Shards with fewer voters in sync than they shall have.
    pub under_replicated: usize,
    /// Shards that nobody leads.
    pub without_leader: usize,
    /// Why a node may not die now without harm; empty when it may.
    pub not_failover_ready: String,
    /// Nodes that are linked now.
    pub linked: usize,
    /// QoS 0 messages for other nodes that were dropped.
    pub forwards_dropped: u64,
    /// SUBSCRIBEs that wait for other nodes.
    pub unsettled: usize,
    /// Replicas here that the disk has damaged, and that are not rebuilt yet.
    pub damaged: BTreeMap<GroupId, DamagedReplica>,
    /// How many were damaged and are rebuilt, since the process began.
    pub rebuilt: u64,
    /// Figures of the shards that this node leads.
    pub totals: Totals,
    /// Whether this node's disk takes what is to be stored. Of this node alone: one without space may have nobody to tell.
    pub storage: Health,
}

/// A replica that its disk has damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedReplica {
    /// What is damaged, and where: the file, and the byte in it.
    pub reason: String,
    /// How far it has been rebuilt.
    pub stage: Stage,
}

/// How far a damaged replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is stopped, and shall be taken out of its group.
    Stopped,
    /// It is stopped, and no leader can be asked: nothing was erased, nothing will be until one can.
    Stuck,
    /// It was erased, and is built anew from the others.
    Rebuilding,
}

impl Stage {
    /// As the admin API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Stopped => "stopped",
            Stage::Stuck => "stuck",
            Stage::Rebuilding => "rebuilding",
        }
    }
}

impl DamagedReplica {
    /// In words, with the remedy where it needs a hand.
    pub fn describe(&self, group: GroupId) -> String {
        let reason = &self.reason;
        match self.stage {
            Stage::Stopped => format!("{group} is damaged here ({reason}): it is stopped, and to be rebuilt"),
            Stage::Rebuilding => format!("{group} was damaged here ({reason}): it is being rebuilt from the others"),
            Stage::Stuck => format!(
                "{group} is damaged here ({reason}), and no majority of its replicas is left to rebuild it from: start \
                 the nodes that have the others; if this is the only one, put back a copy of the data directory, or \
                 empty it to begin anew without what it has"
            ),
        }
    }
}

/// A member as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Which run of which node.
    pub origin: Origin,
    /// Its name.
    pub name: String,
    /// Where peers dial it.
    pub address: String,
    /// Its state.
    pub state: MemberState,
    /// Shards it leads.
    pub shards_led: usize,
    /// Shards it has a replica of.
    pub replicas: usize,
    /// Its client connections.
    pub connections: u32,
    /// Persistent sessions of the shards it leads.
    pub sessions: u64,
    /// The software's version.
    pub version: String,
}

impl Status {
    /// What the control state and the overview say together.
    pub fn describe(control: &Control, overview: &Overview) -> Status {
        let factor = placement::factor(control);
        let factor_wanted = placement::factor_wanted(control);
        let shards = (0..control.shards).map(ShardId);
        let whole = |shard: ShardId| {
            overview.shards.get(&shard).is_some_and(|(_, report)| {
                control.voters(shard).iter().all(|voter| report.in_sync.contains(voter))
                    && report.voters.len() >= factor
            })
        };
        let without_leader = shards.clone().filter(|shard| !overview.shards.contains_key(shard)).count();
        let under_replicated = shards.filter(|shard| !whole(*shard)).count();
        let mut status = Status {
            cluster: control.cluster,
            factor,
            factor_wanted,
            members: members(control, overview),
            shards: control.shards,
            under_replicated,
            without_leader,
            ..Status::default()
        };
        status.not_failover_ready = status.why_not_failover_ready();
        status
    }

    /// The damaged replicas of this node, in words.
    pub fn describe_damaged(&self) -> impl Iterator<Item = String> {
        self.damaged.iter().map(|(group, replica)| replica.describe(*group))
    }

    fn why_not_failover_ready(&self) -> String {
        let unreachable = self.members.iter().filter(|member| member.state == MemberState::Unreachable);
        let unreachable: Vec<&str> = unreachable.map(|member| member.name.as_str()).collect();
        if self.cluster == 0 {
            "the cluster is not founded".to_string()
        } else if self.without_leader > 0 {
            format!("{} of {} shards have no leader", self.without_leader, self.shards)
        } else if self.factor < 3 {
            let members = self.members.len();
            format!("{members} member(s): each shard has {} replica; three members are needed for three", self.factor)
        } else if !unreachable.is_empty() {
            format!("unreachable: {}", unreachable.join(", "))
        } else if self.under_replicated > 0 {
            format!("{} of {} shards lack replicas that are in sync", self.under_replicated, self.shards)
        } else {
            String::new()
        }
    }
}

fn members(control: &Control, overview: &Overview) -> Vec<MemberStatus> {
    let describe = |member: &super::control::Member| {
        let node = member.origin.node;
        let report = overview.members.get(&node).cloned().unwrap_or_default();
        let holds =
            |(_, report): &&(NodeId, ShardReport)| report.voters.contains(&node) || report.learners.contains(&node);
        MemberStatus {
            origin: member.origin,
            name: member.name.clone(),
            address: member.address.clone(),
            state: member.state(),
            shards_led: overview.shards.values().filter(|(leader, _)| *leader == node).count(),
            replicas: overview.shards.values().filter(holds).count(),
            connections: if member.unreachable { 0 } else { report.connections },
            sessions: report.sessions,
            version: member.version.clone(),
        }
    };
    let mut members: Vec<MemberStatus> = control.members.values().map(describe).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}
