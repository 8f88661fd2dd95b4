use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::door::RouteOwner;
use crate::identity::{NodeId, ShardId};
use crate::message::QoS;

/// Section 4.7 word by word, one filter at a time.
fn matches_naively(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        match (level, topic_levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(topic_level)) if level == topic_level => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]{1,2}",
        1 => Just(String::new()),
        1 => Just("$SYS".to_owned()),
    ]
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..6).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
    (prop::collection::vec(level, 0..6), any::<bool>()).prop_map(|(mut levels, rest)| {
        if rest || levels.is_empty() {
            levels.push("#".to_owned());
        }
        levels.join("/")
    })
}

fn matched<T: Clone + Ord>(trie: &Trie<T>, topic: &str) -> Vec<T> {
    let mut found = Vec::new();
    trie.for_each_match(topic, |_, value| found.push(value.clone()));
    found.sort();
    found
}

#[test]
fn the_examples_of_the_standard_hold() {
    let cases = [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("#", "$SYS/monitor", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/monitor/Clients", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("ACCOUNTS", "Accounts", false),
    ];
    for (filter, topic, expected) in cases {
        let mut trie = Trie::new();
        trie.insert(filter, ());
        assert_eq!(matched(&trie, topic).len() == 1, expected, "{filter} {topic}");
        assert_eq!(matches_naively(filter, topic), expected, "{filter} {topic}");
    }
}

#[test]
fn removing_every_filter_leaves_nothing_behind() {
    let mut trie = Trie::new();
    let filters = ["a/b/c/d", "a/b", "a/b/#", "a/+/c", "#", "+", "$x/y", "/", ""];
    for (number, filter) in filters.iter().enumerate() {
        assert_eq!(trie.insert(filter, number), None);
        assert_eq!(trie.insert(filter, number), Some(number));
    }
    for (number, filter) in filters.iter().enumerate() {
        assert_eq!(trie.remove(filter), Some(number), "{filter}");
        assert_eq!(trie.remove(filter), None, "{filter}");
    }
    assert!(trie.is_empty());
    assert_eq!(trie.prefixes_used(), 0);
}

#[test]
fn the_table_of_prefixes_grows_and_shrinks_with_the_filters() {
    let mut trie = Trie::new();
    let filters: Vec<String> = (0..20_000).map(|number| format!("{}/+/{number}", number % 100)).collect();
    for (number, filter) in filters.iter().enumerate() {
        trie.insert(filter, number);
    }
    assert_eq!(trie.prefixes_used(), 1 + 100 + 100 + filters.len());
    for (number, filter) in filters.iter().enumerate() {
        assert_eq!(matched(&trie, &filter.replace('+', "x")), [number]);
        assert_eq!(trie.remove(filter), Some(number));
        assert!(matched(&trie, &filter.replace('+', "x")).is_empty());
        assert_eq!(trie.get(&filters[filters.len() - 1]).is_some(), number + 1 < filters.len());
    }
    assert_eq!((trie.prefixes_used(), trie.prefix_places()), (0, 0));
}

#[test]
fn no_filter_that_comes_moves_more_than_a_segment() {
    let mut trie = Trie::with_few_keys(u64::MAX, 1000);
    let mut most = 0;
    for number in 0..200_000_u32 {
        let before = trie.moves();
        trie.insert(&format!("{}/{number}", number % 10), ());
        most = most.max(trie.moves() - before);
    }
    assert!((500..=1000).contains(&most), "{most}");
    for number in 0..200_000_u32 {
        assert_eq!(trie.get(&format!("{}/{number}", number % 10)), Some(&()));
    }
}

#[test]
fn what_led_somewhere_once_is_forgotten() {
    let mut trie = Trie::with_few_keys(u64::MAX, 1000);
    for number in 0..50_000 {
        trie.insert(&format!("{number}/+"), ());
        trie.remove(&format!("{}/+", number - 100));
    }
    let others = (50_000..100_000).filter(|number| trie.leads(&number.to_string())).count();
    assert!(others < 5_000, "{others}");
    assert!((49_900..50_000).all(|number| trie.leads(&number.to_string())));
}

#[test]
fn every_combination_of_levels_and_wildcards_is_found() {
    let mut trie = Trie::new();
    // Each level may be itself or any: as many filters as there can be, and one more that no walk of the topic meets.
    for number in 0..1 << 8 {
        let levels = (0..8).map(|level| if number >> level & 1 == 1 { "+" } else { "a" });
        trie.insert(&levels.collect::<Vec<_>>().join("/"), number);
    }
    trie.insert("b/#", 1 << 8);
    assert_eq!(matched(&trie, "a/a/a/a/a/a/a/a"), (0..1 << 8).collect::<Vec<_>>());
    assert_eq!(matched(&trie, "b/a/a/a/a/a/a/a").len(), (1 << 7) + 1);
}

#[test]
fn a_topic_of_the_greatest_depth_is_walked() {
    let mut trie = Trie::new();
    trie.insert(&vec!["+"; 32_768].join("/"), 1);
    trie.insert("#", 2);
    assert_eq!(matched(&trie, &"/".repeat(32_767)), vec![1, 2]);
}

#[test]
fn a_subscriber_is_held_once_and_by_its_own_slot() {
    let mut router = Router::default();
    let subscriber = |slot, qos| Subscriber {
        slot,
        identifier: 0,
        qos,
        no_local: false,
        retain_as_published: false,
        persistent: false,
    };
    assert!(router.subscribe("a/+", subscriber(7, QoS::AtMostOnce)));
    assert!(!router.subscribe("a/+", subscriber(3, QoS::AtMostOnce)));
    assert!(!router.subscribe("a/+", subscriber(7, QoS::AtLeastOnce)));
    let found = router.find("a/b").local().next().unwrap();
    assert_eq!(
        found.iter().map(|s| (s.slot, s.qos)).collect::<Vec<_>>(),
        [(3, QoS::AtMostOnce), (7, QoS::AtLeastOnce)]
    );
    assert!(!router.unsubscribe("a/+", 3));
    assert!(!router.unsubscribe("a/+", 3));
    assert!(router.unsubscribe("a/+", 7));
    assert_eq!(router.find("a/b").local().len(), 0);
}

#[test]
fn answers_are_remembered_until_filters_are_moved() {
    let mut router = Router::default();
    let subscriber = |slot| Subscriber::new(slot, &Default::default(), false);
    router.subscribe("a/b", subscriber(0));
    for slot in 1..2_000 {
        let slots = |router: &mut Router| router.find("a/b").local().flatten().map(|s| s.slot).collect::<Vec<_>>();
        assert_eq!(slots(&mut router), [0]);
        router.subscribe(&format!("other/{slot}"), subscriber(slot));
        assert_eq!(slots(&mut router), [0], "after {slot} others");
    }
    assert!(router.moves > 10, "{}", router.moves);
}

proptest! {
    #[test]
    fn the_trie_agrees_with_the_naive_matcher(
        steps in prop::collection::vec((filter(), any::<bool>()), 1..60),
        topics in prop::collection::vec(topic(), 1..20),
        keys in prop_oneof![Just(u64::MAX), 1_u64..40],
        segment_max in 1_usize..20,
    ) {
        let mut trie = Trie::with_few_keys(keys, segment_max);
        let mut model = BTreeMap::new();
        for (number, (filter, insert)) in steps.into_iter().enumerate() {
            if insert {
                prop_assert_eq!(trie.insert(&filter, number), model.insert(filter, number));
            } else {
                prop_assert_eq!(trie.remove(&filter), model.remove(&filter));
            }
            for (filter, value) in &model {
                prop_assert_eq!(trie.get(filter), Some(value));
            }
        }
        for topic in topics {
            let mut expected: Vec<usize> = model
                .iter()
                .filter(|(filter, _)| matches_naively(filter, &topic))
                .map(|(_, value)| *value)
                .collect();
            expected.sort();
            prop_assert_eq!(matched(&trie, &topic), expected, "{}", topic);
        }
        let mut listed = BTreeMap::new();
        trie.for_each(|filter, value| { listed.insert(filter.to_owned(), *value); });
        prop_assert_eq!(&listed, &model);
        for filter in model.keys() {
            trie.remove(filter);
        }
        prop_assert_eq!(trie.prefixes_used(), 0);
    }

    #[test]
    fn a_remembered_answer_is_never_stale(
        steps in prop::collection::vec((filter(), 0_u8..6, any::<bool>()), 1..60),
        topics in prop::collection::vec(topic(), 1..6),
    ) {
        let mut router = Router::default();
        let mut local = BTreeSet::new();
        let mut routes = BTreeSet::new();
        for (filter, who, wanted) in steps {
            let owner = match who {
                0 => RouteOwner::Worker(1),
                1 => RouteOwner::Node(NodeId(9)),
                2 => RouteOwner::Shard(ShardId(4)),
                _ => {
                    let slot = u32::from(who);
                    if wanted {
                        let options = Default::default();
                        router.subscribe(&filter, Subscriber::new(slot, &options, false));
                        local.insert((filter, slot));
                    } else {
                        router.unsubscribe(&filter, slot);
                        local.remove(&(filter, slot));
                    }
                    continue;
                }
            };
            router.apply(&RouteChange { owner, filter: filter.as_str().into(), wanted });
            if wanted { routes.insert((filter, owner)); } else { routes.remove(&(filter, owner)); }
            for topic in &topics {
                let found = router.find(topic);
                let mut slots: Vec<u32> = found.local().flatten().map(|s| s.slot).collect();
                slots.sort();
                let mut expected: Vec<u32> = local.iter()
                    .filter(|(filter, _)| matches_naively(filter, topic))
                    .map(|(_, slot)| *slot)
                    .collect();
                expected.sort();
                prop_assert_eq!(slots, expected, "{}", topic);
                let targets: BTreeSet<RouteOwner> = found.targets().iter().copied().collect();
                prop_assert_eq!(targets.len(), found.targets().len());
                let expected: BTreeSet<RouteOwner> = routes.iter()
                    .filter(|(filter, _)| matches_naively(filter, topic))
                    .map(|(_, owner)| *owner)
                    .collect();
                prop_assert_eq!(targets, expected, "{}", topic);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_search_finds_what_a_naive_one_finds_however_it_is_cut_up(
        topics in prop::collection::btree_set(topic(), 0..60),
        filter in filter(),
        (steps, matches) in (1_usize..6, 1_usize..4),
    ) {
        let mut map = LevelMap::default();
        for topic in &topics {
            map.insert(topic.as_str().into(), topic.clone());
        }
        let naive: BTreeSet<&String> = topics.iter().filter(|topic| matches_naively(&filter, topic)).collect();
        let mut found = Vec::new();
        let mut after: Option<Arc<str>> = None;
        loop {
            let mut taken = 0;
            after = map.search(&filter, after.as_deref(), steps, |topic| {
                found.push(topic);
                taken += 1;
                if taken == matches { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
            });
            if after.is_none() {
                break;
            }
        }
        prop_assert_eq!(found.len(), naive.len());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), naive);
    }
}

#[test]
fn a_search_looks_at_no_branch_that_cannot_match() {
    let mut map = LevelMap::default();
    for device in 0..100 {
        for value in 0..100 {
            map.insert(format!("device{device}/value{value}").into(), ());
        }
    }
    let mut found = 0;
    let more = map.search("+/value50", None, 3 * 100 + 1, |()| {
        found += 1;
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!((found, more), (100, None));
}
