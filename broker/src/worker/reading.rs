//! A connection's task: it reads when there is something to read, and sleeps.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;

use super::Worker;
use super::core::Core;
use super::wheel::Timed;
use crate::connection::{Chunk, ProofStep, State};
use crate::limits::SCRATCH_BYTES;
use crate::listener::{Accepted, Arrival};
use crate::protocol::{Version, decode, frame};

/// Takes in a connection.
pub(super) fn accept(worker: &Rc<Worker>, accepted: Accepted) {
    let Ok(arrival) = accepted.arrive() else {
        return;
    };
    if arrival.is_ready() {
        begin(worker, arrival);
    } else {
        shake_hands(worker, arrival);
    }
}

/// Lets MQTT begin.
fn begin(worker: &Rc<Worker>, arrival: Arrival) {
    let added = worker.core.borrow_mut().add(arrival);
    if let Some(connection) = added {
        spawn_local(Reading { worker: worker.clone(), connection });
    }
}

/// Does what comes before MQTT, in a task of its own.
fn shake_hands(worker: &Rc<Worker>, arrival: Arrival) {
    let Some(patience_ms) = worker.core.borrow_mut().begin_handshake() else {
        return;
    };
    let worker = worker.clone();
    spawn_local(async move {
        let peer = arrival.origin.peer;
        let entrance = arrival.origin.entrance.share();
        let done = arrival.shake_hands(&worker.turns, Duration::from_millis(patience_ms)).await;
        worker.core.borrow_mut().handshakes -= 1;
        match done {
            Ok(arrival) => begin(&worker, arrival),
            Err(error) => {
                entrance.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(peer = ?peer, url = entrance.url, %error, "a client did not get as far as MQTT");
            }
        }
    });
}

/// The task of one connection. It holds no buffer: what it reads goes through the worker's.
struct Reading {
    worker: Rc<Worker>,
    connection: Timed,
}

impl Future for Reading {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.worker.core.borrow_mut().poll_connection(self.connection, context)
    }
}

impl Core {
    /// Counts a connection on which something comes before MQTT; gives the milliseconds that it may take. `None` if there
    /// are too many.
    fn begin_handshake(&mut self) -> Option<u64> {
        if self.table.connections.len() + self.handshakes >= self.table.limits.connections_max {
            self.table.counters.connections_refused += 1;
            return None;
        }
        self.handshakes += 1;
        Some(self.table.limits.connect_ms)
    }

    /// Reads and processes what a connection has. Ready when the connection is over.
    fn poll_connection(&mut self, timed: Timed, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(connection) = self.table.get(timed) else {
                return Poll::Ready(());
            };
            match &mut connection.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            if connection.blocked {
                connection.blocked = false;
                self.table.mark_dirty(timed.0);
                self.flush_soon();
                continue;
            }
            match connection.state {
                State::Orphan(_) => return Poll::Ready(()),
                State::Closing { .. } => return self.poll_end(timed, context),
                _ => {}
            }
            if let State::Proving(proof) = &mut connection.state
                && let ProofStep::Password { answer, .. } = &mut proof.step
            {
                let Poll::Ready(right) = Pin::new(answer).poll(context) else { return Poll::Pending };
                self.password_checked(timed, right.unwrap_or(false));
                continue;
            }
            if !connection.pauses.none() {
                return Poll::Pending;
            }
            if let Some(bytes) = connection.input.take_unprocessed() {
                self.process(timed, &bytes, None);
                continue;
            }
            match self.poll_read(timed, context) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads once. False if the stream is over.
    fn poll_read(&mut self, timed: Timed, context: &mut Context<'_>) -> Poll<bool> {
        let now = self.wheel.now();
        let mut scratch = std::mem::take(&mut self.scratch);
        let chunk = match self.table.get(timed) {
            Some(connection) => {
                let before = connection.input.bytes();
                let chunk = connection.input.poll_read(&mut connection.stream, context, &mut scratch);
                if let Poll::Ready(Ok(chunk)) = &chunk {
                    if connection.input.is_large() {
                        // A long packet over a slow line is no silence.
                        connection.heard = now;
                    }
                    self.table.counters.bytes_received += chunk.bytes().saturating_sub(before) as u64;
                }
                chunk
            }
            None => Poll::Ready(Ok(Chunk::End)),
        };
        let result = match chunk {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Chunk::Scratch(count))) => {
                self.process(timed, &scratch[..count], None);
                if count == SCRATCH_BYTES {
                    // There is more, but it is the others' turn.
                    context.waker().wake_by_ref();
                    Poll::Pending
                } else {
                    Poll::Ready(true)
                }
            }
            Poll::Ready(Ok(Chunk::Packet(packet))) => {
                self.process(timed, &packet, Some(&packet));
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Ok(Chunk::End) | Err(_)) => {
                self.lost(timed.0);
                Poll::Ready(false)
            }
        };
        self.scratch = scratch;
        result
    }

    /// Processes the packets in `bytes`, and keeps what is left of them. `whole` owns `bytes` if they are one packet that
    /// came in a buffer of its own.
    fn process(&mut self, timed: Timed, bytes: &[u8], whole: Option<&Bytes>) {
        let packet_bytes_max = self.table.limits.packet_bytes_max as usize;
        let now = self.wheel.now();
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let Some(connection) = self.table.get(timed) else {
                return;
            };
            let version = match &connection.state {
                State::Open(session) => session.terms.version,
                // CONNECT says it itself.
                State::Connecting | State::Proving(_) | State::Opening(_) => Version::V5,
                State::Closing { .. } | State::Orphan(_) => return,
            };
            if !connection.pauses.none() {
                connection.input.keep_unprocessed(rest);
                return;
            }
            match decode(rest, version, packet_bytes_max) {
                Ok(Some((packet, length))) => {
                    connection.heard = now;
                    at += length;
                    self.packet(timed, packet, whole);
                }
                Ok(None) => {
                    let frame = frame(rest, packet_bytes_max).ok().flatten();
                    connection.input.keep_partial(rest, frame.map(|frame| frame.total));
                    return;
                }
                Err(error) => {
                    self.malformed(timed, rest, error);
                    return;
                }
            }
        }
    }

    /// Waits for the client to close too, ignoring what it still sends.
    fn poll_end(&mut self, timed: Timed, context: &mut Context<'_>) -> Poll<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = loop {
            let Some(connection) = self.table.get(timed) else {
                break Poll::Ready(());
            };
            match connection.stream.poll_read(context, &mut scratch) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 => {}
                // The last packet has still to leave.
                Poll::Ready(Ok(_)) if !connection.output.is_empty() => break Poll::Pending,
                Poll::Ready(_) => {
                    self.remove(timed.0);
                    break Poll::Ready(());
                }
            }
        };
        self.scratch = scratch;
        result
    }
}
