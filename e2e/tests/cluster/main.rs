//! The tests that need a cluster: one cluster for all of them, one after the other, each going on where the one before ended.
//!
//! They run with `MQTT_E2E=1`, as `e2e/test` sets it, and say so when they don't. `MQTT_E2E_ON=kind`, or `kubeconfig` with
//! `MQTT_E2E_REGISTRY`, runs those that break no node on another place. `MQTT_E2E_ONLY=WORD,WORD` runs the first, which brings the cluster up, and those whose names hold one of the words. The first
//! failure ends the run: after it, the cluster is not what the next test expects.

mod access;
mod changes;
mod install;
mod reading;
mod rest;
mod rules;
mod scope;
mod side;
mod story;
mod volume;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use mqtt_e2e::cluster::{Cluster, Place};
use mqtt_e2e::installation::Installation;

/// The longest that messages may take to flow, or a broker to be well again.
const TRAFFIC_DEADLINE: Duration = Duration::from_secs(60);

type Body = for<'a> fn(&'a Cluster) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A test with its deadline in seconds.
struct Test(&'static str, u64, On, Body);

/// Which clusters a test can run on.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Any,
    /// It breaks nodes, or reads what only the local cluster keeps on this machine.
    Local,
}

use On::{Any, Local};

/// In the order in which they run. The first brings everything up, within an hour: it may have to build Kubernetes.
const TESTS: [Test; 22] = [
    Test("the_demo_balances", 3600, Any, |cluster| Box::pin(story::the_demo_balances(cluster))),
    Test("kubectl_tells_the_truth_about_the_example", 120, Any, |cluster| {
        Box::pin(reading::kubectl_tells_the_truth(cluster))
    }),
    Test("the_operator_at_rest_writes_nothing_for_two_minutes", 420, Local, |cluster| {
        Box::pin(rest::the_operator_at_rest_writes_nothing(cluster))
    }),
    Test("helm_lints_the_chart_and_the_plain_manifests_are_not_stale", 60, Any, |cluster| {
        Box::pin(install::the_chart_is_well(cluster))
    }),
    Test("dashboard_and_alerts_name_metrics_that_exist", 60, Any, |cluster| {
        Box::pin(install::dashboard_and_alerts_name_metrics_that_exist(cluster))
    }),
    Test("the_api_server_keeps_each_rule_and_their_namespace_goes", 180, Any, |cluster| {
        Box::pin(rules::the_api_server_keeps_each_rule(cluster))
    }),
    Test("what_is_wrong_is_said_in_words_and_mends", 300, Any, |cluster| {
        Box::pin(changes::what_is_wrong_is_said_in_words(cluster))
    }),
    Test("clients_come_in_by_every_door_and_nothing_that_can_be_reloaded_restarts_a_broker", 420, Local, |cluster| {
        Box::pin(access::clients_come_in_by_every_door(cluster))
    }),
    Test("a_full_volume_refuses_and_goes_on_when_there_is_room", 240, Local, |cluster| {
        Box::pin(volume::a_full_volume_refuses_and_goes_on(cluster))
    }),
    Test("one_broker_becomes_three_five_three_and_one_again_and_goes_with_its_volumes", 360, Any, |cluster| {
        Box::pin(changes::one_becomes_five_and_one_again(cluster))
    }),
    Test("a_bad_image_stops_the_roll_and_a_good_one_mends_it", 300, Local, |cluster| {
        Box::pin(changes::a_bad_image_stops_the_roll(cluster))
    }),
    Test("volumes_grow_and_drift_is_undone", 120, Local, |cluster| {
        Box::pin(changes::volumes_grow_and_drift_is_undone(cluster))
    }),
    Test("a_paused_resource_is_left_alone_until_it_goes_on", 180, Any, |cluster| {
        Box::pin(changes::a_paused_resource_is_left_alone(cluster))
    }),
    Test("a_deleted_pod_under_load_loses_nothing_acknowledged", 240, Any, |cluster| {
        Box::pin(story::a_deleted_pod_loses_nothing(cluster))
    }),
    Test("a_killed_broker_under_load_loses_nothing_acknowledged", 240, Local, |cluster| {
        Box::pin(story::a_killed_broker_loses_nothing(cluster))
    }),
    Test("a_node_cut_off_for_thirty_seconds_under_load_loses_nothing_acknowledged", 300, Local, |cluster| {
        Box::pin(story::a_node_cut_off_loses_nothing(cluster))
    }),
    Test("a_drained_node_under_load_loses_nothing_acknowledged", 300, Local, |cluster| {
        Box::pin(story::a_drained_node_loses_nothing(cluster))
    }),
    Test("a_node_without_power_under_load_loses_nothing_acknowledged", 300, Local, |cluster| {
        Box::pin(story::a_node_without_power_loses_nothing(cluster))
    }),
    Test("of_two_operators_one_takes_over_and_no_broker_restarts", 240, Local, |cluster| {
        Box::pin(install::of_two_operators_one_takes_over(cluster))
    }),
    Test("five_thousand_foreign_secrets_cost_the_operator_no_memory", 240, Local, |cluster| {
        Box::pin(scope::foreign_secrets_cost_no_memory(cluster))
    }),
    Test("no_right_is_unused_or_missing_and_the_chart_is_uninstalled", 240, Local, |cluster| {
        Box::pin(install::no_right_is_unused_or_missing(cluster))
    }),
    Test("an_operator_looks_at_one_namespace_or_two_and_has_rights_nowhere_else", 300, Local, |cluster| {
        Box::pin(scope::an_operator_looks_where_it_was_told(cluster))
    }),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    println!("\nrunning {} tests on a cluster", TESTS.len());
    if std::env::var("MQTT_E2E").as_deref() != Ok("1") {
        println!(
            "SKIPPED: these tests bring up a Kubernetes of three nodes and need root. They run with MQTT_E2E=1, or with e2e/test."
        );
        for Test(name, ..) in TESTS {
            println!("test {name} ... ignored, needs MQTT_E2E=1");
        }
        return close(0, None, TESTS.len(), Instant::now());
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
    let down = take_down(&cluster).await.context("taking the cluster down").err();
    close(suite.passed, failure.or(down), suite.skipped, began)
}

/// A cluster of one's own stays, without what was installed there.
async fn take_down(cluster: &Cluster) -> Result<()> {
    if !cluster.is_local() {
        Installation::on(cluster).remove(&[side::SIDE, rules::NAMESPACE]).await?;
    }
    cluster.down().await
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
        let only = std::env::var("MQTT_E2E_ONLY").unwrap_or_default();
        for (index, Test(name, deadline, on, body)) in TESTS.into_iter().enumerate() {
            let asked_for = index == 0 || only.split(',').any(|word| name.contains(word));
            let why_not = match on {
                _ if !asked_for => Some("was not asked for"),
                Local if !self.cluster.is_local() => Some("needs the local cluster"),
                _ => None,
            };
            if let Some(why_not) = why_not {
                println!("test {name} ... ignored, {why_not}");
                self.skipped += 1;
                continue;
            }
            self.test(name, Duration::from_secs(deadline), body(self.cluster)).await?;
        }
        Ok(())
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
