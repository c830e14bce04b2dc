//! Zones that live on a pool: each on a clone of a template's snapshot, made in milliseconds, whatever the size of the tree.
//!
//! A zone lives on the pool if a file system of the pool is mounted right above its zone path. `DATASET/ZONE` is then mounted at the zone path, and
//! holds `root/`. Templates made of directories are `POOL/templates/NAME`, with a snapshot for each state the directory was in.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use control_abi::{Code, Operation};
use nv::NvList;

use crate::control::{Refused, call};
use crate::copy;
use crate::usage::Failure;

/// Where a zone lives on a pool.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The zone's own file system.
    pub dataset: String,
    /// It exists.
    pub is_there: bool,
}

impl Place {
    fn pool(&self) -> &str {
        self.dataset.split('/').next().unwrap_or(&self.dataset)
    }
}

/// Where a zone of this path lives; `None`: on no pool.
pub fn place(zonepath: &str) -> Result<Option<Place>, Failure> {
    let (above, last) = zonepath.trim_end_matches('/').rsplit_once('/').unwrap_or(("", zonepath));
    let reply = call(Operation::DatasetList, &NvList::new())?;
    let datasets = reply.lists("datasets").map_err(Failure::new)?;
    let at = |path: &str| {
        let here = |dataset: &&NvList| dataset.opt_string("mountpoint") == Ok(Some(path));
        datasets.iter().find(here).and_then(|dataset| dataset.string("name").ok())
    };
    let Some(parent) = at(above) else { return Ok(None) };
    let dataset = format!("{parent}/{last}");
    let is_there = datasets.iter().any(|other| other.string("name") == Ok(&dataset));
    Ok(Some(Place { dataset, is_there }))
}

/// Clones a snapshot for a zone; returns the name of the clone.
pub fn make(snapshot: &str, place: &Place) -> Result<String, Failure> {
    let same_pool = snapshot.split('/').next() == Some(place.pool());
    if !same_pool {
        return Err(Failure::new(format!("{snapshot} is not on pool {}: send it there first", place.pool())));
    }
    call(Operation::DatasetMake, &NvList::new().with("name", place.dataset.as_str()).with("origin", snapshot))?;
    Ok(place.dataset.clone())
}

/// Destroys a zone's file system with its snapshots.
pub fn destroy(dataset: &str) -> Result<(), Failure> {
    call(Operation::DatasetChange, &NvList::new().with("change", "destroy").with("name", dataset).with("recursive", 1_u64))?;
    Ok(())
}

/// The snapshot that holds the directory `source` as it is now; copies it if there is none yet.
pub fn template(place: &Place, source: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::new(format!("{}: {error}", source.display()));
    let mut print = 0xcbf2_9ce4_8422_2325;
    fingerprint(source, &mut print).map_err(failed)?;
    let name = source.file_name().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned());
    let plain: String = name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let parent = format!("{}/templates", place.pool());
    let dataset = format!("{parent}/{plain}-{print:016x}");
    let snapshot = format!("{dataset}@gold");
    let found = call(Operation::DatasetGet, &NvList::new().with("name", snapshot.as_str()).with("properties", vec!["type".to_owned()]));
    match found {
        Ok(_) => return Ok(snapshot),
        Err(Refused { code: Some(Code::NotFound), .. }) => {}
        Err(refused) => return Err(refused.into()),
    }
    match call(Operation::DatasetMake, &NvList::new().with("name", parent.as_str())) {
        Ok(_) | Err(Refused { code: Some(Code::Exists), .. }) => {}
        Err(refused) => return Err(refused.into()),
    }
    match call(Operation::DatasetChange, &NvList::new().with("change", "destroy").with("name", dataset.as_str()).with("recursive", 1_u64)) {
        // One that was not finished.
        Ok(_) | Err(Refused { code: Some(Code::NotFound), .. }) => {}
        Err(refused) => return Err(refused.into()),
    }
    call(Operation::DatasetMake, &NvList::new().with("name", dataset.as_str()))?;
    let values = call(Operation::DatasetGet, &NvList::new().with("name", dataset.as_str()).with("properties", vec!["mountpoint".to_owned()]))?;
    let values = values.lists("values").map_err(Failure::new)?;
    let at = values.first().and_then(|value| value.string("value").ok()).ok_or_else(|| Failure::new(format!("{dataset} has no mount point")))?;
    let target = Path::new(at).join("root");
    copy::tree(source, &target).map_err(|(path, error)| Failure::new(format!("{}: {error}", path.display())))?;
    call(Operation::DatasetSnap, &NvList::new().with("names", vec![snapshot.clone()]))?;
    Ok(snapshot)
}

/// Mixes names, kinds, sizes and times of a tree, in an order that is always the same.
fn fingerprint(at: &Path, print: &mut u64) -> io::Result<()> {
    let mut entries = fs::read_dir(at)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let attributes = fs::symlink_metadata(entry.path())?;
        let words = [u64::from(attributes.mode()), attributes.size(), attributes.mtime().cast_unsigned(), u64::from(attributes.uid())];
        let name = entry.file_name();
        for byte in name.as_encoded_bytes().iter().copied().chain(words.into_iter().flat_map(u64::to_le_bytes)) {
            // FNV-1a.
            *print = (*print ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if attributes.is_dir() {
            fingerprint(&entry.path(), print)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_anywhere_in_a_tree_changes_its_print() {
        let top = std::env::temp_dir().join(format!("orrery-print-{}", std::process::id()));
        fs::create_dir_all(top.join("a/b")).expect("a directory");
        fs::write(top.join("a/b/file"), b"one").expect("a file");
        let look = || {
            let mut print = 0;
            fingerprint(&top, &mut print).expect("readable");
            print
        };
        let before = look();
        assert_eq!(look(), before);
        fs::write(top.join("a/b/file"), b"longer").expect("a file");
        assert_ne!(look(), before);
        fs::remove_dir_all(&top).expect("made above");
    }
}
