//! What nodes ask of the control group's leader.

use serde::{Deserialize, Serialize};

use super::control::{ControlAnswer, Joiner};
use super::status::{Overview, Report};
use crate::identity::{NodeId, Origin};

/// A question to the control leader.
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
}

/// The control leader's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Somebody else leads, if it is known who; ask again.
    NotLeader(Option<NodeId>),
    /// What the control state machine said.
    Control(ControlAnswer),
    /// The lease is held for a while from when it was asked for.
    Renewed(Overview),
}
