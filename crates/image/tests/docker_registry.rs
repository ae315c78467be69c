//! Debian's docker-registry, filled by skopeo with images that umoci made: makers and server that are not ours.
#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use longshore_image::{Auth, PullErrorKind};
use support::docker_registry::DockerRegistry;
use support::{Store, run};
use testkit::image::noise;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A key and its certificate, `NAME.key` and `NAME.cert`, good for this machine by address and as registry.test.
fn certify(directory: &Path, name: &str) -> (String, String) {
    let at = |end: &str| {
        let path = directory.join(format!("{name}.{end}"));
        path.to_str().unwrap().to_owned()
    };
    let (key, certificate, config) = (at("key"), at("cert"), at("cnf"));
    let request = "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n[name]\nCN = registry\n\
                   [extensions]\nsubjectAltName = IP:127.0.0.1, DNS:registry.test\nbasicConstraints = critical, CA:FALSE\n";
    fs::write(&config, request).unwrap();
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let fixed = ["req", "-x509", "-nodes", "-days", "2", "-config"];
    let files = [&*config, "-keyout", &*key, "-out", &*certificate];
    run("openssl", &[&fixed[..], &files, &curve].concat());
    (key, certificate)
}

/// Two layers, the second of which deletes and replaces, as umoci computes them from changed trees.
fn make_layout(directory: &Path) -> String {
    let layout = directory.join("layout");
    let image = format!("{}:latest", layout.display());
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &image]);
    let bundle = directory.join("bundle");
    let bundle = bundle.to_str().unwrap();
    run("umoci", &["unpack", "--image", &image, bundle]);
    let root = directory.join("bundle/rootfs");
    fs::create_dir_all(root.join("etc/opaque")).unwrap();
    fs::write(root.join("etc/old"), "old").unwrap();
    fs::write(root.join("etc/opaque/old"), "old").unwrap();
    fs::write(root.join("tool"), vec![7; 300_000]).unwrap();
    fs::write(root.join("noise"), noise(100_000)).unwrap();
    fs::hard_link(root.join("tool"), root.join("tool-too")).unwrap();
    std::os::unix::fs::symlink("tool", root.join("link")).unwrap();
    run("umoci", &["repack", "--image", &image, bundle]);
    fs::remove_dir_all(bundle).unwrap();
    run("umoci", &["unpack", "--image", &image, bundle]);
    fs::remove_file(root.join("etc/old")).unwrap();
    fs::remove_dir_all(root.join("etc/opaque")).unwrap();
    fs::create_dir(root.join("etc/opaque")).unwrap();
    fs::write(root.join("etc/opaque/new"), "new").unwrap();
    run("umoci", &["repack", "--image", &image, bundle]);
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.entrypoint",
            "/tool",
            "--config.user",
            "www-data",
        ],
    );
    image
}

#[tokio::test]
async fn images_of_others_from_the_registry_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(directory.path(), "");
    let image = make_layout(directory.path());
    let reference = format!("{}/team/app:v1", registry.address);
    let push = |options: &[&str]| {
        let (from, to) = (format!("oci:{image}"), format!("docker://{reference}"));
        let arguments = [&["copy", "--dest-tls-verify=false"], options, &[&from, &to]].concat();
        run("skopeo", &arguments);
    };
    for options in [
        &[][..],
        &["--format", "v2s2"],
        &["--dest-compress-format", "zstd", "--dest-compress"],
    ] {
        push(options);
        let store = Store::open().await;
        let pulled = store.pull(&reference).await.unwrap();
        assert_eq!(pulled.config.entrypoint, ["/tool"]);
        assert_eq!(store.read(&pulled, "link").len(), 300_000);
        assert_eq!(store.stat(&pulled, "tool-too").st_nlink, 2);
        assert_eq!(store.read(&pulled, "etc/opaque/new"), b"new");
        for gone in ["etc/old", "etc/opaque/old"] {
            let view = store.overlay.view(&pulled.layers).unwrap();
            let stat = rustix::fs::statat(&view, gone, rustix::fs::AtFlags::empty());
            assert_eq!(stat.unwrap_err(), rustix::io::Errno::NOENT, "{gone}");
        }
        let digest = pulled.repo_digests[0].clone();
        assert_eq!(store.pull(&digest).await.unwrap().id, pulled.id);
        for unknown in ["team/app:v2", "team/none:v1"] {
            let error = store
                .pull(&format!("{}/{unknown}", registry.address))
                .await
                .unwrap_err();
            assert_eq!(
                error.kind(),
                PullErrorKind::NotFound,
                "{}",
                support::text(&error)
            );
            assert!(
                support::text(&error).contains("unknown"),
                "{}",
                support::text(&error)
            );
        }
        store.images.remove(&reference).await.unwrap();
        store.settles_empty().await;
    }
}

/// A proxy that leads every CONNECT to `target`.
async fn tunnel_to(target: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let target = target.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"CONNECT registry.test:443 "));
                let answer = b"HTTP/1.1 200 OK\r\n\r\n";
                client.write_all(answer).await.unwrap();
                let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                // Either end may break it off.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_registry_with_a_certificate_and_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (key, certificate) = certify(directory.path(), "server");
    // "me" with the password "pw", by bcrypt.
    let hash = "me:$2b$05$UWo1.0f7fvKgwVabFh1YgeWXKqQ8TfSGsFQgCDXLDrAKinwpRH7HG";
    fs::write(at("htpasswd"), hash).unwrap();
    let extra = format!(
        ", tls: {{certificate: '{certificate}', key: '{key}'}}}}\nauth: {{htpasswd: {{realm: here, path: '{}'}}",
        at("htpasswd")
    );
    let registry = DockerRegistry::start(directory.path(), &extra);
    let image = make_layout(directory.path());
    let reference = format!("{}/team/app:v1", registry.address);
    run(
        "skopeo",
        &[
            "copy",
            "--dest-tls-verify=false",
            "--dest-creds",
            "me:pw",
            &format!("oci:{image}"),
            &format!("docker://{reference}"),
        ],
    );
    let auth = Auth {
        username: "me".into(),
        password: "pw".into(),
        ..Auth::default()
    };
    let store = Store::open_with(|config| config.ca_files.push(certificate.into())).await;
    let pulled = store.pull_as(&reference, auth.clone()).await.unwrap();
    assert!(pulled.origin.starts_with("https://127.0.0.1:"));
    let error = store.pull(&reference).await.unwrap_err();
    assert_eq!(
        error.kind(),
        PullErrorKind::Unauthenticated,
        "{}",
        support::text(&error)
    );

    // The same by hosts.toml, through a proxy: the name is known to nobody but that.
    let hosts = directory.path().join("certs.d/registry.test");
    fs::create_dir_all(&hosts).unwrap();
    let proxy = tunnel_to(registry.address.clone()).await;
    let by_file = Store::open_with(|config| {
        config.hosts_directory = Some(directory.path().join("certs.d"));
        config.proxies = longshore_image::Proxies::new("", &format!("http://{proxy}"), "");
        config.timeouts.attempts = 1;
    })
    .await;
    let name = "registry.test/team/app:v1";
    fs::write(hosts.join("hosts.toml"), "").unwrap();
    let error = by_file.pull_as(name, auth.clone()).await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::Unavailable);
    for trust in ["ca = \"../../server.cert\"", "skip_verify = true"] {
        fs::write(hosts.join("hosts.toml"), trust).unwrap();
        let pulled = by_file.pull_as(name, auth.clone()).await.unwrap();
        assert_eq!(pulled.origin, "https://registry.test");
        by_file.images.remove(name).await.unwrap();
    }

    // Without its certificate it is nobody.
    let store = Store::open_with(|config| config.timeouts.attempts = 1).await;
    let error = store.pull_as(&reference, auth).await.unwrap_err();
    assert_eq!(
        error.kind(),
        PullErrorKind::Unavailable,
        "{}",
        support::text(&error)
    );
}

#[tokio::test]
async fn a_registry_that_wants_to_know_who_asks() {
    let directory = tempfile::tempdir().unwrap();
    let (key, certificate) = certify(directory.path(), "server");
    let (_, client) = certify(directory.path(), "client");
    certify(directory.path(), "stranger");
    let extra =
        format!(", tls: {{certificate: '{certificate}', key: '{key}', clientcas: ['{client}']}}");
    let registry = DockerRegistry::start(directory.path(), &extra);
    let image = make_layout(directory.path());
    let reference = format!("{}/team/app:v1", registry.address);
    let certificates = directory.path().join("skopeo");
    fs::create_dir(&certificates).unwrap();
    for file in ["client.cert", "client.key"] {
        fs::copy(directory.path().join(file), certificates.join(file)).unwrap();
    }
    let to = format!("docker://{reference}");
    run(
        "skopeo",
        &[
            "copy",
            "--dest-tls-verify=false",
            "--dest-cert-dir",
            certificates.to_str().unwrap(),
            &format!("oci:{image}"),
            &to,
        ],
    );
    let hosts = directory.path().join("certs.d").join(&registry.address);
    fs::create_dir_all(&hosts).unwrap();
    let store = Store::open_with(|config| {
        config.hosts_directory = Some(directory.path().join("certs.d"));
        config.timeouts.attempts = 1;
    })
    .await;
    for (shown, known) in [
        ("", false),
        (
            "client = [[\"../../stranger.cert\", \"../../stranger.key\"]]",
            false,
        ),
        (
            "client = [[\"../../client.cert\", \"../../client.key\"]]",
            true,
        ),
    ] {
        let text = format!(
            "server = \"https://{}\"\n[host.\"https://{}\"]\nca = \"../../server.cert\"\n{shown}\n",
            registry.address, registry.address
        );
        fs::write(hosts.join("hosts.toml"), text).unwrap();
        let pulled = store.pull(&reference).await;
        match pulled {
            Ok(pulled) => {
                assert!(known, "{shown}");
                assert_eq!(store.read(&pulled, "link").len(), 300_000);
            }
            Err(error) => {
                assert!(!known, "{}", support::text(&error));
                assert_eq!(
                    error.kind(),
                    PullErrorKind::Unavailable,
                    "{}",
                    support::text(&error)
                );
            }
        }
    }
}

/// nginx in front of a registry, ended when dropped.
struct Nginx {
    process: Child,
    address: String,
    log: std::path::PathBuf,
}

impl Nginx {
    /// `blobs` is what becomes of requests for blobs.
    fn start(directory: &Path, registry: &str, blobs: &str) -> Self {
        let log = directory.join("access.log");
        for _ in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            drop(listener);
            let at = directory.display();
            let config = format!(
                "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/error.log; events {{}}\n\
                 http {{ access_log {}; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n\
                 uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi; server {{ listen {address};\n\
                 location / {{ proxy_pass http://{registry}; proxy_set_header Host {registry}; }}\n\
                 location ~ /blobs/ {{ {blobs} }} }} }}\n",
                log.display()
            );
            let path = directory.join("nginx.conf");
            fs::write(&path, config).unwrap();
            let mut process = Command::new("/usr/sbin/nginx")
                .arg("-c")
                .arg(&path)
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            for _ in 0..500 {
                if std::net::TcpStream::connect(&address).is_ok() {
                    return Self {
                        process,
                        address,
                        log,
                    };
                }
                if process.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            process.kill().ok();
            process.wait().unwrap();
        }
        let said = fs::read_to_string(directory.join("error.log")).unwrap_or_default();
        panic!("nginx does not start: {said}");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test]
async fn a_mirror_that_misbehaves_costs_time_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(directory.path(), "");
    let image = make_layout(directory.path());
    let to = format!("docker://{}/team/app:v1", registry.address);
    let from = format!("oci:{image}");
    run("skopeo", &["copy", "--dest-tls-verify=false", &from, &to]);
    // Of the right lengths, but nothing else.
    let wrong = directory.path().join("wrong/v2/team/app/blobs");
    fs::create_dir_all(&wrong).unwrap();
    for blob in fs::read_dir(directory.path().join("layout/blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let name = format!("sha256:{}", blob.file_name().to_str().unwrap());
        let length = usize::try_from(blob.metadata().unwrap().len()).unwrap();
        fs::write(wrong.join(name), vec![0; length]).unwrap();
    }
    let pass = format!(
        "proxy_pass http://{0}; proxy_set_header Host {0};",
        registry.address
    );
    let faults = [
        ("well", pass.clone()),
        ("slow", format!("{pass} limit_rate 500;")),
        ("cut", "return 444;".to_owned()),
        ("429", "return 429;".to_owned()),
        ("500", "return 500;".to_owned()),
        (
            "wrong ranges",
            format!("{pass} proxy_set_header Range bytes=100-199;"),
        ),
        (
            "wrong bytes",
            format!("root {};", directory.path().join("wrong").display()),
        ),
    ];
    let hosts = directory.path().join("certs.d/registry.test");
    fs::create_dir_all(&hosts).unwrap();
    for (name, blobs) in faults {
        let own = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(own.path(), &registry.address, &blobs);
        let text = format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n",
            registry.address, nginx.address
        );
        fs::write(hosts.join("hosts.toml"), text).unwrap();
        // In one request, and a large layer in several at once.
        for range_bytes in [0, 16 << 10] {
            let store = Store::open_with(|config| {
                config.hosts_directory = Some(directory.path().join("certs.d"));
                config.range_bytes = range_bytes;
            })
            .await;
            let pulled = store.pull("registry.test/team/app:v1").await;
            let pulled = pulled.unwrap_or_else(|error| panic!("{name}: {}", support::text(&error)));
            assert_eq!(store.read(&pulled, "noise"), noise(100_000), "{name}");
            assert_eq!(store.read(&pulled, "etc/opaque/new"), b"new", "{name}");
        }
        let asked = fs::read_to_string(&nginx.log).unwrap();
        // The cut ones are not even logged.
        assert!(asked.contains("/manifests/v1"), "{name}: {asked}");
    }
}
