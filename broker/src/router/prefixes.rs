//! What is known of a segment's prefixes: how many filters with wildcards need each, and its marks. Matches read the marks alone,
//! and those elsewhere, in [`Leading`](super::leading::Leading), which is made of this.

use super::leading::Mark;
use crate::identity::Map;

/// What is known of all prefixes with one key.
#[derive(Clone, Copy, Debug, Default)]
struct Prefix {
    /// How many filters with wildcards begin with it, or are it.
    filters: u32,
    /// The bits of its marks.
    marks: u8,
}

/// Keys and what is known of their prefixes.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes(Map<u64, Prefix>);

impl Prefixes {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// One more filter needs this prefix. True if it is the first.
    pub(super) fn need(&mut self, key: u64) -> bool {
        let prefix = self.0.entry(key).or_default();
        prefix.filters += 1;
        prefix.filters == 1
    }

    /// One filter less needs this prefix. True if it was the last.
    pub(super) fn release(&mut self, key: u64) -> bool {
        let Some(prefix) = self.0.get_mut(&key) else { return false };
        prefix.filters -= 1;
        if prefix.filters > 0 {
            return false;
        }
        self.0.remove(&key);
        if self.0.len() * 8 < self.0.capacity() {
            self.0.shrink_to(self.0.len() * 2);
        }
        true
    }

    /// Marks a prefix that is needed.
    pub(super) fn mark(&mut self, key: u64, mark: Mark) {
        if let Some(prefix) = self.0.get_mut(&key) {
            prefix.marks |= mark as u8;
        }
    }

    /// Takes a mark from a prefix, if it is needed still.
    pub(super) fn unmark(&mut self, key: u64, mark: Mark) {
        if let Some(prefix) = self.0.get_mut(&key) {
            prefix.marks &= !(mark as u8);
        }
    }

    /// All marks.
    pub(super) fn marks(&self) -> impl Iterator<Item = (u64, Mark)> {
        let marks_of = |(key, prefix): (&u64, &Prefix)| {
            let (key, marks) = (*key, prefix.marks);
            Mark::ALL.into_iter().filter(move |mark| marks & *mark as u8 != 0).map(move |mark| (key, mark))
        };
        self.0.iter().flat_map(marks_of)
    }

    /// Takes out the prefixes that `chosen` chooses by their keys.
    pub(super) fn split_off(&mut self, chosen: impl Fn(u64) -> bool) -> Prefixes {
        let taken = self.0.extract_if(|key, _| chosen(*key)).collect();
        self.0.shrink_to_fit();
        Prefixes(taken)
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.0.capacity()
    }
}
