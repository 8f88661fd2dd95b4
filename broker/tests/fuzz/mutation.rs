//! Bytes like those of a corpus, changed in the ways that decoders get wrong, for as long as there is time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

/// Seconds for each target, if `FUZZ_SECONDS` says nothing else.
const SECONDS: f64 = 4.0;
/// The longest that one input may take.
const INPUT_TIME_MAX: Duration = Duration::from_secs(5);
/// Inputs between two looks at the clock.
const CASES: u32 = 64;
/// Bytes of an input that is not of the corpus.
const RANDOM_BYTES_MAX: usize = 300;
/// Bytes that mean something to some decoder.
const TELLING: [u8; 16] = [0, 1, 2, 0x0a, 0x0d, 0x20, 0x23, 0x2b, 0x2f, 0x7f, 0x80, 0x81, 0xc0, 0xed, 0xfe, 0xff];

/// A change of some bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    /// A number of this size, most significant byte first.
    Number(Index, u32, bool),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    /// From here on, what another one has from there on.
    Splice(Index, Index, Index),
    Truncate(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let telling = prop_oneof![prop::sample::select(&TELLING[..]), any::<u8>()];
    prop_oneof![
        4 => (at(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        4 => (at(), telling.clone()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        2 => (at(), prop_oneof![0_u32..300, any::<u32>()], any::<bool>()).prop_map(|(at, n, wide)| Mutation::Number(at, n, wide)),
        2 => (at(), prop::collection::vec(telling, 1..8)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        2 => (at(), 1_usize..16).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (at(), 1_usize..32, 1_usize..20).prop_map(|(at, count, times)| Mutation::Repeat(at, count, times)),
        1 => (at(), at(), at()).prop_map(|(at, other, from)| Mutation::Splice(at, other, from)),
        1 => at().prop_map(Mutation::Truncate),
    ]
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        // Behind the last byte is a place too.
        let place = |at: &Index, bytes: &Vec<u8>| at.index(bytes.len() + 1);
        match self {
            Mutation::Flip(at, mask) if !bytes.is_empty() => *at.get_mut(bytes) ^= mask,
            Mutation::Set(at, byte) if !bytes.is_empty() => *at.get_mut(bytes) = *byte,
            Mutation::Flip(..) | Mutation::Set(..) => {}
            Mutation::Number(at, number, wide) => {
                let number = &number.to_be_bytes()[if *wide { 0 } else { 2 }..];
                let at = place(at, bytes);
                for (byte, new) in bytes[at..].iter_mut().zip(number) {
                    *byte = *new;
                }
            }
            Mutation::Insert(at, more) => {
                let at = place(at, bytes);
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Remove(at, count) => {
                let at = place(at, bytes);
                bytes.drain(at..bytes.len().min(at + count));
            }
            Mutation::Repeat(at, count, times) => {
                let at = place(at, bytes);
                let part = bytes[at..bytes.len().min(at + count)].repeat(*times);
                bytes.splice(at..at, part);
            }
            Mutation::Splice(at, other, from) => {
                let other = other.get(corpus);
                let at = place(at, bytes);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[place(from, other)..]);
            }
            Mutation::Truncate(at) => {
                let at = place(at, bytes);
                bytes.truncate(at);
            }
        }
    }
}

fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let mutated = (any::<Index>(), prop::collection::vec(mutation(), 0..6)).prop_map(move |(chosen, mutations)| {
        let mut bytes = chosen.get(&corpus).clone();
        for mutation in &mutations {
            mutation.apply(&mut bytes, &corpus);
        }
        bytes
    });
    prop_oneof![15 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..RANDOM_BYTES_MAX)]
}

/// The kept files of a target.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Gives `target` the corpus `name` and what is `grown` here, as they are, and then changed.
pub fn fuzz(name: &str, grown: Vec<Vec<u8>>, target: impl Fn(&[u8])) {
    let corpus = [kept(name), grown].concat();
    assert!(!corpus.is_empty(), "no corpus for {name}");
    for input in &corpus {
        target(input);
    }
    let seconds = std::env::var("FUZZ_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let (inputs, mut tried) = (inputs(corpus), 0);
    while Instant::now() < deadline {
        let result = TestRunner::new(config.clone()).run(&inputs, |input| {
            let start = Instant::now();
            target(&input);
            match start.elapsed() {
                elapsed if elapsed > INPUT_TIME_MAX => Err(TestCaseError::fail(format!("took {elapsed:?}"))),
                _ => Ok(()),
            }
        });
        if let Err(TestError::Fail(reason, input)) = result {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
            std::fs::write(&file, &input).unwrap();
            panic!("{reason}: {input:02x?}; written to {}, to be kept in tests/fuzz/corpus/{name}", file.display());
        }
        result.unwrap();
        tried += CASES;
    }
    println!("{name}: {tried} inputs");
}
