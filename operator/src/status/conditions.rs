//! The conditions: one function each, and what to tell when one of them changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use super::{
    Outcome,
    trouble::{self, Trouble},
};
use crate::{
    api::{MqttBroker, MqttBrokerStatus, PAUSED_ANNOTATION, condition},
    broker_client::{MemberState, Reload},
    event::Event,
    names::{Names, RESTART_HASH_ANNOTATION},
    observe::{Observed, is_ready},
};

/// Why the configuration is not yet applied: no pod has to be replaced, but brokers have yet to see their new files.
pub const RELOADING: &str = "Reloading";

/// What a condition says.
struct Verdict {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "True", reason, message: message.into() }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "False", reason, message: message.into() }
    }

    fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "Unknown", reason, message: message.into() }
    }
}

/// All conditions.
pub(super) fn conditions(
    broker: &MqttBroker,
    observed: &Observed,
    outcome: &Outcome,
    now: Timestamp,
) -> Vec<Condition> {
    condition::ALL
        .into_iter()
        .map(|type_| {
            let verdict = match type_ {
                condition::AVAILABLE => available(broker, observed),
                condition::PROGRESSING => progressing(outcome),
                condition::DEGRADED => degraded(broker, observed, outcome, now),
                condition::FAILOVER_READY => failover_ready(observed),
                condition::CONFIG_APPLIED => config_applied(broker, observed, outcome),
                _ => paused(broker),
            };
            let before = broker.status.as_ref().and_then(|status| status.condition(type_));
            let since = before
                .filter(|before| before.status == verdict.status)
                .map(|before| before.last_transition_time.clone());
            Condition {
                type_: type_.to_owned(),
                status: verdict.status.to_owned(),
                reason: verdict.reason.to_owned(),
                message: verdict.message,
                observed_generation: broker.metadata.generation,
                // Whole seconds: that is what the API server stores, and equality must hold after a round trip.
                last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(now))),
            }
        })
        .collect()
}

/// A broker is ready only with a majority behind it and a leader for each shard it needs, so ready pods are the measure.
fn available(broker: &MqttBroker, observed: &Observed) -> Verdict {
    let ready = observed.pods.iter().filter(|(_, pod)| is_ready(pod)).count();
    let majority = usize::try_from(broker.spec.replicas).unwrap_or(1) / 2 + 1;
    let leaderless = observed.cluster.as_ref().map_or(0, |cluster| cluster.shards.without_leader);
    if ready == 0 {
        return Verdict::no("NoBrokerReady", "no broker is ready");
    }
    if leaderless > 0 {
        return Verdict::no("ShardsWithoutLeader", format!("{leaderless} shards have no leader"));
    }
    if ready < majority {
        return Verdict::no("MinorityReady", format!("{ready} of {} brokers are ready", broker.spec.replicas));
    }
    Verdict::yes("BrokersReady", "a majority of the brokers is ready and every shard has a leader")
}

fn progressing(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Invalid(_) => Verdict::no("Invalid", "the resource is wrong, nothing is being done"),
        Outcome::Paused => Verdict::no("Paused", "the resource is paused, nothing is being done"),
        Outcome::Failed { reason, message } => Verdict::yes(reason, message.clone()),
        Outcome::Applied { act_failure: Some(failure), .. } => Verdict::yes("Retrying", failure.clone()),
        Outcome::Applied { plan, .. } => match &plan.waiting {
            Some(waiting) => Verdict::yes(waiting.reason, waiting.message.clone()),
            None => Verdict::no("Settled", "everything is as asked for"),
        },
    }
}

fn degraded(broker: &MqttBroker, observed: &Observed, outcome: &Outcome, now: Timestamp) -> Verdict {
    match outcome {
        Outcome::Invalid(invalid) => return Verdict::yes("Invalid", invalid.to_string()),
        Outcome::Failed { reason, message } => return Verdict::yes(reason, message.clone()),
        Outcome::Applied { act_failure: Some(failure), .. } => return Verdict::yes("StepFailed", failure.clone()),
        Outcome::Paused | Outcome::Applied { .. } => {}
    }
    if !observed.missing_secrets.is_empty() {
        return Verdict::yes("SecretMissing", observed.missing_secrets.join("; "));
    }
    let claims = observed.claims.iter().filter_map(|(_, claim)| trouble::of_claim(claim, now));
    let pods = observed.pods.iter().filter_map(|(_, pod)| trouble::of(pod));
    let names = Names { broker: broker.name_any(), namespace: broker.namespace().unwrap_or_default() };
    let volumes = observed.nodes.iter().filter_map(|(pod, node)| {
        let claim = names.claim(names.ordinal(pod)?);
        trouble::of_storage(pod, &claim, node)
    });
    let troubles: Vec<Trouble> = claims.chain(pods).chain(volumes).collect();
    if let Some(first) = troubles.first() {
        let messages: Vec<&str> = troubles.iter().map(|trouble| trouble.message.as_str()).collect();
        return Verdict::yes(first.reason, messages.join("; "));
    }
    if let Some(words) = not_reloaded(observed) {
        return Verdict::yes("ReloadFailed", words);
    }
    match &observed.cluster {
        Err(reason) if observed.pods.iter().any(|(_, pod)| is_ready(pod)) => {
            Verdict::yes("BrokersSilent", format!("the brokers can't be asked: {reason}"))
        }
        Err(_) => Verdict::no("AsExpected", ""),
        Ok(cluster) => {
            let lost: Vec<&str> = cluster
                .members
                .iter()
                .filter(|member| member.state == MemberState::Unreachable)
                .map(|member| member.name.as_str())
                .collect();
            if !lost.is_empty() {
                return Verdict::yes("MembersUnreachable", format!("the cluster does not hear of {}", lost.join(", ")));
            }
            Verdict::no("AsExpected", "")
        }
    }
}

/// What brokers could not read when their files changed, each thing once, with the brokers that say it.
fn not_reloaded(observed: &Observed) -> Option<String> {
    let mut brokers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (pod, reload) in &observed.reloads {
        for what in &reload.failed {
            brokers.entry(what).or_default().push(pod);
        }
    }
    let words: Vec<String> = brokers
        .iter()
        .map(|(what, pods)| format!("what was before stays in force on {}: {what}", pods.join(", ")))
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn failover_ready(observed: &Observed) -> Verdict {
    match &observed.cluster {
        Ok(cluster) if cluster.failover_ready => Verdict::yes(
            "InSync",
            format!("all {} shards have their full set of in-sync replicas", cluster.shards.total),
        ),
        Ok(cluster) if cluster.failover_reason.is_empty() => Verdict::no("NotInSync", "the brokers give no reason"),
        Ok(cluster) => Verdict::no("NotInSync", cluster.failover_reason.clone()),
        Err(reason) => Verdict::unknown("BrokersSilent", reason.clone()),
    }
}

fn config_applied(broker: &MqttBroker, observed: &Observed, outcome: &Outcome) -> Verdict {
    let (plan, config_sha256) = match outcome {
        Outcome::Applied { plan, config_sha256, .. } => (plan, config_sha256),
        Outcome::Paused => return Verdict::unknown("Paused", "not looked at while paused"),
        Outcome::Invalid(_) => {
            return Verdict::no("Invalid", "the resource is wrong and was not applied");
        }
        Outcome::Failed { reason, message } => return Verdict::no(reason, message.clone()),
    };
    let current = observed
        .pods
        .iter()
        .filter(|(_, pod)| pod.annotations().get(RESTART_HASH_ANNOTATION) == Some(&plan.restart_hash))
        .filter(|(_, pod)| is_ready(pod))
        .count();
    let wanted = usize::try_from(broker.spec.replicas).unwrap_or(0);
    // One that can't say what it read is not waited for.
    let behind = |reload: &&Reload| reload.config_sha256.as_ref().is_some_and(|read| !config_sha256.contains(read));
    let behind = observed.reloads.values().filter(behind).count();
    if current >= wanted && behind > 0 {
        let message = format!(
            "{behind} of {wanted} brokers have not read their new settings yet, nodes bring them within minutes"
        );
        return Verdict::no(RELOADING, message);
    }
    if current >= wanted {
        return Verdict::yes("AllCurrent", "all brokers run what the resource says");
    }
    Verdict::no("Outstanding", format!("{current} of {wanted} brokers run what the resource says"))
}

fn paused(broker: &MqttBroker) -> Verdict {
    if broker.annotations().get(PAUSED_ANNOTATION).is_some_and(|value| value == "true") {
        return Verdict::yes("Annotated", format!("remove the annotation {PAUSED_ANNOTATION} to go on"));
    }
    Verdict::no("NotAnnotated", "")
}

/// What to tell of a changed status.
pub(super) fn news(before: Option<&MqttBrokerStatus>, after: &MqttBrokerStatus) -> Vec<Event> {
    let mut events = Vec::new();
    if after.initialised && !before.is_some_and(|status| status.initialised) {
        events.push(Event::normal("Founded", "the cluster is founded"));
    }
    for type_ in [condition::AVAILABLE, condition::DEGRADED, condition::FAILOVER_READY] {
        let was = before.and_then(|status| status.condition(type_));
        let Some(is) = after.condition(type_) else {
            continue;
        };
        // Another trouble than before is news, too.
        let same_trouble = type_ != condition::DEGRADED || was.map(|was| &was.reason) == Some(&is.reason);
        if was.map(|was| was.status.as_str()) == Some(is.status.as_str()) && same_trouble {
            continue;
        }
        let first = was.is_none();
        let event = match (type_, is.status.as_str()) {
            (condition::AVAILABLE, "True") => Event::normal("Available", is.message.clone()),
            (condition::AVAILABLE, _) if !first => Event::warning("Unavailable", is.message.clone()),
            (condition::DEGRADED, "True") => Event::warning("Degraded", is.message.clone()),
            (condition::DEGRADED, _) if !first => Event::normal("Recovered", "nothing is wrong any more"),
            (condition::FAILOVER_READY, "True") => Event::normal("FailoverReady", is.message.clone()),
            (condition::FAILOVER_READY, "False") if !first => Event::warning("FailoverNotReady", is.message.clone()),
            _ => continue,
        };
        events.push(event);
    }
    events
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
