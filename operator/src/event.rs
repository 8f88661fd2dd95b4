//! Events: the main steps in words, for `kubectl describe`.
//!
//! They tell of changes, so at rest there are none, and the same one is not told twice in a row. An Event that can't be
//! written is logged and forgotten: nothing depends on it.

use std::{collections::BTreeMap, sync::Mutex};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};

use crate::{names::OPERATOR, telemetry::Metrics};

/// The longest note that the API server takes.
const NOTE_BYTES_MAX: usize = 1024;

/// Something a person would want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether it calls for attention.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// The sentence.
    pub note: String,
}

impl Event {
    /// Something went as it should.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: false, reason, note: note.into() }
    }

    /// Something needs attention.
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: true, reason, note: note.into() }
    }
}

/// Writes Events.
pub struct Recorder {
    client: Client,
    instance: String,
    /// What was told last.
    last: Mutex<BTreeMap<Subject, Told>>,
}

/// A resource's identity, and what is told about it.
type Subject = (String, &'static str);
/// The reason and the note.
type Told = (&'static str, String);

impl Recorder {
    /// A recorder that signs with the name of this instance of the operator.
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance, last: Mutex::new(BTreeMap::new()) }
    }

    /// Tells of something, unless it was the last thing told on its subject.
    pub async fn tell(&self, about: &ObjectReference, event: Event, metrics: &Metrics, now: Timestamp) {
        if !self.is_news(about, &event) {
            return;
        }
        let Event { warning, reason, mut note } = event;
        if note.len() > NOTE_BYTES_MAX {
            let end = (0..=NOTE_BYTES_MAX).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
            note.truncate(end);
        }
        tracing::info!(reason, note, name = about.name, namespace = about.namespace, "event");
        let namespace = about.namespace.clone().unwrap_or_default();
        let object = v1::Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", about.name.as_deref().unwrap_or(OPERATOR), now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(OPERATOR.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            action: Some("Reconcile".to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(note),
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(about.clone()),
            ..v1::Event::default()
        };
        let events: Api<v1::Event> = Api::namespaced(self.client.clone(), &namespace);
        match events.create(&PostParams::default(), &object).await {
            Ok(_) => metrics.wrote("Event"),
            Err(error) => tracing::warn!(%error, reason, "event can't be written"),
        }
    }

    fn is_news(&self, about: &ObjectReference, event: &Event) -> bool {
        let key = (about.uid.clone().unwrap_or_default(), subject(event.reason));
        let told = (event.reason, event.note.clone());
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        last.insert(key, told.clone()) != Some(told)
    }
}

/// What is told and taken back is one subject: the same trouble is news again after it was over.
fn subject(reason: &'static str) -> &'static str {
    match reason {
        "Recovered" => "Degraded",
        "Unavailable" => "Available",
        "FailoverNotReady" => "FailoverReady",
        reason => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trouble_is_told_once_and_again_when_it_comes_back() {
        let (_, client) = crate::fixtures::ApiServer::start();
        let recorder = Recorder::new(client, "test".to_owned());
        let about = |uid: &str| ObjectReference { uid: Some(uid.to_owned()), ..ObjectReference::default() };
        let full = || Event::warning("Degraded", "the volume is full");
        let over = || Event::normal("Recovered", "nothing is wrong any more");
        for (event, news) in [(full(), true), (full(), false), (over(), true), (over(), false), (full(), true)] {
            assert_eq!(recorder.is_news(&about("a"), &event), news, "{}", event.reason);
        }
        assert!(recorder.is_news(&about("a"), &Event::warning("Degraded", "another trouble")));
        assert!(recorder.is_news(&about("b"), &full()), "another resource");
    }
}
