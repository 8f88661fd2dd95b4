//! Clusters in one thread on simulated network, disks and time: every choice comes from a seed, and a seed repeats itself.
//!
//! `SIMULATION_SEED` runs one seed, `SIMULATION_SEEDS` that many; `SIMULATION_LOG` shows what the rooms say (`info`, `debug`).

mod brokers;
#[path = "../ledger/client.rs"]
mod client;
mod groups;
#[path = "../ledger/history.rs"]
mod history;
#[path = "../ledger/load.rs"]
mod load;
#[path = "../ledger/retained.rs"]
mod retained;
#[path = "../ledger/sharing.rs"]
mod sharing;
mod spoilt;
mod world;

use std::time::Duration;

use brokers::Brokers;
use client::{Event, Identity};
use history::{History, Violation};
use load::{Load, Shape};
use mqtt_broker::message::QoS;
use mqtt_broker::protocol::Version;
use mqtt_broker::storage::Crash;
use mqtt_broker::storage::disk::FileName;
use rand::SeedableRng;
use rand::rngs::StdRng;
use retained::Keepers;
use sharing::{Members, Sharing};
use tokio::time::sleep;
use world::simulate;

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
    let ((), history) = simulate(seed, async |world| {
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

const SHAPE: Shape = Shape { publishers: 2, persistent: 3, passing: 1, contended: 1, pace: Duration::from_millis(50) };
/// Publishers of retained messages.
const KEEPERS: u32 = 3;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Until there is something worth damaging.
const DAMAGE_TIMEOUT: Duration = Duration::from_secs(600);

/// Kills, power cuts and cuts of the network, of one node from all or of two from each other, under QoS 1 load and retained
/// messages. Gives the clients' ledger and the history.
fn faults_on_brokers(seed: u64) -> (History, Vec<String>) {
    simulate(seed, async |world| {
        let brokers = Brokers::start(&world, spoilt::honest);
        brokers.until_whole().await;
        let dials = brokers::HOSTS.map(|host| brokers.dial(host)).to_vec();
        let load = Load::start(dials.clone(), SHAPE, seed);
        load.until_subscribed(SHAPE.persistent + SHAPE.passing, SETTLE_TIMEOUT).await.expect("subscribers");
        let mut rng = StdRng::seed_from_u64(seed);
        let keepers = Keepers::start(dials, KEEPERS, || StdRng::from_rng(&mut rng));
        for _ in 0..FAULTS {
            let at = world.draw(0..3) as usize;
            let [host, other] = [0, 1].map(|step| brokers::HOSTS[(at + step) % 3]);
            match world.draw(0..5) {
                0 => {
                    world.isolate(host, true);
                    world.wait_ms(50..6_000).await;
                    world.isolate(host, false);
                }
                4 => {
                    world.part(host, other, true);
                    world.wait_ms(50..6_000).await;
                    world.part(host, other, false);
                }
                1 => {
                    // Everybody at once (K10).
                    brokers::HOSTS.iter().for_each(|host| brokers.kill(host, Crash::PowerCut));
                    world.wait_ms(0..500).await;
                    brokers::HOSTS.iter().for_each(|host| brokers.boot(host));
                }
                kind => {
                    brokers.kill(host, if kind == 2 { Crash::Kill } else { Crash::PowerCut });
                    world.wait_ms(0..6_000).await;
                    brokers.boot(host);
                }
            }
            world.wait_ms(0..3_000).await;
            world.note(format_args!("{} messages acknowledged", load.acknowledged()));
        }
        brokers.until_whole().await;
        keepers.check().await.expect("K8");
        let ledger = load.finish(SETTLE_TIMEOUT).await.expect("every message is acknowledged in the end");
        world.note(format_args!("{ledger:?}"));
        assert_eq!(brokers.damaged.get(), 0, "an honest disk loses nothing");
        ledger
    })
}

/// So many times two brokers don't reach each other.
const PARTINGS: u32 = 2;

/// Brokers that don't reach each other, one pair after another, for longer than publishers of retained messages wait for an
/// acknowledgement before they go on elsewhere.
fn partings_of_brokers(seed: u64) -> anyhow::Result<()> {
    let (checked, _) = simulate(seed, async |world| {
        let brokers = Brokers::start(&world, spoilt::honest);
        brokers.until_whole().await;
        let mut rng = StdRng::seed_from_u64(seed);
        let dials = brokers::HOSTS.map(|host| brokers.dial(host)).to_vec();
        let keepers = Keepers::start(dials, KEEPERS, || StdRng::from_rng(&mut rng));
        for _ in 0..PARTINGS {
            let at = world.draw(0..3) as usize;
            let [host, other] = [0, 1].map(|step| brokers::HOSTS[(at + step) % 3]);
            world.part(host, other, true);
            world.wait_ms(5_500..7_000).await;
            world.part(host, other, false);
            world.wait_ms(0..1_000).await;
        }
        brokers.until_whole().await;
        keepers.check().await
    });
    checked
}

#[test]
fn k8_what_is_late_because_brokers_do_not_reach_each_other_takes_no_newer_place() {
    for seed in seeds(1) {
        println!("SIMULATION_SEED={seed}");
        partings_of_brokers(seed).unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// In a process of its own, since what breaks a broker is in the environment.
#[test]
fn brokers_that_keep_what_comes_late_are_found_out() {
    let test = "k8_what_is_late_because_brokers_do_not_reach_each_other_takes_no_newer_place";
    let mut broken = std::process::Command::new(std::env::current_exe().expect("this program"));
    let broken = broken.args(["--exact", test]).env("MQTT_BROKER_BREAK_K8", "keep-what-is-late");
    let output = broken.env("SIMULATION_SEEDS", "5").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("K8: "), "nobody noticed: {said}");
}

fn identity(client_id: &str, persistent: bool) -> Identity {
    Identity { client_id: client_id.into(), version: Version::V5, persistent }
}

/// The payloads of the next PUBLISHes, in order, with their packet ids.
async fn published(receiver: &mut client::Receiver, count: usize) -> Vec<(u16, String)> {
    let mut published = Vec::new();
    while published.len() < count {
        let event = tokio::time::timeout(SETTLE_TIMEOUT, receiver.next()).await.expect("in time").expect("an event");
        if let Event::Publish { packet_id, payload, .. } = event {
            published.push((packet_id, String::from_utf8(payload).expect("text")));
        }
    }
    published
}

/// So many messages are shared out.
const SHARED: usize = 10;

/// A shared subscription has a persistent member, connected or away, and one whose session ends with its connection, on a node
/// that is killed when it has acknowledged the first message of those that it was sent.
fn death_of_a_borrower(seed: u64, qos: QoS, heir_stays: bool) {
    let _ = simulate(seed, async |world| {
        let brokers = Brokers::start(&world, spoilt::honest);
        brokers.until_whole().await;
        let [one, two, three] = brokers::HOSTS;
        let heir = identity("heir", true);
        let (mut sender, mut receiver, _) = client::connect(&brokers.dial(one), &heir).await.expect("the heir");
        sender.subscribe(1, qos, &["$share/g/t"]).await.expect("subscribed");
        assert!(matches!(receiver.next().await, Ok(Event::SubAck { .. })));
        let mut heir_now = Some((sender, receiver)).filter(|_| heir_stays);
        let borrower = identity("borrower", false);
        let (mut sender, mut receiver, _) = client::connect(&brokers.dial(two), &borrower).await.expect("the borrower");
        sender.subscribe(1, QoS::AtLeastOnce, &["$share/g/t"]).await.expect("subscribed");
        assert!(matches!(receiver.next().await, Ok(Event::SubAck { .. })));
        let publisher = identity("publisher", qos == QoS::ExactlyOnce);
        let (mut gives, mut hears, _) = client::connect(&brokers.dial(three), &publisher).await.expect("a publisher");
        for number in 1..=SHARED {
            gives.publish(qos, false, number as u16, "t", number.to_string().as_bytes()).await.expect("published");
            let answer = hears.next().await.expect("an answer");
            assert!(
                matches!(answer, Event::PubAck { reason, .. } | Event::PubRec { reason, .. } if !reason.is_error())
            );
        }
        // The heir has none, or those that were not lent.
        let mut direct = Vec::new();
        if let Some((_, receiver)) = &mut heir_now {
            direct = published(receiver, SHARED / 2).await;
        }
        let lent = published(&mut receiver, SHARED - direct.len()).await;
        sender.acknowledge(lent[0].0).await.expect("acknowledged");
        // Until it is stored that it has.
        sleep(Duration::from_secs(1)).await;
        brokers.kill(two, Crash::Kill);
        let (_sender, mut receiver) = match heir_now {
            Some(heir_now) => heir_now,
            None => {
                let (sender, receiver, present) =
                    client::connect(&brokers.dial(three), &heir).await.expect("the heir again");
                assert!(present);
                (sender, receiver)
            }
        };
        let inherited = published(&mut receiver, lent.len() - 1).await;
        let payloads =
            |messages: &[(u16, String)]| messages.iter().map(|(_, payload)| payload.clone()).collect::<Vec<_>>();
        assert_eq!(payloads(&inherited), payloads(&lent[1..]));
        let more = tokio::time::timeout(Duration::from_secs(5), receiver.next()).await;
        assert!(more.is_err(), "one came twice: {more:?}");
    });
}

#[test]
fn k1_what_an_ephemeral_member_has_not_acknowledged_a_persistent_one_gets_when_its_node_dies() {
    for seed in seeds(1) {
        println!("SIMULATION_SEED={seed}");
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for heir_stays in [false, true] {
                println!("at {qos:?}, the heir stays: {heir_stays}");
                death_of_a_borrower(seed, qos, heir_stays);
            }
        }
    }
}

/// A shared subscription with one persistent member, while it and others and brokers come and go.
fn sharing_with_borrowers(seed: u64) -> anyhow::Result<()> {
    let (checked, _) = simulate(seed, async |world| {
        let brokers = Brokers::start(&world, spoilt::honest);
        brokers.until_whole().await;
        let mut rng = StdRng::seed_from_u64(seed);
        let dials = brokers::HOSTS.map(|host| brokers.dial(host)).to_vec();
        let sharing = Sharing::start(&dials, Members::Mixed, 2, 4, || StdRng::from_rng(&mut rng));
        sharing.until_subscribed().await?;
        for _ in 0..FAULTS {
            let at = world.draw(0..3) as usize;
            let [host, other] = [0, 1].map(|step| brokers::HOSTS[(at + step) % 3]);
            match world.draw(0..4) {
                0 => {
                    world.isolate(host, true);
                    world.wait_ms(50..6_000).await;
                    world.isolate(host, false);
                }
                1 => {
                    world.part(host, other, true);
                    world.wait_ms(50..6_000).await;
                    world.part(host, other, false);
                }
                kind => {
                    brokers.kill(host, if kind == 2 { Crash::Kill } else { Crash::PowerCut });
                    world.wait_ms(0..3_000).await;
                    brokers.boot(host);
                }
            }
            world.wait_ms(0..3_000).await;
        }
        brokers.until_whole().await;
        sharing.check().await
    });
    checked
}

#[test]
fn k1_what_is_shared_with_sessions_that_end_with_their_connections_reaches_a_member_under_faults() {
    for seed in seeds(3) {
        println!("SIMULATION_SEED={seed}");
        sharing_with_borrowers(seed).unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// Which file of a damaged disk has a byte flipped.
#[derive(Clone, Copy, Debug)]
enum Spoilt {
    Log,
    Snapshot,
}

/// Under load, a byte in the middle of what a broker has is flipped while it is down: it is rebuilt. Then another dies, and
/// everything is still there. Gives the clients' ledger.
fn damage_to_a_broker(seed: u64, what: Spoilt) -> History {
    let (ledger, _) = simulate(seed, async |world| {
        let brokers = Brokers::start(&world, spoilt::honest);
        brokers.until_whole().await;
        let load = Load::start(brokers::HOSTS.map(|host| brokers.dial(host)).to_vec(), SHAPE, seed);
        load.until_subscribed(SHAPE.persistent + SHAPE.passing, SETTLE_TIMEOUT).await.expect("subscribers");
        let victim = world.draw(0..3) as usize;
        let [host, other] = [0, 1].map(|step| brokers::HOSTS[(victim + step) % 3]);
        // The newest file of the kind: what is older may have been replaced.
        let find = |files: Vec<(FileName, Vec<u8>)>| {
            let wanted = |(file, _): &(FileName, Vec<u8>)| match what {
                Spoilt::Log => matches!(file, FileName::Segment(_)),
                Spoilt::Snapshot => matches!(file, FileName::Snapshot(..)),
            };
            files.into_iter().rfind(wanted)
        };
        let files = || world.disk(host).expect("a host of the world").files();
        for _ in 0..2 {
            until(DAMAGE_TIMEOUT, "a snapshot", || find(files()).is_some()).await;
            let before = load.acknowledged();
            until(DAMAGE_TIMEOUT, "load", || load.acknowledged() >= before + 200).await;
            brokers.kill(host, Crash::Kill);
            let (file, data) = find(files()).expect("a file of this kind");
            world.disk(host).expect("a host of the world").flip(file, data.len() / 2, 1);
            world.note(format_args!("{host} is damaged in {}", file.to_file_name()));
            world.wait_ms(0..3_000).await;
            brokers.boot(host);
            until(SETTLE_TIMEOUT, "the damaged replica is rebuilt", || brokers.rebuilt(host) > 0).await;
            brokers.until_whole().await;
            // What was rebuilt is needed for a majority from now on.
            brokers.kill(other, Crash::PowerCut);
            let before = load.acknowledged();
            until(SETTLE_TIMEOUT, "it counts", || load.acknowledged() >= before + 100).await;
            brokers.boot(other);
            brokers.until_whole().await;
        }
        load.finish(SETTLE_TIMEOUT).await.expect("every message is acknowledged in the end")
    });
    ledger
}

async fn until(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let waits = async {
        while !condition() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(limit, waits).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"));
}

#[test]
fn k10_a_broker_with_a_damaged_log_is_rebuilt_and_nothing_acknowledged_is_lost() {
    for seed in seeds(1) {
        println!("SIMULATION_SEED={seed}");
        assert_kept(&damage_to_a_broker(seed, Spoilt::Log));
    }
}

#[test]
fn k10_a_broker_with_a_damaged_snapshot_is_rebuilt_and_nothing_acknowledged_is_lost() {
    for seed in seeds(1) {
        println!("SIMULATION_SEED={seed}");
        assert_kept(&damage_to_a_broker(seed, Spoilt::Snapshot));
    }
}

fn assert_kept(ledger: &History) {
    let violations = ledger.violations();
    for violation in violations.iter().take(20) {
        println!("{violation:?}");
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
    let acknowledged = ledger.published.values().filter(|published| published.acknowledged.is_some()).count();
    assert!(acknowledged > 200, "hardly any load: {acknowledged} acknowledged");
}

#[test]
fn brokers_keep_the_contract_under_faults() {
    for seed in seeds(3) {
        println!("SIMULATION_SEED={seed}");
        assert_kept(&faults_on_brokers(seed).0);
    }
}

#[test]
fn the_same_seed_gives_brokers_the_same_history_twice() {
    assert_same(&faults_on_brokers(11).1, &faults_on_brokers(11).1);
}

#[test]
fn disks_that_lie_about_their_syncs_are_found_out() {
    let lost = |seed| {
        let ((ledger, damaged), _) = simulate(seed, async |world| {
            let brokers = Brokers::start(&world, spoilt::lying);
            brokers.until_whole().await;
            let load = Load::start(brokers::HOSTS.map(|host| brokers.dial(host)).to_vec(), SHAPE, seed);
            load.until_subscribed(SHAPE.persistent, SETTLE_TIMEOUT).await.expect("subscribers");
            world.wait_ms(1_000..3_000).await;
            brokers::HOSTS.iter().for_each(|host| brokers.kill(host, Crash::PowerCut));
            brokers::HOSTS.iter().for_each(|host| brokers.boot(host));
            (load.finish(SETTLE_TIMEOUT).await, brokers.damaged.get())
        });
        // A log that knows that it lost something, and a cluster that has lost too much to go on, are found out, too.
        damaged > 0
            || ledger.map_or(true, |ledger| {
                let violations = ledger.violations();
                violations.iter().any(|found| matches!(found, Violation::Lost { .. } | Violation::SessionLost { .. }))
            })
    };
    assert!((1..6).any(lost), "nobody noticed");
}

fn assert_same(first: &[String], second: &[String]) {
    let differ = first.iter().zip(second).position(|(one, other)| one != other);
    assert_eq!(differ.map(|at| (&first[at], &second[at])), None);
    assert_eq!(first.len(), second.len());
}

#[test]
fn groups_keep_what_they_acknowledged() {
    for seed in seeds(3) {
        println!("SIMULATION_SEED={seed}");
        faults_on_groups(seed);
    }
}

#[test]
fn the_same_seed_gives_groups_the_same_history_twice() {
    let first = faults_on_groups(7);
    assert_same(&first, &faults_on_groups(7));
    assert_ne!(first, faults_on_groups(8));
}
