//! Messages as protobuf's JSON, and values as YAML.
//!
//! Fields are lowerCamelCase, 64-bit integers are strings, enums are names, and fields at their default are shown, as crictl does.

use std::io::Write;
use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use super::ordered::Tree;
use crate::error::Error;
use crate::output::{Format, Output};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(cri::DESCRIPTOR_SET).expect("the build has compiled this very set")
});

/// The descriptor of a CRI message.
pub(crate) fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name())
        .expect("the set describes every generated message")
}

/// Field names of [`value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// `createdAt`, with fields at their default.
    Json,
    /// `created_at`, without them: how crictl shows handlers and features.
    Proto,
}

/// A message as a JSON value, whose keys are sorted.
pub(crate) fn value<M: Message + Name>(message: &M, names: Names) -> Value {
    let options = SerializeOptions::new()
        .skip_default_fields(names == Names::Proto)
        .use_proto_field_name(names == Names::Proto);
    dynamic(message)
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("protobuf maps have string keys")
}

/// Prints a reply as JSON, its fields in the schema's order, or as YAML, sorted.
pub(crate) fn write_message<M: Message + Name>(
    out: &mut Output,
    format: Format,
    message: &M,
) -> Result<(), Error> {
    if format == Format::Yaml {
        return write_value(out, format, &value(message, Names::Json));
    }
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut text = Vec::new();
    dynamic(message)
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
        .map_err(|error| Error::Output(error.into()))?;
    let mut tree: Tree =
        serde_json::from_slice(&text).map_err(|error| Error::Output(error.into()))?;
    tree.sort_maps(&descriptor::<M>());
    serde_json::to_writer_pretty(&mut *out, &tree).map_err(|error| Error::Output(error.into()))?;
    writeln!(out)?;
    Ok(())
}

/// Prints a value, keys sorted; in YAML numbers in keys count.
pub(crate) fn write_value(out: &mut Output, format: Format, value: &Value) -> Result<(), Error> {
    if format == Format::Yaml {
        let text = serde_saphyr::to_string(&Tree::counted(value))
            .map_err(|error| Error::Refused(format!("write YAML: {error}")))?;
        writeln!(out, "{}", text.trim_end())?;
        return Ok(());
    }
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Output(error.into()))?;
    writeln!(out, "{}", as_go_escapes(&text))?;
    Ok(())
}

/// Go's encoder of values, which crictl prints these by, escapes what a web page would stumble over. Outside of texts JSON has none of it.
fn as_go_escapes(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => text.push(other),
        }
    }
    text
}

fn dynamic<M: Message + Name>(message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic
        .transcode_from(message)
        .expect("both sides come from one schema");
    dynamic
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::{Container, ContainerState, ImageSpec, RuntimeHandler, RuntimeHandlerFeatures};

    #[test]
    fn messages_look_as_protobuf_json_does() {
        let container = Container {
            id: "abc".to_owned(),
            image: Some(ImageSpec {
                image: "busybox".to_owned(),
                ..ImageSpec::default()
            }),
            state: ContainerState::ContainerExited.into(),
            created_at: 1_700_000_000_000_000_000,
            ..Container::default()
        };
        assert_eq!(
            value(&container, Names::Json),
            serde_json::json!({
                "id": "abc", "podSandboxId": "", "imageRef": "", "imageId": "",
                "image": {
                    "image": "busybox", "annotations": {}, "userSpecifiedImage": "",
                    "runtimeHandler": "", "imageRef": ""
                },
                "state": "CONTAINER_EXITED", "createdAt": "1700000000000000000",
                "labels": {}, "annotations": {}
            })
        );
    }

    #[test]
    fn handlers_keep_their_proto_names() {
        let handler = RuntimeHandler {
            name: "runsc".to_owned(),
            features: Some(RuntimeHandlerFeatures {
                recursive_read_only_mounts: true,
                user_namespaces: false,
            }),
        };
        assert_eq!(
            value(&handler, Names::Proto),
            serde_json::json!({"name": "runsc", "features": {"recursive_read_only_mounts": true}})
        );
    }

    #[test]
    fn maps_are_sorted_and_fields_are_not() {
        let container = Container {
            id: "abc".to_owned(),
            labels: (0..20)
                .map(|n| (format!("l{n:02}"), n.to_string()))
                .collect(),
            ..Container::default()
        };
        let options = SerializeOptions::new().skip_default_fields(false);
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut text);
        (dynamic(&container).serialize_with_options(&mut serializer, &options)).unwrap();
        let mut tree: Tree = serde_json::from_slice(&text).unwrap();
        tree.sort_maps(&descriptor::<Container>());
        let text = serde_json::to_string(&tree).unwrap();
        let at = |name: &str| text.find(&format!("\"{name}\":")).unwrap();
        assert!(
            (1..20).all(|n| at(&format!("l{:02}", n - 1)) < at(&format!("l{n:02}"))),
            "{text}"
        );
        assert!(
            at("id") < at("createdAt") && at("podSandboxId") < at("imageRef"),
            "{text}"
        );
        assert_eq!(as_go_escapes("\"a<b>&c\""), "\"a\\u003cb\\u003e\\u0026c\"");
    }

    #[test]
    fn yaml_keeps_texts_texts() {
        let value = serde_json::json!({
            "a": "true", "b": "12", "c": "x: y # z", "d": "", "e": "1e3", "f": "null", "g": "two\nlines\n",
            "h": " padded ", "i": "no", "j": "2026-11-21T08:00:00Z", "k": [], "l": {}, "m": ["- x", 5, false],
            "n": "\u{1b}[0m", "o": "~", "p": "0x1f", "q": "'\"", "r": null
        });
        let text = serde_saphyr::to_string(&value).unwrap();
        let back: Vec<Value> = crate::input::yaml_documents(&text).unwrap();
        assert_eq!(back, [value], "{text}");
        // Readers of YAML 1.1 would see a boolean.
        assert!(!text.contains("i: no\n"), "{text}");
    }
}
