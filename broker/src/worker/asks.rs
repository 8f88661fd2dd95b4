//! What administrators ask of a worker: who is connected, and that somebody be disconnected.

use tokio::sync::oneshot;

use super::core::Core;
use super::lifetime::Ending;
use crate::connection::{Connection, State};
use crate::message::Message;
use crate::protocol::ReasonCode;
use crate::session::Session;

/// A question to a worker.
#[derive(Debug)]
pub enum Ask {
    /// The sessions that are connected, in the order of their client ids: so many after this one.
    Clients {
        /// Empty for the first.
        after: String,
        /// At most so many.
        limit: usize,
        /// Where to.
        answer: oneshot::Sender<Vec<ConnectedClient>>,
    },
    /// What one client subscribed to; `None` if it is not connected here.
    Subscriptions {
        /// Which.
        client_id: String,
        /// Where to.
        answer: oneshot::Sender<Option<Vec<ClientSubscription>>>,
    },
    /// Disconnect a client (0x98); its session goes on as the client asked. Whether it was connected here.
    Disconnect {
        /// Which.
        client_id: String,
        /// Where to.
        answer: oneshot::Sender<bool>,
    },
    /// Messages of the broker's own for this worker's subscribers, and until the next for who subscribes.
    Report(Vec<Message>),
}

/// A connected session, as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConnectedClient {
    /// Its client id.
    pub client_id: String,
    /// `None`: anonymous.
    pub user: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// Through which listener.
    pub listener: String,
    /// Of MQTT: 3, 4 or 5.
    pub protocol: u8,
    /// The session outlives the connection.
    pub persistent: bool,
    /// Seconds that it does, at most.
    pub session_expiry_seconds: u32,
    /// How many.
    pub subscriptions: usize,
    /// Messages that wait for it on this worker.
    pub waiting: usize,
}

/// A subscription, as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ClientSubscription {
    /// The topic filter.
    pub filter: String,
    /// The maximum QoS.
    pub qos: u8,
}

impl Core {
    /// Answers.
    pub(super) fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Clients { after, limit, answer } => {
                let _ = answer.send(self.clients(&after, limit));
            }
            Ask::Subscriptions { client_id, answer } => {
                let found = self.sessions().find(|(_, _, session)| *session.terms.client_id == *client_id);
                let found = found.map(|(_, _, session)| {
                    let each = session.subscriptions.iter().map(|subscription| ClientSubscription {
                        filter: subscription.filter.to_string(),
                        qos: subscription.options.qos as u8,
                    });
                    each.collect()
                });
                let _ = answer.send(found);
            }
            Ask::Disconnect { client_id, answer } => {
                let found = self.sessions().find(|(_, _, session)| *session.terms.client_id == *client_id);
                let slot = found.map(|(slot, _, _)| slot);
                if let Some(slot) = slot {
                    let why =
                        ReasonCode::ADMINISTRATIVE_ACTION.because("the client was disconnected; its session stays");
                    self.close(slot, Some(why), Ending::WithWill);
                }
                let _ = answer.send(slot.is_some());
            }
            Ask::Report(messages) => {
                self.reported.clone_from(&messages);
                self.forward(messages);
            }
        }
    }

    fn sessions(&self) -> impl Iterator<Item = (u32, &Connection, &Session)> {
        self.table.connections.iter().filter_map(|(slot, connection)| match &connection.state {
            State::Open(session) => Some((slot as u32, &**connection, &**session)),
            _ => None,
        })
    }

    fn clients(&self, after: &str, limit: usize) -> Vec<ConnectedClient> {
        let mut found: Vec<_> =
            self.sessions().filter(|(_, _, session)| *session.terms.client_id > *after || after.is_empty()).collect();
        let by_id = |(_, _, session): &(u32, &Connection, &Session)| session.terms.client_id.clone();
        if found.len() > limit {
            found.select_nth_unstable_by_key(limit, by_id);
            found.truncate(limit);
        }
        found.sort_by_key(by_id);
        let seen = found.into_iter().map(|(_, connection, session)| ConnectedClient {
            client_id: session.terms.client_id.to_string(),
            user: connection.user.as_deref().map(str::to_owned),
            address: connection.peer.map(|peer| peer.to_string()),
            listener: connection.entrance.url.clone(),
            protocol: session.terms.version as u8,
            persistent: session.terms.persistent,
            session_expiry_seconds: session.terms.session_expiry_seconds,
            subscriptions: session.subscriptions.len(),
            waiting: session.waiting_items(),
        });
        seen.collect()
    }
}
