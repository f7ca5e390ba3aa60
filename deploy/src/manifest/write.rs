//! Trees to text.

use std::fmt::Write;

use super::read::{LONGEST_LINE, is_mark};
use super::{Document, Entry, Node, Scalar, Style};

/// A longer key needs a mark before it (YAML 1.2.2, section 7.4.2: 1024 characters).
const LONGEST_KEY: usize = 1000;

/// The text of documents.
pub fn write(documents: &[Document]) -> String {
    let mut out = String::new();
    for (place, document) in documents.iter().enumerate() {
        // Before a first one that says nothing too, or its comments would be those of the next.
        if place > 0 || document.root.is_none() && documents.len() > 1 {
            out.push_str("---\n");
        }
        match &document.root {
            Some(root @ Node::Map(entries, _)) if !entries.is_empty() => block(&mut out, root, 0),
            Some(root @ Node::List(items, _)) if !items.is_empty() => block(&mut out, root, 0),
            Some(root) => {
                inline(&mut out, root);
                out.push('\n');
            }
            None => {}
        }
        comments(&mut out, &document.comments, 0);
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn comments(out: &mut String, comments: &[String], depth: usize) {
    for comment in comments.iter().filter(|comment| !is_mark(comment)) {
        indent(out, depth);
        let _ = writeln!(out, "#{comment}");
    }
}

/// A collection that is not empty, each of its values on lines of its own.
fn block(out: &mut String, node: &Node, depth: usize) {
    match node {
        Node::Map(entries, _) => {
            for entry in entries {
                comments(out, &entry.comments, depth);
                indent(out, depth);
                entry_of_block(out, entry, depth);
            }
        }
        Node::List(items, _) => {
            for item in items {
                comments(out, &item.comments, depth);
                indent(out, depth);
                out.push('-');
                match &item.value {
                    node @ Node::Map(entries, _)
                        if brackets(node).is_none() && entries[0].comments.iter().all(|c| is_mark(c)) =>
                    {
                        // The first key stands behind the dash.
                        let mut text = String::new();
                        block(&mut text, node, depth + 1);
                        out.push(' ');
                        out.push_str(text.trim_start_matches(' '));
                    }
                    other => value(out, other, depth, None),
                }
            }
        }
        Node::Scalar(_) => {}
    }
}

fn entry_of_block(out: &mut String, entry: &Entry, depth: usize) {
    let mut key = String::new();
    scalar(&mut key, &entry.key);
    if key.chars().count() <= LONGEST_KEY {
        out.push_str(&key);
        out.push(':');
        return value(out, &entry.value, depth, Some(&entry.key));
    }
    out.push_str("? ");
    out.push_str(&key);
    behind(out, entry.key.comment.as_deref());
    indent(out, depth);
    out.push(':');
    value(out, &entry.value, depth, None);
}

/// What stands behind a key or a dash. Lists stand under their key, not behind it, as in most manifests.
fn value(out: &mut String, node: &Node, depth: usize, key: Option<&Scalar>) {
    let of_key = key.and_then(|key| key.comment.as_deref());
    match node {
        Node::Scalar(text) => {
            let comment = text.comment.as_deref().or(of_key);
            if is_block(&text.text) {
                out.push(' ');
                literal(out, &text.text, depth + 1, comment);
                // Behind the last line of a block a comment would be text.
                out.push('\n');
                return;
            }
            if !text.text.is_empty() || text.is_text {
                out.push(' ');
                scalar(out, text);
            }
            behind(out, comment);
        }
        Node::Map(..) | Node::List(..) => match brackets(node) {
            Some(text) => {
                out.push(' ');
                out.push_str(&text);
                behind(out, of_key);
            }
            None => {
                behind(out, of_key);
                let is_list_of_key = key.is_some() && matches!(node, Node::List(..));
                block(out, node, if is_list_of_key { depth } else { depth + 1 });
            }
        },
    }
}

/// A collection in brackets, if it is to be written so: it was, and still fits, or there is nothing in it.
fn brackets(node: &Node) -> Option<String> {
    fn allows(node: &Node) -> bool {
        match node {
            Node::Scalar(_) => true,
            Node::List(items, style) => {
                items.is_empty() || (*style == Style::Flow && items.iter().all(|item| allows(&item.value)))
            }
            Node::Map(entries, style) => {
                entries.is_empty() || (*style == Style::Flow && entries.iter().all(|entry| allows(&entry.value)))
            }
        }
    }
    if !allows(node) {
        return None;
    }
    let mut text = String::new();
    inline(&mut text, node);
    (text.chars().count() < LONGEST_LINE).then_some(text)
}

/// Ends a line, with a comment if there is one.
fn behind(out: &mut String, comment: Option<&str>) {
    if let Some(comment) = comment {
        let _ = write!(out, " #{comment}");
    }
    out.push('\n');
}

/// With brackets.
fn inline(out: &mut String, node: &Node) {
    match node {
        Node::Scalar(text) if text.text.is_empty() && !text.is_text => out.push_str("null"),
        // What needs no quotes on a line of its own would be several values here.
        Node::Scalar(text) if text.text.contains([',', '[', ']', '{', '}']) => quoted(out, &text.text),
        Node::Scalar(text) => scalar(out, text),
        Node::List(items, _) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place > 0 { ", " } else { "" });
                inline(out, &item.value);
            }
            out.push(']');
        }
        Node::Map(entries, _) if entries.is_empty() => out.push_str("{}"),
        Node::Map(entries, _) => {
            out.push_str("{ ");
            for (place, entry) in entries.iter().enumerate() {
                out.push_str(if place > 0 { ", " } else { "" });
                scalar(out, &entry.key);
                out.push_str(": ");
                inline(out, &entry.value);
            }
            out.push_str(" }");
        }
    }
}

/// On one line.
fn scalar(out: &mut String, scalar: &Scalar) {
    let text = &scalar.text;
    match scalar.is_text {
        // In brackets a sign may stand for itself; on a line of its own it means something.
        false if !text.contains('\n') && !matches!(&**text, "?" | "-" | ":") => out.push_str(text),
        _ if is_harmless(text) => out.push_str(text),
        _ => quoted(out, text),
    }
}

/// Whether text can stand as a block of lines.
fn is_block(text: &str) -> bool {
    let printable = |c: char| c == '\n' || c == '\t' || !needs_escape(c);
    text.trim_end_matches('\n').contains('\n')
        && text.chars().all(printable)
        && !text.starts_with([' ', '\t', '\n'])
        && !text.lines().any(|line| line.ends_with([' ', '\t']))
}

fn literal(out: &mut String, text: &str, depth: usize, comment: Option<&str>) {
    let body = text.trim_end_matches('\n');
    let ends = text.len() - body.len();
    out.push_str(match ends {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    if let Some(comment) = comment {
        let _ = write!(out, " #{comment}");
    }
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
    }
    out.extend(std::iter::repeat_n('\n', ends.saturating_sub(1)));
}

/// Whether text reads the same without quotes, by YAML 1.1 as by 1.2.
fn is_harmless(text: &str) -> bool {
    const WORDS: [&str; 12] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./ ".contains(c);
    begins && !text.ends_with(' ') && text.chars().all(fits) && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// What no YAML text may have as it is, or what ends a line for some who read it.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn quoted(out: &mut String, text: &str) {
    if text.contains('"') && !text.chars().any(needs_escape) {
        let _ = write!(out, "'{}'", text.replace('\'', "''"));
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if needs_escape(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Item, read};
    use super::*;

    const MANIFEST: &str = r#"# what this is
apiVersion: v1
kind: Pod
metadata:
  name: web # here
  labels: { app: web, tier: "1" } # behind brackets
  annotations:
    empty: ""
    none:
    octal: "0644"
spec:
  # all of them
  containers:
  - name: web
    image: nginx:1.27
    args: ["-c", 'it''s', "a: b"]
    command:
    - sh
    - -c
    - |
      echo "one"
        two

      three
    # the port
    ports:
    - containerPort: 8080
    - containerPort: 9090
  - name: more
    args: [
      "-v", # what for
      "-w"
    ]
  many: one

    two # of several lines
  volumes: # behind a key
  - name: v
    secret:
      defaultMode: 0644
      optional: yes
  terminationGracePeriodSeconds: 30
"#;

    #[test]
    fn what_is_not_touched_stays() {
        let documents = read(MANIFEST).unwrap();
        let written = write(&documents);
        assert_eq!(bare(&read(&written).unwrap()), bare(&documents), "{written}");
        for line in [
            "      defaultMode: 0644",
            "      optional: yes",
            "    octal: \"0644\"",
            "  # all of them",
            "      echo \"one\"",
            "    # the port",
            "  name: web # here",
            "  labels: { app: web, tier: \"1\" } # behind brackets",
            "    - \"-v\" # what for",
            "  volumes: # behind a key",
            "  many: |- # of several lines",
        ] {
            assert!(written.lines().any(|written| written == line), "`{line}` is not in\n{written}");
        }
        assert_eq!(write(&read(&written).unwrap()), written);
    }

    #[test]
    fn documents_aliases_and_merges() {
        let text = "a: &a {x: 1, y: [2]}\nb: *a\nc:\n  <<: *a\n  y: 3\n---\n# nothing\n---\n[1, 2]\n";
        let documents = read(text).unwrap();
        assert_eq!(documents.len(), 3);
        let root = documents[0].root.as_ref().unwrap();
        assert_eq!(root.at(&["b", "x"]).and_then(Node::as_text), Some("1"));
        assert_eq!(root.at(&["c", "x"]).and_then(Node::as_text), Some("1"));
        assert_eq!(root.at(&["c", "y"]).and_then(Node::as_text), Some("3"));
        assert_eq!(documents[1].root, None);
        let again = read(&write(&documents)).unwrap();
        assert_eq!(again.len(), 3);
    }

    #[test]
    fn tags_are_said_without_them() {
        let merged = write(&read("a: &a {x: 1}\nb: { !!merge <<: *a, y: 2 }\n").unwrap());
        assert!(merged.ends_with("b:\n  x: 1\n  y: 2\n"), "{merged}");
        let text = "a: !!int '5'\nb: !!str 5\nc: !!bool \"yes\"\nd: !!null ''\ne: !!map {f: !!seq [1]}\ng: ! 6\n";
        let written = write(&read(text).unwrap());
        assert_eq!(written, "a: 5\nb: \"5\"\nc: yes\nd:\ne: { f: [1] }\ng: \"6\"\n");
    }

    #[test]
    fn comments_stay_in_their_document() {
        for (text, written) in [
            ("---\n# nothing\n---\na: 1\n# behind\n---\n# before\nb: 2\n", None),
            ("# first\n---\na: 1\n", Some("# first\na: 1\n")),
            ("# only\n", None),
            ("---\na: 1\n# behind\n---\n# nothing\n---\nb: 2\n", Some("a: 1\n# behind\n---\n# nothing\n---\nb: 2\n")),
        ] {
            assert_eq!(write(&read(text).unwrap()), written.unwrap_or(text));
        }
        // What was in brackets on several lines gets lines of its own.
        let signs = write(&read("a: [\n  ?]\n").unwrap());
        assert_eq!(write(&read(&signs).unwrap()), signs);
        // Wherever a comment stands at a dash, it finds its place at once.
        for text in ["-\n  # c\n  - a\n", "- # c\n  a: 1\n", "-\n  # c\n  -\n    # d\n    a: 1\n", "- [ # c\n  a ]\n"] {
            let once = write(&read(text).unwrap());
            assert!(once.starts_with("# c\n"), "{once}");
            assert_eq!(write(&read(&once).unwrap()), once);
        }
    }

    #[test]
    fn one_value_stays_one() {
        let text = "x: &cmd one, two\nargs: [--hosts, *cmd]\n";
        let written = write(&read(text).unwrap());
        let root = read(&written).unwrap().remove(0).root.unwrap();
        let args: Vec<&str> = root.get("args").unwrap().items().filter_map(Node::as_text).collect();
        assert_eq!(args, ["--hosts", "one, two"], "{written}");
    }

    #[test]
    fn what_is_no_manifest() {
        for text in [
            "a: [",
            "a: 1\na: 2\n",
            "? [a]\n: b\n",
            "a: *b\n",
            "a: 'b",
            // Mistakes right behind a value, where a comment may stand.
            "a:\n- b: c\n  d: [x, !--y: z\n  e: 1\n",
            "a: b\n\tc: d\n",
            "a: {b: c # d\ne: f\n",
            // Tags that mean nothing to Kubernetes, or are not what they say.
            "a: !Ref b\n",
            "a: !!binary aGk=\n",
            "a: !!int 'b: c'\n",
            "a: !!set {b}\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let bomb = (0..30).fold("a0: &a0 [x, x]\n".to_owned(), |all, n| format!("{all}a{0}: &a{0} [*a{n}, *a{n}]\n", n + 1));
        assert!(read(&bomb).is_err());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(100));
        assert!(read(&long).is_err());
    }

    /// Without comments, and without how collections were written.
    fn bare(documents: &[Document]) -> Vec<Option<Node>> {
        fn strip(node: &Node) -> Node {
            match node {
                Node::Scalar(scalar) => Node::Scalar(scalar.clone()),
                Node::List(items, _) => Node::list(items.iter().map(|item| strip(&item.value))),
                Node::Map(entries, _) => Node::map(entries.iter().map(|entry| (entry.key.text.clone(), strip(&entry.value)))),
            }
        }
        documents.iter().map(|document| document.root.as_ref().map(strip)).collect()
    }

    fn nodes() -> impl Strategy<Value = Node> {
        let words = prop_oneof![
            any::<String>(),
            "[ -~\n]{0,12}",
            "[\u{fff0}-\u{ffff}\"\n]{1,4}",
            Just("- a".to_owned()),
            Just("a: b".to_owned())
        ];
        let leaf = prop_oneof![
            words.prop_map(Node::text),
            any::<i32>().prop_map(Node::plain),
            Just(Node::plain("yes")),
            Just(Node::plain("")),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                (prop::collection::vec(inner.clone(), 0..5), any::<bool>()).prop_map(|(items, flow)| {
                    let items = items.into_iter().map(|value| Item { comments: Vec::new(), value }).collect();
                    Node::List(items, if flow { Style::Flow } else { Style::Block })
                }),
                prop::collection::btree_map("[a-z./:# -]{1,8}|[a-z #]{990,1010}|é{2000}", inner, 0..5).prop_map(Node::map),
            ]
        })
    }

    proptest! {
        /// Whatever is written is read as what it was.
        #[test]
        fn there_and_back(root in nodes()) {
            prop_assume!(!root.is_null());
            let documents = [Document { comments: Vec::new(), root: Some(root) }];
            let written = write(&documents);
            let again = read(&written).map_err(|error| TestCaseError::fail(format!("{error}\n{written}")))?;
            prop_assert_eq!(same(&bare(&again)), same(&bare(&documents)), "{}", written);
        }

        #[test]
        fn no_text_is_too_strange(text: String) {
            let _ = read(&text);
        }
    }

    /// An empty value and `null` are one, and so is a word with and without quotes.
    fn same(documents: &[Option<Node>]) -> Vec<Option<Node>> {
        fn normal(node: &Node) -> Node {
            match node {
                node if node.is_null() => Node::plain(""),
                Node::Scalar(scalar) => {
                    Node::Scalar(Scalar { is_text: scalar.is_text || is_harmless(&scalar.text), ..scalar.clone() })
                }
                Node::List(items, _) => Node::list(items.iter().map(|item| normal(&item.value))),
                Node::Map(entries, _) => Node::map(entries.iter().map(|entry| (entry.key.text.clone(), normal(&entry.value)))),
            }
        }
        documents.iter().map(|root| root.as_ref().map(normal)).collect()
    }
}
