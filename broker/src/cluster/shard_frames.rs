//! What the shards' rooms of two nodes say to each other. The mesh carries it without looking.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::retained_rounds::Scope;
use crate::identity::{ClientId, ConnectionId, Incarnation, NodeId, ShardId};
use crate::message::Message;
use crate::shard::{Command, Delivery, Evicted, Outcome, StoredSession};

/// One frame. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum ShardFrame {
    /// To a leader: commands of the sender's stream, numbered without gaps.
    Commands { shard: ShardId, commands: Vec<(u64, Command)> },
    /// From a leader: the results of commands.
    Replies { shard: ShardId, replies: Vec<(u64, Outcome)> },
    /// From a leader: there was a gap; send from this number on.
    Expects { shard: ShardId, seq: u64 },
    /// From a node that does not lead the shard, or not yet.
    NotLeader { shard: ShardId, leader: Option<NodeId> },
    /// From a leader to the node that a session's client is connected to.
    Deliver { connection: ConnectionId, epoch: u64, deliveries: Vec<Delivery> },
    /// From a leader to the node of a connection that lost its client id.
    Evict { connection: ConnectionId, client_id: ClientId, epoch: u64, why: Evicted },
    /// From the leader of this term to the node of a connection: what have you sent?
    Attach { shard: ShardId, term: u64, connection: ConnectionId, client_id: ClientId, epoch: u64 },
    /// The answer; epoch 0 when the connection does not hold the session.
    Attached { shard: ShardId, client_id: ClientId, epoch: u64, sent_to: u64 },
    /// From a leader to a run of a node: a message from the shard's outbox for its connected subscribers.
    Relay { shard: ShardId, to: Incarnation, number: u64, message: Message },
    /// The answer: that run has everything up to this number.
    Relayed { shard: ShardId, to: Incarnation, number: u64 },
    /// To a leader: what retained messages match, after this topic? `read` comes back with the answer.
    ReadRetained { shard: ShardId, read: u64, filter: Arc<str>, after: Option<Arc<str>> },
    /// The answer: some of them, and after which topic to go on.
    Retained { read: u64, messages: Vec<Message>, next: Option<Arc<str>> },
    /// To a leader: what are the first sessions after this client id? `read` comes back with the answer.
    ReadSessions { shard: ShardId, read: u64, after: Arc<str>, count: u32 },
    /// The answer.
    Sessions { shard: ShardId, read: u64, sessions: Vec<StoredSession> },
    /// To a node: say when what you have under way now for the retained messages of `scope` is kept. This and the next three
    /// only while every member speaks protocol 2.
    AskUnderWay { number: u64, scope: Scope },
    /// The answer.
    UnderWayKept { number: u64 },
    /// To a leader: say when what is in the outboxes of the shard now for the retained messages of `scope` is kept.
    AskOutboxes { shard: ShardId, number: u64, scope: Scope },
    /// The answer.
    OutboxesKept { shard: ShardId, number: u64 },
    /// From a leader to a run of a node: a message that the shard lends to a member of a shared subscription there. This and the
    /// next only while every member speaks protocol 4.
    Lend { shard: ShardId, to: Incarnation, number: u64, message: Message },
    /// The answer: that run has everything up to this number.
    Lent { shard: ShardId, to: Incarnation, number: u64 },
}

impl ShardFrame {
    /// As the mesh carries it. Plain data always encodes.
    pub(super) fn encode(&self) -> Bytes {
        Bytes::from(postcard::to_stdvec(self).unwrap_or_default())
    }

    /// `None` for a frame of a version that is not known here.
    pub(super) fn decode(bytes: &[u8]) -> Option<ShardFrame> {
        postcard::from_bytes(bytes).ok()
    }
}
