//! What is wrong with a configuration, said so that a person can mend it: file, line, key, value and remedy.

use std::fmt::Display;
use std::io;
use std::path::Path;

use super::place::line_of;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {error}; check --config")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file is no YAML of the right form: an unknown key, a missing one, or a value of another type.
    #[error("{place}{what}")]
    Malformed {
        /// File and line.
        place: String,
        /// What stands there, and what may.
        what: String,
    },
    /// A value that can't be meant.
    #[error("{place}{key}: {value}: {remedy}")]
    Value {
        /// File and line; empty for a flag.
        place: String,
        /// Its key, from the top, or the flag.
        key: String,
        /// As written.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

impl ConfigError {
    pub(super) fn value(key: &str, value: impl Display, remedy: &str) -> ConfigError {
        let (key, value) = (key.to_owned(), value.to_string());
        ConfigError::Value { place: String::new(), key, value, remedy: remedy.to_owned() }
    }

    /// About a value that the one at hand is part of.
    pub(super) fn about(mut self, whole: &str) -> ConfigError {
        if let ConfigError::Value { value, .. } = &mut self {
            *value = whole.to_owned();
        }
        self
    }

    /// With its place in the file, unless a flag is to blame.
    pub(super) fn at(mut self, path: &Path, text: &str) -> ConfigError {
        if let ConfigError::Value { place, key, .. } = &mut self
            && !key.starts_with("--")
        {
            *place = written_at(path, line_of(text, key));
        }
        self
    }

    /// From what the parser of the file says.
    pub(super) fn malformed(path: &Path, text: &str, error: &serde_yaml::Error) -> ConfigError {
        let said = error.to_string();
        // A second place says what is not closed: then both stay.
        let said = match said.split_once(" at line ") {
            Some((what, place)) if !place.contains(" at line ") => what,
            _ => &said,
        };
        // The keys on the way stand in front, if there are any.
        let above = said.split_once(": ").map(|(above, _)| above).filter(|above| !above.contains([' ', '`']));
        let mut key = above.unwrap_or_default().to_owned();
        let mut what = said.replace("expected u64", "expected a whole number");
        let mut names = said.split('`').skip(1).step_by(2);
        if said.contains("unknown field `")
            && let Some(unknown) = names.next()
        {
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(unknown);
            if let Some(known) = nearest(unknown, names) {
                what.push_str(&format!("; did you mean `{known}`?"));
            }
        } else if said.contains("missing field `") {
            what.push_str("; add it");
        }
        let line = line_of(text, &key).or(error.location().map(|location| location.line()));
        ConfigError::Malformed { place: written_at(path, line), what }
    }
}

fn written_at(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}: ", path.display()),
        None => format!("{}: ", path.display()),
    }
}

/// The name that somebody who wrote `unknown` may have meant.
fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = known.map(|name| (distance(unknown, name), name)).min()?;
    (distance <= 2.max(name.len() / 3)).then_some(name)
}

/// How many characters must be put in, taken out or changed to make `to` of `from`.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, left) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, right) in to.iter().enumerate() {
            let changed = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}
