//! Filters and messages between nodes.

use super::*;

const CONNECTION: ConnectionId = ConnectionId { worker: 0, slot: 1, generation: 1 };

fn want(node: &Node, filter: &str, wanted: bool) {
    node.say(ToCluster::Route { worker: 0, filter: filter.into(), wanted });
}

fn settle(node: &Node, token: u32) {
    node.say(ToCluster::Settle { connection: CONNECTION, token });
}

fn publish(node: &Node, token: u64, topic: &str, to: NodeId) {
    let message = Message { topic: topic.into(), qos: QoS::AtLeastOnce, ..Message::default() };
    let targets = [RouteOwner::Node(to)].into_iter().collect();
    let recipients = Vec::new();
    node.say(ToCluster::Publish { connection: CONNECTION, token, epoch: 0, message, targets, recipients });
}

fn settled(node: &Node, token: u32) -> bool {
    node.told.borrow().settled.iter().any(|(settled, _)| *settled == token)
}

fn answer(node: &Node, token: u64) -> Option<Outcome> {
    node.told.borrow().published.iter().find(|(published, _)| *published == token).map(|(_, outcome)| outcome.clone())
}

async fn three(cluster: &mut Cluster) {
    cluster.start(&["a", "b", "c"]).await;
    cluster.until_whole().await;
}

#[test]
fn k6_a_settled_filter_is_known_to_every_worker_of_every_node() {
    simulate(async |mut cluster| {
        three(&mut cluster).await;
        let owner = RouteOwner::Node(cluster.node("b").id);
        want(cluster.node("b"), "sensors/+", true);
        settle(cluster.node("b"), 7);
        let took = cluster.until("settled", |cluster| settled(cluster.node("b"), 7)).await;
        assert!(took < Duration::from_millis(100), "{took:?}");
        for name in ["a", "c"] {
            assert!(cluster.node(name).knows(owner, "sensors/+"), "{name} does not know it");
        }
        want(cluster.node("b"), "sensors/+", false);
        cluster.until("withdrawn", |cluster| !cluster.node("a").knows(owner, "sensors/+")).await;
    });
}

#[test]
fn k6_a_filter_is_not_settled_while_a_node_that_may_serve_does_not_know_it() {
    simulate(async |mut cluster| {
        three(&mut cluster).await;
        cluster.cut_off("c", true);
        want(cluster.node("a"), "x", true);
        settle(cluster.node("a"), 1);
        cluster.until("settled", |cluster| settled(cluster.node("a"), 1)).await;
        assert!(!cluster.node("c").serves(), "it stopped serving first");
        cluster.cut_off("c", false);
        cluster.until("it serves again", |cluster| cluster.node("c").serves()).await;
        let owner = RouteOwner::Node(cluster.node("a").id);
        assert!(cluster.node("c").knows(owner, "x"), "it knows by then what it had missed");
    });
}

#[test]
fn k6_a_new_node_serves_only_once_it_knows_the_filters_of_all() {
    simulate(async |mut cluster| {
        three(&mut cluster).await;
        want(cluster.node("a"), "x", true);
        settle(cluster.node("a"), 1);
        cluster.until("settled", |cluster| settled(cluster.node("a"), 1)).await;
        cluster.boot("d", 4, 1, Rc::new(MemoryDisk::default())).await;
        cluster.until("it serves", |cluster| cluster.node("d").serves()).await;
        assert!(cluster.node("d").knows(RouteOwner::Node(cluster.node("a").id), "x"));
    });
}

#[test]
fn a_publish_for_another_node_is_answered_once_its_worker_has_it() {
    simulate(async |mut cluster| {
        three(&mut cluster).await;
        let (a, b) = (cluster.node("a"), cluster.node("b"));
        want(b, "news/#", true);
        settle(b, 1);
        cluster.until("settled", |_| settled(b, 1)).await;
        publish(a, 5, "news/today", b.id);
        cluster.until("answered", |_| answer(a, 5).is_some()).await;
        assert!(matches!(answer(a, 5), Some(Outcome::Stored(_))));
        cluster.until("handed over", |_| !b.told.borrow().forwarded.is_empty()).await;
        assert_eq!(b.told.borrow().forwarded, [(0, "news/today".into())], "to the worker that wants it alone");
    });
}

#[test]
fn a_publish_for_a_dead_node_is_answered_once_it_is_declared_unreachable_and_its_filters_are_dropped() {
    simulate(async |mut cluster| {
        three(&mut cluster).await;
        want(cluster.node("c"), "x", true);
        settle(cluster.node("c"), 1);
        cluster.until("settled", |cluster| settled(cluster.node("c"), 1)).await;
        let dead = cluster.kill("c").await;
        let a = cluster.node("a");
        assert!(a.knows(RouteOwner::Node(dead.id), "x"));
        publish(a, 5, "x", dead.id);
        cluster.until("answered", |_| answer(a, 5).is_some()).await;
        assert_ne!(answer(a, 5), Some(Outcome::Refused(Refusal::Unavailable)), "nobody was there to miss it");
        cluster.until("dropped", |_| !a.knows(RouteOwner::Node(dead.id), "x")).await;
    });
}

#[test]
fn a_publish_on_a_broken_link_is_sent_again_and_handed_over_once() {
    simulate(async |mut cluster| {
        three(&mut cluster).await;
        want(cluster.node("b"), "x", true);
        settle(cluster.node("b"), 1);
        cluster.until("settled", |cluster| settled(cluster.node("b"), 1)).await;
        // Neither leads the control group, whose leader a member must reach.
        cluster.net.cut("c", "b");
        publish(cluster.node("c"), 5, "x", cluster.node("b").id);
        // The link closes by silence, no lease runs out: both still reach a.
        sleep(Duration::from_millis(2_000)).await;
        cluster.net.heal("c", "b");
        cluster.until("answered", |cluster| answer(cluster.node("c"), 5).is_some()).await;
        assert_eq!(cluster.node("b").told.borrow().forwarded.len(), 1);
    });
}
