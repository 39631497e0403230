//! YAML or JSON text as a tree of values.
//!
//! The parsers have budgets of their own; what counts is the one here, which both share: every node and every byte
//! of text that ends up in the tree is paid for, so an alias that is expanded a thousand times costs a thousand
//! times. A null in a mapping is the same as leaving the field out.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::MAX_DOCUMENT_BYTES;
use super::fault::join;
use crate::error::{SpecError, quote};

const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 100_000;
const MAX_TEXT_BYTES: usize = 4 << 20;

/// Reads text into a tree. `root` is what paths in errors begin with.
pub(super) fn read(text: &str, root: &str) -> Result<Value, SpecError> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(SpecError::new(root, format!("was {} bytes long; allowed: at most 1 MiB", text.len())));
    }
    if text.trim().is_empty() {
        return Err(SpecError::new(root, "was empty; allowed: a YAML or JSON mapping"));
    }
    if text.trim_start().starts_with('{')
        && let Some(result) = read_json(text, root)
    {
        return result;
    }
    read_yaml(text, root)
}

/// None when it is not JSON after all: a YAML document may begin with a brace, too.
fn read_json(text: &str, root: &str) -> Option<Result<Value, SpecError>> {
    let budget = Budget::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    match (Seed { budget: &budget, depth: 0 }).deserialize(tracked).and_then(|tree| json.end().map(|()| tree))
    {
        Ok(tree) => Some(Ok(tree)),
        Err(error) if error.is_data() => {
            let place = format!("line {}, column {}", error.line(), error.column());
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            Some(Err(SpecError::new(join(root, &track.path()), format!("{message} ({place})"))))
        }
        Err(_) => None,
    }
}

fn read_yaml(text: &str, root: &str) -> Result<Value, SpecError> {
    let budget = Budget::default();
    let mut path = root.to_string();
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_DOCUMENT_BYTES),
            max_depth: MAX_DEPTH + 2,
            max_documents: 2,
            max_events: 2 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_total_scalar_bytes: MAX_TEXT_BYTES,
            max_anchors: 256,
            max_aliases: 1000,
            max_recorded_anchor_events: MAX_NODES,
            max_recorded_anchor_bytes: MAX_TEXT_BYTES,
            max_merge_keys: 100,
        },
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(yaml, &mut track);
        let result = Seed { budget: &budget, depth: 0 }.deserialize(tracked);
        if result.is_err() {
            path = join(root, &track.path());
        }
        result
    });
    result.map_err(|error| SpecError::new(path, in_words(&error)))
}

fn in_words(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    let place = error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column()));
    let place = place.unwrap_or_default();
    match error.without_snippet() {
        Error::MultipleDocuments { .. } => format!("was more than one document{place}; allowed: one"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the field {} is there twice{place}", quote(key))
        }
        Error::DuplicateMappingKey { .. } => format!("a field is there twice{place}"),
        other => {
            let message = other.to_string();
            // An alias wraps the breach that its expansion led to.
            if matches!(other, Error::Budget { .. }) || message.contains("budget breached") {
                return format!(
                    "was too large once aliases are expanded{place}; allowed: {MAX_NODES} values, 4 MiB of text, \
                     {MAX_DEPTH} levels"
                );
            }
            let first: String = message.lines().next().unwrap_or_default().chars().take(300).collect();
            format!("not readable as YAML: {first}")
        }
    }
}

struct Budget {
    nodes: Cell<usize>,
    text: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: Cell::new(MAX_NODES), text: Cell::new(MAX_TEXT_BYTES) }
    }
}

impl Budget {
    fn node<E: de::Error>(&self) -> Result<(), E> {
        let left = self.nodes.get().checked_sub(1);
        self.nodes.set(left.ok_or_else(|| E::custom(format!("more than {MAX_NODES} values")))?);
        Ok(())
    }

    fn text<E: de::Error>(&self, text: &str) -> Result<(), E> {
        let left = self.text.get().checked_sub(text.len());
        self.text.set(left.ok_or_else(|| E::custom("more than 4 MiB of text once aliases are expanded"))?);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    budget: &'a Budget,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.budget.node()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list, text, a number, true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.budget.text(value)?;
        Ok(Value::String(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(seed)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut seen = std::collections::HashSet::new();
        let mut fields = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            self.budget.text(&key)?;
            if seen.contains(&key) {
                return Err(de::Error::custom(format!("the field {} is there twice", quote(&key))));
            }
            let value = access.next_value_seed(seed)?;
            if !value.is_null() {
                fields.insert(key.clone(), value);
            }
            seen.insert(key);
        }
        Ok(Value::Object(fields))
    }
}
