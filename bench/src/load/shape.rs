//! Who sends to whom.

/// Publishers, subscribers, and which of these hears which of those.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// So many publishers, each with a subscriber and a topic of its own.
    Pairs(usize),
    /// One publisher to so many subscribers of one topic.
    FanOut(usize),
    /// So many publishers to one subscriber of one topic.
    FanIn(usize),
    /// So many publishers, each with a subscriber that has a wildcard filter of its own.
    Wildcards(usize),
    /// As [`Shape::Wildcards`], with fewer publishers: each sends to its share of the subscribers in turn, so that hardly
    /// ever two messages to one of them meet.
    Scattered {
        /// How many send.
        publishers: usize,
        /// How many receive.
        subscribers: usize,
    },
}

/// Topics and filters of a [`Shape`].
pub struct Plan {
    /// The filter of each subscriber.
    pub filters: Vec<String>,
    /// The topics of each publisher.
    pub topics: Vec<Vec<String>>,
    /// How many receive each message.
    pub receivers: usize,
}

impl Shape {
    /// Spells it out.
    pub fn plan(self) -> Plan {
        match self {
            Shape::Pairs(pairs) => {
                let topic = |pair| format!("bench/pair/{pair}");
                Plan {
                    filters: (0..pairs).map(topic).collect(),
                    topics: (0..pairs).map(|pair| vec![topic(pair)]).collect(),
                    receivers: 1,
                }
            }
            Shape::FanOut(subscribers) => Plan {
                filters: vec!["bench/out".into(); subscribers],
                topics: vec![vec!["bench/out".into()]],
                receivers: subscribers,
            },
            Shape::FanIn(publishers) => Plan {
                filters: vec!["bench/in".into()],
                topics: vec![vec!["bench/in".into()]; publishers],
                receivers: 1,
            },
            Shape::Wildcards(pairs) => Shape::Scattered { publishers: pairs, subscribers: pairs }.plan(),
            Shape::Scattered { publishers, subscribers } => Plan {
                filters: (0..subscribers).map(|subscriber| format!("bench/+/device-{subscriber}/#")).collect(),
                topics: (0..publishers)
                    .map(|publisher| {
                        let share = (publisher..subscribers).step_by(publishers.max(1));
                        share.map(|subscriber| format!("bench/{publisher}/device-{subscriber}/state")).collect()
                    })
                    .collect(),
                receivers: 1,
            },
        }
    }
}

impl Plan {
    /// The same messages to the same subscribers, whose filters are the topics themselves.
    pub fn without_wildcards(mut self) -> Plan {
        let publishers = self.topics.len();
        for (number, filter) in self.filters.iter_mut().enumerate().filter(|(_, filter)| filter.contains('+')) {
            *filter = self.topics[number % publishers][number / publishers].clone();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use mqtt_broker::router::Trie;

    use super::*;

    /// How many filters each topic of the plan matches.
    fn matches(plan: &Plan) -> Vec<usize> {
        let mut trie = Trie::new();
        for filter in &plan.filters {
            *trie.entry(filter, || 0).1 += 1;
        }
        let count = |topic: &String| {
            let mut count = 0;
            trie.for_each_match(topic, |_, subscribers| count += *subscribers);
            count
        };
        plan.topics.iter().flatten().map(count).collect()
    }

    #[test]
    fn every_message_has_as_many_receivers_as_its_lane_waits_for() {
        for shape in [
            Shape::Pairs(3),
            Shape::FanOut(5),
            Shape::FanIn(4),
            Shape::Wildcards(5),
            Shape::Scattered { publishers: 3, subscribers: 10 },
        ] {
            let plan = shape.plan();
            assert!(matches(&plan).iter().all(|receivers| *receivers == plan.receivers), "{shape:?}");
            assert!(plan.topics.iter().all(|topics| !topics.is_empty()), "{shape:?}");
            let exact = shape.plan().without_wildcards();
            assert!(exact.filters.iter().all(|filter| !filter.contains(['+', '#'])), "{shape:?}");
            assert!(matches(&exact).iter().all(|receivers| *receivers == plan.receivers), "{shape:?}");
        }
    }

    #[test]
    fn each_wildcard_subscriber_is_sent_to_by_one_publisher() {
        let plan = Shape::Scattered { publishers: 3, subscribers: 10 }.plan();
        assert_eq!((plan.filters.len(), plan.topics.iter().flatten().count()), (10, 10));
    }
}
