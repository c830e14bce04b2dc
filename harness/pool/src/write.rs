//! `create`, `zfs-create`, `snapshot`, `put`.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::ProgressBar;
use pool_dmu::Store;
use pool_dmu::edit::EditError;
use pool_phys::label::LEAF_MIN;
use pool_spa::Layout;
use pool_zpl::{Make, NewEntry, Writer, Zvol, create_filesystem};

use crate::list::print;
use crate::{Failure, image};

/// Data is committed whenever this much has been written, so that memory use stays bounded.
const COMMIT_BYTES: u64 = 64 << 20;
const CHUNK: usize = 1 << 20;

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Random numbers for guids: from the system, or from a seed (SplitMix64, Steele et al. 2014).
pub fn random(seed: Option<u64>) -> Result<Box<dyn FnMut() -> u64 + Send>, Failure> {
    let mut state = match seed {
        Some(seed) => seed,
        None => {
            let host = |error| Failure::Host("/dev/urandom".into(), error);
            let mut bytes = [0; 8];
            File::open("/dev/urandom").map_err(host)?.read_exact(&mut bytes).map_err(host)?;
            u64::from_le_bytes(bytes)
        }
    };
    Ok(Box::new(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }))
}

pub fn parse_size(text: &str) -> Result<u64, Failure> {
    let (digits, shift) = match text.chars().last() {
        Some('K' | 'k') => (&text[..text.len() - 1], 10),
        Some('M' | 'm') => (&text[..text.len() - 1], 20),
        Some('G' | 'g') => (&text[..text.len() - 1], 30),
        Some('T' | 't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift));
    bytes.ok_or_else(|| Failure::Request(format!("'{text}' is not a size; write for example 256M")))
}

/// Splits `mirror a b raidz c d e` into vdevs; files before any kind are disks of their own.
pub fn parse_layout(words: &[String]) -> Vec<(Option<usize>, Vec<String>)> {
    let mut out: Vec<(Option<usize>, Vec<String>)> = Vec::new();
    for word in words {
        let kind = match word.as_str() {
            "mirror" => Some(0),
            "raidz" | "raidz1" => Some(1),
            "raidz2" => Some(2),
            "raidz3" => Some(3),
            _ => None,
        };
        match (kind, out.last_mut()) {
            (Some(_), _) => out.push((kind, Vec::new())),
            (None, Some((Some(_), files))) => files.push(word.clone()),
            (None, _) => out.push((None, vec![word.clone()])),
        }
    }
    out
}

/// Refuses what is no name for a pool.
pub fn check_pool_name(name: &str) -> Result<(), Failure> {
    let first = name.chars().next().is_some_and(|first| first.is_ascii_alphabetic());
    let reserved = ["mirror", "raidz", "spare", "log", "cache"].iter().any(|word| name.starts_with(word));
    if !first || reserved || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.:".contains(letter)) {
        return Err(Failure::Request(format!("'{name}' is not a pool name: a letter, then letters, digits and - _ . :, not beginning with a vdev kind")));
    }
    Ok(())
}

pub fn create(name: &str, layout: &[String], size: &str, ashift: u32, force: bool, seed: Option<u64>) -> Result<(), Failure> {
    check_pool_name(name)?;
    let bytes = parse_size(size)?;
    if bytes < LEAF_MIN {
        return Err(Failure::Request(format!("--size {size}: a device needs 64M")));
    }
    let mut layouts = Vec::new();
    for (redundancy, files) in parse_layout(layout) {
        let mut devices = Vec::new();
        for path in files {
            let about = |error| Failure::Host(path.clone(), error);
            if !Path::new(&path).exists() {
                File::create(&path).and_then(|file| file.set_len(bytes)).map_err(about)?;
            }
            let device = [image::open(Path::new(&path), true)?];
            if let Some(found) = pool_spa::scan(&device).first().filter(|_| !force) {
                return Err(Failure::Request(format!("{path} belongs to pool '{}'; -f overwrites it", found.name)));
            }
            let [device] = device;
            let full = std::fs::canonicalize(&path).map_err(about)?;
            devices.push((full.display().to_string(), device));
        }
        layouts.push(Layout { redundancy, devices });
    }
    let mut guids = random(seed)?;
    let (pool, config) = pool_spa::create(name, layouts, ashift, &mut guids).map_err(Failure::Create)?;
    let about = |error| Failure::Change(name.into(), error);
    let mut store = Store::create(pool, config, now(), guids).map_err(about)?;
    create_filesystem(&mut store, name, &new_directory()).map_err(about)?;
    store.export(now()).map_err(about)
}

fn new_directory() -> NewEntry {
    NewEntry { mode: 0o755, uid: 0, gid: 0, now: (now(), 0) }
}

pub fn zfs_create(mut store: Store, dataset: &str) -> Result<(), Failure> {
    let about = |error| Failure::Change(dataset.into(), error);
    create_filesystem(&mut store, dataset, &new_directory()).map_err(about)?;
    store.export(now()).map_err(about)
}

pub fn snapshot(mut store: Store, snapshot: &str) -> Result<(), Failure> {
    let about = |error| Failure::Change(snapshot.into(), error);
    let (dataset, name) = snapshot.split_once('@').ok_or_else(|| Failure::Request(format!("'{snapshot}' is not DATASET@NAME")))?;
    store.snapshot(dataset, name, now()).map_err(about)?;
    store.export(now()).map_err(about)
}

struct Copy<'a> {
    store: Store,
    dataset: u64,
    name: &'a str,
    /// Bytes since the last commit.
    open: u64,
    files: u64,
    bytes: u64,
    progress: ProgressBar,
}

pub fn put(mut store: Store, source: &Path, dataset: &str, path: &str, recursive: bool) -> Result<(), Failure> {
    let about = |error| Failure::Change(dataset.into(), error);
    let number = store.find(dataset).map_err(about)?;
    if Zvol::open(&mut store, number).is_ok() {
        return put_volume(store, source, dataset, number);
    }
    let mut copy = Copy { store, dataset: number, name: dataset, open: 0, files: 0, bytes: 0, progress: ProgressBar::new_spinner() };
    let parent = Writer::open(&mut copy.store, number).and_then(|mut writer| writer.walk(path.as_bytes()));
    let parent = parent.map_err(|error| Failure::Change(format!("{dataset}:{path}"), error))?;
    let host = |error| Failure::Host(source.display().to_string(), error);
    if std::fs::metadata(source).map_err(host)?.is_dir() {
        if !recursive {
            return Err(Failure::Request(format!("{} is a directory: add -r", source.display())));
        }
        copy.tree(source, parent)?;
    } else {
        copy.entry(source, parent)?;
    }
    copy.store.export(now()).map_err(about)?;
    copy.progress.finish_and_clear();
    print(&format!("{} files, {} bytes\n", copy.files, copy.bytes))
}

/// Copies a file or block device onto a volume, from its start; blocks of zeros become holes.
fn put_volume(mut store: Store, source: &Path, dataset: &str, number: u64) -> Result<(), Failure> {
    let about = |error| Failure::Change(dataset.into(), error);
    let host = |error| Failure::Host(source.display().to_string(), error);
    let volume = Zvol::open(&mut store, number).map_err(about)?;
    let mut file = File::open(source).map_err(host)?;
    let (mut offset, mut open, mut buffer) = (0_u64, 0, vec![0; CHUNK]);
    let progress = ProgressBar::new(volume.size());
    loop {
        let count = file.read(&mut buffer).map_err(host)?;
        if count == 0 {
            break;
        }
        let data = &buffer[..count];
        if data.iter().all(|byte| *byte == 0) {
            volume.discard(&mut store, offset, count as u64).map_err(about)?;
        } else {
            volume.write(&mut store, offset, data).map_err(about)?;
            open += count as u64;
        }
        offset += count as u64;
        progress.set_position(offset);
        if open > COMMIT_BYTES {
            store.commit(now()).map_err(about)?;
            open = 0;
        }
    }
    store.export(now()).map_err(about)?;
    progress.finish_and_clear();
    print(&format!("{offset} bytes\n"))
}

impl Copy<'_> {
    fn tree(&mut self, source: &Path, parent: u64) -> Result<(), Failure> {
        let host = |error| Failure::Host(source.display().to_string(), error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(source).map_err(host)? {
            names.push(entry.map_err(host)?.path());
        }
        names.sort();
        names.iter().try_for_each(|path| self.entry(path, parent))
    }

    fn entry(&mut self, path: &Path, parent: u64) -> Result<(), Failure> {
        let host = |error| Failure::Host(path.display().to_string(), error);
        let label = format!("{}: {}", self.name, path.display());
        let about = |error: EditError| Failure::Change(label.clone(), error);
        let meta = std::fs::symlink_metadata(path).map_err(host)?;
        let name = path.file_name().ok_or_else(|| Failure::Request(format!("{} has no name", path.display())))?.as_bytes();
        let seconds = u64::try_from(meta.mtime()).unwrap_or(0);
        let time = (seconds, u64::try_from(meta.mtime_nsec()).unwrap_or(0));
        let new = NewEntry { mode: u64::from(meta.mode() & 0o7777), uid: meta.uid().into(), gid: meta.gid().into(), now: time };
        let kind = meta.file_type();
        if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            eprintln!("{}: special file left out", path.display());
            return Ok(());
        }
        let mut writer = Writer::open(&mut self.store, self.dataset).map_err(about)?;
        if kind.is_dir() {
            let existing = writer.lookup(parent, name).map_err(about)?;
            let object = existing.map_or_else(|| writer.make(parent, name, Make::Directory, &new), Ok).map_err(about)?;
            return self.tree(path, object);
        }
        self.files += 1;
        if kind.is_symlink() {
            let target = std::fs::read_link(path).map_err(host)?;
            writer.make(parent, name, Make::Symlink(target.as_os_str().as_bytes()), &new).map_err(about)?;
            return Ok(());
        }
        let object = writer.make(parent, name, Make::File, &new).map_err(about)?;
        let mut file = File::open(path).map_err(host)?;
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            let count = file.read(&mut buffer).map_err(host)?;
            if count == 0 {
                return Ok(());
            }
            let mut writer = Writer::open(&mut self.store, self.dataset).map_err(about)?;
            writer.write(object, offset, &buffer[..count], time).map_err(about)?;
            offset += count as u64;
            self.bytes += count as u64;
            self.open += count as u64;
            self.progress.set_message(format!("{} files, {} bytes", self.files, self.bytes));
            self.progress.tick();
            if self.open > COMMIT_BYTES {
                self.store.commit(now()).map_err(about)?;
                self.open = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_layout, parse_size};

    #[test]
    fn layouts_parse_as_zpool_reads_them() {
        let words: Vec<String> = "x mirror a b raidz2 c d e f".split(' ').map(String::from).collect();
        let parsed = parse_layout(&words);
        let shape: Vec<(Option<usize>, usize)> = parsed.iter().map(|(kind, files)| (*kind, files.len())).collect();
        assert_eq!(shape, [(None, 1), (Some(0), 2), (Some(2), 4)]);
    }

    #[test]
    fn sizes_parse_or_say_why_not() {
        assert_eq!(parse_size("256M").ok(), Some(256 << 20));
        assert_eq!(parse_size("1000").ok(), Some(1000));
        assert!(parse_size("12X").is_err() && parse_size("").is_err() && parse_size("99999999T").is_err());
    }
}
