//! The log against a model, through random changes, crashes and full disks.
//!
//! The log is one sequence for all groups, so after a crash it must show the state after some change that was not earlier than
//! the last one reported durable, and the same one for every group.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{entries, open, simulate};
use crate::identity::GroupId;
use crate::storage::{Crash, Faults, Log, SimulatedDisk};

const GROUPS: u16 = 3;

#[derive(Clone, Debug)]
enum Step {
    Append { group: u16, length: usize },
    Truncate { group: u16, back: u64 },
    Purge { group: u16, forward: u64 },
    Save { group: u16, key: u8 },
    Erase { group: u16 },
    Settle,
    Crash(bool),
    Room(Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    prop_oneof![
        12 => (group.clone(), 0_usize..300).prop_map(|(group, length)| Step::Append { group, length }),
        2 => (group.clone(), 0_u64..6).prop_map(|(group, back)| Step::Truncate { group, back }),
        2 => (group.clone(), 0_u64..8).prop_map(|(group, forward)| Step::Purge { group, forward }),
        2 => (group.clone(), 0_u8..3).prop_map(|(group, key)| Step::Save { group, key }),
        1 => group.prop_map(|group| Step::Erase { group }),
        4 => Just(Step::Settle),
        2 => any::<bool>().prop_map(Step::Crash),
        1 => prop_oneof![Just(None), (0_u64..2000).prop_map(Some)].prop_map(Step::Room),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    first: u64,
    entries: Vec<Bytes>,
    values: BTreeMap<u8, Bytes>,
}

impl Group {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

type Model = Vec<Group>;

/// The states since the last one that is known to be durable.
struct History {
    states: Vec<Model>,
    durable: Rc<Cell<usize>>,
    failed: Rc<Cell<bool>>,
}

impl History {
    fn new(state: Model) -> History {
        History { states: vec![state], durable: Rc::default(), failed: Rc::default() }
    }

    fn change(&mut self, change: impl FnOnce(&mut Model)) -> Box<dyn FnOnce(std::io::Result<()>)> {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push(state);
        let (durable, failed, number) = (self.durable.clone(), self.failed.clone(), self.states.len() - 1);
        Box::new(move |verdict| match verdict {
            Ok(()) => durable.set(durable.get().max(number)),
            Err(_) => failed.set(true),
        })
    }

    fn now(&self) -> &Model {
        self.states.last().unwrap()
    }

    /// The log shows `found`: that must be a state that it may have gone back to.
    fn back_to(&mut self, found: Model) {
        let possible = &self.states[self.durable.get()..];
        assert!(possible.contains(&found), "{found:#?}\nis none of\n{possible:#?}");
        *self = History::new(found);
    }
}

async fn observe(log: &Log) -> Model {
    let mut model = Vec::new();
    for number in 0..GROUPS {
        let group = log.group(GroupId(number));
        assert_eq!(group.damage(), None);
        let found = entries(&group).await;
        let first = group.first_index();
        assert_eq!(first + found.len() as u64, group.next_index());
        assert!(found.iter().enumerate().all(|(at, (index, _))| first + at as u64 == *index));
        model.push(Group {
            first,
            entries: found.into_iter().map(|(_, payload)| payload).collect(),
            values: (0..3).filter_map(|key| Some((key, group.load(key)?))).collect(),
        });
    }
    model
}

async fn run(seed: u64, steps: Vec<Step>) {
    let faults = Faults { delay_max: Duration::from_millis(seed % 3), ..Faults::default() };
    let mut disk = SimulatedDisk::new(seed, faults);
    let mut log = open(&disk).await.0;
    let mut history = History::new(vec![Group::default(); usize::from(GROUPS)]);
    for (number, step) in steps.into_iter().enumerate() {
        if history.failed.get() {
            history.back_to(observe(&log).await);
        }
        match step {
            Step::Append { group, length } => {
                let payload = Bytes::from(vec![number as u8; length]);
                let index = history.now()[usize::from(group)].next();
                let done = history.change(|model| model[usize::from(group)].entries.push(payload.clone()));
                log.group(GroupId(group)).append([(index, payload)], done);
            }
            Step::Truncate { group, back } => {
                let index = history.now()[usize::from(group)].next().saturating_sub(back);
                let done = history.change(|model| {
                    let group = &mut model[usize::from(group)];
                    group.entries.truncate(index.saturating_sub(group.first) as usize);
                });
                log.group(GroupId(group)).truncate_from(index, done);
            }
            Step::Purge { group, forward } => {
                let index = history.now()[usize::from(group)].first + forward;
                let _ = history.change(|model| {
                    let group = &mut model[usize::from(group)];
                    let gone = (index + 1 - group.first).min(group.entries.len() as u64);
                    group.entries.drain(..gone as usize);
                    group.first = index + 1;
                });
                log.group(GroupId(group)).purge_to(index);
            }
            Step::Save { group, key } => {
                let value = Bytes::from(vec![number as u8; 9]);
                let done = history.change(|model| {
                    model[usize::from(group)].values.insert(key, value.clone());
                });
                let saved = log.group(GroupId(group)).save(key, value);
                tokio::task::spawn_local(async move { done(saved.await) });
            }
            Step::Erase { group } => {
                let done = history.change(|model| model[usize::from(group)] = Group::default());
                done(log.group(GroupId(group)).erase(None).await);
            }
            Step::Settle => {
                // A purge has no callback: whatever comes after it tells.
                let done = history.change(|_| {});
                log.group(GroupId(0)).truncate_from(u64::MAX, done);
                let (last, failed) = (history.states.len() - 1, history.failed.clone());
                while history.durable.get() < last && !failed.get() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Step::Crash(power) => {
                disk = disk.crash(if power { Crash::PowerCut } else { Crash::Kill });
                disk.set_capacity_bytes(u64::MAX);
                let (reopened, recovered) = open(&disk).await;
                assert_eq!((recovered.damaged, recovered.stray), (vec![], None));
                log = reopened;
                history.back_to(observe(&log).await);
            }
            Step::Room(bytes) => {
                let capacity = bytes.map_or(u64::MAX, |bytes| disk.used_bytes() + bytes);
                disk.set_capacity_bytes(capacity);
            }
        }
        if !history.failed.get() {
            assert_eq!(&observe_now(&log), &bounds(history.now()));
        }
    }
}

/// First and next index of every group, without waiting.
fn observe_now(log: &Log) -> Vec<(u64, u64)> {
    let groups = (0..GROUPS).map(|number| log.group(GroupId(number)));
    groups.map(|group| (group.first_index(), group.next_index())).collect()
}

fn bounds(model: &Model) -> Vec<(u64, u64)> {
    model.iter().map(|group| (group.first, group.next())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_the_model_does(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        simulate(run(seed, steps));
    }
}
