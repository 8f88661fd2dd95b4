//! Who gets in, by what way, and what they may: a real `mqtt-broker` process and clients that nobody here wrote.

#![allow(clippy::unwrap_used, missing_docs)]

mod administrators;
#[path = "../process/authority.rs"]
mod authority;
#[path = "../process/broker.rs"]
mod broker;
mod hostile;
mod listeners;
#[path = "../process/mosquitto.rs"]
mod mosquitto;
mod users;
