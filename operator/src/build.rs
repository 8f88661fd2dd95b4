//! Step three, second half: every object that belongs to a broker, as it is to be. Pure; one file per kind of child.
//!
//! Only what we mean is set. What the API server adds by default is left to it, so that it never looks like a difference.
//! Deliberately absent: the API client, and any look at what exists but where an object can't be changed (`stateful_set`).

mod config_map;
mod disruption_budget;
mod network_policy;
mod pod_monitor;
mod pod_patch;
mod secrets;
mod service_account;
mod services;
mod stateful_set;

use std::{collections::BTreeMap, marker::PhantomData};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;

use crate::{
    api::MqttBroker, observe::Observed, peer_pki::Credentials, plan::Plan, pod_monitor::PodMonitor,
    validate::ValidBroker,
};

pub use self::stateful_set::pod_address;

/// What holds for all brokers of one operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The DNS domain of the Kubernetes cluster.
    pub cluster_domain: String,
    /// The image of brokers whose resource names none.
    pub broker_image: String,
    /// Whether the Kubernetes cluster knows PodMonitors.
    pub pod_monitors: bool,
}

/// What the objects are made from.
#[derive(Clone, Copy, Debug)]
pub struct Blueprint<'a> {
    /// What is wanted.
    pub broker: &'a ValidBroker,
    /// What is to be done now.
    pub plan: &'a Plan,
    /// What the Secrets hold.
    pub credentials: &'a Credentials,
    /// What exists.
    pub observed: &'a Observed,
    /// What holds for all brokers.
    pub settings: &'a Settings,
}

/// Built, but not yet in the API server.
#[derive(Clone, Copy, Debug)]
pub enum Prepared {}

/// As the API server has it.
#[derive(Clone, Copy, Debug)]
pub enum Applied {}

/// All children of one broker. `Resources<Applied>` comes only from applying.
#[derive(Clone, Debug)]
pub struct Resources<State> {
    /// Identity of the pods, without rights.
    pub service_account: ServiceAccount,
    /// Authority of the peers.
    pub peer_ca: Secret,
    /// Certificate of the peers.
    pub peer_tls: Secret,
    /// Token of the admin API.
    pub admin_token: Secret,
    /// The brokers' configuration.
    pub config_map: ConfigMap,
    /// Names of the pods.
    pub peers_service: Service,
    /// Where clients connect.
    pub client_service: Service,
    /// How many pods may be evicted; none for a single broker.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Who may reach the pods.
    pub network_policy: NetworkPolicy,
    /// Who collects metrics; none where that is not wanted or not known.
    pub pod_monitor: Option<PodMonitor>,
    /// The pods.
    pub stateful_set: StatefulSet,
    pub(crate) state: PhantomData<State>,
}

#[cfg(test)]
impl<State> Resources<State> {
    /// The same children, said to be in another state.
    pub(crate) fn into_state<Other>(self) -> Resources<Other> {
        let Self {
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
        } = self;
        Resources {
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
        }
    }
}

/// Builds all children.
pub fn build(blueprint: &Blueprint<'_>) -> Resources<Prepared> {
    Resources {
        service_account: service_account::build(blueprint),
        peer_ca: secrets::peer_ca(blueprint),
        peer_tls: secrets::peer_tls(blueprint),
        admin_token: secrets::admin_token(blueprint),
        config_map: config_map::build(blueprint),
        peers_service: services::peers(blueprint),
        client_service: services::clients(blueprint),
        disruption_budget: disruption_budget::build(blueprint),
        network_policy: network_policy::build(blueprint),
        pod_monitor: pod_monitor::build(blueprint),
        stateful_set: stateful_set::build(blueprint),
        state: PhantomData,
    }
}

/// By which the brokers tell whether they have read what they were given. The right to found is nothing that a broker takes
/// from a file that has changed, so they may have read the file with it or without.
pub fn config_sha256(blueprint: &Blueprint<'_>) -> [String; 2] {
    [true, false].map(|founding| {
        let text = config_map::file(blueprint, founding);
        digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

/// The text of the brokers' configuration file in a ConfigMap.
pub fn config_text(config_map: &ConfigMap) -> Option<&String> {
    config_map.data.as_ref()?.get(config_map::CONFIG_FILE)
}

/// The metadata of a child.
fn metadata(blueprint: &Blueprint<'_>, name: String) -> ObjectMeta {
    let broker = blueprint.broker;
    ObjectMeta {
        name: Some(name),
        namespace: Some(broker.names.namespace.clone()),
        labels: Some(broker.names.selector_labels()),
        owner_references: Some(vec![OwnerReference {
            api_version: MqttBroker::api_version(&()).into_owned(),
            kind: MqttBroker::kind(&()).into_owned(),
            name: broker.names.broker.clone(),
            uid: broker.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// One annotation.
fn annotation(key: &str, value: String) -> Option<BTreeMap<String, String>> {
    Some(BTreeMap::from([(key.to_owned(), value)]))
}

#[cfg(test)]
mod tests;
