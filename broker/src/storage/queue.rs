//! What waits to be written, and how it becomes one write.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};

use super::index::{Group, Place, Slot};
use super::record::{Header, Seal};

/// Called once, when what was queued before it is durable or refused.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>)>;

/// Callbacks whose time has come, with what they are told.
pub(super) type Verdicts = Vec<(Done, io::Result<()>)>;

/// Payloads from this size on are written from where they are; smaller ones are gathered first.
const GATHER_BYTES_MAX: usize = 16 << 10;

/// In the order in which it goes to the disk. What is being written stays queued until it is durable.
#[derive(Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Items ever accepted: the number of the newest.
    accepted: u64,
    /// Items ever dealt with.
    dealt_with: u64,
    /// Where the durable part of the log ends.
    durable_end: (u64, u32),
}

pub(super) enum Item {
    Segment { number: u64, header: Bytes },
    Record { header: Header, place: Place, payload: Bytes, undo: Undo },
    Done(Done, io::Result<()>),
}

/// How to take a record back.
pub(super) enum Undo {
    Append,
    Rewrite(Place),
    Truncate(VecDeque<Slot>),
    Purge(u64, VecDeque<Slot>),
    Value(Option<Bytes>),
    Erase(Box<Group>),
    Mark,
}

/// One write, and one sync.
pub(super) struct Batch {
    pub segment: u64,
    pub offset: u32,
    pub begins_segment: bool,
    pub buffers: Vec<Bytes>,
    /// How many items of the queue it completes.
    items: usize,
    end: u32,
}

impl Batch {
    fn at(segment: u64, offset: u32) -> Batch {
        Batch { segment, offset, begins_segment: false, buffers: Vec::new(), items: 0, end: offset }
    }
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Segment { header, .. } => header.len(),
            Item::Record { place, .. } => place.bytes() as usize,
            Item::Done(..) => 0,
        }
    }
}

impl Queue {
    /// An empty queue of a log that ends at `end`.
    pub fn after(end: (u64, u32)) -> Queue {
        Queue { durable_end: end, ..Queue::default() }
    }

    pub fn push(&mut self, item: Item) {
        self.accepted += 1;
        self.bytes += item.bytes();
        self.items.push_back(item);
    }

    /// The number that the next item gets.
    pub fn next(&self) -> u64 {
        self.accepted + 1
    }

    /// The number of the newest item that is durable.
    pub fn durable(&self) -> u64 {
        self.dealt_with
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_durable(&self, place: Place) -> bool {
        (place.segment, place.offset) < self.durable_end
    }

    /// What to write next: as much as is queued, up to the bound and to the end of a segment.
    pub fn batch(&self, seal: Seal, bytes_max: usize) -> Option<Batch> {
        let mut batch: Option<Batch> = None;
        let mut gathered = BytesMut::new();
        let mut items = 0;
        let mut bytes = 0;
        for item in &self.items {
            match item {
                Item::Done(..) => {}
                Item::Segment { .. } if batch.is_some() => break,
                Item::Segment { number, header } => {
                    gathered.extend_from_slice(header);
                    let begun = batch.insert(Batch::at(*number, 0));
                    begun.begins_segment = true;
                    begun.end = header.len() as u32;
                }
                Item::Record { place, .. } if bytes > 0 && bytes + place.bytes() as usize > bytes_max => break,
                Item::Record { header, place, payload, .. } => {
                    let batch = batch.get_or_insert_with(|| Batch::at(place.segment, place.offset));
                    let header = Header { batch: batch.offset, ..*header };
                    seal.encode(&header, place.segment, place.offset, &mut gathered);
                    if payload.len() < GATHER_BYTES_MAX {
                        gathered.extend_from_slice(payload);
                    } else {
                        batch.buffers.push(gathered.split().freeze());
                        batch.buffers.push(payload.clone());
                    }
                    batch.end = place.offset + place.bytes() as u32;
                    bytes += place.bytes() as usize;
                }
            }
            items += 1;
        }
        let mut batch = batch?;
        batch.items = items;
        if !gathered.is_empty() {
            batch.buffers.push(gathered.freeze());
        }
        Some(batch)
    }

    /// The batch is durable.
    pub fn complete(&mut self, batch: &Batch) -> Verdicts {
        self.durable_end = (batch.segment, batch.end);
        self.pop(batch.items)
    }

    /// Callbacks that nothing unwritten stands before.
    pub fn complete_callbacks(&mut self) -> Verdicts {
        let ready = self.items.iter().take_while(|item| matches!(item, Item::Done(..))).count();
        self.pop(ready)
    }

    fn pop(&mut self, items: usize) -> Verdicts {
        let mut verdicts = Vec::new();
        for item in self.items.drain(..items) {
            self.dealt_with += 1;
            self.bytes -= item.bytes();
            if let Item::Done(done, verdict) = item {
                verdicts.push((done, verdict));
            }
        }
        verdicts
    }

    /// Takes back the newest item. Counted as dealt with, so that the counts meet when the queue is empty.
    pub fn pop_newest(&mut self) -> Option<Item> {
        let item = self.items.pop_back()?;
        self.dealt_with += 1;
        self.bytes -= item.bytes();
        Some(item)
    }
}
