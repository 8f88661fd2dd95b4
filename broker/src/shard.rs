//! The replicated state machine of one shard: persistent sessions and their queues, who holds a client id, wills.
//!
//! Commands in, effects out. Deliberately absent: sockets, files, clocks, randomness, async. Time comes with each
//! entry, stamped by the shard's leader.

mod command;

pub use command::{
    Ack, Close, CloseCause, Command, Delivery, Effect, Entry, Evicted, Holder, Numbered, Open, Outcome, Refusal, Will,
};
