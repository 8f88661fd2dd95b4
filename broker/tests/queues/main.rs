//! Queues larger than memory: a real `mqtt-broker` process keeps far more for clients that are away than it may have in
//! memory, is killed, and delivers all of it, in order and once.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../process/broker.rs"]
mod broker;
#[path = "../process/client.rs"]
mod client;
#[path = "../process/wire.rs"]
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::broker::{Broker, free_address};
use crate::client::Client;
use crate::wire::*;

const SESSIONS: usize = 6;
const MESSAGES: usize = 2_500;
const PAYLOAD_BYTES: usize = 16 << 10;
/// Unacknowledged messages of the publisher.
const WINDOW: usize = 32;
/// What the broker is told to keep in memory of queues.
const QUEUE_MEMORY_BYTES: usize = 4 << 20;
/// Everything that it has in memory, 64 MiB of the last entries of its log among it. What is queued are 234 MiB.
const ANONYMOUS_BYTES_MAX: u64 = 160 << 20;

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

fn connected(address: SocketAddr, connect: &Connect) -> (Client, bool) {
    let mut client = Client::dial(address, connect.version);
    client.send(&connect.bytes());
    let present = client.accepted();
    (client, present)
}

fn session(number: usize) -> Connect {
    Connect::kept(V5, &format!("session {number}"))
}

fn payload(session: usize, number: usize) -> String {
    let head = format!("{number} for {session} ");
    let rest = PAYLOAD_BYTES - head.len();
    head + &((b'a' + (number % 26) as u8) as char).to_string().repeat(rest)
}

#[test]
fn what_is_queued_takes_no_memory_and_survives_a_kill_in_order_and_once() {
    let (broker, address) = start(tempfile::tempdir().unwrap());
    for number in 0..SESSIONS {
        let (mut client, _) = connected(address, &session(number));
        assert_eq!(client.subscribe(&format!("for/{number}"), 1), 1);
        client.disconnect();
    }
    let (mut publisher, _) = connected(address, &Connect::clean(V5, "publisher"));
    let (mut waiting, mut most) = (VecDeque::new(), 0);
    for number in 0..MESSAGES {
        for session in 0..SESSIONS {
            if waiting.len() >= WINDOW {
                assert_eq!(publisher.answered(PUBACK, waiting.pop_front().unwrap()), 0);
            }
            waiting.push_back(publisher.publish(1, &format!("for/{session}"), &payload(session, number)));
        }
        if number % 50 == 0 {
            most = most.max(anonymous_bytes(&broker));
        }
    }
    for id in waiting {
        assert_eq!(publisher.answered(PUBACK, id), 0);
    }
    most = most.max(anonymous_bytes(&broker));
    let queued = SESSIONS * MESSAGES * PAYLOAD_BYTES;
    println!("{} MiB in memory at most, {} MiB queued", most >> 20, queued >> 20);
    assert!(most < ANONYMOUS_BYTES_MAX, "{most} bytes in memory, {queued} queued");

    let (broker, address) = start(broker.kill());
    let restarted = anonymous_bytes(&broker);
    let mut delivering = 0;
    for number in 0..SESSIONS {
        let (mut client, present) = connected(address, &session(number));
        assert!(present);
        for at in 0..MESSAGES {
            client.gets(&payload(number, at));
        }
        client.nothing();
        delivering = delivering.max(anonymous_bytes(&broker));
        client.disconnect();
    }
    println!("{} MiB after the start, {} MiB while it delivers", restarted >> 20, delivering >> 20);
    assert!(restarted.max(delivering) < ANONYMOUS_BYTES_MAX, "{restarted} and {delivering} bytes in memory");
}
