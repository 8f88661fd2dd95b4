//! The brokers to compare: how each is started, pinned to one core, and what CPU time and memory it has taken.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::peers::{self, Peer};
use crate::scenario::{Kind, Scenario};
use crate::{client, wire};

/// How long a broker may take to start.
const START_MAX: Duration = Duration::from_secs(60);
/// How long it may take to answer one CONNECT of [`Running::wait_until_it_accepts`].
const CONNACK_MAX: Duration = Duration::from_secs(2);
/// How long a broker may take to end when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(5);
/// What a JVM needs to compile what it runs, before it is measured.
const JVM_WARM_UP: Duration = Duration::from_secs(6);
/// More than any window of the scenarios: none of the brokers shall drop or wait for want of room.
const ROOM: u32 = 60_000;

/// A program that speaks MQTT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// This project's broker, at this path.
    Ours(PathBuf),
    /// Debian's Mosquitto.
    Mosquitto,
    /// [`crate::floor`].
    Floor,
    /// One that [`peers`] builds.
    Peer(Peer),
}

impl Broker {
    /// As the report names it.
    pub fn name(&self) -> &'static str {
        match self {
            Broker::Ours(_) => "mqtt-broker",
            Broker::Mosquitto => "mosquitto",
            Broker::Floor => "floor",
            Broker::Peer(peer) => peer.name(),
        }
    }

    /// Why it cannot be measured on this machine.
    pub fn missing(&self) -> Option<String> {
        match self {
            Broker::Ours(path) if !path.exists() => {
                Some(format!("{} is not there: RUSTFLAGS= cargo build --release -p mqtt-broker", path.display()))
            }
            Broker::Mosquitto => mosquitto().err().map(|error| error.to_string()),
            Broker::Peer(peer) if !peer.is_built() => Some("not built: mqtt-bench peers".into()),
            _ => None,
        }
    }

    /// Why it is not asked to do a scenario.
    pub fn cannot(&self, scenario: &Scenario) -> Option<&'static str> {
        match (self, scenario.kind) {
            (Broker::Ours(_), _) => None,
            (_, Kind::Trie { .. }) => Some("a program's inside, of ours alone"),
            (_, Kind::Closed(load)) if load.persistent => Some("does not sync a message before it acknowledges"),
            (Broker::Floor, Kind::Closed(load)) if load.qos == 2 => Some("knows no QoS 2"),
            _ => None,
        }
    }

    /// What it needs of warm-up beyond everybody's.
    pub fn extra_warm_up(&self) -> Duration {
        if *self == Broker::Peer(Peer::Hivemq) { JVM_WARM_UP } else { Duration::ZERO }
    }

    /// Starts it on a free loopback port, pinned to `core`, and waits until it accepts a client.
    pub fn start(&self, core: usize, scenario: &Scenario) -> Result<Running> {
        let port = free_port()?;
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string());
        self.add_arguments(&mut command, port, folder.path(), scenario)?;
        let process = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr"))?)
            .spawn()
            .with_context(|| format!("starting {}", self.name()))?;
        let mut running = Running { process, address: SocketAddr::from(([127, 0, 0, 1], port)), folder };
        running.wait_until_it_accepts(self.name())?;
        Ok(running)
    }

    fn add_arguments(&self, command: &mut Command, port: u16, folder: &Path, scenario: &Scenario) -> Result<()> {
        match self {
            Broker::Ours(path) => {
                command.arg(path).args(["--workers", "1", "--listen"]).arg(format!("mqtt://127.0.0.1:{port}"));
                if let Kind::Closed(load) = scenario.kind
                    && load.persistent
                {
                    ensure!(!in_memory(folder)?, "{} is in memory: set TMPDIR to a folder on a disk", folder.display());
                    command.arg("--data-dir").arg(folder.join("data"));
                }
            }
            Broker::Mosquitto => {
                let config = folder.join("mosquitto.conf");
                // Its own default of 20 messages in flight and 1,000 queued would refuse the windows of the scenarios.
                fs::write(
                    &config,
                    format!(
                        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n\
                         max_queued_messages 0\nset_tcp_nodelay true\n"
                    ),
                )?;
                command.arg(mosquitto()?).arg("-c").arg(config);
            }
            Broker::Floor => {
                command.arg(std::env::current_exe()?).args(["floor", "--port"]).arg(port.to_string());
            }
            Broker::Peer(Peer::Rmqttd) => {
                let config = folder.join("rmqtt.toml");
                fs::write(
                    &config,
                    format!(
                        "[node]\nid = 1\n[rpc]\nserver_addr = \"127.0.0.1:{}\"\n[log]\nto = \"off\"\n\
                         [listener.tcp.bench]\naddr = \"127.0.0.1:{port}\"\nallow_anonymous = true\n\
                         allow_zero_keepalive = true\nnodelay = true\nmax_inflight = {ROOM}\nmax_mqueue_len = {ROOM}\n\
                         mqueue_rate_limit = \"100000000,1s\"\n",
                        free_port()?
                    ),
                )?;
                command.arg(Peer::Rmqttd.program()?).arg("-f").arg(config);
            }
            Broker::Peer(Peer::Mochi) => {
                command.arg(Peer::Mochi.program()?).arg("-listen").arg(format!("127.0.0.1:{port}"));
            }
            Broker::Peer(Peer::Hivemq) => {
                command.arg("java").args(peers::HIVEMQ_JVM_ARGUMENTS).arg("-cp").arg(Peer::Hivemq.program()?);
                command.arg("Main").arg(port.to_string()).arg(folder);
            }
        }
        Ok(())
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn mosquitto() -> Result<&'static Path> {
    ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
        .context("not installed: apt-get install mosquitto")
}

/// Whether files in `folder` never reach a disk.
fn in_memory(folder: &Path) -> Result<bool> {
    let path = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes())?;
    // SAFETY: `path` ends with NUL and `status` is plain data; both outlive the call.
    let (result, kind) = unsafe {
        let mut status: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &mut status), status.f_type)
    };
    ensure!(result == 0, "{}: {}", folder.display(), std::io::Error::last_os_error());
    Ok(kind == libc::TMPFS_MAGIC)
}

/// A broker that was started; ends when dropped.
pub struct Running {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Running {
    fn wait_until_it_accepts(&mut self, name: &str) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while let Err(why) = try_connect(self.address) {
            if let Some(status) = self.process.try_wait()? {
                bail!("{name} ended at start, {status}: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{name} let no client in on {} within {START_MAX:?}: {why:#}", self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The last line it wrote about itself.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        text.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// CPU time of all its threads so far, from `/proc/PID/task/*/schedstat` (nanoseconds on a core). A thread that ends
    /// takes its time with it, so this may be less than before.
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut total_ns = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            // It may have ended since the folder was read.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                total_ns += text.split(' ').next().unwrap_or("0").trim().parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(total_ns))
    }

    /// Bytes of memory that are its own.
    pub fn memory(&self) -> Result<u64> {
        memory_of(&format!("/proc/{}/status", self.process.id()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `taskset` has become the broker by exec: this is its own process id.
        let _ = self.process.kill();
        let deadline = Instant::now() + STOP_MAX;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Bytes of memory of this process's own.
pub fn own_memory() -> Result<u64> {
    memory_of("/proc/self/status")
}

fn memory_of(path: &str) -> Result<u64> {
    anonymous_bytes(&fs::read_to_string(path)?).with_context(|| format!("no RssAnon in {path}"))
}

/// Resident memory that is not a file's, from the text of a `/proc/PID/status`.
fn anonymous_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// CONNECT, and an error unless CONNACK accepts it: a broker that listens already may still refuse everybody.
fn try_connect(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CONNACK_MAX))?;
    stream.write_all(&wire::connect("bench-start", false))?;
    client::connack(&mut stream)?;
    Ok(stream.write_all(&wire::DISCONNECT)?)
}

/// Keeps this process, the load generator, on `core`.
pub fn pin_self(core: usize) -> Result<()> {
    // SAFETY: `set` is a plain bit set, zeroed, and outlives the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    ensure!(result == 0, "pinning to core {core}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Lets this process and those that it starts have as many open files as the system allows it.
pub fn allow_open_files() -> Result<()> {
    // SAFETY: `limit` is plain data and outlives both calls.
    let result = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        match libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) {
            0 => {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
            }
            failed => failed,
        }
    };
    ensure!(result == 0, "raising the limit of open files: {}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn memory_is_what_the_status_calls_anonymous() {
        let status = "Name:\tmqtt\nVmRSS:\t  900 kB\nRssAnon:\t  123 kB\nRssFile:\t 7 kB\n";
        assert_eq!(anonymous_bytes(status), Some(123 * 1024));
        assert_eq!(anonymous_bytes("VmRSS:\t 900 kB\n"), None);
        assert_eq!(anonymous_bytes("RssAnon:\t many kB\n"), None);
        assert!(own_memory().expect("linux") > 0);
    }

    #[test]
    fn each_broker_is_asked_only_what_it_can_do() {
        let can = |broker: Broker| {
            let all = scenario::all(5000).into_iter();
            all.filter(|scenario| broker.cannot(scenario).is_none()).map(|scenario| scenario.name).collect::<Vec<_>>()
        };
        assert_eq!(can(Broker::Ours("x".into())).len(), scenario::all(5000).len());
        assert!(!can(Broker::Floor).iter().any(|name| ["pairs-qos2", "durable", "trie"].contains(name)));
        assert!(can(Broker::Mosquitto).contains(&"pairs-qos2"));
        assert!(!can(Broker::Mosquitto).contains(&"durable"));
    }

    #[test]
    fn a_broker_that_is_not_there_says_how_to_get_it() {
        let missing = Broker::Ours("/nowhere/mqtt-broker".into()).missing().expect("nowhere");
        assert!(missing.contains("cargo build"), "{missing}");
    }
}
