//! Workers, whole, with raw bytes on one side and a scripted cluster on the other.

mod aliases;
mod delivery;
mod ending;
mod exactly_once;
mod fixture;
mod hostile;
mod persistent;
mod retained;
mod sessions;
mod sharing;
mod sockets;
