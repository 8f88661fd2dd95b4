//! Filters and what is kept at each, in places that follow from their keys.
//!
//! Where a filter is, the table of prefixes says. But to read the table and then the filter are two waits for memory, one after
//! the other, and among millions of filters a match consists of little else. So a filter is put into one of two places
//! that its key names, if one of them is empty: who has a key can have both fetched together with the table's line
//! ([`Filters::fetch_expected`]). This is a hint; where it is wrong, it costs a wait and never an answer.
//!
//! When the places are nearly full, all filters are put into more of them, and have other numbers then. Places are not
//! given back.

use smallvec::SmallVec;

use super::hints::{fetch, prefer_huge_pages};

/// Where a filter is kept. Reused once the filter is removed, and another one once there are more places
/// ([`Trie::moves`](super::Trie::moves)).
pub type ValueId = u32;

/// The bytes of a filter: beside its value unless there are many, so that comparing them is not one more wait.
pub(super) type Text = SmallVec<[u8; 56]>;

/// A filter, and what is kept there. With a value of 24 bytes it lies in two lines of the processor's cache, never three.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(super) struct Filter<T> {
    pub(super) text: Text,
    /// Another filter with the same key.
    pub(super) next: Option<ValueId>,
    pub(super) value: T,
}

/// Places, and the filters in them.
#[derive(Clone, Debug)]
pub(super) struct Filters<T> {
    places: Vec<Option<Filter<T>>>,
    len: usize,
}

/// So many places in a hundred are used at most. More would save memory, and fewer filters would be where they are
/// expected: of those put into places that are used up to a share of `a`, about `1 - a * a / 3`.
const FULL_PERCENT: usize = 85;

/// Up to so many places, the processor's cache has nearly all, and fetching them costs more than it saves.
const NEAR_PLACES_MAX: usize = if cfg!(test) { 8 } else { 4096 };

impl<T> Filters<T> {
    /// So many empty places.
    pub(super) fn with_places(count: usize) -> Self {
        let mut places = Vec::with_capacity(count);
        prefer_huge_pages(&places);
        places.resize_with(count, || None);
        Filters { places, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many places there must be before one more filter is put, if these are too few.
    pub(super) fn places_wanted(&self) -> Option<usize> {
        let full = (self.len + 1) * 100 > self.places.len() * FULL_PERCENT;
        full.then(|| self.places.len() + self.places.len() / 4 + 4)
    }

    pub(super) fn get(&self, id: ValueId) -> Option<&Filter<T>> {
        self.places.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: ValueId) -> Option<&mut Filter<T>> {
        self.places.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Filter<T>> {
        self.places.iter().flatten()
    }

    /// Puts a filter where its key lets it be expected, or else into the next empty place. There must be one.
    pub(super) fn put(&mut self, key: u64, filter: Filter<T>) -> ValueId {
        let [first, second] = self.expected(key);
        let near = (first..self.places.len()).chain(0..first);
        let is_empty = |place: &usize| self.places[*place].is_none();
        let place = [first, second].into_iter().chain(near).find(is_empty).expect("never full");
        self.places[place] = Some(filter);
        self.len += 1;
        place as ValueId
    }

    pub(super) fn take(&mut self, id: ValueId) -> Option<Filter<T>> {
        let filter = self.places.get_mut(id as usize)?.take()?;
        self.len -= 1;
        Some(filter)
    }

    /// Whether there are so many that what is not fetched early is waited for.
    #[inline]
    pub(super) fn are_far(&self) -> bool {
        self.places.len() > NEAR_PLACES_MAX
    }

    /// Has the processor fetch a filter.
    #[inline]
    pub(super) fn fetch(&self, id: ValueId) {
        fetch(&self.places[id as usize]);
    }

    /// Has the processor fetch the places where a filter of this key is expected.
    #[inline]
    pub(super) fn fetch_expected(&self, key: u64) {
        if !self.places.is_empty() {
            for place in self.expected(key) {
                fetch(&self.places[place]);
            }
        }
    }

    /// Places in the order of keys, so that to put all of them into more places goes through memory in order, mostly.
    #[inline]
    fn expected(&self, key: u64) -> [usize; 2] {
        let place = |key: u64| ((u128::from(key) * self.places.len() as u128) >> 64) as usize;
        [place(key), place(key.rotate_left(32))]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Subscribers;
    use super::*;

    fn filter(value: u64) -> Filter<u64> {
        Filter { text: Text::new(), next: None, value }
    }

    #[test]
    fn a_filter_with_its_subscribers_takes_a_line_and_a_half() {
        assert_eq!(std::mem::size_of::<Option<Filter<Subscribers>>>(), 96);
    }

    #[test]
    fn most_filters_are_where_they_are_expected() {
        let mut filters = Filters::with_places(10_000);
        let mut expected = 0;
        let mut key = 1_u64;
        while filters.places_wanted().is_none() {
            key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
            let id = filters.put(key, filter(key));
            assert_eq!(filters.get(id).map(|filter| filter.value), Some(key));
            expected += usize::from(filters.expected(key).contains(&(id as usize)));
        }
        assert_eq!(filters.len(), 8_500);
        assert!(expected > 8_500 * 70 / 100, "{expected}");
    }

    #[test]
    fn filters_of_one_key_all_find_a_place() {
        let mut filters = Filters::with_places(100);
        let ids: Vec<ValueId> = (0..85).map(|value| filters.put(u64::MAX, filter(value))).collect();
        assert!(filters.places_wanted().is_some());
        for (value, id) in ids.into_iter().enumerate() {
            assert_eq!(filters.take(id).map(|filter| filter.value), Some(value as u64));
        }
        assert_eq!((filters.len(), filters.iter().count()), (0, 0));
    }
}
