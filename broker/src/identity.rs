//! The names of things that more than one room speaks of: nodes, shards, Raft groups, connections.
//!
//! Nothing here knows how a name is made; randomness and files belong to `node`.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, OnceLock};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use serde::{Deserialize, Serialize};

/// A client identifier as the client or the server chose it ([MQTT-3.1.3-5]).
pub type ClientId = Arc<str>;

/// A member of the cluster. Drawn at random when a data directory is first used and kept in it: a node whose disk was
/// lost is a new member, never an old voter with amnesia.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One run of a node's process. Grows with every start of the same node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Who numbered a command: one run of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
}

/// A part of the state that must survive. The number of shards is fixed when the cluster is founded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard that owns the session of `client_id`, of `shards` in all. The hash is part of the on-disk contract: it
    /// never depends on the process.
    pub fn of_client(client_id: &str, shards: u16) -> ShardId {
        ShardId((stable_hash(client_id.as_bytes()) % u64::from(shards.max(1))) as u16)
    }

    /// The shard that owns the retained message of `topic`.
    pub fn of_topic(topic: &str, shards: u16) -> ShardId {
        ShardId::of_client(topic, shards)
    }
}

/// A Raft group of this cluster: the control group, or one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u16);

impl GroupId {
    /// Members, placement and epochs.
    pub const CONTROL: GroupId = GroupId(0);

    /// The group that replicates `shard`.
    pub fn of_shard(shard: ShardId) -> GroupId {
        GroupId(shard.0 + 1)
    }

    /// The shard this group replicates; `None` for the control group.
    pub fn shard(self) -> Option<ShardId> {
        self.0.checked_sub(1).map(ShardId)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shard() {
            None => f.write_str("control"),
            Some(shard) => write!(f, "shard {}", shard.0),
        }
    }
}

/// One network connection of a client, unique within a run of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId {
    /// The worker it lives on, for life.
    pub worker: u16,
    /// Its place in the worker's table.
    pub slot: u32,
    /// Tells apart the connections that used the same place.
    pub generation: u32,
}

/// A hash that is the same in every process and version: FNV-1a, finished with an avalanche.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// The state of the project's hash maps: keyed ([`HashSeed`]), since clients choose what goes into them. Iteration order never
/// reaches the wire or the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyedHash;

impl BuildHasher for KeyedHash {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        HashSeed::get().hasher()
    }
}

/// A hash map with [`KeyedHash`].
pub type Map<K, V> = hashbrown::HashMap<K, V, KeyedHash>;

/// Hashes `bytes` with [`KeyedHash`].
#[inline]
pub fn keyed_hash(bytes: &[u8]) -> u64 {
    HashSeed::get().hash(bytes)
}

/// What hashes are keyed with: others choose the bytes, and many alike would cost.
#[derive(Debug)]
pub struct HashSeed {
    first: u64,
    others: SharedSeed,
}

static HASH_SEED: OnceLock<HashSeed> = OnceLock::new();

/// Keys the hashes of this process with a number that clients can't know. Without it they are the same in every process,
/// which is what a simulation wants. Only the first call counts, and nothing may have been hashed before.
pub fn seed_hashes(seed: u64) {
    HASH_SEED.get_or_init(|| HashSeed::new(seed));
}

impl HashSeed {
    fn new(seed: u64) -> HashSeed {
        HashSeed { first: stable_hash(&seed.to_le_bytes()), others: SharedSeed::from_u64(seed) }
    }

    /// The seed of this process.
    pub fn get() -> &'static HashSeed {
        HASH_SEED.get_or_init(|| HashSeed::new(0))
    }

    /// Hashes `bytes`.
    #[inline]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher();
        hasher.write(bytes);
        hasher.finish()
    }

    #[inline]
    fn hasher(&self) -> FoldHasher<'_> {
        FoldHasher::with_seed(self.first, &self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_client_never_changes_between_versions() {
        assert_eq!(ShardId::of_client("sensor-1", 16), ShardId(7));
        assert_eq!(GroupId::of_shard(ShardId(3)).shard(), Some(ShardId(3)));
        assert_eq!(GroupId::CONTROL.shard(), None);
    }
}
