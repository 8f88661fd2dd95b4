//! The control group's state, command by command.

use super::*;

fn joiner(node: u64, run: u64, name: &str) -> Joiner {
    Joiner {
        origin: Origin { node: NodeId(node), incarnation: Incarnation(run << RUN_BITS) },
        name: name.to_string(),
        address: format!("{name}:7883"),
        version: "1".to_string(),
    }
}

fn founded() -> Control {
    let mut control = Control::default();
    let found = ControlCommand::Found { cluster: 9, shards: 4, factor: None, founder: joiner(1, 1, "a") };
    assert_eq!(control.apply(&found), ControlAnswer::Done(1));
    control
}

#[test]
fn the_founder_holds_every_shard() {
    let mut control = founded();
    assert_eq!(control.voters(ShardId(3)), [NodeId(1)]);
    assert_eq!(control.voters(ShardId(4)), []);
    let again = ControlCommand::Found { cluster: 10, shards: 8, factor: Some(3), founder: joiner(2, 1, "b") };
    assert_eq!(control.apply(&again), ControlAnswer::Done(1));
    assert_eq!((control.cluster, control.shards), (9, 4));
}

#[test]
fn a_join_is_idempotent_and_a_restart_ends_the_run_before() {
    let mut control = founded();
    let join = ControlCommand::Join(joiner(2, 1, "b"));
    assert_eq!(control.apply(&join), ControlAnswer::Done(2));
    assert_eq!(control.apply(&join), ControlAnswer::Done(2));
    assert!(control.ended.is_empty());
    let restarted = ControlCommand::Join(joiner(2, 2, "b"));
    assert_eq!(control.apply(&restarted), ControlAnswer::Done(3));
    assert_eq!(control.ended, [joiner(2, 1, "b").origin]);
    assert_eq!(control.apply(&join), ControlAnswer::Over, "an older run");
}

#[test]
fn a_run_that_was_declared_unreachable_is_over() {
    let mut control = founded();
    let origin = joiner(2, 1, "b").origin;
    control.apply(&ControlCommand::Join(joiner(2, 1, "b")));
    control.apply(&ControlCommand::Activate(origin));
    assert_eq!(control.members[&NodeId(2)].state(), MemberState::Active);
    control.apply(&ControlCommand::Unreachable(origin));
    control.apply(&ControlCommand::Unreachable(origin));
    assert_eq!(control.members[&NodeId(2)].state(), MemberState::Unreachable);
    assert_eq!(control.ended, [origin], "told once");
    let back = ControlCommand::Join(joiner(2, 1, "b"));
    assert_eq!(control.apply(&back), ControlAnswer::Over);
    assert_eq!(control.apply(&ControlCommand::Activate(origin)), ControlAnswer::Over);
    let mut next = joiner(2, 1, "b");
    next.origin.incarnation.0 += 1;
    control.apply(&ControlCommand::Join(next));
    assert_eq!(control.members[&NodeId(2)].state(), MemberState::Active);
    assert_eq!(control.ended.len(), 1, "the run was over before");
}

#[test]
fn an_empty_node_takes_the_places_of_its_unreachable_namesake() {
    let mut control = founded();
    control.apply(&ControlCommand::Join(joiner(2, 1, "b")));
    let version = control.version;
    let place = ControlCommand::Place { version, shards: vec![(ShardId(0), vec![NodeId(2), NodeId(1)])] };
    assert_eq!(control.apply(&place), ControlAnswer::Done(3));
    let empty = ControlCommand::Join(joiner(7, 1, "b"));
    assert_eq!(control.apply(&empty), ControlAnswer::NameTaken);
    control.apply(&ControlCommand::Unreachable(joiner(2, 1, "b").origin));
    assert!(matches!(control.apply(&empty), ControlAnswer::Done(_)));
    assert!(!control.members.contains_key(&NodeId(2)));
    assert_eq!(control.voters(ShardId(0)), [NodeId(7), NodeId(1)]);
}

#[test]
fn a_member_leaves_only_once_it_holds_nothing() {
    let mut control = founded();
    control.apply(&ControlCommand::Join(joiner(2, 1, "b")));
    let leave = |leaving| ControlCommand::Leave { name: "b".to_string(), leaving };
    assert_eq!(control.apply(&ControlCommand::Remove(NodeId(2))), ControlAnswer::Refused, "nobody asked it to leave");
    control.apply(&leave(true));
    assert_eq!(control.members[&NodeId(2)].state(), MemberState::Leaving);
    control.apply(&leave(false));
    assert_eq!(control.members[&NodeId(2)].state(), MemberState::Joining);
    control.apply(&leave(true));
    let version = control.version;
    let place = |voters: &[u64]| ControlCommand::Place {
        version,
        shards: vec![(ShardId(1), voters.iter().copied().map(NodeId).collect())],
    };
    control.apply(&place(&[1, 2]));
    assert_eq!(control.apply(&place(&[1])), ControlAnswer::Outdated);
    assert_eq!(control.apply(&ControlCommand::Remove(NodeId(2))), ControlAnswer::Refused);
    let emptied = ControlCommand::Place { version: control.version, shards: vec![(ShardId(1), vec![NodeId(1)])] };
    control.apply(&emptied);
    assert!(matches!(control.apply(&ControlCommand::Remove(NodeId(2))), ControlAnswer::Done(_)));
    assert_eq!(control.apply(&leave(true)), ControlAnswer::Unknown);
    assert_eq!(
        control.apply(&ControlCommand::Join(joiner(2, 1, "b"))),
        ControlAnswer::Left,
        "the run that left does not come back"
    );
    assert!(matches!(control.apply(&ControlCommand::Join(joiner(2, 2, "b"))), ControlAnswer::Done(_)));
}

#[test]
fn ended_runs_are_bounded() {
    let mut control = founded();
    for run in 1..=(ENDED_RUNS_MAX as u64 + 10) {
        control.apply(&ControlCommand::Join(joiner(2, run, "b")));
    }
    assert_eq!(control.ended.len(), ENDED_RUNS_MAX);
}
