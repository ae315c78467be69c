use std::io::Write;

use clap::Args;
use cri::v1::{Image, ImageStatusResponse};

use super::images::Conditions;
use super::status;
use crate::error::Error;
use crate::output::Output;
use crate::output::json::{self, Names};
use crate::output::size::human;
use crate::output::template::Shape;
use crate::session::Session;

/// Show the status of images
#[derive(Debug, Args)]
pub(crate) struct Inspecti {
    /// Images; without any, those that the filters select
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Filter by image name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    shape: Shape,
    /// Leave out verbose information
    #[arg(long, short)]
    quiet: bool,
}

impl Inspecti {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let form = self.shape.form()?;
        let names = if self.images.is_empty() {
            let images = self.conditions.list(session, &self.name).await?;
            images.into_iter().map(|image| image.id).collect()
        } else {
            self.images
        };
        if names.is_empty() {
            return Err(Error::NoMatch(
                "no image matches; name one, or see images".to_owned(),
            ));
        }
        let mut objects = Vec::new();
        for name in names {
            let reply = session.image_status(&name, !self.quiet).await?;
            let Some(image) = &reply.image else {
                return Err(Error::Refused(format!("no such image {name:?}")));
            };
            if form.is_table() {
                table(out, image, &reply, !self.quiet)?;
            } else {
                objects.push(status::with_info(
                    json::value(image, Names::Json),
                    reply.info,
                ));
            }
        }
        if form.is_table() {
            return Ok(());
        }
        status::write(out, &form, objects)
    }
}

fn table(
    out: &mut Output,
    image: &Image,
    reply: &ImageStatusResponse,
    verbose: bool,
) -> Result<(), Error> {
    writeln!(out, "ID: {}", image.id)?;
    for tag in &image.repo_tags {
        writeln!(out, "Tag: {tag}")?;
    }
    for digest in &image.repo_digests {
        writeln!(out, "Digest: {digest}")?;
    }
    writeln!(out, "Size: {}", human(image.size, 3))?;
    if verbose {
        status::write_info(out, &reply.info)?;
    }
    Ok(())
}
