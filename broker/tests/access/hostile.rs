//! Those who never get as far as MQTT, or only to try passwords: others are served meanwhile.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::authority::Authority;
use crate::broker::{Broker, PATIENCE, free_address};
use crate::mosquitto::{end, mosquitto};

/// How long somebody else's publish may take meanwhile: starting a process and three round trips, on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn slow_silent_and_storming_clients_keep_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.sign("server", &["localhost", "127.0.0.1"]);
    let (plain, secure, web, users) = (free_address(), free_address(), free_address(), free_address());
    // PBKDF2 of a million rounds: each check costs the broker most of a second.
    std::fs::write(folder.path().join("users"), format!("ann:$7$1000000$c2FsdHNhbHQ=${}==\n", "A".repeat(86))).unwrap();
    let broker = Broker::start(
        folder,
        &format!(
            "
node: {{ workers: 1 }}
limits: {{ connect_ms: 3000 }}
auth: {{ password_file: FOLDER/users }}
listeners:
  - {{ url: \"mqtt://{plain}\", allow_anonymous: true }}
  - {{ url: \"mqtt://{users}\" }}
  - {{ url: \"ws://{web}\", allow_anonymous: true }}
  - url: mqtts://{secure}
    allow_anonymous: true
    tls: {{ certificates: [{{ cert_file: FOLDER/server.crt, key_file: FOLDER/server.key }}] }}
"
        ),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let storm = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut held = Vec::new();
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                for address in [plain, secure, web, users] {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    // Half a handshake, half a CONNECT, half a request; or nothing at all.
                    let half: &[u8] = match number % 4 {
                        0 => b"",
                        1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                        2 => b"\x10\x20\x00\x04MQTT",
                        _ => b"GET /mqtt HTTP/1.1\r\nUpgrade: ",
                    };
                    let _ = stream.write_all(half);
                    held.push(stream);
                    number += 1;
                }
                // Passwords, each another one.
                if let Ok(mut stream) = TcpStream::connect(users) {
                    let mut connect = b"\x10\x18\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01p\x00\x03ann\x00\x04".to_vec();
                    connect.extend(number.to_be_bytes());
                    let _ = stream.write_all(&connect);
                    held.push(stream);
                }
                // One byte more from some of the slow ones.
                for stream in held.iter_mut().step_by(7) {
                    let _ = stream.write_all(b"x");
                }
                if held.len() > 600 {
                    held.drain(..300);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    for _ in 0..5 {
        let start = Instant::now();
        let (ok, said) = end(mosquitto("pub", &broker, plain, "-t a -m x -q 1"));
        assert!(ok && start.elapsed() < SERVED_WITHIN, "plain, after {:?}: {said}", start.elapsed());
        let start = Instant::now();
        let (ok, said) = end(mosquitto("pub", &broker, secure, "--cafile FOLDER/ca.crt -t a -m x -q 1"));
        assert!(ok && start.elapsed() < SERVED_WITHIN, "TLS, after {:?}: {said}", start.elapsed());
    }
    broker.until("wrong passwords are refused", || {
        let metrics = broker.ask("GET /metrics");
        let refused = metrics.lines().find(|line| line.starts_with("mqtt_broker_connects_refused_total"));
        refused.is_some_and(|line| !line.ends_with(" 0"))
    });
    stop.store(true, Ordering::Relaxed);
    storm.join().unwrap();
    broker.until("everybody who never came to CONNECT is gone", || {
        let metrics = broker.ask("GET /metrics");
        let open = metrics.lines().filter(|line| line.starts_with("mqtt_broker_listener_connections{"));
        open.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>() == 0
    });
}

#[test]
fn a_handshake_that_never_ends_is_ended() {
    let (plain, web) = (free_address(), free_address());
    let broker = Broker::start(
        tempfile::tempdir().unwrap(),
        &format!(
            "limits: {{ connect_ms: 1000 }}\nlisteners: [{{ url: \"mqtt://{plain}\" }}, {{ url: \"ws://{web}\", connections_max: 1 }}]"
        ),
    );
    let mut first = TcpStream::connect(web).unwrap();
    broker.until("the first is counted", || {
        let metrics = broker.ask("GET /metrics");
        metrics.lines().any(|line| line.starts_with("mqtt_broker_listener_connections{") && line.ends_with(" 1"))
    });
    let mut second = TcpStream::connect(web).unwrap();
    for stream in [&mut second, &mut first] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The second is one too many; the first is too slow.
        assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
    let metrics = broker.ask("GET /metrics");
    let refused = metrics.lines().filter(|line| line.starts_with("mqtt_broker_listener_refused_full_total{"));
    assert!(refused.clone().any(|line| line.ends_with(" 1")), "{:?}", refused.collect::<Vec<_>>());
}
