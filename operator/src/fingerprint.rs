//! Short fingerprints of content. They are written into annotations and compared for years, so they depend on the
//! content alone: not on the order of keys, not on the build.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

/// Bytes of the digest that are kept.
const FINGERPRINT_BYTES: usize = 8;

/// The fingerprint of a value.
pub fn of(value: &Value) -> String {
    let mut canonical = String::new();
    write(value, &mut canonical);
    let digest = digest(&SHA256, canonical.as_bytes());
    digest.as_ref().iter().take(FINGERPRINT_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// JSON with sorted keys and no spaces.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (key, value) in entries {
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for value in values {
                write(value, out);
                out.push(',');
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_content_counts() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":[{"x":"y","z":null}]}"#).unwrap();
        let same: Value = serde_json::from_str(r#"{"b":[{"z":null,"x":"y"}],"a":1}"#).unwrap();
        assert_eq!(of(&one), of(&same));
        assert_ne!(of(&one), of(&json!({"a": 1, "b": []})));
        // Written into resources: it may never change.
        assert_eq!(of(&json!({"a": 1})), "aa99a5ce3eb0dd83");
    }
}
