//! What the library logs. One subscriber is all that a process can have for all of its threads, so each test looks for its own words.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// From now on, everything that any thread logs.
    pub(crate) fn capture() -> &'static Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_max_level(tracing::Level::INFO)
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            log
        })
    }

    /// The lines so far that have these words.
    pub(crate) fn lines_with(&self, words: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let found = text.lines().filter(|line| line.contains(words));
        found.map(str::to_owned).collect()
    }

    /// Waits for the first line that has these words.
    pub(crate) async fn until(&self, words: &str) {
        let logged = async {
            while self.lines_with(words).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::GUARD, logged).await.unwrap();
    }
}

/// The one line about this peer, once all that the peer caused is over.
pub(crate) async fn only_line(log: &Log, stage: &super::Stage, peer: SocketAddr) -> String {
    let peer = format!("peer={peer}");
    log.until(&peer).await;
    stage.until_running(0).await;
    // The server has dropped the connection, and everything that could have spoken of it, when it has shut down.
    tokio::time::timeout(super::GUARD, stage.server.shutdown())
        .await
        .unwrap();
    let lines = log.lines_with(&peer);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.into_iter().next().unwrap()
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
