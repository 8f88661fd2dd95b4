//! Messages lent to members of shared subscriptions: kept until they are done with, and never at nobody's.

use super::*;
use crate::share::{Kind, Member};

const GROUP: &str = "$share/g/t";
const BORROWER: Destination = Destination::Borrower(NODE_B);

fn text(kind: Kind, client_id: &str) -> Arc<str> {
    Member { subscription: GROUP, kind, client_id }.text()
}

fn lend(payload: &str, heir: &str) -> Command {
    let recipient = Some(text(Kind::Ephemeral, "e"));
    let message = Message { qos: QoS::ExactlyOnce, recipient, ..message("t", payload) };
    Command::Lend { message, to: NODE_B, heir: text(Kind::Connected, heir) }
}

fn end(done: &[u64], returned: &[u64]) -> Command {
    Command::EndLoans { done: done.to_vec(), returned: returned.to_vec() }
}

impl Given {
    /// The heir, connected to the other node.
    fn heir(&mut self) -> u64 {
        let (epoch, _) = self.open(NODE_A, durable("c", 1));
        self.subscribe("c", epoch, GROUP, QoS::ExactlyOnce);
        epoch
    }

    fn lent(&self) -> Vec<(u64, String)> {
        let leaving = self.shard.leaving(BORROWER, 0, usize::MAX);
        leaving.into_iter().map(|(number, m)| (number, String::from_utf8(m.payload.to_vec()).unwrap())).collect()
    }

    fn restored(&mut self) {
        let bytes = self.shard.snapshot().to_bytes();
        assert_eq!(bytes[0], 7, "the version that knows of loans");
        self.shard = Shard::default();
        self.shard.restore(&bytes).unwrap();
        assert_eq!(self.shard.snapshot().to_bytes(), bytes);
    }

    fn strays(&self) -> usize {
        let (unplaced, _) = self.shard.unplaced(None, usize::MAX);
        unplaced.iter().filter(|unplaced| unplaced.from.is_none()).count()
    }
}

#[test]
fn what_is_lent_is_for_the_borrower_alone_and_gone_when_it_is_done() {
    let mut given = Given::default();
    given.heir();
    assert_eq!(given.say(NODE_A, lend("x", "c")), Outcome::Stored(1));
    assert!(given.has(|effect| *effect == Effect::Relayable(BORROWER)));
    given.say(NODE_A, lend("y", "c"));
    assert_eq!((given.lent(), given.queue("c")), (vec![(1, "x".into()), (2, "y".into())], vec![]));
    given.say(NODE_A, Command::Relayed(vec![Relayed { to: BORROWER, number: 1, refused: None }]));
    assert_eq!(given.lent(), [(2, "y".into())], "it has arrived");
    given.restored();
    // What has not arrived, as far as the log knows, may be done with all the same.
    assert_eq!(given.say(NODE_B, end(&[1, 2], &[])), Outcome::Done);
    given.say(NODE_A, Command::NodeGone(NODE_B));
    assert_eq!((given.queue("c"), given.strays(), given.lent()), (vec![], 0, vec![]));
}

#[test]
fn what_is_returned_is_the_heirs_once() {
    let mut given = Given::default();
    given.heir();
    given.say(NODE_A, lend("x", "c"));
    given.say(NODE_A, lend("y", "c"));
    given.restored();
    given.say(NODE_B, end(&[], &[2]));
    assert!(given.has(|effect| *effect == Effect::Deliverable("c".into())));
    assert_eq!(given.queue("c"), [(1, "y".into())]);
    given.say(NODE_B, end(&[2], &[2]));
    assert_eq!(given.queue("c").len(), 1);
}

#[test]
fn what_a_run_was_lent_is_the_heirs_when_it_is_over_arrived_or_not() {
    for arrived in [false, true] {
        let mut given = Given::default();
        let epoch = given.heir();
        given.say(NODE_A, close("c", epoch, CloseCause::Normal));
        given.say(NODE_A, lend("x", "c"));
        given.say(NODE_A, lend("y", "c"));
        if arrived {
            given.say(NODE_A, Command::Relayed(vec![Relayed { to: BORROWER, number: 2, refused: None }]));
        }
        given.restored();
        given.say(NODE_A, Command::NodeGone(NODE_B));
        assert!(given.has(|effect| *effect == Effect::Unplaced), "somebody else may be connected");
        assert_eq!(given.queue("c"), [(1, "x".into()), (2, "y".into())]);
        given.say(NODE_A, lend("z", "c"));
        assert_eq!(given.queue("c").len(), 3, "that run is known to be over");
    }
}

#[test]
fn a_later_run_of_a_node_ends_what_the_earlier_one_was_lent() {
    let mut given = Given::default();
    given.heir();
    given.say(NODE_A, lend("x", "c"));
    let later = Origin { incarnation: Incarnation(2), ..NODE_B };
    given.say(later, Command::Tick);
    assert_eq!(given.queue("c"), [(1, "x".into())]);
}

#[test]
fn what_the_heir_inherits_by_the_end_of_its_own_node_was_not_sent_to_it() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_B, durable("c", 1));
    given.subscribe("c", epoch, GROUP, QoS::ExactlyOnce);
    given.say(NODE_A, lend("x", "c"));
    given.say(NODE_A, Command::NodeGone(NODE_B));
    let (unplaced, _) = given.shard.unplaced(None, usize::MAX);
    assert_eq!(unplaced.len(), 1, "of QoS 2, it may go to another member");
}

#[test]
fn without_an_heir_it_is_a_stray() {
    let mut given = Given::default();
    let epoch = given.heir();
    given.say(NODE_A, lend("x", "c"));
    given.say(NODE_A, Command::Unsubscribe { client_id: "c".into(), epoch, filters: vec![GROUP.into()] });
    given.say(NODE_B, end(&[], &[1]));
    assert_eq!((given.queue("c").len(), given.strays()), (0, 1));
    let onward = Onward::To(BORROWER, text(Kind::Ephemeral, "e"));
    let hand_over = HandOver { from: None, number: 1, to: onward };
    assert_eq!(given.say(NODE_A, Command::HandOver(vec![hand_over])), Outcome::Stored(1));
    assert_eq!((given.lent().last(), given.strays()), (Some(&(2, "x".into())), 0));
    given.say(NODE_A, Command::NodeGone(NODE_B));
    assert_eq!(given.strays(), 1);
}

#[test]
fn an_exchange_and_a_will_lend_too_and_wait_for_nobody() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("p", 2));
    let recipients = vec![(Some(BORROWER), text(Kind::Ephemeral, "e"))];
    let spread = Spread { recipients, ..Spread::default() };
    let message = Message { qos: QoS::ExactlyOnce, ..message("t", "x") };
    let publish = PublishOnce { client_id: "p".into(), epoch, packet_id: 1, message, spread };
    assert_eq!(given.say(NODE_A, Command::PublishOnce(publish.clone())), Outcome::Stored(1));
    assert_eq!(given.say(NODE_A, Command::PublishOnce(publish)), Outcome::Stored(1));
    assert_eq!(given.lent(), [(1, "x".into())]);
    given.say(NODE_A, Command::NodeGone(NODE_B));
    assert_eq!(given.strays(), 1);
}

#[test]
fn what_a_member_may_not_be_lent_any_more_is_the_heirs() {
    let mut given = Given::default();
    given.heir();
    for number in 0..limits::MEMBER_LOANS_ITEMS_MAX + 2 {
        assert_eq!(given.say(NODE_A, lend(&number.to_string(), "c")), Outcome::Stored(1));
    }
    assert_eq!((given.lent().len(), given.queue("c").len()), (limits::MEMBER_LOANS_ITEMS_MAX, 2));
    given.restored();
    given.say(NODE_A, lend("x", "c"));
    assert_eq!(given.queue("c").len(), 3, "a restart counts again");
    given.say(NODE_B, end(&[1], &[]));
    given.say(NODE_A, lend("again", "c"));
    assert_eq!(given.queue("c").len(), 3);
}

#[test]
fn a_member_is_handed_less_than_it_may_be_lent_and_more_when_it_has_done_half() {
    let mut given = Given::default();
    given.heir();
    let may_hand_over = |given: &Given| given.shard.may_hand_over(NODE_B, &text(Kind::Ephemeral, "e"));
    for _ in 0..limits::MEMBER_HAND_OVERS_ITEMS_MAX {
        assert!(may_hand_over(&given));
        given.say(NODE_A, lend("x", "c"));
    }
    assert!(!may_hand_over(&given) && given.shard.may_hand_over(NODE_B, &text(Kind::Ephemeral, "another")));
    given
        .say(NODE_A, Command::Publish(Message { recipient: Some(text(Kind::Connected, "gone")), ..message("t", "y") }));
    let to = Onward::To(BORROWER, text(Kind::Ephemeral, "e"));
    let hand_over = Command::HandOver(vec![HandOver { from: None, number: 1, to }]);
    assert_eq!(given.say(NODE_A, hand_over.clone()), Outcome::Stored(0));
    let half = limits::MEMBER_HAND_OVERS_ITEMS_MAX as u64 / 2;
    given.say(NODE_B, end(&(1..half).collect::<Vec<_>>(), &[]));
    assert!(!given.has(|effect| *effect == Effect::Unplaced));
    given.say(NODE_B, end(&[half], &[]));
    assert!(given.has(|effect| *effect == Effect::Unplaced), "what waits is looked for");
    assert_eq!(given.say(NODE_A, hand_over), Outcome::Stored(1));
}

#[test]
fn large_messages_are_bounded_by_their_bytes() {
    let mut given = Given::default();
    given.heir();
    let large = "x".repeat(limits::MEMBER_LOANS_BYTES_MAX);
    given.say(NODE_A, lend(&large, "c"));
    given.say(NODE_A, lend("y", "c"));
    assert_eq!((given.lent().len(), given.queue("c").len()), (1, 1));
}

#[test]
fn a_state_that_lends_nothing_is_written_as_before() {
    let mut given = Given::default();
    given.heir();
    assert_eq!(given.shard.snapshot().to_bytes()[0], 4);
    given.say(NODE_A, lend("x", "c"));
    assert_eq!(given.shard.snapshot().to_bytes()[0], 7);
    given.say(NODE_A, Command::NodeGone(NODE_B));
    assert_eq!(given.shard.snapshot().to_bytes()[0], 4);
}
