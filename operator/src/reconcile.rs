//! One reconcile, the five steps in order: observe, validate, plan and build, apply, status.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::controller::Action,
};
use serde_json::json;

use crate::{
    api::{MqttBroker, MqttBrokerStatus, condition},
    apply::{Applier, ApplyError, Ledger},
    broker_client::BrokerClient,
    build::{Blueprint, Prepared, Resources, Settings, build, config_sha256, config_text},
    event::{Event, Recorder},
    observe::{Caches, Observed, is_ready, look_for_named_secrets, look_for_secrets, observe},
    peer_pki::Credentials,
    plan::{Act, Plan, plan},
    status::{self, Outcome},
    telemetry::Metrics,
    validate::{Fault, Invalid, ValidBroker, validate},
};

/// How soon to look again while something is waited for that no watch tells of.
const WAITING_INTERVAL: Duration = Duration::from_secs(1);
/// How soon to ask again for what the API server refused: a volume that can't grow will not grow by asking often.
const REFUSED_INTERVAL: Duration = Duration::from_secs(60);
/// How soon to look again while something is wrong, or the cluster isn't ready for a failover, although nothing is to be done.
pub(crate) const RECOVERING_INTERVAL: Duration = Duration::from_secs(3);
/// How soon to look again at rest, for the numbers in the status.
pub(crate) const REST_INTERVAL: Duration = Duration::from_secs(30);

/// What a reconcile works with.
pub struct Context {
    /// The API client.
    pub client: Client,
    /// What the watches hold.
    pub caches: Caches,
    /// The way to the brokers.
    pub brokers: BrokerClient,
    /// What holds for all brokers.
    pub settings: Settings,
    /// Writes Events.
    pub recorder: Arc<Recorder>,
    /// What was applied before.
    pub ledger: Ledger,
    /// Counters.
    pub metrics: Metrics,
    /// The time.
    pub now: fn() -> Timestamp,
}

/// A reconcile failed and is to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server could not be asked.
    #[error("what exists can't be read: {0}")]
    Observe(#[source] Box<kube::Error>),
    /// An object could not be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Credentials could not be made.
    #[error(transparent)]
    Pki(#[from] crate::peer_pki::PkiError),
    /// The status could not be patched.
    #[error("the status of {name} can't be written: {source}")]
    Status {
        /// Name of the resource.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// One word for metrics and conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Observe(_) => "ObserveFailed",
            Self::Apply(error) => error.reason(),
            Self::Pki(_) => "CertificateFailed",
            Self::Status { .. } => "StatusFailed",
        }
    }

    /// Whether our look was only too old.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Apply(error) if error.is_conflict())
    }
}

/// Reconciles one resource.
pub async fn reconcile(broker: Arc<MqttBroker>, context: Arc<Context>) -> Result<Action, Error> {
    if broker.metadata.deletion_timestamp.is_some() {
        // Owner references take everything along; there is nothing to wait for and no finalizer to get stuck on.
        return Ok(Action::await_change());
    }
    let mut observed = observe(&broker, &context.caches, &context.brokers).await;

    let (outcome, failure) = match validate(&broker) {
        Err(invalid) => (Outcome::Invalid(invalid), None),
        Ok(valid) if valid.paused => (Outcome::Paused, None),
        Ok(valid) => match carry_out(&valid, &broker, &mut observed, &context).await {
            Ok(outcome) => (outcome, None),
            // Somebody was quicker: that is no news, only a reason to look again.
            Err(error) if error.is_conflict() => return Err(error),
            Err(error) => (Outcome::Failed { reason: error.reason(), message: error.to_string() }, Some(error)),
        },
    };

    let status = status::status_of(&broker, &observed, &outcome, &context.settings, (context.now)());
    publish(&broker, &status, &context).await?;
    match failure {
        Some(error) => Err(error),
        None => Ok(Action::requeue(interval(&outcome, &status))),
    }
}

/// Steps three and four of a valid resource, and the one act that the plan asks for.
async fn carry_out(
    valid: &ValidBroker,
    broker: &MqttBroker,
    observed: &mut Observed,
    context: &Context,
) -> Result<Outcome, Error> {
    look_for_secrets(observed, &valid.names, &context.client).await.map_err(|error| Error::Observe(Box::new(error)))?;
    if pods_are_to_start(valid, broker, observed) {
        look_for_named_secrets(observed, valid, &context.client)
            .await
            .map_err(|error| Error::Observe(Box::new(error)))?;
    }
    let credentials =
        Credentials::complete(observed.credentials(), &valid.names, &context.settings.cluster_domain, (context.now)())?;
    let plan = plan(valid, observed, broker.status.as_ref(), &credentials, &context.settings);
    let blueprint =
        Blueprint { broker: valid, plan: &plan, credentials: &credentials, observed, settings: &context.settings };
    let config_sha256 = Box::new(config_sha256(&blueprint));
    let prepared = build(&blueprint);
    if let Some(why) = refusal(&prepared, &plan, observed, &credentials, context).await {
        let message = format!("the brokers would not start with it, correct config or limits: {why}");
        return Ok(Outcome::Invalid(Invalid(vec![Fault { field: "spec".to_owned(), message }])));
    }

    let applier =
        Applier { client: &context.client, broker: valid, ledger: &context.ledger, metrics: &context.metrics };
    let resources = applier.apply(prepared, observed).await?;
    tell_of_replicas(broker, observed, &plan, context).await;

    let act_failure = act(&plan, valid, broker, observed, &credentials, context).await.err();
    if let Some(failure) = &act_failure {
        tracing::warn!(name = valid.names.broker, namespace = valid.names.namespace, failure, "a step failed");
    }
    Ok(Outcome::Applied { plan, resources: Box::new(resources), config_sha256, act_failure })
}

/// Why the brokers would not take the configuration that they are about to get. Only those of the very version that is to
/// read it are asked; where none runs, the first new pod tells.
async fn refusal(
    prepared: &Resources<Prepared>,
    plan: &Plan,
    observed: &Observed,
    credentials: &Credentials,
    context: &Context,
) -> Option<String> {
    let text = config_text(&prepared.config_map)?;
    if observed.config_map.as_deref().and_then(config_text) == Some(text) {
        return None;
    }
    let runs_the_image = |pod: &Pod| {
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
        container.is_some_and(|container| container.image.as_ref() == Some(&plan.image))
    };
    if !observed.pods.iter().all(|(_, pod)| runs_the_image(pod)) {
        return None;
    }
    context.brokers.refusal_of(&observed.brokers(), &credentials.admin_token, text).await
}

/// Whether a Secret that is missing would matter now. At rest nobody asks: brokers that run have theirs.
fn pods_are_to_start(valid: &ValidBroker, broker: &MqttBroker, observed: &Observed) -> bool {
    let ready = observed.pods.iter().filter(|(_, pod)| is_ready(pod)).count();
    let all_ready = i32::try_from(ready).is_ok_and(|ready| ready >= valid.spec.replicas);
    let settled = broker.status.as_ref().is_some_and(|status| {
        let applied = status.condition(condition::CONFIG_APPLIED);
        let current = applied.is_some_and(|applied| applied.status == "True" || applied.reason == status::RELOADING);
        status.observed_generation == broker.metadata.generation && current
    });
    !(all_ready && settled)
}

/// Does the one act of the plan; what can't be done now is tried again by the next reconcile.
async fn act(
    plan: &Plan,
    valid: &ValidBroker,
    broker: &MqttBroker,
    observed: &Observed,
    credentials: &Credentials,
    context: &Context,
) -> Result<(), String> {
    let addresses = observed.brokers();
    let token = &credentials.admin_token;
    let event = match &plan.act {
        Act::None => return Ok(()),
        Act::Leave { member } => {
            context
                .brokers
                .leave(&addresses, token, member)
                .await
                .map_err(|error| format!("{member} can't be asked to leave: {error}"))?;
            Event::normal("MemberLeaving", format!("{member} hands over its shards and leaves the cluster"))
        }
        Act::CancelLeave { member } => {
            context
                .brokers
                .cancel_leave(&addresses, token, member)
                .await
                .map_err(|error| format!("{member} can't be kept in the cluster: {error}"))?;
            Event::normal("MemberKept", format!("{member} stays in the cluster"))
        }
        Act::ReplacePod { pod, version } => {
            if !delete::<Pod>(context, valid, pod, version).await? {
                return Ok(());
            }
            Event::normal("PodReplaced", format!("{pod} is replaced, it ran something else than the resource says"))
        }
        Act::GrowClaim { claim, size } => {
            grow(context, valid, claim, size).await?;
            Event::normal("VolumeGrowing", format!("{claim} asks for {size}"))
        }
        Act::DropClaim { claim, version } => {
            if !delete::<PersistentVolumeClaim>(context, valid, claim, version).await? {
                return Ok(());
            }
            Event::normal("ClaimDeleted", format!("{claim} is deleted, its broker has left the cluster"))
        }
    };
    context.recorder.tell(&broker.object_ref(&()), event, &context.metrics, (context.now)()).await;
    Ok(())
}

/// Deletes an object if it is still as it was when it was looked at: a pod that became ready meanwhile, or its successor of
/// the same name, is another decision. Says whether it did.
async fn delete<K>(context: &Context, valid: &ValidBroker, name: &str, version: &str) -> Result<bool, String>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &valid.names.namespace);
    let same = Preconditions { uid: None, resource_version: Some(version.to_owned()) };
    match api.delete(name, &DeleteParams::default().preconditions(same)).await {
        Ok(_) => {
            context.metrics.wrote(&K::kind(&()));
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
        Err(error) => Err(format!("{name} can't be deleted: {error}")),
    }
}

async fn grow(context: &Context, valid: &ValidBroker, claim: &str, size: &str) -> Result<(), String> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &valid.names.namespace);
    let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
    match api.patch(claim, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => {
            context.metrics.wrote("PersistentVolumeClaim");
            Ok(())
        }
        Err(error) => Err(format!("{claim} can't grow to {size}: {error}")),
    }
}

async fn tell_of_replicas(broker: &MqttBroker, observed: &Observed, plan: &Plan, context: &Context) {
    let before = observed.stateful_set.as_ref().and_then(|set| set.spec.as_ref()).and_then(|spec| spec.replicas);
    let event = match before {
        None => Event::normal("Created", format!("{} brokers are made", plan.replicas)),
        Some(before) if before < plan.replicas => {
            Event::normal("ScalingOut", format!("from {before} to {} pods", plan.replicas))
        }
        Some(before) if before > plan.replicas => {
            Event::normal("ScalingIn", format!("from {before} to {} pods", plan.replicas))
        }
        Some(_) => return,
    };
    context.recorder.tell(&broker.object_ref(&()), event, &context.metrics, (context.now)()).await;
}

async fn publish(broker: &MqttBroker, status: &MqttBrokerStatus, context: &Context) -> Result<(), Error> {
    let changed = status::publish(&context.client, broker, status)
        .await
        .map_err(|source| Error::Status { name: broker.name_any(), source: Box::new(source) })?;
    if changed {
        context.metrics.wrote("MqttBroker");
        for event in status::news(broker.status.as_ref(), status) {
            context.recorder.tell(&broker.object_ref(&()), event, &context.metrics, (context.now)()).await;
        }
    }
    Ok(())
}

fn interval(outcome: &Outcome, status: &MqttBrokerStatus) -> Duration {
    match outcome {
        Outcome::Applied { plan: Plan { act: Act::GrowClaim { .. }, .. }, act_failure: Some(_), .. } => {
            REFUSED_INTERVAL
        }
        Outcome::Applied { plan, act_failure, .. } if plan.waiting.is_some() || act_failure.is_some() => {
            WAITING_INTERVAL
        }
        Outcome::Applied { .. }
            if status.is_true(condition::DEGRADED)
                || !(status.is_true(condition::FAILOVER_READY) && status.is_true(condition::CONFIG_APPLIED)) =>
        {
            RECOVERING_INTERVAL
        }
        _ => REST_INTERVAL,
    }
}

#[cfg(test)]
mod tests;
