//! A shard's state as bytes: the same state gives the same bytes on every replica. In front is everything but the queued
//! messages, which follow one after the other and are not looked at.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::{Destination, Effect, Entry, Holder, Will};
use super::evictions::Evictions;
use super::exchanges::{Behalf, Exchange, Leaving, Outbox, Source, Traffic};
use super::fences::Fences;
use super::loans::{LoanRecord, Loans};
use super::machine::Shard;
use super::owed::Owed;
use super::queue::{Queue, Queued};
use super::retained::Retained;
use super::session::{Lasting, Session};
use super::shares::Strays;
use super::stored::{Stored, StoredRecord};
use super::streams::{Stream, Streams};
use super::wills::Wills;
use crate::identity::ClientId;
use crate::kept::{Places, Shelf};
use crate::message::{Message, QoS, SubscriptionOptions};
use crate::replication::{Image, StateMachine};

/// In front of a snapshot. A broker that does not know the version stops the replica and says so.
const VERSION: u8 = 7;
/// What a state is written as that lends nothing, and has no outbox for that. Brokers before protocol 4 read no other, and
/// nothing is lent while one is a member.
const VERSION_WITHOUT_LOANS: u8 = 6;
/// What a state is written as whose retained messages name no epochs either. Brokers before protocol 3 read no other, and no epoch
/// is named while one is a member.
const VERSION_WITHOUT_EPOCHS: u8 = 5;
/// What a state is written as that has no fences either; so with brokers before protocol 2.
const VERSION_WITHOUT_FENCES: u8 = 4;

/// Behind [`State`], from version 5 on.
type FenceRecords = Vec<(ClientId, u64)>;
/// Behind that, from version 6 on: by which connections the retained messages were published, in the order of
/// [`State::retained`].
type EpochRecords = Vec<u64>;
/// Behind that, from version 7 on.
type LoanRecords = Vec<LoanRecord>;

#[derive(Serialize, Deserialize)]
struct State {
    now_ms: u64,
    streams: Streams,
    epochs: u64,
    dropped_queue_full: u64,
    wills: Wills,
    evictions: Evictions,
    /// Each message once, however many queues it stands in. Their bytes follow in this order.
    messages: Vec<StoredRecord>,
    sessions: Vec<SessionRecord>,
    exchanges: u64,
    outboxes: Vec<(Destination, u64, Vec<LeavingRecord>)>,
    taken: BTreeMap<Source, Stream>,
    retained: Vec<Message>,
    strays: Strays,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord {
    client_id: ClientId,
    epoch: u64,
    holder: Option<Holder>,
    expiry_seconds: u32,
    expires_at_ms: Option<u64>,
    receive_maximum: u16,
    was_present: bool,
    will: Option<Will>,
    subscriptions: BTreeMap<Arc<str>, SubscriptionOptions>,
    first: u64,
    queue: Vec<Option<QueuedRecord>>,
    sent_to: u64,
    exchanges: BTreeMap<u16, Exchange>,
    owed: Owed,
}

/// No client has an exchange under packet id 0: with it, `exchange` is the epoch of the connection whose will this is, or 0
/// when it is on nobody's behalf. Brokers before protocol 3 find no exchange, and pass over it alike.
#[derive(Serialize, Deserialize)]
struct LeavingRecord {
    message: usize,
    client_id: ClientId,
    packet_id: u16,
    exchange: u64,
}

impl LeavingRecord {
    fn of(message: usize, behalf: &Behalf) -> LeavingRecord {
        let (client_id, packet_id, exchange) = match behalf {
            Behalf::Nobody => (ClientId::default(), 0, 0),
            Behalf::Exchange { client_id, packet_id, number } => (client_id.clone(), *packet_id, *number),
            Behalf::Over { client_id, epoch } => (client_id.clone(), 0, *epoch),
        };
        LeavingRecord { message, client_id, packet_id, exchange }
    }

    fn behalf(self) -> Behalf {
        let LeavingRecord { client_id, packet_id, exchange, .. } = self;
        match (packet_id, exchange) {
            (0, 0) => Behalf::Nobody,
            (0, epoch) => Behalf::Over { client_id, epoch },
            (packet_id, number) => Behalf::Exchange { client_id, packet_id, number },
        }
    }
}

#[derive(Serialize, Deserialize)]
struct QueuedRecord {
    message: usize,
    qos: QoS,
    retain: bool,
    received: bool,
    identifiers: Vec<u32>,
}

impl StateMachine for Shard {
    type Effect = Effect;

    fn apply(&mut self, index: u64, entry: &[u8], effects: &mut Vec<Effect>) {
        match postcard::from_bytes::<Entry>(entry) {
            Ok(entry) => self.apply_entry(entry, effects),
            // Every replica of this version passes over it alike, so they stay equal.
            Err(error) => tracing::error!(index, %error, "an entry of the log is not of this version; passed over"),
        }
    }

    fn snapshot(&self) -> Image {
        let mut sessions: Vec<&Session> = self.sessions.values().collect();
        sessions.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        let mut messages = Messages::default();
        let sessions = sessions.into_iter().map(|session| record(session, &mut messages)).collect();
        let mut leaving = |leaving: &Leaving| LeavingRecord::of(messages.place(&leaving.message), &leaving.behalf);
        let outboxes = self.traffic.outboxes.iter();
        let outboxes =
            outboxes.map(|(to, outbox)| (*to, outbox.first, outbox.leaving.iter().map(&mut leaving).collect()));
        let outboxes = outboxes.collect();
        let loans: LoanRecords = self.loans.records(|message| messages.place(message));
        let state = State {
            now_ms: self.now_ms,
            streams: self.streams.clone(),
            epochs: self.epochs,
            dropped_queue_full: self.dropped_queue_full,
            wills: self.wills.clone(),
            evictions: self.evictions.clone(),
            messages: messages.records,
            sessions,
            exchanges: self.traffic.exchanges,
            outboxes,
            taken: self.traffic.taken.clone(),
            retained: self.retained.all(),
            strays: self.strays.clone(),
        };
        let (fences, epochs): (FenceRecords, EpochRecords) = (self.fences.all(), self.retained.epochs());
        let lends = self.traffic.outboxes.keys().any(|to| matches!(to, Destination::Borrower(_))) || !loans.is_empty();
        let version = match (fences.is_empty(), epochs.iter().any(|epoch| *epoch > 0)) {
            _ if lends => VERSION,
            (_, true) => VERSION_WITHOUT_LOANS,
            (false, false) => VERSION_WITHOUT_EPOCHS,
            (true, false) => VERSION_WITHOUT_FENCES,
        };
        let mut bytes = vec![version];
        // Serialising plain data to memory has no way to fail.
        bytes.extend(postcard::to_stdvec(&state).unwrap_or_default());
        if version >= VERSION_WITHOUT_EPOCHS {
            bytes.extend(postcard::to_stdvec(&fences).unwrap_or_default());
        }
        if version >= VERSION_WITHOUT_LOANS {
            bytes.extend(postcard::to_stdvec(&epochs).unwrap_or_default());
        }
        if version >= VERSION {
            bytes.extend(postcard::to_stdvec(&loans).unwrap_or_default());
        }
        Image { head: Bytes::from(bytes), kept: messages.places.all }
    }

    fn restore(&mut self, bytes: &Bytes) -> io::Result<()> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("shard snapshot: {why}"));
        let unreadable = |error: postcard::Error| invalid(error.to_string());
        let (version, rest) = match bytes.split_first() {
            Some((version @ VERSION_WITHOUT_FENCES..=VERSION, rest)) => (*version, rest),
            Some((version, _)) => return Err(invalid(format!("version {version} is not known"))),
            None => return Err(invalid("it is empty".into())),
        };
        let (state, mut rest) = postcard::take_from_bytes::<State>(rest).map_err(unreadable)?;
        let (mut fences, mut epochs, mut loans) = (FenceRecords::new(), EpochRecords::new(), LoanRecords::new());
        if version >= VERSION_WITHOUT_EPOCHS {
            (fences, rest) = postcard::take_from_bytes(rest).map_err(unreadable)?;
        }
        if version >= VERSION_WITHOUT_LOANS {
            (epochs, rest) = postcard::take_from_bytes(rest).map_err(unreadable)?;
        }
        if version >= VERSION {
            (loans, rest) = postcard::take_from_bytes(rest).map_err(unreadable)?;
        }
        let messages = stored(&self.shelf, &state.messages, bytes.slice_ref(rest))
            .ok_or_else(|| invalid("it is longer or shorter than it says".into()))?;
        let mut shard = Shard::on(self.shelf.clone());
        shard.now_ms = state.now_ms;
        shard.streams = state.streams;
        shard.epochs = state.epochs;
        shard.dropped_queue_full = state.dropped_queue_full;
        shard.wills = state.wills;
        shard.evictions = state.evictions;
        shard.retained = Retained::restored(state.retained, epochs);
        shard.strays = state.strays;
        shard.fences = Fences::restored(fences);
        for record in state.sessions {
            let session = session(record, &messages).ok_or_else(|| invalid("a message is missing".into()))?;
            shard.sessions.insert(session);
        }
        let missing = || invalid("a message is missing".into());
        shard.loans = Loans::restored(loans, &messages).ok_or_else(missing)?;
        let leaving = |record: LeavingRecord| {
            let message = messages.get(record.message).cloned();
            message.map(|message| Leaving { message, behalf: record.behalf() })
        };
        let mut outboxes = BTreeMap::new();
        for (to, first, records) in state.outboxes {
            let leaving: Option<VecDeque<_>> = records.into_iter().map(leaving).collect();
            outboxes.insert(to, Outbox { first, leaving: leaving.ok_or_else(missing)? });
        }
        shard.traffic = Traffic::restored(state.exchanges, outboxes, state.taken);
        shard.rebuild();
        *self = shard;
        Ok(())
    }
}

#[derive(Default)]
struct Messages {
    places: Places,
    records: Vec<StoredRecord>,
}

impl Messages {
    fn place(&mut self, message: &Stored) -> usize {
        let (place, new) = self.places.place(message.kept());
        if new {
            self.records.push(message.record());
        }
        place
    }
}

/// The messages that `bytes` consist of; `None` if they don't.
fn stored(shelf: &Shelf, records: &[StoredRecord], mut bytes: Bytes) -> Option<Vec<Stored>> {
    let mut messages = Vec::with_capacity(records.len());
    for record in records {
        let length = record.length as usize;
        if length > bytes.len() {
            return None;
        }
        messages.push(Stored::restored(shelf, record, bytes.split_to(length)));
    }
    bytes.is_empty().then_some(messages)
}

fn record(session: &Session, messages: &mut Messages) -> SessionRecord {
    let mut queued = |item: &Queued| QueuedRecord {
        message: messages.place(&item.message),
        qos: item.qos,
        retain: item.retain,
        received: item.received,
        identifiers: item.identifiers.to_vec(),
    };
    SessionRecord {
        client_id: session.client_id.clone(),
        epoch: session.epoch,
        holder: session.holder,
        expiry_seconds: session.expiry_seconds,
        expires_at_ms: session.lasting.expires_at_ms,
        receive_maximum: session.receive_maximum,
        was_present: session.was_present,
        will: session.lasting.will.as_deref().cloned(),
        subscriptions: session.lasting.subscriptions.clone(),
        first: session.lasting.queue.first(),
        queue: session.lasting.queue.items().iter().map(|item| item.as_ref().map(&mut queued)).collect(),
        sent_to: session.lasting.sent_to,
        exchanges: (*session.lasting.exchanges).clone(),
        owed: (*session.lasting.owed).clone(),
    }
}

fn session(record: SessionRecord, messages: &[Stored]) -> Option<Session> {
    let queued = |item: QueuedRecord| {
        Some(Queued {
            message: messages.get(item.message)?.clone(),
            qos: item.qos,
            retain: item.retain,
            received: item.received,
            identifiers: item.identifiers.into(),
        })
    };
    let items = record.queue.into_iter().map(|item| match item {
        None => Some(None),
        Some(item) => queued(item).map(Some),
    });
    let lasting = Lasting {
        will: record.will.map(Box::new),
        expires_at_ms: record.expires_at_ms,
        subscriptions: record.subscriptions,
        queue: Queue::restored(record.first, items.collect::<Option<_>>()?).into(),
        sent_to: record.sent_to,
        exchanges: record.exchanges.into(),
        owed: record.owed.into(),
    };
    Some(Session {
        client_id: record.client_id,
        epoch: record.epoch,
        holder: record.holder,
        expiry_seconds: record.expiry_seconds,
        receive_maximum: record.receive_maximum,
        was_present: record.was_present,
        lasting: lasting.into(),
    })
}
