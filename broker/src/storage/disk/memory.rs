//! A disk that forgets, for nodes without a data directory: everything completes at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;

use bytes::Bytes;

use super::{Disk, Durability, Extent, FileName, Pending, WriteError};

/// Files in memory. What was written is lost with the process.
#[derive(Default)]
pub struct MemoryDisk {
    without_segments: bool,
    files: RefCell<BTreeMap<FileName, Content>>,
}

enum Content {
    Written(Vec<u8>),
    /// Shared with those who look at it.
    Mapped(Bytes),
}

impl MemoryDisk {
    /// A disk that nothing is recovered from. Its segments would take memory for what the log has in memory anyway, and
    /// until whole segments are free: they aren't kept.
    pub fn without_segments() -> MemoryDisk {
        MemoryDisk { without_segments: true, ..MemoryDisk::default() }
    }
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Content::Written(bytes) => bytes,
            Content::Mapped(bytes) => bytes,
        }
    }

    /// To be changed. What is mapped is not touched by that.
    fn written(&mut self) -> &mut Vec<u8> {
        if let Content::Mapped(bytes) = self {
            *self = Content::Written(bytes.to_vec());
        }
        match self {
            Content::Written(bytes) => bytes,
            Content::Mapped(_) => unreachable!("it was made a copy above"),
        }
    }

    fn mapped(&mut self) -> Bytes {
        if let Content::Written(bytes) = self {
            // It stays for long, and without the room that it grew into.
            *self = Content::Mapped(Bytes::from(std::mem::take(bytes).into_boxed_slice()));
        }
        match self {
            Content::Written(_) => unreachable!("it was made shared above"),
            Content::Mapped(bytes) => bytes.clone(),
        }
    }
}

impl Disk for MemoryDisk {
    fn keeps_segments(&self) -> bool {
        !self.without_segments
    }

    fn list(&self) -> Pending<Vec<(FileName, u64)>> {
        let files = self.files.borrow();
        let list = files.iter().map(|(file, bytes)| (*file, bytes.bytes().len() as u64)).collect();
        Box::pin(ready(Ok(list)))
    }

    fn read(&self, extents: Vec<Extent>) -> Pending<Vec<Bytes>> {
        let files = self.files.borrow();
        let read = extents.into_iter().map(|extent| {
            let file = files.get(&extent.file).ok_or(io::ErrorKind::NotFound)?;
            slice(file.bytes(), extent)
        });
        Box::pin(ready(read.collect()))
    }

    fn map(&self, file: FileName, length: u64) -> Pending<Bytes> {
        let mut files = self.files.borrow_mut();
        let mapped = files.get_mut(&file).ok_or(io::ErrorKind::NotFound.into()).and_then(|content| {
            let whole = content.mapped();
            let length = usize::try_from(length).ok().filter(|length| *length <= whole.len());
            length.map(|length| whole.slice(..length)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        });
        Box::pin(ready(mapped))
    }

    fn spill(&self, _pieces: Vec<Bytes>) -> Pending<Vec<Bytes>> {
        Box::pin(ready(Err(io::ErrorKind::Unsupported.into())))
    }

    fn touch(&self, _pieces: Vec<Bytes>) -> Pending<()> {
        Box::pin(ready(Ok(())))
    }

    fn write(
        &self,
        file: FileName,
        offset: u64,
        buffers: Vec<Bytes>,
        _durability: Durability,
    ) -> Pin<Box<dyn Future<Output = Result<(), WriteError>>>> {
        if self.without_segments && matches!(file, FileName::Segment(_)) {
            return Box::pin(ready(Ok(())));
        }
        let mut files = self.files.borrow_mut();
        let content = files.entry(file).or_insert_with(|| Content::Written(Vec::new()));
        overwrite(content.written(), offset as usize, &buffers);
        Box::pin(ready(Ok(())))
    }

    fn truncate(&self, file: FileName, length: u64) -> Pending<()> {
        if let Some(bytes) = self.files.borrow_mut().get_mut(&file) {
            bytes.written().truncate(length as usize);
        }
        Box::pin(ready(Ok(())))
    }

    fn rename(&self, from: FileName, to: FileName) -> Pending<()> {
        let mut files = self.files.borrow_mut();
        let renamed = match files.remove(&from) {
            Some(bytes) => {
                files.insert(to, bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::NotFound.into()),
        };
        Box::pin(ready(renamed))
    }

    fn remove(&self, file: FileName) -> Pending<()> {
        self.files.borrow_mut().remove(&file);
        Box::pin(ready(Ok(())))
    }
}

/// The bytes of `extent` in `file`.
pub(super) fn slice(file: &[u8], extent: Extent) -> io::Result<Bytes> {
    let from = usize::try_from(extent.offset).unwrap_or(usize::MAX);
    let rest = file.get(from..).and_then(|rest| rest.get(..extent.length));
    rest.map(Bytes::copy_from_slice).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Writes into `file` as a file system does: a hole reads as zeros.
pub(super) fn overwrite(file: &mut Vec<u8>, offset: usize, buffers: &[Bytes]) {
    if file.len() < offset {
        file.resize(offset, 0);
    }
    let mut at = offset;
    for buffer in buffers {
        let inside = buffer.len().min(file.len() - at);
        file[at..at + inside].copy_from_slice(&buffer[..inside]);
        file.extend_from_slice(&buffer[inside..]);
        at += buffer.len();
    }
}
