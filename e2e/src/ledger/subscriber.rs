//! One subscriber of the ledger: a persistent session that must be found again on whichever pod the Service chooses.

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, interval, sleep, timeout};

use super::{Book, GREETING_DEADLINE, Load, Message, PING_EVERY, Pages, RECONNECT_AFTER, SILENCE_MAX};
use crate::mqtt::{Connection, Packet};
use crate::service::Endpoint;

/// Receives until it is dropped.
pub(super) async fn run(number: u32, load: Load, endpoint: Endpoint, book: Book) {
    loop {
        if let Err(error) = serve(number, &load, &endpoint, &book).await {
            book.reconnected(&error);
            sleep(RECONNECT_AFTER).await;
        }
    }
}

/// Ends the session for good.
pub(super) async fn forget(number: u32, load: &Load, endpoint: &Endpoint) -> Result<()> {
    let client_id = client_id(number, load);
    let stream = endpoint.connect().await?;
    let greeting = timeout(GREETING_DEADLINE, Connection::open(stream, &client_id, true)).await;
    let (connection, _) = greeting?.with_context(|| format!("clearing the session of {client_id}"))?;
    connection.close().await
}

fn client_id(number: u32, load: &Load) -> String {
    format!("{}-subscriber-{number}", load.name)
}

/// One connection, from greeting to loss.
async fn serve(number: u32, load: &Load, endpoint: &Endpoint, book: &Book) -> Result<()> {
    let stream = endpoint.connect().await?;
    let client_id = client_id(number, load);
    let opening = Connection::open(stream, &client_id, false);
    let (mut connection, session_present) = timeout(GREETING_DEADLINE, opening).await??;
    let subscribed = book.open().received.entry(number).or_default().subscribed;
    if subscribed && !session_present {
        book.open().received.entry(number).or_default().sessions_lost += 1;
    }
    if !(session_present && subscribed) {
        timeout(GREETING_DEADLINE, connection.subscribe(&load.filter())).await??;
        book.open().received.entry(number).or_default().subscribed = true;
    }
    let mut pings = interval(PING_EVERY);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            packet = connection.receive() => {
                heard = Instant::now();
                if let Packet::Message { id, payload } = packet? {
                    book.open().receive(number, parse(&payload));
                    if let Some(id) = id {
                        timeout(SILENCE_MAX, connection.acknowledge(id)).await??;
                    }
                }
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

fn parse(payload: &[u8]) -> Option<Message> {
    let (publisher, sequence) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    Some((publisher.parse().ok()?, sequence.parse().ok()?))
}

impl Pages {
    /// Writes down a reception.
    fn receive(&mut self, subscriber: u32, message: Option<Message>) {
        let Some(message) = message.filter(|message| self.sent.contains(message)) else {
            self.foreign += 1;
            return;
        };
        let page = self.received.entry(subscriber).or_default();
        if !page.messages.insert(message) {
            page.duplicates += 1;
            return;
        }
        let (publisher, sequence) = message;
        let newest = page.newest.entry(publisher).or_insert(sequence);
        if sequence < *newest {
            page.out_of_order += 1;
        }
        *newest = sequence.max(*newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receptions_are_told_apart() {
        let mut pages = Pages::default();
        pages.sent.extend([(0, 0), (0, 1), (0, 2), (1, 0)]);
        for text in ["0 0", "0 2", "0 1", "1 0", "0 2", "0 7", "noise"] {
            pages.receive(5, parse(text.as_bytes()));
        }
        let page = &pages.received[&5];
        assert_eq!(page.messages.len(), 4);
        assert_eq!((page.duplicates, page.out_of_order, pages.foreign), (1, 1, 2));
    }
}
