//! How a group keeps time and when it tidies up, in `openraft`'s terms and ours.

use openraft::{Config, SnapshotPolicy};

use super::machine::SnapshotRule;
use crate::identity::GroupId;

/// Entries between two questions whether a snapshot is due.
const SNAPSHOT_CHECK_ENTRIES: u64 = 64;

/// How a group keeps time and tidies up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing for a time between these two asks for votes (Raft paper, section 5.2).
    pub election_timeout_min_ms: u64,
    /// See `election_timeout_min_ms`.
    pub election_timeout_max_ms: u64,
    /// A snapshot is made, and the log before it purged, after so many entries …
    pub snapshot_entries: u64,
    /// … or so many bytes of entries; of a large state only when the log has as many bytes as its last snapshot …
    pub snapshot_log_bytes: u64,
    /// … or so many entries: each takes a place in memory.
    pub snapshot_entries_max: u64,
    /// Entries kept behind a snapshot, for followers that are a little late.
    pub kept_entries: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            heartbeat_ms: 100,
            election_timeout_min_ms: 400,
            election_timeout_max_ms: 800,
            snapshot_entries: 20_000,
            snapshot_log_bytes: 64 << 20,
            snapshot_entries_max: 320_000,
            kept_entries: 2_000,
        }
    }
}

impl Settings {
    /// Of a node that has neither others nor a disk: what is applied serves nobody, and takes memory. So a log is about as
    /// large as the snapshot before it, or has so few entries that it doesn't matter.
    pub fn alone_in_memory() -> Settings {
        Settings { snapshot_entries: 64, snapshot_log_bytes: 16 << 10, kept_entries: 0, ..Settings::default() }
    }

    pub(super) fn config(&self, group: GroupId) -> Result<Config, openraft::ConfigError> {
        let config = Config {
            cluster_name: group.to_string(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_timeout_min_ms,
            election_timeout_max: self.election_timeout_max_ms,
            // Only how often the state machine is asked; it decides ([`Settings::snapshot_rule`]).
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries.min(SNAPSHOT_CHECK_ENTRIES)),
            max_in_snapshot_log_to_keep: self.kept_entries,
            install_snapshot_timeout: 5_000,
            // A member that comes back is tried again soon.
            backoff: "20ms 50ms 100ms ...500ms".to_string(),
            enable_pre_vote: Some(true),
            // `committed` is not persisted, so a leader must not go on after a restart as if it had never stopped.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        config.validate()
    }

    pub(super) fn snapshot_rule(&self) -> SnapshotRule {
        SnapshotRule {
            entries: self.snapshot_entries,
            log_bytes: self.snapshot_log_bytes,
            entries_max: self.snapshot_entries_max,
        }
    }
}
