# shellcheck shell=bash
# Making images without a registry. Sourced, never run.

# bud ARGS…: buildah in a storage of its own, so that nothing is left in the machine's.
bud() { buildah_in_cache bud --isolation chroot --layers=false --quiet "$@" >/dev/null; }
buildah_in_cache() { buildah --root "$CACHE/buildah" --runroot "$CACHE/buildah/run" --storage-driver vfs "$@"; }

# save IMAGE FILE: as an archive that containerd imports under the same name.
save() {
  mkdir -p "$IMAGES"
  rm -f "$2.new"
  buildah_in_cache push --quiet "$1" "docker-archive:$2.new:$1"
  mv "$2.new" "$2"
}
