//! What was written becomes what is meant, once: a [`ValidBroker`] exists only if every rule holds.
//!
//! These are the rules of the schema again, for resources that were stored before a rule existed, and the few that CEL
//! can't say. Deliberately absent: rules about changes; only the API server sees the old and the new one side by side.

use std::sync::Arc;

use kube::ResourceExt;

use crate::{
    api::{MqttBroker, MqttBrokerSpec, NAME_LENGTH_MAX, PAUSED_ANNOTATION, REPLICAS_MAX},
    names::Names,
};

/// Settings of the broker's configuration file that are the operator's to make.
const RESERVED_CONFIG_KEYS: [&str; 7] = ["node", "data_dir", "listeners", "admin", "cluster", "replication", "limits"];

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
    if spec.image.trim().is_empty() {
        fault("spec.image", "is empty: name the image of the broker".to_owned());
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
    for key in RESERVED_CONFIG_KEYS {
        if spec.config.contains_key(key) {
            fault(
                &format!("spec.config.{key}"),
                "is set by the operator: remove it and use the fields of spec".to_owned(),
            );
        }
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
