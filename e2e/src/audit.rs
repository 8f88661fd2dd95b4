//! What somebody asked the API server for, counted from its audit log.
//!
//! The local cluster's API server writes a line for every request of a workload's service account.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cluster::Cluster;

/// A place in the audit log, to count from.
pub struct Audit {
    path: PathBuf,
    from: usize,
}

/// A request that was made.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// `get`, `patch`, …
    pub verb: String,
    /// What it was for.
    pub object: String,
    /// The API group of that.
    pub group: String,
    /// Its plural name, with its part if only that was meant: `mqttbrokers/status`.
    pub resource: String,
    /// What was answered.
    pub code: u16,
}

impl Request {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.object)
    }
}

impl Audit {
    /// From the beginning of the cluster.
    pub async fn whole(cluster: &Cluster) -> Result<Self> {
        Ok(Self { path: cluster.state().await?.join("log/audit.log"), from: 0 })
    }

    /// From now on.
    pub async fn from_now(cluster: &Cluster) -> Result<Self> {
        let mut audit = Self::whole(cluster).await?;
        audit.from = audit.read()?.len();
        Ok(audit)
    }

    /// What a user has asked for since then.
    pub fn requests_of(&self, user: &str) -> Result<Vec<Request>> {
        let log = self.read()?;
        requests(log.get(self.from..).context("the audit log was rotated while it was read")?, user)
    }

    fn read(&self) -> Result<String> {
        std::fs::read_to_string(&self.path).with_context(|| format!("reading {}", self.path.display()))
    }
}

/// The requests of one user, without the renewals of its lease: a heartbeat, not an action.
fn requests(log: &str, user: &str) -> Result<Vec<Request>> {
    let mut found = Vec::new();
    for line in log.lines() {
        let entry: Entry = serde_json::from_str(line).with_context(|| format!("reading the audit line {line}"))?;
        let lease = entry.object.as_ref().is_some_and(|object| object.resource == "leases");
        if entry.user.username == user && !(lease && matches!(entry.verb.as_str(), "update" | "patch")) {
            let object = entry.object.unwrap_or_default();
            let resource = match object.subresource.as_str() {
                "" => object.resource,
                part => format!("{}/{part}", object.resource),
            };
            let code = entry.answer.map_or(0, |answer| answer.code);
            found.push(Request { verb: entry.verb, object: entry.uri, group: object.group, resource, code });
        }
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Entry {
    verb: String,
    user: User,
    #[serde(rename = "requestURI")]
    uri: String,
    #[serde(rename = "objectRef")]
    object: Option<Object>,
    #[serde(rename = "responseStatus")]
    answer: Option<Answer>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default, rename = "apiGroup")]
    group: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    code: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_one_user_are_counted_and_heartbeats_are_not() {
        let line = |user: &str, verb: &str, resource: &str| {
            format!(
                r#"{{"verb":"{verb}","user":{{"username":"{user}"}},"requestURI":"/{resource}","objectRef":{{"resource":"{resource}"}}}}"#
            )
        };
        let log = [
            line("op", "patch", "statefulsets"),
            line("op", "watch", "pods"),
            line("op", "update", "leases"),
            line("us", "patch", "pods"),
        ];
        let found = requests(&log.join("\n"), "op").unwrap();
        let writes: Vec<_> = found.iter().filter(|request| request.is_write()).map(ToString::to_string).collect();
        assert_eq!(writes, ["patch /statefulsets"]);
        assert_eq!(found.len(), 2);
    }
}
