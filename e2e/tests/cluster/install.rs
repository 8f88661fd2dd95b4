//! The chart, the operator's rights, and two operators of which one leads.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::audit::{Audit, Request};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::installation::{BROKER, Installation, NAMESPACE, OPERATOR_NAMESPACE, chart, root};
use mqtt_e2e::wait::{self, Seen, seen};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::TRAFFIC_DEADLINE;

/// A lease is good for so long after it was renewed.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// One that was given back is taken within this, well before it would run out.
const RELEASE_DEADLINE: Duration = Duration::from_secs(9);

/// As much of the Prometheus operator's definition as it takes to hold a PodMonitor.
const POD_MONITORS: &str = r#"{
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": { "name": "podmonitors.monitoring.coreos.com" },
    "spec": {
        "group": "monitoring.coreos.com", "scope": "Namespaced",
        "names": { "kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor" },
        "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }] } }"#;

pub async fn the_chart_is_well(cluster: &Cluster) -> Result<()> {
    let chart = chart().display().to_string();
    cluster.helm(["lint", "--strict", &chart]).output().await?;
    let wrong = cluster.helm(["template", "x", &chart, "--set", "replicas=many"]).output().await;
    ensure!(wrong.is_err(), "the schema of the values lets anything through");
    let some = cluster.helm(["template", "x", &chart, "--set", "watchNamespaces={a,b}"]).output().await?;
    ensure!(!some.contains("kind: ClusterRole\n"), "for two namespaces no right in all of them is needed");
    let rendered = cluster.program(&root().join("charts/render").display().to_string()).output().await?;
    let stored = std::fs::read_to_string(root().join("charts/mqtt-operator.yaml"))?;
    ensure!(rendered == stored, "charts/mqtt-operator.yaml is stale: run `charts/render >charts/mqtt-operator.yaml`");
    // What it says is something that the API server takes.
    cluster.kubectl(["apply", "--dry-run=server", "-f", "-"]).input(rendered).output().await.map(drop)
}

pub async fn dashboard_and_alerts_name_metrics_that_exist(cluster: &Cluster) -> Result<()> {
    let broker = format!("/api/v1/namespaces/{NAMESPACE}/pods/{BROKER}-0:8080/proxy/metrics");
    let mut exist = metrics(cluster, &broker).await?;
    let list = cluster.kubectl(["get", "pod", "-n", OPERATOR_NAMESPACE, "-o", "name"]).output().await?;
    let operator = list.lines().next().and_then(|line| line.strip_prefix("pod/")).context("no operator runs")?;
    exist.extend(
        metrics(cluster, &format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{operator}:8080/proxy/metrics"))
            .await?,
    );
    // What is counted only once it has happened.
    exist.insert("mqtt_operator_reconcile_failures_total".to_owned());
    let mut named = BTreeSet::new();
    for file in ["dashboards/brokers.json", "alerts/brokers.yaml"] {
        named.extend(metric_names(&std::fs::read_to_string(chart().join(file))?));
    }
    ensure!(named.len() >= 8, "only {named:?} are named");
    let missing: Vec<_> = named.difference(&exist).collect();
    ensure!(missing.is_empty(), "no broker and no operator has {missing:?}; there are {exist:?}");
    Ok(())
}

/// Names of the samples at an address that the API server leads to.
async fn metrics(cluster: &Cluster, path: &str) -> Result<BTreeSet<String>> {
    let text = cluster.kubectl(["get", "--raw", path]).output().await?;
    let names = text.lines().filter(|line| !line.starts_with('#'));
    Ok(names.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect())
}

fn metric_names(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .filter(|word| word.starts_with("mqtt_broker_") || word.starts_with("mqtt_operator_"))
        .map(str::to_owned)
        .collect()
}

pub async fn of_two_operators_one_takes_over(cluster: &Cluster) -> Result<()> {
    let installation = Installation::on(cluster);
    let broker = installation.resource();
    let before = broker.pod_identities().await?;
    // The operators that are made from here on know PodMonitors.
    cluster.kubectl(["apply", "-f", "-"]).input(POD_MONITORS.to_owned()).output().await?;
    // And they are made where pods that ask for more than they need are refused.
    let strict = ["label", "namespace", OPERATOR_NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"];
    cluster.kubectl(strict).output().await?;
    installation.install_operator_with(&["replicas=2"]).await?;
    another_takes_over_from_a_killed_one(cluster).await?;
    another_takes_over_at_once_from_one_that_ends(cluster).await?;
    let monitors = async |wanted: usize| {
        wait::until(&format!("{wanted} PodMonitors"), TRAFFIC_DEADLINE, async || {
            let found = broker.owned("podmonitor").await?.len();
            Ok(seen(found == wanted, || format!("{found}")))
        })
        .await
    };
    monitors(1).await.context("the new leader works")?;
    broker.patch(&json!({ "monitoring": { "enabled": false } })).await?;
    monitors(0).await?;
    ensure!(broker.pod_identities().await? == before, "another operator must not restart a broker");
    Ok(())
}

/// It says nothing any more, and its lease has to run out.
async fn another_takes_over_from_a_killed_one(cluster: &Cluster) -> Result<()> {
    let installation = Installation::on(cluster);
    let leader = leader(cluster).await?;
    let pods = installation.operator_pods().await?;
    let pod = pods.iter().find(|pod| pod.name == leader.name).with_context(|| format!("{leader:?} is no pod"))?;
    installation.kill(pod).await?;
    another_leads(cluster, &leader, TRAFFIC_DEADLINE).await
}

/// It gives its lease back, so that nobody waits for that to run out.
async fn another_takes_over_at_once_from_one_that_ends(cluster: &Cluster) -> Result<()> {
    let rollout = ["rollout", "status", "deployment/mqtt-operator", "-n", OPERATOR_NAMESPACE, "--timeout=60s"];
    cluster.kubectl(rollout).deadline(TRAFFIC_DEADLINE).output().await.context("two operators run again")?;
    let before = leader(cluster).await?;
    let fresh = wait::until("the lease is renewed", LEASE_DURATION, async || {
        let now = leader(cluster).await?;
        Ok(if now.renewed == before.renewed { Seen::NotYet(now.renewed) } else { Seen::Yes(now) })
    })
    .await?;
    let delete = ["delete", "pod", &fresh.name, "-n", OPERATOR_NAMESPACE, "--wait=false"];
    cluster.kubectl(delete).output().await?;
    let ended = Instant::now();
    another_leads(cluster, &fresh, RELEASE_DEADLINE).await.context("the lease was not given back")?;
    println!("another operator leads {:.1} s after the one before was told to end", ended.elapsed().as_secs_f64());
    Ok(())
}

async fn another_leads(cluster: &Cluster, before: &Leader, deadline: Duration) -> Result<()> {
    wait::until("the other operator leads", deadline, async || {
        let now = leader(cluster).await?;
        Ok(seen(!now.name.is_empty() && now.name != before.name, || format!("{now:?}")))
    })
    .await
}

/// Whom the lease names, and when it was renewed.
#[derive(Debug)]
struct Leader {
    name: String,
    renewed: String,
}

async fn leader(cluster: &Cluster) -> Result<Leader> {
    let get = ["get", "lease", "mqtt-operator", "-n", OPERATOR_NAMESPACE, "-o", "json"];
    let lease: Value = serde_json::from_str(&cluster.kubectl(get).output().await?)?;
    let text = |field: &str| lease["spec"][field].as_str().unwrap_or_default().to_owned();
    Ok(Leader { name: text("holderIdentity"), renewed: text("renewTime") })
}

pub async fn no_right_is_unused_or_missing(cluster: &Cluster) -> Result<()> {
    let installation = Installation::on(cluster);
    let user = installation.operator_user().await?;
    let requests = Audit::whole(cluster).await?.requests_of(&user)?;
    let refused: Vec<_> = requests
        .iter()
        .filter(|one| one.code == 403 && !one.object.contains("mqtt-side"))
        .map(|one| one.to_string())
        .collect();
    ensure!(refused.is_empty(), "the operator lacks a right: {refused:?}");
    let role = cluster.kubectl(["get", "clusterrole", "mqtt-operator", "-o", "json"]).output().await?;
    let unused = unused(&serde_json::from_str(&role)?, &requests);
    ensure!(unused.is_empty(), "nothing that these tests do needs {unused:?}");

    let before = installation.resource().pod_identities().await?;
    let uninstall = ["uninstall", "mqtt-operator", "-n", OPERATOR_NAMESPACE, "--wait"];
    cluster.helm(uninstall).deadline(Duration::from_secs(110)).output().await?;
    ensure!(installation.resource().pod_identities().await? == before, "brokers outlive their operator");
    Ok(())
}

/// The verbs of a role that no request needed.
fn unused(role: &Value, requests: &[Request]) -> Vec<String> {
    let used: BTreeSet<String> =
        requests.iter().map(|one| format!("{} {}/{}", one.verb, one.group, one.resource)).collect();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let mut unused = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    let right = format!("{verb} {group}/{resource}");
                    // Never asked for by itself: the API server looks whether it is there when an owner is named.
                    // "create" is looked at when a patch makes an object.
                    let implied = resource.ends_with("/finalizers") || (verb == "create" && resource != "events");
                    if !implied && !used.contains(&right) {
                        unused.push(right);
                    }
                }
            }
        }
    }
    unused
}
