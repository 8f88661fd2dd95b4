//! The control group's state machine: members, placement of shards, settings, runs that are over.
//!
//! Commands in, answers out; every node holds a replica of the state, and acts on it (`room`). Deliberately absent: who is
//! reachable (the control leader finds out, `lease`), and where a shard should go (`placement` decides, here it is kept).

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::identity::{Incarnation, NodeId, Origin, ShardId};

mod machine;

pub use machine::{Answered, Proposal};

/// Members, those that left included in no count. A larger cluster is refused.
pub const MEMBERS_MAX: usize = 64;

/// Ended runs that are remembered, so that a shard whose leader missed the news hears of them later.
pub const ENDED_RUNS_MAX: usize = 256;

/// Bits of an [`Incarnation`] that count the runs within one process: a process that was declared unreachable begins a
/// new run without a restart.
pub const RUN_BITS: u32 = 20;

/// What the whole cluster agrees on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Drawn at foundation; 0: not founded.
    pub cluster: u64,
    /// Fixed at foundation.
    pub shards: u16,
    /// The configured replication factor; `None`: automatic.
    pub factor: Option<u8>,
    /// Grows with every change.
    pub version: u64,
    /// Everybody who has joined and not left.
    pub members: BTreeMap<NodeId, Member>,
    /// By shard: the voters it shall have; the first shall lead.
    pub placement: Vec<Vec<NodeId>>,
    /// Runs that are over: their connections are gone.
    pub ended: VecDeque<Origin>,
    /// Nodes that left, and the last run they left in: that run cannot join again.
    pub left: BTreeMap<NodeId, Incarnation>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which run of which node.
    pub origin: Origin,
    /// Its name, unique within the cluster.
    pub name: String,
    /// Where its peers dial it.
    pub address: String,
    /// The software's version.
    pub version: String,
    /// It has become a full member once, in this run or an earlier one.
    pub active: bool,
    /// It has not renewed its lease, and was told off.
    pub unreachable: bool,
    /// It shall be emptied, then removed.
    pub leaving: bool,
    /// The control version at which this run joined: routes announced from then on reach it.
    pub since: u64,
}

/// A member's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Known, but has never been a full member yet.
    Joining,
    /// A full member.
    Active,
    /// Its shards are being moved away.
    Leaving,
    /// Not heard of for too long.
    Unreachable,
}

impl MemberState {
    /// As the admin API spells it.
    pub fn name(self) -> &'static str {
        match self {
            MemberState::Joining => "joining",
            MemberState::Active => "active",
            MemberState::Leaving => "leaving",
            MemberState::Unreachable => "unreachable",
        }
    }
}

impl Member {
    /// Its state in one word; a leaving member stays so when it cannot be reached.
    pub fn state(&self) -> MemberState {
        if self.leaving {
            MemberState::Leaving
        } else if self.unreachable {
            MemberState::Unreachable
        } else if self.active {
            MemberState::Active
        } else {
            MemberState::Joining
        }
    }
}

/// What can be asked of the control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlCommand {
    /// The first command of a cluster: its founder is its first member. Later ones change nothing.
    Found {
        /// The cluster's id, not 0.
        cluster: u64,
        /// How many shards, for ever.
        shards: u16,
        /// The configured replication factor.
        factor: Option<u8>,
        /// The founder.
        founder: Joiner,
    },
    /// A node begins a run: a new member, a restarted one, or one under the name of a member whose disk is gone.
    Join(Joiner),
    /// This run holds its lease and knows all routes.
    Activate(Origin),
    /// This run has not renewed its lease, or said goodbye.
    Unreachable(Origin),
    /// The member shall leave (`true`), or shall stay after all.
    Leave {
        /// Its name.
        name: String,
        /// Leave or stay.
        leaving: bool,
    },
    /// The member has left. Refused while a shard is placed on it.
    Remove(NodeId),
    /// New placement of some shards, if the version is still the one it was computed from.
    Place {
        /// [`Control::version`] it was computed from.
        version: u64,
        /// Shard and voters.
        shards: Vec<(ShardId, Vec<NodeId>)>,
    },
    /// The configured replication factor.
    SetFactor(Option<u8>),
}

/// Who joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    /// Which run of which node.
    pub origin: Origin,
    /// Its name.
    pub name: String,
    /// Where its peers dial it.
    pub address: String,
    /// The software's version.
    pub version: String,
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlAnswer {
    /// Done, or was done before; the version it holds from.
    Done(u64),
    /// There is no such member, or no longer in this run.
    Unknown,
    /// This run is over: the process may begin another.
    Over,
    /// This process has left the cluster for good.
    Left,
    /// The name is another reachable member's.
    NameTaken,
    /// The cluster is full, or was not founded.
    Refused,
    /// The state has moved on.
    Outdated,
}

impl Control {
    /// Applies one command.
    pub fn apply(&mut self, command: &ControlCommand) -> ControlAnswer {
        let changed = match command {
            ControlCommand::Found { cluster, shards, factor, founder } => {
                self.found(*cluster, *shards, *factor, founder)
            }
            ControlCommand::Join(joiner) => self.join(joiner),
            ControlCommand::Activate(origin) => self.with(*origin, |member| {
                if member.unreachable {
                    return Err(ControlAnswer::Over);
                }
                Ok(!std::mem::replace(&mut member.active, true))
            }),
            ControlCommand::Unreachable(origin) => self.unreachable(*origin),
            ControlCommand::Leave { name, leaving } => self.leave(name, *leaving),
            ControlCommand::Remove(node) => self.remove(*node),
            ControlCommand::Place { version, shards } => self.place(*version, shards),
            ControlCommand::SetFactor(factor) => Ok(std::mem::replace(&mut self.factor, *factor) != *factor),
        };
        match changed {
            Ok(changed) => {
                self.version += u64::from(changed);
                ControlAnswer::Done(self.version)
            }
            Err(answer) => answer,
        }
    }

    fn found(
        &mut self,
        cluster: u64,
        shards: u16,
        factor: Option<u8>,
        founder: &Joiner,
    ) -> Result<bool, ControlAnswer> {
        if self.cluster != 0 {
            return Ok(false);
        }
        if cluster == 0 || shards == 0 {
            return Err(ControlAnswer::Refused);
        }
        self.cluster = cluster;
        self.shards = shards;
        self.factor = factor;
        self.placement = vec![vec![founder.origin.node]; usize::from(shards)];
        let mut member = Member::new(founder, self.version + 1);
        member.active = true;
        self.members.insert(founder.origin.node, member);
        Ok(true)
    }

    fn join(&mut self, joiner: &Joiner) -> Result<bool, ControlAnswer> {
        let origin = joiner.origin;
        if self.cluster == 0 {
            return Err(ControlAnswer::Refused);
        }
        if let Some(left) = self.left.get(&origin.node)
            && process(origin.incarnation) <= process(*left)
        {
            return Err(ControlAnswer::Left);
        }
        if let Some(member) = self.members.get(&origin.node) {
            if member.origin.incarnation > origin.incarnation || (member.origin == origin && member.unreachable) {
                return Err(ControlAnswer::Over);
            }
            if member.origin == origin {
                return Ok(false);
            }
        } else if self.members.len() >= MEMBERS_MAX {
            return Err(ControlAnswer::Refused);
        }
        let namesake = self
            .members
            .values()
            .find(|member| member.name == joiner.name && member.origin.node != origin.node)
            .cloned();
        if let Some(namesake) = namesake {
            // Both would answer to the name while the old one lives.
            if !namesake.unreachable {
                return Err(ControlAnswer::NameTaken);
            }
            self.replace(namesake.origin.node, origin.node);
        }
        let mut member = Member::new(joiner, self.version + 1);
        if let Some(earlier) = self.members.get(&origin.node).cloned() {
            if !earlier.unreachable {
                self.end(earlier.origin);
            }
            member.leaving = earlier.leaving;
            member.active = earlier.active;
        }
        self.left.remove(&origin.node);
        self.members.insert(origin.node, member);
        Ok(true)
    }

    /// The node `old` is gone with its disk, and `new` takes its places.
    fn replace(&mut self, old: NodeId, new: NodeId) {
        self.members.remove(&old);
        for voters in &mut self.placement {
            let already = voters.contains(&new);
            for voter in voters.iter_mut().filter(|voter| **voter == old) {
                *voter = new;
            }
            if already {
                voters.dedup();
            }
        }
    }

    fn unreachable(&mut self, origin: Origin) -> Result<bool, ControlAnswer> {
        let changed = self.with(origin, |member| Ok(!std::mem::replace(&mut member.unreachable, true)))?;
        if changed {
            self.end(origin);
        }
        Ok(changed)
    }

    fn leave(&mut self, name: &str, leaving: bool) -> Result<bool, ControlAnswer> {
        let member = self.members.values_mut().find(|member| member.name == name);
        let member = member.ok_or(ControlAnswer::Unknown)?;
        Ok(std::mem::replace(&mut member.leaving, leaving) != leaving)
    }

    fn remove(&mut self, node: NodeId) -> Result<bool, ControlAnswer> {
        let member = self.members.get(&node).ok_or(ControlAnswer::Unknown)?;
        let placed = self.placement.iter().any(|voters| voters.contains(&node));
        if !member.leaving || placed || self.members.len() == 1 {
            return Err(ControlAnswer::Refused);
        }
        let (origin, unreachable) = (member.origin, member.unreachable);
        if !unreachable {
            self.end(origin);
        }
        self.members.remove(&node);
        self.left.insert(node, origin.incarnation);
        while self.left.len() > ENDED_RUNS_MAX {
            self.left.pop_first();
        }
        Ok(true)
    }

    fn place(&mut self, version: u64, shards: &[(ShardId, Vec<NodeId>)]) -> Result<bool, ControlAnswer> {
        if version != self.version {
            return Err(ControlAnswer::Outdated);
        }
        let sound = |(shard, voters): &(ShardId, Vec<NodeId>)| {
            usize::from(shard.0) < self.placement.len()
                && !voters.is_empty()
                && voters.iter().all(|voter| self.members.contains_key(voter))
        };
        if !shards.iter().all(sound) {
            return Err(ControlAnswer::Refused);
        }
        for (shard, voters) in shards {
            self.placement[usize::from(shard.0)].clone_from(voters);
        }
        Ok(!shards.is_empty())
    }

    fn with(
        &mut self,
        origin: Origin,
        act: impl FnOnce(&mut Member) -> Result<bool, ControlAnswer>,
    ) -> Result<bool, ControlAnswer> {
        match self.members.get_mut(&origin.node) {
            Some(member) if member.origin == origin => act(member),
            _ => Err(ControlAnswer::Unknown),
        }
    }

    fn end(&mut self, origin: Origin) {
        self.ended.push_back(origin);
        while self.ended.len() > ENDED_RUNS_MAX {
            self.ended.pop_front();
        }
    }

    /// The voters `shard` shall have; none for a shard that does not exist.
    pub fn voters(&self, shard: ShardId) -> &[NodeId] {
        self.placement.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }

    /// The shards that shall have a replica on `node`.
    pub fn placed_on(&self, node: NodeId) -> impl Iterator<Item = ShardId> {
        (0..self.shards).map(ShardId).filter(move |shard| self.voters(*shard).contains(&node))
    }

    /// Members that may accept publishes, as far as this replica knows: routes must reach them.
    pub fn reachable(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.unreachable)
    }
}

impl Member {
    fn new(joiner: &Joiner, since: u64) -> Member {
        Member {
            origin: joiner.origin,
            name: joiner.name.clone(),
            address: joiner.address.clone(),
            version: joiner.version.clone(),
            active: false,
            unreachable: false,
            leaving: false,
            since,
        }
    }
}

/// The process a run belongs to.
fn process(incarnation: Incarnation) -> u64 {
    incarnation.0 >> RUN_BITS
}

#[cfg(test)]
mod tests;
