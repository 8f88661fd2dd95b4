//! A snapshot is whole or absent, whatever happens while it is written.

use std::time::Duration;

use bytes::Bytes;

use super::{open, simulate};
use crate::identity::GroupId;
use crate::storage::disk::FileName;
use crate::storage::snapshot::BLOCK_BYTES;
use crate::storage::{Crash, Faults, GroupLog, SimulatedDisk, StoredSnapshot};

const GROUP: GroupId = GroupId(3);

fn chunks(content: u8) -> Vec<Bytes> {
    (1..=4).map(|chunk| Bytes::from(vec![content; chunk * 700])).collect()
}

/// The data of all chunks.
fn data(content: u8) -> Vec<u8> {
    chunks(content).concat()
}

async fn write(group: &GroupLog, content: u8) -> std::io::Result<StoredSnapshot> {
    group.write_snapshot(Bytes::from(vec![content]), chunks(content)).await
}

/// The whole snapshot: its description and its data, as it is read and as it is mapped.
async fn read(group: &GroupLog) -> std::io::Result<Option<(u8, Vec<u8>)>> {
    let Some(mut reader) = group.read_snapshot().await? else {
        return Ok(None);
    };
    let mut data = Vec::new();
    while let Some(block) = reader.next().await? {
        data.extend_from_slice(&block);
    }
    let content = reader.meta()[0];
    assert_eq!(reader.map().await?.data, data);
    Ok(Some((content, data)))
}

#[test]
fn a_crash_at_any_step_leaves_the_old_snapshot_or_the_new_one() {
    simulate(async {
        let (mut old, mut new) = (0, 0);
        for seed in 0..20 {
            for step in 1.. {
                let disk = SimulatedDisk::new(seed, Faults::default());
                let (log, _) = open(&disk).await;
                let group = log.group(GROUP);
                write(&group, 1).await.unwrap();
                disk.halt_after(step);
                let attempt = tokio::time::timeout(Duration::from_secs(1), write(&group, 2)).await;
                let complete = attempt.is_ok();
                let crash = if step % 2 == 0 { Crash::Kill } else { Crash::PowerCut };
                let disk = disk.crash(crash);
                let (log, _) = open(&disk).await;
                let (content, found) = read(&log.group(GROUP)).await.unwrap().unwrap();
                assert_eq!(found, data(content), "seed {seed} step {step}");
                match content {
                    1 => old += 1,
                    2 => new += 1,
                    _ => panic!("content {content}"),
                }
                let files = disk.files();
                let snapshots = files.iter().filter(|(file, _)| !matches!(file, FileName::Segment(_)));
                assert_eq!(snapshots.count(), 1, "what was left over is removed");
                if complete {
                    assert_eq!(content, 2, "it was said to be durable");
                    break;
                }
            }
        }
        assert!(old > 0 && new > 20, "{old} {new}");
    });
}

#[test]
fn a_flipped_byte_anywhere_in_a_snapshot_is_detected() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GROUP);
        write(&group, 1).await.unwrap();
        let (file, data) = disk.files().into_iter().next_back().unwrap();
        for offset in (0..data.len()).step_by(3).chain(0..20).chain(data.len() - 20..data.len()) {
            disk.flip(file, offset, 4);
            let error = read(&group).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "byte {offset}");
            disk.flip(file, offset, 4);
        }
        assert!(read(&group).await.unwrap().is_some());
        for length in 0..data.len() {
            disk.put(file, data[..length].to_vec());
            assert!(read(&group).await.is_err(), "cut at {length}");
        }
    });
}

#[test]
fn a_snapshot_stays_readable_while_a_newer_one_replaces_it() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GROUP);
        write(&group, 1).await.unwrap();
        let mut reader = group.read_snapshot().await.unwrap().unwrap();
        write(&group, 2).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), data(1));
        let mapped = reader.map().await.unwrap();
        assert_eq!(mapped.data, data(1));
        assert_eq!(read(&group).await.unwrap().unwrap().0, 2);
        assert_eq!(disk.files().len(), 2, "a segment and the newer snapshot");
    });
}

#[test]
fn a_snapshot_that_is_given_up_never_existed() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GROUP);
        let mut writer = group.begin_snapshot(Bytes::from_static(b"meta")).unwrap();
        writer.write(vec![Bytes::from_static(b"chunk")]).await.unwrap();
        drop(writer);
        assert!(group.read_snapshot().await.unwrap().is_none());
        assert_eq!(disk.files().len(), 1);
        let too_large = Bytes::from(vec![0; BLOCK_BYTES + 1]);
        assert!(group.write_snapshot(Bytes::new(), [too_large]).await.is_err());
        assert_eq!(disk.files().len(), 1);
    });
}

#[test]
fn a_large_snapshot_in_odd_pieces_is_read_block_by_block_and_each_block_is_checked() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GROUP);
        let pieces: Vec<Bytes> =
            (0..30_u8).map(|piece| Bytes::from(vec![piece; 50_000 + usize::from(piece)])).collect();
        let whole = pieces.concat();
        assert!(whole.len() > 5 * BLOCK_BYTES);
        let mut writer = group.begin_snapshot(Bytes::from_static(b"meta")).unwrap();
        for pair in pieces.chunks(2) {
            writer.write(pair.to_vec()).await.unwrap();
        }
        let stored = writer.finish().await.unwrap();
        assert_eq!(stored.data, whole);
        let mut reader = group.read_snapshot().await.unwrap().unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), whole[..BLOCK_BYTES]);
        for offset in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, whole.len() - 1] {
            let end = whole.len().min((offset / BLOCK_BYTES + 1) * BLOCK_BYTES);
            assert_eq!(stored.block_from(offset).unwrap(), whole[offset..end], "from {offset}");
        }
        // What the disk gives back differently goes nowhere.
        let (file, _) = disk.files().into_iter().next_back().unwrap();
        disk.flip(file, 2 * BLOCK_BYTES, 1);
        let error = group.read_snapshot().await.unwrap().unwrap().map().await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        let mut spoilt = stored.data.to_vec();
        spoilt[2 * BLOCK_BYTES] ^= 1;
        let spoilt = StoredSnapshot { data: spoilt.into(), ..stored };
        assert!(spoilt.block_from(2 * BLOCK_BYTES + 1).is_err() && spoilt.block_from(0).is_ok());
    });
}

#[test]
fn a_damaged_snapshot_damages_its_group_until_it_is_erased_or_replaced() {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await;
        let group = log.group(GROUP);
        for _ in 0..2 {
            write(&group, 1).await.unwrap();
            let (file, data) = disk.files().into_iter().next_back().unwrap();
            disk.flip(file, data.len() / 2, 4);
            assert!(group.damage().is_none(), "nobody has read it");
            assert!(read(&group).await.is_err());
            let reason = group.damage().unwrap().reason;
            assert!(reason.starts_with(&file.to_file_name()) && reason.contains("at byte"), "{reason}");
            assert_eq!(log.damaged(), [GROUP].into());
            write(&group, 2).await.unwrap();
            assert!(group.damage().is_none(), "a newer one is sound");
            let (file, _) = disk.files().into_iter().next_back().unwrap();
            disk.flip(file, 0, 4);
            assert!(read(&group).await.is_err());
            group.erase(None).await.unwrap();
            assert!(group.damage().is_none() && read(&group).await.unwrap().is_none());
        }
    });
}
