//! From a topic to the filters that match it, at the cost of the topic's depth.
//!
//! The trie has no nodes that point at each other. What leads to a filter is its *prefixes*: those of `a/+/b/#` are nothing at
//! all, `a`, `a/+` and `a/+/b`. Each has a *key*, the key of the prefix before it mixed with a hash of its last level,
//! and [`Prefixes`] is one flat table from keys to how a filter can go on from there. So the keys of all prefixes of a topic are
//! known before any is looked up, and the processor is asked to fetch them all at once; among millions of filters,
//! what costs is not to read memory but to wait for one read in order to know the next.
//!
//! - A filter without wildcards is found by the key of the whole topic. Nothing leads to it. Where there are no others, it
//!   is fetched together with the table's line, and all that is to be waited for are these two, at the same time.
//! - The others are found by a walk: from a prefix that matches, on to the topic's next level as long as a filter goes on
//!   there. Where one goes on with `+`, another walk begins behind it, and its keys are fetched meanwhile. A walk
//!   reads no prefix but those of filters, and rarely one more at its end; so filters can make it no longer than they are
//!   many. What leads nowhere is known without reading it ([`Prefixes::may_lead`]).
//! - Topics that begin with `$` have prefixes of their own, among which none begins with a wildcard ([MQTT-4.7.2-1]).
//!
//! Keys are not the truth: two prefixes may have the same one, and then share what is known of them. What a walk finds is
//! compared with the topic itself before it is called a match; no choice of keys can make an answer wrong, and
//! the seed of the hash ([`seed_hashes`](crate::identity::seed_hashes)) keeps others from making many alike.
//!
//! Where a filter is kept ([`Filters`]) follows from its key, mostly, so that it can be fetched before the table has said
//! where it is. An answer can be remembered by [`ValueId`] until the filters are moved ([`Trie::moves`]).

use std::{iter, mem};

use smallvec::SmallVec;

use super::filters::{Filter, Filters, Text, ValueId};
use super::levels::{for_each_level, literal_run, matches};
use super::prefixes::{PLUS, Prefix, Prefixes, REST};
use crate::identity::HashSeed;

/// How many levels of a walk are fetched ahead: more than most topics have.
const FETCHED_LEVELS: usize = 8;

/// Filters and what is kept at each.
#[derive(Clone, Debug)]
pub struct Trie<T> {
    keys: Keys,
    prefixes: Prefixes,
    filters: Filters<T>,
    /// How often filters were given other numbers.
    moves: u64,
}

/// The filters, each the first of its key, at which walks end.
type Candidates = SmallVec<[ValueId; 8]>;

/// The keys of the prefixes of a filter or topic, the shortest first: one more than there are levels.
type Path = SmallVec<[u64; 16]>;

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Trie { keys: Keys::new(), prefixes: Prefixes::default(), filters: Filters::with_places(0), moves: 0 }
    }
}

impl<T> Trie<T> {
    /// A trie without filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is kept at exactly `filter`.
    pub fn get(&self, filter: &str) -> Option<&T> {
        self.value(self.find(filter)?)
    }

    /// What is kept at exactly `filter`, to change.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut T> {
        let id = self.find(filter)?;
        self.filters.get_mut(id).map(|filter| &mut filter.value)
    }

    /// How often filters were given other numbers: what was remembered by [`ValueId`] before that means nothing now.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// What is kept under a number that [`Trie::for_each_match`] gave.
    pub fn value(&self, id: ValueId) -> Option<&T> {
        self.filters.get(id).map(|filter| &filter.value)
    }

    /// What is kept at `filter`, made if it is new (the flag says so).
    pub fn entry(&mut self, filter: &str, make: impl FnOnce() -> T) -> (ValueId, &mut T, bool) {
        let known = self.find(filter);
        let id = known.unwrap_or_else(|| self.add(filter, make()));
        match self.filters.get_mut(id) {
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
        let id = self.find(filter)?;
        let path = self.keys.path(filter);
        let end = path[path.len() - 1];
        let first = self.prefixes.get(end)?.filter();
        let before = self.alike(first).find(|(_, filter)| filter.next == Some(id)).map(|(before, _)| before);
        let Filter { next, value, .. } = self.filters.take(id)?;
        match before.and_then(|before| self.filters.get_mut(before)) {
            Some(before) => before.next = next,
            None => self.prefixes.entry(end).set_filter(next),
        }
        self.forget(filter, &path);
        Some(value)
    }

    /// Visits what is kept at every filter that matches `topic`, a topic name without wildcards. The order means
    /// nothing: it depends on the seed of the hash.
    pub fn for_each_match<'t>(&'t self, topic: &str, mut visit: impl FnMut(ValueId, &'t T)) {
        for first in self.candidates(topic) {
            for (id, filter) in self.alike(Some(first)) {
                if matches(&filter.text, topic.as_bytes()) {
                    visit(id, &filter.value);
                }
            }
        }
    }

    /// Visits every filter and what is kept there, in an order that means nothing: it depends on the seed of the hash.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &T)) {
        for filter in self.filters.iter() {
            // It came as text.
            if let Ok(text) = str::from_utf8(&filter.text) {
                visit(text, &filter.value);
            }
        }
    }

    /// The filters of one key, of which this is the first.
    fn alike(&self, first: Option<ValueId>) -> impl Iterator<Item = (ValueId, &Filter<T>)> {
        let with_id = |id| self.filters.get(id).map(|filter| (id, filter));
        iter::successors(first.and_then(with_id), move |(_, filter)| filter.next.and_then(with_id))
    }

    /// The filters, each the first of its key, at which walks of `topic` end; each once.
    fn candidates(&self, topic: &str) -> Candidates {
        let root = self.keys.root(topic);
        let mut hashes: SmallVec<[u64; 16]> = SmallVec::new();
        let mut whole = root;
        for_each_level(topic, |level| {
            let hash = self.keys.seed.hash(level);
            whole = self.keys.below(whole, hash);
            hashes.push(hash);
        });
        let far = self.filters.are_far();
        if far {
            self.prefixes.fetch(whole);
        }
        let mut found = Candidates::new();
        if !self.prefixes.may_lead(root) {
            if far {
                self.filters.fetch_expected(whole);
            }
            self.note(self.prefixes.get(whole), &mut found);
            return found;
        }

        // What is still to be walked; a topic's depth is the client's choice, so this is no recursion.
        let mut walks: SmallVec<[(u64, usize); 16]> = SmallVec::new();
        walks.push((root, 0));
        if far {
            self.fetch_walk(root, &hashes);
        }
        let mut begun = 0;
        while let Some(&(mut key, mut depth)) = walks.get(begun) {
            begun += 1;
            while self.prefixes.may_lead(key)
                && let Some(prefix) = self.prefixes.get(key)
            {
                // `#` also stands for the level above it (section 4.7.1.2).
                if prefix.has(REST) {
                    self.note(self.prefixes.get(self.keys.below(key, self.keys.rest)), &mut found);
                }
                let Some(level) = hashes.get(depth) else {
                    self.note(Some(prefix), &mut found);
                    break;
                };
                depth += 1;
                if prefix.has(PLUS) {
                    let plus = self.keys.below(key, self.keys.plus);
                    walks.push((plus, depth));
                    if far {
                        self.fetch_walk(plus, &hashes[depth..]);
                    }
                }
                if !prefix.goes_on() {
                    break;
                }
                key = self.keys.below(key, *level);
            }
            // After the first walk its line has come; the filter comes during the others.
            if begun == 1 {
                self.note(self.prefixes.get(whole), &mut found);
            }
        }
        // Two walks with the same keys, or the first and the whole topic, may have ended at the same.
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    fn fetch_walk(&self, mut key: u64, levels: &[u64]) {
        self.prefixes.fetch(key);
        for level in &levels[..levels.len().min(FETCHED_LEVELS)] {
            key = self.keys.below(key, *level);
            if !self.prefixes.may_lead(key) {
                return;
            }
            self.prefixes.fetch(key);
        }
    }

    #[inline]
    fn note(&self, end: Option<&Prefix>, found: &mut Candidates) {
        if let Some(id) = end.and_then(Prefix::filter) {
            if self.filters.are_far() {
                self.filters.fetch(id);
            }
            found.push(id);
        }
    }

    fn find(&self, filter: &str) -> Option<ValueId> {
        let path = self.keys.path(filter);
        let first = self.prefixes.get(path[path.len() - 1])?.filter();
        self.alike(first).find(|(_, known)| *known.text == *filter.as_bytes()).map(|(id, _)| id)
    }

    /// Adds a filter that is not there, and what leads to it.
    fn add(&mut self, text: &str, value: T) -> ValueId {
        if let Some(places) = self.filters.places_wanted() {
            self.move_filters(places);
        }
        let path = self.keys.path(text);
        let key = path[path.len() - 1];
        let end = self.prefixes.entry(key);
        let id = self.filters.put(key, Filter { text: Text::from_slice(text.as_bytes()), next: end.filter(), value });
        end.set_filter(Some(id));
        if has_wildcard(text) {
            self.prefixes.end(key);
            let mut keys = path.iter();
            for_each_level(text, |level| {
                if let Some(key) = keys.next() {
                    self.prefixes.go_on(*key, flag(level));
                }
            });
        }
        id
    }

    /// Puts all filters into so many places.
    fn move_filters(&mut self, places: usize) {
        let mut filters = Filters::with_places(places);
        for (key, first) in self.prefixes.ends_mut() {
            let (mut from, mut to) = (Some(*first), None);
            while let Some(mut filter) = from.and_then(|id| self.filters.take(id)) {
                from = mem::replace(&mut filter.next, to);
                to = Some(filters.put(key, filter));
            }
            *first = to.unwrap_or(*first);
        }
        self.filters = filters;
        self.moves += 1;
    }

    /// Removes what led to a filter that is no longer there, where nothing else needs it.
    fn forget(&mut self, text: &str, path: &Path) {
        let mut gone = self.remove_unused(path[path.len() - 1]);
        if !has_wildcard(text) {
            return;
        }
        let mut flags: SmallVec<[u32; 16]> = SmallVec::new();
        for_each_level(text, |level| flags.push(flag(level)));
        for (key, flag) in path.iter().zip(flags).rev() {
            if let Some(prefix) = self.prefixes.get_mut(*key) {
                prefix.take(if gone { flag } else { 0 });
            }
            gone = self.remove_unused(*key);
        }
    }

    /// Whether nothing needed it.
    fn remove_unused(&mut self, key: u64) -> bool {
        let unused = self.prefixes.get(key).is_none_or(|prefix| prefix.is_unused());
        if unused {
            self.prefixes.remove(key);
        }
        unused
    }

    #[cfg(test)]
    pub(super) fn prefixes_used(&self) -> usize {
        self.prefixes.len()
    }

    #[cfg(test)]
    pub(super) fn prefix_places(&self) -> usize {
        self.prefixes.places()
    }

    /// A trie in which there are only so many keys, so that prefixes share them.
    #[cfg(test)]
    pub(super) fn with_few_keys(count: u64) -> Self {
        Trie { keys: Keys { few: count, ..Keys::new() }, ..Self::default() }
    }
}

fn flag(level: &[u8]) -> u32 {
    match level {
        b"+" => PLUS,
        b"#" => REST,
        _ => 0,
    }
}

fn has_wildcard(filter: &str) -> bool {
    literal_run(filter).1.is_some()
}

/// How keys are made.
#[derive(Clone, Debug)]
struct Keys {
    seed: &'static HashSeed,
    root: u64,
    dollar_root: u64,
    /// The hashes of the wildcards' levels.
    plus: u64,
    rest: u64,
    #[cfg(test)]
    few: u64,
}

impl Keys {
    fn new() -> Keys {
        let seed = HashSeed::get();
        Keys {
            seed,
            root: seed.hash(b"/"),
            dollar_root: seed.hash(b"/$"),
            plus: seed.hash(b"+"),
            rest: seed.hash(b"#"),
            #[cfg(test)]
            few: u64::MAX,
        }
    }

    /// The key of the prefix that has no level yet.
    fn root(&self, text: &str) -> u64 {
        if text.as_bytes().first() == Some(&b'$') { self.dollar_root } else { self.root }
    }

    /// The key of the prefix that is longer by a level with this hash.
    #[inline]
    fn below(&self, key: u64, level: u64) -> u64 {
        let product = u128::from(key ^ level) * u128::from(MIX);
        let key = product as u64 ^ (product >> 64) as u64;
        #[cfg(test)]
        let key = key % self.few;
        key.max(1)
    }

    fn path(&self, text: &str) -> Path {
        let mut path = Path::new();
        let mut key = self.root(text);
        path.push(key);
        for_each_level(text, |level| {
            key = self.below(key, self.seed.hash(level));
            path.push(key);
        });
        path
    }
}

/// Arbitrary, odd, its bits half ones.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
