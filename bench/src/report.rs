//! The table of a run: per scenario and broker, CPU per delivered message, as a ratio to Mosquitto and to the floor.

use std::fmt::Write as _;

use crate::scenario::Measured;

/// One line: who, in which scenario, needed what.
pub struct Line {
    /// The scenario's name.
    pub scenario: String,
    /// The broker's name.
    pub broker: &'static str,
    /// The median run, or why there is none.
    pub result: Result<Measured, String>,
}

/// The lines as a Markdown table.
pub fn markdown(lines: &[Line]) -> String {
    let mut out = String::from(
        "| scenario | broker | CPU ns per delivered message | times less than mosquitto | multiple of the floor | \
         delivered a second |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
    );
    for line in lines {
        let _ = match &line.result {
            Ok(measured) => writeln!(
                out,
                "| {} | {} | {:.0} | {} | {} | {:.0} |",
                line.scenario,
                line.broker,
                measured.cpu_ns_per_message(),
                ratio(cpu_of(lines, &line.scenario, "mosquitto"), Some(measured.cpu_ns_per_message())),
                ratio(Some(measured.cpu_ns_per_message()), cpu_of(lines, &line.scenario, "floor")),
                measured.rate(),
            ),
            Err(why) => writeln!(out, "| {} | {} | not measured: {why} | | | |", line.scenario, line.broker),
        };
    }
    out
}

/// How many times less CPU than Mosquitto `broker` took per message in `scenario`; `None` if either is missing.
pub fn times_less_than_mosquitto(lines: &[Line], scenario: &str, broker: &str) -> Option<f64> {
    Some(cpu_of(lines, scenario, "mosquitto")? / cpu_of(lines, scenario, broker)?)
}

fn cpu_of(lines: &[Line], scenario: &str, broker: &str) -> Option<f64> {
    let line = lines.iter().find(|line| line.scenario == scenario && line.broker == broker)?;
    line.result.as_ref().ok().map(Measured::cpu_ns_per_message)
}

fn ratio(above: Option<f64>, below: Option<f64>) -> String {
    match (above, below) {
        (Some(above), Some(below)) if below > 0.0 => format!("{:.1}", above / below),
        _ => "–".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(broker: &'static str, cpu_us: u64) -> Line {
        let measured =
            Measured { delivered: 1000, elapsed: Duration::from_secs(1), broker_cpu: Duration::from_micros(cpu_us) };
        Line { scenario: "pairs".into(), broker, result: Ok(measured) }
    }

    #[test]
    fn ratios_are_taken_within_a_scenario() {
        let lines = [line("mosquitto", 20_000), line("mqtt-broker", 2_000), line("floor", 1_000)];
        assert_eq!(times_less_than_mosquitto(&lines, "pairs", "mqtt-broker"), Some(10.0));
        assert!(markdown(&lines).contains("| pairs | mqtt-broker | 2000 | 10.0 | 2.0 | 1000 |"));
    }

    #[test]
    fn a_peer_that_is_not_there_is_named() {
        let missing = Line { scenario: "pairs".into(), broker: "mosquitto", result: Err("not installed".into()) };
        let lines = [missing, line("mqtt-broker", 2_000)];
        assert_eq!(times_less_than_mosquitto(&lines, "pairs", "mqtt-broker"), None);
        assert!(markdown(&lines).contains("mosquitto | not measured: not installed"));
    }
}
