//! The tests that need a cluster: one cluster for all of them, one after the other, each going on where the one before ended.
//!
//! They run with `MQTT_E2E=1`, as `e2e/test` sets it, and say so when they don't. `MQTT_E2E_ON=kind` runs those that break no node
//! on another place. The first failure ends the run: after it, the cluster is not what the next test expects.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use mqtt_e2e::audit::Audit;
use mqtt_e2e::cluster::{Cluster, Place};
use mqtt_e2e::demo;
use mqtt_e2e::installation::Installation;
use mqtt_e2e::ledger::Ledger;
use mqtt_e2e::progress::Progress;

const NAMES: [&str; 3] = [
    "the_demo_balances",
    "the_operator_at_rest_writes_nothing_for_a_minute",
    "a_node_cut_off_for_thirty_seconds_under_load_loses_nothing_acknowledged",
];
/// The longest that the story may take, everything built on the way.
const DEMO_DEADLINE: Duration = Duration::from_secs(60 * 60);
const TRAFFIC_DEADLINE: Duration = Duration::from_secs(60);
const CUT: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    println!("\nrunning {} tests on a cluster", NAMES.len());
    if std::env::var("MQTT_E2E").as_deref() != Ok("1") {
        println!(
            "SKIPPED: these tests bring up a Kubernetes of three nodes and need root. They run with MQTT_E2E=1, or with e2e/test."
        );
        for name in NAMES {
            println!("test {name} ... ignored, needs MQTT_E2E=1");
        }
        return close(0, None, NAMES.len(), Instant::now());
    }
    let began = Instant::now();
    let cluster = match place().and_then(|place| Cluster::hold(place, std::env::var("MQTT_E2E_REGISTRY").ok())) {
        Ok(cluster) => cluster,
        Err(error) => return close(0, Some(error.context("no cluster to test on")), 0, began),
    };
    let mut suite = Suite { cluster: &cluster, passed: 0, skipped: 0 };
    let failure = suite.run().await.err();
    if failure.is_some() {
        println!("{}", Installation::on(&cluster).diagnosis().await);
    }
    let down = cluster.down().await.context("taking the cluster down").err();
    close(suite.passed, failure.or(down), suite.skipped, began)
}

fn place() -> Result<Place> {
    match std::env::var("MQTT_E2E_ON") {
        Ok(name) => Place::from_str(&name, true).map_err(|error| anyhow::anyhow!("MQTT_E2E_ON: {error}")),
        Err(_) => Ok(Place::Local),
    }
}

/// Closes in libtest's words.
fn close(passed: usize, failure: Option<anyhow::Error>, ignored: usize, began: Instant) -> ExitCode {
    let word = if failure.is_some() { "FAILED" } else { "ok" };
    if let Some(error) = &failure {
        println!("\nfailure: {error:#}");
    }
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {ignored} ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        usize::from(failure.is_some()),
        began.elapsed().as_secs_f64()
    );
    if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Suite<'a> {
    cluster: &'a Cluster,
    passed: usize,
    skipped: usize,
}

impl Suite<'_> {
    async fn run(&mut self) -> Result<()> {
        self.test(NAMES[0], DEMO_DEADLINE, the_demo_balances(self.cluster)).await?;
        if !self.cluster.is_local() {
            for name in &NAMES[1..] {
                println!("test {name} ... ignored, needs the local cluster");
                self.skipped += 1;
            }
            return Ok(());
        }
        self.test(NAMES[1], 6 * REST, the_operator_at_rest_writes_nothing(self.cluster)).await?;
        self.test(NAMES[2], 5 * TRAFFIC_DEADLINE, a_node_cut_off_loses_nothing(self.cluster)).await
    }

    async fn test(&mut self, name: &str, deadline: Duration, body: impl Future<Output = Result<()>>) -> Result<()> {
        let began = Instant::now();
        let result = match tokio::time::timeout(deadline, body).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("did not end within {} s", deadline.as_secs())),
        };
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1} s)", began.elapsed().as_secs_f64());
        self.passed += usize::from(result.is_ok());
        result.with_context(|| name.to_owned())
    }
}

async fn the_demo_balances(cluster: &Cluster) -> Result<()> {
    let mut progress = Progress::begin("the demo, as a test");
    let counts = demo::tell(cluster, &mut progress).await.with_context(|| progress.current())?;
    progress.finish();
    ensure!(
        counts.killed.0 > 0 && counts.killed.0 == counts.killed.1,
        "mosquitto: {:?} while a pod was killed",
        counts.killed
    );
    ensure!(counts.scaled.0 > 0 && counts.scaled.0 == counts.scaled.1, "mosquitto: {:?} while scaling", counts.scaled);
    for ledger in [&counts.killed_ledger, &counts.scaled_ledger] {
        ensure!(ledger.acknowledged > 0 && ledger.kept(), "{ledger}");
        ensure!(ledger.received.iter().all(|received| *received == ledger.acknowledged), "{ledger}");
    }
    Ok(())
}

async fn the_operator_at_rest_writes_nothing(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster);
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let user = broker.operator_user().await?;
    // What it did to get here must be in the log, or the log proves nothing.
    let seen = Audit::whole(cluster).await?.requests_of(&user)?;
    ensure!(seen.iter().any(|request| request.is_write()), "the audit log has no write of {user}: is that its name?");
    broker.nobody_connected(2 * TRAFFIC_DEADLINE).await?;
    // The end of the last change, its events included, may come a moment after that.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let audit = Audit::from_now(cluster).await?;
    tokio::time::sleep(REST).await;
    let requests = audit.requests_of(&user)?;
    let writes: Vec<_> = requests.iter().filter(|request| request.is_write()).map(ToString::to_string).collect();
    println!(
        "the operator at rest: {} requests in {} s, {} of them writes",
        requests.len(),
        REST.as_secs(),
        writes.len()
    );
    if !writes.is_empty() {
        bail!("the operator at rest wrote: {}", writes.join(", "));
    }
    Ok(())
}

async fn a_node_cut_off_loses_nothing(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster);
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let ledger = Ledger::start(broker.endpoint().await?, demo::load("cut"), TRAFFIC_DEADLINE).await?;
    ledger.more(500, TRAFFIC_DEADLINE).await?;
    let pod = broker.pods().await?.into_iter().next().context("the broker has no pod")?;
    println!("cutting off {} with {} for {} s", pod.node, pod.name, CUT.as_secs());
    let cut_off = tokio::time::Instant::now();
    cluster.node("cut", &[&pod.node]).await?;
    let meanwhile = ledger.more(1000, CUT).await.context("the majority must go on while a node is cut off");
    tokio::time::sleep_until(cut_off + CUT).await;
    cluster.node("heal", &[&pod.node]).await?;
    meanwhile?;
    println!("{} is back: {}", pod.node, ledger.balance());
    ledger.more(500, TRAFFIC_DEADLINE).await.context("after the node came back")?;
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let balance = ledger.settle(TRAFFIC_DEADLINE).await?;
    println!("{balance}");
    ensure!(balance.kept(), "the ledger does not balance: {balance}");
    ensure!(balance.received.iter().all(|received| *received == balance.acknowledged), "{balance}");
    Ok(())
}
