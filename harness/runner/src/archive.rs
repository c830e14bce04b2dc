//! The initrd: a file tree in memory, written as a cpio archive (newc) that is the same for the same tree.
//!
//! Layout of an entry (`cpio(5)`, "New ASCII Format"): 110 bytes of header, all numbers in 8 hex digits, then the name with its
//! terminator, padded to 4, then the contents, padded to 4. The archive ends with an entry called `TRAILER!!!`.

use std::collections::BTreeMap;

/// One entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
}

/// A tree of files by path, without a leading slash. Folders above an entry exist by themselves.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Puts an entry in place; a later one of the same path wins. Missing folders above it are made.
    pub fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.nodes.entry(path[..at].to_owned()).or_insert(Node::Folder { mode: 0o755 });
        }
        self.nodes.insert(path.to_owned(), node);
    }

    pub fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, Node::Folder { mode });
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.put(path, Node::File { mode, bytes: bytes.into() });
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, Node::Link { target: target.to_owned() });
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Puts `other` below `prefix`.
    pub fn graft(&mut self, prefix: &str, other: &Tree) {
        for (path, node) in &other.nodes {
            self.put(&format!("{}/{path}", prefix.trim_matches('/')), node.clone());
        }
    }

    /// The archive. Owner root, times 0, inode numbers in path order.
    #[must_use]
    pub fn to_cpio(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (index, (path, node)) in self.nodes.iter().enumerate() {
            let (mode, links, contents) = match node {
                Node::Folder { mode } => (0o040_000 | mode, 2, &[][..]),
                Node::File { mode, bytes } => (0o100_000 | mode, 1, bytes.as_slice()),
                Node::Link { target } => (0o120_777, 1, target.as_bytes()),
            };
            entry(&mut archive, index + 1, mode, links, path, contents);
        }
        entry(&mut archive, 0, 0, 1, "TRAILER!!!", &[]);
        archive
    }
}

fn entry(archive: &mut Vec<u8>, inode: usize, mode: u32, links: u32, name: &str, contents: &[u8]) {
    let (size, name_size) = (contents.len(), name.len() + 1);
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let header = format!("070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}", 0);
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(contents);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    while !archive.len().is_multiple_of(4) {
        archive.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.file("b/deep/file", 0o644, "contents\n");
        tree.link("a/link", "../b/deep/file");
        tree.folder("tmp", 0o1777);
        tree
    }

    #[test]
    fn folders_above_come_before_what_they_hold() {
        let paths: Vec<_> = sample().nodes.into_keys().collect();
        assert_eq!(paths, ["a", "a/link", "b", "b/deep", "b/deep/file", "tmp"]);
    }

    #[test]
    fn archive_is_the_same_every_time_and_aligned() {
        let archive = sample().to_cpio();
        assert_eq!(archive, sample().to_cpio());
        assert!(archive.len().is_multiple_of(4));
        assert!(archive.starts_with(b"070701"));
        assert!(archive.windows(11).any(|w| w == b"TRAILER!!!\0"));
    }

    /// The host's cpio reads it, where there is one.
    #[test]
    fn other_peoples_cpio_lists_it() {
        let Ok(mut child) = Command::new("cpio").arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else { return };
        child.stdin.take().expect("piped").write_all(&sample().to_cpio()).expect("cpio reads");
        let output = child.wait_with_output().expect("cpio ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a\na/link\nb\nb/deep\nb/deep/file\ntmp\n");
    }
}
