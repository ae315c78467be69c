use clap::Args;
use serde_json::Value;

use super::status;
use crate::error::Error;
use crate::output::Output;
use crate::output::json::{self, Names};
use crate::output::template::Shape;
use crate::session::Session;

/// Show the runtime's status and features
#[derive(Debug, Args)]
pub(crate) struct Info {
    #[command(flatten)]
    shape: Shape,
    /// Leave out verbose information
    #[arg(long, short)]
    quiet: bool,
}

impl Info {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let form = self.shape.form()?;
        if form.is_table() {
            return Err(Error::Usage(
                "info has no table; use -o json or yaml".to_owned(),
            ));
        }
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
        status::write(out, &form, vec![object])
    }
}
