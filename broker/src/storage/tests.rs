//! The log against its promises: what is durable comes back, what is torn is cut, what is damaged is named.

mod bounds;
mod damage;
mod faults;
mod files;
mod model;
mod snapshots;
mod spill;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::LocalSet;

use super::{Disk, GroupLog, Limits, Log, Options, Recovered, SimulatedDisk};
use crate::identity::GroupId;

const IDENTITY: u64 = 0x1dea;

/// Runs on one thread in simulated time, and fails instead of hanging.
fn simulate<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(3600), test).await };
    LocalSet::new().block_on(&runtime, bounded).expect("nothing happens any more")
}

/// Limits so small that a test reaches them.
fn small() -> Limits {
    Limits { segment_bytes_max: 1024, batch_bytes_max: 256, cache_bytes_max: 128, ..Limits::default() }
}

async fn open_with(disk: impl Disk + 'static, limits: Limits) -> io::Result<(Log, Recovered)> {
    let options = Options { identity: IDENTITY, limits };
    Log::open(Rc::new(disk), options).await
}

async fn open(disk: &SimulatedDisk) -> (Log, Recovered) {
    open_with(disk.clone(), small()).await.unwrap()
}

/// Appends one entry, and gives what its callback will be told.
fn append(group: &GroupLog, payload: impl Into<Bytes>) -> super::disk::Pending<()> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let entry = (group.next_index(), payload.into());
    group.append([entry], move |verdict| drop(tell.send(verdict)));
    Box::pin(async move { told.await.expect("the callback is always called") })
}

async fn entries(group: &GroupLog) -> Vec<(u64, Bytes)> {
    group.read(0..u64::MAX, usize::MAX).await.unwrap()
}

/// Payloads in the order of their indexes.
async fn payloads(group: &GroupLog) -> Vec<Bytes> {
    entries(group).await.into_iter().map(|(_, payload)| payload).collect()
}

/// What callbacks were told, in their order.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<Verdict>>>);

/// The callback's name, and the error it was told.
type Verdict = (u32, Option<io::ErrorKind>);

impl Told {
    fn callback(&self, name: u32) -> impl FnOnce(io::Result<()>) + use<> {
        let told = self.0.clone();
        move |verdict| told.borrow_mut().push((name, verdict.err().map(|error| error.kind())))
    }

    fn so_far(&self) -> Vec<Verdict> {
        self.0.borrow().clone()
    }
}

#[test]
fn entries_values_and_bounds_come_back() {
    simulate(async {
        let disk = SimulatedDisk::new(1, super::Faults::default());
        let (log, recovered) = open(&disk).await;
        assert_eq!(recovered, Recovered::default());
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        for number in 0..10_u8 {
            append(&one, vec![number; 50]).await.unwrap();
        }
        one.save(7, Bytes::from_static(b"vote")).await.unwrap();
        one.purge_to(3);
        two.purge_to(99);
        append(&two, "hundred").await.unwrap();
        let (cut, done) = tokio::sync::oneshot::channel();
        one.truncate_from(8, |verdict| cut.send(verdict).unwrap());
        done.await.unwrap().unwrap();

        drop((log, one, two));
        let (log, recovered) = open(&disk.crash(super::Crash::PowerCut)).await;
        assert_eq!(recovered.damaged, []);
        assert_eq!(recovered.torn, None);
        assert_eq!(recovered.groups, [GroupId(1), GroupId(2)]);
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        assert_eq!((one.first_index(), one.next_index()), (4, 8));
        assert_eq!(one.load(7).as_deref(), Some(&b"vote"[..]));
        assert_eq!(one.load(8), None);
        let expected: Vec<_> = (4..8_u8).map(|number| (u64::from(number), Bytes::from(vec![number; 50]))).collect();
        assert_eq!(entries(&one).await, expected);
        assert_eq!(entries(&two).await, [(100, Bytes::from_static(b"hundred"))]);
    });
}

#[test]
fn an_entry_is_readable_before_it_is_durable_and_callbacks_keep_their_order() {
    simulate(async {
        let disk = SimulatedDisk::new(1, super::Faults::default());
        let (log, _) = open(&disk).await;
        let told = Told::default();
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        one.append([(0, Bytes::from_static(b"a"))], told.callback(1));
        two.append([(0, Bytes::from_static(b"b"))], told.callback(2));
        two.append([(7, Bytes::from_static(b"gap"))], told.callback(3));
        one.truncate_from(0, told.callback(4));
        two.append([(1, Bytes::from_static(b"c"))], told.callback(5));
        assert_eq!(told.so_far(), [], "never from inside the call");
        assert_eq!(two.read(0..2, usize::MAX).await.unwrap().len(), 2);
        log.close().await.unwrap();
        let refused = Some(io::ErrorKind::InvalidInput);
        assert_eq!(told.so_far(), [(1, None), (2, None), (3, refused), (4, None), (5, None)]);
    });
}

#[test]
fn a_group_that_was_erased_starts_again() {
    simulate(async {
        let disk = SimulatedDisk::new(1, super::Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GroupId(4));
        append(&group, "old").await.unwrap();
        group.save(1, Bytes::from_static(b"old")).await.unwrap();
        group.write_snapshot(Bytes::from_static(b"old"), []).await.unwrap();
        group.erase(None).await.unwrap();
        append(&group, "new").await.unwrap();

        let (log, _) = open(&disk.crash(super::Crash::PowerCut)).await;
        let group = log.group(GroupId(4));
        assert_eq!(entries(&group).await, [(0, Bytes::from_static(b"new"))]);
        assert_eq!(group.load(1), None);
        assert!(group.read_snapshot().await.unwrap().is_none());
    });
}

#[test]
fn a_group_that_never_had_an_entry_may_begin_anywhere_and_then_has_no_gaps() {
    simulate(async {
        let disk = SimulatedDisk::new(1, super::Faults::default());
        let (log, _) = open(&disk).await;
        let told = Told::default();
        let group = log.group(GroupId(1));
        group.append([(5, Bytes::from_static(b"five"))], told.callback(1));
        group.append([(7, Bytes::from_static(b"seven"))], told.callback(2));
        log.close().await.unwrap();
        assert_eq!(told.so_far(), [(1, None), (2, Some(io::ErrorKind::InvalidInput))]);
        let (log, _) = open(&disk.crash(super::Crash::PowerCut)).await;
        let group = log.group(GroupId(1));
        assert_eq!((group.first_index(), group.next_index()), (5, 6));
    });
}
