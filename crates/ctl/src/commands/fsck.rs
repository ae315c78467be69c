use std::io::Write;

use clap::Args;
use cri::progress::check_finding::Finding;
use cri::progress::{CheckOutcome, CheckRequest, CheckedLayer, CheckedLayerEnd};

use super::pull::PullFlags;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Compare the layers of images with what was unpacked, and repair what is damaged
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Layers, by the beginning of their names [default: all]
    #[arg(value_name = "LAYER")]
    layers: Vec<String>,
    /// Fetch damaged layers again, and drop records that cannot be read
    #[arg(long)]
    repair: bool,
    /// Name sound layers too
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    flags: PullFlags,
}

impl Fsck {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let request = CheckRequest {
            repair: self.repair,
            layers: self.layers,
            auth: self.flags.own_credentials()?,
        };
        let mut findings = session.check_store(request).await?;
        let mut report = Report {
            verbose: self.verbose,
            ..Report::default()
        };
        let failed = |status| Error::rpc("check the store".to_owned(), status);
        while let Some(finding) = findings.message().await.map_err(failed)? {
            if let Some(finding) = finding.finding {
                report.add(out, finding)?;
            }
            out.flush()?;
        }
        report.end(out)
    }
}

#[derive(Debug, Default)]
struct Report {
    verbose: bool,
    layer: CheckedLayer,
    /// Whether the layer has been named.
    named: bool,
    layers: u64,
    repaired: u64,
    /// What is still wrong.
    left: u64,
}

impl Report {
    fn add(&mut self, out: &mut impl Write, finding: Finding) -> Result<(), Error> {
        match finding {
            Finding::Layer(layer) => {
                (self.layer, self.named) = (layer, false);
                self.layers += 1;
                if self.verbose {
                    self.name(out)?;
                }
            }
            Finding::Damage(damage) => {
                self.name(out)?;
                writeln!(out, "  {} {}", damage.path, damage.text)?;
            }
            Finding::End(end) => self.end_layer(out, &end)?,
            Finding::Record(record) => {
                let done = match record.dropped {
                    true => "dropped: pull the image again",
                    false => "--repair drops it",
                };
                writeln!(
                    out,
                    "record of image {} does not decode ({}): {done}",
                    record.image, record.reason
                )?;
                self.left += u64::from(!record.dropped);
            }
        }
        Ok(())
    }

    fn name(&mut self, out: &mut impl Write) -> Result<(), Error> {
        if !std::mem::replace(&mut self.named, true) {
            let layer = &self.layer;
            let images = match layer.images.is_empty() {
                true => "no image".to_owned(),
                false => layer.images.join(", "),
            };
            writeln!(
                out,
                "layer {} ({}/{}) of {images}",
                layer.name, layer.number, layer.total
            )?;
        }
        Ok(())
    }

    fn end_layer(&mut self, out: &mut impl Write, end: &CheckedLayerEnd) -> Result<(), Error> {
        /// As the service has it.
        const TOLD: u64 = 100;
        if end.damages > TOLD {
            writeln!(out, "  and {} more", end.damages - TOLD)?;
        }
        match end.outcome() {
            CheckOutcome::Sound if self.verbose => writeln!(out, "  sound")?,
            CheckOutcome::Gone if self.verbose => writeln!(out, "  removed meanwhile")?,
            CheckOutcome::Sound | CheckOutcome::Gone => {}
            CheckOutcome::Damaged => self.left += 1,
            CheckOutcome::Repaired => {
                self.repaired += 1;
                writeln!(out, "  repaired from {}", end.origin)?;
                for container in &end.containers {
                    writeln!(
                        out,
                        "  container {container} has the damaged one until it is made anew"
                    )?;
                }
            }
            CheckOutcome::Unrepaired | CheckOutcome::Unspecified => {
                self.left += 1;
                writeln!(out, "  not repaired: {}", end.reason)?;
            }
        }
        Ok(())
    }

    fn end(self, out: &mut impl Write) -> Result<(), Error> {
        let damaged = self.left + self.repaired;
        writeln!(
            out,
            "{} layers: {} damaged, {} repaired",
            self.layers, damaged, self.repaired
        )?;
        match self.left {
            0 => Ok(()),
            left => Err(Error::Refused(format!("{left} damaged and not repaired"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use cri::progress::Damage;

    use super::*;

    #[test]
    fn a_report_names_what_is_damaged_and_what_was_done() {
        let mut report = Report::default();
        let mut text = Vec::new();
        let layer = |name: &str, number| {
            Finding::Layer(CheckedLayer {
                name: name.into(),
                images: vec!["r.io/app:1".into()],
                number,
                total: 2,
            })
        };
        let damage = Finding::Damage(Damage {
            path: "/etc".into(),
            text: "is missing".into(),
            ..Damage::default()
        });
        let mut end = CheckedLayerEnd {
            damages: 101,
            origin: "https://r.io".into(),
            containers: vec!["c1".into()],
            ..CheckedLayerEnd::default()
        };
        end.set_outcome(CheckOutcome::Repaired);
        let mut sound = CheckedLayerEnd::default();
        sound.set_outcome(CheckOutcome::Sound);
        for finding in [
            layer("abc", 1),
            damage,
            Finding::End(end),
            layer("def", 2),
            Finding::End(sound),
        ] {
            report.add(&mut text, finding).unwrap();
        }
        report.end(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "layer abc (1/2) of r.io/app:1\n  /etc is missing\n  and 1 more\n  repaired from https://r.io\n  \
             container c1 has the damaged one until it is made anew\n2 layers: 1 damaged, 1 repaired\n"
        );
    }
}
