//! The streams of numbered commands: which comes next from each node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::{Incarnation, NodeId, Origin};

/// What a shard expects of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The command of this number; those before it were applied.
    Next(u64),
    /// Nothing more: this run was declared gone, or a later run of the node has been heard.
    Nothing,
}

/// The last run heard of each node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Streams {
    nodes: BTreeMap<NodeId, Stream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Stream {
    incarnation: Incarnation,
    last: u64,
    gone: bool,
}

impl Streams {
    pub(super) fn expected(&self, origin: Origin) -> Expected {
        match self.nodes.get(&origin.node) {
            Some(stream) if stream.incarnation == origin.incarnation && !stream.gone => Expected::Next(stream.last + 1),
            Some(stream) if stream.incarnation >= origin.incarnation => Expected::Nothing,
            _ => Expected::Next(1),
        }
    }

    /// Takes the next number of `origin`. Gives the earlier run that this ends, if any.
    pub(super) fn advance(&mut self, origin: Origin, seq: u64) -> Option<Origin> {
        let stream = Stream { incarnation: origin.incarnation, last: seq, gone: false };
        let earlier = self.nodes.insert(origin.node, stream)?;
        (earlier.incarnation < origin.incarnation && !earlier.gone)
            .then_some(Origin { node: origin.node, incarnation: earlier.incarnation })
    }

    /// Ends a run; later commands of it are refused. False if it had ended, or was never heard and a later one was.
    pub(super) fn end(&mut self, origin: Origin) -> bool {
        match self.nodes.get_mut(&origin.node) {
            Some(stream) if stream.incarnation > origin.incarnation => false,
            Some(stream) if stream.incarnation == origin.incarnation => !std::mem::replace(&mut stream.gone, true),
            _ => {
                let gone = Stream { incarnation: origin.incarnation, last: 0, gone: true };
                self.nodes.insert(origin.node, gone);
                true
            }
        }
    }
}
