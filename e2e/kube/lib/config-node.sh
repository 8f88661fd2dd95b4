#!/bin/bash
# config-node.sh NODE: the configuration files of one node.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
node_settings "$1"
mkdir -p "$node_dir"/{kubelet,log,cni,cni.conf,containerd,volumes}
[ -f "$node_dir/machine-id" ] || tr -d - </proc/sys/kernel/random/uuid >"$node_dir/machine-id"
"$KUBE/lib/config-proxy.sh" "$node" "$node_ip" | write "$node_dir/kube-proxy.yaml"

# restrict_oom_score_adj: inside a container it can't be lowered. Version 2 of the format is what Debian's containerd reads.
write "$node_dir/containerd.toml" <<TOML
version = 2
root = "$node_dir/containerd"
state = "/run/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "$node_socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$node_dir/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:local"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$node_dir/cni.conf"
TOML

# No masquerading: a pod is seen with its own address everywhere, and nothing leaves the cluster anyhow.
write "$node_dir/cni.conf/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$node_pods"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON

# imageGCHighThresholdPercent 100: a deleted image could not be pulled again.
# syncFrequency: how soon a changed Secret is seen in a pod; a minute if nobody says, which is long for a test.
write "$node_dir/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$node_cgroup
failSwapOn: false
address: $node_ip
healthzBindAddress: 127.0.0.1
containerRuntimeEndpoint: unix://$node_socket
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-$node.crt
tlsPrivateKeyFile: $PKI/kubelet-$node.key
clusterDomain: cluster.local
clusterDNS: ["$CONTROL_IP"]
resolvConf: $STATE/resolv.conf
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
nodeLeaseDurationSeconds: 8
serializeImagePulls: false
YAML
