//! The disks of a scenario: made before the run, laid out as files after it.
//!
//! # Theory
//! A disk is the same bytes every time it is made: a file system gets its identifiers and times from here, not from the host's clock and random
//! numbers. After a run each disk lies as a file beside the bundle, so that the host's own tools (`e2fsck`, `debugfs`, `zdb`) can be asked about it.

use scenario::{Disk, DiskContent};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why there is no disk.
#[derive(Debug)]
pub enum DiskError {
    /// The file cannot be read or written.
    File(PathBuf, std::io::Error),
    /// The host's tool is missing or failed.
    Format { disk: String, why: String },
    /// An image that is no disk.
    Image { disk: String, why: String },
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Format { disk, why } => write!(f, "cannot make a file system on disk `{disk}`: {why}\n   = hint: mke2fs comes with e2fsprogs: apt-get install e2fsprogs"),
            Self::Image { disk, why } => write!(f, "disk `{disk}`: {why}"),
        }
    }
}

impl std::error::Error for DiskError {}

/// Identifiers that `mke2fs` would draw at random.
const UUID: &str = "6f727265-7279-4000-8000-000000000001";
/// The time of day at which the file system was made: the board's own start.
const MADE_AT: &str = "1767225600";

/// The contents of the disks, in order.
pub fn make(root: &Path, disks: &[Disk]) -> Result<Vec<Vec<u8>>, DiskError> {
    disks.iter().map(|disk| one(root, disk)).collect()
}

fn one(root: &Path, disk: &Disk) -> Result<Vec<u8>, DiskError> {
    let size = usize::try_from(disk.size_bytes).map_err(|error| DiskError::Image { disk: disk.name.clone(), why: error.to_string() })?;
    match &disk.content {
        DiskContent::Empty => Ok(vec![0; size]),
        DiskContent::File(path) => {
            let path = root.join(path);
            let file = std::fs::read(&path).map_err(|error| DiskError::File(path, error))?;
            let mut bytes = sim_host::raw_image(file).map_err(|error| DiskError::Image { disk: disk.name.clone(), why: error.to_string() })?;
            let rounded = bytes.len().next_multiple_of(512).max(size);
            bytes.resize(rounded, 0);
            Ok(bytes)
        }
        DiskContent::Ext4 => ext4(root, disk, size),
    }
}

/// An empty ext4, made by the host's `mke2fs` with nothing left to chance.
fn ext4(root: &Path, disk: &Disk, size: usize) -> Result<Vec<u8>, DiskError> {
    let fail = |why: String| DiskError::Format { disk: disk.name.clone(), why };
    let folder = root.join("target/tmp");
    std::fs::create_dir_all(&folder).map_err(|error| DiskError::File(folder.clone(), error))?;
    let path = folder.join(format!("mke2fs-{}-{:?}-{}.img", std::process::id(), std::thread::current().id(), disk.name));
    let io = |error: std::io::Error| DiskError::File(path.clone(), error);
    std::fs::File::create(&path).and_then(|file| file.set_len(size as u64)).map_err(io)?;
    let sbin = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-U", UUID, "-E", &format!("hash_seed={UUID},lazy_itable_init=0,lazy_journal_init=0"), "-L", "data"]).arg(&path);
    command.env("PATH", sbin).env("E2FSPROGS_FAKE_TIME", MADE_AT).env("SOURCE_DATE_EPOCH", MADE_AT).env("LC_ALL", "C");
    let output = command.output().map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let bytes = std::fs::read(&path).map_err(io)?;
    std::fs::remove_file(&path).map_err(io)?;
    Ok(bytes)
}

/// Writes contents as `NAME.img` into a folder and gives the paths.
pub fn lay_out(folder: &Path, disks: &[Disk], contents: &[Vec<u8>]) -> Result<Vec<PathBuf>, DiskError> {
    std::fs::create_dir_all(folder).map_err(|error| DiskError::File(folder.to_owned(), error))?;
    let pairs = disks.iter().zip(contents);
    pairs
        .map(|(disk, bytes)| {
            let path = folder.join(format!("{}.img", disk.name));
            std::fs::write(&path, bytes).map_err(|error| DiskError::File(path.clone(), error))?;
            Ok(path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenario::DiskModel;

    #[test]
    fn a_file_system_is_the_same_bytes_every_time() {
        let root = std::env::temp_dir().join(format!("disks-test-{}", std::process::id()));
        let disk = Disk { name: "d".into(), model: DiskModel::VirtioBlk, size_bytes: 8 << 20, content: DiskContent::Ext4, read_only: false, line: 1 };
        let first = make(&root, std::slice::from_ref(&disk)).expect("mke2fs is part of every Debian");
        assert_eq!(first, make(&root, std::slice::from_ref(&disk)).expect("as before"));
        assert_eq!((first[0].len(), &first[0][0x438..0x43a]), (8 << 20, &[0x53, 0xef][..]));
        std::fs::remove_dir_all(root).expect("was made here");
    }

    #[test]
    fn an_image_is_rounded_up_to_sectors() {
        let root = std::env::temp_dir().join(format!("disks-image-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a folder of our own");
        std::fs::write(root.join("x"), [7; 700]).expect("writes");
        let disk = Disk { name: "d".into(), model: DiskModel::VirtioBlk, size_bytes: 0, content: DiskContent::File("x".into()), read_only: false, line: 1 };
        assert_eq!(make(&root, std::slice::from_ref(&disk)).expect("reads")[0].len(), 1024);
        let missing = Disk { content: DiskContent::File("y".into()), ..disk };
        assert!(matches!(make(&root, &[missing]), Err(DiskError::File(..))));
        std::fs::remove_dir_all(root).expect("was made here");
    }
}
