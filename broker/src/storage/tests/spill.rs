//! What is moved out of memory stays what it is, takes no room once it is dropped, and stays in memory while the disk is
//! full.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::{open_with, simulate, small};
use crate::identity::GroupId;
use crate::kept::{Kept, Shelf};
use crate::storage::{Disk as _, Faults, FileDisk, Limits, SimulatedDisk};

const KEPT_BYTES_MAX: usize = 10_000;

fn limits() -> Limits {
    Limits { kept_bytes_max: KEPT_BYTES_MAX, ..small() }
}

fn content(number: usize) -> Vec<u8> {
    (0..1000).map(|at| (number + at) as u8).collect()
}

fn keep(shelf: &Shelf, count: usize) -> Vec<Rc<Kept>> {
    (0..count).map(|number| shelf.keep(&Bytes::from(content(number)))).collect()
}

fn assert_whole(kept: &[Rc<Kept>]) {
    for (number, kept) in kept.iter().enumerate() {
        assert_eq!(postcard::from_bytes::<Bytes>(&kept.bytes()).unwrap(), content(number), "{number}");
    }
}

/// Until no more is in memory than may be.
async fn within_bound(shelf: &Shelf) {
    let moved = async {
        while shelf.in_memory_bytes() > KEPT_BYTES_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), moved).await.expect("moved out of memory");
}

fn on_files<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// Files below `path` that are mapped, with and without a name.
fn mapped(path: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(path.to_str().unwrap())).count()
}

#[test]
fn what_is_too_much_for_memory_is_in_files_that_go_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    on_files(async {
        let (log, _) = open_with(FileDisk::open(&path).unwrap(), limits()).await.unwrap();
        let shelf = log.shelf();
        let kept = keep(&shelf, 300);
        within_bound(&shelf).await;
        assert_whole(&kept);
        assert!(!path.join("spill").exists(), "it has no name");
        assert_eq!(mapped(&path), 1, "one file");
        let (first, rest) = kept.split_at(1);
        let first = first.to_vec();
        drop(rest.to_vec());
        drop(kept);
        assert_whole(&first);
        assert_eq!(shelf.in_memory_bytes(), 0);
        drop(first);
        drop(shelf);
        log.close().await.unwrap();
        drop(log);
        // The log's task gives the disk back when it next has its turn.
        let freed = async {
            while mapped(&path) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), freed).await.expect("the file is gone");
    });
}

#[test]
fn a_file_goes_when_it_is_full_and_nothing_of_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    on_files(async {
        let disk = FileDisk::open(directory.path()).unwrap();
        let piece = Bytes::from(vec![1; 5 << 20]);
        let mut spilt = Vec::new();
        for _ in 0..7 {
            spilt.push(disk.spill(vec![piece.clone()]).await.unwrap());
        }
        // Three fit into a file; the last one is still being filled.
        assert_eq!(mapped(directory.path()), 3);
        assert!(spilt.iter().all(|spilt| spilt[0] == piece));
        spilt.drain(..3);
        assert_eq!(mapped(directory.path()), 2);
        spilt.drain(..2);
        assert_eq!(mapped(directory.path()), 2, "one of the second file is kept");
        spilt.drain(..1);
        assert_eq!(mapped(directory.path()), 1);
        // One that is larger than a file has a file of its own.
        let large = Bytes::from(vec![2; 20 << 20]);
        assert_eq!(disk.spill(vec![large.clone()]).await.unwrap(), [large]);
    });
}

#[test]
fn a_file_that_a_killed_process_left_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("spill"), "left").unwrap();
    let _disk = FileDisk::open(directory.path()).unwrap();
    assert!(!directory.path().join("spill").exists());
}

#[test]
fn a_mapped_snapshot_outlives_its_file() {
    let directory = tempfile::tempdir().unwrap();
    on_files(async {
        let (log, _) = open_with(FileDisk::open(directory.path()).unwrap(), limits()).await.unwrap();
        let group = log.group(GroupId(1));
        let pieces = |content: u8| (0..4).map(move |_| Bytes::from(vec![content; 100_000]));
        let first = group.write_snapshot(Bytes::new(), pieces(1)).await.unwrap();
        let second = group.write_snapshot(Bytes::new(), pieces(2)).await.unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3, "a lock, a segment, the second");
        assert_eq!(first.data, vec![1; 400_000]);
        let read = group.read_snapshot().await.unwrap().unwrap().map().await.unwrap();
        assert_eq!(read.data, second.data);
    });
}

#[test]
fn while_the_disk_is_full_it_stays_in_memory() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open_with(disk.clone(), limits()).await.unwrap();
        disk.set_capacity_bytes(0);
        let shelf = log.shelf();
        let kept = keep(&shelf, 300);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(shelf.in_memory_bytes() > 300_000);
        assert_whole(&kept);
        disk.set_capacity_bytes(u64::MAX);
        within_bound(&shelf).await;
        assert_whole(&kept);
    });
}
