//! A pool on disks in memory, and a model of what it must hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kif::BlockDev;
use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, Error, Store};
use pool_phys::FormatError;
use pool_phys::objset::ObjsetKind;
use pool_spa::{Event, EventSink, ImportError, Layout, Pool, VdevStatus};
use pool_zpl::{Filesystem, NewEntry, create_filesystem, replay_logs};

use crate::disk::{Disk, mix};

/// The time of all pools here: a run is a function of its seed.
pub const NOW: (u64, u64) = (1_700_000_000, 5);
/// Attributes of everything made.
pub const NEW: NewEntry = NewEntry { mode: 0o755, uid: 0, gid: 0, now: NOW };
/// Name of all pools here.
pub const NAME: &str = "tank";
/// What a volume holds goes by this name.
pub const VOLUME: &str = "volume";
const FILE_MAX: u64 = 64 << 20;
const DISK_BYTES: u64 = 80 << 20;

/// How a pool's disks stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    /// `None` a disk, 0 a mirror, else raidz of that parity.
    pub redundancy: Option<usize>,
    pub disks: usize,
    pub ashift: u32,
    /// One more disk takes the intent log.
    pub log: bool,
}

impl Shape {
    /// Disks that may break without loss.
    #[must_use]
    pub const fn bearable(&self) -> usize {
        match self.redundancy {
            None => 0,
            Some(0) => self.disks - 1,
            Some(parity) => parity,
        }
    }
}

/// The layouts that everything is tried on.
pub const SHAPES: [Shape; 7] = [
    Shape { name: "disk", redundancy: None, disks: 1, ashift: 9, log: false },
    Shape { name: "disk-4k", redundancy: None, disks: 1, ashift: 12, log: false },
    Shape { name: "mirror", redundancy: Some(0), disks: 2, ashift: 9, log: false },
    Shape { name: "raidz1", redundancy: Some(1), disks: 3, ashift: 12, log: false },
    Shape { name: "raidz2", redundancy: Some(2), disks: 5, ashift: 9, log: false },
    Shape { name: "raidz3", redundancy: Some(3), disks: 6, ashift: 9, log: false },
    Shape { name: "mirror+log", redundancy: Some(0), disks: 2, ashift: 9, log: true },
];

/// Events as they came.
#[derive(Debug, Default)]
pub struct Events(Mutex<Vec<Event>>);

impl EventSink for Events {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(*event);
    }
}

impl Events {
    /// Takes what came since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Random numbers from a seed.
#[must_use]
pub fn random(seed: u64) -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = seed;
    Box::new(move || {
        state = state.wrapping_add(1);
        mix(mix(seed) ^ state)
    })
}

/// Why a pool could not be opened.
#[derive(Debug)]
pub enum OpenError {
    Import(ImportError),
    Open(EditError),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Import(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// Devices of disks.
#[must_use]
pub fn devices(disks: &[Disk]) -> Vec<Box<dyn BlockDev>> {
    disks.iter().map(Disk::device).collect()
}

/// Makes a pool with one file system, its root.
///
/// # Errors
/// What the pool says.
///
/// # Panics
/// If the layout cannot be: the table of shapes is wrong.
pub fn create(shape: &Shape, seed: u64) -> Result<(Vec<Disk>, Store), EditError> {
    let mut disks: Vec<Disk> = (0..shape.disks).map(|_| Disk::new(DISK_BYTES)).collect();
    let layout = |disks: &[Disk], redundancy, first: usize| Layout {
        redundancy,
        devices: disks.iter().enumerate().map(|(index, disk)| (format!("d{}", first + index), disk.device())).collect(),
    };
    let mut guids = random(seed);
    let (pool, config) = pool_spa::create(NAME, vec![layout(&disks, shape.redundancy, 0)], shape.ashift, &mut guids).expect("the layout can be");
    let mut store = Store::create(pool, config, NOW.0, guids)?;
    create_filesystem(&mut store, NAME, &NEW)?;
    store.commit(NOW.0)?;
    if shape.log {
        let log = Disk::new(DISK_BYTES);
        store.add(layout(std::slice::from_ref(&log), None, shape.disks), true, NOW.0)?;
        disks.push(log);
    }
    Ok((disks, store))
}

/// Opens a pool for writing, with replay of its intent logs.
///
/// # Errors
/// See [`OpenError`].
pub fn open(disks: &[Disk], seed: u64, events: Option<Arc<Events>>) -> Result<Store, OpenError> {
    let mut pool = Pool::import(devices(disks), Some(NAME)).map_err(OpenError::Import)?;
    if let Some(events) = events {
        pool.set_events(events);
    }
    let mut store = Store::open(pool, random(seed)).map_err(OpenError::Open)?;
    replay_logs(&mut store, NOW).map_err(OpenError::Open)?;
    Ok(store)
}

/// Guids of a pool's leaves.
#[must_use]
pub fn leaves(pool: &Pool) -> Vec<u64> {
    fn walk(vdev: &VdevStatus, out: &mut Vec<u64>) {
        if vdev.leaf.is_some() {
            out.push(vdev.guid);
        }
        vdev.children.iter().for_each(|child| walk(child, out));
    }
    let mut out = Vec::new();
    pool.status().iter().for_each(|vdev| walk(vdev, &mut out));
    out
}

/// Every file of a dataset or snapshot, by path; of a volume its bytes, as [`VOLUME`].
///
/// # Errors
/// The first block that cannot be read.
pub fn read_all(pool: &Pool, dataset: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    read(pool, dataset, true)
}

/// The same without what files hold: each is empty.
///
/// # Errors
/// The first block that cannot be read.
pub fn read_names(pool: &Pool, dataset: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    read(pool, dataset, false)
}

fn read(pool: &Pool, dataset: &str, contents: bool) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    fn walk(fs: &Filesystem<'_>, object: u64, path: &str, contents: bool, out: &mut BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
        for entry in fs.read_dir(object)? {
            let name = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            match entry.file_type {
                4 => {
                    if path.len() > 4096 {
                        return Err(FormatError::new("directory", "nested too deeply", entry.object).into());
                    }
                    out.insert(format!("{name}/"), Vec::new());
                    walk(fs, entry.object, &name, contents, out)?;
                }
                10 => drop(out.insert(name, fs.read_link(entry.object)?)),
                _ => {
                    let mut data = Vec::new();
                    // A hostile size is a sparse file of it: nothing to read into memory.
                    let size = fs.stat(entry.object)?.size;
                    if size > FILE_MAX {
                        return Err(FormatError::new("file", "is larger than any the workload makes", entry.object).into());
                    }
                    // OpenZFS's kernel module panics where such a file is read; neither zdb nor our own reading minds.
                    let block = fs.objects().object(entry.object)?.dnode().block_size;
                    if !block.is_power_of_two() && size > block {
                        return Err(FormatError::new("file", "is longer than its one block", entry.object).into());
                    }
                    if contents {
                        fs.read_file::<Error>(entry.object, |block| {
                            data.extend_from_slice(block);
                            Ok(())
                        })?;
                    }
                    out.insert(name, data);
                }
            }
        }
        Ok(())
    }
    let datasets = Datasets::open(pool)?;
    let info = datasets.find(dataset)?;
    let set = datasets.open_dataset(&info)?;
    if set.kind() == ObjsetKind::Zvol {
        let size = set.lookup_number(2, "size")?;
        let size = usize::try_from(size).ok().filter(|_| size <= FILE_MAX).ok_or(FormatError::new("volume", "is larger than any the workload makes", size))?;
        let mut data = vec![0; if contents { size } else { 0 }];
        set.object(1)?.read_at(0, &mut data)?;
        return Ok(BTreeMap::from([(VOLUME.to_owned(), data)]));
    }
    let fs = Filesystem::open(set)?;
    let mut out = BTreeMap::new();
    walk(&fs, fs.root(), "", contents, &mut out)?;
    Ok(out)
}
