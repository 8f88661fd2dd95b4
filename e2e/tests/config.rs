//! What the operator writes into the ConfigMap, put to the broker's own parser. The two share no code, so only a test can tell
//! that they mean the same.

#![allow(clippy::unwrap_used, reason = "a test may panic, and clippy knows only test functions as tests")]

use mqtt_broker::{cli::Run, config::Config};
use mqtt_e2e::installation::root;
use serde::Deserialize as _;
use serde_json::Value;

/// The configuration file in one of the operator's snapshots, which its own tests keep equal to what it builds.
fn config_file(snapshot: &str) -> String {
    let path = root().join("operator/src/build/snapshots").join(snapshot);
    let text = std::fs::read_to_string(path).unwrap();
    let mut objects = serde_yaml::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap());
    let map = objects.find(|object| object["kind"] == "ConfigMap").unwrap();
    map["data"]["config.yaml"].as_str().unwrap().to_owned()
}

/// As a pod does it: the file, and its own address in the environment.
fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let run = Run {
        config: Some(path),
        node_name: Some("mqtt-0".to_owned()),
        advertise: Some("mqtt-0.mqtt-peers.ns.svc.cluster.local:7883".to_owned()),
        ..Run::default()
    };
    Config::load(&run).map_err(|error| error.to_string())
}

#[test]
fn the_broker_takes_what_the_operator_writes() {
    let config = load(&config_file("least.yaml")).unwrap();
    assert_eq!((config.node_name.as_str(), config.shards, config.listeners.len()), ("mqtt-0", 16, 1));
    assert!(config.admin.is_some() && config.cluster.is_some());
}

#[test]
fn a_wrong_file_is_refused() {
    let wrong = config_file("least.yaml").replace("data_dir", "data_directory");
    assert!(load(&wrong).unwrap_err().contains("data_directory"));
}
