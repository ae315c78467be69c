//! A gRPC server in a thread of its own.

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;

/// It serves until this is dropped.
pub(crate) struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Serving {
    /// `server` is given who connects to `socket`, which is there when this returns.
    pub(crate) fn start<F>(
        socket: &Path,
        server: impl FnOnce(UnixListenerStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), tonic::transport::Error>>,
    {
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                // A client that still hangs on must not keep the server: it is dropped.
                tokio::select! {
                    result = server(UnixListenerStream::new(listener)) => result.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
