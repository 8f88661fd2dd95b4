//! The write-ahead log as its users hold it.
//!
//! How the bytes look is in `record`, what is in memory in `state`, who writes in `writer`, how it comes back in `recovery`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::disk::{Disk, Durability, FileName};
use super::record::Seal;
use super::recovery::{Foreign, Replay};
use super::snapshot::{SnapshotReader, SnapshotWriter, Snapshots, StoredSnapshot};
use super::spill;
use super::state::{Piece, State, damaged};
use super::writer::{self, Shared};
use crate::identity::GroupId;
use crate::kept::Shelf;

/// The bounds of a log.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment is closed before it would grow beyond this (a single larger entry gets a segment of its own).
    pub segment_bytes_max: u64,
    /// Most bytes of one write before a sync.
    pub batch_bytes_max: usize,
    /// [`GroupLog::ready`] waits while more than this is queued for writing.
    pub queue_bytes_max: usize,
    /// Recent entries kept in memory, all groups together. Entries that are not durable yet are kept beyond it, and on a
    /// disk that does not [keep segments](Disk::keeps_segments) all are.
    pub cache_bytes_max: usize,
    /// The largest entry.
    pub entry_bytes_max: usize,
    /// The largest value of [`GroupLog::save`].
    pub value_bytes_max: usize,
    /// Bytes on the [shelf](Log::shelf) that stay in memory; more is moved into files, where the disk is one that can.
    pub kept_bytes_max: usize,
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
            kept_bytes_max: crate::limits::QUEUE_MEMORY_BYTES_MAX,
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
    /// Damage that may have swallowed a group whole: a group that is not in `groups` is damaged too until it is erased.
    pub stray: Option<String>,
    /// Places that could not be read, whether or not a group lost something there.
    pub unreadable: u64,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It does.
    #[default]
    Healthy,
    /// The last write failed, the disk being full; what was queued was refused. Appends are tried again.
    Full,
    /// A sync failed, or the end could not be repaired after a failed write. Only a restart helps.
    Failed(String),
}

/// What a log takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Waiting to be written.
    pub queued_bytes: usize,
    /// Entries kept in memory.
    pub cached_bytes: usize,
    /// Files.
    pub segments: usize,
    /// Bytes of these files.
    pub log_bytes: u64,
    /// How many of them are entries that are neither purged nor truncated.
    pub live_bytes: u64,
}

/// The node's write-ahead log. Cloning gives another handle; the writer ends when the last one is gone.
#[derive(Clone)]
pub struct Log {
    hold: Rc<Hold>,
}

/// Keeps the writer at work.
pub(super) struct Hold {
    pub shared: Rc<Shared>,
    claims: RefCell<BTreeSet<GroupId>>,
    shelf: Shelf,
    spilling: AbortHandle,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.spilling.abort();
        self.shared.abandon();
    }
}

impl Log {
    /// Recovers the log on `disk`, or begins one, and starts its writer on the current `LocalSet`. A full disk is no error: what is
    /// there can be read, and the log's health tells.
    pub async fn open(disk: Rc<dyn Disk>, options: Options) -> io::Result<(Log, Recovered)> {
        let mut limits = options.limits;
        if !disk.keeps_segments() {
            limits.cache_bytes_max = usize::MAX;
        }
        if limits.segment_bytes_max.saturating_add(limits.entry_bytes_max as u64) > 1 << 31 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "segment_bytes_max and entry_bytes_max must be below 2 GiB together",
            ));
        }
        let seal = Seal::new(options.identity);
        let files = disk.list().await?;
        let snapshots = Snapshots::recover(&disk, &files).await?;
        let (replay, recovered) = replay(&disk, seal, &files).await?;
        let shared = Shared::new(disk, State::new(replay, seal, limits), snapshots);
        if let Err(error) = writer::write_next(&shared).await
            && shared.state.borrow().health != Health::Full
        {
            return Err(error);
        }
        tokio::task::spawn_local(writer::run(shared.clone()));
        let shelf = Shelf::bounded(limits.kept_bytes_max);
        let spilling = tokio::task::spawn_local(spill::run(shared.disk.clone(), shelf.clone())).abort_handle();
        let hold = Rc::new(Hold { shared, claims: RefCell::default(), shelf, spilling });
        Ok((Log { hold }, recovered))
    }

    /// The part of the log that belongs to `group`.
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog { id: group, hold: self.hold.clone() }
    }

    /// Where to keep what must be found again without reading the log, and need not be in memory.
    pub fn shelf(&self) -> Shelf {
        self.hold.shelf.clone()
    }

    /// Has what the [shelf](Log::shelf) keeps in files read in, by a thread of the disk: it is looked at soon. Does not wait.
    pub fn read_ahead(&self, pieces: Vec<Bytes>) {
        drop(self.hold.shared.disk.touch(pieces));
    }

    /// Whether appends are accepted.
    pub fn health(&self) -> Health {
        self.hold.shared.state.borrow().health.clone()
    }

    /// How many writes have failed since the log was opened because the disk was full. Where a small write fits and a large
    /// one does not, [`Log::health`] says now the one and now the other; this only grows.
    pub fn writes_without_space(&self) -> u64 {
        self.hold.shared.state.borrow().writes_without_space
    }

    /// The groups that are known and [damaged](GroupLog::damage).
    pub fn damaged(&self) -> BTreeSet<GroupId> {
        let state = self.hold.shared.state.borrow();
        let damaged = state.groups.iter().filter(|(_, group)| group.damage.is_some()).map(|(id, _)| *id);
        damaged.chain(self.hold.shared.snapshots.damaged()).collect()
    }

    /// What it takes up now.
    pub fn usage(&self) -> Usage {
        self.hold.shared.state.borrow().usage()
    }

    /// Writes what is queued. Later changes fail.
    pub async fn close(&self) -> io::Result<()> {
        let shared = &self.hold.shared;
        let closed = shared.change(|state| {
            if !state.closed && !matches!(state.health, Health::Failed(_)) {
                state.mark();
            }
            state.closed = true;
            Ok(())
        });
        closed.await
    }
}

/// Reads all segments and cuts a torn end.
async fn replay(disk: &Rc<dyn Disk>, seal: Seal, files: &[(FileName, u64)]) -> io::Result<(Replay, Recovered)> {
    let segments = files.iter().filter_map(|(file, length)| match file {
        FileName::Segment(number) => Some((*number, *length)),
        _ => None,
    });
    let segments: Vec<(u64, u64)> = segments.collect();
    let mut replay = Replay::new(seal);
    let mut recovered = Recovered::default();
    for (position, (number, length)) in segments.iter().enumerate() {
        let file = FileName::Segment(*number);
        let bytes = super::disk::read_file(disk, file, *length).await?;
        let last = position + 1 == segments.len();
        replay.segment(*number, &bytes, last).map_err(|Foreign| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} belongs to another node", file.to_file_name()))
        })?;
        recovered.segments += 1;
        recovered.bytes += length;
    }
    replay.finish();
    // What a killed process has written was read, but may never have been synced: a power cut must not take it now that
    // it counts as durable.
    if let Some((number, length)) = segments.last() {
        let sync = disk.write(FileName::Segment(*number), *length, Vec::new(), Durability::DataAndName);
        sync.await.map_err(io::Error::other)?;
    }
    if let Some(torn) = replay.torn {
        let file = FileName::Segment(torn.segment);
        match torn.offset {
            0 => disk.remove(file).await?,
            offset => disk.truncate(file, offset).await?,
        }
    }
    recovered.torn = replay.torn;
    recovered.stray = replay.stray.clone();
    recovered.unreadable = replay.unreadable;
    for (id, group) in &replay.groups {
        if let Some(reason) = &group.damage {
            recovered.damaged.push(Damage { group: *id, reason: reason.clone() });
        } else if !group.is_empty() {
            recovered.groups.push(*id);
        }
    }
    Ok((replay, recovered))
}

/// The right to use a group, see [`GroupLog::claim`].
pub struct Claim {
    group: GroupLog,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.group.hold.claims.borrow_mut().remove(&self.group.id);
    }
}

/// One group's entries, values and snapshot.
///
/// Entries are numbered without gaps; `first_index()..next_index()` is what is there, and it starts as `0..0`.
/// Callbacks are called by a task of the log, in the order of the calls, never from inside the call. Where one is told that a
/// write failed, it and everything queued behind it, of any group, is taken back: memory is what the disk is.
/// Handles of one group are the same thing.
#[derive(Clone)]
pub struct GroupLog {
    id: GroupId,
    hold: Rc<Hold>,
}

impl GroupLog {
    /// Which group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Takes the group for one user, until the claim is dropped: two that append to one group would each forget what the
    /// other has promised.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] while somebody else has it.
    pub fn claim(&self) -> io::Result<Claim> {
        if !self.hold.claims.borrow_mut().insert(self.id) {
            let reason = format!("group {} is in use", self.id);
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
        }
        Ok(Claim { group: self.clone() })
    }

    /// Appends entries, the first at [`GroupLog::next_index`]; a group that never had one may begin anywhere. They are readable at once; `done` is called when they are
    /// durable. Never blocks: await [`GroupLog::ready`] before.
    ///
    /// The bytes stay in memory while they are cached: don't pass a small slice of a large buffer.
    pub fn append(&self, entries: impl IntoIterator<Item = (u64, Bytes)>, done: impl FnOnce(io::Result<()>) + 'static) {
        let entries = entries.into_iter().collect();
        self.shared().accept(|state| state.append(self.id, entries), done);
    }

    /// Waits while too much is queued for writing ([`Limits::queue_bytes_max`]).
    pub fn ready(&self) -> impl Future<Output = ()> + 'static {
        let shared = self.hold.shared.clone();
        async move { shared.ready().await }
    }

    /// The entries of `range` in order: at least one if there is any, more while they stay within `bytes_max`. What was purged,
    /// or is not there yet, is left out at the ends.
    pub async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let shared = self.shared();
        loop {
            let pieces = {
                let mut state = shared.state.borrow_mut();
                if let Some(damage) = state.damage(self.id) {
                    return Err(damaged(self.id, damage));
                }
                state.pieces(self.id, range.clone(), bytes_max)
            };
            match self.fetch(&pieces).await {
                Ok(entries) => return Ok(entries),
                Err(error) => {
                    // An entry that moved or went while it was read is no damage: look again.
                    let mut state = shared.state.borrow_mut();
                    let moved = pieces.iter().any(|piece| match piece {
                        Piece::Cached(..) => false,
                        Piece::Stored(index, place) => !state.is_at(self.id, *index, *place),
                    });
                    if !moved {
                        let gone = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof, io::ErrorKind::NotFound];
                        if gone.contains(&error.kind()) {
                            let damage = &mut state.group(self.id).damage;
                            damage.get_or_insert_with(|| error.to_string());
                        }
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn fetch(&self, pieces: &[Piece]) -> io::Result<Vec<(u64, Bytes)>> {
        let stored = pieces.iter().filter_map(|piece| match piece {
            Piece::Cached(..) => None,
            Piece::Stored(index, place) => Some((self.id, *index, *place)),
        });
        let stored: Vec<_> = stored.collect();
        let mut stored = self.shared().read_entries(&stored).await?.into_iter();
        let mut entries = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Cached(index, bytes) => entries.push((*index, bytes.clone())),
                Piece::Stored(index, _) => entries.extend(stored.next().map(|bytes| (*index, bytes))),
            }
        }
        Ok(entries)
    }

    /// Removes the entries from `index` on.
    pub fn truncate_from(&self, index: u64, done: impl FnOnce(io::Result<()>) + 'static) {
        self.shared().accept(|state| state.truncate_from(self.id, index), done);
    }

    /// Forgets the entries up to and including `index`, which may lie beyond the end: the next one appended is then
    /// `index + 1`. A power cut may bring them back.
    pub fn purge_to(&self, index: u64) {
        self.shared().accept(|state| state.purge_below(self.id, index + 1), |_| {});
    }

    /// Forgets all entries, values and snapshots, and any damage: the group starts again at index 0. What is in `keep`, a
    /// value under its key, is there when the rest is gone, whenever a crash may come. An empty value is not kept.
    ///
    /// # Errors
    /// When the disk does not take it; then the group is as damaged as before, or without its snapshot.
    pub async fn erase(&self, keep: Option<(u8, Bytes)>) -> io::Result<()> {
        let keep = keep.filter(|(_, value)| !value.is_empty());
        let snapshots = &self.shared().snapshots;
        // In this order: a crash in between leaves a damaged group damaged.
        snapshots.remove_all(self.id).await?;
        self.shared().change(|state| state.erase(self.id, keep)).await?;
        snapshots.forget_damage(self.id);
        Ok(())
    }

    /// The first entry that is there, or [`GroupLog::next_index`] if none is.
    pub fn first_index(&self) -> u64 {
        self.shared().state.borrow_mut().group(self.id).first
    }

    /// One past the last entry.
    pub fn next_index(&self) -> u64 {
        self.shared().state.borrow_mut().group(self.id).next()
    }

    /// What this group lost of its log, so that it refuses everything but [`GroupLog::erase`], or of its snapshot, as far as it
    /// was read: then the group must not be used any more either.
    pub fn damage(&self) -> Option<Damage> {
        let damage = self.shared().state.borrow().damage(self.id).cloned();
        let reason = damage.or_else(|| self.shared().snapshots.damage(self.id))?;
        Some(Damage { group: self.id, reason })
    }

    /// Whether what can be read here is what is on the disk: nothing is damaged, and no write failed so that nobody knows what
    /// came of it.
    pub fn is_sound(&self) -> bool {
        self.damage().is_none() && !matches!(self.shared().state.borrow().health, Health::Failed(_))
    }

    /// Whoever knows what the bytes mean has found, in words, that some of them are missing.
    pub fn condemn(&self, reason: String) {
        self.shared().state.borrow_mut().group(self.id).damage.get_or_insert(reason);
    }

    /// Stores a small value under `key`; durable when this returns. Takes its place among the appends when it is called.
    pub fn save(&self, key: u8, value: Bytes) -> impl Future<Output = io::Result<()>> + 'static {
        self.shared().change(|state| state.save(self.id, key, value))
    }

    /// The value last given to [`GroupLog::save`].
    pub fn load(&self, key: u8) -> Option<Bytes> {
        self.shared().state.borrow_mut().group(self.id).values.get(&key).cloned()
    }

    /// Begins a snapshot that replaces the group's present one when it is finished. `meta` is any small description.
    pub fn begin_snapshot(&self, meta: Bytes) -> io::Result<SnapshotWriter> {
        SnapshotWriter::begin(self.shared().snapshots.clone(), self.id, meta)
    }

    /// Writes a whole snapshot, pulling one piece at a time, and gives it back as [`SnapshotWriter::finish`] does.
    pub async fn write_snapshot(
        &self,
        meta: Bytes,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> io::Result<StoredSnapshot> {
        let mut snapshot = self.begin_snapshot(meta)?;
        for piece in pieces {
            snapshot.write(vec![piece]).await?;
        }
        snapshot.finish().await
    }

    /// The group's finished snapshot, if there is one. It stays readable when a newer one replaces it.
    pub async fn read_snapshot(&self) -> io::Result<Option<SnapshotReader>> {
        SnapshotReader::open(self.shared().snapshots.clone(), self.id).await
    }

    fn shared(&self) -> &Shared {
        &self.hold.shared
    }
}
