//! The merge patch by which a person changes what there is no field for. Pure.
//!
//! Objects are merged key by key, and `null` removes. A list whose elements have names is merged by them, so that a sidecar, a
//! variable or a volume can be added without repeating ours; any other list is replaced.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

/// What tells the elements of a list apart, in the order in which it is tried.
const ELEMENT_KEYS: [&str; 5] = ["name", "mountPath", "topologyKey", "containerPort", "key"];

/// The template with the patch on it. A patch that is itself no pod template was refused before it got here.
pub(super) fn patched(template: PodTemplateSpec, patch: &Map<String, Value>) -> PodTemplateSpec {
    if patch.is_empty() {
        return template;
    }
    let Ok(mut json) = serde_json::to_value(&template) else {
        return template;
    };
    merge(&mut json, &Value::Object(patch.clone()));
    serde_json::from_value(json).unwrap_or(template)
}

fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(base), Value::Array(patch)) if element_key(base, patch).is_some() => {
            let key = element_key(base, patch).unwrap_or_default();
            for element in patch {
                match base.iter_mut().find(|one| one.get(key) == element.get(key)) {
                    Some(one) => merge(one, element),
                    None => base.push(element.clone()),
                }
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

fn element_key(base: &[Value], patch: &[Value]) -> Option<&'static str> {
    ELEMENT_KEYS.into_iter().find(|key| base.iter().chain(patch).all(|element| element.get(key).is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patch(patch: Value) -> Value {
        let template = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "terminationGracePeriodSeconds": 60,
                "containers": [{"name": "mqtt-broker", "image": "i", "args": ["--x"], "env": [{"name": "A", "value": "1"}]}],
            },
        });
        let template = serde_json::from_value(template).unwrap();
        serde_json::to_value(patched(template, patch.as_object().unwrap())).unwrap()
    }

    #[test]
    fn what_has_a_name_is_merged_by_it() {
        let patched = patch(json!({"spec": {
            "priorityClassName": "high",
            "containers": [{"name": "mqtt-broker", "env": [{"name": "B", "value": "2"}]}, {"name": "sidecar", "image": "s"}],
        }}));
        let containers = patched["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 2);
        assert_eq!(containers[0]["image"], "i");
        assert_eq!(containers[0]["env"], json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]));
        assert_eq!(patched["spec"]["priorityClassName"], "high");
        assert_eq!(patched["metadata"]["labels"], json!({"a": "b"}));
    }

    #[test]
    fn what_has_none_is_replaced_and_null_removes() {
        let patched = patch(json!({"spec": {
            "terminationGracePeriodSeconds": null,
            "containers": [{"name": "mqtt-broker", "args": ["--y", "--z"]}],
        }}));
        assert_eq!(patched["spec"]["containers"][0]["args"], json!(["--y", "--z"]));
        assert_eq!(patched["spec"].get("terminationGracePeriodSeconds"), None);
    }
}
