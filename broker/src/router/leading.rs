//! What leads to filters with wildcards, in so few bits that the processor's cache has them.
//!
//! A Bloom filter: of each prefix that leads to such a filter, it has *marks*, each two bits of the word that the prefix's key
//! names. So a match learns all that it wants to know of a prefix from one word. A mark that is not there is the truth.
//! One that is there is so hardly ever by chance, and then costs a look at where no filter is, never an answer.
//!
//! A key's word follows from its highest bits. So twice the words are each word twice, half of them two in one, and
//! what is no longer true can be cleared segment by segment, a little with every change.

use std::ops::RangeInclusive;

use super::hints::{fetch, prefer_huge_pages};

/// What is said of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Filters with wildcards begin with it, or are it, and its last level is none. Of others, the next two tell.
    Leads = 1,
    /// One goes on with `+`.
    Plus = 2,
    /// One goes on with `#`.
    Rest = 4,
}

impl Mark {
    pub(super) const ALL: [Mark; 3] = [Mark::Leads, Mark::Plus, Mark::Rest];

    /// Its two bits. No bit of the key that they follow from names the key's word.
    #[inline]
    fn bits(self, key: u64) -> u64 {
        let key = match self {
            Mark::Leads => key,
            Mark::Plus => key >> 12,
            Mark::Rest => key >> 24,
        };
        1 << (key & 63) | 1 << (key >> 6 & 63)
    }
}

/// Marks of prefixes.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    /// A power of two of them, two at least.
    words: Vec<u64>,
    /// How far right a key is to be shifted to become the number of its word.
    shift: u32,
    /// How often a mark was put that was not there.
    put: usize,
    /// From this key on, words may have marks that nothing needs any more.
    unclear: Option<u64>,
}

/// More marks than this for each word are too often there by chance.
const MARKS_PER_WORD_MAX: usize = 8;

impl Default for Leading {
    fn default() -> Self {
        Leading { words: vec![0; 2], shift: 63, put: 0, unclear: None }
    }
}

impl Leading {
    #[inline]
    pub(super) fn has(&self, key: u64, mark: Mark) -> bool {
        let bits = mark.bits(key);
        self.words[(key >> self.shift) as usize] & bits == bits
    }

    /// Has the processor fetch the word of `key`.
    #[inline]
    pub(super) fn fetch(&self, key: u64) {
        fetch(&self.words[(key >> self.shift) as usize]);
    }

    pub(super) fn put(&mut self, key: u64, mark: Mark) {
        let word = &mut self.words[(key >> self.shift) as usize];
        let bits = mark.bits(key);
        self.put += usize::from(*word & bits != bits);
        *word |= bits;
    }

    /// Has as many words as there should be for so many prefixes, each of which has been put with about one mark, and for
    /// so many segments.
    pub(super) fn fit(&mut self, prefixes: usize, segments: usize) {
        let words = self.words.len();
        if words < segments {
            self.double();
        } else if self.put > words * MARKS_PER_WORD_MAX {
            if prefixes > words * MARKS_PER_WORD_MAX / 2 {
                self.double();
            }
            self.clear_all();
        } else if prefixes < words / 2 && words > segments && words > 2 {
            self.halve();
            self.clear_all();
        }
    }

    fn clear_all(&mut self) {
        self.put = 0;
        self.unclear = Some(0);
    }

    /// From this key on, words may have marks that nothing needs any more.
    pub(super) fn unclear(&self) -> Option<u64> {
        self.unclear
    }

    /// Clears the words of a range of keys but for these marks; the keys from `unclear` on are the next.
    pub(super) fn clear(&mut self, keys: RangeInclusive<u64>, marks: impl Iterator<Item = (u64, Mark)>) {
        let (first, last) = ((keys.start() >> self.shift) as usize, (keys.end() >> self.shift) as usize);
        self.words[first..=last].fill(0);
        for (key, mark) in marks {
            self.put(key, mark);
        }
        self.unclear = keys.end().checked_add(1);
    }

    fn double(&mut self) {
        let mut words = Vec::with_capacity(2 * self.words.len());
        prefer_huge_pages(&words);
        words.extend(self.words.iter().flat_map(|word| [*word, *word]));
        self.words = words;
        self.shift -= 1;
    }

    fn halve(&mut self) {
        self.words = self.words.chunks_exact(2).map(|pair| pair[0] | pair[1]).collect();
        self.shift += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn found(leading: &Leading, numbers: std::ops::Range<u64>) -> usize {
        numbers.filter(|number| leading.has(key(*number), Mark::Plus)).count()
    }

    #[test]
    fn all_marks_are_there_and_hardly_any_other() {
        let mut leading = Leading::default();
        for number in 0..50_000 {
            leading.put(key(number), Mark::Plus);
            leading.fit(number as usize + 1, 1);
            if leading.unclear().is_some() {
                leading.clear(0..=u64::MAX, (0..=number).map(|number| (key(number), Mark::Plus)));
            }
        }
        assert_eq!(found(&leading, 0..50_000), 50_000);
        let others = found(&leading, 50_000..100_000);
        assert!(others < 5_000, "{others}");
        assert!((0..50_000).filter(|number| leading.has(key(*number), Mark::Rest)).count() < 5_000);
    }

    #[test]
    fn half_the_words_have_all_marks_and_a_part_is_cleared_alone() {
        let mut leading = Leading::default();
        for _ in 0..10 {
            leading.double();
        }
        for number in 0..1_000 {
            leading.put(key(number), Mark::Plus);
        }
        leading.halve();
        assert_eq!(found(&leading, 0..1_000), 1_000);
        let half = u64::MAX / 2;
        leading.clear(0..=half, std::iter::empty());
        assert_eq!(leading.unclear(), Some(half + 1));
        for number in 0..1_000 {
            assert_eq!(leading.has(key(number), Mark::Plus), key(number) > half);
        }
    }
}
