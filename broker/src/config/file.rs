//! The configuration file as it is written: only its form is checked here. Numbers are wide, so that one that is too
//! large is refused with its bounds.

use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigError;
use crate::limits::ClientLimits;

/// Parses a file.
///
/// # Errors
/// If it is no YAML of this form.
pub fn parse(text: &str) -> Result<File, serde_yaml::Error> {
    // An empty file, or one of comments only, asks for nothing.
    Ok(serde_yaml::from_str::<Option<File>>(text)?.unwrap_or_default())
}

/// The whole file. Every key may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// This node.
    pub node: Option<Node>,
    /// Where to keep what must survive; absent: in memory.
    pub data_dir: Option<PathBuf>,
    /// For clients; default: `mqtt://127.0.0.1:1883`.
    pub listeners: Option<Vec<Listener>>,
    /// Who clients are, and what they may.
    pub auth: Option<Auth>,
    /// What is said about what happens.
    pub log: Option<Logging>,
    /// Seconds from one report in `$SYS` topics to the next; 0: none.
    pub sys_interval_seconds: Option<u64>,
    /// Health, metrics and the API; absent: off.
    pub admin: Option<Admin>,
    /// The other nodes; absent: a cluster of one.
    pub cluster: Option<Cluster>,
    /// How many copies, in how many parts.
    pub replication: Option<Replication>,
    /// Bounds on clients.
    pub limits: Option<Limits>,
    /// How messages are shared out among the members of a shared subscription.
    pub shared_subscriptions: Option<SharedSubscriptions>,
}

/// `node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique within the cluster; default: the host name.
    pub name: Option<String>,
    /// Worker threads; default: one per core.
    pub workers: Option<u64>,
    /// Bytes of queued messages that stay in memory; more are in files of the data directory.
    pub queue_memory_bytes: Option<u64>,
}

/// One of `listeners`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `mqtt://HOST:PORT`, or `mqtts`, `ws`, `wss`; the last two may end in a path.
    pub url: String,
    /// Let in clients that don't prove who they are; default: on loopback only, and while there is no password file.
    pub allow_anonymous: Option<bool>,
    /// A balancer in front sends a PROXY header (version 1 or 2) first; default: no.
    pub proxy_protocol: Option<bool>,
    /// Connections at once; more are closed.
    pub connections_max: Option<u64>,
    /// Connections accepted a second; more wait.
    pub connections_per_second: Option<u64>,
    /// For `mqtts` and `wss`.
    pub tls: Option<ListenerTls>,
}

/// `listeners[].tls`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// At least one; each is used for the names it is valid for, the first for all others.
    pub certificates: Vec<CertificateFiles>,
    /// `1.2` or `1.3`; default: `1.2`.
    pub min_version: Option<String>,
    /// Who may sign the certificates of clients (PEM); absent: none is asked for.
    pub client_ca_file: Option<PathBuf>,
    /// `required` or `optional`; default: `required`.
    pub client_certificates: Option<String>,
    /// What of a client's certificate is its user name: `cn`, `san` or `none`; default: `none`.
    pub user_from: Option<String>,
}

/// One of `listeners[].tls.certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate and those above it (PEM).
    pub cert_file: PathBuf,
    /// Its key (PEM).
    pub key_file: PathBuf,
}

/// `auth`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Users and what proves them; absent: nobody has a password.
    pub password_file: Option<PathBuf>,
    /// What clients may; absent: everything.
    pub acl_file: Option<PathBuf>,
}

/// `log`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// As in `MQTT_BROKER_LOG`, which wins; default: `info`.
    pub filter: Option<String>,
}

/// `admin`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `HOST:PORT`.
    pub listen: String,
    /// A file with the token that /api asks for; absent: none.
    pub token_file: Option<PathBuf>,
}

/// `cluster`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `HOST:PORT` for peers.
    pub listen: String,
    /// Where peers reach this node; default: `listen`.
    pub advertise: Option<String>,
    /// Where to look for peers: `HOST:PORT` or `dns://HOST:PORT`.
    #[serde(default)]
    pub peers: Vec<String>,
    /// The node that may found the cluster while it was never initialised.
    pub bootstrap: Option<String>,
    /// The right to found it lasts while this file exists.
    pub bootstrap_marker: Option<PathBuf>,
    /// Certificates between peers.
    pub tls: PeerTls,
}

/// `cluster.tls`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerTls {
    /// Who may sign the certificates of peers (PEM).
    pub ca_file: PathBuf,
    /// This node's certificate (PEM).
    pub cert_file: PathBuf,
    /// Its key (PEM).
    pub key_file: PathBuf,
}

/// `replication`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// 1, 3 or 5; absent: automatic.
    pub factor: Option<u64>,
    /// Fixed when the cluster is founded; default: 16.
    pub shards: Option<u64>,
}

/// `shared_subscriptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedSubscriptions {
    /// `round_robin`, `random`, `sticky`, `hash_client` or `hash_topic`; default: `round_robin`.
    pub strategy: Option<String>,
}

macro_rules! limits {
    ($($name:ident: $type:ty, $min:literal..=$max:literal;)*) => {
        /// `limits`; see [`ClientLimits`] for what each bounds, and its default.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "told at ClientLimits")]
        pub struct Limits { $(pub $name: Option<u64>,)* }

        impl Limits {
            pub(super) fn over(&self, defaults: ClientLimits) -> Result<ClientLimits, ConfigError> {
                // Every limit is named here, so that one that can't be set does not compile.
                Ok(ClientLimits { $($name: match self.$name {
                    None => defaults.$name,
                    Some(value @ $min..=$max) => value as $type,
                    Some(value) => {
                        let remedy = format!("choose from {} to {}", $min, $max);
                        return Err(ConfigError::value(concat!("limits.", stringify!($name)), value, &remedy));
                    }
                },)* })
            }
        }
    };
}

limits! {
    packet_bytes_max: u32, 128..=268_435_455;
    receive_maximum: u16, 1..=65_535;
    in_flight_max: u16, 1..=65_000;
    waiting_items_max: usize, 1..=10_000_000;
    waiting_bytes_max: usize, 1_024..=1_073_741_824;
    output_bytes_max: usize, 1_024..=1_073_741_824;
    subscriptions_max: usize, 1..=1_000_000;
    awaited_max: usize, 1..=65_535;
    topic_aliases_max: u16, 0..=65_535;
    keep_alive_seconds_max: u16, 0..=65_535;
    connections_max: usize, 1..=10_000_000;
    connect_ms: u64, 100..=600_000;
    linger_ms: u64, 100..=600_000;
    congestion_ms: u64, 1..=600_000;
    peer_batches_max: usize, 1..=65_536;
}
