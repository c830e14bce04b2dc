//! Copies a root tree: directories, files with their hard links, symbolic links, modes, owners, times of nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What was copied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
}

/// Copies the tree `from` to the directory `to`, which is made unless it exists.
pub fn tree(from: &Path, to: &Path) -> Result<Copied, (PathBuf, io::Error)> {
    let mut copied = Copied::default();
    directory(from, to, &mut BTreeMap::new(), &mut copied)?;
    Ok(copied)
}

type Links = BTreeMap<(u64, u64), PathBuf>;

fn directory(from: &Path, to: &Path, links: &mut Links, copied: &mut Copied) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path.clone(), error)
    };
    let attributes = fs::symlink_metadata(from).map_err(at(from))?;
    match fs::DirBuilder::new().mode(0o700).create(to) {
        // The top of all: a file system of its own, empty.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && to.is_dir() => {}
        made => made.map_err(at(to))?,
    }
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let attributes = fs::symlink_metadata(&source).map_err(at(&source))?;
        let kind = attributes.file_type();
        if kind.is_dir() {
            directory(&source, &target, links, copied)?;
            continue;
        }
        if attributes.nlink() > 1 {
            let id = (attributes.dev(), attributes.ino());
            if let Some(first) = links.get(&id) {
                fs::hard_link(first, &target).map_err(at(&target))?;
                continue;
            }
            links.insert(id, target.clone());
        }
        if kind.is_symlink() {
            let text = fs::read_link(&source).map_err(at(&source))?;
            std::os::unix::fs::symlink(text, &target).map_err(at(&target))?;
        } else if kind.is_file() {
            copied.bytes += fs::copy(&source, &target).map_err(at(&source))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(attributes.mode() & 0o7777)).map_err(at(&target))?;
        } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            // A zone's devices come from the kernel, never from a tree; sockets and pipes are made by their owners.
            continue;
        }
        copied.files += 1;
        own(&target, &attributes).map_err(at(&target))?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(attributes.mode() & 0o7777)).map_err(at(to))?;
    own(to, &attributes).map_err(at(to))
}

/// Sets the owner where it differs from ours.
fn own(path: &Path, attributes: &fs::Metadata) -> io::Result<()> {
    let made = fs::symlink_metadata(path)?;
    if (made.uid(), made.gid()) == (attributes.uid(), attributes.gid()) {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(attributes.uid()), Some(attributes.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_with_links_and_modes() {
        let base = std::env::temp_dir().join(format!("orrery-copy-{}", std::process::id()));
        if base.exists() {
            fs::remove_dir_all(&base).expect("ours");
        }
        let from = base.join("from");
        fs::create_dir_all(from.join("bin")).expect("new");
        fs::write(from.join("bin/busybox"), b"program").expect("new");
        fs::set_permissions(from.join("bin/busybox"), fs::Permissions::from_mode(0o4755)).expect("ours");
        fs::hard_link(from.join("bin/busybox"), from.join("bin/ls")).expect("new");
        std::os::unix::fs::symlink("busybox", from.join("bin/sh")).expect("new");
        fs::set_permissions(from.join("bin"), fs::Permissions::from_mode(0o755)).expect("ours");
        let to = base.join("to");
        let copied = tree(&from, &to).expect("complete");
        assert_eq!(copied, Copied { files: 2, bytes: 7 });
        let busybox = fs::metadata(to.join("bin/busybox")).expect("there");
        assert_eq!((busybox.mode() & 0o7777, busybox.nlink()), (0o4755, 2));
        assert_eq!(fs::read_link(to.join("bin/sh")).expect("there"), Path::new("busybox"));
        assert!(tree(&from, &to).is_err(), "never over something that is there");
        fs::remove_dir_all(&base).expect("ours");
    }
}
