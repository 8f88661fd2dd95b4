//! Wills that are due: each leaves once, for everybody that it is for.

use super::*;

const TO_SHARD: Destination = Destination::Shard(ShardId(2));
const TO_NODE: Destination = Destination::Node(NODE_B);
const TO_KEEPER: Destination = Destination::Keeper(ShardId(3));

fn will(delay_seconds: u32, expiry_seconds: Option<u32>) -> Option<Will> {
    let message = Message { retain: true, ..message("t", "w") };
    Some(Will { message, delay_seconds, expiry_seconds })
}

fn fire(epoch: u64, spread: Spread) -> Command {
    Command::FireWill { client_id: "c".into(), epoch, spread }
}

fn everywhere() -> Spread {
    Spread { here: true, keep: false, destinations: vec![TO_SHARD, TO_NODE, TO_KEEPER], recipients: Vec::new() }
}

#[test]
fn a_will_leaves_once_however_often_it_is_fired_and_whoever_leads() {
    let mut given = Given::default();
    let (reader, _) = given.open(NODE_A, durable("reader", 2));
    given.subscribe("reader", reader, "t", QoS::AtLeastOnce);
    let (epoch, _) = given.open(NODE_A, Open { will: will(0, None), ..durable("c", 1) });
    assert_eq!(given.say(NODE_A, fire(epoch, everywhere())), Outcome::NotFound, "its client lives");
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    assert_eq!(given.wills(), 1);
    assert_eq!(given.say(NODE_A, fire(epoch, everywhere())), Outcome::Done);
    let bytes = given.shard.snapshot();
    given.shard = Shard::default();
    given.shard.restore(&bytes.to_bytes()).unwrap();
    assert!(given.shard.due_wills().is_empty());
    assert_eq!(given.shard.sender(TO_KEEPER, 1), Sender::Over(epoch), "K8");
    assert_eq!(given.shard.sender(TO_SHARD, 1), Sender::Unknown);
    assert_eq!(given.say(NODE_B, fire(epoch, everywhere())), Outcome::NotFound);
    for to in [TO_SHARD, TO_NODE, TO_KEEPER] {
        assert_eq!(given.shard.leaving(to, 0, usize::MAX).len(), 1, "{to:?}");
    }
    assert_eq!(given.queue("reader").len(), 1);
    given.say(NODE_A, Command::Relayed(vec![Relayed { to: TO_SHARD, number: 1, refused: Some(Refusal::Quota) }]));
    assert_eq!(given.shard.destinations(), [TO_NODE, TO_KEEPER]);
}

#[test]
fn a_will_expires_so_long_after_it_was_published() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, Open { will: will(5, Some(10)), ..durable("c", 1) });
    given.now_ms = 1_000;
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    assert_eq!(given.wills(), 0, "its delay");
    given.now_ms = 7_000;
    given.say(NODE_B, Command::Tick);
    let Some(Effect::Will { message, .. }) = given.shard.due_wills().pop() else { panic!("it is due") };
    assert_eq!(message.expires_at_ms, Some(17_000));
}

#[test]
fn a_will_with_retain_is_kept_by_the_shard_of_its_topic() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, Open { will: will(0, None), ..durable("c", 1) });
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    given.say(NODE_A, fire(epoch, Spread { keep: true, ..Spread::default() }));
    assert_eq!(given.shard.retained("#", None).messages.len(), 1);
}

#[test]
fn what_is_to_be_kept_is_taken_from_an_outbox_of_its_own() {
    let mut given = Given::default();
    let relay = |number, payload, keep| {
        let message = Message { retain: true, ..message("t", payload) };
        Command::Relay { from: ShardId(9), number, message, keep }
    };
    assert_eq!(given.say(NODE_A, relay(1, "to sessions", false)), Outcome::Stored(0));
    assert_eq!(given.say(NODE_A, relay(1, "kept", true)), Outcome::Stored(0));
    assert_eq!(given.say(NODE_A, relay(2, "newer", true)), Outcome::Stored(0));
    assert_eq!(given.say(NODE_B, relay(1, "kept", true)), Outcome::Stored(1), "it came before");
    let page = given.shard.retained("t", None);
    assert_eq!(page.messages.len(), 1);
    assert_eq!(&page.messages[0].payload[..], b"newer");
}
