//! Files of the host that travel in the initrd: chosen the same way every time, and kept on the host beside the run, so that the host's
//! own tools can be asked the same questions.

use scenario::Carry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Why files could not be carried.
#[derive(Debug)]
pub enum CarryError {
    /// A pattern is not a glob.
    Pattern { pattern: String, why: String },
    /// A file that was there is not readable.
    Unreadable { path: PathBuf, why: std::io::Error },
    /// The host has fewer files than the scenario needs.
    TooFew { patterns: Vec<String>, found: u64, needed: u64, unit: &'static str },
    /// Two files would have the same name in the guest.
    Clash { name: String },
}

impl std::fmt::Display for CarryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pattern { pattern, why } => write!(f, "`{pattern}` is not a file pattern: {why}"),
            Self::Unreadable { path, why } => write!(f, "cannot carry {}: {why}", path.display()),
            Self::TooFew { patterns, found, needed, unit } => write!(
                f,
                "the scenario needs {needed} {unit}, this host has {found} that match {}\n   = hint: a minimal Debian drops documentation; `apt-get install --reinstall` some packages, or see `path-exclude` in /etc/dpkg/dpkg.cfg.d",
                patterns.join(" ")
            ),
            Self::Clash { name } => write!(f, "two carried files would both be called {name}"),
        }
    }
}

impl std::error::Error for CarryError {}

/// Files by their path in the guest.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Carried {
    /// Total size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// Writes all files below `root`, replacing what an earlier run left there.
    pub fn stage(&self, root: &Path) -> std::io::Result<()> {
        if root.exists() {
            std::fs::remove_dir_all(root)?;
        }
        std::fs::create_dir_all(root)?;
        for (path, bytes) in &self.files {
            let at = root.join(path.trim_start_matches('/'));
            if let Some(folder) = at.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(at, bytes)?;
        }
        Ok(())
    }
}

/// Takes the files of one `[[carry]]`: regular files (links are followed, and no file is taken twice), pattern by pattern, in path order within
/// each; one that would pass `max_bytes` is left out. So later patterns fill up where the earlier ones find too little.
pub fn select(carry: &Carry) -> Result<Carried, CarryError> {
    let mut carried = Carried::default();
    let mut taken = BTreeSet::new();
    let mut total = 0u64;
    for pattern in &carry.from {
        let found = glob::glob(pattern).map_err(|error| CarryError::Pattern { pattern: pattern.clone(), why: error.msg.to_owned() })?;
        let mut names: Vec<PathBuf> = found.flatten().collect();
        names.sort();
        for name in names {
            let Ok(real) = name.canonicalize() else { continue };
            let size = real.metadata().map_or(u64::MAX, |data| data.len());
            if !real.is_file() || total.saturating_add(size) > carry.max_bytes || !taken.insert(real.clone()) {
                continue;
            }
            let bytes = std::fs::read(&real).map_err(|why| CarryError::Unreadable { path: real.clone(), why })?;
            total += bytes.len() as u64;
            let shown = name.to_string_lossy();
            let short = shown.strip_prefix(&carry.strip).unwrap_or(&shown).trim_start_matches('/');
            let inside = format!("{}/{short}", carry.to);
            if carried.files.insert(inside.clone(), bytes).is_some() {
                return Err(CarryError::Clash { name: inside });
            }
        }
    }
    let enough = |found: u64, needed: u64, unit| {
        if found < needed { Err(CarryError::TooFew { patterns: carry.from.clone(), found, needed, unit }) } else { Ok(()) }
    };
    enough(carried.files.len() as u64, carry.min_files, "files")?;
    enough(total, carry.min_bytes, "bytes")?;
    Ok(carried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_patterns_fill_up_and_no_file_is_taken_twice() {
        let root = std::env::temp_dir().join(format!("carry-test-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a folder of our own");
        for (name, size) in [("a.txt", 40), ("b.txt", 40), ("c.doc", 30), ("d.doc", 15)] {
            std::fs::write(root.join(name), "x".repeat(size)).expect("writes");
        }
        std::os::unix::fs::symlink("a.txt", root.join("link.txt")).expect("links");
        let mut carry = Carry {
            to: "/in".into(),
            from: vec![format!("{}/*.txt", root.display()), format!("{}/*.doc", root.display())],
            strip: root.display().to_string(),
            min_files: 1,
            min_bytes: 0,
            max_bytes: 100,
            zones: Vec::new(),
            line: 1,
        };
        let carried = select(&carry).expect("enough");
        assert_eq!(carried.files.keys().collect::<Vec<_>>(), ["/in/a.txt", "/in/b.txt", "/in/d.doc"]);
        carry.min_files = 4;
        assert!(matches!(select(&carry), Err(CarryError::TooFew { found: 3, needed: 4, .. })));
        std::fs::remove_dir_all(root).expect("was made here");
    }
}
