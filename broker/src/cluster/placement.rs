//! Where the replicas go: pure functions from members and what is, to what shall be.
//!
//! Deliberately absent: how a group gets there (`convergence`), and whether it is safe to go there now: a group changes
//! one step at a time, and only while it works.

use std::collections::BTreeMap;

use super::control::Control;
use crate::identity::{NodeId, ShardId};

/// Replicas of the control group.
pub const CONTROL_VOTERS_MAX: usize = 5;

/// Replicas of a shard when nobody set the factor, from this many members on.
pub const AUTOMATIC_FACTOR: usize = 3;

/// The replication factor in force: odd, at most what was asked for, at most the members that stay.
pub fn factor(control: &Control) -> usize {
    let staying = control.members.values().filter(|member| member.active && !member.leaving).count();
    let asked = match control.factor {
        Some(factor) => usize::from(factor.max(1)),
        None => AUTOMATIC_FACTOR,
    };
    largest_odd(asked.min(staying.max(1)))
}

/// The factor that the cluster is meant to have, whether or not there are members enough.
pub fn factor_wanted(control: &Control) -> usize {
    control.factor.map_or(AUTOMATIC_FACTOR, |factor| usize::from(factor.max(1)))
}

fn largest_odd(most: usize) -> usize {
    if most.is_multiple_of(2) { most.saturating_sub(1).max(1) } else { most }
}

/// The shards whose placement shall change, with their new voters (the first shall lead). Empty at rest: applied to the
/// control state, it asks for nothing more.
///
/// Each shard keeps the voters it has as far as it may; what must move goes to the member with the fewest replicas, and
/// leaders are spread by the order of voters.
pub fn plan(control: &Control) -> Vec<(ShardId, Vec<NodeId>)> {
    let mut load: BTreeMap<NodeId, usize> =
        control.members.values().filter(|member| !member.leaving).map(|member| (member.origin.node, 0)).collect();
    if load.is_empty() {
        return Vec::new();
    }
    let factor = factor(control);
    let mut shards: Vec<Vec<NodeId>> = control
        .placement
        .iter()
        .map(|voters| {
            let mut kept: Vec<NodeId> = Vec::new();
            for voter in voters {
                if load.contains_key(voter) && !kept.contains(voter) {
                    kept.push(*voter);
                }
            }
            kept
        })
        .collect();
    for voter in shards.iter().flatten() {
        if let Some(held) = load.get_mut(voter) {
            *held += 1;
        }
    }
    for voters in &mut shards {
        resize(voters, factor, &mut load, control);
    }
    level(&mut shards, &mut load, control);
    spread_leaders(&mut shards, &load);
    let changed = |(shard, voters): (usize, Vec<NodeId>)| {
        (voters != control.placement[shard]).then_some((ShardId(shard as u16), voters))
    };
    shards.into_iter().enumerate().filter_map(changed).collect()
}

/// A full member that can be reached: it may be given something.
fn usable(control: &Control, node: NodeId) -> bool {
    control.members.get(&node).is_some_and(|member| member.active && !member.unreachable)
}

fn active(control: &Control, node: NodeId) -> bool {
    control.members.get(&node).is_some_and(|member| member.active)
}

/// Adds the least loaded members, or drops the most loaded voters, until there are `factor`.
fn resize(voters: &mut Vec<NodeId>, factor: usize, load: &mut BTreeMap<NodeId, usize>, control: &Control) {
    while voters.len() > factor {
        // Unreachable ones first: they hold nothing that counts now. The one that leads stays if it can.
        let drop = (0..voters.len()).max_by_key(|&at| {
            let voter = voters[at];
            (!usable(control, voter), load[&voter], at)
        });
        let Some(drop) = drop else { return };
        let dropped = voters.remove(drop);
        load.entry(dropped).and_modify(|held| *held -= 1);
    }
    while voters.len() < factor {
        let add = load
            .iter()
            .filter(|(node, _)| !voters.contains(node) && active(control, **node))
            .min_by_key(|(node, held)| (!usable(control, **node), **held, **node))
            .map(|(node, _)| *node);
        let Some(add) = add else { return };
        voters.push(add);
        load.entry(add).and_modify(|held| *held += 1);
    }
}

/// Moves single replicas from the fullest to the emptiest reachable member, until they differ by at most one.
fn level(shards: &mut [Vec<NodeId>], load: &mut BTreeMap<NodeId, usize>, control: &Control) {
    loop {
        let reached = || load.iter().filter(|(node, _)| usable(control, **node));
        let fullest = reached().max_by_key(|(node, held)| (**held, std::cmp::Reverse(**node)));
        let emptiest = reached().min_by_key(|(node, held)| (**held, **node));
        let (Some((&from, &most)), Some((&to, &least))) = (fullest, emptiest) else {
            return;
        };
        if most <= least + 1 {
            return;
        }
        // Rather a follower's place than the leader's.
        let candidate = shards
            .iter_mut()
            .filter(|voters| !voters.contains(&to))
            .filter_map(|voters| {
                let at = voters.iter().position(|voter| *voter == from)?;
                Some((at == 0, voters, at))
            })
            .min_by_key(|(leads, _, _)| *leads);
        let Some((_, voters, at)) = candidate else {
            return;
        };
        voters[at] = to;
        *load.entry(from).or_default() -= 1;
        *load.entry(to).or_default() += 1;
    }
}

/// Puts a voter first in each shard, so that no member leads much more than another.
fn spread_leaders(shards: &mut [Vec<NodeId>], load: &BTreeMap<NodeId, usize>) {
    let mut leads: BTreeMap<NodeId, usize> = load.keys().map(|node| (*node, 0)).collect();
    for leader in shards.iter().filter_map(|voters| voters.first()) {
        *leads.entry(*leader).or_default() += 1;
    }
    loop {
        // The one exchange that helps most; the first of equals, so that all runs agree.
        let mut best: Option<(usize, usize, usize)> = None;
        for (shard, voters) in shards.iter().enumerate() {
            let Some(leader) = voters.first() else {
                continue;
            };
            for (at, voter) in voters.iter().enumerate().skip(1) {
                let gain = leads[leader].saturating_sub(leads[voter]);
                if gain > best.map_or(1, |(gain, _, _)| gain) {
                    best = Some((gain, shard, at));
                }
            }
        }
        let Some((_, shard, at)) = best else { return };
        let voters = &mut shards[shard];
        voters.swap(0, at);
        *leads.entry(voters[0]).or_default() += 1;
        *leads.entry(voters[at]).or_default() -= 1;
    }
}

/// The voters that the control group shall have: the largest odd number of members, up to [`CONTROL_VOTERS_MAX`], rather
/// those that it has. Everybody else learns.
pub fn control_voters(control: &Control, now: &[NodeId]) -> Vec<NodeId> {
    let mut candidates: Vec<(bool, bool, NodeId)> = control
        .members
        .values()
        .filter(|member| !member.leaving && member.active)
        .map(|member| {
            let node = member.origin.node;
            (member.unreachable, !now.contains(&node), node)
        })
        .collect();
    // A voter that is unreachable for a while keeps its seat, unless a reachable member can take it.
    candidates.sort();
    let size = largest_odd(candidates.len().clamp(1, CONTROL_VOTERS_MAX));
    let mut voters: Vec<NodeId> = candidates.into_iter().map(|(_, _, node)| node).take(size).collect();
    voters.sort();
    voters
}

#[cfg(test)]
mod tests;
