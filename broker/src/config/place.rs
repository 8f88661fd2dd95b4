//! Where a key stands in a configuration file, for the errors that are found after it was read.
//!
//! The YAML library keeps no places of what it parsed, but tells the place of an error: so the file is read once more,
//! with an error at the key that is looked for.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line of the key at `path` (`listeners[1].url`), or of the nearest one above it that was written.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let steps: Vec<&str> = path.split(['.', '[']).map(|step| step.trim_end_matches(']')).collect();
    (1..=steps.len()).rev().find_map(|count| {
        let stopped = Find(&steps[..count]).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        Some(stopped.location()?.line())
    })
}

/// Follows these steps; stops with an error at the last of them.
#[derive(Clone, Copy)]
struct Find<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what the path names")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((name, rest)) = self.0.split_first() else { return Err(A::Error::custom("found")) };
        while let Some(matches) = map.next_key_seed(Key { name, last: rest.is_empty() })? {
            match matches {
                true => map.next_value_seed(Find(rest))?,
                false => map.next_value().map(|IgnoredAny| ())?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let Some((index, rest)) = self.0.split_first() else { return Err(A::Error::custom("found")) };
        for at in 0_usize.. {
            let found = index.parse() == Ok(at);
            let more = match found {
                true => sequence.next_element_seed(Find(rest))?,
                false => sequence.next_element()?.map(|IgnoredAny| ()),
            };
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Whether a key has this name; an error if it is the one that is looked for.
struct Key<'a> {
    name: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.name, self.last) {
            (true, true) => Err(E::custom("found")),
            (matches, _) => Ok(matches),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_where_it_stands() {
        let text =
            "# first\nnode:\n  name: a\nlisteners:\n  - url: a\n  - { url: b,\n      extra: c }\nadmin: {listen: x}\n";
        for (path, line) in [
            ("node", 2),
            ("node.name", 3),
            ("listeners[0].url", 5),
            ("listeners[1].url", 6),
            ("listeners[1].extra", 7),
            ("admin.listen", 8),
            // Not written: what is above it.
            ("node.workers", 2),
            ("listeners[7].url", 4),
        ] {
            assert_eq!(line_of(text, path), Some(line), "{path}");
        }
        assert_eq!(line_of(text, "nothing"), None);
    }
}
