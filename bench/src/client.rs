//! Clients that connect, subscribe, and are then somebody else's to use.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::wire;

/// How many knock at once: less than any broker's backlog.
const BATCH: usize = 50;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A client to be.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its client id.
    pub id: String,
    /// Filter and QoS of its one subscription.
    pub subscription: Option<(String, u8)>,
    /// Whether its session outlives the connection.
    pub persistent: bool,
}

impl Client {
    /// One that only publishes.
    pub fn publisher(id: String) -> Client {
        Client { id, subscription: None, persistent: false }
    }

    /// One with a subscription.
    pub fn subscriber(id: String, filter: String, qos: u8) -> Client {
        Client { id, subscription: Some((filter, qos)), persistent: false }
    }
}

/// Connects `clients`, in that order; each has its CONNACK, and its SUBACK if it subscribes.
pub fn open(address: SocketAddr, clients: &[Client]) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(clients.len());
    for batch in clients.chunks(BATCH) {
        let mut opened = Vec::with_capacity(batch.len());
        for client in batch {
            let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            stream.write_all(&wire::connect(&client.id, client.persistent))?;
            opened.push(stream);
        }
        for stream in &mut opened {
            connack(stream).context("CONNECT")?;
        }
        for (stream, client) in opened.iter_mut().zip(batch) {
            if let Some((filter, qos)) = &client.subscription {
                stream.write_all(&wire::subscribe(1, filter, *qos))?;
            }
        }
        for (stream, client) in opened.iter_mut().zip(batch) {
            if let Some((_, qos)) = client.subscription {
                suback(stream, qos).context("SUBSCRIBE")?;
            }
        }
        streams.append(&mut opened);
    }
    Ok(streams)
}

/// An error unless what comes next is a CONNACK that accepts.
pub fn connack(stream: &mut TcpStream) -> Result<()> {
    match answer(stream)? {
        [0x20, 2, _, 0] => Ok(()),
        other => bail!("answered {other:02x?}"),
    }
}

fn suback(stream: &mut TcpStream, qos: u8) -> Result<()> {
    match answer(stream)? {
        [0x90, 3, 0, 1] => {}
        other => bail!("answered {other:02x?}"),
    }
    let mut granted = [0];
    stream.read_exact(&mut granted)?;
    if granted[0] != qos {
        bail!("asked for QoS {qos}, granted {:02x}", granted[0]);
    }
    Ok(())
}

fn answer(stream: &mut TcpStream) -> Result<[u8; 4]> {
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::TcpListener;

    use super::*;

    /// A listener that answers the first packet with `answer`.
    fn answering(answer: &'static [u8]) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.read_exact(&mut [0; 14])?;
            stream.write_all(answer)?;
            // Until the client goes.
            stream.read_to_end(&mut Vec::new()).map(drop)
        });
        Ok(address)
    }

    #[test]
    fn a_broker_that_listens_but_refuses_is_not_taken_for_one_that_serves() {
        let refusing = answering(&[0x20, 2, 0, 3]).expect("loopback");
        assert!(open(refusing, &[Client::publisher("x".into())]).is_err());
        let accepting = answering(&[0x20, 2, 0, 0]).expect("loopback");
        assert!(open(accepting, &[Client::publisher("x".into())]).is_ok());
    }

    #[test]
    fn a_lower_qos_than_asked_for_is_an_error() {
        let lower = answering(&[0x20, 2, 0, 0, 0x90, 3, 0, 1, 1]).expect("loopback");
        assert!(open(lower, &[Client::subscriber("x".into(), "a".into(), 2)]).is_err());
        let same = answering(&[0x20, 2, 0, 0, 0x90, 3, 0, 1, 2]).expect("loopback");
        assert!(open(same, &[Client::subscriber("x".into(), "a".into(), 2)]).is_ok());
    }
}
