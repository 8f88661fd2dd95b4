//! The nodes that together are one broker: members, links between them, placement of shards, routes, leases, drain.
//!
//! Everything here runs on one thread, on a `LocalSet`, and reaches the world through [`net::Net`] alone. Deliberately
//! absent: client connections, MQTT packets, what a shard's state machine does with a command.

pub mod asks;
pub mod control;
pub mod convergence;
pub mod forwards;
pub mod frames;
pub mod handle;
pub mod link;
pub mod links;
pub mod mesh;
pub mod net;
pub mod placement;
pub mod replica;
pub mod routes;
pub mod shards;
pub mod status;
pub mod tasks;

mod delivery;
mod relays;
mod retained_reads;
mod retained_rounds;
mod room;
mod shard_client;
mod shard_frames;
mod shard_leader;
mod wanting;

#[cfg(test)]
mod tests;
