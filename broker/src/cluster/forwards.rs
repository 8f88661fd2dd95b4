//! Publishes on their way to the connected subscribers of other nodes.
//!
//! Messages for one node go in numbered batches, which are kept until the node has them, and sent again over a new link to
//! the same run of it. They are given up when that run is over: then its subscribers are no longer connected.
//!
//! Pure: frames come out, links are told to it.

use std::collections::{BTreeMap, VecDeque};

use super::frames::Frame;
use crate::identity::{Incarnation, NodeId, Origin};
use crate::message::Message;

/// A QoS 0 message is dropped while more than this waits for the network on its way.
pub const DROP_ABOVE_BYTES: usize = 16 << 20;

/// What is under way to every other node, and what came from them.
#[derive(Default)]
pub struct Forwards {
    outgoing: BTreeMap<NodeId, Outgoing>,
    /// The last batch taken from each run.
    taken: BTreeMap<NodeId, (Incarnation, u64)>,
    over: Vec<(u64, bool)>,
    /// Messages for members of shared subscriptions on runs that are over.
    homeless: Vec<(u64, Message)>,
    dropped: u64,
}

#[derive(Default)]
struct Outgoing {
    /// The run that is linked, or was last.
    run: Option<Incarnation>,
    linked: bool,
    sent: u64,
    waiting: Vec<Message>,
    waiting_keys: Vec<u64>,
    /// QoS 0, and whatever nobody waits for.
    unnumbered: Vec<Message>,
    unacknowledged: VecDeque<Batch>,
}

struct Batch {
    number: u64,
    messages: Vec<Message>,
    keys: Vec<u64>,
}

impl Forwards {
    /// A message for a node. With a key, [`Forwards::take_over`] gives it back exactly once.
    pub fn forward(&mut self, to: NodeId, message: Message, key: Option<u64>) {
        let outgoing = self.outgoing.entry(to).or_default();
        match key {
            Some(key) => {
                outgoing.waiting.push(message);
                outgoing.waiting_keys.push(key);
            }
            None if outgoing.linked => outgoing.unnumbered.push(message),
            None => self.dropped += 1,
        }
    }

    /// The frames of this turn. `queued_bytes` says how much waits on the way to a node.
    pub fn flush(&mut self, queued_bytes: impl Fn(NodeId) -> usize) -> Vec<(NodeId, Frame)> {
        let mut frames = Vec::new();
        for (&node, outgoing) in self.outgoing.iter_mut().filter(|(_, outgoing)| outgoing.linked) {
            if !outgoing.waiting.is_empty() {
                outgoing.sent += 1;
                let batch = Batch {
                    number: outgoing.sent,
                    messages: std::mem::take(&mut outgoing.waiting),
                    keys: std::mem::take(&mut outgoing.waiting_keys),
                };
                frames.push((node, batch.frame()));
                outgoing.unacknowledged.push_back(batch);
            }
            let messages = std::mem::take(&mut outgoing.unnumbered);
            if queued_bytes(node) > DROP_ABOVE_BYTES {
                self.dropped += messages.len() as u64;
            } else if !messages.is_empty() {
                frames.push((node, Frame::Forward { number: 0, messages }));
            }
        }
        frames
    }

    /// A link is up: what the same run has not acknowledged is sent again; what another run was sent is over. The frames to
    /// send come back.
    pub fn link_up(&mut self, peer: Origin) -> Vec<Frame> {
        let outgoing = self.outgoing.entry(peer.node).or_default();
        if outgoing.run != Some(peer.incarnation) {
            if outgoing.run.is_some() {
                outgoing.give_up(&mut self.over, &mut self.homeless);
            }
            outgoing.run = Some(peer.incarnation);
        }
        outgoing.linked = true;
        outgoing.unacknowledged.iter().map(Batch::frame).collect()
    }

    /// The link is gone.
    pub fn link_down(&mut self, node: NodeId) {
        if let Some(outgoing) = self.outgoing.get_mut(&node) {
            outgoing.linked = false;
            self.dropped += outgoing.unnumbered.len() as u64;
            outgoing.unnumbered.clear();
        }
    }

    /// A run of a node is over.
    pub fn ended(&mut self, origin: Origin) {
        if let Some(outgoing) = self.outgoing.get_mut(&origin.node)
            && outgoing.run.is_none_or(|run| run <= origin.incarnation)
        {
            outgoing.give_up(&mut self.over, &mut self.homeless);
        }
    }

    /// This node begins a new run: nobody waits for what the old one forwarded.
    pub fn begin_run(&mut self) {
        for outgoing in self.outgoing.values_mut() {
            outgoing.give_up(&mut self.over, &mut self.homeless);
        }
    }

    /// A node has every batch up to a number.
    pub fn acknowledged(&mut self, node: NodeId, number: u64) {
        let Some(outgoing) = self.outgoing.get_mut(&node) else { return };
        while let Some(batch) = outgoing.unacknowledged.pop_front_if(|batch| batch.number <= number) {
            self.over.extend(batch.keys.into_iter().map(|key| (key, true)));
        }
    }

    /// A batch came. Gives its messages unless they came before.
    pub fn take(&mut self, from: Origin, number: u64, messages: Vec<Message>) -> Vec<Message> {
        if number == 0 {
            return messages;
        }
        let last = self.taken.entry(from.node).or_default();
        if *last >= (from.incarnation, number) {
            return Vec::new();
        }
        *last = (from.incarnation, number);
        messages
    }

    /// Keys whose forward is over since the last call, and whether the node has the message.
    pub fn take_over(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.over)
    }

    /// Messages that need another member of their shared subscription, with their keys.
    pub fn take_homeless(&mut self) -> Vec<(u64, Message)> {
        std::mem::take(&mut self.homeless)
    }

    /// QoS 0 messages that were dropped because there was no link, or a slow one.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Outgoing {
    fn give_up(&mut self, over: &mut Vec<(u64, bool)>, homeless: &mut Vec<(u64, Message)>) {
        let sent = self.unacknowledged.drain(..).flat_map(|batch| batch.keys.into_iter().zip(batch.messages));
        for (key, message) in sent.chain(self.waiting_keys.drain(..).zip(self.waiting.drain(..))) {
            match message.recipient {
                None => over.push((key, false)),
                Some(_) => homeless.push((key, message)),
            }
        }
        self.unnumbered.clear();
    }
}

impl Batch {
    fn frame(&self) -> Frame {
        Frame::Forward { number: self.number, messages: self.messages.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(node: u64, run: u64) -> Origin {
        Origin { node: NodeId(node), incarnation: Incarnation(run) }
    }

    fn message(topic: &str) -> Message {
        Message { topic: topic.into(), ..Message::default() }
    }

    fn numbers(frames: &[Frame]) -> Vec<u64> {
        let number = |frame: &Frame| match frame {
            Frame::Forward { number, .. } => *number,
            _ => panic!("not a forward"),
        };
        frames.iter().map(number).collect()
    }

    fn flush(forwards: &mut Forwards) -> Vec<Frame> {
        forwards.flush(|_| 0).into_iter().map(|(_, frame)| frame).collect()
    }

    #[test]
    fn what_one_turn_forwards_to_a_node_is_one_batch() {
        let mut forwards = Forwards::default();
        forwards.link_up(origin(2, 1));
        forwards.forward(NodeId(2), message("a"), Some(1));
        forwards.forward(NodeId(2), message("b"), Some(2));
        forwards.forward(NodeId(2), message("c"), None);
        assert_eq!(numbers(&flush(&mut forwards)), [1, 0]);
        forwards.acknowledged(NodeId(2), 1);
        assert_eq!(forwards.take_over(), [(1, true), (2, true)]);
    }

    #[test]
    fn a_batch_is_sent_again_to_the_same_run_and_taken_once() {
        let mut forwards = Forwards::default();
        forwards.link_up(origin(2, 1));
        forwards.forward(NodeId(2), message("a"), Some(1));
        flush(&mut forwards);
        forwards.link_down(NodeId(2));
        forwards.forward(NodeId(2), message("b"), Some(2));
        forwards.forward(NodeId(2), message("c"), None);
        assert!(numbers(&flush(&mut forwards)).is_empty());
        assert_eq!(numbers(&forwards.link_up(origin(2, 1))), [1]);
        assert_eq!(numbers(&flush(&mut forwards)), [2]);
        assert_eq!((forwards.take_over(), forwards.dropped()), (vec![], 1));
        let mut receiver = Forwards::default();
        assert_eq!(receiver.take(origin(1, 1), 1, vec![message("a")]).len(), 1);
        assert_eq!(receiver.take(origin(1, 1), 1, vec![message("a")]).len(), 0);
        assert_eq!(receiver.take(origin(1, 2), 1, vec![message("a")]).len(), 1);
    }

    #[test]
    fn what_a_run_was_sent_is_over_with_it() {
        let mut forwards = Forwards::default();
        forwards.link_up(origin(2, 1));
        forwards.forward(NodeId(2), message("a"), Some(1));
        flush(&mut forwards);
        forwards.forward(NodeId(2), message("b"), Some(2));
        assert!(numbers(&forwards.link_up(origin(2, 2))).is_empty());
        assert_eq!(forwards.take_over(), [(1, false), (2, false)]);
        forwards.forward(NodeId(2), message("c"), Some(3));
        forwards.ended(origin(2, 1));
        assert_eq!(forwards.take_over(), [], "another run");
        forwards.ended(origin(2, 2));
        assert_eq!(forwards.take_over(), [(3, false)]);
    }

    #[test]
    fn qos_0_is_dropped_on_a_slow_way() {
        let mut forwards = Forwards::default();
        forwards.link_up(origin(2, 1));
        forwards.forward(NodeId(2), message("a"), None);
        assert!(forwards.flush(|_| DROP_ABOVE_BYTES + 1).is_empty());
        assert_eq!(forwards.dropped(), 1);
    }
}
