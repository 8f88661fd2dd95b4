//! The StatefulSet and its pods. The operator replaces pods itself (`OnDelete`), so nothing here restarts a broker.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource,
            HTTPGetAction, ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm,
            PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
            SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
            VolumeResourceRequirements, WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    Blueprint, annotation,
    config_map::{ACLS_DIR, ADMIN_DIR, CONFIG_DIR, CONFIG_FILE, DATA_DIR, PASSWORDS_DIR, PEER_TLS_DIR, TLS_DIR},
    metadata, pod_patch,
};
use crate::{
    api::{Amount, DeletionPolicy, MqttBrokerSpec},
    names::{ADMIN_PORT, DATA_VOLUME, PEER_PORT, RESTART_HASH_ANNOTATION},
};

/// User and group of the image.
const BROKER_USER: i64 = 65532;
/// How long a broker may take to give its work away before it is killed.
const TERMINATION_GRACE_SECONDS: i64 = 60;
/// Files of Secrets: readable by the broker's group alone.
const SECRET_MODE: i32 = 0o440;

pub(super) fn build(blueprint: &Blueprint<'_>) -> StatefulSet {
    let broker = blueprint.broker;
    let names = &broker.names;
    StatefulSet {
        metadata: metadata(blueprint, names.stateful_set()),
        spec: Some(StatefulSetSpec {
            replicas: Some(blueprint.plan.replicas),
            service_name: Some(names.peers_service()),
            selector: LabelSelector { match_labels: Some(names.selector_labels()), ..LabelSelector::default() },
            // Three brokers that wait for a majority must not wait for each other to be ready first.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                // Whoever shrinks the set by hand must not lose the volumes of members that never left; the operator
                // drops the claim of a member that did.
                when_scaled: Some("Retain".to_owned()),
                when_deleted: Some(
                    match broker.spec.persistence.deletion_policy {
                        DeletionPolicy::Retain => "Retain",
                        DeletionPolicy::Delete => "Delete",
                    }
                    .to_owned(),
                ),
            }),
            template: template(blueprint),
            volume_claim_templates: Some(vec![claim(blueprint)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// The address under which a pod's peers reach it, with the pod's name still to be filled in.
pub fn pod_address(blueprint: &Blueprint<'_>, pod: &str) -> String {
    let names = &blueprint.broker.names;
    let domain = &blueprint.settings.cluster_domain;
    format!("{pod}.{}.{}.svc.{domain}:{PEER_PORT}", names.peers_service(), names.namespace)
}

/// The pods with what a person changes about them; what the operator finds them by stays as it is.
fn template(blueprint: &Blueprint<'_>) -> PodTemplateSpec {
    let template = PodTemplateSpec { metadata: None, spec: Some(pod(blueprint)) };
    let mut template = pod_patch::patched(template, &blueprint.broker.spec.pod_template);
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().extend(blueprint.broker.names.selector_labels());
    let restart_hash = annotation(RESTART_HASH_ANNOTATION, blueprint.plan.restart_hash.clone());
    metadata.annotations.get_or_insert_default().extend(restart_hash.unwrap_or_default());
    template
}

fn pod(blueprint: &Blueprint<'_>) -> PodSpec {
    let names = &blueprint.broker.names;
    PodSpec {
        service_account_name: Some(names.service_account()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(BROKER_USER),
            run_as_group: Some(BROKER_USER),
            fs_group: Some(BROKER_USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        affinity: Some(apart(blueprint)),
        topology_spread_constraints: Some(vec![
            spread(blueprint, "kubernetes.io/hostname"),
            spread(blueprint, "topology.kubernetes.io/zone"),
        ]),
        containers: vec![container(blueprint)],
        volumes: Some(
            [Volume {
                name: "config".to_owned(),
                config_map: Some(ConfigMapVolumeSource {
                    name: names.config_map(),
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            }]
            .into_iter()
            .chain(secrets(blueprint).into_iter().map(|(name, secret, _)| secret_volume(name, secret)))
            .collect(),
        ),
        ..PodSpec::default()
    }
}

/// The Secrets that brokers read: name of the volume, name of the Secret, where it is mounted. Whole folders, because a single
/// file would never be renewed.
fn secrets(blueprint: &Blueprint<'_>) -> Vec<(&'static str, String, &'static str)> {
    let names = &blueprint.broker.names;
    let spec = &blueprint.broker.spec;
    let named = [
        spec.tls.as_ref().map(|tls| ("tls", tls.secret_name.clone(), TLS_DIR)),
        spec.auth.passwords.as_ref().map(|secret| ("passwords", secret.secret_name.clone(), PASSWORDS_DIR)),
        spec.auth.acls.as_ref().map(|secret| ("acls", secret.secret_name.clone(), ACLS_DIR)),
    ];
    [("admin", names.admin_token_secret(), ADMIN_DIR), ("peer-tls", names.peer_tls_secret(), PEER_TLS_DIR)]
        .into_iter()
        .chain(named.into_iter().flatten())
        .collect()
}

fn container(blueprint: &Blueprint<'_>) -> Container {
    let spec = &blueprint.broker.spec;
    let listeners = spec.listeners.served();
    Container {
        name: "mqtt-broker".to_owned(),
        image: Some(blueprint.plan.image.clone()),
        image_pull_policy: Some(spec.image_pull_policy.as_str().to_owned()),
        args: Some(vec!["--config".to_owned(), format!("{CONFIG_DIR}/{CONFIG_FILE}")]),
        env: Some(vec![
            EnvVar {
                name: "MQTT_BROKER_NODE_NAME".to_owned(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        field_path: "metadata.name".to_owned(),
                        ..ObjectFieldSelector::default()
                    }),
                    ..EnvVarSource::default()
                }),
                ..EnvVar::default()
            },
            EnvVar {
                name: "MQTT_BROKER_ADVERTISE".to_owned(),
                value: Some(pod_address(blueprint, "$(MQTT_BROKER_NODE_NAME)")),
                ..EnvVar::default()
            },
        ]),
        ports: Some(
            listeners
                .iter()
                .map(|one| port(one.scheme, one.pod_port))
                .chain([port("peers", PEER_PORT), port("admin", ADMIN_PORT)])
                .collect(),
        ),
        // What a broker said last before it ended is what the status tells.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        resources: requirements(spec),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        // Reading a long log back takes its time; only then does the liveness probe begin.
        startup_probe: Some(probe("/healthz", 1, 300)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        volume_mounts: Some(
            [mount(DATA_VOLUME, DATA_DIR, false), mount("config", CONFIG_DIR, true)]
                .into_iter()
                .chain(secrets(blueprint).into_iter().map(|(name, _, path)| mount(name, path, true)))
                .collect(),
        ),
        ..Container::default()
    }
}

/// The template of the claims can't change once it exists: the present one is kept, and claims grow one by one.
fn claim(blueprint: &Blueprint<'_>) -> PersistentVolumeClaim {
    let persistence = &blueprint.broker.spec.persistence;
    let present_size = blueprint
        .observed
        .stateful_set
        .as_ref()
        .and_then(|set| set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?.spec.clone())
        .and_then(|spec| spec.resources?.requests?.get("storage").cloned());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA_VOLUME.to_owned()),
            labels: Some(blueprint.broker.names.selector_labels()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: persistence.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    present_size.unwrap_or_else(|| Quantity(persistence.size.clone())),
                )])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// Rather not on the node of another broker; where there are fewer nodes than brokers, all the same.
fn apart(blueprint: &Blueprint<'_>) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    topology_key: "kubernetes.io/hostname".to_owned(),
                    label_selector: Some(LabelSelector {
                        match_labels: Some(blueprint.broker.names.selector_labels()),
                        ..LabelSelector::default()
                    }),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn spread(blueprint: &Blueprint<'_>, topology_key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        topology_key: topology_key.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(blueprint.broker.names.selector_labels()),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    }
}

fn requirements(spec: &MqttBrokerSpec) -> Option<ResourceRequirements> {
    let quantities = |amounts: &BTreeMap<String, Amount>| {
        (!amounts.is_empty())
            .then(|| amounts.iter().map(|(name, amount)| (name.clone(), Quantity(amount.to_string()))).collect())
    };
    (!spec.resources.is_empty()).then(|| ResourceRequirements {
        requests: quantities(&spec.resources.requests),
        limits: quantities(&spec.resources.limits),
        ..ResourceRequirements::default()
    })
}

fn secret_volume(name: &str, secret: String) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn port(name: &str, container_port: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port, ..ContainerPort::default() }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}
