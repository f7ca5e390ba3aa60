//! Structural mistakes: unknown fields, wrong types, missing fields, values outside their range.
//!
//! Walks the parsed tree against the JSON Schema generated from the types in [`crate::schema`], so the types are the
//! only description of the structure and every mistake is found in one run. Understands the part of JSON Schema that
//! those types produce, no more; a keyword it does not know is ignored here and still enforced by the typed pass.

use std::sync::LazyLock;

use serde_json::Value as Json;

use crate::error::{Diagnostic, Diagnostics, Path, suggest};
use crate::yaml::{Node, Value};

static SCHEMA: LazyLock<Json> = LazyLock::new(crate::schema::json_schema);

/// Reports every structural mistake of `tree`.
pub fn check(tree: &Node, found: &mut Diagnostics) {
    Walk { root: &SCHEMA, found }.value(tree, &SCHEMA, &Path::ROOT);
}

struct Walk<'a> {
    root: &'a Json,
    found: &'a mut Diagnostics,
}

impl<'a> Walk<'a> {
    fn value(&mut self, node: &Node, schema: &'a Json, path: &Path<'_>) {
        let schema = self.resolve(schema);
        if let Some(branches) = alternatives(schema) {
            self.alternatives(node, branches, path);
            return;
        }
        if let Some(kinds) = kinds(schema)
            && !kinds.iter().any(|kind| is_kind(node, kind))
        {
            self.wrong_kind(node, &kinds, schema, path);
            return;
        }
        match &node.value {
            Value::Mapping(entries) => self.mapping(node, entries, schema, path),
            Value::Sequence(items) => {
                if let Some(item_schema) = schema.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.value(item, item_schema, &path.index(index));
                    }
                }
            }
            Value::String(text) => self.string(node, text, schema, path),
            Value::Int(number) => self.number(node, *number, schema, path),
            Value::Null | Value::Bool(_) | Value::Float(_) => {}
        }
    }

    fn resolve(&self, mut schema: &'a Json) -> &'a Json {
        while let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            match self.root.pointer(reference.trim_start_matches('#')) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// `anyOf` / `oneOf`: pick the branch by what the node is, so that the message is about what was meant.
    fn alternatives(&mut self, node: &Node, branches: &'a [Json], path: &Path<'_>) {
        let words: Vec<&str> = branches.iter().flat_map(|b| constants(self.resolve(b))).collect();
        if let Value::String(text) = &node.value
            && words.contains(&text.as_str())
        {
            return;
        }
        let fitting = branches.iter().map(|b| self.resolve(b)).find(|branch| {
            constants(branch).is_empty() && kinds(branch).is_none_or(|kinds| kinds.iter().any(|kind| is_kind(node, kind)))
        });
        if let Some(branch) = fitting {
            return self.value(node, branch, path);
        }
        if let (Value::String(text), false) = (&node.value, words.is_empty()) {
            let mistake = Diagnostic::at(Some(node.position), path, format!("unknown value `{text}`"));
            self.found.push(mistake.hint(suggest(text, words)));
            return;
        }
        let mut wanted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        wanted.extend(
            branches
                .iter()
                .filter_map(|b| kinds(self.resolve(b)))
                .flatten()
                .filter(|k| words.is_empty() || *k != "string")
                .filter(|k| *k != "null")
                .map(|k| kind_name(k).to_owned()),
        );
        wanted.dedup();
        let message = format!("expected {}, not {}", wanted.join(" or "), node.kind());
        let mut mistake = Diagnostic::at(Some(node.position), path, message);
        if let Some(quoted) = quotable(node)
            && wanted.iter().any(|w| w == "a string")
        {
            mistake = mistake.hint(quoted);
        }
        self.found.push(mistake);
    }

    fn wrong_kind(&mut self, node: &Node, wanted: &[&str], schema: &Json, path: &Path<'_>) {
        let names: Vec<&str> = wanted.iter().filter(|k| **k != "null").map(|k| kind_name(k)).collect();
        let message = format!("expected {}, not {}", names.join(" or "), node.kind());
        let mut mistake = Diagnostic::at(Some(node.position), path, message);
        if wanted.contains(&"string") && schema.get("pattern").is_none() {
            if let Some(quoted) = quotable(node) {
                mistake = mistake.hint(quoted);
            }
        } else if wanted.contains(&"array") && !matches!(node.value, Value::Null) {
            mistake = mistake.hint("write it as a list: `[...]`");
        }
        if let (Some(example), None) = (schema.pointer("/examples/0"), &mistake.hint) {
            mistake = mistake.hint(format!("for example `{}`", example.as_str().unwrap_or(&example.to_string())));
        }
        self.found.push(mistake);
    }

    fn mapping(&mut self, node: &Node, entries: &[(crate::yaml::Key, Node)], schema: &'a Json, path: &Path<'_>) {
        let properties = schema.get("properties").and_then(Json::as_object);
        for (key, value) in entries {
            let here = path.key(&key.name);
            if let Some(property) = properties.and_then(|p| p.get(&key.name)) {
                self.value(value, property, &here);
                continue;
            }
            match schema.get("additionalProperties") {
                Some(Json::Bool(false)) => {
                    let known = properties.into_iter().flat_map(|p| p.keys()).map(String::as_str);
                    let mistake = Diagnostic::at(Some(key.position), &here, "unknown field");
                    self.found.push(mistake.hint(suggest(&key.name, known)));
                }
                Some(other) if other.is_object() => self.value(value, other, &here),
                _ => {}
            }
        }
        let required = schema.get("required").and_then(Json::as_array).into_iter().flatten();
        for name in required.filter_map(Json::as_str) {
            if !entries.iter().any(|(key, _)| key.name == name) {
                let position = entries.first().map_or(node.position, |(key, _)| key.position);
                let mut mistake = Diagnostic::at(Some(position), path, format!("the field `{name}` is missing"));
                let example =
                    properties.and_then(|p| p.get(name)).map(|p| self.resolve(p)).and_then(|p| p.pointer("/examples/0"));
                if let Some(example) = example {
                    mistake = mistake.hint(format!("for example `{name}: {}`", example.as_str().unwrap_or(&example.to_string())));
                }
                self.found.push(mistake);
            }
        }
    }

    fn string(&mut self, node: &Node, text: &str, schema: &Json, path: &Path<'_>) {
        let words = constants(schema);
        if !words.is_empty() && !words.contains(&text) {
            let mistake = Diagnostic::at(Some(node.position), path, format!("unknown value `{text}`"));
            self.found.push(mistake.hint(suggest(text, words)));
        }
        let Some(pattern) = schema.get("pattern").and_then(Json::as_str) else {
            return;
        };
        if regex::Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text)) {
            let title = schema.get("title").and_then(Json::as_str).unwrap_or("value");
            let mut mistake = Diagnostic::at(Some(node.position), path, format!("`{text}` is not a {title}"));
            if let Some(example) = schema.pointer("/examples/0").and_then(Json::as_str) {
                mistake = mistake.hint(format!("for example `{example}`"));
            }
            self.found.push(mistake);
        }
    }

    fn number(&mut self, node: &Node, number: i128, schema: &Json, path: &Path<'_>) {
        let limit = |name| schema.get(name).and_then(Json::as_f64);
        let (low, high) = (limit("minimum"), limit("maximum"));
        // Limits in the schema are small whole numbers, exact as f64.
        #[allow(clippy::cast_precision_loss)]
        let number_as_float = number as f64;
        if low.is_some_and(|low| number_as_float < low) || high.is_some_and(|high| number_as_float > high) {
            let range = match (low, high) {
                (Some(low), Some(high)) => format!("between {low} and {high}"),
                (Some(low), None) => format!("at least {low}"),
                (None, Some(high)) => format!("at most {high}"),
                (None, None) => String::new(),
            };
            self.found.push(Diagnostic::at(Some(node.position), path, format!("{number} must be {range}")));
        }
    }
}

fn alternatives(schema: &Json) -> Option<&[Json]> {
    let list = schema.get("anyOf").or_else(|| schema.get("oneOf"))?;
    list.as_array().map(Vec::as_slice)
}

fn kinds(schema: &Json) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Json::String(kind) => Some(vec![kind.as_str()]),
        Json::Array(kinds) => Some(kinds.iter().filter_map(Json::as_str).collect()),
        _ => None,
    }
}

fn constants(schema: &Json) -> Vec<&str> {
    if let Some(word) = schema.get("const").and_then(Json::as_str) {
        return vec![word];
    }
    if let Some(branches) = alternatives(schema) {
        return branches.iter().flat_map(constants).collect();
    }
    schema.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect()
}

fn is_kind(node: &Node, kind: &str) -> bool {
    match kind {
        "string" => matches!(node.value, Value::String(_)),
        "integer" => matches!(node.value, Value::Int(_)),
        "number" => matches!(node.value, Value::Int(_) | Value::Float(_)),
        "boolean" => matches!(node.value, Value::Bool(_)),
        "object" => matches!(node.value, Value::Mapping(_)),
        "array" => matches!(node.value, Value::Sequence(_)),
        "null" => matches!(node.value, Value::Null),
        _ => true,
    }
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "string" => "a string",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        "object" => "a mapping",
        "array" => "a list",
        _ => "a value",
    }
}

fn quotable(node: &Node) -> Option<String> {
    match &node.value {
        Value::Bool(b) => Some(format!("in quotes it is a string: \"{b}\"")),
        Value::Int(n) => Some(format!("in quotes it is a string: \"{n}\"")),
        Value::Float(n) => Some(format!("in quotes it is a string: \"{n}\"")),
        Value::Null | Value::String(_) | Value::Sequence(_) | Value::Mapping(_) => None,
    }
}
