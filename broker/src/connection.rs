//! One client's connection: its stream, what was read and not yet understood, what is to be written.
//!
//! It reads when the socket is ready, into its worker's scratch buffer, and keeps only a packet that isn't whole; it
//! writes once per turn. Deliberately absent: what packets mean (`worker` and `session`), and any timer of its own.

mod input;
mod layout;
mod output;
mod stream;
mod websocket;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;

use tokio::sync::oneshot;

use crate::auth::Exchange;
use crate::identity::ClientId;
use crate::listener::Ticket;
use crate::seldom::{Nothing, Seldom};
use crate::session::{Opening, Session};

pub use input::{Chunk, Input};
pub use layout::{Content, Form, Layouts, Payload, packet_bytes};
pub use output::{Output, Spares};
pub use stream::{Duplex, Stream};
pub use websocket::WebSocket;

/// A connection in its worker's table.
pub struct Connection {
    /// Tells it apart from others that used the same place.
    pub generation: u32,
    /// Where it stands.
    pub state: State,
    /// The byte stream.
    pub stream: Stream,
    /// What was read and not yet understood.
    pub input: Input,
    /// What is to be written.
    pub output: Output,
    /// Wakes the task that reads.
    pub waker: Option<Waker>,
    /// The tick at which something was last read.
    pub heard: u32,
    /// Ticks without a packet after which it ends; 0 for never.
    pub silence_ticks_max: u32,
    /// The tick at which its entry in the worker's wheel comes up.
    pub due: u32,
    /// Among those that the worker will flush this turn.
    pub dirty: bool,
    /// The socket took less than all: its task is woken when it takes more.
    pub blocked: bool,
    /// Why nothing is read.
    pub pauses: Pauses,
    /// Through which listener it came.
    pub entrance: Ticket,
    /// From where; a balancer may have said so.
    pub peer: Option<Peer>,
    /// The user: proven by a certificate at first, by whatever CONNECT brought later. `None`: anonymous.
    pub user: Option<Arc<str>>,
    /// What most connections never have.
    pub rare: Seldom<Rare>,
}

// One for every client: a size of the allocator. A field more makes it the next, 192 bytes.
const _: () = assert!(size_of::<Connection>() <= 160);

/// What most connections never have.
#[derive(Debug, Default)]
pub struct Rare {
    /// The topic it last published to, and whether it may; kept only while there are rules.
    pub verdict: Option<(String, bool)>,
    /// It proved itself by AUTH packets.
    pub authentication: Option<Box<Authentication>>,
    /// How it takes part in slowing publishers down, once it does.
    pub congestion: Option<Congestion>,
}

impl Nothing for Rare {
    const NOTHING: &'static Self = &Rare { verdict: None, authentication: None, congestion: None };

    fn nothing() -> Self {
        Rare::default()
    }
}

/// How a connection came here.
#[derive(Debug)]
pub struct Origin {
    /// Through which listener.
    pub entrance: Ticket,
    /// From where; a balancer may have said so.
    pub peer: Option<Peer>,
    /// The user: proven by a certificate at first, by whatever CONNECT brought later. `None`: anonymous.
    pub user: Option<Arc<str>>,
}

/// The address of a client, in little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// One of IPv4 as IPv6 maps it (RFC 4291, section 2.5.5.2).
    ip: Ipv6Addr,
    port: u16,
}

impl Peer {
    /// Without the port; of IPv4 where it is.
    pub fn ip(self) -> IpAddr {
        self.ip.to_canonical()
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Peer { ip, port: address.port() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip(), self.port).fmt(f)
    }
}

/// A CONNECT whose user is not proven yet.
#[derive(Debug)]
pub struct Proof {
    /// The packet.
    pub connect: Vec<u8>,
    /// The largest packet that its client takes, in bytes.
    pub packet_bytes_max: u32,
    /// What it waits for.
    pub step: ProofStep,
}

/// What proves a user.
#[derive(Debug)]
pub enum ProofStep {
    /// A password, which is being checked.
    Password {
        /// Who says to be.
        user: Arc<str>,
        /// Whether it is right.
        answer: oneshot::Receiver<bool>,
    },
    /// An exchange of AUTH packets; `None` before the client's first message.
    Scram(Option<Exchange>),
}

/// What is kept of a client that proved itself by AUTH packets.
#[derive(Debug)]
pub struct Authentication {
    /// The server's last message, for CONNACK.
    pub last: String,
    /// It is proving itself again.
    pub again: Option<Exchange>,
}

/// Where a connection stands.
pub enum State {
    /// CONNECT has not come.
    Connecting,
    /// CONNECT has come, and what proves its user hasn't, or is being checked.
    Proving(Box<Proof>),
    /// CONNECT waits for its shard.
    Opening(Box<Opening>),
    /// A session.
    Open(Box<Session>),
    /// The last packet is on its way out, then what the client still sends is ignored until it closes too: closing
    /// before that could destroy the last packet.
    Closing {
        /// The last packet has left and the stream is shut for writing.
        shut: bool,
    },
    /// The client has gone while CONNECT waited for its shard; only the place is left, to close the session.
    Orphan(Box<ClientId>),
}

/// Why a connection isn't read. Each is lifted by whoever set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses(u8);

impl Pauses {
    /// CONNECT waits for its shard.
    pub const OPENING: u8 = 1;
    /// Too many publishes aren't acknowledged.
    pub const RECEIPTS: u8 = 2;
    /// Too many SUBSCRIBEs aren't answered.
    pub const AWAITED: u8 = 4;
    /// A receiver of its messages doesn't keep up.
    pub const RECEIVER: u8 = 8;
    /// Another worker doesn't keep up.
    pub const PEER: u8 = 16;

    /// Whether it may be read.
    pub fn none(self) -> bool {
        self.0 == 0
    }

    /// Adds a reason.
    pub fn set(&mut self, reason: u8) {
        self.0 |= reason;
    }

    /// Lifts a reason. True if it was the last.
    pub fn lift(&mut self, reason: u8) -> bool {
        let before = self.0;
        self.0 &= !reason;
        before != 0 && self.0 == 0
    }
}

/// A receiver that doesn't keep up: for a moment its publishers wait for it, then it is on its own.
#[derive(Debug, Default)]
pub struct Congestion {
    /// Publishers that aren't read until this drains: slot and generation.
    pub publishers: Vec<(u32, u32)>,
    /// The moment is over: what doesn't fit is dropped, and nobody waits.
    pub slow: bool,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(generation: u32, stream: Stream, origin: Origin, tick: u32) -> Connection {
        let Origin { entrance, peer, user } = origin;
        Connection {
            generation,
            state: State::Connecting,
            stream,
            input: Input::default(),
            output: Output::default(),
            waker: None,
            heard: tick,
            silence_ticks_max: 0,
            due: 0,
            dirty: false,
            blocked: false,
            pauses: Pauses::default(),
            entrance,
            peer,
            user,
            rare: Seldom::NONE,
        }
    }

    /// The session, if it has one.
    pub fn session(&mut self) -> Option<&mut Session> {
        match &mut self.state {
            State::Open(session) => Some(session),
            _ => None,
        }
    }

    /// Ends its part in slowing publishers down, if it has one.
    pub fn take_congestion(&mut self) -> Option<Congestion> {
        self.rare.if_any()?.congestion.take()
    }

    /// Lets its task run.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
