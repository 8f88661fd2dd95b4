//! Who gets in, by what way, and what they may: a real `mqtt-broker` process and clients that nobody here wrote.

#![allow(clippy::unwrap_used, missing_docs)]

mod fixture;
mod hostile;
mod listeners;
mod users;
