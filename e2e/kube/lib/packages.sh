# shellcheck shell=bash
# What the scripts need from Debian. Sourced, never run.

# command:package pairs, or a path where a package brings no command.
NEEDED_PACKAGES="
  containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins
  ip:iproute2 iptables:iptables conntrack:conntrack modprobe:kmod sysctl:procps nsenter:util-linux
  openssl:openssl curl:curl buildah:buildah /etc/containers/policy.json:golang-github-containers-common
  gcc:gcc strip:binutils /usr/include/stdio.h:libc6-dev mosquitto_pub:mosquitto-clients mosquitto:mosquitto
"

# install_packages: those that are missing, and only then does it ask Debian for anything.
install_packages() {
  local pair command missing=()
  for pair in $NEEDED_PACKAGES; do
    command=${pair%%:*}
    if [[ $command == /* ]]; then
      [ -e "$command" ] || missing+=("${pair##*:}")
    else
      command -v "$command" >/dev/null || missing+=("${pair##*:}")
    fi
  done
  ((${#missing[@]} > 0)) || return 0
  say "installing from Debian: ${missing[*]}"
  command -v apt-get >/dev/null || fail "these packages are missing: ${missing[*]}" "this machine has no apt-get: install what holds them by hand"
  mkdir -p "$CACHE"
  {
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  } >"$CACHE/apt.log" 2>&1 || {
    tail -n 15 "$CACHE/apt.log" >&2
    fail "the installation of ${missing[*]}" "read $CACHE/apt.log; install them by hand and try again"
  }
}
