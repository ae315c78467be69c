//! Pulls by `hosts.toml`: mirrors, the node's credentials, proxies, and what is said when all fail.
#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use longshore_image as image;

use std::path::Path;
use std::time::Duration;

use image::{Auth, ImagesConfig, Proxies, PullErrorKind, PullRequest};
use support::{Store, layer, text, two_layers};
use testkit::image::ImageBuilder;
use testkit::registry::{Auth as Wanted, Fault, LoggedRequest, Registry, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A registry's name that no resolver is ever asked for: `hosts.toml` says where it is.
const NAME: &str = "registry.test/team/app:v1";

/// The node's files.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn hosts(&self, text: &str) {
        self.hosts_of("registry.test", text);
    }

    fn hosts_of(&self, registry: &str, text: &str) {
        let directory = self.0.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    fn credentials(&self, text: &str) {
        std::fs::write(self.path().join("credentials.json"), text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    async fn store(&self) -> Store {
        self.store_with(|_| {}).await
    }

    async fn store_with(&self, adjust: impl FnOnce(&mut ImagesConfig)) -> Store {
        Store::open_with(|config| {
            config.hosts_directory = Some(self.path().join("certs.d"));
            config.credentials_file = Some(self.path().join("credentials.json"));
            adjust(config);
        })
        .await
    }
}

fn registries<const N: usize>(image: &testkit::image::Image) -> [Registry; N] {
    std::array::from_fn(|_| {
        let registry = Registry::start().unwrap();
        registry.push("team/app", "v1", image);
        registry
    })
}

fn server(registry: &Registry) -> String {
    format!("server = \"http://{}\"\n", registry.address())
}

fn mirror(registry: &Registry, more: &str) -> String {
    format!("[host.\"http://{}\"]\n{more}\n", registry.address())
}

fn asked(registry: &Registry, part: &str) -> Vec<LoggedRequest> {
    let mut requests = registry.requests();
    requests.retain(|request| request.path.contains(part));
    requests
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_a_changed_file_is_live() {
    let [first, second, home] = registries(&two_layers());
    let empty = Registry::start().unwrap();
    let node = Node::new();
    let hosts = [
        server(&home),
        mirror(&empty, ""),
        "[host.\"http://127.0.0.1:1\"]\n".into(),
        mirror(&first, "capabilities = [\"pull\"]"),
        mirror(&second, ""),
    ];
    node.hosts(&hosts.concat());
    let store = node.store().await;
    let pulled = store.pull(NAME).await.unwrap();
    assert_eq!(pulled.repo_tags, [NAME]);
    assert_eq!(pulled.origin, format!("http://{}", second.address()));
    // One that may not resolve is not asked what a tag means, but for the rest.
    assert!(asked(&first, "/manifests/v1").is_empty());
    assert_eq!(asked(&first, "/blobs/").len(), 4);
    assert!(asked(&second, "/blobs/").is_empty() && home.requests().is_empty());
    assert!((first.requests().iter()).all(|request| request.path.ends_with("?ns=registry.test")));
    assert_eq!(asked(&empty, "/manifests/v1").len(), 1);
    store.images.remove(NAME).await.unwrap();
    store.settles_empty().await;

    node.hosts(&server(&home));
    store.pull(NAME).await.unwrap();
    assert_eq!(asked(&home, "/blobs/").len(), 4);
    assert!(
        home.requests()
            .iter()
            .all(|request| !request.path.contains("ns="))
    );
}

#[tokio::test]
async fn a_mirrors_api_is_where_its_address_says() {
    let mirrored = Registry::start().unwrap();
    let address = mirrored.address();
    let node = Node::new();
    let store = node.store().await;
    for (directory, name, more, repository) in [
        // By whichever directory the registry's file is found.
        ("registry.test", NAME, "", "sub/v2/team/app"),
        (
            "registry.test",
            NAME,
            "override_path = true",
            "sub/team/app",
        ),
        (
            "registry.test_5000_",
            "registry.test:5000/team/app:v1",
            "",
            "sub/v2/team/app",
        ),
        (
            "_default",
            "other.test/team/app:v1",
            "override_path = true",
            "sub/team/app",
        ),
    ] {
        mirrored.push(repository, "v1", &two_layers());
        let hosts = format!(
            "server = \"http://127.0.0.1:1\"\n[host.\"http://{address}/v2/sub\"]\n{more}\n"
        );
        node.hosts_of(directory, &hosts);
        mirrored.clear_requests();
        let pulled = store.pull(name).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{name} {more}: {}", text(&error)));
        assert_eq!(pulled.repo_tags, [name]);
        let asked = format!("/v2/{repository}/manifests/v1?ns=");
        let requests = mirrored.requests();
        assert!(requests[0].path.starts_with(&asked), "{requests:?}");
        store.images.remove(name).await.unwrap();
        store.settles_empty().await;
    }
}

#[tokio::test]
async fn a_mirror_that_does_not_take_the_call_is_waited_for_as_long_as_its_file_says() {
    let [home] = registries(&two_layers());
    // Nobody takes calls there, and no more of them wait.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&silent, 0).unwrap();
    let address = silent.local_addr().unwrap();
    let mut waiting = Vec::new();
    let moment = Duration::from_millis(500);
    while let Ok(caller) = std::net::TcpStream::connect_timeout(&address, moment) {
        waiting.push(caller);
    }
    let node = Node::new();
    let mirror = format!("[host.\"http://{address}\"]\ndial_timeout = \"100ms\"\n");
    node.hosts(&[server(&home), mirror].concat());
    let store = node
        .store_with(|config| config.timeouts.connect = Duration::from_secs(3600))
        .await;
    let pulled = tokio::time::timeout(Duration::from_secs(120), store.pull(NAME)).await;
    let pulled = pulled.expect("the next one is asked").unwrap();
    assert_eq!(pulled.origin, format!("http://{}", home.address()));
}

#[tokio::test]
async fn what_a_mirror_has_begun_the_next_continues() {
    let built = ImageBuilder::new()
        .layer(layer("three").compression(testkit::image::Compression::None))
        .build();
    let blob = &*built.layers[0].digest;
    for (fault, adjust) in [
        // Nothing more comes; the connection breaks off; too slow by the rate, and by all that it takes.
        (Fault::Stall(100_000), (|_| {}) as fn(&mut ImagesConfig)),
        (Fault::Truncate(100_000), |_| {}),
        (Fault::Trickle(100), |_| {}),
        (Fault::Trickle(100), |config| {
            config.timeouts.min_rate_bytes = 0;
            config.timeouts.mirror = Duration::from_millis(1500);
        }),
    ] {
        let [mirrored, home] = registries(&built);
        mirrored.inject(Rule::new(blob, fault.clone()));
        let node = Node::new();
        node.hosts(&[server(&home), mirror(&mirrored, "")].concat());
        let store = node.store_with(adjust).await;
        let pulled = store.pull(NAME).await.unwrap();
        assert!(store.read(&pulled, "three").ends_with(b"three"));
        let ranges: Vec<_> = (home.requests().into_iter())
            .map(|request| request.range)
            .collect();
        let [Some(range)] = &*ranges else {
            panic!("{fault:?}: {ranges:?}")
        };
        assert!(
            range.starts_with("bytes=") && range != "bytes=0-",
            "{range}"
        );
    }
}

#[tokio::test]
async fn wrong_bytes_of_a_mirror_are_asked_of_the_next() {
    let built = two_layers();
    let [mirrored, home] = registries(&built);
    let node = Node::new();
    node.hosts(&[server(&home), mirror(&mirrored, "")].concat());
    let blobs = built.layers.iter().map(|layer| &*layer.digest);
    for wrong in blobs.chain([built.id(), built.digest()]) {
        mirrored.heal();
        mirrored.inject(Rule::new(wrong, Fault::Corrupt));
        let store = node.store().await;
        let by_digest = format!("registry.test/team/app@{}", built.digest());
        let pulled = store.pull(&by_digest).await.unwrap();
        assert_eq!(pulled.id, built.id());
        assert!(store.read(&pulled, "three").ends_with(b"three"));
        assert!(!asked(&home, wrong).is_empty());
        home.clear_requests();
    }
    // All of them are wrong: that is said, not gone on with for ever.
    for registry in [&mirrored, &home] {
        registry.inject(Rule::new(&built.layers[0].digest, Fault::Corrupt));
    }
    let store = node.store().await;
    let error = store.pull(NAME).await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::DataLoss, "{}", text(&error));
    store.settles_empty().await;
}

#[tokio::test]
async fn each_host_gets_what_is_its_own() {
    let built = two_layers();
    let [mirrored, home, storage] = registries(&built);
    let basic = |user: &str| Wanted::Basic {
        user: user.into(),
        password: "s3cret".into(),
    };
    mirrored.require(basic("mirror"));
    home.require(basic("home"));
    let blob = &*built.layers[0].digest;
    let target = format!("http://{}/v2/team/app/blobs/{blob}", storage.address());
    mirrored.inject(Rule::new(blob, Fault::Redirect(target)));
    // One layer only the registry itself has.
    mirrored.remove_blob("team/app", &built.layers[1].digest);
    let node = Node::new();
    let header = format!(
        "[host.\"http://{}\".header]\nx-token = \"s3cret-header\"\n",
        mirrored.address()
    );
    node.hosts(&[server(&home), mirror(&mirrored, ""), header].concat());
    node.credentials(&format!(
        r#"{{"auths": {{"{}/team": {{"username": "mirror", "password": "s3cret"}}, "registry.test": {{"username": "nobody", "password": "s3cret"}}}}}}"#,
        mirrored.address()
    ));
    let store = node.store().await;
    let auth = Auth {
        username: "home".into(),
        password: "s3cret".into(),
        ..Auth::default()
    };
    store.pull_as(NAME, auth.clone()).await.unwrap();
    let has = |request: &LoggedRequest, name: &str| {
        (request.headers.iter()).any(|(header, _)| header == name)
    };
    // The request's credentials are for the registry, the node's for the mirror, and neither is for where it sends us.
    let shown = |registry: &Registry| -> Vec<String> {
        let mut shown: Vec<String> = (registry.requests().into_iter())
            .filter_map(|request| request.authorization)
            .collect();
        shown.dedup();
        shown
    };
    assert_eq!(shown(&mirrored), ["Basic bWlycm9yOnMzY3JldA=="]);
    assert_eq!(shown(&home), ["Basic aG9tZTpzM2NyZXQ="]);
    assert_eq!(shown(&storage), [""; 0]);
    assert!(
        mirrored
            .requests()
            .iter()
            .all(|request| has(request, "x-token"))
    );
    for other in [&home, &storage] {
        assert!(!other.requests().is_empty());
        assert!(
            !other
                .requests()
                .iter()
                .any(|request| has(request, "x-token"))
        );
    }

    // The plan is the pull's, and says whence, but no secret.
    let request = |auth| PullRequest {
        reference: NAME.into(),
        auth,
        ..PullRequest::default()
    };
    let plan = store.images.explain(request(Some(auth))).await.unwrap();
    let [first, last] = &*plan.hosts else {
        panic!("{plan:?}")
    };
    assert_eq!(
        first.url,
        format!("http://{}/v2/team/app", mirrored.address())
    );
    assert!(
        first.settled_by.ends_with("registry.test/hosts.toml:2"),
        "{first:?}"
    );
    assert!(first.credentials.contains("auths."), "{first:?}");
    assert_eq!(first.headers, ["x-token"]);
    assert_eq!(last.credentials, "the user and password of the request");
    assert!(last.settled_by.ends_with("hosts.toml:1"), "{last:?}");
    let plan = store.images.explain(request(None)).await.unwrap();
    assert!(
        plan.hosts[1]
            .credentials
            .contains("auths.\"registry.test\"")
    );
    assert!(!format!("{plan:?}").contains("s3cret"));

    // The file is read anew.
    node.credentials("{}");
    let plan = store.images.explain(request(None)).await.unwrap();
    assert!(plan.hosts[1].credentials.starts_with("none ("), "{plan:?}");
}

#[tokio::test]
async fn mistakes_of_the_node_are_named_and_are_not_the_callers() {
    let node = Node::new();
    let store = node.store().await;
    for (hosts, credentials, said) in [
        ("server = 5", "{}", "hosts.toml:1: server: is not a string"),
        ("\nca = \"none.pem\"", "{}", "hosts.toml: ca: "),
        (
            "[host.\"https://m\"]\nclient = \"none.pem\"",
            "{}",
            "hosts.toml:1: client: ",
        ),
        (
            "",
            "{\"auths\": []}",
            "credentials.json: auths: is no object",
        ),
        (
            "capabilities = [\"pull\"]",
            "{}",
            "no host with the capability \"resolve\"",
        ),
    ] {
        node.hosts(hosts);
        node.credentials(credentials);
        let error = store.pull(NAME).await.unwrap_err();
        assert_eq!(
            error.kind(),
            PullErrorKind::Misconfigured,
            "{}",
            text(&error)
        );
        assert!(text(&error).contains(said), "{}", text(&error));
    }
}

/// Answers every request with the same bytes, until dropped.
struct Sayer {
    address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Sayer {
    async fn new(answer: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        match stream.read(&mut byte).await {
                            Ok(1) => request.push(byte[0]),
                            _ => return,
                        }
                    }
                    // A client that has gone has its reasons.
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Sayer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn every_answer_has_its_code_and_tells_what_was_tried() {
    let words = format!("you sent s3cret and {}", "x".repeat(9000));
    let challenge = "WWW-Authenticate: Basic realm=\"x\"\r\n";
    for (status, headers, kind) in [
        ("400 Bad Request", "", PullErrorKind::InvalidArgument),
        (
            "401 Unauthorized",
            challenge,
            PullErrorKind::Unauthenticated,
        ),
        ("401 Unauthorized", "", PullErrorKind::Unauthenticated),
        ("403 Forbidden", "", PullErrorKind::PermissionDenied),
        ("404 Not Found", "", PullErrorKind::NotFound),
        ("410 Gone", "", PullErrorKind::NotFound),
        (
            "416 Range Not Satisfiable",
            "",
            PullErrorKind::InvalidArgument,
        ),
        (
            "429 Too Many Requests",
            "Retry-After: 0\r\n",
            PullErrorKind::ResourceExhausted,
        ),
        (
            "429 Too Many Requests",
            "Retry-After: 9999\r\n",
            PullErrorKind::ResourceExhausted,
        ),
        ("500 Internal Server Error", "", PullErrorKind::Unavailable),
        ("502 Bad Gateway", "", PullErrorKind::Unavailable),
        (
            "503 Service Unavailable",
            "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n",
            PullErrorKind::Unavailable,
        ),
        (
            "307 Temporary Redirect",
            "Location: ftp://x\r\n",
            PullErrorKind::Unavailable,
        ),
    ] {
        let answer = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{words}",
            words.len()
        );
        let home = Sayer::new(answer).await;
        let empty = Registry::start().unwrap();
        let node = Node::new();
        let own = format!("server = \"http://{}\"\n", home.address);
        let gone = "[host.\"http://127.0.0.1:1\"]\n".to_owned();
        node.hosts(&[own, gone, mirror(&empty, "")].concat());
        let store = node.store().await;
        let auth = Auth {
            username: "me".into(),
            password: "s3cret".into(),
            ..Auth::default()
        };
        let error = store.pull_as(NAME, auth).await.unwrap_err();
        let said = text(&error);
        assert_eq!(error.kind(), kind, "{status}: {said}");
        let mirrored = empty.address().to_string();
        for part in [
            &*home.address,
            "team/app",
            "http://127.0.0.1:1: ",
            &mirrored,
            "MANIFEST_UNKNOWN",
        ] {
            assert!(said.contains(part), "{status}: {part}: {said}");
        }
        assert!(
            !said.contains("s3cret") && !format!("{error:?}").contains("s3cret"),
            "{said}"
        );
        let repeated = said.matches('x').count();
        assert!(repeated <= 1100, "{status}: {repeated}");
    }
}

#[tokio::test]
async fn proxies_of_the_environment_lead_to_registries_but_not_to_this_machine() {
    let built = two_layers();
    let [proxy, home] = registries(&built);
    let node = Node::new();
    let address = format!("http://me:s3cret@{}", proxy.address());
    let store = node
        .store_with(|config| {
            config.insecure_registries = vec!["plain.test".into(), "direct.test".into()];
            config.proxies = Proxies::new(&address, "", "direct.test");
            config.timeouts.attempts = 1;
        })
        .await;
    store.pull("plain.test/team/app:v1").await.unwrap();
    let header = (
        "proxy-authorization".to_owned(),
        "Basic bWU6czNjcmV0".to_owned(),
    );
    assert!(!proxy.requests().is_empty());
    assert!((proxy.requests().iter()).all(|request| request.headers.contains(&header)));
    let host = ("host".to_owned(), "plain.test".to_owned());
    assert!((proxy.requests().iter()).all(|request| request.headers.contains(&host)));

    let explained = async |reference: &str| {
        let request = PullRequest {
            reference: reference.into(),
            auth: None,
            ..PullRequest::default()
        };
        let plan = store.images.explain(request).await.unwrap();
        plan.hosts[0].proxy.clone()
    };
    let shown = format!("http://{}", proxy.address());
    assert_eq!(explained("plain.test/x").await, Some(shown));
    assert_eq!(explained("direct.test/x").await, None);
    proxy.clear_requests();
    store.pull(&home.reference("team/app", "v1")).await.unwrap();
    assert!(proxy.requests().is_empty());
}

#[tokio::test]
async fn a_program_that_knows_credentials_is_asked_for_each_pull() {
    use std::os::unix::fs::PermissionsExt;
    let [home] = registries(&two_layers());
    let node = Node::new();
    node.hosts(&server(&home));
    node.credentials(r#"{"credHelpers": {"registry.test": "vault"}}"#);
    let write = |secret: &str| {
        let program = node.path().join("docker-credential-vault");
        let fresh = node.path().join("fresh");
        let text = format!(
            "#!/bin/sh\nread server; [ \"$1 $server\" = \"get registry.test\" ] || exit 1\necho '{{\"Username\":\"node\",\"Secret\":\"{secret}\"}}'\n"
        );
        std::fs::write(&fresh, text).unwrap();
        std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(fresh, program).unwrap();
    };
    let programs = node.path().to_owned();
    let store = node
        .store_with(|config| config.credential_programs = Some(programs))
        .await;
    // The secret changes, as such programs' do; an identity token goes by this user's name.
    for secret in ["s3cret-one", "s3cret-two"] {
        write(secret);
        home.require(Wanted::Basic {
            user: "node".into(),
            password: secret.into(),
        });
        store.pull(NAME).await.unwrap();
        store.images.remove(NAME).await.unwrap();
        store.settles_empty().await;
    }
    home.require(Wanted::Basic {
        user: "node".into(),
        password: "s3cret-three".into(),
    });
    let error = store.pull(NAME).await.unwrap_err();
    assert_eq!(
        error.kind(),
        PullErrorKind::Unauthenticated,
        "{}",
        text(&error)
    );
    assert!(
        text(&error).contains("vault") && !text(&error).contains("s3cret"),
        "{}",
        text(&error)
    );
}
