//! Debian packages as raw material: fetched once with apt, unpacked, kept.
//!
//! # Theory
//! Nothing of Debian is in this repository, and nothing is installed on the host: `apt-get download` needs no root and leaves the host as it
//! is. A package that was unpacked once is used from then on without the network; which version it is stands in the verdict, because Debian's
//! packages change under us.
//!
//! A program's shared libraries are found the way Debian promises them (policy §8.6): a library that a binary of package P needs is in P
//! or in one of the packages P *directly* depends on. So only packages that are needed are fetched, not the whole closure of dependencies (a
//! benchmark that links libEGL does not bring a graphics stack).
//!
//! # Structures
//! ```text
//! target/cache/debian/NAME/control    fields of the package (version, dependencies)
//! target/cache/debian/NAME/root/      its files
//! target/cache/debian/lock            held while fetching: several machines are prepared at once
//! ```
//!
//! # Failure
//! No network or no package lists is an error that says what to do; a half-unpacked package is never seen (unpacked aside, then renamed).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use goblin::elf::Elf;

/// Why a package or a file of one is not there.
#[derive(Debug)]
pub enum DebianError {
    /// apt could not fetch it.
    Fetch { package: String, why: String },
    /// It was fetched, but cannot be unpacked or kept.
    Unpack { package: String, why: String },
    /// The package has no such file.
    NoFile { package: String, path: String },
    /// A binary needs a library that none of its package's dependencies has.
    NoLibrary { binary: String, library: String },
    /// A file of a package makes no sense.
    Broken { path: PathBuf, why: String },
    /// No such kernel module.
    NoModule { module: String, kernel: String },
}

impl fmt::Display for DebianError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch { package, why } => {
                write!(f, "cannot fetch Debian's {package}: {why}\n   = hint: apt needs the network and its package lists: apt-get update (as root), then again")
            }
            Self::Unpack { package, why } => write!(f, "cannot unpack Debian's {package}: {why}"),
            Self::NoFile { package, path } => write!(f, "Debian's {package} has no file {path}"),
            Self::NoLibrary { binary, library } => write!(f, "{binary} needs {library}, and no package it depends on has that"),
            Self::Broken { path, why } => write!(f, "{}: {why}", path.display()),
            Self::NoModule { module, kernel } => write!(f, "{kernel} has no module called {module}"),
        }
    }
}

impl std::error::Error for DebianError {}

/// Folders in which packages keep shared libraries.
const LIBRARY_FOLDERS: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib"];

/// The unpacked packages.
#[derive(Clone, Debug)]
pub struct Store {
    cache: PathBuf,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// Its files.
    pub root: PathBuf,
    /// Names of the packages it depends on; of alternatives the first.
    pub depends: Vec<String>,
}

impl Package {
    /// A file of the package by its path in Debian; one below `/usr` is found also if the package has it without, and the other way round.
    pub fn file(&self, path: &str) -> Result<PathBuf, DebianError> {
        let path = path.trim_start_matches('/');
        let moved = path.strip_prefix("usr/").map_or_else(|| format!("usr/{path}"), str::to_owned);
        let found = [path, moved.as_str()].into_iter().map(|path| self.root.join(path)).find(|path| path.is_file());
        found.ok_or_else(|| DebianError::NoFile { package: self.name.clone(), path: format!("/{path}") })
    }

    fn library(&self, soname: &str) -> Option<PathBuf> {
        LIBRARY_FOLDERS.iter().map(|folder| self.root.join(folder).join(soname)).find(|path| path.is_file())
    }

    /// As a transcript names it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

impl Store {
    /// The store of the checkout at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { cache: root.join("target/cache/debian") }
    }

    /// A package, fetched if it is not there yet.
    pub fn package(&self, name: &str) -> Result<Package, DebianError> {
        let at = self.cache.join(name);
        if !at.join("control").is_file() {
            self.fetch(name, &at)?;
        }
        let control = std::fs::read_to_string(at.join("control")).map_err(|error| DebianError::Unpack { package: name.to_owned(), why: error.to_string() })?;
        let field = |wanted: &str| control.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':')).map(str::trim).unwrap_or_default();
        let mut depends: Vec<String> = Vec::new();
        for clause in field("Pre-Depends").split(',').chain(field("Depends").split(',')) {
            let first = clause.split('|').next().unwrap_or_default().split_whitespace().next().unwrap_or_default();
            let first = first.split(':').next().unwrap_or_default();
            if !first.is_empty() && depends.iter().all(|other| other != first) {
                depends.push(first.to_owned());
            }
        }
        Ok(Package { name: name.to_owned(), version: field("Version").to_owned(), root: at.join("root"), depends })
    }

    fn fetch(&self, name: &str, at: &Path) -> Result<(), DebianError> {
        let unpack = |why: String| DebianError::Unpack { package: name.to_owned(), why };
        let io = |error: std::io::Error| unpack(error.to_string());
        std::fs::create_dir_all(&self.cache).map_err(io)?;
        let lock = std::fs::File::create(self.cache.join("lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        if at.join("control").is_file() {
            return Ok(());
        }
        let aside = self.cache.join(format!(".{name}.new"));
        if aside.exists() {
            std::fs::remove_dir_all(&aside).map_err(io)?;
        }
        std::fs::create_dir_all(&aside).map_err(io)?;
        let downloaded = run(Command::new("apt-get").current_dir(&aside).args(["-q", "download", name]));
        downloaded.map_err(|why| DebianError::Fetch { package: name.to_owned(), why })?;
        let files = std::fs::read_dir(&aside).map_err(io)?.flatten().map(|entry| entry.path());
        let archive = files.filter(|path| path.extension().is_some_and(|e| e == "deb")).max().ok_or_else(|| unpack("apt-get download left no package".to_owned()))?;
        let control = run(Command::new("dpkg-deb").arg("-f").arg(&archive)).map_err(unpack)?;
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(aside.join("root"))).map_err(unpack)?;
        std::fs::remove_file(&archive).map_err(io)?;
        std::fs::write(aside.join("control"), control).map_err(io)?;
        std::fs::rename(&aside, at).map_err(io)
    }
}

fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("W:")).collect();
    Err(format!("{} ({})", lines.join("; "), output.status))
}

/// Shared libraries collected for a set of programs.
#[derive(Debug)]
pub struct Libraries<'s> {
    store: &'s Store,
    /// Host path by soname.
    pub found: BTreeMap<String, PathBuf>,
    /// Packages that were drawn on, by name.
    pub packages: BTreeMap<String, Package>,
}

/// How alike a library's soname and a package's name are, as Debian names library packages (policy §8.1): best first when sorted.
fn distance(soname: &str, package: &str) -> usize {
    let stem = soname.replace("_", "-").to_lowercase();
    let (base, version) = stem.split_once(".so").unwrap_or((&stem, ""));
    let version = version.trim_start_matches('.');
    let joined = if base.ends_with(|c: char| c.is_ascii_digit()) && !version.is_empty() { format!("{base}-{version}") } else { format!("{base}{version}") };
    // Packages that were renamed in the 64-bit time transition end in t64.
    let package = package.strip_suffix("t64").unwrap_or(package);
    if package == joined {
        return 0;
    }
    // Most of what is not found by name is a part of libc6.
    if package == "libc6" { 1 } else { 2 + strsim::levenshtein(package, &joined) }
}

impl<'s> Libraries<'s> {
    #[must_use]
    pub fn new(store: &'s Store) -> Self {
        Self { store, found: BTreeMap::new(), packages: BTreeMap::new() }
    }

    /// Adds what a file of a package needs, if it is a dynamically linked binary.
    pub fn add(&mut self, package: &Package, file: &Path) -> Result<(), DebianError> {
        self.add_for(std::slice::from_ref(package), file)
    }

    /// The same, for a file of the last of `users`, each of which uses the next.
    fn add_for(&mut self, users: &[Package], file: &Path) -> Result<(), DebianError> {
        let bytes = std::fs::read(file).map_err(|error| DebianError::Broken { path: file.to_owned(), why: error.to_string() })?;
        if !bytes.starts_with(b"\x7fELF") {
            return Ok(());
        }
        let elf = Elf::parse(&bytes).map_err(|error| DebianError::Broken { path: file.to_owned(), why: error.to_string() })?;
        let loader = elf.interpreter.and_then(|path| path.rsplit('/').next());
        for soname in elf.libraries.iter().copied().chain(loader) {
            if self.found.contains_key(soname) {
                continue;
            }
            let binary = file.file_name().unwrap_or_default().to_string_lossy();
            let mut found = None;
            for user in users.iter().rev() {
                found = self.find(user, soname)?;
                if found.is_some() {
                    break;
                }
            }
            let (owner, path) = found.ok_or_else(|| DebianError::NoLibrary { binary: binary.into_owned(), library: soname.to_owned() })?;
            self.found.insert(soname.to_owned(), path.clone());
            self.packages.insert(owner.name.clone(), owner.clone());
            let mut users = users.to_vec();
            if users.last().is_none_or(|last| last.name != owner.name) {
                users.push(owner);
            }
            self.add_for(&users, &path)?;
        }
        Ok(())
    }

    fn find(&self, package: &Package, soname: &str) -> Result<Option<(Package, PathBuf)>, DebianError> {
        if let Some(path) = package.library(soname) {
            return Ok(Some((package.clone(), path)));
        }
        let mut candidates: Vec<&String> = package.depends.iter().collect();
        candidates.sort_by_key(|name| (distance(soname, name), name.as_str()));
        let mut trouble = None;
        for name in candidates {
            match self.store.package(name) {
                Ok(candidate) => {
                    if let Some(path) = candidate.library(soname) {
                        return Ok(Some((candidate, path)));
                    }
                }
                // It may be a virtual package; what matters is whether another one has the library.
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn library_packages_are_tried_in_the_likely_order() {
        let best = |soname: &str, packages: &[&str]| packages.iter().min_by_key(|name| distance(soname, name)).map(|name| (*name).to_owned());
        assert_eq!(best("libssl.so.3", &["libc6", "libssl3t64", "zlib1g"]).as_deref(), Some("libssl3t64"));
        assert_eq!(best("libm.so.6", &["libjudydebian1", "libc6", "libsctp1"]).as_deref(), Some("libc6"));
        assert_eq!(best("libdb-5.3.so", &["libdb5.3", "libgdbm6"]).as_deref(), Some("libdb5.3"));
        assert_eq!(best("libEGL.so.1", &["libgbm1", "libegl1", "libgl1"]).as_deref(), Some("libegl1"));
    }
}
