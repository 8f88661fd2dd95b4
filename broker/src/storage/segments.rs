//! The segments of the log and how much of each is still needed.

use std::collections::VecDeque;

use super::index::Place;

/// Old segments are emptied by rewriting when there are more than this many, beyond what live entries fill.
const SEGMENTS_SPARE: u64 = 16;

/// Old segments are emptied by rewriting when the log is more than this many times its live entries.
const WASTE_FACTOR: u64 = 4;

/// Oldest first, numbers without gaps; the last one is written to.
pub(super) struct Segments(VecDeque<Segment>);

struct Segment {
    number: u64,
    length: u32,
    header_bytes: u32,
    /// From an earlier run: nothing more is written to it.
    sealed: bool,
    live_records: u64,
    live_bytes: u64,
    /// The number of the queued item that let go of its last entry.
    emptied_at: u64,
}

impl Segments {
    pub fn recovered(segments: &[(u64, u32)]) -> Segments {
        let sealed = |(number, length): &(u64, u32)| Segment { sealed: true, ..Segment::new(*number, *length) };
        Segments(segments.iter().map(sealed).collect())
    }

    /// The number of the next segment, and the length of the one before it.
    pub fn next(&self) -> (u64, u32) {
        self.0.back().map_or((1, 0), |tail| (tail.number + 1, tail.length))
    }

    /// Begins a segment by the queued item number `now`.
    pub fn begin(&mut self, number: u64, header_bytes: u32, now: u64) {
        if let Some(tail) = self.0.back_mut() {
            // Its values and removals are needed until the new table is durable.
            tail.emptied_at = now;
        }
        self.0.push_back(Segment::new(number, header_bytes));
    }

    /// Takes back the last `begin`.
    pub fn unbegin(&mut self) {
        self.0.pop_back();
    }

    /// Where a record of `bytes` goes, if the last segment has room for it. A segment that has no record has.
    pub fn room(&self, bytes: u64, segment_bytes_max: u64) -> Option<(u64, u32)> {
        let tail = self.0.back()?;
        let fits = u64::from(tail.length) + bytes <= segment_bytes_max || tail.length == tail.header_bytes;
        (fits && !tail.sealed).then_some((tail.number, tail.length))
    }

    /// Sets where the last segment ends.
    pub fn end_at(&mut self, length: u32) {
        if let Some(tail) = self.0.back_mut() {
            tail.length = length;
        }
    }

    /// An entry lies at `place`.
    pub fn hold(&mut self, place: Place) {
        if let Some(segment) = self.get_mut(place.segment) {
            segment.live_records += 1;
            segment.live_bytes += place.bytes();
        }
    }

    /// The entry at `place` is no longer needed, once the queued item number `now` is durable.
    pub fn release(&mut self, place: Place, now: u64) {
        if let Some(segment) = self.get_mut(place.segment) {
            segment.live_records -= 1;
            segment.live_bytes -= place.bytes();
            segment.emptied_at = segment.emptied_at.max(now);
        }
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Segment> {
        let oldest = self.0.front()?.number;
        self.0.get_mut(number.checked_sub(oldest)? as usize)
    }

    /// The oldest segment, when nothing in it is needed and that is durable: `durable` is the last durable item.
    pub fn deletable(&self, durable: u64) -> Option<u64> {
        let oldest = self.0.front()?;
        let done = oldest.live_records == 0 && oldest.emptied_at <= durable;
        (self.0.len() > 1 && done).then_some(oldest.number)
    }

    pub fn deleted(&mut self, number: u64) {
        if self.0.front().is_some_and(|oldest| oldest.number == number) {
            self.0.pop_front();
        }
    }

    /// The oldest segment, when the log takes up so much more than its live entries that those should move out.
    pub fn wasteful(&self, segment_bytes_max: u64) -> Option<u64> {
        let live = self.live_bytes();
        let long = self.0.len() as u64 > SEGMENTS_SPARE + WASTE_FACTOR * live / segment_bytes_max;
        let large = self.bytes() > WASTE_FACTOR * (live + segment_bytes_max);
        let oldest = self.0.front()?;
        (self.0.len() > 1 && (long || large)).then_some(oldest.number)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|segment| u64::from(segment.length)).sum()
    }

    pub fn live_bytes(&self) -> u64 {
        self.0.iter().map(|segment| segment.live_bytes).sum()
    }
}

impl Segment {
    fn new(number: u64, header_bytes: u32) -> Segment {
        Segment {
            number,
            length: header_bytes,
            header_bytes,
            sealed: false,
            live_records: 0,
            live_bytes: 0,
            emptied_at: 0,
        }
    }
}
