#!/bin/busybox sh
# The first program in the virtual machine: what the cloud kernel needs to see its disk is a module.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    /bin/busybox insmod "$module"
done
/bin/busybox mount -t ext4 -o rw,noatime,noinit_itable /dev/vda /root || exec /bin/busybox sh -c 'echo "the root disk cannot be mounted"; /bin/busybox reboot -f'
/bin/busybox mount -t ext4 -o rw,noatime,noinit_itable /dev/vdb /root/payload || exec /bin/busybox sh -c 'echo "the payload disk cannot be mounted"; /bin/busybox reboot -f'
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /payload/guest.sh
