//! Whether an object is as we want it, although the API server adds defaults and writes some values in its own way.
//!
//! Everything we set has to be there; everything else is none of our business. What we no longer set shows in the hash
//! annotation, which is part of what we set. Pure.

use serde_json::{Map, Value};

use crate::quantity;

/// Keys of maps whose values are quantities, which the API server rewrites (`1000m` becomes `1`).
const QUANTITY_MAPS: [&str; 2] = ["requests", "limits"];

/// Keys by which the elements of a list are told apart, in the order in which they are tried.
const ELEMENT_KEYS: [&str; 6] = ["name", "uid", "topologyKey", "mountPath", "containerPort", "port"];

/// Whether everything that is desired is there.
pub(super) fn is_as_wanted(desired: &Value, observed: &Value) -> bool {
    match (desired, observed) {
        (Value::Object(desired), Value::Object(observed)) => object(desired, observed),
        (Value::Array(desired), Value::Array(observed)) => list(desired, observed),
        (desired, observed) => desired == observed,
    }
}

fn object(desired: &Map<String, Value>, observed: &Map<String, Value>) -> bool {
    desired.iter().all(|(key, wanted)| match observed.get(key) {
        None => is_nothing(wanted),
        Some(found) if QUANTITY_MAPS.contains(&key.as_str()) => quantities(wanted, found),
        Some(found) => is_as_wanted(wanted, found),
    })
}

/// Lists whose elements have names may hold more than we set (others may add theirs); all others must be equal.
fn list(desired: &[Value], observed: &[Value]) -> bool {
    let key = ELEMENT_KEYS.iter().find(|key| desired.iter().all(|element| element.get(key).is_some()));
    match key {
        Some(key) if !desired.is_empty() => desired.iter().all(|wanted| {
            observed.iter().any(|found| found.get(key) == wanted.get(key) && is_as_wanted(wanted, found))
        }),
        _ => {
            desired.len() == observed.len() && desired.iter().zip(observed).all(|(one, other)| is_as_wanted(one, other))
        }
    }
}

fn quantities(desired: &Value, observed: &Value) -> bool {
    let (Value::Object(desired), Value::Object(observed)) = (desired, observed) else {
        return desired == observed;
    };
    desired.iter().all(|(name, wanted)| {
        observed.get(name).is_some_and(|found| match (wanted.as_str(), found.as_str()) {
            (Some(wanted), Some(found)) => {
                wanted == found || quantity::milli(wanted).is_some_and(|amount| quantity::milli(found) == Some(amount))
            }
            _ => wanted == found,
        })
    })
}

/// What the API server drops instead of storing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_the_servers_own_writing_are_no_drift() {
        let desired = json!({
            "metadata": {"name": "x", "labels": {"a": "b"}, "annotations": {}},
            "spec": {
                "replicas": 3,
                "containers": [{"name": "c", "args": ["--x"], "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi", "x": "1.5"}}}],
                "ports": [{"port": 1883, "name": "mqtt"}],
            },
        });
        let observed = json!({
            "metadata": {"name": "x", "labels": {"a": "b", "c": "d"}, "uid": "u"},
            "spec": {
                "replicas": 3, "type": "ClusterIP",
                "containers": [
                    {"name": "sidecar"},
                    {"name": "c", "args": ["--x"], "image": "i", "resources": {"requests": {"cpu": "1", "memory": "1Gi", "x": "1500m"}}},
                ],
                "ports": [{"port": 1883, "name": "mqtt", "protocol": "TCP"}],
            },
        });
        assert!(is_as_wanted(&desired, &observed));
    }

    #[test]
    fn what_we_set_and_is_otherwise_is_drift() {
        let cases = [
            (json!({"a": 1}), json!({"a": 2})),
            (json!({"a": 1}), json!({})),
            (json!({"a": {"b": 1}}), json!({"a": null})),
            (json!({"args": ["a"]}), json!({"args": ["a", "b"]})),
            (json!({"args": ["a", "b"]}), json!({"args": ["b", "a"]})),
            (json!({"c": [{"name": "x", "v": 1}]}), json!({"c": [{"name": "x", "v": 2}, {"name": "y", "v": 1}]})),
            (json!({"c": [{"name": "x"}]}), json!({"c": []})),
            (json!({"requests": {"cpu": "1"}}), json!({"requests": {"cpu": "2"}})),
            (json!({"requests": {"cpu": "1"}}), json!({"requests": {}})),
        ];
        for (desired, observed) in cases {
            assert!(!is_as_wanted(&desired, &observed), "{desired} in {observed}");
        }
    }
}
