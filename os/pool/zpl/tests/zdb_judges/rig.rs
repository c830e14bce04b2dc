//! Pools on image files for the tests, and `zdb` as their judge.
//!
//! `ORRERY_ZDB` names the program (with its libraries findable); without it the same pools are only read back.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kif::{BlockDev, BlockError};
use pool_dmu::{Datasets, Error, Store};
use pool_spa::{Layout, Pool};
use pool_zpl::{Filesystem, NewEntry, create_filesystem};

struct Image(File, u64);

impl BlockDev for Image {
    fn size_bytes(&self) -> u64 {
        self.1
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.0.read_exact_at(out, offset).map_err(|_| BlockError::Io)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        if offset + data.len() as u64 > self.1 {
            return Err(BlockError::OutOfRange);
        }
        self.0.write_all_at(data, offset).map_err(|_| BlockError::Io)
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

pub const NOW: (u64, u64) = (1_700_000_000, 5);
pub const NEW: NewEntry = NewEntry { mode: 0o755, uid: 0, gid: 0, now: NOW };

pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("written-{name}"));
    drop(std::fs::remove_dir_all(&path));
    std::fs::create_dir_all(&path).expect("make a folder for the images");
    path
}

pub fn device(path: &Path, bytes: u64) -> Box<dyn BlockDev> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).expect("open image");
    if file.metadata().expect("stat").len() == 0 {
        file.set_len(bytes).expect("size image");
    }
    let size = file.metadata().expect("stat").len();
    Box::new(Image(file, size))
}

pub fn devices(folder: &Path) -> Vec<Box<dyn BlockDev>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).expect("list").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| device(path, 0)).collect()
}

pub fn random(seed: u64) -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = seed;
    Box::new(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    })
}

pub fn create(folder: &Path, name: &str, redundancy: Option<usize>, count: usize, ashift: u32) -> Store {
    let layout = Layout {
        redundancy,
        devices: (0..count)
            .map(|index| {
                let path = folder.join(format!("d{index}.img"));
                (path.display().to_string(), device(&path, 96 << 20))
            })
            .collect(),
    };
    let mut guids = random(7);
    let (pool, config) = pool_spa::create(name, vec![layout], ashift, &mut guids).expect("lay the pool out");
    let mut store = Store::create(pool, config, NOW.0, random(8)).expect("make the MOS");
    create_filesystem(&mut store, name, &NEW).expect("make the root file system");
    store.commit(NOW.0).expect("first commit");
    store
}

/// `zdb` finds no leak, no bad block, no orphan.
pub fn judge(folder: &Path, name: &str) {
    let Some(zdb) = std::env::var_os("ORRERY_ZDB") else {
        eprintln!("ORRERY_ZDB is not set: {name} is read back, not judged");
        return;
    };
    for flags in ["-bcc", "-dddd"] {
        let output = Command::new(&zdb).arg("-e").arg("-p").arg(folder).arg(flags).arg(name).output().expect("run zdb");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "zdb {flags} {name}: {}\n{}", output.status, text.lines().rev().take(40).collect::<Vec<_>>().join("\n"));
        if flags == "-bcc" {
            assert!(text.contains("No leaks"), "zdb {name}:\n{text}");
        }
        let complaint = text.lines().find(|line| line.contains("leaked:") || line.contains("ERROR") || line.contains("errors"));
        assert_eq!(complaint, None, "zdb {flags} {name}");
    }
}

pub fn read_all(folder: &Path, dataset: &str) -> BTreeMap<String, Vec<u8>> {
    fn walk(fs: &Filesystem<'_>, object: u64, path: &str, out: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs.read_dir(object).expect("read directory") {
            let name = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            match entry.file_type {
                4 => walk(fs, entry.object, &name, out),
                10 => drop(out.insert(name, fs.read_link(entry.object).expect("read link"))),
                _ => {
                    let mut data = Vec::new();
                    fs.read_file::<Error>(entry.object, |block| {
                        data.extend_from_slice(block);
                        Ok(())
                    })
                    .expect("read file");
                    out.insert(name, data);
                }
            }
        }
    }
    let pool = Pool::import(devices(folder), None).expect("import");
    let datasets = Datasets::open(&pool).expect("datasets");
    let info = datasets.find(dataset).expect("find");
    let fs = Filesystem::open(datasets.open_dataset(&info).expect("open")).expect("file system");
    let mut out = BTreeMap::new();
    walk(&fs, fs.root(), "", &mut out);
    out
}
