//! A specification as lines that a person can compare.

use serde_json::Value;

use super::super::ContainerSpec;

pub(super) fn lines(built: &ContainerSpec) -> Vec<String> {
    let spec = serde_json::to_value(&built.spec).unwrap();
    let mut lines = Vec::new();
    render("", &spec, &mut lines);
    let user = &built.user;
    lines.push(format!(
        "user: {}:{} groups {:?} home {}",
        user.uid, user.gid, user.groups, user.home
    ));
    lines
}

fn render(path: &str, value: &Value, lines: &mut Vec<String>) {
    match (path, value) {
        ("mounts", Value::Array(mounts)) => lines.extend(mounts.iter().map(mount)),
        ("process.env", Value::Array(env)) => {
            lines.extend(env.iter().map(|entry| format!("env {}", text(entry))));
        }
        ("process.capabilities", Value::Object(sets)) => {
            for (name, set) in sets {
                let mut names: Vec<_> = set
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|cap| short(&text(cap)))
                    .collect();
                names.sort();
                lines.push(format!("capabilities.{name}: {}", names.join(" ")));
            }
        }
        ("linux.namespaces", Value::Array(namespaces)) => {
            for namespace in namespaces {
                let kind = text(&namespace["type"]);
                lines.push(match &namespace["path"] {
                    Value::Null => format!("namespace {kind}: new"),
                    path => format!("namespace {kind}: {}", text(path)),
                });
            }
        }
        ("linux.devices", Value::Array(devices)) => {
            for device in devices {
                lines.push(format!(
                    "device {} {} {}:{} mode {:o} {}:{}",
                    text(&device["path"]),
                    text(&device["type"]),
                    device["major"],
                    device["minor"],
                    device["fileMode"].as_u64().unwrap(),
                    device["uid"],
                    device["gid"],
                ));
            }
        }
        ("linux.resources.devices", Value::Array(rules)) => lines.extend(rules.iter().map(rule)),
        ("linux.seccomp", profile) => {
            let rules = profile["syscalls"].as_array().map_or(0, Vec::len);
            let names = profile["syscalls"].as_array().into_iter().flatten();
            let names: usize = names
                .map(|rule| rule["names"].as_array().unwrap().len())
                .sum();
            lines.push(format!(
                "seccomp: default {}, {rules} rules of {names} names",
                text(&profile["defaultAction"])
            ));
        }
        (_, Value::Object(fields)) => {
            for (name, value) in fields {
                let below = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                render(&below, value, lines);
            }
        }
        (path, value) => lines.push(format!("{path}: {value}")),
    }
}

fn mount(mount: &Value) -> String {
    let options = mount["options"].as_array().unwrap().iter().map(text);
    let mut line = format!(
        "mount {} {} {} {}",
        text(&mount["destination"]),
        text(&mount["type"]),
        text(&mount["source"]),
        options.collect::<Vec<_>>().join(",")
    );
    for maps in ["uidMappings", "gidMappings"] {
        if let Some(given) = mount.get(maps) {
            line.push_str(&format!(" {maps}={given}"));
        }
    }
    line
}

fn rule(rule: &Value) -> String {
    let number = |value: &Value| {
        value
            .as_i64()
            .map_or("*".to_owned(), |number| number.to_string())
    };
    format!(
        "rule {} {} {}:{} {}",
        if rule["allow"] == true {
            "allow"
        } else {
            "deny"
        },
        text(&rule["type"]),
        number(&rule["major"]),
        number(&rule["minor"]),
        text(&rule["access"]),
    )
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn short(capability: &str) -> String {
    capability.strip_prefix("CAP_").unwrap().to_owned()
}
