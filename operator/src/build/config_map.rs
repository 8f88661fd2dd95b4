//! The brokers' configuration file, the same for all of them: what differs from pod to pod is in its environment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{Blueprint, metadata};
use crate::api::{MqttBrokerSpec, Served};
use crate::names::{ADMIN_PORT, PEER_PORT};

/// Name of the file in the ConfigMap.
pub(super) const CONFIG_FILE: &str = "config.yaml";
/// Where the pods see the ConfigMap.
pub(super) const CONFIG_DIR: &str = "/etc/mqtt-broker/config";
/// Where the pods see the admin token.
pub(super) const ADMIN_DIR: &str = "/etc/mqtt-broker/admin";
/// Where the pods see the peer certificate.
pub(super) const PEER_TLS_DIR: &str = "/etc/mqtt-broker/peer-tls";
/// Where the pods see the certificate that clients see.
pub(super) const TLS_DIR: &str = "/etc/mqtt-broker/tls";
/// Where the pods see the passwords.
pub(super) const PASSWORDS_DIR: &str = "/etc/mqtt-broker/passwords";
/// Where the pods see the ACLs.
pub(super) const ACLS_DIR: &str = "/etc/mqtt-broker/acls";
/// Where the pods see their volume.
pub(super) const DATA_DIR: &str = "/var/lib/mqtt-broker";

pub(super) fn build(blueprint: &Blueprint<'_>) -> ConfigMap {
    let file = file(blueprint, blueprint.plan.founding);
    ConfigMap {
        metadata: metadata(blueprint, blueprint.broker.names.config_map()),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), file)])),
        ..ConfigMap::default()
    }
}

/// The text of the file, with or without the right to found the cluster.
pub(super) fn file(blueprint: &Blueprint<'_>, founding: bool) -> String {
    serde_yaml::to_string(&content(blueprint, founding)).expect("JSON can always be written as YAML")
}

fn content(blueprint: &Blueprint<'_>, founding: bool) -> BTreeMap<String, Value> {
    let names = &blueprint.broker.names;
    let spec = &blueprint.broker.spec;
    let domain = &blueprint.settings.cluster_domain;

    let mut cluster = json!({
        "listen": format!("0.0.0.0:{PEER_PORT}"),
        "peers": [format!("dns://{}.{}.svc.{domain}:{PEER_PORT}", names.peers_service(), names.namespace)],
        "tls": {
            "ca_file": format!("{PEER_TLS_DIR}/ca.crt"),
            "cert_file": format!("{PEER_TLS_DIR}/tls.crt"),
            "key_file": format!("{PEER_TLS_DIR}/tls.key"),
        },
    });
    if founding {
        cluster["bootstrap"] = json!(names.pod(0));
    }
    let mut replication = json!({ "shards": spec.replication.shards });
    if let Some(factor) = spec.replication.factor {
        replication["factor"] = json!(factor);
    }

    let mut content: BTreeMap<String, Value> = spec.config.clone().into_iter().collect();
    content.insert("data_dir".to_owned(), json!(DATA_DIR));
    content.insert("listeners".to_owned(), listeners(&blueprint.broker.spec));
    if let Some(auth) = auth(&blueprint.broker.spec) {
        content.insert("auth".to_owned(), auth);
    }
    content.insert(
        "admin".to_owned(),
        json!({ "listen": format!("0.0.0.0:{ADMIN_PORT}"), "token_file": format!("{ADMIN_DIR}/token") }),
    );
    content.insert("cluster".to_owned(), cluster);
    content.insert("replication".to_owned(), replication);
    if !spec.limits.is_empty() {
        content.insert("limits".to_owned(), Value::Object(spec.limits.clone()));
    }
    content
}

fn listeners(spec: &MqttBrokerSpec) -> Value {
    let listener = |served: &Served| {
        let mut listener = json!({
            "url": format!("{}://0.0.0.0:{}", served.scheme, served.pod_port),
            "allow_anonymous": spec.auth.anonymous(),
        });
        if served.tls {
            let certificate =
                json!({ "cert_file": format!("{TLS_DIR}/tls.crt"), "key_file": format!("{TLS_DIR}/tls.key") });
            listener["tls"] = json!({ "certificates": [certificate] });
        }
        listener
    };
    spec.listeners.served().iter().map(listener).collect()
}

fn auth(spec: &MqttBrokerSpec) -> Option<Value> {
    let mut auth = serde_json::Map::new();
    if let Some(passwords) = &spec.auth.passwords {
        auth.insert("password_file".to_owned(), json!(format!("{PASSWORDS_DIR}/{}", passwords.key)));
    }
    if let Some(acls) = &spec.auth.acls {
        auth.insert("acl_file".to_owned(), json!(format!("{ACLS_DIR}/{}", acls.key)));
    }
    (!auth.is_empty()).then_some(Value::Object(auth))
}
