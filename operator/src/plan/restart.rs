//! What a broker must be restarted for, as one hash that its pod carries.
//!
//! It is made from what a person wrote and from the peer certificate, never from the objects the operator builds: so a new
//! operator that builds them a little differently restarts nobody. Deliberately absent: the number of replicas, the
//! right to found, the admin token (read by brokers when it is needed).

use serde_json::json;

use crate::{api::MqttBrokerSpec, fingerprint};

/// The hash of everything that a running broker can't take up.
pub fn hash(spec: &MqttBrokerSpec, peer_certificate: &str) -> String {
    // Keys with nothing in them are left out, so that a setting which a later version adds changes no old hash.
    let mut content = json!({ "image": spec.image, "peer": peer_certificate });
    let optional = [
        ("resources", json!(spec.resources), spec.resources.is_empty()),
        ("limits", json!(spec.limits), spec.limits.is_empty()),
        ("config", json!(spec.config), spec.config.is_empty()),
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

    fn spec(yaml: &str) -> MqttBrokerSpec {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn the_hash_of_a_resource_never_changes_with_the_operator() {
        assert_eq!(hash(&spec("{image: i, replicas: 3}"), "c"), "e16c0cf409e930ce");
    }

    #[test]
    fn only_what_needs_a_restart_changes_it() {
        let base = hash(&spec("{image: i, replicas: 3}"), "c");
        for same in [
            "{image: i, replicas: 5}",
            "{image: i, listeners: {mqtt: {port: 2000}}}",
            "{image: i, persistence: {size: 2Gi}}",
            "{image: i, imagePullPolicy: Always}",
            "{image: i, limits: {}, resources: {requests: {}}}",
        ] {
            assert_eq!(hash(&spec(same), "c"), base, "{same}");
        }
        for other in [
            "{image: j}",
            "{image: i, resources: {requests: {cpu: 1}}}",
            "{image: i, limits: {connections: 1}}",
            "{image: i, config: {log: debug}}",
            "{image: i, replication: {factor: 1}}",
        ] {
            assert_ne!(hash(&spec(other), "c"), base, "{other}");
        }
        assert_ne!(hash(&spec("{image: i, replicas: 3}"), "another certificate"), base);
    }
}
