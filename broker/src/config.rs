//! What was asked for becomes what is meant, once: [`file`] is what a person wrote, [`Config`] what the rooms are given.
//!
//! Every error names the place, the value and the remedy.

pub mod file;
mod listen;

use std::path::PathBuf;

pub use file::ConfigError;
pub use listen::Listen;

use crate::cli::Run;
use crate::limits::ClientLimits;

/// Shards of a cluster whose founder was not told otherwise.
const SHARDS_DEFAULT: u16 = 16;
/// More shards than this cost more at rest than they bring.
const SHARDS_MAX: u16 = 256;
/// More workers than this have no use.
const WORKERS_MAX: u16 = 256;

/// What a node is to be. Checked: whoever holds one need not check again.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Unique within the cluster.
    pub node_name: String,
    /// At least one.
    pub workers: u16,
    /// `None`: in memory.
    pub data_dir: Option<PathBuf>,
    /// At least one.
    pub listeners: Vec<Listen>,
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
        let file = match &run.config {
            Some(path) => file::read(path)?,
            None => file::File::default(),
        };
        Config::new(file, run)
    }

    fn new(file: file::File, run: &Run) -> Result<Config, ConfigError> {
        let node = file.node.unwrap_or_default();
        let listeners = listeners(file.listeners, &run.listen)?;
        let workers = match run.workers.or(node.workers) {
            None => {
                std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKERS_MAX as usize) as u16)
            }
            Some(workers @ 1..=WORKERS_MAX) => workers,
            Some(workers) => return Err(ConfigError::value("node.workers", workers, "choose from 1 to 256")),
        };
        let replication = file.replication.unwrap_or_default();
        if let Some(factor) = replication.factor
            && ![1, 3, 5].contains(&factor)
        {
            return Err(ConfigError::value("replication.factor", factor, "choose 1, 3 or 5, or leave it out"));
        }
        let shards = replication.shards.unwrap_or(SHARDS_DEFAULT);
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(ConfigError::value("replication.shards", shards, "choose from 1 to 256"));
        }
        let node_name = run.node_name.clone().or(node.name).unwrap_or_else(host_name);
        if node_name.is_empty() || node_name.len() > 253 {
            return Err(ConfigError::value("node.name", &node_name, "choose from 1 to 253 characters"));
        }
        Ok(Config {
            workers,
            data_dir: run.data_dir.clone().or(file.data_dir),
            listeners,
            admin: match (run.admin, file.admin) {
                (Some(listen), admin) => Some(Admin { listen, token_file: admin.and_then(|admin| admin.token_file) }),
                (None, Some(admin)) => Some(Admin {
                    listen: listen::socket_address("admin.listen", &admin.listen)?,
                    token_file: admin.token_file,
                }),
                (None, None) => None,
            },
            cluster: file.cluster.map(|cluster| peers(cluster, run.advertise.clone())).transpose()?,
            replication_factor: replication.factor,
            shards,
            limits: file.limits.unwrap_or_default().over(ClientLimits::default())?,
            node_name,
        })
    }
}

fn listeners(file: Option<Vec<file::Listener>>, flags: &[String]) -> Result<Vec<Listen>, ConfigError> {
    let asked: Vec<file::Listener> = if flags.is_empty() {
        file.unwrap_or_else(|| vec![file::Listener::of("mqtt://127.0.0.1:1883")])
    } else {
        flags.iter().map(|url| file::Listener::of(url)).collect()
    };
    if asked.is_empty() {
        return Err(ConfigError::value("listeners", "[]", "give at least one, or leave the key out"));
    }
    asked.iter().map(Listen::new).collect()
}

fn peers(cluster: file::Cluster, advertise: Option<String>) -> Result<Peers, ConfigError> {
    listen::socket_address("cluster.listen", &cluster.listen)?;
    let advertise = advertise.or(cluster.advertise).unwrap_or_else(|| cluster.listen.clone());
    listen::host_and_port("cluster.advertise", &advertise)?;
    for peer in &cluster.peers {
        listen::host_and_port("cluster.peers", peer.strip_prefix("dns://").unwrap_or(peer))?;
    }
    Ok(Peers {
        listen: cluster.listen,
        advertise,
        peers: cluster.peers,
        bootstrap: cluster.bootstrap,
        bootstrap_marker: cluster.bootstrap_marker,
        ca_file: cluster.tls.ca_file,
        cert_file: cluster.tls.cert_file,
        key_file: cluster.tls.key_file,
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "mqtt-broker".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
