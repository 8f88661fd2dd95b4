//! Who gets in, by what way, and what they may: a real `mqtt-broker` process and clients that nobody here wrote.

#![allow(clippy::unwrap_used, missing_docs)]

mod administrators;
#[path = "../process/authority.rs"]
mod authority;
#[path = "../process/broker.rs"]
mod broker;
#[path = "../process/client.rs"]
mod client;
mod floods;
mod hostile;
mod listeners;
#[path = "../process/mosquitto.rs"]
mod mosquitto;
mod users;
#[path = "../process/wire.rs"]
mod wire;
