//! Shared subscriptions: a message stands in one member's queue, and is handed over in one step.

use super::*;
use crate::share::{Kind, Member};

const GROUP: &str = "$share/g/t";
const ELSEWHERE: Destination = Destination::Shard(ShardId(7));

fn text(kind: Kind, client_id: &str) -> Arc<str> {
    Member { subscription: GROUP, kind, client_id }.text()
}

fn shared(payload: &str, client_id: &str) -> Message {
    Message { qos: QoS::ExactlyOnce, recipient: Some(text(Kind::Connected, client_id)), ..message("t", payload) }
}

fn hand_over(from: Option<&str>, number: u64, to: Onward) -> Command {
    Command::HandOver(vec![HandOver { from: from.map(ClientId::from), number, to }])
}

impl Given {
    fn member(&mut self, client_id: &str, qos: QoS) -> u64 {
        let (epoch, _) = self.open(NODE_A, durable(client_id, 1));
        self.subscribe(client_id, epoch, GROUP, qos);
        epoch
    }

    /// What waits for another member: in whose queue, under which number, with what payload.
    fn unplaced(&self) -> Vec<(Option<String>, u64, String)> {
        let (unplaced, _) = self.shard.unplaced(None, usize::MAX);
        let plain = |unplaced: Unplaced| {
            let payload = String::from_utf8(unplaced.message.payload.to_vec()).unwrap();
            (unplaced.from.map(|from| from.to_string()), unplaced.number, payload)
        };
        unplaced.into_iter().map(plain).collect()
    }

    fn is_announced(&self, kind: Kind, client_id: &str) -> bool {
        self.shard.routes().contains(&text(kind, client_id))
    }
}

#[test]
fn a_message_for_a_member_is_in_its_queue_alone() {
    let mut given = Given::default();
    given.member("c", QoS::AtLeastOnce);
    given.member("d", QoS::AtLeastOnce);
    assert_eq!(given.publish("t", "for nobody in particular"), Outcome::Stored(0));
    assert_eq!(given.say(NODE_B, Command::Publish(shared("x", "d"))), Outcome::Stored(1));
    assert_eq!((given.queue("c").len(), given.queue("d").len()), (0, 1));
    let deliveries = given.shard.deliveries("d", 1, 9, 99);
    assert_eq!(deliveries[0].message.qos, QoS::AtLeastOnce, "what it has subscribed with");
    assert!(given.unplaced().is_empty(), "it is connected");
}

#[test]
fn members_are_announced_as_they_come_and_go() {
    let mut given = Given::default();
    let epoch = given.member("c", QoS::AtLeastOnce);
    assert!(given.is_announced(Kind::Connected, "c") && !given.is_announced(Kind::Away, "c"));
    given.say(NODE_A, close("c", epoch, CloseCause::Normal));
    let (gone, away) = (text(Kind::Connected, "c"), text(Kind::Away, "c"));
    assert!(given.has(|effect| *effect == Effect::RouteRemoved(gone.clone())));
    assert!(given.has(|effect| *effect == Effect::RouteAdded(away.clone())));
    assert!(given.is_announced(Kind::Away, "c") && !given.is_announced(Kind::Connected, "c"));
    let (epoch, _) = given.open(NODE_B, durable("c", 2));
    assert!(given.is_announced(Kind::Connected, "c"));
    given.subscribe("c", epoch, GROUP, QoS::AtMostOnce);
    assert!(given.shard.routes().is_empty(), "QoS 0 is its worker's");
    given.subscribe("c", epoch, GROUP, QoS::ExactlyOnce);
    let bytes = given.shard.snapshot();
    given.shard = Shard::default();
    given.shard.restore(&bytes.to_bytes()).unwrap();
    assert!(given.is_announced(Kind::Connected, "c"));
    given.say(NODE_B, Command::Unsubscribe { client_id: "c".into(), epoch, filters: vec![GROUP.into()] });
    assert!(given.shard.routes().is_empty());
}

#[test]
fn what_waits_for_a_member_that_is_away_is_handed_over_once() {
    let mut given = Given::default();
    let epoch = given.member("c", QoS::AtLeastOnce);
    given.say(NODE_B, Command::Publish(shared("x", "c")));
    given.say(NODE_B, Command::Publish(shared("y", "c")));
    let onward = || Onward::To(ELSEWHERE, text(Kind::Connected, "e"));
    assert_eq!(given.say(NODE_A, hand_over(Some("c"), 1, onward())), Outcome::Stored(0), "it is connected");
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    assert!(given.has(|effect| *effect == Effect::Unplaced));
    assert_eq!(given.unplaced(), [(Some("c".into()), 1, "x".into()), (Some("c".into()), 2, "y".into())]);
    assert_eq!(given.say(NODE_A, hand_over(Some("c"), 1, onward())), Outcome::Stored(1));
    assert_eq!(given.say(NODE_A, hand_over(Some("c"), 1, onward())), Outcome::Stored(0));
    let leaving = given.shard.leaving(ELSEWHERE, 0, usize::MAX);
    assert_eq!((leaving.len(), leaving[0].1.recipient.clone()), (1, Some(text(Kind::Connected, "e"))));
    assert_eq!(given.queue("c"), [(2, "y".into())]);
    assert_eq!(given.shard.totals().queued_items, 1);
    given.member("d", QoS::AtLeastOnce);
    given.say(NODE_A, hand_over(Some("c"), 2, Onward::Here(text(Kind::Connected, "d"))));
    assert_eq!(given.queue("d"), [(1, "y".into())]);
}

#[test]
fn one_of_qos_2_that_was_sent_is_for_nobody_else() {
    let mut given = Given::default();
    let epoch = given.member("c", QoS::ExactlyOnce);
    for payload in ["sent", "received", "waits"] {
        given.say(NODE_B, Command::Publish(shared(payload, "c")));
    }
    let sent_to = 2;
    given.say(NODE_A, ack("c", epoch, vec![Ack::Received(2)]));
    let cause = CloseCause::WithWill;
    given.say(
        NODE_A,
        Command::Close(Close { client_id: "c".into(), epoch, cause, session_expiry_seconds: None, sent_to }),
    );
    assert_eq!(given.unplaced(), [(Some("c".into()), 3, "waits".into())]);
    given.now_ms = 61_000;
    given.say(NODE_B, Command::Tick);
    assert_eq!(given.unplaced(), [(None, 1, "waits".into())], "the session is over");
}

#[test]
fn a_message_without_a_member_is_a_stray_until_one_is_found() {
    let mut given = Given::default();
    assert_eq!(given.say(NODE_B, Command::Publish(shared("x", "gone"))), Outcome::Stored(1));
    given.say(NODE_B, Command::Publish(shared("y", "gone")));
    assert!(given.has(|effect| *effect == Effect::Unplaced));
    let bytes = given.shard.snapshot();
    given.shard = Shard::default();
    given.shard.restore(&bytes.to_bytes()).unwrap();
    assert_eq!(given.unplaced(), [(None, 1, "x".into()), (None, 2, "y".into())]);
    given.say(NODE_A, hand_over(None, 2, Onward::Nowhere));
    assert_eq!(given.shard.totals().dropped_without_member, 1);
    given.say(NODE_A, hand_over(None, 1, Onward::To(Destination::Node(NODE_B), text(Kind::Ephemeral, "e"))));
    assert!(given.unplaced().is_empty());
    given.say(NODE_A, Command::NodeGone(NODE_B));
    assert_eq!(given.unplaced(), [(None, 3, "x".into())], "it never arrived");
    let onward = Onward::To(Destination::Node(NODE_B), text(Kind::Ephemeral, "e"));
    assert_eq!(given.say(NODE_A, hand_over(None, 3, onward)), Outcome::Stored(0), "that node is no more");
}

#[test]
fn one_that_another_shard_has_no_room_for_comes_back() {
    let mut given = Given::default();
    given.say(NODE_B, Command::Publish(shared("x", "gone")));
    given.say(NODE_A, hand_over(None, 1, Onward::To(ELSEWHERE, text(Kind::Connected, "e"))));
    let refused = Some(Refusal::Quota);
    given.say(NODE_A, Command::Relayed(vec![Relayed { to: ELSEWHERE, number: 1, refused }]));
    assert_eq!(given.unplaced(), [(None, 2, "x".into())]);
}
