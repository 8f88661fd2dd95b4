use super::fixture::*;
use crate::door::{Heir, LoanEnd, Recipient, Recipients, RouteOwner, ToCluster, ToWorker, Wanted};
use crate::identity::{Incarnation, NodeId, ShardId};
use crate::message::{Message, QoS};
use crate::protocol::{Acknowledgement, Packet, Properties, PropertiesBuilder, PropertyId, ReasonCode, Version};
use crate::share::{Kind, Loan, Member};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
const GROUP: &str = "$share/g/a/#";

fn text(kind: Kind, client_id: &str) -> std::sync::Arc<str> {
    Member { subscription: GROUP, kind, client_id }.text()
}

fn message(payload: &str, member: &str) -> Message {
    let recipient = Some(text(Kind::Ephemeral, member));
    Message { topic: "a/b".into(), payload: payload.to_owned().into(), qos: Q1, recipient, ..Message::default() }
}

fn shard_member(shard: u16, kind: Kind, client_id: &str) -> Recipient {
    Recipient { owner: RouteOwner::Shard(ShardId(shard)), text: text(kind, client_id), heir: None }
}

/// The copies for members elsewhere that the cluster was given.
fn recipients(told: &[ToCluster]) -> Recipients {
    let given = told.iter().filter_map(|what| match what {
        ToCluster::Publish { recipients, .. } => Some(recipients.clone()),
        _ => None,
    });
    given.flatten().collect()
}

/// Payloads of the PUBLISHes that come before the answer to a PINGREQ; each is acknowledged if asked.
async fn received(client: &mut Client, acknowledge: bool) -> Vec<String> {
    client.send(Packet::PingReq).await;
    let mut payloads = Vec::new();
    loop {
        let packet = client.receive().await;
        if packet[0] == 0xd0 {
            return payloads;
        }
        let Ok(Some((Packet::Publish(publish), _))) = crate::protocol::decode(&packet, client.version, 1000) else {
            panic!("{packet:02x?}");
        };
        payloads.push(String::from_utf8_lossy(publish.payload).into_owned());
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        if acknowledge && qos == Q1 {
            client.send(puback(packet_id)).await;
        }
    }
}

#[test]
fn each_message_goes_to_one_member_and_to_everybody_who_shares_with_nobody() {
    run_test(async {
        let node = Node::start(2);
        let mut members = Vec::new();
        for (worker, client_id, version) in [(0, "x", Version::V5), (0, "y", Version::V3_1_1), (1, "z", Version::V5)] {
            let mut client = node.connect(worker, version, client_id).await;
            client.subscribe(GROUP, Q1, 1).await;
            members.push(client);
        }
        let mut alone = node.connect(1, Version::V5, "alone").await;
        alone.subscribe("a/+", Q1, 1).await;
        alone.subscribe("$share/other/a/b", Q0, 0).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for number in 1..=30_u16 {
            let qos = if number <= 15 { Q1 } else { Q0 };
            publisher.publish(qos, number, "a/b", &number.to_string()).await;
            if qos == Q1 {
                publisher.expect(puback(number)).await;
            }
        }
        publisher.expect_nothing().await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let mut all: Vec<u16> = Vec::new();
        for client in &mut members {
            let got = received(client, true).await;
            assert_eq!(got.len(), 10, "they take turns");
            all.extend(got.iter().map(|payload| payload.parse::<u16>().unwrap()));
        }
        all.sort();
        assert_eq!(all, (1..=30).collect::<Vec<_>>());
        assert_eq!(received(&mut alone, true).await.len(), 60, "its own, and its group's");
        assert!(recipients(&node.cluster.borrow().told).is_empty());
    });
}

#[test]
fn members_elsewhere_are_named_to_the_cluster() {
    run_test(async {
        let node = Node::start(1);
        node.route(RouteOwner::Node(NodeId(9)), &text(Kind::Ephemeral, "far"));
        node.route(RouteOwner::Shard(ShardId(3)), &text(Kind::Connected, "kept"));
        node.route(RouteOwner::Shard(ShardId(4)), &text(Kind::Away, "away"));
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for number in 1..=4 {
            publisher.publish(Q1, number, "a/b", "x").await;
            publisher.expect(puback(number)).await;
        }
        publisher.publish(Q0, 0, "a/b", "x").await;
        publisher.expect_nothing().await;
        let far = Recipient { owner: RouteOwner::Node(NodeId(9)), text: text(Kind::Ephemeral, "far"), heir: None };
        let kept = shard_member(3, Kind::Connected, "kept");
        let mut told = recipients(&node.cluster.borrow().told);
        let heirs: Vec<Heir> = told.iter_mut().filter_map(|recipient| recipient.heir.take()).collect();
        assert_eq!(told, [far.clone(), kept.clone(), far.clone(), kept, far], "QoS 0 is not for shards");
        assert_eq!((heirs.len(), &heirs[0]), (2, &heirs[1]), "above QoS 0 it is lent, always with the same heir");
    });
}

#[test]
fn what_is_lent_goes_by_way_of_the_cluster_even_to_a_member_of_this_worker() {
    run_test(async {
        let node = Node::start(2);
        let mut here = node.connect(0, Version::V5, "here").await;
        here.subscribe(GROUP, Q1, 1).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publisher.publish(Q1, 1, "a/b", "1").await;
        publisher.expect(puback(1)).await;
        assert_eq!(here.expect_publish().await.1, "1");
        assert!(recipients(&node.cluster.borrow().told).is_empty(), "nobody else is a member");
        node.route(RouteOwner::Shard(ShardId(4)), &text(Kind::Away, "away"));
        publisher.publish(Q1, 2, "a/b", "2").await;
        publisher.expect(puback(2)).await;
        publisher.publish(Q0, 0, "a/b", "3").await;
        assert_eq!(here.expect_publish().await.1, "3", "QoS 0 is lost anyway");
        let heir = Some(Heir { shard: ShardId(4), text: text(Kind::Away, "away") });
        let owner = RouteOwner::Node(NodeId(1));
        let lent = Recipient { owner, text: text(Kind::Ephemeral, "here"), heir };
        assert_eq!(recipients(&node.cluster.borrow().told), [lent]);
    });
}

fn loan(number: u64) -> Loan {
    Loan { shard: ShardId(4), run: Incarnation(1), number }
}

/// What the cluster was told of loans.
fn loans(told: &[ToCluster]) -> Vec<(u64, LoanEnd)> {
    let ended = told.iter().filter_map(|what| match what {
        ToCluster::Loans(ended) => Some(ended.clone()),
        _ => None,
    });
    ended.flatten().map(|(loan, end)| (loan.number, end)).collect()
}

#[test]
fn a_loan_is_done_when_the_client_has_acknowledged_it_and_returned_when_it_goes_without() {
    run_test(async {
        let node = Node::start(1);
        let mut member = node.connect(0, Version::V5, "here").await;
        member.subscribe(GROUP, Q1, 1).await;
        for number in 1..=3 {
            let message = message(&number.to_string(), "here");
            node.command(0, ToWorker::Lend { loan: loan(number), message });
        }
        let (packet_id, _) = member.expect_publish().await;
        member.expect_publish().await;
        member.expect_publish().await;
        assert!(loans(&node.cluster.borrow().told).is_empty(), "sent is not acknowledged");
        member.send(puback(packet_id)).await;
        node.until("one is done", |cluster| loans(&cluster.told) == [(1, LoanEnd::Done)]).await;
        drop(member);
        let rest = [(1, LoanEnd::Done), (2, LoanEnd::Returned), (3, LoanEnd::Returned)];
        node.until("the others are returned", |cluster| loans(&cluster.told) == rest).await;
        let told = recipients(&node.cluster.borrow().told);
        assert!(told.is_empty(), "the shard finds another member: {told:?}");
    });
}

#[test]
fn a_loan_to_a_member_that_has_gone_is_returned_at_once() {
    run_test(async {
        let node = Node::start(1);
        node.command(0, ToWorker::Lend { loan: loan(7), message: message("1", "gone") });
        node.until("it is returned", |cluster| loans(&cluster.told) == [(7, LoanEnd::Returned)]).await;
        assert_eq!(node.counters(0).await.dropped_without_member, 0);
    });
}

#[test]
fn a_loan_that_goes_at_qos_2_is_sent_when_nobody_else_can_get_it_and_one_at_qos_0_is_done() {
    run_test(async {
        let node = Node::start(1);
        let mut twice = node.connect(0, Version::V5, "twice").await;
        twice.subscribe(GROUP, Q2, 2).await;
        let begun = Message { qos: Q2, ..message("2", "twice") };
        node.command(0, ToWorker::Lend { loan: loan(1), message: begun.clone() });
        node.until("it is begun", |cluster| loans(&cluster.told) == [(1, LoanEnd::Begun(begun.clone()))]).await;
        twice.expect_nothing().await;
        node.command(0, ToWorker::Forward(vec![begun]));
        assert_eq!(twice.expect_publish().await.1, "2");
        let mut fleeting = node.connect(0, Version::V5, "fleeting").await;
        fleeting.subscribe(GROUP, Q0, 0).await;
        node.command(0, ToWorker::Lend { loan: loan(2), message: message("0", "fleeting") });
        fleeting.expect_payload("0").await;
        node.until("it is done", |cluster| loans(&cluster.told).last() == Some(&(2, LoanEnd::Done))).await;
    });
}

#[test]
fn what_a_client_that_does_not_keep_up_has_no_room_for_stays_with_the_shard() {
    run_test(async {
        let node = Node::start(1);
        let mut slow = node.open(0).await;
        let one = PropertiesBuilder::new().int(PropertyId::ReceiveMaximum, 1);
        slow.connect_with(Version::V5, "slow", true, &one).await;
        slow.receive().await;
        slow.subscribe(GROUP, Q1, 1).await;
        let waiting_max = crate::limits::ClientLimits::default().waiting_items_max as u64;
        for number in 1..=waiting_max + 2 {
            node.command(0, ToWorker::Lend { loan: loan(number), message: message("x", "slow") });
        }
        node.until("one is too much", |cluster| loans(&cluster.told) == [(waiting_max + 2, LoanEnd::Unwanted)]).await;
        assert_eq!(node.counters(0).await.dropped_slow_client, 0);
    });
}

#[test]
fn what_a_member_leaves_unacknowledged_another_gets() {
    run_test(async {
        let node = Node::start(2);
        let one = PropertiesBuilder::new().int(PropertyId::ReceiveMaximum, 2);
        let mut lost = node.open(0).await;
        lost.connect_with(Version::V5, "lost", true, &one).await;
        lost.receive().await;
        lost.subscribe(GROUP, Q2, 2).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for (number, qos) in [(1, Q1), (2, Q1), (3, Q2), (4, Q1)] {
            publisher.publish(qos, number, "a/b", &number.to_string()).await;
            publisher.receive().await;
        }
        let (packet_id, payload) = lost.expect_publish().await;
        assert_eq!(payload, "1");
        lost.expect_publish().await;
        lost.send(puback(packet_id)).await;
        // The third is sent at QoS 2, and is for nobody else from then on.
        assert_eq!(lost.expect_publish().await.1, "3");
        let mut heir = node.connect(1, Version::V5, "heir").await;
        heir.subscribe(GROUP, Q1, 1).await;
        drop(lost);
        node.until("the member has gone", |cluster| {
            let gone = text(Kind::Ephemeral, "lost");
            let is_gone =
                |what: &ToCluster| matches!(what, ToCluster::Route { filter, wanted: false, .. } if *filter == gone);
            cluster.told.iter().any(is_gone)
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert_eq!(received(&mut heir, true).await, ["2", "4"]);
    });
}

#[test]
fn a_message_for_a_member_that_has_gone_is_passed_on() {
    run_test(async {
        let node = Node::start(1);
        let mut member = node.connect(0, Version::V5, "here").await;
        member.subscribe(GROUP, Q1, 1).await;
        node.command(0, ToWorker::Forward(vec![message("1", "here"), message("2", "gone")]));
        member.expect_publish().await;
        assert_eq!(member.expect_publish().await.1, "2");
        node.route(RouteOwner::Shard(ShardId(4)), &text(Kind::Away, "away"));
        member
            .send(Packet::Disconnect(crate::protocol::Disconnect {
                reason: ReasonCode::SUCCESS,
                properties: Properties::default(),
            }))
            .await;
        member.expect_end().await;
        node.until("both are passed on", |cluster| recipients(&cluster.told).len() == 2).await;
        let away = shard_member(4, Kind::Away, "away");
        assert_eq!(recipients(&node.cluster.borrow().told), [away.clone(), away]);
        let wanted = |connected_only| Wanted {
            subscription: GROUP.into(),
            topic: "a/b".into(),
            publisher: "p".into(),
            qos: Q1,
            connected_only,
        };
        node.command(0, ToWorker::Choose { token: 5, wanted: vec![wanted(false), wanted(true)] });
        node.until("it has chosen", |cluster| {
            let is_chosen = |what: &ToCluster| {
                matches!(what, ToCluster::Chosen { token: 5, chosen } if chosen[0].is_some() && chosen[1].is_none())
            };
            cluster.told.iter().any(is_chosen)
        })
        .await;
    });
}

#[test]
fn nobody_left_is_counted() {
    run_test(async {
        let node = Node::start(1);
        node.command(0, ToWorker::Forward(vec![message("1", "gone")]));
        assert_eq!(node.counters(0).await.dropped_without_member, 1);
    });
}

#[test]
fn a_member_whose_session_persists_is_served_at_qos_0_by_its_worker() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.open(0).await;
        let hour = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 3600);
        client.connect_with(Version::V5, "kept", false, &hour).await;
        client.receive().await;
        client.subscribe(GROUP, Q1, 1).await;
        let announced = |told: &[ToCluster], kind| {
            let wanted = text(kind, "kept");
            told.iter().any(|what| matches!(what, ToCluster::Route { filter, wanted: true, .. } if *filter == wanted))
        };
        assert!(announced(&node.cluster.borrow().told, Kind::Fleeting));
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publisher.publish(Q0, 0, "a/b", "now").await;
        publisher.publish(Q1, 1, "a/b", "later").await;
        let no_match = Acknowledgement { packet_id: 1, reason: ReasonCode(0x10), properties: Properties::default() };
        publisher.expect(Packet::PubAck(no_match)).await;
        client.expect_payload("now").await;
        client.expect_nothing().await;
        client.subscribe(GROUP, Q0, 0).await;
        assert!(announced(&node.cluster.borrow().told, Kind::Ephemeral));
        publisher.publish(Q1, 2, "a/b", "at QoS 0").await;
        publisher.expect(puback(2)).await;
        client.expect_payload("at QoS 0").await;
    });
}

#[test]
fn a_shared_subscription_brings_no_retained_messages() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "client").await;
        client.subscribe(GROUP, Q1, 1).await;
        client.expect_nothing().await;
        let reads = |what: &ToCluster| matches!(what, ToCluster::ReadRetained { .. });
        assert!(!node.cluster.borrow().told.iter().any(reads));
    });
}

#[test]
fn no_local_cannot_be_shared() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "client").await;
        // [MQTT-3.8.3-4]
        client.send_bytes(b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x05").await;
        client.expect_disconnect(0x82).await;
    });
}
