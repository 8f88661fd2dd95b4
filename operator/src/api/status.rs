//! What the operator says about an `MqttBroker`, and the names of its conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The types of the conditions, each a promise about the whole resource.
pub mod condition {
    /// Clients can connect, publish and receive.
    pub const AVAILABLE: &str = "Available";
    /// Something is under way; the message says what is waited for.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong that will not mend by waiting, or has not mended yet; the message says what.
    pub const DEGRADED: &str = "Degraded";
    /// Every shard has its full set of in-sync replicas, so the loss of a broker loses nothing.
    pub const FAILOVER_READY: &str = "FailoverReady";
    /// Every broker runs with the configuration and image of the resource.
    pub const CONFIG_APPLIED: &str = "ConfigApplied";
    /// The operator keeps its hands off, because the resource says so.
    pub const PAUSED: &str = "Paused";

    /// All of them, in the order in which status lists them.
    pub const ALL: [&str; 6] = [AVAILABLE, PROGRESSING, DEGRADED, FAILOVER_READY, CONFIG_APPLIED, PAUSED];
}

/// What is true of the brokers.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MqttBrokerStatus {
    /// The conditions `Available`, `Progressing`, `Degraded`, `FailoverReady`, `ConfigApplied` and `Paused`.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,

    /// The generation of the resource that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Whether the cluster was ever founded. Once true it stays true: no broker may found it again.
    #[serde(default)]
    pub initialised: bool,

    /// The member that is to leave. It is written down before it is asked to, so that a broker which has left is never taken
    /// for one that has yet to join, whatever happens in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<String>,

    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Members of the broker cluster, whatever their state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<i32>,

    /// Shards that lack an in-sync replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards_under_replicated: Option<i32>,

    /// Clients connected to all brokers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<i64>,

    /// Persistent sessions, connected or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,

    /// Version the brokers run; several while they are being rolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Label selector of the pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

impl MqttBrokerStatus {
    /// The condition of a type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether a condition is there and true.
    pub fn is_true(&self, type_: &str) -> bool {
        self.condition(type_).is_some_and(|condition| condition.status == "True")
    }
}

/// `metav1.Condition` as a schema; lists of conditions merge by their type.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 }
            }
        }
    })
}
