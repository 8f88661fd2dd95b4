//! What is measured: every scenario by name.

use crate::idle::Idle;
use crate::latency::Rate;
use crate::load::{Load, Shape};

/// Bytes of a payload, where a scenario doesn't say otherwise.
const PAYLOAD: usize = 64;
const LARGE_PAYLOAD: usize = 64 * 1024;
/// Messages of one pair that wait for a common sync to disk.
const DURABLE_WINDOW: usize = 64;

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For the command line and for files.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What is done.
    pub kind: Kind,
}

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// [`crate::load`].
    Closed(Load),
    /// [`crate::latency`].
    Rate(Rate),
    /// [`crate::idle`].
    Idle(Idle),
    /// [`crate::trie`].
    Trie {
        /// Whether some filters have them.
        wildcards: bool,
    },
}

/// All of them, with so many idle connections.
pub fn all(idle_connections: usize) -> Vec<Scenario> {
    let closed = |name, title, shape, window, qos| Scenario {
        name,
        title,
        kind: Kind::Closed(Load { shape, payload: PAYLOAD, window, qos, persistent: false, without_wildcards: false }),
    };
    let scattered = Shape::Scattered { publishers: 100, subscribers: 2000 };
    vec![
        closed("pairs-qos0", "100 pairs, QoS 0", Shape::Pairs(100), 16, 0),
        closed("pairs-qos1", "100 pairs, QoS 1", Shape::Pairs(100), 16, 1),
        closed("pairs-qos2", "100 pairs, QoS 2", Shape::Pairs(100), 16, 2),
        closed("fan-out-qos0", "1 to 500, QoS 0", Shape::FanOut(500), 32, 0),
        closed("fan-out-qos1", "1 to 500, QoS 1", Shape::FanOut(500), 32, 1),
        closed("fan-in-qos0", "100 to 1, QoS 0", Shape::FanIn(100), 8, 0),
        closed("fan-in-qos1", "100 to 1, QoS 1", Shape::FanIn(100), 8, 1),
        closed("wildcards", "2,000 pairs, a wildcard filter each, QoS 0", Shape::Wildcards(2000), 16, 0),
        closed("scattered", "100 to 2,000 wildcard filters in turn, QoS 0", scattered, 16, 0),
        Scenario {
            name: "large",
            title: "10 pairs, 64 KiB, QoS 0",
            kind: Kind::Closed(Load {
                shape: Shape::Pairs(10),
                payload: LARGE_PAYLOAD,
                window: 4,
                qos: 0,
                persistent: false,
                without_wildcards: false,
            }),
        },
        Scenario {
            name: "durable",
            title: "100 persistent sessions, synced, QoS 1",
            kind: Kind::Closed(Load {
                shape: Shape::Pairs(100),
                payload: PAYLOAD,
                window: DURABLE_WINDOW,
                qos: 1,
                persistent: true,
                without_wildcards: false,
            }),
        },
        Scenario {
            name: "latency",
            title: "5,000 a second, QoS 1",
            kind: Kind::Rate(Rate { per_second: 5000, payload: PAYLOAD, qos: 1 }),
        },
        Scenario {
            name: "idle",
            title: "idle connections with a subscription",
            kind: Kind::Idle(Idle { before: idle_connections / 5, connections: idle_connections }),
        },
        Scenario { name: "trie", title: "topic trie", kind: Kind::Trie { wildcards: false } },
        Scenario {
            name: "trie-wildcards",
            title: "topic trie, one filter in ten with a wildcard",
            kind: Kind::Trie { wildcards: true },
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = all(1).iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
