//! A load generator and a side-by-side benchmark of MQTT brokers.
//!
//! [`scenario`] names what is measured and [`side_by_side`] measures it; [`load`], [`latency`], [`idle`] and [`trie`] are
//! the four ways of measuring. [`broker`] starts the brokers and reads their CPU time and memory from `/proc`, [`peers`]
//! builds those that Debian doesn't have, [`floor`] is the least a broker could do. [`report`], [`plot`] and [`bars`] say
//! who needed how much. The packets are written by hand in [`wire`]: a load generator must cost less than what it
//! measures, and must not share a bug with it. Deliberately absent: any setting of this project's broker that its users
//! don't get by default, but for the one worker on its one core.

pub mod bars;
pub mod broker;
pub mod client;
pub mod figure;
pub mod floor;
pub mod idle;
pub mod latency;
pub mod load;
pub mod peers;
pub mod plot;
pub mod report;
pub mod scenario;
pub mod side_by_side;
pub mod trie;
pub mod wire;
