//! Sessions as administrators see and end them.

use super::*;

#[test]
fn stored_sessions_are_listed_in_order_page_by_page() {
    let mut given = Given::default();
    for client_id in ["c", "a", "b"] {
        let (epoch, _) = given.open(NODE_A, durable(client_id, 1));
        given.subscribe(client_id, epoch, "t", QoS::AtLeastOnce);
        if client_id == "b" {
            given.say(NODE_A, close(client_id, epoch, CloseCause::Normal));
        }
    }
    given.open(NODE_A, Open { session_expiry_seconds: 0, ..durable("passing", 9) });
    given.publish("t", "four");
    let page = given.shard.stored_sessions("", 2);
    let plain: Vec<_> = page.iter().map(|session| (&*session.client_id, session.connected)).collect();
    assert_eq!(plain, [("a", true), ("b", false)]);
    assert_eq!((page[0].subscriptions, page[0].queued_messages, page[0].queued_bytes), (1, 1, 5));
    assert_eq!(given.shard.stored_sessions("b", 2).len(), 1);
}

#[test]
fn a_session_that_an_administrator_ends_is_gone_and_its_connection_is_told() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "t", QoS::AtLeastOnce);
    let end = || Command::DeleteSession { client_id: "c".into() };
    assert_eq!(given.say(NODE_B, end()), Outcome::Done);
    let is_told = |effect: &Effect| matches!(effect, Effect::Evict { why: Evicted::Administrative, .. });
    assert!(given.has(is_told));
    assert_eq!(given.say(NODE_B, end()), Outcome::NotFound);
    assert_eq!(given.publish("t", "x"), Outcome::Stored(0));
    given.say(NODE_A, Command::Released { client_id: "c".into(), epoch });
    let (_, present) = given.open(NODE_A, durable("c", 2));
    assert!(!present);
}
