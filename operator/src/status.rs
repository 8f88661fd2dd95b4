//! Step five: what is true, said in conditions and numbers, and patched only when it differs from what was said before.
//!
//! Pure but for the patch at the end. Deliberately absent: timestamps that move by themselves. A condition's time changes
//! only with its status, so a status of something at rest is equal to the one before it.

mod conditions;
mod trouble;

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, api::Patch, api::PatchParams};
use serde_json::json;

use crate::{
    api::{MqttBroker, MqttBrokerStatus},
    apply::ApplyError,
    broker_client::MemberState,
    build::{Applied, Resources, Settings},
    event::Event,
    names::{Names, OPERATOR},
    observe::{Observed, is_ready},
    plan::Plan,
    validate::Invalid,
};

pub use self::conditions::RELOADING;

/// How a reconcile went.
#[derive(Debug)]
pub enum Outcome {
    /// The resource is wrong; nothing was touched.
    Invalid(Invalid),
    /// The resource says hands off; nothing was touched.
    Paused,
    /// Credentials or objects could not be made.
    Failed {
        /// One word.
        reason: &'static str,
        /// The sentence.
        message: String,
    },
    /// Everything is applied.
    Applied {
        /// What was decided.
        plan: Plan,
        /// What the API server has now.
        resources: Box<Resources<Applied>>,
        /// Of what the brokers are to have read; see [`crate::build::config_sha256`].
        config_sha256: Box<[String; 2]>,
        /// Why the act of the plan failed, if it did.
        act_failure: Option<String>,
    },
}

impl From<ApplyError> for Outcome {
    fn from(error: ApplyError) -> Self {
        Self::Failed { reason: error.reason(), message: error.to_string() }
    }
}

/// Says what is true.
pub fn status_of(
    broker: &MqttBroker,
    observed: &Observed,
    outcome: &Outcome,
    settings: &Settings,
    now: Timestamp,
) -> MqttBrokerStatus {
    let names = Names { broker: broker.name_any(), namespace: broker.namespace().unwrap_or_default() };
    let before = broker.status.as_ref();
    let cluster = observed.cluster.as_ref().ok();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);

    MqttBrokerStatus {
        conditions: conditions::conditions(broker, observed, outcome, now),
        observed_generation: broker.metadata.generation,
        initialised: before.is_some_and(|status| status.initialised)
            || cluster.is_some_and(|cluster| cluster.initialised),
        leaving: match outcome {
            Outcome::Applied { plan, .. } => plan.leaving.clone(),
            _ => before.and_then(|status| status.leaving.clone()),
        },
        replicas: count(observed.pods.len()),
        ready_replicas: count(observed.pods.iter().filter(|(_, pod)| is_ready(pod)).count()),
        members: cluster.map(|cluster| count(cluster.members.len())),
        shards_under_replicated: cluster
            .map(|cluster| i32::try_from(cluster.shards.under_replicated).unwrap_or(i32::MAX)),
        connections: cluster.map(|cluster| cluster.connections),
        sessions: cluster.map(|cluster| cluster.sessions),
        version: versions(observed).or_else(|| before.and_then(|status| status.version.clone())),
        endpoint: Some(endpoint(&names, broker, outcome, settings)),
        selector: Some(names.selector()),
    }
}

/// Patches the status if it says anything new.
pub async fn publish(client: &Client, broker: &MqttBroker, status: &MqttBrokerStatus) -> Result<bool, kube::Error> {
    if broker.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let api: Api<MqttBroker> = Api::namespaced(client.clone(), &broker.namespace().unwrap_or_default());
    let patch = json!({ "apiVersion": "mqttbroker.dev/v1alpha1", "kind": "MqttBroker", "status": status });
    api.patch_status(&broker.name_any(), &PatchParams::apply(OPERATOR).force(), &Patch::Apply(&patch)).await?;
    Ok(true)
}

/// What changed between two statuses, as a person would tell it.
pub fn news(before: Option<&MqttBrokerStatus>, after: &MqttBrokerStatus) -> Vec<Event> {
    conditions::news(before, after)
}

/// The versions of the members that answer; one when all is well.
fn versions(observed: &Observed) -> Option<String> {
    let cluster = observed.cluster.as_ref().ok()?;
    let mut versions: Vec<&str> = cluster
        .members
        .iter()
        .filter(|member| member.state != MemberState::Unreachable && !member.version.is_empty())
        .map(|member| member.version.as_str())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let versions = versions.join(",");
    (!versions.is_empty()).then_some(versions).or_else(|| Some(cluster.version.clone()).filter(|one| !one.is_empty()))
}

/// Where clients connect: the load balancer when there is one, else the name of the Service.
fn endpoint(names: &Names, broker: &MqttBroker, outcome: &Outcome, settings: &Settings) -> String {
    let balancer = match outcome {
        Outcome::Applied { resources, .. } => resources
            .client_service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()?.first())
            .and_then(|ingress| ingress.hostname.clone().or_else(|| ingress.ip.clone())),
        _ => None,
    };
    let host = balancer
        .unwrap_or_else(|| format!("{}.{}.svc.{}", names.client_service(), names.namespace, settings.cluster_domain));
    let port = broker.spec.listeners.served().first().map_or(broker.spec.listeners.mqtt.port, |one| one.service_port);
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests;
