//! The world of a simulated cluster: hosts with disks, a network, one thread and one clock, all from a seed.
//!
//! A process is a `LocalSet` of its own inside the world's: killing it drops all of its tasks at once, wherever they are.
//! What happens is written into a history, which the same seed must repeat word for word.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use mqtt_broker::cluster::net::Net;
use mqtt_broker::cluster::net::memory::MemoryNet;
use mqtt_broker::replication;
use mqtt_broker::storage::{Crash, Faults, SimulatedDisk};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::{Builder, RngSeed};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Every operation of a disk takes up to this long.
const DISK_DELAY_MAX: Duration = Duration::from_millis(3);

/// Lines of history that a failure shows.
const HISTORY_SHOWN: usize = 60;

/// Hosts by name, and what is between them.
pub struct World {
    net: MemoryNet,
    hosts: RefCell<BTreeMap<String, Host>>,
    rng: RefCell<StdRng>,
    start: Instant,
    history: RefCell<Vec<String>>,
}

struct Host {
    disk: SimulatedDisk,
    process: Option<JoinHandle<()>>,
    runs: u64,
}

/// What a process finds on its host.
pub struct Place {
    pub host: String,
    pub net: Rc<dyn Net>,
    pub disk: SimulatedDisk,
    /// Different in every run.
    pub seed: u64,
    /// Counts the processes that this host has seen, from 1.
    pub run: u64,
}

/// Runs a scenario in the world of `seed`, with time that passes only when nobody has anything to do. Gives what the scenario
/// gives, and the history.
pub fn simulate<T, F: Future<Output = T>>(seed: u64, scenario: impl FnOnce(Rc<World>) -> F) -> (T, Vec<String>) {
    replication::seed(seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let _log = std::env::var("SIMULATION_LOG").ok().map(|filter| log(&filter));
        let mut rng = StdRng::seed_from_u64(seed);
        let world = Rc::new(World {
            net: MemoryNet::new(rng.random()),
            hosts: RefCell::default(),
            rng: RefCell::new(rng),
            start: Instant::now(),
            history: RefCell::default(),
        });
        let result = scenario(world.clone()).await;
        (result, world.history.take())
    })
}

/// What the rooms say, by the world's clock.
fn log(filter: &str) -> tracing::subscriber::DefaultGuard {
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_timer(Clock(Instant::now()));
    tracing::subscriber::set_default(subscriber.with_writer(std::io::stderr).with_ansi(false).finish())
}

struct Clock(Instant);

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:?}", self.0.elapsed())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let history = self.history.borrow();
            for line in &history[history.len().saturating_sub(HISTORY_SHOWN)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl World {
    /// Starts a process on a host, which is made if there is none of this name.
    pub fn boot<F: Future<Output = ()> + 'static>(&self, host: &str, program: impl FnOnce(Place) -> F) {
        let seed = self.draw(0..u64::MAX);
        let mut hosts = self.hosts.borrow_mut();
        let found = hosts.entry(host.to_string()).or_insert_with(|| {
            let faults = Faults { delay_max: DISK_DELAY_MAX, ..Faults::default() };
            Host { disk: SimulatedDisk::new(seed, faults), process: None, runs: 0 }
        });
        assert!(found.process.is_none(), "{host} runs already");
        found.runs += 1;
        let place =
            Place { host: host.to_string(), net: self.net.host(host), disk: found.disk.clone(), seed, run: found.runs };
        let tasks = LocalSet::new();
        tasks.spawn_local(program(place));
        found.process = Some(spawn_local(tasks));
        drop(hosts);
        tracing::info!("{host} starts");
        self.note(format_args!("{host} starts"));
    }

    /// Ends the process on a host in the middle of whatever it does.
    pub fn kill(&self, host: &str, crash: Crash) {
        self.net.kill(host);
        if let Some(found) = self.hosts.borrow_mut().get_mut(host)
            && let Some(process) = found.process.take()
        {
            process.abort();
            found.disk = found.disk.crash(crash);
        }
        tracing::info!("{host} ends: {crash:?}");
        self.note(format_args!("{host} ends: {crash:?}"));
    }

    /// What a host has kept.
    pub fn disk(&self, host: &str) -> Option<SimulatedDisk> {
        self.hosts.borrow().get(host).map(|found| found.disk.clone())
    }

    /// Cuts a host off from all others, or undoes it.
    pub fn isolate(&self, host: &str, cut: bool) {
        let others: Vec<String> = self.hosts.borrow().keys().filter(|other| *other != host).cloned().collect();
        for other in others {
            if cut {
                self.net.cut(host, &other);
            } else {
                self.net.heal(host, &other);
            }
        }
        self.note(format_args!("{host} is {}", if cut { "cut off" } else { "back" }));
    }

    /// Cuts two hosts off from each other alone, or undoes it.
    pub fn part(&self, one: &str, other: &str, cut: bool) {
        if cut {
            self.net.cut(one, other)
        } else {
            self.net.heal(one, other)
        }
        self.note(format_args!("{one} and {other} are {}", if cut { "parted" } else { "linked" }));
    }

    /// Time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A random number of this world.
    pub fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        self.rng.borrow_mut().random_range(range)
    }

    /// Lets some time pass, at random.
    pub async fn wait_ms(&self, range: std::ops::Range<u64>) {
        let ms = self.draw(range);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Writes a line of history.
    pub fn note(&self, what: impl Display) {
        let at = self.start.elapsed();
        self.history.borrow_mut().push(format!("{at:?} {what}"));
    }
}
