#!/bin/bash
# Runs the tests of /longshore/list, one program a line: its name and its arguments. The last line says how they went.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
# As many as on the host (xtask/src/suite.rs).
again_at_most=4
output=/state/output
failed=()
# Its output is copied by a process that is not waited for long: what a test leaves behind may hold the other end.
run() {
    local program=$1 result=0 copier
    shift
    exec 3> >(tee "$output")
    copier=$!
    timeout --kill-after=5 "$program_limit" "/longshore/tests/$program" "$@" </dev/null >&3 3>&- || result=$?
    exec 3>&-
    timeout 5 tail --pid="$copier" -f /dev/null
    return "$result"
}
# PROGRAM TEST, a line each; a program that failed without a failed test did not come to its end.
note_failed() {
    local tests
    mapfile -t tests < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$output")
    ((${#tests[@]} > 0)) || status=1
    local test
    for test in "${tests[@]}"; do failed+=("$1 $test"); done
}
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
    run "$name" $arguments || note_failed "$name"
    echo "longshore-vm: $name took $(($(seconds) - begin)) s"
done </longshore/list
if ((status == 0 && ${#failed[@]} > 0 && ${#failed[@]} <= again_at_most)); then
    echo "longshore-vm: again"
    for one in "${failed[@]}"; do
        run "${one%% *}" --exact --include-ignored --test-threads=1 "${one#* }" || status=1
    done
elif ((${#failed[@]} > 0)); then
    status=1
fi
sync
echo "longshore-vm: status $status"
