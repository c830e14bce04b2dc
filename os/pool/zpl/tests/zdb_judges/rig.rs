//! Pools on image files for the tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kif::BlockDev;
use pool_dmu::{Datasets, Error, Store};
use pool_judge::Image;
use pool_spa::{Layout, Pool};
use pool_zpl::{Filesystem, NewEntry, create_filesystem};

pub const NOW: (u64, u64) = (1_700_000_000, 5);
pub const NEW: NewEntry = NewEntry { mode: 0o755, uid: 0, gid: 0, now: NOW };

pub fn folder(name: &str) -> PathBuf {
    pool_judge::scratch(env!("CARGO_TARGET_TMPDIR"), &format!("written-{name}"))
}

pub fn devices(folder: &Path) -> Vec<Box<dyn BlockDev>> {
    pool_judge::devices(folder, "").expect("open the images")
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
                let image = Image::create(&path, 96 << 20).expect("make an image");
                (path.display().to_string(), Box::new(image) as Box<dyn BlockDev>)
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
    pool_judge::zdb(folder, name).unwrap_or_else(|complaint| panic!("{name}: {complaint}"));
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
    let pool = Pool::import(devices(folder), dataset.split(['/', '@']).next()).expect("import");
    let datasets = Datasets::open(&pool).expect("datasets");
    let info = datasets.find(dataset).expect("find");
    let fs = Filesystem::open(datasets.open_dataset(&info).expect("open")).expect("file system");
    let mut out = BTreeMap::new();
    walk(&fs, fs.root(), "", &mut out);
    out
}
