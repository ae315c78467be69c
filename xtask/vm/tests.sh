#!/bin/bash
# Runs the tests of /longshore/list, one program a line: its name and its arguments. The last line says how they went.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
seconds() { cut -d. -f1 /proc/uptime; }
stty -F /dev/hvc0 raw -echo
# udev would have done it.
modprobe -a loop fuse
mkdir -p /state
mount -t ext4 -o prjquota /dev/vdc /state
# The scheduler that gives each cgroup its weight.
echo bfq >/sys/block/vdc/queue/scheduler
swapon /dev/vdd
mkdir -p /state/tmp
export TMPDIR=/state/tmp LONGSHORE_BIN_DIR=/longshore/stage
# shellcheck disable=SC1091
. /longshore/environment
# Some tests know where cargo has put a binary.
mkdir -p "$(dirname "$target_directory")"
ln -sfn /longshore/target "$target_directory"
echo "longshore-vm: up after $(seconds) s: Linux $(uname -r), cgroups $(stat -fc %T /sys/fs/cgroup), PID 1 is $(cat /proc/1/comm)"
status=0
while read -r name arguments; do
    begin=$(seconds)
    echo "longshore-vm: $name $arguments"
    # shellcheck disable=SC2086
    timeout --kill-after=5 "$program_limit" "/longshore/tests/$name" $arguments </dev/null || status=1
    echo "longshore-vm: $name took $(($(seconds) - begin)) s"
done </longshore/list
sync
echo "longshore-vm: status $status"
