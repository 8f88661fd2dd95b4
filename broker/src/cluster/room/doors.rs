//! The node as the shards' rooms and the replicas see it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Room, Wait};
use crate::cluster::frames::{Frame, PROTOCOL};
use crate::cluster::links::CallError;
use crate::cluster::mesh::{Directory, Forwarder, LocalFuture, Mesh, NotLinked, RouteAnnouncer, Workers};
use crate::door::ToWorker;
use crate::identity::{ClientId, GroupId, Incarnation, NodeId, Origin, ShardId};
use crate::message::Message;
use crate::replication::{Transport, TransportError};
use crate::shard::{Page, StoredSession};
use crate::share::Loan;

/// For administrators.
impl Room {
    /// Asks all shards for their sessions after a client id.
    pub(in crate::cluster) fn inspect(
        &self,
        after: Arc<str>,
        count: usize,
        answer: oneshot::Sender<Vec<StoredSession>>,
    ) {
        if let Some(shards) = self.shards() {
            shards.inspect(after, count, answer);
        }
    }

    /// Ends a session.
    pub(in crate::cluster) fn end_session(&self, client_id: ClientId, answer: oneshot::Sender<bool>) {
        if let Some(shards) = self.shards() {
            shards.end_session(client_id, answer);
        }
    }

    /// Reads retained messages.
    pub(in crate::cluster) fn list_retained(
        &self,
        filter: Arc<str>,
        after: Option<Arc<str>>,
        count: usize,
        answer: oneshot::Sender<Page>,
    ) {
        if let Some(shards) = self.shards() {
            shards.list_retained(filter, after, count, answer);
        }
    }

    /// Ends a retained message.
    pub(in crate::cluster) fn delete_retained(&self, topic: Arc<str>, answer: oneshot::Sender<bool>) {
        if let Some(shards) = self.shards() {
            shards.delete_retained(topic, answer);
        }
    }
}

impl Mesh for Room {
    fn me(&self) -> Origin {
        self.myself()
    }

    fn peer(&self, node: NodeId) -> Option<Incarnation> {
        self.links.peer(node)
    }

    fn protocol(&self) -> u16 {
        let me = self.myself().node;
        let oldest = self.with_control(|control| {
            let others = control.members.keys().filter(|node| **node != me);
            others.map(|node| self.links.protocol(*node)).min()
        });
        oldest.flatten().unwrap_or(PROTOCOL)
    }

    fn send_shard(&self, to: NodeId, frame: Bytes) -> Result<(), NotLinked> {
        if self.links.send(to, &Frame::Shard(frame)) { Ok(()) } else { Err(NotLinked(to)) }
    }
}

impl Directory for Room {
    fn shards(&self) -> u16 {
        self.with_control(|control| control.shards).unwrap_or(0)
    }

    fn leader(&self, shard: ShardId) -> Option<(NodeId, u64)> {
        self.routes.borrow().leader(shard)
    }

    fn members(&self) -> BTreeSet<NodeId> {
        self.routes.borrow().members().clone()
    }

    fn placement(&self, shard: ShardId) -> Vec<NodeId> {
        self.with_control(|control| control.voters(shard).to_vec()).unwrap_or_default()
    }

    fn ended(&self) -> Vec<Origin> {
        self.with_control(|control| control.ended.iter().copied().collect()).unwrap_or_default()
    }
}

impl Forwarder for Room {
    fn forward(&self, to: NodeId, message: Message, key: Option<u64>) {
        self.forwards.borrow_mut().forward(to, message, key);
        self.work.notify_one();
    }
}

impl RouteAnnouncer for Room {
    fn lead(&self, shard: ShardId, term: u64, filters: Vec<Arc<str>>) {
        self.routes.borrow_mut().lead(shard, term, self.myself().node, filters);
        self.work.notify_one();
    }

    fn change(&self, shard: ShardId, term: u64, filter: Arc<str>, wanted: bool) {
        self.routes.borrow_mut().shard_wants(shard, term, filter, wanted);
        self.work.notify_one();
    }

    fn resign(&self, shard: ShardId, term: u64) {
        self.routes.borrow_mut().resign(shard, term);
    }

    fn settled(&self, _shard: ShardId, _term: u64) -> LocalFuture<()> {
        let (done, wait) = oneshot::channel();
        self.routes.borrow_mut().settle(Wait::Leader(done));
        self.work.notify_one();
        Box::pin(async move {
            if wait.await.is_err() {
                // The node is ending.
                std::future::pending::<()>().await;
            }
        })
    }
}

impl Workers for Room {
    fn count(&self) -> u16 {
        self.workers.len() as u16
    }

    fn send(&self, worker: u16, message: ToWorker) {
        self.to_worker(worker, message);
    }

    fn hand_over(&self, message: Message) {
        Room::hand_over(self, vec![message]);
    }

    fn lend(&self, loan: Loan, message: Message) {
        // If the member has gone, any worker says so.
        let member = message.recipient.as_deref().unwrap_or_default();
        let worker = self.members.borrow().get(member).copied().unwrap_or(0);
        self.to_worker(worker, ToWorker::Lend { loan, message });
    }
}

impl Transport for Room {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        request: Bytes,
        deadline: Duration,
    ) -> LocalFuture<Result<Bytes, TransportError>> {
        // What is large is a piece of a snapshot, or entries for a follower that is behind: neither is in a hurry.
        let bulk = request.len() >= BULK_BYTES_MIN;
        let call = self.links.call(to, bulk, deadline, |call| Frame::Raft { call, group, request });
        Box::pin(async move {
            call.await.map_err(|error| match error {
                CallError::NotLinked => TransportError::Unreachable(to),
                CallError::Late => TransportError::Timeout(to),
                CallError::Refused => TransportError::NoReplica(to),
            })
        })
    }
}

/// Requests from this size on go behind all others.
const BULK_BYTES_MIN: usize = 200 << 10;
