//! The state machine of a group, and how `openraft` drives it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::Mutex;

use super::raft::{LogId, Membership, Snapshot, SnapshotMeta, Types, decode, encode};
use crate::storage::GroupLog;

/// Pieces in which a snapshot is written to disk.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// What a group replicates. Implementors are pure: the same entries in the same order give the same state and the
/// same effects on every replica. They must never read a clock, draw a random number or fail.
pub trait StateMachine: 'static {
    /// What applying an entry asks for.
    type Effect: 'static;

    /// Applies one entry. `index` grows, not always by one.
    fn apply(&mut self, index: u64, entry: &[u8], effects: &mut Vec<Self::Effect>);

    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by one that [`StateMachine::snapshot`] gave, here or on another node.
    ///
    /// # Errors
    /// When the bytes are not a state of this version; the replica stops and says so.
    fn restore(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Where an entry stands in a group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// Called on every replica after each entry, in log order: where it stands, then the effects. Only the leader of that
/// very term carries them out. Called with `None` after a snapshot has replaced the state; a replica that its disk has
/// stopped goes back to its snapshot (`None`) and applies what follows anew.
pub type EffectSink<E> = Rc<dyn Fn(Position, Option<Vec<E>>)>;

fn position(id: &LogId) -> Position {
    Position { term: id.leader_id.term, index: id.index() }
}

/// What else is written with a snapshot.
type Meta = SnapshotMeta;

/// When a snapshot is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct SnapshotRule {
    pub entries: u64,
    pub log_bytes: u64,
}

pub(super) struct Machine<S: StateMachine> {
    state: Rc<RefCell<S>>,
    snapshots: Snapshots,
    sink: EffectSink<S::Effect>,
    rule: SnapshotRule,
    last_applied: Option<LogId>,
    membership: Membership,
    /// What was applied since the last snapshot.
    entries: u64,
    log_bytes: u64,
}

impl<S: StateMachine> Machine<S> {
    /// Goes on from the group's snapshot on disk, if there is one.
    pub(super) async fn recover(
        state: Rc<RefCell<S>>,
        snapshots: Snapshots,
        sink: EffectSink<S::Effect>,
        rule: SnapshotRule,
    ) -> io::Result<Machine<S>> {
        let mut machine = Machine {
            state,
            snapshots,
            sink,
            rule,
            last_applied: None,
            membership: Membership::default(),
            entries: 0,
            log_bytes: 0,
        };
        if let Some((meta, bytes)) = machine.snapshots.read().await? {
            machine.replace(&meta, &bytes)?;
        }
        Ok(machine)
    }

    /// The last entry that is in the state.
    pub(super) fn last_applied(&self) -> Option<LogId> {
        self.last_applied
    }

    fn replace(&mut self, meta: &Meta, bytes: &[u8]) -> io::Result<()> {
        self.state.borrow_mut().restore(bytes)?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        (self.sink)(meta.last_log_id.as_ref().map(position).unwrap_or_default(), None);
        Ok(())
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Machine<S> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.last_applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    self.entries += 1;
                    self.log_bytes += command.0.len() as u64;
                    let mut effects = Vec::new();
                    self.state.borrow_mut().apply(entry.log_id.index(), &command.0, &mut effects);
                    (self.sink)(position(&entry.log_id), Some(effects));
                }
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        let due = self.entries >= self.rule.entries || self.log_bytes >= self.rule.log_bytes;
        if !force && !due {
            return None;
        }
        (self.entries, self.log_bytes) = (0, 0);
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            snapshots: self.snapshots.clone(),
            meta: Meta { last_log_id: self.last_applied, last_membership: self.membership.clone() },
            bytes: Bytes::from(self.state.borrow().snapshot()),
        }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Bytes) -> io::Result<()> {
        // On disk first: what was installed must not be forgotten when the log before it is purged.
        self.snapshots.write(meta, &snapshot).await?;
        self.replace(meta, &snapshot)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.read().await?.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// The state as it was when the snapshot began, on its way to disk while the state goes on.
pub(super) struct SnapshotBuilder {
    snapshots: Snapshots,
    meta: Meta,
    bytes: Bytes,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.snapshots.write(&self.meta, &self.bytes).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: self.bytes.clone() })
    }
}

/// The group's snapshot on disk.
///
/// One may be built while another arrives from the leader, and one begun before a [restart](super::replica) may end
/// after it. The log is purged up to the newest, so an older one must never take its place: writers take turns, and a
/// late one leaves things as they are.
#[derive(Clone)]
pub(super) struct Snapshots {
    log: GroupLog,
    newest: Rc<Mutex<Option<LogId>>>,
}

impl Snapshots {
    pub(super) fn new(log: GroupLog) -> Snapshots {
        Snapshots { log, newest: Rc::default() }
    }

    async fn read(&self) -> io::Result<Option<(Meta, Bytes)>> {
        let mut newest = self.newest.lock().await;
        let Some(mut reader) = self.log.read_snapshot().await? else { return Ok(None) };
        let meta: Meta = decode("snapshot meta", reader.meta())?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        *newest = meta.last_log_id;
        Ok(Some((meta, bytes.freeze())))
    }

    async fn write(&self, meta: &Meta, bytes: &Bytes) -> io::Result<()> {
        let mut newest = self.newest.lock().await;
        if meta.last_log_id < *newest {
            return Ok(());
        }
        let chunks = (0..bytes.len())
            .step_by(SNAPSHOT_CHUNK_BYTES)
            .map(|at| bytes.slice(at..bytes.len().min(at + SNAPSHOT_CHUNK_BYTES)));
        self.log.write_snapshot(encode(meta)?, chunks).await?;
        *newest = meta.last_log_id;
        Ok(())
    }
}
