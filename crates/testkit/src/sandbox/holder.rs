use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use super::poll;

/// Makes the namespaces a host, says so, and waits for the end of standard input. It is PID 1 inside, and bash because bash reaps the
/// orphans that it inherits. Status 3 means that the directory is still wanted.
const HOLDER: &str = "
set -e
if [ \"$LONGSHORE_TEST_CGROUP_DRIVER\" = systemd ]; then
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/systemd
    touch /mnt/systemd/private
    mount --bind /run/systemd/private /mnt/systemd/private
    mount --no-mtab --move /mnt /run
else
    mount -t tmpfs -o mode=755 tmpfs /run
fi
mkdir /run/netns /run/lock
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /var/log
ip link set lo up
echo ready
while read -r word; do
    [ \"$word\" != keep ] || exit 3
done
";

/// Runs the holder, and after its end removes what outlives namespaces: cgroups, which may be busy for a moment, and the directory.
/// It does so whatever happens to the test: it is in a process group of its own, out of reach of the terminal's signals.
const KEEPER: &str = "
name=$1 directory=$2 holder=$3
unshare --net --mount --pid --ipc --uts --fork --kill-child --propagation=private --mount-proc bash -c \"$holder\"
status=$?
exec >/dev/null 2>&1
[ \"$LONGSHORE_TEST_CGROUP_DRIVER\" != systemd ] || systemctl stop \"$name\"
for turn in {1..100}; do
    left=
    for top in /sys/fs/cgroup/$name /sys/fs/cgroup/*/$name; do
        [ -d $top ] || continue
        find $top -depth -type d -exec rmdir {} +
        [ ! -d $top ] || left=$top
    done
    [ -n \"$left\" ] || break
    sleep 0.05
done
[ $status = 3 ] || rm -rf --one-file-system \"$directory\"
";

/// The process whose end is the end of the sandbox.
#[derive(Debug)]
pub(crate) struct Holder {
    keeper: Child,
    pid: u32,
}

impl Holder {
    /// `name` is that of the cgroups, `directory` that of the sandbox.
    pub(crate) fn start(name: &str, directory: &Path) -> anyhow::Result<Self> {
        let mut keeper = Command::new("bash")
            .args(["-c", KEEPER, "testkit-keeper", name])
            .arg(directory)
            .arg(HOLDER)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("run bash")?;
        let mut line = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line != "ready\n" {
            let status = keeper.wait()?;
            bail!(
                "the sandbox's holder ended ({status}); is this root, and is iproute2 installed?"
            );
        }
        let pid = child_of(keeper.id())
            .and_then(child_of)
            .context("find the sandbox's holder in /proc")?;
        Ok(Self { keeper, pid })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it without the directory.
    pub(crate) fn end_and_keep_directory(mut self) {
        if let Some(stdin) = &mut self.keeper.stdin {
            // A holder that has gone already has left nothing to tell.
            let _ = stdin.write_all(b"keep\n");
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The end of its input is the holder's end, and the kernel kills and reaps its PID namespace before it is gone itself.
        drop(self.keeper.stdin.take());
        let gone = |keeper: &mut Child| matches!(keeper.try_wait(), Ok(Some(_)) | Err(_));
        let limit = Duration::from_secs(15);
        if poll(limit, || gone(&mut self.keeper).then_some(())).is_none() {
            if let Some(unshare) = child_of(self.keeper.id()).and_then(to_pid) {
                // Its death kills the holder (--kill-child).
                let _ = rustix::process::kill_process(unshare, rustix::process::Signal::KILL);
            }
            let _ = self.keeper.wait();
        }
    }
}

fn to_pid(pid: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)
}

/// A child of the process, by the parent that each process names.
pub(crate) fn child_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `pid (name) state ppid …`, and the name may have spaces and parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let named: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (named == parent).then_some(pid)
    })
}
