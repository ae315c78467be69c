//! `docs/guide/cri-fields.md` is made from the schema and from `docs/cri-fields.toml`, which says for each field of each request which
//! test changes it and sees what comes of that.
//!
//! With `UPDATE_FIELDS=1` in the environment the page is rewritten.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde::Deserialize;

const DATA: &str = "docs/cri-fields.toml";
const PAGE: &str = "docs/guide/cri-fields.md";

/// What becomes of a field.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Fate {
    /// Tests that change it and see the effect: in the kernel, or in a reply where it is only told back.
    Effect(Tests),
    /// Tests of the refusal.
    Refused(Tests),
    /// Accepted, and there is nothing that it could apply to: why.
    Moot(String),
    /// Accepted or refused, and this is what is missing.
    Open(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Tests {
    One(String),
    Some(Vec<String>),
}

impl Tests {
    fn list(&self) -> &[String] {
        match self {
            Tests::One(test) => std::slice::from_ref(test),
            Tests::Some(tests) => tests,
        }
    }
}

/// Message, field (or `*`, every one), fate.
type Data = BTreeMap<String, BTreeMap<String, Fate>>;

#[test]
fn every_field_of_every_request_is_accounted_for() {
    let data: Data = toml::from_str(&read(Path::new(DATA))).unwrap();
    let messages = requests();
    let mut wrong = Vec::new();
    for message in &messages {
        for field in message.fields() {
            if fate(&data, message, &field).is_none() {
                let (message, field) = (message.name(), field.name());
                wrong.push(format!("{message}.{field} is not in {DATA}"));
            }
        }
    }
    for (name, fields) in &data {
        let Some(message) = messages.iter().find(|message| message.name() == name) else {
            wrong.push(format!("{name} is no message of a request"));
            continue;
        };
        for (field, fate) in fields {
            if field != "*" && message.get_field_by_name(field).is_none() {
                wrong.push(format!("{name}.{field} is no field"));
            }
            let problems = match fate {
                Fate::Effect(tests) => problems(tests, Some(field)),
                Fate::Refused(tests) => problems(tests, None),
                Fate::Moot(_) | Fate::Open(_) => Vec::new(),
            };
            wrong.extend(
                problems
                    .into_iter()
                    .map(|it| format!("{name}.{field}: {it}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let page = page(&data, &messages);
    if std::env::var_os("UPDATE_FIELDS").is_some() {
        fs::write(root().join(PAGE), page).unwrap();
    } else {
        let stale = read(Path::new(PAGE)) != page;
        assert!(!stale, "{PAGE} is out of date: UPDATE_FIELDS=1 rewrites it");
    }
}

/// The messages that a client can send, in the order in which the schema's calls reach them.
fn requests() -> Vec<MessageDescriptor> {
    let pool =
        DescriptorPool::decode(longshore_cri::DESCRIPTOR_SET).expect("the build has compiled it");
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let services = pool.services();
    let services = services.filter(|service| service.full_name().starts_with("runtime.v1."));
    for service in services {
        for method in service.methods() {
            reach(method.input(), &mut seen, &mut order);
        }
    }
    assert!(order.len() > 50, "the schema has been walked");
    order
}

fn reach(
    message: MessageDescriptor,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<MessageDescriptor>,
) {
    if message.is_map_entry() || !seen.insert(message.full_name().to_owned()) {
        return;
    }
    if message.fields().len() > 0 {
        order.push(message.clone());
    }
    for field in message.fields() {
        if let Kind::Message(inner) = field.kind() {
            reach(inner, seen, order);
        }
    }
}

fn fate<'a>(
    data: &'a Data,
    message: &MessageDescriptor,
    field: &FieldDescriptor,
) -> Option<&'a Fate> {
    let fields = data.get(message.name())?;
    fields.get(field.name()).or_else(|| fields.get("*"))
}

/// A test that is not there, or that never names the field which it is said to change.
fn problems(tests: &Tests, field: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    for test in tests.list() {
        let (path, function) = source(test);
        let Ok(mut text) = fs::read_to_string(root().join(&path)) else {
            found.push(format!("{test}: there is no {}", path.display()));
            continue;
        };
        if let Some(function) = function
            && !is_test(&text, function)
        {
            let path = path.display();
            found.push(format!("{path} has no test {function}"));
        }
        for below in fs::read_dir(root().join(path.with_extension("")))
            .into_iter()
            .flatten()
        {
            let below = below.expect("the directory can be listed").path();
            text += &fs::read_to_string(below).unwrap_or_default();
        }
        if let Some(field) = field
            && field != "*"
            && !names(&text, field)
            && !names(&read(Path::new("tests/e2e/src/cri_calls.rs")), field)
        {
            found.push(format!("{test} says nothing of the field"));
        }
    }
    found
}

/// `e2e/files::name` is a scenario, `cases/name` a case of the translation, anything else a module below `crates`.
fn source(test: &str) -> (PathBuf, Option<&str>) {
    if let Some(case) = test.strip_prefix("cases/") {
        let cases = Path::new("crates/daemon/src/spec/cases");
        return (cases.join(format!("{case}.json")), None);
    }
    let (module, function) = test.split_once("::").unwrap_or((test, ""));
    let path = match module.strip_prefix("e2e/") {
        Some(scenarios) => format!("tests/e2e/tests/{scenarios}.rs"),
        None => format!("crates/{module}.rs"),
    };
    (PathBuf::from(path), Some(function))
}

fn is_test(text: &str, function: &str) -> bool {
    let begins = [format!("fn {function}("), format!("async fn {function}(")];
    // Properties have their attribute from the macro.
    let property = text.contains("proptest! {");
    let mut attributed = false;
    text.lines().map(str::trim).any(|line| {
        if line.starts_with("#[") {
            attributed |= line == "#[test]" || line.starts_with("#[tokio::test");
            return false;
        }
        let named = begins.iter().any(|begin| line.starts_with(begin));
        (std::mem::take(&mut attributed) || property) && named
    })
}

/// The generated code has names in snake case, and a setter for each enum.
fn names(text: &str, field: &str) -> bool {
    let snake = match field {
        "uidMappings" => "uid_mappings",
        "gidMappings" => "gid_mappings",
        "CDI_devices" => "cdi_devices",
        other => other,
    };
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.any(|word| word == field || word.strip_prefix("set_").unwrap_or(word) == snake)
}

const INTRODUCTION: &str = "# Fields of CRI requests

Made from the schema and `docs/cri-fields.toml` by `UPDATE_FIELDS=1 cargo test -p longshore-cri --test fields`; a test fails when a field
is missing, when a test that is named here is not there, and when this page is out of date.

- **effect**: the named test changes the field and sees what comes of it, in the kernel or, for what is only told back, in a reply.
  Where the name begins with `cases/`, it sees the translation alone: the OCI specification that comes out.
- **refused**: setting the field is an error that names it. The test sees the error.
- **moot**: accepted; there is nothing that it could apply to.
- **open**: not whole yet, or not tested; the cell says what is missing.

A message that stands in several places (`LinuxContainerResources`, `NamespaceOption`, `ImageSpec`, ...) has one table.
";

fn page(data: &Data, messages: &[MessageDescriptor]) -> String {
    let mut tables = String::new();
    let mut counts = BTreeMap::new();
    for message in messages {
        let _ = write!(
            tables,
            "\n## {}\n\n| field | | by |\n|---|---|---|\n",
            message.name()
        );
        for field in message.fields() {
            let (kind, cell) = match fate(data, message, &field) {
                Some(Fate::Effect(tests)) => ("effect", links(tests)),
                Some(Fate::Refused(tests)) => ("refused", links(tests)),
                Some(Fate::Moot(why)) => ("moot", why.clone()),
                Some(Fate::Open(what)) => ("open", what.clone()),
                None => continue,
            };
            *counts.entry(kind).or_insert(0) += 1;
            let _ = writeln!(tables, "| `{}` | {kind} | {cell} |", field.name());
        }
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let total: usize = messages.iter().map(|message| message.fields().len()).sum();
    format!(
        "{INTRODUCTION}\n{total} fields: {}.\n{tables}",
        counts.join(", ")
    )
}

fn links(tests: &Tests) -> String {
    let links = tests.list().iter().map(|test| {
        let (path, _) = source(test);
        format!("[{test}](../../{})", path.display())
    });
    links.collect::<Vec<_>>().join(", ")
}

fn read(path: &Path) -> String {
    let whole = root().join(path);
    fs::read_to_string(&whole).unwrap_or_default()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
