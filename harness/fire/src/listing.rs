//! A dataset as text: what `module-job` makes of it with `stat` and `sha256sum`, made by our library.

use std::fmt::Write as _;

use pool_dmu::{Datasets, Error};
use pool_phys::FormatError;
use pool_phys::objset::ObjsetKind;
use pool_spa::Pool;
use pool_zpl::Filesystem;

const LARGEST: u64 = 64 << 20;

fn sum(data: &[u8]) -> String {
    codec::sha256(data).iter().fold(String::new(), |mut out, word| {
        write!(out, "{word:016x}").expect("text grows");
        out
    })
}

fn walk(fs: &Filesystem<'_>, object: u64, path: &str, out: &mut Vec<String>) -> Result<(), Error> {
    let stat = fs.stat(object)?;
    let kind = stat.mode >> 12;
    let line = format!("{:x} {} {} {} {} {} {path}", stat.mode, stat.links, stat.uid, stat.gid, stat.size, stat.modified.0);
    match kind {
        4 => {
            for entry in fs.read_dir(object)? {
                walk(fs, entry.object, &format!("{path}/{}", String::from_utf8_lossy(&entry.name)), out)?;
            }
            out.push(line);
        }
        10 => out.push(format!("{line} -> {}", String::from_utf8_lossy(&fs.read_link(object)?))),
        _ => {
            if stat.size > LARGEST {
                return Err(FormatError::new("file", "is larger than any made here", object).into());
            }
            let mut data = Vec::new();
            fs.read_file::<Error>(object, |block| {
                data.extend_from_slice(block);
                Ok(())
            })?;
            out.push(line);
            out.push(format!("{}  {path}", sum(&data)));
        }
    }
    Ok(())
}

/// Lists a file system, snapshot or volume: attributes and contents of everything in it, in the order of the lines' bytes.
///
/// # Errors
/// What cannot be read.
pub fn listing(pool: &Pool, dataset: &str) -> Result<String, Error> {
    let datasets = Datasets::open(pool)?;
    let set = datasets.open_dataset(&datasets.find(dataset)?)?;
    if set.kind() == ObjsetKind::Zvol {
        if dataset.contains('@') {
            return Ok("snapshot of a volume\n".into());
        }
        let size = set.lookup_number(2, "size")?;
        let mut data = vec![0; usize::try_from(size).ok().filter(|_| size <= LARGEST).ok_or(FormatError::new("volume", "is larger than any made here", size))?];
        set.object(1)?.read_at(0, &mut data)?;
        return Ok(format!("{}  -\n", sum(&data)));
    }
    let fs = Filesystem::open(set)?;
    let mut lines = Vec::new();
    walk(&fs, fs.root(), ".", &mut lines)?;
    lines.sort();
    Ok(lines.join("\n") + "\n")
}

/// Names of all datasets, snapshots and volumes of a pool.
///
/// # Errors
/// What cannot be read.
pub fn names(pool: &Pool) -> Result<Vec<String>, Error> {
    Ok(Datasets::open(pool)?.list(pool.name())?.into_iter().map(|info| info.name).collect())
}
