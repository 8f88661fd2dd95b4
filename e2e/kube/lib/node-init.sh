#!/bin/bash
# node-init.sh NODE: process 1 of a node. Its pid, mount, uts, ipc and network namespaces are its own already; when it dies, all in it dies.
set -uo pipefail
. "$(dirname "$0")/settings.sh"
node_settings "$1"

mount --make-rshared /
hostname "$node"
# Sockets, leases of addresses and locks are gone after a power cut, like a machine's.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
mount --bind "$node_dir/kubelet" /var/lib/kubelet
mount --bind "$node_dir/log" /var/log
mount --bind "$node_dir/cni" /var/lib/cni
mount --bind "$node_dir/machine-id" /etc/machine-id
# A new boot id is how the kubelet learns that its old pods are not running any more.
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id

# keep NAME COMMAND…: start it, and again whenever it ends.
keep() {
  local name=$1
  shift
  while [ ! -e /run/halting ]; do
    "$@" >>"$LOGS/$node-$name.log" 2>&1 </dev/null
    echo "$name ended with $?" >>"$LOGS/$node-$name.log"
    sleep 1
  done
}

halt() {
  touch /run/halting
  kill -TERM -1
  sleep 2
  exit 0
}
trap halt TERM

# import: the images that are not in this node's containerd yet, told by name and time.
import() {
  local archive mark
  for archive in "$IMAGES"/*.tar; do
    mark=$node_dir/containerd/.$(basename "$archive").$(stat -Lc %Y "$archive")
    [ -f "$mark" ] || { ctr -a "$node_socket" -n k8s.io images import "$archive" && touch "$mark"; }
  done >>"$LOGS/$node-import.log" 2>&1
}

rm -f "$node_socket"
keep containerd containerd --config "$node_dir/containerd.toml" &
(
  until ctr -a "$node_socket" version >/dev/null 2>&1; do sleep 0.1; done
  import
  until curl -sfk -m 1 "https://$CONTROL_IP:6443/readyz" >/dev/null; do sleep 0.2; done
  keep kube-proxy kube-proxy --config "$node_dir/kube-proxy.yaml" &
  keep kubelet kubelet --config "$node_dir/kubelet.yaml" --kubeconfig "$KUBECONFIGS/kubelet-$node.conf" \
    --root-dir /var/lib/kubelet --cert-dir /var/lib/kubelet/pki --hostname-override "$node" --node-ip "$node_ip" &
  wait
) &
# Bash reaps the orphans that come to process 1.
while :; do wait -n 2>/dev/null || sleep 1; done
