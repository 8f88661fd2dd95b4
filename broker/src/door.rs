//! The door between a worker (connections) and the cluster thread (shards, links, routes): what passes through it.
//!
//! Both sides send batches: one `Vec` per turn of their loop. Nothing here waits; what must be answered carries the
//! connection and a token of its own choosing. What can be outstanding is bounded by each connection's limits.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::identity::{ClientId, ConnectionId, NodeId, ShardId};
use crate::message::{Message, QoS, Subscription};
use crate::shard::{Ack, Close, Delivery, Evicted, Open, Outcome, Place};
use crate::share::Loan;

/// Where a message must go beyond the worker that read it.
pub type Targets = SmallVec<[RouteOwner; 4]>;

/// The members of shared subscriptions that a message is for, and where they are. Empty for most.
pub type Recipients = Vec<Recipient>;

/// A member of a shared subscription that a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Where it is.
    pub owner: RouteOwner,
    /// Its text.
    pub text: Arc<str>,
    /// Its session ends with its connection, and others of the subscription keep what was acknowledged (K1): it is lent the
    /// message, and this one has it else.
    pub heir: Option<Heir>,
}

/// A member that is a persistent session, and takes more than QoS 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heir {
    /// Of the session.
    pub shard: ShardId,
    /// Its text.
    pub text: Arc<str>,
}

/// What became of a loan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoanEnd {
    /// The member's client has acknowledged it, or nothing more is owed to it: it expired, or is too large, or goes at QoS 0.
    Done,
    /// The member takes it at QoS 2: once this is stored nobody else gets it ([MQTT-4.8.2-5]), and it comes again as
    /// [`ToWorker::Forward`], to be sent.
    Begun(Message),
    /// The member has gone: somebody else's.
    Returned,
    /// The member does not keep up: somebody else's, but not at once.
    Unwanted,
}

/// Who wants the messages of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteOwner {
    /// Another worker of this node: it has connected subscribers.
    Worker(u16),
    /// Another node: it has connected subscribers.
    Node(NodeId),
    /// A shard: it has persistent sessions.
    Shard(ShardId),
}

/// A message of a shared subscription that needs another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose member.
    pub subscription: Arc<str>,
    /// Of the message.
    pub topic: Arc<str>,
    /// Of the message.
    pub publisher: Arc<str>,
    /// Of the message.
    pub qos: QoS,
    /// One that is not connected won't do.
    pub connected_only: bool,
}

/// A filter was first wanted, or is no longer wanted, by an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// Who.
    pub owner: RouteOwner,
    /// The topic filter.
    pub filter: Arc<str>,
    /// Wanted from now on, or no longer.
    pub wanted: bool,
}

/// From a worker to the cluster thread.
#[derive(Debug)]
pub enum ToCluster {
    /// A CONNECT that was authenticated. Answered by [`ToWorker::Opened`].
    Open(Open),
    /// The end of a connection that was opened. Not answered.
    Close(Close),
    /// SUBSCRIBE of a persistent session. Answered by [`ToWorker::Subscribed`] once stored *and* routed everywhere (K6).
    Subscribe {
        /// Who asks.
        connection: ConnectionId,
        /// Comes back with the answer (the packet id).
        token: u32,
        /// The session.
        client_id: ClientId,
        /// Its epoch.
        epoch: u64,
        /// What it wants.
        subscriptions: Vec<Subscription>,
    },
    /// UNSUBSCRIBE of a persistent session. Answered by [`ToWorker::Subscribed`].
    Unsubscribe {
        /// Who asks.
        connection: ConnectionId,
        /// Comes back with the answer (the packet id).
        token: u32,
        /// The session.
        client_id: ClientId,
        /// Its epoch.
        epoch: u64,
        /// Exact filters.
        filters: Vec<Arc<str>>,
    },
    /// A message for shards and other nodes (`targets` never names workers here). At QoS 0 not answered; above, answered
    /// by [`ToWorker::Published`] when every shard has stored it and every node has it (K1). With RETAIN it also goes to
    /// the shard of its topic, to be kept.
    Publish {
        /// Who published.
        connection: ConnectionId,
        /// Comes back with the answer.
        token: u64,
        /// The epoch of the publisher's connection; 0 for nobody's.
        epoch: u64,
        /// What.
        message: Message,
        /// Where to.
        targets: Targets,
        /// Who else, each a copy of its own.
        recipients: Recipients,
    },
    /// A message of QoS 2 from a persistent session, for whoever `targets` names, this node's workers included (as
    /// [`RouteOwner::Node`]). Answered by [`ToWorker::Published`] when its shard has the packet id and everybody the
    /// message.
    PublishOnce {
        /// Who published.
        connection: ConnectionId,
        /// Comes back with the answer.
        token: u64,
        /// The session.
        client_id: ClientId,
        /// Its epoch.
        epoch: u64,
        /// Of the PUBLISH.
        packet_id: u16,
        /// What.
        message: Message,
        /// Where to.
        targets: Targets,
        /// Who else, each a copy of its own.
        recipients: Recipients,
    },
    /// PUBREL of a persistent session. Answered by [`ToWorker::ExchangeEnded`].
    EndExchange {
        /// Whose.
        connection: ConnectionId,
        /// The session.
        client_id: ClientId,
        /// Its epoch.
        epoch: u64,
        /// Of the PUBREL.
        packet_id: u16,
    },
    /// What the client of a persistent session acknowledged. Answered by [`ToWorker::Acknowledged`] if PUBRECs are among
    /// it.
    Acknowledge {
        /// Whose.
        connection: ConnectionId,
        /// The session.
        client_id: ClientId,
        /// Its epoch.
        epoch: u64,
        /// By queue number.
        acks: Vec<Ack>,
    },
    /// This worker's first subscriber of a filter has come, or its last has gone.
    Route {
        /// The worker.
        worker: u16,
        /// The filter.
        filter: Arc<str>,
        /// Come or gone.
        wanted: bool,
    },
    /// Answered by [`ToWorker::Settled`] when every [`ToCluster::Route`] this worker sent before is applied by every
    /// worker of every member that may accept publishes.
    Settle {
        /// Who waits.
        connection: ConnectionId,
        /// Comes back with the answer (the packet id).
        token: u32,
    },
    /// This worker has applied [`ToWorker::Routes`] up to this number.
    RoutesApplied {
        /// The worker.
        worker: u16,
        /// The number.
        number: u64,
    },
    /// The answer to [`ToWorker::Attach`].
    Attached {
        /// The session.
        client_id: ClientId,
        /// The epoch the connection holds; 0: the connection is no longer there.
        epoch: u64,
        /// The highest queue number sent to the client by this connection; 0 for none.
        sent_to: u64,
    },
    /// The answer to [`ToWorker::Evict`]: no connection of this worker holds the client id in this epoch, nor will.
    Released {
        /// The client id.
        client_id: ClientId,
        /// The epoch that was held.
        epoch: u64,
    },
    /// The answer to [`ToWorker::Originate`].
    Originated {
        /// As asked.
        token: u64,
        /// Where it must go, this node's workers as [`RouteOwner::Node`]; and which members of shared subscriptions, likewise.
        /// `None` while this node does not serve: it may not know all routes.
        reach: Option<(Targets, Recipients)>,
    },
    /// The answer to [`ToWorker::Choose`].
    Chosen {
        /// As asked.
        token: u64,
        /// One for each, in order: the member, and where it is (this node's workers as [`RouteOwner::Node`]). Empty while this
        /// node does not serve: it may not know all members.
        chosen: Vec<Option<Recipient>>,
    },
    /// What became of what [`ToWorker::Lend`] brought. Each once.
    Loans(Vec<(Loan, LoanEnd)>),
    /// A subscriber reads the retained messages that match its filter. Answered by [`ToWorker::Retained`], a piece at a time.
    ReadRetained {
        /// Who asks.
        connection: ConnectionId,
        /// Comes back with the answer.
        token: u32,
        /// The subscription's.
        filter: Arc<str>,
        /// Where to begin.
        place: Place,
    },
    /// What was read for a persistent session, to its queue. Answered by [`ToWorker::Enqueued`].
    Enqueue {
        /// Who asks.
        connection: ConnectionId,
        /// Comes back with the answer.
        token: u32,
        /// The session.
        client_id: ClientId,
        /// Its epoch.
        epoch: u64,
        /// The subscription's.
        filter: Arc<str>,
        /// Those above QoS 0.
        messages: Vec<Message>,
        /// Where to go on; `None` when that was all.
        next: Option<Place>,
    },
    /// How many connections this worker has now.
    Connections {
        /// The worker.
        worker: u16,
        /// Open and past CONNECT.
        connections: u32,
    },
}

/// From the cluster thread (or, for [`ToWorker::Forward`], another worker) to a worker.
#[derive(Debug)]
pub enum ToWorker {
    /// The answer to [`ToCluster::Open`]: [`Outcome::Opened`] or [`Outcome::Refused`].
    Opened {
        /// Whose.
        connection: ConnectionId,
        /// The result.
        outcome: Outcome,
    },
    /// The answer to [`ToCluster::Subscribe`] and [`ToCluster::Unsubscribe`]: [`Outcome::Codes`], `Stale` or `Refused`.
    Subscribed {
        /// Whose.
        connection: ConnectionId,
        /// As asked.
        token: u32,
        /// The result.
        outcome: Outcome,
    },
    /// The answer to [`ToCluster::Publish`].
    Published {
        /// Whose.
        connection: ConnectionId,
        /// As asked.
        token: u64,
        /// [`Outcome::Stored`] with the number of queues and nodes reached, or [`Outcome::Refused`].
        outcome: Outcome,
    },
    /// The answer to [`ToCluster::EndExchange`]: [`Outcome::Done`], `NotFound`, `Stale` or `Refused`.
    ExchangeEnded {
        /// Whose.
        connection: ConnectionId,
        /// Of the PUBREL.
        packet_id: u16,
        /// The result.
        outcome: Outcome,
    },
    /// The answer to [`ToCluster::Acknowledge`]: it is stored that the client has received these.
    Acknowledged {
        /// Whose.
        connection: ConnectionId,
        /// The epoch it must hold; else the worker drops this.
        epoch: u64,
        /// By queue number.
        received: Vec<u64>,
    },
    /// The answer to [`ToCluster::Settle`].
    Settled {
        /// Whose.
        connection: ConnectionId,
        /// As asked.
        token: u32,
    },
    /// Messages of a persistent session's queue, in order, within its receive maximum.
    Deliver {
        /// The connection that holds the session.
        connection: ConnectionId,
        /// The epoch it must hold; else the worker drops them.
        epoch: u64,
        /// In the order to send.
        deliveries: Vec<Delivery>,
    },
    /// The shard has a new leader, which asks what this connection has sent to its client. Answered by
    /// [`ToCluster::Attached`].
    Attach {
        /// The connection.
        connection: ConnectionId,
        /// The session it should hold.
        client_id: ClientId,
        /// The epoch it should hold.
        epoch: u64,
    },
    /// The answer to [`ToCluster::ReadRetained`].
    Retained {
        /// Whose.
        connection: ConnectionId,
        /// As asked.
        token: u32,
        /// In order; few enough to be sent at once.
        messages: Vec<Message>,
        /// Where to go on; `None` when that was all.
        next: Option<Place>,
    },
    /// The answer to [`ToCluster::Enqueue`]: [`Outcome::Owes`], `Stale` or `Refused`.
    Enqueued {
        /// Whose.
        connection: ConnectionId,
        /// As asked.
        token: u32,
        /// The result.
        outcome: Outcome,
    },
    /// Messages from another worker or node for this worker's connected subscribers.
    Forward(Vec<Message>),
    /// A message that a shard has lent to a member of a shared subscription that is, or was, on this worker.
    Lend {
        /// To be told of by [`ToCluster::Loans`].
        loan: Loan,
        /// It names the member.
        message: Message,
    },
    /// Whom is a message of the broker's own (a will) for? Answered by [`ToCluster::Originated`].
    Originate {
        /// Comes back with the answer.
        token: u64,
        /// What.
        message: Message,
    },
    /// Choose members of shared subscriptions for messages whose members have gone. Answered by [`ToCluster::Chosen`].
    Choose {
        /// Comes back with the answer.
        token: u64,
        /// For each message.
        wanted: Vec<Wanted>,
    },
    /// Changes of routes, to apply in order. Answered by [`ToCluster::RoutesApplied`].
    Routes {
        /// Grows by one with each batch.
        number: u64,
        /// In order.
        changes: Vec<RouteChange>,
    },
    /// The connection has lost its client id. Answered by [`ToCluster::Released`].
    Evict {
        /// Which.
        connection: ConnectionId,
        /// What it held.
        client_id: ClientId,
        /// The epoch it held.
        epoch: u64,
        /// Why.
        why: Evicted,
    },
    /// Whether this node may accept CONNECT and PUBLISH now (K3). Starts as `false`.
    Serving(bool),
    /// This node was declared unreachable while it lived: every connection has lost its client id, and somebody else may
    /// hold it. Close them all (0x9C; 0x88 belongs in CONNACK alone); their end is not to be reported.
    Expelled,
    /// Ask clients to go, at most this many a second; then say nothing more (DISCONNECT 0x9D or 0x9C; 3.1.1: close).
    Drain {
        /// Clients a second.
        rate: u32,
    },
}
