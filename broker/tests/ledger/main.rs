//! Real `mqtt-broker` processes on loopback under QoS 1 and 2 load while they are killed; a ledger of every publish, acknowledgement and
//! delivery is checked against the contract (K1, K2, K4, K5, K6, K7, K8).
//!
//! `LEDGER_SEED` repeats the choices of a run (which node, when), `LEDGER_KILLS` sets how many nodes are killed, `LEDGER_BROKER`
//! names the program, such as the optimised one, which is ready sooner. Brokers that are broken on purpose are always cargo's.

mod client;
mod cluster;
mod damage;
mod disk;
mod history;
mod load;
mod minority;
mod resume;
mod retained;
mod sharing;
mod wills;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::Node;
use history::{History, Violation};
use load::{Load, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use resume::{Probes, RESUMED_MAX};
use retained::Keepers;
use sharing::{Members, Sharing};
use tokio::time::sleep;
use wills::Wills;

const NODES: u16 = 3;
const KILLS: u32 = 50;
/// Kills while messages are shared out.
const SHARING_KILLS: u32 = 10;
/// Kills while clients with wills die.
const WILL_KILLS: u32 = 10;
/// Publishers of retained messages.
const KEEPERS: u32 = 4;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Tells a broker to acknowledge a message before it is stored, to see that the ledger finds out.
const BREAK_K1: (&str, &str) = ("MQTT_BROKER_BREAK_K1", "acknowledge-before-commit");

/// Tells a broker to leave a connection alone whose client id was taken over.
const BREAK_K4: (&str, &str) = ("MQTT_BROKER_BREAK_K4", "let-the-older-be");

/// Tells a broker to forget the packet ids of QoS 2 with their connection, likewise.
const BREAK_K2: (&str, &str) = ("MQTT_BROKER_BREAK_K2", "forget-packet-ids");

/// Tells a broker to keep and read retained messages whatever is under way, likewise.
const BREAK_K8: (&str, &str) = ("MQTT_BROKER_BREAK_K8", "keep-what-is-late");

/// Subscribers of each node who stay, where others come and go: more than there are workers.
const STAY: u32 = 8;

/// One cluster at a time: they would look for the same free ports, and take each other's time.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn run<T>(test: impl Future<Output = Result<T>>) -> T {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test).unwrap_or_else(|error| panic!("{error:?}"))
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn seed() -> u64 {
    let seed = from_environment("LEDGER_SEED").unwrap_or_else(rand::random);
    println!("LEDGER_SEED={seed} repeats these choices");
    seed
}

async fn ready(nodes: &mut [Node]) -> Result<()> {
    for node in nodes.iter_mut() {
        node.until_ready().await?;
    }
    Ok(())
}

fn summary(history: &History) -> String {
    let acknowledged = history.published.values().filter(|published| published.acknowledged.is_some()).count();
    format!(
        "{} published, {acknowledged} acknowledged, {} delivered, {} connections",
        history.published.len(),
        history.delivered.len(),
        history.connected.len()
    )
}

fn assert_kept(history: &History) {
    println!("{}", summary(history));
    let violations = history.violations();
    for violation in violations.iter().take(20) {
        println!("{violation:?}");
    }
    if let Some(Violation::OutOfOrder { message, client, .. }) = violations.first() {
        for delivered in
            history.delivered.iter().filter(|d| d.client == *client && d.message.publisher == message.publisher)
        {
            println!(
                "{} {} {}{}",
                delivered.connection,
                delivered.topic,
                delivered.message.sequence,
                if delivered.dup { " dup" } else { "" }
            );
        }
        for c in history.connected.iter().filter(|c| c.client == *client) {
            println!("{c:?}");
        }
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
}

/// Leaderless time, as the admin API of a running node tells it.
#[derive(Default)]
struct Leaderless {
    shard_time: Duration,
    longest: Duration,
    since: Option<Instant>,
    asked: Option<Instant>,
}

impl Leaderless {
    async fn look(&mut self, nodes: &[Node]) -> u64 {
        let mut without = None;
        for node in nodes.iter().filter(|node| node.is_running()) {
            if let Ok(shards) = node.shards().await {
                without = without.max(Some(shards.without_leader));
            }
        }
        let now = Instant::now();
        let passed = self.asked.replace(now).map_or(Duration::ZERO, |asked| now - asked);
        let without = without.unwrap_or(0);
        self.shard_time += passed * without as u32;
        if without == 0 {
            self.since = None;
        } else {
            let since = *self.since.get_or_insert(now);
            self.longest = self.longest.max(now - since);
        }
        without
    }

    async fn watch(&mut self, nodes: &[Node], time: Duration) {
        let start = Instant::now();
        self.asked = None;
        while start.elapsed() < time {
            self.look(nodes).await;
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[test]
fn fifty_kills_under_load_break_no_line_of_the_contract() {
    let (seed, kills) = (seed(), from_environment("LEDGER_KILLS").unwrap_or(KILLS));
    let history = run(async {
        let directory = tempfile::tempdir()?;
        let mut nodes = cluster::start(directory.path(), NODES, &[])?;
        ready(&mut nodes).await?;
        let shape = Shape { publishers: 4, persistent: 6, passing: 2, contended: 2, pace: Duration::from_millis(10) };
        let load = Load::start(nodes.iter().map(Node::dial).collect(), shape, seed);
        load.until_subscribed(shape.persistent + shape.passing, SETTLE_TIMEOUT).await?;
        let mut rng = StdRng::seed_from_u64(seed);
        let keepers = Keepers::start(nodes.iter().map(Node::dial).collect(), KEEPERS, || StdRng::from_rng(&mut rng));
        let mut leaderless = Leaderless::default();
        let mut resumed = Vec::new();
        for kill in 1..=kills {
            let (victim, before) = (rng.random_range(0..nodes.len()), load.acknowledged());
            let down = Duration::from_millis(rng.random_range(50..1500));
            let probes = Probes::connect(&nodes[victim].dial()).await.context("before the kill")?;
            nodes[victim].kill()?;
            let survivors: Vec<&Node> = nodes.iter().filter(|node| node.is_running()).collect();
            let resuming = probes.resume(&survivors);
            leaderless.watch(&nodes, down).await;
            nodes[victim].start()?;
            let back = nodes[victim].until_ready().await?;
            let pause = Duration::from_millis(rng.random_range(0..1000));
            leaderless.watch(&nodes, pause).await;
            for node in &mut nodes {
                node.check()?;
            }
            let acknowledged = load.acknowledged() - before;
            let sessions = resuming.finish().await?;
            println!(
                "kill {kill}: node {victim} down {down:?}, ready after {back:?}, {acknowledged} acknowledged, \
                 sessions back after {:?} (the others waited {:?} for a processor)",
                sessions.longest, sessions.starved
            );
            resumed.push(sessions);
        }
        let longest = resumed.iter().map(|sessions| sessions.longest).max().unwrap_or_default();
        println!("all sessions of a killed node were back after {longest:?} at most");
        let late = resumed.iter().filter(|sessions| !sessions.is_in_time()).count();
        ensure!(late == 0, "K2: {late} times it took longer than {RESUMED_MAX:?} until all sessions were back");
        println!(
            "a shard was without a leader for {:?} a kill on average, at most {:?} at a time",
            leaderless.shard_time / (16 * kills.max(1)),
            leaderless.longest
        );
        keepers.check().await?;
        let history = load.finish(SETTLE_TIMEOUT).await?;
        ensure!(history.published.len() > 20 * kills as usize, "hardly any load: {}", summary(&history));
        Ok(history)
    });
    assert_kept(&history);
}

#[test]
fn fifty_kills_of_a_single_node_lose_nothing_acknowledged() {
    let (seed, kills) = (seed(), from_environment("LEDGER_KILLS").unwrap_or(KILLS));
    let history = run(async {
        let directory = tempfile::tempdir()?;
        let mut nodes = cluster::start(directory.path(), 1, &[])?;
        ready(&mut nodes).await?;
        let shape = Shape { publishers: 4, persistent: 6, passing: 2, contended: 2, pace: Duration::from_millis(10) };
        let dials: Vec<_> = nodes.iter().map(Node::dial).collect();
        let load = Load::start(dials.clone(), shape, seed);
        load.until_subscribed(shape.persistent + shape.passing, SETTLE_TIMEOUT).await?;
        let mut rng = StdRng::seed_from_u64(seed);
        let keepers = Keepers::start(dials, KEEPERS, || StdRng::from_rng(&mut rng));
        for _ in 1..=kills {
            sleep(Duration::from_millis(rng.random_range(0..1000))).await;
            nodes[0].kill()?;
            nodes[0].start()?;
            nodes[0].until_ready().await?;
        }
        keepers.check().await?;
        let history = load.finish(SETTLE_TIMEOUT).await?;
        ensure!(history.published.len() > 20 * kills as usize, "hardly any load: {}", summary(&history));
        Ok(history)
    });
    assert_kept(&history);
}

#[test]
fn members_of_a_shared_subscription_get_each_message_once_while_they_and_nodes_come_and_go() {
    share(Members::Persistent);
}

#[test]
fn k1_what_is_shared_with_sessions_that_end_with_their_connections_reaches_a_member_while_they_and_nodes_come_and_go() {
    share(Members::Mixed);
}

fn share(who: Members) {
    let seed = seed();
    run(async {
        let directory = tempfile::tempdir()?;
        let mut nodes = cluster::start(directory.path(), NODES, &[])?;
        ready(&mut nodes).await?;
        let mut rng = StdRng::seed_from_u64(seed);
        let dials: Vec<_> = nodes.iter().map(Node::dial).collect();
        let sharing = Sharing::start(&dials, who, 3, 5, || StdRng::from_rng(&mut rng));
        sharing.until_subscribed().await?;
        come_and_go(&mut nodes, SHARING_KILLS, &mut rng).await?;
        sharing.check().await
    });
}

#[test]
fn the_will_of_every_connection_is_published_once_while_nodes_are_killed() {
    let seed = seed();
    run(async {
        let directory = tempfile::tempdir()?;
        let mut nodes = cluster::start(directory.path(), NODES, &[])?;
        ready(&mut nodes).await?;
        let mut rng = StdRng::seed_from_u64(seed);
        let dials: Vec<_> = nodes.iter().map(Node::dial).collect();
        let wills = Wills::start(&dials, 8, || StdRng::from_rng(&mut rng));
        wills.until_watched().await?;
        come_and_go(&mut nodes, WILL_KILLS, &mut rng).await?;
        wills.check().await
    });
}

/// Kills nodes one after another, and starts each again.
async fn come_and_go(nodes: &mut [Node], kills: u32, rng: &mut StdRng) -> Result<()> {
    for _ in 0..kills {
        let victim = rng.random_range(0..nodes.len());
        nodes[victim].kill()?;
        sleep(Duration::from_millis(rng.random_range(50..1500))).await;
        nodes[victim].start()?;
        nodes[victim].until_ready().await?;
        sleep(Duration::from_millis(rng.random_range(0..1000))).await;
        for node in nodes.iter_mut() {
            node.check()?;
        }
    }
    Ok(())
}

#[test]
fn a_minority_refuses_within_three_seconds_and_heals_by_itself() {
    run(minority::a_minority_refuses_and_heals());
}

#[test]
fn a_full_disk_refuses_acknowledgements_and_recovers_by_itself() {
    run(disk::a_full_disk_refuses_and_recovers());
}

#[test]
fn a_full_disk_refuses_what_is_published_exactly_once() {
    run(disk::a_full_disk_refuses_exactly_once());
}

#[test]
fn one_full_disk_of_three_loses_nothing() {
    run(disk::one_full_disk_of_three_loses_nothing());
}

#[test]
fn k10_a_byte_that_flips_in_the_middle_of_a_log_is_made_good_by_the_other_nodes() {
    let history = run(damage::a_flipped_byte_is_made_good(seed()));
    assert_kept(&history);
}

/// Kills all nodes at once under load, starts them again, and gives the ledger.
async fn power_cut(environment: &[(&str, &str)], seed: u64) -> Result<History> {
    let directory = tempfile::tempdir()?;
    let mut nodes = cluster::start(directory.path(), NODES, environment)?;
    ready(&mut nodes).await?;
    let shape = Shape { publishers: 8, persistent: 4, passing: 0, contended: 0, pace: Duration::from_millis(1) };
    let load = Load::start(nodes.iter().map(Node::dial).collect(), shape, seed);
    load.until_subscribed(shape.persistent, SETTLE_TIMEOUT).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..3 {
        sleep(Duration::from_millis(rng.random_range(500..1500))).await;
        for node in &mut nodes {
            node.kill()?;
        }
        for node in &mut nodes {
            node.start()?;
        }
        ready(&mut nodes).await.context("after the power cut")?;
    }
    load.finish(SETTLE_TIMEOUT).await
}

#[test]
fn killing_all_nodes_at_once_loses_nothing_acknowledged() {
    let history = run(power_cut(&[], seed()));
    assert_kept(&history);
}

#[test]
fn the_ledger_finds_a_broker_that_acknowledges_before_the_commit() {
    let seed = seed();
    let mut lost = 0;
    // Chance decides whether a node dies between the acknowledgement and the commit.
    for round in 0..5 {
        let history = run(power_cut(&[BREAK_K1], seed + round));
        let violations = history.violations();
        lost += violations.iter().filter(|violation| matches!(violation, Violation::Lost { .. })).count();
        println!("round {round}: {}; {lost} lost so far", summary(&history));
        if lost > 0 {
            return;
        }
    }
    panic!("the ledger does not see that K1 is broken");
}

#[test]
fn the_ledger_finds_a_broker_that_lets_two_connections_hold_a_client_id() {
    let history = run(async {
        let directory = tempfile::tempdir()?;
        let mut nodes = cluster::start(directory.path(), NODES, &[BREAK_K4])?;
        ready(&mut nodes).await?;
        let shape = Shape { publishers: 2, persistent: 0, passing: 0, contended: 4, pace: Duration::from_millis(10) };
        let load = Load::start(nodes.iter().map(Node::dial).collect(), shape, seed());
        sleep(Duration::from_secs(10)).await;
        load.finish(SETTLE_TIMEOUT).await
    });
    println!("{}", summary(&history));
    let violations = history.violations();
    let found =
        |violation: &Violation| matches!(violation, Violation::TwoHolders { .. } | Violation::NotEvicted { .. });
    assert!(violations.iter().any(found), "the ledger does not see that K4 is broken");
}

#[test]
fn the_ledger_finds_a_broker_that_forgets_packet_ids() {
    let seed = seed();
    // Chance decides whether a node dies between the message and its acknowledgement.
    for round in 0..5 {
        let history = run(power_cut(&[BREAK_K2], seed + round));
        let violations = history.violations();
        let doubled = violations.iter().filter(|violation| matches!(violation, Violation::Doubled { .. })).count();
        println!("round {round}: {}; {doubled} doubled", summary(&history));
        if doubled > 0 {
            return;
        }
    }
    panic!("the ledger does not see that K2 is broken");
}

#[test]
fn the_ledger_finds_a_broker_that_does_not_mind_what_is_under_way() {
    let seed = seed();
    let checked = run(async {
        let directory = tempfile::tempdir()?;
        let mut nodes = cluster::start(directory.path(), NODES, &[BREAK_K8])?;
        ready(&mut nodes).await?;
        let mut rng = StdRng::seed_from_u64(seed);
        let dials: Vec<_> = nodes.iter().map(Node::dial).collect();
        // Every worker has a subscriber, so that nobody else has to be told of a new one.
        let mut stay = Vec::new();
        for (node, dial) in dials.iter().enumerate() {
            for number in 0..STAY {
                stay.push(retained::stay(dial, format!("stays-{node}-{number}")).await?);
            }
        }
        // Shards are read one after another: the first that is led by who stands still is to have a topic.
        let keepers = Keepers::start(dials, 8 * KEEPERS, || StdRng::from_rng(&mut rng));
        let begun = Instant::now();
        while !keepers.have_missed() && begun.elapsed() < SETTLE_TIMEOUT {
            // So that something is on its way to it for longer than a subscriber takes to come. It keeps its lease.
            let node = &nodes[rng.random_range(0..nodes.len())];
            node.signal("STOP")?;
            sleep(Duration::from_millis(400)).await;
            node.signal("CONT")?;
            sleep(Duration::from_millis(200)).await;
        }
        println!("after {:?}", begun.elapsed());
        Ok(keepers.check().await)
    });
    let error = checked.expect_err("the ledger does not see that K8 is broken").to_string();
    assert!(error.contains("K8: "), "{error}");
}
