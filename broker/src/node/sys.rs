//! `$SYS` topics: what this node counts, told to its own subscribers at an interval under Mosquitto's names.
//!
//! Each node tells of itself, at QoS 0; who subscribes gets the last report at once. `messages` counts PUBLISH alone.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::message::Message;
use crate::worker::{Ask, Counters, WorkerHandle};

/// Reports until the workers are gone.
pub(super) async fn report(every: Duration, workers: Vec<WorkerHandle>) {
    let start = Instant::now();
    let mut interval = interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let counters: Vec<Counters> = workers.iter().map(|worker| worker.counters.read()).collect();
        let messages = messages(start.elapsed(), &counters);
        for worker in &workers {
            if worker.asks.send(Ask::Report(messages.clone())).await.is_err() {
                return;
            }
        }
    }
}

fn messages(uptime: Duration, counters: &[Counters]) -> Vec<Message> {
    let sum = |which: fn(&Counters) -> u64| counters.iter().map(which).sum::<u64>();
    let dropped = counters.iter().flat_map(Counters::named).filter(|(name, _, _)| name.starts_with("dropped_"));
    let dropped: u64 = dropped.map(|(_, _, value)| value).sum();
    let (received, sent) = (sum(|counters| counters.messages_received), sum(|counters| counters.messages_sent));
    let figures = [
        ("version", concat!("mqtt-broker ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("uptime", format!("{} seconds", uptime.as_secs())),
        ("clients/connected", sum(|counters| counters.sessions).to_string()),
        ("bytes/received", sum(|counters| counters.bytes_received).to_string()),
        ("bytes/sent", sum(|counters| counters.bytes_sent).to_string()),
        ("messages/received", received.to_string()),
        ("messages/sent", sent.to_string()),
        ("publish/messages/received", received.to_string()),
        ("publish/messages/sent", sent.to_string()),
        ("publish/messages/dropped", dropped.to_string()),
    ];
    let message = |(name, value): (&str, String)| Message {
        topic: format!("$SYS/broker/{name}").into(),
        payload: Bytes::from(value),
        ..Message::default()
    };
    figures.into_iter().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_are_added_up() {
        let counters =
            Counters { sessions: 2, messages_sent: 3, dropped_expired: 1, dropped_too_large: 1, ..Counters::default() };
        let messages = messages(Duration::from_secs(7), &[counters, counters]);
        let told = |name: &str| {
            let topic = format!("$SYS/broker/{name}");
            let found = messages.iter().find(|message| *message.topic == *topic).unwrap();
            String::from_utf8(found.payload.to_vec()).unwrap()
        };
        assert_eq!(told("uptime"), "7 seconds");
        assert_eq!((told("clients/connected"), told("messages/sent")), ("4".to_owned(), "6".to_owned()));
        assert_eq!(told("publish/messages/dropped"), "4");
    }
}
