//! Messages of shared subscriptions that a client was sent at QoS 1 and has not acknowledged: if it goes, another member
//! gets them.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::message::Message;
use crate::share::Loan;

/// In the order sent.
#[derive(Debug, Default)]
pub struct Lent(VecDeque<Sent>);

#[derive(Debug)]
struct Sent {
    packet_id: u16,
    message: Rc<Message>,
    loan: Option<Loan>,
}

impl Lent {
    /// A message was sent.
    pub fn put(&mut self, packet_id: u16, message: Rc<Message>, loan: Option<Loan>) {
        self.0.push_back(Sent { packet_id, message, loan });
    }

    /// It is acknowledged. Gives the loan, if a shard has lent it.
    pub fn remove(&mut self, packet_id: u16) -> Option<Loan> {
        // Mostly the first.
        let at = self.0.iter().position(|sent| sent.packet_id == packet_id)?;
        self.0.remove(at)?.loan
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn into_messages(self) -> Vec<(Rc<Message>, Option<Loan>)> {
        self.0.into_iter().map(|sent| (sent.message, sent.loan)).collect()
    }
}
