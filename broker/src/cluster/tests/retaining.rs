//! Retained messages whose way to their shard is long, while publishers and subscribers go on elsewhere.

use super::*;
use crate::shard::{Close, CloseCause, Open};

/// A connection of this node's first worker.
fn connection(slot: u32) -> ConnectionId {
    ConnectionId { worker: 0, slot, generation: 1 }
}

fn open(node: &Node, slot: u32, client_id: &str) {
    node.say(ToCluster::Open(Open {
        client_id: client_id.into(),
        connection: connection(slot),
        clean_start: true,
        session_expiry_seconds: 0,
        receive_maximum: 10,
        will: None,
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

fn retain(node: &Node, token: u64, (client_id, epoch): (&str, u64), topic: &str, payload: &str) {
    let message = Message {
        topic: topic.into(),
        payload: payload.to_owned().into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        publisher: client_id.into(),
        ..Message::default()
    };
    let (targets, recipients) = Default::default();
    node.say(ToCluster::Publish { connection: connection(9), token, epoch, message, targets, recipients });
}

fn answer(node: &Node, token: u64) -> Option<Outcome> {
    node.told.borrow().published.iter().find(|(published, _)| *published == token).map(|(_, outcome)| outcome.clone())
}

fn read(node: &Node, token: u32, filter: &str) {
    let place = Default::default();
    node.say(ToCluster::ReadRetained { connection: connection(8), token, filter: filter.into(), place });
}

fn found(node: &Node, token: u32) -> Option<Vec<String>> {
    node.told.borrow().retained.get(&token).cloned()
}

const TOPICS: u64 = 8;

/// Three nodes, of which `b` and `c` do not reach each other, and both keep their leases. A client of `b` has published
/// "older" on a topic whose shard `c` leads. Gives its client id and epoch, and the number of the topic.
async fn with_a_message_that_is_on_its_way(cluster: &mut Cluster) -> (String, u64, u64) {
    cluster.start(&["a", "b", "c"]).await;
    cluster.until_whole().await;
    // Neither leads the control group, whose leader a member must reach.
    cluster.net.cut("b", "c");
    let b = cluster.node("b");
    (1..=8).for_each(|slot| open(b, slot, &format!("p{slot}")));
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
        open(a, 1, &client);
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
