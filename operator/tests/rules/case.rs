//! A rule of the resource, with something that it accepts and something that it rejects: what `rules.yaml` holds, for the tests
//! beside it and for those that put it to a real API server.

use serde::Deserialize;
use serde_json::Value;

/// One rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// In words.
    pub rule: String,
    pub accepts: Example,
    pub rejects: Example,
    /// Part of what the rejection says.
    pub says: String,
}

/// A resource, or a change of one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// Its name; without one, any will do.
    pub name: Option<String>,
    /// The `spec` that is changed; without one, the resource is new.
    pub before: Option<Value>,
    /// Its `spec`.
    pub spec: Value,
}

/// All of them.
pub fn cases() -> serde_yaml::Result<Vec<Case>> {
    serde_yaml::from_str(include_str!("../rules.yaml"))
}
