//! The state of a worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use tokio_util::sync::PollSender;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::counters::PublishedCounters;
use super::lifetime::Ending;
use super::table::Table;
use super::wheel::{Wheel, ticks};
use super::{WorkerConfig, wheel::Timed};
use crate::auth::{Guard, Policy};
use crate::connection::{Connection, State};
use crate::door::ToCluster;
use crate::faults;
use crate::identity::{ConnectionId, NodeId};
use crate::limits::{SCRATCH_BYTES, TICK_MS};
use crate::listener::Arrival;
use crate::message::Message;
use crate::protocol::{ReasonCode, Words};
use crate::router::{Router, Subscriber};

/// Everything a worker owns.
pub(super) struct Core {
    pub(super) index: u16,
    pub(super) node: NodeId,
    pub(super) table: Table,
    pub(super) guard: Guard,
    /// The one in force.
    pub(super) policy: Arc<Policy>,
    pub(super) router: Router,
    /// What connections read into, one at a time. Taken out while its bytes are processed.
    pub(super) scratch: Vec<u8>,
    /// Where subscriptions of one client that match the same message are brought together.
    pub(super) merging: Vec<Subscriber>,
    pub(super) wheel: Wheel,
    /// Connections on which MQTT has not begun.
    pub(super) handshakes: usize,
    pub(super) random: SmallRng,
    started: Instant,
    started_ms: u64,
    next_generation: u32,
    next_token: u32,
    /// Against K2, to see that tests notice.
    pub(super) forgets_exchanges: bool,

    pub(super) serving: bool,
    /// While this node may not serve: the tick at which its clients are closed.
    pub(super) cut_off_at: Option<u32>,
    pub(super) draining: Option<Drain>,
    /// What was last said in `$SYS` topics.
    pub(super) reported: Vec<Message>,
    /// Sessions whose queue had no room for retained messages, and the tick at which to ask again.
    pub(super) retained_later: VecDeque<(Timed, u32)>,

    /// For the cluster thread, at the end of this turn.
    pub(super) to_cluster: Vec<ToCluster>,
    pub(super) cluster: mpsc::UnboundedSender<Vec<ToCluster>>,
    pub(super) peers: Vec<Peer>,
    /// How many route changes this worker has sent.
    pub(super) routes_sent: u64,
    /// Of those, how many are known to be everywhere.
    pub(super) routes_settled: u64,
    pub(super) connections_told: u32,
    pub(super) published: Arc<PublishedCounters>,

    pub(super) flusher: Option<Waker>,
    pub(super) flush_due: bool,
}

/// Another worker of this node.
pub(super) struct Peer {
    pub(super) sender: PollSender<Vec<Message>>,
    /// It doesn't keep up: what is for it waits.
    pub(super) behind: bool,
    /// For it, at the end of this turn.
    pub(super) messages: Vec<Message>,
    /// Publishers that aren't read until it keeps up.
    pub(super) publishers: Vec<Timed>,
}

impl Peer {
    /// Whether `publisher` must wait until it keeps up.
    pub(super) fn holds_up(&mut self, publisher: Option<Timed>) -> bool {
        let waits = publisher.filter(|_| self.behind);
        self.publishers.extend(waits);
        waits.is_some()
    }
}

/// Clients being asked to go.
pub(super) struct Drain {
    /// Clients a second.
    pub(super) rate: u32,
    /// What is left of a client from the last tick, in thousandths.
    pub(super) credit: u64,
    /// The place to go on at.
    pub(super) next: usize,
}

impl Core {
    pub(super) fn new(
        config: WorkerConfig,
        cluster: mpsc::UnboundedSender<Vec<ToCluster>>,
        peers: Vec<mpsc::Sender<Vec<Message>>>,
        published: Arc<PublishedCounters>,
    ) -> Core {
        let peers = peers
            .into_iter()
            .map(|sender| Peer {
                sender: PollSender::new(sender),
                behind: false,
                messages: Vec::new(),
                publishers: Vec::new(),
            })
            .collect();
        let mut guard = config.guard;
        let policy = guard.policy();
        Core {
            index: config.index,
            node: config.node,
            table: Table::new(policy.limits.clone()),
            guard,
            policy,
            router: Router::default(),
            scratch: vec![0; SCRATCH_BYTES],
            merging: Vec::new(),
            wheel: Wheel::default(),
            handshakes: 0,
            random: SmallRng::seed_from_u64(config.seed),
            started: Instant::now(),
            started_ms: config.now_ms,
            next_generation: 0,
            next_token: 0,
            forgets_exchanges: faults::breaks_k2(),
            serving: false,
            cut_off_at: None,
            draining: None,
            reported: Vec::new(),
            retained_later: VecDeque::new(),
            to_cluster: Vec::new(),
            cluster,
            peers,
            routes_sent: 0,
            routes_settled: 0,
            connections_told: 0,
            published,
            flusher: None,
            flush_due: false,
        }
    }

    /// The wall clock. Looked at only for messages that expire.
    pub(super) fn now_ms(&self) -> u64 {
        self.started_ms + self.started.elapsed().as_millis() as u64
    }

    /// The name of the connection at `slot`.
    pub(super) fn id_of(&self, slot: u32) -> ConnectionId {
        let generation = self.table.connections.get(slot as usize).map_or(0, |connection| connection.generation);
        ConnectionId { worker: self.index, slot, generation }
    }

    /// A token that no request of this worker carries now.
    pub(super) fn token(&mut self) -> u32 {
        self.next_token = self.next_token.wrapping_add(1);
        self.next_token
    }

    /// Takes in a connection; `None` if there are too many.
    pub(super) fn add(&mut self, arrival: Arrival) -> Option<Timed> {
        if self.table.connections.len() + self.handshakes >= self.table.limits.connections_max {
            self.table.counters.connections_refused += 1;
            return None;
        }
        self.next_generation = self.next_generation.wrapping_add(1);
        let generation = self.next_generation;
        let tick = self.wheel.now();
        let connection = Connection::new(generation, arrival.stream, arrival.origin, tick);
        let slot = self.table.connections.insert(Box::new(connection)) as u32;
        self.table.counters.connections_accepted += 1;
        self.table.counters.connections += 1;
        let timed = (slot, generation);
        let deadline = tick + ticks(self.table.limits.connect_ms);
        self.look_at_later(timed, deadline);
        Some(timed)
    }

    /// Lets the flush run at the end of this turn.
    pub(super) fn flush_soon(&mut self) {
        if !self.flush_due {
            self.flush_due = true;
            if let Some(flusher) = &self.flusher {
                flusher.wake_by_ref();
            }
        }
    }

    /// Says something to the cluster thread at the end of this turn.
    pub(super) fn tell(&mut self, what: ToCluster) {
        self.to_cluster.push(what);
        self.flush_soon();
    }

    /// Announces that this worker's first subscriber of a filter has come, or its last has gone.
    pub(super) fn announce(&mut self, filter: Arc<str>, wanted: bool) {
        self.routes_sent += 1;
        self.tell(ToCluster::Route { worker: self.index, filter, wanted });
    }

    /// One tick of the worker's timer.
    pub(super) fn tick(&mut self) {
        let due = self.wheel.turn();
        self.table.tick = self.wheel.now();
        for timed in due {
            self.look_at(timed);
        }
        if self.cut_off_at.is_some_and(|at| at <= self.wheel.now()) {
            self.cut_off_at = None;
            self.close_sessions(Ending::WithWill);
        }
        self.follow_policy();
        self.end_congestion();
        self.retry_retained();
        self.drain_some();
        self.tell_connections();
        self.published.publish(&self.table.counters);
    }

    /// A connection's turn in the wheel: has it been silent for too long?
    fn look_at(&mut self, timed: Timed) {
        let (slot, _) = timed;
        let now = self.wheel.now();
        let connect_ticks = ticks(self.table.limits.connect_ms);
        let linger_ticks = ticks(self.table.limits.linger_ms);
        let Some(connection) = self.table.get(timed).filter(|connection| connection.due == now) else {
            // It has gone, or has a newer entry.
            return;
        };
        let silence_ticks_max = match connection.state {
            State::Connecting | State::Proving(_) => connect_ticks,
            State::Opening(_) | State::Orphan(_) => return,
            State::Open(_) => connection.silence_ticks_max,
            State::Closing { .. } => linger_ticks,
        };
        if silence_ticks_max == 0 {
            return;
        }
        let deadline = connection.heard + silence_ticks_max;
        if now < deadline {
            return self.look_at_later(timed, deadline);
        }
        match connection.state {
            // [MQTT-3.1.2-22]
            State::Open(_) if connection.pauses.none() => {
                self.table.counters.keep_alive_timeouts += 1;
                let keep_alive_seconds = u64::from(silence_ticks_max) * TICK_MS / 1500;
                let words = "nothing came for one and a half times the keep alive, which is {} s";
                let words = Words::with(words, keep_alive_seconds);
                self.close(slot, Some(ReasonCode::KEEP_ALIVE_TIMEOUT.because(words)), Ending::WithWill);
            }
            // It isn't silent: it isn't read.
            State::Open(_) => {
                connection.heard = now;
                self.look_at_later(timed, now + silence_ticks_max);
            }
            State::Connecting => {
                self.table.counters.refused_connect_ms += 1;
                self.remove(slot);
            }
            _ => self.remove(slot),
        }
    }

    /// Looks at a connection at that tick, and not before.
    pub(super) fn look_at_later(&mut self, timed: Timed, tick: u32) {
        let due = self.wheel.schedule(timed, tick);
        if let Some(connection) = self.table.get(timed) {
            connection.due = due;
        }
    }

    /// Receivers that had their moment and still don't keep up are on their own from now on.
    fn end_congestion(&mut self) {
        let congested = std::mem::take(&mut self.table.congested);
        for (timed, since) in congested {
            let now = self.wheel.now();
            let over = now >= since + ticks(self.table.limits.congestion_ms);
            let Some(connection) = self.table.get(timed) else {
                continue;
            };
            let Some(mut congestion) = connection.take_congestion() else {
                continue;
            };
            if over {
                congestion.slow = true;
                self.table.release(&mut congestion);
            } else {
                self.table.congested.push((timed, since));
            }
            if let Some(connection) = self.table.get(timed) {
                connection.rare.congestion = Some(congestion);
            }
        }
    }

    fn drain_some(&mut self) {
        let Some(drain) = &mut self.draining else {
            return;
        };
        let credit = drain.credit + u64::from(drain.rate) * TICK_MS;
        drain.credit = credit.min(1000 * u64::from(drain.rate));
        let places = self.table.connections.capacity();
        let mut asked = Vec::new();
        while drain.credit >= 1000 && drain.next < places {
            if let Some(connection) = self.table.connections.get(drain.next)
                && matches!(connection.state, State::Open(_))
            {
                drain.credit -= 1000;
                asked.push(drain.next as u32);
            }
            drain.next += 1;
        }
        if drain.next >= places {
            drain.next = 0;
        }
        for slot in asked {
            let why = ReasonCode::USE_ANOTHER_SERVER.because("this node is being drained");
            self.close(slot, Some(why), Ending::WithWill);
        }
    }

    fn tell_connections(&mut self) {
        let connections = self.table.counters.sessions as u32;
        if connections != self.connections_told {
            self.connections_told = connections;
            let worker = self.index;
            self.tell(ToCluster::Connections { worker, connections });
        }
    }
}
