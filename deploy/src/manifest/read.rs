//! Text to trees.

use std::collections::HashMap;
use std::fmt;

use granit_parser::{Event, Parser, Placement, ScalarStyle, ScanError, StructureStyle, Tag};

use super::{Document, Entry, Item, Node, Scalar, Style};

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What, and what to write instead.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Deeper nesting is nobody's manifest.
const MAX_DEPTH: usize = 64;
/// Anchors and aliases stand for copies: what they come to together may weigh this much. More is made to fill memory.
const MAX_COPIED: usize = 64 << 20;
/// What a value weighs beside its text.
const EACH: usize = 128;

/// What is longer in brackets gets lines of its own: JSON, mostly.
pub(super) const LONGEST_LINE: usize = 120;

/// The documents of a text.
///
/// # Errors
/// The first thing that cannot be understood.
pub fn read(text: &str) -> Result<Vec<Document>, Mistake> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        comments: Vec::new(),
        anchors: HashMap::new(),
        copied: 0,
        line: 1,
        at: 0,
        seen: None,
    };
    let mut documents = Vec::new();
    while let Some(event) = reader.next()? {
        match event {
            Event::DocumentStart(..) => documents.push(reader.document()?),
            Event::StreamEnd => break,
            _ => {}
        }
        // What stands behind a document belongs to it, and what stands before the first one to that.
        if let Some(last) = documents.last_mut() {
            last.comments.append(&mut reader.comments);
        }
    }
    match documents.last_mut() {
        Some(last) => last.comments.append(&mut reader.comments),
        None if !reader.comments.is_empty() => documents.push(Document { comments: reader.comments, root: None }),
        None => {}
    }
    Ok(documents)
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    comments: Vec<String>,
    anchors: HashMap<usize, Node>,
    copied: usize,
    line: usize,
    /// The place of what was read last, in characters.
    at: usize,
    /// A mistake that was met when nobody could be told.
    seen: Option<Mistake>,
}

fn mistake(error: &ScanError) -> Mistake {
    Mistake { line: error.marker().line(), what: error.info() }
}

impl<'t> Reader<'t> {
    /// The next event that is no comment.
    fn next(&mut self) -> Result<Option<Event<'t>>, Mistake> {
        loop {
            if let Some(seen) = self.seen.take() {
                return Err(seen);
            }
            match self.parser.next() {
                None => return Ok(None),
                Some(Err(error)) => return Err(mistake(&error)),
                Some(Ok((Event::Comment(text, _), _))) => self.comments.push(text.into_owned()),
                Some(Ok((event, span))) => {
                    self.line = span.start.line();
                    self.at = span.start.index();
                    return Ok(Some(event));
                }
            }
        }
    }

    /// How a collection is to be written that began here and ends at what was read last. What stood in brackets on one line may
    /// stand there again, if nothing in it has a comment.
    fn style(&self, style: StructureStyle, fits: bool, line: usize, at: usize) -> Style {
        let is_short = line == self.line && self.at - at < LONGEST_LINE;
        match style {
            StructureStyle::Flow if fits && is_short => Style::Flow,
            StructureStyle::Block | StructureStyle::Flow => Style::Block,
        }
    }

    /// Bears a copy of a value.
    fn copy(&mut self, node: &Node) -> Result<(), Mistake> {
        self.copied += weight(node);
        if self.copied > MAX_COPIED {
            return self.fail("anchors and aliases make this too large");
        }
        Ok(())
    }

    /// The comment behind what was read last, on its line.
    fn behind(&mut self) -> Option<String> {
        match self.parser.peek() {
            Some(Ok((Event::Comment(_, Placement::Right), _))) => {}
            // Nobody sees this mistake a second time.
            Some(Err(error)) => {
                self.seen = Some(mistake(&error));
                return None;
            }
            _ => return None,
        }
        match self.parser.next() {
            Some(Ok((Event::Comment(text, _), _))) => Some(text.into_owned()),
            _ => None,
        }
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, Mistake> {
        Err(Mistake { line: self.line, what: what.into() })
    }

    fn document(&mut self) -> Result<Document, Mistake> {
        self.anchors.clear();
        let root = match self.next()? {
            None | Some(Event::DocumentEnd | Event::StreamEnd) => None,
            Some(event) => Some(self.node(event, 0)?).filter(|root| !root.is_null()),
        };
        let comments = if root.is_none() { std::mem::take(&mut self.comments) } else { Vec::new() };
        Ok(Document { comments, root })
    }

    fn node(&mut self, event: Event<'t>, depth: usize) -> Result<Node, Mistake> {
        let (line, at) = (self.line, self.at);
        if depth > MAX_DEPTH {
            return self.fail(format!("nested more than {MAX_DEPTH} deep"));
        }
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = match tag {
                    Some(tag) => self.tagged(&tag, &text)?,
                    // Words with a meaning stand on one line.
                    None => style != ScalarStyle::Plain || text.contains('\n'),
                };
                let comment = self.behind();
                (anchor, Node::Scalar(Scalar { text: text.into_owned(), is_text, comment }))
            }
            Event::SequenceStart(.., Some(tag)) if !tag.is_yaml_core_schema_tag("seq") => return self.unknown(&tag),
            Event::MappingStart(.., Some(tag)) if !tag.is_yaml_core_schema_tag("map") => return self.unknown(&tag),
            Event::SequenceStart(style, anchor, _) => {
                let items = self.items(depth)?;
                let fits = items.iter().all(|item| item.comments.is_empty() && fits_a_line(&item.value));
                (anchor, Node::List(items, self.style(style, fits, line, at)))
            }
            Event::MappingStart(style, anchor, _) => {
                let entries = self.entries(depth)?;
                let bare = |entry: &Entry| entry.comments.is_empty() && entry.key.comment.is_none();
                let fits = entries.iter().all(|entry| bare(entry) && fits_a_line(&entry.value));
                (anchor, Node::Map(entries, self.style(style, fits, line, at)))
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else { return self.fail("an alias of nothing") };
                self.copy(&node)?;
                (0, node)
            }
            _ => return self.fail("this is no value"),
        };
        if anchor > 0 {
            self.copy(&node)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Whether a value is text by its tag, which is not written again: what it says can be said without.
    fn tagged(&self, tag: &Tag, text: &str) -> Result<bool, Mistake> {
        let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
        let is_core = |suffixes: &[&str]| suffixes.iter().any(|suffix| tag.is_yaml_core_schema_tag(suffix));
        match () {
            // As go-yaml writes merge keys.
            () if tag.suffix() == "merge" && text == "<<" => Ok(false),
            () if is_core(&["str"]) || (tag.handle().is_empty() && tag.suffix() == "!") => Ok(true),
            () if is_core(&["int", "float", "bool", "null"]) && is_word => Ok(false),
            () => self.unknown(tag),
        }
    }

    fn unknown<T>(&self, tag: &Tag) -> Result<T, Mistake> {
        self.fail(format!("`{}{}` is no tag for manifests; write the value without it", tag.original_handle(), tag.suffix()))
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Item>, Mistake> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                None => return self.fail("the text ends in a list"),
                Some(Event::SequenceEnd) => return Ok(items),
                Some(event) => {
                    let mut comments = std::mem::take(&mut self.comments);
                    let mut value = self.node(event, depth + 1)?;
                    // Behind the dash is above it, for that is how it is read once it is written.
                    comments.extend(leading(&mut value));
                    items.push(Item { comments, value });
                }
            }
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Mistake> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut known = HashMap::new();
        loop {
            let event = match self.next()? {
                None => return self.fail("the text ends in a mapping"),
                Some(Event::MappingEnd) => return Ok(entries),
                Some(event) => event,
            };
            let comments = std::mem::take(&mut self.comments);
            let Node::Scalar(mut key) = self.node(event, depth + 1)? else {
                return self.fail("a key must be a word; a template (`{{ ... }}`) must be rendered first, as by `helm template`");
            };
            let Some(event) = self.next()? else { return self.fail("a key without a value") };
            let value = self.node(event, depth + 1)?;
            if matches!(value, Node::List(_, Style::Flow) | Node::Map(_, Style::Flow)) {
                key.comment = key.comment.or_else(|| self.behind());
            }
            if key.text == "<<" && !key.is_text {
                merge(&mut entries, value, &mut known);
                continue;
            }
            if let Some(place) = known.get(&key.text).copied() {
                let merged: &mut Entry = &mut entries[place];
                if merged.comments.first().is_none_or(|mark| mark != MERGED) {
                    return self.fail(format!("`{}` is here twice", key.text));
                }
                *merged = Entry { comments, key, value };
                continue;
            }
            known.insert(key.text.clone(), entries.len());
            entries.push(Entry { comments, key, value });
        }
    }
}

/// Takes the comments above the first part of a collection.
fn leading(node: &mut Node) -> Vec<String> {
    let first = match node {
        Node::List(items, _) => items.first_mut().map(|item| &mut item.comments),
        Node::Map(entries, _) => entries.first_mut().map(|entry| &mut entry.comments),
        Node::Scalar(_) => None,
    };
    first.map_or_else(Vec::new, |comments| comments.extract_if(.., |comment| !is_mark(comment)).collect())
}

/// Marks what came by a merge key, which may be said again.
const MERGED: &str = "\0merged";

/// YAML 1.1's merge key, which kubectl knows.
fn merge(entries: &mut Vec<Entry>, value: Node, known: &mut HashMap<String, usize>) {
    let from: Vec<Node> = match value {
        Node::List(items, _) => items.into_iter().map(|item| item.value).collect(),
        other => vec![other],
    };
    for node in from {
        let Node::Map(more, _) = node else { continue };
        for entry in more {
            if !known.contains_key(&entry.key.text) {
                known.insert(entry.key.text.clone(), entries.len());
                entries.push(Entry { comments: vec![MERGED.to_owned()], ..entry });
            }
        }
    }
}

/// Whether a comment is one of ours.
pub(super) fn is_mark(comment: &str) -> bool {
    comment == MERGED
}

fn weight(node: &Node) -> usize {
    EACH + match node {
        Node::Scalar(scalar) => scalar.text.len(),
        Node::List(items, _) => items.iter().map(|item| weight(&item.value)).sum(),
        Node::Map(entries, _) => entries.iter().map(|entry| EACH + entry.key.text.len() + weight(&entry.value)).sum(),
    }
}

/// Whether a part of what is in brackets has no comments.
fn fits_a_line(node: &Node) -> bool {
    match node {
        Node::Scalar(scalar) => scalar.comment.is_none(),
        Node::List(items, style) => *style == Style::Flow || items.is_empty(),
        Node::Map(entries, style) => *style == Style::Flow || entries.is_empty(),
    }
}
