//! The state machine of a group, and how `openraft` drives it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::raft::{LogId, Membership, Snapshot, SnapshotMeta, Types};
use super::snapshot::{Data, Image, Snapshots};

/// What a group replicates. Implementors are pure: the same entries in the same order give the same state and the
/// same effects on every replica. They must never read a clock, draw a random number or fail.
pub trait StateMachine: 'static {
    /// What applying an entry asks for.
    type Effect: 'static;

    /// Applies one entry. `index` grows, not always by one.
    fn apply(&mut self, index: u64, entry: &[u8], effects: &mut Vec<Self::Effect>);

    /// The whole state. What it keeps on its shelf is not copied, and must be the same on every replica, as the rest.
    fn snapshot(&self) -> Image;

    /// Replaces the state by one that [`StateMachine::snapshot`] gave, here or on another node. The bytes are on disk and
    /// take no memory: slices of them may be kept for long.
    ///
    /// # Errors
    /// When the bytes are not a state of this version; the replica stops and says so.
    fn restore(&mut self, bytes: &Bytes) -> io::Result<()>;
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
/// stopped goes back to its snapshot (`None`) and applies what follows anew, unless it is the only voter.
pub type EffectSink<E> = Rc<dyn Fn(Position, Option<Vec<E>>)>;

fn position(id: &LogId) -> Position {
    Position { term: id.leader_id.term, index: id.index() }
}

/// What else is written with a snapshot.
type Meta = SnapshotMeta;

/// When a snapshot is due: what is written for it must be worth it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SnapshotRule {
    pub entries: u64,
    pub log_bytes: u64,
    /// So many entries are kept at most, for the sake of a large state.
    pub entries_max: u64,
}

impl SnapshotRule {
    /// Whether one is due after so many entries, of so many bytes, since the last one, which had `snapshot_bytes`.
    fn is_due(self, entries: u64, log_bytes: u64, snapshot_bytes: u64) -> bool {
        let enough = entries >= self.entries || log_bytes >= self.log_bytes;
        enough && (log_bytes >= snapshot_bytes || entries >= self.entries_max)
    }
}

pub(super) struct Machine<S: StateMachine> {
    state: Rc<RefCell<S>>,
    applied: Rc<RefCell<Applied>>,
    snapshots: Snapshots,
    sink: EffectSink<S::Effect>,
    rule: SnapshotRule,
}

/// How far the state is.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub last: Option<LogId>,
    membership: Membership,
    /// What was applied since the last snapshot.
    entries: u64,
    log_bytes: u64,
}

impl Applied {
    fn count(&mut self, entry: &[u8]) {
        self.entries += 1;
        self.log_bytes += entry.len() as u64;
    }
}

impl<S: StateMachine> Machine<S> {
    /// Goes on from the state, which is that after the entries `applied`.
    pub(super) fn new(
        state: Rc<RefCell<S>>,
        applied: Rc<RefCell<Applied>>,
        snapshots: Snapshots,
        sink: EffectSink<S::Effect>,
        rule: SnapshotRule,
    ) -> Machine<S> {
        Machine { state, applied, snapshots, sink, rule }
    }

    /// Goes on from the group's snapshot on disk, if there is one; the state must be that before the first entry.
    pub(super) async fn recover(self) -> io::Result<Machine<S>> {
        *self.applied.borrow_mut() = Applied::default();
        if let Some((meta, stored)) = self.snapshots.recover().await? {
            self.replace(&meta, &stored.data)?;
        }
        Ok(self)
    }

    /// The last entry that is in the state.
    pub(super) fn last_applied(&self) -> Option<LogId> {
        self.applied.borrow().last
    }

    fn replace(&self, meta: &Meta, bytes: &Bytes) -> io::Result<()> {
        self.state.borrow_mut().restore(bytes)?;
        {
            let mut applied = self.applied.borrow_mut();
            applied.last = meta.last_log_id;
            applied.membership = meta.last_membership.clone();
        }
        (self.sink)(meta.last_log_id.as_ref().map(position).unwrap_or_default(), None);
        Ok(())
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Machine<S> {
    type SnapshotData = Data;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let applied = self.applied.borrow();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied.borrow_mut().last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    self.applied.borrow_mut().count(&command.0);
                    let mut effects = Vec::new();
                    self.state.borrow_mut().apply(entry.log_id.index(), &command.0, &mut effects);
                    (self.sink)(position(&entry.log_id), Some(effects));
                }
                EntryPayload::Membership(membership) => {
                    self.applied.borrow_mut().membership = Membership::new(Some(entry.log_id), membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        {
            let mut applied = self.applied.borrow_mut();
            if !force && !self.rule.is_due(applied.entries, applied.log_bytes, self.snapshots.bytes()) {
                return None;
            }
            (applied.entries, applied.log_bytes) = (0, 0);
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let applied = self.applied.borrow();
        SnapshotBuilder {
            snapshots: self.snapshots.clone(),
            meta: Meta { last_log_id: applied.last, last_membership: applied.membership.clone() },
            image: self.state.borrow().snapshot(),
        }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Data) -> io::Result<()> {
        // On disk first: what was installed must not be forgotten when the log before it is purged.
        let stored = self.snapshots.install(meta, snapshot).await?;
        self.replace(meta, &stored.data)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.newest().map(|(meta, stored)| Snapshot { meta, snapshot: Data::Stored(stored) }))
    }
}

/// The state as it was when the snapshot began, on its way to disk while the state goes on.
pub(super) struct SnapshotBuilder {
    snapshots: Snapshots,
    meta: Meta,
    image: Image,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = Data;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let stored = self.snapshots.write(&self.meta, std::mem::take(&mut self.image)).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Data::Stored(stored) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_is_written_again_when_the_log_has_as_much() {
        let rule = SnapshotRule { entries: 100, log_bytes: 1_000, entries_max: 1_600 };
        assert!(!rule.is_due(99, 999, 0));
        assert!(rule.is_due(100, 0, 0) && rule.is_due(1, 1_000, 0));
        assert!(!rule.is_due(100, 4_999, 5_000) && rule.is_due(100, 5_000, 5_000));
        assert!(!rule.is_due(1_599, 0, 5_000) && rule.is_due(1_600, 0, 5_000), "entries take places in memory");
    }
}
