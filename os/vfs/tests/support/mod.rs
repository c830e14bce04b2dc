//! What the tests of this crate share: a fresh tree, and somebody to walk it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;

use kif::ZoneId;
use vfs::{Cred, Cx, File, Follow, OpenFlags, Place, Result, mount, ops, tmpfs};

pub const READ: OpenFlags = OpenFlags::READ;
pub const WRITE: OpenFlags = OpenFlags::WRITE;
pub const MAKE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE).union(OpenFlags::CREATE);

/// A tree of its own and a caller at its root.
pub struct World {
    pub root: Place,
    pub cwd: Place,
    pub cred: Cred,
}

impl World {
    pub fn new() -> Self {
        Self::with(&tmpfs::Options { max_nodes: 100_000, ..Self::options() })
    }
    pub fn options() -> tmpfs::Options {
        kif_host::start();
        tmpfs::Options::default()
    }
    pub fn with(options: &tmpfs::Options) -> Self {
        kif_host::start();
        let root = mount::mount_root(tmpfs::new(options), "rootfs");
        Self { cwd: root.clone(), root, cred: Cred::root(ZoneId::GLOBAL) }
    }
    /// The same tree seen by another user.
    pub fn as_user(&self, uid: u32, gid: u32) -> Self {
        let cred = Cred { uid, gid, groups: Arc::from([]), zone: self.cred.zone };
        Self { root: self.root.clone(), cwd: self.cwd.clone(), cred }
    }
    pub fn cx(&self) -> Cx<'_> {
        Cx { cred: &self.cred, root: &self.root, cwd: &self.cwd }
    }
    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<File>> {
        ops::open(&self.cx(), None, path.as_bytes(), flags, 0o644)
    }
    pub fn write(&self, path: &str, data: &[u8]) -> Result<()> {
        let file = self.open(path, WRITE | OpenFlags::CREATE | OpenFlags::TRUNC)?;
        let mut done = 0;
        while done < data.len() {
            done += file.write(&data[done..], self.cred.zone)?;
        }
        Ok(())
    }
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.open(path, READ)?;
        read_all(&file)
    }
    pub fn mkdir(&self, path: &str) -> Result<()> {
        ops::mkdir(&self.cx(), None, path.as_bytes(), 0o755)
    }
    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        ops::symlink(&self.cx(), target.as_bytes(), None, path.as_bytes())
    }
    pub fn link(&self, from: &str, to: &str) -> Result<()> {
        let from = self.find(from)?;
        ops::link(&self.cx(), &from, None, to.as_bytes())
    }
    pub fn unlink(&self, path: &str) -> Result<()> {
        ops::unlink(&self.cx(), None, path.as_bytes())
    }
    pub fn rmdir(&self, path: &str) -> Result<()> {
        ops::rmdir(&self.cx(), None, path.as_bytes())
    }
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        ops::rename(&self.cx(), None, from.as_bytes(), None, to.as_bytes(), vfs::RenameFlags::empty())
    }
    pub fn find(&self, path: &str) -> Result<Place> {
        vfs::lookup(&self.cx(), None, path.as_bytes(), Follow::Yes)
    }
    pub fn stat(&self, path: &str) -> Result<vfs::Attr> {
        ops::stat(&self.cx(), None, path.as_bytes(), Follow::No)
    }
    pub fn enter(&mut self, path: &str) {
        self.cwd = self.find(path).expect("the directory is there");
    }
    pub fn path(&self, place: &Place) -> Option<String> {
        vfs::path_of(place, &self.root).map(|path| String::from_utf8(path).expect("test names are text"))
    }
    /// Names in a directory, in its own order.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let file = self.open(path, READ | OpenFlags::DIRECTORY)?;
        let mut names = Vec::new();
        file.readdir(&mut |entry| {
            names.push(String::from_utf8(entry.name.to_vec()).expect("test names are text"));
            true
        })?;
        Ok(names)
    }
}

pub fn read_all(file: &File) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut part = [0; 5000];
    loop {
        let count = file.read(&mut part, ZoneId::GLOBAL)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&part[..count]);
    }
}
