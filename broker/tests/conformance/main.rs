//! The normative statements of MQTT 5.0 and 3.1.1 that a server can violate, tried with raw bytes on a real broker.
//!
//! Each test says above its name which statements it tries. [`table`] makes of that, and of the list of all statements
//! (`statements.txt`), the table in `STATEMENTS.md`.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../process/broker.rs"]
mod broker;
#[path = "../process/client.rs"]
mod client;
mod scene;
mod table;
#[path = "../process/wire.rs"]
mod wire;

// Chapters 1 and 2: bytes, text, fixed headers, packet identifiers, properties.
mod form;
// Chapter 3, in its order.
mod connecting;
mod publishing;
mod retaining;
mod subscribing;
mod wills;
// Chapter 4.
mod authenticating;
mod delivering;
mod sessions;
mod sharing;
mod topics;
// Chapter 6.
mod websocket;
