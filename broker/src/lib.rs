//! A replicated MQTT 3.1.1 and 5.0 broker.
//!
//! The rooms, in the order a PUBLISH walks them. `ARCHITECTURE.md` has the map.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod door;
mod faults;
pub mod identity;
pub mod kept;
pub mod limits;
pub mod listener;
pub mod local;
pub mod message;
pub mod node;
pub mod protocol;
pub mod replication;
pub mod router;
mod seldom;
pub mod session;
pub mod shard;
pub mod share;
pub mod storage;
pub mod worker;
