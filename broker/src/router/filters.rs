//! Filters of a segment and what is kept at each, found by their keys.
//!
//! Filters are large and many, and to read one among millions is a wait for memory. So what is searched is a table of one
//! byte for each, its *tag*, a piece of its key. The filters with the key that is asked for are behind tags that are the same,
//! and few others are.
//!
//! Places lie in groups of seven; their tags are a word. A filter lies in the group that its key names, or in one of the next if
//! that was full; a group counts the filters that had to go on, so that a search ends where there are none. Filters with
//! the same key lie in different places like others. In its group, a filter is put into one of two places that its key names
//! if one is empty: who has a key can have both fetched together with the tags ([`Filters::fetch`]). This is a hint;
//! where it is wrong, it costs a wait and never an answer.
//!
//! A filter stays in its place until there are more places. Places are not given back.

use std::num::NonZeroU64;

use smallvec::SmallVec;

use super::hints::{fetch, prefer_huge_pages};
use super::levels::bytes_equal;

/// The bytes of a filter: beside its value unless there are many, so that comparing them is not one more wait.
pub(super) type Text = SmallVec<[u8; 56]>;

/// A filter, and what is kept there. With a value of 24 bytes it lies in two lines of the processor's cache, never three.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(super) struct Filter<T> {
    pub(super) text: Text,
    /// Never 0, so that an empty place needs no room to say so.
    pub(super) key: NonZeroU64,
    pub(super) value: T,
}

/// Places, and the filters in them.
#[derive(Clone, Debug)]
pub(super) struct Filters<T> {
    /// For each group its places' tags, the first lowest, 0 where a place is empty; above them, how many filters found the group
    /// full and went on.
    groups: Vec<u64>,
    places: Vec<Option<Filter<T>>>,
    len: usize,
}

const PLACES_PER_GROUP: usize = 7;
/// The highest bit of each tag.
const TAGS: u64 = 0x0080_8080_8080_8080;
/// Where a group counts who went on.
const WENT_ON: u32 = 56;
/// So many went on that they are no longer counted.
const WENT_ON_MAX: u64 = u8::MAX as u64;

/// So many places in a hundred are used at most. More would save memory, and fewer filters would be where they are expected.
const FULL_PERCENT: usize = 85;

impl<T> Default for Filters<T> {
    fn default() -> Self {
        Filters { groups: Vec::new(), places: Vec::new(), len: 0 }
    }
}

impl<T> Filters<T> {
    /// Empty places, three quarters of which so many filters take.
    pub(super) fn with_room(filters: usize) -> Self {
        let groups = (filters + filters / 3 + 1).div_ceil(PLACES_PER_GROUP);
        let mut places = Vec::with_capacity(groups * PLACES_PER_GROUP);
        prefer_huge_pages(&places);
        places.resize_with(groups * PLACES_PER_GROUP, || None);
        Filters { groups: vec![0; groups], places, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there must be more places before one more filter is put.
    pub(super) fn is_full(&self) -> bool {
        (self.len + 1) * 100 > self.places.len() * FULL_PERCENT
    }

    pub(super) fn get(&self, place: usize) -> Option<&Filter<T>> {
        self.places.get(place)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Filter<T>> {
        self.places.get_mut(place)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Filter<T>> {
        self.places.iter().flatten()
    }

    /// All filters, in the order in which they are put into more places.
    pub(super) fn into_iter(self) -> impl Iterator<Item = Filter<T>> {
        self.places.into_iter().flatten()
    }

    /// Puts a filter into an empty place, of which there must be one.
    pub(super) fn put(&mut self, filter: Filter<T>) -> usize {
        let mut group = self.home(filter.key.get());
        loop {
            let empty = bytes_equal(self.groups[group], 0) & TAGS;
            if empty != 0 {
                let expected = expected(filter.key.get()).into_iter().find(|at| empty >> (8 * at) & 0x80 != 0);
                let at = expected.unwrap_or(empty.trailing_zeros() as usize / 8);
                self.groups[group] |= u64::from(tag(filter.key.get())) << (8 * at);
                let place = group * PLACES_PER_GROUP + at;
                self.places[place] = Some(filter);
                self.len += 1;
                return place;
            }
            if self.groups[group] >> WENT_ON < WENT_ON_MAX {
                self.groups[group] += 1 << WENT_ON;
            }
            group = self.next(group);
        }
    }

    pub(super) fn take(&mut self, place: usize) -> Option<Filter<T>> {
        let filter = self.places.get_mut(place)?.take()?;
        self.len -= 1;
        let (last, at) = (place / PLACES_PER_GROUP, place % PLACES_PER_GROUP);
        self.groups[last] &= !(0xff << (8 * at));
        let mut group = self.home(filter.key.get());
        while group != last {
            if self.groups[group] >> WENT_ON < WENT_ON_MAX {
                self.groups[group] -= 1 << WENT_ON;
            }
            group = self.next(group);
        }
        Some(filter)
    }

    /// Filters of this key and their places.
    #[inline]
    pub(super) fn with_key(&self, key: u64) -> impl Iterator<Item = (usize, &Filter<T>)> {
        let filter =
            move |place| self.get(place).filter(|filter| filter.key.get() == key).map(|filter| (place, filter));
        self.places_of(key).filter_map(filter)
    }

    /// Has the processor fetch the tags among which that of this key is, and the places where its filter is expected.
    #[inline]
    pub(super) fn fetch(&self, key: u64) {
        let group = self.home(key);
        if let Some(tags) = self.groups.get(group) {
            fetch(tags);
            for at in expected(key) {
                fetch(&self.places[group * PLACES_PER_GROUP + at]);
            }
        }
    }

    /// Visits the places whose tag is that of `key`: among them those of its filters.
    #[inline]
    pub(super) fn for_each_of(&self, key: u64, mut visit: impl FnMut(usize, &Option<Filter<T>>)) {
        for place in self.places_of(key) {
            visit(place, &self.places[place]);
        }
    }

    /// The places whose tag is that of `key`.
    #[inline]
    fn places_of(&self, key: u64) -> Places<'_> {
        let group = self.home(key);
        let tags = self.groups.get(group).copied().unwrap_or(0);
        let tag = tag(key);
        Places { groups: &self.groups, tag, group, looked_at: 1, found: bytes_equal(tags, tag) & TAGS }
    }

    /// Groups in the order of keys, so that to put all filters into more places goes through memory in order.
    #[inline]
    fn home(&self, key: u64) -> usize {
        (((key & 0xffff_ffff) * self.groups.len() as u64) >> 32) as usize
    }

    fn next(&self, group: usize) -> usize {
        if group + 1 == self.groups.len() { 0 } else { group + 1 }
    }
}

/// A piece of the key that neither names the group nor the segment.
#[inline]
fn tag(key: u64) -> u8 {
    ((key >> 32) as u8).max(1)
}

/// The places of the group where a filter is put if they are empty.
#[inline]
fn expected(key: u64) -> [usize; 2] {
    let at = |bits: u64| (((bits & 0x3ff) * PLACES_PER_GROUP as u64) >> 10) as usize;
    [at(key >> 40), at(key >> 44)]
}

/// Places with a tag.
struct Places<'t> {
    groups: &'t [u64],
    tag: u8,
    group: usize,
    looked_at: usize,
    /// Of this group's tags those that are the same and were not given yet.
    found: u64,
}

impl Iterator for Places<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            let went_on = self.groups.get(self.group)? >> WENT_ON != 0;
            if !went_on || self.looked_at == self.groups.len() {
                return None;
            }
            self.group = if self.group + 1 == self.groups.len() { 0 } else { self.group + 1 };
            self.looked_at += 1;
            self.found = bytes_equal(self.groups[self.group], self.tag) & TAGS;
        }
        let at = self.found.trailing_zeros() as usize / 8;
        self.found &= self.found - 1;
        Some(self.group * PLACES_PER_GROUP + at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Subscribers;
    use super::*;

    fn filter(key: u64, value: u64) -> Filter<u64> {
        Filter { text: Text::new(), key: NonZeroU64::new(key).expect("not 0"), value }
    }

    #[test]
    fn a_filter_with_its_subscribers_takes_a_line_and_a_half() {
        assert_eq!(size_of::<Option<Filter<Subscribers>>>(), 96);
    }

    #[test]
    fn most_filters_are_where_they_are_expected() {
        let mut filters = Filters::with_room(10_000);
        let mut where_expected = 0;
        let mut key = 1_u64;
        while !filters.is_full() {
            key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
            let place = filters.put(filter(key, key));
            let group = filters.home(key) * PLACES_PER_GROUP;
            where_expected += usize::from(expected(key).map(|at| group + at).contains(&place));
            assert!(filters.with_key(key).any(|(found, _)| found == place));
        }
        let len = filters.len();
        assert!(len > 10_000 && where_expected > len * 60 / 100, "{where_expected} of {len}");
    }

    #[test]
    fn filters_of_one_key_are_all_found_whichever_of_them_go() {
        let mut filters = Filters::with_room(400);
        let mut left: Vec<(usize, u64)> = (0..400).map(|value| (filters.put(filter(7, value)), value)).collect();
        let other = filters.put(filter(8, 1000));
        while let Some((place, value)) = left.pop() {
            assert_eq!(filters.take(place).map(|filter| filter.value), Some(value));
            let third = left.len() / 3;
            left.rotate_left(third);
            let mut found: Vec<_> = filters.with_key(7).map(|(place, filter)| (place, filter.value)).collect();
            let mut expected = left.clone();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected);
            assert_eq!(filters.with_key(8).map(|(place, _)| place).collect::<Vec<_>>(), [other]);
        }
        assert_eq!((filters.len(), filters.iter().count()), (1, 1));
    }
}
