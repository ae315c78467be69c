use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::files;
use crate::hierarchy::{Controller, Hierarchy};
use crate::kill::{field, thaw_in};

/// How long every task may take to stop. A task in uninterruptible sleep on v1 may never.
const FREEZE_BOUND: Duration = Duration::from_millis(500);

impl Cgroup {
    /// Stops every process in the cgroup and below, by the v2 tree if there is one. On a timeout it is thawed again.
    pub fn freeze(&self) -> Result<(), Error> {
        let (hierarchy, path) = self.freezer()?;
        let started = Instant::now();
        loop {
            // v1 may stay at FREEZING because of a task that was just forked; writing again makes it look again.
            if hierarchy.v2 {
                files::write(hierarchy, &path, "cgroup.freeze", "1")?;
            } else {
                files::write(hierarchy, &path, "freezer.state", "FROZEN")?;
            }
            if is_frozen(hierarchy, &path)? {
                return Ok(());
            }
            if started.elapsed() > FREEZE_BOUND {
                self.thaw()?;
                return Err(Error::Timeout {
                    what: "freeze",
                    path,
                    waited: started.elapsed(),
                });
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Lets them go on. Also when they were not frozen, or the cgroup is gone.
    pub fn thaw(&self) -> Result<(), Error> {
        let (hierarchy, path) = self.freezer()?;
        if !hierarchy.v2 {
            return thaw_in(hierarchy, &path);
        }
        match files::write(hierarchy, &path, "cgroup.freeze", "0") {
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(()),
            other => other,
        }
    }

    /// Whether its processes stand still, or would: by either version's freezer, and where it is a parent that was frozen as well.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let freezers = [
            self.hierarchies.unified(),
            self.hierarchies.home(Controller::Freezer),
        ];
        for hierarchy in freezers.into_iter().flatten() {
            let path = self.path_in(hierarchy);
            let stands = match is_frozen(hierarchy, &path) {
                Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => false,
                stands => stands?,
            };
            if stands {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where [`Cgroup::freeze`] writes, by the path at which its tree is mounted.
    pub fn freezer_directory(&self) -> Result<PathBuf, Error> {
        let (hierarchy, path) = self.freezer()?;
        Ok(hierarchy.mount_point.join(path.trim_start_matches('/')))
    }

    fn freezer(&self) -> Result<(&Hierarchy, String), Error> {
        let freezer = self
            .hierarchies
            .unified()
            .or_else(|| self.hierarchies.home(Controller::Freezer));
        let Some(hierarchy) = freezer else {
            return Err(Error::NoTracking {
                path: self.path.to_string(),
                what: "freeze",
            });
        };
        Ok((hierarchy, self.path_in(hierarchy)))
    }
}

fn is_frozen(hierarchy: &Hierarchy, path: &str) -> Result<bool, Error> {
    if hierarchy.v2 {
        let events = files::read(hierarchy, path, "cgroup.events")?;
        return Ok(field(&events, "frozen") == Some(1));
    }
    let state = files::read(hierarchy, path, "freezer.state")?;
    Ok(state.trim() == "FROZEN")
}
