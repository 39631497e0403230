#!/bin/sh
# PID 1 of the virtual machine: pure cgroup v2 with every controller, loopback for a network, and then the tests, one
# target after another. What is said to the second serial port is the run's result; the first is the kernel's console.
exec > /dev/ttyS1 2>&1 < /dev/null
stty -F /dev/ttyS1 raw -echo
export PATH=/payload/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
up() { cut -d ' ' -f 1 /proc/uptime; }
end() { echo "vm: $1"; sync; /payload/tools/busybox reboot -f; }

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
ln -sf /proc/self/fd /dev/fd
hostname cordium-vm
ip link set lo up
echo "vm: up after $(up) s, $(uname -sr)"
grep -v '^#' /payload/modules | while read -r module; do modprobe -q "$module" || echo "vm: no module $module"; done

# REPOSITORY, THREADS
. /payload/settings
ln -sf /payload/tools/busybox /bin/busybox
mkdir -p "$(dirname "$REPOSITORY")"
ln -s /payload/repository "$REPOSITORY"
export CORDIUM_E2E=1 CORDIUM_BIN_DIR=/payload/bin/debug CARGO_TARGET_DIR=/payload/target RUST_BACKTRACE=0

/payload/bin/debug/cordium setup --user cordium-test || end "cordium setup failed"
echo "vm: cgroup.controllers: $(cat /sys/fs/cgroup/cordium-*/cgroup.controllers)"
while read -r target arguments; do
    before=$(up)
    echo "vm: $target begins"
    # Arguments are plain words.
    "/payload/tests/$target" --color never --test-threads "$THREADS" $arguments < /dev/null
    echo "vm: $target ended with $? ($before s to $(up) s)"
done < /payload/runs
end "end after $(up) s"
