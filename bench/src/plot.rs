//! A report as pictures: bars by scenario and broker, on a logarithmic scale, since the brokers are up to a hundred times apart.

use std::fmt::Write as _;

use crate::figure::Figure;
use crate::report::Report;

const WIDTH: f64 = 920.0;
/// Where the bars begin.
const LEFT: f64 = 360.0;
/// Where the longest may end, with room for its number.
const RIGHT: f64 = WIDTH - 90.0;
const ROW: f64 = 18.0;
const GAP: f64 = 12.0;
const TOP: f64 = 44.0;
const COLOURS: [(&str, &str); 6] = [
    ("mqtt-broker", "#1769aa"),
    ("floor", "#9e9e9e"),
    ("mosquitto", "#c0392b"),
    ("rmqttd", "#e08e0b"),
    ("mochi-mqtt", "#5e8c31"),
    ("HiveMQ CE", "#7d3c98"),
];
const OTHER_COLOUR: &str = "#444444";

/// A bar of a group.
#[derive(Debug, PartialEq)]
struct Bar {
    label: &'static str,
    value: f64,
}

/// The files of a report's pictures: name and content.
pub fn files(report: &Report) -> Vec<(&'static str, String)> {
    let charts = [
        (
            "cpu.svg",
            "CPU per delivered message, ns of one core (less is better)",
            1.0,
            Figure::cpu_ns_per_message as Of,
        ),
        ("latency.svg", "Latency at 5,000 messages a second, 99 of 100 within µs (less is better)", 1e-3, p99_ns),
        ("memory.svg", "Memory per idle connection, bytes (less is better)", 1.0, bytes),
    ];
    charts
        .into_iter()
        .filter_map(|(name, title, scale, of)| Some((name, chart(title, &groups(report, scale, of))?)))
        .collect()
}

type Of = fn(&Figure) -> Option<f64>;

fn p99_ns(figure: &Figure) -> Option<f64> {
    match figure {
        Figure::Latency { p99_ns, .. } => Some(*p99_ns),
        _ => None,
    }
}

fn bytes(figure: &Figure) -> Option<f64> {
    match figure {
        Figure::Memory(bytes) => Some(*bytes),
        _ => None,
    }
}

/// The bars of each scenario that has any.
fn groups(report: &Report, scale: f64, of: Of) -> Vec<(&'static str, Vec<Bar>)> {
    let mut groups: Vec<(&'static str, Vec<Bar>)> = Vec::new();
    for line in &report.lines {
        let Some(value) = line.result.as_ref().ok().and_then(of) else {
            continue;
        };
        let bar = Bar { label: line.broker, value: value * scale };
        match groups.last_mut() {
            Some((title, bars)) if *title == line.scenario.title => bars.push(bar),
            _ => groups.push((line.scenario.title, vec![bar])),
        }
    }
    groups
}

/// `None` if there is nothing to show.
fn chart(title: &str, groups: &[(&str, Vec<Bar>)]) -> Option<String> {
    let values = || groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.value);
    // Half of the least, so that the shortest bar is one to be seen.
    let least = values().fold(f64::INFINITY, f64::min).max(1.0) / 2.0;
    let most = values().fold(0.0, f64::max);
    if most <= least {
        return None;
    }
    let rows: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = TOP + rows as f64 * ROW + groups.len() as f64 * GAP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"15\">{title}; logarithmic</text>\n"
    );
    let mut y = TOP;
    for (title, bars) in groups {
        let _ = writeln!(out, "<text x=\"10\" y=\"{}\">{title}</text>", y + 13.0);
        for bar in bars {
            let length = length(bar.value, least, most);
            let colour =
                COLOURS.iter().find(|(broker, _)| *broker == bar.label).map_or(OTHER_COLOUR, |(_, colour)| *colour);
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" \
                 height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{:.0}</text>",
                LEFT - 6.0,
                y + 13.0,
                bar.label,
                y + 2.0,
                ROW - 4.0,
                LEFT + length + 5.0,
                y + 13.0,
                bar.value
            );
            y += ROW;
        }
        y += GAP;
    }
    out.push_str("</svg>\n");
    Some(out)
}

/// How long a bar is between the least and the most.
fn length(value: f64, least: f64, most: f64) -> f64 {
    let share = (value.max(least) / least).ln() / (most / least).ln();
    share * (RIGHT - LEFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{cpu, report};

    #[test]
    fn equal_ratios_are_equal_lengths() {
        let [one, ten, hundred] = [1.0, 10.0, 100.0].map(|value| length(value, 1.0, 100.0));
        assert_eq!(one, 0.0);
        assert!((hundred - 2.0 * ten).abs() < 1e-9, "{ten} {hundred}");
        assert!((hundred - (RIGHT - LEFT)).abs() < 1e-9);
    }

    #[test]
    fn a_picture_has_a_bar_for_each_broker_of_each_scenario() {
        let files = files(&report(&[
            ("pairs-qos0", "mosquitto", cpu(20_000)),
            ("pairs-qos0", "mqtt-broker", cpu(2_000)),
            ("pairs-qos1", "mqtt-broker", cpu(3_000)),
            ("pairs-qos1", "mosquitto", Err("gone")),
        ]));
        let [(name, svg)] = &files[..] else { panic!("one picture, not {}", files.len()) };
        assert_eq!(*name, "cpu.svg");
        assert_eq!(svg.matches("fill=\"#").count(), 3);
        assert!(svg.contains(">20000<") && svg.contains(">100 pairs, QoS 1<"), "{svg}");
    }
}
