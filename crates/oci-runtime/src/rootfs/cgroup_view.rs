use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cgroup::Hierarchies;
use oci_plan::Mount;
use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::MountAttrFlags;
use sys::{MountAttributes, set_mount_attributes};

use super::attributes::attributes;
use super::filesystem::Filesystem;
use super::mounts::attach;
use crate::error::{Context, Error, Stage};

/// What a container sees of its cgroups. With a cgroup namespace of its own the roots are its cgroups; else they are the host's.
#[derive(Debug)]
pub(crate) enum CgroupView<'a> {
    Unified,
    /// A tmpfs with a directory for each hierarchy.
    Legacy(Vec<Hierarchy<'a>>),
}

#[derive(Debug)]
pub(crate) struct Hierarchy<'a> {
    directory: &'a str,
    v2: bool,
    data: Vec<(String, Option<String>)>,
    /// Controllers that share the directory, and are looked for by their own names.
    aliases: Vec<&'a str>,
}

impl<'a> CgroupView<'a> {
    pub(crate) fn of(hierarchies: &'a Hierarchies) -> Self {
        if hierarchies.mode() == cgroup::Mode::V2 {
            return Self::Unified;
        }
        Self::Legacy(
            hierarchies
                .views()
                .map(|view| Hierarchy {
                    directory: view.directory,
                    v2: view.v2,
                    data: match view.v2 {
                        true => Vec::new(),
                        false => view
                            .controllers
                            .iter()
                            .flat_map(|one| option(one))
                            .collect(),
                    },
                    aliases: match view.v2 {
                        true => Vec::new(),
                        false => view
                            .controllers
                            .iter()
                            .map(String::as_str)
                            .filter(|one| *one != view.directory && !one.contains('='))
                            .collect(),
                    },
                })
                .collect(),
        )
    }

    /// In the child, in its cgroup namespace.
    pub(super) fn mount(&self, place: BorrowedFd<'_>, mount: &Mount) -> Result<(), Error> {
        let target = mount.target.as_str();
        let hierarchies = match self {
            Self::Unified => {
                let made = cgroup(true, &[], mount, target)?;
                return attach(made.as_fd(), place)
                    .at(Stage::Mount, format_args!("cgroup2 on {target}"));
            }
            Self::Legacy(hierarchies) => hierarchies,
        };
        let (set, _) = attributes(mount.flags);
        let base = Filesystem {
            fs_type: "tmpfs",
            source: "cgroup",
            data: &[("mode".to_owned(), Some("755".to_owned()))],
        }
        .mount(
            set - MountAttrFlags::MOUNT_ATTR_RDONLY,
            format_args!("the cgroups' tmpfs on {target}"),
        )?;
        attach(base.as_fd(), place).at(Stage::Mount, format_args!("cgroups on {target}"))?;
        for hierarchy in hierarchies {
            hierarchy.mount(base.as_fd(), mount)?;
        }
        if set.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
            let readonly = MountAttributes {
                set: MountAttrFlags::MOUNT_ATTR_RDONLY,
                ..MountAttributes::none()
            };
            set_mount_attributes(base.as_fd(), readonly).at(Stage::ReadOnly, target)?;
        }
        Ok(())
    }
}

impl Hierarchy<'_> {
    fn mount(&self, base: BorrowedFd<'_>, mount: &Mount) -> Result<(), Error> {
        let directory = self.directory;
        let target = format!("{}/{directory}", mount.target);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = mkdirat(base, directory, Mode::from_bits_truncate(0o755))
            .and_then(|()| openat(base, directory, flags, Mode::empty()))
            .at(Stage::MountPoint, &target)?;
        let made = cgroup(self.v2, &self.data, mount, &target)?;
        attach(made.as_fd(), place.as_fd()).at(Stage::Mount, format_args!("cgroup on {target}"))?;
        for alias in &self.aliases {
            symlinkat(directory, base, *alias)
                .at(Stage::MountPoint, format_args!("{}/{alias}", mount.target))?;
        }
        Ok(())
    }
}

fn cgroup(
    v2: bool,
    data: &[(String, Option<String>)],
    mount: &Mount,
    target: &str,
) -> Result<OwnedFd, Error> {
    let fs_type = match v2 {
        true => "cgroup2",
        false => "cgroup",
    };
    let (set, _) = attributes(mount.flags);
    Filesystem {
        fs_type,
        source: "cgroup",
        data,
    }
    .mount(set, format_args!("{fs_type} on {target}"))
}

/// A v1 hierarchy's mount option: the controller's name, or `name=…` of one without controllers.
fn option(controller: &str) -> Vec<(String, Option<String>)> {
    match controller.strip_prefix("name=") {
        Some(name) => vec![
            ("none".to_owned(), None),
            ("name".to_owned(), Some(name.to_owned())),
        ],
        None => vec![(controller.to_owned(), None)],
    }
}
