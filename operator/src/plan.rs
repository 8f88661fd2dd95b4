//! Step three, first half: what is to be done now, decided from what is wanted and what exists.
//!
//! At most one act on a broker or a pod per reconcile; the next reconcile sees what came of it. Pure: the same input gives
//! the same plan. Deliberately absent: the objects themselves (see `build`).

pub mod restart;
pub mod rollout;
pub mod scale;
pub mod storage;

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::ResourceExt;

use self::{
    rollout::{PodView, RolloutStep, RolloutView},
    scale::{ScaleStep, ScaleView},
};
use crate::{
    api::{MqttBrokerSpec, MqttBrokerStatus},
    broker_client::StorageState,
    build::Settings,
    names::RESTART_HASH_ANNOTATION,
    observe::{Observed, is_ready},
    peer_pki::Credentials,
    validate::ValidBroker,
};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Replicas the StatefulSet is to have now; on the way in, more than asked for.
    pub replicas: i32,
    /// The image that every broker is to run.
    pub image: String,
    /// Whether the first broker may found the cluster.
    pub founding: bool,
    /// What every pod is to carry.
    pub restart_hash: String,
    /// The member that is to leave, to be remembered in the status.
    pub leaving: Option<String>,
    /// What is done after the objects are applied.
    pub act: Act,
    /// What is waited for; none at rest.
    pub waiting: Option<Waiting>,
}

/// One act on a broker or on Kubernetes that is not the content of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// None.
    None,
    /// Have a member leave.
    Leave {
        /// Its name.
        member: String,
    },
    /// Take a leave back.
    CancelLeave {
        /// The member's name.
        member: String,
    },
    /// Delete a pod so that it is made anew.
    ReplacePod {
        /// Its name.
        pod: String,
        /// Its version when it was looked at.
        version: String,
    },
    /// Have a volume claim ask for more.
    GrowClaim {
        /// Its name.
        claim: String,
        /// What it is to ask for.
        size: String,
    },
    /// Delete the volume claim of a member that left.
    DropClaim {
        /// Its name.
        claim: String,
        /// Its version when it was looked at.
        version: String,
    },
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// One word, for programs.
    pub reason: &'static str,
    /// In words, for people.
    pub message: String,
}

/// Decides what is to be done.
pub fn plan(
    broker: &ValidBroker,
    observed: &Observed,
    status: Option<&MqttBrokerStatus>,
    credentials: &Credentials,
    settings: &Settings,
) -> Plan {
    let names = &broker.names;
    let stateful_set = observed.stateful_set.as_deref();
    let image = image(&broker.spec, stateful_set, &settings.broker_image);
    let restart_hash = restart::hash(&broker.spec, &image, &credentials.peer.certificate);
    let present = stateful_set.and_then(replicas);
    let cluster = observed.cluster.as_ref().map_err(String::as_str);

    let idle_claims: Vec<i32> = observed
        .claims
        .iter()
        .filter(|(ordinal, claim)| {
            claim.metadata.deletion_timestamp.is_none() && observed.pods.iter().all(|(pod, _)| pod != ordinal)
        })
        .map(|(ordinal, _)| *ordinal)
        .collect();
    let desired = broker.spec.replicas;
    let remembered = status.and_then(|status| status.leaving.as_deref());
    let view = ScaleView {
        names,
        desired,
        present,
        leaving: remembered.and_then(|member| names.ordinal(member)),
        idle_claims: &idle_claims,
        cluster,
    };
    let scale = scale::decide(&view);
    let leaving = scale::leaving(&view, &scale).map(|ordinal| names.pod(ordinal));

    let replicas = match &scale {
        ScaleStep::Out { replicas } | ScaleStep::Shrink { replicas } => *replicas,
        _ => present.unwrap_or(desired),
    };
    let pods: Vec<PodView> =
        observed.pods.iter().map(|(ordinal, pod)| pod_view(*ordinal, pod, &restart_hash, observed)).collect();
    let template_seen = stateful_set.is_some_and(|set| template_seen(set, &restart_hash));
    let missing = observed.missing_secrets.first().map(String::as_str);
    let rollout = rollout::decide(&RolloutView { pods: &pods, replicas, template_seen, missing, cluster });

    let (mut act, waiting) = combine(broker, observed, scale, rollout, &pods);
    if act == Act::None && waiting.is_some() {
        act = grow_full(broker, observed);
    }
    if matches!(&act, Act::Leave { member } if remembered != Some(member)) {
        // First the status says so, and only when that is stored is it done.
        act = Act::None;
    }
    Plan { replicas, image, founding: founding(observed, status), restart_hash, leaving, act, waiting }
}

/// The image that is asked for. Where the resource leaves it to the operator, what is running stays: another operator with
/// another default restarts no broker.
fn image(spec: &MqttBrokerSpec, present: Option<&StatefulSet>, default: &str) -> String {
    let running = || present?.spec.as_ref()?.template.spec.as_ref()?.containers.first()?.image.clone();
    match (&spec.image, &spec.version) {
        (Some(image), None) => image.clone(),
        (Some(image), Some(version)) => format!("{image}:{version}"),
        (None, Some(version)) => format!("{}:{version}", repository(default)),
        (None, None) => running().unwrap_or_else(|| default.to_owned()),
    }
}

/// An image without its tag or digest; a colon before the last slash belongs to the port of a registry.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rfind(':') {
        Some(colon) if !image[colon..].contains('/') => &image[..colon],
        _ => image,
    }
}

/// Scaling comes first. While it has to wait, a pod that is broken and outdated may still be replaced, since it may be what
/// the wait is for.
fn combine(
    broker: &ValidBroker,
    observed: &Observed,
    scale: ScaleStep,
    rollout: RolloutStep,
    pods: &[PodView],
) -> (Act, Option<Waiting>) {
    let scaling = |message: String| Some(Waiting { reason: "Scaling", message });
    match scale {
        ScaleStep::Settled => match rollout {
            RolloutStep::Settled => grow(broker, observed),
            RolloutStep::Replace { pod, version } => {
                let message = format!("replacing {pod}");
                (Act::ReplacePod { pod, version }, Some(Waiting { reason: "Rolling", message }))
            }
            RolloutStep::Wait { message } => {
                let rolling = pods.iter().any(|pod| !pod.current);
                let reason = match (observed.missing_secrets.is_empty(), rolling) {
                    (false, _) => "SecretMissing",
                    (true, true) => "Rolling",
                    (true, false) => "Starting",
                };
                (Act::None, Some(Waiting { reason, message }))
            }
        },
        ScaleStep::Out { replicas } => (Act::None, scaling(format!("scaling out to {replicas} pods"))),
        ScaleStep::Shrink { replicas } => (Act::None, scaling(format!("scaling in to {replicas} pods"))),
        ScaleStep::Leave { member } => {
            let message = format!("having {member} leave the cluster");
            (Act::Leave { member }, scaling(message))
        }
        ScaleStep::CancelLeave { member } => {
            let message = format!("keeping {member} in the cluster, it is wanted again");
            (Act::CancelLeave { member }, scaling(message))
        }
        ScaleStep::DropClaim { ordinal } => {
            let claim = broker.names.claim(ordinal);
            let message = format!("deleting {claim}, its broker has left the cluster");
            let seen = observed.claims.iter().find(|(of, _)| *of == ordinal);
            let version = seen.and_then(|(_, claim)| claim.resource_version());
            (version.map_or(Act::None, |version| Act::DropClaim { claim, version }), scaling(message))
        }
        ScaleStep::Wait { message } => {
            let act = match rollout {
                RolloutStep::Replace { pod, version } if pods.iter().any(|one| one.name == pod && !one.ready) => {
                    Act::ReplacePod { pod, version }
                }
                _ => Act::None,
            };
            (act, scaling(message))
        }
    }
}

/// Volumes grow when nothing else is to be done.
fn grow(broker: &ValidBroker, observed: &Observed) -> (Act, Option<Waiting>) {
    let size = &broker.spec.persistence.size;
    match storage::to_grow(observed.claims.iter().map(|(_, claim)| claim.as_ref()), size) {
        None => (Act::None, None),
        Some(claim) => {
            let claim = claim.name_any();
            let message = format!("growing {claim} to {size}");
            (Act::GrowClaim { claim, size: size.clone() }, Some(Waiting { reason: "Growing", message }))
        }
    }
}

/// A volume that is full grows at once: its broker may be what is waited for.
fn grow_full(broker: &ValidBroker, observed: &Observed) -> Act {
    let size = &broker.spec.persistence.size;
    let is_full = |ordinal: i32| {
        let node = observed.nodes.get(&broker.names.pod(ordinal));
        node.is_some_and(|node| node.storage.state == StorageState::Full)
    };
    let full = observed.claims.iter().filter(|(ordinal, _)| is_full(*ordinal)).map(|(_, claim)| claim.as_ref());
    storage::to_grow(full, size)
        .map_or(Act::None, |claim| Act::GrowClaim { claim: claim.name_any(), size: size.clone() })
}

/// The right to found is taken back for good: first the status says that the cluster was founded, and only when that is
/// stored does the line leave the configuration; a line that has left never comes back.
fn founding(observed: &Observed, status: Option<&MqttBrokerStatus>) -> bool {
    let founded = status.is_some_and(|status| status.initialised);
    let taken_back = observed.config_map.as_ref().is_some_and(|config_map| {
        !config_map.data.as_ref().is_some_and(|data| data.values().any(|file| file.contains("bootstrap:")))
    });
    !founded && !taken_back
}

fn pod_view(ordinal: i32, pod: &Pod, restart_hash: &str, observed: &Observed) -> PodView {
    let name = pod.name_any();
    let member = observed.cluster.iter().flat_map(|cluster| &cluster.members).find(|member| member.name == name);
    PodView {
        leads: member.map_or(0, |member| member.shards_led),
        name,
        ordinal,
        version: pod.resource_version().unwrap_or_default(),
        ready: is_ready(pod),
        current: pod.annotations().get(RESTART_HASH_ANNOTATION).is_some_and(|hash| hash == restart_hash),
        terminating: pod.metadata.deletion_timestamp.is_some(),
    }
}

fn replicas(stateful_set: &StatefulSet) -> Option<i32> {
    stateful_set.spec.as_ref()?.replicas
}

/// Whether a pod deleted now comes back as the wanted one.
fn template_seen(stateful_set: &StatefulSet, restart_hash: &str) -> bool {
    let template = stateful_set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.metadata.as_ref())
        .and_then(|metadata| metadata.annotations.as_ref())
        .and_then(|annotations| annotations.get(RESTART_HASH_ANNOTATION));
    let seen = stateful_set.status.as_ref().and_then(|status| status.observed_generation);
    template.is_some_and(|hash| hash == restart_hash) && seen >= stateful_set.metadata.generation
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        broker_client::{Node, Storage},
        fixtures::{Draft, credentials, healthy_cluster, pod, settings},
    };

    /// What is to be done of one broker whose claim is smaller than the resource says.
    fn act(ready: bool, storage: StorageState) -> (Act, Option<&'static str>) {
        let mut draft = Draft::of("{image: i, replicas: 1, persistence: {size: 2Gi}}");
        draft.observed.stateful_set = Some(Arc::new(draft.build().stateful_set));
        draft.observed.pods = vec![(0, pod(0, ready, &draft.plan.restart_hash))];
        let claim = "{metadata: {name: data-mqtt-0}, spec: {resources: {requests: {storage: 1Gi}}}}";
        draft.observed.claims = vec![(0, Arc::new(serde_yaml::from_str(claim).unwrap()))];
        let node = Node { storage: Storage { state: storage, reason: String::new() } };
        draft.observed.nodes.insert("mqtt-0".to_owned(), node);
        draft.observed.cluster = Ok(healthy_cluster(1));
        let plan = plan(&draft.broker, &draft.observed, None, &credentials(), &settings());
        (plan.act, plan.waiting.map(|waiting| waiting.reason))
    }

    #[test]
    fn a_full_volume_grows_although_its_broker_is_not_ready() {
        let grows = Act::GrowClaim { claim: "data-mqtt-0".to_owned(), size: "2Gi".to_owned() };
        assert_eq!(act(true, StorageState::Healthy), (grows.clone(), Some("Growing")));
        assert_eq!(act(false, StorageState::Healthy), (Act::None, Some("Starting")), "nothing is done to what starts");
        assert_eq!(act(false, StorageState::Full), (grows, Some("Starting")));
    }
}
