//! The truth table of the conditions, and that a status of something at rest is equal to the one before it.

use std::sync::Arc;

use super::*;
use crate::{
    api::condition,
    broker_client::{Cluster, Node, Reload, Storage, StorageState},
    fixtures::{Draft, broker, credentials, healthy_cluster, nothing, now, pod, settings, valid},
    plan::{Act, Waiting, plan},
};

/// What the brokers are to have read.
const CONFIG: [&str; 2] = ["founding", "founded"];
const SPEC: &str = "{image: i, replicas: 3}";

/// Three brokers at rest, to be changed by a test.
#[derive(Debug)]
struct Situation {
    broker: MqttBroker,
    observed: Observed,
    outcome: Outcome,
}

impl Situation {
    fn at_rest() -> Self {
        let mut draft = Draft::of(SPEC);
        draft.plan.waiting = None;
        let resources = Box::new(draft.applied());
        let plan = draft.plan;
        let mut observed = nothing();
        observed.pods = (0..3).map(|ordinal| (ordinal, pod(ordinal, true, &plan.restart_hash))).collect();
        observed.cluster = Ok(healthy_cluster(3));
        Self {
            broker: (*broker(SPEC)).clone(),
            observed,
            outcome: Outcome::Applied {
                plan,
                resources,
                config_sha256: Box::new(CONFIG.map(str::to_owned)),
                act_failure: None,
            },
        }
    }

    fn status(&self) -> MqttBrokerStatus {
        status_of(&self.broker, &self.observed, &self.outcome, &settings(), now())
    }

    /// The conditions as `A` for True, `a` for False, `?` for Unknown, in their order.
    fn letters(&self) -> String {
        let letters = ['A', 'P', 'D', 'F', 'C', 'H'];
        self.status()
            .conditions
            .iter()
            .zip(letters)
            .map(|(condition, letter)| match condition.status.as_str() {
                "True" => letter,
                "False" => letter.to_ascii_lowercase(),
                _ => '?',
            })
            .collect()
    }

    fn waiting(mut self, reason: &'static str) -> Self {
        if let Outcome::Applied { plan, .. } = &mut self.outcome {
            plan.waiting = Some(Waiting { reason, message: "waiting".to_owned() });
        }
        self
    }

    fn ready(mut self, ready: [bool; 3]) -> Self {
        let Outcome::Applied { plan, .. } = &self.outcome else { return self };
        self.observed.pods =
            (0..3).zip(ready).map(|(ordinal, ready)| (ordinal, pod(ordinal, ready, &plan.restart_hash))).collect();
        self
    }

    fn cluster(mut self, change: impl Fn(&mut Cluster)) -> Self {
        let mut cluster = healthy_cluster(3);
        change(&mut cluster);
        self.observed.cluster = Ok(cluster);
        self
    }

    fn missing(mut self, secret: &str) -> Self {
        self.observed.missing_secrets.push(secret.to_owned());
        self
    }

    /// What each broker has read last, and could not take.
    fn reloads(mut self, read: [&str; 3], failed: &[&str]) -> Self {
        let reloads = (0..).zip(read).map(|(ordinal, read)| {
            let failed = failed.iter().map(|what| (*what).to_owned()).collect();
            (format!("mqtt-{ordinal}"), Reload { config_sha256: Some(read.to_owned()), failed })
        });
        self.observed.reloads = reloads.collect();
        self
    }

    /// What one broker says of its volume.
    fn storage(mut self, pod: &str, state: StorageState, reason: &str) -> Self {
        let storage = Storage { state, reason: reason.to_owned() };
        self.observed.nodes.insert(pod.to_owned(), Node { storage });
        self
    }

    fn silent(mut self) -> Self {
        self.observed.cluster = Err("they are silent".to_owned());
        self
    }

    fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }
}

/// Available, Progressing, Degraded, FailoverReady, ConfigApplied, paused (H, hands off): capital for True.
#[test]
fn each_situation_has_its_conditions() {
    let rest = Situation::at_rest;
    let invalid = || Outcome::Invalid(crate::validate::Invalid(Vec::new()));
    let failed = || Outcome::Failed { reason: "NameTaken", message: "taken".to_owned() };
    let rows = [
        ("at rest", rest(), "ApdFCh"),
        ("scaling", rest().waiting("Scaling"), "APdFCh"),
        ("no pod is ready yet", rest().waiting("Starting").ready([false; 3]).silent(), "aPd?ch"),
        ("one of three is ready", rest().waiting("Starting").ready([true, false, false]), "aPdFch"),
        ("two of three are ready", rest().waiting("Starting").ready([true, true, false]), "APdFch"),
        ("a shard has no leader", rest().cluster(|cluster| cluster.shards.without_leader = 1), "apdFCh"),
        ("a replica is behind", rest().cluster(|cluster| cluster.failover_ready = false), "ApdfCh"),
        ("a member is lost", rest().cluster(|cluster| cluster.members[1].state = MemberState::Unreachable), "ApDFCh"),
        ("brokers are ready but silent", rest().silent(), "ApD?Ch"),
        ("a Secret is missing", rest().waiting("SecretMissing").missing("Secret s is missing"), "APDFCh"),
        ("all have read their settings", rest().reloads(["founding", "founded", "founded"], &[]), "ApdFCh"),
        ("one has not read them yet", rest().reloads(["founded", "founded", "old"], &[]), "ApdFch"),
        ("a new password file makes no sense", rest().reloads(["founded"; 3], &["line 3"]), "ApDFCh"),
        ("a volume is full", rest().storage("mqtt-1", StorageState::Full, ""), "ApDFCh"),
        (
            "its broker is not ready for it",
            rest().ready([true, true, false]).storage("mqtt-2", StorageState::Full, ""),
            "ApDFch",
        ),
        ("a volume has failed", rest().storage("mqtt-1", StorageState::Failed, "sync failed"), "ApDFCh"),
        ("volumes are well", rest().storage("mqtt-1", StorageState::Healthy, ""), "ApdFCh"),
        ("the resource is wrong", rest().outcome(invalid()), "ApDFch"),
        ("a name is taken", rest().outcome(failed()), "APDFch"),
        ("paused", rest().outcome(Outcome::Paused), "ApdF?h"),
    ];
    for (what, situation, letters) in rows {
        assert_eq!(situation.letters(), letters, "{what}");
    }
}

#[test]
fn what_brokers_could_not_read_is_told_once() {
    let status = Situation::at_rest().reloads(["founded"; 3], &["auth.password_file: line 3"]).status();
    let degraded = status.condition(condition::DEGRADED).unwrap();
    assert_eq!(degraded.reason, "ReloadFailed");
    assert_eq!(
        degraded.message,
        "what was before stays in force on mqtt-0, mqtt-1, mqtt-2: auth.password_file: line 3"
    );
}

#[test]
fn a_volume_that_takes_nothing_is_told_with_its_claim_and_the_remedy() {
    let situation = Situation::at_rest().storage("mqtt-1", StorageState::Full, "");
    let full = situation.status();
    let degraded = full.condition(condition::DEGRADED).unwrap();
    assert_eq!(degraded.reason, "VolumeFull");
    assert_eq!(
        degraded.message,
        "the volume of mqtt-1 is full (claim data-mqtt-1), what would be stored is refused: raise persistence.size"
    );
    let well = situation.storage("mqtt-1", StorageState::Healthy, "").status();
    assert_eq!(well.condition(condition::DEGRADED).unwrap().reason, "AsExpected");
    assert_eq!(news(Some(&well), &full).first().map(|event| event.reason), Some("Degraded"));
    assert_eq!(news(Some(&full), &well).first().map(|event| event.reason), Some("Recovered"));

    let both = Situation::at_rest().storage("mqtt-0", StorageState::Full, "").storage(
        "mqtt-2",
        StorageState::Failed,
        "sync failed: EIO",
    );
    let both = both.status();
    let degraded = both.condition(condition::DEGRADED).unwrap();
    assert_eq!(degraded.reason, "VolumeFull");
    let failed = "the volume of mqtt-2 has failed (claim data-mqtt-2), nothing is stored on it any more: see to it, then delete the pod: sync failed: EIO";
    assert!(degraded.message.ends_with(failed), "{}", degraded.message);
}

#[test]
fn a_status_at_rest_is_equal_to_the_one_before() {
    let mut situation = Situation::at_rest();
    let first = situation.status();
    // Through the API server and back, and an hour later.
    situation.broker.status = Some(serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap());
    let later = now() + jiff::SignedDuration::from_hours(1);
    let again = status_of(&situation.broker, &situation.observed, &situation.outcome, &settings(), later);
    assert_eq!(again, first);
    assert!(news(Some(&first), &again).is_empty());
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut situation = Situation::at_rest();
    situation.broker.status = Some(situation.status());
    let situation = situation.cluster(|cluster| cluster.failover_ready = false);
    let later = now() + jiff::SignedDuration::from_hours(1);
    let status = status_of(&situation.broker, &situation.observed, &situation.outcome, &settings(), later);
    let since = |type_: &str| status.condition(type_).unwrap().last_transition_time.0;
    assert_eq!(since(condition::AVAILABLE), now());
    assert_eq!(since(condition::FAILOVER_READY), later);
}

#[test]
fn numbers_come_from_the_pods_and_the_brokers() {
    let status = Situation::at_rest().ready([true, true, false]).status();
    assert_eq!((status.replicas, status.ready_replicas, status.members), (3, 2, Some(3)));
    assert_eq!((status.connections, status.sessions, status.shards_under_replicated), (Some(12), Some(4), Some(0)));
    assert_eq!(status.version.as_deref(), Some("0.1.0"));
    assert_eq!(status.endpoint.as_deref(), Some("mqtt.ns.svc.cluster.local:1883"));
    assert_eq!(
        status.selector.as_deref(),
        Some(
            "app.kubernetes.io/instance=mqtt,app.kubernetes.io/managed-by=mqtt-operator,app.kubernetes.io/name=mqtt-broker"
        )
    );
}

#[test]
fn founded_stays_founded() {
    let mut situation = Situation::at_rest();
    situation.broker.status = Some(situation.status());
    assert!(situation.silent().status().initialised);
}

#[test]
fn the_right_to_found_is_taken_back_after_the_status_says_founded_and_never_returns() {
    let mut situation = Situation::at_rest();
    let valid = valid(SPEC);
    let founding = |situation: &Situation| {
        plan(&valid, &situation.observed, situation.broker.status.as_ref(), &credentials(), &settings()).founding
    };
    assert!(founding(&situation), "the brokers say founded, but that is not stored yet");
    situation.broker.status = Some(situation.status());
    assert!(!founding(&situation));

    let mut draft = Draft::of(SPEC);
    draft.plan.founding = false;
    situation.observed.config_map = Some(Arc::new(draft.build().config_map));
    situation.broker.status = None;
    assert!(!founding(&situation), "a line that has left never comes back");
    assert_eq!(draft.plan.act, Act::None);
}

#[test]
fn changes_are_told_once() {
    let situation = Situation::at_rest();
    let good = situation.status();
    let reasons = |before: Option<&MqttBrokerStatus>, after: &MqttBrokerStatus| {
        news(before, after).into_iter().map(|event| event.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(None, &good), ["Founded", "Available", "FailoverReady"]);
    let bad = situation.ready([false; 3]).cluster(|cluster| cluster.failover_ready = false).status();
    assert_eq!(reasons(Some(&good), &bad), ["Unavailable", "FailoverNotReady"]);
    assert_eq!(reasons(Some(&bad), &good), ["Available", "FailoverReady"]);
}

mod properties {
    //! What no status may ever say, whatever is observed.

    use proptest::prelude::*;

    use super::*;

    /// Any observation: which pods are ready and current, what the brokers say, what is waited for.
    fn situations() -> impl Strategy<Value = Situation> {
        let pods = proptest::collection::vec((any::<bool>(), any::<bool>()), 0..=4);
        let cluster = proptest::option::of((any::<bool>(), 0..3_u32, 0..3_u32, any::<bool>()));
        (pods, cluster, any::<bool>(), any::<bool>(), 0..5_u8).prop_map(|(pods, cluster, waits, lacks, ended)| {
            let mut situation = Situation::at_rest();
            if waits {
                situation = situation.waiting("Scaling");
            }
            if lacks {
                situation = situation.missing("Secret s is missing");
            }
            let Outcome::Applied { plan, .. } = &situation.outcome else { unreachable!() };
            let hash = plan.restart_hash.clone();
            situation.observed.pods = (0..)
                .zip(pods)
                .map(|(ordinal, (ready, current))| (ordinal, pod(ordinal, ready, if current { &hash } else { "old" })))
                .collect();
            situation = match cluster {
                None => situation.silent(),
                Some((failover_ready, without_leader, under_replicated, reachable)) => situation.cluster(|cluster| {
                    cluster.failover_ready = failover_ready;
                    cluster.shards.without_leader = without_leader;
                    cluster.shards.under_replicated = under_replicated;
                    if !reachable {
                        cluster.members[0].state = MemberState::Unreachable;
                    }
                }),
            };
            match ended {
                0 => situation.outcome(Outcome::Paused),
                1 => situation.outcome(Outcome::Invalid(crate::validate::Invalid(Vec::new()))),
                2 => situation.outcome(Outcome::Failed { reason: "NameTaken", message: "taken".to_owned() }),
                _ => situation,
            }
        })
    }

    proptest! {
        #[test]
        fn nothing_is_claimed_that_was_not_seen(situation in situations()) {
            let status = situation.status();
            let observed = &situation.observed;
            let ready = observed.pods.iter().filter(|(_, pod)| is_ready(pod)).count();
            let cluster = observed.cluster.as_ref().ok();
            let types: Vec<&str> = status.conditions.iter().map(|one| one.type_.as_str()).collect();
            prop_assert_eq!(types, condition::ALL);

            if status.is_true(condition::AVAILABLE) {
                prop_assert!(ready >= 2 && cluster.is_none_or(|cluster| cluster.shards.without_leader == 0));
            }
            if status.is_true(condition::FAILOVER_READY) {
                prop_assert!(cluster.is_some_and(|cluster| cluster.failover_ready));
            }
            let applied = matches!(situation.outcome, Outcome::Applied { .. });
            if status.is_true(condition::CONFIG_APPLIED) {
                prop_assert!(applied && ready >= 3);
            }
            if !status.is_true(condition::DEGRADED) {
                prop_assert!(observed.missing_secrets.is_empty() || !applied);
                let all_reachable = |cluster: &Cluster| {
                    cluster.members.iter().all(|member| member.state != MemberState::Unreachable)
                };
                prop_assert!(cluster.is_none_or(all_reachable));
            }
            for one in &status.conditions {
                let quiet = ["AsExpected", "NotAnnotated", "Invalid"].contains(&one.reason.as_str());
                prop_assert!(quiet || !one.message.is_empty(), "{} says nothing", one.type_);
            }
        }

        #[test]
        fn what_was_said_is_not_said_again(situation in situations()) {
            let mut situation = situation;
            let first = situation.status();
            situation.broker.status = Some(serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap());
            prop_assert_eq!(situation.status(), first);
        }
    }
}
