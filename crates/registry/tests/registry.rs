//! The registry, asked by hand over a plain socket, so that no client hides what is on the wire.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use registry::{
    Auth, Fault, Registry, Rule,
    image::{self, Compression, ImageBuilder, Layer},
};

#[test]
fn a_tag_leads_to_manifest_config_and_layers() {
    let registry = Registry::start().unwrap();
    let image = small();
    registry.push("library/small", "1", &image);

    let manifest = get(&registry, "/v2/library/small/manifests/1", "");
    assert!(manifest.starts_with("HTTP/1.1 200"), "{manifest}");
    assert!(manifest.contains(image.digest()));
    for digest in [image.id(), &image.layers[0].digest] {
        let blob = get(&registry, &format!("/v2/library/small/blobs/{digest}"), "");
        assert!(blob.starts_with("HTTP/1.1 200"), "{blob}");
    }
    let missing = get(&registry, "/v2/library/small/manifests/2", "");
    assert!(missing.starts_with("HTTP/1.1 404") && missing.contains("MANIFEST_UNKNOWN"));
    assert_eq!(registry.requests().len(), 4);
}

#[test]
fn ranges_are_honoured() {
    let registry = Registry::start().unwrap();
    let image = small();
    registry.push("r", "1", &image);
    let path = format!("/v2/r/blobs/{}", image.id());

    let part = get(&registry, &path, "Range: bytes=1-3\r\n");
    assert!(part.starts_with("HTTP/1.1 206"), "{part}");
    assert!(part.ends_with(std::str::from_utf8(&image.config.bytes[1..4]).unwrap()));
    let beyond = get(&registry, &path, "Range: bytes=999999-\r\n");
    assert!(beyond.starts_with("HTTP/1.1 416"), "{beyond}");
}

#[test]
fn faults_come_as_often_as_asked() {
    let registry = Registry::start().unwrap();
    let image = small();
    registry.push("r", "1", &image);
    let path = format!("/v2/r/blobs/{}", image.id());

    registry.inject(Rule::new("/blobs/", Fault::Status(503)).times(2));
    assert!(get(&registry, &path, "").starts_with("HTTP/1.1 503"));
    assert!(get(&registry, &path, "").starts_with("HTTP/1.1 503"));
    let whole = get(&registry, &path, "");
    assert!(whole.starts_with("HTTP/1.1 200"));

    registry.inject(Rule::new("/blobs/", Fault::Truncate(7)).times(1));
    assert!(get(&registry, &path, "").len() < whole.len());
    registry.inject(Rule::new("/blobs/", Fault::Corrupt).times(1));
    let corrupt = get(&registry, &path, "");
    assert!(corrupt.len() == whole.len() && corrupt != whole);
}

#[test]
fn bearer_tokens_are_asked_for_and_taken() {
    let registry = Registry::start().unwrap();
    registry.push("team/app", "1", &small());
    registry.require(Auth::Bearer {
        user: "u".into(),
        password: "p".into(),
    });

    let refused = get(&registry, "/v2/team/app/manifests/1", "");
    assert!(refused.starts_with("HTTP/1.1 401"));
    assert!(refused.contains("scope=\"repository:team/app:pull\""));
    let token = get(&registry, "/token?x=y", "Authorization: Basic dTpw\r\n");
    assert!(token.contains("testkit-token-of-u"), "{token}");
    let shown = "Authorization: Bearer testkit-token-of-u\r\n";
    assert!(get(&registry, "/v2/team/app/manifests/1", shown).starts_with("HTTP/1.1 200"));
}

#[test]
fn images_are_reproducible_and_busybox_is_static() {
    let build = || image::busybox().unwrap().user("www-data").build();
    assert_eq!(build(), build());
    assert_ne!(build().digest(), small().digest());
    let zstd = ImageBuilder::new()
        .layer(
            Layer::new()
                .directory("d", 0o755)
                .compression(Compression::Zstd),
        )
        .build();
    assert!(zstd.layers[0].media_type.ends_with("+zstd"));
}

fn small() -> image::Image {
    ImageBuilder::new()
        .layer(Layer::new().file("etc/motd", 0o644, "hello\n"))
        .command(["/bin/true"])
        .build()
}

/// Status line, headers and body, bytes that are not UTF-8 replaced.
fn get(registry: &Registry, path: &str, headers: &str) -> String {
    let asked = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(registry.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n");
        stream.write_all(format!("{request}{headers}\r\n").as_bytes())?;
        let mut answer = Vec::new();
        // A truncated answer ends in a reset.
        let _ = stream.read_to_end(&mut answer);
        Ok(answer)
    };
    String::from_utf8_lossy(&asked().expect("the registry answers")).into_owned()
}
