//! What a measurement gives.

use std::time::Duration;

/// A measured result. Of every number in it, less is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    /// Of closed-loop load.
    Throughput(Throughput),
    /// Of load at a fixed rate, from the moment a message was due until its subscriber had read it.
    Latency {
        /// Half of the messages took less.
        median_ns: f64,
        /// 99 of 100 took less.
        p99_ns: f64,
    },
    /// Bytes of memory that one idle connection takes.
    Memory(f64),
    /// Of the topic trie.
    Trie(Trie),
}

/// What was seen between the end of the warm-up and the end of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Messages that reached a subscriber.
    pub delivered: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// CPU time that the broker took for it.
    pub broker_cpu: Duration,
}

/// What a trie costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trie {
    /// A match among a thousand filters.
    pub few_ns: f64,
    /// A match among many.
    pub many_ns: f64,
    /// How many those are.
    pub many: u64,
    /// Memory per filter, its own text not counted.
    pub bytes_per_filter: f64,
    /// The longest that one filter took to come, while the trie grew to many: milliseconds.
    pub longest_insert_ms: f64,
}

impl Throughput {
    /// Nanoseconds of one core per delivered message.
    pub fn cpu_ns_per_message(&self) -> f64 {
        self.broker_cpu.as_nanos() as f64 / self.delivered.max(1) as f64
    }

    /// Delivered messages for each second of a core.
    pub fn messages_per_cpu_second(&self) -> f64 {
        1e9 / self.cpu_ns_per_message()
    }

    /// Delivered messages a second.
    pub fn rate(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64()
    }

    /// How much of its core the broker used.
    pub fn busy(&self) -> f64 {
        self.broker_cpu.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

impl Figure {
    /// Nanoseconds of one core per delivered message, where that is what was measured.
    pub fn cpu_ns_per_message(&self) -> Option<f64> {
        match self {
            Figure::Throughput(throughput) => Some(throughput.cpu_ns_per_message()),
            _ => None,
        }
    }
}

/// The median of several rounds: of throughput the round in the middle by CPU per message, of anything else each number by
/// itself. `None` without rounds, or if they measured different things.
pub fn median(rounds: &[Figure]) -> Option<Figure> {
    Some(match rounds.first()? {
        Figure::Throughput(_) => {
            let mut all = each(rounds, |figure| match figure {
                Figure::Throughput(throughput) => Some(*throughput),
                _ => None,
            })?;
            all.sort_by(|a, b| a.cpu_ns_per_message().total_cmp(&b.cpu_ns_per_message()));
            Figure::Throughput(*all.get(all.len() / 2)?)
        }
        Figure::Latency { .. } => {
            let all = each(rounds, |figure| match figure {
                Figure::Latency { median_ns, p99_ns } => Some((*median_ns, *p99_ns)),
                _ => None,
            })?;
            Figure::Latency {
                median_ns: middle(all.iter().map(|(median_ns, _)| *median_ns))?,
                p99_ns: middle(all.iter().map(|(_, p99_ns)| *p99_ns))?,
            }
        }
        Figure::Memory(_) => Figure::Memory(middle(
            each(rounds, |figure| match figure {
                Figure::Memory(bytes) => Some(*bytes),
                _ => None,
            })?
            .into_iter(),
        )?),
        Figure::Trie(Trie { many, .. }) => {
            let all = each(rounds, |figure| match figure {
                Figure::Trie(trie) => Some(*trie),
                _ => None,
            })?;
            Figure::Trie(Trie {
                many: *many,
                few_ns: middle(all.iter().map(|trie| trie.few_ns))?,
                many_ns: middle(all.iter().map(|trie| trie.many_ns))?,
                bytes_per_filter: middle(all.iter().map(|trie| trie.bytes_per_filter))?,
                longest_insert_ms: middle(all.iter().map(|trie| trie.longest_insert_ms))?,
            })
        }
    })
}

/// The number below which a share `of` (0 to 1) of `sorted` lies; 0 of nothing.
pub fn percentile(sorted: &[u64], of: f64) -> u64 {
    let at = (sorted.len() as f64 * of) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn each<T>(rounds: &[Figure], of: impl Fn(&Figure) -> Option<T>) -> Option<Vec<T>> {
    rounds.iter().map(of).collect()
}

fn middle(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throughput(cpu_us: u64) -> Figure {
        Figure::Throughput(Throughput {
            delivered: 1000,
            elapsed: Duration::from_millis(500),
            broker_cpu: Duration::from_micros(cpu_us),
        })
    }

    #[test]
    fn throughput_is_told_per_message_and_per_second_of_a_core() {
        let Figure::Throughput(one) = throughput(250_000) else { panic!("not a throughput") };
        assert_eq!(one.cpu_ns_per_message(), 250_000.0);
        assert_eq!(one.messages_per_cpu_second(), 4000.0);
        assert_eq!(one.rate(), 2000.0);
        assert_eq!(one.busy(), 0.5);
    }

    #[test]
    fn the_median_round_counts() {
        assert_eq!(median(&[throughput(9), throughput(1), throughput(2)]), Some(throughput(2)));
        let latency = |median_ns, p99_ns| Figure::Latency { median_ns, p99_ns };
        assert_eq!(median(&[latency(1.0, 30.0), latency(2.0, 10.0), latency(3.0, 20.0)]), Some(latency(2.0, 20.0)));
        assert_eq!(median(&[Figure::Memory(3.0), Figure::Memory(1.0), Figure::Memory(2.0)]), Some(Figure::Memory(2.0)));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[throughput(1), Figure::Memory(1.0)]), None);
    }

    #[test]
    fn percentiles_of_a_hundred_numbers_are_those_numbers() {
        let numbers: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&numbers, 0.5), 51);
        assert_eq!(percentile(&numbers, 0.99), 100);
        assert_eq!(percentile(&[7], 0.99), 7);
        assert_eq!(percentile(&[], 0.5), 0);
    }
}
