//! The replicas on this node: started where they are placed or called for, led towards their placement, stopped when
//! they have moved away.

use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::Room;
use crate::cluster::control::{Answered, Control};
use crate::cluster::convergence::{self, Step, Wish};
use crate::cluster::placement;
use crate::cluster::replica::{Replica, replica_of};
use crate::identity::{GroupId, NodeId, ShardId};
use crate::replication::{Group, Position};

impl Room {
    /// Starts this node's replica of the control group, unless that is under way.
    pub(super) async fn start_control(&self) -> io::Result<()> {
        if !self.busy.borrow_mut().insert(GroupId::CONTROL) {
            return Ok(());
        }
        let opened = self.open_control().await;
        self.busy.borrow_mut().remove(&GroupId::CONTROL);
        opened
    }

    async fn open_control(&self) -> io::Result<()> {
        let me = self.me.clone();
        let sink = Rc::new(move |_: Position, answers: Option<Vec<Answered>>| {
            if let Some(room) = me.upgrade() {
                room.control_applied(answers.unwrap_or_default());
            }
        });
        let Some(transport) = self.me.upgrade() else { return Ok(()) };
        let group = Group::start(
            self.myself().node,
            GroupId::CONTROL,
            Control::default(),
            self.log.group(GroupId::CONTROL),
            transport,
            self.config.settings,
            sink,
        )
        .await?;
        self.replicas.borrow_mut().insert(GroupId::CONTROL, replica_of(&group));
        *self.control.borrow_mut() = Some(group);
        self.control_applied(Vec::new());
        Ok(())
    }

    /// A call of a Raft group's member. A replica that is not running is started if this node may have one.
    pub(super) fn raft(&self, from: NodeId, call: u64, group: GroupId, request: Bytes) {
        let replica = self.replicas.borrow().get(&group).cloned();
        let Some(replica) = replica else {
            self.answer(from, call, None);
            let known = match group.shard() {
                None => !self.left.get(),
                Some(shard) => self.with_control(|control| shard.0 < control.shards).unwrap_or(false),
            };
            if known {
                self.start_replica(group);
            }
            return;
        };
        let Some(room) = self.me.upgrade() else { return };
        let received = replica.receive(request);
        self.tasks.spawn(async move {
            let answer = received.await;
            room.answer(from, call, Some(answer));
        });
    }

    fn start_replica(&self, group: GroupId) {
        // One that is damaged does not run until it is rebuilt.
        let damaged = self.log.group(group).damage().is_some();
        if damaged || self.replicas.borrow().contains_key(&group) || !self.busy.borrow_mut().insert(group) {
            return;
        }
        let Some(room) = self.me.upgrade() else { return };
        self.tasks.spawn(async move {
            let started = match group.shard() {
                None => room.open_control().await,
                Some(shard) => room.start_shard(shard).await,
            };
            if let Err(error) = started {
                // It stays as it is: a voter whose log was erased would vote as if it had never promised anything. If it is
                // damaged, `rebuilding` finds it.
                tracing::error!(%group, %error, "a replica could not be started");
                tokio::time::sleep(START_AGAIN).await;
            }
            room.busy.borrow_mut().remove(&group);
        });
    }

    async fn start_shard(&self, shard: ShardId) -> io::Result<()> {
        let Some(shards) = self.shards() else { return Ok(()) };
        let replica = shards.start(shard).await?;
        self.replicas.borrow_mut().insert(GroupId::of_shard(shard), replica);
        Ok(())
    }

    /// Makes the groups of all shards, with this node as their only voter: before there is a cluster that could count on
    /// them. Done again after a crash in between.
    pub(super) async fn found_shards(&self, shards: u16) -> anyhow::Result<()> {
        for shard in (0..shards).map(ShardId) {
            let group = GroupId::of_shard(shard);
            let running = self.replicas.borrow().contains_key(&group);
            if !running {
                anyhow::ensure!(self.busy.borrow_mut().insert(group), "{group} is being started");
                let started = self.start_shard(shard).await;
                self.busy.borrow_mut().remove(&group);
                started?;
            }
            let replica = self.replicas.borrow().get(&group).cloned();
            if let Some(replica) = replica
                && !replica.is_initialized().await
            {
                replica.initialize(self.myself().node).await?;
            }
        }
        Ok(())
    }

    /// Starts what is placed here, stops what has moved away, and takes a step with each group that this node leads.
    pub(super) fn hosting_turn(self: &Rc<Self>) {
        let me = self.myself().node;
        let Some((shards, placed)) =
            self.with_control(|control| (control.shards, control.placed_on(me).collect::<BTreeSet<_>>()))
        else {
            return;
        };
        for shard in &placed {
            self.moved_since.borrow_mut().remove(&GroupId::of_shard(*shard));
            self.start_replica(GroupId::of_shard(*shard));
        }
        for shard in (0..shards).map(ShardId).filter(|shard| !placed.contains(shard)) {
            self.stop_if_moved(shard);
        }
        let groups: Vec<(GroupId, Rc<dyn Replica>)> =
            self.replicas.borrow().iter().map(|(group, replica)| (*group, replica.clone())).collect();
        for (group, replica) in groups {
            let leadership = replica.leadership().borrow().clone();
            if leadership.ready {
                self.converge(group, replica);
            }
        }
    }

    /// Erases a replica that the shard's leader no longer counts among its members.
    fn stop_if_moved(&self, shard: ShardId) {
        let (me, group) = (self.myself().node, GroupId::of_shard(shard));
        let moved = self.overview.borrow().shards.get(&shard).is_some_and(|(leader, report)| {
            *leader != me && !report.voters.contains(&me) && !report.learners.contains(&me)
        });
        let replica = self.replicas.borrow().get(&group).cloned();
        let (Some(replica), true) = (replica, moved) else {
            self.moved_since.borrow_mut().remove(&group);
            return;
        };
        // The overview is a moment old: the leader may be making this node a member just now, and must not lose it again.
        let since = *self.moved_since.borrow_mut().entry(group).or_insert_with(Instant::now);
        if since.elapsed() < MOVED_FOR {
            return;
        }
        self.moved_since.borrow_mut().remove(&group);
        if !self.busy.borrow_mut().insert(group) {
            return;
        }
        let Some(room) = self.me.upgrade() else { return };
        self.tasks.spawn(async move {
            room.replicas.borrow_mut().remove(&group);
            replica.shutdown().await;
            if let Some(shards) = room.shards() {
                shards.stopped(shard);
            }
            if let Err(error) = room.log.group(group).erase(None).await {
                tracing::warn!(%group, %error, "the log of a replica that moved away could not be erased");
            }
            room.busy.borrow_mut().remove(&group);
        });
    }

    fn converge(self: &Rc<Self>, group: GroupId, replica: Rc<dyn Replica>) {
        let me = self.myself().node;
        let standing = replica.standing();
        let usable = |node: NodeId| node == me || self.links.peer(node).is_some();
        let wish = self.with_control(|control| wish(control, group, &standing.voters));
        let wish = wish.map(|wish| wish.without(&self.kept_out_of(group), &standing));
        let mut step = match wish {
            Some(wish) if !wish.voters.is_empty() => convergence::step(me, &standing, &wish, usable),
            _ => Step::Rest,
        };
        if self.draining.get() {
            // What this node leads it gives away first; what it is asked to lead it does not take.
            step = match convergence::heir(me, &standing, &standing.voters, usable) {
                Some(heir) => Step::Transfer(heir),
                None => Step::Rest,
            };
        }
        if step == Step::Rest || !self.busy.borrow_mut().insert(group) {
            return;
        }
        tracing::debug!(%group, ?step, "takes a step");
        let room = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = replica.take(step).await {
                tracing::debug!(%group, %error, "a step was not taken");
            }
            room.busy.borrow_mut().remove(&group);
        });
    }
}

/// Before a replica that could not be started is tried again.
const START_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// A replica is erased when it was no member of its group for this long.
const MOVED_FOR: std::time::Duration = std::time::Duration::from_secs(10);

/// What a group shall look like.
fn wish(control: &Control, group: GroupId, now: &BTreeSet<NodeId>) -> Wish {
    match group.shard() {
        Some(shard) => {
            let voters = control.voters(shard);
            let leader = voters.first().copied().filter(|leader| {
                control.members.get(leader).is_some_and(|member| !member.unreachable && !member.leaving)
            });
            Wish { voters: voters.iter().copied().collect(), learners: BTreeSet::new(), leader }
        }
        None => {
            let now: Vec<NodeId> = now.iter().copied().collect();
            let voters: BTreeSet<NodeId> = placement::control_voters(control, &now).into_iter().collect();
            let learners = control.members.keys().copied().filter(|node| !voters.contains(node)).collect();
            Wish { voters, learners, leader: None }
        }
    }
}
