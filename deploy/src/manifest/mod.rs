//! Manifests as people write them: YAML text to a tree and back, so that what is not touched stays what it was.
//!
//! Scalars keep the way in which they were written, for `0644`, `yes` and `1e3` mean one thing to Kubernetes and another to YAML
//! 1.2; comments keep their place; aliases are resolved. The tree decides nothing of what a manifest means.

pub mod json;
mod read;
mod write;

pub use read::{Mistake, read};
pub use write::write;

/// A value of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Anything that has no parts.
    Scalar(Scalar),
    /// A list.
    List(Vec<Item>, Style),
    /// A mapping, in the order of the text.
    Map(Vec<Entry>, Style),
}

/// How a collection was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// By indentation.
    #[default]
    Block,
    /// With brackets.
    Flow,
}

/// A value without parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// What it says.
    pub text: String,
    /// Whether it is text whatever it says: it was quoted, or a block.
    pub is_text: bool,
    /// The comment behind it, on its line; behind a key, also that of a value in brackets.
    pub comment: Option<String>,
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Comments above it.
    pub comments: Vec<String>,
    /// The value.
    pub value: Node,
}

/// An entry of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Comments above it.
    pub comments: Vec<String>,
    /// The key.
    pub key: Scalar,
    /// The value.
    pub value: Node,
}

/// One document of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Comments that belong to no value of it.
    pub comments: Vec<String>,
    /// What it says; `None` if it is empty.
    pub root: Option<Node>,
}

impl Node {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Scalar(Scalar::text(text))
    }

    /// A number or a word with a meaning of its own.
    pub fn plain(text: impl ToString) -> Self {
        Self::Scalar(Scalar { text: text.to_string(), is_text: false, comment: None })
    }

    /// A mapping.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        let entry = |(key, value): (K, Self)| Entry { comments: Vec::new(), key: Scalar::text(key), value };
        Self::Map(entries.into_iter().map(entry).collect(), Style::Block)
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().map(Item::from).collect(), Style::Block)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries, _) = self else { return None };
        entries.iter().find(|entry| entry.key.text == key).map(|entry| &entry.value)
    }

    /// The value of a key.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Self::Map(entries, _) = self else { return None };
        entries.iter_mut().find(|entry| entry.key.text == key).map(|entry| &mut entry.value)
    }

    /// Puts a value in place of the one that the key has, or behind all others.
    pub fn set(&mut self, key: &str, value: Self) {
        let Self::Map(entries, _) = self else { return };
        match entries.iter_mut().find(|entry| entry.key.text == key) {
            Some(entry) => entry.value = value,
            None => entries.push(Entry { comments: Vec::new(), key: Scalar::text(key), value }),
        }
    }

    /// Takes a key and its value away.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let Self::Map(entries, _) = self else { return None };
        let place = entries.iter().position(|entry| entry.key.text == key)?;
        Some(entries.remove(place).value)
    }

    /// The value of a key, which is made as an empty mapping if there is none; `None` if this is no mapping.
    pub fn map_at(&mut self, key: &str) -> Option<&mut Self> {
        self.made(key, || Self::Map(Vec::new(), Style::Block))
    }

    /// The items of the list of a key, which is made if there is none; `None` if it is something else.
    pub fn list_at(&mut self, key: &str) -> Option<&mut Vec<Item>> {
        match self.made(key, || Self::List(Vec::new(), Style::Block))? {
            Self::List(items, style) => {
                // Brackets around nothing are no style.
                *style = if items.is_empty() { Style::Block } else { *style };
                Some(items)
            }
            Self::Scalar(_) | Self::Map(..) => None,
        }
    }

    fn made(&mut self, key: &str, make: impl Fn() -> Self) -> Option<&mut Self> {
        if self.get(key).is_none_or(Self::is_null) {
            self.set(key, make());
        }
        self.get_mut(key)
    }

    /// Takes away what the key has if nothing is in it.
    pub fn remove_if_empty(&mut self, key: &str) {
        let is_empty = match self.get(key) {
            Some(Self::Map(entries, _)) => entries.is_empty(),
            Some(Self::List(items, _)) => items.is_empty(),
            Some(Self::Scalar(_)) | None => false,
        };
        if is_empty {
            self.remove(key);
        }
    }

    /// What keys one after the other lead to.
    pub fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Text, if that or a plain word is what it is.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) if !scalar.is_null() => Some(&scalar.text),
            Self::Scalar(_) | Self::List(..) | Self::Map(..) => None,
        }
    }

    /// The values of a list.
    pub fn items(&self) -> impl Iterator<Item = &Self> {
        let items = match self {
            Self::List(items, _) => &items[..],
            Self::Scalar(_) | Self::Map(..) => &[],
        };
        items.iter().map(|item| &item.value)
    }

    /// The entries of a mapping.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        let entries = match self {
            Self::Map(entries, _) => &entries[..],
            Self::Scalar(_) | Self::List(..) => &[],
        };
        entries.iter().map(|entry| (&*entry.key.text, &entry.value))
    }

    /// Whether it says nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.is_null())
    }
}

impl From<Node> for Item {
    fn from(value: Node) -> Self {
        Self { comments: Vec::new(), value }
    }
}

impl Scalar {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_text: true, comment: None }
    }

    fn is_null(&self) -> bool {
        !self.is_text && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}
