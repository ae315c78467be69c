use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use validator::bench::{Comparison, page, record::Record, table};

use crate::commands::files::write_file;
use crate::error::Error;
use crate::output::Output;

/// Results of `bench run` side by side: a table, and a page with plots
#[derive(Debug, Args)]
pub(super) struct Report {
    /// What `bench run --output` has written; of several the endpoints stand beside each other
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write one HTML page that needs nothing else, in place of the table
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
}

impl Report {
    pub(super) fn run(self, out: &mut Output) -> Result<(), Error> {
        let mut records = Vec::with_capacity(self.files.len());
        for path in &self.files {
            records.push((name(path), read(path)?));
        }
        let comparison = Comparison::of(records);
        match &self.html {
            Some(path) => write_file(path, &page(&comparison)),
            None => Ok(out.write_all(table(&comparison).as_bytes())?),
        }
    }
}

fn read(path: &Path) -> Result<Record, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Io {
        what: format!("read {}", path.display()),
        source,
    })?;
    Record::read(&text).map_err(|error| {
        let cause = std::error::Error::source(&error);
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        Error::Input(format!("{}: {error}{cause}", path.display()))
    })
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
