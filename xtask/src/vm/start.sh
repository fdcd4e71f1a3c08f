# Process 1 of a guest, on the host's file system. The variables are set above this text by the
# xtask that started the machine: repository, modules, release, tmpfs, seconds.
mkdir -p "/lib/modules" "$repository/target/vm/out"
ln -sfn "$modules" "/lib/modules/$release"
[ "$tmpfs" = yes ] && mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none out "$repository/target/vm/out"
ip link set lo up
hostname sluice-vm
cd "$repository" || exit
# The device behind one of QEMU's ports; numbers depend on the order of devices.
port() {
	for port in /sys/class/virtio-ports/*; do
		[ "$(cat "$port/name")" = "$1" ] && echo "/dev/${port##*/}"
	done
}
sh /run/sluice-vm/command.sh </dev/null >"$(port stdout)" 2>"$(port stderr)"
# Renamed: the host never reads half a number.
echo $? >/run/sluice-vm/status.new
mv /run/sluice-vm/status.new /run/sluice-vm/status
sync
busybox poweroff -f
