//! A disk that a simulation owns: its time is tokio's, its chance comes from a seed, and it fails when told to.
//!
//! A change is visible at once and durable when its operation completes. A power cut keeps what is durable and, of the
//! rest, what chance decides: names in the order in which they were changed, as a journal does it, and data by sectors,
//! in no order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::memory::{overwrite, slice};
use super::{Disk, Durability, Extent, FileName, Pending, WriteError};

const SECTOR_BYTES: usize = 512;

/// How slow the disk is, and how large.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Every operation takes up to this long, at random.
    pub delay_max: Duration,
    /// Bytes that fit on it.
    pub capacity_bytes: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { delay_max: Duration::ZERO, capacity_bytes: u64::MAX }
    }
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; what was written stays.
    Kill,
    /// The power fails; what was not synced is lost, in whole or in parts.
    PowerCut,
}

/// A disk in memory, as one run of a node sees it. After [`SimulatedDisk::crash`], operations through this handle
/// and its clones never complete and change nothing; the handle that it returns is the next run's.
#[derive(Clone)]
pub struct SimulatedDisk {
    platter: Rc<RefCell<Platter>>,
    life: u64,
}

struct Platter {
    rng: StdRng,
    faults: Faults,
    life: u64,
    names: BTreeMap<FileName, usize>,
    durable_names: BTreeMap<FileName, usize>,
    /// Changes of names that are not durable yet.
    journal: Vec<NameChange>,
    /// Changes of names ever made durable.
    committed: u64,
    inodes: Vec<Inode>,
    operations: u64,
    syncs: u64,
    halt_at: Option<u64>,
    fail_next_sync: bool,
}

#[derive(Clone, Copy)]
enum NameChange {
    Create(FileName, usize),
    Remove(FileName),
    Rename(FileName, FileName),
}

#[derive(Default)]
struct Inode {
    data: Vec<u8>,
    /// How much of it, from the start, is durable.
    synced: usize,
    /// Durable bytes that are being cut off.
    going: Vec<u8>,
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<FileName, usize>) {
        match self {
            NameChange::Create(file, inode) => {
                names.insert(file, inode);
            }
            NameChange::Remove(file) => {
                names.remove(&file);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

impl Platter {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.journal.push(change);
    }

    /// Changes of names ever made.
    fn changes(&self) -> u64 {
        self.committed + self.journal.len() as u64
    }

    /// Makes the first `changes` of all changes of names durable.
    fn commit_names(&mut self, changes: u64) {
        let more = changes.saturating_sub(self.committed);
        self.committed += more;
        for change in self.journal.drain(..more as usize) {
            change.apply(&mut self.durable_names);
        }
    }

    fn inode(&mut self, file: FileName) -> usize {
        if let Some(inode) = self.names.get(&file) {
            return *inode;
        }
        let inode = self.inodes.len();
        self.inodes.push(Inode::default());
        self.change(NameChange::Create(file, inode));
        inode
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].data.len() as u64).sum()
    }

    fn cut_power(&mut self) {
        let changes = self.rng.random_range(self.committed..=self.changes());
        self.commit_names(changes);
        self.journal.clear();
        self.names = self.durable_names.clone();
        for inode in &mut self.inodes {
            inode.lose_unsynced(&mut self.rng);
        }
    }
}

impl Inode {
    fn lose_unsynced(&mut self, rng: &mut StdRng) {
        if !self.going.is_empty() && rng.random() {
            self.data.truncate(self.synced);
            self.data.append(&mut self.going);
        } else if rng.random() {
            // The length is out, and some of the sectors.
            let length = rng.random_range(self.synced..=self.data.len());
            self.data.truncate(length);
            let mut from = self.synced;
            while from < length {
                let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(length);
                if rng.random() {
                    self.data[from..to].fill(0);
                }
                from = to;
            }
        } else {
            let length = rng.random_range(self.synced..=self.data.len());
            self.data.truncate(length);
        }
        self.going.clear();
        self.synced = self.data.len();
    }
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new(seed: u64, faults: Faults) -> SimulatedDisk {
        let platter = Platter {
            rng: StdRng::seed_from_u64(seed),
            faults,
            life: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            journal: Vec::new(),
            committed: 0,
            inodes: Vec::new(),
            operations: 0,
            syncs: 0,
            halt_at: None,
            fail_next_sync: false,
        };
        SimulatedDisk { platter: Rc::new(RefCell::new(platter)), life: 0 }
    }

    /// Ends this run of the node.
    pub fn crash(&self, crash: Crash) -> SimulatedDisk {
        let mut platter = self.platter.borrow_mut();
        platter.life += 1;
        platter.halt_at = None;
        platter.fail_next_sync = false;
        if crash == Crash::PowerCut {
            platter.cut_power();
        }
        SimulatedDisk { platter: self.platter.clone(), life: platter.life }
    }

    /// Makes the disk larger or smaller. What is on it stays.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.platter.borrow_mut().faults.capacity_bytes = capacity_bytes;
    }

    /// The next sync reports an error, once.
    pub fn fail_next_sync(&self) {
        self.platter.borrow_mut().fail_next_sync = true;
    }

    /// From the `operations`th operation on, operations have begun but never complete, until the crash.
    pub fn halt_after(&self, operations: u64) {
        let mut platter = self.platter.borrow_mut();
        platter.halt_at = Some(platter.operations + operations);
    }

    /// Operations begun.
    pub fn operations(&self) -> u64 {
        self.platter.borrow().operations
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.platter.borrow().used_bytes()
    }

    /// Syncs that were completed.
    pub fn syncs(&self) -> u64 {
        self.platter.borrow().syncs
    }

    /// The files and what is in them.
    pub fn files(&self) -> Vec<(FileName, Vec<u8>)> {
        let platter = self.platter.borrow();
        let files = platter.names.iter();
        files.map(|(file, inode)| (*file, platter.inodes[*inode].data.clone())).collect()
    }

    /// Puts a file there as if it had always been.
    pub fn put(&self, file: FileName, data: Vec<u8>) {
        let mut platter = self.platter.borrow_mut();
        let inode = platter.inode(file);
        let changes = platter.changes();
        platter.commit_names(changes);
        platter.inodes[inode] = Inode { synced: data.len(), data, going: Vec::new() };
    }

    /// Flips bits of one byte, as a failing disk does. Nothing happens outside the file.
    pub fn flip(&self, file: FileName, offset: usize, mask: u8) {
        let mut platter = self.platter.borrow_mut();
        let Some(inode) = platter.names.get(&file).copied() else {
            return;
        };
        if let Some(byte) = platter.inodes[inode].data.get_mut(offset) {
            *byte ^= mask;
        }
    }

    /// Carries out `begin` now, and gives what `end` says after a while.
    fn operation<B: 'static, T: 'static>(
        &self,
        begin: impl FnOnce(&mut Platter) -> B,
        end: impl FnOnce(&mut Platter, B) -> T + 'static,
    ) -> Pin<Box<dyn Future<Output = T>>> {
        let mut platter = self.platter.borrow_mut();
        platter.operations += 1;
        let operation = platter.operations;
        let halted = platter.halt_at.is_some_and(|halt| operation >= halt);
        if platter.life != self.life || platter.halt_at.is_some_and(|halt| operation > halt) {
            return Box::pin(std::future::pending());
        }
        let begun = begin(&mut platter);
        let delay_max = platter.faults.delay_max;
        let delay = match delay_max.is_zero() {
            true => None,
            false => Some(delay_max.mul_f64(platter.rng.random())),
        };
        let disk = self.clone();
        Box::pin(async move {
            if halted {
                std::future::pending::<()>().await;
            }
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                // A disk is never done within the turn that asked it.
                None => tokio::task::yield_now().await,
            }
            if disk.platter.borrow().life != disk.life {
                std::future::pending::<()>().await;
            }
            end(&mut disk.platter.borrow_mut(), begun)
        })
    }
}

impl Disk for SimulatedDisk {
    fn list(&self) -> Pending<Vec<(FileName, u64)>> {
        self.operation(
            |_| (),
            |platter, ()| {
                let files = platter.names.iter();
                let length = |inode: usize| platter.inodes[inode].data.len() as u64;
                Ok(files.map(|(file, inode)| (*file, length(*inode))).collect())
            },
        )
    }

    fn read(&self, extents: Vec<Extent>) -> Pending<Vec<Bytes>> {
        self.operation(
            |_| (),
            move |platter, ()| {
                let read = extents.into_iter().map(|extent| {
                    let inode = *platter.names.get(&extent.file).ok_or(io::ErrorKind::NotFound)?;
                    slice(&platter.inodes[inode].data, extent)
                });
                read.collect()
            },
        )
    }

    fn map(&self, file: FileName, length: u64) -> Pending<Bytes> {
        self.operation(
            |_| (),
            move |platter, ()| {
                let inode = *platter.names.get(&file).ok_or(io::ErrorKind::NotFound)?;
                slice(&platter.inodes[inode].data, Extent { file, offset: 0, length: length as usize })
            },
        )
    }

    fn spill(&self, pieces: Vec<Bytes>) -> Pending<Vec<Bytes>> {
        self.operation(
            |_| (),
            move |platter, ()| {
                // What was spilt is not counted: it goes with the process.
                let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
                if platter.used_bytes().saturating_add(bytes) > platter.faults.capacity_bytes {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let file = Bytes::from(pieces.concat());
                let mut at = 0;
                let spilt = pieces.iter().map(|piece| {
                    let from = at;
                    at += piece.len();
                    file.slice(from..at)
                });
                Ok(spilt.collect())
            },
        )
    }

    fn touch(&self, _pieces: Vec<Bytes>) -> Pending<()> {
        self.operation(|_| (), |_, ()| Ok(()))
    }

    fn write(
        &self,
        file: FileName,
        offset: u64,
        buffers: Vec<Bytes>,
        durability: Durability,
    ) -> Pin<Box<dyn Future<Output = Result<(), WriteError>>>> {
        let begin = move |platter: &mut Platter| {
            let inode = platter.inode(file);
            let free = platter.faults.capacity_bytes.saturating_sub(platter.used_bytes());
            let data = &mut platter.inodes[inode].data;
            let bytes: usize = buffers.iter().map(Bytes::len).sum();
            let fits = (free as usize).saturating_add(data.len()).saturating_sub(offset as usize);
            let mut left = bytes.min(fits);
            let parts = buffers.iter().map(|buffer| {
                let part = buffer.slice(..left.min(buffer.len()));
                left -= part.len();
                part
            });
            let parts: Vec<Bytes> = parts.collect();
            overwrite(data, offset as usize, &parts);
            let written = &mut platter.inodes[inode];
            written.synced = written.synced.min(offset as usize);
            let full = bytes > fits;
            (inode, written.data.len(), platter.changes(), full)
        };
        self.operation(begin, move |platter, (inode, length, changes, full)| {
            if full {
                return Err(WriteError::Write(io::ErrorKind::StorageFull.into()));
            }
            if durability == Durability::None {
                return Ok(());
            }
            if std::mem::take(&mut platter.fail_next_sync) {
                return Err(WriteError::Sync(io::Error::other("simulated sync failure")));
            }
            platter.syncs += 1;
            let synced = &mut platter.inodes[inode];
            synced.synced = synced.synced.max(length.min(synced.data.len()));
            if durability == Durability::DataAndName {
                platter.commit_names(changes);
            }
            Ok(())
        })
    }

    fn truncate(&self, file: FileName, length: u64) -> Pending<()> {
        let begin = move |platter: &mut Platter| {
            let inode = platter.names.get(&file).copied()?;
            let cut = &mut platter.inodes[inode];
            let length = (length as usize).min(cut.data.len());
            cut.going = cut.data[length..cut.synced.max(length)].to_vec();
            cut.data.truncate(length);
            cut.synced = cut.synced.min(length);
            Some(inode)
        };
        self.operation(begin, |platter, inode| {
            let inode = inode.ok_or(io::ErrorKind::NotFound)?;
            let cut = &mut platter.inodes[inode];
            cut.going.clear();
            cut.synced = cut.data.len();
            Ok(())
        })
    }

    fn rename(&self, from: FileName, to: FileName) -> Pending<()> {
        let begin = move |platter: &mut Platter| {
            let found = platter.names.contains_key(&from);
            if found {
                platter.change(NameChange::Rename(from, to));
            }
            (found, platter.changes())
        };
        self.operation(begin, |platter, (found, changes)| {
            if !found {
                return Err(io::ErrorKind::NotFound.into());
            }
            platter.commit_names(changes);
            Ok(())
        })
    }

    fn remove(&self, file: FileName) -> Pending<()> {
        let begin = move |platter: &mut Platter| {
            if platter.names.contains_key(&file) {
                platter.change(NameChange::Remove(file));
            }
            platter.changes()
        };
        self.operation(begin, |platter, changes| {
            platter.commit_names(changes);
            Ok(())
        })
    }
}
