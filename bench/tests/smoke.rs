//! Every scenario for a moment with this project's broker alone: that the benchmark works, not how fast anything is.

use std::fs;
use std::path::Path;
use std::process::Command;

use mqtt_bench::scenario;

/// `mqtt-broker` of the same build, built if it isn't there.
fn broker() -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_mqtt-bench")).with_file_name("mqtt-broker");
    if !path.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", "mqtt-broker"]).status().expect("cargo runs");
        assert!(built.success(), "cargo build -p mqtt-broker: {built}");
    }
    path
}

#[test]
fn every_scenario_gives_a_figure_and_every_figure_a_line() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smoke");
    let _ = fs::remove_dir_all(&out);
    let run = Command::new(env!("CARGO_BIN_EXE_mqtt-bench"))
        .args(["run", "--alone", "--bars", "--rounds", "1", "--seconds", "1", "--warm-up", "0.2"])
        .args(["--idle", "500", "--filters", "20000", "--broker"])
        .arg(broker())
        .arg("--out")
        .arg(&out)
        // On the disk of the build, not in a /tmp that may be in memory.
        .env("TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("mqtt-bench runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}: {stderr}", run.status);
    assert!(!stdout.contains("Not measured:"), "{stdout}");
    for scenario in scenario::all(500) {
        assert!(stdout.contains(&format!("| {} | mqtt-broker |", scenario.title)), "{}: {stdout}", scenario.name);
    }
    assert!(stdout.contains("| bar | wanted | measured |"), "{stdout}");
    for file in ["report.md", "cpu.svg", "latency.svg", "memory.svg"] {
        assert!(out.join(file).exists(), "{file}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_an_error_that_says_what_to_do() {
    let run = Command::new(env!("CARGO_BIN_EXE_mqtt-bench"))
        .args(["run", "--broker", "/nowhere/mqtt-broker"])
        .output()
        .expect("mqtt-bench runs");
    assert!(!run.status.success());
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(stderr.contains("cargo build --release -p mqtt-broker"), "{stderr}");
}
