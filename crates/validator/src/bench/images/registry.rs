//! As much of a registry as a pull asks, over plain HTTP/1.1; layers go from the page cache to the socket without being copied through here.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::recipe::Made;

/// Serves until it is dropped.
#[derive(Debug)]
pub(super) struct Registry {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Answer {
    Text {
        text: String,
        media_type: &'static str,
        digest: String,
    },
    File {
        path: PathBuf,
        bytes: u64,
        digest: String,
    },
}

type Answers = HashMap<String, Arc<Answer>>;

impl Registry {
    pub(super) fn start(images: &[Made]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let (answers, until) = (Arc::new(answers(images)), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                let answers = Arc::clone(&answers);
                // Ends with its connection.
                std::thread::spawn(move || converse(stream, &answers));
            }
        });
        Ok(Self {
            address,
            ended,
            thread: Some(thread),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn answers(images: &[Made]) -> Answers {
    let mut answers = Answers::new();
    answers.insert(
        "/v2/".into(),
        Arc::new(Answer::Text {
            text: "{}".into(),
            media_type: "application/json",
            digest: String::new(),
        }),
    );
    for image in images {
        let path = |kind: &str, name: &str| format!("/v2/bench/{}/{kind}/{name}", image.name);
        for (index, manifest) in image.manifests.iter().enumerate() {
            let answer = Arc::new(Answer::Text {
                text: manifest.text.clone(),
                media_type: "application/vnd.oci.image.manifest.v1+json",
                digest: manifest.digest.clone(),
            });
            answers.insert(path("manifests", &index.to_string()), Arc::clone(&answer));
            answers.insert(path("manifests", &manifest.digest), answer);
        }
        for configuration in &image.configurations {
            let answer = Answer::Text {
                text: configuration.text.clone(),
                media_type: "application/octet-stream",
                digest: configuration.digest.clone(),
            };
            answers.insert(path("blobs", &configuration.digest), Arc::new(answer));
        }
        for layer in image.layers.iter() {
            let answer = Answer::File {
                path: layer.path.clone(),
                bytes: layer.bytes,
                digest: layer.digest.clone(),
            };
            answers.insert(path("blobs", &layer.digest), Arc::new(answer));
        }
    }
    answers
}

/// Answers one request after the other until the other end has enough.
fn converse(stream: TcpStream, answers: &Answers) {
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(reading);
    // Some clients try TLS first, and HTTP only where they are answered in it.
    let plain =
        (reader.fill_buf()).is_ok_and(|bytes| bytes.first().is_none_or(u8::is_ascii_uppercase));
    if !plain {
        let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    while let Some((method, path, range)) = request(&mut reader) {
        let path = path.split('?').next().unwrap_or_default();
        if respond(&stream, &method, answers.get(path).map(|it| &**it), range).is_err() {
            return;
        }
    }
}

/// Method, path, and the first byte wanted.
fn request(reader: &mut impl BufRead) -> Option<(String, String, u64)> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|&bytes| bytes > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut start = 0;
    loop {
        let mut header = String::new();
        reader
            .read_line(&mut header)
            .ok()
            .filter(|&bytes| bytes > 0)?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            return Some((method, path, start));
        }
        if let Some(range) = header.strip_prefix("range: bytes=") {
            start = range.split('-').next()?.parse().ok()?;
        }
    }
}

fn respond(
    mut stream: &TcpStream,
    method: &str,
    answer: Option<&Answer>,
    start: u64,
) -> io::Result<()> {
    let (bytes, media_type, digest) = match answer {
        None => return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        Some(Answer::Text {
            text,
            media_type,
            digest,
        }) => (text.len() as u64, *media_type, digest),
        Some(Answer::File { bytes, digest, .. }) => (*bytes, "application/octet-stream", digest),
    };
    let start = start.min(bytes);
    let status = match start {
        0 => "200 OK".to_owned(),
        _ => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{bytes}",
            bytes.saturating_sub(1)
        ),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nDocker-Content-Digest: {digest}\r\nAccept-Ranges: bytes\r\n\r\n",
        bytes - start
    )?;
    match answer {
        _ if method == "HEAD" => Ok(()),
        Some(Answer::File { path, .. }) => send(stream, &File::open(path)?, start, bytes),
        Some(Answer::Text { text, .. }) => {
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            stream.write_all(&text.as_bytes()[start..])
        }
        None => Ok(()),
    }
}

fn send(stream: &TcpStream, file: &File, mut offset: u64, end: u64) -> io::Result<()> {
    while offset < end {
        let count = usize::try_from(end - offset)
            .unwrap_or(usize::MAX)
            .min(1 << 20);
        if rustix::fs::sendfile(stream, file, Some(&mut offset), count)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
