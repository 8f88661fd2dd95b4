//! Filters and prefixes in segments, so that what grows is small.
//!
//! A segment has the keys that begin with certain bits. One that has become too large is split by the next bit: each
//! half gets places of its own, and no other segment is touched. A directory, found in any cache, says by the
//! highest bits of a key which segment has it. Keys are random, so segments are about the same size; where they are not,
//! because many are the same, a split could part nothing, and the segment grows as a whole.

use std::ops::RangeInclusive;

use super::filters::{Filter, Filters};
use super::prefixes::Prefixes;

/// Where a filter is kept: its segment and its place there. Reused once the filter is removed, and another one once the
/// segment has grown ([`Trie::moves`](super::Trie::moves)).
pub type ValueId = u32;

/// The lower bits of a [`ValueId`] are the place.
const PLACE_BITS: u32 = 20;
/// Segments are no more than the higher ones can tell apart.
const DEPTH_MAX: u32 = 12;
/// So many filters, or prefixes, a segment has at most where keys are random: to move so many is a pause of some tens of
/// milliseconds.
pub(super) const SEGMENT_MAX: usize = 1 << 17;

/// The keys that begin with the same bits.
#[derive(Clone, Debug)]
pub(super) struct Segment<T> {
    pub(super) filters: Filters<T>,
    pub(super) prefixes: Prefixes,
    /// How many bits those are.
    depth: u32,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Segments<T> {
    /// By the highest bits of a key, its segment's number. A power of two of them, two at least.
    directory: Vec<u16>,
    /// How far right a key is to be shifted to become a place in the directory.
    shift: u32,
    all: Vec<Segment<T>>,
    /// How often a filter was given another number.
    moves: u64,
    /// [`SEGMENT_MAX`], but in tests.
    segment_max: usize,
}

impl<T> Segments<T> {
    pub(super) fn new(segment_max: usize) -> Self {
        let first = Segment { filters: Filters::default(), prefixes: Prefixes::default(), depth: 0 };
        Segments { directory: vec![0; 2], shift: 63, all: vec![first], moves: 0, segment_max }
    }

    /// The segment that has `key`.
    #[inline]
    pub(super) fn of(&self, key: u64) -> &Segment<T> {
        &self.all[self.index(key)]
    }

    pub(super) fn of_mut(&mut self, key: u64) -> &mut Segment<T> {
        let index = self.index(key);
        &mut self.all[index]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Segment<T>> {
        self.all.iter()
    }

    /// The places of the directory: segments are no more.
    pub(super) fn places(&self) -> usize {
        self.directory.len()
    }

    /// The keys of the segment that has `key`.
    pub(super) fn keys(&self, key: u64) -> RangeInclusive<u64> {
        let below = u64::MAX >> self.of(key).depth;
        key & !below..=key | below
    }

    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// Visits the places of filters that have this key, and of few others.
    #[inline]
    pub(super) fn for_each_of(&self, key: u64, mut visit: impl FnMut(ValueId, &Option<Filter<T>>)) {
        let index = self.index(key);
        let first = (index as ValueId) << PLACE_BITS;
        self.all[index].filters.for_each_of(key, |place, filter| visit(first | place as ValueId, filter));
    }

    /// The filters of this key and their numbers.
    #[inline]
    pub(super) fn with_key(&self, key: u64) -> impl Iterator<Item = (ValueId, &Filter<T>)> {
        let index = self.index(key);
        let first = (index as ValueId) << PLACE_BITS;
        self.all[index].filters.with_key(key).map(move |(place, filter)| (first | place as ValueId, filter))
    }

    pub(super) fn get(&self, id: ValueId) -> Option<&Filter<T>> {
        let (index, place) = parts(id);
        self.all.get(index)?.filters.get(place)
    }

    pub(super) fn get_mut(&mut self, id: ValueId) -> Option<&mut Filter<T>> {
        let (index, place) = parts(id);
        self.all.get_mut(index)?.filters.get_mut(place)
    }

    pub(super) fn take(&mut self, id: ValueId) -> Option<Filter<T>> {
        let (index, place) = parts(id);
        self.all.get_mut(index)?.filters.take(place)
    }

    pub(super) fn put(&mut self, filter: Filter<T>) -> ValueId {
        let key = filter.key.get();
        if self.of(key).filters.is_full() {
            let many = self.of(key).filters.len() >= self.segment_max * 4 / 5;
            if !(many && self.split(key)) {
                self.grow(key);
            }
        }
        let index = self.index(key);
        let place = self.all[index].filters.put(filter);
        (index as ValueId) << PLACE_BITS | place as ValueId
    }

    /// One more filter needs the prefix of this key. True if it is the first.
    pub(super) fn need(&mut self, key: u64) -> bool {
        if self.of(key).prefixes.len() >= self.segment_max {
            self.split(key);
        }
        self.of_mut(key).prefixes.need(key)
    }

    #[inline]
    fn index(&self, key: u64) -> usize {
        usize::from(self.directory[(key >> self.shift) as usize])
    }

    /// Puts the filters of a segment into more places.
    fn grow(&mut self, key: u64) {
        let segment = self.of_mut(key);
        let room = Filters::with_room(segment.filters.len());
        let filters = std::mem::replace(&mut segment.filters, room);
        let len = filters.len();
        for filter in filters.into_iter() {
            segment.filters.put(filter);
        }
        self.moves += len as u64;
    }

    /// Splits the segment that has `key`. False if all its keys would be in one half, or it is as deep as can be.
    fn split(&mut self, key: u64) -> bool {
        let index = self.index(key);
        let keys = self.keys(key);
        let old = &mut self.all[index];
        let half = (u64::MAX >> old.depth >> 1) + 1;
        let is_upper = |key: u64| key & half != 0;
        let filters = old.filters.iter().map(|filter| filter.key.get());
        let (mut uppers, mut count) = (0, 0);
        for key in filters.chain(old.prefixes.keys()) {
            uppers += usize::from(is_upper(key));
            count += 1;
        }
        if old.depth == DEPTH_MAX || uppers == 0 || uppers == count {
            return false;
        }

        let filters = std::mem::take(&mut old.filters);
        let upper_filters = filters.iter().filter(|filter| is_upper(filter.key.get())).count();
        self.moves += filters.len() as u64;
        old.depth += 1;
        let mut upper = Segment {
            filters: Filters::with_room(upper_filters),
            prefixes: old.prefixes.split_off(is_upper),
            depth: old.depth,
        };
        old.filters = Filters::with_room(filters.len() - upper_filters);
        for filter in filters.into_iter() {
            let segment = if is_upper(filter.key.get()) { &mut upper } else { &mut *old };
            segment.filters.put(filter);
        }

        if upper.depth > 64 - self.shift {
            self.directory = self.directory.iter().flat_map(|index| [*index, *index]).collect();
            self.shift -= 1;
        }
        let (first, last) = (keys.start() | half, *keys.end());
        self.directory[(first >> self.shift) as usize..=(last >> self.shift) as usize].fill(self.all.len() as u16);
        self.all.push(upper);
        true
    }
}

fn parts(id: ValueId) -> (usize, usize) {
    ((id >> PLACE_BITS) as usize, (id & ((1 << PLACE_BITS) - 1)) as usize)
}
