#!/bin/bash
# config-proxy.sh NAME ADDRESS: kube-proxy's configuration, on standard output.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
cat <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $POD_PREFIX.0.0/16
hostnameOverride: $1
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: ["$2/32"]
clientConnection: {kubeconfig: $KUBECONFIGS/kube-proxy.conf}
# These limits are the machine's and not to be written from a namespace.
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
