//! What a run found, as Markdown: per scenario and broker, as a ratio to Mosquitto and to the floor.

use std::fmt::Write as _;
use std::time::Duration;

use crate::figure::{Figure, Throughput, Trie};
use crate::scenario::Scenario;

/// The results of a run.
#[derive(Debug)]
pub struct Report {
    /// Scenario by scenario.
    pub lines: Vec<Line>,
    /// Brokers that are not there, and why.
    pub missing: Vec<(&'static str, String)>,
    /// Rounds of each measurement; the median counts.
    pub rounds: usize,
    /// How long each took.
    pub measure: Duration,
}

/// Who, in which scenario, needed what.
#[derive(Debug)]
pub struct Line {
    /// The scenario.
    pub scenario: Scenario,
    /// The broker's name.
    pub broker: &'static str,
    /// The median, or why there is none.
    pub result: Result<Figure, String>,
}

impl Report {
    /// What a broker needed in a scenario.
    pub fn figure(&self, scenario: &str, broker: &str) -> Option<&Figure> {
        let line = self.lines.iter().find(|line| line.scenario.name == scenario && line.broker == broker)?;
        line.result.as_ref().ok()
    }

    /// How many times less CPU than Mosquitto a broker took per message.
    pub fn times_less_than_mosquitto(&self, scenario: &str, broker: &str) -> Option<f64> {
        Some(self.cpu_of(scenario, "mosquitto")? / self.cpu_of(scenario, broker)?)
    }

    /// How many times the floor's CPU a broker took per message.
    pub fn multiple_of_the_floor(&self, scenario: &str, broker: &str) -> Option<f64> {
        Some(self.cpu_of(scenario, broker)? / self.cpu_of(scenario, "floor")?)
    }

    /// The whole as Markdown: a table for each kind of figure, then who is not in them.
    pub fn markdown(&self) -> String {
        let mut out = format!(
            "Median of {} round{} of {:.1} s. Each broker alone on one core, freshly started; the load on another. \
             Payloads of 64 bytes.\n",
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            self.measure.as_secs_f64()
        );
        self.throughputs(&mut out);
        self.latencies(&mut out);
        self.memories(&mut out);
        self.tries(&mut out);
        self.absences(&mut out);
        out
    }

    fn throughputs(&self, out: &mut String) {
        let of = |figure: &Figure| match figure {
            Figure::Throughput(throughput) => Some(*throughput),
            _ => None,
        };
        self.table(
            out,
            "| scenario | broker | CPU ns per delivered message | times less than mosquitto | times the floor | delivered \
             a second | of its core |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
            of,
            |line, throughput: Throughput| {
                let (scenario, broker) = (line.scenario.name, line.broker);
                format!(
                    "{:.0} | {} | {} | {:.0} | {:.0} %",
                    throughput.cpu_ns_per_message(),
                    one_digit(self.times_less_than_mosquitto(scenario, broker)),
                    one_digit(self.multiple_of_the_floor(scenario, broker)),
                    throughput.rate(),
                    100.0 * throughput.busy()
                )
            },
        );
    }

    fn latencies(&self, out: &mut String) {
        self.table(
            out,
            "| latency | broker | median µs | 99 of 100 within µs |\n| --- | --- | ---: | ---: |\n",
            |figure| match figure {
                Figure::Latency { median_ns, p99_ns } => Some((*median_ns, *p99_ns)),
                _ => None,
            },
            |_, (median_ns, p99_ns)| format!("{:.1} | {:.1}", median_ns / 1e3, p99_ns / 1e3),
        );
    }

    fn memories(&self, out: &mut String) {
        self.table(
            out,
            "| memory | broker | bytes per connection |\n| --- | --- | ---: |\n",
            |figure| match figure {
                Figure::Memory(bytes) => Some(*bytes),
                _ => None,
            },
            |_, bytes| format!("{bytes:.0}"),
        );
    }

    fn tries(&self, out: &mut String) {
        self.table(
            out,
            "| trie | broker | filters | ns per match among 1,000 | among all | bytes per filter beyond its text | ms of the longest insert |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
            |figure| match figure {
                Figure::Trie(trie) => Some(*trie),
                _ => None,
            },
            |_, trie: Trie| {
                let Trie { few_ns, many_ns, many, bytes_per_filter, longest_insert_ms } = trie;
                format!("{many} | {few_ns:.0} | {many_ns:.0} | {bytes_per_filter:.0} | {longest_insert_ms:.0}")
            },
        );
    }

    /// The lines of one kind of figure, if there are any.
    fn table<T>(
        &self,
        out: &mut String,
        head: &str,
        of: impl Fn(&Figure) -> Option<T>,
        cells: impl Fn(&Line, T) -> String,
    ) {
        let mut rows = String::new();
        for line in &self.lines {
            if let Some(value) = line.result.as_ref().ok().and_then(&of) {
                let _ = writeln!(rows, "| {} | {} | {} |", line.scenario.title, line.broker, cells(line, value));
            }
        }
        if !rows.is_empty() {
            let _ = write!(out, "\n{head}{rows}");
        }
    }

    /// Who is not in the tables, and why.
    fn absences(&self, out: &mut String) {
        let mut rows = String::new();
        for (broker, why) in &self.missing {
            let _ = writeln!(rows, "- {broker}, everywhere: {why}");
        }
        for line in &self.lines {
            if let Err(why) = &line.result {
                let _ = writeln!(rows, "- {}, {}: {why}", line.broker, line.scenario.title);
            }
        }
        if !rows.is_empty() {
            let _ = write!(out, "\nNot measured:\n\n{rows}");
        }
    }

    fn cpu_of(&self, scenario: &str, broker: &str) -> Option<f64> {
        self.figure(scenario, broker)?.cpu_ns_per_message()
    }
}

fn one_digit(number: Option<f64>) -> String {
    number.map_or("–".into(), |number| format!("{number:.1}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scenario;

    /// A report of these results.
    pub fn report(results: &[(&str, &'static str, Result<Figure, &str>)]) -> Report {
        let all = scenario::all(5000);
        let line = |(name, broker, result): &(&str, &'static str, Result<Figure, &str>)| Line {
            scenario: *all.iter().find(|scenario| scenario.name == *name).expect("a scenario of that name"),
            broker,
            result: result.map_err(str::to_owned),
        };
        Report {
            lines: results.iter().map(line).collect(),
            missing: Vec::new(),
            rounds: 1,
            measure: Duration::from_secs(1),
        }
    }

    /// A throughput of so much CPU per message.
    pub fn cpu(ns: u64) -> Result<Figure, &'static str> {
        Ok(Figure::Throughput(Throughput {
            delivered: 1000,
            elapsed: Duration::from_secs(1),
            broker_cpu: Duration::from_nanos(1000 * ns),
        }))
    }

    #[test]
    fn ratios_are_taken_within_a_scenario() {
        let report = report(&[
            ("pairs-qos0", "mosquitto", cpu(20_000)),
            ("pairs-qos0", "mqtt-broker", cpu(2_000)),
            ("pairs-qos0", "floor", cpu(1_000)),
            ("pairs-qos1", "mqtt-broker", cpu(3_000)),
        ]);
        assert_eq!(report.times_less_than_mosquitto("pairs-qos0", "mqtt-broker"), Some(10.0));
        assert_eq!(report.times_less_than_mosquitto("pairs-qos1", "mqtt-broker"), None);
        let text = report.markdown();
        assert!(text.contains("| 100 pairs, QoS 0 | mqtt-broker | 2000 | 10.0 | 2.0 | 1000 | 0 % |"), "{text}");
        assert!(text.contains("| 100 pairs, QoS 1 | mqtt-broker | 3000 | – | – | 1000 | 0 % |"), "{text}");
    }

    #[test]
    fn every_kind_of_figure_has_its_table() {
        let latency = Figure::Latency { median_ns: 20_000.0, p99_ns: 61_500.0 };
        let trie =
            Trie { few_ns: 50.0, many_ns: 200.0, many: 10_000_000, bytes_per_filter: 99.0, longest_insert_ms: 30.0 };
        let text = report(&[
            ("latency", "mqtt-broker", Ok(latency)),
            ("idle", "mqtt-broker", Ok(Figure::Memory(1234.0))),
            ("trie", "mqtt-broker", Ok(Figure::Trie(trie))),
        ])
        .markdown();
        assert!(text.contains("| 5,000 a second, QoS 1 | mqtt-broker | 20.0 | 61.5 |"), "{text}");
        assert!(text.contains("| mqtt-broker | 1234 |"), "{text}");
        assert!(text.contains("| mqtt-broker | 10000000 | 50 | 200 | 99 | 30 |"), "{text}");
        assert!(!text.contains("CPU ns"), "no table without a line: {text}");
    }

    #[test]
    fn who_is_not_measured_is_named() {
        let mut report =
            report(&[("pairs-qos2", "floor", Err("knows no QoS 2")), ("pairs-qos2", "mqtt-broker", cpu(1))]);
        report.missing.push(("mosquitto", "not installed".into()));
        let text = report.markdown();
        assert!(text.contains("- mosquitto, everywhere: not installed\n"), "{text}");
        assert!(text.contains("- floor, 100 pairs, QoS 2: knows no QoS 2\n"), "{text}");
    }
}
