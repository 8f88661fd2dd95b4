//! Over real HTTP on loopback, as an operator asks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::cluster::control::MemberState;
use crate::cluster::handle;
use crate::cluster::status::{DamagedReplica, MemberStatus, Stage, Status};
use crate::identity::GroupId;
use crate::message::{Message, QoS};
use crate::node::Report;
use crate::shard::{Page, StoredSession, Totals};
use crate::storage::Health;
use crate::worker::{Ask, ClientSubscription, ConnectedClient, Counters};

/// A server over a node whose status is `status`, and whose requests are answered as the cluster would.
async fn start(status: Status, token: Option<&str>) -> std::net::SocketAddr {
    start_beating(status, token).await.0
}

fn stored_session(client_id: &str) -> StoredSession {
    StoredSession {
        client_id: client_id.into(),
        connected: false,
        session_expiry_seconds: 60,
        subscriptions: 1,
        queued_messages: 2,
        queued_bytes: 3,
    }
}

/// What is retained at `a/b` and `c`.
fn retained(filter: &str, after: Option<&str>, count: usize) -> Page {
    let topics = ["a/b", "c"].into_iter().filter(|topic| filter == "#" || filter == *topic);
    let mut topics: Vec<&str> = topics.filter(|topic| after.is_none_or(|after| *topic > after)).collect();
    let more = topics.len() > count;
    topics.truncate(count);
    let message = |topic: &&str| Message {
        topic: (*topic).into(),
        payload: "<b>".into(),
        qos: QoS::AtLeastOnce,
        expires_at_ms: Some(7),
        ..Message::default()
    };
    Page {
        messages: topics.iter().map(message).collect(),
        next: topics.last().filter(|_| more).map(|last| (*last).into()),
    }
}

/// As [`start`], with the heartbeat of the node.
async fn start_beating(
    status: Status,
    token: Option<&str>,
) -> (std::net::SocketAddr, Arc<std::sync::atomic::AtomicU64>) {
    let (doors, cluster) = handle::doors();
    let heartbeat = cluster.heartbeat.clone();
    let mut doors = doors.for_test(status);
    tokio::spawn(async move {
        while let Some(request) = doors.next_request().await {
            match request {
                ClusterRequest::Leave { name, answer, .. } => {
                    let _ = answer.send(match name.as_str() {
                        "mqtt-1" => Ok(()),
                        "nobody-to-ask" => Err(LeaveError::Unavailable),
                        _ => Err(LeaveError::Unknown),
                    });
                }
                ClusterRequest::Sessions { after, count, answer } => {
                    let stored = ["a", "b", "c"].into_iter().filter(|client_id| **client_id > *after);
                    let _ = answer.send(stored.take(count).map(stored_session).collect());
                }
                ClusterRequest::EndSession { client_id, answer } => {
                    let _ = answer.send(client_id == "a");
                }
                ClusterRequest::Retained { filter, after, count, answer } => {
                    let _ = answer.send(retained(&filter, after.as_deref(), count));
                }
                ClusterRequest::DeleteRetained { topic, answer } => {
                    let _ = answer.send(topic == "a/b");
                }
                ClusterRequest::Drain { .. } => {}
            }
        }
    });
    let counted = Counters { messages_received: 7, dropped_too_large: 3, ..Counters::default() };
    let workers = workers(2, counted);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, state(cluster, workers, token)));
    (address, heartbeat)
}

fn state(cluster: ClusterHandle, workers: Vec<WorkerHandle>, token: Option<&str>) -> AdminState {
    let (reload, mut asked) = mpsc::channel::<ReloadRequest>(1);
    tokio::spawn(async move {
        while let Some(request) = asked.recv().await {
            let report = Report { restart_needed: vec!["data_dir".to_owned()], ..Report::default() };
            let _ = match request {
                ReloadRequest::Reload(answer) => {
                    answer.send(Report { reloaded: vec!["limits".to_owned()], ..report }).is_ok()
                }
                ReloadRequest::Last(answer) => answer.send(Report { failed: vec!["acl".to_owned()], ..report }).is_ok(),
                ReloadRequest::Check(text, answer) => {
                    let verdict = if text == "good" { Ok(()) } else { Err(format!("{text} is bad")) };
                    answer.send(verdict).is_ok()
                }
            };
        }
    });
    let token = Arc::new(ArcSwapOption::from_pointee(token.map(str::to_owned)));
    AdminState { cluster, workers, entrances: vec![Entrance::plain(true)], token, reload }
}

/// Workers that answer as if each had one client, `client-0`, `client-1`, …
fn workers(count: u16, counted: Counters) -> Vec<WorkerHandle> {
    let (to_cluster, _) = mpsc::unbounded_channel();
    let handles = crate::worker::doors(count, &to_cluster, &Default::default()).into_iter().map(|(_, handle)| handle);
    let answering = handles.enumerate().map(|(number, mut handle)| {
        handle.counters.publish(&counted);
        let (asks, mut asked) = mpsc::channel(8);
        handle.asks = asks;
        tokio::spawn(async move {
            let own = format!("client-{number}");
            while let Some(ask) = asked.recv().await {
                match ask {
                    Ask::Clients { after, answer, .. } => {
                        let client = ConnectedClient {
                            client_id: own.clone(),
                            user: None,
                            address: None,
                            listener: String::new(),
                            protocol: 5,
                            persistent: false,
                            session_expiry_seconds: 0,
                            subscriptions: 0,
                            waiting: 0,
                        };
                        let _ = answer.send(Some(client).into_iter().filter(|_| own > after).collect());
                    }
                    Ask::Disconnect { client_id, answer } => drop(answer.send(client_id == own)),
                    Ask::Subscriptions { client_id, answer } => {
                        let one = ClientSubscription { filter: "a/#".to_owned(), qos: 1 };
                        let _ = answer.send((client_id == own).then(|| vec![one]));
                    }
                    Ask::Report(_) => {}
                }
            }
        });
        handle
    });
    answering.collect()
}

#[tokio::test]
async fn clients_are_listed_page_by_page_and_disconnected() {
    let address = start(healthy(), None).await;
    let page = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (code, body) = ask(address, "GET /api/v1/clients?limit=1", "").await;
    assert_eq!((code, &page(&body)["next"]), (200, &serde_json::json!("client-0")), "{body}");
    let (_, body) = ask(address, "GET /api/v1/clients?limit=1&after=client-0", "").await;
    assert_eq!(page(&body)["clients"][0]["client_id"], "client-1", "{body}");
    assert_eq!(page(&body)["next"], serde_json::Value::Null, "{body}");
    for wrong in ["limit=0", "limit=1001", "limit=x"] {
        let (code, body) = ask(address, &format!("GET /api/v1/clients?{wrong}"), "").await;
        assert!(code == 400 && body.contains("from 1 to 1000"), "{wrong}: {code} {body}");
    }
    let (_, body) = ask(address, "GET /api/v1/clients/client-1/subscriptions", "").await;
    assert_eq!(page(&body)["subscriptions"][0]["filter"], "a/#");
    assert_eq!(ask(address, "DELETE /api/v1/clients/client-1", "").await.0, 204);
    assert_eq!(ask(address, "DELETE /api/v1/clients/nobody", "").await.0, 404);
}

#[tokio::test]
async fn a_reload_says_what_is_in_force_and_what_waits() {
    let address = start(healthy(), None).await;
    let (code, body) = ask(address, "POST /api/v1/reload", "").await;
    assert_eq!(code, 200);
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let none: [&str; 0] = [];
    let waits = ["data_dir"];
    let expected =
        serde_json::json!({"config_sha256": null, "reloaded": ["limits"], "restart_needed": waits, "failed": none});
    assert_eq!(json, expected);

    let (code, body) = ask(address, "GET /api/v1/reload", "").await;
    let last: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &last["failed"][0]), (200, &serde_json::json!("acl")), "{body}");
}

#[tokio::test]
async fn a_configuration_is_checked_without_being_taken() {
    let address = start(healthy(), None).await;
    let check = async |text: &str| {
        let headers = format!("content-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        ask(address, "POST /api/v1/config/check", &headers).await
    };
    assert_eq!(check("good").await, (204, String::new()));
    let (code, body) = check("this").await;
    assert!(code == 422 && body.contains("this is bad"), "{code} {body}");
}

async fn ask(address: std::net::SocketAddr, what: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn healthy() -> Status {
    let member = MemberStatus {
        origin: Default::default(),
        name: "mqtt-0".into(),
        address: "mqtt-0.peers:7883".into(),
        state: MemberState::Active,
        shards_led: 16,
        replicas: 16,
        connections: 4,
        sessions: 2,
        version: "0.1.0".into(),
    };
    Status { cluster: 0xabc, serving: true, factor: 1, shards: 16, members: vec![member], ..Status::default() }
}

#[tokio::test]
async fn health_and_readiness_are_told_apart_and_in_words() {
    let address = start(Status { not_ready: "drains".into(), ..healthy() }, None).await;
    assert_eq!(ask(address, "GET /healthz", "").await.0, 200);
    let (code, words) = ask(address, "GET /readyz", "").await;
    assert_eq!((code, words.trim()), (503, "not ready: drains"));
    let address = start(healthy(), None).await;
    assert_eq!(ask(address, "GET /readyz", "").await.0, 200);
}

#[tokio::test]
async fn the_cluster_is_described_as_the_operator_reads_it() {
    let address = start(Status { not_failover_ready: "one member".into(), ..healthy() }, None).await;
    let (code, body) = ask(address, "GET /api/v1/cluster", "").await;
    assert_eq!(code, 200);
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({
        "cluster_id": "0000000000000abc", "initialised": true, "version": env!("CARGO_PKG_VERSION"),
        "failover_ready": false, "failover_reason": "one member", "replication_factor": 1,
        "members": [{
            "id": "0000000000000000", "name": "mqtt-0", "address": "mqtt-0.peers:7883", "state": "active",
            "shards_led": 16, "replicas": 16, "connections": 4, "version": "0.1.0",
        }],
        "shards": {"total": 16, "under_replicated": 0, "without_leader": 0},
        "connections": 4, "sessions": 2, "damaged": [],
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn a_node_says_of_itself_whether_it_can_store() {
    let full = Status { name: "mqtt-0".into(), storage: Health::Full, ..healthy() };
    let node = serde_json::json!({
        "name": "mqtt-0", "version": env!("CARGO_PKG_VERSION"), "ready": true, "not_ready": "",
        "storage": {"state": "full", "reason": ""},
    });
    let address = start(full, None).await;
    let (code, body) = ask(address, "GET /api/v1/node", "").await;
    assert_eq!((code, serde_json::from_str::<serde_json::Value>(&body).unwrap()), (200, node));
    let (_, metrics) = ask(address, "GET /metrics", "").await;
    assert!(metrics.contains("\nmqtt_broker_storage_refuses 1\n"), "{metrics}");

    let failed = Status { not_ready: "drains".into(), storage: Health::Failed("sync failed".into()), ..healthy() };
    let (_, body) = ask(start(failed, None).await, "GET /api/v1/node", "").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&json["ready"], &json["not_ready"]), (&serde_json::json!(false), &serde_json::json!("drains")));
    assert_eq!(json["storage"], serde_json::json!({"state": "failed", "reason": "sync failed"}));

    let address = start(healthy(), None).await;
    let (_, body) = ask(address, "GET /api/v1/node", "").await;
    assert!(body.contains(r#""storage":{"state":"healthy","reason":""}"#), "{body}");
    assert!(ask(address, "GET /metrics", "").await.1.contains("\nmqtt_broker_storage_refuses 0\n"));
}

#[tokio::test]
async fn a_damaged_replica_is_told_everywhere() {
    let replica = DamagedReplica { reason: "log-0000000000000001 at byte 7".into(), stage: Stage::Rebuilding };
    let damaged = [(GroupId(4), replica)].into();
    let address = start(Status { damaged, rebuilt: 2, ..healthy() }, None).await;
    let (code, body) = ask(address, "GET /readyz", "").await;
    assert_eq!(code, 200, "others serve the shard");
    assert!(body.contains("shard 3 was damaged here (log-0000000000000001 at byte 7): it is being rebuilt"), "{body}");
    let (_, body) = ask(address, "GET /metrics", "").await;
    for line in ["mqtt_broker_replicas_damaged 1", "mqtt_broker_replicas_rebuilt_total 2"] {
        assert!(body.contains(line), "{line}: {body}");
    }
    let (_, body) = ask(address, "GET /api/v1/cluster", "").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let told = serde_json::json!([{
        "group": "shard 3", "stage": "rebuilding", "reason": "log-0000000000000001 at byte 7",
    }]);
    assert_eq!(json["damaged"], told);
}

#[tokio::test]
async fn a_member_is_told_to_leave_and_an_unknown_one_is_not_found() {
    let address = start(healthy(), None).await;
    assert_eq!(ask(address, "POST /api/v1/cluster/members/mqtt-1/leave", "").await.0, 202);
    assert_eq!(ask(address, "DELETE /api/v1/cluster/members/mqtt-1/leave", "").await.0, 202);
    let (code, body) = ask(address, "POST /api/v1/cluster/members/mqtt-9/leave", "").await;
    assert_eq!(code, 404);
    assert!(body.contains("no member of that name"), "{body}");
    let (code, body) = ask(address, "POST /api/v1/cluster/members/nobody-to-ask/leave", "").await;
    assert_eq!(code, 503);
    assert!(body.contains("try again"), "{body}");
    assert_eq!(ask(address, "POST /api/v1/cluster/members/%ff/leave", "").await.0, 400);
    assert_eq!(ask(address, "POST /api/v1/drain", "").await.0, 202);
}

#[tokio::test]
async fn the_api_asks_for_its_token_and_nothing_else_does() {
    let address = start(healthy(), Some("secret")).await;
    for wrong in
        ["", "authorization: Bearer wrong!\r\n", "authorization: Bearer secre\r\n", "authorization: secret\r\n"]
    {
        let (code, body) = ask(address, "GET /api/v1/cluster", wrong).await;
        assert_eq!(code, 401, "{wrong:?}");
        assert!(body.contains("admin.token_file"), "{body}");
    }
    for right in ["authorization: Bearer secret\r\n", "Authorization: bearer secret\r\n"] {
        assert_eq!(ask(address, "GET /api/v1/cluster", right).await.0, 200, "{right:?}");
    }
    for what in ["POST /api/v1/drain", "POST /api/v1/cluster/members/mqtt-1/leave", "GET /api/v1/nowhere"] {
        assert_eq!(ask(address, what, "").await.0, 401, "{what}");
    }
    assert_eq!(ask(address, "GET /healthz", "").await.0, 200);
    assert_eq!(ask(address, "GET /metrics", "").await.0, 200);
}

#[tokio::test]
async fn metrics_add_the_workers_up_and_tell_drops_by_reason() {
    let totals = Totals { refused_retained_full: 9, queued_items: 8, ..Totals::default() };
    let address = start(Status { forwards_dropped: 5, totals, ..healthy() }, None).await;
    let (_, body) = ask(address, "GET /metrics", "").await;
    for line in [
        "mqtt_broker_messages_received_total 14",
        "mqtt_broker_messages_dropped_total{reason=\"too_large\"} 6",
        "mqtt_broker_messages_dropped_total{reason=\"node_not_reached\"} 5",
        "mqtt_broker_messages_dropped_total{reason=\"retained_full\"} 9",
        "mqtt_broker_queued_messages 8",
        "mqtt_broker_members 1",
        "mqtt_broker_cluster_connections 4",
        "mqtt_broker_cluster_sessions 2",
        "mqtt_broker_shards 16",
        "mqtt_broker_serving 1",
    ] {
        assert!(body.contains(line), "no {line:?} in\n{body}");
    }
}

#[tokio::test]
async fn metrics_are_well_formed_and_each_is_explained_once() {
    let address = start(healthy(), None).await;
    let (code, body) = ask(address, "GET /metrics", "").await;
    assert_eq!(code, 200);
    let body = body.strip_suffix("# EOF\n").expect("the end is marked");
    let mut explained = std::collections::BTreeMap::new();
    let mut samples = std::collections::BTreeSet::new();
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(words.len() > 1 && !words.ends_with(".."), "{line}");
            assert_eq!(explained.insert(name.to_owned(), None), None, "{name} is explained twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            explained.get_mut(name).unwrap().replace(kind.to_owned());
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample), "{sample} is there twice");
            let name = sample.split('{').next().unwrap();
            let family = name.strip_suffix("_total");
            let kind = explained[family.unwrap_or(name)].as_deref();
            assert_eq!(kind, Some(if family.is_some() { "counter" } else { "gauge" }), "{line}");
            assert!(name.starts_with("mqtt_broker_"), "{line}");
        }
    }
    let counters = Counters::default();
    let drops = counters.named().filter(|(name, ..)| name.starts_with("dropped_")).count();
    let told = samples.iter().filter(|sample| sample.starts_with("mqtt_broker_messages_dropped_total{")).count();
    // Those of other nodes' links, of queues, and of retained messages are not the workers'.
    assert_eq!(told, drops + 3);
    let refusals = counters.named().filter(|(name, ..)| name.starts_with("refused_")).count();
    let told = samples.iter().filter(|sample| sample.starts_with("mqtt_broker_refused_total{")).count();
    assert_eq!(told, refusals);
    // Their names are stable, and documented.
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    for (name, kind) in explained {
        let name = name.strip_prefix("mqtt_broker_").unwrap();
        let total = if kind.as_deref() == Some("counter") { "_total" } else { "" };
        assert!(readme.contains(&format!("`{name}{total}`")), "README.md does not name {name}{total}");
    }
}

#[tokio::test]
async fn a_node_that_stands_still_is_neither_healthy_nor_ready() {
    let (address, heartbeat) = start_beating(healthy(), None).await;
    heartbeat.store(1, Ordering::Relaxed);
    assert_eq!(ask(address, "GET /healthz", "").await.0, 200);
    pass(limits::HEARTBEAT_SILENCE_MAX + Duration::from_secs(1)).await;
    for path in ["/healthz", "/readyz"] {
        let (code, words) = ask(address, &format!("GET {path}"), "").await;
        assert_eq!(code, 503, "{path}");
        assert!(words.contains("the cluster's thread has not moved for 31 s"), "{words}");
    }
    heartbeat.store(2, Ordering::Relaxed);
    assert_eq!(ask(address, "GET /healthz", "").await.0, 200);
    assert_eq!(ask(address, "GET /readyz", "").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_heart_of_a_running_node_beats() {
    use crate::cluster::net::alone::AloneNet;
    use crate::storage::{Log, MemoryDisk, Options};
    use std::rc::Rc;

    let (doors, cluster) = handle::doors();
    let (_to_cluster, from_workers) = tokio::sync::mpsc::unbounded_channel();
    let origin = crate::identity::Origin::default();
    let options = Options { identity: origin.node.0, limits: Default::default() };
    let config = handle::ClusterConfig {
        name: "mqtt-0".into(),
        address: String::new(),
        listen: None,
        peers: Vec::new(),
        version: String::new(),
        founding: handle::Founding::Never,
        founded: Box::new(|| {}),
        shards: 1,
        factor: None,
        settings: Default::default(),
        seed: 1,
    };
    let local = tokio::task::LocalSet::new();
    let run = local.run_until(async move {
        let (log, _) = Log::open(Rc::new(MemoryDisk::default()), options).await.unwrap();
        let net = Rc::new(AloneNet);
        let world =
            handle::ClusterWorld { origin, net, log, from_workers, to_workers: Vec::new(), now_ms: Rc::new(|| 0) };
        let watch = async {
            let mut beats = Vec::new();
            while beats.len() < 3 {
                // Twice: at the very moment of a beat it is chance who goes first.
                tokio::time::sleep(2 * handle::HEARTBEAT).await;
                beats.push(cluster.heartbeat.load(Ordering::Relaxed));
            }
            beats
        };
        tokio::select! {
            ended = handle::run(config, world, doors) => panic!("it has ended: {ended:?}"),
            beats = watch => beats,
        }
    });
    let beats = run.await;
    assert!(beats[0] >= 1 && beats.is_sorted_by(|a, b| a < b), "{beats:?}");
}

#[tokio::test]
async fn a_node_without_a_cluster_is_healthy_but_not_ready_and_says_so() {
    let address = start(Status::default(), None).await;
    assert_eq!(ask(address, "GET /healthz", "").await.0, 200);
    let (code, words) = ask(address, "GET /readyz", "").await;
    assert_eq!((code, words.trim()), (503, "not ready: has not joined a cluster yet"));
    let (_, body) = ask(address, "GET /api/v1/cluster", "").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["initialised"], false);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go_and_others_then_get_its_place() {
    let address = start(healthy(), None).await;
    let mut silent = Vec::new();
    for _ in 0..limits::ADMIN_CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HT").await.unwrap();
        silent.push(stream);
    }
    let mut waiting = tokio::spawn(async move { ask(address, "GET /healthz", "").await.0 });
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "there was room for one more than the bound");
    pass(limits::ADMIN_EXCHANGE).await;
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap(), 200);
    let mut rest = Vec::new();
    // Closed or reset: either way it is over.
    let _ = tokio::time::timeout(Duration::from_secs(5), silent[0].read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_large_body_is_refused_before_anything_is_done() {
    let address = start(healthy(), None).await;
    let length = |bytes| format!("content-length: {bytes}\r\n");
    let (code, body) = ask(address, "POST /api/v1/drain", &length(limits::ADMIN_BODY_BYTES_MAX + 1)).await;
    assert_eq!(code, 413);
    assert!(body.contains("too large"), "{body}");
    assert_eq!(ask(address, "POST /api/v1/drain", &length(limits::ADMIN_BODY_BYTES_MAX)).await.0, 202);
}

#[tokio::test]
async fn stored_sessions_are_listed_page_by_page_and_ended() {
    let address = start(healthy(), None).await;
    let (code, body) = ask(address, "GET /api/v1/sessions?limit=2", "").await;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &page["next"]), (200, &"b".into()), "{body}");
    assert_eq!(page["sessions"][0]["client_id"], "a");
    assert_eq!(page["sessions"][1]["queued_messages"], 2);
    let (_, body) = ask(address, "GET /api/v1/sessions?after=b", "").await;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((page["sessions"].as_array().unwrap().len(), page["next"].is_null()), (1, true), "{body}");
    assert_eq!(ask(address, "GET /api/v1/sessions?limit=0", "").await.0, 400);
    assert_eq!(ask(address, "DELETE /api/v1/sessions/a", "").await.0, 204);
    assert_eq!(ask(address, "DELETE /api/v1/sessions/z", "").await.0, 404);
}

#[tokio::test]
async fn retained_messages_are_listed_page_by_page_shown_and_ended() {
    let address = start(healthy(), None).await;
    let (code, body) = ask(address, "GET /api/v1/retained?limit=1", "").await;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &page["next"]), (200, &"a/b".into()), "{body}");
    let first = serde_json::json!({ "topic": "a/b", "qos": 1, "payload_bytes": 3, "expires_at_ms": 7 });
    assert_eq!(page["retained"], serde_json::json!([first]));
    let (_, body) = ask(address, "GET /api/v1/retained?after=a%2Fb", "").await;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&page["retained"][0]["topic"], page["next"].is_null()), (&"c".into(), true), "{body}");
    for wrong in ["limit=0", "limit=1001", "limit=x", "filter=a%2F%23%2Fb", "filter=%24share%2Fg%2Fa", "filter="] {
        assert_eq!(ask(address, &format!("GET /api/v1/retained?{wrong}"), "").await.0, 400, "{wrong}");
    }
    assert_eq!(ask(address, "GET /api/v1/retained/a%2Fb", "").await, (200, "<b>".to_owned()));
    for (method, topic, code) in
        [("DELETE", "a%2Fb", 204), ("DELETE", "z", 404), ("GET", "z", 404), ("GET", "%23", 400), ("DELETE", "%ff", 400)]
    {
        let what = format!("{method} /api/v1/retained/{topic}");
        assert_eq!(ask(address, &what, "").await.0, code, "{what}");
    }
    let address = start(healthy(), Some("token")).await;
    assert_eq!(ask(address, "DELETE /api/v1/retained/a%2Fb", "").await.0, 401);
}

#[tokio::test]
async fn a_request_that_the_cluster_never_answers_is_answered_in_time() {
    let (mut doors, cluster) = handle::doors();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, state(cluster, Vec::new(), None)));
    let asked = tokio::spawn(async move { ask(address, "POST /api/v1/cluster/members/mqtt-1/leave", "").await });
    let held = tokio::time::timeout(Duration::from_secs(5), doors.next_request()).await.unwrap();
    pass(limits::ADMIN_REQUEST_WAIT).await;
    let (code, body) = tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap().unwrap();
    assert_eq!(code, 503);
    assert!(body.contains("no answer within 5 s"), "{body}");
    drop((held, doors));
    let (code, body) = ask(address, "POST /api/v1/drain", "").await;
    assert_eq!(code, 503);
    assert!(body.contains("this node is ending"), "{body}");
}

/// Lets this much time pass at once, for the server too.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn the_wrong_method_is_told_as_json() {
    let address = start(healthy(), None).await;
    for what in ["POST /healthz", "GET /api/v1/drain", "PUT /api/v1/cluster"] {
        let (code, body) = ask(address, what, "").await;
        assert_eq!(code, 405, "{what}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(json["error"].as_str().unwrap().contains("another method"), "{body}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_nowhere() {
    let address = start(healthy(), None).await;
    let (code, body) = ask(address, "GET /nowhere", "").await;
    assert_eq!(code, 404);
    assert!(body.contains("/api/v1/cluster"), "{body}");
}
