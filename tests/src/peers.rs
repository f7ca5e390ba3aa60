//! Programs and Python packages that a machine may have.

use std::process::{Command, Stdio};

/// A peer that some tests need.
#[derive(Debug, Clone, Copy)]
pub enum Peer {
    /// A program on the path.
    Program(&'static str),
    /// A Python module.
    Python(&'static str),
}

impl Peer {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Program(name) | Self::Python(name) => name,
        }
    }

    /// Whether the machine has it.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .chain([std::path::PathBuf::from("/usr/sbin")])
                .any(|dir| dir.join(name).is_file()),
            Self::Python(module) => Command::new("python3")
                .args(["-c", &format!("import {module}")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
        }
    }
}
