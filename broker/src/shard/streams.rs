//! The streams of numbered commands: which comes next from each node.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identity::{Incarnation, NodeId, Origin};
use crate::limits;

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

/// How far a stream was applied, and which of it was refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stream {
    incarnation: Incarnation,
    pub last: u64,
    gone: bool,
    /// Publishes that were refused, of late.
    refused: BTreeSet<u64>,
    /// Up to this number nobody knows any more which were refused.
    forgotten_to: u64,
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
        match self.nodes.get_mut(&origin.node) {
            Some(stream) if stream.incarnation == origin.incarnation => {
                stream.last = seq;
                None
            }
            _ => {
                let stream = Stream { incarnation: origin.incarnation, last: seq, ..Stream::default() };
                let earlier = self.nodes.insert(origin.node, stream).filter(|earlier| !earlier.gone)?;
                Some(Origin { node: origin.node, incarnation: earlier.incarnation })
            }
        }
    }

    /// Remembers that a publish was refused, so that it is never said to be stored when it comes again (K1).
    pub(super) fn refuse(&mut self, origin: Origin, seq: u64) {
        if let Some(stream) = self.nodes.get_mut(&origin.node) {
            stream.refuse(seq);
        }
    }

    /// Whether a publish that was applied before may have been refused.
    pub(super) fn may_have_refused(&self, origin: Origin, seq: u64) -> bool {
        self.nodes.get(&origin.node).is_none_or(|stream| stream.may_have_refused(seq))
    }

    /// Ends a run, and all before it; later commands of it are refused. False if it had ended, or a later one was heard.
    pub(super) fn end(&mut self, origin: Origin) -> bool {
        match self.nodes.get_mut(&origin.node) {
            Some(stream) if stream.incarnation > origin.incarnation => false,
            Some(stream) if stream.incarnation == origin.incarnation => !std::mem::replace(&mut stream.gone, true),
            _ => {
                let gone = Stream { incarnation: origin.incarnation, gone: true, ..Stream::default() };
                self.nodes.insert(origin.node, gone);
                true
            }
        }
    }
}

impl Stream {
    pub(super) fn refuse(&mut self, seq: u64) {
        self.refused.insert(seq);
        if self.refused.len() > limits::STREAM_REFUSALS_MAX {
            self.forgotten_to = self.refused.pop_first().unwrap_or_default();
        }
    }

    pub(super) fn may_have_refused(&self, seq: u64) -> bool {
        seq <= self.forgotten_to || self.refused.contains(&seq)
    }
}
