//! What was written becomes what is meant, once: a [`ValidBroker`] exists only if every rule holds.
//!
//! These are the rules of the schema again, for resources that were stored before a rule existed, and the few that CEL
//! can't say. Deliberately absent: rules about changes; only the API server sees the old and the new one side by side.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use serde_json::Value;

use crate::{
    api::{MqttBroker, MqttBrokerSpec, NAME_LENGTH_MAX, PAUSED_ANNOTATION, REPLICAS_MAX, RESERVED_CONFIG_KEYS},
    names::Names,
    quantity,
};

/// Shards that a cluster may be cut into.
const SHARDS_MAX: i32 = 256;

/// An `MqttBroker` whose every rule holds.
#[derive(Clone, Debug)]
pub struct ValidBroker {
    /// What everything that belongs to it is called.
    pub names: Names,
    /// Its identity; a resource made again under the same name has another one.
    pub uid: String,
    /// What is wanted.
    pub spec: MqttBrokerSpec,
    /// Whether only the status may be written.
    pub paused: bool,
}

impl ValidBroker {
    /// The Secrets that the resource names, each with the keys that brokers read.
    pub fn named_secrets(&self) -> Vec<(String, Vec<String>)> {
        let auth = &self.spec.auth;
        let tls = self.spec.tls.iter().map(|tls| (&tls.secret_name, vec!["tls.crt".to_owned(), "tls.key".to_owned()]));
        let passwords = auth.passwords.iter().map(|secret| (&secret.secret_name, vec![secret.key.clone()]));
        let acls = auth.acls.iter().map(|secret| (&secret.secret_name, vec![secret.key.clone()]));
        tls.chain(passwords).chain(acls).map(|(name, keys)| (name.clone(), keys)).collect()
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// All broken rules of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.0.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect::<Vec<_>>().join("; "))]
pub struct Invalid(pub Vec<Fault>);

/// Checks a resource.
pub fn validate(broker: &Arc<MqttBroker>) -> Result<ValidBroker, Invalid> {
    let spec = &broker.spec;
    let name = broker.name_any();
    let mut faults = Vec::new();
    let mut fault = |field: &str, message: String| faults.push(Fault { field: field.to_owned(), message });

    if name.len() > NAME_LENGTH_MAX {
        fault("metadata.name", format!("has {} characters, at most {NAME_LENGTH_MAX} are possible", name.len()));
    }
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) || name.contains('.') {
        fault("metadata.name", "must begin with a letter and hold no dot: Services are named after it".to_owned());
    }
    if !(1..=REPLICAS_MAX).contains(&spec.replicas) {
        fault("spec.replicas", format!("is {}, must be from 1 to {REPLICAS_MAX}", spec.replicas));
    }
    match spec.replication.factor {
        Some(factor) if ![1, 3, 5].contains(&factor) => {
            fault("spec.replication.factor", format!("is {factor}, must be 1, 3 or 5"));
        }
        Some(factor) if factor > spec.replicas => fault(
            "spec.replication.factor",
            format!("is {factor}, above the {} replicas: raise replicas or lower the factor", spec.replicas),
        ),
        _ => {}
    }
    if !(1..=SHARDS_MAX).contains(&spec.replication.shards) {
        fault("spec.replication.shards", format!("is {}, must be from 1 to {SHARDS_MAX}", spec.replication.shards));
    }
    if quantity::milli(&spec.persistence.size).is_none_or(|size| size <= 0) {
        fault(
            "spec.persistence.size",
            format!("is {}, must be a positive quantity such as 1Gi", spec.persistence.size),
        );
    }
    check_image(spec, &mut fault);
    check_listeners(spec, &mut fault);
    check_care(spec, &mut fault);
    for key in RESERVED_CONFIG_KEYS {
        if spec.config.contains_key(key) {
            fault(
                &format!("spec.config.{key}"),
                "is set by the operator: remove it and use the fields of spec".to_owned(),
            );
        }
    }

    if let Err(error) = serde_json::from_value::<PodTemplateSpec>(Value::Object(spec.pod_template.clone())) {
        fault("spec.podTemplate", format!("is not a patch of a pod template: {error}"));
    }

    let (Some(namespace), Some(uid)) = (broker.namespace(), broker.uid()) else {
        fault("metadata", "has no namespace or uid: this is not a stored resource".to_owned());
        return Err(Invalid(faults));
    };
    if !faults.is_empty() {
        return Err(Invalid(faults));
    }
    Ok(ValidBroker {
        names: Names { broker: name, namespace },
        uid,
        spec: spec.clone(),
        paused: broker.annotations().get(PAUSED_ANNOTATION).is_some_and(|value| value == "true"),
    })
}

fn check_image(spec: &MqttBrokerSpec, fault: &mut impl FnMut(&str, String)) {
    if spec.image.as_ref().is_some_and(|image| image.trim().is_empty()) {
        fault("spec.image", "is empty: name the image of the broker, or leave it out".to_owned());
    }
    let Some(version) = &spec.version else {
        return;
    };
    let is_tag_character = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    if version.is_empty() || version.starts_with(['.', '-']) || !version.chars().all(is_tag_character) {
        fault("spec.version", format!("is {version:?}, must be the tag of an image, such as 0.1.0"));
    }
    if spec.image.as_deref().is_some_and(names_tag_or_digest) {
        fault(
            "spec.version",
            "is also named by the image: leave the tag out of image, or leave version out".to_owned(),
        );
    }
}

/// A colon before the last slash belongs to the port of a registry.
fn names_tag_or_digest(image: &str) -> bool {
    image.contains('@') || image.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

fn check_listeners(spec: &MqttBrokerSpec, fault: &mut impl FnMut(&str, String)) {
    let served = spec.listeners.served();
    if served.is_empty() {
        fault("spec.listeners", "no client could connect, enable mqtt or add mqtts, ws or wss".to_owned());
    }
    for (index, one) in served.iter().enumerate() {
        if served[..index].iter().any(|other| other.service_port == one.service_port) {
            fault(
                &format!("spec.listeners.{}.port", one.scheme),
                format!("is {}, as another listener's: give each a port of its own", one.service_port),
            );
        }
        if one.tls && spec.tls.is_none() {
            fault(
                &format!("spec.listeners.{}", one.scheme),
                "needs a certificate: set tls.secretName to a Secret of type kubernetes.io/tls".to_owned(),
            );
        }
    }
    if !spec.auth.anonymous() && spec.auth.passwords.is_none() {
        fault("spec.auth", "nobody could connect, set auth.passwords or allow anonymous clients".to_owned());
    }
}

fn check_care(spec: &MqttBrokerSpec, fault: &mut impl FnMut(&str, String)) {
    if let Some(evictable) = spec.pod_disruption_budget.max_unavailable
        && (evictable < 1 || evictable.saturating_mul(2) >= spec.replicas)
    {
        fault(
            "spec.podDisruptionBudget.maxUnavailable",
            format!("is {evictable}, must be at least 1 and below half of the {} replicas", spec.replicas),
        );
    }
    if let Some(interval) = &spec.monitoring.interval
        && !is_duration(interval)
    {
        fault("spec.monitoring.interval", format!("is {interval:?}, must be a duration such as 30s"));
    }
}

/// As Prometheus writes it: `1m30s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let Some(after) = ["ms", "s", "m", "h"].iter().find_map(|name| unit.strip_prefix(name)) else {
            return false;
        };
        if unit.len() == rest.len() {
            return false;
        }
        rest = after;
    }
    !text.is_empty()
}
