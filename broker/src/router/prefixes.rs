//! One flat table of what is known of prefixes, found by their keys.
//!
//! Sixteen bytes a prefix, four to a line of the processor's cache. A prefix lies in the line that its key names, or, when
//! that is full, in one of the next: nearly always one line is read, and a caller that knows a key early asks for its line
//! early ([`Prefixes::fetch`]), so that many keys cost the time of one.
//!
//! Most keys that are asked for lead nowhere. A second, much smaller table ([`Leading`]) says so of nearly all of them
//! without a look at the first. Deliberately absent: what a key is made of.

use super::filters::ValueId;
use super::hints::{fetch, prefer_huge_pages};

/// What is known of all prefixes with one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prefix {
    /// Never 0, which stands for an empty place.
    key: u64,
    /// The first of the filters that end here, or [`NONE`].
    filter: ValueId,
    /// How many filters with wildcards go on from here, times [`ONE`]; and [`PLUS`], [`REST`], [`END`].
    below: u32,
}

/// No filter.
const NONE: ValueId = ValueId::MAX;

/// A filter goes on with `+`.
pub(super) const PLUS: u32 = 1;
/// A filter goes on with `#`.
pub(super) const REST: u32 = 2;
/// A filter with wildcards has ended here since the last time that none did.
const END: u32 = 4;
/// One filter that goes on.
const ONE: u32 = 8;

impl Prefix {
    /// The first of the filters that end here.
    pub(super) fn filter(&self) -> Option<ValueId> {
        (self.filter != NONE).then_some(self.filter)
    }

    pub(super) fn set_filter(&mut self, first: Option<ValueId>) {
        self.filter = first.unwrap_or(NONE);
        if first.is_none() {
            self.below &= !END;
        }
    }

    /// Whether any filter with wildcards goes on from here.
    pub(super) fn goes_on(&self) -> bool {
        self.below >= ONE
    }

    /// Whether a filter with wildcards goes on from here or ends here.
    fn leads(&self) -> bool {
        self.below != 0
    }

    /// Whether one goes on with the wildcard `flag`.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.below & flag != 0
    }

    /// One filter less goes on from here; `gone` is the wildcard with which none goes on any more (0: none).
    pub(super) fn take(&mut self, gone: u32) {
        let below = (self.below - ONE) & !gone;
        self.below = if below < ONE { below & END } else { below };
    }

    /// Whether nothing needs this prefix.
    pub(super) fn is_unused(&self) -> bool {
        self.below == 0 && self.filter == NONE
    }
}

const PREFIXES_PER_LINE: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line([Prefix; PREFIXES_PER_LINE]);

impl Line {
    /// The place of `key` in this line. Without branches, which could not be foretold.
    fn place(&self, key: u64) -> Option<usize> {
        let found =
            self.0.iter().enumerate().fold(0_u32, |found, (at, prefix)| found | u32::from(prefix.key == key) << at);
        (found != 0).then(|| found.trailing_zeros() as usize)
    }
}

/// Keys and what is known of their prefixes.
#[derive(Clone, Debug)]
pub(super) struct Prefixes {
    /// A power of two of them. No line before the one that a prefix lies in, from that which its key names on, has an
    /// empty place.
    lines: Vec<Line>,
    len: usize,
    leading: Leading,
}

impl Default for Prefixes {
    fn default() -> Self {
        Prefixes { lines: empty_lines(1), len: 0, leading: Leading::for_keys(0, 1) }
    }
}

impl Prefixes {
    /// Has the processor fetch the line of `key`, without waiting for it.
    pub(super) fn fetch(&self, key: u64) {
        fetch(&self.lines[self.home(key)]);
    }

    /// False where no filter with wildcards goes on or ends. True elsewhere, and sometimes where none does.
    #[inline]
    pub(super) fn may_lead(&self, key: u64) -> bool {
        self.leading.has(key)
    }

    /// One more filter goes on from `key`, with the wildcard `flag` (0: with a literal level).
    pub(super) fn go_on(&mut self, key: u64, flag: u32) {
        let prefix = self.entry(key);
        prefix.below = (prefix.below + ONE) | flag;
        self.lead(key);
    }

    /// A filter with wildcards ends at `key`.
    pub(super) fn end(&mut self, key: u64) {
        self.entry(key).below |= END;
        self.lead(key);
    }

    fn lead(&mut self, key: u64) {
        if !self.leading.put(key) {
            self.find_leading();
        }
    }

    /// Forgets keys that lead no more.
    fn find_leading(&mut self) {
        let prefixes = || self.lines.iter().flat_map(|line| &line.0).filter(|prefix| prefix.leads());
        let mut leading = Leading::for_keys(prefixes().count(), self.lines.len());
        for prefix in prefixes() {
            leading.put(prefix.key);
        }
        self.leading = leading;
    }

    /// The key and the first filter of each prefix at which one ends.
    pub(super) fn ends_mut(&mut self) -> impl Iterator<Item = (u64, &mut ValueId)> {
        let prefixes = self.lines.iter_mut().flat_map(|line| &mut line.0);
        prefixes
            .filter(|prefix| prefix.key != 0 && prefix.filter != NONE)
            .map(|prefix| (prefix.key, &mut prefix.filter))
    }

    pub(super) fn get(&self, key: u64) -> Option<&Prefix> {
        let (line, place) = self.find(key)?;
        Some(&self.lines[line].0[place])
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Prefix> {
        let (line, place) = self.find(key)?;
        Some(&mut self.lines[line].0[place])
    }

    /// What is known of `key`; a new one has no filter, and none goes on from it.
    pub(super) fn entry(&mut self, key: u64) -> &mut Prefix {
        let (line, place) = match self.find(key) {
            Some(found) => found,
            None => {
                // Three quarters full at most: else one line hardly ever suffices.
                if (self.len + 1) * 4 > self.lines.len() * PREFIXES_PER_LINE * 3 {
                    self.resize(self.lines.len() * 2);
                }
                self.len += 1;
                self.put(Prefix { key, filter: NONE, below: 0 })
            }
        };
        &mut self.lines[line].0[place]
    }

    pub(super) fn remove(&mut self, key: u64) {
        let Some(hole) = self.find(key) else { return };
        self.close(hole);
        self.len -= 1;
        if self.lines.len() > 1 && self.len * 8 < self.lines.len() * PREFIXES_PER_LINE {
            self.resize(self.lines.len() / 4);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.lines.len() * PREFIXES_PER_LINE
    }

    fn home(&self, key: u64) -> usize {
        ((u128::from(key) * self.lines.len() as u128) >> 64) as usize
    }

    fn next(&self, line: usize) -> usize {
        (line + 1) & (self.lines.len() - 1)
    }

    fn find(&self, key: u64) -> Option<(usize, usize)> {
        let mut line = self.home(key);
        loop {
            if let Some(place) = self.lines[line].place(key) {
                return Some((line, place));
            }
            // Places are filled from the first, and the last is emptied first.
            if self.lines[line].0[PREFIXES_PER_LINE - 1].key == 0 {
                return None;
            }
            line = self.next(line);
        }
    }

    /// Puts a prefix whose key is not there into the first empty place.
    fn put(&mut self, prefix: Prefix) -> (usize, usize) {
        let mut line = self.home(prefix.key);
        loop {
            if let Some(place) = self.lines[line].place(0) {
                self.lines[line].0[place] = prefix;
                return (line, place);
            }
            line = self.next(line);
        }
    }

    /// Empties a place, with what had to go to a later line for want of it.
    fn close(&mut self, (mut hole, mut place): (usize, usize)) {
        let last = PREFIXES_PER_LINE - 1;
        let mut line = hole;
        while self.lines[line].0[last].key != 0 {
            line = self.next(line);
            let distance = |from: usize| line.wrapping_sub(from) & (self.lines.len() - 1);
            let displaced = |prefix: &Prefix| prefix.key != 0 && distance(self.home(prefix.key)) >= distance(hole);
            if let Some(found) = self.lines[line].0.iter().rposition(displaced) {
                self.lines[hole].0[place] = self.lines[line].0[found];
                (hole, place) = (line, found);
            }
        }
        let line = &mut self.lines[hole].0;
        let end = line.iter().position(|prefix| prefix.key == 0).unwrap_or(PREFIXES_PER_LINE);
        line[place] = line[end - 1];
        line[end - 1] = Prefix::default();
    }

    fn resize(&mut self, lines: usize) {
        let old = std::mem::replace(&mut self.lines, empty_lines(lines.max(1)));
        for prefix in old.iter().flat_map(|line| &line.0).filter(|prefix| prefix.key != 0) {
            self.put(*prefix);
        }
        self.find_leading();
    }
}

/// The keys that lead somewhere, and a few more: two bits of a word for each (a Bloom filter). What is not here is read from the
/// processor's cache even if the prefixes are not.
#[derive(Clone, Debug)]
struct Leading {
    /// A power of two of them.
    words: Vec<u64>,
    /// How often a key was put that was not here.
    put: usize,
}

/// More keys than this for each word say too often that they may be there.
const KEYS_PER_WORD_MAX: usize = 8;
/// A word for so many lines at least: to find all keys again takes a look at every line, and must be worth it.
const LINES_PER_WORD: usize = 16;

impl Leading {
    /// With room for so many keys and as many again.
    fn for_keys(keys: usize, lines: usize) -> Leading {
        let count = (2 * keys / KEYS_PER_WORD_MAX).max(lines / LINES_PER_WORD).max(1).next_power_of_two();
        let mut words = Vec::with_capacity(count);
        prefer_huge_pages(&words);
        words.resize(count, 0);
        Leading { words, put: 0 }
    }

    /// The word of `key`, and its bits there: none of those that name its line among the prefixes.
    #[inline]
    fn place(&self, key: u64) -> (usize, u64) {
        ((key >> 12) as usize & (self.words.len() - 1), 1 << (key & 63) | 1 << (key >> 6 & 63))
    }

    #[inline]
    fn has(&self, key: u64) -> bool {
        let (word, bits) = self.place(key);
        self.words[word] & bits == bits
    }

    /// False if there are too many now.
    fn put(&mut self, key: u64) -> bool {
        let (word, bits) = self.place(key);
        if self.words[word] & bits != bits {
            self.words[word] |= bits;
            self.put += 1;
        }
        self.put <= self.words.len() * KEYS_PER_WORD_MAX
    }
}

fn empty_lines(count: usize) -> Vec<Line> {
    let mut lines = Vec::with_capacity(count);
    prefer_huge_pages(&lines);
    lines.resize(count, Line::default());
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys that name few lines, so that most prefixes lie in others.
        #[test]
        fn a_table_holds_what_was_put_into_it(
            steps in prop::collection::vec((1_u64..120, 0_u64..8, any::<bool>()), 1..300),
        ) {
            let mut table = Prefixes::default();
            let mut model = BTreeMap::new();
            for (number, (high, low, put)) in steps.into_iter().enumerate() {
                let key = low << 61 | high;
                if put {
                    table.entry(key).set_filter(Some(number as ValueId));
                    model.insert(key, number as ValueId);
                } else {
                    table.remove(key);
                    model.remove(&key);
                }
                prop_assert_eq!(table.len(), model.len());
                for (key, filter) in &model {
                    prop_assert_eq!(table.get(*key).and_then(Prefix::filter), Some(*filter));
                }
                prop_assert!(table.get(key).is_some() == put);
            }
        }
    }

    fn key(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn leading(table: &Prefixes, numbers: std::ops::Range<u64>) -> usize {
        numbers.filter(|number| table.may_lead(key(*number))).count()
    }

    #[test]
    fn all_that_leads_somewhere_is_known_and_hardly_anything_else() {
        let mut table = Prefixes::default();
        for number in 0..50_000 {
            match number % 2 {
                0 => table.go_on(key(number), PLUS),
                _ => table.end(key(number)),
            }
        }
        assert_eq!(leading(&table, 0..50_000), 50_000);
        let others = leading(&table, 50_000..100_000);
        assert!(others < 5_000, "{others}");
    }

    #[test]
    fn what_led_somewhere_once_is_forgotten() {
        let mut table = Prefixes::default();
        for number in 0..50_000 {
            table.go_on(key(number), 0);
            if let Some(prefix) = table.get_mut(key(number)) {
                prefix.take(0);
            }
            table.remove(key(number));
        }
        let others = leading(&table, 50_000..100_000);
        assert!(others < 5_000, "{others}");
    }
}
