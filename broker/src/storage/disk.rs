//! The door to the files: what the log needs of a disk, and nothing more.
//!
//! Three disks stand behind it: [`FileDisk`] (real files, blocking calls on threads of its own), [`MemoryDisk`] (nodes
//! without a data directory) and [`SimulatedDisk`] (seeded delays, power cuts, a full disk, flipped bits).

mod file;
mod memory;
mod simulated;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;

pub use file::FileDisk;
pub use memory::MemoryDisk;
pub use simulated::{Crash, Faults, SimulatedDisk};

use crate::identity::GroupId;

/// An operation that was given to the disk. It is carried out whether or not anybody waits for it.
pub type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// The name of a file in the data directory. Typed, so that nothing else can be written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A segment of the write-ahead log; segments are numbered from 1 without gaps.
    Segment(u64),
    /// A finished snapshot of a group. The highest number counts.
    Snapshot(GroupId, u64),
    /// A snapshot that is still being written. It means nothing after a restart.
    Partial(GroupId, u64),
}

/// What must have reached the disk when a write completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing yet.
    None,
    /// All bytes of the file.
    Data,
    /// All bytes of the file, and the file's name in its directory.
    DataAndName,
}

/// Where to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In which file.
    pub file: FileName,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes. A file that ends earlier is an [`io::ErrorKind::UnexpectedEof`].
    pub length: usize,
}

/// A directory of files that can be written, made durable and read back.
///
/// Changes of one file take effect in the order in which the methods were called; a read sees the changes that were complete
/// when it was called; nothing is promised between files. An implementor must never report success before what [`Durability`] asks for is true, and must never
/// block the calling thread.
pub trait Disk {
    /// Whether segments can be read back. If not, the log has in memory whatever entries it has.
    fn keeps_segments(&self) -> bool {
        true
    }

    /// All files and their lengths, in the order of their names. Files that have no [`FileName`] are left alone.
    fn list(&self) -> Pending<Vec<(FileName, u64)>>;

    /// Reads several extents.
    fn read(&self, extents: Vec<Extent>) -> Pending<Vec<Bytes>>;

    /// The first `length` bytes of a file that is changed no more, without a copy in memory where that can be: looking at
    /// them may wait for the disk. They stay what they are when the file is removed.
    fn map(&self, file: FileName, length: u64) -> Pending<Bytes>;

    /// Puts bytes where they take no memory, and gives them back from there in the same order. They are not durable and
    /// belong to no [`FileName`]; their room is free when the last that was put there with them is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] when there is no such place, and never will be; others when it cannot be written to now.
    fn spill(&self, pieces: Vec<Bytes>) -> Pending<Vec<Bytes>>;

    /// Reads in what [`Disk::map`] and [`Disk::spill`] gave, so that looking at it soon after does not wait.
    fn touch(&self, pieces: Vec<Bytes>) -> Pending<()>;

    /// Writes `buffers` one after the other at `offset`, making the file when it does not exist. A failed write may
    /// have changed any of the bytes from `offset` on, and the file's length; a failed sync leaves it unknown what of all
    /// earlier writes to this file is durable ([`WriteError`] tells them apart).
    fn write(
        &self,
        file: FileName,
        offset: u64,
        buffers: Vec<Bytes>,
        durability: Durability,
    ) -> Pin<Box<dyn Future<Output = Result<(), WriteError>>>>;

    /// Cuts a file and makes its new length durable.
    fn truncate(&self, file: FileName, length: u64) -> Pending<()>;

    /// Renames a file, replacing what had the new name, and makes that durable: after a power cut the directory has the
    /// one or the other.
    fn rename(&self, from: FileName, to: FileName) -> Pending<()>;

    /// Removes a file and makes that durable. A missing file is no error.
    fn remove(&self, file: FileName) -> Pending<()>;
}

/// Why a write failed: the difference decides whether the log may go on.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The bytes could not be written. What was durable before still is.
    #[error("write failed: {0}")]
    Write(#[source] io::Error),
    /// The bytes were written, but the sync failed: the kernel may have dropped them, and a second sync would lie.
    #[error("sync failed: {0}")]
    Sync(#[source] io::Error),
}

/// Reads a file as it stands.
pub(super) async fn read_file(disk: &Rc<dyn Disk>, file: FileName, length: u64) -> io::Result<Bytes> {
    let extent = Extent { file, offset: 0, length: length as usize };
    let read = disk.read(vec![extent]).await?;
    read.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl FileName {
    /// The name as it stands in the directory.
    pub fn to_file_name(self) -> String {
        match self {
            FileName::Segment(number) => format!("log-{number:016x}"),
            FileName::Snapshot(group, number) => format!("snapshot-{:04x}-{number:016x}", group.0),
            FileName::Partial(group, number) => format!("partial-{:04x}-{number:016x}", group.0),
        }
    }

    /// The opposite of [`FileName::to_file_name`]; `None` for a name that is not the log's.
    pub fn parse(name: &str) -> Option<FileName> {
        let mut parts = name.split('-');
        let kind = parts.next()?;
        let parsed = match kind {
            "log" => FileName::Segment(u64::from_str_radix(parts.next()?, 16).ok()?),
            "snapshot" | "partial" => {
                let group = GroupId(u16::from_str_radix(parts.next()?, 16).ok()?);
                let number = u64::from_str_radix(parts.next()?, 16).ok()?;
                if kind == "snapshot" { FileName::Snapshot(group, number) } else { FileName::Partial(group, number) }
            }
            _ => return None,
        };
        // Only the canonical spelling: two names must never mean one file.
        (parsed.to_file_name() == name).then_some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_read_back_in_their_one_spelling_only() {
        for name in [
            FileName::Segment(1),
            FileName::Segment(u64::MAX),
            FileName::Snapshot(GroupId(0), 7),
            FileName::Partial(GroupId(0xffff), 0x10),
        ] {
            assert_eq!(FileName::parse(&name.to_file_name()), Some(name));
        }
        for other in ["log", "log-1", "log-00000000000000zz", "node", "snapshot-0001", ""] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}
