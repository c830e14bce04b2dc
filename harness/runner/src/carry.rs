//! Files of the host that travel in the initrd: chosen the same way every time, and kept on the host beside the run, so that the host's
//! own tools can be asked the same questions.

use scenario::Carry;
use std::collections::BTreeMap;
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

/// Takes the files of one `[[carry]]`: regular files (links are followed, then a file that was taken under another name is left out), in
/// path order, until the next would pass `max_bytes`.
pub fn select(carry: &Carry) -> Result<Carried, CarryError> {
    let mut paths = BTreeMap::new();
    for pattern in &carry.from {
        let found = glob::glob(pattern).map_err(|error| CarryError::Pattern { pattern: pattern.clone(), why: error.msg.to_owned() })?;
        for path in found.flatten() {
            let Ok(real) = path.canonicalize() else { continue };
            if real.is_file() {
                // The shortest name, then the first, of a file that has several.
                paths.entry(real).and_modify(|name: &mut PathBuf| if (path.as_os_str().len(), &path) < (name.as_os_str().len(), name) { *name = path.clone() }).or_insert(path);
            }
        }
    }
    let mut named: Vec<(PathBuf, PathBuf)> = paths.into_iter().map(|(real, name)| (name, real)).collect();
    named.sort();
    let mut carried = Carried::default();
    let mut total = 0;
    for (name, real) in named {
        let bytes = std::fs::read(&real).map_err(|why| CarryError::Unreadable { path: real.clone(), why })?;
        if total + bytes.len() as u64 > carry.max_bytes {
            continue;
        }
        total += bytes.len() as u64;
        let shown = name.to_string_lossy();
        let short = shown.strip_prefix(&carry.strip).unwrap_or(&shown).trim_start_matches('/');
        let inside = format!("{}/{short}", carry.to);
        if carried.files.insert(inside.clone(), bytes).is_some() {
            return Err(CarryError::Clash { name: inside });
        }
    }
    let enough = |found: u64, needed: u64, unit| {
        if found < needed { Err(CarryError::TooFew { patterns: carry.from.clone(), found, needed, unit }) } else { Ok(()) }
    };
    enough(carried.files.len() as u64, carry.min_files, "files")?;
    enough(total, carry.min_bytes, "bytes")?;
    Ok(carried)
}
