//! A radix of topic levels: from a topic to the filters that match it, at the cost of the topic's depth.
//!
//! A node is a run of literal levels; `+` and `#` below it are fields, so that no check stands in for structure. Topics
//! that begin with `$` have their own root, which has no wildcard below it ([MQTT-4.7.2-1]). Children are found in one
//! table for the whole trie, by parent and first level. What is kept at a filter lives in a slab, so that an answer can
//! be remembered by [`ValueId`].

use std::hash::{BuildHasher, Hasher};
use std::mem;

use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::levels::{after_label, begins_with_level, common_levels, literal_run, split_level};
use crate::identity::FixedHash;

/// Where the value of a filter is kept. Reused once its filter is removed.
pub type ValueId = u32;

/// No node, no value.
const NONE: u32 = u32::MAX;
/// The root of topics that don't begin with `$`.
const ROOT: u32 = 0;
/// The root of topics that begin with `$`.
const DOLLAR_ROOT: u32 = 1;

/// Filters and what is kept at each.
#[derive(Clone, Debug)]
pub struct Trie<T> {
    nodes: Vec<Node>,
    /// Unused places in `nodes`.
    free: Vec<u32>,
    /// Literal children, by parent and first level of the label.
    children: HashTable<u32>,
    values: Slab<T>,
}

#[derive(Clone, Debug)]
struct Node {
    /// Literal levels; empty in roots and in nodes that stand for `+`.
    label: Box<str>,
    parent: u32,
    /// The node that stands for `+` below this one.
    plus: u32,
    /// Value of the filter that ends here.
    value: u32,
    /// Value of the filter that ends with `#` below here.
    rest: u32,
    /// How many literal children there are.
    children: u32,
    /// Their numbers, XORed: the number itself when there is one, which is how a run that was split is joined again.
    only_child: u32,
}

impl Node {
    fn new(label: &str, parent: u32) -> Node {
        Node { label: label.into(), parent, plus: NONE, value: NONE, rest: NONE, children: 0, only_child: 0 }
    }

    /// Whether nothing but literal children depends on this node.
    fn is_bare(&self) -> bool {
        self.plus == NONE && self.value == NONE && self.rest == NONE
    }

    fn value_of(&self, rest: bool) -> u32 {
        if rest { self.rest } else { self.value }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Trie {
            nodes: vec![Node::new("", NONE), Node::new("", NONE)],
            free: Vec::new(),
            children: HashTable::new(),
            values: Slab::new(),
        }
    }
}

impl<T> Trie<T> {
    /// A trie without filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What is kept at exactly `filter`.
    pub fn get(&self, filter: &str) -> Option<&T> {
        self.values.get(self.find(filter)? as usize)
    }

    /// What is kept at exactly `filter`, to change.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut T> {
        let id = self.find(filter)?;
        self.values.get_mut(id as usize)
    }

    /// What is kept under a number that [`Trie::for_each_match`] gave.
    pub fn value(&self, id: ValueId) -> Option<&T> {
        self.values.get(id as usize)
    }

    /// What is kept at `filter`, made if it is new (the flag says so).
    pub fn entry(&mut self, filter: &str, make: impl FnOnce() -> T) -> (ValueId, &mut T, bool) {
        let (node, rest) = self.make_path(filter);
        let known = self.nodes[node as usize].value_of(rest);
        let id = if known == NONE {
            let id = self.values.insert(make()) as u32;
            let node = &mut self.nodes[node as usize];
            *(if rest { &mut node.rest } else { &mut node.value }) = id;
            id
        } else {
            known
        };
        (id, &mut self.values[id as usize], known == NONE)
    }

    /// Sets what is kept at `filter`; returns what was there.
    pub fn insert(&mut self, filter: &str, value: T) -> Option<T> {
        let mut value = Some(value);
        let (_, kept, _) = self.entry(filter, || value.take().expect("made at most once"));
        value.map(|value| mem::replace(kept, value))
    }

    /// Removes `filter`; returns what was kept there.
    pub fn remove(&mut self, filter: &str) -> Option<T> {
        let (node, rest) = self.find_path(filter)?;
        let entry = &mut self.nodes[node as usize];
        let field = if rest { &mut entry.rest } else { &mut entry.value };
        let id = mem::replace(field, NONE);
        let value = self.values.try_remove(id as usize)?;
        self.prune(node);
        Some(value)
    }

    /// Visits what is kept at every filter that matches `topic`, a topic name without wildcards.
    pub fn for_each_match<'t>(&'t self, topic: &str, mut visit: impl FnMut(ValueId, &'t T)) {
        let mut visit = |id: u32| {
            if id != NONE {
                visit(id, &self.values[id as usize]);
            }
        };
        // What is still to be walked; a topic's depth is the client's choice, so this is no recursion.
        let mut pending: SmallVec<[(u32, Option<&str>); 8]> = SmallVec::new();
        pending.push((root_of(topic), Some(topic)));
        while let Some((node, topic)) = pending.pop() {
            let node_number = node;
            let node = &self.nodes[node as usize];
            // `#` also stands for the level above it (section 4.7.1.2).
            visit(node.rest);
            let Some(topic) = topic else {
                visit(node.value);
                continue;
            };
            let (level, after) = split_level(topic);
            if node.plus != NONE {
                pending.push((node.plus, after));
            }
            if node.children > 0
                && let Some(child) = self.child(node_number, level)
                && let Some(after) = after_label(topic, &self.nodes[child as usize].label)
            {
                pending.push((child, after));
            }
        }
    }

    /// Visits every filter and what is kept there, in an order that depends only on what was done to the trie.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &T)) {
        for (number, node) in self.nodes.iter().enumerate() {
            if node.value == NONE && node.rest == NONE {
                continue;
            }
            let path = self.path(number as u32);
            if let Some(value) = self.values.get(node.value as usize) {
                visit(&path, value);
            }
            if let Some(value) = self.values.get(node.rest as usize) {
                let filter = match number as u32 {
                    ROOT | DOLLAR_ROOT => "#".to_owned(),
                    _ => path + "/#",
                };
                visit(&filter, value);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn nodes_used(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    fn find(&self, filter: &str) -> Option<ValueId> {
        let (node, rest) = self.find_path(filter)?;
        let id = self.nodes[node as usize].value_of(rest);
        (id != NONE).then_some(id)
    }

    /// The node where `filter` ends, and whether it ends with `#`.
    fn find_path(&self, filter: &str) -> Option<(u32, bool)> {
        let mut node = root_of(filter);
        let mut remaining = Some(filter);
        while let Some(text) = remaining {
            let (level, after) = split_level(text);
            match level {
                "#" => return Some((node, true)),
                "+" => {
                    node = self.nodes[node as usize].plus;
                    remaining = after;
                }
                _ => {
                    node = self.child(node, level)?;
                    remaining = after_label(text, &self.nodes[node as usize].label)?;
                }
            }
            if node == NONE {
                return None;
            }
        }
        Some((node, false))
    }

    /// As [`Trie::find_path`], making what is missing.
    fn make_path(&mut self, filter: &str) -> (u32, bool) {
        let mut node = root_of(filter);
        let mut remaining = Some(filter);
        while let Some(text) = remaining {
            let (level, after) = split_level(text);
            match level {
                "#" => return (node, true),
                "+" => {
                    node = match self.nodes[node as usize].plus {
                        NONE => {
                            let plus = self.add_node(Node::new("", node));
                            self.nodes[node as usize].plus = plus;
                            plus
                        }
                        plus => plus,
                    };
                    remaining = after;
                }
                _ => match self.child(node, level) {
                    Some(child) => {
                        let label = &self.nodes[child as usize].label;
                        let common = common_levels(label, text);
                        node = if common < label.len() { self.split(child, common) } else { child };
                        remaining = text.get(common + 1..);
                    }
                    None => {
                        let (run, after) = literal_run(text);
                        let child = self.add_node(Node::new(run.unwrap_or_default(), node));
                        self.link(child);
                        node = child;
                        remaining = after;
                    }
                },
            }
        }
        (node, false)
    }

    /// Cuts the label of `child` after `at` bytes; returns the new node for the first part, which takes its place.
    fn split(&mut self, child: u32, at: usize) -> u32 {
        let Node { label, parent, .. } = &self.nodes[child as usize];
        let (first, second): (Box<str>, Box<str>) = (label[..at].into(), label[at + 1..].into());
        let parent = *parent;
        self.unlink(child);
        let upper = self.add_node(Node::new(&first, parent));
        self.link(upper);
        let lower = &mut self.nodes[child as usize];
        lower.label = second;
        lower.parent = upper;
        self.link(child);
        upper
    }

    /// Removes nodes that nothing needs any more, from `node` upwards, and joins a run that no longer branches.
    fn prune(&mut self, mut node: u32) {
        while node != ROOT && node != DOLLAR_ROOT {
            let entry = &self.nodes[node as usize];
            if !entry.is_bare() {
                return;
            }
            let parent = entry.parent;
            let is_plus = self.nodes[parent as usize].plus == node;
            match entry.children {
                0 if is_plus => self.nodes[parent as usize].plus = NONE,
                0 => self.unlink(node),
                1 if !is_plus => return self.join(node),
                _ => return,
            }
            self.nodes[node as usize] = Node::new("", NONE);
            self.free.push(node);
            node = parent;
        }
    }

    /// Replaces `upper` and its only child by one node.
    fn join(&mut self, upper: u32) {
        let child = self.nodes[upper as usize].only_child;
        self.unlink(child);
        self.unlink(upper);
        let upper_node = mem::replace(&mut self.nodes[upper as usize], Node::new("", NONE));
        self.free.push(upper);
        let lower = &mut self.nodes[child as usize];
        lower.label = format!("{}/{}", upper_node.label, lower.label).into();
        lower.parent = upper_node.parent;
        self.link(child);
    }

    fn add_node(&mut self, node: Node) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.nodes[number as usize] = node;
                number
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    /// Makes `child`, whose label and parent are set, one of its parent's literal children.
    fn link(&mut self, child: u32) {
        let Trie { nodes, children, .. } = self;
        let hash = node_hash(&nodes[child as usize]);
        children.insert_unique(hash, child, |other| node_hash(&nodes[*other as usize]));
        let parent = nodes[child as usize].parent as usize;
        nodes[parent].children += 1;
        nodes[parent].only_child ^= child;
    }

    fn unlink(&mut self, child: u32) {
        let hash = node_hash(&self.nodes[child as usize]);
        if let Ok(found) = self.children.find_entry(hash, |other| *other == child) {
            found.remove();
        }
        let parent = self.nodes[child as usize].parent as usize;
        self.nodes[parent].children -= 1;
        self.nodes[parent].only_child ^= child;
    }

    /// The literal child of `parent` whose label begins with `level`.
    fn child(&self, parent: u32, level: &str) -> Option<u32> {
        self.children
            .find(child_hash(parent, level), |child| {
                let child = &self.nodes[*child as usize];
                child.parent == parent && begins_with_level(&child.label, level)
            })
            .copied()
    }

    /// The filter that ends at `node`, without a `#`.
    fn path(&self, mut node: u32) -> String {
        let mut parts: SmallVec<[&str; 8]> = SmallVec::new();
        while node != ROOT && node != DOLLAR_ROOT {
            let Node { label, parent, .. } = &self.nodes[node as usize];
            let is_plus = self.nodes[*parent as usize].plus == node;
            parts.push(if is_plus { "+" } else { label });
            node = *parent;
        }
        parts.reverse();
        parts.join("/")
    }
}

fn root_of(text: &str) -> u32 {
    if text.as_bytes().first() == Some(&b'$') { DOLLAR_ROOT } else { ROOT }
}

fn child_hash(parent: u32, level: &str) -> u64 {
    let mut hasher = FixedHash.build_hasher();
    hasher.write_u32(parent);
    hasher.write(level.as_bytes());
    hasher.finish()
}

fn node_hash(node: &Node) -> u64 {
    child_hash(node.parent, split_level(&node.label).0)
}
