//! The replicated state machine of one shard: persistent sessions, their queues and exchanges, retained messages, who holds
//! a client id, wills.
//!
//! Commands in, effects out. Deliberately absent: sockets, files, clocks, randomness, async. Time comes with each
//! entry, stamped by the shard's leader.

mod command;
mod evictions;
mod exchanges;
mod fences;
mod inspection;
mod loans;
mod machine;
mod owed;
mod queue;
mod relay;
mod retained;
mod session;
mod shares;
mod snapshot;
mod stored;
mod streams;
mod wills;

#[cfg(test)]
mod tests;

pub use command::{
    Ack, Close, CloseCause, Command, Delivery, Destination, Effect, Entry, Evicted, HandOver, Holder, Numbered, Onward,
    Open, Outcome, Place, PublishOnce, Refusal, Relayed, Sender, Spread, Will,
};
pub use inspection::StoredSession;
pub use machine::{Shard, Totals};
pub use retained::Page;
pub use session::Attached;
pub use shares::Unplaced;
pub use streams::Expected;
