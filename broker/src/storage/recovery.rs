//! From the bytes of the segments to what the log contains. Pure: whoever calls reads the files.
//!
//! Every record of a group carries the group's next sequence number, so that a hole is noticed by the group it was torn into:
//! by its next record, or by the table of the next segment. Groups that can't be cleared that way are taken for damaged.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::disk::FileName;
use super::index::{Group, Place, Slot};
use super::log::Torn;
use super::record::{GroupHeader, Header, Kind, RECORD_HEADER_BYTES, Seal, Spoilt};
use crate::identity::GroupId;

/// A log being replayed, segment by segment.
pub(super) struct Replay {
    seal: Seal,
    pub groups: BTreeMap<GroupId, Group>,
    /// Damage that any group, even an unknown one, may have suffered.
    pub stray: Option<String>,
    /// Numbers and lengths of the segments that stay.
    pub segments: Vec<(u64, u32)>,
    pub torn: Option<Torn>,
    /// Places that could not be read.
    pub unreadable: u64,
    doubt: Option<Doubt>,
}

/// Something unreadable lies behind us, and it is not known whose it was.
struct Doubt {
    reason: String,
    /// The groups that have since shown to have lost nothing.
    cleared: BTreeSet<GroupId>,
}

/// A segment that was written under another identity.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign;

impl Replay {
    pub fn new(seal: Seal) -> Replay {
        Replay {
            seal,
            groups: BTreeMap::new(),
            stray: None,
            segments: Vec::new(),
            torn: None,
            unreadable: 0,
            doubt: None,
        }
    }

    /// Takes the next segment. Only the last one may end in a write that never completed.
    pub fn segment(&mut self, number: u64, bytes: &[u8], last: bool) -> Result<(), Foreign> {
        let previous = self.segments.last().copied();
        if let Some((previous, _)) = previous
            && previous + 1 != number
        {
            self.doubt(format!("{} to {} are missing", name(previous + 1), name(number - 1)));
        }
        let mut offset = match self.seal.decode_segment(bytes, number) {
            Ok((header, length)) => {
                self.reconcile(number, previous.is_none(), header.groups);
                self.stray = self.stray.take().or(header.stray);
                length
            }
            Err(Spoilt::Foreign) if !self.holds_a_record(number, bytes, 0) => return Err(Foreign),
            Err(_) if last && self.first_written_after(number, bytes, 0, 0).is_none() => {
                self.tear(number, bytes, 0);
                return Ok(());
            }
            Err(_) => {
                self.doubt(format!("the header of {} is unreadable", name(number)));
                match self.resynchronise(number, bytes, 0) {
                    Some(offset) => offset,
                    None => bytes.len() as u32,
                }
            }
        };
        while (offset as usize) < bytes.len() {
            let rest = &bytes[offset as usize..];
            let header = self.seal.decode(rest, number, offset);
            let payload = header.and_then(|header| payload(rest, &header));
            if let (Some(header), Some(payload)) = (header, payload) {
                self.record(number, offset, &header, payload);
                offset += RECORD_HEADER_BYTES as u32 + header.length;
                continue;
            }
            if last && self.first_written_after(number, bytes, offset + 1, offset).is_none() {
                self.tear(number, bytes, offset);
                self.segments.push((number, offset));
                return Ok(());
            }
            let place = format!("{} at byte {offset}", name(number));
            match header {
                // Its length is sound when it stays inside the file: the header was checked.
                Some(header) if rest.len() >= RECORD_HEADER_BYTES + header.length as usize => {
                    self.lose(&header, format!("the payload of a record is damaged: {place}"));
                    offset += RECORD_HEADER_BYTES as u32 + header.length;
                }
                _ => {
                    self.doubt(format!("unreadable record: {place}"));
                    match self.resynchronise(number, bytes, offset + 1) {
                        Some(next) => offset = next,
                        None => break,
                    }
                }
            }
        }
        self.segments.push((number, bytes.len() as u32));
        Ok(())
    }

    /// Closes the books: what is still missing or in doubt is damage.
    pub fn finish(&mut self) {
        if let Some(doubt) = self.doubt.take() {
            for (group, state) in &mut self.groups {
                if !doubt.cleared.contains(group) {
                    spoil(state, &doubt.reason);
                }
            }
            self.stray.get_or_insert(doubt.reason);
        }
        for state in self.groups.values_mut() {
            let missing = state.slots.iter().position(|slot| slot.place.is_missing());
            if let Some(position) = missing {
                let index = state.first + position as u64;
                spoil(state, &format!("entry {index} is in no segment"));
            }
        }
    }

    /// Compares what was replayed with the table at the start of a segment, and goes on from the table.
    fn reconcile(&mut self, number: u64, oldest: bool, table: Vec<(GroupId, GroupHeader)>) {
        for (group, header) in table {
            let state = self.groups.entry(group).or_default();
            let agrees =
                state.sequence == header.sequence && state.first == header.first && state.next() == header.next;
            if !oldest && !agrees {
                let reason = format!("records are missing before {}", name(number));
                let reason = self.doubt.as_ref().map_or(reason, |doubt| doubt.reason.clone());
                spoil(state, &reason);
            }
            state.sequence = header.sequence;
            state.truncate_from(header.next.max(header.first));
            state.purge_below(header.first);
            while state.next() < header.next {
                state.slots.push_back(Slot { place: Place::MISSING, bytes: None });
            }
            if let Some(damage) = header.damage {
                spoil(state, &damage);
            }
            state.values = header.values.into_iter().collect();
        }
        // The table names every group there was: whoever lost something has been told.
        self.doubt = None;
    }

    fn record(&mut self, segment: u64, offset: u32, header: &Header, payload: &[u8]) {
        if header.kind == Kind::Mark {
            return;
        }
        let state = self.groups.entry(header.group).or_default();
        if header.sequence != state.sequence + 1 {
            let reason = match &self.doubt {
                Some(doubt) => doubt.reason.clone(),
                None => format!("records are missing before {} byte {offset}", name(segment)),
            };
            spoil(state, &reason);
        }
        state.sequence = header.sequence;
        if let Some(doubt) = &mut self.doubt {
            doubt.cleared.insert(header.group);
        }
        let place = Place { segment, offset, length: header.length };
        apply(state, header, place, payload);
    }

    /// A record whose header is sound and whose payload is not.
    fn lose(&mut self, header: &Header, reason: String) {
        self.unreadable += 1;
        if header.kind == Kind::Mark {
            return;
        }
        let state = self.groups.entry(header.group).or_default();
        apply(state, header, Place::MISSING, &[]);
        spoil(state, &reason);
        state.sequence = header.sequence;
    }

    fn doubt(&mut self, reason: String) {
        self.unreadable += 1;
        // What was cleared before this place is in doubt again; the first reason is the one to tell.
        let reason = self.doubt.take().map_or(reason, |doubt| doubt.reason);
        self.doubt = Some(Doubt { reason, cleared: BTreeSet::new() });
    }

    fn tear(&mut self, segment: u64, bytes: &[u8], offset: u32) {
        self.torn = Some(Torn { segment, offset: u64::from(offset), bytes: bytes.len() as u64 - u64::from(offset) });
    }

    /// The first whole record header from `from` on.
    fn resynchronise(&self, segment: u64, bytes: &[u8], from: u32) -> Option<u32> {
        (from..bytes.len() as u32)
            .find(|offset| self.seal.decode(&bytes[*offset as usize..], segment, *offset).is_some())
    }

    fn holds_a_record(&self, segment: u64, bytes: &[u8], from: u32) -> bool {
        self.resynchronise(segment, bytes, from).is_some()
    }

    /// The first whole record header from `from` on that belongs to a write begun behind `spoilt`: it proves that what was
    /// at `spoilt` had been durable.
    fn first_written_after(&self, segment: u64, bytes: &[u8], mut from: u32, spoilt: u32) -> Option<u32> {
        while let Some(offset) = self.resynchronise(segment, bytes, from) {
            let header = self.seal.decode(&bytes[offset as usize..], segment, offset)?;
            if header.batch > spoilt {
                return Some(offset);
            }
            from = offset + 1;
        }
        None
    }
}

fn payload<'a>(record: &'a [u8], header: &Header) -> Option<&'a [u8]> {
    let payload = record.get(RECORD_HEADER_BYTES..)?.get(..header.length as usize)?;
    (crc32c::crc32c(payload) == header.payload_checksum).then_some(payload)
}

fn name(segment: u64) -> String {
    FileName::Segment(segment).to_file_name()
}

fn spoil(state: &mut Group, reason: &str) {
    state.damage.get_or_insert_with(|| reason.to_owned());
}

/// Carries out one record. Where it does not fit what is there, something is missing, and the group is damaged.
fn apply(state: &mut Group, header: &Header, place: Place, payload: &[u8]) {
    match header.kind {
        Kind::Entry => {
            if header.index != state.next() {
                let expected = state.next();
                spoil(state, &format!("entry {} where {expected} was next", header.index));
                // Restart behind the hole: a damaged group is never read, it is erased.
                state.slots.clear();
                state.first = header.index;
            }
            state.slots.push_back(Slot { place, bytes: None });
        }
        Kind::Rewrite => {
            if let Some(slot) = state.slot_mut(header.index) {
                slot.place = place;
            }
        }
        Kind::Truncate => drop(state.truncate_from(header.index)),
        Kind::Purge => drop(state.purge_below(header.index)),
        Kind::Value => {
            state.values.insert(header.key, Bytes::copy_from_slice(payload));
        }
        Kind::Erase => {
            *state = Group { sequence: state.sequence, ..Group::default() };
            if !payload.is_empty() {
                state.values.insert(header.key, Bytes::copy_from_slice(payload));
            }
        }
        Kind::Mark => {}
    }
}
