//! Messages that shards lend to members of shared subscriptions: from whoever publishes to the shard, from its leader to the
//! node of the member, and what became of them back into the log.

use std::collections::BTreeMap;

use super::ShardRooms;
use super::relaying::take_next;
use crate::cluster::shard_client::Waiter;
use crate::cluster::shard_frames::ShardFrame;
use crate::door::{Heir, LoanEnd, Recipient, RouteOwner};
use crate::identity::{Incarnation, Origin, ShardId};
use crate::message::Message;
use crate::shard::{Command, Destination, Outcome};
use crate::share::Loan;

/// What became of loans to this run of this node, by the shard that lent them.
#[derive(Default)]
pub(super) struct EndedLoans {
    shards: BTreeMap<ShardId, Ended>,
    /// Returned at the next tick: a member that does not keep up must not keep others busy.
    unwanted: Vec<Loan>,
}

#[derive(Default)]
struct Ended {
    done: Vec<u64>,
    returned: Vec<u64>,
    begun: Vec<Message>,
}

impl EndedLoans {
    fn put(&mut self, loan: Loan, end: LoanEnd) {
        let ended = self.shards.entry(loan.shard).or_default();
        match end {
            LoanEnd::Done => ended.done.push(loan.number),
            LoanEnd::Returned => ended.returned.push(loan.number),
            LoanEnd::Unwanted => self.unwanted.push(loan),
            LoanEnd::Begun(message) => {
                ended.done.push(loan.number);
                ended.begun.push(message);
            }
        }
    }

    pub(super) fn tick(&mut self) {
        for loan in std::mem::take(&mut self.unwanted) {
            self.put(loan, LoanEnd::Returned);
        }
    }
}

impl ShardRooms {
    /// Whether every member knows of loans.
    pub(super) fn lends(&self) -> bool {
        self.around.mesh.protocol() >= 4
    }

    /// Gives a message to the member that it is for; `key` is that of the publish.
    pub(super) fn give_member(&self, key: Option<u64>, recipient: Recipient, message: Message) {
        let Recipient { owner, text, heir } = recipient;
        let message = Message { recipient: Some(text), ..message };
        match heir.filter(|_| self.lends()) {
            None => self.give(key, owner, message),
            Some(Heir { shard, text: heir }) => match self.borrower(owner) {
                Some(to) => self.store(key, shard, Command::Lend { message, to, heir }),
                None => self.give(key, RouteOwner::Shard(shard), Message { recipient: Some(heir), ..message }),
            },
        }
    }

    /// Where a shard's outbox for a member goes.
    pub(super) fn destination_of(&self, recipient: &Recipient) -> Option<Destination> {
        match &recipient.heir {
            Some(_) if self.lends() => self.borrower(recipient.owner).map(Destination::Borrower),
            _ => self.destination(recipient.owner),
        }
    }

    fn borrower(&self, owner: RouteOwner) -> Option<Origin> {
        self.destination(owner).and_then(|to| to.run())
    }

    /// A loan to a member on this run of this node. Each number is taken once, whoever leads.
    pub(super) fn lent_here(&self, from: Origin, shard: ShardId, to: Incarnation, number: u64, message: Message) {
        if to != self.around.mesh.me().incarnation {
            return;
        }
        let lend = || self.around.workers.lend(Loan { shard, run: to, number }, message);
        if let Some(number) = take_next(&self.borrowed, shard, number, lend) {
            self.send(from.node, ShardFrame::Lent { shard, to, number });
        }
    }

    /// A worker says what became of loans.
    pub(super) fn loans_ended(&self, ended: Vec<(Loan, LoanEnd)>) {
        let run = self.around.mesh.me().incarnation;
        // What an earlier run of this node was lent has gone to others.
        for (loan, end) in ended.into_iter().filter(|(loan, _)| loan.run == run) {
            self.ended_loans.borrow_mut().put(loan, end);
        }
        self.work.notify_one();
    }

    /// Tells the shards. Called each turn.
    pub(super) fn end_loans(&self) {
        let ended = std::mem::take(&mut self.ended_loans.borrow_mut().shards);
        for (shard, Ended { done, returned, begun }) in ended {
            if !done.is_empty() || !returned.is_empty() {
                let waiter = if begun.is_empty() { Waiter::Nobody } else { Waiter::Begun(begun) };
                self.push(shard, Command::EndLoans { done, returned }, waiter);
            }
        }
    }

    /// Nobody else gets these any more, if that is stored: their members may be sent them.
    pub(super) fn begun(&self, messages: Vec<Message>, outcome: &Outcome) {
        if *outcome == Outcome::Done {
            for message in messages {
                self.around.workers.hand_over(message);
            }
        }
    }
}
