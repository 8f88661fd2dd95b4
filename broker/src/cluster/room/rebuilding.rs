//! A replica that its disk has damaged: stopped, taken out of its group, forgotten, and built anew from the others (K10).
//!
//! In that order, and each only when the one before is certain. A replica that lost a part of its log has forgotten what
//! it promised; it must never vote again as its old self. So its node asks the group's leader to take it out, the others
//! commit that, and only an answer that a majority has confirmed since the question lets the node erase what it has.
//! From then on it is as new: a learner that is caught up, and then a voter like any other. Where no majority is left nobody
//! answers, and nothing is erased.
//!
//! Nobody keeps a record: a question is repeated until it is answered, and a leader that has not heard one for a while
//! takes the node for sound.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Room;
use crate::cluster::asks::{Ask, Reply};
use crate::cluster::status::{DamagedReplica, Stage};
use crate::identity::{GroupId, NodeId, Origin};
use crate::replication::Standing;

/// Between two looks at the disk, and two questions.
pub(super) const REBUILDING_TURN: Duration = Duration::from_millis(500);

/// A leader keeps a node out for this long after it was asked to. Longer than a node takes from one question to the
/// next, or from the answer to the end of the erasure.
const KEPT_OUT: Duration = Duration::from_secs(3);

/// When no leader has answered for this long, there may be none without a hand.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// How long a leader waits to hear from a majority that it leads.
const CONFIRM: Duration = Duration::from_millis(800);

/// Under which the control group's log says that this node has belonged to a cluster, when nothing else says so.
const BELONGED: u8 = 4;

/// A damaged replica of this node.
pub(super) struct Damaged {
    replica: DamagedReplica,
    /// When a leader was last heard of it, or when it was found.
    answered: Instant,
}

impl Room {
    /// Looks for damage, and takes each damaged replica a step further.
    pub(super) fn rebuilding_turn(self: &Rc<Self>) {
        let me = self.myself().node;
        let mut suspects = self.log.damaged();
        suspects.insert(GroupId::CONTROL);
        // Damage may have swallowed a group whole.
        let placed = self.with_control(|control| control.placed_on(me).map(GroupId::of_shard).collect::<BTreeSet<_>>());
        suspects.extend(placed.unwrap_or_default());
        suspects.extend(self.damaged.borrow().keys());
        for group in suspects {
            match self.log.group(group).damage() {
                Some(damage) => self.rebuild(group, damage.reason),
                None => self.see_if_rebuilt(group),
            }
        }
    }

    fn rebuild(self: &Rc<Self>, group: GroupId, reason: String) {
        if !self.busy.borrow_mut().insert(group) {
            return;
        }
        let known = |known: &Damaged| known.replica.reason == reason && known.replica.stage != Stage::Rebuilding;
        if !self.damaged.borrow().get(&group).is_some_and(known) {
            tracing::error!(%group, reason, "a replica is damaged: it is stopped, and to be rebuilt from the others");
            let replica = DamagedReplica { reason, stage: Stage::Stopped };
            self.damaged.borrow_mut().insert(group, Damaged { replica, answered: Instant::now() });
        }
        let room = self.clone();
        self.tasks.spawn(async move {
            room.take_down(group).await;
            // From here on the replica does not run, and nobody starts it: what is answered is about what is erased.
            let ask = Ask::TakeOut { group, origin: room.myself() };
            match room.ask_leader_of(group, ask).await {
                Some(Reply::TakenOut(true)) => room.forget(group).await,
                Some(Reply::TakenOut(false)) => room.has_come_to(group, Stage::Stopped),
                _ => room.was_not_answered(group),
            }
            room.busy.borrow_mut().remove(&group);
        });
    }

    /// Stops the replica, if it runs.
    async fn take_down(&self, group: GroupId) {
        let replica = self.replicas.borrow_mut().remove(&group);
        if let Some(replica) = &replica {
            replica.shutdown().await;
        }
        match group.shard() {
            Some(shard) => {
                if let Some(shards) = self.shards() {
                    shards.stopped(shard);
                }
            }
            None if replica.is_some() => {
                // Without it this node does not know who is a member. It learns that anew as one that has just joined.
                *self.control.borrow_mut() = None;
                self.joined.set(None);
                self.forget_routes();
                self.set_serving(false);
            }
            None => {}
        }
    }

    /// The group's members are others: what is here of it means nothing any more.
    async fn forget(&self, group: GroupId) {
        let belonged = (group == GroupId::CONTROL).then(|| (BELONGED, Bytes::from_static(b"1")));
        match self.log.group(group).erase(belonged).await {
            Ok(()) => {
                tracing::warn!(%group, "the damaged replica was taken out and erased; it is built anew from the others");
                self.has_come_to(group, Stage::Rebuilding);
            }
            Err(error) => tracing::warn!(%group, %error, "the damaged replica could not be erased; trying again"),
        }
    }

    fn has_come_to(&self, group: GroupId, stage: Stage) {
        if let Some(known) = self.damaged.borrow_mut().get_mut(&group) {
            known.replica.stage = stage;
            known.answered = Instant::now();
        }
    }

    fn was_not_answered(&self, group: GroupId) {
        if let Some(Damaged { replica, answered }) = self.damaged.borrow_mut().get_mut(&group)
            && replica.stage != Stage::Stuck
            && answered.elapsed() > STUCK_AFTER
        {
            replica.stage = Stage::Stuck;
            tracing::error!(%group, "{}", replica.describe(group));
        }
    }

    /// The damaged replicas of this node.
    pub(super) fn damaged(&self) -> BTreeMap<GroupId, DamagedReplica> {
        self.damaged.borrow().iter().map(|(group, damaged)| (*group, damaged.replica.clone())).collect()
    }

    /// A replica that was erased is as good as any when its group counts it among its members again.
    fn see_if_rebuilt(&self, group: GroupId) {
        if !self.damaged.borrow().contains_key(&group) {
            return;
        }
        let me = self.myself().node;
        let replica = self.replicas.borrow().get(&group).cloned();
        let back = replica.is_some_and(|replica| is_back(group, me, &replica.standing()));
        // One that moves away meanwhile is not missed here.
        let placed = self.with_control(|control| group.shard().is_none_or(|s| control.voters(s).contains(&me)));
        if back || placed == Some(false) {
            self.damaged.borrow_mut().remove(&group);
        }
        if back {
            self.rebuilt.set(self.rebuilt.get() + 1);
            tracing::info!(%group, "the damaged replica is rebuilt");
        }
    }

    /// As the leader of a group, hears that a node's replica is damaged.
    pub(super) async fn take_out(&self, group: GroupId, asker: Origin) -> Reply {
        let node = asker.node;
        let known = self.with_control(|control| control.members.contains_key(&node)) == Some(true);
        if !known || self.links.peer(node) != Some(asker.incarnation) {
            // What an earlier run of it has found says nothing about this one.
            return Reply::NotLeader(None);
        }
        let replica = self.replicas.borrow().get(&group).cloned();
        let Some(replica) = replica else { return Reply::NotLeader(None) };
        let leadership = replica.leadership().borrow().clone();
        if !leadership.ready {
            return Reply::NotLeader(leadership.leader.filter(|leader| *leader != self.myself().node));
        }
        if self.kept_out.borrow_mut().insert((group, node), Instant::now()).is_none() {
            tracing::warn!(%group, %node, "the replica of a node is damaged; takes it out, so that it can be rebuilt");
        }
        match tokio::time::timeout(CONFIRM, replica.has_removed(node)).await {
            Ok(Ok(removed)) => Reply::TakenOut(removed),
            // No majority follows.
            _ => Reply::NotLeader(None),
        }
    }

    /// The nodes that are to be no members of `group` now.
    pub(super) fn kept_out_of(&self, group: GroupId) -> BTreeSet<NodeId> {
        let mut kept_out = self.kept_out.borrow_mut();
        kept_out.retain(|_, asked| asked.elapsed() < KEPT_OUT);
        kept_out.keys().filter(|(of, _)| *of == group).map(|(_, node)| *node).collect()
    }

    /// Whether the log says that this node has belonged to a cluster, even if it says no more: it must not found another.
    pub(super) fn has_belonged(&self) -> bool {
        let control = self.log.group(GroupId::CONTROL);
        control.damage().is_some() || control.load(BELONGED).is_some()
    }
}

fn is_back(group: GroupId, me: NodeId, standing: &Standing) -> bool {
    // Not every member votes in the control group.
    standing.voters.contains(&me) || (group == GroupId::CONTROL && standing.learners.contains(&me))
}
