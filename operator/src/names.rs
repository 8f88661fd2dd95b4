//! What everything that belongs to a broker is called, and the labels it is found by.
//!
//! Deliberately absent: any decision. A name here never depends on what exists.

use std::collections::BTreeMap;

/// Name of the program as field manager, as label value and in events.
pub const OPERATOR: &str = "mqtt-operator";

/// The label that says which `MqttBroker` something belongs to.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";

/// The selector of everything this operator may look at: its caches hold nothing else.
pub const WATCH_SELECTOR: &str = "app.kubernetes.io/managed-by=mqtt-operator";

/// Hash of what was asked for when an object was last applied.
pub const APPLIED_HASH_ANNOTATION: &str = "mqttbroker.dev/applied-hash";

/// Hash of what a broker must be restarted for; a pod that carries another one is rolled.
pub const RESTART_HASH_ANNOTATION: &str = "mqttbroker.dev/restart-hash";

/// When the certificate in a Secret expires.
pub const NOT_AFTER_ANNOTATION: &str = "mqttbroker.dev/not-after";

/// Port of the peer links.
pub const PEER_PORT: i32 = 7883;

/// Port of health, metrics and admin API.
pub const ADMIN_PORT: i32 = 8080;

/// The names that belong to one `MqttBroker`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Its own name.
    pub broker: String,
    /// Its namespace.
    pub namespace: String,
}

impl Names {
    /// The StatefulSet; its pods are named after it.
    pub fn stateful_set(&self) -> String {
        self.broker.clone()
    }

    /// The pod of an ordinal, which is also the name of the broker's node.
    pub fn pod(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.broker)
    }

    /// The ordinal of a pod or member, when the name is one of ours.
    pub fn ordinal(&self, pod: &str) -> Option<i32> {
        let digits = pod.strip_prefix(&self.broker)?.strip_prefix('-')?;
        let canonical = digits == "0" || !digits.starts_with('0');
        (canonical && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// The volume claim of an ordinal.
    pub fn claim(&self, ordinal: i32) -> String {
        format!("{DATA_VOLUME}-{}", self.pod(ordinal))
    }

    /// The ordinal whose volume claim this is.
    pub fn claim_ordinal(&self, claim: &str) -> Option<i32> {
        self.ordinal(claim.strip_prefix(DATA_VOLUME)?.strip_prefix('-')?)
    }

    /// The Service that clients connect to.
    pub fn client_service(&self) -> String {
        self.broker.clone()
    }

    /// The headless Service that gives each pod its name.
    pub fn peers_service(&self) -> String {
        format!("{}-peers", self.broker)
    }

    /// The brokers' configuration file.
    pub fn config_map(&self) -> String {
        format!("{}-config", self.broker)
    }

    /// The authority that signs peer certificates, with its key.
    pub fn peer_ca_secret(&self) -> String {
        format!("{}-peer-ca", self.broker)
    }

    /// The certificate that the brokers show each other.
    pub fn peer_tls_secret(&self) -> String {
        format!("{}-peer-tls", self.broker)
    }

    /// The token of the admin API.
    pub fn admin_token_secret(&self) -> String {
        format!("{}-admin-token", self.broker)
    }

    /// The PodDisruptionBudget.
    pub fn disruption_budget(&self) -> String {
        self.broker.clone()
    }

    /// The NetworkPolicy.
    pub fn network_policy(&self) -> String {
        self.broker.clone()
    }

    /// The PodMonitor.
    pub fn pod_monitor(&self) -> String {
        self.broker.clone()
    }

    /// The ServiceAccount of the pods.
    pub fn service_account(&self) -> String {
        self.broker.clone()
    }

    /// The labels that select the pods; they never change, because a StatefulSet's selector can't.
    pub fn selector_labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), "mqtt-broker".to_owned()),
            (INSTANCE_LABEL.to_owned(), self.broker.clone()),
            ("app.kubernetes.io/managed-by".to_owned(), OPERATOR.to_owned()),
        ])
    }

    /// The same labels in one line.
    pub fn selector(&self) -> String {
        let pairs: Vec<String> = self.selector_labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(",")
    }
}

/// Name of the volume with a broker's data.
pub const DATA_VOLUME: &str = "data";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_read_only_from_names_of_our_own() {
        let names = Names { broker: "mqtt".to_owned(), namespace: "ns".to_owned() };
        assert_eq!(names.ordinal("mqtt-0"), Some(0));
        assert_eq!(names.ordinal("mqtt-12"), Some(12));
        for foreign in
            ["mqtt", "mqtt-", "mqtt-x", "mqtt-01", "mqtt-+1", "mqtt2-0", "mqtt-a-0", "other-1", "mqtt-99999999999"]
        {
            assert_eq!(names.ordinal(foreign), None, "{foreign}");
        }
        assert_eq!(names.claim_ordinal("data-mqtt-4"), Some(4));
        assert_eq!(names.claim_ordinal("other-mqtt-4"), None);
    }
}
