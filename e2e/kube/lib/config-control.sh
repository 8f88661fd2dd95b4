#!/bin/bash
# The configuration files of the control plane.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
mkdir -p "$STATE/etcd" "$STATE/shared"

# kube-proxy waits 30 s for a Node of its own name, and the control plane has none: it borrows that of node1.
"$KUBE/lib/config-proxy.sh" node1 "$CONTROL_IP" | write "$STATE/kube-proxy.yaml"
echo "nameserver $CONTROL_IP" | write "$STATE/resolv.conf"

write "$STATE/Corefile" <<CONF
.:53 {
    bind $CONTROL_IP
    errors
    health 127.0.0.1:8080
    ready 127.0.0.1:8181
    cache 5
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $KUBECONFIGS/admin.conf
        pods insecure
        ttl 5
    }
}
CONF

# Every request of a workload's service account, so that a test can count what an operator asks for at rest.
write "$STATE/audit.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
YAML

write "$STATE/addons.yaml" <<YAML
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: mqtt-e2e/directory
reclaimPolicy: Delete
# Claims may ask for more; a directory has no size to grow.
allowVolumeExpansion: true
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: shared}
provisioner: mqtt-e2e/directory
reclaimPolicy: Delete
volumeBindingMode: Immediate
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: apiserver-kubelet}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:kubelet-api-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: apiserver-kubelet-client}]
YAML
