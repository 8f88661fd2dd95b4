//! The ledger itself, against a broker that is known: Debian's Mosquitto without persistence keeps everything while it lives and
//! forgets everything when it is killed.

#![allow(clippy::unwrap_used, reason = "a test may panic, and clippy knows only test functions as tests")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mqtt_e2e::ledger::{Ledger, Load};
use mqtt_e2e::service::Endpoint;

const DEADLINE: Duration = Duration::from_secs(30);

/// A Mosquitto on loopback, killed when it is dropped.
struct Mosquitto {
    process: Child,
    address: SocketAddr,
}

impl Mosquitto {
    fn start(address: SocketAddr) -> Self {
        let process = Command::new("mosquitto")
            .args(["-p", &address.port().to_string()])
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto runs (Debian: apt-get install mosquitto)");
        Self { process, address }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address, namespace: None }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn load(name: &str) -> Load {
    Load { name: name.into(), publishers: 2, subscribers: 2, per_second: 200, window: 8 }
}

#[tokio::test]
async fn a_broker_that_keeps_everything_balances() {
    let broker = Mosquitto::start(free_address());
    let ledger = Ledger::start(broker.endpoint(), load("keeps"), DEADLINE).await.unwrap();
    ledger.more(200, DEADLINE).await.unwrap();
    let balance = ledger.settle(DEADLINE).await.unwrap();
    assert!(balance.kept(), "{balance}");
    assert!(balance.acknowledged >= 200, "{balance}");
    assert_eq!(balance.received, [balance.acknowledged; 2], "{balance}");
}

#[tokio::test]
async fn a_broker_that_forgets_is_found_out() {
    let address = free_address();
    let mut broker = Mosquitto::start(address);
    let ledger = Ledger::start(broker.endpoint(), load("forgets"), DEADLINE).await.unwrap();
    ledger.more(200, DEADLINE).await.unwrap();
    broker.kill();
    let _broker = Mosquitto::start(address);
    ledger.more(200, DEADLINE).await.unwrap();
    // What is forgotten never comes: no need to wait long for it.
    let balance = ledger.settle(DEADLINE / 6).await.unwrap();
    assert!(!balance.kept(), "{balance}");
    assert!(balance.sessions_lost > 0 && balance.reconnects > 0, "{balance}");
}
