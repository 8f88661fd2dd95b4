//! A slow disk, a full disk, a disk that fails.

use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::{Told, append, entries, open, payloads, simulate};
use crate::identity::GroupId;
use crate::storage::{Crash, Faults, Health, SimulatedDisk};

#[test]
fn what_arrives_during_a_sync_shares_the_next() {
    simulate(async {
        let faults = Faults { delay_max: Duration::from_millis(5), ..Faults::default() };
        let disk = SimulatedDisk::new(3, faults);
        let (log, _) = super::open_with(disk.clone(), crate::storage::Limits::default()).await.unwrap();
        let before = disk.syncs();
        let first = append(&log.group(GroupId(0)), "first");
        // Lets the writer begin.
        tokio::task::yield_now().await;
        let others: Vec<_> = (1..=40).map(|group| append(&log.group(GroupId(group)), "other")).collect();
        first.await.unwrap();
        assert_eq!(disk.syncs() - before, 1);
        for other in others {
            other.await.unwrap();
        }
        assert_eq!(disk.syncs() - before, 2);
    });
}

#[test]
fn a_full_disk_refuses_and_the_log_goes_on_when_there_is_room() {
    simulate(async {
        let disk = SimulatedDisk::new(3, Faults::default());
        let (log, _) = open(&disk).await;
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&one, "kept").await.unwrap();
        append(&one, "also kept").await.unwrap();
        two.save(1, Bytes::from_static(b"before")).await.unwrap();

        disk.set_capacity_bytes(disk.used_bytes() + 50);
        let told = Told::default();
        one.truncate_from(1, told.callback(1));
        one.append([(1, Bytes::from(vec![1; 100]))], told.callback(2));
        let saved = two.save(1, Bytes::from_static(b"after"));
        two.append([(0, Bytes::from_static(b"small"))], told.callback(3));
        assert_eq!(saved.await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let full = Some(io::ErrorKind::StorageFull);
        assert_eq!(told.so_far(), [(1, full), (2, full), (3, full)]);
        assert_eq!((log.health(), log.writes_without_space()), (Health::Full, 1));
        assert_eq!(payloads(&one).await, ["kept", "also kept"], "memory is what the disk is");
        assert_eq!(two.next_index(), 0);
        assert_eq!(two.load(1).as_deref(), Some(&b"before"[..]));
        assert!(append(&one, vec![1; 100]).await.is_err(), "still full");

        disk.set_capacity_bytes(u64::MAX);
        append(&one, "more").await.unwrap();
        assert_eq!((log.health(), log.writes_without_space()), (Health::Healthy, 2));
        let (log, recovered) = open(&disk.crash(Crash::PowerCut)).await;
        assert_eq!((recovered.torn, recovered.damaged), (None, vec![]));
        assert_eq!(payloads(&log.group(GroupId(1))).await, ["kept", "also kept", "more"]);
    });
}

#[test]
fn a_log_opens_on_a_full_disk_and_goes_on_when_there_is_room() {
    simulate(async {
        let disk = SimulatedDisk::new(3, Faults::default());
        let (log, _) = open(&disk).await;
        append(&log.group(GroupId(1)), "kept").await.unwrap();
        let disk = disk.crash(Crash::Kill);
        disk.set_capacity_bytes(disk.used_bytes() + 10);
        let (log, _) = open(&disk).await;
        assert_eq!(log.health(), Health::Full);
        let group = log.group(GroupId(1));
        assert_eq!(payloads(&group).await, ["kept"]);
        append(&group, "refused").await.unwrap_err();
        disk.set_capacity_bytes(u64::MAX);
        append(&group, "more").await.unwrap();
        let (log, recovered) = open(&disk.crash(Crash::PowerCut)).await;
        assert_eq!((recovered.torn, recovered.damaged), (None, vec![]));
        assert_eq!(payloads(&log.group(GroupId(1))).await, ["kept", "more"]);
    });
}

#[test]
fn a_disk_that_fills_up_at_any_byte_loses_nothing_that_was_durable() {
    simulate(async {
        for room in 0..600 {
            let disk = SimulatedDisk::new(room, Faults::default());
            let (log, _) = open(&disk).await;
            let group = log.group(GroupId(1));
            for number in 0..12_u8 {
                append(&group, vec![number; 30]).await.unwrap();
            }
            disk.set_capacity_bytes(disk.used_bytes() + room);
            let mut durable = 12;
            // Across the end of a segment.
            for number in 12..30_u8 {
                match append(&group, vec![number; 30]).await {
                    Ok(()) => durable += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                        break;
                    }
                }
            }
            assert_eq!(group.next_index(), durable, "room {room}");
            disk.set_capacity_bytes(u64::MAX);
            append(&group, "more").await.unwrap();
            let (log, recovered) = open(&disk.crash(Crash::PowerCut)).await;
            assert_eq!((recovered.torn, recovered.damaged), (None, vec![]), "room {room}");
            let found = entries(&log.group(GroupId(1))).await;
            assert_eq!(found.len() as u64, durable + 1, "room {room}");
            assert_eq!(found.last().unwrap().1, "more");
        }
    });
}

#[test]
fn a_failed_sync_is_never_believed_again() {
    simulate(async {
        let disk = SimulatedDisk::new(3, Faults::default());
        let (log, _) = open(&disk).await;
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&one, "kept").await.unwrap();
        disk.fail_next_sync();
        let syncs = disk.syncs();
        append(&one, "unknown").await.unwrap_err();
        assert!(matches!(log.health(), Health::Failed(_)));
        append(&two, "refused").await.unwrap_err();
        assert!(two.save(1, Bytes::new()).await.is_err());
        assert_eq!(disk.syncs(), syncs, "no second try");
        assert_eq!(payloads(&one).await, ["kept"]);
        let (log, recovered) = open(&disk.crash(Crash::PowerCut)).await;
        assert_eq!(recovered.damaged, []);
        assert_eq!(payloads(&log.group(GroupId(1))).await[0], "kept");
    });
}
