#!/bin/sh
# Turns mmdebstrap's archive into what QEMU boots from. Runs as root, or as root of a user namespace.
# pack.sh ROOT.TAR OUTPUT-DIRECTORY
set -eu
archive=$1
out=$2
tree=$out/tree
mkdir "$tree"
tar --extract --preserve-permissions --numeric-owner --xattrs --file "$archive" --directory "$tree" --exclude './dev/*'
cp "$tree"/boot/vmlinuz-* "$out/vmlinuz"
version=$(ls "$tree/usr/lib/modules")
cp "$tree/usr/lib/modules/$version/modules.dep" "$out/modules.dep"
cp -r "$tree/usr/lib/modules/$version" "$out/modules"
chmod -R a+rX "$out/modules"
chmod a+r "$out/vmlinuz" "$out/modules.dep"
rm -r "$tree/boot" "$tree"/vmlinuz* "$tree"/initrd* 2>/dev/null || true
mkdir -p "$tree/dev" "$tree/proc" "$tree/sys" "$tree/run" "$tree/payload"
# Thrown away after each run: a journal would only cost.
mkfs.ext4 -q -F -O '^has_journal' -m 0 -d "$tree" "$out/root.ext4" 6G
rm -rf "$tree"
