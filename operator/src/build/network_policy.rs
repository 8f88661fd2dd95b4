//! Who may reach the pods: clients the ports of the listeners, the brokers' own pods the peer port, pods of the cluster the admin port
//! (the operator, which has the token, and whoever collects metrics). Probes come from the node and need no rule.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{Blueprint, metadata};
use crate::names::{ADMIN_PORT, PEER_PORT};

pub(super) fn build(blueprint: &Blueprint<'_>) -> NetworkPolicy {
    let names = &blueprint.broker.names;
    let own_pods = LabelSelector { match_labels: Some(names.selector_labels()), ..LabelSelector::default() };
    let from_own_pods = NetworkPolicyPeer { pod_selector: Some(own_pods.clone()), ..NetworkPolicyPeer::default() };
    let from_any_pod =
        NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    NetworkPolicy {
        metadata: metadata(blueprint, names.network_policy()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(own_pods),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(
                blueprint
                    .broker
                    .spec
                    .listeners
                    .served()
                    .iter()
                    .map(|one| rule(one.pod_port, None))
                    .chain([rule(PEER_PORT, Some(from_own_pods)), rule(ADMIN_PORT, Some(from_any_pod))])
                    .collect(),
            ),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn rule(port: i32, from: Option<NetworkPolicyPeer>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: from.map(|from| vec![from]),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(port)),
            protocol: Some("TCP".to_owned()),
            ..NetworkPolicyPort::default()
        }]),
    }
}
