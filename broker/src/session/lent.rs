//! Messages of shared subscriptions that a client was sent at QoS 1 and has not acknowledged: if it goes, another member
//! gets them.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::message::Message;

/// By packet id, in the order sent.
#[derive(Debug, Default)]
pub struct Lent(VecDeque<(u16, Rc<Message>)>);

impl Lent {
    /// A message was sent.
    pub fn put(&mut self, packet_id: u16, message: Rc<Message>) {
        self.0.push_back((packet_id, message));
    }

    /// It is acknowledged. True if that was the last.
    pub fn remove(&mut self, packet_id: u16) -> bool {
        // Mostly the first.
        if let Some(at) = self.0.iter().position(|(lent, _)| *lent == packet_id) {
            self.0.remove(at);
        }
        self.0.is_empty()
    }

    /// All of them.
    pub fn into_messages(self) -> Vec<Rc<Message>> {
        self.0.into_iter().map(|(_, message)| message).collect()
    }
}
