//! Pulls that go wrong: the daemon dies in their midst, the registry refuses, removals cross each other.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::v1::AuthConfig;
use e2e::{Host, scenario, scenario_with};
use testkit::{
    daemon::binary,
    image::{Blob, Compression, Image, ImageBuilder, Layer, noise},
    registry::{Auth, Fault, Registry, Rule},
    sandbox::poll,
};
use tonic::Code;

/// For what happens at once on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Three layers that do not compress.
fn three_layers() -> Image {
    let layer = |name: &str, seed: u8| {
        let bytes: Vec<u8> = noise(300_000).iter().map(|byte| byte ^ seed).collect();
        Layer::new()
            .file(name, 0o644, bytes)
            .compression(Compression::None)
    };
    ImageBuilder::new()
        .layer(layer("one", 1))
        .layer(layer("two", 2))
        .layer(layer("three", 3))
        .build()
}

fn names(host: &Host, directory: &str) -> anyhow::Result<BTreeSet<String>> {
    let path = host.sandbox.directory().join("lib").join(directory);
    let entries = fs::read_dir(&path).with_context(|| path.display().to_string())?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// Layers, their indexes and what is being made.
fn on_disk(host: &Host) -> anyhow::Result<[BTreeSet<String>; 3]> {
    Ok([
        names(host, "layers")?,
        names(host, "indexes")?,
        names(host, "ingest")?,
    ])
}

#[test]
fn a_daemon_killed_in_the_midst_of_a_pull_leaves_nothing_half_made() {
    scenario(async |host| {
        let built = three_layers();
        let reference = host.registry.push("killed", "1", &built);
        let before = on_disk(host)?;
        let layers = built.layers.iter().map(|layer| &*layer.digest);
        let mut points = vec![
            ("/killed/manifests/", 10),
            (built.id(), 10),
            // All layers stall.
            ("/killed/blobs/", 100_000),
        ];
        // The others are unpacked and in their places.
        points.extend(layers.map(|digest| (digest, 150_000)));
        for (fragment, bytes) in points {
            host.registry.clear_requests();
            host.registry
                .inject(Rule::new(fragment, Fault::Stall(bytes)));
            let cri = host.cri.clone();
            let name = reference.clone();
            let pull = tokio::spawn(async move { cri.pull(&name).await });
            let asked = || {
                let requests = host.registry.requests();
                requests
                    .iter()
                    .any(|one| one.path.contains(fragment))
                    .then_some(())
            };
            poll(LIMIT, asked).with_context(|| format!("{fragment} is not asked for"))?;
            if fragment.starts_with("sha256") && fragment != built.id() {
                let others =
                    || (names(host, "layers").ok()?.len() >= before[0].len() + 2).then_some(());
                poll(LIMIT, others).context("the other layers are not unpacked")?;
            }
            host.daemon.kill();
            ensure!(pull.await?.is_err(), "{fragment}: a killed daemon answers");
            host.registry.heal();
            host.start_daemon().await?;
            ensure!(
                host.cri.image(&reference).await?.is_none(),
                "{fragment}: it is listed"
            );
            assert_eq!(on_disk(host)?, before, "{fragment}");
        }
        whole(host, &reference, &before).await?;

        // Wherever it is struck at the end, the image is there whole or not at all.
        for microseconds in [0, 1000, 3000, 10_000, 30_000] {
            host.registry.clear_requests();
            let cri = host.cri.clone();
            let name = reference.clone();
            let pull = tokio::spawn(async move { cri.pull(&name).await });
            let asked = || {
                let requests = host.registry.requests();
                let mut layers = built.layers.iter();
                let all =
                    layers.all(|layer| requests.iter().any(|one| one.path.contains(&layer.digest)));
                (all || pull.is_finished()).then_some(())
            };
            poll(LIMIT, asked).context("the layers are not asked for")?;
            tokio::time::sleep(Duration::from_micros(microseconds)).await;
            host.daemon.kill();
            // Whether it was told does not matter.
            let _ = pull.await?;
            host.start_daemon().await?;
            match host.cri.image(&reference).await? {
                Some(image) => assert_eq!(image.id, built.id()),
                None => assert_eq!(on_disk(host)?, before),
            }
            whole(host, &reference, &before).await?;
        }
        Ok(())
    });
}

/// Pulls the image, compares every file of it with what was unpacked, and removes it.
async fn whole(host: &Host, reference: &str, before: &[BTreeSet<String>; 3]) -> anyhow::Result<()> {
    host.cri.pull(reference).await?;
    let checked = host
        .sandbox
        .command(binary("longshore")?)
        .arg("fsck")
        .output()?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(
        checked.status.success() && said.contains(" 0 damaged"),
        "{said}"
    );
    host.cri.remove_image(reference).await?;
    let swept = || (on_disk(host).ok()? == *before).then_some(());
    poll(LIMIT, swept).with_context(|| format!("{:?} instead of {before:?}", on_disk(host)))?;
    Ok(())
}

#[test]
fn removals_at_once_all_succeed() {
    scenario(async |host| {
        let built = three_layers();
        let before = on_disk(host)?;
        for round in 0..5 {
            let mut names = vec![built.id().to_owned()];
            for tag in ["1", "2", "3"] {
                let reference = host.registry.push("crossed", tag, &built);
                host.cri.pull(&reference).await?;
                names.push(reference);
            }
            names.push(host.registry.digest_reference("crossed", built.digest()));
            names.extend(names.clone());
            let mut removals = tokio::task::JoinSet::new();
            for name in names {
                let cri = host.cri.clone();
                removals.spawn(async move { cri.remove_image(&name).await });
            }
            // One that comes meanwhile is whole or was removed as well.
            let cri = host.cri.clone();
            let again = host.registry.reference("crossed", "1");
            let name = again.clone();
            let pull = tokio::spawn(async move { cri.pull(&name).await });
            while let Some(removed) = removals.join_next().await {
                removed?.with_context(|| format!("round {round}"))?;
            }
            pull.await??;
            host.cri.remove_image(&again).await?;
            ensure!(
                host.cri.image(built.id()).await?.is_none(),
                "it is still listed"
            );
            let swept = || (on_disk(host).ok()? == before).then_some(());
            poll(LIMIT, swept).context("layers are left behind")?;
        }
        Ok(())
    });
}

/// Answers whatever is asked for with the status that the tag names, and many words.
fn refuses(mut client: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let length = client.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..length]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split_whitespace().nth(1).unwrap_or_default();
    let status = path
        .split("/manifests/s")
        .nth(1)
        .and_then(|rest| rest.get(..3));
    let answer = match status {
        // What is asked of no tag: whether there is a registry.
        None => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        Some(status) => {
            let words = format!("the words of {status} {}", "again ".repeat(1000));
            let length = words.len();
            format!("HTTP/1.1 {status} No\r\nContent-Length: {length}\r\n\r\n{words}")
        }
    };
    client.write_all(answer.as_bytes())
}

#[test]
fn what_a_registry_answers_has_a_code_that_fits() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("registry.test");
    fs::create_dir(&hosts).unwrap();
    // Nobody listens at the mirror.
    let text = "server = \"http://127.0.0.1:5002\"\n[host.\"http://127.0.0.1:5003\"]\n";
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    let settings = format!(
        "[registries]\nhosts = {:?}\n[images]\nlayer_limit = \"8Mi\"\n",
        directory.path()
    );
    scenario_with(&settings, async |host| {
        let listener = host
            .sandbox
            .on_network(|| TcpListener::bind("127.0.0.1:5002"))??;
        let address = listener.local_addr()?;
        let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let end = std::sync::Arc::clone(&ended);
        let server = std::thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                // Whoever breaks off is the test's business.
                let _ = client.and_then(refuses);
            }
        });
        let told = refusals(host).await;
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        host.sandbox.on_network(|| TcpStream::connect(address))??;
        server.join().expect("the server ends");
        told
    });
}

async fn refusals(host: &Host) -> anyhow::Result<()> {
    for (status, code) in [
        (400, Code::InvalidArgument),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::NotFound),
        (410, Code::NotFound),
        (429, Code::ResourceExhausted),
        (500, Code::Unavailable),
        (503, Code::Unavailable),
    ] {
        let refused = host
            .cri
            .pull(&format!("registry.test/team/app:s{status}"))
            .await;
        let refused = refused
            .err()
            .with_context(|| format!("{status} is no refusal"))?;
        let said = refused.message();
        assert_eq!(refused.code(), code, "{status}: {said}");
        for says in [
            // The host, the repository, what was asked for, what was tried before, and the server's words.
            "http://127.0.0.1:5002",
            "team/app",
            &format!("manifest s{status}"),
            "http://127.0.0.1:5003",
            &format!("the words of {status} again"),
        ] {
            ensure!(said.contains(says), "{says}: {said}");
        }
        let words = said.matches("again ").count() * "again ".len();
        ensure!(500 < words && words <= 1024, "{words} bytes: {said}");
    }
    // Bytes that are not what they should be.
    let built = three_layers();
    let reference = host.registry.push("broken", "1", &built);
    let layer = &*built.layers[1].digest;
    for (fragment, fault, code) in [
        (layer, Fault::Corrupt, Code::DataLoss),
        (layer, Fault::Truncate(0), Code::DataLoss),
        (built.id(), Fault::Corrupt, Code::DataLoss),
        (layer, Fault::Status(404), Code::NotFound),
        (layer, Fault::Status(403), Code::PermissionDenied),
    ] {
        host.registry.heal();
        host.registry.inject(Rule::new(fragment, fault.clone()));
        let refused = host.cri.pull(&reference).await.err();
        let refused = refused.with_context(|| format!("{fault:?} is no hindrance"))?;
        let said = refused.message();
        assert_eq!(refused.code(), code, "{fault:?}: {said}");
        for says in ["127.0.0.1:5000", "broken", fragment] {
            ensure!(said.contains(says), "{says}: {said}");
        }
        ensure!(said.len() < 3000, "{said}");
    }
    host.registry.heal();
    // Zeros travel as nothing, and would fill the disk.
    let zeros = Layer::new().file("zeros", 0o644, vec![0; 9 << 20]);
    let bomb = host
        .registry
        .push("bomb", "1", &ImageBuilder::new().layer(zeros).build());
    let refused = host.cri.pull(&bomb).await.err().context("it is pulled")?;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    ensure!(refused.message().contains("8388608"), "{refused}");
    Ok(())
}

/// Whoever listens on the way would hear the password.
#[test]
fn plain_http_is_spoken_where_it_is_configured_and_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("plain.test");
    fs::create_dir(&hosts).unwrap();
    fs::write(
        hosts.join("hosts.toml"),
        "server = \"http://198.51.100.7:5001\"\n",
    )
    .unwrap();
    let settings = format!("[registries]\nhosts = {:?}\n", directory.path());
    scenario_with(&settings, async |host| {
        host.sandbox.sh("ip addr add 198.51.100.7/32 dev lo")?;
        let listener = host
            .sandbox
            .on_network(|| TcpListener::bind("198.51.100.7:5001"))??;
        let registry = Registry::serve(listener)?;
        let built = three_layers();
        let reference = registry.push("team/app", "1", &built);
        registry.require(Auth::Basic {
            user: "me".into(),
            password: "s3cret".into(),
        });
        let credentials = AuthConfig {
            username: "me".into(),
            password: "s3cret".into(),
            ..AuthConfig::default()
        };
        let refused = host.cri.pull_with(&reference, Some(credentials.clone()));
        let refused = refused.await.err().context("it is pulled")?;
        ensure!(
            refused.message().contains("https://198.51.100.7:5001"),
            "{refused}"
        );
        // What begins a TLS session is no request that it understands.
        ensure!(registry.requests().is_empty(), "{:?}", registry.requests());
        let configured = "plain.test/team/app:1";
        host.cri.pull_with(configured, Some(credentials)).await?;
        ensure!(!registry.requests().is_empty(), "who has served it?");
        host.cri.remove_image(configured).await?;
        host.sandbox.sh("ip addr del 198.51.100.7/32 dev lo")?;
        Ok(())
    });
}

/// Of the daemon, in bytes: the most that was resident since `forget_peak`.
fn peak(host: &Host) -> anyhow::Result<usize> {
    let pid = host.daemon.pid().context("the daemon runs")?;
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("VmHWM")?.parse::<usize>()? << 10)
}

/// proc_pid_clear_refs(5): 5 sets the peak to what is resident now.
fn forget_peak(host: &Host) -> anyhow::Result<()> {
    let pid = host.daemon.pid().context("the daemon runs")?;
    fs::write(format!("/proc/{}/clear_refs", pid.as_raw_nonzero()), "5")?;
    Ok(())
}

#[test]
fn no_image_makes_the_daemon_large() {
    const MUCH: usize = 160 << 20;
    scenario(async |host| {
        let good = host.registry.push("good", "1", &three_layers());
        host.cri.pull(&good).await?;
        forget_peak(host)?;
        let before = peak(host)?;

        let of = |layer: Layer| ImageBuilder::new().layer(layer).build();
        let file = Layer::new().file("large", 0o644, vec![0; MUCH]);
        let attribute = Layer::new()
            .file("small", 0o644, "x")
            .xattr("user.large", vec![b'x'; MUCH]);
        let name = format!("{}/x", "n".repeat(MUCH));
        let name = Layer::new().file(&name, 0o644, "x");
        let many = (0..20_000).fold(Layer::new(), |layer, number| {
            layer.file(&format!("{number:0>240}"), 0o644, "")
        });
        let mut manifest = three_layers();
        let mut bytes = manifest.manifest.bytes.to_vec();
        bytes.resize(MUCH, b' ');
        manifest.manifest = Blob::new(manifest.manifest.media_type, bytes);
        for (repository, image, refusal) in [
            ("file", of(file), None),
            ("many", of(many), None),
            ("attribute", of(attribute), Some("1 MiB")),
            ("name", of(name), Some("1 MiB")),
            ("manifest", manifest, Some("larger than 4194304 bytes")),
        ] {
            let reference = host.registry.push(repository, "1", &image);
            let pulled = host.cri.pull(&reference).await;
            match (pulled, refusal) {
                (Ok(_), None) => host.cri.remove_image(&reference).await?,
                (Err(said), Some(words)) => {
                    ensure!(said.message().contains(words), "{repository}: {said}");
                }
                (other, _) => anyhow::bail!("{repository}: {other:?}"),
            }
            let grown = peak(host)?.saturating_sub(before);
            ensure!(grown < 64 << 20, "{repository}: {grown} bytes more");
        }
        Ok(())
    });
}
