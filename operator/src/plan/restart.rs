//! What a broker must be restarted for, as one hash that its pod carries.
//!
//! It is made from what a person wrote and from the peer certificate, never from the objects the operator builds: so a new
//! operator that builds them a little differently restarts nobody. Deliberately absent: what brokers read again while they run
//! (limits, the log's filter, the contents of Secrets), the number of replicas, the right to found, the admin token.

use serde_json::json;

use crate::{api::MqttBrokerSpec, fingerprint};

/// The one limit that brokers read only at start.
const FIXED_LIMIT: &str = "peer_batches_max";
/// The one of the further settings that they read again.
const RELOADED_SETTING: &str = "log";

/// The hash of everything that a running broker can't take up.
pub fn hash(spec: &MqttBrokerSpec, image: &str, peer_certificate: &str) -> String {
    // Keys with nothing in them are left out, so that a setting which a later version adds changes no old hash.
    let mut content = json!({ "image": image, "peer": peer_certificate });
    let schemes: Vec<&str> = spec.listeners.served().iter().map(|one| one.scheme).collect();
    let fixed_limit = spec.limits.get(FIXED_LIMIT);
    let mut config = spec.config.clone();
    config.remove(RELOADED_SETTING);
    let optional = [
        // Which there are, not at which port of the Service.
        ("listeners", json!(schemes), schemes == ["mqtt"]),
        ("auth", json!(spec.auth), spec.auth.is_empty()),
        ("tls", json!(spec.tls), spec.tls.is_none()),
        ("podTemplate", json!(spec.pod_template), spec.pod_template.is_empty()),
        ("resources", json!(spec.resources), spec.resources.is_empty()),
        ("limits", json!(fixed_limit), fixed_limit.is_none()),
        ("config", json!(config), config.is_empty()),
        ("factor", json!(spec.replication.factor), spec.replication.factor.is_none()),
    ];
    for (key, value, absent) in optional {
        if !absent {
            content[key] = value;
        }
    }
    fingerprint::of(&content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash of a resource as it is written.
    fn of(yaml: &str) -> String {
        let spec: MqttBrokerSpec = serde_yaml::from_str(yaml).unwrap();
        hash(&spec, spec.image.as_deref().unwrap_or("default"), "c")
    }

    #[test]
    fn the_hash_of_a_resource_never_changes_with_the_operator() {
        assert_eq!(of("{image: i, replicas: 3}"), "e16c0cf409e930ce");
    }

    #[test]
    fn only_what_needs_a_restart_changes_it() {
        let base = of("{image: i, replicas: 3}");
        for same in [
            "{image: i, replicas: 5}",
            "{image: i, listeners: {mqtt: {port: 2000}}}",
            "{image: i, listeners: {service: {type: NodePort}}}",
            "{image: i, persistence: {size: 2Gi}}",
            "{image: i, imagePullPolicy: Always}",
            "{image: i, limits: {}, resources: {requests: {}}, auth: {}, podTemplate: {}}",
            "{image: i, limits: {connections_max: 1}, config: {log: {filter: debug}}}",
            "{image: i, podDisruptionBudget: {enabled: false}, monitoring: {enabled: false}}",
        ] {
            assert_eq!(of(same), base, "{same}");
        }
        for other in [
            "{image: j}",
            "{image: i, resources: {requests: {cpu: 1}}}",
            "{image: i, limits: {peer_batches_max: 1}}",
            "{image: i, config: {sys_interval_seconds: 1}}",
            "{image: i, replication: {factor: 1}}",
            "{image: i, listeners: {ws: {}}}",
            "{image: i, auth: {passwords: {secretName: users}}}",
            "{image: i, tls: {secretName: certificate}}",
            "{image: i, podTemplate: {spec: {priorityClassName: high}}}",
        ] {
            assert_ne!(of(other), base, "{other}");
        }
        let spec: MqttBrokerSpec = serde_yaml::from_str("{image: i}").unwrap();
        assert_ne!(hash(&spec, "i", "another certificate"), base);
    }
}
