//! What is said on a link: one frame is a length, then one [`Frame`] in postcard.
//!
//! New variants go to the end, so that neighbouring versions understand each other. The bodies of Raft and of the shards
//! are opaque here.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::identity::{GroupId, NodeId, Origin, ShardId};
use crate::message::Message;

/// Version of this protocol. From 2 on shards fence off what older connections of a publisher left on its way, and nodes are
/// asked what they have under way for retained messages; from 3 on each retained message names the connection that published
/// it; from 4 on shards lend messages to members of shared subscriptions. Nothing is said that a member does not understand.
pub const PROTOCOL: u16 = 4;

/// The oldest version that is spoken with.
pub const PROTOCOL_MIN: u16 = 1;

/// The first frame in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The highest version the sender speaks.
    pub protocol: u16,
    /// The cluster it belongs to; `None` while it belongs to none.
    pub cluster: Option<u64>,
    /// Which run of which node.
    pub origin: Origin,
    /// Its name, unique within a cluster.
    pub name: String,
    /// Where it can be dialled.
    pub address: String,
    /// The software's version, to be shown.
    pub version: String,
}

/// One frame after the hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// Nothing but a sign of life.
    Ping,
    /// A call of one Raft group's member to another's. Answered by [`Frame::Answer`].
    Raft {
        /// Chosen by the caller.
        call: u64,
        /// The group.
        group: GroupId,
        /// Encoded by `replication`.
        request: Bytes,
    },
    /// A call to the control room. Answered by [`Frame::Answer`].
    Ask {
        /// Chosen by the caller.
        call: u64,
        /// A `control` request in postcard.
        request: Bytes,
    },
    /// The answer to a call; `None` when the peer cannot answer it (no such group there).
    Answer {
        /// As in the call.
        call: u64,
        /// Encoded by whoever answered.
        answer: Option<Bytes>,
    },
    /// Between the shards' rooms.
    Shard(Bytes),
    /// Between the routes of two nodes.
    Route(RouteFrame),
    /// Messages for the connected subscribers of the receiver.
    Forward {
        /// Grows by one with each batch on a link; 0 for a batch that is not acknowledged.
        number: u64,
        /// In the order published.
        messages: Vec<Message>,
    },
    /// The receiver of [`Frame::Forward`] has handed over everything up to this number.
    Forwarded {
        /// The number.
        number: u64,
    },
}

/// Whose filters a list or a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteSource {
    /// The connected subscribers of the sending node.
    Node,
    /// The persistent sessions of a shard the sending node leads.
    Shard {
        /// The shard.
        shard: ShardId,
        /// The term it leads in.
        term: u64,
    },
}

/// Between the routes of two nodes. A link begins with a whole list per source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteFrame {
    /// All filters of a source: replaces what was known of it.
    Whole {
        /// Grows by one with each frame of this kind and of [`RouteFrame::Changes`] on a link.
        number: u64,
        /// Whose.
        source: RouteSource,
        /// All of them.
        filters: Vec<Arc<str>>,
    },
    /// Changes of a source, in order.
    Changes {
        /// As above.
        number: u64,
        /// Whose.
        source: RouteSource,
        /// Filter, and whether it is wanted from now on.
        changes: Vec<(Arc<str>, bool)>,
    },
    /// All workers of the sender have applied up to this number.
    Applied {
        /// The number.
        number: u64,
    },
    /// Asks for [`RouteFrame::Synced`] once the receiver counts the sender among those that routes must reach.
    Sync {
        /// The control group's version by which the sender has become active.
        version: u64,
    },
    /// Everything the receiver of [`RouteFrame::Sync`] wants was announced before this.
    Synced {
        /// As asked.
        version: u64,
    },
}

/// A node as the links know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which run of which node.
    pub origin: Origin,
    /// Its name.
    pub name: String,
    /// Where it can be dialled.
    pub address: String,
    /// The software's version.
    pub version: String,
}

impl Peer {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.origin.node
    }
}
