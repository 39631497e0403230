#!/bin/sh
# mmdebstrap runs this with the root directory of the new system before it is packed.
set -eu
root=$1
here=$(dirname "$0")
install -D -m 644 "$here/containers.conf" "$root/etc/containers/containers.conf"
install -D -m 644 "$here/storage.conf" "$root/etc/containers/storage.conf"
install -D -m 644 "$here/containers.user.conf" "$root/etc/skel/.config/containers/containers.conf"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
rm -f "$root"/etc/hostname "$root"/etc/resolv.conf "$root"/etc/machine-id
printf 'Welcome to a Cordium workspace.\n' > "$root/etc/motd"
