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
    files: RefCell<BTreeMap<FileName, Vec<u8>>>,
}

impl Disk for MemoryDisk {
    fn list(&self) -> Pending<Vec<(FileName, u64)>> {
        let files = self.files.borrow();
        let list = files.iter().map(|(file, bytes)| (*file, bytes.len() as u64)).collect();
        Box::pin(ready(Ok(list)))
    }

    fn read(&self, extents: Vec<Extent>) -> Pending<Vec<Bytes>> {
        let files = self.files.borrow();
        let read = extents.into_iter().map(|extent| {
            let file = files.get(&extent.file).ok_or(io::ErrorKind::NotFound)?;
            slice(file, extent)
        });
        Box::pin(ready(read.collect()))
    }

    fn write(
        &self,
        file: FileName,
        offset: u64,
        buffers: Vec<Bytes>,
        _durability: Durability,
    ) -> Pin<Box<dyn Future<Output = Result<(), WriteError>>>> {
        overwrite(self.files.borrow_mut().entry(file).or_default(), offset as usize, &buffers);
        Box::pin(ready(Ok(())))
    }

    fn truncate(&self, file: FileName, length: u64) -> Pending<()> {
        if let Some(bytes) = self.files.borrow_mut().get_mut(&file) {
            bytes.truncate(length as usize);
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
