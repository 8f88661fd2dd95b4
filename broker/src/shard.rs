//! The replicated state machine of one shard: persistent sessions and their queues, who holds a client id, wills.
//!
//! Commands in, effects out. Deliberately absent: sockets, files, clocks, randomness, async. Time comes with each
//! entry, stamped by the shard's leader.

mod command;
mod evictions;
mod machine;
mod queue;
mod session;
mod snapshot;
mod streams;
mod wills;

#[cfg(test)]
mod tests;

pub use command::{
    Ack, Close, CloseCause, Command, Delivery, Effect, Entry, Evicted, Holder, Numbered, Open, Outcome, Refusal, Will,
};
pub use machine::{Shard, Totals};
pub use session::Attached;
pub use streams::Expected;
