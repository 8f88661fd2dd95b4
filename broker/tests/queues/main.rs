//! Queues larger than memory: a real `mqtt-broker` process keeps far more for clients that are away than it may have in
//! memory, is killed, and delivers all of it, in order and once.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../process/broker.rs"]
mod broker;
#[path = "../process/client.rs"]
mod client;
#[path = "../process/wire.rs"]
mod wire;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use crate::broker::{Broker, PATIENCE, free_address};
use crate::client::Client;
use crate::wire::*;

const SESSIONS: usize = 6;
const MESSAGES: usize = 2_500;
const PAYLOAD_BYTES: usize = 16 << 10;
/// Unacknowledged messages of the publisher.
const WINDOW: usize = 32;
/// What the broker is told to keep in memory of queues.
const QUEUE_MEMORY_BYTES: usize = 4 << 20;
/// Everything that it has in memory: among it 64 MiB of the last entries of its log and up to 32 MiB that wait for the disk, each
/// message in 20 KiB of the allocator's. 140 to 161 MiB were seen; with what is queued (234 MiB) in memory, 289.
const ANONYMOUS_BYTES_MAX: u64 = 208 << 20;

/// One shard has everything, so that snapshots are made of a part of it, and the rest is in the log.
fn start(folder: tempfile::TempDir) -> (Broker, SocketAddr) {
    let address = free_address();
    let config = format!(
        "node: {{ queue_memory_bytes: {QUEUE_MEMORY_BYTES} }}\nreplication: {{ shards: 1 }}\ndata_dir: FOLDER/data\n\
         listeners: [{{ url: \"mqtt://{address}\" }}]"
    );
    (Broker::start(folder, &config), address)
}

/// Memory that the kernel can't take back by reading a file again later.
fn anonymous_bytes(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Connects. A node whose disk is slow for a second serves nobody meanwhile (K3): it is tried again then.
fn connected(address: SocketAddr, connect: &Connect) -> (Client, bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = Client::dial(address, connect.version);
        client.send(&connect.bytes());
        match client.receive() {
            Some(answer) if answer.first == 0x20 && answer.body[1] == 0 => return (client, answer.body[0] == 1),
            refused => assert!(Instant::now() < deadline, "{refused:?}"),
        }
    }
}

fn session(number: usize) -> Connect {
    Connect::kept(V5, &format!("session {number}"))
}

fn payload(session: usize, number: usize) -> String {
    let head = format!("{number} for {session} ");
    let rest = PAYLOAD_BYTES - head.len();
    head + &((b'a' + (number % 26) as u8) as char).to_string().repeat(rest)
}

/// A client that publishes, and publishes again what was not acknowledged when its connection ended.
struct Publisher {
    address: SocketAddr,
    client: Client,
    /// Packet id, session and number.
    waiting: VecDeque<(u16, usize, usize)>,
    /// What was published more than once may arrive more than once.
    again: BTreeSet<(usize, usize)>,
}

impl Publisher {
    fn start(address: SocketAddr) -> Publisher {
        let (client, _) = connected(address, &Connect::clean(V5, "publisher"));
        Publisher { address, client, waiting: VecDeque::new(), again: BTreeSet::new() }
    }

    fn publish(&mut self, session: usize, number: usize) {
        let id = self.client.fresh();
        self.waiting.push_back((id, session, number));
        let packet = publish(V5, 0x32, format!("for/{session}"), id, &[], payload(session, number));
        // What can't be sent is sent again once the end is seen.
        let _ = self.client.try_send(&packet);
    }

    /// Until at most `count` are not acknowledged.
    fn wait(&mut self, count: usize) {
        while self.waiting.len() > count {
            match self.client.receive() {
                Some(answer) if answer.first == PUBACK => {
                    let (id, ..) = self.waiting.pop_front().unwrap();
                    assert_eq!((&answer.body[..2], answer.body.get(2).unwrap_or(&0)), (&id.to_be_bytes()[..], &0));
                }
                // The end, and why.
                _ => {
                    (self.client, _) = connected(self.address, &Connect::clean(V5, "publisher"));
                    for (_, session, number) in std::mem::take(&mut self.waiting) {
                        self.again.insert((session, number));
                        self.publish(session, number);
                    }
                }
            }
        }
    }
}

/// Receives everything that is for a session, in order and once: but for what was published again, and what may have
/// been sent before the session's connection ended.
fn receive_all(address: SocketAddr, number: usize, again: &BTreeSet<(usize, usize)>) {
    let (mut client, present) = connected(address, &session(number));
    assert!(present);
    let mut next = 0;
    while next < MESSAGES {
        let Some(packet) = client.receive().filter(|packet| packet.first >> 4 == 3) else {
            (client, _) = connected(address, &session(number));
            continue;
        };
        let message = packet.message(V5);
        let _ = client.try_send(&answer(PUBACK, message.id));
        if message.payload == payload(number, next).as_bytes() {
            next += 1;
            continue;
        }
        let head = String::from_utf8_lossy(&message.payload[..16]).into_owned();
        let got: usize = head.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(message.payload, payload(number, got).as_bytes());
        let excused = message.first & 8 != 0 || again.contains(&(number, got));
        assert!(got < next && excused, "{got} instead of {next}");
    }
    client.nothing();
    client.disconnect();
}

#[test]
fn what_is_queued_takes_no_memory_and_survives_a_kill_in_order_and_once() {
    let (broker, address) = start(tempfile::tempdir().unwrap());
    for number in 0..SESSIONS {
        let (mut client, _) = connected(address, &session(number));
        assert_eq!(client.subscribe(&format!("for/{number}"), 1), 1);
        client.disconnect();
    }
    let (mut publisher, mut most) = (Publisher::start(address), 0);
    for number in 0..MESSAGES {
        for session in 0..SESSIONS {
            publisher.wait(WINDOW - 1);
            publisher.publish(session, number);
        }
        if number % 50 == 0 {
            most = most.max(anonymous_bytes(&broker));
        }
    }
    publisher.wait(0);
    most = most.max(anonymous_bytes(&broker));
    let queued = SESSIONS * MESSAGES * PAYLOAD_BYTES;
    println!("{} MiB in memory at most, {} MiB queued", most >> 20, queued >> 20);
    println!("{} messages were published again", publisher.again.len());
    assert!(most < ANONYMOUS_BYTES_MAX, "{most} bytes in memory, {queued} queued");

    let (broker, address) = start(broker.kill());
    let restarted = anonymous_bytes(&broker);
    let mut delivering = 0;
    for number in 0..SESSIONS {
        receive_all(address, number, &publisher.again);
        delivering = delivering.max(anonymous_bytes(&broker));
    }
    println!("{} MiB after the start, {} MiB while it delivers", restarted >> 20, delivering >> 20);
    assert!(restarted.max(delivering) < ANONYMOUS_BYTES_MAX, "{restarted} and {delivering} bytes in memory");
}
