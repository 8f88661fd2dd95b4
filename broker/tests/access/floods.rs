//! Clients that speak MQTT and ask for too much: they get what they may have, others are served meanwhile, and the
//! broker's memory stays within a bound.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::broker::{Broker, free_address};
use crate::client::Client;
use crate::wire::*;

/// The longest that a message of somebody else may take meanwhile, on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// What the broker may need more than before, in bytes: what its limits let one client hold, several times.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(3);

fn start(limits: &str) -> (Broker, SocketAddr) {
    let address = free_address();
    let config = format!("limits: {{ {limits} }}\nlisteners: [{{ url: \"mqtt://{address}\" }}]");
    (Broker::start(tempfile::tempdir().unwrap(), &config), address)
}

/// What of the broker is in memory.
fn resident_bytes(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn connected(address: SocketAddr, connect: &Connect) -> Client {
    let mut client = Client::dial(address, connect.version);
    client.send(&connect.bytes());
    client.accepted();
    client
}

/// Does `hostile` while somebody else sends messages to somebody else, each of which arrives in time; gives by how much
/// the broker has grown at most.
fn served_during(broker: &Broker, address: SocketAddr, hostile: impl FnOnce() + Send) -> u64 {
    let mut subscriber = connected(address, &Connect::clean(V5, "good subscriber"));
    assert_eq!(subscriber.subscribe("good", 1), 1);
    let mut publisher = connected(address, &Connect::clean(V5, "good publisher"));
    let (before, mut most) = (resident_bytes(broker), 0);
    std::thread::scope(|scope| {
        let hostile = scope.spawn(hostile);
        let mut sent = 0;
        while !hostile.is_finished() || sent == 0 {
            let start = Instant::now();
            publisher.publishes(2, "good", &[], "good");
            subscriber.gets("good");
            assert!(start.elapsed() < SERVED_WITHIN, "message {sent} took {:?}", start.elapsed());
            sent += 1;
            most = most.max(resident_bytes(broker));
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("{sent} messages of others; {} KiB at most, {} KiB before", most / 1024, before / 1024);
    });
    most.saturating_sub(before)
}

#[test]
fn a_million_subscriptions_are_refused_from_the_limit_on() {
    const SUBSCRIPTIONS: usize = 1_000_000;
    const AT_ONCE: usize = 10_000;
    const LIMIT: usize = 5_000;
    let (broker, address) = start(&format!("subscriptions_max: {LIMIT}"));
    for (version, connect, refusal) in [
        (V5, Connect::clean(V5, "hostile"), 0x97),
        (V3, Connect::clean(V3, "older"), 0x80),
        (V5, Connect::kept(V5, "kept"), 0x97),
    ] {
        // A session that is kept goes by way of the log: the same, with fewer.
        let subscriptions = if connect.clean { SUBSCRIPTIONS } else { SUBSCRIPTIONS / 10 };
        let growth = served_during(&broker, address, || {
            let mut client = connected(address, &connect);
            let mut granted = 0;
            for first in (0..subscriptions).step_by(AT_ONCE) {
                let filters: Vec<String> = (first..first + AT_ONCE).map(|number| format!("many/{number}/+")).collect();
                let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
                client.send(&subscribe(version, 1, &[], &filters));
                let codes = client.suback(1);
                assert_eq!(codes.len(), AT_ONCE);
                granted += codes.iter().filter(|code| **code == 1).count();
                assert!(codes.iter().all(|code| [1, refusal].contains(code)));
            }
            assert_eq!(granted, LIMIT);
        });
        assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
    }
}

#[test]
fn a_storm_of_connects_keeps_nobody_waiting() {
    let (broker, address) = start("connect_ms: 2000");
    let growth = served_during(&broker, address, || {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let (start, mut number) = (Instant::now(), 0);
                    while start.elapsed() < FLOOD {
                        // Some are of one client id, some of another each time; some go before they are answered.
                        let id = if number % 2 == 0 { "contended".to_owned() } else { format!("{thread} {number}") };
                        if let Ok(mut stream) = TcpStream::connect(address) {
                            let _ = stream.write_all(&Connect::clean(V5, &id).will("will", "gone").bytes());
                            if number % 3 > 0 {
                                let _ = std::io::Read::read(&mut stream, &mut [0; 64]);
                            }
                        }
                        number += 1;
                    }
                    assert!(number > 10, "no storm: {number}");
                });
            }
        });
    });
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
    broker.until("everybody is gone", || {
        let metrics = broker.ask("GET /metrics");
        // As the listener counts them, and as the workers remember them.
        ["mqtt_broker_listener_connections{", "mqtt_broker_connections ", "mqtt_broker_sessions "].iter().all(|name| {
            let open = metrics.lines().find(|line| line.starts_with(name));
            open.unwrap_or_else(|| panic!("no {name}")).ends_with(" 0")
        })
    });
}

/// Publishes as fast as it can to somebody who reads nothing, and to nobody.
#[test]
fn a_flood_to_one_who_does_not_read_keeps_nobody_waiting() {
    let (broker, address) = start("");
    for (round, (qos, version)) in [(0, V5), (1, V5), (0, V3)].into_iter().enumerate() {
        // The broker may not have read the last round's flood to its end.
        let topic = format!("flood {round}");
        let mut deaf = connected(address, &Connect::clean(version, "deaf"));
        assert_eq!(deaf.subscribe(&topic, 1), 1);
        let growth = served_during(&broker, address, || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&Connect::clean(version, "hostile").bytes()).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            let start = Instant::now();
            let mut written = 0;
            // It reads no acknowledgement either.
            'flood: while start.elapsed() < FLOOD {
                for id in 1..=100 {
                    let packet = publish(version, 0x30 | qos << 1, &topic, id, &[], "x".repeat(10_000));
                    match stream.write(&packet) {
                        // Half a packet: a new connection begins with a whole one.
                        Ok(count) if count == packet.len() => written += count,
                        _ => {
                            let Ok(again) = TcpStream::connect(address) else { continue 'flood };
                            stream = again;
                            let _ = stream.write_all(&Connect::clean(version, "hostile").bytes());
                            let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
                        }
                    }
                }
            }
            assert!(written > 1 << 20, "no flood: {written} bytes");
        });
        assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
        drop(deaf);
    }
}
