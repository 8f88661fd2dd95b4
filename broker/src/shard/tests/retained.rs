//! Retained messages: what is kept, and what a persistent session is owed of it.

use super::*;

fn retained(topic: &str, payload: &str) -> Message {
    Message { retain: true, ..message(topic, payload) }
}

impl Given {
    fn retain(&mut self, topic: &str, payload: &str) -> Outcome {
        self.say(NODE_B, Command::Retain(retained(topic, payload)))
    }

    fn matching(&self, filter: &str) -> Vec<String> {
        let page = self.shard.retained(filter, None);
        assert_eq!(page.next, None);
        page.messages.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
    }

    fn enqueue(&mut self, epoch: u64, messages: Vec<Message>, next: Option<Place>) -> Outcome {
        self.say(NODE_A, Command::Enqueue { client_id: "c".into(), epoch, filter: "#".into(), messages, next })
    }
}

fn place(after: &str) -> Option<Place> {
    Some(Place { shard: crate::identity::ShardId(0), after: Some(after.into()) })
}

#[test]
fn the_last_one_of_a_topic_is_kept_and_an_empty_one_ends_it() {
    let mut given = Given::default();
    given.retain("a/b", "1");
    given.retain("a/c", "2");
    given.retain("$SYS/x", "3");
    assert_eq!(given.retain("a/b", "4"), Outcome::Stored(0));
    assert_eq!(given.matching("#"), ["4", "2"], "[MQTT-4.7.2-1]");
    assert_eq!(given.matching("$SYS/#"), ["3"]);
    assert_eq!(given.matching("+/b"), ["4"]);
    given.retain("a/b", "");
    given.retain("never/there", "");
    assert_eq!(given.matching("a/+"), ["2"]);
    assert_eq!((given.shard.totals().retained_items, given.shard.totals().retained_bytes), (2, 4 + 7));
}

#[test]
fn a_retained_message_expires_and_a_newer_one_counts_anew() {
    let mut given = Given::default();
    for (topic, payload, expires_at_ms) in [("a", "1", Some(50)), ("b", "2", Some(100)), ("a", "3", Some(70))] {
        given.say(NODE_B, Command::Retain(Message { expires_at_ms, ..retained(topic, payload) }));
    }
    assert_eq!(given.shard.next_due_ms(), Some(70));
    given.now_ms = 69;
    given.say(NODE_A, Command::Tick);
    assert_eq!(given.matching("#"), ["3", "2"]);
    given.now_ms = 70;
    given.say(NODE_A, Command::Tick);
    assert_eq!(given.matching("#"), ["2"]);
    assert_eq!(given.shard.next_due_ms(), Some(100));
}

#[test]
fn at_the_bound_in_bytes_a_new_one_is_refused_as_often_as_it_comes_and_a_smaller_one_taken() {
    let mut given = Given::default();
    let half = "x".repeat(limits::SHARD_RETAINED_BYTES_MAX / 2);
    assert_eq!(given.retain("a", &half), Outcome::Stored(0));
    let command = Command::Retain(retained("b", &half));
    for _ in 0..2 {
        assert_eq!(given.say_numbered(NODE_B, 2, command.clone()), Some(Outcome::Refused(Refusal::Quota)));
    }
    assert_eq!(given.retain("a", "small"), Outcome::Stored(0));
    assert_eq!(given.retain("b", &half), Outcome::Stored(0));
    assert_eq!(given.shard.totals().refused_retained_full, 1);
}

#[test]
fn a_page_ends_at_its_bounds_and_the_next_goes_on_after_it() {
    let mut given = Given::default();
    let count = limits::RETAINED_PAGE_ITEMS_MAX * 2 + 10;
    for number in 0..count {
        given.retain(&format!("t/{number:05}"), "x");
    }
    let (mut sizes, mut after) = (Vec::new(), None);
    loop {
        let page = given.shard.retained("t/#", after.as_deref());
        sizes.push(page.messages.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [limits::RETAINED_PAGE_ITEMS_MAX, limits::RETAINED_PAGE_ITEMS_MAX, 10]);
    let large = "x".repeat(limits::RETAINED_PAGE_BYTES_MAX);
    given.retain("u/1", &large);
    given.retain("u/2", &large);
    let page = given.shard.retained("u/#", None);
    assert_eq!((page.messages.len(), page.next.as_deref()), (1, Some("u/1")));
}

#[test]
fn what_a_subscription_is_owed_comes_into_the_queue_piece_by_piece() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "#", QoS::AtLeastOnce);
    assert_eq!(given.enqueue(epoch, vec![retained("a", "1")], place("a")), Outcome::Owes(place("a")));
    let qos_0 = Message { qos: QoS::AtMostOnce, ..retained("b", "2") };
    // The client goes on elsewhere.
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    let Outcome::Opened { epoch, owed, .. } = given.say(NODE_B, Command::Open(durable("c", 2))) else { panic!() };
    assert_eq!(owed, [("#".into(), place("a").unwrap())]);
    assert_eq!(given.enqueue(epoch - 1, vec![retained("a", "1")], None), Outcome::Stale);
    assert_eq!(given.enqueue(epoch, vec![qos_0, retained("c", "3")], None), Outcome::Owes(None));
    assert_eq!(given.enqueue(epoch, vec![retained("d", "4")], None), Outcome::Owes(None), "nothing is owed");
    assert_eq!(given.queue("c"), [(1, "1".to_owned()), (2, "3".to_owned())]);
    assert!(given.shard.deliveries("c", 1, 9, 9999).iter().all(|delivery| delivery.message.retain));
}

#[test]
fn a_newer_message_is_not_followed_by_the_one_of_before() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "#", QoS::AtLeastOnce);
    given.say(NODE_B, Command::Publish(retained("a", "newer")));
    given.publish("b", "not retained");
    given.enqueue(epoch, vec![retained("a", "older"), retained("b", "kept")], None);
    let payloads: Vec<String> = given.queue("c").into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, ["newer", "not retained", "kept"]);
    // The next subscription begins anew.
    given.subscribe("c", epoch, "#", QoS::AtLeastOnce);
    given.enqueue(epoch, vec![retained("a", "newer")], None);
    assert_eq!(given.queue("c").len(), 4);
}

#[test]
fn only_what_wants_retained_messages_above_qos_0_is_owed_them() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    let mut subscribe = |qos, retain_handling| {
        let options = SubscriptionOptions { qos, retain_handling, ..Default::default() };
        let subscriptions = vec![Subscription { filter: "#".into(), options }];
        given.say(NODE_A, Command::Subscribe { client_id: "c".into(), epoch, subscriptions });
        given.enqueue(epoch, vec![retained("a", "x")], None);
        given.queue("c").len()
    };
    assert_eq!(subscribe(QoS::AtMostOnce, 0), 0);
    assert_eq!(subscribe(QoS::AtLeastOnce, 2), 0);
    assert_eq!(subscribe(QoS::AtLeastOnce, 1), 0, "it is not new");
    assert_eq!(subscribe(QoS::AtLeastOnce, 0), 1);
}

#[test]
fn a_queue_that_is_half_full_takes_no_retained_messages_and_says_where_it_stands() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "#", QoS::AtLeastOnce);
    let large = "x".repeat(limits::SESSION_QUEUE_BYTES_MAX / 2 + 1);
    given.publish("a", &large);
    let begin = Some(Place::default());
    assert_eq!(given.enqueue(epoch, vec![retained("b", "y")], None), Outcome::Owes(begin));
    given.say(NODE_A, ack("c", epoch, vec![Ack::Done(1)]));
    assert_eq!(given.enqueue(epoch, vec![retained("b", "y")], None), Outcome::Owes(None));
    assert_eq!(given.queue("c"), [(2, "y".to_owned())]);
}

#[test]
fn a_snapshot_has_what_is_retained_and_what_is_owed() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "#", QoS::AtLeastOnce);
    given.say(NODE_B, Command::Retain(Message { expires_at_ms: Some(99), ..retained("a", "1") }));
    given.retain("b/c", "2");
    given.say(NODE_B, Command::Publish(retained("d", "newer")));
    let mut other = Shard::default();
    other.restore(&given.shard.snapshot().to_bytes()).unwrap();
    assert_eq!(other.totals(), given.shard.totals());
    assert_eq!(other.next_due_ms(), Some(99));
    assert_eq!(other.snapshot(), given.shard.snapshot());
    given.shard = other;
    assert_eq!(given.matching("b/#"), ["2"]);
    given.enqueue(epoch, vec![retained("d", "older")], None);
    assert_eq!(given.queue("c"), [(1, "newer".to_owned())]);
}

impl Given {
    /// A retained message of the client `p`, by its connection of this epoch.
    fn keep(&mut self, origin: Origin, epoch: u64, topic: &str, payload: &str) -> Outcome {
        let message = Message { publisher: "p".into(), ..retained(topic, payload) };
        self.say(origin, Command::Keep { message, epoch })
    }
}

const LATE: Outcome = Outcome::Refused(Refusal::Unavailable);

#[test]
fn k8_what_an_older_connection_left_on_its_way_brings_nothing_back() {
    let mut given = Given::default();
    assert_eq!(given.keep(NODE_A, 1, "t", "1"), Outcome::Stored(0));
    // Node A stands still with a second and a third message; the publisher goes on at node B.
    assert_eq!(given.keep(NODE_B, 2, "t", "4"), Outcome::Stored(0));
    assert_eq!(given.keep(NODE_A, 1, "t", "2"), LATE);
    assert_eq!(given.matching("t"), ["4"]);
    assert_eq!(given.keep(NODE_B, 2, "t", ""), Outcome::Stored(0));
    let Expected::Next(seq) = given.shard.expected(NODE_A) else { panic!() };
    let third = Message { publisher: "p".into(), ..retained("t", "3") };
    let third = Command::Keep { message: third, epoch: 1 };
    for _ in 0..2 {
        let outcome = given.say_numbered(NODE_A, seq, third.clone());
        assert!(matches!(outcome, Some(Outcome::Refused(_))), "never said to be stored: {outcome:?}");
    }
    assert_eq!(given.matching("t"), [""; 0], "it was ended");
    assert_eq!(given.keep(NODE_B, 2, "t", "5"), Outcome::Stored(0));
    // Somebody else's is no matter of the publisher's connections.
    assert_eq!(given.retain("t", "6"), Outcome::Stored(0));
    assert_eq!(given.keep(NODE_A, 1, "t", "7"), LATE);
    assert_eq!(given.matching("t"), ["6"]);
}

#[test]
fn k8_who_goes_on_by_way_of_an_outbox_is_fenced_off_alike() {
    let mut given = Given::default();
    let (older, _) = given.open(NODE_A, durable("p", 1));
    let (newer, _) = given.open(NODE_B, durable("p", 2));
    let publish_once = |keep, packet_id| {
        let message = Message { publisher: "p".into(), qos: QoS::ExactlyOnce, ..retained("t", "2") };
        let spread = match keep {
            true => Spread { keep, ..Spread::default() },
            false => Spread { destinations: vec![Destination::Keeper(ShardId(1))], ..Spread::default() },
        };
        Command::PublishOnce(PublishOnce { client_id: "p".into(), epoch: newer, packet_id, message, spread })
    };
    let Expected::Next(seq) = given.shard.expected(NODE_B) else { panic!() };
    assert_eq!(given.say_numbered(NODE_B, seq, publish_once(false, 1)), None);
    let keeper = Destination::Keeper(ShardId(1));
    assert_eq!(given.shard.sender(keeper, 1), Sender::Waits(newer));
    assert_eq!(given.shard.sender(keeper, 2), Sender::Unknown);
    assert_eq!(given.keep(NODE_A, older, "t", "0"), Outcome::Stored(0), "nothing newer is here");
    assert_eq!(given.say(NODE_B, publish_once(true, 2)), Outcome::Stored(0));
    assert_eq!(given.keep(NODE_A, older, "t", "1"), LATE);
    assert_eq!(given.matching("t"), ["2"]);
    // Elsewhere its leader says it.
    let mut other = Given::default();
    other.say(NODE_B, Command::Fence { client_id: "p".into(), epoch: newer });
    assert_eq!(other.keep(NODE_A, older, "t", "1"), LATE);
}

impl Given {
    /// So, and its topic remembers the epoch.
    fn keep_as(&mut self, epoch: u64, topic: &str, payload: &str) -> Outcome {
        let message = Message { publisher: "p".into(), ..retained(topic, payload) };
        self.say(NODE_B, Command::KeepAs { message, epoch })
    }

    /// A retained message of the client `p` comes from the outbox of another shard.
    fn keep_relayed(&mut self, number: u64, sender: Sender, topic: &str, payload: &str) -> Outcome {
        let message = Message { publisher: "p".into(), ..retained(topic, payload) };
        self.say(NODE_A, Command::KeepRelayed { from: ShardId(9), number, message, sender })
    }
}

#[test]
fn k8_a_will_that_comes_late_gives_way_to_what_its_client_has_published_since() {
    let mut given = Given::default();
    assert_eq!(given.keep_as(1, "t", "online"), Outcome::Stored(0));
    assert_eq!(given.keep_as(1, "u", "online"), Outcome::Stored(0));
    assert_eq!(given.keep_as(2, "t", "back"), Outcome::Stored(0));
    for (number, topic) in (1..).zip(["t", "u"]) {
        assert_eq!(given.keep_relayed(number, Sender::Over(1), topic, "gone"), Outcome::Stored(0));
    }
    assert_eq!(given.matching("t"), ["back"]);
    assert_eq!(given.matching("u"), ["gone"], "of this topic the newer connection has said nothing");
    assert_eq!(given.keep_relayed(1, Sender::Over(1), "t", "gone"), Outcome::Stored(1), "it came before");
    // What it ended is not brought back; somebody else's is no matter of its connections.
    given.keep_as(2, "t", "");
    given.keep_relayed(3, Sender::Over(1), "t", "gone");
    assert_eq!(given.matching("t"), [""; 0]);
    given.retain("t", "somebody else's");
    given.keep_relayed(4, Sender::Over(1), "t", "gone");
    assert_eq!(given.matching("t"), ["gone"]);
}

#[test]
fn k8_what_a_connection_left_on_its_way_does_not_replace_its_will() {
    let mut given = Given::default();
    assert_eq!(given.keep_as(1, "t", "online"), Outcome::Stored(0));
    assert_eq!(given.keep_relayed(1, Sender::Over(1), "t", "gone"), Outcome::Stored(0));
    assert_eq!(given.keep_as(1, "t", "late"), LATE);
    assert_eq!(given.matching("t"), ["gone"]);
    assert_eq!(given.keep_as(2, "t", "back"), Outcome::Stored(0));
    // A client of which nothing else is known.
    given.keep_relayed(2, Sender::Over(3), "u", "gone");
    assert_eq!(given.keep_as(3, "u", "late"), LATE);
    assert_eq!(given.matching("u"), ["gone"]);
}

#[test]
fn k8_what_a_session_that_has_ended_left_on_its_way_gives_way() {
    let mut given = Given::default();
    let (older, _) = given.open(NODE_B, durable("p", 1));
    let message = Message { publisher: "p".into(), qos: QoS::ExactlyOnce, ..retained("t", "1") };
    let keeper = Destination::Keeper(ShardId(1));
    let spread = Spread { destinations: vec![keeper], ..Spread::default() };
    let publish = PublishOnce { client_id: "p".into(), epoch: older, packet_id: 1, message, spread };
    let Expected::Next(seq) = given.shard.expected(NODE_B) else { panic!() };
    assert_eq!(given.say_numbered(NODE_B, seq, Command::PublishOnce(publish)), None);
    let (newer, _) = given.open(NODE_B, durable("p", 2));
    assert_eq!(given.shard.sender(keeper, 1), Sender::Waits(newer), "the session goes on");
    given.open(NODE_B, Open { clean_start: true, ..durable("p", 3) });
    assert_eq!(given.shard.sender(keeper, 1), Sender::Over(0));
    // Where it is kept.
    let mut other = Given::default();
    other.keep_relayed(1, Sender::Waits(2), "t", "2");
    other.keep_relayed(2, Sender::Over(0), "t", "1");
    assert_eq!(other.matching("t"), ["2"]);
    assert_eq!(other.keep_as(1, "t", "0"), LATE);
    other.keep_relayed(3, Sender::Waits(1), "t", "acknowledged when it is here");
    other.keep_relayed(4, Sender::Unknown, "t", "of an older broker");
    assert_eq!(other.matching("t"), ["of an older broker"]);
}

#[test]
fn k8_a_snapshot_has_the_fences_and_the_epochs_and_older_ones_are_read() {
    let given_of = |snapshot: Vec<u8>| {
        let mut given = Given::default();
        given.shard.restore(&snapshot.into()).unwrap();
        given
    };
    let mut given = Given::default();
    given.keep_as(2, "t", "2");
    given.retain("u", "unknown");
    let newest = given.shard.snapshot().to_bytes().to_vec();
    let mut given = given_of(newest.clone());
    assert_eq!(given.keep(NODE_A, 1, "t", "1"), LATE);
    given.keep_relayed(1, Sender::Over(1), "t", "gone");
    given.keep_relayed(2, Sender::Over(1), "u", "gone");
    assert_eq!((given.matching("t"), given.matching("u")), (vec!["2".into()], vec!["gone".into()]));
    // As older brokers wrote it: the epochs, and the fences in front of them, stand behind the state.
    let (fences, epochs) = (b"\x01\x01p\x02".len(), b"\x02\x02\x00".len());
    let older = |version, without: usize| {
        let mut older = newest[..newest.len() - without].to_vec();
        older[0] = version;
        given_of(older)
    };
    let mut given = older(5, epochs);
    assert_eq!(given.keep(NODE_A, 1, "t", "1"), LATE);
    assert_eq!(given.matching("t"), ["2"]);
    let mut given = older(4, epochs + fences);
    assert_eq!(given.keep(NODE_A, 1, "t", "1"), Outcome::Stored(0));
}

#[test]
fn k8_a_snapshot_is_no_newer_than_what_is_in_it() {
    let mut given = Given::default();
    given.retain("t", "1");
    assert_eq!(given.shard.snapshot().to_bytes()[0], 4);
    given.keep(NODE_B, 1, "t", "2");
    assert_eq!(given.shard.snapshot().to_bytes()[0], 5);
    given.keep_as(1, "t", "3");
    assert_eq!(given.shard.snapshot().to_bytes()[0], 6);
}
