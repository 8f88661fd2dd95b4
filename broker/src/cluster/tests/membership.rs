//! Founding, joining, dying, coming back, leaving.

use super::*;

#[test]
fn three_nodes_become_one_cluster_with_three_replicas_of_everything() {
    simulate(async |mut cluster| {
        cluster.start(&["a"]).await;
        cluster
            .until("it says so", |cluster| {
                let alone = cluster.node("a").status();
                (alone.factor, alone.members.len(), alone.shards, alone.without_leader) == (1, 1, SHARDS, 0)
            })
            .await;
        cluster.boot("b", 2, 1, Rc::new(MemoryDisk::default())).await;
        cluster.until("two serve", |cluster| cluster.nodes.values().all(Node::serves)).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.node("b").status().factor, 1, "two members keep one copy");
        assert!(!cluster.node("b").status().not_failover_ready.is_empty());
        cluster.boot("c", 3, 1, Rc::new(MemoryDisk::default())).await;
        cluster.until_whole().await;
        cluster.until("leaders are spread", |cluster| spread(cluster, &["a", "b", "c"])).await;
        let clusters: BTreeSet<u64> = cluster.nodes.values().map(|node| node.status().cluster).collect();
        assert_eq!(clusters.len(), 1);
    });
}

#[test]
fn the_only_member_goes_on_after_it_stood_still() {
    simulate(async |mut cluster| {
        cluster.start(&["a"]).await;
        let stopped = cluster.node("a").told.borrow().stopped;
        for _ in 0..20 {
            // Longer than a lease, in which this thread did nothing.
            tokio::time::advance(Duration::from_secs(5)).await;
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(cluster.node("a").told.borrow().stopped, stopped, "told not to serve");
        assert!(cluster.node("a").serves());
    });
}

/// Each of the members leads something.
fn spread(cluster: &Cluster, names: &[&str]) -> bool {
    let status = cluster.node("a").status();
    let leads = |name: &&str| status.members.iter().any(|member| member.name == **name && member.shards_led > 0);
    names.iter().all(leads)
}

#[test]
fn a_killed_node_is_declared_unreachable_and_its_shards_are_led_at_once() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        cluster.until("leaders are spread", |cluster| spread(cluster, &["a", "b", "c"])).await;
        let dead = cluster.kill("c").await;
        let died = Instant::now();
        cluster
            .until("others lead", |cluster| {
                let status = cluster.node("a").status();
                let led =
                    |name| status.members.iter().find(|member| member.name == name).map(|member| member.shards_led);
                status.without_leader == 0 && led("c") == Some(0)
            })
            .await;
        cluster.until("unreachable", |cluster| cluster.node("b").member("c") == Some(MemberState::Unreachable)).await;
        let seen = died.elapsed();
        assert!((1_000..2_000).contains(&seen.as_millis()), "seen after {seen:?}");
        assert!(cluster.node("a").serves() && cluster.node("b").serves(), "a majority goes on");
        cluster.restart(&dead).await;
        cluster.until("it is back", |cluster| cluster.node("c").serves()).await;
        cluster.until_whole().await;
    });
}

#[test]
fn an_empty_node_replaces_its_dead_namesake() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        cluster.kill("c").await;
        cluster.boot("c", 9, 1, Rc::new(MemoryDisk::default())).await;
        cluster.until("the new one serves", |cluster| cluster.node("c").serves()).await;
        cluster.until_whole().await;
        let members = cluster.node("a").status().members;
        let origins: Vec<u64> = members.iter().map(|member| member.origin.node.0).collect();
        assert_eq!(origins, [1, 2, 9]);
    });
}

#[test]
fn k10_after_a_power_cut_of_all_the_cluster_comes_back() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        let mut dead = Vec::new();
        for name in ["a", "b", "c"] {
            dead.push(cluster.kill(name).await);
        }
        for node in &dead {
            cluster.restart(node).await;
        }
        cluster.until("all serve", |cluster| cluster.nodes.values().all(Node::serves)).await;
        cluster.until_whole().await;
    });
}

#[test]
fn from_three_to_five_and_back() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        for (name, id) in [("d", 4), ("e", 5)] {
            cluster.boot(name, id, 1, Rc::new(MemoryDisk::default())).await;
        }
        let holds = |cluster: &Cluster, name: &str| {
            let status = cluster.node("a").status();
            status.members.iter().find(|member| member.name == name).map_or(0, |member| member.replicas)
        };
        cluster.until("the new ones hold replicas", |c| holds(c, "d") >= 2 && holds(c, "e") >= 2).await;
        cluster.until_whole().await;
        let node = cluster.node("b");
        assert_eq!(node.leave("nobody", true).await, Err(LeaveError::Unknown));
        assert_eq!(node.leave("e", true).await, Ok(()));
        assert_eq!(node.leave("e", true).await, Ok(()), "asked twice");
        cluster.until("leaving or gone", |c| c.node("a").member("e") != Some(MemberState::Active)).await;
        cluster.until("e has left", |c| c.node("a").member("e").is_none()).await;
        assert_eq!(cluster.node("c").leave("d", true).await, Ok(()));
        cluster.until("d has left", |c| c.node("a").member("d").is_none()).await;
        cluster.until("what left serves nobody", |c| !c.node("d").serves() && !c.node("e").serves()).await;
        for name in ["d", "e"] {
            cluster.kill(name).await;
        }
        cluster.until_whole().await;
        cluster
            .until("three again", |cluster| {
                let status = cluster.node("b").status();
                (status.members.len(), status.factor, status.without_leader) == (3, 3, 0)
            })
            .await;
    });
}

#[test]
fn a_leave_can_be_cancelled() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        assert_eq!(cluster.node("a").leave("c", true).await, Ok(()));
        assert_eq!(cluster.node("a").leave("c", false).await, Ok(()));
        cluster.until("it stays", |c| c.node("a").member("c") == Some(MemberState::Active)).await;
        cluster.until_whole().await;
        assert!(cluster.node("c").serves());
    });
}

#[test]
fn k3_a_minority_stops_serving_within_three_seconds_and_heals() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        for name in ["a", "c"] {
            cluster.cut_off(name, true);
            let stopped = cluster.until("it stops", |cluster| !cluster.node(name).serves()).await;
            assert!(stopped < Duration::from_secs(3), "{name} stopped after {stopped:?}");
            cluster.until("told off", |cluster| cluster.node("b").member(name) == Some(MemberState::Unreachable)).await;
            assert!(cluster.node("b").serves());
            cluster.cut_off(name, false);
            cluster.until("it serves again", |cluster| cluster.node(name).serves()).await;
            assert!(cluster.node(name).told.borrow().expelled > 0, "its connections were others' by then");
            cluster.until_whole().await;
        }
    });
}

#[test]
fn a_split_in_three_parts_heals() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        for name in ["a", "b"] {
            cluster.cut_off(name, true);
        }
        cluster.until("nobody serves", |cluster| cluster.nodes.values().all(|node| !node.serves())).await;
        sleep(Duration::from_secs(10)).await;
        for name in ["a", "b"] {
            cluster.cut_off(name, false);
        }
        cluster.until("all serve", |cluster| cluster.nodes.values().all(Node::serves)).await;
        cluster.until_whole().await;
    });
}

#[test]
fn a_drained_node_leads_nothing_and_is_gone_without_a_wait() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        cluster.until("leaders are spread", |cluster| spread(cluster, &["a", "b", "c"])).await;
        let (done, drained) = oneshot::channel();
        let request = ClusterRequest::Drain { rate: 10, patience: Duration::from_secs(10), done };
        cluster.node("c").handle.requests.send(request).await.expect("a node that runs");
        let began = Instant::now();
        drained.await.expect("a drain that ends");
        assert!(began.elapsed() < Duration::from_secs(5), "drained in {:?}", began.elapsed());
        assert_eq!(cluster.node("c").told.borrow().drained, usize::from(WORKERS));
        cluster.kill("c").await;
        let seen = cluster.until("gone", |c| c.node("a").member("c") == Some(MemberState::Unreachable)).await;
        assert!(seen < Duration::from_secs(1), "its lease was given back, not run out: {seen:?}");
        assert_eq!(cluster.node("a").status().without_leader, 0);
    });
}

#[test]
fn a_full_disk_is_said_without_a_break_until_there_is_space() {
    simulate(async |mut cluster| {
        let disk = SimulatedDisk::new(7, Faults::default());
        cluster.boot("a", 1, 1, Rc::new(disk.clone())).await;
        cluster.until("it serves", |cluster| cluster.nodes.values().all(Node::serves)).await;
        assert_eq!(cluster.node("a").status().storage, Health::Healthy);
        // Something small fits yet, now and then: what tries again is small.
        disk.set_capacity_bytes(disk.used_bytes() + 400);
        let full = |cluster: &Cluster| cluster.node("a").status().storage == Health::Full;
        // Members that join are written down by the control group.
        cluster.boot("b", 2, 1, Rc::new(MemoryDisk::default())).await;
        cluster.boot("c", 3, 1, Rc::new(MemoryDisk::default())).await;
        cluster.until("the disk is said to be full", full).await;
        let end = Instant::now() + Duration::from_secs(25);
        while Instant::now() < end {
            assert!(full(&cluster), "not said {:?} before the end", end - Instant::now());
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(cluster.node("b").status().storage, Health::Healthy, "it is full where it is full");
        disk.set_capacity_bytes(u64::MAX);
        let healthy = |cluster: &Cluster| cluster.node("a").status().storage == Health::Healthy;
        let cleared = cluster.until("the disk is said to be well", healthy).await;
        // What fits now says nothing of the next write: a full disk is remembered for ten seconds after it was seen last.
        assert!((Duration::from_secs(10)..Duration::from_secs(30)).contains(&cleared), "after {cleared:?}");
    });
}
