//! One publisher of the ledger: a window of unacknowledged messages that outlives its connections.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{Book, GREETING_DEADLINE, Load, PING_EVERY, RECONNECT_AFTER, SILENCE_MAX};
use crate::mqtt::{Connection, Packet};
use crate::service::Endpoint;

/// Publishes until it is told to stop and everything is acknowledged.
pub(super) async fn run(number: u32, load: Load, endpoint: Endpoint, book: Book, stopping: watch::Receiver<bool>) {
    let mut publisher = Publisher { number, load, book, stopping, next: 0, unacknowledged: BTreeMap::new() };
    while let Err(error) = publisher.serve(&endpoint).await {
        publisher.book.reconnected(&error);
        sleep(RECONNECT_AFTER).await;
    }
}

struct Publisher {
    number: u32,
    load: Load,
    book: Book,
    stopping: watch::Receiver<bool>,
    next: u64,
    unacknowledged: BTreeMap<u64, u16>,
}

impl Publisher {
    /// One connection, from greeting to loss. `Ok` when there is nothing left to do.
    async fn serve(&mut self, endpoint: &Endpoint) -> Result<()> {
        let stream = endpoint.connect().await?;
        let client_id = format!("{}-publisher-{}", self.load.name, self.number);
        let (mut connection, _) = timeout(GREETING_DEADLINE, Connection::open(stream, &client_id, true)).await??;
        for sequence in self.unacknowledged.keys().copied().collect::<Vec<_>>() {
            self.publish(&mut connection, sequence, true).await?;
        }
        let mut pace = interval(Duration::from_secs(1) / self.load.per_second.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pings = interval(PING_EVERY);
        let mut heard = Instant::now();
        loop {
            let stopping = *self.stopping.borrow();
            if stopping && self.unacknowledged.is_empty() {
                return connection.close().await;
            }
            let may_send = !stopping && self.unacknowledged.len() < self.load.window;
            tokio::select! {
                packet = connection.receive() => {
                    heard = Instant::now();
                    if let Packet::Acknowledged(id) = packet? {
                        self.acknowledged(id)?;
                    }
                }
                _ = pace.tick(), if may_send => {
                    let sequence = self.next;
                    self.next += 1;
                    self.unacknowledged.insert(sequence, packet_id(sequence));
                    self.book.open().sent.insert((self.number, sequence));
                    self.publish(&mut connection, sequence, false).await?;
                }
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        bail!("no sign of life for {} s", SILENCE_MAX.as_secs());
                    }
                    connection.ping().await?;
                }
            }
        }
    }

    async fn publish(&self, connection: &mut Connection, sequence: u64, duplicate: bool) -> Result<()> {
        let topic = self.load.topic(self.number);
        let payload = format!("{} {sequence}", self.number);
        // A full socket whose other end is gone must not hold the publisher for ever.
        let sending = connection.publish(packet_id(sequence), duplicate, &topic, payload.as_bytes());
        timeout(SILENCE_MAX, sending).await?
    }

    fn acknowledged(&mut self, id: u16) -> Result<()> {
        let Some(sequence) = self.unacknowledged.iter().find(|(_, held)| **held == id).map(|(sequence, _)| *sequence)
        else {
            bail!("the broker acknowledged packet {id}, which is not in flight");
        };
        self.unacknowledged.remove(&sequence);
        let mut pages = self.book.open();
        pages.acknowledged.insert((self.number, sequence));
        let now = Instant::now();
        if let Some(before) = pages.last_acknowledgement.insert(self.number, now) {
            pages.longest_pause = pages.longest_pause.max(now - before);
        }
        Ok(())
    }
}

/// Packet ids go round; the window is far smaller than the circle.
fn packet_id(sequence: u64) -> u16 {
    (sequence % u64::from(u16::MAX)) as u16 + 1
}
