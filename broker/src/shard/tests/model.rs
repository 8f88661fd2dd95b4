//! The shard against a model that is too simple to be wrong: lists that are searched, filters that are compared.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CLIENTS: [&str; 3] = ["c", "d", "e"];
const FILTERS: [&str; 5] = ["t", "t/#", "+", "+/a", "u"];
const TOPICS: [&str; 3] = ["t", "u", "t/a"];
const EXPIRY_SECONDS: u32 = 60;

#[derive(Clone, Debug)]
enum Step {
    Open {
        client: usize,
        clean_start: bool,
        persistent: bool,
    },
    /// `stale`: by a connection that no longer holds the session.
    Close {
        client: usize,
        stale: bool,
    },
    Subscribe {
        client: usize,
        filter: usize,
        qos: u8,
        stale: bool,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    Publish {
        topic: usize,
    },
    /// The unacknowledged message at this place.
    Acknowledge {
        client: usize,
        place: usize,
        stale: bool,
    },
    Wait {
        seconds: u64,
    },
}

#[derive(Debug, Default)]
struct Session {
    /// The epoch that the shard gave, while connected.
    held: Option<u64>,
    persistent: bool,
    expires_at_ms: Option<u64>,
    subscriptions: BTreeMap<&'static str, u8>,
    queue: BTreeMap<u64, String>,
    last: u64,
}

#[derive(Debug, Default)]
struct Model {
    sessions: BTreeMap<usize, Session>,
}

fn matches(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    if let Some((&"#", before)) = filter.split_last() {
        return topic.len() >= before.len() && matches_levels(before, &topic[..before.len()]);
    }
    filter.len() == topic.len() && matches_levels(&filter, &topic)
}

fn matches_levels(filter: &[&str], topic: &[&str]) -> bool {
    filter.iter().zip(topic).all(|(wanted, level)| *wanted == "+" || wanted == level)
}

impl Model {
    fn publish(&mut self, topic: &str, payload: &str) -> u32 {
        let mut stored = 0;
        for session in self.sessions.values_mut() {
            if session.subscriptions.iter().any(|(filter, qos)| *qos > 0 && matches(filter, topic)) {
                session.last += 1;
                session.queue.insert(session.last, payload.to_owned());
                stored += 1;
            }
        }
        stored
    }

    fn end(&mut self, client: usize, now_ms: u64) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        session.held = None;
        session.expires_at_ms = Some(now_ms + u64::from(EXPIRY_SECONDS) * 1000);
        if !session.persistent {
            self.sessions.remove(&client);
        }
    }

    fn pass_time(&mut self, now_ms: u64) {
        self.sessions.retain(|_, session| session.held.is_some() || session.expires_at_ms.is_none_or(|at| at > now_ms));
    }

    fn epoch(&self, client: usize, stale: bool) -> u64 {
        let held = self.sessions.get(&client).and_then(|session| session.held).unwrap_or(0);
        if stale { held.saturating_sub(1) } else { held }
    }

    fn routes(&self) -> Vec<Arc<str>> {
        let subscriptions = self.sessions.values().flat_map(|session| &session.subscriptions);
        let mut filters: Vec<Arc<str>> =
            subscriptions.filter(|(_, qos)| **qos > 0).map(|(filter, _)| Arc::from(*filter)).collect();
        filters.sort();
        filters.dedup();
        filters
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS.len();
    prop_oneof![
        2 => (client(), any::<bool>(), any::<bool>())
            .prop_map(|(client, clean_start, persistent)| Step::Open { client, clean_start, persistent }),
        1 => (client(), any::<bool>()).prop_map(|(client, stale)| Step::Close { client, stale }),
        3 => (client(), 0..FILTERS.len(), 0..2_u8, prop::bool::weighted(0.1))
            .prop_map(|(client, filter, qos, stale)| Step::Subscribe { client, filter, qos, stale }),
        1 => (client(), 0..FILTERS.len()).prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        5 => (0..TOPICS.len()).prop_map(|topic| Step::Publish { topic }),
        4 => (client(), 0..4_usize, prop::bool::weighted(0.1))
            .prop_map(|(client, place, stale)| Step::Acknowledge { client, place, stale }),
        1 => (1..80_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn sessions_queues_and_routes_are_those_of_a_simple_model(steps in prop::collection::vec(any_step(), 1..80)) {
        let (mut given, mut model) = (Given::default(), Model::default());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Open { client, clean_start, persistent } => {
                    model.end(client, given.now_ms);
                    if clean_start {
                        model.sessions.remove(&client);
                    }
                    let present = model.sessions.contains_key(&client);
                    let open = Open {
                        clean_start,
                        session_expiry_seconds: if persistent { EXPIRY_SECONDS } else { 0 },
                        ..durable(CLIENTS[client], number as u32)
                    };
                    let (epoch, said_present) = given.open(NODE_A, open);
                    prop_assert_eq!(said_present, present);
                    let session = model.sessions.entry(client).or_default();
                    (session.held, session.persistent, session.expires_at_ms) = (Some(epoch), persistent, None);
                }
                Step::Close { client, stale } => {
                    let epoch = model.epoch(client, stale);
                    let outcome = given.say(NODE_A, close(CLIENTS[client], epoch, CloseCause::Normal));
                    if model.sessions.get(&client).is_some_and(|session| session.held == Some(epoch)) {
                        prop_assert_eq!(outcome, Outcome::Done);
                        model.end(client, given.now_ms);
                    } else {
                        prop_assert_eq!(outcome, Outcome::Stale);
                    }
                }
                Step::Subscribe { client, filter, qos, stale } => {
                    let epoch = model.epoch(client, stale);
                    let granted = QoS::from_bits(qos).unwrap();
                    let outcome = given.subscribe(CLIENTS[client], epoch, FILTERS[filter], granted);
                    match model.sessions.get_mut(&client).filter(|session| session.held == Some(epoch)) {
                        Some(session) => {
                            session.subscriptions.insert(FILTERS[filter], qos);
                            prop_assert_eq!(outcome, Outcome::Codes(vec![qos]));
                        }
                        None => prop_assert_eq!(outcome, Outcome::Stale),
                    }
                }
                Step::Unsubscribe { client, filter } => {
                    let epoch = model.epoch(client, false);
                    let (client_id, filters) = (CLIENTS[client].into(), vec![FILTERS[filter].into()]);
                    let outcome = given.say(NODE_A, Command::Unsubscribe { client_id, epoch, filters });
                    match model.sessions.get_mut(&client).filter(|session| session.held == Some(epoch)) {
                        Some(session) => {
                            let existed = session.subscriptions.remove(FILTERS[filter]).is_some();
                            prop_assert_eq!(outcome, Outcome::Codes(vec![if existed { 0x00 } else { 0x11 }]));
                        }
                        None => prop_assert_eq!(outcome, Outcome::Stale),
                    }
                }
                Step::Publish { topic } => {
                    let payload = number.to_string();
                    let stored = model.publish(TOPICS[topic], &payload);
                    prop_assert_eq!(given.publish(TOPICS[topic], &payload), Outcome::Stored(stored));
                }
                Step::Acknowledge { client, place, stale } => {
                    let epoch = model.epoch(client, stale);
                    let session = model.sessions.get_mut(&client);
                    let number = session.as_ref().and_then(|session| session.queue.keys().nth(place).copied());
                    let number = number.unwrap_or(99);
                    let outcome = given.say(NODE_A, ack(CLIENTS[client], epoch, vec![Ack::Done(number)]));
                    match session.filter(|session| session.held == Some(epoch)) {
                        Some(session) => {
                            session.queue.remove(&number);
                            prop_assert_eq!(outcome, Outcome::Done);
                        }
                        None => prop_assert_eq!(outcome, Outcome::Stale),
                    }
                }
                Step::Wait { seconds } => {
                    given.now_ms += seconds * 1000;
                    given.say(NODE_A, Command::Tick);
                    model.pass_time(given.now_ms);
                }
            }
            for (client, client_id) in CLIENTS.iter().enumerate() {
                let session = model.sessions.get(&client);
                let queue = session.map(|session| session.queue.clone().into_iter().collect()).unwrap_or_default();
                prop_assert_eq!(given.queue(client_id), queue);
                let held = given.shard.attached(client_id).map(|attached| attached.epoch);
                prop_assert_eq!(held, session.and_then(|session| session.held));
            }
            prop_assert_eq!(given.shard.routes(), model.routes());
        }
    }
}
