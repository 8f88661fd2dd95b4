//! What the rooms of the shards see of the other nodes: somewhere to send, signals of who is there, who leads what.
//!
//! Links come and go; nothing sent is kept for later. Whoever needs a frame to arrive sends it again when the link is
//! back, and fences what it says with [`Origin`], term or epoch.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::identity::{Incarnation, NodeId, Origin, ShardId};
use crate::message::Message;

/// No link to the node is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no link to node {0}")]
pub struct NotLinked(pub NodeId);

/// A future of the cluster thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// The other nodes, as the shards' rooms see them. An implementation never calls back into the caller before it returns.
pub trait Mesh {
    /// This run of this node.
    fn me(&self) -> Origin;

    /// The run of `node` that the link now reaches; `None` while there is no link (always for this node itself).
    fn peer(&self, node: NodeId) -> Option<Incarnation>;

    /// Queues a frame for `node`; frames arrive in the order sent as long as the link is up. A link whose peer does not
    /// keep up is closed, so that this never waits. For this node itself: `NotLinked`.
    fn send_shard(&self, to: NodeId, frame: Bytes) -> Result<(), NotLinked>;
}

/// What the control group and the announcements of leaders say, as this node knows them now.
pub trait Directory {
    /// How many shards there are; 0 while the cluster is not known.
    fn shards(&self) -> u16;

    /// Who was last heard to lead `shard`, and in which term. It may have been deposed since.
    fn leader(&self, shard: ShardId) -> Option<(NodeId, u64)>;

    /// The voters that `shard` shall have.
    fn placement(&self, shard: ShardId) -> Vec<NodeId>;
}

/// The shards' rooms, as the cluster's room sees them. Called from the cluster thread, never while one of them runs.
pub trait Shards {
    /// A link is up; a link to an earlier run of the node, if any, was reported down before.
    fn link_up(&self, peer: Origin);

    /// The link is gone, and with it whatever was under way.
    fn link_down(&self, peer: Origin);

    /// A frame that the peer's [`Mesh::send_shard`] sent.
    fn frame(&self, from: Origin, frame: Bytes);

    /// Somebody announced that it leads `shard` from this term on (it may be this node).
    fn leader_known(&self, shard: ShardId, leader: NodeId, term: u64);

    /// This run of a node was declared unreachable, or has left: leaders propose `NodeGone`. Told again after
    /// every change of leadership until the control group has forgotten it, so it must be idempotent.
    fn node_gone(&self, origin: Origin);

    /// A forward asked with [`Forwarder::forward`] is over. `reached`: the node has the messages; else it was declared
    /// unreachable, and its subscribers are no longer connected.
    fn forwarded(&self, key: u64, reached: bool);
}

/// Publishes for the connected subscribers of other nodes.
pub trait Forwarder {
    /// Sends `message` to the connected subscribers of `to`. With a key, [`Shards::forwarded`] comes exactly once, as
    /// long as the node takes; without (QoS 0), the message may be lost with the link.
    fn forward(&self, to: NodeId, message: Message, key: Option<u64>);
}

/// Where the leader of a shard announces the filters its persistent sessions want.
///
/// An announcement carries shard and term: what a later term says replaces all of an earlier one, and an earlier one is
/// ignored from then on.
pub trait RouteAnnouncer {
    /// This node leads `shard` in `term`, and these are all the filters it wants.
    fn lead(&self, shard: ShardId, term: u64, filters: Vec<Arc<str>>);

    /// A change after [`RouteAnnouncer::lead`] of the same term.
    fn change(&self, shard: ShardId, term: u64, filter: Arc<str>, wanted: bool);

    /// This node no longer leads `shard`: changes end, routes stay until the next leader's.
    fn resign(&self, shard: ShardId, term: u64);

    /// Ready once all that was announced before is applied by every worker of every member that may accept publishes
    /// (K6). Never ready if this node ceases to lead the shard in that term.
    fn settled(&self, shard: ShardId, term: u64) -> LocalFuture<()>;
}

/// Where the shards' rooms leave what goes to the workers; one batch per worker and turn.
pub trait Workers {
    /// How many there are.
    fn count(&self) -> u16;

    /// Queues `message` for `worker`.
    fn send(&self, worker: u16, message: crate::door::ToWorker);
}
