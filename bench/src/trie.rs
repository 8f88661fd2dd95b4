//! The broker's topic trie among many filters: what a match costs, and what a filter costs in memory.
//!
//! Filters have six levels. With wildcards, one in ten has a `+` at a random level, and one in a hundred ends with `#`. Topics are
//! drawn at random from what the filters describe, so that each matches at least one and no match ends early for want of any.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mqtt_broker::message::{QoS, SubscriptionOptions};
use mqtt_broker::router::{Subscriber, Subscribers, Trie};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::figure;

/// What many filters are compared with.
pub const FEW: u64 = 1000;
/// Topics that are matched in turn; more than fit any cache when the filters don't.
const TOPICS: usize = 200_000;
/// How often a match is repeated over all topics; the fastest pass counts.
const PASSES: usize = 5;
/// How many words each level may have.
const WORDS: [u32; 6] = [50, 40, 30, 20, 50, 40];
/// What a level's words begin with.
const NAMES: [&str; 6] = ["region", "site", "line", "cell", "device", "metric"];
/// One of the filters has a `+` among so many.
const PLUS_IN: u32 = 10;
/// One of the filters ends with `#` among so many.
const HASH_IN: u32 = 100;

/// Measures a trie of `many` filters against one of [`FEW`]; `memory` reads the bytes of this process.
pub fn run(many: u64, wildcards: bool, memory: impl Fn() -> Result<u64>) -> Result<figure::Trie> {
    ensure!(many >= FEW, "{many} filters are not many: at least {FEW}");
    let few = Filters::new(FEW, wildcards, &memory)?;
    let few_ns = few.match_ns().context("few filters")?;
    drop(few);
    let filters = Filters::new(many, wildcards, &memory)?;
    Ok(figure::Trie {
        few_ns,
        many_ns: filters.match_ns()?,
        many,
        bytes_per_filter: filters.bytes_per_filter(),
        longest_insert_ms: filters.longest_insert.as_secs_f64() * 1e3,
    })
}

/// Topics one after the other, as they lie in what was read from a client: to fetch the topic is not a part of the match.
#[derive(Default)]
struct Topics {
    text: String,
    ends: Vec<usize>,
}

impl Topics {
    fn of(topics: &[String]) -> Topics {
        let ends = topics.iter().scan(0, |end, topic| {
            *end += topic.len();
            Some(*end)
        });
        Topics { ends: ends.collect(), text: topics.concat() }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }
}

/// A filled trie.
struct Filters {
    trie: Trie<Subscribers>,
    topics: Topics,
    text_bytes: u64,
    taken_bytes: u64,
    longest_insert: Duration,
}

impl Filters {
    fn new(count: u64, wildcards: bool, memory: &impl Fn() -> Result<u64>) -> Result<Filters> {
        let mut random = StdRng::seed_from_u64(count);
        let before = memory()?;
        let mut trie = Trie::new();
        let mut text_bytes = 0;
        let mut longest_insert = Duration::ZERO;
        while (trie.len() as u64) < count {
            let filter = draw_filter(wildcards, &mut random);
            let slot = trie.len() as u32;
            let start = Instant::now();
            let (_, subscribers, new) = trie.entry(&filter, Subscribers::default);
            longest_insert = longest_insert.max(start.elapsed());
            if new {
                text_bytes += filter.len() as u64;
                let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
                subscribers.put(Subscriber::new(slot, &options, false));
            }
        }
        let taken_bytes = memory()?.saturating_sub(before);
        let topics = Topics::of(&draw_topics(&trie, &mut random));
        Ok(Filters { topics, trie, text_bytes, taken_bytes, longest_insert })
    }

    fn bytes_per_filter(&self) -> f64 {
        (self.taken_bytes as f64 - self.text_bytes as f64) / self.trie.len() as f64
    }

    /// Nanoseconds of one match: the fastest of several passes over all topics.
    fn match_ns(&self) -> Result<f64> {
        let mut fastest = Duration::MAX;
        for _ in 0..PASSES {
            let mut matches = 0_u64;
            let start = Instant::now();
            for topic in self.topics.iter() {
                self.trie.for_each_match(topic, |_, subscribers| matches += subscribers.as_slice().len() as u64);
            }
            fastest = fastest.min(start.elapsed());
            ensure!(matches >= self.topics.len() as u64, "{matches} matches of {} topics", self.topics.len());
        }
        Ok(fastest.as_nanos() as f64 / self.topics.len() as f64)
    }
}

fn draw_filter(wildcards: bool, random: &mut StdRng) -> String {
    let mut levels: Vec<String> = (0..WORDS.len()).map(|level| draw_word(level, random)).collect();
    if wildcards && random.random_ratio(1, PLUS_IN) {
        levels[random.random_range(0..WORDS.len())] = "+".into();
    }
    if wildcards && random.random_ratio(1, HASH_IN) {
        levels[WORDS.len() - 1] = "#".into();
    }
    levels.join("/")
}

fn draw_word(level: usize, random: &mut StdRng) -> String {
    format!("{}-{}", NAMES[level], random.random_range(0..WORDS[level]))
}

/// Topics that random filters of `trie` match.
fn draw_topics<T>(trie: &Trie<T>, random: &mut StdRng) -> Vec<String> {
    // Each filter is kept with this chance; the order of the trie's walk must not be the order of the matches.
    let chance = (TOPICS as f64 / trie.len() as f64).min(1.0);
    let mut topics = Vec::with_capacity(TOPICS);
    trie.for_each(|filter, _| {
        if random.random_bool(chance) {
            topics.push(filter.to_owned());
        }
    });
    for topic in &mut topics {
        *topic = fill_in(topic, random);
    }
    for at in (1..topics.len()).rev() {
        topics.swap(at, random.random_range(0..=at));
    }
    topics
}

/// A topic that `filter` matches.
fn fill_in(filter: &str, random: &mut StdRng) -> String {
    let levels = filter.split('/').enumerate().map(|(number, level)| match level {
        "+" | "#" => draw_word(number, random),
        word => word.to_owned(),
    });
    levels.collect::<Vec<_>>().join("/")
}

/// The numbers of [`run`] as one line, for whoever has started this as a process of its own.
pub fn to_line(trie: &figure::Trie) -> String {
    let figure::Trie { few_ns, many_ns, many, bytes_per_filter, longest_insert_ms } = trie;
    format!("{few_ns} {many_ns} {many} {bytes_per_filter} {longest_insert_ms}")
}

/// Reads what [`to_line`] wrote.
pub fn from_line(line: &str) -> Result<figure::Trie> {
    let numbers: Vec<f64> = line
        .split_whitespace()
        .map(|word| word.parse().with_context(|| format!("not a number: {word:?}")))
        .collect::<Result<_>>()?;
    let [few_ns, many_ns, many, bytes_per_filter, longest_insert_ms] =
        numbers[..].try_into().with_context(|| format!("not five numbers: {line:?}"))?;
    Ok(figure::Trie { few_ns, many_ns, many: many as u64, bytes_per_filter, longest_insert_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_six_levels_and_their_topics_match() {
        let random = &mut StdRng::seed_from_u64(1);
        let mut wildcards = 0;
        for _ in 0..1000 {
            let filter = draw_filter(true, random);
            assert_eq!(filter.split('/').count(), 6, "{filter}");
            wildcards += usize::from(filter.contains(['+', '#']));
            let mut trie = Trie::new();
            trie.insert(&filter, ());
            let (topic, mut found) = (fill_in(&filter, random), false);
            trie.for_each_match(&topic, |_, ()| found = true);
            assert!(found, "{topic} and {filter}");
        }
        assert!((50..200).contains(&wildcards), "{wildcards} of 1000");
    }

    #[test]
    fn topics_are_as_they_were_put_together() {
        let topics = ["a/b".to_owned(), String::new(), "c".to_owned()];
        assert_eq!(Topics::of(&topics).iter().collect::<Vec<_>>(), topics);
    }

    #[test]
    fn memory_counts_without_the_text() {
        let mut filters = Filters {
            trie: Trie::new(),
            topics: Topics::default(),
            text_bytes: 40,
            taken_bytes: 240,
            longest_insert: Duration::ZERO,
        };
        filters.trie.insert("a", Subscribers::default());
        filters.trie.insert("b", Subscribers::default());
        assert_eq!(filters.bytes_per_filter(), 100.0);
    }

    #[test]
    fn a_line_reads_back() {
        let trie = figure::Trie {
            few_ns: 10.5,
            many_ns: 40.0,
            many: 10_000_000,
            bytes_per_filter: 99.25,
            longest_insert_ms: 30.5,
        };
        assert_eq!(from_line(&to_line(&trie)).expect("a line"), trie);
        assert!(from_line("1 2 3 4").is_err());
        assert!(from_line("1 2 three 4 5").is_err());
    }
}
