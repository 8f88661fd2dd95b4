#!/bin/bash
# Directories for claims. Class "local" is bound to the node that the scheduler chose, class "shared" is seen by every node.
set -uo pipefail
. "$(dirname "$0")/settings.sh"
export KUBECONFIG=$KUBECONFIGS/admin.conf

claims() {
  kubectl get pvc -A -w -o jsonpath="{.metadata.namespace}|{.metadata.name}|{.metadata.uid}|{.spec.storageClassName}|{.status.phase}|{.metadata.annotations.volume\.kubernetes\.io/selected-node}|{.spec.resources.requests.storage}|{.spec.accessModes[0]}{'\n'}" |
    while IFS='|' read -r namespace name uid class phase node size mode; do
      [ "$phase" = Pending ] || continue
      case $class in
      local)
        [ -n "$node" ] || continue
        directory=$STATE/$node/volumes/pvc-$uid
        source="local: {path: $directory}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}"
        ;;
      shared)
        directory=$STATE/shared/pvc-$uid
        source="hostPath: {path: $directory, type: Directory}"
        ;;
      *) continue ;;
      esac
      [ -d "$directory" ] && continue
      # For everybody: a hostPath volume is not given to the pod's fsGroup.
      mkdir -p "$directory" && chmod 777 "$directory"
      kubectl create -f - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata:
  name: pvc-$uid
  annotations: {pv.kubernetes.io/provisioned-by: mqtt-e2e/directory, mqtt-e2e/directory: $directory}
spec:
  capacity: {storage: $size}
  accessModes: [$mode]
  storageClassName: $class
  persistentVolumeReclaimPolicy: Delete
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: $namespace, name: $name, uid: $uid}
  $source
YAML
    done
}

volumes() {
  kubectl get pv -w -o jsonpath="{.metadata.name}|{.status.phase}|{.spec.persistentVolumeReclaimPolicy}|{.metadata.annotations.mqtt-e2e/directory}{'\n'}" |
    while IFS='|' read -r name phase policy directory; do
      [[ $phase/$policy == Released/Delete && $directory == "$STATE"/*/pvc-* ]] || continue
      rm -rf -- "$directory"
      kubectl delete pv "$name" --wait=false
    done
}

while :; do claims; sleep 1; done &
while :; do volumes; sleep 1; done &
wait
