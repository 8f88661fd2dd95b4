//! `mqtt-bench run` measures brokers side by side; the other commands are what it is made of.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mqtt_bench::broker::{self, Broker};
use mqtt_bench::peers::{self, Peer};
use mqtt_bench::report::Report;
use mqtt_bench::scenario::{self, Kind, Scenario};
use mqtt_bench::side_by_side::{self, LOAD_CORE, Plan};
use mqtt_bench::{bars, floor, load, plot, trie};

/// The broker's own allocator: the trie is measured with it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "Measures MQTT brokers side by side")]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure brokers, each pinned to one core with the load on the other.
    Run(Run),
    /// Fetch and build the brokers that Debian doesn't have, into the user's cache.
    Peers {
        /// Only these.
        #[arg(value_enum, default_values_t = Peer::value_variants().to_vec())]
        which: Vec<Peer>,
    },
    /// Load on a broker that runs already.
    Load {
        /// Its address.
        #[arg(long)]
        address: SocketAddr,
        /// A scenario of closed-loop load.
        #[arg(long, default_value = "pairs-qos0")]
        scenario: String,
        /// Seconds of load.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Measure the broker's topic trie; prints ns per match among 1,000, among many, how many, bytes per filter, ms
    /// of the longest insert.
    Trie {
        /// How many are many.
        #[arg(long, default_value_t = FILTERS)]
        filters: u64,
        /// Let one filter in ten have a wildcard.
        #[arg(long)]
        wildcards: bool,
    },
    /// Serve as the floor.
    Floor {
        /// On this loopback port.
        #[arg(long)]
        port: u16,
    },
}

#[derive(Args)]
struct Run {
    /// The broker of this project; the default lies beside this program.
    #[arg(long)]
    broker: Option<PathBuf>,
    /// Whom to compare it with.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Other::value_variants().to_vec())]
    against: Vec<Other>,
    /// Measure it alone.
    #[arg(long, conflicts_with = "against")]
    alone: bool,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds measured per scenario, broker and round.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many idle connections.
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    /// How many filters of the trie are many.
    #[arg(long, default_value_t = FILTERS)]
    filters: u64,
    /// Say which bars are met, and by how much others are missed.
    #[arg(long)]
    bars: bool,
    /// Write the report and its pictures here too.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Brokers to compare with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    Floor,
    Mosquitto,
    Rmqttd,
    Mochi,
    Hivemq,
}

impl From<Other> for Broker {
    fn from(other: Other) -> Broker {
        match other {
            Other::Floor => Broker::Floor,
            Other::Mosquitto => Broker::Mosquitto,
            Other::Rmqttd => Broker::Peer(Peer::Rmqttd),
            Other::Mochi => Broker::Peer(Peer::Mochi),
            Other::Hivemq => Broker::Peer(Peer::Hivemq),
        }
    }
}

const FILTERS: u64 = 10_000_000;
const WARM_UP: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    broker::allow_open_files()?;
    match Arguments::parse().command {
        What::Run(asked) => run(asked),
        What::Peers { which } => peers::build(&which),
        What::Load { address, scenario, seconds } => {
            let [Scenario { kind: Kind::Closed(load), .. }] =
                choose(scenario::all(1), std::slice::from_ref(&scenario))?[..]
            else {
                bail!("{scenario} is no closed-loop load");
            };
            let measured = load::run(address, load, WARM_UP, Duration::from_secs_f64(seconds), || Ok(Duration::ZERO))?;
            println!("{:.0} delivered a second", measured.rate());
            Ok(())
        }
        What::Trie { filters, wildcards } => {
            println!("{}", trie::to_line(&trie::run(filters, wildcards, broker::own_memory)?));
            Ok(())
        }
        What::Floor { port } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
                floor::serve(listener).await
            })?;
            Ok(())
        }
    }
}

fn run(asked: Run) -> Result<()> {
    let ours = Broker::Ours(match asked.broker {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("mqtt-broker"),
    });
    if let Some(why) = ours.missing() {
        bail!("{why}");
    }
    ensure!(asked.rounds > 0, "no rounds, no result");
    let others = asked.against.into_iter().filter(|_| !asked.alone).map(Broker::from);
    let plan = Plan {
        brokers: std::iter::once(ours).chain(others).collect(),
        scenarios: choose(scenario::all(asked.idle), &asked.only)?,
        warm_up: Duration::from_secs_f64(asked.warm_up),
        measure: Duration::from_secs_f64(asked.seconds),
        rounds: asked.rounds,
        filters: asked.filters,
    };
    broker::pin_self(LOAD_CORE).context("this benchmark needs two cores")?;
    let report = side_by_side::run(&plan);
    let mut text = report.markdown();
    if asked.bars {
        text = format!("{text}\n{}", bars::markdown(&bars::all(&report)));
    }
    println!("{text}");
    if let Some(folder) = asked.out {
        write(&folder, &text, &report).with_context(|| format!("writing to {}", folder.display()))?;
    }
    Ok(())
}

fn write(folder: &Path, text: &str, report: &Report) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut text = text.to_owned();
    for (name, picture) in plot::files(report) {
        fs::write(folder.join(name), picture)?;
        text.push_str(&format!("\n![{name}]({name})\n"));
    }
    Ok(fs::write(folder.join("report.md"), text)?)
}

/// The scenarios of these names; all without any.
fn choose(all: Vec<Scenario>, names: &[String]) -> Result<Vec<Scenario>> {
    if let Some(name) = names.iter().find(|name| all.iter().all(|scenario| scenario.name != **name)) {
        let known: Vec<_> = all.iter().map(|scenario| scenario.name).collect();
        bail!("no scenario {name:?}; there are {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|scenario| names.is_empty() || names.iter().any(|name| name == scenario.name)).collect())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn scenarios_are_chosen_by_name() {
        let names = |asked: &[String]| choose(scenario::all(1), asked).map(|chosen| chosen.len());
        assert_eq!(names(&["idle".into(), "trie".into()]).expect("known"), 2);
        assert_eq!(names(&[]).expect("all"), scenario::all(1).len());
        assert!(names(&["pears".into()]).is_err());
    }
}
