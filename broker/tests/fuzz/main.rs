//! Every decoder of what comes from outside, given what nobody would send: a kept corpus, real packets among it, and
//! changes of it. They must not panic, hang, or contradict themselves.
//!
//! `FUZZ_SECONDS=3600 cargo test -p mqtt-broker --test fuzz` goes on for an hour with each. What is found is to be kept
//! in `corpus/`.

#![allow(clippy::unwrap_used, missing_docs)]

mod files;
mod mutation;
mod packets;
mod streams;
