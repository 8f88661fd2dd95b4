//! Who gets in, by what way, and what they may: a real `mqtt-broker` process and clients that nobody here wrote.

mod fixture;
mod hostile;
mod listeners;
mod users;
