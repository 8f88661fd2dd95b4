//! Placement, cluster by cluster.

use super::*;
use crate::cluster::control::{ControlCommand, Joiner, RUN_BITS};
use crate::identity::{Incarnation, Origin};

fn joiner(node: u64) -> Joiner {
    Joiner {
        origin: Origin { node: NodeId(node), incarnation: Incarnation(1 << RUN_BITS) },
        name: format!("n{node}"),
        address: format!("n{node}:7883"),
        version: "1".to_string(),
    }
}

fn cluster(members: u64, shards: u16, factor: Option<u8>) -> Control {
    let mut control = Control::default();
    control.apply(&ControlCommand::Found { cluster: 1, shards, factor, founder: joiner(1) });
    for node in 1..=members {
        join(&mut control, node);
    }
    control
}

fn join(control: &mut Control, node: u64) {
    control.apply(&ControlCommand::Join(joiner(node)));
    control.apply(&ControlCommand::Activate(joiner(node).origin));
}

fn leave(control: &mut Control, node: u64) {
    control.apply(&ControlCommand::Leave { name: format!("n{node}"), leaving: true });
}

/// Applies the plan; the number of replicas that are new where they are.
fn settle(control: &mut Control) -> usize {
    let before = control.placement.clone();
    let shards = plan(control);
    let version = control.version;
    control.apply(&ControlCommand::Place { version, shards });
    assert_eq!(plan(control), [], "a plan that was carried out asks for more");
    let new = |(old, new): (&Vec<NodeId>, &Vec<NodeId>)| new.iter().filter(|voter| !old.contains(voter)).count();
    before.iter().zip(&control.placement).map(new).sum()
}

fn counts(control: &Control, count: impl Fn(&[NodeId], NodeId) -> bool) -> Vec<usize> {
    control
        .members
        .keys()
        .map(|node| {
            let of = |voters: &&Vec<NodeId>| count(voters, *node);
            control.placement.iter().filter(of).count()
        })
        .collect()
}

fn replicas(control: &Control) -> Vec<usize> {
    counts(control, |voters, node| voters.contains(&node))
}

fn leaders(control: &Control) -> Vec<usize> {
    counts(control, |voters, node| voters.first() == Some(&node))
}

#[test]
fn the_automatic_factor_is_one_below_three_members_then_three() {
    for (members, expected) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (7, 3)] {
        let control = cluster(members, 16, None);
        assert_eq!(factor(&control), expected, "{members} members");
    }
}

#[test]
fn a_set_factor_is_kept_as_far_as_there_are_members() {
    for (members, set, expected) in [(1, 3, 1), (2, 3, 1), (3, 3, 3), (4, 5, 3), (5, 5, 5), (5, 1, 1)] {
        let control = cluster(members, 16, Some(set));
        assert_eq!(factor(&control), expected, "{members} members, {set} set");
    }
}

#[test]
fn replicas_and_leaders_are_spread_evenly() {
    for members in 1..=7 {
        let mut control = cluster(members, 16, None);
        settle(&mut control);
        for spread in [replicas(&control), leaders(&control)] {
            let (least, most) = (spread.iter().min(), spread.iter().max());
            let near = least.zip(most).is_some_and(|(least, most)| most - least <= 1);
            assert!(near, "{members} members: {spread:?}");
        }
    }
}

#[test]
fn from_three_to_five_and_back_moves_no_more_than_it_must() {
    let mut control = cluster(3, 16, None);
    settle(&mut control);
    assert_eq!(replicas(&control), [16, 16, 16]);
    join(&mut control, 4);
    join(&mut control, 5);
    let moved = settle(&mut control);
    // Two of five members get their fair share of 48: 9 or 10 each.
    assert!((18..=20).contains(&moved), "{moved} moved");
    leave(&mut control, 5);
    leave(&mut control, 4);
    let held = replicas(&control)[3..].iter().sum::<usize>();
    assert_eq!(settle(&mut control), held, "only what must leave moves");
    assert_eq!(replicas(&control), [16, 16, 16, 0, 0]);
}

#[test]
fn a_member_that_is_away_for_a_while_keeps_its_replicas() {
    let mut control = cluster(3, 16, None);
    settle(&mut control);
    control.apply(&ControlCommand::Unreachable(joiner(2).origin));
    assert_eq!(plan(&control), []);
    join(&mut control, 4);
    settle(&mut control);
    assert_eq!(replicas(&control)[1], 16, "{:?}", replicas(&control));
}

#[test]
fn the_control_group_has_an_odd_number_of_voters_and_keeps_them() {
    let voters = |control: &Control, now: &[u64]| {
        let now: Vec<NodeId> = now.iter().copied().map(NodeId).collect();
        let voters = control_voters(control, &now);
        voters.into_iter().map(|node| node.0).collect::<Vec<_>>()
    };
    assert_eq!(voters(&cluster(1, 4, None), &[1]), [1]);
    assert_eq!(voters(&cluster(2, 4, None), &[1]), [1]);
    assert_eq!(voters(&cluster(3, 4, None), &[1]), [1, 2, 3]);
    assert_eq!(voters(&cluster(4, 4, None), &[2, 3, 4]), [2, 3, 4]);
    assert_eq!(voters(&cluster(7, 4, None), &[3, 4, 5, 6, 7]), [3, 4, 5, 6, 7]);
    let mut control = cluster(5, 4, None);
    leave(&mut control, 1);
    assert_eq!(voters(&control, &[1, 2, 3, 4, 5]), [2, 3, 4]);
}
