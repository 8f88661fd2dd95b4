//! What is built, as files that a person has read. After a change on purpose: `UPDATE_SNAPSHOTS=1 cargo test -p mqtt-operator`,
//! then read the difference.

use std::{marker::PhantomData, path::Path};

use super::*;
use crate::fixtures::{credentials, first_plan, nothing, settings, valid};

/// All children as one YAML file, in the order in which they are applied.
fn yaml(spec: &str, plan: impl Fn(&mut Plan)) -> String {
    let broker = valid(spec);
    let mut decided = first_plan(&broker);
    plan(&mut decided);
    let (credentials, observed, settings) = (credentials(), nothing(), settings());
    let blueprint = Blueprint {
        broker: &broker,
        plan: &decided,
        credentials: &credentials,
        observed: &observed,
        settings: &settings,
    };
    // No `..`: a child without a snapshot does not compile.
    let Resources {
        service_account,
        peer_ca,
        peer_tls,
        admin_token,
        config_map,
        peers_service,
        client_service,
        disruption_budget,
        network_policy,
        stateful_set,
        state: PhantomData,
    } = build(&blueprint);
    let mut documents = vec![
        serde_yaml::to_string(&service_account).unwrap(),
        serde_yaml::to_string(&peer_ca).unwrap(),
        serde_yaml::to_string(&peer_tls).unwrap(),
        serde_yaml::to_string(&admin_token).unwrap(),
        serde_yaml::to_string(&config_map).unwrap(),
        serde_yaml::to_string(&peers_service).unwrap(),
        serde_yaml::to_string(&client_service).unwrap(),
    ];
    documents.extend(disruption_budget.map(|budget| serde_yaml::to_string(&budget).unwrap()));
    documents.push(serde_yaml::to_string(&network_policy).unwrap());
    documents.push(serde_yaml::to_string(&stateful_set).unwrap());
    documents.join("---\n")
}

#[track_caller]
fn assert_snapshot(name: &str, built: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/build/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, built).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == built, "{} differs from what is built now:\n{built}", path.display());
}

#[test]
fn the_least_resource_gets_all_children() {
    assert_snapshot("least.yaml", &yaml("{image: 'localhost/mqtt-broker:dev'}", |_| {}));
}

#[test]
fn every_field_of_a_resource_arrives() {
    let spec = "
replicas: 5
image: registry.example/mqtt-broker:1
imagePullPolicy: Always
listeners: {mqtt: {port: 11883}, service: {type: LoadBalancer, annotations: {example.com/pool: a}}}
replication: {factor: 5, shards: 32}
persistence: {size: 10Gi, storageClassName: fast, deletionPolicy: Delete}
resources: {requests: {cpu: 2, memory: 1Gi}, limits: {memory: 2Gi}}
limits: {connections: 1000}
config: {log: {level: debug}}
";
    assert_snapshot("full.yaml", &yaml(spec, |_| {}));
}

#[test]
fn a_single_broker_has_no_budget() {
    assert!(!yaml("{image: i, replicas: 1}", |_| {}).contains("PodDisruptionBudget"));
}

#[test]
fn taking_back_the_right_to_found_changes_one_line_and_no_pod() {
    let founding = yaml("{image: i}", |_| {});
    let founded = yaml("{image: i}", |plan| plan.founding = false);
    let gone: Vec<&str> = founding.lines().filter(|line| !founded.lines().any(|other| other == *line)).collect();
    assert_eq!(gone, ["      bootstrap: mqtt-0"]);
    assert_eq!(founding.lines().count(), founded.lines().count() + 1);
}

#[test]
fn the_number_of_brokers_changes_no_pod_and_no_configuration() {
    let three = yaml("{image: i, replicas: 3}", |_| {});
    let five = yaml("{image: i, replicas: 5}", |_| {});
    let changed: Vec<&str> = three.lines().filter(|line| !five.lines().any(|other| other == *line)).collect();
    assert_eq!(changed, ["  replicas: 3"]);
}

#[test]
fn claims_keep_the_size_they_were_made_with() {
    let broker = valid("{image: i, persistence: {size: 2Gi}}");
    let plan = first_plan(&broker);
    let mut observed = nothing();
    let (credentials, settings) = (credentials(), settings());
    let before = valid("{image: i, persistence: {size: 1Gi}}");
    let blueprint =
        Blueprint { broker: &before, plan: &plan, credentials: &credentials, observed: &observed, settings: &settings };
    observed.stateful_set = Some(std::sync::Arc::new(build(&blueprint).stateful_set));
    let blueprint =
        Blueprint { broker: &broker, plan: &plan, credentials: &credentials, observed: &observed, settings: &settings };
    let set = serde_yaml::to_string(&build(&blueprint).stateful_set).unwrap();
    assert!(set.contains("storage: 1Gi") && !set.contains("storage: 2Gi"));
}
