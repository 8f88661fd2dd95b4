//! Clusters in one thread on simulated network, disks and time: every choice comes from a seed, and a seed repeats itself.
//!
//! `SIMULATION_SEED` runs one seed, `SIMULATION_SEEDS` that many.

mod groups;
mod world;

use std::time::Duration;

use mqtt_broker::storage::Crash;
use tokio::time::sleep;

const FAULTS: u32 = 8;

/// The seeds to run.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match from_environment("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + from_environment("SIMULATION_SEEDS").unwrap_or(count),
    }
}

/// Kills, power cuts and cuts of the network under load; then K1 and K5 are checked.
fn faults_on_groups(seed: u64) -> Vec<String> {
    let ((), history) = world::simulate(seed, async |world| {
        let load = groups::Load::start(&world);
        sleep(Duration::from_secs(3)).await;
        for _ in 0..FAULTS {
            let host = groups::HOSTS[world.draw(0..3) as usize];
            match world.draw(0..4) {
                0 => {
                    world.isolate(host, true);
                    world.wait_ms(50..4_000).await;
                    world.isolate(host, false);
                }
                1 => {
                    // Everybody at once (K10).
                    for host in groups::HOSTS {
                        world.kill(host, Crash::PowerCut);
                        load.gone(host);
                    }
                    world.wait_ms(0..500).await;
                    groups::HOSTS.iter().for_each(|host| load.boot(host));
                }
                kind => {
                    world.kill(host, if kind == 2 { Crash::Kill } else { Crash::PowerCut });
                    load.gone(host);
                    world.wait_ms(0..3_000).await;
                    load.boot(host);
                }
            }
            world.wait_ms(0..3_000).await;
        }
        load.check().await;
        assert!(load.acknowledged() > 300, "hardly any load: {}", load.acknowledged());
    });
    history
}

#[test]
fn groups_keep_what_they_acknowledged() {
    for seed in seeds(3) {
        println!("SIMULATION_SEED={seed}");
        faults_on_groups(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_history_twice() {
    let (first, second) = (faults_on_groups(7), faults_on_groups(7));
    let differ = first.iter().zip(&second).position(|(one, other)| one != other);
    assert_eq!(differ.map(|at| (&first[at], &second[at])), None);
    assert_eq!(first.len(), second.len());
    assert_ne!(first, faults_on_groups(8));
}
