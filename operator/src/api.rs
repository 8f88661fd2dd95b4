//! The `MqttBroker` resource: what a person writes, with every default and every rule in the schema itself.
//!
//! The rules are CEL, so the API server refuses a wrong resource with words and no webhook has to be installed.
//! Deliberately absent: anything the operator works out by itself (see `validate` for what is meant, `status` for what is).

mod access;
mod care;
mod listeners;
mod status;

pub use access::{AclsSecret, Auth, PasswordsSecret, Tls};
pub use care::{DisruptionBudget, Monitoring};
pub use listeners::{
    ClientService, Listeners, MqttListener, MqttsListener, Served, ServiceType, WsListener, WssListener,
};
pub use status::{MqttBrokerStatus, condition};

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The longest name: the StatefulSet's revision label adds eleven characters to it and may have 63.
pub const NAME_LENGTH_MAX: usize = 52;

/// The most replicas a resource may ask for.
pub const REPLICAS_MAX: i32 = 99;

/// The annotation that makes the operator keep its hands off everything but the status while it is `"true"`.
pub const PAUSED_ANNOTATION: &str = "mqttbroker.dev/paused";

/// What a person wants: a set of brokers that are one.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mqttbroker.dev",
    version = "v1alpha1",
    kind = "MqttBroker",
    plural = "mqttbrokers",
    shortname = "mqb",
    category = "mqtt",
    category = "all",
    namespaced,
    doc = "A replicated MQTT broker",
    status = "MqttBrokerStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(
        name = "Failover",
        type_ = "string",
        description = "whether every shard has its full set of in-sync replicas",
        json_path = ".status.conditions[?(@.type==\"FailoverReady\")].status"
    ),
    printcolumn(name = "Connections", type_ = "integer", json_path = ".status.connections"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Available",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Available\")].status"
    ),
    printcolumn(
        name = "Progress",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Progressing\")].message"
    ),
    validation = Rule::new("size(self.metadata.name) <= 52")
        .message("metadata.name has more than 52 characters: choose a shorter name, the names of pods and Services are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must begin with a letter and hold only a-z, 0-9 and '-': Services are named after it")
)]
#[x_kube(
    validation = Rule::new("!has(self.replication.factor) || self.replication.factor <= self.replicas")
        .message("replication.factor is above replicas: raise replicas or lower the factor, each copy needs a broker of its own"),
    validation = Rule::new("!(has(self.listeners.mqtts) || has(self.listeners.wss)) || has(self.tls)")
        .message("listeners.mqtts and listeners.wss need a certificate: set tls.secretName to a Secret of type kubernetes.io/tls"),
    validation = Rule::new("!has(self.version) || !has(self.image) || !self.image.matches('(:[^/]+|@.+)$')")
        .message("version and image both name a tag or digest: leave it out of image, or leave version out"),
    validation = Rule::new("!has(self.podDisruptionBudget.maxUnavailable) || self.podDisruptionBudget.maxUnavailable * 2 < self.replicas")
        .message("podDisruptionBudget.maxUnavailable would let half of the brokers or more be evicted: lower it below half of replicas, or leave it out")
)]
#[serde(rename_all = "camelCase")]
pub struct MqttBrokerSpec {
    /// Number of brokers. Two keep one copy of everything and survive no loss; three or more survive the loss of one.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 99))]
    pub replicas: i32,

    /// Image of the brokers. Unset: the operator's, and the one that is running stays when the operator is upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// Version of the brokers: the tag of the image, where `image` names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$')")
            .message("version must be the tag of an image, such as 0.1.0")
    )]
    pub version: Option<String>,

    /// When nodes pull the image.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// Where clients connect.
    #[serde(default)]
    pub listeners: Listeners,

    /// Who may connect, and what they may do.
    #[serde(default, skip_serializing_if = "Auth::is_empty")]
    pub auth: Auth,

    /// The certificate that clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// How often everything is kept.
    #[serde(default)]
    pub replication: Replication,

    /// Where everything is kept. Each broker has a volume of its own.
    #[serde(default)]
    pub persistence: Persistence,

    /// CPU and memory of each broker.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,

    /// Limits of the broker, as in its configuration file (`limits`).
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub limits: serde_json::Map<String, serde_json::Value>,

    /// Further settings of the broker's configuration file. What the operator sets itself (`node`, `data_dir`,
    /// `listeners`, `auth`, `admin`, `cluster`, `replication`, `limits`) is refused here.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "further_config")]
    pub config: serde_json::Map<String, serde_json::Value>,

    /// Changes to the pods for which there is no field: a merge patch of a pod template (`metadata`, `spec`). Lists whose
    /// elements have names are merged by them, `null` removes; the broker's container is called `mqtt-broker`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub pod_template: serde_json::Map<String, serde_json::Value>,

    /// How many brokers may be evicted at once.
    #[serde(default)]
    pub pod_disruption_budget: DisruptionBudget,

    /// Who collects the brokers' metrics.
    #[serde(default)]
    pub monitoring: Monitoring,
}

/// Settings of the broker's configuration file that are the operator's to make.
pub const RESERVED_CONFIG_KEYS: [&str; 8] =
    ["node", "data_dir", "listeners", "auth", "admin", "cluster", "replication", "limits"];

/// When nodes pull an image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImagePullPolicy {
    /// Before every start.
    Always,
    /// When the node doesn't have it.
    #[default]
    IfNotPresent,
    /// Not at all.
    Never,
}

impl ImagePullPolicy {
    /// The word Kubernetes has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// How often everything is kept.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// Copies of each shard: 1, 3 or 5. Unset: one below three members, three from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("self in [1, 3, 5]")
            .message("replication.factor must be 1, 3 or 5: a majority of an even number survives no more losses than of the odd number below it")
    )]
    pub factor: Option<i32>,

    /// Number of shards, fixed when the cluster is founded.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("replication.shards is fixed when the cluster is founded: make a new MqttBroker to have another number")
    )]
    pub shards: i32,
}

/// Where everything is kept.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("persistence.storageClassName can't change: volumes don't move between classes, make a new MqttBroker to use another")
)]
#[serde(rename_all = "camelCase")]
pub struct Persistence {
    /// Size of each broker's volume. It can grow where the storage class allows it, never shrink.
    #[serde(default = "default_size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
            .message("persistence.size must be a positive quantity such as 1Gi"),
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || !quantity(self).isLessThan(quantity(oldSelf))")
            .message("persistence.size only grows: volumes can't shrink")
    )]
    pub size: String,

    /// Storage class of the volumes; unset: the default class of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,

    /// What happens to the volumes when the MqttBroker is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What happens to the volumes when the MqttBroker is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// They stay, and an MqttBroker made again under the same name resumes from them.
    #[default]
    Retain,
    /// They go with it.
    Delete,
}

/// CPU and memory of each broker.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What a node must have free.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub requests: BTreeMap<String, Amount>,

    /// What a broker may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub limits: BTreeMap<String, Amount>,
}

impl Resources {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }
}

/// A quantity as people write it: `2`, `500m`, `1Gi`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(untagged)]
pub enum Amount {
    /// A bare number.
    Number(i64),
    /// A number with its suffix.
    Text(String),
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Default for Replication {
    fn default() -> Self {
        Self { factor: None, shards: default_shards() }
    }
}

impl Default for Persistence {
    fn default() -> Self {
        Self { size: default_size(), storage_class_name: None, deletion_policy: DeletionPolicy::default() }
    }
}

fn default_replicas() -> i32 {
    3
}

fn default_shards() -> i32 {
    16
}

fn default_size() -> String {
    "1Gi".to_owned()
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Anything but what the operator sets: those keys are declared, so that a rule can tell whether they are there.
fn further_config(_: &mut SchemaGenerator) -> Schema {
    let reserved: serde_json::Map<String, serde_json::Value> = RESERVED_CONFIG_KEYS
        .iter()
        .map(|key| {
            let schema = match *key {
                "data_dir" => json!({ "type": "string" }),
                "listeners" => {
                    json!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
                }
                _ => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
            };
            ((*key).to_owned(), schema)
        })
        .collect();
    let rule = RESERVED_CONFIG_KEYS.map(|key| format!("!has(self.{key})")).join(" && ");
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": reserved,
        "x-kubernetes-validations": [{
            "rule": rule,
            "message": format!(
                "config can't set {}: the operator does, use the fields of spec", RESERVED_CONFIG_KEYS.join(", ")
            ),
        }],
    })
}

fn amounts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "x-kubernetes-int-or-string": true } })
}

/// The CustomResourceDefinition, as it stands in `crds/`.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    let yaml = serde_yaml::to_string(&<MqttBroker as kube::CustomResourceExt>::crd())?;
    Ok(format!("# Generated by `mqtt-operator crd`; a test fails when it is stale.\n{yaml}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_definitions_in_the_tree_are_generated_from_this_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for path in ["crds/mqttbrokers.yaml", "charts/mqtt-operator/crds/mqttbrokers.yaml"] {
            let stored = std::fs::read_to_string(root.join(path)).unwrap_or_default();
            assert!(stored == crd_yaml().unwrap(), "{path} is stale: run `cargo run -p mqtt-operator -- crd > {path}`");
        }
    }

    #[test]
    fn the_example_of_the_chart_is_a_resource() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/mqtt-operator/examples/broker.yaml");
        let example: MqttBroker = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!((example.spec.replicas, example.spec.replication.shards), (3, 16));
    }
}
