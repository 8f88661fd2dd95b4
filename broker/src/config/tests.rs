//! What is wrong is named with its place and its remedy.

use super::*;

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &Run::default())
}

fn load_with(text: &str, run: &Run) -> Result<Config, String> {
    Config::new(file::parse(text)?, run).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = load(text).expect_err("refused");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn nothing_asked_for_is_a_useful_broker_on_loopback() {
    let config = load("").unwrap();
    assert_eq!(config.listeners, [Listen { address: "127.0.0.1:1883".parse().unwrap(), anonymous: true }]);
    assert_eq!((config.data_dir, config.cluster, config.shards), (None, None, 16));
    assert!(!config.node_name.is_empty());
}

#[test]
fn everything_that_can_be_said_is_heard() {
    let config = load(
        "
node: { name: mqtt-0, workers: 2 }
data_dir: /data
listeners:
  - url: mqtt://0.0.0.0:1883
    allow_anonymous: true
admin: { listen: \"0.0.0.0:8080\", token_file: /token }
cluster:
  listen: 0.0.0.0:7883
  advertise: mqtt-0.peers:7883
  peers: [\"dns://peers:7883\", \"other:7883\"]
  bootstrap: mqtt-0
  tls: { ca_file: /ca, cert_file: /cert, key_file: /key }
replication: { factor: 3, shards: 4 }
limits: { packet_bytes_max: 1000 }
",
    )
    .unwrap();
    assert_eq!((config.node_name.as_str(), config.workers, config.shards), ("mqtt-0", 2, 4));
    let cluster = config.cluster.unwrap();
    assert_eq!((cluster.advertise.as_str(), cluster.peers.len()), ("mqtt-0.peers:7883", 2));
    assert_eq!(config.limits.packet_bytes_max, 1000);
}

#[test]
fn flags_and_environment_win_over_the_file() {
    let run = Run {
        listen: vec!["mqtt://127.0.0.1:2000".into()],
        node_name: Some("flag".into()),
        data_dir: Some("/flag".into()),
        admin: Some("127.0.0.1:9".parse().unwrap()),
        ..Run::default()
    };
    let text =
        "node: {name: file}\ndata_dir: /file\nlisteners: [{url: mqtt://127.0.0.1:1}]\nadmin: {listen: 127.0.0.1:1}";
    let config = load_with(text, &run).unwrap();
    assert_eq!(config.node_name, "flag");
    assert_eq!(config.data_dir, Some("/flag".into()));
    assert_eq!(config.listeners[0].address.port(), 2000);
    assert_eq!(config.admin.unwrap().listen.port(), 9);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_is_known() {
    refused("node:\n  nmae: a", &["nmae", "name", "line 2"]);
    refused("datadir: /x", &["datadir", "data_dir", "line 1"]);
    refused("# a comment\nnode: {}\ndatadir: /x", &["datadir", "line 3"]);
    refused("limits: {packets: 1}", &["packets", "packet_bytes_max"]);
}

#[test]
fn a_value_of_another_type_is_named_with_its_line() {
    refused("node:\n  workers: many", &["workers", "many", "line 2"]);
    refused("cluster: {listen: 127.0.0.1:1}", &["tls"]);
}

#[test]
fn a_value_out_of_range_is_named_with_what_to_write() {
    refused("node: {workers: 0}", &["node.workers", "0", "1 to 256"]);
    refused("replication: {factor: 2}", &["replication.factor", "2", "1, 3 or 5"]);
    refused("replication: {shards: 0}", &["replication.shards", "0", "1 to 256"]);
    refused("limits: {receive_maximum: 0}", &["limits.receive_maximum", "0", "1 to 65535"]);
    refused("listeners: []", &["listeners", "at least one"]);
}

#[test]
fn an_address_that_is_none_is_named() {
    refused("listeners: [{url: 127.0.0.1:1883}]", &["127.0.0.1:1883", "mqtt://HOST:PORT"]);
    refused("listeners: [{url: mqtt://127.0.0.1}]", &["HOST:PORT"]);
    refused("listeners: [{url: mqtt://127.0.0.1:99999}]", &["99999", "0 to 65535"]);
    refused("listeners: [{url: wss://127.0.0.1:1}]", &["wss", "only mqtt://"]);
    refused("admin: {listen: nowhere}", &["admin.listen", "nowhere", "HOST:PORT"]);
    let tls = "tls: {ca_file: a, cert_file: b, key_file: c}";
    refused(&format!("cluster: {{listen: 127.0.0.1:1, peers: [x], {tls}}}"), &["cluster.peers", "x"]);
}

#[test]
fn strangers_are_let_in_only_where_it_is_said() {
    refused("listeners: [{url: mqtt://0.0.0.0:1883}]", &["mqtt://0.0.0.0:1883", "allow_anonymous: true"]);
    assert!(load("listeners: [{url: mqtt://0.0.0.0:1883, allow_anonymous: true}]").is_ok());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let run = Run { config: Some("/no/such/file.yaml".into()), ..Run::default() };
    let error = Config::load(&run).unwrap_err().to_string();
    assert!(error.contains("/no/such/file.yaml") && error.contains("--config"), "{error}");
}
