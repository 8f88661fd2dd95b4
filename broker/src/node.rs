//! Start-up: puts the rooms of a node together, on threads of their own or, in a simulation, on one.
//!
//! Deliberately absent: anything that goes on after the start, but for the end.

mod passwd;
mod reload;
mod sys;

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::admin::{self, AdminState};
use crate::auth::{Checker, Guard, Policy};
use crate::cli::Run;
use crate::cluster::control::RUN_BITS;
use crate::cluster::handle::{
    self, ClusterConfig, ClusterDoors, ClusterHandle, ClusterRequest, ClusterWorld, Founding,
};
use crate::cluster::net::alone::AloneNet;
use crate::cluster::net::tls::{TlsFiles, TlsNet};
use crate::config::{Config, Peers};
use crate::door::{ToCluster, ToWorker};
use crate::identity::{self, Incarnation, NodeId, Origin};
use crate::limits;
use crate::listener::{self, Entrance};
use crate::replication::Settings;
use crate::storage::{self, FileDisk, Log, MemoryDisk, Options, Recovered};
use crate::worker::{self, WorkerConfig, WorkerHandle};

pub use passwd::passwd;
pub use reload::{ReloadRequest, Report, SetLogFilter, read_token};

use self::reload::Reloader;

/// What is logged if nobody says otherwise.
pub const LOG_FILTER_DEFAULT: &str = "info,openraft=error";

/// A node that runs on threads of its own.
pub struct Node {
    /// The cluster's room.
    pub cluster: ClusterHandle,
    /// Ready when the cluster's thread has ended, with the reason.
    ended: oneshot::Receiver<Result<()>>,
    /// Keeps what reloads alive.
    _reload: mpsc::Sender<ReloadRequest>,
}

/// Starts everything and returns once clients can knock. Must be called within a runtime, on which listeners accept.
///
/// # Errors
/// What can't be opened, bound or read, with its name.
pub async fn start(config: Config, run: Run, set_log_filter: Option<SetLogFilter>) -> Result<Node> {
    let origin = identify(config.data_dir.as_deref())?;
    identity::seed_hashes(rand::random::<u64>());
    let seed = rand::random::<u64>();
    let now_ms = wall_clock_ms();

    let mut listeners = Vec::new();
    for listen in &config.listeners {
        let entrance = Entrance::new(listen).with_context(|| format!("listener {}", listen.url))?;
        let bound = listener::bind(listen.address).with_context(|| format!("listener {}", listen.url))?;
        tracing::info!(url = listen.url, address = %bound.local_addr()?, "listens for clients");
        listeners.push((bound, Arc::new(entrance)));
    }
    let admin = match &config.admin {
        None => None,
        Some(asked) => Some(admin::bind(asked).await?),
    };
    let policy = policy(&config)?;
    let checker = match &policy.passwords {
        None => Checker::idle(),
        Some(_) => Checker::start(usize::from(config.workers).min(limits::CHECK_THREADS_MAX))
            .context("starting a thread that checks passwords")?,
    };
    let (policy, followed) = watch::channel(Arc::new(policy));
    let guard = Guard::new(followed, Arc::new(checker));
    let (to_cluster, from_workers) = mpsc::unbounded_channel();
    let workers: Vec<(worker::WorkerDoors, WorkerHandle)> =
        worker::doors(config.workers, &to_cluster, &config.limits).into_iter().collect();
    drop(to_cluster);
    let handles: Vec<WorkerHandle> = workers.iter().map(|(_, handle)| handle.clone()).collect();
    for (index, (doors, _)) in workers.into_iter().enumerate() {
        let config = WorkerConfig {
            index: index as u16,
            node: origin.node,
            guard: guard.clone(),
            seed: seed.wrapping_add(index as u64 + 1),
            now_ms,
        };
        worker::spawn(config, doors).context("starting a worker thread")?;
    }

    let (doors, cluster) = handle::doors();
    let commands = handles.iter().map(|handle| handle.commands.clone()).collect();
    let ended = spawn_cluster(&config, origin, seed, from_workers, commands, doors)?;

    let entrances: Vec<Arc<Entrance>> = listeners.iter().map(|(_, entrance)| entrance.clone()).collect();
    for (bound, entrance) in listeners {
        let accepted = handles.iter().map(|handle| handle.accepted.clone()).collect();
        let mut status = cluster.status.clone();
        tokio::spawn(async move {
            // Who knocks while the node starts waits in the backlog instead of being refused; not for ever, since a node
            // that finds no majority must say so (K3).
            let _ = timeout(limits::START_PATIENCE, status.wait_for(|status| status.serving)).await;
            listener::run(bound, entrance, accepted).await;
        });
    }
    if let Some(seconds) = config.sys_interval_seconds {
        tokio::spawn(sys::report(Duration::from_secs(seconds), handles.clone()));
    }
    let (token, admin) = match admin {
        None => (None, None),
        Some((bound, token)) => (token, Some(bound)),
    };
    let token = Arc::new(ArcSwapOption::from_pointee(token));
    let (reload, requests) = mpsc::channel(1);
    let reloader = Reloader { run, config, entrances: entrances.clone(), policy, token: token.clone(), set_log_filter };
    tokio::spawn(reloader.run(requests));
    if let Some(bound) = admin {
        let state = AdminState { cluster: cluster.clone(), workers: handles, entrances, token, reload: reload.clone() };
        tokio::spawn(admin::serve(bound, state));
    }
    Ok(Node { cluster, ended, _reload: reload })
}

impl Node {
    /// Runs until the process is told to end (SIGTERM, SIGINT), then drains.
    ///
    /// # Errors
    /// When the cluster's thread ends by itself: its disk or its peer address failed.
    pub async fn run(mut self) -> Result<()> {
        use tokio::signal::unix::{SignalKind, signal};

        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            ended = &mut self.ended => return ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the cluster's thread has died"))),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end: drains");
        let (done, drained) = oneshot::channel();
        let request = ClusterRequest::Drain { rate: limits::DRAIN_RATE, patience: limits::DRAIN_PATIENCE, done };
        if self.cluster.requests.send(request).await.is_ok() {
            tokio::select! {
                _ = drained => {}
                // Asked twice: now.
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        tracing::info!("ends");
        Ok(())
    }
}

/// Which run of which node this is.
fn identify(data_dir: Option<&Path>) -> Result<Origin> {
    let fresh = NodeId(rand::random::<u64>() | 1);
    let Some(data_dir) = data_dir else {
        tracing::warn!("no data directory: everything is kept in memory alone, and lost with this process");
        return Ok(Origin { node: fresh, incarnation: Incarnation(1 << RUN_BITS) });
    };
    let start =
        storage::register_start(data_dir, fresh).with_context(|| format!("data directory {}", data_dir.display()))?;
    Ok(Origin { node: start.node, incarnation: Incarnation(start.incarnation.0 << RUN_BITS) })
}

fn spawn_cluster(
    config: &Config,
    origin: Origin,
    seed: u64,
    from_workers: mpsc::UnboundedReceiver<Vec<ToCluster>>,
    to_workers: Vec<mpsc::UnboundedSender<Vec<ToWorker>>>,
    doors: ClusterDoors,
) -> Result<oneshot::Receiver<Result<()>>> {
    let (config, data_dir) = (config.clone(), config.data_dir.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("cluster".into()).spawn(move || {
        let result = LocalSet::new().block_on(&runtime, async move {
            let log = open_log(data_dir.as_deref(), config.queue_memory_bytes, origin).await?;
            let net: Rc<dyn crate::cluster::net::Net> = match &config.cluster {
                None => Rc::new(AloneNet),
                Some(peers) => Rc::new(peer_net(peers)?),
            };
            let world = ClusterWorld { origin, net, log, from_workers, to_workers, now_ms: Rc::new(wall_clock_ms) };
            handle::run(cluster_config(&config, seed), world, doors).await
        });
        // The process may be ending.
        let _ = end.send(result);
    })?;
    Ok(ended)
}

/// Reads every file that a configuration names, as [`start`] does, and uses none.
///
/// # Errors
/// The first that can't be read or understood, with its key and name.
pub fn check_files(config: &Config) -> Result<()> {
    for listen in &config.listeners {
        Entrance::new(listen).with_context(|| format!("listener {}", listen.url))?;
    }
    policy(config)?;
    if let Some(path) = config.admin.as_ref().and_then(|admin| admin.token_file.as_deref()) {
        reload::read_token(path)?;
    }
    config.cluster.as_ref().map(peer_net).transpose()?;
    Ok(())
}

fn policy(config: &Config) -> Result<Policy> {
    let (passwords, acl) = (config.password_file.as_deref(), config.acl_file.as_deref());
    Ok(Policy {
        passwords: passwords.map(reload::read_passwords).transpose().context("auth.password_file")?,
        acl: acl.map(reload::read_acl).transpose().context("auth.acl_file")?,
        limits: config.limits.clone(),
        strategy: config.shared_subscriptions,
    })
}

fn peer_net(peers: &Peers) -> Result<TlsNet> {
    let files = TlsFiles {
        ca_file: peers.ca_file.clone(),
        cert_file: peers.cert_file.clone(),
        key_file: peers.key_file.clone(),
    };
    TlsNet::new(files).context("cluster.tls")
}

async fn open_log(data_dir: Option<&Path>, kept_bytes_max: usize, origin: Origin) -> Result<Log> {
    let bounds = storage::Limits { kept_bytes_max, ..Default::default() };
    let disk: Rc<dyn storage::Disk> = match data_dir {
        None => Rc::new(MemoryDisk::without_segments()),
        Some(path) => Rc::new(FileDisk::open(path).with_context(|| format!("data directory {}", path.display()))?),
    };
    let options = Options { identity: origin.node.0, limits: bounds };
    let (log, recovered) = Log::open(disk, options).await.context("the write-ahead log")?;
    tell_recovery(&recovered);
    Ok(log)
}

fn settings(config: &Config) -> Settings {
    match (&config.cluster, &config.data_dir) {
        (None, None) => Settings::alone_in_memory(),
        _ => Settings::default(),
    }
}

fn tell_recovery(recovered: &Recovered) {
    if let Some(torn) = &recovered.torn {
        tracing::warn!(segment = torn.segment, bytes = torn.bytes, "a torn end of the log was cut off");
    }
    for damage in &recovered.damaged {
        tracing::error!(group = %damage.group, reason = damage.reason, "a replica is damaged and does not start");
    }
    tracing::info!(groups = recovered.groups.len(), bytes = recovered.bytes, "recovered the log");
}

fn cluster_config(config: &Config, seed: u64) -> ClusterConfig {
    let peers = config.cluster.as_ref();
    let marker = peers.and_then(|peers| peers.bootstrap_marker.clone());
    let named = peers.is_some_and(|peers| peers.bootstrap.as_deref() == Some(&config.node_name));
    let founding = match (&peers, &marker) {
        (None, _) => Founding::Alone,
        (Some(_), _) if !named => Founding::Never,
        (Some(_), None) => Founding::Allowed,
        (Some(_), Some(marker)) => {
            let marker = marker.clone();
            Founding::While(Box::new(move || marker.exists()))
        }
    };
    ClusterConfig {
        name: config.node_name.clone(),
        address: peers.map(|peers| peers.advertise.clone()).unwrap_or_default(),
        listen: peers.map(|peers| peers.listen.clone()),
        peers: peers.map(|peers| peers.peers.clone()).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        founding,
        founded: Box::new(move || {
            if let Some(marker) = marker.as_ref().filter(|_| named)
                && let Err(error) = fs::remove_file(marker)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::error!(marker = %marker.display(), %error, "the mark that nothing was founded can't be removed");
            }
        }),
        shards: config.shards,
        factor: config.replication_factor,
        settings: settings(config),
        seed,
    }
}

fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_a_configuration_names_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (users, rules, token) = (file("users", ""), file("rules", "topic read a\n"), file("token", "t\n"));
        let check = |text: String| {
            let config = Config::check(&Run::default(), &text).unwrap();
            check_files(&config).map_err(|error| format!("{error:#}"))
        };
        let whole = |users: &str, rules: &str, token: &str| {
            format!(
                "auth: {{ password_file: {users}, acl_file: {rules} }}\n\
                 admin: {{ listen: \"127.0.0.1:1\", token_file: {token} }}\n"
            )
        };
        check(whole(&users, &rules, &token)).unwrap();
        let bad = file("bad", "nonsense\n");
        let tls = |file: &str| {
            let files = format!("cert_file: {file}, key_file: {file}");
            let listener =
                format!("listeners:\n  - url: mqtts://127.0.0.1:0\n    tls: {{ certificates: [{{ {files} }}] }}\n");
            let cluster = format!("cluster: {{ listen: \"127.0.0.1:1\", tls: {{ ca_file: {file}, {files} }} }}\n");
            [listener, cluster]
        };
        let [listener, cluster] = tls(&bad);
        for (text, words) in [
            (whole("/nowhere/users", &rules, &token), "auth.password_file: /nowhere/users"),
            (whole(&bad, &rules, &token), "auth.password_file"),
            (whole(&users, &bad, &token), "auth.acl_file"),
            (whole(&users, &rules, "/nowhere/token"), "/nowhere/token"),
            (listener, "mqtts://127.0.0.1:0"),
            (cluster, "cluster.tls"),
        ] {
            let error = check(text.clone()).expect_err(&text);
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
    }
}
