//! Every bound of the log, reached.

use std::rc::Rc;

use bytes::Bytes;

use super::{append, entries, open, open_with, payloads, simulate, small};
use crate::identity::GroupId;
use crate::storage::disk::FileName;
use crate::storage::{Crash, Disk as _, Faults, Limits, Log, MemoryDisk, Options, SimulatedDisk};

#[test]
fn a_quiet_group_pins_no_segment_for_ever() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let (quiet, busy) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&quiet, "still here").await.unwrap();
        quiet.save(1, Bytes::from_static(b"value")).await.unwrap();
        let mut most = 0;
        for _ in 0..2000 {
            busy.purge_to(busy.next_index());
            append(&busy, vec![7; 100]).await.unwrap();
            most = most.max(disk.used_bytes());
        }
        assert!(most < 16 * small().segment_bytes_max, "{most} bytes");
        assert!(disk.files()[0].0 > FileName::Segment(100));
        let (log, recovered) = open(&disk.crash(Crash::PowerCut)).await;
        assert_eq!(recovered.damaged, []);
        let quiet = log.group(GroupId(1));
        assert_eq!(payloads(&quiet).await, ["still here"]);
        assert_eq!(quiet.load(1).as_deref(), Some(&b"value"[..]));
        assert_eq!(log.group(GroupId(2)).next_index(), 4000);
    });
}

#[test]
fn restarts_alone_do_not_pile_up_segments() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        for start in 0..100 {
            let (log, _) = open(&disk).await;
            let group = log.group(GroupId(1));
            append(&group, format!("start {start}")).await.unwrap();
            assert_eq!(entries(&group).await.len(), start + 1);
            // Lets the writer tidy up before it is stopped.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert!(log.usage().segments < 40);
        }
    });
}

#[test]
fn recent_entries_are_cached_within_the_bound_and_older_ones_are_read_back() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GroupId(1));
        for number in 0..100_u8 {
            append(&group, vec![number; 40]).await.unwrap();
            assert!(log.usage().cached_bytes <= small().cache_bytes_max);
        }
        let operations = disk.operations();
        assert_eq!(group.read(97..100, 1000).await.unwrap().len(), 3);
        assert_eq!(disk.operations(), operations, "from memory");
        for (index, payload) in entries(&group).await {
            assert_eq!(payload, vec![index as u8; 40]);
        }
        assert!(disk.operations() > operations);
    });
}

#[test]
fn a_read_stops_at_its_bound_and_gives_at_least_one_entry() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GroupId(1));
        group.purge_to(9);
        for _ in 0..5 {
            append(&group, vec![0; 40]).await.unwrap();
        }
        let indexes = |read: Vec<(u64, Bytes)>| read.iter().map(|(index, _)| *index).collect::<Vec<_>>();
        assert_eq!(indexes(group.read(0..100, 80).await.unwrap()), [10, 11]);
        assert_eq!(indexes(group.read(12..100, 1).await.unwrap()), [12]);
        assert_eq!(indexes(group.read(11..13, 1000).await.unwrap()), [11, 12]);
        assert_eq!(indexes(group.read(15..100, 1000).await.unwrap()), [0_u64; 0]);
    });
}

#[test]
fn a_disk_without_segments_leaves_the_entries_in_memory_and_nothing_else() {
    simulate(async {
        let disk = Rc::new(MemoryDisk::without_segments());
        let (log, _) = Log::open(disk.clone(), Options { identity: 1, limits: small() }).await.unwrap();
        let group = log.group(GroupId(1));
        for number in 0..100_u8 {
            append(&group, vec![number; 40]).await.unwrap();
        }
        let expected: Vec<_> = (0..100_u8).map(|number| Bytes::from(vec![number; 40])).collect();
        assert_eq!(payloads(&group).await, expected);
        assert_eq!(disk.list().await.unwrap(), []);
        group.purge_to(89);
        assert_eq!(payloads(&group).await, expected[90..]);
        assert_eq!(log.usage().cached_bytes, 10 * 40);
    });
}

#[test]
fn a_group_is_not_ready_while_too_much_is_queued() {
    simulate(async {
        let limits = Limits { queue_bytes_max: 1000, ..small() };
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open_with(disk, limits).await.unwrap();
        let group = log.group(GroupId(1));
        group.ready().await;
        let appended: Vec<_> = (0..20).map(|_| append(&group, vec![0; 100])).collect();
        let mut ready = std::pin::pin!(group.ready());
        let now = std::future::poll_fn(|context| std::task::Poll::Ready(ready.as_mut().poll(context).is_ready()));
        assert!(!now.await);
        ready.await;
        assert!(log.usage().queued_bytes <= 1000);
        for durable in appended {
            durable.await.unwrap();
        }
    });
}

#[test]
fn an_entry_or_a_value_beyond_its_bound_is_refused() {
    simulate(async {
        let limits = Limits { entry_bytes_max: 5000, value_bytes_max: 10, ..small() };
        let (log, _) = open_with(MemoryDisk::default(), limits).await.unwrap();
        let group = log.group(GroupId(1));
        append(&group, vec![0; 5001]).await.unwrap_err();
        assert_eq!(group.next_index(), 0);
        append(&group, vec![0; 5000]).await.unwrap();
        append(&group, "after an entry larger than a segment").await.unwrap();
        assert_eq!(entries(&group).await[0].1.len(), 5000);
        group.save(1, Bytes::from(vec![0; 11])).await.unwrap_err();
        group.save(1, Bytes::from(vec![0; 10])).await.unwrap();
    });
}
