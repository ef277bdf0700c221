#!/bin/bash
# Runs the wanted command inside the test machine, then powers off: as process
# 1, or as a unit of systemd. /hostroute-vm is the folder shared with the host.

vm=/hostroute-vm

finish() {
	sync
	echo o > /proc/sysrq-trigger
	sleep 60
}
trap finish EXIT

fail() {
	echo "hostroute-vm: $1"
	echo "$1" > $vm/failure
	exit 1
}

# mount_once TYPE FOLDER: systemd has mounted some of these already.
mount_once() {
	grep -q " $2 $1 " /proc/mounts && return
	mkdir -p "$2" && mount -t "$1" "$1" "$2"
}

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb LANG=C.UTF-8
directory=$(cat $vm/directory)

if [ $$ = 1 ]; then
	hostname hostroute-vm
	mount_once tmpfs /run
	# A work tree below /tmp must stay visible.
	case $directory in
	/tmp/*) ;;
	*) mount_once tmpfs /tmp ;;
	esac
	mount_once devpts /dev/pts
	mount_once tmpfs /dev/shm
	mount_once cgroup2 /sys/fs/cgroup
	ln -sf /proc/self/fd /dev/fd
	ip link set lo up
fi
mount_once bpf /sys/fs/bpf
mount_once securityfs /sys/kernel/security
mount_once tracefs /sys/kernel/tracing
mount_once debugfs /sys/kernel/debug

while read -r module; do
	modprobe "$module" || fail "modprobe $module failed"
done < $vm/modules

set -a
# shellcheck disable=SC1091
. $vm/environment
set +a
cd "$directory" || fail "$directory is not visible inside the machine"
cut -d' ' -f1 /proc/uptime > $vm/ready
bash $vm/command > $vm/stdout 2> $vm/stderr < /dev/null
echo $? > $vm/status
