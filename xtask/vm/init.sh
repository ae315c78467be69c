#!/bin/bash
# PID 1 of the machine without systemd. Bash, because bash reaps the orphans that it inherits.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t selinuxfs selinuxfs /sys/fs/selinux
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount --make-rshared /
hostname longshore-vm
ip link set lo up
/longshore/tests.sh >/dev/hvc0 2>&1 </dev/null
echo o >/proc/sysrq-trigger
sleep infinity
