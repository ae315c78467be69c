//! Where plugins come from: programs that the daemon starts, and the socket that others connect to.

use std::{io, path::Path, sync::Arc};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use super::{Nri, plugin};
use crate::runtime::{DISK_BOUND, Runtime, blocking};

/// Starts installed plugins, and listens for others. Nothing that is wrong with a plugin keeps the daemon from serving.
pub(crate) async fn start(runtime: &Arc<Runtime>) {
    let nri = &runtime.nri;
    if !nri.config.enabled {
        return;
    }
    // It is set once, here.
    let _first = nri.runtime.set(Arc::downgrade(runtime));
    let (programs, configurations) = (
        nri.config.plugins.clone(),
        nri.config.configurations.clone(),
    );
    let looked = blocking(DISK_BOUND, move || {
        plugin::installed(&programs, &configurations)
    })
    .await;
    let (installed, trouble) = looked.unwrap_or_else(|error| (Vec::new(), vec![error.to_string()]));
    for trouble in trouble {
        nri.complain("installed plugins", &trouble);
    }
    let mut coming = Vec::new();
    for plugin in installed {
        let (nri, name) = (Arc::clone(nri), plugin.name());
        let (ready, come) = oneshot::channel();
        coming.push(come);
        tokio::spawn(async move {
            match plugin::launch(&nri, plugin, ready).await {
                Ok(()) => nri.complain(&name, "it has ended; it is started again with the daemon"),
                Err(error) => nri.complain(&name, &format!("{:#}", anyhow::Error::from(error))),
            }
        });
    }
    // They are there for the first request; each has its own bounds.
    for come in coming {
        let _come_or_failed = come.await;
    }
    let Some(socket) = &nri.config.socket else {
        return;
    };
    match listen(socket).await {
        Ok(listener) => {
            tracing::info!(socket = %socket.display(), "NRI plugins may connect");
            tokio::spawn(accept(Arc::clone(nri), listener));
        }
        Err(error) => nri.complain(&socket.display().to_string(), &error.to_string()),
    }
}

/// A socket that somebody listens at is another runtime's.
async fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::other(
            "another runtime listens there: plugins connect to it. Give nri.socket another path",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(nri: Arc<Nri>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let nri = Arc::clone(&nri);
                // One that says nothing holds up nobody else.
                tokio::spawn(async move {
                    if let Err(error) = plugin::serve(&nri, stream, None, None).await {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "an NRI plugin did not come to be asked");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept an NRI plugin");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
