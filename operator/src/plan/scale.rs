//! How many pods there may be now, and which member has to go first.
//!
//! Out: pods first, they join by themselves. In: one ordinal at a time, highest first; its member leaves, which
//! moves its shards, and only when it is gone from the cluster does the StatefulSet shrink.
//! Deliberately absent: force. A member that can't leave stops the scale-in, and the status says why.

use crate::{
    broker_client::{Cluster, MemberState},
    names::Names,
};

/// What the decision is made from.
#[derive(Clone, Debug)]
pub struct ScaleView<'a> {
    /// Names of the broker.
    pub names: &'a Names,
    /// Replicas asked for.
    pub desired: i32,
    /// Replicas of the StatefulSet; none before it exists.
    pub present: Option<i32>,
    /// Ordinal of the member that was last asked to leave, until its pod is gone or it was kept.
    pub leaving: Option<i32>,
    /// Ordinals whose volume claim is there but whose pod is not.
    pub idle_claims: &'a [i32],
    /// The cluster, or why it can't be asked.
    pub cluster: Result<&'a Cluster, &'a str>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScaleStep {
    /// As many pods as asked for, and no member too many.
    Settled,
    /// More pods; nothing else is to be done first.
    Out {
        /// The StatefulSet's new replicas.
        replicas: i32,
    },
    /// One pod fewer: its member is gone.
    Shrink {
        /// The StatefulSet's new replicas.
        replicas: i32,
    },
    /// Have this member leave.
    Leave {
        /// Its name.
        member: String,
    },
    /// Take back the leave of a member that is wanted again.
    CancelLeave {
        /// Its name.
        member: String,
    },
    /// The volume claim of a member that left; a broker that comes back with it would be one with false memories.
    DropClaim {
        /// Its ordinal.
        ordinal: i32,
    },
    /// Nothing can be done but wait.
    Wait {
        /// For what, in words.
        message: String,
    },
}

/// Decides the next step; following it until [`ScaleStep::Settled`] ends at the desired replicas.
pub fn decide(view: &ScaleView<'_>) -> ScaleStep {
    let names = view.names;
    let Some(present) = view.present else {
        return ScaleStep::Out { replicas: view.desired };
    };
    let members = || view.cluster.into_iter().flat_map(|cluster| &cluster.members);
    let is_member = |ordinal: i32| members().any(|member| names.ordinal(&member.name) == Some(ordinal));

    let wanted_but_leaving = members().find(|member| {
        member.state == MemberState::Leaving
            && names.ordinal(&member.name).is_some_and(|ordinal| ordinal < view.desired)
    });
    if let Some(member) = wanted_but_leaving {
        return ScaleStep::CancelLeave { member: member.name.clone() };
    }

    // A broker that has left is not taken back by asking for more of them: its pod goes, and a new one comes.
    if view.leaving == Some(present - 1) {
        let name = names.pod(present - 1);
        match view.cluster {
            Ok(_) if !is_member(present - 1) => return ScaleStep::Shrink { replicas: present - 1 },
            Err(reason) if view.desired >= present => {
                return ScaleStep::Wait { message: format!("waiting to hear whether {name} has left, but {reason}") };
            }
            _ => {}
        }
    }

    // Claims beyond the pods: those of members that left are dropped before their ordinals are used again.
    let idle_claim = view.idle_claims.iter().copied().filter(|ordinal| *ordinal >= present).max();
    if let (Some(ordinal), Ok(cluster)) = (idle_claim, view.cluster)
        && cluster.initialised
        && !is_member(ordinal)
    {
        return ScaleStep::DropClaim { ordinal };
    }

    if view.desired > present {
        return ScaleStep::Out { replicas: view.desired };
    }

    let highest_member = members().filter_map(|member| names.ordinal(&member.name)).max();
    let highest = highest_member.unwrap_or(-1).max(present - 1);
    if highest < view.desired {
        return ScaleStep::Settled;
    }
    let name = names.pod(highest);
    let cluster = match view.cluster {
        Ok(cluster) => cluster,
        Err(reason) => {
            return ScaleStep::Wait {
                message: format!("{name} must leave the cluster before its pod goes, but {reason}"),
            };
        }
    };
    match cluster.members.iter().find(|member| member.name == name) {
        // Never founded or never joined: nothing is on it.
        None => ScaleStep::Shrink { replicas: highest },
        Some(member) if member.state == MemberState::Leaving => ScaleStep::Wait {
            message: match member.replicas {
                0 => format!("waiting for {name} to be out of the cluster"),
                1 => format!("waiting for {name} to hand over its last shard replica"),
                replicas => format!("waiting for {name} to hand over {replicas} shard replicas"),
            },
        },
        Some(_) if cluster.shards.without_leader > 0 => ScaleStep::Wait {
            message: format!(
                "waiting for {} of {} shards to have a leader before {name} leaves",
                cluster.shards.without_leader, cluster.shards.total
            ),
        },
        Some(member) => ScaleStep::Leave { member: member.name.clone() },
    }
}

/// The member to be remembered as leaving after this decision.
pub fn leaving(view: &ScaleView<'_>, step: &ScaleStep) -> Option<i32> {
    let names = view.names;
    if let ScaleStep::Leave { member } = step {
        return names.ordinal(member);
    }
    let Ok(cluster) = view.cluster else {
        return view.leaving;
    };
    let seen = cluster.members.iter().filter(|member| member.state == MemberState::Leaving);
    if let Some(ordinal) = seen.filter_map(|member| names.ordinal(&member.name)).max() {
        return Some(ordinal);
    }
    view.leaving.filter(|ordinal| {
        let has_pod = view.present.is_some_and(|present| *ordinal < present);
        let was_kept = cluster.members.iter().any(|member| names.ordinal(&member.name) == Some(*ordinal));
        has_pod && !was_kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker_client::{Member, Shards};

    fn names() -> Names {
        Names { broker: "mqtt".to_owned(), namespace: "ns".to_owned() }
    }

    fn cluster(members: &[(i32, MemberState, u32)]) -> Cluster {
        Cluster {
            initialised: true,
            members: members
                .iter()
                .map(|(ordinal, state, replicas)| Member {
                    name: format!("mqtt-{ordinal}"),
                    state: *state,
                    replicas: *replicas,
                    ..Member::default()
                })
                .collect(),
            shards: Shards { total: 16, ..Shards::default() },
            ..Cluster::default()
        }
    }

    fn active(count: i32) -> Vec<(i32, MemberState, u32)> {
        (0..count).map(|ordinal| (ordinal, MemberState::Active, 16)).collect()
    }

    #[test]
    fn each_situation_has_its_step() {
        use MemberState::{Active, Leaving, Unreachable};
        let mut with_leaving_4 = active(5);
        with_leaving_4[4] = (4, Leaving, 7);
        let mut with_empty_4 = active(5);
        with_empty_4[4] = (4, Leaving, 0);
        let mut with_dead_4 = active(5);
        with_dead_4[4] = (4, Unreachable, 7);
        let mut with_leaving_1 = active(3);
        with_leaving_1[1] = (1, Leaving, 7);

        let leave = |ordinal: i32| ScaleStep::Leave { member: format!("mqtt-{ordinal}") };
        let wait = |message: &str| ScaleStep::Wait { message: message.to_owned() };
        // (what it shows, desired, present, idle claims, members or why unknown, step)
        type Row<'a> = (&'a str, i32, Option<i32>, &'a [i32], Result<Vec<(i32, MemberState, u32)>, &'a str>, ScaleStep);
        let rows: Vec<Row<'_>> = vec![
            ("nothing there yet", 3, None, &[], Err("no broker is running"), ScaleStep::Out { replicas: 3 }),
            ("at rest", 3, Some(3), &[], Ok(active(3)), ScaleStep::Settled),
            ("at rest while brokers are silent", 3, Some(3), &[], Err("silent"), ScaleStep::Settled),
            ("out", 5, Some(3), &[], Ok(active(3)), ScaleStep::Out { replicas: 5 }),
            ("out while brokers are silent", 5, Some(3), &[], Err("silent"), ScaleStep::Out { replicas: 5 }),
            (
                "out over the claim of one that left",
                5,
                Some(3),
                &[4, 3],
                Ok(active(3)),
                ScaleStep::DropClaim { ordinal: 4 },
            ),
            (
                "a claim whose member is still there is kept",
                5,
                Some(3),
                &[3],
                Ok(active(4)),
                ScaleStep::Out { replicas: 5 },
            ),
            ("claims are kept while brokers are silent", 3, Some(3), &[3], Err("silent"), ScaleStep::Settled),
            ("in: the highest leaves first", 3, Some(5), &[], Ok(active(5)), leave(4)),
            (
                "in: it hands over",
                3,
                Some(5),
                &[],
                Ok(with_leaving_4.clone()),
                wait("waiting for mqtt-4 to hand over 7 shard replicas"),
            ),
            (
                "in: it has handed over",
                3,
                Some(5),
                &[],
                Ok(with_empty_4),
                wait("waiting for mqtt-4 to be out of the cluster"),
            ),
            ("in: it is gone", 3, Some(5), &[], Ok(active(4)), ScaleStep::Shrink { replicas: 4 }),
            ("in: then the next", 3, Some(4), &[], Ok(active(4)), leave(3)),
            (
                "in: the claim of the one that left",
                3,
                Some(4),
                &[4],
                Ok(active(4)),
                ScaleStep::DropClaim { ordinal: 4 },
            ),
            ("in: the last shrink", 3, Some(4), &[], Ok(active(3)), ScaleStep::Shrink { replicas: 3 }),
            ("in: a dead one leaves too", 3, Some(5), &[], Ok(with_dead_4), leave(4)),
            (
                "in: several that never joined go one at a time",
                1,
                Some(3),
                &[],
                Ok(vec![(0, Active, 16)]),
                ScaleStep::Shrink { replicas: 2 },
            ),
            (
                "in: brokers are silent",
                3,
                Some(5),
                &[],
                Err("they are silent"),
                wait("mqtt-4 must leave the cluster before its pod goes, but they are silent"),
            ),
            (
                "in, then out again",
                5,
                Some(5),
                &[],
                Ok(with_leaving_4),
                ScaleStep::CancelLeave { member: "mqtt-4".to_owned() },
            ),
            (
                "a leave that nobody here asked for",
                3,
                Some(3),
                &[],
                Ok(with_leaving_1),
                ScaleStep::CancelLeave { member: "mqtt-1".to_owned() },
            ),
            ("a member without a pod", 3, Some(3), &[], Ok(active(4)), leave(3)),
        ];
        let names = names();
        for (what, desired, present, idle_claims, members, step) in rows {
            let members = members.map(|members| cluster(&members));
            let view = ScaleView {
                names: &names,
                desired,
                present,
                leaving: None,
                idle_claims,
                cluster: members.as_ref().map_err(|reason| *reason),
            };
            assert_eq!(decide(&view), step, "{what}");
        }
    }

    #[test]
    fn nobody_leaves_while_a_shard_has_no_leader() {
        let names = names();
        let mut cluster = cluster(&active(4));
        cluster.shards.without_leader = 2;
        let view = ScaleView {
            names: &names,
            desired: 3,
            present: Some(4),
            leaving: None,
            idle_claims: &[],
            cluster: Ok(&cluster),
        };
        assert_eq!(
            decide(&view),
            ScaleStep::Wait { message: "waiting for 2 of 16 shards to have a leader before mqtt-3 leaves".to_owned() }
        );
    }

    #[test]
    fn a_broker_that_has_left_is_not_taken_back() {
        let names = names();
        let four = cluster(&active(4));
        let five = cluster(&active(5));
        let step = |desired, cluster| {
            let view =
                ScaleView { names: &names, desired, present: Some(5), leaving: Some(4), idle_claims: &[], cluster };
            let step = decide(&view);
            (leaving(&view, &step), step)
        };
        // It has left, and five are wanted again: its pod goes first.
        assert_eq!(step(5, Ok(&four)), (Some(4), ScaleStep::Shrink { replicas: 4 }));
        assert_eq!(step(7, Ok(&four)), (Some(4), ScaleStep::Shrink { replicas: 4 }));
        // It was kept.
        assert_eq!(step(5, Ok(&five)), (None, ScaleStep::Settled));
        // Nobody knows.
        let (remembered, waiting) = step(5, Err("they are silent"));
        assert!(matches!(waiting, ScaleStep::Wait { .. }) && remembered == Some(4), "{waiting:?}");
        // Its pod is gone.
        let view = ScaleView {
            names: &names,
            desired: 4,
            present: Some(4),
            leaving: Some(4),
            idle_claims: &[],
            cluster: Ok(&four),
        };
        assert_eq!(leaving(&view, &decide(&view)), None);
    }

    /// Follows the steps against a model of the brokers and of Kubernetes, from any size to any other.
    #[test]
    fn every_way_ends_where_it_was_asked_to() {
        for from in 1..=5 {
            for to in 1..=5 {
                let names = names();
                let mut cluster = cluster(&active(from));
                let mut present = from;
                let mut claims: Vec<i32> = (0..from).collect();
                let mut steps = 0;
                loop {
                    let idle: Vec<i32> = claims.iter().copied().filter(|ordinal| *ordinal >= present).collect();
                    let view = ScaleView {
                        names: &names,
                        desired: to,
                        present: Some(present),
                        leaving: None,
                        idle_claims: &idle,
                        cluster: Ok(&cluster),
                    };
                    match decide(&view) {
                        ScaleStep::Settled => break,
                        ScaleStep::Out { replicas } => {
                            claims = (0..replicas).collect();
                            present = replicas;
                            cluster = self::cluster(&active(replicas));
                        }
                        ScaleStep::Shrink { replicas } => {
                            assert_eq!(replicas, present - 1, "one at a time");
                            assert!(cluster.members.len() <= replicas as usize, "a pod goes only after its member");
                            present = replicas;
                        }
                        ScaleStep::Leave { member } => {
                            let leaving = cluster.members.iter_mut().find(|one| one.name == member).unwrap();
                            leaving.state = MemberState::Leaving;
                            leaving.replicas = 0;
                        }
                        ScaleStep::Wait { .. } => cluster.members.retain(|member| member.state != MemberState::Leaving),
                        ScaleStep::DropClaim { ordinal } => claims.retain(|claim| *claim != ordinal),
                        ScaleStep::CancelLeave { member } => {
                            panic!("{member} was never wanted back")
                        }
                    }
                    steps += 1;
                    assert!(steps < 50, "{from} to {to} does not end");
                }
                assert_eq!((present, cluster.members.len(), claims.len()), (to, to as usize, to as usize));
            }
        }
    }
}
