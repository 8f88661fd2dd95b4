//! Several nodes' routes, wired by hand: frames are carried when the test says so.

use super::*;

/// What a worker knows.
type Table = BTreeSet<(RouteOwner, Arc<str>)>;

struct Cluster {
    nodes: BTreeMap<NodeId, Routes<&'static str>>,
    /// What each worker of each node knows.
    tables: BTreeMap<(NodeId, u16), Table>,
    settled: Vec<&'static str>,
    synced: Vec<(NodeId, NodeId, u64)>,
    /// Workers that do not answer now.
    stuck: BTreeSet<(NodeId, u16)>,
    cut: bool,
}

impl Cluster {
    fn new(nodes: u64) -> Cluster {
        let ids: BTreeSet<NodeId> = (1..=nodes).map(NodeId).collect();
        let mut cluster = Cluster {
            nodes: ids.iter().map(|node| (*node, Routes::new(2))).collect(),
            tables: BTreeMap::new(),
            settled: Vec::new(),
            synced: Vec::new(),
            stuck: BTreeSet::new(),
            cut: false,
        };
        for node in &ids {
            let others: BTreeSet<NodeId> = ids.iter().filter(|id| *id != node).copied().collect();
            let routes = cluster.on(node.0);
            for other in &others {
                routes.link_up(*other);
            }
            routes.set_members(others);
        }
        cluster.run();
        cluster
    }

    fn on(&mut self, node: u64) -> &mut Routes<&'static str> {
        self.nodes.get_mut(&NodeId(node)).expect("a node of the test")
    }

    /// Until nothing moves any more.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                for out in self.on(node.0).flush() {
                    moved = true;
                    self.carry(node, out);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn carry(&mut self, node: NodeId, out: RouteOut<&'static str>) {
        match out {
            RouteOut::Peer(to, frame) if !self.cut => self.on(to.0).frame(node, frame),
            RouteOut::Peer(..) | RouteOut::Leader(..) => {}
            RouteOut::Worker(worker, number, changes) => {
                let table = self.tables.entry((node, worker)).or_default();
                for change in changes {
                    let entry = (change.owner, change.filter);
                    let changed = if change.wanted { table.insert(entry) } else { table.remove(&entry) };
                    assert!(changed, "a worker is told what it knows");
                }
                if !self.stuck.contains(&(node, worker)) {
                    self.on(node.0).worker_applied(worker, number);
                }
            }
            RouteOut::Settled(waiter) => self.settled.push(waiter),
            RouteOut::Synced(from, version) => self.synced.push((node, from, version)),
        }
    }

    fn table(&self, node: u64, worker: u16) -> Vec<(RouteOwner, &str)> {
        let table = self.tables.get(&(NodeId(node), worker));
        let entries = table.into_iter().flatten();
        entries.map(|(owner, filter)| (*owner, filter.as_ref())).collect()
    }
}

#[test]
fn a_filter_of_a_worker_reaches_the_other_workers_and_nodes_but_not_itself() {
    let mut cluster = Cluster::new(2);
    cluster.on(1).worker_wants(0, "a/+".into(), true);
    cluster.run();
    assert_eq!(cluster.table(1, 0), []);
    assert_eq!(cluster.table(1, 1), [(RouteOwner::Worker(0), "a/+")]);
    assert_eq!(cluster.table(2, 0), [(RouteOwner::Node(NodeId(1)), "a/+")]);
    cluster.on(1).worker_wants(1, "a/+".into(), true);
    cluster.on(1).worker_wants(0, "a/+".into(), false);
    cluster.run();
    assert_eq!(cluster.table(1, 0), [(RouteOwner::Worker(1), "a/+")]);
    assert_eq!(cluster.table(2, 0), [(RouteOwner::Node(NodeId(1)), "a/+")]);
    cluster.on(1).worker_wants(1, "a/+".into(), false);
    cluster.run();
    assert_eq!(cluster.table(2, 0), []);
}

#[test]
fn k6_a_waiter_is_settled_only_when_every_worker_of_every_member_has_applied() {
    let mut cluster = Cluster::new(3);
    cluster.stuck.insert((NodeId(3), 1));
    cluster.on(1).worker_wants(0, "a".into(), true);
    cluster.on(1).settle("suback");
    cluster.run();
    assert!(cluster.settled.is_empty());
    cluster.on(3).worker_applied(1, 1);
    cluster.run();
    assert_eq!(cluster.settled, ["suback"]);
}

#[test]
fn a_waiter_with_nothing_new_before_it_is_settled_at_once() {
    let mut cluster = Cluster::new(2);
    cluster.on(1).settle("again");
    assert_eq!(cluster.on(1).flush(), [RouteOut::Settled("again")]);
}

#[test]
fn k6_a_waiter_outlives_a_broken_link_and_a_dead_member() {
    let mut cluster = Cluster::new(3);
    cluster.cut = true;
    cluster.on(1).worker_wants(0, "a".into(), true);
    cluster.on(1).settle("suback");
    cluster.run();
    cluster.cut = false;
    for other in [2, 3] {
        cluster.on(1).link_down(NodeId(other));
    }
    cluster.run();
    assert!(cluster.settled.is_empty());
    cluster.on(1).link_up(NodeId(2));
    cluster.on(2).link_down(NodeId(1));
    cluster.on(2).link_up(NodeId(1));
    cluster.run();
    assert_eq!(cluster.table(2, 0), [(RouteOwner::Node(NodeId(1)), "a")]);
    assert!(cluster.settled.is_empty(), "node 3 may still accept publishes");
    cluster.on(1).set_members([NodeId(2)].into());
    cluster.run();
    assert_eq!(cluster.settled, ["suback"]);
}

#[test]
fn the_filters_of_a_dead_member_are_dropped() {
    let mut cluster = Cluster::new(3);
    cluster.on(3).worker_wants(0, "a".into(), true);
    cluster.run();
    cluster.on(1).link_down(NodeId(3));
    cluster.run();
    assert_eq!(cluster.table(1, 0).len(), 1, "a broken link is no death");
    cluster.on(1).set_members([NodeId(2)].into());
    cluster.run();
    assert_eq!(cluster.table(1, 0), []);
}

#[test]
fn a_new_leader_of_a_shard_replaces_its_list_and_an_old_one_is_not_heard() {
    let shard = ShardId(4);
    let owner = RouteOwner::Shard(shard);
    let mut cluster = Cluster::new(3);
    cluster.on(1).lead(shard, 2, NodeId(1), vec!["a".into(), "b".into()]);
    cluster.run();
    assert_eq!(cluster.table(3, 1), [(owner, "a"), (owner, "b")]);
    cluster.on(2).lead(shard, 3, NodeId(2), vec!["b".into()]);
    cluster.on(2).shard_wants(shard, 3, "c".into(), true);
    cluster.run();
    cluster.on(1).shard_wants(shard, 2, "stale".into(), true);
    cluster.on(1).lead(shard, 2, NodeId(1), vec!["older".into()]);
    cluster.run();
    for node in 1..=3 {
        assert_eq!(cluster.table(node, 0), [(owner, "b"), (owner, "c")], "node {node}");
        assert_eq!(cluster.on(node).leader(shard), Some((NodeId(2), 3)));
    }
    cluster.on(2).resign(shard, 3);
    cluster.on(2).shard_wants(shard, 3, "late".into(), true);
    cluster.run();
    assert_eq!(cluster.table(1, 0).len(), 2);
    assert!(cluster.on(1).knows_all_shards(0) && !cluster.on(1).knows_all_shards(1));
}

#[test]
fn a_long_list_is_announced_in_parts_and_synced_after_all_of_them() {
    let mut cluster = Cluster::new(1);
    let filters = FILTERS_PER_FRAME * 2 + 10;
    for number in 0..filters {
        cluster.on(1).worker_wants(0, format!("f/{number}").into(), true);
    }
    cluster.nodes.insert(NodeId(2), Routes::new(1));
    cluster.on(1).link_up(NodeId(2));
    cluster.on(2).link_up(NodeId(1));
    cluster.on(1).answer_sync(NodeId(2), 7);
    cluster.stuck.insert((NodeId(2), 0));
    cluster.run();
    assert!(cluster.synced.is_empty(), "its worker has not applied them");
    assert_eq!(cluster.table(2, 0).len(), filters);
    cluster.on(2).worker_applied(0, u64::MAX);
    cluster.run();
    assert_eq!(cluster.synced, [(NodeId(2), NodeId(1), 7)]);
}
