//! The bars that this project has set itself, and whether its broker meets them.

use std::fmt::Write as _;

use crate::figure::Figure;
use crate::report::Report;

const OURS: &str = "mqtt-broker";
/// Per scenario, how many times less CPU per delivered message than Mosquitto.
const TIMES_LESS_CPU: [(&str, f64); 9] = [
    ("pairs-qos0", 12.0),
    ("pairs-qos1", 12.0),
    ("pairs-qos2", 14.0),
    ("fan-out-qos0", 22.0),
    ("fan-out-qos1", 24.0),
    ("fan-in-qos0", 12.0),
    ("fan-in-qos1", 12.0),
    // One bar, which does not say how the messages come: held against both ways.
    ("wildcards", 10.0),
    ("scattered", 10.0),
];
const BYTES_PER_CONNECTION_MAX: f64 = 1536.0;
const DURABLE_PER_CPU_SECOND_MIN: f64 = 30_000.0;
const TRIE_TIMES_MAX: f64 = 5.0;
const TRIE_BYTES_MAX: f64 = 120.0;

/// A number that is to be reached, or not to be exceeded.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Of what.
    pub what: String,
    /// Whether more is better.
    pub at_least: bool,
    /// The bar; `None` if it is another broker's number and that was not measured.
    pub wanted: Option<f64>,
    /// What was measured.
    pub measured: Option<f64>,
}

impl Bar {
    /// Whether it is met; `None` if it cannot be told.
    pub fn met(&self) -> Option<bool> {
        let (wanted, measured) = (self.wanted?, self.measured?);
        Some(if self.at_least { measured >= wanted } else { measured <= wanted })
    }

    /// In words.
    fn verdict(&self) -> String {
        let (Some(met), Some(wanted), Some(measured)) = (self.met(), self.wanted, self.measured) else {
            return "not measured".into();
        };
        let percent = 100.0 * (measured - wanted).abs() / wanted;
        if met { format!("met, {percent:.0} % to spare") } else { format!("**missed by {percent:.0} %**") }
    }
}

/// All bars against a report.
pub fn all(report: &Report) -> Vec<Bar> {
    let mut bars: Vec<Bar> = TIMES_LESS_CPU
        .iter()
        .map(|(scenario, wanted)| Bar {
            what: format!("{scenario}: times less CPU than mosquitto"),
            at_least: true,
            wanted: Some(*wanted),
            measured: report.times_less_than_mosquitto(scenario, OURS),
        })
        .collect();
    let latency = |broker| match report.figure("latency", broker) {
        Some(Figure::Latency { median_ns, p99_ns }) => (Some(median_ns / 1e3), Some(p99_ns / 1e3)),
        _ => (None, None),
    };
    let ((median, p99), (median_max, p99_max)) = (latency(OURS), latency("mosquitto"));
    let at_most = |what: &str, wanted, measured| Bar { what: what.into(), at_least: false, wanted, measured };
    bars.push(at_most("latency: median µs, mosquitto's", median_max, median));
    bars.push(at_most("latency: 99 of 100 within µs, mosquitto's", p99_max, p99));
    let memory = match report.figure("idle", OURS) {
        Some(Figure::Memory(bytes)) => Some(*bytes),
        _ => None,
    };
    bars.push(at_most("idle: bytes per connection", Some(BYTES_PER_CONNECTION_MAX), memory));
    for scenario in ["trie", "trie-wildcards"] {
        let trie = match report.figure(scenario, OURS) {
            Some(Figure::Trie(trie)) => Some(*trie),
            _ => None,
        };
        let times = trie.map(|trie| trie.many_ns / trie.few_ns);
        bars.push(at_most(&format!("{scenario}: times the cost among 1,000 filters"), Some(TRIE_TIMES_MAX), times));
        let bytes = trie.map(|trie| trie.bytes_per_filter);
        bars.push(at_most(&format!("{scenario}: bytes per filter beyond its text"), Some(TRIE_BYTES_MAX), bytes));
    }
    let durable = match report.figure("durable", OURS) {
        Some(Figure::Throughput(throughput)) => Some(throughput.messages_per_cpu_second()),
        _ => None,
    };
    bars.push(Bar {
        what: "durable: messages per second of a core".into(),
        at_least: true,
        wanted: Some(DURABLE_PER_CPU_SECOND_MIN),
        measured: durable,
    });
    bars
}

/// The bars as Markdown.
pub fn markdown(bars: &[Bar]) -> String {
    let mut out = String::from("| bar | wanted | measured | |\n| --- | ---: | ---: | --- |\n");
    for bar in bars {
        let sign = if bar.at_least { '≥' } else { '≤' };
        let wanted = bar.wanted.map_or("–".into(), |wanted| format!("{sign} {}", number(wanted)));
        let measured = bar.measured.map_or("–".into(), number);
        let _ = writeln!(out, "| {} | {wanted} | {measured} | {} |", bar.what, bar.verdict());
    }
    out
}

/// As exactly as a reader can use it.
fn number(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{cpu, report};

    fn bar(at_least: bool, wanted: f64, measured: f64) -> Bar {
        Bar { what: "x".into(), at_least, wanted: Some(wanted), measured: Some(measured) }
    }

    #[test]
    fn a_bar_is_met_on_its_right_side() {
        assert_eq!(bar(true, 12.0, 12.0).met(), Some(true));
        assert_eq!(bar(true, 12.0, 11.9).met(), Some(false));
        assert_eq!(bar(false, 1536.0, 1536.0).met(), Some(true));
        assert_eq!(bar(false, 1536.0, 1537.0).met(), Some(false));
        assert_eq!(Bar { measured: None, ..bar(true, 1.0, 1.0) }.met(), None);
    }

    #[test]
    fn a_missed_bar_says_by_how_much() {
        let text = markdown(&[bar(true, 12.0, 9.0), bar(false, 200.0, 100.0)]);
        assert!(text.contains("| x | ≥ 12.0 | 9.0 | **missed by 25 %** |"), "{text}");
        assert!(text.contains("| x | ≤ 200 | 100 | met, 50 % to spare |"), "{text}");
    }

    #[test]
    fn bars_read_the_report() {
        let report = report(&[
            ("pairs-qos0", "mosquitto", cpu(13_000)),
            ("pairs-qos0", "mqtt-broker", cpu(1_000)),
            ("durable", "mqtt-broker", cpu(20_000)),
            ("latency", "mqtt-broker", Ok(Figure::Latency { median_ns: 20e3, p99_ns: 50e3 })),
            ("latency", "mosquitto", Ok(Figure::Latency { median_ns: 19e3, p99_ns: 60e3 })),
        ]);
        let bars = all(&report);
        let met = |what: &str| bars.iter().find(|bar| bar.what.starts_with(what)).expect("a bar").met();
        assert_eq!(met("pairs-qos0"), Some(true));
        assert_eq!(met("pairs-qos1"), None);
        assert_eq!(met("latency: median"), Some(false));
        assert_eq!(met("latency: 99"), Some(true));
        assert_eq!(met("durable"), Some(true));
        assert_eq!(met("idle"), None);
    }
}
