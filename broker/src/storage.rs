//! What a node keeps across a restart: one write-ahead log that all its Raft groups share, and a snapshot per group.
//!
//! One log, one `fdatasync` for all groups (group commit): while a sync runs, whatever arrives waits and goes with the
//! next. An entry is readable as soon as it is appended and *durable* when its callback says so. This room knows
//! nothing of Raft, of shards or of what the bytes mean, and it is the only one that opens files; the files stand
//! behind [`Disk`], so that a simulation can own them, tear them and fill them up.
//!
//! The way in: [`Log::open`] recovers what is there and starts the writer, [`Log::group`] gives a group its
//! [`GroupLog`]. Handles are `!Send`: they live on one [`tokio::task::LocalSet`], as the groups do.
//!
//! What is never done: a record whose checksum is wrong is never given out, an `fdatasync` that failed is never
//! repeated and believed, and damage before the end of the log is never hidden ([`Recovered::damaged`]).

pub mod disk;
pub mod log;
pub mod snapshot;

mod birth;
mod index;
mod queue;
mod record;
mod recovery;
mod segments;
mod spill;
mod state;
mod writer;

#[cfg(test)]
mod tests;

pub use birth::register_start;
pub use disk::{Crash, Disk, Faults, FileDisk, MemoryDisk, SimulatedDisk};
pub use log::{Claim, Damage, GroupLog, Health, Limits, Log, Options, Recovered, Torn, Usage};
pub use snapshot::{SnapshotReader, SnapshotWriter, StoredSnapshot};
