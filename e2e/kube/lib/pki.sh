#!/bin/bash
# A certificate authority of the cluster's own, a certificate for each component, and their kubeconfigs. Made once per cluster.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
[ -f "$PKI/done" ] && exit 0
mkdir -p "$PKI" "$KUBECONFIGS"
cd "$PKI"

# certificate NAME SUBJECT [ALTERNATIVE-NAMES]: good for a server and for a client.
certificate() {
  openssl ecparam -genkey -name prime256v1 -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  {
    echo "keyUsage=critical,digitalSignature,keyEncipherment"
    echo "extendedKeyUsage=serverAuth,clientAuth"
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  } >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

# kubeconfig NAME: for the holder of that certificate.
kubeconfig() {
  cat >"$KUBECONFIGS/$1.conf" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: local, cluster: {server: "https://$CONTROL_IP:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: local, context: {cluster: local, user: $1}}]
current-context: local
YAML
}

openssl ecparam -genkey -name prime256v1 -noout -out ca.key
openssl req -x509 -new -key ca.key -days 3650 -subj /CN=mqtt-e2e -out ca.crt \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
openssl genrsa -out service-accounts.key 2048 2>/dev/null
openssl rsa -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null

names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
certificate apiserver /CN=kube-apiserver "$names,IP:$CONTROL_IP,IP:$SERVICE_IP"
certificate apiserver-kubelet-client /CN=apiserver-kubelet-client
certificate front-proxy-client /CN=front-proxy-client
certificate admin /O=system:masters/CN=admin
certificate controller-manager /CN=system:kube-controller-manager
certificate scheduler /CN=system:kube-scheduler
certificate kube-proxy /CN=system:kube-proxy
for name in admin controller-manager scheduler kube-proxy; do kubeconfig $name; done
for ((i = 1; i <= NODES_MAX; i++)); do
  node_settings "node$i"
  certificate "kubelet-$node" "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$node_ip"
  kubeconfig "kubelet-$node"
done
touch "$PKI/done"
