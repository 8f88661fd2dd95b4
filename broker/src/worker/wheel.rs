//! One timer for all connections of a worker: a wheel of ticks.
//!
//! A connection has one entry that counts. When its turn comes, the worker looks whether it was heard of since and puts it back at
//! its new deadline, so that a packet costs no more than noting the tick.

use crate::limits::{TICK_MS, WHEEL_TICKS};

/// Which connection: slot and generation.
pub type Timed = (u32, u32);

/// Connections by the tick at which to look at them.
#[derive(Debug)]
pub struct Wheel {
    now: u32,
    places: Box<[Vec<Timed>]>,
}

impl Default for Wheel {
    fn default() -> Self {
        Wheel { now: 0, places: vec![Vec::new(); WHEEL_TICKS as usize].into() }
    }
}

impl Wheel {
    /// The tick it is.
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Brings `timed` up at tick `at`, or earlier if that is more than one turn of the wheel away; returns the tick.
    pub fn schedule(&mut self, timed: Timed, at: u32) -> u32 {
        let ahead = at.saturating_sub(self.now).clamp(1, WHEEL_TICKS - 1);
        self.places[((self.now + ahead) % WHEEL_TICKS) as usize].push(timed);
        self.now + ahead
    }

    /// One tick later: who is to be looked at.
    pub fn turn(&mut self) -> Vec<Timed> {
        self.now += 1;
        std::mem::take(&mut self.places[(self.now % WHEEL_TICKS) as usize])
    }
}

/// How many ticks last at least `ms`.
pub fn ticks(ms: u64) -> u32 {
    // One more: the tick that runs now has run for a while.
    ms.div_ceil(TICK_MS) as u32 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_up_once_and_not_late() {
        let mut wheel = Wheel::default();
        let deadlines = [1, 2, WHEEL_TICKS - 1, WHEEL_TICKS, 3 * WHEEL_TICKS + 5];
        for (slot, at) in deadlines.iter().enumerate() {
            wheel.schedule((slot as u32, 0), *at);
        }
        let mut due = Vec::new();
        while due.len() < deadlines.len() {
            for (slot, generation) in wheel.turn() {
                let at = deadlines[slot as usize];
                assert!(wheel.now() <= at);
                if wheel.now() < at {
                    wheel.schedule((slot, generation), at);
                } else {
                    due.push(slot);
                }
            }
        }
        assert_eq!(due, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_span_is_never_cut_short() {
        assert_eq!(ticks(0), 1);
        assert!(u64::from(ticks(1_500) - 1) * TICK_MS >= 1_500);
    }
}
