//! The life of a replica: opened from its log, watched, and opened again when its disk has stopped it.
//!
//! `openraft` stops a group for good at the first storage error, which is right: what could not be written must never be
//! acknowledged. A disk that was full has space again some day, so the replica goes back to its log and tries again, with
//! pauses. What it applies anew is told to the sink anew; a sole voter goes on from the state that it has.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{Mutex, watch};

use super::log::RaftLog;
use super::machine::{Applied, EffectSink, Machine, StateMachine};
use super::network::{Network, Transport};
use super::raft::Types;
use super::settings::Settings;
use super::snapshot::Snapshots;
use super::standing::{Leadership, is_sole_voter, leads_alone};
use crate::identity::{GroupId, NodeId};
use crate::storage::{Claim, GroupLog};

/// The first pause before a stopped replica is opened again. It doubles with every failure …
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What `openraft` runs.
pub(super) type Running<S> = Raft<Types, Machine<S>>;

/// What is needed to open a replica, again and again.
pub(super) struct Parts<S: StateMachine> {
    pub node: NodeId,
    pub id: GroupId,
    pub state: Rc<RefCell<S>>,
    /// How far `state` is.
    pub applied: Rc<RefCell<Applied>>,
    pub log: GroupLog,
    pub snapshots: Snapshots,
    pub transport: Rc<dyn Transport>,
    pub settings: Settings,
    pub sink: EffectSink<S::Effect>,
}

impl<S: StateMachine> Parts<S> {
    /// Opens the replica: from the state as it is, or else from its snapshot.
    async fn open(&self, keeps_state: bool) -> io::Result<Running<S>> {
        if let Some(damage) = self.log.damage() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, damage.reason));
        }
        let config = Arc::new(self.settings.config(self.id).map_err(io::Error::other)?);
        let rule = self.settings.snapshot_rule();
        let (state, applied) = (self.state.clone(), self.applied.clone());
        let mut machine = Machine::new(state, applied, self.snapshots.clone(), self.sink.clone(), rule);
        if !keeps_state {
            machine = machine.recover().await?;
        }
        let network = Network { group: self.id, transport: self.transport.clone() };
        let log = RaftLog::new(self.log.clone());
        if let Some(purged) = log.purged()?.filter(|purged| machine.last_applied() < Some(*purged)) {
            let reason = format!("the snapshot that has the entries up to {} is missing", purged.index());
            self.log.condemn(reason.clone());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Raft::new(self.node.0, config, network, log, machine).await.map_err(io::Error::other)
    }
}

pub(super) struct Replica<S: StateMachine> {
    pub parts: Parts<S>,
    raft: RefCell<Running<S>>,
    leadership: watch::Sender<Leadership>,
    /// The state before the first entry, for a replica that has no snapshot to go back to.
    fresh: Bytes,
    stopped: Cell<bool>,
    /// Held while the replica is opened again: who stops it waits until that is over.
    opening: Mutex<()>,
    /// This group's log is nobody else's while the replica lives.
    claim: RefCell<Option<Claim>>,
}

impl<S: StateMachine> Replica<S> {
    /// Opens the replica and watches it until its last handle is gone or it is [stopped](Replica::stop).
    pub(super) async fn start(parts: Parts<S>) -> io::Result<Rc<Replica<S>>> {
        let claim = RefCell::new(Some(parts.log.claim()?));
        let fresh = parts.state.borrow().snapshot().to_bytes();
        let raft = parts.open(false).await?;
        let (leadership, _) = watch::channel(Leadership::read(&raft.metrics().borrow_watched()));
        let replica = Rc::new(Replica {
            parts,
            raft: RefCell::new(raft),
            leadership,
            fresh,
            stopped: Cell::new(false),
            opening: Mutex::default(),
            claim,
        });
        tokio::task::spawn_local(supervise(Rc::downgrade(&replica)));
        Ok(replica)
    }

    /// What runs now. It may have stopped.
    pub(super) fn raft(&self) -> Running<S> {
        self.raft.borrow().clone()
    }

    pub(super) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// See [`Group::is_settled`](super::Group::is_settled).
    pub(super) fn is_settled(&self) -> bool {
        self.is_sole_voter() && self.applied_index() == self.parts.log.next_index().checked_sub(1)
    }

    /// Whether nobody else decides what is committed, and the log says what this one has.
    fn is_sole_voter(&self) -> bool {
        is_sole_voter(&self.raft().metrics().borrow_watched()) && self.parts.log.is_sound()
    }

    fn applied_index(&self) -> Option<u64> {
        self.parts.applied.borrow().last.map(|id| id.index())
    }

    pub(super) async fn stop(&self) {
        self.stopped.set(true);
        drop(self.opening.lock().await);
        // It may have stopped by itself.
        let _ = self.raft().shutdown().await;
        self.claim.borrow_mut().take();
        self.publish(Leadership { failed: Some("it was shut down".to_string()), ..Leadership::default() });
    }

    fn publish(&self, now: Leadership) {
        self.leadership.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// One attempt to go on after a failure.
    async fn reopen(&self) -> io::Result<()> {
        let _opening = self.opening.lock().await;
        if self.stopped.get() {
            return Ok(());
        }
        // The one that has stopped may still be at what was committed before.
        if Rc::strong_count(&self.parts.applied) > 1 {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the state machine has not stopped yet"));
        }
        // A write that fails now would only stop the replica again.
        self.parts.log.save(PROBE, Bytes::new()).await?;
        // Of a sole voter only what was durable here is in the state; others may have had an entry before this one.
        let keeps_state = self.is_sole_voter() && self.applied_index() < Some(self.parts.log.next_index());
        if !keeps_state {
            self.parts.state.borrow_mut().restore(&self.fresh)?;
            (self.parts.sink)(Default::default(), None);
        }
        let raft = self.parts.open(keeps_state).await?;
        *self.raft.borrow_mut() = raft;
        Ok(())
    }
}

/// Where a replica tries whether its log takes writes.
const PROBE: u8 = 3;

async fn supervise<S: StateMachine>(replica: Weak<Replica<S>>) {
    let mut pause = PAUSE_MIN;
    loop {
        let Some(raft) = replica.upgrade().map(|replica| replica.raft()) else { return };
        let Some(reason) = watch_until_stopped(&raft, &replica, &mut pause).await else { return };
        drop(raft);
        loop {
            let Some(replica) = replica.upgrade().filter(|replica| !replica.stopped.get()) else { return };
            tracing::warn!(group = %replica.parts.id, %reason, "replica stopped");
            // Nothing of it may touch the log any more when it is opened again.
            let _ = replica.raft().shutdown().await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            match replica.reopen().await {
                Ok(()) => break,
                Err(error) => replica.publish(Leadership { failed: Some(error.to_string()), ..Leadership::default() }),
            }
        }
    }
}

/// Follows what the replica knows, and gives the reason when it has stopped; `None` when nobody holds it any more.
async fn watch_until_stopped<S: StateMachine>(
    raft: &Running<S>,
    replica: &Weak<Replica<S>>,
    pause: &mut Duration,
) -> Option<String> {
    let mut metrics = raft.metrics();
    loop {
        let (now, alone, failed) = {
            let metrics = metrics.borrow_watched();
            let failed = metrics.running_state.as_ref().err().map(ToString::to_string);
            (Leadership::read(&metrics), leads_alone(&metrics), failed)
        };
        // Nobody waits for its heartbeats, and it needs no vote but its own: an idle node sleeps.
        raft.runtime_config().tick(!alone);
        let replica = replica.upgrade()?;
        if let Some(reason) = failed {
            replica.publish(Leadership { failed: Some(reason.clone()), ..Leadership::default() });
            return Some(reason);
        }
        if now.leader.is_some() {
            *pause = PAUSE_MIN;
        }
        replica.publish(now);
        drop(replica);
        if metrics.changed().await.is_err() {
            return Some("it ended by itself".to_string());
        }
    }
}
