//! Where clients connect: one listener per protocol, all behind one Service.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where clients connect.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("self.mqtt.enabled || has(self.mqtts) || has(self.ws) || has(self.wss)")
        .message("listeners: no client could connect, enable mqtt or add mqtts, ws or wss"),
    validation = Rule::new("[self.mqtt.enabled ? self.mqtt.port : -1, has(self.mqtts) ? self.mqtts.port : -2, has(self.ws) ? self.ws.port : -3, has(self.wss) ? self.wss.port : -4].all(port, [self.mqtt.enabled ? self.mqtt.port : -1, has(self.mqtts) ? self.mqtts.port : -2, has(self.ws) ? self.ws.port : -3, has(self.wss) ? self.wss.port : -4].filter(other, other == port).size() == 1)")
        .message("listeners: two of them have the same port, give each a port of its own")
)]
#[serde(rename_all = "camelCase")]
pub struct Listeners {
    /// MQTT over TCP.
    #[serde(default)]
    pub mqtt: MqttListener,

    /// MQTT over TLS; needs `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtts: Option<MqttsListener>,

    /// MQTT over WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ws: Option<WsListener>,

    /// MQTT over WebSocket and TLS; needs `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wss: Option<WssListener>,

    /// The Service in front of the listeners.
    #[serde(default)]
    pub service: ClientService,
}

/// MQTT over TCP.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MqttListener {
    /// Whether it is served at all.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// Port of the Service.
    #[serde(default = "default_mqtt_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl Default for MqttListener {
    fn default() -> Self {
        Self { enabled: true, port: default_mqtt_port() }
    }
}

/// MQTT over TLS.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MqttsListener {
    /// Port of the Service.
    #[serde(default = "default_mqtts_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// MQTT over WebSocket.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WsListener {
    /// Port of the Service.
    #[serde(default = "default_ws_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// MQTT over WebSocket and TLS.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WssListener {
    /// Port of the Service.
    #[serde(default = "default_wss_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// The Service in front of the listeners.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientService {
    /// How far it reaches.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// Annotations of the Service, for load balancers and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// How far a Service reaches.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Inside the cluster.
    #[default]
    ClusterIP,
    /// A port of every node.
    NodePort,
    /// An address outside.
    LoadBalancer,
}

impl ServiceType {
    /// The word Kubernetes has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// One listener that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Scheme of its URL, which is also the name of its port.
    pub scheme: &'static str,
    /// Its port inside the pods.
    pub pod_port: i32,
    /// Its port of the Service.
    pub service_port: i32,
    /// Whether it needs a certificate.
    pub tls: bool,
}

impl Listeners {
    /// Those that are served, in the order in which a client's choice would be made.
    pub fn served(&self) -> Vec<Served> {
        let served = |scheme, pod_port, service_port, tls| Served { scheme, pod_port, service_port, tls };
        [
            self.mqtt.enabled.then(|| served("mqtt", default_mqtt_port(), self.mqtt.port, false)),
            self.mqtts.as_ref().map(|one| served("mqtts", default_mqtts_port(), one.port, true)),
            self.ws.as_ref().map(|one| served("ws", default_ws_port(), one.port, false)),
            self.wss.as_ref().map(|one| served("wss", default_wss_port(), one.port, true)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn yes() -> bool {
    true
}

fn default_mqtt_port() -> i32 {
    1883
}

fn default_mqtts_port() -> i32 {
    8883
}

fn default_ws_port() -> i32 {
    8083
}

fn default_wss_port() -> i32 {
    8084
}
