//! Cut at every byte, flipped at every byte.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{append, entries, open, simulate};
use crate::identity::GroupId;
use crate::storage::disk::FileName;
use crate::storage::{Crash, Faults, Log, Recovered, SimulatedDisk};

const GROUPS: u16 = 4;

type Contents = BTreeMap<u16, Vec<(u64, Bytes)>>;

/// A log of several segments.
struct Written {
    files: Vec<(FileName, Vec<u8>)>,
    contents: Contents,
    /// After each sync: the last segment, its length, and what was there.
    syncs: Vec<(FileName, usize, Contents)>,
}

/// Appends in rounds, a sync each; the last round is of one write with several groups in it.
async fn write() -> Written {
    let disk = SimulatedDisk::new(1, Faults::default());
    let (log, _) = open(&disk).await;
    let mut syncs = Vec::new();
    for round in 0..14_u64 {
        let last = (0..GROUPS).map(|group| {
            let group = log.group(GroupId(group));
            append(&group, format!("round {round} of {}", group.id()))
        });
        for durable in last.collect::<Vec<_>>() {
            durable.await.unwrap();
        }
        let files = disk.files();
        let (file, data) = files.last().unwrap();
        syncs.push((*file, data.len(), contents(&log).await.0));
    }
    Written { files: disk.files(), contents: contents(&log).await.0, syncs }
}

/// What the groups that are not damaged have, and those that are.
async fn contents(log: &Log) -> (Contents, Vec<u16>) {
    let mut contents = Contents::new();
    let mut damaged = Vec::new();
    for number in 0..GROUPS {
        let group = log.group(GroupId(number));
        if group.damage().is_some() {
            assert!(group.read(0..1, 1).await.is_err());
            damaged.push(number);
        } else {
            contents.insert(number, entries(&group).await);
        }
    }
    (contents, damaged)
}

fn disk_of(files: &[(FileName, Vec<u8>)]) -> SimulatedDisk {
    let disk = SimulatedDisk::new(2, Faults::default());
    for (file, data) in files {
        disk.put(*file, data.clone());
    }
    disk
}

fn starts_with(whole: &Contents, part: &Contents) -> bool {
    part.iter().all(|(group, entries)| whole[group].starts_with(entries))
}

#[test]
fn torn_at_every_byte_the_log_has_what_was_durable_and_nothing_else() {
    simulate(async {
        let written = write().await;
        let (last, data) = written.files.last().unwrap();
        assert!(written.files.len() > 2, "several segments");
        assert!(written.syncs.iter().filter(|sync| sync.0 == *last).count() > 1);
        let mut torn = 0;
        for cut in 0..data.len() {
            let mut files = written.files.clone();
            files.last_mut().unwrap().1.truncate(cut);
            let disk = disk_of(&files);
            let (log, recovered) = open(&disk).await;
            assert_eq!(recovered.damaged, [], "cut at {cut}");
            torn += u64::from(recovered.torn.is_some());
            let (found, _) = contents(&log).await;
            let durable =
                written.syncs.iter().rev().find(|(file, length, _)| file < last || (file == last && *length <= cut));
            assert!(starts_with(&found, &durable.unwrap().2), "durable, cut at {cut}");
            assert!(starts_with(&written.contents, &found), "nothing else, cut at {cut}");

            // It goes on from there.
            let group = log.group(GroupId(1));
            append(&group, "after").await.unwrap();
            let before = contents(&log).await.0;
            drop((log, group));
            let (log, recovered) = open(&disk).await;
            assert_eq!((recovered.torn, recovered.damaged), (None, vec![]), "cut at {cut}");
            assert_eq!(contents(&log).await.0, before, "cut at {cut}");
        }
        assert!(torn > data.len() as u64 / 2, "{torn} cuts were seen");
    });
}

#[test]
fn a_flipped_byte_anywhere_is_detected_and_never_replayed() {
    simulate(async {
        let written = write().await;
        let last = written.files.len() - 1;
        let last_write_begins = written.syncs[written.syncs.len() - 2].1;
        assert_eq!(written.syncs[written.syncs.len() - 2].0, written.files[last].0);
        for (position, (file, data)) in written.files.iter().enumerate() {
            for offset in 0..data.len() {
                let disk = disk_of(&written.files);
                disk.flip(*file, offset, 0x10);
                let at = format!("{file:?} byte {offset}");
                let (log, recovered) = open(&disk).await;
                let (found, damaged) = contents(&log).await;
                if position == last && offset >= last_write_begins {
                    // As after a power cut in the middle of the last write.
                    assert!(recovered.torn.is_some(), "{at}");
                    assert_eq!(recovered.damaged, [], "{at}");
                } else {
                    assert_eq!(recovered.torn, None, "{at}");
                    let named = !recovered.damaged.is_empty() || seen_by_comparison(&recovered);
                    assert!(named, "{at}: {recovered:?}");
                    for (group, entries) in &found {
                        assert_eq!(entries, &written.contents[group], "{at}");
                    }
                }
                assert!(starts_with(&written.contents, &found), "{at}");

                // Found once, found always, until the group is rebuilt.
                drop(log);
                let (log, _) = open(&disk).await;
                assert_eq!(contents(&log).await.1, damaged, "{at}");
                for group in damaged {
                    let group = log.group(GroupId(group));
                    group.erase(None).await.unwrap();
                    append(&group, "rebuilt").await.unwrap();
                }
                drop(log);
                let (log, recovered) = open(&disk).await;
                assert_eq!(recovered.damaged, [], "{at}");
                assert_eq!(contents(&log).await.1, [0_u16; 0], "{at}");
            }
        }
    });
}

/// A spoilt segment header loses nothing where the next table confirms every group, but it is told all the same.
fn seen_by_comparison(recovered: &Recovered) -> bool {
    recovered.unreadable > 0
}

#[test]
fn a_missing_segment_damages_the_groups_that_had_something_in_it() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&one, "in the first segment").await.unwrap();
        for _ in 0..60 {
            append(&two, "in all of them").await.unwrap();
        }
        let mut files = disk.files();
        assert!(files.len() > 3);
        files.remove(1);
        let (log, recovered) = open(&disk_of(&files)).await;
        assert_eq!(recovered.damaged.len(), 1);
        assert_eq!(recovered.damaged[0].group, GroupId(2));
        assert_eq!(entries(&log.group(GroupId(1))).await.len(), 1);
        assert!(log.group(GroupId(9)).damage().is_none(), "the next table shows that there was no other");
    });
}

#[test]
fn damage_before_the_last_write_of_the_log_is_in_doubt_for_all_who_wrote_nothing_since() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let (one, two, three) = (log.group(GroupId(1)), log.group(GroupId(2)), log.group(GroupId(3)));
        append(&one, "one").await.unwrap();
        append(&two, "two").await.unwrap();
        let spoilt = disk.files()[0].1.len();
        append(&three, "three").await.unwrap();
        append(&one, "one again").await.unwrap();
        disk.flip(FileName::Segment(1), spoilt + 20, 1);
        let (log, recovered) = open(&disk).await;
        let damaged: Vec<_> = recovered.damaged.iter().map(|damage| damage.group.0).collect();
        assert_eq!(damaged, [2], "the first showed by its next record that it lost nothing");
        assert!(recovered.stray.is_some());
        assert_eq!(entries(&log.group(GroupId(1))).await.len(), 2);
        let three = log.group(GroupId(3));
        assert!(three.damage().is_some(), "nobody remembers that it existed");
        three.erase(None).await.unwrap();
        append(&three, "rebuilt").await.unwrap();
        let (log, _) = open(&disk.crash(crate::storage::Crash::Kill)).await;
        assert_eq!(entries(&log.group(GroupId(3))).await.len(), 1);
        assert!(log.group(GroupId(2)).damage().is_some());
        assert!(log.group(GroupId(8)).damage().is_some());
    });
}

#[test]
fn damage_that_appears_while_running_stops_the_group_that_reads_it() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&one, vec![1; 60]).await.unwrap();
        for _ in 0..4 {
            append(&two, vec![2; 60]).await.unwrap();
        }
        let end_of_first = disk.files()[0].1.windows(60).position(|bytes| bytes == [1; 60]).unwrap();
        disk.flip(FileName::Segment(1), end_of_first, 1);
        let error = one.read(0..1, 100).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(one.damage().is_some());
        assert!(append(&one, "more").await.is_err());
        append(&two, "more").await.unwrap();
    });
}

#[test]
fn after_a_clean_end_even_the_last_write_is_known_to_have_been_durable() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        append(&log.group(GroupId(1)), "the last").await.unwrap();
        let end = disk.files()[0].1.len();
        log.close().await.unwrap();
        assert!(append(&log.group(GroupId(1)), "too late").await.is_err());
        disk.flip(FileName::Segment(1), end - 1, 1);
        let (_log, recovered) = open(&disk).await;
        assert_eq!(recovered.torn, None);
        assert_eq!(recovered.damaged.len(), 1);
    });
}

#[test]
fn an_erased_group_keeps_one_value_wherever_a_crash_comes() {
    simulate(async {
        let (mut before, mut after) = (0, 0);
        for seed in 0..10 {
            for step in 1.. {
                let disk = SimulatedDisk::new(seed, Faults::default());
                let (log, _) = open(&disk).await;
                let group = log.group(GroupId(1));
                append(&group, "entry").await.unwrap();
                group.save(2, Bytes::from_static(b"vote")).await.unwrap();
                disk.halt_after(step);
                let keep = Some((4, Bytes::from_static(b"kept")));
                let erased = tokio::time::timeout(std::time::Duration::from_secs(1), group.erase(keep)).await;
                let disk = disk.crash(if step % 2 == 0 { Crash::Kill } else { Crash::PowerCut });
                let (log, recovered) = open(&disk).await;
                assert_eq!(recovered.damaged, []);
                let group = log.group(GroupId(1));
                let kept = (group.next_index(), group.load(2).is_some(), group.load(4));
                match kept {
                    (1, true, None) => before += 1,
                    (0, false, Some(value)) if value == "kept" => after += 1,
                    other => panic!("seed {seed} step {step}: {other:?}"),
                }
                if erased.is_ok() {
                    assert_eq!(group.next_index(), 0, "it was said to be erased");
                    break;
                }
            }
        }
        assert!(before > 0 && after >= 10, "{before} {after}");
    });
}

#[test]
fn a_condemned_group_is_used_no_more_until_it_is_erased() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&one, "one").await.unwrap();
        one.condemn("its snapshot is missing".to_string());
        assert!(append(&one, "more").await.is_err() && one.read(0..1, 1).await.is_err());
        append(&two, "two").await.unwrap();
        assert_eq!(log.damaged(), [GroupId(1)].into());
        one.erase(None).await.unwrap();
        append(&one, "anew").await.unwrap();
        assert_eq!(log.damaged(), [].into());
    });
}
