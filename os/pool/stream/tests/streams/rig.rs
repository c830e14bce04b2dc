//! Pools in memory, a random life for a file system, and what is in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kif::{BlockDev, BlockError};
use pool_dmu::{Datasets, Error, Store};
use pool_spa::Layout;
use pool_stream::{Naming, ReceiveOptions, Received, Sender, StreamError, Unpacker};
use pool_zpl::{Filesystem, Make, NewEntry, Writer, XattrStyle, create_filesystem};

pub const NOW: (u64, u64) = (1_700_000_000, 5);
/// Bytes of an image written at once.
const PART: usize = 64 << 10;
pub const NEW: NewEntry = NewEntry { mode: 0o755, uid: 3, gid: 4, now: NOW };

#[derive(Clone)]
pub struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![0; bytes])))
    }
}

impl BlockDev for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.lock().expect("not poisoned").len() as u64
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let start = usize::try_from(offset).map_err(|_| BlockError::OutOfRange)?;
        let data = self.0.lock().expect("not poisoned");
        out.copy_from_slice(data.get(start..start + out.len()).ok_or(BlockError::OutOfRange)?);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let start = usize::try_from(offset).map_err(|_| BlockError::OutOfRange)?;
        self.0.lock().expect("not poisoned").get_mut(start..start + data.len()).ok_or(BlockError::OutOfRange)?.copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// `SplitMix64`.
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

pub fn create(name: &str, disk: &Memory) -> Store {
    let seed = name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte));
    let layout = Layout { redundancy: None, devices: vec![("disk".into(), Box::new(disk.clone()))] };
    let (pool, config) = pool_spa::create(name, vec![layout], 12, &mut random(seed)).expect("lay out");
    let mut store = Store::create(pool, config, NOW.0, random(seed + 1)).expect("make");
    create_filesystem(&mut store, name, &NEW).expect("root");
    store.commit(NOW.0).expect("commit");
    store
}

pub fn pool(name: &str) -> (Memory, Store) {
    let disk = Memory::new(96 << 20);
    let store = create(name, &disk);
    (disk, store)
}

pub fn make_fs(store: &mut Store, name: &str) -> u64 {
    let dataset = create_filesystem(store, name, &NEW).expect("make");
    store.commit(NOW.0).expect("commit");
    dataset
}

/// `steps` random changes to a file system.
pub fn live(store: &mut Store, dataset: u64, draw: &mut dyn FnMut() -> u64, steps: u64) {
    for _ in 0..steps {
        let mut writer = Writer::open(store, dataset).expect("open");
        let root = writer.root();
        let name = format!("f{}", draw() % 24).into_bytes();
        let known = writer.lookup(root, &name).expect("lookup");
        let is_file = known.is_some_and(|object| writer.stat(object).expect("stat").mode >> 12 == 8);
        match (draw() % 12, known) {
            (0..3, None) => drop(writer.make(root, &name, Make::File, &NEW).expect("make")),
            (3, None) => drop(writer.make(root, &name, Make::Directory, &NEW).expect("make")),
            (4, None) => drop(writer.make(root, &name, Make::Symlink(&vec![b'x'; usize::try_from(draw() % 300 + 1).expect("small")]), &NEW).expect("make")),
            (0, Some(_)) => drop(writer.remove(root, &name, NOW)),
            (1, Some(object)) if is_file => writer.truncate(object, draw() % 600_000, NOW).expect("truncate"),
            (2, Some(object)) if is_file => writer.punch_hole(object, draw() % 400_000, draw() % 300_000, NOW).expect("punch"),
            (3 | 4, Some(object)) => {
                let value = vec![7; usize::try_from(draw() % 700).expect("small")];
                let style = if draw().is_multiple_of(2) { XattrStyle::Attributes } else { XattrStyle::Directory };
                let value = (!draw().is_multiple_of(3)).then_some(value.as_slice());
                writer.set_xattr(object, b"user.a", value, style, NOW).expect("xattr");
            }
            (_, Some(object)) if is_file => {
                let length = usize::try_from(draw() % 100_000).expect("small");
                // Some of it is zeros, some repeats, some is noise.
                let byte = draw().to_le_bytes()[0];
                let data: Vec<u8> = if byte < 80 { vec![byte; length] } else { (0..length / 8 + 1).flat_map(|_| draw().to_le_bytes()).take(length).collect() };
                writer.write(object, draw() % 500_000, &data, NOW).expect("write");
            }
            _ => {}
        }
    }
}

/// What is in a file system: path to attributes and contents.
pub type Contents = BTreeMap<String, (String, Vec<u8>)>;

pub fn contents(store: &Store, name: &str) -> Contents {
    let tree = Datasets::open(store.pool()).expect("tree");
    let fs = Filesystem::open(tree.open_dataset(&tree.find(name).expect("find")).expect("set")).expect("file system");
    let mut out = Contents::new();
    walk(&fs, fs.root(), "", &mut out);
    out
}

fn walk(fs: &Filesystem<'_>, object: u64, path: &str, out: &mut Contents) {
    for entry in fs.read_dir(object).expect("read directory") {
        let name = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let node = fs.stat(entry.object).expect("stat");
        let xattrs = fs.xattrs(entry.object).expect("xattrs");
        let about = format!("{} {:o} {} {}:{} {} {:?} {xattrs:?}", entry.object, node.mode, node.size, node.uid, node.gid, node.links, node.modified);
        let mut data = Vec::new();
        match entry.file_type {
            4 => walk(fs, entry.object, &name, out),
            10 => data = fs.read_link(entry.object).expect("link"),
            _ => fs
                .read_file::<Error>(entry.object, |block| {
                    data.extend_from_slice(block);
                    Ok(())
                })
                .expect("read"),
        }
        out.insert(name, (about, data));
    }
}

pub fn names(store: &Store) -> Vec<String> {
    let tree = Datasets::open(store.pool()).expect("tree");
    tree.list(store.pool().name()).expect("list").into_iter().map(|info| info.name).collect()
}

pub fn drain(store: &Store, mut sender: Sender) -> Vec<u8> {
    let mut out = Vec::new();
    while sender.next(store.pool(), &mut out).expect("send") {}
    out
}

pub fn options() -> ReceiveOptions {
    ReceiveOptions { owners: Some(pool_zpl::owners), ..ReceiveOptions::default() }
}

pub fn receive_with(store: &mut Store, target: &str, stream: &[u8], options: ReceiveOptions) -> Result<Vec<Received>, StreamError> {
    let mut unpacker = Unpacker::new(target, Naming::Exact, options);
    // Pieces of an odd size, so that records are cut anywhere.
    for piece in stream.chunks(70_001) {
        unpacker.feed(store, piece, NOW.0)?;
    }
    unpacker.finish(store, NOW.0).map(|(received, _)| received)
}

pub fn receive(store: &mut Store, target: &str, stream: &[u8]) -> Result<Vec<Received>, StreamError> {
    receive_with(store, target, stream, options())
}

/// Exports, and lets our own check and `zdb` (named by `ORRERY_ZDB`) look at the pool.
pub fn judge(mut store: Store, disk: &Memory) {
    store.export(NOW.0).expect("export");
    let name = store.name();
    let checked = pool_dmu::check(store.pool(), true).expect("check");
    assert!(checked.faults.is_empty(), "{name}: {:?}", checked.faults);
    let folder = pool_judge::scratch(env!("CARGO_TARGET_TMPDIR"), &format!("streams-{name}"));
    let image = pool_judge::Image::create(&folder.join("disk.img"), disk.size_bytes()).expect("make an image");
    for (index, part) in (0_u64..).zip(disk.0.lock().expect("not poisoned").chunks(PART)) {
        // What was never written stays a hole.
        if part.iter().any(|byte| *byte != 0) {
            image.write(index * PART as u64, part).expect("write the image");
        }
    }
    pool_judge::zdb(&folder, &name).unwrap_or_else(|complaint| panic!("{name}: {complaint}"));
    std::fs::remove_dir_all(&folder).expect("tidy up");
}

/// `zstream dump` accepts the stream: every checksum right.
pub fn zstream(stream: &[u8]) {
    pool_judge::zstream(stream).unwrap_or_else(|complaint| panic!("{complaint}"));
}
