//! What changes without a restart: certificates, passwords, rules, limits, the admin token and the log's filter. They are
//! read again when a file changes, on SIGHUP, and when an administrator asks; what can't be read leaves the old in force.
//!
//! Files are looked at every [`LOOK`] rather than watched: Kubernetes changes mounted files by swapping links, which no
//! notification tells reliably.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::auth::{Acl, Passwords, Policy};
use crate::cli::Run;
use crate::config::{Admin, Config, Listen, ListenTls};
use crate::limits::ClientLimits;
use crate::listener::{Entrance, tls};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Sets the log's filter; an error says what is wrong with it.
pub type SetLogFilter = Box<dyn Fn(&str) -> Result<()> + Send>;

/// What came of reading everything again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Of the text of the configuration file that was read; so whoever writes the file can tell whether it has arrived.
    pub config_sha256: Option<String>,
    /// What was read and is in force.
    pub reloaded: Vec<String>,
    /// Keys whose new values wait for a restart.
    pub restart_needed: Vec<String>,
    /// What could not be read; the old is in force.
    pub failed: Vec<String>,
}

/// What an administrator asks.
#[derive(Debug)]
pub enum ReloadRequest {
    /// To read everything again.
    Reload(oneshot::Sender<Report>),
    /// What came of it when everything was last read.
    Last(oneshot::Sender<Report>),
    /// Whether a configuration file of this text would do; if not, why.
    Check(String, oneshot::Sender<Result<(), String>>),
}

/// Reads files again and puts what they say in force.
pub struct Reloader {
    /// How the process was started.
    pub run: Run,
    /// What is in force, but for keys that wait for a restart.
    pub config: Config,
    /// In the order of `config.listeners`.
    pub entrances: Vec<Arc<Entrance>>,
    /// What workers follow.
    pub policy: watch::Sender<Arc<Policy>>,
    /// The admin token in force.
    pub token: Arc<ArcSwapOption<String>>,
    /// Nothing if the environment says the filter.
    pub set_log_filter: Option<SetLogFilter>,
}

impl Reloader {
    /// Serves requests, SIGHUP and changed files until nobody can ask any more.
    ///
    /// # Errors
    /// If the system gives no signals.
    pub async fn run(mut self, mut requests: mpsc::Receiver<ReloadRequest>) -> Result<()> {
        use tokio::signal::unix::{SignalKind, signal};

        let mut hangup = signal(SignalKind::hangup())?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.stamps();
        let mut last = Report { config_sha256: self.config_sha256(), ..Report::default() };
        loop {
            let asked = tokio::select! {
                request = requests.recv() => match request {
                    Some(ReloadRequest::Reload(answer)) => Some(answer),
                    Some(ReloadRequest::Last(answer)) => {
                        let _ = answer.send(last.clone());
                        continue;
                    }
                    Some(ReloadRequest::Check(text, answer)) => {
                        let verdict = Config::check(&self.run, &text).map(drop).map_err(|error| error.to_string());
                        let _ = answer.send(verdict);
                        continue;
                    }
                    None => return Ok(()),
                },
                _ = hangup.recv() => None,
                _ = look.tick() => {
                    if self.stamps() == seen {
                        continue;
                    }
                    None
                }
            };
            // Before the files are read: what changes meanwhile is read again at the next look.
            seen = self.stamps();
            let report = self.reload();
            for key in &report.restart_needed {
                tracing::warn!(key, "has changed, and waits for a restart");
            }
            for what in &report.failed {
                tracing::error!("not reloaded, what was before stays in force: {what}");
            }
            tracing::info!(reloaded = report.reloaded.join(", "), "reloaded");
            last.clone_from(&report);
            if let Some(asked) = asked {
                let _ = asked.send(report);
            }
        }
    }

    /// Reads everything again.
    pub fn reload(&mut self) -> Report {
        let mut report = Report { config_sha256: self.config_sha256(), ..Report::default() };
        match Config::load(&self.run) {
            Ok(config) => self.take_config(config, &mut report),
            Err(error) => report.failed.push(error.to_string()),
        }
        for (listen, entrance) in self.config.listeners.iter().zip(&self.entrances) {
            if let (Some(files), Some(certificates)) = (&listen.tls, &entrance.tls) {
                let what = format!("certificates of {}", listen.url);
                let loaded = tls::load(files).map(|config| certificates.0.store(config));
                report.note(what, loaded);
            }
        }
        let (limits, strategy) = (self.config.limits.clone(), self.config.shared_subscriptions);
        let mut policy = Policy { limits, strategy, ..Policy::default() };
        let before = self.policy.borrow().clone();
        if let Some(path) = &self.config.password_file {
            let read = read_passwords(path);
            policy.passwords = read.as_ref().ok().cloned().or(before.passwords.clone());
            report.note("auth.password_file".to_owned(), read);
        }
        if let Some(path) = &self.config.acl_file {
            let read = read_acl(path);
            policy.acl = read.as_ref().ok().cloned().or(before.acl.clone());
            report.note("auth.acl_file".to_owned(), read);
        }
        self.policy.send_replace(Arc::new(policy));
        if let Some(path) = self.config.admin.as_ref().and_then(|admin| admin.token_file.as_ref()) {
            let read = read_token(path).map(|token| self.token.store(Some(Arc::new(token))));
            report.note("admin.token_file".to_owned(), read);
        }
        report
    }

    /// Takes what may change from a new configuration, and names the rest.
    fn take_config(&mut self, new: Config, report: &mut Report) {
        let old = &mut self.config;
        // Destructured, so that a key that nobody thought of does not compile.
        let Config {
            node_name,
            workers,
            queue_memory_bytes,
            data_dir,
            listeners,
            password_file,
            acl_file,
            log_filter,
            sys_interval_seconds,
            admin,
            cluster,
            replication_factor,
            shards,
            limits,
            shared_subscriptions,
        } = new;
        let mut changed = |key: &str, is_same: bool| {
            if !is_same {
                report.restart_needed.push(key.to_owned());
            }
        };
        changed("node.name", node_name == old.node_name);
        changed("node.workers", workers == old.workers);
        changed("node.queue_memory_bytes", queue_memory_bytes == old.queue_memory_bytes);
        changed("data_dir", data_dir == old.data_dir);
        changed("sys_interval_seconds", sys_interval_seconds == old.sys_interval_seconds);
        changed("cluster", cluster == old.cluster);
        changed("replication.factor", replication_factor == old.replication_factor);
        changed("replication.shards", shards == old.shards);
        changed("limits.peer_batches_max", limits.peer_batches_max == old.limits.peer_batches_max);
        let address = |admin: &Option<Admin>| admin.as_ref().map(|admin| admin.listen);
        let has_token = |admin: &Option<Admin>| admin.as_ref().is_some_and(|admin| admin.token_file.is_some());
        changed("admin", address(&admin) == address(&old.admin) && has_token(&admin) == has_token(&old.admin));
        // Whether there are users at all decides what listeners let in.
        changed("auth.password_file", password_file.is_some() == old.password_file.is_some());
        let fixed = |listeners: &[Listen]| listeners.iter().map(without_files).collect::<Vec<_>>();
        let same_listeners = fixed(&listeners) == fixed(&old.listeners);
        changed("listeners", same_listeners);
        if same_listeners {
            old.listeners = listeners;
        }
        if password_file.is_some() == old.password_file.is_some() {
            old.password_file = password_file;
        }
        old.acl_file = acl_file;
        if let (Some(old), Some(new)) = (&mut old.admin, admin)
            && old.token_file.is_some()
            && new.token_file.is_some()
        {
            old.token_file = new.token_file;
        }
        let limits = ClientLimits { peer_batches_max: old.limits.peer_batches_max, ..limits };
        if limits != old.limits {
            old.limits = limits;
            report.reloaded.push("limits".to_owned());
        }
        if shared_subscriptions != old.shared_subscriptions {
            old.shared_subscriptions = shared_subscriptions;
            report.reloaded.push("shared_subscriptions.strategy".to_owned());
        }
        if log_filter != old.log_filter
            && let Some(set) = &self.set_log_filter
        {
            old.log_filter = log_filter;
            let set = set(old.log_filter.as_deref().unwrap_or(super::LOG_FILTER_DEFAULT));
            report.note("log.filter".to_owned(), set);
        }
    }

    fn config_sha256(&self) -> Option<String> {
        let text = fs::read(self.run.config.as_ref()?).ok()?;
        Some(digest(&SHA256, &text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// How every file looks now that something is read from.
    fn stamps(&self) -> Vec<Option<(u64, u64, i64, i64)>> {
        let config = &self.config;
        let mut files: BTreeSet<&PathBuf> = BTreeSet::new();
        files.extend(&self.run.config);
        files.extend(&config.password_file);
        files.extend(&config.acl_file);
        files.extend(config.admin.as_ref().and_then(|admin| admin.token_file.as_ref()));
        for tls in config.listeners.iter().filter_map(|listen| listen.tls.as_ref()) {
            files.extend(tls.certificates.iter().flat_map(|files| [&files.cert_file, &files.key_file]));
            files.extend(&tls.client_ca_file);
        }
        let stamp = |path: &PathBuf| {
            let data = fs::metadata(path).ok()?;
            Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
        };
        files.into_iter().map(stamp).collect()
    }
}

impl Report {
    fn note<T>(&mut self, what: String, result: Result<T>) {
        match result {
            Ok(_) => self.reloaded.push(what),
            Err(error) => self.failed.push(format!("{what}: {error:#}")),
        }
    }
}

/// A listener but for what is read again.
fn without_files(listen: &Listen) -> Listen {
    let tls = listen.tls.as_ref().map(|tls| ListenTls {
        certificates: Vec::new(),
        // Whether clients are asked for certificates is part of what is read again too.
        client_ca_file: None,
        ..tls.clone()
    });
    Listen { tls, ..listen.clone() }
}

/// The password file.
///
/// # Errors
/// If it can't be read or understood, with its name.
pub fn read_passwords(path: &Path) -> Result<Arc<Passwords>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Arc::new(Passwords::parse(&text).with_context(|| path.display().to_string())?))
}

/// The ACL file.
///
/// # Errors
/// If it can't be read or understood, with its name.
pub fn read_acl(path: &Path) -> Result<Arc<Acl>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Arc::new(Acl::parse(&text).with_context(|| path.display().to_string())?))
}

/// The admin token.
///
/// # Errors
/// If the file can't be read, or is empty.
pub fn read_token(path: &Path) -> Result<String> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("admin.token_file: {name}"))?;
    let token = text.trim().to_owned();
    anyhow::ensure!(!token.is_empty(), "admin.token_file: {name}: is empty; write a token into it");
    Ok(token)
}
