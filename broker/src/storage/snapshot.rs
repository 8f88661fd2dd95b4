//! Snapshots: one file each, complete or absent.

use std::io;

use bytes::Bytes;

/// A snapshot being written. Dropped before [`SnapshotWriter::finish`], it never existed.
pub struct SnapshotWriter(());

impl SnapshotWriter {
    /// Adds a chunk, of at most [`CHUNK_BYTES_MAX`] bytes.
    pub async fn write(&mut self, _chunk: Bytes) -> io::Result<()> {
        unimplemented!()
    }

    /// Makes it durable and the group's snapshot; the older one is removed.
    pub async fn finish(self) -> io::Result<()> {
        unimplemented!()
    }
}

/// The largest chunk of a snapshot.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// A finished snapshot.
pub struct SnapshotReader(());

impl SnapshotReader {
    /// What was given when it was begun.
    pub fn meta(&self) -> &Bytes {
        unimplemented!()
    }

    /// The next chunk as it was written; `None` at the verified end. Damage is [`io::ErrorKind::InvalidData`], and
    /// then nothing that was read from it may be used.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        unimplemented!()
    }
}
