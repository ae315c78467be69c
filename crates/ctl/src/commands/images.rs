use std::io::Write;

use clap::Args;
use cri::v1::{Image, ListImagesResponse};
use regex_lite::Regex;

use crate::error::Error;
use crate::ids::short;
use crate::output::size::human;
use crate::output::table::Table;
use crate::output::{Format, Output, json};
use crate::session::Session;

const NONE: &str = "<none>";

/// List images
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// One image only
    #[arg(
        value_name = "REPOSITORY[:TAG]",
        default_value = "",
        hide_default_value = true
    )]
    reference: String,
    #[command(flatten)]
    conditions: Conditions,
    /// Show all that the list knows of each image
    #[arg(long, short)]
    verbose: bool,
    /// Show only ids
    #[arg(long, short)]
    quiet: bool,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show whether images are pinned
    #[arg(long)]
    pinned: bool,
}

#[derive(Debug, Default, Args)]
pub(crate) struct Conditions {
    /// dangling=true|false, reference=REGEX, before=IMAGE or since=IMAGE; may be repeated
    #[arg(long = "filter", short, value_name = "CONDITION")]
    filters: Vec<String>,
}

impl Images {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output;
        let images = self.conditions.list(session, &self.reference).await?;
        if format != Format::Table {
            return json::write_message(out, format, &ListImagesResponse { images });
        }
        if self.quiet {
            for image in &images {
                writeln!(out, "{}", image.id)?;
            }
            return Ok(());
        }
        if self.verbose {
            return images.iter().try_for_each(|image| details(out, image));
        }
        self.table(&images).write(out)?;
        Ok(())
    }

    fn table(&self, images: &[Image]) -> Table {
        let columns = |digest: &'static str, pinned: &'static str| {
            let mut columns = vec!["IMAGE", "TAG"];
            columns.extend(self.digests.then_some(digest));
            columns.extend(["IMAGE ID", "SIZE"]);
            columns.extend(self.pinned.then_some(pinned));
            columns
        };
        let mut table = Table::with_header(&columns("DIGEST", "PINNED"));
        for image in images {
            let (repository, digest) = repository_and_digest(image);
            let cut = |id: &str| {
                let id = if self.no_trunc {
                    id
                } else {
                    short(id, "sha256:")
                };
                id.to_owned()
            };
            for (name, tag) in names_and_tags(image, repository) {
                let mut row = vec![name.to_owned(), tag.to_owned()];
                row.extend(self.digests.then(|| cut(digest)));
                row.extend([cut(&image.id), human(image.size, 3)]);
                row.extend(self.pinned.then(|| image.pinned.to_string()));
                table.row(row);
            }
        }
        table
    }
}

impl Conditions {
    /// By tag, then digest, then id.
    pub(crate) async fn list(
        &self,
        session: &Session,
        reference: &str,
    ) -> Result<Vec<Image>, Error> {
        let mut images = session.images(reference).await?;
        images.sort_by(|a, b| {
            let key = |image: &Image| {
                (
                    image.repo_tags.first().cloned(),
                    image.repo_digests.first().cloned(),
                    image.id.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        for filter in &self.filters {
            images = apply(filter, images)?;
        }
        Ok(images)
    }
}

/// The list is ordered by name; `before` and `since` are places in it, as in crictl, for CRI has no creation times.
fn apply(filter: &str, mut images: Vec<Image>) -> Result<Vec<Image>, Error> {
    let wrong = |reason: &str| Error::Usage(format!("--filter {filter:?}: {reason}"));
    let (key, value) = filter
        .split_once('=')
        .ok_or_else(|| wrong("write it as KEY=VALUE"))?;
    match key {
        "dangling" => {
            let dangling: bool = value
                .parse()
                .map_err(|_| wrong("is neither true nor false"))?;
            images.retain(|image| image.repo_tags.is_empty() == dangling);
        }
        "reference" => {
            let pattern = Regex::new(value).map_err(|error| wrong(&error.to_string()))?;
            images.retain(|image| {
                let (repository, _) = repository_and_digest(image);
                pattern.is_match(repository)
                    || image.repo_tags.iter().any(|tag| pattern.is_match(tag))
            });
        }
        "since" | "before" => {
            let at = images
                .iter()
                .position(|image| is_named(image, value))
                .ok_or_else(|| wrong("no such image"))?;
            if key == "since" {
                images.truncate(at);
            } else {
                images.drain(..=at);
            }
        }
        _ => return Err(wrong("the keys are dangling, reference, before and since")),
    }
    Ok(images)
}

fn is_named(image: &Image, name: &str) -> bool {
    let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
    image.repo_tags.iter().any(|tag| tag == name)
        || image.repo_digests.iter().any(|digest| digest == name)
        || id.starts_with(name.strip_prefix("sha256:").unwrap_or(name))
}

/// `docker.io/library/busybox` and `sha256:…` of the first repository digest.
fn repository_and_digest(image: &Image) -> (&str, &str) {
    image
        .repo_digests
        .first()
        .and_then(|digest| digest.split_once('@'))
        .unwrap_or((NONE, NONE))
}

/// A row per tag; an image without any has one row.
fn names_and_tags<'a>(image: &'a Image, repository: &'a str) -> Vec<(&'a str, &'a str)> {
    if image.repo_tags.is_empty() {
        return vec![(repository, NONE)];
    }
    let split = |tag: &'a String| match tag.rsplit_once(':') {
        Some((NONE, tag)) => (repository, tag),
        Some((name, tag)) => (name, tag),
        None => (tag.as_str(), NONE),
    };
    image.repo_tags.iter().map(split).collect()
}

fn details(out: &mut Output, image: &Image) -> Result<(), Error> {
    writeln!(out, "ID: {}", image.id)?;
    for tag in &image.repo_tags {
        writeln!(out, "RepoTags: {tag}")?;
    }
    for digest in &image.repo_digests {
        writeln!(out, "RepoDigests: {digest}")?;
    }
    if image.size != 0 {
        writeln!(out, "Size: {}", image.size)?;
    }
    if let Some(uid) = &image.uid {
        // As Go prints the message, whose field is not shown where it is 0.
        match uid.value {
            0 => writeln!(out, "Uid: ")?,
            uid => writeln!(out, "Uid: value:{uid}")?,
        }
    }
    if !image.username.is_empty() {
        writeln!(out, "Username: {}", image.username)?;
    }
    if image.pinned {
        writeln!(out, "Pinned: true")?;
    }
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str]) -> Image {
        Image {
            id: format!("sha256:{id}"),
            repo_tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            repo_digests: vec![format!("reg:5000/{id}@sha256:dddd")],
            ..Image::default()
        }
    }

    fn kept(filter: &str) -> Vec<String> {
        let images = vec![
            image("aaa", &["reg:5000/a:1", "reg:5000/a:2"]),
            image("bbb", &[]),
            image("ccc", &["reg:5000/c:1"]),
        ];
        let images = apply(filter, images).unwrap();
        images
            .into_iter()
            .map(|image| image.id[7..].to_owned())
            .collect()
    }

    #[test]
    fn conditions_select() {
        assert_eq!(kept("dangling=true"), ["bbb"]);
        assert_eq!(kept("dangling=false"), ["aaa", "ccc"]);
        assert_eq!(kept("reference=5000/b"), ["bbb"]);
        assert_eq!(kept("since=bb"), ["aaa"]);
        assert_eq!(kept("before=reg:5000/a:2"), ["bbb", "ccc"]);
        for wrong in [
            "dangling=maybe",
            "reference=(",
            "size=1",
            "dangling",
            "since=zzz",
        ] {
            assert!(apply(wrong, Vec::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_registry_with_a_port_keeps_its_name() {
        let tagged = image("aaa", &["reg:5000/a:1", "<none>:<none>"]);
        let rows = names_and_tags(&tagged, "reg:5000/aaa");
        assert_eq!(rows, [("reg:5000/a", "1"), ("reg:5000/aaa", "<none>")]);
        let bare = image("bbb", &[]);
        let (repository, digest) = repository_and_digest(&bare);
        assert_eq!((repository, digest), ("reg:5000/bbb", "sha256:dddd"));
        assert_eq!(
            names_and_tags(&bare, repository),
            [("reg:5000/bbb", "<none>")]
        );
    }
}
