//! The two Services: one that clients connect to, and a headless one that gives each pod a name.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Blueprint, metadata};
use crate::names::{ADMIN_PORT, PEER_PORT};

/// Peers find each other before they are ready: becoming ready takes a majority.
pub(super) fn peers(blueprint: &Blueprint<'_>) -> Service {
    let names = &blueprint.broker.names;
    Service {
        metadata: metadata(blueprint, names.peers_service()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names.selector_labels()),
            ports: Some(vec![port("peers", PEER_PORT, "peers"), port("admin", ADMIN_PORT, "admin")]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

pub(super) fn clients(blueprint: &Blueprint<'_>) -> Service {
    let names = &blueprint.broker.names;
    let listeners = &blueprint.broker.spec.listeners;
    let mut metadata = metadata(blueprint, names.client_service());
    let annotations: &BTreeMap<String, String> = &listeners.service.annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(listeners.service.type_.as_str().to_owned()),
            selector: Some(names.selector_labels()),
            ports: Some(listeners.served().iter().map(|one| port(one.scheme, one.service_port, one.scheme)).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, port: i32, target: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(target.to_owned())),
        ..ServicePort::default()
    }
}
