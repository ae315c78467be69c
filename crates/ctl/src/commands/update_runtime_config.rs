use clap::Args;

use crate::error::Error;
use crate::session::Session;

/// Tell the runtime which addresses pods get
#[derive(Debug, Args)]
pub(crate) struct UpdateRuntimeConfig {
    /// CIDR of new pods' addresses, or two with a comma between them; an empty one changes nothing
    #[arg(long, short, value_name = "CIDR")]
    pod_cidr: String,
}

impl UpdateRuntimeConfig {
    /// Silent on success.
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        session.update_runtime_config(self.pod_cidr).await
    }
}
