use clap::Args;
use serde_json::Value;

use super::status;
use crate::error::Error;
use crate::output::json::{self, Names};
use crate::output::{Format, Output};
use crate::session::Session;

/// Show the runtime's status and features
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Output format
    #[arg(long, short, default_value = "json")]
    output: Format,
    /// Leave out verbose information
    #[arg(long, short)]
    quiet: bool,
}

impl Info {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = match self.output.supported()? {
            Format::Table => {
                return Err(Error::Usage(
                    "info has no table; use -o json or yaml".to_owned(),
                ));
            }
            format => format,
        };
        let reply = session.status(!self.quiet).await?;
        let runtime_status = reply.status.unwrap_or_default();
        let mut object = status::with_info(json::value(&runtime_status, Names::Json), reply.info);
        if !reply.runtime_handlers.is_empty() {
            let handlers = reply.runtime_handlers.iter();
            let handlers = handlers.map(|handler| json::value(handler, Names::Proto));
            object.insert(
                "runtimeHandlers".to_owned(),
                Value::Array(handlers.collect()),
            );
        }
        if let Some(features) = &reply.features {
            object.insert("features".to_owned(), json::value(features, Names::Proto));
        }
        status::write(out, format, vec![object])
    }
}
