//! What was asked for becomes what is meant, once: [`file`] is what a person wrote, [`Config`] what the rooms are given.
//!
//! Flags win over the environment, which wins over the file. Every error names the place, the value and the remedy.
//! Absent: whether what is named (a host, a certificate, a directory) is there; that is seen when it is used.

mod error;
pub mod file;
mod listen;
mod place;

use std::path::{Path, PathBuf};

pub use error::ConfigError;
pub use file::CertificateFiles;
pub use listen::{ClientCertificates, Listen, ListenTls, TlsVersion, UserFrom};

use crate::cli::Run;
use crate::limits::{self, ClientLimits};
use crate::share::Strategy;

/// Shards of a cluster whose founder was not told otherwise.
const SHARDS_DEFAULT: u16 = 16;
/// More shards than this cost more at rest than they bring.
const SHARDS_MAX: u16 = 256;
/// More workers than this have no use.
const WORKERS_MAX: u16 = 256;
/// A terabyte: more than queues may hold.
const QUEUE_MEMORY_BYTES_MAX: u64 = 1 << 40;
/// What a name in DNS may have.
const NODE_NAME_BYTES_MAX: usize = 253;
/// As in Mosquitto.
const SYS_INTERVAL_SECONDS_DEFAULT: u64 = 10;
/// A day.
const SYS_INTERVAL_SECONDS_MAX: u64 = 86_400;
/// Where clients are served if nobody says otherwise.
const LISTEN_DEFAULT: &str = "mqtt://127.0.0.1:1883";

/// What a node is to be. Checked: whoever holds one need not check again.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Unique within the cluster.
    pub node_name: String,
    /// At least one.
    pub workers: u16,
    /// Bytes of queued messages that stay in memory, where there is a data directory.
    pub queue_memory_bytes: usize,
    /// `None`: in memory.
    pub data_dir: Option<PathBuf>,
    /// At least one.
    pub listeners: Vec<Listen>,
    /// Users and what proves them.
    pub password_file: Option<PathBuf>,
    /// What clients may.
    pub acl_file: Option<PathBuf>,
    /// `None`: the default.
    pub log_filter: Option<String>,
    /// Seconds from one report in `$SYS` topics to the next. `None`: there is none.
    pub sys_interval_seconds: Option<u64>,
    /// `None`: no admin HTTP.
    pub admin: Option<Admin>,
    /// `None`: a cluster of one.
    pub cluster: Option<Peers>,
    /// Voters per shard: 1, 3 or 5. `None`: automatic.
    pub replication_factor: Option<u8>,
    /// How many shards a cluster gets that this node founds.
    pub shards: u16,
    /// Bounds on clients.
    pub limits: ClientLimits,
    /// Which member of a shared subscription a message goes to.
    pub shared_subscriptions: Strategy,
}

/// The admin HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Its address.
    pub listen: std::net::SocketAddr,
    /// A file with the token that /api asks for.
    pub token_file: Option<PathBuf>,
}

/// How this node meets the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// The address for peers.
    pub listen: String,
    /// Where peers reach it.
    pub advertise: String,
    /// Where to look for them: `host:port`, or `dns://host:port` for all addresses of a name.
    pub peers: Vec<String>,
    /// The node that may found the cluster while it was never initialised.
    pub bootstrap: Option<String>,
    /// The right to found it lasts while this file exists.
    pub bootstrap_marker: Option<PathBuf>,
    /// PEM file: who may sign the certificates of peers.
    pub ca_file: PathBuf,
    /// PEM file: this node's certificate.
    pub cert_file: PathBuf,
    /// PEM file: its key.
    pub key_file: PathBuf,
}

impl Config {
    /// From the command line and environment (`run`), and the file it names.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and remedy.
    pub fn load(run: &Run) -> Result<Config, ConfigError> {
        let Some(path) = &run.config else { return Config::new(file::File::default(), run) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.display().to_string(), error })?;
        Config::read(path, &text, run)
    }

    /// The same, were this the text of the file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn check(run: &Run, text: &str) -> Result<Config, ConfigError> {
        Config::read(run.config.as_deref().unwrap_or(Path::new("configuration")), text, run)
    }

    fn read(path: &Path, text: &str, run: &Run) -> Result<Config, ConfigError> {
        let file = file::parse(text).map_err(|error| ConfigError::malformed(path, text, &error))?;
        Config::new(file, run).map_err(|error| error.at(path, text))
    }

    fn new(file: file::File, run: &Run) -> Result<Config, ConfigError> {
        let node = file.node.unwrap_or_default();
        let replication = file.replication.unwrap_or_default();
        let auth = file.auth.unwrap_or_default();
        let password_file = run.password_file.clone().or(auth.password_file);
        Ok(Config {
            node_name: node_name(run.node_name.as_deref(), node.name)?,
            workers: workers(run.workers, node.workers)?,
            queue_memory_bytes: queue_memory_bytes(node.queue_memory_bytes)?,
            data_dir: data_dir(run.data_dir.clone(), file.data_dir)?,
            listeners: listeners(run, file.listeners, password_file.is_some())?,
            password_file,
            acl_file: run.acl_file.clone().or(auth.acl_file),
            log_filter: log_filter(file.log.and_then(|log| log.filter))?,
            sys_interval_seconds: match file.sys_interval_seconds {
                None => Some(SYS_INTERVAL_SECONDS_DEFAULT),
                Some(0) => None,
                Some(seconds @ 1..=SYS_INTERVAL_SECONDS_MAX) => Some(seconds),
                Some(seconds) => {
                    let remedy = format!("choose from 1 to {SYS_INTERVAL_SECONDS_MAX}, or 0 for none");
                    return Err(ConfigError::value("sys_interval_seconds", seconds, &remedy));
                }
            },
            admin: admin(run.admin.as_deref(), file.admin)?,
            cluster: file.cluster.map(|cluster| peers(run.advertise.clone(), cluster)).transpose()?,
            replication_factor: match replication.factor {
                None => None,
                Some(factor @ (1 | 3 | 5)) => Some(factor as u8),
                Some(factor) => {
                    let remedy = "choose 1, 3 or 5, or leave it out";
                    return Err(ConfigError::value("replication.factor", factor, remedy));
                }
            },
            shards: match replication.shards {
                None => SHARDS_DEFAULT,
                Some(shards) => within("replication.shards", shards, SHARDS_MAX)?,
            },
            limits: file.limits.unwrap_or_default().over(ClientLimits::default())?,
            shared_subscriptions: strategy(file.shared_subscriptions.and_then(|shared| shared.strategy))?,
        })
    }
}

/// At least one.
fn within(key: &str, value: u64, max: u16) -> Result<u16, ConfigError> {
    match u16::try_from(value) {
        Ok(value) if (1..=max).contains(&value) => Ok(value),
        _ => Err(ConfigError::value(key, value, &format!("choose from 1 to {max}"))),
    }
}

fn node_name(flag: Option<&str>, file: Option<String>) -> Result<String, ConfigError> {
    let (key, name) = match (flag, file) {
        (Some(name), _) => ("--node-name (or MQTT_BROKER_NODE_NAME)", name.to_owned()),
        (None, Some(name)) => ("node.name", name),
        (None, None) => ("--node-name", host_name()),
    };
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX || !is_plain {
        let remedy = format!("choose from 1 to {NODE_NAME_BYTES_MAX} letters, digits, dots, dashes and underscores");
        return Err(ConfigError::value(key, format!("{name:?}"), &remedy));
    }
    Ok(name)
}

fn workers(flag: Option<u16>, file: Option<u64>) -> Result<u16, ConfigError> {
    match (flag, file) {
        (Some(workers), _) => within("--workers", workers.into(), WORKERS_MAX),
        (None, Some(workers)) => within("node.workers", workers, WORKERS_MAX),
        (None, None) => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            Ok(cores.min(WORKERS_MAX.into()) as u16)
        }
    }
}

fn queue_memory_bytes(file: Option<u64>) -> Result<usize, ConfigError> {
    match file {
        None => Ok(limits::QUEUE_MEMORY_BYTES_MAX),
        Some(bytes @ 0..=QUEUE_MEMORY_BYTES_MAX) => Ok(bytes as usize),
        Some(bytes) => {
            let remedy = format!("choose from 0 to {QUEUE_MEMORY_BYTES_MAX}");
            Err(ConfigError::value("node.queue_memory_bytes", bytes, &remedy))
        }
    }
}

fn data_dir(flag: Option<PathBuf>, file: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    let key = if flag.is_some() { "--data-dir" } else { "data_dir" };
    match flag.or(file) {
        Some(path) if path.as_os_str().is_empty() => {
            Err(ConfigError::value(key, "\"\"", "name a directory, or leave it out to keep everything in memory"))
        }
        path => Ok(path),
    }
}

fn listeners(run: &Run, file: Option<Vec<file::Listener>>, users: bool) -> Result<Vec<Listen>, ConfigError> {
    if !run.listen.is_empty() {
        let tls = match (&run.tls_cert, &run.tls_key) {
            (Some(cert_file), Some(key_file)) => {
                Some(CertificateFiles { cert_file: cert_file.clone(), key_file: key_file.clone() })
            }
            (None, None) => None,
            _ => return Err(ConfigError::value("--tls-cert", "and --tls-key", "give both, or neither")),
        };
        return run.listen.iter().map(|url| Listen::from_flag(url, tls.clone(), users)).collect();
    }
    match file {
        None => Ok(vec![Listen::from_flag(LISTEN_DEFAULT, None, users)?]),
        Some(asked) if asked.is_empty() => {
            Err(ConfigError::value("listeners", "[]", "give at least one, or leave the key out"))
        }
        Some(asked) => {
            let each = asked.into_iter().enumerate();
            let each = each.map(|(index, one)| Listen::from_file(&format!("listeners[{index}]"), one, users));
            distinct(each.collect::<Result<_, _>>()?)
        }
    }
}

fn admin(flag: Option<&str>, file: Option<file::Admin>) -> Result<Option<Admin>, ConfigError> {
    let (key, listen, token_file) = match (flag, file) {
        (Some(listen), file) => ("--admin", listen.to_owned(), file.and_then(|file| file.token_file)),
        (None, Some(file)) => ("admin.listen", file.listen, file.token_file),
        (None, None) => return Ok(None),
    };
    Ok(Some(Admin { listen: listen::socket_address(key, &listen)?, token_file }))
}

fn peers(flag: Option<String>, file: file::Cluster) -> Result<Peers, ConfigError> {
    listen::socket_address("cluster.listen", &file.listen)?;
    let key = if flag.is_some() { "--advertise (or MQTT_BROKER_ADVERTISE)" } else { "cluster.advertise" };
    let advertise = flag.or(file.advertise).unwrap_or_else(|| file.listen.clone());
    listen::reachable(key, &advertise)?;
    for (index, peer) in file.peers.iter().enumerate() {
        let address = peer.strip_prefix("dns://").unwrap_or(peer);
        listen::reachable(&format!("cluster.peers[{index}]"), address)?;
    }
    Ok(Peers {
        listen: file.listen,
        advertise,
        peers: file.peers,
        bootstrap: file.bootstrap,
        bootstrap_marker: file.bootstrap_marker,
        ca_file: file.tls.ca_file,
        cert_file: file.tls.cert_file,
        key_file: file.tls.key_file,
    })
}

fn log_filter(file: Option<String>) -> Result<Option<String>, ConfigError> {
    if let Some(filter) = &file
        && tracing_subscriber::EnvFilter::try_new(filter).is_err()
    {
        let remedy =
            "write a level (off, error, warn, info, debug, trace), or TARGET=LEVEL, with commas between several";
        return Err(ConfigError::value("log.filter", format!("{filter:?}"), remedy));
    }
    Ok(file)
}

/// No two listeners want the same port of the same address; any may have one that the system chooses.
fn distinct(listeners: Vec<Listen>) -> Result<Vec<Listen>, ConfigError> {
    for (index, listen) in listeners.iter().enumerate() {
        let same = |other: &Listen| other.address == listen.address && listen.address.port() > 0;
        if let Some(first) = listeners[..index].iter().position(same) {
            let remedy = format!("listeners[{first}] is there already; choose another port");
            return Err(ConfigError::value(&format!("listeners[{index}].url"), &listen.url, &remedy));
        }
    }
    Ok(listeners)
}

fn strategy(file: Option<String>) -> Result<Strategy, ConfigError> {
    let Some(name) = file else { return Ok(Strategy::default()) };
    let known = Strategy::ALL.into_iter().find(|strategy| strategy.to_string() == name);
    known.ok_or_else(|| {
        let names = Strategy::ALL.map(|strategy| strategy.to_string()).join(", ");
        ConfigError::value("shared_subscriptions.strategy", format!("{name:?}"), &format!("choose one of {names}"))
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "mqtt-broker".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
