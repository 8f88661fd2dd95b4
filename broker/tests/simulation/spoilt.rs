//! A disk that lies: it says that bytes are durable when they are not. A power cut finds it out, and so must the checks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use mqtt_broker::storage::Disk;
use mqtt_broker::storage::disk::{Durability, Extent, FileName, Pending, WriteError};

/// Never syncs data.
struct Lying(Rc<dyn Disk>);

pub fn honest(disk: Rc<dyn Disk>) -> Rc<dyn Disk> {
    disk
}

pub fn lying(disk: Rc<dyn Disk>) -> Rc<dyn Disk> {
    Rc::new(Lying(disk))
}

impl Disk for Lying {
    fn list(&self) -> Pending<Vec<(FileName, u64)>> {
        self.0.list()
    }

    fn read(&self, extents: Vec<Extent>) -> Pending<Vec<Bytes>> {
        self.0.read(extents)
    }

    fn map(&self, file: FileName, length: u64) -> Pending<Bytes> {
        self.0.map(file, length)
    }

    fn spill(&self, pieces: Vec<Bytes>) -> Pending<Vec<Bytes>> {
        self.0.spill(pieces)
    }

    fn touch(&self, pieces: Vec<Bytes>) -> Pending<()> {
        self.0.touch(pieces)
    }

    fn write(
        &self,
        file: FileName,
        offset: u64,
        buffers: Vec<Bytes>,
        durability: Durability,
    ) -> Pin<Box<dyn Future<Output = Result<(), WriteError>>>> {
        let durability = match durability {
            Durability::Data => Durability::None,
            other => other,
        };
        self.0.write(file, offset, buffers, durability)
    }

    fn truncate(&self, file: FileName, length: u64) -> Pending<()> {
        self.0.truncate(file, length)
    }

    fn rename(&self, from: FileName, to: FileName) -> Pin<Box<dyn Future<Output = io::Result<()>>>> {
        self.0.rename(from, to)
    }

    fn remove(&self, file: FileName) -> Pending<()> {
        self.0.remove(file)
    }
}
