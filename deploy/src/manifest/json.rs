//! Trees and JSON.

use serde_json::{Map, Number, Value};

use super::{Document, Entry, Item, Node, Scalar, Style};

/// A tree as JSON, numbers and words as what they are in JSON.
pub fn to_json(node: &Node) -> Value {
    match node {
        node if node.is_null() => Value::Null,
        Node::Scalar(scalar) if scalar.is_text => Value::String(scalar.text.clone()),
        Node::Scalar(scalar) => plain(&scalar.text),
        Node::List(items, _) => items.iter().map(|item| to_json(&item.value)).collect(),
        Node::Map(entries, _) => {
            Value::Object(entries.iter().map(|entry| (entry.key.text.clone(), to_json(&entry.value))).collect::<Map<_, _>>())
        }
    }
}

/// What a word without quotes means to kubectl, which reads YAML 1.1: `yes` is true, and `0644` is 420.
fn plain(text: &str) -> Value {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    let digits = |prefix: &[&str], base| {
        prefix.iter().find_map(|prefix| {
            i64::from_str_radix(text.strip_prefix(prefix).filter(|rest| !rest.starts_with(['+', '-']))?, base).ok()
        })
    };
    if let Some(number) = digits(&["0x", "0X"], 16).or_else(|| digits(&["0o", "0"], 8)) {
        return number.into();
    }
    match serde_json::from_str::<Number>(text) {
        Ok(number) => match number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 1e15) {
            Some(whole) if !number.is_i64() && !number.is_u64() => (whole as i64).into(),
            _ => Value::Number(number),
        },
        Err(_) => Value::String(text.to_owned()),
    }
}

/// JSON as a tree.
pub fn from_json(value: &Value) -> Node {
    match value {
        Value::Null => Node::plain("null"),
        Value::Bool(word) => Node::plain(word),
        Value::Number(number) => Node::plain(number),
        Value::String(text) => Node::text(text),
        Value::Array(items) => Node::List(items.iter().map(|item| Item::from(from_json(item))).collect(), Style::Block),
        Value::Object(entries) => {
            let entry =
                |(key, value): (&String, &Value)| Entry { comments: Vec::new(), key: Scalar::text(key), value: from_json(value) };
            Node::Map(entries.iter().map(entry).collect(), Style::Block)
        }
    }
}

/// JSON objects one behind the other, as tools that print several write them; `None` if it is something else.
pub fn objects(text: &str) -> Option<Vec<Document>> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let values: Vec<Value> = values.collect::<Result<_, _>>().ok()?;
    let is_objects = !values.is_empty() && values.iter().all(Value::is_object);
    is_objects.then(|| values.iter().map(|value| Document { comments: Vec::new(), root: Some(from_json(value)) }).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_mean_what_kubectl_takes_them_for() {
        for (text, value) in [
            ("yes", json!(true)),
            ("off", json!(false)),
            ("0644", json!(420)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0", json!(0)),
            ("-3", json!(-3)),
            ("1e9", json!(1_000_000_000)),
            ("0.25", json!(0.25)),
            ("089", json!("089")),
            ("10m", json!("10m")),
            ("null", json!(null)),
            ("", json!(null)),
        ] {
            assert_eq!(to_json(&Node::plain(text)), value, "{text}");
        }
        assert_eq!(to_json(&Node::text("yes")), json!("yes"));
        let value = json!({ "a": [1, 2.5, null, true, "0644", { "b": "x" }] });
        assert_eq!(to_json(&from_json(&value)), value);
    }
}
