#!/bin/busybox sh
# First process of a test machine, run from the initramfs. It mounts the
# host's root over 9p read-only with a tmpfs overlay on top, and hands over to
# guest.sh as process 1, or to systemd with guest.sh as a unit. The 9p folder
# "out" carries what to run in, and the results out (see machine.ts).

/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /out /lower /upper /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

fail() {
	echo "hostroute-vm: $1"
	echo "$1" > /out/failure
	sync
	echo o > /proc/sysrq-trigger
	sleep 60
}

for module in /modules/*; do
	insmod "$module" || fail "cannot load $module"
done
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 out /out ||
	fail "cannot mount the result folder"
release=$(uname -r)
[ "$release" = "$(cat /out/release)" ] ||
	fail "kernel $release is running instead of $(cat /out/release)"
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /lower ||
	fail "cannot mount the host's root"
mount -t tmpfs -o size=75% tmpfs /upper
mkdir /upper/changes /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work overlay /root ||
	fail "cannot lay a writable layer over the host's root"

# The host's own /etc/fstab, host name and machine id are not the guest's.
echo hostroute-vm > /root/etc/hostname
echo 0123456789abcdef0123456789abcdef > /root/etc/machine-id
: > /root/etc/fstab
mkdir -p /root/hostroute-vm /root/usr/lib/modules
rm -rf "/root/usr/lib/modules/$release"
ln -s "$(cat /out/modules-folder)" "/root/usr/lib/modules/$release"

for folder in proc sys dev; do
	mount -o move "/$folder" "/root/$folder"
done
mount -o move /out /root/hostroute-vm

if [ "$(cat /root/hostroute-vm/init)" = systemd ]; then
	units=/root/etc/systemd/system
	while read -r unit; do
		rm -rf "${units:?}/$unit"
		ln -s /dev/null "$units/$unit"
	done < /root/hostroute-vm/masked-units
	# A work tree below /tmp must stay visible: nothing empties or covers it.
	mkdir -p /root/etc/tmpfiles.d
	ln -sf /dev/null /root/etc/tmpfiles.d/tmp.conf
	cat > $units/hostroute-vm.service <<-UNIT
		[Unit]
		Description=command of the test machine
		After=multi-user.target
		[Service]
		Type=exec
		ExecStart=/bin/bash /hostroute-vm/guest.sh
		StandardOutput=journal+console
	UNIT
	mkdir -p $units/multi-user.target.wants
	ln -s ../hostroute-vm.service $units/multi-user.target.wants/hostroute-vm.service
	exec switch_root /root /lib/systemd/systemd
fi
exec switch_root /root /bin/bash /hostroute-vm/guest.sh
