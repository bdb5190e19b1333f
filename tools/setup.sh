#!/bin/sh
# Installs the Debian packages of the named groups of tools/apt-packages.txt, and only those that are missing.
# Usage: tools/setup.sh GROUP...      (groups: build model test bench format tidy fuzz tsan)
set -eu
list=$(dirname "$0")/apt-packages.txt

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is no Debian system; if the build misses something, install what $list names" >&2
  exit 0
fi

missing=
for group in "$@"; do
  for package in $(sed -n "s/^$group //p" "$list"); do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
  done
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null; then
  as_root=sudo
else
  echo "setup: packages are missing and neither root nor sudo is at hand; run as root: apt-get install$missing" >&2
  exit 1
fi

echo "setup: installing$missing"
# A fresh image has no package lists, an old one has lists that name packages no longer there.
$as_root apt-get update -qq || echo "setup: apt-get update failed; trying with the package lists that are here" >&2
if ! $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
  echo "setup: apt-get could not install:$missing (its own message is above); is the network there?" >&2
  exit 1
fi
