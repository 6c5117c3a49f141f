#!/bin/sh
# Process 1 of the kernel matrix's guest: mounts what a node has, runs weir-lab, switches off.
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/netns
echo "guest: $(uname -r) up $(cat /proc/uptime)"
while read -r module; do insmod "$module"; done < /modules/order
WEIR_BINARIES=/bin weir-lab
echo "guest: off $(cat /proc/uptime)"
poweroff -f
