//! The whole cluster in one thread on simulated network, disks and time, from a seed: nodes are killed and cut off under
//! QoS 1 load, and everything acknowledged must reach its subscriber (K1).
//!
//! `SIMULATION_SEED` repeats one run, `SIMULATION_RUNS` sets how many seeds are tried.

mod client;
mod world;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::RngSeed;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};
use world::World;

const NODES: usize = 3;
const PUBLISHERS: usize = 2;
const FAULTS: usize = 5;
/// After the last fault, everything acknowledged must have arrived within this (simulated) time.
const HEALED_WITHIN: Duration = Duration::from_secs(120);

/// What happened, in order, each with the simulated milliseconds since the start.
#[derive(Default)]
struct History {
    events: RefCell<Vec<String>>,
    acknowledged: RefCell<BTreeSet<String>>,
    delivered: RefCell<BTreeSet<String>>,
}

impl History {
    fn say(&self, since: Instant, what: impl std::fmt::Display) {
        self.events.borrow_mut().push(format!("{:>7} {what}", since.elapsed().as_millis()));
    }

    fn missing(&self) -> Vec<String> {
        self.acknowledged.borrow().difference(&self.delivered.borrow()).cloned().collect()
    }
}

/// One run. The same seed gives the same history.
fn simulate(seed: u64, breaks_k1: bool) -> Rc<History> {
    // The thread is this run's own: generators that live on threads start anew.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, run(seed, breaks_k1))
}

async fn run(seed: u64, breaks_k1: bool) -> Rc<History> {
    let (start, history) = (Instant::now(), Rc::new(History::default()));
    let mut rng = StdRng::seed_from_u64(seed);
    let world = Rc::new(World::new(seed, NODES));
    for node in 0..NODES {
        world.start(node).await;
    }
    world.until_serving(&[0, 1, 2]).await;
    history.say(start, "all serve");
    let stop = Rc::new(std::cell::Cell::new(false));
    let subscribed = client::subscriber(world.clone(), history.clone(), start, seed);
    subscribed.await;
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        publishers.push(tokio::task::spawn_local(client::publisher(
            world.clone(),
            history.clone(),
            start,
            stop.clone(),
            number,
            seed,
            breaks_k1,
        )));
    }
    for _ in 0..FAULTS {
        sleep(Duration::from_millis(rng.random_range(300..2_000))).await;
        let (victim, lasting) = (rng.random_range(0..NODES), Duration::from_millis(rng.random_range(100..4_000)));
        match rng.random_range(0..3) {
            0 => {
                history.say(start, format_args!("kill node {victim} for {lasting:?}"));
                world.kill(victim, &mut rng);
                sleep(lasting).await;
                world.start(victim).await;
            }
            1 => {
                history.say(start, format_args!("cut node {victim} off for {lasting:?}"));
                world.cut(victim);
                sleep(lasting).await;
                world.heal(victim);
            }
            _ => {
                history.say(start, "power cut");
                for node in 0..NODES {
                    world.kill(node, &mut rng);
                }
                sleep(Duration::from_millis(100)).await;
                for node in 0..NODES {
                    world.start(node).await;
                }
            }
        }
        history.say(start, "over");
    }
    world.until_serving(&[0, 1, 2]).await;
    stop.set(true);
    let healed = Instant::now();
    for publisher in publishers {
        let left = HEALED_WITHIN.saturating_sub(healed.elapsed());
        if tokio::time::timeout(left, publisher).await.is_err() {
            history.say(start, "a publisher is stuck");
        }
    }
    while !history.missing().is_empty() && healed.elapsed() < HEALED_WITHIN {
        sleep(Duration::from_millis(100)).await;
    }
    history
}

/// In a thread of its own, so that what lives on threads begins anew.
fn on_a_thread(seed: u64, breaks_k1: bool) -> (Vec<String>, usize, Vec<String>) {
    std::thread::spawn(move || {
        let history = simulate(seed, breaks_k1);
        let acknowledged = history.acknowledged.borrow().len();
        (history.events.take(), acknowledged, history.missing())
    })
    .join()
    .expect("the simulation did not panic")
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn everything_acknowledged_arrives_whatever_dies() {
    let seeds: Vec<u64> = match from_environment("SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => (1..=from_environment("SIMULATION_RUNS").unwrap_or(3)).collect(),
    };
    for seed in seeds {
        let (events, acknowledged, missing) = on_a_thread(seed, false);
        println!("seed {seed}: {acknowledged} acknowledged, {} events", events.len());
        if !missing.is_empty() || acknowledged < 100 {
            println!("{}", events.join("\n"));
        }
        assert!(acknowledged >= 100, "seed {seed}: only {acknowledged} acknowledged");
        assert!(missing.is_empty(), "seed {seed}: acknowledged and never delivered: {missing:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history_twice() {
    let (first, _, _) = on_a_thread(42, false);
    let (second, _, _) = on_a_thread(42, false);
    for (place, (a, b)) in first.iter().zip(&second).enumerate() {
        assert_eq!(a, b, "event {place} of {}", first.len());
    }
    assert_eq!(first.len(), second.len());
    let kinds: BTreeSet<&str> = first.iter().filter_map(|event| event.split_whitespace().nth(1)).collect();
    assert!(kinds.contains("acknowledged") && kinds.contains("delivered"), "nothing happened: {kinds:?}");
}

#[test]
fn a_publisher_that_counts_what_was_not_acknowledged_is_found_out() {
    let found = (1..=5).any(|seed| !on_a_thread(seed, true).2.is_empty());
    assert!(found, "the check sees nothing");
}
