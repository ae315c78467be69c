use std::io::Write;

use clap::Args;

use crate::cli::GlobalFlags;
use crate::error::{Error, note};
use crate::output::Output;
use crate::output::table::Table;
use crate::settings::{self, file::ConfigFile};

/// Show and change the configuration file
///
/// Keys: runtime-endpoint, image-endpoint, timeout (seconds), debug, pull-image-on-create, disable-pull-on-run, max-retries.
#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Show the value of one key
    #[arg(long, value_name = "KEY", conflicts_with_all = ["set", "list", "pair"])]
    get: Option<String>,
    /// Set keys; may be repeated, or hold several with commas between them
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', conflicts_with_all = ["list", "pair"])]
    set: Vec<String>,
    /// Show all keys with their values
    #[arg(long, conflicts_with = "pair")]
    list: bool,
    /// The same as --set KEY=VALUE
    #[arg(value_names = ["KEY", "VALUE"], num_args = 2)]
    pair: Vec<String>,
}

impl Config {
    /// Needs no runtime, and none of the settings: it is what mends a file that is wrong.
    pub(crate) fn run(
        self,
        program: &'static str,
        flags: &GlobalFlags,
        out: &mut Output,
    ) -> Result<(), Error> {
        let path = settings::config_path(program, flags, |name| std::env::var(name).ok());
        let Some(path) = path else {
            return Err(Error::Usage(
                "config: name a file with --config or CRI_CONFIG_FILE; only where it is called crictl \
                 is it /etc/crictl.yaml"
                    .to_owned(),
            ));
        };
        let mut file = ConfigFile::open(&path)?;
        if let Some(key) = &self.get {
            return Ok(writeln!(out, "{}", file.value(key)?)?);
        }
        if self.list {
            let mut table = Table::with_header(&["KEY", "VALUE"]);
            for (key, value) in file.values() {
                table.row([key.to_owned(), value]);
            }
            return Ok(table.write(out)?);
        }
        let mut pairs = Vec::new();
        for option in &self.set {
            let pair = option.split_once('=');
            pairs.push(pair.ok_or_else(|| {
                Error::Usage(format!("config: --set {option:?} is not KEY=VALUE"))
            })?);
        }
        if let [key, value] = self.pair.as_slice() {
            note(&format!(
                "{program}: {}: set {key} to {value:?}",
                path.display()
            ));
            pairs.push((key, value));
        }
        if pairs.is_empty() {
            return Err(Error::Missing(
                "config: say what to do: --list, --get KEY or --set KEY=VALUE".to_owned(),
            ));
        }
        for (key, value) in pairs {
            file.set(key, value)?;
        }
        file.write()
    }
}
