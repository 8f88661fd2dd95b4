//! A disk of the simulation.
use std::time::Duration;

/// What goes wrong, and how slow it is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Every operation takes up to this long, at random (tokio's clock).
    pub delay_max: Duration,
    /// Bytes that fit on the disk.
    pub capacity: u64,
}

/// A disk in memory. Cloning gives the same disk, so that a test can keep it across a node's crash.
#[derive(Clone)]
pub struct SimulatedDisk {}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new(_seed: u64, _faults: Faults) -> SimulatedDisk {
        unimplemented!()
    }
    /// The power fails: what was not synced is lost, in whole or in parts, and operations under way never complete.
    pub fn crash(&self) {}
}
