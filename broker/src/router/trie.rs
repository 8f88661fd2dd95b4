//! From a topic to the filters that match it, at the cost of the topic's depth.
//!
//! The trie has no nodes that point at each other. What leads to a filter is its *prefixes*: those of `a/+/b/#` are nothing at
//! all, `a`, `a/+` and `a/+/b`. Each has a *key*, the key of the prefix before it mixed with a hash of its last level
//! ([`Keys`]), and so has the filter itself. Among millions of filters, what costs is not to read memory but to wait for one
//! read in order to know the next. So what a match reads follows from keys, and is fetched before it is known whether it will
//! be needed.
//!
//! - A filter without wildcards has the key of the whole topic. Nothing leads to it. Its tag and the places where it is
//!   expected are fetched together ([`Filters`](super::filters::Filters)).
//! - The others are found level by level: from a prefix that matches, on to the topic's next level or to `+` as long as
//!   a filter goes on there. [`Leading`] says whether one does, so nothing is read of prefixes but a word of bits each, and
//!   where a walk begins, the words of its prefixes are fetched at once. It says yes by chance so rarely
//!   that walks end soon where no filter goes on: filters can make a match no longer than they are many.
//! - Topics that begin with `$` have prefixes of their own, among which none begins with a wildcard ([MQTT-4.7.2-1]).
//!
//! Keys are not the truth: two prefixes may have the same one. What is found is compared with the topic itself before it is
//! called a match; no choice of keys can make an answer wrong, and the seed of the hash
//! ([`seed_hashes`](crate::identity::seed_hashes)) keeps others from making many alike.
//!
//! Filters, and what is to be known of prefixes when filters go, lie in [`Segments`], which grow one at a time. An answer can be
//! remembered by [`ValueId`] until filters are moved ([`Trie::moves`]).

use std::mem;
use std::num::NonZeroU64;

use smallvec::SmallVec;

use super::filters::{Filter, Text};
use super::hints::fetch;
use super::keys::{Keys, Path};
use super::leading::{Leading, Mark};
use super::levels::{for_each_level, literal_run, matches};
use super::segments::{SEGMENT_MAX, Segments, ValueId};

/// How many levels of a walk are fetched ahead: more than most topics have.
const FETCHED_LEVELS: usize = 8;

/// Filters and what is kept at each.
#[derive(Clone, Debug)]
pub struct Trie<T> {
    keys: Keys,
    leading: Leading,
    segments: Segments<T>,
    len: usize,
    /// How many prefixes lead to filters with wildcards.
    prefixes: usize,
}

/// Filters that may match.
type Candidates = SmallVec<[ValueId; 8]>;

/// The processor's cache has nearly all of so many, and to fetch early costs more than it saves.
const NEAR_MAX: usize = if cfg!(test) { 8 } else { 4096 };

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Trie {
            keys: Keys::new(),
            leading: Leading::default(),
            segments: Segments::new(SEGMENT_MAX),
            len: 0,
            prefixes: 0,
        }
    }
}

impl<T> Trie<T> {
    /// A trie without filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is kept at exactly `filter`.
    pub fn get(&self, filter: &str) -> Option<&T> {
        self.value(self.find(filter, self.keys.whole(filter))?)
    }

    /// What is kept at exactly `filter`, to change.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut T> {
        let id = self.find(filter, self.keys.whole(filter))?;
        self.segments.get_mut(id).map(|filter| &mut filter.value)
    }

    /// How often a filter was given another number: what was remembered by [`ValueId`] before that means nothing now.
    pub fn moves(&self) -> u64 {
        self.segments.moves()
    }

    /// What is kept under a number that [`Trie::for_each_match`] gave.
    pub fn value(&self, id: ValueId) -> Option<&T> {
        self.segments.get(id).map(|filter| &filter.value)
    }

    /// What is kept at `filter`, made if it is new (the flag says so).
    pub fn entry(&mut self, filter: &str, make: impl FnOnce() -> T) -> (ValueId, &mut T, bool) {
        let key = self.keys.whole(filter);
        let known = self.find(filter, key);
        let id = known.unwrap_or_else(|| self.add(filter, key, make()));
        match self.segments.get_mut(id) {
            Some(kept) => (id, &mut kept.value, known.is_none()),
            None => unreachable!("a filter that is found has a place"),
        }
    }

    /// Sets what is kept at `filter`; returns what was there.
    pub fn insert(&mut self, filter: &str, value: T) -> Option<T> {
        let mut value = Some(value);
        let (_, kept, _) = self.entry(filter, || value.take().expect("made at most once"));
        value.map(|value| mem::replace(kept, value))
    }

    /// Removes `filter`; returns what was kept there.
    pub fn remove(&mut self, filter: &str) -> Option<T> {
        let id = self.find(filter, self.keys.whole(filter))?;
        let Filter { value, .. } = self.segments.take(id)?;
        self.len -= 1;
        if has_wildcard(filter) {
            self.unlead(filter);
        }
        Some(value)
    }

    /// Visits what is kept at every filter that matches `topic`, a topic name without wildcards. The order means
    /// nothing: it depends on the seed of the hash.
    pub fn for_each_match<'t>(&'t self, topic: &str, mut visit: impl FnMut(ValueId, &'t T)) {
        for id in self.candidates(topic) {
            if let Some(filter) = self.segments.get(id)
                && matches(&filter.text, topic.as_bytes())
            {
                visit(id, &filter.value);
            }
        }
    }

    /// Visits every filter and what is kept there, in an order that means nothing: it depends on the seed of the hash.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &T)) {
        for filter in self.segments.iter().flat_map(|segment| segment.filters.iter()) {
            // It came as text.
            if let Ok(text) = str::from_utf8(&filter.text) {
                visit(text, &filter.value);
            }
        }
    }

    /// The filters, each once, that may match `topic`: all that do, and hardly any other.
    fn candidates(&self, topic: &str) -> Candidates {
        let root = self.keys.root(topic);
        let mut hashes: SmallVec<[u64; 16]> = SmallVec::new();
        let mut whole = root;
        for_each_level(topic, |level| {
            let hash = self.keys.level(level);
            whole = self.keys.below(whole, hash);
            hashes.push(hash);
        });
        let mut found = Candidates::new();
        let far = self.len > NEAR_MAX;
        if far {
            self.segments.of(whole).filters.fetch(whole);
        }
        if !self.leading.has(root, Mark::Leads) {
            self.note(whole, &mut found);
            return found;
        }
        if far {
            self.fetch_walk(root, &hashes);
        }

        // Prefixes that match, level by level; those of the last level begin with `next`.
        let mut prefixes: SmallVec<[u64; 32]> = SmallVec::new();
        let mut next = 0;
        prefixes.push(root);
        for (depth, hash) in hashes.iter().enumerate() {
            let of_level = next..prefixes.len();
            next = of_level.end;
            for at in of_level {
                let key = prefixes[at];
                // `#` also stands for the level above it (section 4.7.1.2).
                if self.leading.has(key, Mark::Rest) {
                    self.note(self.keys.below(key, self.keys.rest), &mut found);
                }
                if self.leading.has(key, Mark::Plus) {
                    let plus = self.keys.below(key, self.keys.plus);
                    prefixes.push(plus);
                    if far {
                        self.leading.fetch(plus);
                        self.fetch_walk(plus, &hashes[depth + 1..]);
                    }
                }
                let literal = self.keys.below(key, *hash);
                if self.leading.has(literal, Mark::Leads) {
                    prefixes.push(literal);
                }
            }
        }
        self.note(whole, &mut found);
        for key in &prefixes[next..] {
            if self.leading.has(*key, Mark::Rest) {
                self.note(self.keys.below(*key, self.keys.rest), &mut found);
            }
            self.note(*key, &mut found);
        }
        // Two prefixes with the same key are one end, and so is the whole topic with one.
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    fn fetch_walk(&self, mut key: u64, levels: &[u64]) {
        for level in &levels[..levels.len().min(FETCHED_LEVELS)] {
            key = self.keys.below(key, *level);
            self.leading.fetch(key);
        }
    }

    /// Notes the filters that may have this key.
    #[inline]
    fn note(&self, key: u64, found: &mut Candidates) {
        self.segments.for_each_of(key, |id, filter| {
            fetch(filter);
            found.push(id);
        });
    }

    fn find(&self, filter: &str, key: u64) -> Option<ValueId> {
        self.segments.with_key(key).find(|(_, known)| *known.text == *filter.as_bytes()).map(|(id, _)| id)
    }

    /// Adds a filter that is not there, and what leads to it.
    fn add(&mut self, text: &str, key: u64, value: T) -> ValueId {
        if has_wildcard(text) {
            self.lead(text);
        }
        self.len += 1;
        let key = NonZeroU64::new(key).expect("no level has the key 0");
        let id = self.segments.put(Filter { text: Text::from_slice(text.as_bytes()), key, value });
        self.tidy();
        id
    }

    /// Adds what leads to a filter.
    fn lead(&mut self, text: &str) {
        let path = self.keys.path(text);
        self.prefixes += path.iter().filter(|key| self.segments.need(**key)).count();
        self.mark(path[0], Mark::Leads);
        for_each_mark(text, &path, |key, mark| {
            self.mark(key, mark);
        });
    }

    fn mark(&mut self, key: u64, mark: Mark) {
        self.segments.of_mut(key).prefixes.mark(key, mark);
        self.leading.put(key, mark);
        self.tidy();
    }

    /// Removes what led to a filter that is no longer there, where nothing else needs it.
    fn unlead(&mut self, text: &str) {
        let path = self.keys.path(text);
        let mut wildcards: SmallVec<[Option<Mark>; 16]> = SmallVec::new();
        for_each_level(text, |level| wildcards.push(wildcard(level)));
        wildcards.push(None);
        let mut gone = false;
        for (key, wildcard) in path.iter().zip(wildcards).rev() {
            let prefixes = &mut self.segments.of_mut(*key).prefixes;
            if let Some(mark) = wildcard
                && gone
            {
                prefixes.unmark(*key, mark);
            }
            gone = prefixes.release(*key);
            self.prefixes -= usize::from(gone);
        }
        self.tidy();
    }

    /// Does a little of what keeps the marks few.
    fn tidy(&mut self) {
        self.leading.fit(self.prefixes, self.segments.places());
        if let Some(key) = self.leading.unclear() {
            self.leading.clear(self.segments.keys(key), self.segments.of(key).prefixes.marks());
        }
    }

    #[cfg(test)]
    pub(super) fn prefixes_used(&self) -> usize {
        assert_eq!(self.prefixes, self.segments.iter().map(|segment| segment.prefixes.len()).sum::<usize>());
        self.prefixes
    }

    #[cfg(test)]
    pub(super) fn prefix_places(&self) -> usize {
        self.segments.iter().map(|segment| segment.prefixes.places()).sum()
    }

    /// Whether a filter may go on from `prefix`.
    #[cfg(test)]
    pub(super) fn leads(&self, prefix: &str) -> bool {
        self.leading.has(self.keys.whole(prefix), Mark::Leads)
    }

    /// A trie in which there are only so many keys, so that prefixes share them, and segments of so many.
    #[cfg(test)]
    pub(super) fn with_few_keys(count: u64, segment_max: usize) -> Self {
        let keys = Keys::few(count);
        Trie { keys, segments: Segments::new(segment_max), ..Self::default() }
    }
}

/// Visits the marks that lead to a filter with wildcards, of which `path` has the keys.
fn for_each_mark(text: &str, path: &Path, mut visit: impl FnMut(u64, Mark)) {
    let mut keys = path.windows(2);
    for_each_level(text, |level| {
        if let Some(&[above, below]) = keys.next() {
            match wildcard(level) {
                Some(mark) => visit(above, mark),
                None => visit(below, Mark::Leads),
            }
        }
    });
}

/// How a prefix is marked that goes on with this level, if it is a wildcard.
fn wildcard(level: &[u8]) -> Option<Mark> {
    match level {
        b"+" => Some(Mark::Plus),
        b"#" => Some(Mark::Rest),
        _ => None,
    }
}

fn has_wildcard(filter: &str) -> bool {
    literal_run(filter).1.is_some()
}
