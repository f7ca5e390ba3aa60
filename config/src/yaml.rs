//! YAML text to a tree with positions, and to typed values. The one place that knows the YAML library.
//!
//! The tree exists so that *every* mistake of a text can be reported with its line: the typed pass stops at its first
//! one. Duplicate keys are found here, because a typed map would silently keep one of them.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::error::{Diagnostic, Diagnostics, Path, Step};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// 1-based line and column of the value.
    pub position: (u64, u64),
}

/// A YAML value.
#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing (`~`, or a key without a value).
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A sequence.
    Sequence(Vec<Node>),
    /// A mapping, in the order of the text, duplicates included.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone)]
pub struct Key {
    /// The key as text.
    pub name: String,
    /// 1-based line and column.
    pub position: (u64, u64),
}

impl Node {
    /// What the value is, for people: "a string", "a mapping".
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// Whether `steps` lead somewhere.
    pub(crate) fn has(&self, steps: &[Step]) -> bool {
        let mut node = self;
        steps.iter().all(|step| {
            let child = match (&node.value, step) {
                (Value::Mapping(entries), Step::Key(key)) => entries.iter().find(|(k, _)| k.name == *key).map(|(_, v)| v),
                (Value::Sequence(items), Step::Index(index)) => items.get(*index),
                _ => None,
            };
            child.inspect(|child| node = child).is_some()
        })
    }

    /// The position of the value (or key) that `steps` lead to, or of the nearest ancestor that exists.
    pub(crate) fn find(&self, steps: &[Step], on_key: bool) -> Option<(u64, u64)> {
        let mut node = self;
        let mut key_position = None;
        for step in steps {
            let child = match (&node.value, step) {
                (Value::Mapping(entries), Step::Key(key)) => entries.iter().find(|(k, _)| k.name == *key).map(|(k, v)| {
                    key_position = Some(k.position);
                    v
                }),
                (Value::Sequence(items), Step::Index(index)) => items.get(*index),
                _ => None,
            };
            match child {
                Some(child) => node = child,
                None => break,
            }
        }
        // A value that is a mapping starts on the line below its key; the key is where a reader looks.
        let block = matches!(node.value, Value::Mapping(_) | Value::Sequence(_) | Value::Null);
        match key_position {
            Some(position) if on_key || (block && matches!(steps.last(), Some(Step::Key(_)))) => Some(position),
            _ => Some(node.position),
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v.into()))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Int(v.into()))
    }
    fn visit_i128<E: de::Error>(self, v: i128) -> Result<Value, E> {
        Ok(Value::Int(v))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Node>()? {
            let name = match key.value {
                Value::String(name) => name,
                Value::Int(n) => n.to_string(),
                Value::Bool(b) => b.to_string(),
                Value::Null => "null".to_owned(),
                Value::Float(n) => n.to_string(),
                Value::Sequence(_) | Value::Mapping(_) => {
                    return Err(de::Error::custom("a key must be plain text, not a list or mapping"));
                }
            };
            entries.push((Key { name, position: key.position }, map.next_value::<Node>()?));
        }
        Ok(Value::Mapping(entries))
    }
}

struct Any(Value);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Any)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Any>::deserialize(deserializer)?;
        let position = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Node { value: spanned.value.0, position })
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
    }
}

fn diagnostic(error: &serde_saphyr::Error) -> Diagnostic {
    let position = error.location().map(|l| (l.line(), l.column()));
    let text = error.without_snippet().to_string();
    // The library appends the position, which the diagnostic already carries.
    let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
    if matches!(error.without_snippet(), serde_saphyr::Error::MultipleDocuments { .. }) {
        let text = "a second document begins here, and a configuration is one: leave out the `---`";
        return Diagnostic::at(position, &Path::ROOT, text).hint("manifests of Kubernetes are for `weir inject`");
    }
    Diagnostic::at(position, &Path::ROOT, text)
}

/// Parses the text to a tree and reports duplicate keys. `None` if the text is not YAML.
pub fn parse(text: &str, found: &mut Diagnostics) -> Option<Node> {
    if text.trim().is_empty() {
        found.push(
            Diagnostic::at(Some((1, 1)), &Path::ROOT, "the file is empty").hint("start with `listeners:`, or see `weir schema`"),
        );
        return None;
    }
    match serde_saphyr::from_str_with_options::<Node>(text, options()) {
        Ok(node) => {
            report_duplicates(&node, &Path::ROOT, found);
            Some(node)
        }
        Err(error) => {
            found.push(diagnostic(&error));
            None
        }
    }
}

/// Parses the text to a typed value.
pub(crate) fn typed<T: DeserializeOwned>(text: &str) -> Result<T, Box<Diagnostic>> {
    serde_saphyr::from_str_with_options::<T>(text, options()).map_err(|error| Box::new(diagnostic(&error)))
}

fn report_duplicates(node: &Node, path: &Path<'_>, found: &mut Diagnostics) {
    match &node.value {
        Value::Mapping(entries) => {
            for (index, (key, value)) in entries.iter().enumerate() {
                let here = path.key(&key.name);
                if let Some((first, _)) = entries[..index].iter().find(|(k, _)| k.name == key.name) {
                    found.push(
                        Diagnostic::at(Some(key.position), &here, "this key is already given")
                            .hint(format!("it first stands on line {}; keep one of the two", first.position.0)),
                    );
                }
                report_duplicates(value, &here, found);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                report_duplicates(item, &path.index(index), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {}
    }
}
