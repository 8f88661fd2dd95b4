//! Who wants which filters, in the whole cluster, and who knows of it already (K6).
//!
//! Three kinds of lists: the filters of this node's workers, those of every other node, those of every shard. Each is
//! owned by one place and copied everywhere: its owner announces it whole, then change by change, numbered; the copy is
//! applied by all workers of a node, then acknowledged. A waiter is settled when everything announced before it is
//! applied by every member that may accept publishes.
//!
//! Pure: frames and batches come out of [`Routes::flush`]; links, workers and the control state are told to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::frames::{RouteFrame, RouteSource};
use super::wanting::Workers;
use crate::door::{RouteChange, RouteOwner};
use crate::identity::{NodeId, ShardId};

/// Filters in one frame; a longer list goes on as changes.
const FILTERS_PER_FRAME: usize = 4_096;

/// Routes of a cluster as one node knows them. `W` is whatever waits for a settlement.
pub struct Routes<W> {
    workers: Vec<Applier>,
    /// This node's filters, each with the workers that want it.
    mine: BTreeMap<Arc<str>, Workers>,
    nodes: BTreeMap<NodeId, BTreeSet<Arc<str>>>,
    shards: BTreeMap<ShardId, ShardList>,
    /// The shards that this node leads, and in which term.
    led: BTreeMap<ShardId, u64>,
    links: BTreeMap<NodeId, Peer>,
    /// The other members that may accept publishes.
    members: BTreeSet<NodeId>,
    settlements: VecDeque<Settlement<W>>,
    out: Vec<RouteOut<W>>,
}

/// What [`Routes::flush`] asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum RouteOut<W> {
    /// Send to a peer, in order.
    Peer(NodeId, RouteFrame),
    /// Give to a worker, in order.
    Worker(u16, u64, Vec<RouteChange>),
    /// Everything announced before this waiter came is known everywhere.
    Settled(W),
    /// All that a peer wanted when it was asked by this version is applied here.
    Synced(NodeId, u64),
    /// Somebody else leads a shard in a term that is new.
    Leader(ShardId, NodeId, u64),
}

/// A worker of this node.
#[derive(Default)]
struct Applier {
    waiting: Vec<RouteChange>,
    sent: u64,
    applied: u64,
}

struct ShardList {
    term: u64,
    leader: NodeId,
    filters: BTreeSet<Arc<str>>,
}

/// A linked node.
#[derive(Default)]
struct Peer {
    waiting: Vec<RouteFrame>,
    /// The last number given to an announcement on this link.
    sent: u64,
    applied: u64,
    /// What the peer announced and not all workers have applied yet.
    unapplied: VecDeque<(Announced, Vec<u64>)>,
}

#[derive(Clone, Copy)]
enum Announced {
    Number(u64),
    Synced(u64),
}

struct Settlement<W> {
    waiter: W,
    workers: Vec<u64>,
    /// By node the number it must have applied; `None` until there is a link again.
    nodes: BTreeMap<NodeId, Option<u64>>,
}

impl<W> Routes<W> {
    /// Nothing is wanted yet.
    pub fn new(workers: u16) -> Routes<W> {
        Routes {
            workers: (0..workers).map(|_| Applier::default()).collect(),
            mine: BTreeMap::new(),
            nodes: BTreeMap::new(),
            shards: BTreeMap::new(),
            led: BTreeMap::new(),
            links: BTreeMap::new(),
            members: BTreeSet::new(),
            settlements: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// A worker's first subscriber of a filter has come, or its last has gone.
    pub fn worker_wants(&mut self, worker: u16, filter: Arc<str>, wanted: bool) {
        let wanting = self.mine.entry(filter.clone()).or_default();
        let changed = if wanted { wanting.insert(worker) } else { wanting.remove(worker) };
        let (none, one) = (wanting.as_slice().is_empty(), wanting.as_slice().len() == 1);
        if none {
            self.mine.remove(&filter);
        }
        if !changed {
            return;
        }
        self.tell_workers(RouteOwner::Worker(worker), filter.clone(), wanted);
        if (wanted && one) || (!wanted && none) {
            self.announce(RouteSource::Node, filter, wanted);
        }
    }

    /// This node leads `shard` in `term` and announces all its filters.
    pub fn lead(&mut self, shard: ShardId, term: u64, me: NodeId, filters: Vec<Arc<str>>) {
        if self.shards.get(&shard).is_some_and(|list| list.term > term) {
            return;
        }
        self.led.insert(shard, term);
        let filters: BTreeSet<Arc<str>> = filters.into_iter().collect();
        self.replace_shard(shard, term, me, filters.clone());
        let source = RouteSource::Shard { shard, term };
        for peer in self.links.values_mut() {
            peer.announce_whole(source, filters.iter().cloned());
        }
    }

    /// A shard that this node leads in `term` wants a filter, or no longer.
    pub fn shard_wants(&mut self, shard: ShardId, term: u64, filter: Arc<str>, wanted: bool) {
        if self.led.get(&shard) != Some(&term) {
            return;
        }
        self.change_shard(shard, &[(filter.clone(), wanted)]);
        self.announce(RouteSource::Shard { shard, term }, filter, wanted);
    }

    /// This node no longer leads `shard`. Its filters stay until the next leader's list.
    pub fn resign(&mut self, shard: ShardId, term: u64) {
        if self.led.get(&shard) == Some(&term) {
            self.led.remove(&shard);
        }
    }

    /// A link is up, with nothing said on it yet.
    pub fn link_up(&mut self, node: NodeId) {
        let mut peer = Peer::default();
        peer.announce_whole(RouteSource::Node, self.mine.keys().cloned());
        for (&shard, &term) in &self.led {
            let filters = self.shards.get(&shard).map(|list| &list.filters);
            peer.announce_whole(RouteSource::Shard { shard, term }, filters.into_iter().flatten().cloned());
        }
        for settlement in &mut self.settlements {
            if let Some(number) = settlement.nodes.get_mut(&node) {
                *number = Some(peer.sent);
            }
        }
        self.links.insert(node, peer);
    }

    /// The link is gone. What the peer wanted stays: it may only be cut off for a moment.
    pub fn link_down(&mut self, node: NodeId) {
        self.links.remove(&node);
        for settlement in &mut self.settlements {
            if let Some(number) = settlement.nodes.get_mut(&node) {
                *number = None;
            }
        }
    }

    /// The other members that may accept publishes, as the control group says. The others' connected subscribers are
    /// gone, and nobody waits for them.
    pub fn set_members(&mut self, members: BTreeSet<NodeId>) {
        let gone: Vec<NodeId> =
            self.nodes.keys().filter(|node| self.members.contains(node) && !members.contains(node)).copied().collect();
        for node in gone {
            self.replace_node(node, BTreeSet::new());
            self.nodes.remove(&node);
        }
        for settlement in &mut self.settlements {
            settlement.nodes.retain(|node, _| members.contains(node));
        }
        self.members = members;
    }

    /// A frame of a linked peer ([`RouteFrame::Sync`] is answered by [`Routes::answer_sync`], when its time has come).
    pub fn frame(&mut self, from: NodeId, frame: RouteFrame) {
        let announced = match frame {
            RouteFrame::Whole { number, source, filters } => {
                let filters = filters.into_iter().collect();
                match source {
                    RouteSource::Node => self.replace_node(from, filters),
                    RouteSource::Shard { shard, term } => {
                        if self
                            .shards
                            .get(&shard)
                            .is_none_or(|list| list.term < term || (list.term == term && list.leader == from))
                        {
                            self.replace_shard(shard, term, from, filters);
                            self.led.remove(&shard);
                        }
                    }
                }
                Announced::Number(number)
            }
            RouteFrame::Changes { number, source, changes } => {
                match source {
                    RouteSource::Node => self.change_node(from, &changes),
                    RouteSource::Shard { shard, term } => {
                        let known = self.shards.get(&shard);
                        if known.is_some_and(|list| list.term == term && list.leader == from) {
                            self.change_shard(shard, &changes);
                        }
                    }
                }
                Announced::Number(number)
            }
            RouteFrame::Synced { version } => Announced::Synced(version),
            RouteFrame::Applied { number } => {
                if let Some(peer) = self.links.get_mut(&from) {
                    peer.applied = peer.applied.max(number);
                }
                return;
            }
            RouteFrame::Sync { .. } => return,
        };
        // The numbers are those of the batches that the next flush makes.
        let upcoming = self.workers.iter().map(Applier::upcoming).collect();
        if let Some(peer) = self.links.get_mut(&from) {
            peer.unapplied.push_back((announced, upcoming));
        }
    }

    /// Says to a peer that asked by `version` that all was announced to it.
    pub fn answer_sync(&mut self, node: NodeId, version: u64) {
        if let Some(peer) = self.links.get_mut(&node) {
            peer.waiting.push(RouteFrame::Synced { version });
        }
    }

    /// A worker has applied its batches up to a number.
    pub fn worker_applied(&mut self, worker: u16, number: u64) {
        if let Some(worker) = self.workers.get_mut(usize::from(worker)) {
            worker.applied = worker.applied.max(number);
        }
    }

    /// `waiter` comes out again as [`RouteOut::Settled`] once all that was announced until now is known everywhere.
    pub fn settle(&mut self, waiter: W) {
        let workers = self.workers.iter().map(Applier::upcoming).collect();
        let nodes = self.members.iter().map(|node| {
            let peer = self.links.get(node);
            (*node, peer.map(|peer| peer.sent))
        });
        self.settlements.push_back(Settlement { waiter, workers, nodes: nodes.collect() });
    }

    /// Whether some leader has announced every one of `shards` shards.
    pub fn knows_all_shards(&self, shards: u16) -> bool {
        (0..shards).all(|shard| self.shards.contains_key(&ShardId(shard)))
    }

    /// The other members that may accept publishes.
    pub fn members(&self) -> &BTreeSet<NodeId> {
        &self.members
    }

    /// Who was last heard to lead `shard`, and in which term.
    pub fn leader(&self, shard: ShardId) -> Option<(NodeId, u64)> {
        self.shards.get(&shard).map(|list| (list.leader, list.term))
    }

    /// How many waiters are not settled.
    pub fn unsettled(&self) -> usize {
        self.settlements.len()
    }

    /// What is to be done now, in order. Frames and batches of one turn are one.
    pub fn flush(&mut self) -> Vec<RouteOut<W>> {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if !worker.waiting.is_empty() {
                worker.sent += 1;
                let changes = std::mem::take(&mut worker.waiting);
                self.out.push(RouteOut::Worker(index as u16, worker.sent, changes));
            }
        }
        let workers = &self.workers;
        let applied = |numbers: &[u64]| {
            let mut pairs = workers.iter().zip(numbers);
            pairs.all(|(worker, number)| worker.applied >= *number)
        };
        for (&node, peer) in &mut self.links {
            let mut acknowledge = None;
            while let Some((announced, _)) = peer.unapplied.pop_front_if(|(_, numbers)| applied(numbers)) {
                match announced {
                    Announced::Number(number) => acknowledge = Some(number),
                    Announced::Synced(version) => self.out.push(RouteOut::Synced(node, version)),
                }
            }
            for frame in peer.waiting.drain(..) {
                self.out.push(RouteOut::Peer(node, frame));
            }
            if let Some(number) = acknowledge {
                self.out.push(RouteOut::Peer(node, RouteFrame::Applied { number }));
            }
        }
        let links = &self.links;
        let settled = |settlement: &mut Settlement<W>| {
            applied(&settlement.workers)
                && settlement.nodes.iter().all(|(node, number)| {
                    let known = links.get(node).map(|peer| peer.applied);
                    number.is_some_and(|number| known >= Some(number))
                })
        };
        // What waits longer waits for more: the first that is not settled ends the search.
        while let Some(done) = self.settlements.pop_front_if(settled) {
            self.out.push(RouteOut::Settled(done.waiter));
        }
        std::mem::take(&mut self.out)
    }

    fn tell_workers(&mut self, owner: RouteOwner, filter: Arc<str>, wanted: bool) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if owner != RouteOwner::Worker(index as u16) {
                worker.waiting.push(RouteChange { owner, filter: filter.clone(), wanted });
            }
        }
    }

    fn announce(&mut self, source: RouteSource, filter: Arc<str>, wanted: bool) {
        for peer in self.links.values_mut() {
            peer.announce_change(source, filter.clone(), wanted);
        }
    }

    fn replace_node(&mut self, node: NodeId, filters: BTreeSet<Arc<str>>) {
        let before = self.nodes.insert(node, filters.clone());
        self.difference(RouteOwner::Node(node), before.unwrap_or_default(), filters);
    }

    fn replace_shard(&mut self, shard: ShardId, term: u64, leader: NodeId, filters: BTreeSet<Arc<str>>) {
        let list = ShardList { term, leader, filters: filters.clone() };
        let before = self.shards.insert(shard, list);
        if before.as_ref().is_none_or(|before| before.term < term) {
            self.out.push(RouteOut::Leader(shard, leader, term));
        }
        let before = before.map(|before| before.filters).unwrap_or_default();
        self.difference(RouteOwner::Shard(shard), before, filters);
    }

    fn difference(&mut self, owner: RouteOwner, before: BTreeSet<Arc<str>>, after: BTreeSet<Arc<str>>) {
        for filter in after.difference(&before) {
            self.tell_workers(owner, filter.clone(), true);
        }
        for filter in before.difference(&after) {
            self.tell_workers(owner, filter.clone(), false);
        }
    }

    fn change_node(&mut self, node: NodeId, changes: &[(Arc<str>, bool)]) {
        for (filter, wanted) in changes {
            let filters = self.nodes.entry(node).or_default();
            if change(filters, filter, *wanted) {
                self.tell_workers(RouteOwner::Node(node), filter.clone(), *wanted);
            }
        }
    }

    fn change_shard(&mut self, shard: ShardId, changes: &[(Arc<str>, bool)]) {
        for (filter, wanted) in changes {
            let Some(list) = self.shards.get_mut(&shard) else {
                return;
            };
            if change(&mut list.filters, filter, *wanted) {
                self.tell_workers(RouteOwner::Shard(shard), filter.clone(), *wanted);
            }
        }
    }
}

fn change(filters: &mut BTreeSet<Arc<str>>, filter: &Arc<str>, wanted: bool) -> bool {
    if wanted { filters.insert(filter.clone()) } else { filters.remove(filter) }
}

impl Applier {
    /// The number of the batch that holds all that is known now.
    fn upcoming(&self) -> u64 {
        self.sent + u64::from(!self.waiting.is_empty())
    }
}

impl Peer {
    fn announce_whole(&mut self, source: RouteSource, filters: impl Iterator<Item = Arc<str>>) {
        let mut filters = filters.peekable();
        self.sent += 1;
        self.waiting.push(RouteFrame::Whole {
            number: self.sent,
            source,
            filters: filters.by_ref().take(FILTERS_PER_FRAME).collect(),
        });
        for filter in filters {
            self.announce_change(source, filter, true);
        }
    }

    fn announce_change(&mut self, source: RouteSource, filter: Arc<str>, wanted: bool) {
        if let Some(RouteFrame::Changes { source: last, changes, .. }) = self.waiting.last_mut()
            && *last == source
            && changes.len() < FILTERS_PER_FRAME
        {
            changes.push((filter, wanted));
            return;
        }
        self.sent += 1;
        self.waiting.push(RouteFrame::Changes { number: self.sent, source, changes: vec![(filter, wanted)] });
    }
}

#[cfg(test)]
mod tests;
