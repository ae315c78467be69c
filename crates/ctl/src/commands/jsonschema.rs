//! `jsonschema`, below the commands that take a configuration file: what may be in it.

use std::collections::BTreeMap;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use cri::v1::{ContainerConfig, PodSandboxConfig};
use prost::Name;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::output::json::descriptor;
use crate::output::{Format, Output, json};

/// A command `C` that takes configuration files, or, as crictl has it below the same word, the schema `S` of those files.
#[derive(Debug)]
pub(crate) enum OrSchema<C, S> {
    Command(C),
    Schema(S),
}

impl<C, S: Schema> OrSchema<C, S> {
    /// The command that is left to do if no schema was asked for.
    pub(crate) fn or_write(self, out: &mut Output) -> Result<Option<C>, Error> {
        match self {
            Self::Command(command) => Ok(Some(command)),
            Self::Schema(schema) => schema.write(out).map(|()| None),
        }
    }
}

impl<C: FromArgMatches, S: FromArgMatches> FromArgMatches for OrSchema<C, S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => S::from_arg_matches(matches).map(Self::Schema),
            None => C::from_arg_matches(matches).map(Self::Command),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<C: Args, S: Subcommand> Args for OrSchema<C, S> {
    fn augment_args(command: clap::Command) -> clap::Command {
        S::augment_subcommands(C::augment_args(command))
            .subcommand_required(false)
            .arg_required_else_help(false)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

pub(crate) trait Schema {
    fn write(self, out: &mut Output) -> Result<(), Error>;
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum OfPod {
    /// Show the JSON schema of POD-CONFIG
    #[command(visible_alias = "js")]
    Jsonschema,
}

impl Schema for OfPod {
    fn write(self, out: &mut Output) -> Result<(), Error> {
        write::<PodSandboxConfig>(out)
    }
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum OfBoth {
    /// Show the JSON schema of POD-CONFIG or CONTAINER-CONFIG
    #[command(visible_alias = "js")]
    Jsonschema(Which),
}

#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Which {
    /// That of POD-CONFIG
    #[arg(long, short)]
    pod: bool,
    /// That of CONTAINER-CONFIG
    #[arg(long, short)]
    container: bool,
}

impl Schema for OfBoth {
    fn write(self, out: &mut Output) -> Result<(), Error> {
        let Self::Jsonschema(which) = self;
        if which.pod {
            write::<PodSandboxConfig>(out)?;
        }
        if which.container {
            write::<ContainerConfig>(out)?;
        }
        Ok(())
    }
}

/// Prints the schema (draft 2020-12) of files that hold an `M`: fields by their proto names, none of them required,
/// no others allowed, as the reader of those files has it.
fn write<M: Name>(out: &mut Output) -> Result<(), Error> {
    json::write_value(out, Format::Json, &schema(&descriptor::<M>()))
}

fn schema(root: &MessageDescriptor) -> Value {
    let mut definitions = BTreeMap::new();
    define(root, &mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": reference(root),
        "$defs": definitions,
    })
}

fn reference(message: &MessageDescriptor) -> String {
    format!("#/$defs/{}", message.name())
}

fn define(message: &MessageDescriptor, definitions: &mut BTreeMap<String, Value>) {
    if definitions.contains_key(message.name()) {
        return;
    }
    // Before its fields: messages may hold each other.
    definitions.insert(message.name().to_owned(), Value::Null);
    let mut properties = Map::new();
    for field in message.fields() {
        properties.insert(field.name().to_owned(), property(&field, definitions));
    }
    let definition = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    definitions.insert(message.name().to_owned(), definition);
}

fn property(field: &FieldDescriptor, definitions: &mut BTreeMap<String, Value>) -> Value {
    if let Kind::Message(message) = field.kind()
        && field.is_map()
    {
        let value = scalar(message.map_entry_value_field().kind(), definitions);
        return json!({"type": "object", "additionalProperties": value});
    }
    let one = scalar(field.kind(), definitions);
    if field.is_list() {
        return json!({"type": "array", "items": one});
    }
    one
}

fn scalar(kind: Kind, definitions: &mut BTreeMap<String, Value>) -> Value {
    match kind {
        Kind::Message(message) => {
            define(&message, definitions);
            json!({"$ref": reference(&message)})
        }
        Kind::Enum(values) => enumeration(&values),
        Kind::Bool => json!({"type": "boolean"}),
        // The one field of bytes, an environment variable's value, is plain text in a file.
        Kind::String | Kind::Bytes => json!({"type": "string"}),
        Kind::Double | Kind::Float => json!({"type": "number"}),
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => {
            json!({"type": "integer", "minimum": 0})
        }
        _ => json!({"type": "integer"}),
    }
}

/// By name or by number.
fn enumeration(values: &EnumDescriptor) -> Value {
    let names = values.values().map(|value| json!(value.name()));
    let numbers = values.values().map(|value| json!(value.number()));
    json!({"enum": names.chain(numbers).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_defined_and_shapes_are_the_readers() {
        let pod = schema(&descriptor::<PodSandboxConfig>());
        let container = schema(&descriptor::<ContainerConfig>());
        for schema in [&pod, &container] {
            let text = schema.to_string();
            for reference in text.split("#/$defs/").skip(1) {
                let name = reference.split('"').next().unwrap();
                assert!(schema["$defs"][name]["properties"].is_object(), "{name}");
            }
        }
        assert_eq!(pod["$ref"], "#/$defs/PodSandboxConfig");
        let fields = &pod["$defs"]["PodSandboxConfig"]["properties"];
        assert_eq!(
            fields["labels"],
            json!({"type": "object", "additionalProperties": {"type": "string"}})
        );
        assert_eq!(
            fields["port_mappings"]["items"]["$ref"],
            "#/$defs/PortMapping"
        );
        let mount = &container["$defs"]["Mount"]["properties"];
        assert_eq!(mount["readonly"], json!({"type": "boolean"}));
        assert_eq!(mount["propagation"]["enum"][0], "PROPAGATION_PRIVATE");
        let value = &container["$defs"]["KeyValue"]["properties"]["value"];
        assert_eq!(*value, json!({"type": "string"}));
    }
}
