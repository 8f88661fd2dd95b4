//! What nodes ask of the leader of a group: of the control group's, mostly.

use serde::{Deserialize, Serialize};

use super::control::{ControlAnswer, Joiner};
use super::status::{Overview, Report};
use crate::identity::{GroupId, NodeId, Origin};

/// A question to the control leader, but for the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// To become a member, or begin a new run as one.
    Join(Joiner),
    /// To hold the lease for a while longer.
    Renew(Origin, Report),
    /// This run ends now: it serves nobody any more.
    Goodbye(Origin),
    /// The member of this name shall leave, or stay after all.
    Leave {
        /// Its name.
        name: String,
        /// Leave or stay.
        leaving: bool,
    },
    /// To the leader of a group: the asker's replica is damaged. It shall be taken out; is it?
    TakeOut {
        /// The group.
        group: GroupId,
        /// Whose replica.
        origin: Origin,
    },
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Somebody else leads, if it is known who; ask again.
    NotLeader(Option<NodeId>),
    /// What the control state machine said.
    Control(ControlAnswer),
    /// The lease is held for a while from when it was asked for.
    Renewed(Overview),
    /// Whether the asker is certainly no member of the group any more: what it has of it must be forgotten before it can
    /// become one again.
    TakenOut(bool),
}
