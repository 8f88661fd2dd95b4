//! A run: every scenario with every broker that is there, round by round, each broker alone on its core.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::broker::Broker;
use crate::figure::{Figure, median};
use crate::load::Load;
use crate::report::{Line, Report};
use crate::scenario::{Kind, Scenario};
use crate::{idle, latency, load, trie};

/// Where the broker runs.
pub const BROKER_CORE: usize = 0;
/// Where the load comes from.
pub const LOAD_CORE: usize = 1;
/// What lets the allocator give memory back at once, so that what is resident is what is used.
const GIVE_BACK_AT_ONCE: (&str, &str) = ("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0");

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who is measured.
    pub brokers: Vec<Broker>,
    /// At what.
    pub scenarios: Vec<Scenario>,
    /// Load before it counts.
    pub warm_up: Duration,
    /// How long it counts.
    pub measure: Duration,
    /// How often; the median counts.
    pub rounds: usize,
    /// How many filters of the trie are many.
    pub filters: u64,
}

/// Measures. A broker that is not there, or fails in a scenario, is named in the report.
pub fn run(plan: &Plan) -> Report {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for broker in &plan.brokers {
        match broker.missing() {
            None => there.push(broker),
            Some(why) => missing.push((broker.name(), why)),
        }
    }
    let mut lines = Vec::new();
    for scenario in &plan.scenarios {
        let able: Vec<&Broker> = there.iter().copied().filter(|broker| broker.cannot(scenario).is_none()).collect();
        let mut results: Vec<Vec<Result<Figure>>> = able.iter().map(|_| Vec::new()).collect();
        // Round by round, so that a slow minute of the machine meets all brokers alike.
        for round in 1..=plan.rounds {
            for (broker, results) in able.iter().zip(&mut results) {
                eprintln!("{}: {}, round {round} of {}", scenario.name, broker.name(), plan.rounds);
                results.push(measure(broker, scenario, plan));
            }
        }
        for (broker, results) in able.iter().zip(results) {
            lines.push(Line { scenario: *scenario, broker: broker.name(), result: settle(results) });
        }
        for broker in &there {
            if let Some(why) = broker.cannot(scenario) {
                lines.push(Line { scenario: *scenario, broker: broker.name(), result: Err(why.into()) });
            }
        }
    }
    Report { lines, missing, rounds: plan.rounds, measure: plan.measure }
}

/// One broker, freshly started, in one scenario.
fn measure(broker: &Broker, scenario: &Scenario, plan: &Plan) -> Result<Figure> {
    let start = || broker.start(BROKER_CORE, scenario);
    let warm_up = plan.warm_up + broker.extra_warm_up();
    Ok(match scenario.kind {
        Kind::Closed(load) => {
            let running = start()?;
            let load = Load { without_wildcards: *broker == Broker::Floor, ..load };
            let cpu_time = || running.cpu_time();
            Figure::Throughput(load::run(running.address, load, warm_up, plan.measure, cpu_time)?)
        }
        Kind::Rate(rate) => {
            let running = start()?;
            latency::run(running.address, rate, warm_up, plan.measure)?
        }
        Kind::Idle(connections) => {
            let running = start()?;
            idle::run(running.address, connections, warm_up, || running.memory())?
        }
        Kind::Trie { wildcards } => Figure::Trie(trie_of_its_own_process(plan.filters, wildcards)?),
    })
}

/// A process of its own, so that its memory is nothing but the trie's.
fn trie_of_its_own_process(filters: u64, wildcards: bool) -> Result<crate::figure::Trie> {
    let output = Command::new("taskset")
        .arg("-c")
        .arg(BROKER_CORE.to_string())
        .arg(std::env::current_exe()?)
        .args(["trie", "--filters"])
        .arg(filters.to_string())
        .args(wildcards.then_some("--wildcards"))
        .env(GIVE_BACK_AT_ONCE.0, GIVE_BACK_AT_ONCE.1)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting this program again")?;
    ensure!(output.status.success(), "the trie's process: {}", output.status);
    trie::from_line(&String::from_utf8_lossy(&output.stdout))
}

/// The median; any failed round makes the whole a failure.
fn settle(results: Vec<Result<Figure>>) -> Result<Figure, String> {
    let figures = results.into_iter().collect::<Result<Vec<_>>>().map_err(|error| format!("{error:#}"))?;
    median(&figures).ok_or_else(|| "no rounds".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_round_fails_the_whole() {
        let good = || Ok(Figure::Memory(1.0));
        assert_eq!(settle(vec![good(), good()]), Ok(Figure::Memory(1.0)));
        assert_eq!(settle(vec![good(), Err(anyhow::anyhow!("gone"))]), Err("gone".into()));
        assert!(settle(Vec::new()).is_err());
    }
}
