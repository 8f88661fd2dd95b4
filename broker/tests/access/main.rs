//! Who gets in, by what way, and what they may: a real `mqtt-broker` process and clients that nobody here wrote.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod fixture;
mod hostile;
mod listeners;
mod users;
