//! The credit of one publisher.

use std::cell::{Cell, RefCell};

use anyhow::{Result, ensure};
use tokio::sync::Notify;

/// How many more messages a publisher may send; comes back when the last receiver of a message has it.
pub struct Lane {
    credit: Cell<usize>,
    granted: Notify,
    /// Receivers of each message.
    receivers: usize,
    arrivals: RefCell<Arrivals>,
}

/// How far the messages have come that not every receiver has.
struct Arrivals {
    /// The oldest of them.
    oldest: u64,
    /// How many receivers have each of the window, by number modulo the window.
    counts: Vec<usize>,
}

impl Lane {
    /// A lane with a whole window of credit.
    pub fn new(window: usize, receivers: usize) -> Lane {
        Lane {
            credit: Cell::new(window),
            granted: Notify::new(),
            receivers,
            arrivals: RefCell::new(Arrivals { oldest: 0, counts: vec![0; window] }),
        }
    }

    /// All credit there is; it is spent.
    pub fn take_credit(&self) -> usize {
        self.credit.take()
    }

    /// Waits until there is more.
    pub async fn granted(&self) {
        self.granted.notified().await;
    }

    /// A receiver has its message `number`, counted from 0.
    pub fn received(&self, number: u64) -> Result<()> {
        if self.receivers == 1 {
            self.grant(1);
            return Ok(());
        }
        let arrivals = &mut *self.arrivals.borrow_mut();
        let window = arrivals.counts.len() as u64;
        ensure!(
            (arrivals.oldest..arrivals.oldest + window).contains(&number),
            "message {number} came twice, or before it was sent: the oldest under way is {}",
            arrivals.oldest
        );
        arrivals.counts[(number % window) as usize] += 1;
        let mut complete = 0;
        while arrivals.counts[(arrivals.oldest % window) as usize] == self.receivers {
            arrivals.counts[(arrivals.oldest % window) as usize] = 0;
            arrivals.oldest += 1;
            complete += 1;
        }
        self.grant(complete);
        Ok(())
    }

    fn grant(&self, more: usize) {
        if more > 0 {
            self.credit.set(self.credit.get() + more);
            self.granted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_comes_back_when_the_slowest_receiver_has_the_message() {
        let lane = Lane::new(2, 3);
        assert_eq!(lane.take_credit(), 2);
        for number in [0, 0, 1, 1, 1] {
            lane.received(number).expect("sent");
        }
        assert_eq!(lane.take_credit(), 0, "one receiver lacks message 0");
        lane.received(0).expect("sent");
        assert_eq!(lane.take_credit(), 2, "both are complete");
    }

    #[test]
    fn a_single_receiver_returns_credit_at_once() {
        let lane = Lane::new(8, 1);
        lane.take_credit();
        lane.received(0).expect("sent");
        assert_eq!(lane.take_credit(), 1);
    }

    #[test]
    fn a_message_that_was_not_sent_is_an_error() {
        let lane = Lane::new(2, 2);
        assert!(lane.received(2).is_err());
    }
}
