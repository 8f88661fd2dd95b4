//! Which volume claim has to grow. A StatefulSet can't change the size in its template, so claims grow one by one, those
//! of pods that come later included. Deliberately absent: shrinking, which the schema refuses.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::quantity;

/// The first claim that asks for less than is wanted, by ordinal.
pub fn to_grow<'a>(
    claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>,
    wanted: &str,
) -> Option<&'a PersistentVolumeClaim> {
    let wanted = quantity::milli(wanted)?;
    claims.into_iter().find(|claim| {
        let asked = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"))
            .and_then(|asked| quantity::milli(&asked.0));
        claim.metadata.deletion_timestamp.is_none() && asked.is_some_and(|asked| asked < wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_smaller_grows() {
        let claims: Vec<PersistentVolumeClaim> = ["2Gi", "1024Mi", "512Mi"]
            .iter()
            .map(|size| {
                serde_yaml::from_str(&format!(
                    "{{metadata: {{name: c{size}}}, spec: {{resources: {{requests: {{storage: {size}}}}}}}}}"
                ))
                .unwrap()
            })
            .collect();
        let name = |wanted| to_grow(&claims, wanted).and_then(|claim| claim.metadata.name.clone());
        assert_eq!(name("512Mi"), None);
        assert_eq!(name("1Gi").as_deref(), Some("c512Mi"));
        assert_eq!(name("2Gi").as_deref(), Some("c1024Mi"));
        assert_eq!(name("4Gi").as_deref(), Some("c2Gi"));
    }
}
