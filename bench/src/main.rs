//! `mqtt-bench run` measures brokers side by side; `mqtt-bench floor` is the least a broker could do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use mqtt_bench::broker::{Broker, pin_self};
use mqtt_bench::floor;
use mqtt_bench::report::{self, Line};
use mqtt_bench::scenario::{self, Measured, Pairs};

#[derive(Parser)]
#[command(about = "Measures MQTT brokers side by side")]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure this broker, Mosquitto and the floor, each pinned to one core with the load on the other.
    Run {
        /// The broker of this project.
        #[arg(long)]
        broker: PathBuf,
        /// Seconds measured per scenario, broker and round.
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Rounds; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Fail unless this broker needs so many times less CPU than Mosquitto in every scenario.
        #[arg(long)]
        at_least: Option<f64>,
    },
    /// Load on a broker that runs already; prints delivered messages a second.
    Load {
        /// Its address.
        #[arg(long)]
        address: std::net::SocketAddr,
        /// 0 or 1.
        #[arg(long, default_value_t = 0)]
        qos: u8,
        /// Seconds of load.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Serve as the floor.
    Floor {
        /// On this loopback port.
        #[arg(long)]
        port: u16,
    },
}

const BROKER_CORE: usize = 0;
const LOAD_CORE: usize = 1;
const WARM_UP: Duration = Duration::from_millis(1000);

fn pairs(qos: u8) -> Pairs {
    Pairs { pairs: 100, payload: 64, window: 16, qos }
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        What::Run { broker, seconds, rounds, at_least } => {
            run(broker, Duration::from_secs_f64(seconds), rounds, at_least)
        }
        What::Load { address, qos, seconds } => {
            let measured =
                scenario::run(address, pairs(qos), WARM_UP, Duration::from_secs_f64(seconds), || Ok(Duration::ZERO))?;
            println!("{:.0} delivered a second", measured.rate());
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

fn run(ours: PathBuf, measure: Duration, rounds: usize, at_least: Option<f64>) -> Result<()> {
    if !ours.exists() {
        bail!("{} is not there: cargo build --release -p mqtt-broker", ours.display());
    }
    pin_self(LOAD_CORE).context("this benchmark needs two cores")?;
    let brokers = [Broker::Mosquitto, Broker::Ours(ours), Broker::Floor];
    let mut lines = Vec::new();
    for (name, load) in [("pairs, QoS 0", pairs(0)), ("pairs, QoS 1", pairs(1))] {
        // Round by round, so that a slow minute of the machine meets all brokers alike.
        let mut results: Vec<Vec<Result<Measured>>> = brokers.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds {
            for (broker, results) in brokers.iter().zip(&mut results) {
                eprintln!("{name}: {}, round {round} of {rounds}", broker.name());
                results.push(
                    broker.start(BROKER_CORE).and_then(|running| {
                        scenario::run(running.address, load, WARM_UP, measure, || running.cpu_time())
                    }),
                );
            }
        }
        for (broker, results) in brokers.iter().zip(results) {
            lines.push(Line { scenario: name.into(), broker: broker.name(), result: median(results) });
        }
    }
    println!("{}", report::markdown(&lines));
    if let Some(bar) = at_least {
        for scenario in ["pairs, QoS 0", "pairs, QoS 1"] {
            let ratio = report::times_less_than_mosquitto(&lines, scenario, "mqtt-broker")
                .with_context(|| format!("{scenario}: not measured, see the table"))?;
            if ratio < bar {
                bail!("{scenario}: {ratio:.1} times less CPU than Mosquitto, the bar is {bar}");
            }
        }
    }
    Ok(())
}

/// The median by CPU per message; any failed round makes the whole a failure.
fn median(results: Vec<Result<Measured>>) -> Result<Measured, String> {
    let mut measured = results.into_iter().collect::<Result<Vec<_>>>().map_err(|error| format!("{error:#}"))?;
    measured.sort_by(|a, b| a.cpu_ns_per_message().total_cmp(&b.cpu_ns_per_message()));
    measured.get(measured.len() / 2).copied().ok_or_else(|| "no rounds".into())
}
