//! A load generator and a side-by-side benchmark of MQTT brokers.
//!
//! [`scenario`] makes closed-loop load, [`broker`] starts the brokers to compare and reads their CPU time from `/proc`,
//! [`floor`] is the least a broker could do, [`report`] says who needed how much. The packets are written by hand in
//! [`wire`]: a load generator must cost less than what it measures, and must not share a bug with it.

pub mod broker;
pub mod floor;
pub mod report;
pub mod scenario;
pub mod wire;
