//! How this node becomes and stays a member: founding, joining, renewing its lease, beginning a new run.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::Room;
use crate::cluster::asks::{Ask, Reply};
use crate::cluster::control::{Answered, ControlAnswer, ControlCommand, Joiner};
use crate::cluster::frames::{Frame, RouteFrame};
use crate::cluster::handle::Founding;
use crate::cluster::status::{Report, ShardReport};
use crate::door::ToWorker;
use crate::identity::{GroupId, Incarnation, NodeId, Origin};

/// From when a renewal was sent that was answered, a member may accept publishes for this long (K3, K6).
pub(super) const LEASE: Duration = Duration::from_millis(1_000);
/// Between renewals.
const RENEWAL: Duration = Duration::from_millis(200);
/// How long one node may take to answer a renewal, so that another can be asked before the lease is over.
const RENEWAL_ASK: Duration = Duration::from_millis(400);
/// How long a question may take.
const ASK: Duration = Duration::from_millis(1_000);
/// How long a node that may found a cluster looks for one to join first.
const LOOK_AROUND: Duration = Duration::from_millis(1_500);

impl Room {
    /// Founds or joins the cluster, and joins again whenever this run is over.
    pub(super) async fn belong_for_ever(self: Rc<Self>) {
        let began = Instant::now();
        loop {
            let cluster = self.with_control(|control| control.cluster).unwrap_or(0);
            let known = cluster != 0 || self.links.heard_of().is_some();
            if cluster != 0 {
                self.links.joined(cluster);
            }
            let alone = matches!(self.config.founding, Founding::Alone);
            let looked_around = alone || began.elapsed() >= LOOK_AROUND;
            if self.left.get() || self.drained.get() {
                // It stays outside until its process ends.
            } else if !known && looked_around && self.may_found() {
                if let Err(error) = self.found().await {
                    tracing::error!(%error, "the cluster could not be founded");
                }
            } else if self.joined.get().is_none() {
                self.join().await;
            }
            let wait = if cluster == 0 { 20 } else { 100 };
            sleep(Duration::from_millis(wait)).await;
        }
    }

    async fn found(&self) -> anyhow::Result<()> {
        let me = self.myself();
        self.found_shards(self.config.shards).await?;
        if self.control.borrow().is_none() {
            self.start_control().await?;
        }
        let Some(control) = self.control.borrow().clone() else { return Ok(()) };
        if !control.is_initialized().await {
            control.initialize(&[me.node].into()).await?;
        }
        let mut leadership = control.leadership();
        let led = leadership.wait_for(|leadership| leadership.ready);
        tokio::time::timeout(Duration::from_secs(5), led).await??;
        let command = ControlCommand::Found {
            // Any number but 0 that no other cluster has.
            cluster: me.node.0 | 1,
            shards: self.config.shards,
            factor: self.config.factor,
            founder: self.joiner(),
        };
        match self.propose(command).await {
            Some(ControlAnswer::Done(version)) => {
                tracing::info!(shards = self.config.shards, "founded the cluster");
                self.belongs_from(version);
                Ok(())
            }
            other => anyhow::bail!("the control group answered {other:?}"),
        }
    }

    async fn join(self: &Rc<Self>) {
        match self.ask(Ask::Join(self.joiner())).await {
            Some(Reply::Control(ControlAnswer::Done(version))) => {
                tracing::info!(version, "joined the cluster");
                self.belongs_from(version);
            }
            Some(Reply::Control(ControlAnswer::Over)) => self.begin_run(),
            Some(Reply::Control(ControlAnswer::Left)) => self.leave(),
            Some(Reply::Control(ControlAnswer::NameTaken)) => {
                tracing::warn!(name = self.config.name, "another member has this name and is alive; trying again");
            }
            Some(Reply::Control(answer)) => tracing::warn!(?answer, "the cluster did not take this node"),
            Some(_) | None => {}
        }
    }

    /// This run is a member, as of this version of the control state: whoever is linked already is asked for its routes.
    fn belongs_from(&self, version: u64) {
        self.joined.set(Some(version));
        self.forget_routes();
        (self.config.founded)();
        self.ask_all_for_routes();
    }

    fn joiner(&self) -> Joiner {
        Joiner {
            origin: self.myself(),
            name: self.config.name.clone(),
            address: self.config.address.clone(),
            version: self.config.version.clone(),
        }
    }

    /// This node has left the cluster for good: it serves nobody, and waits for its end.
    fn leave(&self) {
        if !self.left.replace(true) {
            tracing::info!("left the cluster");
            self.joined.set(None);
            self.lease_until.set(None);
        }
    }

    /// This run was declared over while the process lived: its connections are others' by now.
    fn begin_run(&self) {
        let over = self.myself();
        tracing::warn!(run = over.incarnation.0, "this run was declared over; begins another");
        self.joined.set(None);
        self.lease_until.set(None);
        self.set_serving(false);
        self.forget_routes();
        self.to_all_workers(|| ToWorker::Expelled);
        self.links.begin_run(Incarnation(over.incarnation.0 + 1));
        self.forwards.borrow_mut().begin_run();
        if let Some(shards) = self.shards() {
            shards.begin_run();
        }
    }

    /// Asks the control leader, wherever it is.
    pub(in crate::cluster) async fn ask(self: &Rc<Self>, ask: Ask) -> Option<Reply> {
        let control = self.control.borrow().clone();
        let known = control.and_then(|control| control.leadership().borrow().leader);
        self.ask_around(known, ask).await
    }

    /// Asks the leader of a group, wherever it is, but not here.
    pub(super) async fn ask_leader_of(self: &Rc<Self>, group: GroupId, ask: Ask) -> Option<Reply> {
        let known = group.shard().and_then(|shard| self.routes.borrow().leader(shard)).map(|(leader, _)| leader);
        self.ask_around(known.filter(|leader| *leader != self.myself().node), ask).await
    }

    /// Asks whoever leads as far as is known, then all others. The last answer, if nobody says that it leads.
    async fn ask_around(self: &Rc<Self>, known: Option<NodeId>, ask: Ask) -> Option<Reply> {
        let mut reply = None;
        let mut candidates: Vec<NodeId> = known.into_iter().collect();
        candidates.extend(self.links.peers().iter().map(|peer| peer.node()));
        let mut asked = Vec::new();
        while let Some(node) = candidates.iter().copied().find(|node| !asked.contains(node)) {
            asked.push(node);
            reply = if node == self.myself().node {
                Some(self.reply(ask.clone()).await)
            } else {
                let request = Bytes::from(postcard::to_stdvec(&ask).ok()?);
                let patience = if matches!(ask, Ask::Renew(..)) { RENEWAL_ASK } else { ASK };
                let call = self.links.call(node, false, patience, |call| Frame::Ask { call, request });
                call.await.ok().and_then(|answer| postcard::from_bytes(&answer).ok())
            };
            match &reply {
                Some(Reply::NotLeader(Some(leader))) => candidates.insert(0, *leader),
                Some(Reply::NotLeader(None)) | None => {}
                Some(_) => return reply,
            }
        }
        reply
    }

    pub(super) async fn renew_for_ever(self: Rc<Self>) {
        loop {
            if self.joined.get().is_some() && !self.drained.get() {
                let (sent, me) = (Instant::now(), self.myself());
                let reply = self.ask(Ask::Renew(me, self.report())).await;
                if self.drained.get() || self.myself() != me {
                    // What was asked for is not wanted any more.
                    continue;
                }
                match reply {
                    Some(Reply::Renewed(overview)) => {
                        *self.overview.borrow_mut() = overview;
                        self.lease_until.set(Some(sent + LEASE));
                        if !self.knows_routes() {
                            // Whoever could not answer yet is asked again.
                            self.ask_all_for_routes();
                        }
                    }
                    Some(Reply::Control(ControlAnswer::Over)) => self.begin_run(),
                    Some(Reply::Control(ControlAnswer::Left)) => self.leave(),
                    // It does not know this run: join again.
                    Some(Reply::Control(_)) => self.joined.set(None),
                    Some(Reply::NotLeader(_) | Reply::TakenOut(_)) | None => {
                        // Nobody leads just now: ask again soon, the lease is running.
                        sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                }
                self.membership_turn();
            }
            sleep(if self.serving.get() { RENEWAL } else { Duration::from_millis(50) }).await;
        }
    }

    /// Whether this node may serve: it holds its lease, is a full member, and knows all routes.
    pub(super) fn membership_turn(self: &Rc<Self>) {
        let me = self.myself();
        let active = self.with_control(|control| {
            control
                .members
                .get(&me.node)
                .is_some_and(|member| member.origin == me && member.active && !member.unreachable)
        });
        self.set_serving(self.has_lease() && active == Some(true) && self.knows_routes());
    }

    /// Whether this node's lease runs. That of the only member does not run out: without it nobody can have joined, and
    /// nobody else accepts publishes.
    pub(super) fn has_lease(&self) -> bool {
        let alone = || self.with_control(|control| control.members.len() == 1) == Some(true);
        self.lease_until.get().is_some_and(|until| until > Instant::now() || alone())
    }

    pub(super) fn set_serving(&self, serving: bool) {
        if self.serving.replace(serving) != serving {
            tracing::info!(serving, "serving");
            self.to_all_workers(|| ToWorker::Serving(serving));
            if let Some(shards) = self.shards().filter(|_| !serving) {
                shards.withdraw_opens();
            }
        }
    }

    /// Every member that was reachable, and every shard, has announced its routes to this run.
    fn knows_routes(&self) -> bool {
        if self.knows_routes.get() {
            return true;
        }
        let (me, synced) = (self.myself().node, self.synced.borrow());
        let Some(joined) = self.joined.get() else { return false };
        let known = self.with_control(|control| {
            if control.version < joined {
                // Still replaying what was before this run joined.
                return (false, 0);
            }
            let mut others = control.reachable().filter(|member| member.origin.node != me);
            let all = others.all(|member| synced.contains(&member.origin.node));
            (all, control.shards)
        });
        let all = matches!(known, Some((true, shards)) if shards > 0 && self.routes.borrow().knows_all_shards(shards));
        self.knows_routes.set(all);
        self.knows_routes.get()
    }

    pub(super) fn forget_routes(&self) {
        self.synced.borrow_mut().clear();
        self.knows_routes.set(false);
    }

    /// Asks a peer for all its routes, to be sent once it counts this run among those that routes must reach.
    pub(super) fn ask_for_routes(&self, node: NodeId) {
        if let Some(version) = self.joined.get() {
            self.links.send(node, &Frame::Route(RouteFrame::Sync { version }));
        }
    }

    fn ask_all_for_routes(&self) {
        for peer in self.links.peers() {
            if !self.synced.borrow().contains(&peer.node()) {
                self.ask_for_routes(peer.node());
            }
        }
    }

    /// Answers those peers that this node counts in by now.
    pub(super) fn answer_syncs(&self) {
        let Some(version) = self.with_control(|control| control.version) else { return };
        let ready: Vec<(NodeId, u64)> =
            self.syncs.borrow().iter().filter(|(_, asked)| **asked <= version).map(|(n, v)| (*n, *v)).collect();
        for (node, asked) in ready {
            self.syncs.borrow_mut().remove(&node);
            self.routes.borrow_mut().answer_sync(node, asked);
        }
        self.work.notify_one();
    }

    /// The control state has changed here.
    pub(super) fn control_applied(&self, answers: Vec<Answered>) {
        let me = self.myself();
        for answered in answers {
            if answered.origin == me
                && let Some(waiting) = self.proposals.borrow_mut().remove(&answered.number)
            {
                // The proposer may have given up.
                let _ = waiting.send(answered.answer);
            }
        }
        // While the replica starts there is nothing to read yet: the start calls this again.
        let Some((reachable, addresses, ended, version)) = self.with_control(|control| {
            // This replica may hear late that a run is over whose successor has announced its routes already.
            let begun_again =
                |origin: Origin| self.links.peer(origin.node).is_some_and(|linked| linked > origin.incarnation);
            let counted = control.members.values().filter(|member| !member.unreachable || begun_again(member.origin));
            let others = counted.filter(|member| member.origin.node != me.node);
            let addresses = control.members.values().map(|member| (member.origin.node, member.address.clone()));
            (
                others.map(|member| member.origin.node).collect(),
                addresses.collect::<Vec<_>>(),
                control.ended.iter().copied().collect::<Vec<_>>(),
                control.version,
            )
        }) else {
            return;
        };
        // A replica that starts anew tells once more who was a member long ago: routes have reached others since.
        if version < self.counted.get() {
            return;
        }
        self.counted.set(version);
        self.routes.borrow_mut().set_members(reachable);
        self.links.remember(addresses);
        let mut told = self.ended_told.borrow_mut();
        told.retain(|origin| ended.contains(origin));
        let news: Vec<_> = ended.into_iter().filter(|origin| told.insert(*origin)).collect();
        drop(told);
        for origin in &news {
            self.forwards.borrow_mut().ended(*origin);
        }
        if let Some(shards) = self.shards().filter(|_| !news.is_empty()) {
            shards.ended(&news);
        }
        self.answer_syncs();
        self.work.notify_one();
    }

    /// What this node tells the control leader.
    fn report(&self) -> Report {
        let me = self.myself().node;
        let mut leads = Vec::new();
        for (group, replica) in self.replicas.borrow().iter() {
            let leadership = replica.leadership().borrow().clone();
            let (Some(shard), true) = (group.shard(), leadership.ready) else { continue };
            let standing = replica.standing();
            let in_sync = |node: &&NodeId| **node == me || standing.in_sync(**node, IN_SYNC_ENTRIES);
            leads.push(ShardReport {
                shard,
                term: leadership.term,
                in_sync: standing.voters.iter().filter(in_sync).copied().collect(),
                voters: standing.voters,
                learners: standing.learners,
            });
        }
        Report {
            connections: self.connections.borrow().values().sum(),
            sessions: self.shards().map_or(0, |shards| shards.totals().persistent_sessions as u64),
            draining: self.draining.get(),
            synced: self.knows_routes(),
            leads,
        }
    }

    /// Whether this node leads the control group, and in which term.
    pub(super) fn control_term(&self) -> Option<u64> {
        let control = self.replicas.borrow().get(&GroupId::CONTROL).cloned()?;
        let leadership = control.leadership().borrow().clone();
        leadership.ready.then_some(leadership.term)
    }
}

/// A voter counts as in sync while its log is at most this many entries behind.
const IN_SYNC_ENTRIES: u64 = 1_000;
