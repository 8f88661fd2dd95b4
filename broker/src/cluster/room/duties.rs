//! What the leader of the control group does for all: grants leases, counts members in and out, places shards.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Room;
use super::membership::LEASE;
use crate::cluster::asks::{Ask, Reply};
use crate::cluster::control::{Control, ControlAnswer, ControlCommand};
use crate::cluster::placement;
use crate::cluster::status::{DamagedReplica, Overview, Report, Stage, Status};
use crate::identity::{GroupId, NodeId, Origin};
use crate::replication::Group;
use crate::storage::Health;

/// A member that has not renewed for this long is declared unreachable. Longer than its lease, so that it has stopped
/// accepting publishes before; hardly longer, for whoever was connected there waits for it elsewhere (K2, K4).
const UNREACHABLE: Duration = Duration::from_millis(1_300);
/// A leader that has not looked at its members for so long has stood still itself.
const STOOD_STILL: Duration = Duration::from_millis(600);

/// A disk that had no space for a write counts as full for this long: what is smaller may fit meanwhile. Replicas that it has
/// stopped try again within five seconds, so while it is full, that is said without a break.
const FULL_FOR: Duration = Duration::from_secs(10);

impl Room {
    /// Answers a question, if this node leads the group that it is for.
    pub(super) async fn reply(self: &Rc<Self>, ask: Ask) -> Reply {
        let command = match ask {
            Ask::TakeOut { group, origin } => return self.take_out(group, origin).await,
            Ask::Renew(origin, report) => return self.renew(origin, report).await.unwrap_or_else(Reply::NotLeader),
            Ask::Join(joiner) => ControlCommand::Join(joiner),
            Ask::Goodbye(origin) => ControlCommand::Unreachable(origin),
            Ask::Leave { name, leaving } => ControlCommand::Leave { name, leaving },
        };
        if let Err(leader) = self.led_control() {
            return Reply::NotLeader(leader);
        }
        self.propose(command).await.map_or(Reply::NotLeader(None), Reply::Control)
    }

    /// The control group and its term, if this node leads it; else who does, if that is known.
    fn led_control(&self) -> Result<(Group<Control>, u64), Option<NodeId>> {
        let control = self.control.borrow().clone().ok_or(None)?;
        let leadership = control.leadership().borrow().clone();
        match leadership.ready {
            true => Ok((control, leadership.term)),
            false => Err(leadership.leader.filter(|leader| *leader != self.myself().node)),
        }
    }

    async fn renew(&self, origin: Origin, report: Report) -> Result<Reply, Option<NodeId>> {
        let (control, term) = self.led_control()?;
        // Only a leader that a majority still follows may grant anything.
        control.linearizable().await.map_err(|_| None)?;
        self.keep_heard(term, Instant::now());
        let refusal = control.with(|control| match control.members.get(&origin.node) {
            Some(member) if member.unreachable || member.origin.incarnation > origin.incarnation => {
                Some(ControlAnswer::Over)
            }
            Some(member) if member.origin == origin => None,
            None if control.left.contains_key(&origin.node) => Some(ControlAnswer::Left),
            _ => Some(ControlAnswer::Unknown),
        });
        if let Some(refusal) = refusal {
            return Ok(Reply::Control(refusal));
        }
        if self.dismissed.borrow().contains_key(&origin) {
            return Err(None);
        }
        self.heard.borrow_mut().insert(origin, (Instant::now(), report));
        Ok(Reply::Renewed(self.gather()))
    }

    /// What was heard in an earlier term, or before this node stood still, says nothing about now: everybody has a whole
    /// time to be heard again.
    fn keep_heard(&self, term: u64, now: Instant) {
        let stood_still = self.heard_at.replace(Some(now)).is_some_and(|last| now.duration_since(last) > STOOD_STILL);
        let new_term = self.heard_term.replace(term) != term;
        if new_term || stood_still {
            for (heard, _) in self.heard.borrow_mut().values_mut() {
                *heard = now;
            }
        }
        if new_term {
            // Whatever was proposed in an earlier term has been applied by now, or never will be.
            self.dismissed.borrow_mut().clear();
        }
    }

    fn gather(&self) -> Overview {
        let heard = self.heard.borrow();
        let current: BTreeSet<Origin> =
            self.with_control(|control| control.reachable().map(|member| member.origin).collect()).unwrap_or_default();
        let reports = heard.iter().filter(|(origin, _)| current.contains(origin));
        Overview::gather(reports.map(|(origin, (_, report))| (*origin, report)))
    }

    /// Looks at all members, and proposes what has to change; one thing at a time.
    pub(super) fn duties_turn(self: &Rc<Self>) {
        let Some(term) = self.control_term() else { return };
        let now = Instant::now();
        self.keep_heard(term, now);
        let members: Vec<(Origin, bool, bool, bool)> = self
            .with_control(|control| {
                let members = control.members.values();
                members.map(|m| (m.origin, m.active, m.unreachable, m.leaving)).collect()
            })
            .unwrap_or_default();
        let mut commands = Vec::new();
        {
            let mut heard = self.heard.borrow_mut();
            let mut dismissed = self.dismissed.borrow_mut();
            heard.retain(|origin, _| members.iter().any(|(member, ..)| member == origin));
            dismissed.retain(|origin, _| members.iter().any(|(member, ..)| member == origin));
            for (origin, active, unreachable, _) in &members {
                if *unreachable {
                    continue;
                }
                let (last, report) = heard.entry(*origin).or_insert_with(|| (now, Default::default()));
                if now.duration_since(*last) > UNREACHABLE {
                    dismissed.entry(*origin).or_insert(now);
                    commands.push(ControlCommand::Unreachable(*origin));
                } else if !active && report.synced {
                    commands.push(ControlCommand::Activate(*origin));
                }
            }
        }
        for (origin, _, unreachable, leaving) in &members {
            let silent = commands.contains(&ControlCommand::Unreachable(*origin));
            if *leaving && self.is_empty(origin.node) {
                // It goes when the last lease it was granted is over: nobody waits for it from then on.
                let dismissed = *self.dismissed.borrow_mut().entry(*origin).or_insert(now);
                if *unreachable || now.duration_since(dismissed) > LEASE {
                    commands.push(ControlCommand::Remove(origin.node));
                }
            } else if !leaving && !silent {
                // It was to leave, and stays after all.
                self.dismissed.borrow_mut().remove(origin);
            }
        }
        if commands.is_empty() {
            let plan = self.with_control(|control| (control.version, placement::plan(control)));
            if let Some((version, shards)) = plan
                && !shards.is_empty()
            {
                commands.push(ControlCommand::Place { version, shards });
            }
        }
        let room = self.clone();
        if !commands.is_empty() {
            self.tasks.spawn(async move {
                for command in commands {
                    tracing::debug!(?command, "proposes");
                    room.propose(command).await;
                }
            });
        }
    }

    /// Whether a member that leaves holds nothing any more: no place, no replica, no vote in the control group.
    fn is_empty(&self, node: NodeId) -> bool {
        let placed = self.with_control(|control| control.placement.iter().any(|voters| voters.contains(&node)));
        let overview = self.gather();
        let shards = self.with_control(|control| usize::from(control.shards));
        let all_led = shards == Some(overview.shards.len());
        let holds = overview
            .shards
            .values()
            .any(|(_, report)| report.voters.contains(&node) || report.learners.contains(&node));
        let control = self.replicas.borrow().get(&GroupId::CONTROL).cloned();
        let votes = control.is_none_or(|control| control.standing().voters.contains(&node));
        placed == Some(false) && all_led && !holds && !votes
    }

    /// Tells administrators what has changed.
    pub(super) fn publish_status(self: &Rc<Self>) {
        let mut status =
            self.with_control(|control| Status::describe(control, &self.overview.borrow())).unwrap_or_default();
        status.name.clone_from(&self.config.name);
        status.serving = self.serving.get();
        status.draining = self.draining.get();
        status.linked = self.links.peers().len();
        status.forwards_dropped = self.forwards.borrow().dropped();
        status.unsettled = self.routes.borrow().unsettled();
        status.damaged = self.damaged();
        status.rebuilt = self.rebuilt.get();
        status.totals = self.shards().map(|shards| shards.totals()).unwrap_or_default();
        status.storage = self.storage_health();
        status.not_ready = self.why_not_ready(&status);
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    /// What the log says, but that a full disk is remembered for [`FULL_FOR`].
    fn storage_health(&self) -> Health {
        let (health, failures) = (self.log.health(), self.log.writes_without_space());
        let now = Instant::now();
        if self.full_writes_seen.replace(failures) != failures || health == Health::Full {
            self.full_until.set(Some(now + FULL_FOR));
        }
        match health {
            Health::Healthy if self.full_until.get().is_some_and(|until| now < until) => Health::Full,
            health => health,
        }
    }

    fn why_not_ready(&self, status: &Status) -> String {
        // A shard whose other replicas work is served by them.
        let hinders = |(group, replica): &(&GroupId, &DamagedReplica)| {
            **group == GroupId::CONTROL || replica.stage == Stage::Stuck
        };
        if self.left.get() {
            "has left the cluster".into()
        } else if self.draining.get() {
            "drains".into()
        } else if let Some((group, replica)) = status.damaged.iter().find(hinders) {
            replica.describe(*group)
        } else if status.cluster == 0 || self.joined.get().is_none() {
            "has not joined a cluster yet".into()
        } else if !self.has_lease() {
            "has no contact with a majority of the cluster".into()
        } else if !self.serving.get() {
            "does not know all routes yet".into()
        } else if status.without_leader > 0 {
            format!("{} of {} shards have no leader", status.without_leader, status.shards)
        } else {
            String::new()
        }
    }

    /// Gives away what this node leads, and asks its clients to go, at most `rate` a second on each worker. Ready when
    /// nothing is led, or after `patience`.
    pub(in crate::cluster) async fn drain(self: &Rc<Self>, rate: u32, patience: Duration) {
        if !self.draining.replace(true) {
            self.to_all_workers(|| crate::door::ToWorker::Drain { rate });
        }
        let deadline = Instant::now() + patience;
        loop {
            let leads = self.replicas.borrow().values().any(|replica| {
                let alone = replica.standing().voters.len() < 2;
                !alone && replica.leadership().borrow().is_leader
            });
            let connected: u32 = self.connections.borrow().values().sum();
            if (!leads && connected == 0) || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.drained.set(true);
        self.lease_until.set(None);
        self.membership_turn();
        // So that nobody waits for this node's lease to run out. A lone node has nobody to tell.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.ask(Ask::Goodbye(self.myself()))).await;
    }
}
