use std::{fs, path::Path};

use clap::Parser;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Arguments, Config, ConfigErrors, Effect, Loaded, Origin, default_text, dump, load,
    schema::Changes,
};

/// A configuration directory with files by their names.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    fs::write(directory.path().join("config.toml"), "").unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn load_with(directory: &Path, flags: &[&str]) -> Result<Loaded, ConfigErrors> {
    let file = directory.join("config.toml");
    let config = format!("--config={}", file.display());
    let words = ["longshored", &config];
    load(&Arguments::try_parse_from(words.iter().chain(flags)).unwrap())
}

fn loaded(files: &[(&str, &str)]) -> Loaded {
    load_with(directory(files).path(), &[]).unwrap()
}

/// What is said about files, with the directory's own name taken out.
fn complaints(files: &[(&str, &str)]) -> Vec<String> {
    let directory = directory(files);
    let errors = load_with(directory.path(), &[]).unwrap_err();
    let prefix = format!("{}/", directory.path().display());
    errors
        .0
        .iter()
        .map(|problem| problem.to_string().replace(&prefix, ""))
        .collect()
}

#[test]
fn the_default_text_is_the_default() {
    let text = default_text();
    let with = loaded(&[("config.toml", &text)]);
    let without = loaded(&[]);
    let (with_values, without_values) = (with.config.values(), without.config.values());
    assert_eq!(with_values, without_values);
    for (key, table) in Config::TABLES
        .iter()
        .flat_map(|table| table.keys.iter().map(move |key| (key, table)))
    {
        match key.derived {
            // Shown, but left to follow from the others.
            true => {
                let name = key.name.trim_start_matches(table.name);
                let line = format!("\n# {} = {}\n", name.trim_start_matches('.'), key.default);
                assert!(text.contains(&line), "{line}{text}");
                assert_eq!(with.origin(key.name), Origin::Default);
            }
            false => assert!(
                matches!(with.origin(key.name), Origin::File { .. }),
                "{} is not in the default text",
                key.name
            ),
        }
        assert!(!key.doc.is_empty() && !key.doc[0].trim().is_empty());
    }
}

#[test]
fn every_key_is_a_value_and_every_value_a_key() {
    let values = loaded(&[]).config.values();
    let keys = Config::TABLES.iter().flat_map(|table| table.keys);
    assert!(
        keys.map(|key| key.name)
            .eq(values.iter().map(|(name, _)| *name))
    );
}

#[test]
fn a_dump_is_a_configuration_that_says_the_same() {
    let text = "state = \"/s\"\nregistries.insecure = [\"a\", \"b\"]\n[network]\nipv6 = \"\"\nmtu = 0x5_00\n";
    let first = loaded(&[("config.toml", text)]);
    let second = loaded(&[("config.toml", &dump(&first))]);
    assert_eq!(first.config.values(), second.config.values());
    assert_eq!(second.config.network.mtu.get(), 1280);
}

#[test]
fn later_files_win_key_by_key_and_flags_over_all() {
    let directory = directory(&[
        (
            "config.toml",
            "root = \"/a\"\n[network]\nbridge = \"one\"\nmtu = 1400\n",
        ),
        ("conf.d/20-b.toml", "[network]\n\n\nmtu = 1450\n"),
        ("conf.d/10-a.toml", "network.mtu = 1440\nroot = \"/b\"\n"),
        ("conf.d/30-c.conf", "not read"),
        ("conf.d/.40-d.toml", "not read"),
    ]);
    let loaded = load_with(directory.path(), &["--state=/s", "--log", "debug"]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.root, Path::new("/b"));
    assert_eq!(&*config.network.bridge, "one");
    assert_eq!(config.network.mtu.get(), 1450);
    assert_eq!(config.address, Path::new("/s/longshore.sock"));

    let text = dump(&loaded).replace(&directory.path().display().to_string(), "");
    for (setting, origin) in [
        ("root = \"/b\"", "/conf.d/10-a.toml:2"),
        ("state = \"/s\"", "--state"),
        ("address = \"/s/longshore.sock\"", "default"),
        ("log = \"debug\"", "--log"),
        ("bridge = \"one\"", "/config.toml:3"),
        ("mtu = 1450", "/conf.d/20-b.toml:4"),
        ("masquerade = true", "default"),
    ] {
        let line = text.lines().find(|line| line.starts_with(setting)).unwrap();
        assert_eq!(line.rsplit_once("# ").unwrap().1, origin, "{line}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let said = complaints(&[
        (
            "config.toml",
            "rooot = \"/x\"\nmtu = 9\nstate = 5\n\n[networks]\nmtu = 1\n",
        ),
        ("conf.d/1.toml", "network = true\n"),
        ("conf.d/2.toml", "a = [\nb\n"),
        (
            "conf.d/3.toml",
            "[network]\nbridge = \"a-name-too-long-for-a-link\"\nmasquerade = \"yes\"\nmtu = 70_000\nzzz = 1\n",
        ),
        ("conf.d/4.toml", "registries.insecure = [\"ä\", 5]\n"),
    ]);
    let expected = [
        "config.toml:1:1: unknown key `rooot`; is `root` meant?",
        "config.toml:2:1: unknown key `mtu`; is `network.mtu` meant?",
        "config.toml:3:9: state: 5 is not an absolute path",
        "config.toml:5:2: unknown key `networks`; is `network` meant?",
        "conf.d/1.toml:1:1: `network` is a table: write [network] and its keys below",
        "conf.d/2.toml:2:1: ",
        "conf.d/3.toml:2:10: network.bridge: \"a-name-too-long-for-a-link\" is not an interface name of 1 to 15 bytes, without blanks, `/` and `:`",
        "conf.d/3.toml:3:14: network.masquerade: \"yes\" is not true or false",
        "conf.d/3.toml:4:7: network.mtu: 70_000 is not a whole number from 1280 to 65535",
        "conf.d/3.toml:5:1: unknown key `network.zzz`",
        "conf.d/4.toml:1:29: registries.insecure: 5 is not a string",
    ];
    for line in expected {
        let found = said.iter().any(|said| match line.ends_with(": ") {
            true => said.starts_with(line),
            false => said == line,
        });
        assert!(found, "{line}\n{said:#?}");
    }
}

#[test]
fn wrong_values_are_refused() {
    for text in [
        "root = \"relative\"",
        "root = \"\"",
        "root = \"/a\\u0000b\"",
        "address = \"~/x\"",
        "cgroup_parent = \"/a/../b\"",
        "cgroup_parent = \"a\"",
        "log = \"longshored=loud\"",
        "network.ipv4 = \"10.0.0.0/33\"",
        "network.ipv4 = \"\"",
        "network.ipv6 = \"10.0.0.0/8\"",
        "network.mtu = -1",
        "network.mtu = 1500.0",
        "network.mtu = 99999999999999999999999",
        "network.bridge = \"a/b\"",
        "registries = []",
        "registries.insecure = \"a\"",
        "[[network]]\nmtu = 1500",
        "root = 1979-05-27",
        "root = {}",
    ] {
        let said = complaints(&[("config.toml", text)]);
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].starts_with("config.toml:"), "{text}: {said:?}");
    }
}

#[test]
fn a_wrong_value_is_wrong_though_a_later_one_wins() {
    let said = complaints(&[
        ("config.toml", "network.mtu = 1"),
        ("conf.d/1.toml", "network.mtu = 1500"),
    ]);
    assert!(said[0].starts_with("config.toml:1:15: network.mtu"));
}

#[test]
fn a_named_file_must_exist_and_be_text() {
    let directory = directory(&[]);
    fs::remove_file(directory.path().join("config.toml")).unwrap();
    fs::create_dir(directory.path().join("conf.d/x.toml")).unwrap();
    fs::write(directory.path().join("conf.d/y.toml"), b"root = \"\xff\"").unwrap();
    let errors = load_with(directory.path(), &[]).unwrap_err().to_string();
    assert!(errors.starts_with("3 errors in the configuration\n"));
    assert!(errors.contains("config.toml: No such file"), "{errors}");
    assert!(errors.contains("x.toml: Is a directory"), "{errors}");
    assert!(errors.contains("y.toml: stream did not contain valid UTF-8"));
}

#[test]
fn flags_are_checked_and_relative_to_the_working_directory() {
    let directory = directory(&[]);
    let loaded = load_with(directory.path(), &["--root", "here"]).unwrap();
    assert_eq!(
        loaded.config.root,
        std::env::current_dir().unwrap().join("here")
    );
    assert_eq!(loaded.origin("root"), Origin::Flag("--root"));
    let said = load_with(directory.path(), &["--log=a=b"])
        .unwrap_err()
        .to_string();
    assert!(said.starts_with("--log: \"a=b\" is not a level"), "{said}");
}

#[test]
fn a_reload_takes_what_it_may_and_names_the_rest() {
    let old = loaded(&[]).config;
    let log = old.log.changes();
    let new = loaded(&[(
        "config.toml",
        "log = \"debug\"\nroot = \"/other\"\nnetwork.mtu = 1400",
    )]);
    let changes = old.adopt(&new.config);
    assert_eq!(
        changes,
        Changes {
            applied: vec!["log"],
            waiting: vec!["root", "network.mtu"],
        }
    );
    assert_eq!(&**old.log.get(), "debug");
    assert!(log.has_changed().unwrap());
    assert_eq!(old.root, Path::new("/var/lib/longshore"));
    // Nothing has changed since, but for what waits.
    assert_eq!(old.adopt(&new.config).applied, Vec::<&str>::new());
}

#[test]
fn what_follows_sighup_is_marked_in_the_default_text() {
    let live = Config::TABLES
        .iter()
        .flat_map(|table| table.keys)
        .filter(|key| key.effect == Effect::Reload)
        .count();
    assert_eq!(default_text().matches("# (reloaded)").count(), live);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a file says: an answer, and one that points into the file.
    #[test]
    fn no_text_is_too_strange(text in "([a-z_.]{1,9} ?= ?[-0-9a-z\"'\\[\\]{}=,é\u{1F980}]{0,9}|\\[{0,2}[a-z.é]{0,8}\\]{0,2}|.{0,12})(\n.{0,12}){0,4}") {
        if let Err(errors) = load_with(directory(&[("config.toml", &text)]).path(), &[]) {
            let lines = text.split('\n').count();
            for problem in errors.0 {
                let said = problem.to_string();
                let place = said.split_once("config.toml:").unwrap().1;
                let line: usize = place.split(':').next().unwrap().parse().unwrap();
                prop_assert!((1..=lines).contains(&line), "{}", said);
            }
        }
    }
}

/// `UPDATE_GUIDE=1 cargo test -p longshored the_guide` writes it.
#[test]
fn the_guide_shows_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/config.toml");
    if std::env::var_os("UPDATE_GUIDE").is_some() {
        fs::write(path, default_text()).unwrap();
    }
    let shown = fs::read_to_string(path).unwrap();
    assert!(
        shown == default_text(),
        "docs/guide/config.toml is not what `longshored config default` prints: UPDATE_GUIDE=1 cargo test -p longshored the_guide"
    );
}
