//! Snapshots: one file each, complete or absent.
//!
//! A file is written under a name that means nothing, synced, and renamed. It is a series of frames, each a length, a
//! CRC-32C over the frame's number, that length and the bytes, and the bytes; the first is the description, a frame of
//! length `u32::MAX` that carries the number of frames ends it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::disk::{Disk, Durability, Extent, FileName, WriteError};
use crate::identity::GroupId;

/// The largest chunk of a snapshot, and the largest description.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

const FRAME_HEADER_BYTES: usize = 8;
const END: u32 = u32::MAX;

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

/// A snapshot being written. Dropped before [`SnapshotWriter::finish`], it never existed.
pub struct SnapshotWriter {
    snapshots: Rc<Snapshots>,
    group: GroupId,
    number: u64,
    offset: u64,
    frames: u32,
}

impl SnapshotWriter {
    pub(super) async fn begin(snapshots: Rc<Snapshots>, group: GroupId, meta: Bytes) -> io::Result<SnapshotWriter> {
        let number = {
            let mut known = snapshots.known.borrow_mut();
            known.last += 1;
            known.last
        };
        let mut writer = SnapshotWriter { snapshots, group, number, offset: 0, frames: 0 };
        writer.write(meta).await?;
        Ok(writer)
    }

    /// Adds a chunk, of at most [`CHUNK_BYTES_MAX`] bytes.
    pub async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        if chunk.len() > CHUNK_BYTES_MAX {
            let message = format!("a chunk of {} bytes, {CHUNK_BYTES_MAX} are allowed", chunk.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let header = frame_header(self.frames, chunk.len() as u32, &chunk);
        self.put(vec![header, chunk], Durability::None).await?;
        self.frames += 1;
        Ok(())
    }

    /// Makes it durable and the group's snapshot; the older one is removed. Where two are written at once, the one that was
    /// begun later stays.
    pub async fn finish(mut self) -> io::Result<()> {
        let frames = Bytes::copy_from_slice(&self.frames.to_le_bytes());
        let end = frame_header(self.frames, END, &frames);
        self.put(vec![end, frames], Durability::Data).await?;
        let (group, number) = (self.group, self.number);
        let snapshots = self.snapshots.clone();
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
        if let Some(number) = superseded {
            snapshots.retire(FileName::Snapshot(group, number)).await?;
        }
        Ok(())
    }

    async fn put(&mut self, buffers: Vec<Bytes>, durability: Durability) -> io::Result<()> {
        let bytes: usize = buffers.iter().map(Bytes::len).sum();
        let disk = &self.snapshots.disk;
        let written = disk.write(self.file(), self.offset, buffers, durability).await;
        written.map_err(|error| match error {
            WriteError::Write(error) | WriteError::Sync(error) => error,
        })?;
        self.offset += bytes as u64;
        Ok(())
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

/// A finished snapshot.
pub struct SnapshotReader {
    snapshots: Rc<Snapshots>,
    file: FileName,
    meta: Bytes,
    length: u64,
    offset: u64,
    /// Where the frame begins that is being read.
    frame: u64,
    frames: u32,
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
            SnapshotReader { snapshots, file, meta: Bytes::new(), length: 0, offset: 0, frame: 0, frames: 0 };
        let files = reader.snapshots.disk.list().await?;
        let found = files.iter().find(|(name, _)| *name == file);
        reader.length = found.ok_or_else(|| reader.damaged())?.1;
        reader.meta = reader.next().await?.ok_or_else(|| reader.damaged())?;
        Ok(Some(reader))
    }

    /// What was given when it was begun.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// The next chunk as it was written; `None` at the verified end. Damage is [`io::ErrorKind::InvalidData`], and
    /// then nothing that was read from it may be used.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.frame = self.offset;
        let mut header = self.take(FRAME_HEADER_BYTES).await?;
        let length = header.get_u32_le();
        let checksum = header.get_u32_le();
        if length == END {
            let frames = self.take(4).await?;
            let whole = frame_checksum(self.frames, END, &frames) == checksum
                && frames[..] == self.frames.to_le_bytes()
                && self.offset == self.length;
            return if whole { Ok(None) } else { Err(self.damaged()) };
        }
        if length as usize > CHUNK_BYTES_MAX {
            return Err(self.damaged());
        }
        let chunk = self.take(length as usize).await?;
        if frame_checksum(self.frames, length, &chunk) != checksum {
            return Err(self.damaged());
        }
        self.frames += 1;
        Ok(Some(chunk))
    }

    async fn take(&mut self, length: usize) -> io::Result<Bytes> {
        if self.offset + length as u64 > self.length {
            return Err(self.damaged());
        }
        let extent = Extent { file: self.file, offset: self.offset, length };
        let read = self.snapshots.disk.read(vec![extent]).await?;
        self.offset += length as u64;
        read.into_iter().next().ok_or_else(|| self.damaged())
    }

    /// The error that tells so; remembered, unless a newer snapshot has replaced this one.
    fn damaged(&self) -> io::Error {
        let message = format!("{} is damaged at byte {}", self.file.to_file_name(), self.frame);
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

fn frame_header(number: u32, length: u32, bytes: &[u8]) -> Bytes {
    let mut header = BytesMut::with_capacity(FRAME_HEADER_BYTES);
    header.put_u32_le(length);
    header.put_u32_le(frame_checksum(number, length, bytes));
    header.freeze()
}

fn frame_checksum(number: u32, length: u32, bytes: &[u8]) -> u32 {
    let checksum = crc32c::crc32c(&number.to_le_bytes());
    let checksum = crc32c::crc32c_append(checksum, &length.to_le_bytes());
    crc32c::crc32c_append(checksum, bytes)
}
