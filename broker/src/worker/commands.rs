//! What the cluster thread tells a worker.

use std::rc::Rc;

use super::core::{Core, Drain};
use super::exactly_once::acknowledgement;
use super::lifetime::{Ending, acknowledge};
use super::table::{Source, content_of, expired_content_of, name_topic};
use super::wheel::{Timed, ticks};
use crate::connection::{Form, State, packet_bytes};
use crate::door::{RouteChange, RouteOwner, ToCluster, ToWorker};
use crate::identity::{ClientId, ConnectionId};
use crate::limits::CUT_OFF_MS;
use crate::message::{Message, QoS};
use crate::protocol::{PacketType, ReasonCode};
use crate::shard::{Delivery, Evicted, Outcome, Refusal};

impl Core {
    /// Carries out a batch, in order.
    pub(super) fn command(&mut self, batch: Vec<ToWorker>) {
        for command in batch {
            match command {
                ToWorker::Opened { connection, outcome } => self.opened(timed(connection), outcome),
                ToWorker::Subscribed { connection, token, outcome } => {
                    self.subscribed(timed(connection), token, outcome);
                }
                ToWorker::Published { connection, token, outcome } => {
                    self.published(timed(connection), token, &outcome);
                }
                ToWorker::ExchangeEnded { connection, packet_id, outcome } => {
                    self.exchange_ended(timed(connection), packet_id, &outcome);
                }
                ToWorker::Acknowledged { connection, epoch, received } => {
                    if self.holds(timed(connection), epoch) {
                        self.received(timed(connection), &received);
                    }
                }
                ToWorker::Settled { connection, token } => self.settled(timed(connection), token),
                ToWorker::Deliver { connection, epoch, deliveries } => {
                    if self.holds(timed(connection), epoch) {
                        self.deliver(timed(connection), deliveries);
                    }
                }
                ToWorker::Attach { connection, client_id, epoch } => {
                    self.attach(timed(connection), client_id, epoch);
                }
                ToWorker::Retained { connection, token, messages, next } => {
                    self.retained(timed(connection), token, messages, next);
                }
                ToWorker::Enqueued { connection, token, outcome } => {
                    self.enqueued(timed(connection), token, outcome);
                }
                ToWorker::Forward(messages) => self.forward(messages),
                ToWorker::Lend { loan, message } => self.lend(loan, message),
                ToWorker::Routes { number, changes } => self.apply_routes(number, &changes),
                ToWorker::Evict { connection, client_id, epoch, why } => {
                    self.evict(timed(connection), client_id, epoch, why);
                }
                ToWorker::Originate { token, message } => self.originate(token, message),
                ToWorker::Choose { token, wanted } => self.choose(token, &wanted),
                ToWorker::Serving(serving) => self.serve(serving),
                ToWorker::Expelled => self.close_sessions(Ending::Evicted),
                ToWorker::Drain { rate } => {
                    self.draining = Some(Drain { rate: rate.max(1), credit: 0, next: 0 });
                }
            }
        }
        self.flush_soon();
    }

    /// Whether this node may serve. If it may not for long, its clients are sent to look for another (K3).
    fn serve(&mut self, serving: bool) {
        self.serving = serving;
        self.cut_off_at = match (serving, self.cut_off_at) {
            (true, _) => None,
            (false, Some(tick)) => Some(tick),
            (false, None) => Some(self.wheel.now() + ticks(CUT_OFF_MS)),
        };
    }

    /// A connection has lost its client id. Once it is gone, the newer one is let in (K4).
    fn evict(&mut self, timed: Timed, client_id: ClientId, epoch: u64, why: Evicted) {
        if self.holds(timed, epoch) {
            let why = match why {
                Evicted::TakenOver => {
                    ReasonCode::SESSION_TAKEN_OVER.because("another connection has this client id now")
                }
                Evicted::Administrative => ReasonCode::ADMINISTRATIVE_ACTION.because("the session was ended"),
            };
            self.close(timed.0, Some(why), Ending::Evicted);
        } else {
            // The answer to its CONNECT may be on its way still: it comes too late.
            self.lose_opening(timed, &client_id);
        }
        self.tell(ToCluster::Released { client_id, epoch });
    }

    /// Finds whom a message of the broker's own is for.
    fn originate(&mut self, token: u64, message: Message) {
        let now_ms = self.now_ms();
        let message = Rc::new(message);
        let mut reach = Some(Default::default());
        if let Some(source) = Source::of(&message, now_ms) {
            let (_, targets, recipients) = self.reach(&source);
            reach = Some((targets, recipients));
        }
        let reach = reach.filter(|_| self.serving);
        self.tell(ToCluster::Originated { token, reach });
    }

    /// Whether this connection has a session of that epoch.
    fn holds(&mut self, timed: Timed, epoch: u64) -> bool {
        let session = self.table.get(timed).and_then(|connection| connection.session());
        session.is_some_and(|session| session.terms.epoch == epoch)
    }

    /// What a client published is stored, or isn't.
    fn published(&mut self, timed: Timed, token: u64, outcome: &Outcome) {
        let reason = match outcome {
            Outcome::Stored(_) | Outcome::Done => ReasonCode::SUCCESS,
            Outcome::Refused(Refusal::Quota) => {
                self.table.counters.refused_publish_quota += 1;
                ReasonCode::QUOTA_EXCEEDED
            }
            _ => ReasonCode::UNSPECIFIED_ERROR,
        };
        let session = self.table.get(timed).and_then(|connection| connection.session());
        if session.is_some_and(|session| session.receipts.settle(token, reason.0)) {
            self.send_receipts(timed);
        }
    }

    /// Sends what a persistent session's queue has for its client.
    pub(super) fn deliver(&mut self, timed: Timed, deliveries: Vec<Delivery>) {
        let (slot, _) = timed;
        if deliveries.is_empty() {
            return;
        }
        let now_ms = self.now_ms();
        let Some(connection) = self.table.connections.get_mut(slot as usize) else {
            return;
        };
        let State::Open(session) = &mut connection.state else {
            return;
        };
        let Some(deliveries) = session.hold_back(deliveries) else {
            return;
        };
        for delivery in &deliveries {
            let Some(packet_id) = session.deliver(delivery) else {
                continue;
            };
            if delivery.received {
                let buffer = connection.output.buffer(&mut self.table.spares);
                acknowledgement(packet_id, ReasonCode::SUCCESS).encode(
                    PacketType::PubRel,
                    session.terms.version,
                    buffer,
                );
                continue;
            }
            let message = &delivery.message;
            // A client that may have it under this packet id is brought to the end of the exchange ([MQTT-4.3.3-7]).
            let begun = delivery.dup && message.qos == QoS::ExactlyOnce;
            let content = content_of(message, now_ms).or_else(|| begun.then(|| expired_content_of(message)));
            let Some(content) = content else {
                self.table.counters.dropped_expired += 1;
                session.give_up(packet_id);
                continue;
            };
            let mut form = Form {
                version: session.terms.version,
                qos: message.qos,
                packet_id,
                retain: message.retain,
                dup: delivery.dup,
                identifiers: &delivery.identifiers,
                alias: None,
            };
            if packet_bytes(&content, &form) > session.terms.packet_bytes_max as usize {
                self.table.counters.dropped_too_large += 1;
                session.give_up(packet_id);
                continue;
            }
            name_topic(session, &content, &mut form);
            self.table.layouts.begin();
            self.table.layouts.append(&content, &form, &mut connection.output, &mut self.table.spares);
            self.table.counters.messages_sent += 1;
        }
        self.table.mark_dirty(slot);
        self.flush_soon();
    }

    /// A new leader asks what was sent. What the client acknowledged is passed on first.
    fn attach(&mut self, timed: Timed, client_id: ClientId, epoch: u64) {
        let (mut attached_epoch, mut sent_to) = (0, 0);
        let id = self.id_of(timed.0);
        if let Some(session) = self.table.get(timed).and_then(|connection| connection.session())
            && session.terms.client_id == client_id
            && session.terms.epoch == epoch
        {
            (attached_epoch, sent_to) = (epoch, session.sent_to().max(session.held_to()));
            if let Some(acknowledge) = acknowledge(id, session) {
                self.tell(acknowledge);
            }
        }
        self.tell(ToCluster::Attached { client_id, epoch: attached_epoch, sent_to });
    }

    fn apply_routes(&mut self, number: u64, changes: &[RouteChange]) {
        for change in changes {
            let own = match change.owner {
                RouteOwner::Worker(worker) => worker == self.index,
                RouteOwner::Node(node) => node == self.node,
                RouteOwner::Shard(_) => false,
            };
            if !own {
                self.router.apply(change);
            }
        }
        self.tell(ToCluster::RoutesApplied { worker: self.index, number });
    }
}

fn timed(connection: ConnectionId) -> Timed {
    (connection.slot, connection.generation)
}
