//! `openraft`'s own test suite for storage, over ours.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::task::LocalSet;

use super::log::RaftLog;
use super::machine::{Machine, SnapshotRule, StateMachine};
use super::raft::Types;
use super::snapshot::{Image, Snapshots};
use crate::identity::GroupId;
use crate::storage::{Faults, Limits, Log, Options, SimulatedDisk};

/// Counts entries.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Effect = ();

    fn apply(&mut self, _index: u64, _entry: &[u8], _effects: &mut Vec<()>) {
        self.0 += 1;
    }

    fn snapshot(&self) -> Image {
        self.0.to_le_bytes().to_vec().into()
    }

    fn restore(&mut self, bytes: &Bytes) -> io::Result<()> {
        self.0 = u64::from_le_bytes(bytes[..].try_into().map_err(io::Error::other)?);
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<Types, RaftLog, Machine<Counter>> for Builder {
    async fn build(&self) -> Result<((), RaftLog, Machine<Counter>), StorageError<Types>> {
        // Small enough that the suite reads from segments, too.
        let limits = Limits { segment_bytes_max: 1024, cache_bytes_max: 64, ..Limits::default() };
        let disk = Rc::new(SimulatedDisk::new(1, Faults::default()));
        let (log, _) = Log::open(disk, Options { identity: 1, limits }).await.unwrap();
        let group = log.group(GroupId(1));
        let state = Rc::new(RefCell::new(Counter::default()));
        let rule = SnapshotRule { entries: 1, log_bytes: 1, entries_max: 16 };
        let machine = Machine::new(state, Rc::default(), Snapshots::new(group.clone()), Rc::new(|_, _| {}), rule);
        Ok(((), RaftLog::new(group), machine.recover().await.unwrap()))
    }
}

#[test]
fn our_storage_passes_the_suite_of_openraft() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, Suite::test_all(Builder)).unwrap();
}
