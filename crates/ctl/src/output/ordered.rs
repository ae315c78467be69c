//! A message's JSON with its fields in the schema's order and its maps sorted, as Go's protojson has them. The library that renders messages
//! keeps maps in no order at all, and `serde_json`'s own values sort everything.

use std::cmp::Ordering;
use std::fmt;

use prost_reflect::{Kind, MessageDescriptor};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

/// JSON that keeps the order of what it was read from.
pub(super) enum Tree {
    Leaf(Value),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    /// Sorts maps; `message` is what this is the JSON of.
    pub(super) fn sort_maps(&mut self, message: &MessageDescriptor) {
        match self {
            Self::Leaf(_) => {}
            Self::List(items) => items.iter_mut().for_each(|item| item.sort_maps(message)),
            Self::Object(fields) => {
                for (name, value) in fields {
                    let Some(field) = message.get_field_by_json_name(name) else {
                        continue;
                    };
                    match (field.is_map(), field.kind()) {
                        (true, _) => value.sort(),
                        (false, Kind::Message(message)) => value.sort_maps(&message),
                        (false, _) => {}
                    }
                }
            }
        }
    }

    /// With all keys in the order that Go's YAML has: numbers in them count as such.
    pub(super) fn counted(value: &Value) -> Self {
        match value {
            Value::Array(items) => Self::List(items.iter().map(Self::counted).collect()),
            Value::Object(fields) => {
                let own = |(name, value): (&String, &Value)| (name.clone(), Self::counted(value));
                let mut fields: Vec<_> = fields.iter().map(own).collect();
                fields.sort_by(|(one, _), (other, _)| by_number(one, other));
                Self::Object(fields)
            }
            leaf => Self::Leaf(leaf.clone()),
        }
    }

    /// CRI's maps have no messages in them.
    fn sort(&mut self) {
        if let Self::Object(entries) = self {
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
    }
}

/// `Avg60` before `Avg300`, `a1b` before `a10`, `a/b` before `ab`.
fn by_number(one: &str, other: &str) -> Ordering {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let (Some(a), Some(b)) = (one.get(same), other.get(same)) else {
        return one.len().cmp(&other.len());
    };
    let behind_a_number = same > 0 && one[same - 1].is_ascii_digit();
    match (a.is_alphabetic(), b.is_alphabetic()) {
        (true, true) => a.cmp(b),
        (letter, other) if letter != other => match letter == behind_a_number {
            true => Ordering::Less,
            false => Ordering::Greater,
        },
        _ => {
            let before = one[..same].iter().rev();
            let begin = same - before.take_while(|c| c.is_ascii_digit()).count();
            let number = |text: &[char]| -> Vec<char> {
                let digits = text[begin..].iter().take_while(|c| c.is_ascii_digit());
                digits.skip_while(|digit| **digit == '0').copied().collect()
            };
            let (m, n) = (number(&one), number(&other));
            let by_value = m.len().cmp(&n.len()).then_with(|| m.cmp(&n));
            by_value.then(a.cmp(b))
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Object(entries))
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Leaf(value) => value.serialize(serializer),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_keys_count() {
        let sorted = [
            "", "10", "Avg10", "Avg60", "Avg300", "a", "a-b", "a.b", "a/b", "a1", "a1b", "a2",
            "a10", "a12", "a100", "ab", "b",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(by_number(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(by_number(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
    }
}
