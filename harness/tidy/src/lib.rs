//! House rules as tests: what the compiler and clippy cannot see.
//!
//! # Theory
//! Each rule is a function from a [`Checkout`] (the committed files, read once) to complaints. A complaint names the file, the rule and what to do
//! instead. Rules are tried on made-up checkouts that break them (`tests.rs`) before the real one is judged (`tests/house.rs`).
//!
//! # Structures
//! | rule | holds |
//! |---|---|
//! | `arrows-down` | a crate uses crates of lower levels only; `os` and `sim` never meet; only `harness` knows both ([`crates`]) |
//! | `unsafe-ring` | only ring crates have lints of their own; all others inherit `unsafe_code = "forbid"` |
//! | `one-line-each` | every library from outside has its line in `docs/ARCHITECTURE.md` |
//! | `compiled-once` | a library without tests inside is not compiled for them, and no example is a hidden test |
//! | `goldens-pair` | every scenario has its goldens, every golden its scenario |
//! | `no-blob` | no committed file is over 256 KiB |
//! | `no-machine-path` | nothing names a folder of the machine it was written on |
//! | `no-blanket-allow` | no crate switches a lint off as a whole |
//!
//! # Limits
//! Text is searched, not parsed, except for manifests and scenarios. A file that is not UTF-8 is judged by its size only.

mod crates;
mod text;

pub use crates::{CRATES, RING, Row, arrows_down, compiled_once, one_line_each, unsafe_ring};
pub use text::{MAX_BLOB_BYTES, goldens_pair, no_blanket_allow, no_blob, no_machine_path};

use std::collections::BTreeMap;
use std::path::Path;

/// The files of a checkout by path, `/`-separated and relative to its root. Contents are `None` where they are not text.
#[derive(Clone, Debug, Default)]
pub struct Checkout {
    pub files: BTreeMap<String, File>,
}

#[derive(Clone, Debug)]
pub struct File {
    pub bytes: u64,
    pub text: Option<String>,
}

impl Checkout {
    /// Reads all files of the working tree that git knows or would take.
    pub fn read(root: &Path) -> std::io::Result<Self> {
        let listed = std::process::Command::new("git").current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).output()?;
        if !listed.status.success() {
            return Err(std::io::Error::other(String::from_utf8_lossy(&listed.stderr).into_owned()));
        }
        let mut files = BTreeMap::new();
        for path in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|path| !path.is_empty()) {
            // A file that git knows and that is gone is not committed as it stands.
            let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
            files.insert(path.to_owned(), File { bytes: bytes.len() as u64, text: String::from_utf8(bytes).ok() });
        }
        Ok(Self { files })
    }

    /// Text files whose path ends so.
    pub(crate) fn texts<'c>(&'c self, ending: &'c str) -> impl Iterator<Item = (&'c str, &'c str)> {
        self.files.iter().filter(move |(path, _)| path.ends_with(ending)).filter_map(|(path, file)| file.text.as_deref().map(|text| (path.as_str(), text)))
    }
}

/// All complaints of all rules.
#[must_use]
pub fn all(checkout: &Checkout) -> Vec<String> {
    let rules: [fn(&Checkout) -> Vec<String>; 8] = [arrows_down, unsafe_ring, one_line_each, compiled_once, goldens_pair, no_blob, no_machine_path, no_blanket_allow];
    rules.iter().flat_map(|rule| rule(checkout)).collect()
}

#[cfg(test)]
mod tests;
