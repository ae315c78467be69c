use std::io::Write;

use clap::Args;
use cri::progress::PushRequest;

use super::pull::PullFlags;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Push an image to a registry
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The image, by name, digest or id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Its name at the registry [default: IMAGE]
    #[arg(value_name = "NAME[:TAG]")]
    target: Option<String>,
    #[command(flatten)]
    flags: PullFlags,
    /// Print only the digest
    #[arg(long, short)]
    quiet: bool,
}

impl Push {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let request = PushRequest {
            image: self.image,
            target: self.target.unwrap_or_default(),
            auth: self.flags.own_credentials()?,
        };
        let pushed = session.push(request).await?;
        if self.quiet {
            return Ok(writeln!(out, "{}", pushed.digest)?);
        }
        writeln!(
            out,
            "{} {}: {} layers sent, {} mounted",
            pushed.reference, pushed.digest, pushed.sent, pushed.mounted
        )?;
        Ok(())
    }
}
