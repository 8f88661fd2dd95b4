//! Which pod may be replaced now, if any.
//!
//! The StatefulSet replaces nothing by itself (`OnDelete`). One pod at a time, highest ordinal first, those that lead more
//! than their share of shards last, and only while the cluster can lose one. A new pod that doesn't become ready stops the roll; a pod that is both outdated and not
//! ready is replaced at once, so that correcting the resource is enough to go on.
//! Deliberately absent: what makes a pod outdated. That is the restart hash, made in `build`.

use crate::broker_client::Cluster;

/// A pod, as far as rolling goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its ordinal.
    pub ordinal: i32,
    /// Its version: a pod that has changed since it was looked at is left alone.
    pub version: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it was made from what is wanted now.
    pub current: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Shards that its broker leads.
    pub leads: u32,
}

/// What the decision is made from.
#[derive(Clone, Debug)]
pub struct RolloutView<'a> {
    /// The pods, in any order.
    pub pods: &'a [PodView],
    /// Pods there should be.
    pub replicas: i32,
    /// Whether the StatefulSet's controller has seen the template that is wanted.
    pub template_seen: bool,
    /// What is the matter with a Secret without which no new pod would start.
    pub missing: Option<&'a str>,
    /// The cluster, or why it can't be asked.
    pub cluster: Result<&'a Cluster, &'a str>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutStep {
    /// Every pod is there, ready and current.
    Settled,
    /// Replace this pod.
    Replace {
        /// Its name.
        pod: String,
        /// Its version.
        version: String,
    },
    /// Nothing can be done but wait.
    Wait {
        /// For what, in words.
        message: String,
    },
}

/// Decides the next step; following it until [`RolloutStep::Settled`] leaves only current pods.
pub fn decide(view: &RolloutView<'_>) -> RolloutStep {
    let wait = |message: String| RolloutStep::Wait { message };
    let mut pods: Vec<&PodView> = view.pods.iter().filter(|pod| pod.ordinal < view.replicas).collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.ordinal));

    if let Some(pod) = pods.iter().find(|pod| pod.terminating) {
        return wait(format!("waiting for {} to end and start again", pod.name));
    }
    if let Some(missing) = view.missing {
        return wait(missing.to_owned());
    }
    let broken = pods.iter().find(|pod| !pod.current && !pod.ready);
    if let (Some(pod), true) = (broken, view.template_seen) {
        return RolloutStep::Replace { pod: pod.name.clone(), version: pod.version.clone() };
    }
    let there = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    if there < view.replicas {
        return wait(format!("waiting for {} of {} pods to be made", view.replicas - there, view.replicas));
    }
    if let Some(pod) = pods.iter().find(|pod| !pod.ready) {
        return wait(format!("waiting for {} to become ready", pod.name));
    }
    let outdated: Vec<&PodView> = pods.iter().copied().filter(|pod| !pod.current).collect();
    let Some(pod) = outdated.iter().find(|pod| !leads_more_than_its_share(pod, &pods)).or(outdated.first()) else {
        return RolloutStep::Settled;
    };
    if !view.template_seen {
        return wait("waiting for the StatefulSet to take the new template".to_owned());
    }
    match view.cluster {
        Err(reason) => wait(format!("{} is to be replaced, but {reason}", pod.name)),
        Ok(cluster) => match unfit_to_lose_one(cluster, view.replicas) {
            Some(reason) => wait(format!("{} is to be replaced, but {reason}", pod.name)),
            None => RolloutStep::Replace { pod: pod.name.clone(), version: pod.version.clone() },
        },
    }
}

/// Whether its end would have more shards look for a leader than that of another.
fn leads_more_than_its_share(pod: &PodView, pods: &[&PodView]) -> bool {
    let total: u32 = pods.iter().map(|pod| pod.leads).sum();
    let share = total.div_ceil(u32::try_from(pods.len()).unwrap_or(u32::MAX).max(1));
    pod.leads > share
}

/// Why the cluster can't do without one broker for a moment. Below three brokers it never can; then it is enough that
/// everything is where it should be, else one or two brokers could never be upgraded.
fn unfit_to_lose_one(cluster: &Cluster, replicas: i32) -> Option<String> {
    if cluster.shards.under_replicated > 0 || cluster.shards.without_leader > 0 {
        return Some(format!(
            "of {} shards {} lack a replica and {} a leader",
            cluster.shards.total, cluster.shards.under_replicated, cluster.shards.without_leader
        ));
    }
    let keeps_one_copy = cluster.replication_factor == Some(1) || replicas < 3;
    if !cluster.failover_ready && !keeps_one_copy {
        return Some(format!("failover is not ready: {}", cluster.failover_reason));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker_client::Shards;

    fn pod(ordinal: i32, marks: &str) -> PodView {
        PodView {
            name: format!("mqtt-{ordinal}"),
            ordinal,
            version: format!("version-{ordinal}"),
            ready: marks.contains('r'),
            current: marks.contains('c'),
            terminating: marks.contains('t'),
            leads: if marks.contains('l') { 14 } else { 1 },
        }
    }

    fn healthy() -> Cluster {
        Cluster {
            initialised: true,
            failover_ready: true,
            replication_factor: Some(3),
            shards: Shards { total: 16, ..Shards::default() },
            ..Cluster::default()
        }
    }

    fn decide_for(marks: &[&str], replicas: i32, cluster: Result<&Cluster, &str>) -> RolloutStep {
        let pods: Vec<PodView> = marks.iter().zip(0..).map(|(marks, ordinal)| pod(ordinal, marks)).collect();
        decide(&RolloutView { pods: &pods, replicas, template_seen: true, missing: None, cluster })
    }

    #[test]
    fn each_situation_has_its_step() {
        let healthy = healthy();
        let unready =
            Cluster { failover_ready: false, failover_reason: "mqtt-1 catches up".to_owned(), ..healthy.clone() };
        let single = Cluster { failover_ready: false, replication_factor: Some(1), ..healthy.clone() };
        let lacking =
            Cluster { shards: Shards { total: 16, under_replicated: 2, without_leader: 1 }, ..healthy.clone() };
        let replace = |ordinal: i32| RolloutStep::Replace {
            pod: format!("mqtt-{ordinal}"),
            version: format!("version-{ordinal}"),
        };
        let wait = |message: &str| RolloutStep::Wait { message: message.to_owned() };
        // r: ready, c: current, t: terminating, l: leads most shards; one string per ordinal.
        type Row<'a> = (&'a str, &'a [&'a str], i32, Result<&'a Cluster, &'a str>, RolloutStep);
        let rows: Vec<Row<'_>> = vec![
            ("at rest", &["rc", "rc", "rc"], 3, Ok(&healthy), RolloutStep::Settled),
            ("at rest while brokers are silent", &["rc", "rc", "rc"], 3, Err("silent"), RolloutStep::Settled),
            ("the highest first", &["r", "r", "r"], 3, Ok(&healthy), replace(2)),
            ("but one that leads most shards last", &["r", "r", "rl"], 3, Ok(&healthy), replace(1)),
            ("and at last that one, too", &["rc", "rc", "rl"], 3, Ok(&healthy), replace(2)),
            ("then it ends", &["r", "r", "rt"], 3, Ok(&healthy), wait("waiting for mqtt-2 to end and start again")),
            ("then it is not there", &["r", "r"], 3, Ok(&healthy), wait("waiting for 1 of 3 pods to be made")),
            ("then it starts", &["r", "r", "c"], 3, Ok(&healthy), wait("waiting for mqtt-2 to become ready")),
            (
                "then it catches up",
                &["r", "r", "rc"],
                3,
                Ok(&unready),
                wait("mqtt-1 is to be replaced, but failover is not ready: mqtt-1 catches up"),
            ),
            ("then the next", &["r", "r", "rc"], 3, Ok(&healthy), replace(1)),
            (
                "a broken new pod stops the roll",
                &["r", "r", "c"],
                3,
                Ok(&unready),
                wait("waiting for mqtt-2 to become ready"),
            ),
            ("a broken pod is replaced once the resource is corrected", &["r", "r", ""], 3, Ok(&unready), replace(2)),
            ("and while brokers are silent", &["", "", ""], 3, Err("silent"), replace(2)),
            (
                "shards lack replicas",
                &["r", "r", "rc"],
                3,
                Ok(&lacking),
                wait("mqtt-1 is to be replaced, but of 16 shards 2 lack a replica and 1 a leader"),
            ),
            (
                "brokers are silent",
                &["r", "r", "r"],
                3,
                Err("they are silent"),
                wait("mqtt-2 is to be replaced, but they are silent"),
            ),
            ("a single broker is never fit for failover", &["r"], 1, Ok(&single), replace(0)),
            ("nor are copies of one", &["r", "r", "r"], 3, Ok(&single), replace(2)),
            ("a pod that is to go is left alone", &["rc", "rc", "rc", "r"], 3, Ok(&healthy), RolloutStep::Settled),
        ];
        for (what, marks, replicas, cluster, step) in rows {
            assert_eq!(decide_for(marks, replicas, cluster), step, "{what}");
        }
    }

    #[test]
    fn no_pod_is_deleted_before_its_successor_would_be_the_right_one() {
        let healthy = healthy();
        for marks in ["r", ""] {
            let pods = [pod(0, marks)];
            let step = decide(&RolloutView {
                pods: &pods,
                replicas: 1,
                template_seen: false,
                missing: None,
                cluster: Ok(&healthy),
            });
            assert!(matches!(step, RolloutStep::Wait { .. }), "{step:?}");
        }
    }

    #[test]
    fn no_pod_is_replaced_by_one_that_could_not_start() {
        let healthy = healthy();
        let missing = Some("Secret certificate is missing");
        for marks in ["r", ""] {
            let pods = [pod(0, marks)];
            let view = RolloutView { pods: &pods, replicas: 1, template_seen: true, missing, cluster: Ok(&healthy) };
            assert_eq!(decide(&view), RolloutStep::Wait { message: "Secret certificate is missing".to_owned() });
        }
    }
}
