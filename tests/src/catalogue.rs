//! The catalogue of errors as weir itself prints it, so that tests expect what is documented and nothing else.

use std::collections::BTreeMap;
use std::process::Command;

use crate::Result;
use crate::weir::binary;

/// What is promised of one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The HTTP status.
    pub status: u16,
    /// The status for gRPC callers.
    pub grpc: u16,
    /// Envoy's flag.
    pub flag: String,
}

/// Every error, by its code.
#[derive(Debug)]
pub struct Catalogue(BTreeMap<String, Row>);

impl Catalogue {
    /// Asks `weir errors --markdown`.
    ///
    /// # Errors
    /// What it says cannot be understood.
    pub fn read() -> Result<Self> {
        let said = Command::new(binary()).args(["errors", "--markdown"]).output()?;
        let text = String::from_utf8(said.stdout)?;
        let (rest, malformed) = text.split_once("## Malformed requests").ok_or("no part about malformed requests")?;
        // Those of TLS have two codes each, and `mesh` provokes them.
        let (usual, _) = rest.split_once("## TLS").ok_or("no part about TLS")?;
        // Their flag and gRPC status are said once for all of them.
        let (_, shared) = malformed.split_once("With flag `").ok_or("no flag of malformed requests")?;
        let (flag, shared) = shared.split_once("` and gRPC status ").ok_or("no gRPC status of malformed requests")?;
        let grpc: u16 = shared.split('.').next().unwrap_or_default().parse()?;
        let mut rows = BTreeMap::new();
        for cells in table(usual) {
            let [code, status, grpc, flag, ..] = cells[..] else { return Err(format!("{cells:?}").into()) };
            rows.insert(code.to_owned(), Row { status: status.parse()?, grpc: grpc.parse()?, flag: flag.to_owned() });
        }
        for cells in table(malformed) {
            rows.insert(cells[0].to_owned(), Row { status: cells[1].parse()?, grpc, flag: flag.to_owned() });
        }
        Ok(Self(rows))
    }

    /// What is promised of an error.
    ///
    /// # Panics
    /// There is no such code.
    pub fn row(&self, code: &str) -> &Row {
        self.0.get(code).unwrap_or_else(|| panic!("no error {code} in the catalogue"))
    }

    /// Every code.
    pub fn codes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The cells of the rows that begin with a code.
fn table(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    rows.map(|line| line.split(" | ").map(|cell| cell.trim_end_matches('`')).collect())
}
