//! A sidecar in a manifest: what is put there, and how it is taken out again.

pub mod settings;

pub use settings::{Resources, Said, Settings};
