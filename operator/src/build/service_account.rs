//! The identity of the pods. It has no rights, and no pod carries its token.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{Blueprint, metadata};

pub(super) fn build(blueprint: &Blueprint<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(blueprint, blueprint.broker.names.service_account()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
