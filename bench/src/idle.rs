//! Memory per idle connection: connections that have subscribed and then do nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::client::{self, Client};
use crate::figure::Figure;

/// How many connections.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Connected before memory is first read, and kept: what any connection at all costs is not of these.
    pub before: usize,
    /// Connected then; these are measured.
    pub connections: usize,
}

/// Connects, and reads `memory` (bytes) before and after; each time it has had `settle` to come to rest.
pub fn run(address: SocketAddr, idle: Idle, settle: Duration, memory: impl Fn() -> Result<u64>) -> Result<Figure> {
    ensure!(idle.connections > 0, "no connections, no memory of one");
    let clients: Vec<Client> = (0..idle.before + idle.connections)
        .map(|number| Client::subscriber(format!("bench-idle-{number}"), format!("bench/idle/{number}"), 0))
        .collect();
    let (before, measured) = clients.split_at(idle.before);
    let _before = client::open(address, before)?;
    std::thread::sleep(settle);
    let empty = memory()?;
    let _measured = client::open(address, measured)?;
    std::thread::sleep(settle);
    Ok(Figure::Memory(memory()?.saturating_sub(empty) as f64 / idle.connections as f64))
}
