//! Groups on disks in memory and an in-memory transport, in one thread, on paused time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::LocalSet;

use super::*;
use crate::identity::{GroupId, NodeId};
use crate::kept::{Kept, Shelf};
use crate::storage::{Crash, Faults, Limits, Log, MemoryDisk, Options, SimulatedDisk};

const GROUP: GroupId = GroupId(3);
/// What stays in memory of what the states keep: little, so that the rest is in files.
const KEPT_BYTES_MAX: usize = 300;

/// Remembers every entry, on the node's shelf.
struct History {
    shelf: Shelf,
    entries: Vec<Rc<Kept>>,
}

impl StateMachine for History {
    type Effect = Vec<u8>;

    fn apply(&mut self, _index: u64, entry: &[u8], effects: &mut Vec<Vec<u8>>) {
        self.entries.push(self.shelf.keep(&Bytes::copy_from_slice(entry)));
        effects.push(entry.to_vec());
    }

    fn snapshot(&self) -> Image {
        let lengths: Vec<usize> = self.entries.iter().map(|entry| entry.len()).collect();
        Image { head: postcard::to_stdvec(&lengths).unwrap().into(), kept: self.entries.clone() }
    }

    fn restore(&mut self, bytes: &Bytes) -> io::Result<()> {
        let (lengths, rest) = postcard::take_from_bytes::<Vec<usize>>(bytes).map_err(io::Error::other)?;
        let mut rest = bytes.slice_ref(rest);
        self.entries = lengths.iter().map(|length| self.shelf.keep_stored(rest.split_to(*length))).collect();
        assert!(rest.is_empty());
        Ok(())
    }
}

/// Nodes that reach each other unless one is cut off.
#[derive(Clone, Default)]
struct Nodes {
    groups: Rc<RefCell<BTreeMap<NodeId, Group<History>>>>,
    disks: Rc<RefCell<BTreeMap<NodeId, SimulatedDisk>>>,
    cut: Rc<RefCell<BTreeSet<NodeId>>>,
    effects: Rc<Cell<u64>>,
}

struct Wire {
    from: NodeId,
    nodes: Nodes,
}

impl Transport for Wire {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        request: Bytes,
        _deadline: Duration,
    ) -> LocalFuture<Result<Bytes, TransportError>> {
        let (nodes, from) = (self.nodes.clone(), self.from);
        let (answer, wait) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let target = nodes.reach(from, to);
            let result = match target {
                None => Err(TransportError::Unreachable(to)),
                Some(target) => {
                    assert_eq!(target.id(), group);
                    let bytes = target.receive(request).await;
                    if nodes.reach(from, to).is_some() { Ok(bytes) } else { Err(TransportError::Closed(to)) }
                }
            };
            let _ = answer.send(result);
        });
        Box::pin(async move { wait.await.unwrap_or(Err(TransportError::Closed(to))) })
    }
}

impl Nodes {
    fn reach(&self, from: NodeId, to: NodeId) -> Option<Group<History>> {
        let cut = self.cut.borrow();
        if cut.contains(&from) || cut.contains(&to) {
            return None;
        }
        self.groups.borrow().get(&to).cloned()
    }

    async fn start(&self, node: u64) -> Group<History> {
        let node = NodeId(node);
        let disk = || SimulatedDisk::new(node.0, Faults { delay_max: Duration::from_millis(2), ..Faults::default() });
        let disk = self.disks.borrow_mut().entry(node).or_insert_with(disk).clone();
        let limits = Limits { kept_bytes_max: KEPT_BYTES_MAX, ..Limits::default() };
        let options = Options { identity: node.0, limits };
        let (log, _) = Log::open(Rc::new(disk), options).await.unwrap();
        let effects = self.effects.clone();
        let settings = Settings {
            snapshot_entries: 50,
            snapshot_log_bytes: 20_000,
            kept_entries: 5,
            snapshot_entries_max: 800,
            ..Settings::default()
        };
        let group = Group::start(
            node,
            GROUP,
            History { shelf: log.shelf(), entries: Vec::new() },
            log.group(GROUP),
            Rc::new(Wire { from: node, nodes: self.clone() }),
            settings,
            Rc::new(move |_, given| effects.set(effects.get() + given.map_or(0, |given| given.len() as u64))),
        )
        .await
        .unwrap();
        self.groups.borrow_mut().insert(node, group.clone());
        group
    }

    async fn kill(&self, node: u64) {
        let group = self.groups.borrow_mut().remove(&NodeId(node)).unwrap();
        group.shutdown().await;
    }

    /// As if the power had failed: what was not synced is lost, and nothing of the old run goes on writing.
    async fn cut_power(&self, node: u64) {
        let disk = self.disks.borrow()[&NodeId(node)].crash(Crash::PowerCut);
        self.disks.borrow_mut().insert(NodeId(node), disk);
        let group = self.groups.borrow_mut().remove(&NodeId(node)).unwrap();
        // It waits for a disk that never answers again.
        tokio::task::spawn_local(async move { group.shutdown().await });
    }

    async fn leader(&self) -> Group<History> {
        within(10, || {
            let groups = self.groups.borrow();
            let cut = self.cut.borrow();
            groups
                .iter()
                .find(|(node, group)| !cut.contains(node) && group.leadership().borrow().ready)
                .map(|(_, g)| g.clone())
        })
        .await
    }

    /// Proposes to whoever leads until it is committed.
    async fn write(&self, text: &str) {
        for _ in 0..200 {
            if self.leader().await.propose(Bytes::copy_from_slice(text.as_bytes())).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{text} was never committed");
    }
}

async fn within<T>(seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {seconds} s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn history(group: &Group<History>) -> Vec<String> {
    let text = |kept: &Rc<Kept>| {
        let entry: Bytes = postcard::from_bytes(&kept.bytes()).unwrap();
        String::from_utf8(entry.to_vec()).unwrap()
    };
    group.with(|state| state.entries.iter().map(text).collect())
}

fn simulate<F: Future<Output = T>, T>(seed_value: u64, run: impl FnOnce(Nodes) -> F) -> T {
    seed(seed_value);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed_value.to_le_bytes()))
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, run(Nodes::default()))
}

fn set(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}

async fn three(nodes: &Nodes) -> Group<History> {
    let first = nodes.start(1).await;
    nodes.start(2).await;
    nodes.start(3).await;
    first.initialize(&set([1, 2, 3])).await.unwrap();
    nodes.leader().await
}

#[test]
fn a_replica_alone_in_memory_keeps_few_of_the_entries_that_it_has_applied() {
    simulate(1, async |nodes| {
        let disk = Rc::new(MemoryDisk::without_segments());
        let (log, _) = Log::open(disk, Options { identity: 1, limits: Limits::default() }).await.unwrap();
        let group = Group::start(
            NodeId(1),
            GROUP,
            History { shelf: log.shelf(), entries: Vec::new() },
            log.group(GROUP),
            Rc::new(Wire { from: NodeId(1), nodes: nodes.clone() }),
            Settings::alone_in_memory(),
            Rc::new(|_, _| {}),
        );
        let group = group.await.unwrap();
        nodes.groups.borrow_mut().insert(NodeId(1), group.clone());
        group.initialize(&BTreeSet::from([NodeId(1)])).await.unwrap();
        for number in 0..2_000 {
            nodes.write(&number.to_string()).await;
        }
        assert_eq!(history(&group), (0..2_000).map(|number| number.to_string()).collect::<Vec<_>>());
        // Of a state that grows, a log as large as the last snapshot.
        let entries = || log.group(GROUP).next_index() - log.group(GROUP).first_index();
        within(10, || (entries() < 1_500).then_some(())).await;
        assert!(log.group(GROUP).first_index() > 0);
    });
}

#[test]
fn what_a_majority_has_survives_its_leader() {
    simulate(1, async |nodes| {
        let leader = three(&nodes).await;
        nodes.write("a").await;
        let dead = leader.leadership().borrow().leader.unwrap();
        nodes.kill(dead.0).await;
        nodes.write("b").await;
        let back = nodes.start(dead.0).await;
        within(5, || (history(&back) == ["a", "b"]).then_some(())).await;
    });
}

#[test]
fn survivors_elect_at_once_when_the_stream_of_the_leader_closes() {
    simulate(2, async |nodes| {
        let leader = three(&nodes).await;
        nodes.write("a").await;
        let dead = leader.leadership().borrow().leader.unwrap();
        nodes.kill(dead.0).await;
        let start = tokio::time::Instant::now();
        let survivors: Vec<_> = nodes.groups.borrow().values().cloned().collect();
        for survivor in &survivors {
            survivor.peer_closed(dead).await;
        }
        nodes.leader().await;
        let took = start.elapsed();
        assert!(took < Duration::from_millis(Settings::default().election_timeout_min_ms), "took {took:?}");
    });
}

#[test]
fn a_minority_commits_nothing_and_heals() {
    simulate(3, async |nodes| {
        let old = three(&nodes).await;
        let cut = old.leadership().borrow().leader.unwrap();
        nodes.cut.borrow_mut().insert(cut);
        let lost = tokio::time::timeout(Duration::from_secs(3), old.propose(Bytes::from_static(b"lost"))).await;
        assert!(!matches!(lost, Ok(Ok(()))), "a minority committed");
        assert!(
            !matches!(tokio::time::timeout(Duration::from_secs(2), old.linearizable()).await, Ok(Ok(()))),
            "a minority gave a current read"
        );
        nodes.write("kept").await;
        nodes.cut.borrow_mut().clear();
        within(5, || (history(&old) == ["kept"]).then_some(())).await;
    });
}

#[test]
fn members_come_and_go_and_a_new_one_catches_up_from_a_snapshot() {
    simulate(4, async |nodes| {
        three(&nodes).await;
        for number in 0..120 {
            nodes.write(&number.to_string()).await;
        }
        let leader = nodes.leader().await;
        for node in [4, 5] {
            nodes.start(node).await;
            leader.add_learner(NodeId(node)).await.unwrap();
        }
        within(5, || [4, 5].iter().all(|node| leader.standing().in_sync(NodeId(*node), 0)).then_some(())).await;
        leader.change_voters(&set(1..=5)).await.unwrap();
        nodes.write("five").await;
        let fifth = nodes.groups.borrow()[&NodeId(5)].clone();
        within(5, || (history(&fifth).len() == 121).then_some(())).await;

        nodes.leader().await.change_voters(&set([3, 4, 5])).await.unwrap();
        nodes.kill(1).await;
        nodes.kill(2).await;
        nodes.write("three").await;
        assert_eq!(nodes.leader().await.standing().voters, set([3, 4, 5]));
    });
}

#[test]
fn who_leads_alone_sleeps_until_there_is_somebody_else() {
    simulate(8, async |nodes| {
        let first = nodes.start(1).await;
        first.initialize(&set([1])).await.unwrap();
        nodes.write("alone").await;
        let metrics = tokio::runtime::Handle::current().metrics();
        let before = metrics.worker_park_count(0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let parked = metrics.worker_park_count(0) - before;
        assert!(parked < 10, "woke up {parked} times in a minute");

        nodes.write("still").await;
        for node in [2, 3] {
            nodes.start(node).await;
            first.add_learner(NodeId(node)).await.unwrap();
        }
        within(5, || [2, 3].iter().all(|node| first.standing().in_sync(NodeId(*node), 0)).then_some(())).await;
        first.change_voters(&set([1, 2, 3])).await.unwrap();
        let second = nodes.groups.borrow()[&NodeId(2)].clone();
        let term = second.leadership().borrow().term;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(second.leadership().borrow().term, term, "a follower heard nothing of its leader");
        nodes.kill(1).await;
        nodes.write("without it").await;
    });
}

#[test]
fn leadership_is_given_to_a_member_in_sync_and_to_nobody_else() {
    simulate(5, async |nodes| {
        let leader = three(&nodes).await;
        nodes.write("a").await;
        let me = leader.leadership().borrow().leader.unwrap();
        let to = set([1, 2, 3]).into_iter().find(|node| *node != me).unwrap();
        assert!(leader.transfer_leader(NodeId(9)).await.is_err());
        within(5, || leader.standing().in_sync(to, 0).then_some(())).await;
        leader.transfer_leader(to).await.unwrap();
        let target = nodes.groups.borrow()[&to].clone();
        within(1, || target.leadership().borrow().ready.then_some(())).await;
    });
}

#[test]
fn a_whole_group_restarts_from_its_disks() {
    simulate(6, async |nodes| {
        three(&nodes).await;
        for number in 0..70 {
            nodes.write(&number.to_string()).await;
        }
        for node in 1..=3 {
            nodes.kill(node).await;
        }
        for node in 1..=3 {
            nodes.start(node).await;
        }
        nodes.write("after").await;
        let expected: Vec<String> = (0..70).map(|number| number.to_string()).chain(["after".into()]).collect();
        assert_eq!(history(&nodes.leader().await), expected);
    });
}

#[test]
fn a_leader_with_a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_space() {
    simulate(8, async |nodes| {
        // Alone, so that nobody else can lead.
        let group = nodes.start(1).await;
        group.initialize(&set([1])).await.unwrap();
        nodes.write("a").await;
        let disk = nodes.disks.borrow()[&NodeId(1)].clone();
        disk.set_capacity_bytes(disk.used_bytes());
        let refused = group.propose(Bytes::from(vec![b'x'; 10_000])).await;
        assert!(matches!(refused, Err(ProposeError::Unavailable(_))), "{refused:?}");
        within(5, || group.leadership().borrow().failed.clone()).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!group.leadership().borrow().is_leader);

        disk.set_capacity_bytes(u64::MAX);
        within(20, || group.leadership().borrow().ready.then_some(())).await;
        group.propose(Bytes::from_static(b"b")).await.unwrap();
        assert_eq!(history(&group), ["a", "b"]);
    });
}

#[test]
fn a_sole_voter_with_hardly_any_space_knows_what_it_has() {
    simulate(11, async |nodes| {
        let group = nodes.start(1).await;
        group.initialize(&set([1])).await.unwrap();
        nodes.write("a").await;
        let disk = nodes.disks.borrow()[&NodeId(1)].clone();
        // What fits: nothing, a small record, some of what an election takes.
        for room in (0..=600).step_by(50) {
            disk.set_capacity_bytes(disk.used_bytes() + room);
            let refused = group.propose(Bytes::from(vec![b'x'; 10_000])).await;
            assert!(refused.is_err(), "{room} bytes");
            let end = tokio::time::Instant::now() + Duration::from_secs(12);
            while tokio::time::Instant::now() < end {
                assert_eq!(history(&group), ["a"], "{room} bytes");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            within(10, || group.is_settled().then_some(())).await;
        }
        disk.set_capacity_bytes(u64::MAX);
        within(20, || group.leadership().borrow().ready.then_some(())).await;
        group.propose(Bytes::from_static(b"b")).await.unwrap();
        assert_eq!(history(&group), ["a", "b"]);
    });
}

#[test]
fn a_follower_with_a_full_disk_holds_nobody_up_and_catches_up_later() {
    simulate(9, async |nodes| {
        let leader = three(&nodes).await;
        nodes.write("a").await;
        let me = leader.leadership().borrow().leader.unwrap();
        let full = set([1, 2, 3]).into_iter().find(|node| *node != me).unwrap();
        let disk = nodes.disks.borrow()[&full].clone();
        disk.set_capacity_bytes(disk.used_bytes());
        let expected: Vec<String> = std::iter::once("a".into()).chain((0..150).map(|n: u32| n.to_string())).collect();
        for text in &expected[1..] {
            nodes.write(text).await;
        }
        disk.set_capacity_bytes(u64::MAX);
        let follower = nodes.groups.borrow()[&full].clone();
        within(20, || (history(&follower) == expected).then_some(())).await;
    });
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_committed() {
    for seed in 20..32 {
        simulate(seed, async |nodes| {
            three(&nodes).await;
            let mut expected = Vec::new();
            for round in 0..6_u64 {
                for number in 0..25 {
                    let text = format!("{round}/{number}");
                    nodes.write(&text).await;
                    expected.push(text);
                }
                let victim = 1 + (seed + round) % 3;
                nodes.cut_power(victim).await;
                let text = format!("{round}/cut");
                nodes.write(&text).await;
                expected.push(text);
                nodes.start(victim).await;
            }
            for node in 1..=3 {
                let group = nodes.groups.borrow()[&NodeId(node)].clone();
                // A write whose answer was lost is repeated.
                within(10, || (unrepeated(history(&group)) == expected).then_some(())).await;
            }
        });
    }
}

#[test]
fn a_node_that_is_not_in_sync_is_not_made_a_voter() {
    simulate(10, async |nodes| {
        let leader = three(&nodes).await;
        nodes.write("a").await;
        // Nobody is there to answer for it.
        leader.add_learner(NodeId(4)).await.unwrap();
        assert!(leader.change_voters(&set(1..=4)).await.is_err());
        leader.remove_learner(NodeId(4)).await.unwrap();
        assert_eq!(leader.standing().learners, set([]));
        nodes.write("b").await;
    });
}

#[test]
fn large_entries_are_snapshotted_and_purged_by_their_bytes() {
    simulate(11, async |nodes| {
        let group = nodes.start(1).await;
        group.initialize(&set([1])).await.unwrap();
        nodes.leader().await;
        for _ in 0..200 {
            group.propose(Bytes::from(vec![b'x'; 1_000])).await.unwrap();
        }
        let files = nodes.disks.borrow()[&NodeId(1)].files();
        assert!(files.iter().any(|(file, _)| matches!(file, crate::storage::disk::FileName::Snapshot(..))));
        assert_eq!(history(&group).len(), 200);
    });
}

#[test]
fn a_large_state_reaches_a_new_member_and_is_on_disk_there_and_here() {
    simulate(12, async |nodes| {
        let group = nodes.start(1).await;
        group.initialize(&set([1])).await.unwrap();
        nodes.leader().await;
        for number in 0..120_u32 {
            group.propose(Bytes::from(format!("{number:010000}"))).await.unwrap();
        }
        let second = nodes.start(2).await;
        group.add_learner(NodeId(2)).await.unwrap();
        within(60, || (history(&second).len() == 120).then_some(())).await;
        assert_eq!(history(&second), history(&group));
        for group in [&group, &second] {
            within(60, || group.with(|state| state.shelf.in_memory_bytes() <= KEPT_BYTES_MAX).then_some(())).await;
        }
        // Several blocks.
        let files = nodes.disks.borrow()[&NodeId(2)].files();
        let snapshot = files.iter().find(|(file, _)| matches!(file, crate::storage::disk::FileName::Snapshot(..)));
        assert!(snapshot.unwrap().1.len() > crate::storage::snapshot::BLOCK_BYTES);
        // Another start goes on from it.
        let before = history(&second);
        nodes.kill(2).await;
        let second = nodes.start(2).await;
        within(60, || (history(&second) == before).then_some(())).await;
    });
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_one_another() {
    let run = |seed| {
        simulate(seed, async |nodes| {
            let start = tokio::time::Instant::now();
            let mut seen = Vec::new();
            three(&nodes).await;
            for round in 0..5 {
                let leader = nodes.leader().await;
                let me = leader.leadership().borrow().leader.unwrap();
                nodes.write(&format!("{round}")).await;
                nodes.cut_power(me.0).await;
                nodes.write(&format!("{round} without {me}")).await;
                seen.push((me, nodes.leader().await.leadership().borrow().clone(), start.elapsed()));
                nodes.start(me.0).await;
            }
            let histories: Vec<_> = nodes.groups.borrow().values().map(history).collect();
            (seen, histories, nodes.effects.get())
        })
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

fn unrepeated(mut history: Vec<String>) -> Vec<String> {
    history.dedup();
    history
}
