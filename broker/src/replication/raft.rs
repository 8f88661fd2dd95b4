//! The types that `openraft` is told to use.

use std::fmt;
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::runtime::SeededRuntime;

/// An entry of a state machine, opaque to Raft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command(pub Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// This project's groups. At most one leader a term, as in the Raft paper: `openraft`'s default allows several, and
    /// then a term would not tell whose effects to carry out.
    pub(super) Types:
        D = Command,
        R = (),
        NodeId = u64,
        Node = (),
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = SeededRuntime,
);

pub(super) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(super) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(super) type Membership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, super::snapshot::Data>;

/// The first byte of whatever this room writes to a log or sends to a node.
const FORMAT: u8 = 1;

/// What is larger is not worth a copy for the room at its end.
const SMALL_BYTES_MAX: usize = 1024;

/// Encodes for the log and for other nodes.
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Bytes> {
    let mut bytes = postcard::to_extend(value, vec![FORMAT]).map_err(io::Error::other)?;
    // Many of these stay in the log's memory, each with the room that it grew into.
    if bytes.len() <= SMALL_BYTES_MAX {
        bytes.shrink_to_fit();
    }
    Ok(Bytes::from(bytes))
}

/// The opposite of [`encode`]. Bytes that don't decode are an error that names `what`.
pub(super) fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> io::Result<T> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {why}"));
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|error| invalid(error.to_string())),
        Some((format, _)) => Err(invalid(format!("format {format} is unknown to this version"))),
        None => Err(invalid("there is nothing".to_string())),
    }
}
