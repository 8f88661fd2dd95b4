//! Over real HTTP on loopback, as an operator asks.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::cluster::control::MemberState;
use crate::cluster::handle;
use crate::cluster::status::{MemberStatus, Status};
use crate::worker::Counters;

/// A server over a node whose status is `status`, and whose requests are answered as the cluster would.
async fn start(status: Status, token: Option<&str>) -> std::net::SocketAddr {
    let (doors, cluster) = handle::doors();
    let mut doors = doors.for_test(status);
    tokio::spawn(async move {
        while let Some(request) = doors.next_request().await {
            if let ClusterRequest::Leave { name, answer, .. } = request {
                let _ = answer.send(if name == "mqtt-1" { Ok(()) } else { Err(LeaveError::Unknown) });
            }
        }
    });
    let counters = Arc::new(PublishedCounters::default());
    counters.publish(&Counters { messages_received: 7, dropped_too_large: 3, ..Counters::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = AdminState { cluster, counters: vec![counters.clone(), counters] };
    tokio::spawn(serve(listener, token.map(str::to_owned), node));
    address
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
        "connections": 4, "sessions": 2,
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn a_member_is_told_to_leave_and_an_unknown_one_is_not_found() {
    let address = start(healthy(), None).await;
    assert_eq!(ask(address, "POST /api/v1/cluster/members/mqtt-1/leave", "").await.0, 202);
    assert_eq!(ask(address, "DELETE /api/v1/cluster/members/mqtt-1/leave", "").await.0, 202);
    let (code, body) = ask(address, "POST /api/v1/cluster/members/mqtt-9/leave", "").await;
    assert_eq!(code, 404);
    assert!(body.contains("no member of that name"), "{body}");
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
    assert_eq!(ask(address, "GET /api/v1/cluster", "authorization: Bearer secret\r\n").await.0, 200);
    assert_eq!(ask(address, "GET /healthz", "").await.0, 200);
    assert_eq!(ask(address, "GET /metrics", "").await.0, 200);
}

#[tokio::test]
async fn metrics_add_the_workers_up_and_tell_drops_by_reason() {
    let address = start(healthy(), None).await;
    let (_, body) = ask(address, "GET /metrics", "").await;
    for line in [
        "mqtt_broker_messages_received_total 14",
        "mqtt_broker_messages_dropped_total{reason=\"too_large\"} 6",
        "mqtt_broker_shards 16",
        "mqtt_broker_serving 1",
    ] {
        assert!(body.contains(line), "no {line:?} in\n{body}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_nowhere() {
    let address = start(healthy(), None).await;
    let (code, body) = ask(address, "GET /nowhere", "").await;
    assert_eq!(code, 404);
    assert!(body.contains("/api/v1/cluster"), "{body}");
}
