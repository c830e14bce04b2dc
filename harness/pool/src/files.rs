//! `ls`, `cat`, `cp`.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use pool_dmu::{DatasetKind, Datasets, Error};
use pool_spa::Pool;
use pool_zpl::Filesystem;

use crate::Failure;
use crate::list::print;

/// Object of a volume that holds its data, and the one with its size.
const VOLUME_DATA: u64 = 1;
const VOLUME_PROPS: u64 = 2;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Pool("reading".into(), error)
    }
}

fn open<'p>(pool: &'p Pool, dataset: &str) -> Result<Filesystem<'p>, Failure> {
    let about = |error| Failure::Pool(dataset.into(), error);
    let tree = Datasets::open(pool).map_err(about)?;
    let info = tree.find(dataset).map_err(about)?;
    let set = tree.open_dataset(&info).map_err(about)?;
    if set.log_pending() {
        eprintln!("note: {dataset} has an intent log that was not replayed; its newest synchronous writes do not show");
    }
    Filesystem::open(set).map_err(about)
}

fn lookup(fs: &Filesystem<'_>, dataset: &str, path: &str) -> Result<u64, Failure> {
    fs.lookup(path.as_bytes()).map_err(|error| Failure::Pool(format!("{dataset}:{path}"), error))
}

fn mode_text(mode: u64) -> String {
    let kind = match mode >> 12 {
        1 => 'p',
        2 => 'c',
        4 => 'd',
        6 => 'b',
        8 => '-',
        10 => 'l',
        12 => 's',
        _ => '?',
    };
    let bits = (0..9).map(|bit| if mode >> (8 - bit) & 1 == 1 { ['r', 'w', 'x'][bit % 3] } else { '-' });
    std::iter::once(kind).chain(bits).collect()
}

pub fn ls(pool: &Pool, dataset: &str, path: &str, long: bool, recursive: bool) -> Result<(), Failure> {
    let fs = open(pool, dataset)?;
    let object = lookup(&fs, dataset, path)?;
    let mut damaged = false;
    if fs.stat(object)?.mode >> 12 == 4 {
        list(&fs, object, "", long, recursive, &mut damaged)?;
    } else {
        line(&fs, object, path, long)?;
    }
    if damaged { Err(Failure::Damaged) } else { Ok(()) }
}

fn list(fs: &Filesystem<'_>, object: u64, prefix: &str, long: bool, recursive: bool, damaged: &mut bool) -> Result<(), Failure> {
    for entry in fs.read_dir(object)? {
        let name = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
        let shown = line(fs, entry.object, &name, long)
            .and_then(|()| if recursive && entry.file_type == 4 { list(fs, entry.object, &format!("{name}/"), long, true, damaged) } else { Ok(()) });
        if let Err(Failure::Pool(_, error)) = shown {
            eprintln!("{name}: {error}");
            *damaged = true;
        } else {
            shown?;
        }
    }
    Ok(())
}

fn line(fs: &Filesystem<'_>, object: u64, name: &str, long: bool) -> Result<(), Failure> {
    if !long {
        return print(&format!("{name}\n"));
    }
    let node = fs.stat(object)?;
    let target = if node.mode >> 12 == 10 { format!(" -> {}", String::from_utf8_lossy(&fs.read_link(object)?)) } else { String::new() };
    let (mode, links, uid, gid) = (mode_text(node.mode), node.links, node.uid, node.gid);
    print(&format!("{mode} {links:>3} {uid:>5} {gid:>5} {:>12} {:>11} {name}{target}\n", node.size, node.modified.0))
}

pub fn cat(pool: &Pool, dataset: &str, path: Option<&str>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut sink = |data: &[u8]| out.write_all(data).map_err(|error| Failure::Host("standard output".into(), error));
    let Some(path) = path else { return cat_volume(pool, dataset, &mut sink) };
    let fs = open(pool, dataset)?;
    let object = lookup(&fs, dataset, path)?;
    if fs.stat(object)?.mode >> 12 != 8 {
        return Err(Failure::Request(format!("{dataset}:{path} is not a regular file")));
    }
    fs.read_file(object, sink)
}

fn cat_volume(pool: &Pool, dataset: &str, sink: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let about = |error| Failure::Pool(dataset.into(), error);
    let tree = Datasets::open(pool).map_err(about)?;
    let info = tree.find(dataset).map_err(about)?;
    let set = tree.open_dataset(&info).map_err(about)?;
    if info.kind == DatasetKind::Filesystem || set.kind() != pool_phys::objset::ObjsetKind::Zvol {
        return Err(Failure::Request(format!("{dataset} is a file system: name a path in it")));
    }
    let size = set.lookup_number(VOLUME_PROPS, "size").map_err(about)?;
    let mut data = set.object(VOLUME_DATA).map_err(about)?;
    let mut offset = 0;
    let mut buffer = vec![0; 1 << 20];
    while offset < size {
        let count = usize::try_from(size - offset).unwrap_or(usize::MAX).min(buffer.len());
        data.read_at(offset, &mut buffer[..count]).map_err(about)?;
        sink(&buffer[..count])?;
        offset += count as u64;
    }
    Ok(())
}

pub fn cp(pool: &Pool, dataset: &str, path: &str, target: &Path, recursive: bool) -> Result<(), Failure> {
    let fs = open(pool, dataset)?;
    let object = lookup(&fs, dataset, path)?;
    let node = fs.stat(object)?;
    if node.mode >> 12 == 4 && !recursive {
        return Err(Failure::Request(format!("{dataset}:{path} is a directory: add -r")));
    }
    let target = match path.rsplit('/').find(|part| !part.is_empty()) {
        Some(name) if target.is_dir() && node.mode >> 12 != 4 => target.join(name),
        _ => target.to_path_buf(),
    };
    let mut damaged = false;
    copy(&fs, object, &target, &mut damaged)?;
    if damaged { Err(Failure::Damaged) } else { Ok(()) }
}

/// Copies one object; what is damaged is named and left out, the rest goes on.
fn copy(fs: &Filesystem<'_>, object: u64, target: &Path, damaged: &mut bool) -> Result<(), Failure> {
    let host = |error| Failure::Host(target.display().to_string(), error);
    let node = fs.stat(object)?;
    match node.mode >> 12 {
        4 => {
            std::fs::create_dir_all(target).map_err(host)?;
            for entry in fs.read_dir(object)? {
                // A name that would leave the target folder can only come from a forged pool.
                if entry.name.contains(&b'/') || entry.name == b".." || entry.name == b"." {
                    return Err(Failure::Request(format!("{}: directory entry with a slash or dots", target.display())));
                }
                let name = target.join(std::ffi::OsStr::from_bytes(&entry.name));
                if let Err(error) = copy(fs, entry.object, &name, damaged) {
                    let Failure::Pool(_, error) = error else { return Err(error) };
                    eprintln!("{}: {error}", name.display());
                    *damaged = true;
                }
            }
        }
        8 => {
            let mut file = File::create(target).map_err(host)?;
            fs.read_file(object, |data| file.write_all(data).map_err(host))?;
            file.set_permissions(PermissionsExt::from_mode(u32::try_from(node.mode & 0o777).unwrap_or(0o644))).map_err(host)?;
        }
        10 => symlink(std::ffi::OsStr::from_bytes(&fs.read_link(object)?), target).map_err(host)?,
        _ => eprintln!("{}: special file left out", target.display()),
    }
    Ok(())
}
