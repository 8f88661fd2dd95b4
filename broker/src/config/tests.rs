//! What is wrong is named with its place and its remedy.

use super::*;

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &Run::default())
}

fn load_with(text: &str, run: &Run) -> Result<Config, String> {
    Config::read(Path::new("broker.yaml"), text, run).map_err(|error| error.to_string())
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
    let [listen] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((listen.address, listen.anonymous), ("127.0.0.1:1883".parse().unwrap(), true));
    assert_eq!((config.data_dir, config.cluster, config.shards), (None, None, 16));
    assert!(!config.node_name.is_empty());
}

#[test]
fn everything_that_can_be_said_is_heard() {
    let config = load(
        "
node: { name: mqtt-0, workers: 2, queue_memory_bytes: 1000000 }
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
    assert_eq!(config.queue_memory_bytes, 1_000_000);
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
        admin: Some("localhost:9".into()),
        workers: Some(3),
        ..Run::default()
    };
    let text =
        "node: {name: file}\ndata_dir: /file\nlisteners: [{url: mqtt://127.0.0.1:1}]\nadmin: {listen: 127.0.0.1:1}";
    let config = load_with(text, &run).unwrap();
    assert_eq!(config.node_name, "flag");
    assert_eq!(config.data_dir, Some("/flag".into()));
    assert_eq!(config.listeners[0].address.port(), 2000);
    assert_eq!(config.admin.unwrap().listen.port(), 9);
    assert_eq!(config.workers, 3);
    let cluster = "cluster: {listen: 127.0.0.1:1, advertise: file:1, tls: {ca_file: a, cert_file: b, key_file: c}}";
    let run = Run { advertise: Some("flag:1".into()), ..Run::default() };
    assert_eq!(load_with(cluster, &run).unwrap().cluster.unwrap().advertise, "flag:1");
    assert_eq!(load(cluster).unwrap().cluster.unwrap().advertise, "file:1");
}

#[test]
fn a_flag_is_named_where_it_is_to_blame() {
    #[track_caller]
    fn refused(run: Run, words: &str) {
        let text =
            "node: {name: a, workers: 1}\ncluster: {listen: 127.0.0.1:1, tls: {ca_file: a, cert_file: b, key_file: c}}";
        let error = load_with(text, &run).expect_err("refused");
        assert!(error.starts_with(words), "{error:?} does not begin with {words:?}");
    }
    refused(Run { workers: Some(0), ..Run::default() }, "--workers: 0: choose");
    refused(
        Run { node_name: Some("a b".into()), ..Run::default() },
        "--node-name (or MQTT_BROKER_NODE_NAME): \"a b\": ",
    );
    refused(Run { admin: Some("x".into()), ..Run::default() }, "--admin: x: write HOST:PORT");
    refused(Run { advertise: Some("0.0.0.0:1".into()), ..Run::default() }, "--advertise (or MQTT_BROKER_ADVERTISE): ");
    refused(Run { data_dir: Some("".into()), ..Run::default() }, "--data-dir: \"\": name a directory");
    refused(
        Run { listen: vec!["mqtt://0.0.0.0:1".into()], ..Run::default() },
        "--listen: mqtt://0.0.0.0:1: there are no users",
    );
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
    refused("node:\n  nmae: a", &["broker.yaml:2: ", "`nmae`", "did you mean `name`?"]);
    refused("datadir: /x", &["broker.yaml:1: ", "`datadir`", "did you mean `data_dir`?"]);
    refused("# datadir\nnode: {}\n\ndatadir:\n  /x", &["broker.yaml:4: "]);
    refused("listeners:\n- url: mqtt://127.0.0.1:1\n  anonymous: true", &["broker.yaml:3: listeners[0]: "]);
    refused("limits: {packets: 1}", &["broker.yaml:1: limits: ", "`packets`", "packet_bytes_max"]);
    let error = load("zebra: 1").unwrap_err();
    assert!(!error.contains("did you mean") && error.contains("expected one of `node`"), "{error}");
}

#[test]
fn a_value_of_another_type_is_named_with_its_place() {
    refused("node:\n  workers: many", &["broker.yaml:2: node.workers: ", "many", "a whole number"]);
    refused("node:\n  workers: -1", &["broker.yaml:2: node.workers: ", "-1", "a whole number"]);
    refused("# peers\ncluster:\n  listen: 127.0.0.1:1", &["broker.yaml:2: cluster: ", "`tls`; add it"]);
    refused("node: {name: a", &["broker.yaml:2: ", "flow mapping at line 1"]);
    refused("node: {}\nnode: {}", &["broker.yaml:", "duplicate", "node"]);
}

#[test]
fn a_value_out_of_range_is_named_with_its_place_and_what_to_write() {
    refused("node:\n  workers: 0", &["broker.yaml:2: node.workers: 0: choose from 1 to 256"]);
    refused(
        "node: {queue_memory_bytes: 2000000000000}",
        &["broker.yaml:1: node.queue_memory_bytes: 2000000000000: choose from 0 to"],
    );
    refused("node: {workers: 70000}", &["broker.yaml:1: node.workers: 70000: choose from 1 to 256"]);
    refused("node: {name: \"\"}", &["broker.yaml:1: node.name: \"\": choose from 1 to 253"]);
    refused("node: {name: a/b}", &["broker.yaml:1: node.name: \"a/b\": choose"]);
    refused("data_dir: \"\"", &["broker.yaml:1: data_dir: \"\": name a directory"]);
    refused("replication:\n  shards: 1\n  factor: 2", &["broker.yaml:3: replication.factor: 2: choose 1, 3 or 5"]);
    refused("replication: {factor: 259}", &["replication.factor: 259: choose 1, 3 or 5"]);
    refused("replication: {shards: 0}", &["broker.yaml:1: replication.shards: 0: choose from 1 to 256"]);
    refused("\nlimits:\n  receive_maximum: 0", &["broker.yaml:3: limits.receive_maximum: 0: choose from 1 to 65535"]);
    refused("limits: {receive_maximum: 65536}", &["limits.receive_maximum: 65536: choose from 1 to 65535"]);
    refused("listeners: []", &["broker.yaml:1: listeners: []: give at least one"]);
}

#[test]
fn every_limit_can_be_set_and_each_default_is_allowed() {
    let ClientLimits {
        packet_bytes_max,
        receive_maximum,
        in_flight_max,
        waiting_items_max,
        waiting_bytes_max,
        output_bytes_max,
        subscriptions_max,
        awaited_max,
        topic_aliases_max,
        keep_alive_seconds_max,
        connections_max,
        connect_ms,
        linger_ms,
        congestion_ms,
        peer_batches_max,
    } = ClientLimits::default();
    let text = format!(
        "limits: {{ packet_bytes_max: {packet_bytes_max}, receive_maximum: {receive_maximum}, \
         in_flight_max: {in_flight_max}, waiting_items_max: {waiting_items_max}, \
         waiting_bytes_max: {waiting_bytes_max}, output_bytes_max: {output_bytes_max}, \
         subscriptions_max: {subscriptions_max}, awaited_max: {awaited_max}, \
         topic_aliases_max: {topic_aliases_max}, keep_alive_seconds_max: {keep_alive_seconds_max}, \
         connections_max: {connections_max}, \
         connect_ms: {connect_ms}, linger_ms: {linger_ms}, congestion_ms: {congestion_ms}, \
         peer_batches_max: {peer_batches_max} }}"
    );
    assert_eq!(load(&text).unwrap().limits, ClientLimits::default());
    assert_eq!(load("limits: {linger_ms: 123}").unwrap().limits.linger_ms, 123);
}

#[test]
fn how_messages_are_shared_out_is_one_of_the_strategies() {
    assert_eq!(load("").unwrap().shared_subscriptions, Strategy::RoundRobin);
    for strategy in Strategy::ALL {
        let text = format!("shared_subscriptions: {{strategy: {strategy}}}");
        assert_eq!(load(&text).unwrap().shared_subscriptions, strategy);
    }
    refused(
        "shared_subscriptions:\n  strategy: fair",
        &["broker.yaml:2: shared_subscriptions.strategy: \"fair\": choose one of round_robin, random"],
    );
}

#[test]
fn two_listeners_of_one_port_and_a_log_filter_that_is_none_are_named() {
    let two = |first: &str, second: &str| format!("listeners:\n  - url: {first}\n  - url: {second}\n");
    refused(
        &two("mqtt://127.0.0.1:1883", "ws://127.0.0.1:1883"),
        &["broker.yaml:3", "listeners[1].url", "ws://127.0.0.1:1883", "listeners[0]", "another port"],
    );
    load(&two("mqtt://127.0.0.1:1883", "ws://127.0.0.2:1883")).unwrap();
    load(&two("mqtt://127.0.0.1:0", "ws://127.0.0.1:0")).unwrap();
    refused("log:\n  filter: mqtt_broker=loud\n", &["broker.yaml:2", "log.filter", "mqtt_broker=loud", "debug"]);
    load("log: { filter: \"mqtt_broker=debug,warn\" }").unwrap();
}

#[test]
fn an_address_that_is_none_is_named() {
    refused("listeners: [{url: 127.0.0.1:1883}]", &["broker.yaml:1: listeners[0].url: 127.0.0.1:1883: write mqtt://"]);
    refused("listeners: [{url: mqtt://127.0.0.1}]", &["HOST:PORT"]);
    refused("listeners: [{url: mqtt://127.0.0.1:99999}]", &["99999", "0 to 65535"]);
    refused("listeners: [{url: mqtt://me@127.0.0.1:1}]", &["HOST:PORT"]);
    refused("listeners:\n- url: mqtts://127.0.0.1:1", &["broker.yaml:2: listeners[0].url: ", "give a certificate"]);
    refused("listeners: [{url: tcp://127.0.0.1:1}]", &["tcp://127.0.0.1:1: write mqtt://HOST:PORT, mqtts://"]);
    refused("admin:\n  listen: nowhere", &["broker.yaml:2: admin.listen: nowhere: write HOST:PORT"]);
    let cluster = |more: &str| format!("cluster:\n  {more}\n  tls: {{ca_file: a, cert_file: b, key_file: c}}");
    refused(
        &cluster("listen: 127.0.0.1:1\n  peers: [a:1,\n    x]"),
        &["broker.yaml:4: cluster.peers[1]: x: write HOST"],
    );
    refused(&cluster("listen: 127.0.0.1:1\n  peers: [tcp://x:1]"), &["broker.yaml:3: cluster.peers[0]: tcp://x:1: "]);
    refused(&cluster("listen: 127.0.0.1:1\n  peers: [x:0]"), &["cluster.peers[0]: x:0: peers can't reach that"]);
    refused(&cluster("listen: 0.0.0.0:1"), &["broker.yaml:1: cluster.advertise: 0.0.0.0:1: peers can't reach that"]);
}

#[test]
fn strangers_are_let_in_only_where_it_is_said() {
    refused("listeners: [{url: mqtt://0.0.0.0:1883}]", &["mqtt://0.0.0.0:1883", "allow_anonymous: true"]);
    refused(
        "listeners: [{url: mqtt://127.0.0.1:1, allow_anonymous: false}]",
        &["broker.yaml:1: ", "there are no users"],
    );
    assert!(load("listeners: [{url: mqtt://0.0.0.0:1883, allow_anonymous: true}]").is_ok());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let run = Run { config: Some("/no/such/file.yaml".into()), ..Run::default() };
    let error = Config::load(&run).unwrap_err().to_string();
    assert!(error.contains("/no/such/file.yaml") && error.contains("--config"), "{error}");
}

#[test]
fn each_listener_has_its_own_settings() {
    let config = load(
        "
auth: { password_file: /p, acl_file: /a }
listeners:
  - url: mqtt://127.0.0.1:1
    proxy_protocol: true
    connections_per_second: 5
  - url: wss://0.0.0.0:2/chat
    connections_max: 10
    tls:
      certificates: [{ cert_file: /c, key_file: /k }]
      min_version: \"1.3\"
      client_ca_file: /ca
      client_certificates: optional
      user_from: cn
  - url: ws://127.0.0.1:3
    allow_anonymous: true
",
    )
    .unwrap();
    let [plain, secure, web] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert!(plain.proxy_protocol && !plain.anonymous, "with users, anonymous is not the default even on loopback");
    assert_eq!(plain.connections_per_second, Some(5));
    let tls = secure.tls.as_ref().unwrap();
    assert_eq!((secure.web_path.as_deref(), secure.connections_max), (Some("/chat"), Some(10)));
    assert_eq!((tls.min_version, tls.user_from), (TlsVersion::V1_3, UserFrom::CommonName));
    assert_eq!(tls.client_certificates, ClientCertificates::Optional);
    assert_eq!((web.web_path.as_deref(), web.anonymous), (Some("/mqtt"), true));
}

#[test]
fn tls_that_makes_no_sense_is_named() {
    let tls = |tls: &str| format!("listeners:\n- url: mqtts://127.0.0.1:1\n  tls: {{{tls}}}");
    let one = "certificates: [{cert_file: c, key_file: k}]";
    refused(&tls("certificates: []"), &["broker.yaml:3: listeners[0].tls.certificates", "give at least one"]);
    refused(&tls(&format!("{one}, min_version: \"1.1\"")), &["tls.min_version: 1.1: choose"]);
    refused(&tls(&format!("{one}, user_from: cn")), &["tls.user_from: ", "give it"]);
    refused(&tls(&format!("{one}, client_ca_file: x, user_from: uid")), &["uid: choose cn, san or none"]);
    refused("listeners: [{url: mqtt://127.0.0.1:1, tls: {certificates: []}}]", &["not mqtts://"]);
    let run = Run { listen: vec!["mqtts://127.0.0.1:1".into()], ..Run::default() };
    assert!(load_with("", &run).unwrap_err().contains("--tls-cert"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([a-z_]{0,12}[:\\- {}\\[\\],\"0-9\n]{0,3}){0,40}", url in "[a-z]{0,5}(://)?[0-9a-z.:/\\[\\]@?#]{0,24}") {
        let _ = load(&text);
        let _ = load(&format!("listeners: [{{url: \"{url}\"}}]"));
        let _ = load(&format!("listeners:\n- url: 1\n  {text}"));
    }
}
