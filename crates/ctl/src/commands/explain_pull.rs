use std::io::{self, Write};

use clap::Args;
use cri::progress::{ExplainPullRequest, PullSource};

use super::pull::PullFlags;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Show what a pull would try, in which order and with which credentials
#[derive(Debug, Args)]
pub(crate) struct ExplainPull {
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    #[command(flatten)]
    flags: PullFlags,
    /// Kubernetes namespace that the image is for [default: none]
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "",
        hide_default_value = true
    )]
    namespace: String,
}

impl ExplainPull {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let auth = self.flags.own_credentials()?;
        let request = ExplainPullRequest {
            image: self.image,
            auth,
            namespace: self.namespace,
        };
        let plan = session.explain_pull(request).await?;
        writeln!(out, "{}", plan.reference)?;
        for (index, source) in plan.sources.iter().enumerate() {
            write(out, index + 1, source)?;
        }
        writeln!(out, "signatures: {}", plan.signatures)?;
        for key in plan.ignored {
            writeln!(out, "ignored: {key}")?;
        }
        Ok(())
    }
}

fn write(out: &mut impl Write, number: usize, source: &PullSource) -> io::Result<()> {
    writeln!(out, "{number}. {}", source.url)?;
    let mut line = |name: &str, value: &str| match value.is_empty() {
        true => Ok(()),
        false => writeln!(out, "   {name}: {value}"),
    };
    line("named by", &source.settled_by)?;
    line(
        "asked for",
        match (source.resolves, source.pulls) {
            (true, true) => "what a tag means, manifests and layers",
            (true, false) => "what a tag means",
            (false, true) => "manifests by digest, and layers",
            (false, false) => "nothing",
        },
    )?;
    line("credentials", &source.credentials)?;
    line(
        "proxy",
        match &*source.proxy {
            "" => "none",
            proxy => proxy,
        },
    )?;
    line("authorities", &source.authorities.join(", "))?;
    line("client certificate", &source.client_certificate)?;
    if source.skip_verify {
        line("certificate", "not verified")?;
    }
    line("headers", &source.headers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_paragraph() {
        let source = PullSource {
            url: "https://m.io/v2/team/app".into(),
            settled_by: "/etc/longshore/certs.d/r.io/hosts.toml:3".into(),
            resolves: false,
            pulls: true,
            credentials: "none (no credentials are configured for m.io)".into(),
            skip_verify: true,
            headers: vec!["x-a".into(), "x-b".into()],
            ..PullSource::default()
        };
        let mut text = Vec::new();
        write(&mut text, 1, &source).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "1. https://m.io/v2/team/app\n   \
             named by: /etc/longshore/certs.d/r.io/hosts.toml:3\n   \
             asked for: manifests by digest, and layers\n   \
             credentials: none (no credentials are configured for m.io)\n   \
             proxy: none\n   \
             certificate: not verified\n   \
             headers: x-a, x-b\n"
        );
    }
}
