use std::collections::BTreeSet;

use clap::Args;
use cri::v1::{ContainerFilter, Image};

use super::each::{AT_ONCE, check_targets, each};
use crate::error::{self, Error};
use crate::output::Output;
use crate::session::Session;

/// Remove images. CRI removes an image with all its tags, whichever names it
#[derive(Debug, Args)]
pub(crate) struct Rmi {
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove all images
    #[arg(long, short)]
    all: bool,
    /// Remove images that no container uses and that are not pinned
    #[arg(long, short = 'q', conflicts_with = "all")]
    prune: bool,
    /// Print only ids
    #[arg(long)]
    quiet: bool,
}

impl Rmi {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        check_targets("image", &self.images, self.all || self.prune)?;
        let names: Vec<String> = if self.prune {
            unused(session).await?
        } else if self.all {
            let images = session.images("").await?;
            images.into_iter().map(|image| image.id).collect()
        } else {
            self.images
        };
        let targets = names.into_iter().map(Ok).collect();
        each(session, out, AT_ONCE, targets, async |name| {
            let found = session.image_status(&name, false).await?.image;
            let image = found.ok_or_else(|| Error::Refused(format!("no such image {name:?}")))?;
            if !self.quiet && image.repo_tags.len() > 1 && is_tag(&name) {
                let tags = image.repo_tags.join(", ");
                let program = session.program();
                error::note(&format!("{program}: {name} goes with all its tags: {tags}"));
            }
            session.remove_image(&name).await?;
            Ok(match self.quiet {
                true => image.id,
                false => deleted(&image),
            })
        })
        .await
    }
}

/// Ids of images that neither a container nor a pin keeps.
async fn unused(session: &Session) -> Result<Vec<String>, Error> {
    let mut used = BTreeSet::new();
    for container in session.containers(ContainerFilter::default()).await? {
        let name = container.image.map(|image| image.image).unwrap_or_default();
        if !container.image_id.is_empty() {
            used.insert(container.image_id);
        } else if let Some(image) = session.image_status(&name, false).await?.image {
            used.insert(image.id);
        }
    }
    let images = session.images("").await?.into_iter();
    let unused = images.filter(|image| !image.pinned && !used.contains(&image.id));
    Ok(unused.map(|image| image.id).collect())
}

/// Neither an id nor a digest.
fn is_tag(name: &str) -> bool {
    !name.contains("sha256:") && (name.contains(':') || name.contains('/'))
}

fn deleted(image: &Image) -> String {
    let names = if image.repo_tags.is_empty() {
        &image.repo_digests
    } else {
        &image.repo_tags
    };
    if names.is_empty() {
        return format!("Deleted: {}", image.id);
    }
    let lines: Vec<_> = names
        .iter()
        .map(|name| format!("Deleted: {name}"))
        .collect();
    lines.join("\n")
}
