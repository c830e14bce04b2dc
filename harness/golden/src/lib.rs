//! Goldens: what a run printed when somebody last looked and said it was right.
//!
//! # Theory
//! A golden is read by reviewers, in a diff. So it holds no times, no addresses and no counts that change with every build. Such parts are
//! replaced by the name of what they are (`[TIME]`, `[ADDRESS]`), by one [`Rule`] each, in one table, applied to the part of a line that the
//! format defines, never to whatever happens to look like a number.
//!
//! # Structures
//! [`normalise`] turns what was printed into what is kept; [`Store`] knows where that is; [`Verdict`] says how they compare.
//!
//! # Failure
//! A golden that is missing, or not UTF-8, is a difference like any other and says what to do about it.
//!
//! # Limits
//! A golden is at most [`MAX_BYTES`]; what is longer is no text a person judges, and the scenario should keep another stream.

mod rules;

pub use rules::{RULES, Rule, normalise};

use similar::{ChangeTag, TextDiff};
use std::path::{Path, PathBuf};

/// Longest golden.
pub const MAX_BYTES: usize = 128 << 10;

/// Where goldens live: `<folder>/<scenario>.<stream>`.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// How what was printed compares with the golden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// There is none yet.
    Missing { path: PathBuf },
    /// It differs; the diff is what a person reads.
    Differs { path: PathBuf, diff: String },
    /// What was printed is longer than a golden may be.
    TooLong { bytes: usize },
    /// It is there and cannot be read.
    Unreadable { path: PathBuf, why: String },
}

impl Store {
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The file of a golden.
    #[must_use]
    pub fn path(&self, scenario: &str, stream: &str) -> PathBuf {
        self.folder.join(format!("{scenario}.{stream}"))
    }

    /// Compares text (already normalised) with the golden.
    #[must_use]
    pub fn compare(&self, scenario: &str, stream: &str, text: &str) -> Verdict {
        let path = self.path(scenario, stream);
        if text.len() > MAX_BYTES {
            return Verdict::TooLong { bytes: text.len() };
        }
        match std::fs::read_to_string(&path) {
            Ok(golden) if golden == text => Verdict::Same,
            Ok(golden) => Verdict::Differs { path, diff: diff(&golden, text) },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Verdict::Missing { path },
            Err(error) => Verdict::Unreadable { path, why: error.to_string() },
        }
    }

    /// Makes `text` the golden. Says whether that changed anything.
    pub fn bless(&self, scenario: &str, stream: &str, text: &str) -> std::io::Result<bool> {
        let path = self.path(scenario, stream);
        if std::fs::read_to_string(&path).is_ok_and(|golden| golden == text) {
            return Ok(false);
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, text)?;
        Ok(true)
    }
}

/// A diff with three lines around each change, in the order golden (`-`), now (`+`).
#[must_use]
pub fn diff(golden: &str, now: &str) -> String {
    let diff = TextDiff::from_lines(golden, now);
    let mut text = String::from("--- golden\n+++ now\n");
    for (index, group) in diff.grouped_ops(3).iter().enumerate() {
        if index > 0 {
            text.push_str("  ...\n");
        }
        for operation in group {
            for change in diff.iter_changes(operation) {
                let sign = match change.tag() {
                    ChangeTag::Delete => '-',
                    ChangeTag::Insert => '+',
                    ChangeTag::Equal => ' ',
                };
                let number = change.new_index().or(change.old_index()).map_or(0, |index| index + 1);
                text.push_str(&format!("{sign}{number:>5}  {}\n", change.value().trim_end_matches('\n')));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diff_shows_what_changed_with_its_line() {
        let text = diff("a\nb\nc\n", "a\nx\nc\n");
        assert!(text.contains("-    2  b\n+    2  x\n"), "{text}");
        assert!(text.contains("     1  a\n"), "{text}");
    }

    #[test]
    fn store_goes_from_missing_to_same_to_differs() {
        let folder = std::env::temp_dir().join(format!("golden-test-{}", std::process::id()));
        let store = Store::new(&folder);
        assert!(matches!(store.compare("bad/x", "console", "a\n"), Verdict::Missing { .. }));
        assert!(store.bless("bad/x", "console", "a\n").expect("writes"));
        assert!(!store.bless("bad/x", "console", "a\n").expect("writes"));
        assert_eq!(store.compare("bad/x", "console", "a\n"), Verdict::Same);
        assert!(matches!(store.compare("bad/x", "console", "b\n"), Verdict::Differs { .. }));
        assert!(matches!(store.compare("bad/x", "console", &"b".repeat(MAX_BYTES + 1)), Verdict::TooLong { .. }));
        std::fs::remove_dir_all(folder).expect("was made here");
    }
}
