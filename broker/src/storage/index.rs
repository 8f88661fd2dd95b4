//! What one group has in the log: where each entry is, and the small values. Memory only.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::disk::{Extent, FileName};
use super::record::RECORD_HEADER_BYTES;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Segments are numbered from 1.
    pub segment: u64,
    /// Of the record's header.
    pub offset: u32,
    /// Of the payload.
    pub length: u32,
}

impl Place {
    /// The place of an entry that recovery has heard of and not found.
    pub const MISSING: Place = Place { segment: 0, offset: 0, length: 0 };

    pub fn is_missing(self) -> bool {
        self.segment == 0
    }

    /// Bytes of the whole record.
    pub fn bytes(self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.length)
    }

    pub fn extent(self) -> Extent {
        Extent {
            file: FileName::Segment(self.segment),
            offset: u64::from(self.offset),
            length: RECORD_HEADER_BYTES + self.length as usize,
        }
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub place: Place,
    /// The payload, while it is kept in memory.
    pub bytes: Option<Bytes>,
}

/// One group. Its entries are `first..next()`.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub first: u64,
    pub slots: VecDeque<Slot>,
    /// The number of its last record.
    pub sequence: u64,
    pub values: BTreeMap<u8, Bytes>,
    /// What it lost, in words. Only erasing helps.
    pub damage: Option<String>,
}

impl Group {
    pub fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(index.checked_sub(self.first)? as usize)
    }

    pub fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(index.checked_sub(self.first)? as usize)
    }

    /// Takes out the entries from `index` on.
    pub fn truncate_from(&mut self, index: u64) -> VecDeque<Slot> {
        let keep = index.saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.split_off(keep as usize)
    }

    /// Takes out the entries below `first`, which becomes the first index even where nothing was.
    pub fn purge_below(&mut self, first: u64) -> VecDeque<Slot> {
        let gone = first.saturating_sub(self.first).min(self.slots.len() as u64);
        let kept = self.slots.split_off(gone as usize);
        self.first = self.first.max(first);
        std::mem::replace(&mut self.slots, kept)
    }

    /// Whether anything was ever kept here that still counts.
    pub fn is_empty(&self) -> bool {
        self.next() == 0 && self.values.is_empty()
    }
}
