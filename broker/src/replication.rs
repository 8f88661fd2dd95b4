//! Raft groups: one per shard and one for control. The only room that names `openraft`.
//!
//! A [`Group`] takes opaque entries, makes them durable on a majority of its voters, and applies them in order to a
//! [`StateMachine`]. Deliberately absent: what an entry means, where a node is to be found, and who should be a voter.
//!
//! Handles are `!Send`: a group lives on the [`tokio::task::LocalSet`] it was started on.

mod group;
mod log;
mod machine;
mod network;
mod raft;
mod replica;
mod runtime;
mod settings;
mod snapshot;
mod standing;

#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;

pub use group::{ChangeError, Group, ProposeError};
pub use machine::{EffectSink, Position, StateMachine};
pub use network::{LocalFuture, Transport, TransportError};
pub use runtime::seed;
pub use settings::Settings;
pub use snapshot::Image;
pub use standing::{Leadership, Standing};
