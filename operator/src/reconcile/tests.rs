//! Whole reconciles against an API server and brokers that count what they are asked.

use std::sync::Mutex;

use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{ApiServer, CacheWriters, broker, now, pod, put, serve_brokers, settings};

const RESOURCE: &str = "/apis/mqttbroker.dev/v1alpha1/namespaces/ns/mqttbrokers/mqtt";

/// An operator with its surroundings.
struct Stage {
    server: ApiServer,
    writers: CacheWriters,
    context: Arc<Context>,
    broker: Arc<MqttBroker>,
    cluster: Arc<Mutex<Value>>,
    /// What each broker says of itself.
    node: Arc<Mutex<Value>>,
}

impl Stage {
    async fn new(spec: &str) -> Self {
        let (server, client) = ApiServer::start();
        let (mut writers, caches) = CacheWriters::new();
        writers.sync(&server);
        let cluster = Arc::new(Mutex::new(cluster(0)));
        let node = Arc::new(Mutex::new(storage("healthy")));
        let broker = broker(spec);
        server.insert(RESOURCE, serde_json::to_value(&*broker).unwrap());
        let context = Arc::new(Context {
            recorder: Arc::new(Recorder::new(client.clone(), "test".to_owned())),
            client,
            caches,
            brokers: serve_brokers(admin_api(cluster.clone(), node.clone())),
            settings: settings(),
            ledger: Ledger::default(),
            metrics: Metrics::default(),
            now,
        });
        Self { server, writers, context, broker, cluster, node }
    }

    /// With three brokers that run, of which nothing is left to do or to say.
    async fn settled() -> Self {
        let mut stage = Self::new("{image: i, replicas: 3}").await;
        stage.reconcile().await.unwrap();
        stage.start_brokers(3);
        for _ in 0..2 {
            stage.reconcile().await.unwrap();
        }
        stage.server.take_requests();
        stage
    }

    /// One reconcile; then the watches bring what it wrote.
    async fn reconcile(&mut self) -> Result<Action, Error> {
        let result = reconcile(self.broker.clone(), self.context.clone()).await;
        self.writers.sync(&self.server);
        if let Some(stored) = self.server.get(RESOURCE) {
            let mut broker = (*self.broker).clone();
            broker.status = serde_json::from_value(stored["status"].clone()).unwrap();
            self.broker = Arc::new(broker);
        }
        result
    }

    /// All pods run and are one cluster.
    fn start_brokers(&mut self, count: i32) {
        let sets = self.context.caches.stateful_sets.state();
        let template = &sets[0].spec.as_ref().unwrap().template;
        let hash = template.metadata.as_ref().unwrap().annotations.as_ref().unwrap()
            [crate::names::RESTART_HASH_ANNOTATION]
            .clone();
        for ordinal in 0..count {
            put(&mut self.writers.pods, &pod(ordinal, true, &hash));
        }
        *self.cluster.lock().unwrap() = cluster(count);
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let condition = self.broker.status.as_ref().unwrap().condition(type_).unwrap();
        (condition.status.clone(), condition.reason.clone())
    }
}

fn cluster(members: i32) -> Value {
    let list: Vec<Value> = (0..members)
        .map(
            |ordinal| json!({"name": format!("mqtt-{ordinal}"), "state": "active", "replicas": 16, "version": "0.1.0"}),
        )
        .collect();
    json!({
        "initialised": members > 0, "version": "0.1.0", "failover_ready": members > 2, "failover_reason": "",
        "replication_factor": 3, "members": list, "connections": 1, "sessions": 1,
        "shards": {"total": 16, "under_replicated": 0, "without_leader": 0},
    })
}

fn storage(state: &str) -> Value {
    json!({"name": "mqtt", "storage": {"state": state, "reason": ""}})
}

fn admin_api(cluster: Arc<Mutex<Value>>, node: Arc<Mutex<Value>>) -> Router {
    let told = |what: Arc<Mutex<Value>>| {
        move || {
            let what = what.lock().unwrap().clone();
            async move { Json(what) }
        }
    };
    // Of settings they know one.
    let check = async |text: String| match text.contains("no_such_key") {
        true => (StatusCode::UNPROCESSABLE_ENTITY, r#"{"error":"unknown field no_such_key"}"#),
        false => (StatusCode::NO_CONTENT, ""),
    };
    Router::new()
        .route("/api/v1/cluster", get(told(cluster)))
        .route("/api/v1/node", get(told(node)))
        .route("/api/v1/config/check", post(check))
}

#[tokio::test]
async fn a_new_resource_gets_all_its_children_the_pods_last() {
    let mut stage = Stage::new("{image: i, replicas: 3}").await;
    stage.reconcile().await.unwrap();
    assert_eq!(
        stage.server.take_writes(),
        [
            "serviceaccounts/mqtt",
            "secrets/mqtt-peer-ca",
            "secrets/mqtt-peer-tls",
            "secrets/mqtt-admin-token",
            "configmaps/mqtt-config",
            "services/mqtt-peers",
            "services/mqtt",
            "poddisruptionbudgets/mqtt",
            "networkpolicies/mqtt",
            "podmonitors/mqtt",
            "statefulsets/mqtt",
            "mqttbrokers/mqtt/status",
        ]
    );
    assert_eq!(stage.condition("Progressing").0, "True");
    assert_eq!(stage.condition("Available").0, "False");
}

#[tokio::test]
async fn a_settled_broker_is_left_alone() {
    let mut stage = Stage::new("{image: i, replicas: 3, resources: {requests: {cpu: 1000m}}}").await;
    stage.reconcile().await.unwrap();
    stage.start_brokers(3);
    stage.server.take_requests();

    // The brokers are seen, and the status says so.
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.take_writes(), ["mqttbrokers/mqtt/status"]);
    // Only now that it is stored does the right to found go.
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.take_writes(), ["configmaps/mqtt-config"]);
    assert_eq!(stage.condition("Progressing"), ("False".to_owned(), "Settled".to_owned()));

    for _ in 0..10 {
        let action = stage.reconcile().await.unwrap();
        assert_eq!(stage.server.take_requests(), [], "neither a write nor a read at rest");
        assert_eq!(action, Action::requeue(REST_INTERVAL));
    }
}

#[tokio::test]
async fn a_full_volume_is_said_while_it_is_full_and_written_twice() {
    let mut stage = Stage::settled().await;
    for (state, told, interval) in
        [("full", ("True", "VolumeFull"), RECOVERING_INTERVAL), ("healthy", ("False", "AsExpected"), REST_INTERVAL)]
    {
        *stage.node.lock().unwrap() = storage(state);
        let action = stage.reconcile().await.unwrap();
        assert_eq!(stage.server.take_writes(), ["mqttbrokers/mqtt/status"]);
        assert_eq!(stage.condition("Degraded"), (told.0.to_owned(), told.1.to_owned()));
        assert_eq!(action, Action::requeue(interval));
        stage.reconcile().await.unwrap();
        assert_eq!(stage.server.take_requests(), [], "it is said once");
    }
}

#[tokio::test]
async fn what_somebody_changed_is_undone_once() {
    let mut stage = Stage::settled().await;

    let path = "/api/v1/namespaces/ns/services/mqtt";
    stage.server.change(path, |service| service["spec"]["ports"][0]["port"] = json!(1));
    stage.writers.sync(&stage.server);
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.take_writes(), ["services/mqtt"]);
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.take_requests(), []);
}

#[tokio::test]
async fn a_name_that_is_taken_is_said_and_nothing_is_taken_over() {
    let mut stage = Stage::new("{image: i, replicas: 3}").await;
    let foreign =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mqtt", "namespace": "ns", "uid": "other"}});
    stage.server.insert("/api/v1/namespaces/ns/services/mqtt", foreign);
    // Our caches don't hold what lacks our label.
    let error = reconcile(stage.broker.clone(), stage.context.clone()).await.unwrap_err();
    assert_eq!(error.reason(), "NameTaken");
    let writes = stage.server.take_writes();
    assert!(!writes.contains(&"services/mqtt".to_owned()) && !writes.contains(&"statefulsets/mqtt".to_owned()));
    assert_eq!(writes.last().map(String::as_str), Some("mqttbrokers/mqtt/status"));
    stage.writers.sync(&stage.server);
}

#[tokio::test]
async fn a_paused_resource_gets_nothing_but_a_status() {
    let mut stage = Stage::new("{image: i, replicas: 3}").await;
    let mut paused = (*stage.broker).clone();
    paused.annotations_mut().insert(crate::api::PAUSED_ANNOTATION.to_owned(), "true".to_owned());
    stage.broker = Arc::new(paused);
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.take_writes(), ["mqttbrokers/mqtt/status"]);
    assert_eq!(stage.condition("Paused").0, "True");
}

#[tokio::test]
async fn a_resource_that_is_being_deleted_is_let_go() {
    let mut stage = Stage::new("{image: i, replicas: 3}").await;
    stage.reconcile().await.unwrap();
    assert!(stage.broker.metadata.finalizers.is_none(), "nothing of ours may hold it up");
    stage.server.take_requests();
    let mut deleted = (*stage.broker).clone();
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    stage.broker = Arc::new(deleted);
    // Its children go before its brokers' last words are heard; none of them may be made again.
    stage.server.clear();
    stage.writers.sync(&stage.server);
    assert_eq!(stage.reconcile().await.unwrap(), Action::await_change());
    assert_eq!(stage.server.take_requests(), []);
}

#[tokio::test]
async fn a_wrong_resource_is_told_so() {
    let mut stage = Stage::new("{image: i, replicas: 3, config: {cluster: {}}}").await;
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.take_writes(), ["mqttbrokers/mqtt/status"]);
    let status = stage.broker.status.as_ref().unwrap();
    assert_eq!(
        status.condition("Degraded").unwrap().message,
        "spec.config.cluster: is set by the operator: remove it and use the fields of spec"
    );
}

#[tokio::test]
async fn what_the_brokers_would_refuse_reaches_none_of_them() {
    let mut stage = Stage::settled().await;

    let change = |stage: &mut Stage, spec: &str| {
        let spec = broker(spec).spec.clone();
        stage.broker = Arc::new(MqttBroker { spec, ..(*stage.broker).clone() });
    };
    change(&mut stage, "{image: i, replicas: 3, config: {no_such_key: 1}}");
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.take_writes(), ["mqttbrokers/mqtt/status"]);
    let degraded = stage.broker.status.as_ref().unwrap().condition("Degraded").unwrap().clone();
    assert!(degraded.reason == "Invalid" && degraded.message.contains("unknown field no_such_key"), "{degraded:?}");

    change(&mut stage, "{image: i, replicas: 3, config: {sys_interval_seconds: 1}}");
    stage.reconcile().await.unwrap();
    let writes = stage.server.take_writes();
    assert!(writes.starts_with(&["configmaps/mqtt-config".to_owned(), "statefulsets/mqtt".to_owned()]), "{writes:?}");
    // Another image may know more: the first of its pods tells.
    change(&mut stage, "{image: j, replicas: 3, config: {no_such_key: 1}}");
    stage.reconcile().await.unwrap();
    assert!(stage.server.take_writes().contains(&"statefulsets/mqtt".to_owned()));
}
