//! The shards' rooms of three nodes around a real group on disks in memory, over links that are cut and heal, in one
//! thread on paused time.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::world::{World, node, simulate};
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
fn a_connection_hears_that_it_was_taken_over_when_its_link_is_back() {
    simulate(3, async |world: &World| {
        let leader = world.leader().await;
        let (cut_off, other) = world.others(leader);
        let older = world.open("c", cut_off).await;
        world.cut(cut_off, leader);
        world.open("c", other).await;
        assert!(!world.is_evicted(older), "nobody could tell it");
        world.heal(cut_off, leader);
        world.within(5, || world.is_evicted(older).then_some(())).await;
    });
}

#[test]
fn a_connection_hears_of_its_end_from_a_new_leader_if_the_old_one_could_not_tell() {
    simulate(4, async |world: &World| {
        let leader = world.leader().await;
        let (cut_off, other) = world.others(leader);
        let older = world.open("c", cut_off).await;
        world.cut(cut_off, leader);
        let newer = world.open("c", other).await;
        // From now on the old leader reaches nobody.
        world.cut(other, leader);
        world.within(10, || world.is_evicted(older).then_some(())).await;
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
