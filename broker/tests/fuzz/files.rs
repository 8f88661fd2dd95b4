//! Files: the log and its snapshots, what is in the log, configuration, users, rules.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use mqtt_broker::auth::{Acl, Client, Passwords};
use mqtt_broker::cli::Run;
use mqtt_broker::config::Config;
use mqtt_broker::identity::GroupId;
use mqtt_broker::shard::{Entry, Shard};
use mqtt_broker::storage::disk::FileName;
use mqtt_broker::storage::{Faults, Limits, Log, Options, Recovered, SimulatedDisk};

use crate::mutation::fuzz;

const IDENTITY: u64 = 0x1dea;
const GROUPS: u16 = 3;
const ENTRIES: u64 = 6;

fn simulate<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(3600), future).await };
    tokio::task::LocalSet::new().block_on(&runtime, bounded).expect("nothing happens any more")
}

async fn open(disk: &SimulatedDisk) -> std::io::Result<(Log, Recovered)> {
    let limits = Limits { segment_bytes_max: 1024, batch_bytes_max: 256, cache_bytes_max: 128, ..Limits::default() };
    Log::open(Rc::new(disk.clone()), Options { identity: IDENTITY, limits }).await
}

fn payload(group: u16, index: u64) -> Bytes {
    Bytes::from(format!("entry {index} of group {group}, of which there are some"))
}

/// A log of several groups in several segments, with a snapshot.
fn written() -> Vec<(FileName, Vec<u8>)> {
    simulate(async {
        let disk = SimulatedDisk::new(1, Faults::default());
        let (log, _) = open(&disk).await.unwrap();
        for index in 0..ENTRIES {
            for group in 0..GROUPS {
                let (tell, told) = tokio::sync::oneshot::channel();
                let appended = log.group(GroupId(group));
                assert_eq!(appended.next_index(), index);
                appended.append([(index, payload(group, index))], |verdict| drop(tell.send(verdict)));
                told.await.unwrap().unwrap();
            }
        }
        let chunks = [Bytes::from_static(b"state"), Bytes::from(vec![7; 100])];
        log.group(GroupId(1)).write_snapshot(Bytes::from_static(b"meta"), chunks).await.unwrap();
        log.close().await.unwrap();
        disk.files()
    })
}

/// One file of a log is changed: what can still be read is what was written.
#[test]
fn log_and_snapshots() {
    let files = written();
    assert!(files.len() > 2, "{files:?}");
    // Which file it is stands in front.
    let grown = files.iter().enumerate().map(|(number, (_, bytes))| [&[number as u8], &bytes[..]].concat()).collect();
    fuzz("log", grown, |bytes| {
        let Some((number, changed)) = bytes.split_first() else { return };
        simulate(async {
            let disk = SimulatedDisk::new(2, Faults::default());
            for (at, (file, bytes)) in files.iter().enumerate() {
                let bytes = if at == usize::from(*number) % files.len() { changed } else { bytes };
                disk.put(*file, bytes.to_vec());
            }
            let Ok((log, _)) = open(&disk).await else { return };
            for number in 0..GROUPS {
                let group = log.group(GroupId(number));
                if group.damage().is_none() {
                    for (index, entry) in group.read(0..u64::MAX, usize::MAX).await.unwrap() {
                        assert_eq!(entry, payload(number, index), "an entry that nobody wrote");
                    }
                }
                if let Ok(Some(mut snapshot)) = group.read_snapshot().await {
                    assert_eq!(snapshot.meta(), "meta");
                    while let Ok(Some(_)) = snapshot.next().await {}
                }
            }
        });
    });
}

/// What a shard finds in its log.
#[test]
fn entries_of_shards() {
    let grown = vec![postcard::to_stdvec(&Entry::default()).unwrap(), (0..64).collect(), vec![1; 64]];
    fuzz("entries", grown, |bytes| {
        if let Ok(entry) = postcard::from_bytes::<Entry>(bytes) {
            Shard::default().apply_entry(entry, &mut Vec::new());
        }
    });
}

#[test]
fn configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broker.yaml");
    let run = Run { config: Some(file.clone()), ..Run::default() };
    fuzz("config", Vec::new(), |bytes| {
        std::fs::write(&file, bytes).unwrap();
        match Config::load(&run) {
            Ok(config) => assert!(config.workers > 0 && !config.listeners.is_empty() && !config.node_name.is_empty()),
            Err(error) => assert!(error.to_string().contains("broker.yaml"), "{error}"),
        }
    });
}

#[test]
fn passwords() {
    fuzz("passwords", Vec::new(), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(passwords) = Passwords::parse(text) {
            assert!(!passwords.contains("somebody else"));
        }
    });
}

#[test]
fn rules() {
    fuzz("rules", Vec::new(), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok(acl) = Acl::parse(text) else { return };
        let client = Client { user: Some("ann"), client_id: "c1" };
        for topic in ["a/secret", "of/ann/c1/x", "b/+", ""] {
            acl.may_publish(client, topic);
            acl.may_subscribe(client, topic);
        }
    });
}
