//! What is built, as files that a person has read. After a change on purpose: `UPDATE_SNAPSHOTS=1 cargo test -p mqtt-operator`,
//! then read the difference.

use std::{marker::PhantomData, path::Path};

use super::*;
use crate::fixtures::Draft;

/// All children as one YAML file, in the order in which they are applied.
fn yaml(spec: &str, change: impl Fn(&mut Draft)) -> String {
    let mut draft = Draft::of(spec);
    change(&mut draft);
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
        pod_monitor,
        stateful_set,
        state: PhantomData,
    } = draft.build();
    let documents = [
        Some(serde_yaml::to_string(&service_account)),
        Some(serde_yaml::to_string(&peer_ca)),
        Some(serde_yaml::to_string(&peer_tls)),
        Some(serde_yaml::to_string(&admin_token)),
        Some(serde_yaml::to_string(&config_map)),
        Some(serde_yaml::to_string(&peers_service)),
        Some(serde_yaml::to_string(&client_service)),
        disruption_budget.map(|budget| serde_yaml::to_string(&budget)),
        Some(serde_yaml::to_string(&network_policy)),
        pod_monitor.map(|monitor| serde_yaml::to_string(&monitor)),
        Some(serde_yaml::to_string(&stateful_set)),
    ];
    documents.into_iter().flatten().map(Result::unwrap).collect::<Vec<_>>().join("---\n")
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
    assert_snapshot("least.yaml", &yaml("{}", |_| {}));
}

#[test]
fn every_field_of_a_resource_arrives() {
    let spec = "
replicas: 5
image: registry.example:5000/mqtt-broker
version: 0.1.0
imagePullPolicy: Always
listeners:
  mqtt: {port: 11883}
  mqtts: {}
  ws: {port: 80}
  wss: {port: 443}
  service: {type: LoadBalancer, annotations: {example.com/pool: a}}
auth: {passwords: {secretName: users}, acls: {secretName: users, key: rights}}
tls: {secretName: certificate}
replication: {factor: 5, shards: 32}
persistence: {size: 10Gi, storageClassName: fast, deletionPolicy: Delete}
resources: {requests: {cpu: 2, memory: 1Gi}, limits: {memory: 2Gi}}
limits: {connections_max: 1000}
podTemplate:
  metadata: {labels: {team: a, app.kubernetes.io/instance: mine}}
  spec: {priorityClassName: high, tolerations: [{key: dedicated, operator: Exists}]}
podDisruptionBudget: {maxUnavailable: 1}
monitoring: {interval: 30s, labels: {release: prometheus}}
";
    assert_snapshot("full.yaml", &yaml(spec, |_| {}));
}

#[test]
fn what_is_not_wanted_is_not_built() {
    let none = yaml("{podDisruptionBudget: {enabled: false}, monitoring: {enabled: false}}", |_| {});
    assert!(!none.contains("PodDisruptionBudget") && !none.contains("PodMonitor"));
    assert!(!yaml("{}", |draft| draft.settings.pod_monitors = false).contains("PodMonitor"));
}

#[test]
fn a_single_broker_has_no_budget() {
    assert!(!yaml("{image: i, replicas: 1}", |_| {}).contains("PodDisruptionBudget"));
}

#[test]
fn taking_back_the_right_to_found_changes_one_line_and_no_pod() {
    let founding = yaml("{image: i}", |_| {});
    let founded = yaml("{image: i}", |draft| draft.plan.founding = false);
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
    let mut draft = Draft::of("{persistence: {size: 2Gi}}");
    let before = Draft::of("{persistence: {size: 1Gi}}");
    draft.observed.stateful_set = Some(std::sync::Arc::new(before.build().stateful_set));
    let set = serde_yaml::to_string(&draft.build().stateful_set).unwrap();
    assert!(set.contains("storage: 1Gi") && !set.contains("storage: 2Gi"));
}

#[test]
fn a_patch_of_the_pods_leaves_what_they_are_found_by() {
    let patch = "{podTemplate: {metadata: {labels: {app.kubernetes.io/instance: other}, annotations: {mqttbroker.dev/restart-hash: x}}}}";
    let set = Draft::of(patch).build().stateful_set.spec.unwrap();
    let metadata = set.template.metadata.unwrap();
    assert_eq!(metadata.labels.unwrap()["app.kubernetes.io/instance"], "mqtt");
    assert_ne!(metadata.annotations.unwrap()["mqttbroker.dev/restart-hash"], "x");
}
