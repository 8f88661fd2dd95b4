//! The configuration file as it is written.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::limits::ClientLimits;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {error}; check --config")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is no YAML of this form: an unknown key, a missing one, or a value of another type.
    #[error("{path}: {what}")]
    Malformed {
        /// Which file.
        path: String,
        /// Where and what, with what would be allowed.
        what: String,
    },
    /// A value that can't be meant.
    #[error("{key}: {value}: {remedy}")]
    Value {
        /// Its key, from the top.
        key: String,
        /// As written.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

impl ConfigError {
    pub(super) fn value(key: &str, value: impl Display, remedy: &str) -> ConfigError {
        ConfigError::Value { key: key.to_owned(), value: value.to_string(), remedy: remedy.to_owned() }
    }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<File, ConfigError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: name(), error })?;
    parse(&text).map_err(|what| ConfigError::Malformed { path: name(), what })
}

/// Parses a file; the error says line and column, what stands there and what would be allowed.
pub fn parse(text: &str) -> Result<File, String> {
    // An empty file, or one of comments only, asks for nothing.
    let file: Option<File> = serde_yaml::from_str(text).map_err(|error| located(text, &error))?;
    Ok(file.unwrap_or_default())
}

/// The library tells no place for a key at the top: look for it.
fn located(text: &str, error: &serde_yaml::Error) -> String {
    let what = error.to_string();
    if what.contains(" line ") {
        return what;
    }
    let key = what.split('`').nth(1).unwrap_or_default();
    match text.lines().position(|line| line.trim_start().starts_with(key)) {
        Some(line) if !key.is_empty() => format!("{what} at line {}", line + 1),
        _ => what,
    }
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
    /// Health, metrics and the API; absent: off.
    pub admin: Option<Admin>,
    /// The other nodes; absent: a cluster of one.
    pub cluster: Option<Cluster>,
    /// How many copies, in how many parts.
    pub replication: Option<Replication>,
    /// Bounds on clients.
    pub limits: Option<Limits>,
}

/// `node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique within the cluster; default: the host name.
    pub name: Option<String>,
    /// Worker threads; default: one per core.
    pub workers: Option<u16>,
}

/// One of `listeners`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `mqtt://HOST:PORT`.
    pub url: String,
    /// Let in clients that don't prove who they are; default: on loopback only.
    pub allow_anonymous: Option<bool>,
}

impl Listener {
    pub(super) fn of(url: &str) -> Listener {
        Listener { url: url.to_owned(), allow_anonymous: None }
    }
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
    pub factor: Option<u8>,
    /// Fixed when the cluster is founded; default: 16.
    pub shards: Option<u16>,
}

macro_rules! limits {
    ($($name:ident: $type:ty, $min:literal..=$max:literal;)*) => {
        /// `limits`; see [`ClientLimits`] for what each bounds, and its default.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "told at ClientLimits")]
        pub struct Limits { $(pub $name: Option<$type>,)* }

        impl Limits {
            pub(super) fn over(&self, mut defaults: ClientLimits) -> Result<ClientLimits, ConfigError> {
                $(if let Some(value) = self.$name {
                    if !($min..=$max).contains(&value) {
                        let remedy = format!("choose from {} to {}", $min, $max);
                        return Err(ConfigError::value(concat!("limits.", stringify!($name)), value, &remedy));
                    }
                    defaults.$name = value;
                })*
                Ok(defaults)
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
    connections_max: usize, 1..=10_000_000;
    connect_ms: u64, 100..=600_000;
}
