//! The keys of prefixes: what they are is found by these numbers alone.

use smallvec::SmallVec;

use super::levels::for_each_level;
use crate::identity::HashSeed;

/// The keys of the prefixes of a filter, the shortest first: one more than there are levels.
pub(super) type Path = SmallVec<[u64; 16]>;

/// How keys are made.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    seed: &'static HashSeed,
    root: u64,
    dollar_root: u64,
    /// The hashes of the wildcards' levels.
    pub(super) plus: u64,
    pub(super) rest: u64,
    #[cfg(test)]
    few: u64,
}

impl Keys {
    pub(super) fn new() -> Keys {
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

    /// Only so many different ones.
    #[cfg(test)]
    pub(super) fn few(count: u64) -> Keys {
        Keys { few: count, ..Keys::new() }
    }

    /// The key of the prefix that has no level yet.
    pub(super) fn root(&self, text: &str) -> u64 {
        if text.as_bytes().first() == Some(&b'$') { self.dollar_root } else { self.root }
    }

    /// The hash of a level.
    #[inline]
    pub(super) fn level(&self, level: &[u8]) -> u64 {
        self.seed.hash(level)
    }

    /// The key of the prefix that is longer by a level with this hash, never 0.
    #[inline]
    pub(super) fn below(&self, key: u64, level: u64) -> u64 {
        let product = u128::from(key ^ level) * u128::from(MIX);
        let key = product as u64 ^ (product >> 64) as u64;
        // The highest bits tell these apart too.
        #[cfg(test)]
        let key = if self.few == u64::MAX { key } else { (key % self.few).rotate_right(3) };
        key.max(1)
    }

    /// The key of the whole of `text`.
    pub(super) fn whole(&self, text: &str) -> u64 {
        let mut key = self.root(text);
        for_each_level(text, |level| key = self.below(key, self.level(level)));
        key
    }

    /// The keys of all prefixes of `text`, and itself.
    pub(super) fn path(&self, text: &str) -> Path {
        let mut path = Path::new();
        let mut key = self.root(text);
        path.push(key);
        for_each_level(text, |level| {
            key = self.below(key, self.level(level));
            path.push(key);
        });
        path
    }
}

/// Arbitrary, odd, its bits half ones.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
