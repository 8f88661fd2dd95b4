//! Damaged disks: who is rebuilt, and what is never erased (K10).

use super::*;
use crate::cluster::status::Stage;
use crate::identity::{GroupId, ShardId};
use crate::storage::disk::FileName;
use crate::storage::{Crash, Faults, SimulatedDisk};

const SHARD: GroupId = GroupId(1);

/// A cluster of three on simulated disks, with three replicas of everything.
async fn start(cluster: &mut Cluster) -> BTreeMap<&'static str, SimulatedDisk> {
    let mut disks = BTreeMap::new();
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let disk = SimulatedDisk::new(index as u64, Faults::default());
        disks.insert(name, disk.clone());
        cluster.boot(name, index as u64 + 1, 1, Rc::new(disk)).await;
    }
    cluster.until_whole().await;
    disks
}

/// Kills a node; the disk is the next run's.
async fn kill(cluster: &mut Cluster, name: &str, disk: &SimulatedDisk) -> SimulatedDisk {
    cluster.kill(name).await;
    disk.crash(Crash::Kill)
}

async fn restart(cluster: &mut Cluster, name: &str, run: u64, disk: &SimulatedDisk) {
    cluster.boot(name, id_of(name), run, Rc::new(disk.clone())).await;
}

fn id_of(name: &str) -> u64 {
    ["a", "b", "c"].iter().position(|known| *known == name).expect("a node of the test") as u64 + 1
}

/// Where one byte must be spoilt so that this group, and no other, has lost something.
async fn place_of(group: GroupId, id: u64, disk: &SimulatedDisk) -> (FileName, usize) {
    let files = disk.files();
    for (file, data) in files.iter().filter(|(file, _)| matches!(file, FileName::Segment(_))) {
        // Most records are longer than the first step, and to look takes a reading of the whole log.
        for offset in (0..data.len()).step_by(61).chain((0..data.len()).step_by(8)) {
            let copy = SimulatedDisk::new(1, Faults::default());
            files.iter().for_each(|(file, data)| copy.put(*file, data.clone()));
            copy.flip(*file, offset, 1);
            let options = Options { identity: id, limits: Default::default() };
            let Ok((_, recovered)) = Log::open(Rc::new(copy), options).await else { continue };
            let damaged: Vec<GroupId> = recovered.damaged.iter().map(|damage| damage.group).collect();
            if damaged == [group] && recovered.stray.is_none() {
                return (*file, offset);
            }
        }
    }
    panic!("no byte of the log is {group}'s alone");
}

/// What a node says of its damaged replicas.
fn damaged(cluster: &Cluster, name: &str) -> Vec<(GroupId, Stage)> {
    cluster.node(name).status().damaged.iter().map(|(group, replica)| (*group, replica.stage)).collect()
}

async fn until_rebuilt(cluster: &Cluster, name: &str) {
    cluster
        .until("it is rebuilt", |cluster| {
            let status = cluster.node(name).status();
            status.rebuilt > 0 && status.damaged.is_empty()
        })
        .await;
    cluster.until_whole().await;
}

/// The rebuilt replica is one that counts: with it and one other, everything is led and can be changed.
async fn assert_that_it_counts(cluster: &mut Cluster, other: &str, third: &str) {
    cluster.kill(other).await;
    cluster
        .until("all shards are led without the other", |cluster| {
            let status = cluster.node(third).status();
            let gone = status.members.iter().any(|m| m.name == other && m.state == MemberState::Unreachable);
            gone && status.without_leader == 0 && cluster.node(third).serves()
        })
        .await;
}

#[test]
fn k10_a_damaged_replica_of_a_shard_is_rebuilt_from_the_others() {
    simulate(async |mut cluster| {
        let disks = start(&mut cluster).await;
        let disk = kill(&mut cluster, "c", &disks["c"]).await;
        let (file, offset) = place_of(SHARD, 3, &disk).await;
        disk.flip(file, offset, 1);
        restart(&mut cluster, "c", 2, &disk).await;
        cluster.until("it says so", |cluster| damaged(cluster, "c").iter().any(|(group, _)| *group == SHARD)).await;
        let words = cluster.node("c").status().describe_damaged().collect::<String>();
        assert!(words.contains("shard 0") && words.contains(&file.to_file_name()), "{words}");
        until_rebuilt(&cluster, "c").await;
        assert!(cluster.node("c").log.group(SHARD).next_index() > 0, "it has the log again");
        assert_that_it_counts(&mut cluster, "b", "c").await;
    });
}

#[test]
fn k10_a_damaged_replica_of_the_control_group_is_rebuilt_from_the_others() {
    simulate(async |mut cluster| {
        let disks = start(&mut cluster).await;
        let disk = kill(&mut cluster, "c", &disks["c"]).await;
        let (file, offset) = place_of(GroupId::CONTROL, 3, &disk).await;
        disk.flip(file, offset, 1);
        restart(&mut cluster, "c", 2, &disk).await;
        until_rebuilt(&cluster, "c").await;
        cluster.until("it serves", |cluster| cluster.node("c").serves()).await;
        assert_that_it_counts(&mut cluster, "b", "c").await;
    });
}

#[test]
fn a_founder_whose_control_group_was_erased_founds_no_other_cluster() {
    simulate(async |mut cluster| {
        let disks = start(&mut cluster).await;
        let founded = cluster.node("b").status().cluster;
        let mut disk = kill(&mut cluster, "a", &disks["a"]).await;
        let (file, offset) = place_of(GroupId::CONTROL, 1, &disk).await;
        disk.flip(file, offset, 1);
        // As on a node that is always told that it may.
        cluster.founding_runs = 3;
        restart(&mut cluster, "a", 2, &disk).await;
        let erased = |cluster: &Cluster| {
            let control = cluster.node("a").log.group(GroupId::CONTROL);
            control.damage().is_none() && control.next_index() == 0
        };
        while !erased(&cluster) {
            sleep(Duration::from_millis(1)).await;
        }
        disk = kill(&mut cluster, "a", &disk).await;
        cluster.kill("b").await;
        cluster.kill("c").await;
        restart(&mut cluster, "a", 3, &disk).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(cluster.node("a").status().cluster, 0, "it waits for those who know");
        assert_ne!(founded, 0);
    });
}

#[test]
fn k10_damage_that_is_found_while_running_takes_the_same_way() {
    simulate(async |mut cluster| {
        start(&mut cluster).await;
        let found = [SHARD, GroupId::of_shard(ShardId(2)), GroupId::CONTROL];
        for group in found {
            let before = cluster.node("c").status().rebuilt;
            cluster.node("c").log.group(group).condemn("an entry could not be read back".to_string());
            cluster.until("it is rebuilt", |cluster| cluster.node("c").status().rebuilt > before).await;
            cluster.until_whole().await;
            cluster.until("it serves", |cluster| cluster.node("c").serves()).await;
        }
        assert_that_it_counts(&mut cluster, "b", "c").await;
    });
}

#[test]
fn k10_two_damaged_replicas_of_three_erase_nothing() {
    // Whether the one that is sound was the leader, and goes on believing so, or not.
    for sound in ["a", "b", "c"] {
        simulate(async |mut cluster| two_damaged(&mut cluster, sound).await);
    }
}

async fn two_damaged(cluster: &mut Cluster, sound: &str) {
    let mut disks = start(cluster).await;
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != sound).collect();
    for name in &others {
        let disk = kill(cluster, name, &disks[name]).await;
        disks.insert(name, disk);
    }
    let mut kept = BTreeMap::new();
    for name in &others {
        let disk = &disks[name];
        kept.insert(*name, promised(&open(id_of(name), disk).await));
        let (file, offset) = place_of(SHARD, id_of(name), disk).await;
        disk.flip(file, offset, 1);
        restart(cluster, name, 2, disk).await;
    }
    cluster
        .until("both say that nobody can rebuild them", |cluster| {
            others.iter().all(|name| damaged(cluster, name) == [(SHARD, Stage::Stuck)])
        })
        .await;
    sleep(Duration::from_secs(60)).await;
    for name in &others {
        let status = cluster.node(name).status();
        assert_eq!(status.rebuilt, 0);
        assert!(status.not_ready.contains("no majority of its replicas is left"), "{status:#?}");
        let log = &cluster.node(name).log;
        assert!(log.group(SHARD).damage().is_some(), "it is not taken for sound");
        assert_eq!(promised(log), kept[name], "nothing was erased");
    }
    assert!(cluster.node(sound).log.group(SHARD).damage().is_none());
}

/// What the log has of the shard: how many entries there were, and whether a vote. What is spoilt counts.
fn promised(log: &Log) -> (u64, bool) {
    let group = log.group(SHARD);
    assert!(group.next_index() > 0);
    (group.next_index(), group.load(1).is_some())
}

/// The log on a copy of the disk.
async fn open(id: u64, disk: &SimulatedDisk) -> Log {
    let copy = SimulatedDisk::new(1, Faults::default());
    disk.files().into_iter().for_each(|(file, data)| copy.put(file, data));
    let options = Options { identity: id, limits: Default::default() };
    Log::open(Rc::new(copy), options).await.expect("a log").0
}

#[test]
fn a_sole_copy_that_is_damaged_is_stopped_and_kept() {
    simulate(async |mut cluster| {
        let disk = SimulatedDisk::new(1, Faults::default());
        cluster.boot("a", 1, 1, Rc::new(disk.clone())).await;
        cluster.until("it serves", |cluster| cluster.node("a").serves()).await;
        cluster.node("a").log.group(SHARD).condemn("log-0000000000000001 at byte 7".to_string());
        cluster.until("it is stopped", |cluster| damaged(cluster, "a") == [(SHARD, Stage::Stuck)]).await;
        sleep(Duration::from_secs(30)).await;
        let node = cluster.node("a");
        assert!(node.log.group(SHARD).next_index() > 0, "it is kept");
        let words = node.status().describe_damaged().collect::<String>();
        assert!(words.contains("log-0000000000000001 at byte 7") && words.contains("data directory"), "{words}");
    });
}
