//! The shards' rooms of three nodes around a real group on disks in memory, over links that are cut and heal, in one
//! thread on paused time.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::world::{SHARED, World, node, simulate};
use crate::door::LoanEnd;
use crate::limits::{MEMBER_HAND_OVERS_ITEMS_MAX, MEMBER_LOANS_ITEMS_MAX};
use crate::shard::Outcome;

#[test]
fn a_client_that_stays_connected_gets_each_message_once_over_changes_of_leader() {
    simulate(1, async |world: &World| {
        let client = world.open("c", node(1)).await;
        world.subscribe(client, "t").await;
        for number in 0..90_u32 {
            world.publish(node(2), "t", &number.to_string());
            if number % 30 == 10 {
                world.move_leader().await;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        world.all_are_stored().await;
        let expected: Vec<String> = (0..90_u32).map(|number| number.to_string()).collect();
        world.within(10, || (world.received(client).len() >= 90).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.received(client), expected);
        assert!(world.leaders() >= 4, "leadership moved");
    });
}

#[test]
fn a_command_takes_effect_once_whatever_links_are_lost() {
    for seed in 0..6 {
        simulate(seed, async |world: &World| {
            let mut random = SmallRng::seed_from_u64(seed);
            let client = world.open("c", node(1)).await;
            world.subscribe(client, "t").await;
            let mut numbers: BTreeMap<u64, u32> = BTreeMap::new();
            for _ in 0..300 {
                let from = random.random_range(1..=3_u64);
                let number = numbers.entry(from).or_default();
                world.publish(node(from), "t", &format!("{from}:{number:04}"));
                *number += 1;
                let (one, other) = (random.random_range(1..=3_u64), random.random_range(1..=3_u64));
                if one != other && random.random_bool(0.15) {
                    world.cut(node(one), node(other));
                } else if one != other {
                    world.heal(node(one), node(other));
                }
                tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
            }
            world.heal_all();
            world.all_are_stored().await;
            world.within(30, || (world.received(client).len() >= 300).then_some(())).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let received = world.received(client);
            assert_eq!(received.len(), 300, "seed {seed}");
            for (from, count) in numbers {
                let of_node = received.iter().filter(|payload| payload.starts_with(&format!("{from}:"))).cloned();
                let expected = (0..count).map(|number| format!("{from}:{number:04}"));
                assert!(of_node.eq(expected), "seed {seed}: in the order of node {from}");
            }
        });
    }
}

#[test]
fn a_newer_connection_is_let_in_when_the_older_has_heard_that_it_was_taken_over() {
    simulate(3, async |world: &World| {
        let leader = world.leader().await;
        let (cut_off, other) = world.others(leader);
        let older = world.open("c", cut_off).await;
        world.cut(cut_off, leader);
        let newer = world.connect("c", other);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!world.is_evicted(older), "nobody could tell it");
        assert_eq!(world.opened(newer), None, "two would hold the client id");
        world.heal(cut_off, leader);
        world.within(5, || world.opened(newer)).await;
        assert!(world.is_evicted(older));
    });
}

#[test]
fn a_new_leader_lets_the_newer_connection_in_if_the_old_one_could_not() {
    simulate(4, async |world: &World| {
        let leader = world.leader().await;
        let (cut_off, other) = world.others(leader);
        let older = world.open("c", cut_off).await;
        world.cut(cut_off, leader);
        let newer = world.connect("c", other);
        tokio::time::sleep(Duration::from_secs(1)).await;
        // From now on the old leader reaches nobody.
        world.cut(other, leader);
        world.within(10, || world.opened(newer)).await;
        assert!(world.is_evicted(older));
        assert!(!world.is_evicted(newer));
    });
}

#[test]
fn a_session_goes_on_where_its_client_connects_next() {
    simulate(5, async |world: &World| {
        let first = world.open("c", node(1)).await;
        world.subscribe(first, "t").await;
        world.stop_acknowledging(first);
        for number in 0..5_u32 {
            world.publish(node(3), "t", &number.to_string());
        }
        world.all_are_stored().await;
        world.within(5, || (world.received(first).len() == 5).then_some(())).await;
        world.close(first);
        world.move_leader().await;
        let second = world.open("c", node(2)).await;
        assert!(matches!(world.opened(second), Some(Outcome::Opened { session_present: true, .. })));
        world.within(5, || (world.received(second).len() == 5).then_some(())).await;
        assert_eq!(world.received(second), ["0", "1", "2", "3", "4"]);
        assert!(world.all_marked_dup(second), "they were sent before");
    });
}

/// A link is lost for a moment, perhaps, and another node leads, perhaps.
async fn disturb(world: &World, random: &mut SmallRng) {
    let (one, other) = (random.random_range(1..=3_u64), random.random_range(1..=3_u64));
    if one != other && random.random_bool(0.3) {
        world.cut(node(one), node(other));
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
    world.heal_all();
    if random.random_bool(0.1) {
        world.move_leader().await;
    }
}

#[test]
fn a_message_of_qos_2_is_everywhere_once_over_lost_links_changes_of_leader_and_repetitions() {
    for seed in 0..6 {
        simulate(seed, async |world: &World| {
            let mut random = SmallRng::seed_from_u64(seed);
            let reader = world.open("c", node(1)).await;
            world.subscribe(reader, "t").await;
            let mut publisher = world.open("p", node(2)).await;
            for number in 1..=100_u16 {
                world.publish_once(publisher, number, "t", &number.to_string());
                disturb(world, &mut random).await;
                if random.random_bool(0.1) {
                    // On another node, and again what it has no answer to.
                    world.close(publisher);
                    publisher = world.open("p", node(random.random_range(1..=3))).await;
                    for again in number.saturating_sub(3).max(1)..=number {
                        world.publish_once(publisher, again, "t", &again.to_string());
                    }
                }
            }
            world.within(30, || (world.received(reader).len() >= 100).then_some(())).await;
            for at in [1, 2, 3].map(node) {
                world.within(30, || (world.forwarded(at).len() >= 100).then_some(())).await;
            }
            world.within(30, || world.all_are_answered().then_some(())).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let expected: Vec<String> = (1..=100_u16).map(|number| number.to_string()).collect();
            assert_eq!(world.received(reader), expected, "seed {seed}");
            for at in [1, 2, 3].map(node) {
                assert_eq!(world.forwarded(at), expected, "seed {seed}: node {at}");
            }
        });
    }
}

/// The leader is not on node 2, which is about to go.
async fn lead_elsewhere(world: &World) {
    while world.leader().await == node(2) {
        world.move_leader().await;
    }
}

#[test]
fn k1_what_is_lent_arrives_once_and_is_the_heirs_if_its_node_goes() {
    for seed in 0..4 {
        simulate(seed, async |world: &World| {
            let mut random = SmallRng::seed_from_u64(seed);
            let heir = world.open("c", node(1)).await;
            world.subscribe(heir, SHARED).await;
            for number in 1..=100_u32 {
                world.publish_lent(node(3), &number.to_string(), node(2), "c");
                disturb(world, &mut random).await;
            }
            world.all_are_stored().await;
            let expected: Vec<String> = (1..=100_u32).map(|number| number.to_string()).collect();
            world.within(30, || (world.lent(node(2)).len() >= 100).then_some(())).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(world.lent(node(2)), expected, "seed {seed}");
            let (done, left): (Vec<_>, Vec<_>) = expected.into_iter().partition(|_| random.random_bool(0.5));
            for payload in &done {
                world.end_loan(node(2), payload, |_| LoanEnd::Done);
                if random.random_bool(0.05) {
                    world.move_leader().await;
                }
            }
            lead_elsewhere(world).await;
            // In the stream of node 2, behind what it has said of its loans.
            world.publish_shared(node(2), "last", "c");
            world.all_are_stored().await;
            world.end_run(node(2));
            world.within(30, || (world.received(heir).len() > left.len()).then_some(())).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(world.received(heir)[0], "last");
            assert_eq!(world.received(heir)[1..], left, "seed {seed}");
        });
    }
}

#[test]
fn what_a_member_gives_back_is_the_heirs_and_what_it_begins_is_its_own_once_that_is_stored() {
    simulate(7, async |world: &World| {
        let heir = world.open("c", node(1)).await;
        world.subscribe(heir, SHARED).await;
        for payload in ["returned", "unwanted", "begun"] {
            world.publish_lent(node(3), payload, node(2), "c");
        }
        world.within(5, || (world.lent(node(2)).len() == 3).then_some(())).await;
        world.end_loan(node(2), "unwanted", |_| LoanEnd::Unwanted);
        world.end_loan(node(2), "returned", |_| LoanEnd::Returned);
        world.within(5, || (world.received(heir).len() == 2).then_some(())).await;
        assert_eq!(world.received(heir), ["returned", "unwanted"], "the latter not at once");
        let leader = world.leader().await;
        let (one, other) = world.others(leader);
        world.cut(leader, one);
        world.cut(leader, other);
        world.end_loan(node(2), "begun", LoanEnd::Begun);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(world.forwarded(node(2)).is_empty(), "nobody has stored it");
        world.heal_all();
        world.within(10, || (world.forwarded(node(2)) == ["begun"]).then_some(())).await;
        lead_elsewhere(world).await;
        world.end_run(node(2));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.received(heir).len(), 2);
    });
}

#[test]
fn a_stray_is_lent_to_the_member_that_is_chosen_and_is_the_heirs_if_that_has_as_much_as_it_may() {
    simulate(8, async |world: &World| {
        let heir = world.open("c", node(1)).await;
        world.subscribe(heir, SHARED).await;
        world.choose(node(2), "c");
        world.publish_shared(node(3), "stray", "nobody");
        world.within(5, || (world.lent(node(2)) == ["stray"]).then_some(())).await;
        let mut lent = 1;
        for (max, more) in [(MEMBER_HAND_OVERS_ITEMS_MAX, "stray again"), (MEMBER_LOANS_ITEMS_MAX, "lent again")] {
            while lent < max {
                world.publish_lent(node(3), &lent.to_string(), node(2), "c");
                lent += 1;
            }
            world.within(5, || (world.lent(node(2)).len() == max).then_some(())).await;
            if more.starts_with("stray") {
                world.publish_shared(node(3), more, "nobody");
            } else {
                world.publish_lent(node(3), more, node(2), "c");
            }
            world.within(5, || world.received(heir).contains(&more.to_owned()).then_some(())).await;
        }
        world.all_are_stored().await;
    });
}

#[test]
fn nothing_is_lent_while_a_member_would_not_understand() {
    simulate(9, async |world: &World| {
        let heir = world.open("c", node(1)).await;
        world.subscribe(heir, SHARED).await;
        world.speak(3);
        world.publish_lent(node(2), "x", node(2), "c");
        world.within(5, || (world.forwarded(node(2)) == ["x"]).then_some(())).await;
        assert!(world.lent(node(2)).is_empty());
    });
}
