//! What the rooms of the shards see of the other nodes: somewhere to send, signals of who is there, who leads what.
//!
//! Links come and go; nothing sent is kept for later. Whoever needs a frame to arrive sends it again when the link is
//! back, and fences what it says with [`Origin`], term or epoch.

use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::replica::Replica;
use super::tasks::Tasks;
use crate::door::{ToCluster, ToWorker};
use crate::identity::{ClientId, Incarnation, NodeId, Origin, ShardId};
use crate::message::Message;
use crate::replication::{Settings, Transport};
use crate::shard::{Page, StoredSession, Totals};
use crate::share::Loan;
use crate::storage::Log;

pub use crate::replication::LocalFuture;

/// No link to the node is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no link to node {0}")]
pub struct NotLinked(pub NodeId);

/// The other nodes, as the shards' rooms see them. An implementation never calls back into the caller before it returns.
pub trait Mesh {
    /// This run of this node.
    fn me(&self) -> Origin;

    /// The run of `node` that the link now reaches; `None` while there is no link (always for this node itself).
    fn peer(&self, node: NodeId) -> Option<Incarnation>;

    /// The highest [`super::frames::PROTOCOL`] that every member speaks. One that was never linked is taken for no older than
    /// this node.
    fn protocol(&self) -> u16;

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

    /// The other members that may accept publishes.
    fn members(&self) -> BTreeSet<NodeId>;

    /// The voters that `shard` shall have; the first shall lead.
    fn placement(&self, shard: ShardId) -> Vec<NodeId>;

    /// The runs of nodes that are over and still remembered: a new leader makes up for the news it missed.
    fn ended(&self) -> Vec<Origin>;
}

/// The shards' rooms, as the cluster's room sees them. Called from the cluster thread, never while one of them runs.
pub trait Shards {
    /// What a worker says about sessions, and its publishes: everything but routes and figures.
    fn worker(&self, message: ToCluster);

    /// Starts this node's replica of `shard` from what the log has of it, empty or not. Called once, until
    /// [`Shards::stopped`].
    fn start(&self, shard: ShardId) -> LocalFuture<io::Result<Rc<dyn Replica>>>;

    /// The replica was shut down: it is led no longer, and to be forgotten. Its log may be erased after this.
    fn stopped(&self, shard: ShardId);

    /// A link is up; a link to an earlier run of the node, if any, was reported down before.
    fn link_up(&self, peer: Origin);

    /// The link is gone, and with it whatever was under way.
    fn link_down(&self, peer: Origin);

    /// A frame that the peer's [`Mesh::send_shard`] sent.
    fn frame(&self, from: Origin, frame: Bytes);

    /// Somebody announced that it leads `shard` from this term on (it may be this node).
    fn leader_known(&self, shard: ShardId, leader: NodeId, term: u64);

    /// These runs of nodes are over (declared unreachable, restarted, or left): leaders propose `NodeGone` for each.
    /// Told whenever the list grows; the whole list of those remembered is [`Directory::ended`].
    fn ended(&self, origins: &[Origin]);

    /// This node may not serve any more: CONNECTs that are not answered are refused, and undone if they come true (K3).
    fn withdraw_opens(&self);

    /// This node was declared unreachable while it lived: [`Mesh::me`] is another from now on, numbering begins anew,
    /// workers have been told to close every connection ([`crate::door::ToWorker::Expelled`]).
    fn begin_run(&self);

    /// A forward asked with [`Forwarder::forward`] is over. `reached`: the node has the messages; else it was declared
    /// unreachable, and its subscribers are no longer connected.
    fn forwarded(&self, key: u64, reached: bool);

    /// A forward is over because its node was declared unreachable, and it was for a member of a shared subscription there:
    /// another is to be found. It counts as forwarded when that one has it.
    fn member_lost(&self, key: u64, message: Message);

    /// The first `count` stored sessions of all shards after a client id. Not answered if a shard has no leader.
    fn inspect(&self, after: Arc<str>, count: usize, answer: oneshot::Sender<Vec<StoredSession>>);

    /// Ends a session, wherever it is; whether there was one. Not answered if this node's run ends before.
    fn end_session(&self, client_id: ClientId, answer: oneshot::Sender<bool>);

    /// At most `count` retained messages of all shards that match a filter, after a topic. Not answered if a shard has no
    /// leader.
    fn list_retained(&self, filter: Arc<str>, after: Option<Arc<str>>, count: usize, answer: oneshot::Sender<Page>);

    /// Ends the retained message of a topic; true once there is none. Not answered if this node's run ends before.
    fn delete_retained(&self, topic: Arc<str>, answer: oneshot::Sender<bool>);

    /// Figures of the shards that this node leads.
    fn totals(&self) -> Totals;
}

/// What the shards' rooms are given to work with.
pub struct Surroundings {
    /// The other nodes.
    pub mesh: Rc<dyn Mesh>,
    /// Who leads what.
    pub directory: Rc<dyn Directory>,
    /// Publishes for other nodes.
    pub forwarder: Rc<dyn Forwarder>,
    /// Routes of led shards.
    pub announcer: Rc<dyn RouteAnnouncer>,
    /// This node's workers.
    pub workers: Rc<dyn Workers>,
    /// Calls between replicas.
    pub transport: Rc<dyn Transport>,
    /// The node's log.
    pub log: Log,
    /// How groups keep time.
    pub settings: Settings,
    /// Milliseconds since the Unix epoch.
    pub now_ms: Rc<dyn Fn() -> u64>,
    /// Ends what was spawned when the node ends.
    pub tasks: Tasks,
}

/// Makes the shards' rooms of a node.
pub type BuildShards = Box<dyn FnOnce(Surroundings) -> Rc<dyn Shards>>;

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
    fn send(&self, worker: u16, message: ToWorker);

    /// Queues a message for the workers whose connected subscribers want it.
    fn hand_over(&self, message: Message);

    /// A loan to the member that the message names. What becomes of it is told by [`ToCluster::Loans`].
    fn lend(&self, loan: Loan, message: Message);
}
