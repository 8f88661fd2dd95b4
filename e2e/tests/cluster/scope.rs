//! How much of the cluster an operator looks at: the namespaces it was told, and in them only what is its own.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::audit::{Audit, Request};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::installation::{Installation, NAMESPACE, OPERATOR_NAMESPACE};
use mqtt_e2e::resource::Resource;
use mqtt_e2e::wait::{self, seen};
use serde_json::json;

use super::TRAFFIC_DEADLINE;
use super::side::{self, SIDE, small};

const FOREIGN: &str = "mqtt-foreign";
const FOREIGN_SECRETS: usize = 5_000;
const FOREIGN_SECRET_BYTES: usize = 2_048;
/// The Secrets are more than twice as much, wherever they are held.
const GROWTH_KIB_MAX: u64 = 8 * 1024;
const MAKING_DEADLINE: Duration = Duration::from_secs(90);
const ROLLOUT_DEADLINE: Duration = Duration::from_secs(110);

pub async fn foreign_secrets_cost_no_memory(cluster: &Cluster) -> Result<()> {
    let before = operator_memory()?;
    make_foreign_secrets(cluster).await?;
    // Operators that list everything anew.
    for verb in [&["restart"][..], &["status", "--timeout=100s"]] {
        let rollout = cluster.kubectl(["rollout"]).args(verb);
        let deployment = ["deployment/mqtt-operator", "-n", OPERATOR_NAMESPACE];
        rollout.args(deployment).deadline(ROLLOUT_DEADLINE).output().await?;
    }
    works(cluster).await?;
    let after = operator_memory()?;
    println!("an operator's memory: {before} KiB, with {FOREIGN_SECRETS} foreign Secrets {after} KiB");
    ensure!(after < before + GROWTH_KIB_MAX, "from {before} KiB to {after} KiB: it holds what is not its own");
    cluster.kubectl(["delete", "namespace", FOREIGN, "--wait=false"]).output().await.map(drop)
}

/// By the API itself: `kubectl` takes its time between two requests.
async fn make_foreign_secrets(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(["create", "namespace", FOREIGN]).output().await?;
    let keys = cluster.state().await?.join("pki");
    let server = cluster.kubectl(["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).output().await?;
    let folder = tempfile::tempdir()?;
    let options = folder.path().join("requests");
    let filling = "x".repeat(FOREIGN_SECRET_BYTES);
    let requests = (0..FOREIGN_SECRETS).map(|number| {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("foreign-{number}") },
            "stringData": { "filling": filling },
        });
        let secret = secret.to_string().replace('"', "\\\"");
        format!(
            "url = {server}/api/v1/namespaces/{FOREIGN}/secrets\nheader = \"content-type: application/json\"\n\
             data = \"{secret}\"\noutput = /dev/null\nfail\ncacert = {ca}\ncert = {cert}\nkey = {key}\n",
            ca = keys.join("ca.crt").display(),
            cert = keys.join("admin.crt").display(),
            key = keys.join("admin.key").display(),
        )
    });
    fs::write(&options, requests.collect::<Vec<_>>().join("next\n"))?;
    let curl = cluster.program("curl").args(["--silent", "--show-error", "--parallel", "--parallel-max", "20"]);
    curl.args(["--config", &options.display().to_string()]).deadline(MAKING_DEADLINE).output().await?;
    let list = ["get", "secret", "-n", FOREIGN, "-o", "name", "--chunk-size=0"];
    let made = cluster.kubectl(list).output().await?.lines().count();
    ensure!(made >= FOREIGN_SECRETS, "{made} Secrets were made");
    Ok(())
}

/// The most that an operator of the cluster holds in memory, in KiB; its processes are processes of this machine.
fn operator_memory() -> Result<u64> {
    let status_of_operator = |folder: std::path::PathBuf| {
        let name = fs::read_to_string(folder.join("comm")).ok()?;
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib = line.split_whitespace().nth(1)?.parse().ok()?;
        (name.trim() == "mqtt-operator").then_some(kib)
    };
    let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    processes.filter_map(status_of_operator).max().context("no operator runs")
}

/// After an uninstall: installed again for one namespace, then for two, then uninstalled.
pub async fn an_operator_looks_where_it_was_told(cluster: &Cluster) -> Result<()> {
    let installation = Installation::on(cluster);
    let before = installation.resource().pod_identities().await?;
    side::make(cluster).await?;
    let elsewhere = Resource::named(cluster, SIDE, "elsewhere");
    elsewhere.apply(&small(json!({}))).await?;
    let audit = Audit::from_now(cluster).await?;

    installation.install_operator_with(&[&format!("watchNamespaces={{{NAMESPACE}}}")]).await?;
    let cluster_wide = cluster.kubectl(["get", "clusterrole", "mqtt-operator"]).output().await;
    ensure!(cluster_wide.is_err(), "for one namespace it has a right in all of them");
    works(cluster).await?;
    let status = elsewhere.get().await?["status"].clone();
    ensure!(status.is_null(), "it has looked where it was not told to: {status}");

    let two = format!("watchNamespaces={{{NAMESPACE},{SIDE}}}");
    installation.install_operator_with(&[&two]).await?;
    elsewhere.available(1, TRAFFIC_DEADLINE).await?;
    works(cluster).await?;
    let requests = audit.requests_of(&installation.operator_user().await?)?;
    // A right counts a moment after it was given, when the API server has heard of it: what is missing is refused for good.
    let granted = |one: &Request, later: &[Request]| {
        later.iter().any(|other| other.code < 300 && (&other.verb, &other.object) == (&one.verb, &one.object))
    };
    let refused = requests.iter().enumerate().filter(|(at, one)| one.code == 403 && !granted(one, &requests[at + 1..]));
    let refused: Vec<_> = refused.map(|(_, one)| one.to_string()).collect();
    ensure!(!requests.is_empty() && refused.is_empty(), "of {} requests were refused: {refused:?}", requests.len());
    ensure!(installation.resource().pod_identities().await? == before, "another operator must not restart a broker");
    installation.uninstall_operator().await
}

/// Waits until the operator has carried out a change of the example that restarts nothing.
async fn works(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster).resource();
    let interval = broker.get().await?["spec"]["monitoring"]["interval"].clone();
    let other = if interval == "31s" { "32s" } else { "31s" };
    broker.patch(&json!({ "monitoring": { "enabled": true, "interval": other } })).await?;
    wait::until("the operator works", TRAFFIC_DEADLINE, async || {
        let monitors = broker.owned("podmonitor").await?;
        let set = monitors.first().map(|monitor| monitor["spec"]["podMetricsEndpoints"][0]["interval"].clone());
        Ok(seen(set.as_ref().is_some_and(|set| set == other), || format!("{set:?}")))
    })
    .await
}
