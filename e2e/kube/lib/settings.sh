# shellcheck shell=bash
# Names, addresses and folders of the local cluster, and the few words that every script here is written in. Sourced, never run.
# shellcheck disable=SC2034 # most of it is for the scripts that source this
#
# Everything that a run leaves on disk is below $CACHE, outside the checkout: what is built stays ($CACHE/components, $CACHE/images),
# what belongs to one cluster is in $STATE and goes with `down --wipe`.

KUBE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=$(cd "$KUBE/../.." && pwd)
CACHE=${MQTT_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mqtt-broker-e2e}
STATE=$CACHE/cluster
LOGS=$STATE/log
PKI=$STATE/pki
KUBECONFIGS=$STATE/kubeconfig
IMAGES=$CACHE/images
RUNTIME=/run/mqtt-e2e # gone at a reboot, like the processes whose ids it holds

NETNS=mqtt-e2e # control plane and switch; a node is $NETNS-nodeI
BRIDGE=nodes
NODE_NET=172.30.3 # nodeI is $NODE_NET.(10+I)
CONTROL_IP=$NODE_NET.1
POD_PREFIX=10.244 # nodeI has $POD_PREFIX.I.0/24
SERVICE_NET=10.96.0.0/16
SERVICE_IP=10.96.0.1
NODES_MAX=9

# How soon the control plane believes that a node is gone, and how long its pods stay bound to it afterwards.
NODE_GRACE=${NODE_GRACE:-8s}
EVICTION_SECONDS=${EVICTION_SECONDS:-30}

# Another version of Kubernetes than that of components/go.mod: 1.35.2, say. Empty: that one.
KUBERNETES=${MQTT_E2E_KUBERNETES:-}

# The binaries are found by what they were built from, so a second build has nothing to do.
COMPONENTS_HASH=$({
  cat "$KUBE"/components/go.{mod,sum} "$KUBE"/components/cmd/*/*.go
  printf %s "$KUBERNETES"
} | sha256sum | cut -c1-16)
COMPONENTS=$CACHE/components/$COMPONENTS_HASH

export PATH=$COMPONENTS:/usr/sbin:$PATH:/sbin
export MQTT_E2E_STATE=$STATE # in the environment of everything we start: how we know our own processes again
# client-go notices a dead connection in 6 s instead of 45.
export HTTP2_READ_IDLE_TIMEOUT_SECONDS=3 HTTP2_PING_TIMEOUT_SECONDS=3

# say TEXT: one line of progress, with the seconds since the script began.
SCRIPT_BEGAN=$EPOCHREALTIME
say() { printf '%6.1fs  %s\n' "$(seconds_since "$SCRIPT_BEGAN")" "$*" >&2; }
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }

# Where cargo puts what it builds of this checkout.
target_directory() {
  cargo metadata --format-version 1 --no-deps --manifest-path "$ROOT/Cargo.toml" | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

# What is shipped, compiled as the Dockerfiles do: without the flags of .cargo/config.toml, which tests alone need.
compile_shipped() {
  RUSTFLAGS='' cargo build --release --locked -p mqtt-broker -p mqtt-operator --manifest-path "$ROOT/Cargo.toml"
}

# fail WHAT REMEDY: the step that failed and what to do about it.
fail() {
  printf '\n%s failed: %s\n  what to do: %s\n' "${0##*/}" "$1" "$2" >&2
  exit 1
}

# wait_for WHAT SECONDS LOG COMMAND…: until the command succeeds; the end of the log is the reason when it does not.
wait_for() {
  local what=$1 seconds=$2 log=$3 deadline
  shift 3
  deadline=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
      printf '\nlast lines of %s:\n' "$log" >&2
      tail -n 15 "$log" >&2 || true
      fail "$what did not come within $seconds s" "read the log named above; '$KUBE/down --wipe' clears everything for another try"
    fi
    sleep 0.2
  done
  say "$what"
}

need_root() { [ "$(id -u)" = 0 ] || fail "network namespaces need root" "run the same command with sudo"; }

# One cluster a machine. `lock` holds the machine for this script, unless the program that called us already does.
lock() {
  mkdir -p "$RUNTIME"
  [ "${MQTT_E2E_LOCK_HELD:-}" = 1 ] && return
  exec 9>>"$RUNTIME/lock"
  flock -n 9 || fail "another run uses the cluster: $(cat "$RUNTIME/lock")" "wait until it ends, or end it"
  printf 'process %s, %s' "$$" "$0" >"$RUNTIME/lock"
  export MQTT_E2E_LOCK_HELD=1
}

# The names of namespaces are the machine's: a cluster of another cache folder (another user, say) must not be taken for ours.
only_ours() {
  local owner
  owner=$(cat "$RUNTIME/state" 2>/dev/null) || return 0
  [ "$owner" = "$STATE" ] || fail "a cluster with its state in $owner is up on this machine" \
    "take it down first: MQTT_E2E_CACHE=${owner%/cluster} $KUBE/down --wipe"
}

# inside "$@": go on with this script in the control plane's network namespace.
inside() {
  [ "${MQTT_E2E_INSIDE:-}" = "$NETNS" ] && return
  [ -e /run/netns/$NETNS ] || fail "no cluster is up" "$KUBE/up"
  exec env MQTT_E2E_INSIDE=$NETNS nsenter --net=/run/netns/$NETNS "$0" "$@"
}

# ours PID: does it run, and was it started for this cluster? A process id may have been given to another since.
ours() { tr '\0' '\n' <"/proc/$1/environ" | grep -qxF "MQTT_E2E_STATE=$STATE"; } 2>/dev/null
pid_of() { cat "$RUNTIME/pids/$1" 2>/dev/null; }
alive() {
  local pid
  pid=$(pid_of "$1") && ours "$pid"
}

# start_daemon NAME COMMAND…: in its own session, its output in $LOGS/NAME.log.
start_daemon() {
  local name=$1
  shift
  if alive "$name"; then return; fi
  setsid nohup "$@" >>"$LOGS/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$RUNTIME/pids/$name"
}

# stop_daemon NAME TENTHS: ask, wait so many tenths of a second, then insist.
stop_daemon() {
  local pid tenths=$2
  pid=$(pid_of "$1") || return 0
  if ours "$pid"; then
    kill -- "-$pid" 2>/dev/null || kill "$pid" 2>/dev/null || true
    while ((tenths-- > 0)) && ours "$pid"; do sleep 0.1; done
    if ours "$pid"; then kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true; fi
  fi
  rm -f "$RUNTIME/pids/$1"
}

# write FILE: standard input into the file, but only when it differs: kube-proxy exits when its file is touched.
write() {
  cat >"$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}

# node_settings NODE: the names and addresses of one node, as variables.
# shellcheck disable=SC2034 # they are for the script that asks
node_settings() {
  [[ $1 =~ ^node[1-9]$ ]] || fail "no node is called '$1'" "nodes are called node1 to node$NODES_MAX"
  node=$1
  node_index=${1#node}
  node_dir=$STATE/$node
  node_ns=$NETNS-$node
  node_ip=$NODE_NET.$((10 + node_index))
  node_pods=$POD_PREFIX.$node_index.0/24
  node_socket=$node_dir/containerd.sock
  node_cgroup=$NETNS-$node
}

cgroup_v1() { [ -d /sys/fs/cgroup/memory ]; }
