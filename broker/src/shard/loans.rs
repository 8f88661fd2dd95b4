//! Messages lent to members of shared subscriptions whose sessions end with their connections.
//!
//! Such a member is connected to a node and has no queue. If others of its subscription are persistent, a message for it that
//! was acknowledged must survive that node (K1): it stands here, as a *loan*, until the node says what became of it, or its run
//! is over. It goes to the node by way of an outbox of its own ([`Destination::Borrower`]), so it arrives once, whoever leads.
//! What comes back is for the *heir*, a persistent member whose shard this is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{Destination, Effect, Outcome};
use super::exchanges::{Behalf, Leaving};
use super::machine::Shard;
use super::stored::Stored;
use super::streams::Expected;
use crate::identity::Origin;
use crate::limits;
use crate::message::Message;

/// Everything that is lent.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Loans {
    /// By the run that has it, and its number in the outbox for that.
    lent: BTreeMap<(Origin, u64), Loan>,
    borrowers: BTreeMap<Arc<str>, Borrowed>,
    bytes: usize,
}

#[derive(Debug, PartialEq)]
struct Loan {
    /// It names the borrower.
    message: Stored,
    borrower: Arc<str>,
    heir: Option<Arc<str>>,
}

/// What one member has.
#[derive(Debug, Default, PartialEq)]
struct Borrowed {
    items: usize,
    bytes: usize,
}

impl Borrowed {
    /// It has more than half of what it may be handed over. Each time that it has less again, more is looked for.
    fn is_much(&self) -> bool {
        self.items > limits::MEMBER_HAND_OVERS_ITEMS_MAX / 2 || self.bytes > limits::MEMBER_HAND_OVERS_BYTES_MAX / 2
    }
}

/// What a snapshot says of a loan; `message` is its place among the messages.
#[derive(Serialize, Deserialize)]
pub(super) struct LoanRecord {
    run: Origin,
    number: u64,
    pub message: usize,
    borrower: Arc<str>,
    heir: Option<Arc<str>>,
}

impl Loans {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether this member may have one more, of so many.
    fn may_have(&self, borrower: &str, items_max: usize, bytes_max: usize) -> bool {
        let within = |borrowed: &Borrowed| borrowed.items < items_max && borrowed.bytes < bytes_max;
        self.bytes < limits::SHARD_LOANS_BYTES_MAX && self.borrowers.get(borrower).is_none_or(within)
    }

    fn put(&mut self, run: Origin, number: u64, mut loan: Loan) {
        let bytes = loan.message.size();
        if let Some((known, _)) = self.borrowers.get_key_value(&loan.borrower) {
            loan.borrower = known.clone();
        }
        let borrowed = self.borrowers.entry(loan.borrower.clone()).or_default();
        borrowed.items += 1;
        borrowed.bytes += bytes;
        self.bytes += bytes;
        self.lent.insert((run, number), loan);
    }

    /// Ends a loan; and tells whether its borrower has no longer much.
    fn take(&mut self, run: Origin, number: u64) -> Option<(Loan, bool)> {
        let loan = self.lent.remove(&(run, number))?;
        let bytes = loan.message.size();
        self.bytes -= bytes;
        let Some(borrowed) = self.borrowers.get_mut(&loan.borrower) else { return Some((loan, false)) };
        let had_much = borrowed.is_much();
        borrowed.items -= 1;
        borrowed.bytes -= bytes;
        let eased = had_much && !borrowed.is_much();
        if borrowed.items == 0 {
            self.borrowers.remove(&loan.borrower);
        }
        Some((loan, eased))
    }

    /// The runs of a node up to this one are over: what they had, in the order it was lent.
    fn forget(&mut self, gone: Origin) -> Vec<Loan> {
        let (first, last) = (Origin { incarnation: Default::default(), ..gone }, (gone, u64::MAX));
        let over: Vec<(Origin, u64)> = self.lent.range((first, 0)..=last).map(|(key, _)| *key).collect();
        over.into_iter().filter_map(|(run, number)| Some(self.take(run, number)?.0)).collect()
    }

    /// For a snapshot; `place` says where among its messages one is.
    pub(super) fn records(&self, mut place: impl FnMut(&Stored) -> usize) -> Vec<LoanRecord> {
        let record = |((run, number), loan): (&(Origin, u64), &Loan)| LoanRecord {
            run: *run,
            number: *number,
            message: place(&loan.message),
            borrower: loan.borrower.clone(),
            heir: loan.heir.clone(),
        };
        self.lent.iter().map(record).collect()
    }

    /// `None` if a message is missing.
    pub(super) fn restored(records: Vec<LoanRecord>, messages: &[Stored]) -> Option<Loans> {
        let mut loans = Loans::default();
        for LoanRecord { run, number, message, borrower, heir } in records {
            loans.put(run, number, Loan { message: messages.get(message)?.clone(), borrower, heir });
        }
        Some(loans)
    }
}

impl Shard {
    /// Lends a message to the member that it names, which is connected to `run`. If that has as much as it may, or is over,
    /// the heir has it at once; without one, another member is found.
    pub(super) fn lend(
        &mut self,
        run: Origin,
        message: Message,
        heir: Option<Arc<str>>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let borrower = message.recipient.clone().unwrap_or_default();
        let (items_max, bytes_max) = (limits::MEMBER_LOANS_ITEMS_MAX, limits::MEMBER_LOANS_BYTES_MAX);
        if !self.has_room_to_lend(run) || !self.loans.may_have(&borrower, items_max, bytes_max) {
            return self.bequeath(message, heir, effects);
        }
        let (to, message) = (Destination::Borrower(run), Stored::new(&self.shelf, &message));
        let number = self.traffic.put(to, Leaving { message: message.clone(), behalf: Behalf::Nobody });
        self.loans.put(run, number, Loan { message, borrower, heir });
        effects.push(Effect::Relayable(to));
        Outcome::Stored(1)
    }

    /// A run says what became of loans: of the first nothing is owed any more, the others are somebody else's.
    pub(super) fn end_loans(&mut self, run: Origin, done: &[u64], returned: &[u64], effects: &mut Vec<Effect>) {
        let mut eased = false;
        for number in done {
            eased |= self.loans.take(run, *number).is_some_and(|(_, eased)| eased);
        }
        if eased {
            effects.push(Effect::Unplaced);
        }
        let returned = returned.iter().filter_map(|number| Some(self.loans.take(run, *number)?.0)).collect();
        self.inherit(returned, effects);
    }

    /// The runs of a node up to this one are over: what they were lent is somebody else's.
    pub(super) fn forget_borrowers(&mut self, gone: Origin, effects: &mut Vec<Effect>) {
        let returned = self.loans.forget(gone);
        self.inherit(returned, effects);
    }

    fn inherit(&mut self, returned: Vec<Loan>, effects: &mut Vec<Effect>) {
        for Loan { message, heir, .. } in returned {
            let message = message.message();
            if let Outcome::Refused(_) = self.bequeath(message.clone(), heir, effects) {
                // The heir's queue is full.
                self.stray(message);
            }
            // Somebody may be connected, where the heir is not.
            effects.push(Effect::Unplaced);
        }
    }

    fn bequeath(&mut self, message: Message, heir: Option<Arc<str>>, effects: &mut Vec<Effect>) -> Outcome {
        match heir {
            Some(heir) => self.dispatch(Message { recipient: Some(heir), ..message }, effects),
            None => {
                self.stray(message);
                effects.push(Effect::Unplaced);
                Outcome::Stored(1)
            }
        }
    }

    fn has_room_to_lend(&self, run: Origin) -> bool {
        self.streams.expected(run) != Expected::Nothing && self.traffic.bytes() < limits::SHARD_OUTBOX_BYTES_MAX
    }
}

/// What the shard's leader reads.
impl Shard {
    /// Whether a member that is connected to `run` may be lent one more message that waited elsewhere, or was left.
    pub fn may_hand_over(&self, run: Origin, borrower: &str) -> bool {
        let (items_max, bytes_max) = (limits::MEMBER_HAND_OVERS_ITEMS_MAX, limits::MEMBER_HAND_OVERS_BYTES_MAX);
        self.has_room_to_lend(run) && self.loans.may_have(borrower, items_max, bytes_max)
    }
}
