//! Sessions over TLS, with certificates of an authority of the test's own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use longshore_streaming::{
    Config, Ending, Server, TlsFiles,
    client::{self, ClientError, Options, Transport},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use support::{BOTH, GUARD, OUTPUT, PIPE, Script, Stage, all, log::Log};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Makes certificates, by openssl.
struct Authority {
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Self { directory };
        let made = ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem"];
        authority.openssl(&made, &["-subj", "/CN=the test's own"]);
        authority
    }

    fn openssl(&self, command: &[&str], more: &[&str]) {
        const FIXED: [&str; 7] = [
            "-nodes",
            "-days",
            "2",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ];
        let output = Command::new("openssl")
            .args(command)
            .args(FIXED)
            .args(more)
            .current_dir(&self.directory)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A certificate for 127.0.0.1 and its key, in files of this name.
    fn issue(&self, name: &str) -> TlsFiles {
        let at = |ending: &str| format!("{name}.{ending}");
        let (key, certificate) = (at("key"), at("pem"));
        let subject = format!("/CN={name}");
        let made = ["req", "-x509", "-keyout", &key, "-out", &certificate];
        let signed = [
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-subj",
            &subject,
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        self.openssl(&made, &signed);
        let at = |name: String| self.directory.path().join(name);
        TlsFiles {
            certificate: at(certificate),
            key: at(key),
        }
    }

    /// Puts one pair in the other's place, as a renewal does: the certificate first, each at once.
    fn replace(&self, files: &TlsFiles, by: &TlsFiles) {
        let pairs = [(&by.certificate, &files.certificate), (&by.key, &files.key)];
        for (from, to) in pairs {
            fs::rename(from, to).unwrap();
        }
    }

    /// Trusts this authority and no other.
    fn trusted(&self) -> Arc<ClientConfig> {
        let authority = self.directory.path().join("ca.pem");
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(authority).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Arc::new(config)
    }

    fn options(&self, transport: Transport) -> Options {
        let tls = Some(self.trusted());
        Options {
            transport,
            tls,
            server_name: None,
        }
    }
}

async fn serve(files: &TlsFiles) -> Stage {
    Stage::with(|config| config.tls = Some(files.clone())).await
}

/// Whom the certificate that the server shows now was made for.
async fn shown(stage: &Stage, trusted: &Arc<ClientConfig>) -> String {
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(trusted));
    let address = stage.server.address();
    let socket = TcpStream::connect(address).await.unwrap();
    let socket = connector.connect(address.ip().into(), socket);
    let socket = timeout(GUARD, socket).await.unwrap().unwrap();
    let certificates = socket.get_ref().1.peer_certificates().unwrap();
    // A subject's name is in the certificate as it was written.
    String::from_utf8_lossy(&certificates[0]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_ports_over_both_transports() {
    let authority = Authority::new();
    let stage = serve(&authority.issue("first")).await;
    for transport in BOTH {
        let options = authority.options(transport);
        let url = stage.exec(PIPE, &["cat"]);
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let mut session = client::command(&url, &options, PIPE).await.unwrap();
        // More than any window or record.
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let (mut stdin, sent) = (session.stdin.take().unwrap(), bytes.clone());
        tokio::spawn(async move {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
        });
        let (out, _, ending) = all(&mut session).await;
        assert!(out == bytes, "{} bytes", out.len());
        assert_eq!(ending, Ending::Success);

        let forwarder = client::port_forward(&stage.ports(&[]), &options).await;
        let forwarder = forwarder.unwrap();
        let mut forwarded = forwarder.connect(80).unwrap();
        forwarded.stream.write_all(b"through").await.unwrap();
        forwarded.stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        let reading = forwarded.stream.read_to_end(&mut back);
        timeout(GUARD, reading).await.unwrap().unwrap();
        assert_eq!(back, b"80:through");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_trusted_is_given_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let stage = serve(&authority.issue("first")).await;
    for transport in BOTH {
        let url = stage.exec(OUTPUT, &["say", "secret", ""]);
        let refused = client::command(&url, &other.options(transport), OUTPUT).await;
        assert!(matches!(refused, Err(ClientError::Connect { .. })));
        let nobody = support::over(transport);
        let refused = client::command(&url, &nobody, OUTPUT).await;
        assert!(matches!(refused, Err(ClientError::Url { .. })));
        // Nor does the server hear of the URL: it is as good as before.
        let options = authority.options(transport);
        let mut session = client::command(&url, &options, OUTPUT).await.unwrap();
        assert_eq!(all(&mut session).await.0, b"secret");
    }
    // Without TLS there is no answer, and others are served as ever.
    let mut plain = TcpStream::connect(stage.server.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _either = timeout(GUARD, plain.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_serves_newcomers_and_a_broken_one_does_not() {
    let (authority, log) = (Authority::new(), Log::capture());
    let (files, trusted) = (authority.issue("first"), authority.trusted());
    let stage = serve(&files).await;
    let options = authority.options(Transport::Spdy);
    let mut open = client::command(&stage.exec(PIPE, &["cat"]), &options, PIPE)
        .await
        .unwrap();
    let mut echo = async |byte: u8| {
        let (stdin, stdout) = (open.stdin.as_mut().unwrap(), open.stdout.as_mut().unwrap());
        stdin.write_u8(byte).await.unwrap();
        assert_eq!(
            timeout(GUARD, stdout.read_u8()).await.unwrap().unwrap(),
            byte
        );
    };
    echo(1).await;
    assert!(shown(&stage, &trusted).await.contains("first"));

    authority.replace(&files, &authority.issue("second"));
    let renewed = async {
        while !shown(&stage, &trusted).await.contains("second") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(GUARD, renewed).await.unwrap();
    echo(2).await;

    // Half of a file, as one that writes it in place leaves for a moment; and then a key that belongs to another certificate.
    let broken = "cannot be used: the old one stays";
    break_off(&files.certificate);
    until_logged(log, broken, 1, &stage, &trusted).await;
    let (third, fourth) = (authority.issue("third"), authority.issue("fourth"));
    let certificate = fourth.certificate;
    authority.replace(
        &files,
        &TlsFiles {
            certificate,
            ..third
        },
    );
    until_logged(log, broken, 2, &stage, &trusted).await;
    echo(3).await;

    authority.replace(&files, &authority.issue("fifth"));
    let renewed = async {
        while !shown(&stage, &trusted).await.contains("fifth") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(GUARD, renewed).await.unwrap();
    echo(4).await;
}

fn break_off(path: &Path) {
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() / 2]).unwrap();
}

/// Newcomers get the second certificate, until the log has so many such lines and after.
async fn until_logged(
    log: &Log,
    words: &str,
    count: usize,
    stage: &Stage,
    trusted: &Arc<ClientConfig>,
) {
    let logged = async {
        while log.lines_with(words).len() < count {
            assert!(shown(stage, trusted).await.contains("second"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(GUARD, logged).await.unwrap();
    assert!(shown(stage, trusted).await.contains("second"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_does_not_start_with_a_certificate_that_it_cannot_use() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one"), authority.issue("other"));
    let bind = async |files: TlsFiles| {
        let config = Config {
            tls: Some(files),
            ..Config::default()
        };
        Server::bind(config, Arc::new(Script::default())).await
    };
    let (certificate, key) = (one.certificate.clone(), other.key);
    assert!(bind(TlsFiles { certificate, key }).await.is_err());
    let (certificate, key) = (one.key.clone(), one.certificate.clone());
    assert!(bind(TlsFiles { certificate, key }).await.is_err());
    fs::remove_file(&one.key).unwrap();
    assert!(bind(one).await.is_err());
}
