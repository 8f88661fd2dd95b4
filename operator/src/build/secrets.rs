//! The Secrets: authority and certificate of the peers, token of the admin API. The authority's key is in a Secret of its
//! own that no pod mounts.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::{Blueprint, annotation, metadata};
use crate::names::NOT_AFTER_ANNOTATION;

pub(super) fn peer_ca(blueprint: &Blueprint<'_>) -> Secret {
    let ca = &blueprint.credentials.ca;
    let mut secret = secret(
        blueprint,
        blueprint.broker.names.peer_ca_secret(),
        "Opaque",
        [("ca.crt", &ca.certificate), ("ca.key", &ca.key)],
    );
    secret.metadata.annotations = annotation(NOT_AFTER_ANNOTATION, ca.not_after.to_string());
    secret
}

pub(super) fn peer_tls(blueprint: &Blueprint<'_>) -> Secret {
    let credentials = blueprint.credentials;
    let peer = &credentials.peer;
    let mut secret = secret(
        blueprint,
        blueprint.broker.names.peer_tls_secret(),
        "kubernetes.io/tls",
        [("ca.crt", &credentials.ca.certificate), ("tls.crt", &peer.certificate), ("tls.key", &peer.key)],
    );
    secret.metadata.annotations = annotation(NOT_AFTER_ANNOTATION, peer.not_after.to_string());
    secret
}

pub(super) fn admin_token(blueprint: &Blueprint<'_>) -> Secret {
    let token = &blueprint.credentials.admin_token;
    secret(blueprint, blueprint.broker.names.admin_token_secret(), "Opaque", [("token", token)])
}

fn secret<const N: usize>(
    blueprint: &Blueprint<'_>,
    name: String,
    type_: &str,
    content: [(&str, &String); N],
) -> Secret {
    let data: BTreeMap<String, ByteString> =
        content.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.clone().into_bytes()))).collect();
    Secret { metadata: metadata(blueprint, name), type_: Some(type_.to_owned()), data: Some(data), ..Secret::default() }
}
