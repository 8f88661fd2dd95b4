//! What goes through a shard's log, and what comes out of it.
//!
//! Every node numbers its commands to a shard (1, 2, 3, …, per [`Origin`]), and sends them again in order until they are
//! answered. The state machine remembers the last number applied per origin, so that a command takes effect once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::{ClientId, ConnectionId, Origin, ShardId};
use crate::message::{Message, Subscription};

/// One entry of a shard's log: a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's clock when it proposed the batch, in milliseconds since the Unix epoch. The state machine never lets
    /// its own clock go back.
    pub now_ms: u64,
    /// In the order to apply.
    pub commands: Vec<Numbered>,
}

/// A command and its place in the stream of its origin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// Who numbered it.
    pub origin: Origin,
    /// From 1, without gaps.
    pub seq: u64,
    /// What to do.
    pub command: Command,
}

/// What a node asks of a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// A CONNECT: take the client id, from another connection if need be.
    Open(Open),
    /// The end of a connection. Answered [`Outcome::Stale`] when the client id is held by a newer epoch.
    Close(Close),
    /// Add or replace subscriptions of a persistent session.
    Subscribe {
        /// The session.
        client_id: ClientId,
        /// The epoch that [`Outcome::Opened`] gave.
        epoch: u64,
        /// At most `limits` many.
        subscriptions: Vec<Subscription>,
    },
    /// Remove subscriptions of a persistent session.
    Unsubscribe {
        /// The session.
        client_id: ClientId,
        /// The epoch that [`Outcome::Opened`] gave.
        epoch: u64,
        /// Exact filters.
        filters: Vec<Arc<str>>,
    },
    /// A message of QoS 1 or 2: to the queue of each persistent session whose subscription matches with QoS above 0.
    Publish(Message),
    /// What the subscriber acknowledged of its queue.
    Acknowledge {
        /// The session.
        client_id: ClientId,
        /// The epoch that [`Outcome::Opened`] gave.
        epoch: u64,
        /// In the order acknowledged.
        acks: Vec<Ack>,
    },
    /// The run of a node that was declared unreachable or gone: its connections are over, its wills fall due, its stream
    /// is forgotten.
    NodeGone(Origin),
    /// A will that is due goes to everybody that it is for, once (K7). Answered [`Outcome::NotFound`] if it has gone.
    FireWill {
        /// Whose will.
        client_id: ClientId,
        /// The epoch that stored it.
        epoch: u64,
        /// Who that is.
        spread: Spread,
    },
    /// Nothing but the passing of time: expiries and wills that fall due.
    Tick,
    /// The connection that held the client id in this epoch, and was to go, has let go of it (K4).
    Released {
        /// The client id.
        client_id: ClientId,
        /// The epoch that was held.
        epoch: u64,
    },
    /// A message of QoS 2 from a persistent session. Its shard records the packet id and sees to it that the message goes
    /// everywhere once. Answered when it is there; with the same packet id again, without going anywhere again.
    PublishOnce(PublishOnce),
    /// PUBREL of a persistent session: the packet id is free. Answered [`Outcome::NotFound`] if it was.
    EndExchange {
        /// The session.
        client_id: ClientId,
        /// The epoch that [`Outcome::Opened`] gave.
        epoch: u64,
        /// Whose exchange is over.
        packet_id: u16,
    },
    /// A message from the outbox of another shard: answered as [`Command::Publish`] is, and as often as it comes, but
    /// applied once.
    Relay {
        /// Whose outbox.
        from: ShardId,
        /// Its number there.
        number: u64,
        /// What is published.
        message: Message,
        /// From the outbox of what is to be kept: it becomes its topic's retained message.
        keep: bool,
    },
    /// Destinations have what was on its way to them.
    Relayed(Vec<Relayed>),
    /// A message published with RETAIN: it becomes its topic's retained message, or without a payload ends it. Whoever
    /// subscribes to the topic gets it by [`Command::Publish`].
    Retain(Message),
    /// Retained messages that a persistent session has subscribed to: to its queue. Answered by [`Outcome::Owes`].
    Enqueue {
        /// The session.
        client_id: ClientId,
        /// The epoch that [`Outcome::Opened`] gave.
        epoch: u64,
        /// The subscription's.
        filter: Arc<str>,
        /// What was read from the place where the session stood.
        messages: Vec<Message>,
        /// Where to go on; `None` when that was all.
        next: Option<Place>,
    },
    /// Messages of shared subscriptions go to other members. Answered by [`Outcome::Stored`] with how many went.
    HandOver(Vec<HandOver>),
    /// An administrator ends a session, and the connection that holds it. Answered [`Outcome::NotFound`] if there is none.
    DeleteSession {
        /// Whose.
        client_id: ClientId,
    },
    /// [`Command::Retain`], published by a connection of its publisher: refused if a newer one has published a retained
    /// message here (K8). Only said when every member reads it: a broker before protocol 2 passes over it.
    Keep {
        /// What is published.
        message: Message,
        /// The epoch that [`Outcome::Opened`] gave to the connection.
        epoch: u64,
    },
    /// A client publishes retained messages by a connection of this epoch: what older ones left on its way is refused from
    /// now on. Said before what comes from another shard's outbox; and only when every member reads it.
    Fence {
        /// Whose.
        client_id: ClientId,
        /// The epoch that [`Outcome::Opened`] gave.
        epoch: u64,
    },
    /// [`Command::Keep`], and its topic remembers the epoch. Only said when every member reads it, as the next: a broker
    /// before protocol 3 passes over it.
    KeepAs {
        /// What is published.
        message: Message,
        /// The epoch that [`Outcome::Opened`] gave to the connection.
        epoch: u64,
    },
    /// A message from the outbox of another shard becomes its topic's retained message. Answered as [`Command::Relay`] is.
    KeepRelayed {
        /// Whose outbox.
        from: ShardId,
        /// Its number there.
        number: u64,
        /// What is published.
        message: Message,
        /// By which connection.
        sender: Sender,
    },
    /// A message above QoS 0 for a member of a shared subscription whose session ends with its connection, while others of the
    /// subscription are persistent. The shard keeps it until it is told what became of it, or the run is over. Answered as
    /// [`Command::Publish`] is. Only said when every member reads it, as the next: a broker before protocol 4 passes over it.
    Lend {
        /// It names the member.
        message: Message,
        /// Where that is connected.
        to: Origin,
        /// A persistent member of this shard, which has the message else.
        heir: Arc<str>,
    },
    /// What became of loans to the run that says this, by their numbers.
    EndLoans {
        /// Nothing is owed any more.
        done: Vec<u64>,
        /// Somebody else's.
        returned: Vec<u64>,
    },
}

/// The connection that a message from an outbox is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sender {
    /// Nobody knows: of an older broker.
    Unknown,
    /// A session that waits for the answer, and is held or was held last by this epoch.
    Waits(u64),
    /// One that is over, with its session or but for its will: it gives way to what newer ones have published. 0 if nobody
    /// knows which.
    Over(u64),
}

/// A message of a shared subscription goes to another member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandOver {
    /// In whose queue it stands; `None` for a stray.
    pub from: Option<ClientId>,
    /// Its number there.
    pub number: u64,
    /// Where it goes.
    pub to: Onward,
}

/// Where a message of a shared subscription goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Onward {
    /// To a member elsewhere, by way of an outbox.
    To(Destination, Arc<str>),
    /// To a member of this shard.
    Here(Arc<str>),
    /// There is no member any more.
    Nowhere,
}

/// How far the retained messages of a filter have been read: shard by shard, in the order of their topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The shard to read.
    pub shard: ShardId,
    /// The topic there to go on after.
    pub after: Option<Arc<str>>,
}

/// A PUBLISH of QoS 2 in a persistent session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishOnce {
    /// The session.
    pub client_id: ClientId,
    /// The epoch that [`Outcome::Opened`] gave.
    pub epoch: u64,
    /// Of the PUBLISH.
    pub packet_id: u16,
    /// What.
    pub message: Message,
    /// For whom.
    pub spread: Spread,
}

/// Whom a message is for that leaves by the outboxes of a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// This shard has sessions that want it.
    pub here: bool,
    /// This shard keeps it for its topic.
    pub keep: bool,
    /// Who else must have it; each at most once.
    pub destinations: Vec<Destination>,
    /// Members of shared subscriptions, each for a copy of its own; `None`: of this shard.
    pub recipients: Vec<(Option<Destination>, Arc<str>)>,
}

/// Where a message goes from a shard's outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Destination {
    /// Another shard.
    Shard(ShardId),
    /// The connected subscribers of this run of a node.
    Node(Origin),
    /// The shard that keeps it for its topic.
    Keeper(ShardId),
    /// Members of shared subscriptions that are connected to this run of a node, and are lent messages. Only while every
    /// member speaks protocol 4.
    Borrower(Origin),
}

impl Destination {
    /// The run of a node that it is on.
    pub fn run(&self) -> Option<Origin> {
        match self {
            Destination::Node(run) | Destination::Borrower(run) => Some(*run),
            Destination::Shard(_) | Destination::Keeper(_) => None,
        }
    }
}

/// What became of a message from an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// Who has it now, and all before it.
    pub to: Destination,
    /// Its number in the outbox.
    pub number: u64,
    /// Why it was not stored there.
    pub refused: Option<Refusal>,
}

/// What CONNECT says that the shard must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The client id, never empty: the server has assigned one by now.
    pub client_id: ClientId,
    /// Where the client is connected.
    pub connection: ConnectionId,
    /// Start anew and delete what was there ([MQTT-3.1.2-4]).
    pub clean_start: bool,
    /// Seconds the session outlives its connection; 0: it ends with it (an ephemeral session), `u32::MAX`: never
    /// expires.
    pub session_expiry_seconds: u32,
    /// How many unacknowledged QoS 1 and 2 messages the client takes at once; 1 to 65,535.
    pub receive_maximum: u16,
    /// Published when the connection ends other than by DISCONNECT 0x00.
    pub will: Option<Will>,
}

/// A will, stored with the session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Will {
    /// What is published.
    pub message: Message,
    /// Seconds between the end of the connection and the will.
    pub delay_seconds: u32,
    /// Seconds after which it expires once it is published.
    pub expiry_seconds: Option<u32>,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Close {
    /// The session.
    pub client_id: ClientId,
    /// The epoch that [`Outcome::Opened`] gave.
    pub epoch: u64,
    /// Why.
    pub cause: CloseCause,
    /// A new session expiry from DISCONNECT, in seconds.
    pub session_expiry_seconds: Option<u32>,
    /// The highest queue number that was sent to the client: what to send again with DUP set. 0 for none.
    pub sent_to: u64,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseCause {
    /// DISCONNECT with 0x00: the will is discarded ([MQTT-3.1.2-10]).
    Normal,
    /// Anything else: the will is due after its delay.
    WithWill,
}

/// A client's acknowledgement of one delivery, by queue number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ack {
    /// PUBACK, or a delivery that the broker gave up (expired, too large for the client): out of the queue.
    Done(u64),
    /// PUBREC: from now on PUBREL is sent, not the message.
    Received(u64),
    /// PUBCOMP.
    Completed(u64),
}

impl Ack {
    /// The number, if this is PUBREC.
    pub fn received(&self) -> Option<u64> {
        match self {
            Ack::Received(number) => Some(*number),
            Ack::Done(_) | Ack::Completed(_) => None,
        }
    }
}

/// Which connection holds a client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The run of the node it is connected to.
    pub origin: Origin,
    /// The connection there.
    pub connection: ConnectionId,
}

/// What a shard's state machine asks for. Every replica computes the same effects; only the leader carries them out.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The answer to a command. Also given, computed anew, for a command that was applied before.
    Reply {
        /// Whose command.
        origin: Origin,
        /// Which.
        seq: u64,
        /// Its result.
        outcome: Outcome,
    },
    /// A connection holds the client id now, and was sent nothing yet. Not told of an ephemeral session, which has no queue.
    Opened(ClientId),
    /// The queue of a session that is connected has something new to send.
    Deliverable(ClientId),
    /// A connection has lost its client id and must go. Its node says [`Command::Released`].
    Evict {
        /// The session.
        client_id: ClientId,
        /// The connection that must go.
        holder: Holder,
        /// The epoch it held.
        epoch: u64,
        /// Why.
        why: Evicted,
    },
    /// The first persistent subscription with QoS above 0 to this filter: the shard now wants its messages.
    RouteAdded(Arc<str>),
    /// The last one has gone.
    RouteRemoved(Arc<str>),
    /// A message of a shared subscription could go to another member.
    Unplaced,
    /// The outbox for a destination has something new.
    Relayable(Destination),
    /// A will is due: find out whom it is for, and say [`Command::FireWill`].
    Will {
        /// Whose will.
        client_id: ClientId,
        /// The epoch that stored it.
        epoch: u64,
        /// What is published.
        message: Message,
    },
}

/// Why a connection lost its client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evicted {
    /// A newer connection took it: 0x8E Session taken over ([MQTT-3.1.4-3]).
    TakenOver,
    /// An administrator ended it: 0x98 Administrative action.
    Administrative,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The connection holds the client id.
    Opened {
        /// Fences everything this connection says from now on; grows with each holder.
        epoch: u64,
        /// Whether a session was there to go on with ([MQTT-3.2.2-2]).
        session_present: bool,
        /// Its subscriptions; empty for a new one.
        subscriptions: Vec<Subscription>,
        /// Of those, the ones whose retained messages are not all in its queue, and where to go on reading them.
        owed: Vec<(Arc<str>, Place)>,
    },
    /// Done: closed, acknowledged, on its way, ticked.
    Done,
    /// One reason code per subscription or filter, in order (SUBACK, UNSUBACK).
    Codes(Vec<u8>),
    /// Stored in the queues of this many sessions (0: none matched any more).
    Stored(u32),
    /// The epoch is not the holder's: somebody newer holds the client id.
    Stale,
    /// A limit refused it.
    Refused(Refusal),
    /// No exchange of this packet id is open, no such will is due, or there is no such session.
    NotFound,
    /// Where to go on reading the retained messages of a filter for a session; `None` when nothing is owed. The place of
    /// before, when its queue has no room for them now.
    Owes(Option<Place>),
}

/// Which limit refused a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The shard's state has reached its bound: 0x97 Quota exceeded.
    Quota,
    /// No majority stores it now: 0x88 Server unavailable.
    Unavailable,
}

/// One message of a persistent session's queue on its way to the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The queue number: from 1, without gaps, per session. The packet id is [`Delivery::packet_id`].
    pub seq: u64,
    /// The message; its `qos` and `retain` are those to send. Without payload once it is received.
    pub message: Message,
    /// It may have been sent before: DUP is set ([MQTT-3.3.1-1]).
    pub dup: bool,
    /// PUBREC has come: send PUBREL, not the message.
    pub received: bool,
    /// The subscription identifiers of the subscriptions that matched ([MQTT-3.3.4-3]).
    pub identifiers: Vec<u32>,
}

impl Delivery {
    /// The packet id of a queue number: 1 to 65,535. It depends on nothing else, so any node resends under the same id
    /// ([MQTT-4.4.0-1]) and nothing is logged when a message is sent.
    pub fn packet_id(seq: u64) -> u16 {
        ((seq % 65_535) + 1) as u16
    }
}
