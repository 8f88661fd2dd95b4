//! Who a client is and what it may, asked of the policy in force. The answers are `auth`'s; here is when they are asked
//! for, and what follows.

use std::sync::Arc;

use tokio::time::Instant;

use super::core::Core;
use super::lifetime::Ending;
use super::wheel::Timed;
use crate::auth::{Checked, Client, Exchange, SCRAM_METHOD, ScramError, ScramVerifier};
use crate::config::UserFrom;
use crate::connection::{Authentication, Pauses, Proof, ProofStep, State};
use crate::door::ToCluster;
use crate::identity::ClientId;
use crate::limits::CHECK_FAILURES_WITHIN;
use crate::message::Subscription;
use crate::protocol::{
    Auth, Connect, Packet, PropertiesBuilder, PropertyId, ReasonCode, Version, Why, Words, decode, parse_filter,
};
use crate::session::request;

/// Who sent a CONNECT.
pub(super) enum Identity {
    /// A user, or nobody in particular.
    Known(Option<Arc<str>>),
    /// That remains to be seen.
    Unproven(ProofStep),
}

impl Core {
    /// Who a CONNECT is from.
    pub(super) fn identify(&mut self, timed: Timed, connect: &Connect<'_>) -> Result<Identity, Why> {
        let policy = self.policy.clone();
        let Some(connection) = self.table.get(timed) else { return Err(ReasonCode::UNSPECIFIED_ERROR.into()) };
        // A certificate has proven more than a password could, as in Mosquitto.
        if let Some(user) = &connection.user {
            return Ok(Identity::Known(Some(user.clone())));
        }
        let peer = connection.peer.map(|peer| peer.ip());
        let anonymous = connection.entrance.anonymous;
        if let Some(method) = connect.properties.text(PropertyId::AuthenticationMethod) {
            let words = match &policy.passwords {
                None => "no authentication method is known here",
                Some(_) if method != SCRAM_METHOD => "the only authentication method here is SCRAM-SHA-256",
                Some(_) => "",
            };
            if !words.is_empty() {
                return Err(ReasonCode::BAD_AUTHENTICATION_METHOD.because(words));
            }
            let step = match connect.properties.binary(PropertyId::AuthenticationData) {
                None => None,
                Some(first) => Some(self.begin_exchange(timed, first)?),
            };
            return Ok(Identity::Unproven(ProofStep::Scram(step)));
        }
        match (&policy.passwords, connect.user_name) {
            (Some(passwords), Some(user)) => {
                let password = connect.password.unwrap_or_default();
                // The time that the answer takes doesn't tell whether there is such a user.
                let (verifier, exists) = match passwords.password_of(user) {
                    Some(verifier) => (verifier, true),
                    None => (passwords.decoy(), false),
                };
                match self.guard.checker().check(peer, user, verifier, password, Instant::now()) {
                    Checked::Right if exists => Ok(Identity::Known(Some(user.into()))),
                    Checked::Right => Err(self.unproven().into()),
                    Checked::Wait(answer) => Ok(Identity::Unproven(ProofStep::Password { user: user.into(), answer })),
                    Checked::Busy => Err(busy()),
                }
            }
            _ if anonymous => Ok(Identity::Known(None)),
            (_, None) => {
                Err(ReasonCode::NOT_AUTHORIZED.because("nobody may come in here who does not prove who it is"))
            }
            (None, Some(_)) => Err(self.unproven().into()),
        }
    }

    /// Says nothing that helps to guess: the code names both.
    fn unproven(&mut self) -> ReasonCode {
        self.table.counters.authentications_failed += 1;
        ReasonCode::BAD_USER_NAME_OR_PASSWORD
    }

    /// Keeps a CONNECT until its user is proven.
    pub(super) fn wait_for_proof(&mut self, timed: Timed, connect: Connect<'_>, step: ProofStep) {
        let (slot, _) = timed;
        let packet_bytes_max = request::packet_bytes_max(&connect);
        let mut packet = Vec::new();
        Packet::Connect(connect).encode(connect.version, &mut packet);
        let Some(connection) = self.table.get(timed) else { return };
        let challenge = match &step {
            ProofStep::Password { .. } => {
                // The check wakes its task, and nothing else of this client is looked at before.
                connection.pauses.set(Pauses::OPENING);
                connection.wake();
                None
            }
            ProofStep::Scram(None) => Some(None),
            ProofStep::Scram(Some(exchange)) => Some(Some(exchange.challenge().to_owned())),
        };
        connection.state = State::Proving(Box::new(Proof { connect: packet, packet_bytes_max, step }));
        if let Some(data) = challenge {
            self.send_auth(slot, ReasonCode::CONTINUE_AUTHENTICATION, data.as_deref());
        }
    }

    /// A password was checked.
    pub(super) fn password_checked(&mut self, timed: Timed, right: bool) {
        let Some(connection) = self.table.get(timed) else { return };
        let State::Proving(proof) = std::mem::replace(&mut connection.state, State::Connecting) else { return };
        let Proof { connect, step: ProofStep::Password { user, .. }, .. } = *proof else { return };
        connection.pauses.lift(Pauses::OPENING);
        self.go_on(timed, &connect, right.then_some(user));
    }

    /// Goes on with a CONNECT that waited for its user's proof.
    fn go_on(&mut self, timed: Timed, packet: &[u8], user: Option<Arc<str>>) {
        // It was encoded here.
        let Ok(Some((Packet::Connect(connect), _))) = decode(packet, Version::V5, usize::MAX) else { return };
        match user {
            Some(user) if self.policy.passwords.as_ref().is_some_and(|passwords| passwords.contains(&user)) => {
                self.admit(timed, connect, Some(user));
            }
            // Not proven; or the file has changed, or there never was such a user.
            _ => {
                let reason = self.unproven();
                self.refuse(timed.0, connect.version, reason, request::packet_bytes_max(&connect));
            }
        }
    }

    /// A client's AUTH.
    pub(super) fn authenticate(&mut self, timed: Timed, auth: Auth<'_>) {
        let (slot, _) = timed;
        let method = auth.properties.text(PropertyId::AuthenticationMethod);
        let data = auth.properties.binary(PropertyId::AuthenticationData).unwrap_or_default();
        let Some(connection) = self.table.get(timed) else { return };
        match &mut connection.state {
            State::Proving(proof) => {
                let packet_bytes_max = proof.packet_bytes_max;
                let ProofStep::Scram(exchange) = &mut proof.step else { return self.lost(slot) };
                let exchange = exchange.take();
                // [MQTT-4.12.0-3], [MQTT-4.12.0-5]
                if auth.reason != ReasonCode::CONTINUE_AUTHENTICATION || method != Some(SCRAM_METHOD) {
                    let why = ReasonCode::PROTOCOL_ERROR.because(NOT_OF_THE_EXCHANGE);
                    return self.refuse(slot, Version::V5, why, packet_bytes_max);
                }
                if let Err(why) = self.prove(timed, exchange, data) {
                    self.refuse(slot, Version::V5, why, packet_bytes_max);
                }
            }
            State::Open(_) => match connection.rare.if_any().and_then(|rare| rare.authentication.as_mut()) {
                // [MQTT-4.12.1-1]
                Some(authentication) if method == Some(SCRAM_METHOD) => {
                    let again = authentication.again.take();
                    self.prove_again(timed, auth.reason, again, data);
                }
                _ => {
                    let words = "AUTH without the authentication method of CONNECT";
                    self.break_off(slot, ReasonCode::PROTOCOL_ERROR.because(words));
                }
            },
            // [MQTT-3.1.0-1]
            _ => self.lost(slot),
        }
    }

    /// The next step of an exchange that CONNECT began.
    fn prove(&mut self, timed: Timed, exchange: Option<Exchange>, data: &[u8]) -> Result<(), Why> {
        let Some(exchange) = exchange else {
            let exchange = self.begin_exchange(timed, data)?;
            let challenge = exchange.challenge().to_owned();
            if let Some(connection) = self.table.get(timed)
                && let State::Proving(proof) = &mut connection.state
            {
                proof.step = ProofStep::Scram(Some(exchange));
            }
            self.send_auth(timed.0, ReasonCode::CONTINUE_AUTHENTICATION, Some(&challenge));
            return Ok(());
        };
        let last = match exchange.finish(data) {
            Ok(last) => last,
            Err(error) => {
                self.note_failure(timed);
                return Err(ReasonCode::NOT_AUTHORIZED.because(words_of(error)));
            }
        };
        let Some(connection) = self.table.get(timed) else { return Ok(()) };
        connection.rare.authentication = Some(Box::new(Authentication { last, again: None }));
        if let State::Proving(proof) = std::mem::replace(&mut connection.state, State::Connecting) {
            self.go_on(timed, &proof.connect, Some(Arc::from(exchange.user)));
        }
        Ok(())
    }

    /// Re-authentication (section 4.12.1); the session goes on meanwhile.
    fn prove_again(&mut self, timed: Timed, reason: ReasonCode, again: Option<Exchange>, data: &[u8]) {
        let (slot, _) = timed;
        match (reason, again) {
            (ReasonCode::RE_AUTHENTICATE, None) => match self.begin_exchange(timed, data) {
                Err(why) => self.close(slot, Some(why), Ending::WithWill),
                Ok(exchange) => {
                    let challenge = exchange.challenge().to_owned();
                    if let Some(connection) = self.table.get(timed)
                        && let Some(authentication) = &mut connection.rare.authentication
                    {
                        authentication.again = Some(exchange);
                    }
                    self.send_auth(slot, ReasonCode::CONTINUE_AUTHENTICATION, Some(&challenge));
                }
            },
            (ReasonCode::CONTINUE_AUTHENTICATION, Some(exchange)) => {
                let user = self.table.get(timed).and_then(|connection| connection.user.clone());
                let words = match exchange.finish(data) {
                    Ok(last) if user.as_deref() == Some(&*exchange.user) => {
                        return self.send_auth(slot, ReasonCode::SUCCESS, Some(&last));
                    }
                    Ok(_) => "a session stays with its user",
                    Err(error) => words_of(error),
                };
                self.note_failure(timed);
                self.close(slot, Some(ReasonCode::NOT_AUTHORIZED.because(words)), Ending::WithWill);
            }
            _ => self.break_off(slot, ReasonCode::PROTOCOL_ERROR.because(NOT_OF_THE_EXCHANGE)),
        }
    }

    fn begin_exchange(&mut self, timed: Timed, first: &[u8]) -> Result<Exchange, Why> {
        let peer = self.table.get(timed).and_then(|connection| connection.peer).map(|peer| peer.ip());
        if !self.guard.checker().may_try(peer, Instant::now()) {
            return Err(busy());
        }
        let passwords = self.policy.passwords.as_ref();
        let find =
            |user: &str| passwords.and_then(|users| users.scram_of(user)).map(|found| ScramVerifier::clone(found));
        Exchange::begin(first, find).map_err(|error| ReasonCode::NOT_AUTHORIZED.because(words_of(error)))
    }

    fn note_failure(&mut self, timed: Timed) {
        self.table.counters.authentications_failed += 1;
        let peer = self.table.get(timed).and_then(|connection| connection.peer).map(|peer| peer.ip());
        self.guard.checker().note_failure(peer, Instant::now());
    }

    fn send_auth(&mut self, slot: u32, reason: ReasonCode, data: Option<&str>) {
        let mut properties = PropertiesBuilder::new().text(PropertyId::AuthenticationMethod, SCRAM_METHOD);
        if let Some(data) = data {
            properties = properties.binary(PropertyId::AuthenticationData, data.as_bytes());
        }
        if let Some(connection) = self.table.connections.get_mut(slot as usize) {
            let auth = Packet::Auth(Auth { reason, properties: properties.properties() });
            auth.encode(Version::V5, connection.output.buffer(&mut self.table.spares));
        }
        self.table.mark_dirty(slot);
        self.flush_soon();
    }

    /// Whether the client of a session may publish to a topic. Without rules this costs a comparison; with them, one of
    /// the topic with the last.
    pub(super) fn may_publish(&mut self, timed: Timed, topic: &str) -> bool {
        let Some(acl) = &self.policy.acl else { return true };
        let Some(connection) = self.table.get(timed) else { return false };
        if let Some(verdict) = &connection.rare.verdict
            && verdict.0 == topic
        {
            return verdict.1;
        }
        let State::Open(session) = &connection.state else { return false };
        let client = Client { user: connection.user.as_deref(), client_id: &session.terms.client_id };
        let allowed = acl.may_publish(client, topic);
        connection.rare.verdict = Some((topic.to_owned(), allowed));
        allowed
    }

    /// Whether the client, if it has this client id, may publish to a topic.
    pub(super) fn may_publish_as(&mut self, timed: Timed, client_id: &str, topic: &str) -> bool {
        let Some(acl) = &self.policy.acl else { return true };
        let user = self.table.get(timed).and_then(|connection| connection.user.clone());
        acl.may_publish(Client { user: user.as_deref(), client_id }, topic)
    }

    /// Whether the client of a session may subscribe to a filter, without `$share` and group.
    pub(super) fn may_subscribe(&mut self, timed: Timed, filter: &str) -> bool {
        if self.policy.acl.is_none() {
            return true;
        }
        let session = self.table.get(timed).and_then(|connection| connection.session());
        let Some(client_id) = session.map(|session| session.terms.client_id.clone()) else { return false };
        self.may_subscribe_as(timed, &client_id, filter)
    }

    /// Whether the client, if it has this client id, may have a subscription.
    pub(super) fn may_subscribe_as(&mut self, timed: Timed, client_id: &str, filter: &str) -> bool {
        let Some(acl) = &self.policy.acl else { return true };
        let user = self.table.get(timed).and_then(|connection| connection.user.clone());
        let filter = parse_filter(filter).map_or(filter, |parsed| parsed.filter);
        acl.may_subscribe(Client { user: user.as_deref(), client_id }, filter)
    }

    /// Ends subscriptions of a stored session that its client may not have any more.
    pub(super) fn withdraw(&mut self, timed: Timed, client_id: ClientId, epoch: u64, denied: Vec<Subscription>) {
        if denied.is_empty() {
            return;
        }
        self.table.counters.subscriptions_denied += denied.len() as u64;
        let connection = self.id_of(timed.0);
        // Nobody waits for the answer.
        let token = self.token();
        let filters = denied.into_iter().map(|subscription| subscription.filter).collect();
        self.tell(ToCluster::Unsubscribe { connection, token, client_id, epoch, filters });
    }

    /// Takes up a new policy: who may not be here any more, or not have what it subscribed to, is closed.
    pub(super) fn follow_policy(&mut self) {
        if !self.guard.has_changed() {
            return;
        }
        self.policy = self.guard.policy();
        self.table.limits = self.policy.limits.clone();
        let policy = self.policy.clone();
        let mut closed = Vec::new();
        for (slot, connection) in &mut self.table.connections {
            if let Some(rare) = connection.rare.if_any() {
                rare.verdict = None;
            }
            let State::Open(session) = &connection.state else { continue };
            let by_certificate = connection.entrance.user_from != UserFrom::Nothing;
            let gone = match (&connection.user, &policy.passwords) {
                (Some(user), Some(passwords)) => !by_certificate && !passwords.contains(user),
                (Some(_), None) => !by_certificate,
                (None, _) => false,
            };
            let client = Client { user: connection.user.as_deref(), client_id: &session.terms.client_id };
            let denied = policy.acl.as_ref().is_some_and(|acl| {
                session.subscriptions.iter().any(|subscription| {
                    let filter = &*subscription.filter;
                    !acl.may_subscribe(client, parse_filter(filter).map_or(filter, |parsed| parsed.filter))
                })
            });
            if gone {
                closed.push((slot as u32, "the user is not known any more"));
            } else if denied {
                closed.push((slot as u32, "the client may not have one of its subscriptions any more"));
            }
        }
        for (slot, words) in closed {
            self.close(slot, Some(ReasonCode::NOT_AUTHORIZED.because(words)), Ending::WithWill);
        }
    }
}

const NOT_OF_THE_EXCHANGE: &str = "AUTH that does not belong to the exchange under way";

fn busy() -> Why {
    let words = "too many passwords wait to be checked, or too many from this address were wrong; try again in {} s";
    ReasonCode::SERVER_BUSY.because(Words::with(words, CHECK_FAILURES_WITHIN.as_secs()))
}

/// Whether the user or its proof is wrong is not told.
fn words_of(error: ScramError) -> &'static str {
    match error {
        ScramError::Malformed => "the Authentication Data are not what SCRAM-SHA-256 has next, without channel binding",
        ScramError::Refused => "the user or the password is wrong",
    }
}
