//! The world around the operator: a StatefulSet controller, kubelets and brokers, each a few lines, and the invariants that
//! they watch over while they act.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kube::Client;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use crate::{
    api::MqttBroker,
    broker_client::BrokerClient,
    fixtures::{ApiServer, End, Fate, Fault, broker, serve_brokers},
    names::{OPERATOR, RESTART_HASH_ANNOTATION},
};

const PODS: &str = "/api/v1/namespaces/ns/pods";
const CLAIMS: &str = "/api/v1/namespaces/ns/persistentvolumeclaims";
const STATEFUL_SET: &str = "/apis/apps/v1/namespaces/ns/statefulsets/mqtt";
const CONFIG_MAP: &str = "/api/v1/namespaces/ns/configmaps/mqtt-config";
const SECRETS: [&str; 3] = [
    "/api/v1/namespaces/ns/secrets/mqtt-peer-ca",
    "/api/v1/namespaces/ns/secrets/mqtt-peer-tls",
    "/api/v1/namespaces/ns/secrets/mqtt-admin-token",
];
pub(super) const RESOURCE: &str = "/apis/mqttbroker.dev/v1alpha1/namespaces/ns/mqttbrokers/mqtt";

/// An image that never becomes ready.
const BAD_IMAGE: &str = "bad";

/// The brokers, as one.
#[derive(Debug, Default)]
struct Brokers {
    founded: bool,
    silent: bool,
    members: Vec<Member>,
    /// Steps until every shard has its full set again.
    out_of_sync: u32,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    leaving: Option<u32>,
}

type Shared = Arc<Mutex<Brokers>>;

pub(super) struct World {
    pub(super) random: SmallRng,
    pub(super) server: ApiServer,
    /// The operator's way to the API server.
    pub(super) client: Client,
    /// The operator's way to the brokers.
    pub(super) door: BrokerClient,
    brokers: Shared,
    pub(super) failing: bool,
    bootstrap_was_taken_back: bool,
    secrets: Option<Vec<Value>>,
}

/// What the invariants compare with.
pub(super) struct Before {
    ready: Vec<String>,
    fit: bool,
    replicas: i64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let (server, client) = ApiServer::start();
        server.insert(RESOURCE, serde_json::to_value(&*broker("{image: one, replicas: 3}")).unwrap());
        let brokers = Shared::default();
        Self {
            random: SmallRng::seed_from_u64(seed),
            server,
            client,
            door: serve_brokers(admin_api(brokers.clone())),
            brokers,
            failing: false,
            bootstrap_was_taken_back: false,
            secrets: None,
        }
    }

    pub(super) fn start_failing(&mut self) {
        self.failing = true;
        let mut random = SmallRng::seed_from_u64(self.random.random());
        self.server.fail_when(move || match random.random_range(0..20) {
            0 => Some(Fault::Refused),
            1 => Some(Fault::AnswerLost),
            _ => None,
        });
    }

    /// From now on, hardly a watch lives for a minute.
    pub(super) fn start_dropping_watches(&mut self) {
        let mut random = SmallRng::seed_from_u64(self.random.random());
        self.server.end_watches(move || Fate {
            lag: Duration::from_millis(random.random_range(0..2_000)),
            after: Duration::from_millis(random.random_range(0..60_000)),
            end: match random.random_range(0..10) {
                0..3 => End::Closed,
                3..5 => End::Torn,
                5..7 => End::Reset,
                7..9 => End::Gone,
                _ => End::Silent,
            },
        });
    }

    pub(super) fn stop_failing(&mut self) {
        self.failing = false;
        self.server.heal();
        self.brokers.lock().unwrap().silent = false;
        if self.resource().spec.image.as_deref() == Some(BAD_IMAGE) {
            self.edit("image", json!("mended"));
        }
    }

    /// The resource as it is.
    pub(super) fn resource(&self) -> MqttBroker {
        serde_json::from_value(self.server.get(RESOURCE).unwrap()).unwrap()
    }

    fn edit(&self, field: &str, value: Value) {
        self.server.change(RESOURCE, |resource| {
            resource["spec"][field] = value;
            let generation = resource["metadata"]["generation"].as_i64().unwrap();
            resource["metadata"]["generation"] = json!(generation + 1);
        });
    }

    pub(super) fn a_person_changes_something(&mut self) {
        match self.random.random_range(0..40) {
            0 => {
                let replicas = self.random.random_range(1..=5);
                self.edit("replicas", json!(replicas));
            }
            1 => {
                let image = ["one", "two", "three", BAD_IMAGE][self.random.random_range(0..4)];
                self.edit("image", json!(image));
            }
            2 => self.delete_one_child(),
            3 => self.server.change(STATEFUL_SET, |set| set["spec"]["podManagementPolicy"] = json!("OrderedReady")),
            _ => {}
        }
    }

    fn delete_one_child(&mut self) {
        let children = [
            "/api/v1/namespaces/ns/services/mqtt",
            "/api/v1/namespaces/ns/services/mqtt-peers",
            "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/mqtt",
            CONFIG_MAP,
        ];
        let child = children[self.random.random_range(0..children.len())];
        self.server.remove(child);
    }

    pub(super) fn something_breaks(&mut self) {
        self.brokers.lock().unwrap().silent = self.random.random_range(0..8) == 0;
        if self.random.random_range(0..30) == 0 {
            let pods = self.pods();
            if let Some(name) = pods.get(self.random.random_range(0..pods.len().max(1))) {
                // The process died: it starts again where it was.
                self.server.change(&format!("{PODS}/{name}"), |pod| set_ready(pod, false));
                self.brokers.lock().unwrap().out_of_sync = 3;
            }
        }
    }

    /// How things are before the operator acts.
    pub(super) fn before(&self) -> Before {
        Before {
            ready: self.pods_that_are_ready(),
            fit: self.brokers.lock().unwrap().out_of_sync == 0,
            replicas: self.replicas(),
        }
    }

    /// The invariants, after the operator has acted and before anybody else does.
    pub(super) fn assert_that_it_was_safe(&mut self, before: &Before) {
        self.assert_that_a_ready_pod_went_only_if_it_could(&before.ready, before.fit);
        self.assert_that_a_shrink_came_after_a_leave(before.replicas);
        self.assert_that_the_right_to_found_never_returns();
        self.assert_that_secrets_stay();
    }

    /// What all others do.
    pub(super) fn everybody_elses_turn(&mut self) {
        self.stateful_set_controller();
        self.kubelets();
        self.brokers_go_on();
    }

    /// The members that a shrink cuts off are gone from the cluster, or there never was one.
    fn assert_that_a_shrink_came_after_a_leave(&self, before: i64) {
        let brokers = self.brokers.lock().unwrap();
        for ordinal in self.replicas()..before {
            let name = format!("mqtt-{ordinal}");
            assert!(!brokers.members.iter().any(|member| member.name == name), "{name} is cut off while a member");
        }
    }

    fn assert_that_a_ready_pod_went_only_if_it_could(&self, before: &[String], fit: bool) {
        let after = self.pods();
        let gone: Vec<&String> = before.iter().filter(|pod| !after.contains(pod)).collect();
        assert!(gone.len() <= 1, "more than one went at once: {gone:?}");
        assert!(gone.is_empty() || fit, "{gone:?} went while the cluster could not do without it");
    }

    fn assert_that_the_right_to_found_never_returns(&mut self) {
        let Some(config_map) = self.server.get(CONFIG_MAP) else { return };
        let has_line = config_map["data"]["config.yaml"].as_str().unwrap_or_default().contains("bootstrap:");
        assert!(!(has_line && self.bootstrap_was_taken_back), "the right to found has returned");
        self.bootstrap_was_taken_back = !has_line;
    }

    fn assert_that_secrets_stay(&mut self) {
        let secrets: Option<Vec<Value>> =
            SECRETS.iter().map(|path| self.server.get(path).map(|secret| secret["data"].clone())).collect();
        // While they are being made, an answer that is lost may have them made twice; once all are there, they stay.
        if let (Some(known), Some(secrets)) = (&self.secrets, &secrets)
            && self.brokers.lock().unwrap().founded
        {
            assert_eq!(known, secrets, "Secrets were made anew");
        }
        self.secrets = secrets;
    }

    fn stateful_set_controller(&mut self) {
        let Some(set) = self.server.get(STATEFUL_SET) else { return };
        let replicas = set["spec"]["replicas"].as_i64().unwrap();
        let template = &set["spec"]["template"];
        for name in self.pods() {
            if ordinal(&name) >= replicas {
                self.server.remove(&format!("{PODS}/{name}"));
            }
        }
        for ordinal in 0..replicas {
            let name = format!("mqtt-{ordinal}");
            let labels = json!({"app.kubernetes.io/instance": "mqtt", "app.kubernetes.io/managed-by": OPERATOR});
            let claim = format!("{CLAIMS}/data-{name}");
            if self.server.get(&claim).is_none() {
                let object = json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": {"name": format!("data-{name}"), "namespace": "ns", "labels": labels},
                    "spec": {"resources": {"requests": {"storage": "1Gi"}}},
                });
                self.server.insert(&claim, object);
            }
            let pod = format!("{PODS}/{name}");
            if self.server.get(&pod).is_none() {
                let hash = &template["metadata"]["annotations"][RESTART_HASH_ANNOTATION];
                let object = json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": "ns", "labels": labels, "annotations": {RESTART_HASH_ANNOTATION: hash}},
                    "spec": {"containers": [{"name": "mqtt-broker", "image": template["spec"]["containers"][0]["image"]}]},
                    "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "False"}]},
                });
                self.server.insert(&pod, object);
                self.brokers.lock().unwrap().out_of_sync = 3;
            }
        }
    }

    fn kubelets(&mut self) {
        for name in self.pods() {
            let path = format!("{PODS}/{name}");
            let Some(pod) = self.server.get(&path) else { continue };
            if is_ready_json(&pod) || pod["spec"]["containers"][0]["image"] == BAD_IMAGE || self.random.random() {
                continue;
            }
            let mut brokers = self.brokers.lock().unwrap();
            if !brokers.founded {
                let config = self.server.get(CONFIG_MAP).map(|map| map["data"]["config.yaml"].to_string());
                let may_found = name == "mqtt-0" && config.is_some_and(|config| config.contains("bootstrap: mqtt-0"));
                if !may_found {
                    continue;
                }
                brokers.founded = true;
            }
            if !brokers.members.iter().any(|member| member.name == name) {
                brokers.members.push(Member { name: name.clone(), leaving: None });
            }
            drop(brokers);
            self.server.change(&path, |pod| set_ready(pod, true));
        }
    }

    fn brokers_go_on(&mut self) {
        let all_ready = self.pods_that_are_ready().len() == self.pods().len();
        let mut brokers = self.brokers.lock().unwrap();
        if all_ready {
            brokers.out_of_sync = brokers.out_of_sync.saturating_sub(1);
        }
        for member in &mut brokers.members {
            member.leaving = member.leaving.map(|replicas| replicas.saturating_sub(1));
        }
        brokers.members.retain(|member| member.leaving != Some(0));
    }

    pub(super) fn is_in_sync(&self) -> bool {
        self.brokers.lock().unwrap().out_of_sync == 0
    }

    /// Whether the pods that are ready, the members and the volumes are those that the resource asks for.
    pub(super) fn is_as_asked_for(&self) -> bool {
        let spec = self.resource().spec;
        let wanted: Vec<String> = (0..spec.replicas).map(|ordinal| format!("mqtt-{ordinal}")).collect();
        let mut members: Vec<String> =
            self.brokers.lock().unwrap().members.iter().map(|member| member.name.clone()).collect();
        members.sort();
        let claims: Vec<String> = wanted.iter().map(|pod| format!("data-{pod}")).collect();
        let runs_the_image = |name: &String| {
            let pod = self.server.get(&format!("{PODS}/{name}")).unwrap();
            pod["spec"]["containers"][0]["image"] == json!(spec.image)
        };
        self.pods() == wanted
            && self.pods_that_are_ready() == wanted
            && members == wanted
            && self.names_under(CLAIMS) == claims
            && wanted.iter().all(runs_the_image)
    }

    pub(super) fn describe(&self) -> String {
        let MqttBroker { spec, status, .. } = self.resource();
        let conditions = status.map(|status| status.conditions);
        format!("spec {spec:?}, {:?}, pods {:?}, {conditions:?}", self.brokers.lock().unwrap(), self.pods())
    }

    fn replicas(&self) -> i64 {
        self.server.get(STATEFUL_SET).and_then(|set| set["spec"]["replicas"].as_i64()).unwrap_or(0)
    }

    fn pods(&self) -> Vec<String> {
        self.names_under(PODS)
    }

    fn pods_that_are_ready(&self) -> Vec<String> {
        let ready = |name: &String| self.server.get(&format!("{PODS}/{name}")).is_some_and(|pod| is_ready_json(&pod));
        self.pods().into_iter().filter(ready).collect()
    }

    fn names_under(&self, folder: &str) -> Vec<String> {
        let paths = self.server.paths();
        paths.iter().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned)).collect()
    }
}

fn ordinal(pod: &str) -> i64 {
    pod.strip_prefix("mqtt-").unwrap().parse().unwrap()
}

fn is_ready_json(pod: &Value) -> bool {
    pod["status"]["conditions"][0]["status"] == "True"
}

fn set_ready(pod: &mut Value, ready: bool) {
    pod["status"]["conditions"][0]["status"] = json!(if ready { "True" } else { "False" });
}

/// The admin API of all brokers.
fn admin_api(brokers: Shared) -> Router {
    Router::new()
        .route("/api/v1/cluster", get(cluster))
        .route("/api/v1/cluster/members/{name}/leave", post(leave).delete(cancel))
        .with_state(brokers)
}

async fn cluster(State(brokers): State<Shared>) -> Response {
    let brokers = brokers.lock().unwrap();
    if brokers.silent {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let members: Vec<Value> = brokers
        .members
        .iter()
        .map(|member| {
            json!({
                "name": member.name, "version": "1", "replicas": member.leaving.unwrap_or(16),
                "state": if member.leaving.is_some() { "leaving" } else { "active" },
            })
        })
        .collect();
    let in_sync = brokers.out_of_sync == 0;
    let factor = if members.len() < 3 { 1 } else { 3 };
    Json(json!({
        "initialised": brokers.founded, "version": "1", "failover_ready": in_sync && members.len() > 2,
        "failover_reason": "catching up", "replication_factor": factor, "connections": 0, "sessions": 0,
        "members": members,
        "shards": {"total": 16, "under_replicated": if in_sync { 0 } else { 4 }, "without_leader": 0},
    }))
    .into_response()
}

async fn leave(State(brokers): State<Shared>, Path(name): Path<String>) -> StatusCode {
    let mut brokers = brokers.lock().unwrap();
    if brokers.silent {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    match brokers.members.iter_mut().find(|member| member.name == name) {
        Some(member) => {
            member.leaving.get_or_insert(4);
            StatusCode::ACCEPTED
        }
        None => StatusCode::NOT_FOUND,
    }
}

async fn cancel(State(brokers): State<Shared>, Path(name): Path<String>) -> StatusCode {
    let mut brokers = brokers.lock().unwrap();
    match brokers.members.iter_mut().find(|member| member.name == name) {
        Some(member) => {
            member.leaving = None;
            StatusCode::ACCEPTED
        }
        None => StatusCode::NOT_FOUND,
    }
}
