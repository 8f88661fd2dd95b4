//! Latency at a fixed rate: one publisher, one subscriber, on a core that does nothing but look at the clock and at both
//! sockets. A runtime that sleeps between events would measure its own waking up.
//!
//! A message's time counts from the moment it was due, not from the moment it was sent: a broker that makes the load
//! generator wait does not get the wait for free.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::client::{self, Client};
use crate::figure::{Figure, percentile};
use crate::wire;

/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 64 * 1024;
/// How long the last messages may take to arrive after the last was sent.
const TAIL_MAX: Duration = Duration::from_secs(5);
/// Bytes of a payload that tell a message's number.
const NUMBER_BYTES: usize = 8;

/// A steady stream of messages.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Messages a second.
    pub per_second: u32,
    /// Bytes; at least the eight that number the message.
    pub payload: usize,
    /// Of publishes and the subscription.
    pub qos: u8,
}

/// Sends for `warm_up` and then `measure`; every message of the latter counts, and must arrive.
pub fn run(address: SocketAddr, rate: Rate, warm_up: Duration, measure: Duration) -> Result<Figure> {
    ensure!(rate.payload >= NUMBER_BYTES, "a payload of {} bytes does not tell its number", rate.payload);
    let [mut subscriber, mut publisher] = connect(address, rate.qos)?;
    let mut publish = wire::publish("bench/latency", rate.qos, &vec![b'x'; rate.payload]);
    let packet_id_at = wire::packet_id_offset(&publish);
    let number_at = publish.len() - rate.payload;

    let interval = Duration::from_secs(1) / rate.per_second;
    let uncounted = u64::from(rate.per_second) * warm_up.as_millis() as u64 / 1000;
    let total = uncounted + u64::from(rate.per_second) * measure.as_millis() as u64 / 1000;
    ensure!(total > uncounted, "{measure:?} is too short for {} a second", rate.per_second);
    let mut taken_ns = Vec::with_capacity((total - uncounted) as usize);
    let (mut scratch, mut partial, mut output) = (vec![0; SCRATCH_BYTES], Vec::new(), Vec::new());

    let start = Instant::now();
    let due = |number: u64| start + interval * number as u32;
    let (mut sent, mut received) = (0_u64, 0_u64);
    while received < total {
        let now = Instant::now();
        if sent < total && now >= due(sent) {
            publish[number_at..number_at + NUMBER_BYTES].copy_from_slice(&sent.to_be_bytes());
            if rate.qos > 0 {
                wire::set_packet_id(&mut publish, packet_id_at, (sent % 65_535) as u16 + 1);
            }
            send(&mut publisher, &publish).context("publishing")?;
            sent += 1;
        } else if now > due(total) + TAIL_MAX {
            bail!("{} of {total} messages did not arrive", total - received);
        }
        // Acknowledgements; nothing here waits for them.
        receive(&mut publisher, &mut scratch)?;
        let length = receive(&mut subscriber, &mut scratch)?;
        if length == 0 {
            continue;
        }
        let now = Instant::now();
        partial.extend_from_slice(&scratch[..length]);
        let mut done = 0;
        while let Some(length) = wire::packet_len(&partial[done..]) {
            let packet = &partial[done..done + length];
            done += length;
            if wire::kind(packet) != wire::PUBLISH {
                continue;
            }
            let number = wire::payload(packet).first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            let number = number.context("a message that nobody sent")?;
            ensure!(number == received, "message {number} came when {received} was expected");
            received += 1;
            if number >= uncounted {
                taken_ns.push(now.saturating_duration_since(due(number)).as_nanos() as u64);
            }
            wire::acknowledge(packet, &mut output);
        }
        partial.drain(..done);
        send(&mut subscriber, &output).context("acknowledging")?;
        output.clear();
    }
    taken_ns.sort_unstable();
    Ok(Figure::Latency { median_ns: percentile(&taken_ns, 0.5) as f64, p99_ns: percentile(&taken_ns, 0.99) as f64 })
}

fn connect(address: SocketAddr, qos: u8) -> Result<[TcpStream; 2]> {
    let clients = [
        Client::subscriber("bench-latency-sub".into(), "bench/latency".into(), qos),
        Client::publisher("bench-latency-pub".into()),
    ];
    let streams: [TcpStream; 2] =
        client::open(address, &clients)?.try_into().map_err(|_| anyhow::anyhow!("two clients are two streams"))?;
    for stream in &streams {
        stream.set_nonblocking(true)?;
    }
    Ok(streams)
}

/// How many bytes there were; 0 if there is nothing to read now.
fn receive(stream: &mut TcpStream, scratch: &mut [u8]) -> Result<usize> {
    match stream.read(scratch) {
        Ok(0) => bail!("closed by the broker"),
        Ok(length) => Ok(length),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
