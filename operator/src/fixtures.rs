//! Resources, pods, brokers and an API server for tests: built from the few words that a test is about.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Pod, core::v1::Secret};
use kube::{
    Resource,
    runtime::{reflector::store::Writer, watcher},
};
use serde_json::json;

mod api_server;
mod brokers;

pub(crate) use self::{
    api_server::{ApiServer, End, Fate, Fault},
    brokers::serve_brokers,
};
use crate::{
    api::MqttBroker,
    broker_client::{Cluster, Member, MemberState, Shards},
    build::{Applied, Blueprint, Prepared, Resources, Settings, build},
    names::RESTART_HASH_ANNOTATION,
    observe::{Caches, Observed},
    peer_pki::{Credentials, Identity},
    plan::{Plan, plan},
    pod_monitor::PodMonitor,
    validate::{ValidBroker, validate},
};

/// The time of every test.
pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// An `MqttBroker` named `mqtt` in namespace `ns`, with this spec.
pub(crate) fn broker(spec: &str) -> Arc<MqttBroker> {
    let mut broker = MqttBroker::new("mqtt", serde_yaml::from_str(spec).unwrap());
    broker.metadata.namespace = Some("ns".to_owned());
    broker.metadata.uid = Some("uid-mqtt".to_owned());
    broker.metadata.generation = Some(1);
    broker.metadata.resource_version = Some("1".to_owned());
    Arc::new(broker)
}

/// The same, valid.
pub(crate) fn valid(spec: &str) -> ValidBroker {
    validate(&broker(spec)).unwrap()
}

/// Credentials that say what they are.
pub(crate) fn credentials() -> Credentials {
    let identity = |name: &str| Identity {
        certificate: format!("{name} certificate"),
        key: format!("{name} key"),
        not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
    };
    Credentials { ca: identity("ca"), peer: identity("peer"), admin_token: "token".to_owned() }
}

pub(crate) fn settings() -> Settings {
    Settings {
        cluster_domain: "cluster.local".to_owned(),
        broker_image: "localhost/mqtt-broker:dev".to_owned(),
        pod_monitors: true,
    }
}

/// Nothing exists.
pub(crate) fn nothing() -> Observed {
    Observed {
        stateful_set: None,
        peers_service: None,
        client_service: None,
        config_map: None,
        peer_ca: None,
        peer_tls: None,
        admin_token: None,
        disruption_budget: None,
        network_policy: None,
        service_account: None,
        pod_monitor: None,
        missing_secrets: Vec::new(),
        reloads: BTreeMap::new(),
        nodes: BTreeMap::new(),
        pods: Vec::new(),
        claims: Vec::new(),
        cluster: Err("no broker is running".to_owned()),
    }
}

/// A resource with everything its children are built from, to be changed by a test.
pub(crate) struct Draft {
    pub(crate) broker: ValidBroker,
    pub(crate) plan: Plan,
    pub(crate) observed: Observed,
    pub(crate) settings: Settings,
}

impl Draft {
    /// Of a resource of which nothing exists yet.
    pub(crate) fn of(spec: &str) -> Self {
        let broker = valid(spec);
        let (observed, settings) = (nothing(), settings());
        let plan = plan(&broker, &observed, None, &credentials(), &settings);
        Self { broker, plan, observed, settings }
    }

    /// The children.
    pub(crate) fn build(&self) -> Resources<Prepared> {
        build(&Blueprint {
            broker: &self.broker,
            plan: &self.plan,
            credentials: &credentials(),
            observed: &self.observed,
            settings: &self.settings,
        })
    }

    /// The children as if the API server had taken them as they are.
    pub(crate) fn applied(&self) -> Resources<Applied> {
        self.build().into_state()
    }
}

/// A pod of the broker `mqtt` at 127.0.0.1.
pub(crate) fn pod(ordinal: i32, ready: bool, restart_hash: &str) -> Arc<Pod> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("mqtt-{ordinal}"), "namespace": "ns", "uid": format!("uid-mqtt-{ordinal}"),
            "labels": {"app.kubernetes.io/instance": "mqtt"},
            "annotations": {RESTART_HASH_ANNOTATION: restart_hash},
        },
        "spec": {"containers": [{"name": "mqtt-broker", "image": "i"}]},
        "status": {
            "phase": "Running", "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// A cluster of so many members that is as it should be.
pub(crate) fn healthy_cluster(members: i32) -> Cluster {
    Cluster {
        initialised: true,
        version: "0.1.0".to_owned(),
        failover_ready: members > 2,
        failover_reason: if members > 2 { String::new() } else { "there are fewer than three members".to_owned() },
        replication_factor: Some(if members > 2 { 3 } else { 1 }),
        members: (0..members)
            .map(|ordinal| Member {
                name: format!("mqtt-{ordinal}"),
                state: MemberState::Active,
                replicas: 16,
                shards_led: 5,
                version: "0.1.0".to_owned(),
            })
            .collect(),
        shards: Shards { total: 16, under_replicated: 0, without_leader: 0 },
        connections: 12,
        sessions: 4,
    }
}

/// The write ends of the caches.
pub(crate) struct CacheWriters {
    pub(crate) stateful_sets: Writer<k8s_openapi::api::apps::v1::StatefulSet>,
    pub(crate) services: Writer<k8s_openapi::api::core::v1::Service>,
    pub(crate) config_maps: Writer<k8s_openapi::api::core::v1::ConfigMap>,
    pub(crate) secrets: Writer<Secret>,
    pub(crate) disruption_budgets: Writer<k8s_openapi::api::policy::v1::PodDisruptionBudget>,
    pub(crate) network_policies: Writer<k8s_openapi::api::networking::v1::NetworkPolicy>,
    pub(crate) service_accounts: Writer<k8s_openapi::api::core::v1::ServiceAccount>,
    pub(crate) pod_monitors: Writer<PodMonitor>,
    pub(crate) pods: Writer<Pod>,
    pub(crate) claims: Writer<k8s_openapi::api::core::v1::PersistentVolumeClaim>,
}

impl CacheWriters {
    pub(crate) fn new() -> (Self, Caches) {
        let writers = Self {
            stateful_sets: Writer::new(()),
            services: Writer::new(()),
            config_maps: Writer::new(()),
            secrets: Writer::new(()),
            disruption_budgets: Writer::new(()),
            network_policies: Writer::new(()),
            service_accounts: Writer::new(()),
            pod_monitors: Writer::new(()),
            pods: Writer::new(()),
            claims: Writer::new(()),
        };
        let caches = Caches {
            stateful_sets: writers.stateful_sets.as_reader(),
            services: writers.services.as_reader(),
            config_maps: writers.config_maps.as_reader(),
            secrets: writers.secrets.as_reader(),
            disruption_budgets: writers.disruption_budgets.as_reader(),
            network_policies: writers.network_policies.as_reader(),
            service_accounts: writers.service_accounts.as_reader(),
            pod_monitors: Some(writers.pod_monitors.as_reader()),
            pods: writers.pods.as_reader(),
            claims: writers.claims.as_reader(),
        };
        (writers, caches)
    }

    /// Shows the caches what the API server holds.
    pub(crate) fn sync(&mut self, server: &ApiServer) {
        fill(&mut self.stateful_sets, server);
        fill(&mut self.services, server);
        fill(&mut self.config_maps, server);
        fill(&mut self.secrets, server);
        fill(&mut self.disruption_budgets, server);
        fill(&mut self.network_policies, server);
        fill(&mut self.service_accounts, server);
        fill(&mut self.pod_monitors, server);
    }

    /// Shows the caches the pods and claims that the API server holds.
    pub(crate) fn sync_pods(&mut self, server: &ApiServer) {
        fill(&mut self.pods, server);
        fill(&mut self.claims, server);
    }
}

fn fill<K>(writer: &mut Writer<K>, server: &ApiServer)
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let objects = server.paths().into_iter().filter_map(|path| server.get(&path));
    let held: Vec<serde_json::Value> = objects.filter(|object| object["kind"] == *K::kind(&())).collect();
    writer.apply_watcher_event(&watcher::Event::Init);
    for object in held {
        writer.apply_watcher_event(&watcher::Event::InitApply(serde_json::from_value(object).unwrap()));
    }
    writer.apply_watcher_event(&watcher::Event::InitDone);
}

/// Puts one object into a cache.
pub(crate) fn put<K>(writer: &mut Writer<K>, object: &Arc<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    writer.apply_watcher_event(&watcher::Event::Apply((**object).clone()));
}
