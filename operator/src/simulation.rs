//! The operator for hundreds of steps in a world that fails from a seed: requests are refused, answers are lost, caches
//! lag, watches drop, brokers are silent, pods die, and a person changes the resource all the while. After every step the
//! invariants hold; when the faults end, everything comes to where it was asked to be, and then nothing is written any more.

mod by_hand;
mod by_watches;
mod world;

use std::ops::Range;

/// Steps while everything fails.
const STEPS: u32 = 150;

/// The seeds to run: `SIMULATION_SEEDS=100..200` in the environment asks for others.
fn seeds(unasked: Range<u64>) -> Range<u64> {
    let Ok(wanted) = std::env::var("SIMULATION_SEEDS") else {
        return unasked;
    };
    let (first, end) = wanted.split_once("..").expect("SIMULATION_SEEDS is FIRST..END");
    first.parse().unwrap()..end.parse().unwrap()
}
