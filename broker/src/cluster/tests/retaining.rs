//! Retained messages whose way to their shard is long, while publishers and subscribers go on elsewhere.

use super::*;
use crate::identity::ShardId;
use crate::shard::{Close, CloseCause, Open, Will};

/// A connection of this node's first worker.
fn connection(slot: u32) -> ConnectionId {
    ConnectionId { worker: 0, slot, generation: 1 }
}

fn open(node: &Node, slot: u32, client_id: &str, will: Option<Message>) {
    node.say(ToCluster::Open(Open {
        client_id: client_id.into(),
        connection: connection(slot),
        clean_start: true,
        session_expiry_seconds: 0,
        receive_maximum: 10,
        will: will.map(|message| {
            let message = Message { publisher: client_id.into(), ..message };
            Will { message, delay_seconds: 0, expiry_seconds: None }
        }),
    }));
}

fn epoch(node: &Node, slot: u32) -> Option<u64> {
    match node.told.borrow().opened.get(&slot) {
        Some(Outcome::Opened { epoch, .. }) => Some(*epoch),
        _ => None,
    }
}

fn close(node: &Node, client_id: &str, epoch: u64) {
    let (client_id, cause) = (client_id.into(), CloseCause::WithWill);
    node.say(ToCluster::Close(Close { client_id, epoch, cause, session_expiry_seconds: None, sent_to: 0 }));
}

fn retained(topic: &str, payload: &str) -> Message {
    let payload = payload.to_owned().into();
    Message { topic: topic.into(), payload, qos: QoS::AtLeastOnce, retain: true, ..Message::default() }
}

fn retain(node: &Node, token: u64, (client_id, epoch): (&str, u64), topic: &str, payload: &str) {
    let message = Message { publisher: client_id.into(), ..retained(topic, payload) };
    let (targets, recipients) = Default::default();
    node.say(ToCluster::Publish { connection: connection(9), token, epoch, message, targets, recipients });
}

fn answer(node: &Node, token: u64) -> Option<Outcome> {
    node.told.borrow().published.iter().find(|(published, _)| *published == token).map(|(_, outcome)| outcome.clone())
}

/// By a connection of its own.
fn read(node: &Node, token: u32, filter: &str) {
    read_by(node, 100 + token, token, filter);
}

fn read_by(node: &Node, slot: u32, token: u32, filter: &str) {
    let place = Default::default();
    node.say(ToCluster::ReadRetained { connection: connection(slot), token, filter: filter.into(), place });
}

fn found(node: &Node, token: u32) -> Option<Vec<String>> {
    node.told.borrow().retained.get(&token).cloned()
}

const TOPICS: u64 = 8;

/// Three nodes, of which `b` and `c` do not reach each other, and both keep their leases.
async fn with_a_link_that_is_cut(cluster: &mut Cluster) {
    cluster.start(&["a", "b", "c"]).await;
    cluster.until_whole().await;
    // Neither leads the control group, whose leader a member must reach.
    cluster.net.cut("b", "c");
}

/// So, and a client of `b` has published "older" on a topic whose shard `c` leads. Gives its client id and epoch, and the
/// number of the topic.
async fn with_a_message_that_is_on_its_way(cluster: &mut Cluster) -> (String, u64, u64) {
    with_a_link_that_is_cut(cluster).await;
    let b = cluster.node("b");
    (1..=8).for_each(|slot| open(b, slot, &format!("p{slot}"), None));
    let opened = || (1..=8).find_map(|slot| Some((format!("p{slot}"), epoch(b, slot)?)));
    cluster.until("a session whose shard b reaches", |_| opened().is_some()).await;
    let (client, older) = opened().expect("opened");
    (1..=TOPICS).for_each(|number| retain(b, number, (&client, older), &format!("t/{number}"), "older"));
    // Longer than commands on their way need, and than a link takes to be given up.
    sleep(Duration::from_secs(3)).await;
    let stuck = (1..=TOPICS).find(|number| answer(b, *number).is_none()).expect("a shard that c leads");
    assert!(["b", "c"].iter().all(|name| cluster.node(name).serves()));
    (client, older, stuck)
}

#[test]
fn k8_a_message_that_comes_late_does_not_replace_what_its_publisher_has_published_elsewhere() {
    simulate(async |mut cluster| {
        let (client, older, number) = with_a_message_that_is_on_its_way(&mut cluster).await;
        let (a, b, topic) = (cluster.node("a"), cluster.node("b"), format!("t/{number}"));
        close(b, &client, older);
        open(a, 1, &client, None);
        cluster.until("it goes on at a", |_| epoch(a, 1).is_some()).await;
        let newer = epoch(a, 1).expect("opened");
        retain(a, 100, (&client, newer), &topic, "newer");
        cluster.until("acknowledged", |_| answer(a, 100).is_some()).await;
        assert!(matches!(answer(a, 100), Some(Outcome::Stored(_))));
        cluster.net.heal("b", "c");
        cluster.until("the late one is answered", |_| answer(b, number).is_some()).await;
        assert!(matches!(answer(b, number), Some(Outcome::Refused(_))), "K1: {:?}", answer(b, number));
        read(b, 1, &topic);
        cluster.until("read", |_| found(b, 1).is_some()).await;
        assert_eq!(found(b, 1), Some(vec!["newer".to_owned()]));
    });
}

#[test]
fn k8_a_new_subscriber_reads_what_was_on_its_way_when_it_came() {
    simulate(async |mut cluster| {
        let (_, _, number) = with_a_message_that_is_on_its_way(&mut cluster).await;
        let topic = format!("t/{number}");
        // Each has had its SUBACK: every member routes to it by now, and what was published before passes it by.
        for (token, name) in [(1, "a"), (2, "b"), (3, "c")] {
            read(cluster.node(name), token, &topic);
            read(cluster.node(name), token + 10, "t/+");
        }
        // Somebody subscribes and unsubscribes meanwhile, and subscribes to something else.
        let fickle = |token| read_by(cluster.node("a"), 99, token, &topic);
        (50..60).for_each(fickle);
        sleep(Duration::from_secs(3)).await;
        let told = |name: &str| cluster.node(name).told.borrow().retained.clone();
        assert_eq!([told("a"), told("b"), told("c")], [const { BTreeMap::new() }; 3], "one would have missed it");
        cluster.net.heal("b", "c");
        for (token, name) in [(1, "a"), (2, "b"), (3, "c")] {
            cluster.until("read", |cluster| found(cluster.node(name), token).is_some()).await;
            assert_eq!(found(cluster.node(name), token), Some(vec!["older".to_owned()]), "at {name}");
            cluster.until("read", |cluster| found(cluster.node(name), token + 10).is_some()).await;
        }
        cluster.until("the last is read", |cluster| found(cluster.node("a"), 59).is_some()).await;
        assert!((50..59).all(|token| found(cluster.node("a"), token).is_none()), "K9: nobody waits for these");
    });
}

#[test]
fn k8_a_subscriber_waits_for_nothing_that_a_dead_node_had_on_its_way() {
    simulate(async |mut cluster| {
        let (_, _, number) = with_a_message_that_is_on_its_way(&mut cluster).await;
        let topic = format!("t/{number}");
        read(cluster.node("a"), 1, &topic);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(found(cluster.node("a"), 1), None);
        cluster.kill("b").await;
        let took = cluster.until("read", |cluster| found(cluster.node("a"), 1).is_some()).await;
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(found(cluster.node("a"), 1), Some(vec![]), "it was acknowledged to nobody");
    });
}

#[test]
fn k8_a_subscriber_reads_after_nothing_that_came_later_and_at_once_when_nothing_is_on_its_way() {
    simulate(async |mut cluster| {
        cluster.start(&["a", "b", "c"]).await;
        cluster.until_whole().await;
        retain(cluster.node("b"), 1, ("p", 1), "t/1", "x");
        cluster.until("acknowledged", |cluster| answer(cluster.node("b"), 1).is_some()).await;
        read(cluster.node("c"), 1, "t/1");
        let took = cluster.until("read", |cluster| found(cluster.node("c"), 1).is_some()).await;
        assert!(took < Duration::from_millis(100), "{took:?}");
        assert_eq!(found(cluster.node("c"), 1), Some(vec!["x".to_owned()]));
    });
}

/// Clients of `b` whose wills have RETAIN: each slot is client `wSLOT` and topic `will/SLOT`. Gives those that are connected.
async fn with_wills(cluster: &mut Cluster) -> Vec<(u32, u64)> {
    const SLOTS: std::ops::RangeInclusive<u32> = 20..=59;
    let b = cluster.node("b");
    SLOTS.for_each(|slot| open(b, slot, &format!("w{slot}"), Some(retained(&format!("will/{slot}"), "gone"))));
    sleep(Duration::from_secs(3)).await;
    // Those whose shard c leads are not opened.
    SLOTS.filter_map(|slot| Some((slot, epoch(b, slot)?))).collect()
}

/// The connections that have them end, and the wills are on their way, or stored already.
async fn all_are_lost(cluster: &Cluster, wills: &[(u32, u64)]) {
    wills.iter().for_each(|(slot, epoch)| close(cluster.node("b"), &format!("w{slot}"), *epoch));
    sleep(Duration::from_secs(1)).await;
}

/// What was asked for at `a` is read in the end, of each topic this.
async fn all_read(cluster: &Cluster, wills: &[(u32, u64)], text: &str) {
    let a = cluster.node("a");
    for (slot, _) in wills {
        cluster.until("read", |_| found(a, *slot).is_some()).await;
        assert_eq!(found(a, *slot), Some(vec![text.to_owned()]), "of w{slot}");
    }
}

#[test]
fn k8_a_new_subscriber_reads_the_wills_that_were_on_their_way() {
    simulate(async |mut cluster| {
        with_a_link_that_is_cut(&mut cluster).await;
        let wills = with_wills(&mut cluster).await;
        let a = cluster.node("a");
        all_are_lost(&cluster, &wills).await;
        wills.iter().for_each(|(slot, _)| read(a, *slot, &format!("will/{slot}")));
        sleep(Duration::from_secs(3)).await;
        let held = wills.iter().filter(|(slot, _)| found(a, *slot).is_none()).count();
        assert!(
            (1..wills.len()).contains(&held),
            "{held} of {} had a shard of b to leave, and one of c to go to",
            wills.len()
        );
        cluster.net.heal("b", "c");
        all_read(&cluster, &wills, "gone").await;
    });
}

#[test]
fn k8_a_will_that_comes_late_does_not_replace_what_its_client_has_published_since() {
    simulate(async |mut cluster| {
        with_a_link_that_is_cut(&mut cluster).await;
        let wills = with_wills(&mut cluster).await;
        let a = cluster.node("a");
        all_are_lost(&cluster, &wills).await;
        // Those whose shard b leads, and whose topic's shard c leads, are on their way still.
        for (slot, _) in &wills {
            open(a, *slot, &format!("w{slot}"), None);
            cluster.until("it goes on at a", |_| epoch(a, *slot).is_some()).await;
            let newer = epoch(a, *slot).expect("opened");
            retain(a, u64::from(*slot), (&format!("w{slot}"), newer), &format!("will/{slot}"), "back");
            cluster.until("acknowledged", |_| answer(a, u64::from(*slot)).is_some()).await;
            read(a, *slot, &format!("will/{slot}"));
        }
        sleep(Duration::from_secs(1)).await;
        let held = wills.iter().filter(|(slot, _)| found(a, *slot).is_none()).count();
        assert!(held > 0, "none of {} was on its way", wills.len());
        cluster.net.heal("b", "c");
        all_read(&cluster, &wills, "back").await;
    });
}

#[test]
fn k8_what_a_connection_left_on_its_way_does_not_replace_its_will() {
    simulate(async |mut cluster| {
        with_a_link_that_is_cut(&mut cluster).await;
        let wills = with_wills(&mut cluster).await;
        let (a, b) = (cluster.node("a"), cluster.node("b"));
        for (slot, epoch) in &wills {
            retain(b, u64::from(*slot), (&format!("w{slot}"), *epoch), &format!("will/{slot}"), "here");
        }
        sleep(Duration::from_secs(1)).await;
        let late: Vec<u32> =
            wills.iter().map(|(slot, _)| *slot).filter(|slot| answer(b, u64::from(*slot)).is_none()).collect();
        all_are_lost(&cluster, &wills).await;
        cluster.net.heal("b", "c");
        for slot in &late {
            cluster.until("answered", |_| answer(b, u64::from(*slot)).is_some()).await;
        }
        let overtaken = late.iter().filter(|slot| matches!(answer(b, u64::from(**slot)), Some(Outcome::Refused(_))));
        assert!(overtaken.count() > 0, "none of {} came after its will", late.len());
        wills.iter().for_each(|(slot, _)| read(a, *slot, &format!("will/{slot}")));
        all_read(&cluster, &wills, "gone").await;
    });
}

#[test]
fn k8_a_will_is_the_last_word_of_its_connection_also_where_its_own_shard_keeps_it() {
    simulate(async |mut cluster| {
        cluster.start(&["a"]).await;
        let a = cluster.node("a");
        let (client, topic) = (|slot: u32| format!("w{slot}"), |slot: u32| format!("will/{slot}"));
        let own = |slot: &u32| ShardId::of_topic(&topic(*slot), SHARDS) == ShardId::of_client(&client(*slot), SHARDS);
        let slot = (1..).find(own).expect("one of so many");
        open(a, slot, &client(slot), Some(retained(&topic(slot), "gone")));
        cluster.until("connected", |_| epoch(a, slot).is_some()).await;
        let epoch = epoch(a, slot).expect("opened");
        close(a, &client(slot), epoch);
        let there = |token| {
            read(a, token, &topic(slot));
            move |cluster: &Cluster| found(cluster.node("a"), token).is_some()
        };
        sleep(Duration::from_secs(1)).await;
        cluster.until("read", there(1)).await;
        assert_eq!(found(a, 1), Some(vec!["gone".to_owned()]));
        retain(a, 2, (&client(slot), epoch), &topic(slot), "late");
        cluster.until("answered", |_| answer(a, 2).is_some()).await;
        assert!(matches!(answer(a, 2), Some(Outcome::Refused(_))), "{:?}", answer(a, 2));
        cluster.until("read", there(3)).await;
        assert_eq!(found(a, 3), Some(vec!["gone".to_owned()]));
    });
}
