//! QoS 2 through a shard: packet ids are remembered, messages leave once, whoever leads and however often they are sent.

use std::collections::BTreeMap;

use super::*;

const OWN: ShardId = ShardId(1);
const OTHER: ShardId = ShardId(2);
const TO_OTHER: Destination = Destination::Shard(OTHER);

fn once(epoch: u64, packet_id: u16, payload: &str, here: bool, destinations: &[Destination]) -> Command {
    Command::PublishOnce(PublishOnce {
        client_id: "p".into(),
        epoch,
        packet_id,
        message: Message { qos: QoS::ExactlyOnce, ..message("t", payload) },
        spread: Spread { here, destinations: destinations.to_vec(), ..Spread::default() },
    })
}

fn end_exchange(epoch: u64, packet_id: u16) -> Command {
    Command::EndExchange { client_id: "p".into(), epoch, packet_id }
}

impl Given {
    /// Says something whose answer comes later; gives its number.
    fn ask(&mut self, origin: Origin, command: Command) -> u64 {
        let Expected::Next(seq) = self.shard.expected(origin) else { panic!("{origin:?} is expected no more") };
        assert_eq!(self.say_numbered(origin, seq, command), None, "answered later");
        seq
    }

    fn answer(&self, origin: Origin, seq: u64) -> Option<Outcome> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Reply { origin: to, seq: of, outcome } if (*to, *of) == (origin, seq) => Some(outcome.clone()),
            _ => None,
        })
    }

    fn relayed(&mut self, to: Destination, number: u64, refused: Option<Refusal>) {
        self.say(NODE_B, Command::Relayed(vec![Relayed { to, number, refused }]));
    }

    fn leaving(&self, to: Destination) -> Vec<(u64, String)> {
        let leaving = self.shard.leaving(to, 0, usize::MAX);
        leaving.into_iter().map(|(number, m)| (number, String::from_utf8(m.payload.to_vec()).unwrap())).collect()
    }
}

#[test]
fn a_packet_id_is_remembered_until_it_is_released_whatever_connection_sends_it() {
    let mut given = Given::default();
    let (reader, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", reader, "t", QoS::ExactlyOnce);
    let (epoch, _) = given.open(NODE_A, durable("p", 2));
    assert_eq!(given.say(NODE_A, once(epoch, 7, "x", true, &[])), Outcome::Stored(1));
    assert_eq!(given.say(NODE_A, once(epoch, 7, "x", true, &[])), Outcome::Stored(1), "DUP");
    given.say(NODE_A, close("p", epoch, CloseCause::WithWill));
    let snapshot = given.shard.snapshot();
    given.shard.restore(&snapshot.to_bytes()).unwrap();
    let (epoch, _) = given.open(NODE_B, durable("p", 3));
    assert_eq!(given.say(NODE_B, once(epoch, 7, "x", true, &[])), Outcome::Stored(1), "on another node");
    assert_eq!(given.queue("c"), [(1, "x".to_owned())]);
    assert_eq!(given.shard.deliveries("c", 1, 9, 99)[0].message.qos, QoS::ExactlyOnce);
    assert_eq!(given.say(NODE_B, end_exchange(epoch - 1, 7)), Outcome::Stale);
    assert_eq!(given.say(NODE_B, end_exchange(epoch, 7)), Outcome::Done);
    assert_eq!(given.say(NODE_B, end_exchange(epoch, 7)), Outcome::NotFound);
    assert_eq!(given.say(NODE_B, once(epoch, 7, "y", true, &[])), Outcome::Stored(1), "a new message");
    assert_eq!(given.queue("c").len(), 2);
}

#[test]
fn a_publish_is_answered_when_it_has_arrived_everywhere() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("p", 1));
    let to_node = Destination::Node(NODE_B);
    let seq = given.ask(NODE_A, once(epoch, 7, "x", false, &[TO_OTHER, to_node]));
    assert!(given.has(|effect| *effect == Effect::Relayable(TO_OTHER)));
    assert_eq!((given.leaving(TO_OTHER), given.leaving(to_node).len()), (vec![(1, "x".to_owned())], 1));
    assert_eq!(given.shard.destinations(), [TO_OTHER, to_node]);
    given.relayed(TO_OTHER, 1, None);
    assert_eq!(given.answer(NODE_A, seq), None);
    assert_eq!(given.say_numbered(NODE_A, seq, once(epoch, 7, "x", false, &[])), None, "its answer is still to come");
    given.relayed(to_node, 1, None);
    assert_eq!(given.answer(NODE_A, seq), Some(Outcome::Stored(2)));
    given.relayed(to_node, 1, None);
    assert_eq!(given.answer(NODE_A, seq), None, "answered once");
    assert!(given.shard.destinations().is_empty());
    let again = given.say_numbered(NODE_A, seq, once(epoch, 7, "x", false, &[]));
    assert_eq!(again, Some(Outcome::Stored(1)), "the answer was lost");
}

#[test]
fn a_newer_connection_takes_the_answer_over() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("p", 1));
    let older = given.ask(NODE_A, once(epoch, 7, "x", false, &[TO_OTHER]));
    given.say(NODE_A, close("p", epoch, CloseCause::WithWill));
    let (epoch, _) = given.open(NODE_B, durable("p", 2));
    let Expected::Next(newer) = given.shard.expected(NODE_B) else { panic!("expected") };
    assert_eq!(given.say_numbered(NODE_B, newer, once(epoch, 7, "x", false, &[TO_OTHER])), None);
    assert_eq!(given.answer(NODE_A, older), Some(Outcome::Stale));
    assert_eq!(given.leaving(TO_OTHER).len(), 1);
    given.relayed(TO_OTHER, 1, None);
    assert_eq!(given.answer(NODE_B, newer), Some(Outcome::Stored(1)));
}

#[test]
fn a_refusal_anywhere_ends_the_exchange() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("p", 1));
    let seq = given.ask(NODE_A, once(epoch, 7, "x", false, &[TO_OTHER]));
    given.relayed(TO_OTHER, 1, Some(Refusal::Quota));
    assert_eq!(given.answer(NODE_A, seq), Some(Outcome::Refused(Refusal::Quota)));
    assert_eq!(given.say(NODE_A, end_exchange(epoch, 7)), Outcome::NotFound);
}

#[test]
fn a_node_that_is_gone_is_waited_for_no_longer() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("p", 1));
    let (gone, to_gone) = (NODE_B, Destination::Node(NODE_B));
    let seq = given.ask(NODE_A, once(epoch, 7, "x", false, &[to_gone]));
    given.say(NODE_A, Command::NodeGone(gone));
    assert_eq!(given.answer(NODE_A, seq), Some(Outcome::Stored(0)));
    assert_eq!(given.say(NODE_A, once(epoch, 8, "y", false, &[to_gone])), Outcome::Stored(0), "nor begun with");
    let later = Origin { incarnation: Incarnation(2), ..NODE_B };
    let seq = given.ask(NODE_A, once(epoch, 9, "z", false, &[Destination::Node(later)]));
    given.say(NODE_A, Command::NodeGone(gone));
    assert_eq!(given.answer(NODE_A, seq), None, "that run lives");
    let latest = Origin { incarnation: Incarnation(3), ..NODE_B };
    given.say(latest, Command::Tick);
    assert_eq!(given.answer(NODE_A, seq), Some(Outcome::Stored(0)), "until a later one is heard");
}

#[test]
fn whoever_waits_is_let_go_when_the_session_ends() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("p", 1));
    let seq = given.ask(NODE_A, once(epoch, 7, "x", false, &[TO_OTHER]));
    given.say(NODE_A, close("p", epoch, CloseCause::WithWill));
    given.open(NODE_A, Open { clean_start: true, ..durable("p", 2) });
    assert_eq!(given.answer(NODE_A, seq), Some(Outcome::Stale));
    assert_eq!(given.leaving(TO_OTHER).len(), 1, "it was promised to others, who get it");
    given.relayed(TO_OTHER, 1, None);
}

#[test]
fn exchanges_and_outboxes_are_bounded() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("p", 1));
    let large = "x".repeat(1 << 20);
    let count = limits::SHARD_OUTBOX_BYTES_MAX >> 20;
    for packet_id in 1..count as u16 {
        given.ask(NODE_A, once(epoch, packet_id, &large, false, &[TO_OTHER]));
    }
    let refused = Outcome::Refused(Refusal::Quota);
    assert_eq!(given.say(NODE_A, once(epoch, 999, &large, false, &[TO_OTHER])), refused);
    for packet_id in count as u16..=limits::SESSION_EXCHANGES_MAX as u16 {
        assert_ne!(given.say(NODE_A, once(epoch, packet_id, "x", false, &[])), refused);
    }
    assert_eq!(given.say(NODE_A, once(epoch, 65_535, "x", false, &[])), refused);
}

#[test]
fn a_message_that_the_client_has_received_is_not_sent_again() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "t", QoS::ExactlyOnce);
    for payload in ["1", "2"] {
        given.say(NODE_B, Command::Publish(Message { qos: QoS::ExactlyOnce, ..message("t", payload) }));
    }
    given.say(NODE_A, ack("c", epoch, vec![Ack::Received(1)]));
    let snapshot = given.shard.snapshot();
    given.shard.restore(&snapshot.to_bytes()).unwrap();
    let deliveries = given.shard.deliveries("c", 1, 9, 99);
    let seen: Vec<_> = deliveries.iter().map(|d| (d.seq, d.received, d.message.payload.len())).collect();
    assert_eq!(seen, [(1, true, 0), (2, false, 1)]);
    given.say(NODE_A, ack("c", epoch, vec![Ack::Completed(1)]));
    assert_eq!(given.queue("c"), [(2, "2".to_owned())]);
}

/// What happens between a publisher, its shard, and another shard with a subscriber.
#[derive(Clone, Debug)]
enum Step {
    /// Of one of three packet ids: a new message if it is free, the same again if not.
    Publish(u16),
    Release(u16),
    /// The publisher connects again, to whichever node.
    Reconnect(bool),
    /// Some leader, who knows as much as the shard did some numbers ago, sends this many.
    Send {
        behind: u64,
        count: usize,
    },
    /// Somebody has heard that everything up to here has arrived, some numbers ago.
    Hear {
        behind: u64,
    },
    Snapshot,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4_u16).prop_map(Step::Publish),
        3 => (1..4_u16).prop_map(Step::Release),
        1 => any::<bool>().prop_map(Step::Reconnect),
        5 => (0..4_u64, 1..4_usize).prop_map(|(behind, count)| Step::Send { behind, count }),
        3 => (0..4_u64).prop_map(|behind| Step::Hear { behind }),
        1 => Just(Step::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_message_arrives_once_and_in_order(steps in prop::collection::vec(any_step(), 1..80)) {
        let (mut own, mut other) = (Given::default(), Given::default());
        let (reader, _) = other.open(NODE_A, durable("c", 1));
        other.subscribe("c", reader, "t", QoS::ExactlyOnce);
        let (mut epoch, _) = own.open(NODE_A, durable("p", 1));
        let mut node = NODE_A;
        // The model: what the publisher means, by packet id, and what must arrive.
        let mut open: BTreeMap<u16, String> = BTreeMap::new();
        let mut expected: Vec<String> = Vec::new();
        let mut arrived = 0_u64;
        let send = |own: &Given, other: &mut Given, arrived: &mut u64, from: u64, count: usize| {
            for (number, message) in own.shard.leaving(TO_OTHER, from, usize::MAX).into_iter().take(count) {
                let outcome = other.say(NODE_B, Command::Relay { from: OWN, number, message, keep: false });
                assert_eq!(outcome, Outcome::Stored(1));
                *arrived = number.max(*arrived);
            }
        };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Publish(packet_id) => {
                    let payload = open.entry(packet_id).or_insert_with(|| {
                        expected.push(number.to_string());
                        number.to_string()
                    });
                    let Expected::Next(seq) = own.shard.expected(node) else { panic!("expected") };
                    own.say_numbered(node, seq, once(epoch, packet_id, payload, false, &[TO_OTHER]));
                }
                Step::Release(packet_id) => {
                    let known = open.remove(&packet_id).is_some();
                    let outcome = own.say(node, end_exchange(epoch, packet_id));
                    prop_assert_eq!(outcome, if known { Outcome::Done } else { Outcome::NotFound });
                }
                Step::Reconnect(move_on) => {
                    own.say(node, close("p", epoch, CloseCause::WithWill));
                    if move_on {
                        node = if node == NODE_A { NODE_B } else { NODE_A };
                    }
                    epoch = own.open(node, durable("p", number as u32 + 2)).0;
                }
                Step::Send { behind, count } => {
                    // A leader never begins beyond what has arrived and one more.
                    let from = own.shard.first_leaving(TO_OTHER).max((arrived + 1).saturating_sub(behind));
                    send(&own, &mut other, &mut arrived, from, count);
                }
                Step::Hear { behind } => own.relayed(TO_OTHER, arrived.saturating_sub(behind), None),
                Step::Snapshot => {
                    for given in [&mut own, &mut other] {
                        let snapshot = given.shard.snapshot();
                        given.shard.restore(&snapshot.to_bytes()).unwrap();
                        prop_assert_eq!(given.shard.snapshot(), snapshot);
                    }
                }
            }
        }
        let first = own.shard.first_leaving(TO_OTHER);
        send(&own, &mut other, &mut arrived, first, usize::MAX);
        let received: Vec<String> = other.queue("c").into_iter().map(|(_, payload)| payload).collect();
        prop_assert_eq!(received, expected);
    }
}
