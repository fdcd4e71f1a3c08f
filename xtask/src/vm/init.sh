#!/bin/busybox sh
# Process 1 of a guest: mounts the host's file system, read-only, under an overlay in memory, and
# goes on there with the script of this run.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
	insmod "$module" || echo "sluice-vm: $module does not load"
done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /lower
mount -t tmpfs -o size=75% upper /upper
mkdir /upper/written /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/written,workdir=/upper/work overlay /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t tmpfs run /root/run
mkdir /root/run/sluice-vm
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none run /root/run/sluice-vm
exec switch_root /root /bin/sh /run/sluice-vm/start.sh
