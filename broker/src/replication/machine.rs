//! The state machine of a group, and how `openraft` drives it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

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
/// very term carries them out. Called with `None` after a snapshot has replaced the state.
pub type EffectSink<E> = Rc<dyn Fn(Position, Option<Vec<E>>)>;

fn position(id: &LogId) -> Position {
    Position { term: id.leader_id.term, index: id.index() }
}

/// What else stands in a snapshot.
type Meta = SnapshotMeta;

pub(super) struct Machine<S: StateMachine> {
    state: Rc<RefCell<S>>,
    log: GroupLog,
    sink: EffectSink<S::Effect>,
    last_applied: Option<LogId>,
    membership: Membership,
}

impl<S: StateMachine> Machine<S> {
    /// Goes on from the group's snapshot on disk, if there is one.
    pub(super) async fn recover(
        state: Rc<RefCell<S>>,
        log: GroupLog,
        sink: EffectSink<S::Effect>,
    ) -> io::Result<Machine<S>> {
        let mut machine = Machine { state, log, sink, last_applied: None, membership: Membership::default() };
        if let Some((meta, bytes)) = machine.read_snapshot().await? {
            machine.replace(&meta, &bytes)?;
        }
        Ok(machine)
    }

    fn replace(&mut self, meta: &Meta, bytes: &[u8]) -> io::Result<()> {
        self.state.borrow_mut().restore(bytes)?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        (self.sink)(meta.last_log_id.as_ref().map(position).unwrap_or_default(), None);
        Ok(())
    }

    async fn read_snapshot(&self) -> io::Result<Option<(Meta, Bytes)>> {
        let Some(mut reader) = self.log.read_snapshot().await? else { return Ok(None) };
        let meta: Meta = decode("snapshot meta", reader.meta())?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some((meta, bytes.freeze())))
    }
}

async fn write_snapshot(log: &GroupLog, meta: &Meta, bytes: &Bytes) -> io::Result<()> {
    let chunks: Vec<Bytes> = (0..bytes.len())
        .step_by(SNAPSHOT_CHUNK_BYTES)
        .map(|at| bytes.slice(at..bytes.len().min(at + SNAPSHOT_CHUNK_BYTES)))
        .collect();
    log.write_snapshot(encode(meta)?, chunks).await
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

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            log: self.log.clone(),
            meta: Meta { last_log_id: self.last_applied, last_membership: self.membership.clone() },
            bytes: Bytes::from(self.state.borrow().snapshot()),
        }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Bytes) -> io::Result<()> {
        // On disk first: what was installed must not be forgotten when the log before it is purged.
        write_snapshot(&self.log, meta, &snapshot).await?;
        self.replace(meta, &snapshot)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.read_snapshot().await?.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// The state as it was when the snapshot began, on its way to disk while the state goes on.
pub(super) struct SnapshotBuilder {
    log: GroupLog,
    meta: Meta,
    bytes: Bytes,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        write_snapshot(&self.log, &self.meta, &self.bytes).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: self.bytes.clone() })
    }
}
