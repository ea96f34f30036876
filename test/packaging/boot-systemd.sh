#!/usr/bin/env bash
# Boots a real systemd in namespaces of its own, over a copy-on-write view of this machine's root: what it installs, mounts and sets is
# gone when its process 1 is killed. For test/packaging/systemd.test.ts. Usage: boot-systemd.sh CHECKOUT DIRECTORY CGROUP; needs root,
# overlayfs and cgroup 2. The network is its own: eth1 and eth2, whose far ends are far1 and far2, still down.
set -euo pipefail
export CHECKOUT=$1 BASE=$2
CGROUP=$3
mkdir -p "$CGROUP"
echo $$ >"$CGROUP/cgroup.procs"
exec unshare --pid --mount --net --ipc --uts --cgroup --fork --kill-child bash -euc '
  mount --make-rprivate /
  mount -t tmpfs tmpfs "$BASE"
  cd "$BASE"
  mkdir upper work root
  mount -t overlay overlay -o "lowerdir=/,upperdir=$BASE/upper,workdir=$BASE/work" root
  mount -t tmpfs tmpfs root/tmp
  mkdir -p "root$CHECKOUT"                   # it may stand in /tmp
  mount --bind "$CHECKOUT" "root$CHECKOUT"   # an overlay does not see what changes below it
  mount -t proc proc root/proc
  mount -t sysfs -o ro sysfs root/sys
  mount -t cgroup2 cgroup2 root/sys/fs/cgroup
  mount --rbind /dev root/dev
  mount -t tmpfs -o mode=0755 tmpfs root/run
  ip link set lo up
  for n in 1 2; do ip link add eth$n type veth peer name far$n; done
  mkdir -p root/mnt
  cd root
  pivot_root . mnt
  umount -l /mnt
  rm -rf /etc/systemd/system/*.wants /etc/sluice /var/lib/sluice /opt/sluice
  printf "[Unit]\nWants=basic.target systemd-journald.service\nAfter=basic.target\n" >/etc/systemd/system/bench.target
  export container=other
  exec /lib/systemd/systemd --system --unit=bench.target --log-target=journal --show-status=false
'
