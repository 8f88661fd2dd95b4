//! The control state as a replicated state machine: bytes in, answers out.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Control, ControlAnswer, ControlCommand};
use crate::identity::Origin;
use crate::replication::{Image, StateMachine};

/// A command on its way through the log, with the proposer's mark, so that the proposer finds its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// Who proposed it.
    pub origin: Origin,
    /// Its number there.
    pub number: u64,
    /// The command.
    pub command: ControlCommand,
}

/// The answer to a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Who proposed it.
    pub origin: Origin,
    /// Its number there.
    pub number: u64,
    /// The answer.
    pub answer: ControlAnswer,
}

impl StateMachine for Control {
    type Effect = Answered;

    fn apply(&mut self, _index: u64, entry: &[u8], effects: &mut Vec<Answered>) {
        // What cannot be read was written by a later version: this replica cannot go on being one, but must not differ
        // from others of its own version either; they all skip it.
        let Ok(proposal) = postcard::from_bytes::<Proposal>(entry) else {
            tracing::error!("an entry of the control log cannot be read and is skipped");
            return;
        };
        let answer = Control::apply(self, &proposal.command);
        effects.push(Answered { origin: proposal.origin, number: proposal.number, answer });
    }

    fn snapshot(&self) -> Image {
        // Maps of known length and plain values: postcard has no reason to fail.
        postcard::to_stdvec(self).unwrap_or_default().into()
    }

    fn restore(&mut self, bytes: &Bytes) -> io::Result<()> {
        *self = postcard::from_bytes(bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("control snapshot cannot be read: {error}"))
        })?;
        Ok(())
    }
}
