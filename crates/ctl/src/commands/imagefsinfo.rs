use std::io::Write;

use clap::Args;
use cri::v1::FilesystemUsage;

use super::status;
use crate::error::Error;
use crate::output::Output;
use crate::output::json::{self, Names};
use crate::output::size::human;
use crate::output::template::Shape;
use crate::session::Session;

/// Show the file systems of images and containers
#[derive(Debug, Args)]
pub(crate) struct Imagefsinfo {
    #[command(flatten)]
    shape: Shape,
}

impl Imagefsinfo {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let form = self.shape.form()?;
        let info = session.image_fs_info().await?;
        if form.is_table() {
            table(out, "Container", &info.container_filesystems)?;
            return table(out, "Image", &info.image_filesystems);
        }
        let object = status::with_info(json::value(&info, Names::Json), Default::default());
        status::write(out, &form, vec![object])
    }
}

fn table(out: &mut Output, title: &str, filesystems: &[FilesystemUsage]) -> Result<(), Error> {
    writeln!(out, "{title} Filesystem ")?;
    for (i, usage) in filesystems.iter().enumerate() {
        let mountpoint = usage.fs_id.as_ref().map_or("", |id| &id.mountpoint);
        let used = usage.used_bytes.map_or(0, |bytes| bytes.value);
        let inodes = usage.inodes_used.map_or(0, |inodes| inodes.value);
        writeln!(out, "TimeStamp[{i}]: {}", usage.timestamp)?;
        writeln!(out, "Disk[{i}]: {}", human(used, 4))?;
        writeln!(out, "Inodes[{i}]: {inodes}")?;
        writeln!(out, "Mountpoint[{i}]: {mountpoint}")?;
    }
    Ok(())
}
