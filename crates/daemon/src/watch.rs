//! Directories that others write to while we run. One inotify instance serves them all: a machine has 128 for every program.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::{io::unix::AsyncFd, sync::Notify};

/// Who writes one file soon writes another.
const SETTLES_AFTER: Duration = Duration::from_millis(50);

/// How often the directories are taken for changed where nothing can watch them.
const UNWATCHED_PERIOD: Duration = Duration::from_secs(10);

/// Notified when something in one of the directories may have changed. A directory need not exist yet.
pub(crate) fn directories(directories: Vec<PathBuf>) -> Arc<Notify> {
    let changed = Arc::new(Notify::new());
    let notify = Arc::clone(&changed);
    tokio::spawn(async move {
        let error = match follow(&directories, &notify).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::warn!(%error, "directories cannot be watched; they are looked at every ten seconds");
        loop {
            tokio::time::sleep(UNWATCHED_PERIOD).await;
            notify.notify_one();
        }
    });
    changed
}

async fn follow(directories: &[PathBuf], changed: &Notify) -> io::Result<std::convert::Infallible> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // Its successor is an unsafe function, for inner types that may change their descriptor; this one is owned and never does.
    #[expect(
        deprecated,
        reason = "sound for an OwnedFd, and unsafe code lives in one crate"
    )]
    let inotify = AsyncFd::new(inotify)?;
    loop {
        for directory in directories {
            watch(inotify.get_ref(), directory)?;
        }
        // What came between an event and the new watch has none of its own.
        changed.notify_one();
        drain(&inotify).await?;
        tokio::time::sleep(SETTLES_AFTER).await;
    }
}

/// Watches the directory, or where it would appear. A watch that is there is the same again.
fn watch(inotify: &OwnedFd, directory: &Path) -> io::Result<()> {
    let content = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    let appearance = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    for (path, flags) in directory
        .ancestors()
        .zip(std::iter::once(content).chain(std::iter::repeat(appearance)))
    {
        // Another directory may be watched for its content here.
        match inotify::add_watch(inotify, path, flags | WatchFlags::MASK_ADD) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits for an event and takes all that there are. Which they are does not matter.
async fn drain(inotify: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = inotify.readable().await?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify.get_ref(), &mut buffer);
    loop {
        match events.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {}
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    ready.clear_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_appears_late_is_watched_too() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("etc/cni/net.d");
        let changed = directories(vec![directory.path().join("bin"), target.clone()]);
        changed.notified().await;
        for (step, path) in [target.parent().unwrap(), &target].into_iter().enumerate() {
            std::fs::create_dir_all(path).unwrap();
            told(&changed, &format!("{step}")).await;
            // Until the watch has followed.
            tokio::time::sleep(SETTLES_AFTER * 2).await;
        }
        std::fs::write(target.join("10.conf"), "{}").unwrap();
        told(&changed, "written").await;
        std::fs::remove_file(target.join("10.conf")).unwrap();
        told(&changed, "removed").await;
        std::fs::create_dir(directory.path().join("bin")).unwrap();
        told(&changed, "another").await;
    }

    async fn told(changed: &Notify, what: &str) {
        let told = tokio::time::timeout(Duration::from_secs(20), changed.notified());
        assert!(told.await.is_ok(), "{what}");
    }
}
