//! Manifests as people write them: YAML text to a tree and back, so that what is not touched stays what it was.
//!
//! Scalars keep the way in which they were written, for `0644`, `yes` and `1e3` mean one thing to Kubernetes and another to YAML
//! 1.2; comments keep their place; aliases are resolved. The tree decides nothing of what a manifest means.

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
        Self::Scalar(Scalar { text: text.into(), is_text: true })
    }

    /// A number or a word with a meaning of its own.
    pub fn plain(text: impl ToString) -> Self {
        Self::Scalar(Scalar { text: text.to_string(), is_text: false })
    }

    /// A mapping.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        let entry =
            |(key, value): (K, Self)| Entry { comments: Vec::new(), key: Scalar { text: key.into(), is_text: true }, value };
        Self::Map(entries.into_iter().map(entry).collect(), Style::Block)
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().map(|value| Item { comments: Vec::new(), value }).collect(), Style::Block)
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

impl Scalar {
    fn is_null(&self) -> bool {
        !self.is_text && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}
