//! The operator, installed from its chart, and one `MqttBroker`: what a person does with `helm` and `kubectl`.
//!
//! Deliberately absent: the types of the operator. What is read here is what a person reads: the JSON of the API.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::resource::Resource;
use crate::service::Endpoint;
use crate::wait;

/// The namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "mqtt-operator";
/// The namespace of the example.
pub const NAMESPACE: &str = "mqtt-demo";
/// The name of the `MqttBroker` in the chart's example.
pub const BROKER: &str = "mqtt";
const OPERATOR_DEADLINE: Duration = Duration::from_secs(120);

/// A pod of the broker or the operator.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its identity, of which one that is made again has another.
    pub uid: String,
    /// How often its program was started again.
    pub restarts: u64,
    /// Whether it is ready.
    pub ready: bool,
    /// Its namespace.
    namespace: String,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// The node it runs on.
    pub node: String,
    /// Its program's container, as the node knows it.
    container: Option<String>,
}

/// The broker on a cluster.
pub struct Installation<'a> {
    cluster: &'a Cluster,
}

impl<'a> Installation<'a> {
    /// On this cluster; nothing is installed yet.
    pub fn on(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// Installs the operator from its chart, or upgrades it, and waits until it runs.
    pub async fn install_operator(&self) -> Result<String> {
        self.install_operator_with(&[]).await
    }

    /// The same with further values of the chart, each `KEY=VALUE`.
    pub async fn install_operator_with(&self, values: &[&str]) -> Result<String> {
        let chart = chart();
        let (repository, tag) = self.cluster.image("mqtt-operator");
        let further: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
        self.cluster
            .helm(["upgrade", "--install", "mqtt-operator"])
            .args([&chart])
            .args(["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout", "110s"])
            .args(["--set", &format!("image.repository={repository}"), "--set", &format!("image.tag={tag}")])
            .args(further)
            .deadline(OPERATOR_DEADLINE)
            .output()
            .await
    }

    /// `kubectl apply` of the example.
    pub async fn apply_example(&self) -> Result<String> {
        let path = example();
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let (repository, tag) = self.cluster.image("mqtt-broker");
        let text = text.replace("localhost/mqtt-broker:dev", &format!("{repository}:{tag}"));
        if self.cluster.kubectl(["get", "namespace", NAMESPACE]).output().await.is_err() {
            self.cluster.kubectl(["create", "namespace", NAMESPACE]).output().await?;
        }
        self.cluster.kubectl(["apply", "-n", NAMESPACE, "-f", "-"]).input(text).output().await
    }

    /// `kubectl get mqb`.
    pub async fn get(&self) -> Result<String> {
        self.cluster.kubectl(["get", "mqb", "-n", NAMESPACE]).output().await
    }

    /// Waits until the resource says that so many brokers are there, members, ready, and safe from the loss of one.
    pub async fn available(&self, replicas: i64, deadline: Duration) -> Result<()> {
        self.resource().available(replicas, deadline).await
    }

    /// The example's resource.
    pub fn resource(&self) -> Resource<'a> {
        Resource::named(self.cluster, NAMESPACE, BROKER)
    }

    /// Waits until the status has heard that no client is connected any more: the operator looks at counts at leisure.
    pub async fn nobody_connected(&self, deadline: Duration) -> Result<()> {
        wait::until("no connection in the status", deadline, async || {
            let json = self.cluster.kubectl(["get", "mqb", BROKER, "-n", NAMESPACE, "-o", "json"]).output().await?;
            let connections = serde_json::from_str::<Value>(&json)?["status"]["connections"].clone();
            Ok(wait::seen(connections == 0, || format!("{connections} connections")))
        })
        .await
    }

    /// `kubectl scale`.
    pub async fn scale(&self, replicas: i64) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.cluster.kubectl(["scale", "mqb", BROKER, "-n", NAMESPACE, &replicas]).output().await.map(drop)
    }

    /// `kubectl get mqb -w` on the screen, until the watch is dropped.
    pub fn watch(&self) -> Result<Watch> {
        let day = Duration::from_secs(86_400);
        let mut child = self.cluster.kubectl(["get", "mqb", "-n", NAMESPACE, "-w"]).deadline(day).spawn()?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let task = tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                println!("            {line}");
            }
            drop(child);
        });
        Ok(Watch(task))
    }

    /// Where clients connect.
    pub async fn endpoint(&self) -> Result<Endpoint> {
        if self.cluster.is_local() {
            return self.cluster.endpoint(NAMESPACE, BROKER).await;
        }
        // We are outside of the cluster's network: a port of every node leads in.
        let service = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{BROKER}-nodes\"}},\"spec\":{{\"type\":\"NodePort\",\
             \"selector\":{{\"app.kubernetes.io/instance\":\"{BROKER}\"}},\"ports\":[{{\"port\":1883}}]}}}}"
        );
        self.cluster.kubectl(["apply", "-n", NAMESPACE, "-f", "-"]).input(service).output().await?;
        self.cluster.endpoint(NAMESPACE, &format!("{BROKER}-nodes")).await
    }

    /// The broker's pods.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        self.pods_with(NAMESPACE, &format!("app.kubernetes.io/instance={BROKER}")).await
    }

    /// The operator's pods.
    pub async fn operator_pods(&self) -> Result<Vec<Pod>> {
        self.pods_with(OPERATOR_NAMESPACE, "app.kubernetes.io/name=mqtt-operator").await
    }

    async fn pods_with(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let json = self.cluster.kubectl(["get", "pod", "-n", namespace, "-l", selector, "-o", "json"]).output().await?;
        let list: List = serde_json::from_str(&json).context("reading the list of pods")?;
        Ok(list.items.iter().filter_map(pod).collect())
    }

    /// Kills a pod without grace: SIGKILL to its program where the nodes are ours, and the pod deleted as `--force` does it (which
    /// alone is a SIGTERM, and SIGKILL a moment later).
    pub async fn kill(&self, pod: &Pod) -> Result<()> {
        if self.cluster.is_local() && pod.container.is_some() {
            self.kill_program(pod).await?;
        }
        let delete = ["delete", "pod", &pod.name, "-n", &pod.namespace, "--grace-period=0", "--force"];
        self.cluster.kubectl(delete).output().await.map(drop)
    }

    /// SIGKILL to the program of a pod, which its node then starts again.
    pub async fn kill_program(&self, pod: &Pod) -> Result<()> {
        let container = pod.container.as_ref().with_context(|| format!("{} runs nothing", pod.name))?;
        self.cluster.node("ctr", &[&pod.node, "task", "kill", "-s", "SIGKILL", container]).await.map(drop)
    }

    /// Deletes the example and everything that belongs to it.
    pub async fn delete(&self) -> Result<()> {
        let delete = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=110s"];
        self.cluster.kubectl(delete).deadline(OPERATOR_DEADLINE).output().await.map(drop)
    }

    /// Uninstalls the operator.
    pub async fn uninstall_operator(&self) -> Result<()> {
        let uninstall =
            ["uninstall", "mqtt-operator", "--namespace", OPERATOR_NAMESPACE, "--ignore-not-found", "--wait"];
        self.cluster.helm(uninstall).deadline(OPERATOR_DEADLINE).output().await?;
        self.cluster.kubectl(["delete", "namespace", OPERATOR_NAMESPACE, "--ignore-not-found"]).output().await.map(drop)
    }

    /// Takes everything of ours off a cluster that goes on without it: the example, the operator, and these namespaces.
    pub async fn remove(&self, namespaces: &[&str]) -> Result<()> {
        self.delete().await?;
        for namespace in namespaces {
            let delete = ["delete", "namespace", namespace, "--ignore-not-found", "--timeout=110s"];
            self.cluster.kubectl(delete).deadline(OPERATOR_DEADLINE).output().await?;
        }
        self.uninstall_operator().await
    }

    /// The user name under which the operator speaks to the API server.
    pub async fn operator_user(&self) -> Result<String> {
        let path = "jsonpath={.items[0].spec.template.spec.serviceAccountName}";
        let name = self.cluster.kubectl(["get", "deployment", "-n", OPERATOR_NAMESPACE, "-o", path]).output().await?;
        if name.is_empty() {
            return Err(anyhow!("the operator's Deployment names no service account"));
        }
        Ok(format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{name}"))
    }

    /// Everything that could say why something does not work. Never fails: it is for the moment of a failure.
    pub async fn diagnosis(&self) -> String {
        let pods = format!("app.kubernetes.io/instance={BROKER}");
        let questions: [&[&str]; 6] = [
            &["get", "node,mqb,statefulset,pod,service,pvc", "-A", "-o", "wide"],
            &["get", "mqb", "-A", "-o", "jsonpath={.items[*].status}"],
            &["get", "event", "-A", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "-n",
                OPERATOR_NAMESPACE,
                "--all-containers",
                "--prefix",
                "--tail=40",
                "--ignore-errors",
                "-l",
                "app.kubernetes.io/name=mqtt-operator",
            ],
            &["logs", "-n", NAMESPACE, "--prefix", "--tail=30", "--ignore-errors", "-l", &pods],
            &["logs", "-n", NAMESPACE, "--prefix", "--tail=15", "--ignore-errors", "--previous", "-l", &pods],
        ];
        let mut text = String::new();
        for question in questions {
            text += &format!("\n--- kubectl {}\n", question.join(" "));
            text += &match self.cluster.kubectl(question).output().await {
                Ok(answer) => last_lines(&answer, 120),
                Err(error) => format!("{error:#}\n"),
            };
        }
        text
    }
}

/// A running `kubectl get -w`.
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

/// The example, which the README names too.
pub fn example() -> PathBuf {
    root().join("charts/mqtt-operator/examples/broker.yaml")
}

/// The operator's chart.
pub fn chart() -> PathBuf {
    root().join("charts/mqtt-operator")
}

/// The folder of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

fn pod(json: &Value) -> Option<Pod> {
    let status = &json["status"];
    let container = status["containerStatuses"][0]["containerID"].as_str().and_then(|id| id.split("://").nth(1));
    Some(Pod {
        name: json["metadata"]["name"].as_str()?.to_owned(),
        uid: json["metadata"]["uid"].as_str()?.to_owned(),
        restarts: status["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0),
        ready: status["containerStatuses"][0]["ready"] == true,
        namespace: json["metadata"]["namespace"].as_str()?.to_owned(),
        address: status["podIP"].as_str().and_then(|address| address.parse().ok()),
        node: json["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
        container: container.map(str::to_owned),
    })
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n") + "\n"
}
