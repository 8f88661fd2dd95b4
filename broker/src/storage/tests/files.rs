//! The log on real files.

use bytes::Bytes;

use super::{append, entries, open_with, simulate, small};
use crate::identity::GroupId;
use crate::storage::{FileDisk, Log, Options};

fn on_files<T>(test: impl Future<Output = T>) -> T {
    // Real threads answer: simulated time would run ahead of them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

#[test]
fn a_log_on_real_files_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    for start in 0..3_u64 {
        on_files(async {
            let (log, recovered) = open_with(FileDisk::open(&path).unwrap(), small()).await.unwrap();
            assert_eq!(recovered.damaged, []);
            let group = log.group(GroupId(1));
            assert_eq!(group.next_index(), start * 20);
            let durable: Vec<_> = (0..20).map(|_| append(&group, vec![start as u8; 90])).collect();
            for durable in durable {
                durable.await.unwrap();
            }
            let found = entries(&group).await;
            assert!(found.iter().all(|(index, payload)| *payload == vec![(index / 20) as u8; 90]));
            let mut snapshot = group.read_snapshot().await.unwrap();
            if let Some(snapshot) = &mut snapshot {
                assert_eq!(snapshot.meta()[..], [start as u8 - 1]);
                assert_eq!(snapshot.next().await.unwrap().unwrap(), "chunk");
                assert_eq!(snapshot.next().await.unwrap(), None);
            }
            assert_eq!(snapshot.is_some(), start > 0);
            let meta = Bytes::from(vec![start as u8]);
            group.write_snapshot(meta, [Bytes::from_static(b"chunk")]).await.unwrap();
            if start == 1 {
                group.purge_to(group.next_index() - 2);
            }
            log.close().await.unwrap();
        });
    }
    let files = std::fs::read_dir(&path).unwrap().count();
    assert!(files < 20, "old segments and snapshots are removed: {files} files");
}

#[test]
fn a_directory_has_one_user() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    let error = FileDisk::open(directory.path()).err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
    drop(disk);
    FileDisk::open(directory.path()).unwrap();
}

#[test]
fn the_log_of_another_node_is_refused_and_left_alone() {
    simulate(async {
        let disk = crate::storage::SimulatedDisk::new(1, crate::storage::Faults::default());
        let (log, _) = super::open(&disk).await;
        append(&log.group(GroupId(1)), "theirs").await.unwrap();
        let before = disk.files();
        let options = Options { identity: super::IDENTITY + 1, limits: small() };
        let error = Log::open(std::rc::Rc::new(disk.clone()), options).await.err().unwrap();
        assert!(error.to_string().contains("another node"), "{error}");
        assert_eq!(disk.files(), before);
    });
}
