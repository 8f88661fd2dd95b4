//! The log in memory: what every group has, and what waits to be written. No files and no waiting.
//!
//! A change takes effect here when it is accepted, and remembers how to take itself back. A failed write takes back
//! everything that was not durable, newest first, so that memory says what the disk says.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::index::{Group, Place, Slot};
use super::log::{Health, Limits, Usage};
use super::queue::{Batch, Done, Item, Queue, Undo, Verdicts};
use super::record::{GroupHeader, Header, Kind, RECORD_HEADER_BYTES, Seal, SegmentHeader};
use super::recovery::Replay;
use super::segments::Segments;
use crate::identity::GroupId;

pub(super) struct State {
    pub seal: Seal,
    pub limits: Limits,
    pub groups: BTreeMap<GroupId, Group>,
    /// Damage that groups unknown so far may have suffered too.
    pub stray: Option<String>,
    pub health: Health,
    pub writes_without_space: u64,
    pub closed: bool,
    pub segments: Segments,
    pub queue: Queue,
    /// Entries whose bytes are kept in memory, oldest first, and some that are gone. Empty where all are kept.
    cache: VecDeque<(GroupId, u64, Place)>,
    cache_bytes: usize,
}

/// An entry to be read.
pub(super) enum Piece {
    Cached(u64, Bytes),
    Stored(u64, Place),
}

impl State {
    /// Goes on from what was recovered, in a new segment.
    pub fn new(replay: Replay, seal: Seal, limits: Limits) -> State {
        let mut state = State {
            seal,
            limits,
            groups: BTreeMap::new(),
            stray: replay.stray,
            health: Health::Healthy,
            writes_without_space: 0,
            closed: false,
            segments: Segments::recovered(&replay.segments),
            queue: Queue::after(replay.segments.last().copied().unwrap_or_default()),
            cache: VecDeque::new(),
            cache_bytes: 0,
        };
        for group in replay.groups.values() {
            for slot in &group.slots {
                state.segments.hold(slot.place);
            }
        }
        state.groups = replay.groups;
        state.begin_segment();
        state
    }

    pub fn group(&mut self, id: GroupId) -> &mut Group {
        let stray = &self.stray;
        self.groups.entry(id).or_insert_with(|| Group { damage: stray.clone(), ..Group::default() })
    }

    /// What a group lost, in words. One that is not known may be lost with what is lost of the log.
    pub fn damage(&self, id: GroupId) -> Option<&String> {
        self.groups.get(&id).map_or(self.stray.as_ref(), |group| group.damage.as_ref())
    }

    /// Why `group` may not be changed or read now.
    pub fn refusal(&self, id: GroupId) -> Option<io::Error> {
        if let Some(damage) = self.damage(id) {
            return Some(damaged(id, damage));
        }
        self.write_refusal()
    }

    fn write_refusal(&self) -> Option<io::Error> {
        if let Health::Failed(reason) = &self.health {
            return Some(io::Error::other(format!("the log has failed: {reason}")));
        }
        self.closed.then(|| io::Error::other("the log is closed"))
    }

    pub fn append(&mut self, id: GroupId, entries: Vec<(u64, Bytes)>) -> io::Result<()> {
        if let Some(refusal) = self.refusal(id) {
            return Err(refusal);
        }
        if let Some((index, _)) = entries.first()
            && self.group(id).next() == 0
        {
            self.purge_below(id, *index)?;
        }
        let next = self.group(id).next();
        for (expected, (index, bytes)) in (next..).zip(&entries) {
            if *index != expected {
                let message = format!("{id}: entry {index} where {expected} is next");
                return Err(invalid(message));
            }
            if bytes.len() > self.limits.entry_bytes_max {
                let most = self.limits.entry_bytes_max;
                return Err(invalid(format!("{id}: entry {index} has {} bytes, {most} are allowed", bytes.len())));
            }
        }
        for (index, bytes) in entries {
            let place = self.reserve(bytes.len());
            self.segments.hold(place);
            self.cache_bytes += bytes.len();
            self.may_evict(id, index, place);
            self.group(id).slots.push_back(Slot { place, bytes: Some(bytes.clone()) });
            self.push(id, Kind::Entry, 0, index, place, bytes, Undo::Append);
        }
        self.evict();
        Ok(())
    }

    pub fn truncate_from(&mut self, id: GroupId, index: u64) -> io::Result<()> {
        if let Some(refusal) = self.refusal(id) {
            return Err(refusal);
        }
        if index >= self.group(id).next() {
            return Ok(());
        }
        let place = self.reserve(0);
        let gone = self.group(id).truncate_from(index);
        let gone = self.let_go(gone);
        self.push(id, Kind::Truncate, 0, index, place, Bytes::new(), Undo::Truncate(gone));
        Ok(())
    }

    /// Forgets the entries below `first`.
    pub fn purge_below(&mut self, id: GroupId, first: u64) -> io::Result<()> {
        if let Some(refusal) = self.refusal(id) {
            return Err(refusal);
        }
        let before = self.group(id).first;
        if first <= before {
            return Ok(());
        }
        let place = self.reserve(0);
        let gone = self.group(id).purge_below(first);
        let gone = self.let_go(gone);
        self.push(id, Kind::Purge, 0, first, place, Bytes::new(), Undo::Purge(before, gone));
        Ok(())
    }

    pub fn save(&mut self, id: GroupId, key: u8, value: Bytes) -> io::Result<()> {
        if let Some(refusal) = self.refusal(id) {
            return Err(refusal);
        }
        if value.len() > self.limits.value_bytes_max {
            let most = self.limits.value_bytes_max;
            return Err(invalid(format!("{id}: value {key} has {} bytes, {most} are allowed", value.len())));
        }
        let place = self.reserve(value.len());
        let before = self.group(id).values.insert(key, value.clone());
        self.push(id, Kind::Value, key, 0, place, value, Undo::Value(before));
        Ok(())
    }

    /// Forgets the group; in the same record, so that no crash comes between, keeps one value of it.
    pub fn erase(&mut self, id: GroupId, keep: Option<(u8, Bytes)>) -> io::Result<()> {
        if let Some(refusal) = self.write_refusal() {
            return Err(refusal);
        }
        let (key, value) = keep.clone().unwrap_or_default();
        let place = self.reserve(value.len());
        let sequence = self.group(id).sequence;
        let fresh = Group { sequence, values: keep.into_iter().collect(), ..Group::default() };
        let mut before = std::mem::replace(self.group(id), fresh);
        let slots = std::mem::take(&mut before.slots);
        before.slots = self.let_go(slots);
        self.push(id, Kind::Erase, key, 0, place, value, Undo::Erase(Box::new(before)));
        Ok(())
    }

    /// A record that shows, once it is there, that what is before it was durable.
    pub fn mark(&mut self) {
        let place = self.reserve(0);
        self.push(GroupId::CONTROL, Kind::Mark, 0, 0, place, Bytes::new(), Undo::Mark);
    }

    /// Repeats an entry at the end of the log, if it is still where it was read.
    pub fn rewrite(&mut self, id: GroupId, index: u64, from: Place, payload: Bytes) {
        if self.group(id).slot(index).is_none_or(|slot| slot.place != from) {
            return;
        }
        let place = self.reserve(payload.len());
        self.segments.release(from, self.queue.next());
        self.segments.hold(place);
        if let Some(slot) = self.group(id).slot_mut(index) {
            slot.place = place;
            // Its bytes stay readable until the new place is on the disk.
            let kept = slot.bytes.is_some();
            slot.bytes = Some(payload.clone());
            self.cache_bytes += if kept { 0 } else { payload.len() };
            self.may_evict(id, index, place);
        }
        self.push(id, Kind::Rewrite, 0, index, place, payload, Undo::Rewrite(from));
    }

    /// Queues a callback behind everything accepted so far.
    pub fn then(&mut self, done: Done, verdict: io::Result<()>) {
        self.queue.push(Item::Done(done, verdict));
    }

    /// The place of the next record. Must be followed by [`State::push`]; a change of segment happens here, while the groups
    /// are still as the new segment's table has to say.
    fn reserve(&mut self, length: usize) -> Place {
        let bytes = (RECORD_HEADER_BYTES + length) as u64;
        let room = self.segments.room(bytes, self.limits.segment_bytes_max);
        let (segment, offset) = room.unwrap_or_else(|| self.begin_segment());
        Place { segment, offset, length: length as u32 }
    }

    fn begin_segment(&mut self) -> (u64, u32) {
        let (number, previous_length) = self.segments.next();
        let groups = self.groups.iter().map(|(id, group)| (*id, GroupHeader::from(group)));
        let header = self.seal.encode_segment(&SegmentHeader {
            number,
            previous_length,
            stray: self.stray.clone(),
            groups: groups.collect(),
        });
        let length = header.len() as u32;
        self.segments.begin(number, length, self.queue.next());
        self.queue.push(Item::Segment { number, header });
        (number, length)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a record, spelled once")]
    fn push(&mut self, id: GroupId, kind: Kind, key: u8, index: u64, place: Place, payload: Bytes, undo: Undo) {
        let sequence = if kind == Kind::Mark {
            0
        } else {
            let group = self.group(id);
            group.sequence += 1;
            group.sequence
        };
        let header = Header {
            payload_checksum: crc32c::crc32c(&payload),
            length: place.length,
            batch: 0, // known when it is written
            group: id,
            kind,
            key,
            index,
            sequence,
        };
        self.segments.end_at(place.offset + place.bytes() as u32);
        self.queue.push(Item::Record { header, place, payload, undo });
    }

    /// Counts removed entries out, and drops their bytes: an undo brings back only what is on the disk.
    fn let_go(&mut self, mut slots: VecDeque<Slot>) -> VecDeque<Slot> {
        for slot in &mut slots {
            self.segments.release(slot.place, self.queue.next());
            self.cache_bytes -= slot.bytes.take().map_or(0, |bytes| bytes.len());
        }
        slots
    }

    fn take_back(&mut self, slots: &VecDeque<Slot>) {
        for slot in slots {
            self.segments.hold(slot.place);
        }
    }

    fn may_evict(&mut self, id: GroupId, index: u64, place: Place) {
        if self.limits.cache_bytes_max < usize::MAX {
            self.cache.push_back((id, index, place));
        }
    }

    /// Drops the oldest durable bytes from memory until the cache is within its bound.
    fn evict(&mut self) {
        while self.cache_bytes > self.limits.cache_bytes_max {
            let Some((id, index, place)) = self.cache.front().copied() else {
                return;
            };
            let durable = self.queue.is_durable(place);
            if let Some(slot) = self.group(id).slot_mut(index)
                && slot.place == place
            {
                if !durable {
                    return;
                }
                let bytes = slot.bytes.take().map_or(0, |bytes| bytes.len());
                self.cache_bytes -= bytes;
            }
            self.cache.pop_front();
        }
        // The list also names entries that are gone. Sweep when they may be the most of it.
        let kept: usize = self.groups.values().map(|group| group.slots.len()).sum();
        if self.cache.len() > 2 * kept + 1024 {
            let groups = &self.groups;
            self.cache.retain(|(id, index, place)| {
                let slot = groups.get(id).and_then(|group| group.slot(*index));
                slot.is_some_and(|slot| slot.place == *place && slot.bytes.is_some())
            });
        }
    }

    /// What to write next. Ends with [`State::complete`] or [`State::fail`].
    pub fn batch(&self) -> Option<Batch> {
        self.queue.batch(self.seal, self.limits.batch_bytes_max)
    }

    /// The batch is durable.
    pub fn complete(&mut self, batch: &Batch) -> Verdicts {
        self.health = Health::Healthy;
        let verdicts = self.queue.complete(batch);
        self.evict();
        verdicts
    }

    /// Nothing queued will be written: takes all of it back, newest first.
    pub fn fail(&mut self, error: &io::Error, health: Health) -> Verdicts {
        self.writes_without_space += u64::from(health == Health::Full);
        self.health = health;
        let mut verdicts = Vec::new();
        while let Some(item) = self.queue.pop_newest() {
            match item {
                Item::Done(done, verdict) => {
                    let verdict = verdict.and(Err(io::Error::new(error.kind(), error.to_string())));
                    verdicts.push((done, verdict));
                }
                Item::Segment { .. } => self.segments.unbegin(),
                Item::Record { header, place, payload, undo } => {
                    self.segments.end_at(place.offset);
                    self.undo(&header, place, payload.len(), undo);
                }
            }
        }
        verdicts.reverse();
        verdicts
    }

    fn undo(&mut self, header: &Header, place: Place, length: usize, undo: Undo) {
        let id = header.group;
        if header.kind != Kind::Mark {
            self.group(id).sequence -= 1;
        }
        match undo {
            Undo::Append => {
                self.segments.release(place, self.queue.next());
                if let Some(slot) = self.group(id).slots.pop_back() {
                    self.cache_bytes -= slot.bytes.map_or(0, |bytes| bytes.len());
                }
            }
            Undo::Rewrite(from) => {
                self.segments.release(place, self.queue.next());
                self.segments.hold(from);
                if let Some(slot) = self.group(id).slot_mut(header.index) {
                    slot.place = from;
                    if slot.bytes.take().is_some() {
                        self.cache_bytes -= length;
                    }
                }
            }
            Undo::Truncate(slots) => {
                self.take_back(&slots);
                self.group(id).slots.extend(slots);
            }
            Undo::Purge(first, mut slots) => {
                self.take_back(&slots);
                let group = self.group(id);
                group.first = first;
                slots.append(&mut group.slots);
                group.slots = slots;
            }
            Undo::Value(before) => {
                let values = &mut self.group(id).values;
                match before {
                    Some(value) => values.insert(header.key, value),
                    None => values.remove(&header.key),
                };
            }
            Undo::Erase(before) => {
                self.take_back(&before.slots);
                *self.group(id) = *before;
            }
            Undo::Mark => {}
        }
    }

    /// Entries of `range`, the first always, more up to `bytes_max`.
    pub fn pieces(&mut self, id: GroupId, range: Range<u64>, bytes_max: usize) -> Vec<Piece> {
        let group = self.group(id);
        let mut pieces = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(group.first)..range.end.min(group.next()) {
            let Some(slot) = group.slot(index) else { break };
            bytes += slot.place.length as usize;
            if bytes > bytes_max && !pieces.is_empty() {
                break;
            }
            pieces.push(match &slot.bytes {
                Some(bytes) => Piece::Cached(index, bytes.clone()),
                None => Piece::Stored(index, slot.place),
            });
        }
        pieces
    }

    pub fn cached(&self, id: GroupId, index: u64, place: Place) -> Option<Bytes> {
        let slot = self.groups.get(&id)?.slot(index)?;
        if slot.place == place { slot.bytes.clone() } else { None }
    }

    pub fn is_at(&mut self, id: GroupId, index: u64, place: Place) -> bool {
        self.group(id).slot(index).is_some_and(|slot| slot.place == place)
    }

    /// Live entries of the oldest segment that should be rewritten so that it can go; none while the log is not wasteful.
    /// Without this, a quiet group would keep every later segment.
    pub fn to_rewrite(&self, bytes_max: u64) -> Vec<(GroupId, u64, Place)> {
        let Some(oldest) = self.segments.wasteful(self.limits.segment_bytes_max) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        for (id, group) in &self.groups {
            for (position, slot) in group.slots.iter().enumerate() {
                if slot.place.segment == oldest {
                    found.push((*id, group.first + position as u64, slot.place));
                    bytes += slot.place.bytes();
                    if bytes >= bytes_max {
                        return found;
                    }
                }
            }
        }
        found
    }

    pub fn usage(&self) -> Usage {
        Usage {
            queued_bytes: self.queue.bytes(),
            cached_bytes: self.cache_bytes,
            segments: self.segments.count(),
            log_bytes: self.segments.bytes(),
            live_bytes: self.segments.live_bytes(),
        }
    }
}

pub(super) fn damaged(id: GroupId, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log of {id} is damaged: {reason}"))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
