//! The end of a turn: everything that was appended leaves at once.

use std::task::{Context, Poll, Waker};

use super::core::Core;
use super::lifetime::acknowledge;
use crate::connection::{Pauses, State};
use crate::door::{LoanEnd, ToCluster};
use crate::identity::ConnectionId;
use crate::limits::PUMPS_PER_TURN_MAX;

impl Core {
    /// Runs when [`Core::flush_soon`] was called; never ready.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.flusher {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        self.flush_due = false;
        let mut dirty = std::mem::take(&mut self.table.dirty);
        for slot in dirty.drain(..) {
            self.flush_connection(slot);
        }
        if self.table.dirty.is_empty() {
            // Keeps its room.
            self.table.dirty = dirty;
        } else {
            self.flush_soon();
        }
        self.send_to_cluster();
        for peer in 0..self.peers.len() {
            self.flush_peer(peer, context);
        }
        Poll::Pending
    }

    /// Lets the cluster thread have what it is to be told so far.
    pub(super) fn send_to_cluster(&mut self) {
        if !self.table.loans.is_empty() {
            self.to_cluster.push(ToCluster::Loans(std::mem::take(&mut self.table.loans)));
        }
        if !self.to_cluster.is_empty() {
            // Without a cluster thread the node is ending.
            let _ = self.cluster.send(std::mem::take(&mut self.to_cluster));
        }
    }

    /// Writes what a connection has to say, then what waited for that, and passes on its acknowledgements.
    fn flush_connection(&mut self, slot: u32) {
        let mut failed = false;
        for _ in 0..PUMPS_PER_TURN_MAX {
            if self.table.something_waits(slot) {
                let now_ms = self.now_ms();
                self.table.pump(slot, now_ms);
            }
            let Some(connection) = self.table.connections.get_mut(slot as usize) else {
                return;
            };
            connection.dirty = false;
            if (connection.output.is_empty() && !connection.stream.unflushed()) || connection.blocked {
                break;
            }
            let mut context = Context::from_waker(connection.waker.as_ref().unwrap_or(Waker::noop()));
            let written = connection.output.write_to(&mut connection.stream, &mut context, &mut self.table.spares);
            match written {
                Ok(count) => self.table.counters.bytes_sent += count as u64,
                Err(_) => failed = true,
            }
            connection.blocked = !connection.output.is_empty() || connection.stream.unflushed();
            if failed || connection.blocked {
                break;
            }
        }
        if failed {
            return self.lost(slot);
        }
        self.after_flush(slot);
    }

    fn after_flush(&mut self, slot: u32) {
        let worker = self.index;
        let Some(connection) = self.table.connections.get_mut(slot as usize) else {
            return;
        };
        let id = ConnectionId { worker, slot, generation: connection.generation };
        let empty = connection.output.is_empty() && !connection.stream.unflushed();
        let timed = (slot, connection.generation);
        let (mut drained, mut reading) = (false, false);
        match &mut connection.state {
            State::Open(session) => {
                drained = session.nothing_waits();
                reading = drained && session.readings.is_some();
                if let Some(acknowledge) = acknowledge(id, session) {
                    self.to_cluster.push(acknowledge);
                }
                if session.has_returned_loans() {
                    let done = session.take_returned_loans().into_iter().map(|loan| (loan, LoanEnd::Done));
                    self.table.loans.extend(done);
                }
                // It takes more at once than a turn allows: go on in the next.
                if empty && !drained && session.may_send_waiting() {
                    self.table.mark_dirty(slot);
                }
            }
            State::Closing { shut } if empty && !*shut => {
                *shut = true;
                let waker = connection.waker.clone().unwrap_or(Waker::noop().clone());
                // Whether it succeeds shows when the client's end is read.
                let _ = connection.stream.poll_shutdown(&mut Context::from_waker(&waker));
                connection.wake();
            }
            _ => {}
        }
        if drained
            && let Some(connection) = self.table.connections.get_mut(slot as usize)
            && let Some(mut congestion) = connection.take_congestion()
        {
            self.table.release(&mut congestion);
        }
        if reading {
            self.read_retained(timed);
        }
    }

    /// Hands another worker its batch, if it keeps up.
    fn flush_peer(&mut self, number: usize, context: &mut Context<'_>) {
        let peer = &mut self.peers[number];
        if peer.messages.is_empty() {
            return;
        }
        match peer.sender.poll_reserve(context) {
            Poll::Pending => peer.behind = true,
            Poll::Ready(reserved) => {
                let messages = std::mem::take(&mut peer.messages);
                if reserved.is_ok() {
                    // It has just said that there is room.
                    let _ = peer.sender.send_item(messages);
                }
                peer.behind = false;
                for publisher in std::mem::take(&mut peer.publishers) {
                    self.table.lift(publisher, Pauses::PEER);
                }
            }
        }
    }
}
