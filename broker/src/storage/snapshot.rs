//! Snapshots: one file each, complete or absent.
//!
//! A file is written under a name that means nothing, synced, and renamed. The data comes first and in one piece, so that it
//! can be [mapped](SnapshotReader::map); behind it the description, a CRC-32C of each [`BLOCK_BYTES`] of data, and a footer
//! of fixed length that says how long all of this is and has the checksum of everything behind the data.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::disk::{Disk, Durability, Extent, FileName, WriteError};
use crate::identity::GroupId;

/// The largest piece that a snapshot is written in, the largest description, and what is read and checked at once.
pub const BLOCK_BYTES: usize = 256 << 10;

/// What a footer begins with; another number is another format.
const MAGIC: u64 = 0x6d71_7474_736e_6132;
const FOOTER_BYTES: usize = 32;

/// Which snapshots there are.
pub(super) struct Snapshots {
    disk: Rc<dyn Disk>,
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    /// The one that counts, of each group.
    current: BTreeMap<GroupId, u64>,
    /// The highest number ever given.
    last: u64,
    /// How many readers hold each file.
    readers: BTreeMap<FileName, usize>,
    /// Groups whose snapshot was found damaged, with the place.
    damaged: BTreeMap<GroupId, String>,
}

impl Snapshots {
    /// Finds the finished snapshots and removes what a crash left behind.
    pub async fn recover(disk: &Rc<dyn Disk>, files: &[(FileName, u64)]) -> io::Result<Rc<Snapshots>> {
        let mut known = Known::default();
        let mut stale = Vec::new();
        for (file, _) in files {
            match file {
                FileName::Snapshot(group, number) => {
                    known.last = known.last.max(*number);
                    let older = known.current.insert(*group, *number);
                    stale.extend(older.map(|older| FileName::Snapshot(*group, older)));
                }
                FileName::Partial(_, number) => {
                    known.last = known.last.max(*number);
                    stale.push(*file);
                }
                FileName::Segment(_) => {}
            }
        }
        for file in stale {
            disk.remove(file).await?;
        }
        Ok(Rc::new(Snapshots { disk: disk.clone(), known: RefCell::new(known) }))
    }

    pub async fn remove_all(&self, group: GroupId) -> io::Result<()> {
        let current = self.known.borrow_mut().current.remove(&group);
        if let Some(number) = current {
            self.retire(FileName::Snapshot(group, number)).await?;
        }
        Ok(())
    }

    fn next_number(&self) -> u64 {
        let mut known = self.known.borrow_mut();
        known.last += 1;
        known.last
    }

    pub fn damage(&self, group: GroupId) -> Option<String> {
        self.known.borrow().damaged.get(&group).cloned()
    }

    pub fn damaged(&self) -> Vec<GroupId> {
        self.known.borrow().damaged.keys().copied().collect()
    }

    pub fn forget_damage(&self, group: GroupId) {
        self.known.borrow_mut().damaged.remove(&group);
    }

    /// Removes a file that no longer counts, now or when its last reader is gone.
    async fn retire(&self, file: FileName) -> io::Result<()> {
        if self.known.borrow().readers.contains_key(&file) {
            return Ok(());
        }
        self.disk.remove(file).await
    }

    fn is_current(&self, file: FileName) -> bool {
        let FileName::Snapshot(group, number) = file else {
            return false;
        };
        self.known.borrow().current.get(&group) == Some(&number)
    }
}

/// A finished snapshot, where it is.
#[derive(Clone)]
pub struct StoredSnapshot {
    /// Its data, in the file itself: it takes no memory, and looking at it may wait for the disk. It stays what it is when
    /// a newer snapshot has replaced this one.
    pub data: Bytes,
    pub(super) checksums: Rc<[u32]>,
}

impl StoredSnapshot {
    /// The data from `offset` to the end of its block of [`BLOCK_BYTES`], after that block was checked.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the disk no longer gives what was written.
    pub fn block_from(&self, offset: usize) -> io::Result<Bytes> {
        let number = offset / BLOCK_BYTES;
        let block = self.data.slice(number * BLOCK_BYTES..self.data.len().min((number + 1) * BLOCK_BYTES));
        let written = self.checksums.get(number).is_some_and(|checksum| crc32c::crc32c(&block) == *checksum);
        if written || block.is_empty() {
            return Ok(block.slice(offset - number * BLOCK_BYTES..));
        }
        let message = format!("a snapshot is damaged in its block at byte {}", number * BLOCK_BYTES);
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

/// A snapshot being written. Dropped before [`SnapshotWriter::finish`], it never existed.
pub struct SnapshotWriter {
    snapshots: Rc<Snapshots>,
    group: GroupId,
    number: u64,
    meta: Bytes,
    /// Bytes of data.
    length: u64,
    /// Of each whole block, then of what there is of the next.
    checksums: Vec<u32>,
}

impl SnapshotWriter {
    pub(super) fn begin(snapshots: Rc<Snapshots>, group: GroupId, meta: Bytes) -> io::Result<SnapshotWriter> {
        if meta.len() > BLOCK_BYTES {
            return Err(too_large("a description", meta.len()));
        }
        let number = snapshots.next_number();
        Ok(SnapshotWriter { snapshots, group, number, meta, length: 0, checksums: Vec::new() })
    }

    /// Bytes of data so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds data, at most [`BLOCK_BYTES`] at once. It may be in a file itself: it is read in before it is looked at here.
    pub async fn write(&mut self, pieces: Vec<Bytes>) -> io::Result<()> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        if bytes > BLOCK_BYTES {
            return Err(too_large("a piece", bytes));
        }
        self.snapshots.disk.touch(pieces.clone()).await?;
        let mut length = self.length;
        for piece in &pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let filled = length as usize % BLOCK_BYTES;
                let (part, more) = rest.split_at(rest.len().min(BLOCK_BYTES - filled));
                match self.checksums.last_mut().filter(|_| filled > 0) {
                    Some(checksum) => *checksum = crc32c::crc32c_append(*checksum, part),
                    None => self.checksums.push(crc32c::crc32c(part)),
                }
                length += part.len() as u64;
                rest = more;
            }
        }
        self.put(self.length, pieces, Durability::None).await?;
        self.length = length;
        Ok(())
    }

    /// Makes it durable and the group's snapshot, and gives it back from there; the older one is removed. Where two are
    /// written at once, the one that is finished later stays.
    pub async fn finish(self) -> io::Result<StoredSnapshot> {
        let mut tail = BytesMut::with_capacity(self.meta.len() + 4 * self.checksums.len() + FOOTER_BYTES);
        tail.put_slice(&self.meta);
        for checksum in &self.checksums {
            tail.put_u32_le(*checksum);
        }
        tail.put_u64_le(MAGIC);
        tail.put_u64_le(self.length);
        tail.put_u32_le(self.meta.len() as u32);
        tail.put_u32_le(self.checksums.len() as u32);
        tail.put_u32_le(0); // room
        let checksum = crc32c::crc32c(&tail);
        tail.put_u32_le(checksum);
        self.put(self.length, vec![tail.freeze()], Durability::Data).await?;
        let (snapshots, group) = (self.snapshots.clone(), self.group);
        let number = snapshots.next_number();
        let finished = FileName::Snapshot(group, number);
        snapshots.disk.rename(self.file(), finished).await?;
        let superseded = {
            let mut known = snapshots.known.borrow_mut();
            match known.current.get(&group).copied() {
                Some(newer) if newer > number => Some(number),
                _ => {
                    known.damaged.remove(&group);
                    known.current.insert(group, number)
                }
            }
        };
        let data = snapshots.disk.map(finished, self.length).await;
        if let Some(number) = superseded {
            snapshots.retire(FileName::Snapshot(group, number)).await?;
        }
        Ok(StoredSnapshot { data: data?, checksums: self.checksums.as_slice().into() })
    }

    async fn put(&self, offset: u64, buffers: Vec<Bytes>, durability: Durability) -> io::Result<()> {
        let written = self.snapshots.disk.write(self.file(), offset, buffers, durability).await;
        written.map_err(|error| match error {
            WriteError::Write(error) | WriteError::Sync(error) => error,
        })
    }

    fn file(&self) -> FileName {
        FileName::Partial(self.group, self.number)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        // Finished, it has another name and this removes nothing.
        drop(self.snapshots.disk.remove(self.file()));
    }
}

fn too_large(what: &str, bytes: usize) -> io::Error {
    let message = format!("{what} of {bytes} bytes, {BLOCK_BYTES} are allowed");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// A finished snapshot.
pub struct SnapshotReader {
    snapshots: Rc<Snapshots>,
    file: FileName,
    meta: Bytes,
    /// Bytes of data.
    length: u64,
    /// Of its blocks.
    checksums: Vec<u32>,
    /// The block that is read next.
    next: usize,
}

impl SnapshotReader {
    pub(super) async fn open(snapshots: Rc<Snapshots>, group: GroupId) -> io::Result<Option<SnapshotReader>> {
        let file = {
            let mut known = snapshots.known.borrow_mut();
            let Some(number) = known.current.get(&group).copied() else {
                return Ok(None);
            };
            let file = FileName::Snapshot(group, number);
            *known.readers.entry(file).or_insert(0) += 1;
            file
        };
        let mut reader =
            SnapshotReader { snapshots, file, meta: Bytes::new(), length: 0, checksums: Vec::new(), next: 0 };
        let files = reader.snapshots.disk.list().await?;
        let found = files.iter().find(|(name, _)| *name == file);
        let file_bytes = found.ok_or_else(|| reader.damaged(0))?.1;
        reader.read_tail(file_bytes).await?;
        Ok(Some(reader))
    }

    /// Reads what is behind the data.
    async fn read_tail(&mut self, file_bytes: u64) -> io::Result<()> {
        let before_footer = file_bytes.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| self.damaged(file_bytes))?;
        let mut footer = self.take(before_footer, FOOTER_BYTES).await?;
        if footer.get_u64_le() != MAGIC {
            return Err(self.damaged(before_footer));
        }
        let length = footer.get_u64_le();
        let (meta_bytes, blocks) = (footer.get_u32_le() as usize, footer.get_u32_le() as usize);
        let tail_bytes = meta_bytes + 4 * blocks + FOOTER_BYTES;
        let fits = length.checked_add(tail_bytes as u64) == Some(file_bytes)
            && blocks as u64 == length.div_ceil(BLOCK_BYTES as u64);
        if !fits {
            return Err(self.damaged(before_footer));
        }
        let mut tail = self.take(length, tail_bytes).await?;
        let checked = tail.slice(..tail_bytes - 4);
        let checksum = tail.slice(tail_bytes - 4..).get_u32_le();
        if crc32c::crc32c(&checked) != checksum {
            return Err(self.damaged(before_footer));
        }
        self.meta = tail.split_to(meta_bytes);
        self.checksums = (0..blocks).map(|_| tail.get_u32_le()).collect();
        self.length = length;
        Ok(())
    }

    /// What was given when it was begun.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// The next block of data; `None` at the verified end. Damage is [`io::ErrorKind::InvalidData`], and then nothing that
    /// was read from it may be used.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(checksum) = self.checksums.get(self.next).copied() else { return Ok(None) };
        let offset = (self.next * BLOCK_BYTES) as u64;
        let length = (self.length - offset).min(BLOCK_BYTES as u64) as usize;
        let block = self.take(offset, length).await?;
        if crc32c::crc32c(&block) != checksum {
            return Err(self.damaged(offset));
        }
        self.next += 1;
        Ok(Some(block))
    }

    /// The whole of it, once it was verified to its end.
    ///
    /// # Errors
    /// Damage, as [`SnapshotReader::next`].
    pub async fn map(mut self) -> io::Result<StoredSnapshot> {
        while self.next().await?.is_some() {}
        let data = self.snapshots.disk.map(self.file, self.length).await?;
        Ok(StoredSnapshot { data, checksums: self.checksums.as_slice().into() })
    }

    async fn take(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let extent = Extent { file: self.file, offset, length };
        let read = self.snapshots.disk.read(vec![extent]).await;
        match read {
            Ok(read) => read.into_iter().next().ok_or_else(|| self.damaged(offset)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged(offset)),
            Err(error) => Err(error),
        }
    }

    /// The error that tells so; remembered, unless a newer snapshot has replaced this one.
    fn damaged(&self, offset: u64) -> io::Error {
        let message = format!("{} is damaged, or of another version, at byte {offset}", self.file.to_file_name());
        if let FileName::Snapshot(group, _) = self.file
            && self.snapshots.is_current(self.file)
        {
            self.snapshots.known.borrow_mut().damaged.entry(group).or_insert_with(|| message.clone());
        }
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        let last = {
            let mut known = self.snapshots.known.borrow_mut();
            match known.readers.get_mut(&self.file) {
                Some(readers) if *readers > 1 => {
                    *readers -= 1;
                    false
                }
                _ => known.readers.remove(&self.file).is_some(),
            }
        };
        if last && !self.snapshots.is_current(self.file) {
            drop(self.snapshots.disk.remove(self.file));
        }
    }
}
