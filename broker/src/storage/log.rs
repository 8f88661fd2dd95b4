//! The write-ahead log's handles.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::disk::Disk;
use super::snapshot::{SnapshotReader, SnapshotWriter};
use crate::identity::GroupId;

/// The bounds of a log.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment is closed before it would grow beyond this (a single larger entry gets a segment of its own).
    pub segment_bytes_max: u64,
    /// Most bytes of one write before a sync.
    pub batch_bytes_max: usize,
    /// [`GroupLog::ready`] waits while more than this is queued for writing.
    pub queue_bytes_max: usize,
    /// Recent entries kept in memory, all groups together. Entries that are not durable yet are kept beyond it.
    pub cache_bytes_max: usize,
    /// The largest entry.
    pub entry_bytes_max: usize,
    /// The largest value of [`GroupLog::save`].
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 << 20,
            batch_bytes_max: 4 << 20,
            queue_bytes_max: 32 << 20,
            cache_bytes_max: 64 << 20,
            entry_bytes_max: 64 << 20,
            value_bytes_max: 4 << 10,
        }
    }
}

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A number that nobody else has and no client knows (the node's id). It seeds every checksum: a record of another node,
    /// or one that a client spelled out in its payload, is never taken for one of this log.
    pub identity: u64,
    /// The bounds.
    pub limits: Limits,
}

/// What [`Log::open`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Groups that have entries or values.
    pub groups: Vec<GroupId>,
    /// The end of the log was torn, as by a power cut during a write, and was cut off. Nothing of it was ever reported durable.
    pub torn: Option<Torn>,
    /// Groups that lost something that was durable. Their [`GroupLog`]s refuse everything but
    /// [`GroupLog::erase`]: the replica must be stopped and rebuilt.
    pub damaged: Vec<Damage>,
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// A torn end that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub segment: u64,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes went.
    pub bytes: u64,
}

/// Damage to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The group.
    pub group: GroupId,
    /// In words: where, and what is missing.
    pub reason: String,
}

/// Whether the log accepts appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Healthy,
    /// The last write failed, the disk being full; what was queued was refused. Appends are tried again.
    Full,
    /// A sync failed, or the end could not be repaired after a failed write. Only a restart helps.
    Failed(String),
}

/// The node's write-ahead log. Cloning gives another handle.
#[derive(Clone)]
pub struct Log {
    _shared: Rc<()>,
}

impl Log {
    /// Recovers the log on `disk`, or begins one, and starts its writer on the current `LocalSet`.
    pub async fn open(_disk: Rc<dyn Disk>, _options: Options) -> io::Result<(Log, Recovered)> {
        unimplemented!()
    }

    /// The part of the log that belongs to `group`.
    pub fn group(&self, _group: GroupId) -> GroupLog {
        unimplemented!()
    }

    /// Whether appends are accepted.
    pub fn health(&self) -> Health {
        unimplemented!()
    }

    /// Writes what is queued, then stops the writer. Later appends fail.
    pub async fn close(&self) {
        unimplemented!()
    }
}

/// One group's entries, values and snapshot.
///
/// Entries are numbered without gaps; `first_index()..next_index()` is what is there, and it starts as `0..0`.
/// Callbacks are called by a task of the log, in the order of the calls, never from inside the call. An `Err` means that
/// this and everything queued behind it (any group) was *not* accepted, and memory is back at what is durable.
#[derive(Clone)]
pub struct GroupLog {
    _shared: Rc<()>,
}

impl GroupLog {
    /// Which group.
    pub fn id(&self) -> GroupId {
        unimplemented!()
    }

    /// Appends entries, the first at [`GroupLog::next_index`]. They are readable at once; `done` is called when they are
    /// durable. Never blocks: await [`GroupLog::ready`] before.
    pub fn append(
        &self,
        _entries: impl IntoIterator<Item = (u64, Bytes)>,
        _done: impl FnOnce(io::Result<()>) + 'static,
    ) {
        unimplemented!()
    }

    /// Waits while too much is queued for writing ([`Limits::queue_bytes_max`]).
    pub fn ready(&self) -> impl Future<Output = ()> + 'static {
        async {}
    }

    /// The entries of `range` in order: at least one if there is any, no more once `bytes_max` is reached. What was purged, or is
    /// not there yet, is left out at the ends.
    pub async fn read(
        &self,
        _range: Range<u64>,
        _bytes_max: usize,
    ) -> io::Result<Vec<(u64, Bytes)>> {
        unimplemented!()
    }

    /// Removes the entries from `index` on.
    pub fn truncate_from(&self, _index: u64, _done: impl FnOnce(io::Result<()>) + 'static) {
        unimplemented!()
    }

    /// Forgets the entries up to and including `index`, which may lie beyond the end: the next one appended is then
    /// `index + 1`. May be undone by a power cut.
    pub fn purge_to(&self, _index: u64) {
        unimplemented!()
    }

    /// Forgets all entries and values, and any damage: the group starts again at index 0. Snapshots go too.
    pub async fn erase(&self) -> io::Result<()> {
        unimplemented!()
    }

    /// The first entry that is there, or [`GroupLog::next_index`] if none is.
    pub fn first_index(&self) -> u64 {
        unimplemented!()
    }

    /// One past the last entry.
    pub fn next_index(&self) -> u64 {
        unimplemented!()
    }

    /// Why this group refuses everything but [`GroupLog::erase`].
    pub fn damage(&self) -> Option<Damage> {
        unimplemented!()
    }

    /// Stores a small value under `key`; durable when this returns. Ordered with appends.
    pub async fn save(&self, _key: u8, _value: Bytes) -> io::Result<()> {
        unimplemented!()
    }

    /// The value last given to [`GroupLog::save`].
    pub fn load(&self, _key: u8) -> Option<Bytes> {
        unimplemented!()
    }

    /// Begins a snapshot that replaces the group's present one when it is finished. `meta` is any small description.
    pub async fn begin_snapshot(&self, _meta: Bytes) -> io::Result<SnapshotWriter> {
        unimplemented!()
    }

    /// Writes a whole snapshot, pulling one chunk at a time.
    pub async fn write_snapshot(
        &self,
        _meta: Bytes,
        _chunks: impl IntoIterator<Item = Bytes>,
    ) -> io::Result<()> {
        unimplemented!()
    }

    /// The group's finished snapshot, if there is one.
    pub async fn read_snapshot(&self) -> io::Result<Option<SnapshotReader>> {
        unimplemented!()
    }
}
