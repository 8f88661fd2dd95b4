//! The rules in the schema, each with something it accepts and something it rejects (`rules.yaml`), evaluated as the API
//! server does. The file is plain data, so that the same cases can be put to a real API server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, sync::Arc};

use kube::{CustomResourceExt, core::cel::Validator};
use mqtt_operator::{api::MqttBroker, validate::validate};
use serde_json::{Value, json};

#[path = "rules/case.rs"]
mod case;

use case::{Case, Example};

fn cases() -> Vec<Case> {
    case::cases().unwrap()
}

fn name(example: &Example) -> &str {
    example.name.as_deref().unwrap_or("mqtt")
}

fn schema() -> Value {
    let crd = MqttBroker::crd();
    serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap()).unwrap()
}

/// What the schema says to an example; defaults are in place before the rules are asked, as in the API server.
fn verdict(example: &Example) -> Result<(), String> {
    let resource = |spec: &Value| {
        let spec: mqtt_operator::api::MqttBrokerSpec = serde_json::from_value(spec.clone()).unwrap();
        json!({
            "apiVersion": "mqttbroker.dev/v1alpha1", "kind": "MqttBroker",
            "metadata": {"name": name(example)}, "spec": spec,
        })
    };
    let before = example.before.as_ref().map(resource);
    Validator::new()
        .validate(&schema(), &resource(&example.spec), before.as_ref())
        .map_err(|errors| format!("{errors:?}"))
}

#[test]
fn each_rule_accepts_and_rejects() {
    for case in cases() {
        assert_eq!(verdict(&case.accepts), Ok(()), "{}", case.rule);
        let said = verdict(&case.rejects).expect_err(&case.rule);
        assert!(said.contains(&case.says), "{}: {said}", case.rule);
    }
}

/// Rules about a change can't be seen in the loop; all others hold there, too.
#[test]
fn the_loop_has_the_same_rules() {
    let valid = |example: &Example| {
        let mut broker = MqttBroker::new(name(example), serde_json::from_value(example.spec.clone()).unwrap());
        broker.metadata.namespace = Some("ns".to_owned());
        broker.metadata.uid = Some("uid".to_owned());
        validate(&Arc::new(broker))
    };
    for case in cases() {
        let accepted = valid(&case.accepts);
        assert!(accepted.is_ok(), "{}: {accepted:?}", case.rule);
        let about_a_change = case.rejects.before.is_some() && !case.says.contains("above replicas");
        assert!(about_a_change || valid(&case.rejects).is_err(), "{}: the loop accepts it", case.rule);
    }
}

#[test]
fn no_rule_is_without_an_example() {
    let mut messages = BTreeSet::new();
    collect_messages(&schema(), &mut messages);
    assert!(messages.len() >= 8, "{messages:?}");
    let cases = cases();
    for message in messages {
        assert!(cases.iter().any(|case| message.contains(&case.says)), "no example for: {message}");
    }
}

fn collect_messages(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                messages.insert(rule["message"].as_str().unwrap_or("a rule without a message").to_owned());
            }
            map.values().for_each(|value| collect_messages(value, messages));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_messages(value, messages)),
        _ => {}
    }
}
