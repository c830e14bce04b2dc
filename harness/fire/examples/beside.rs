//! The pool library beside the host's own file systems, over image files: `cargo run --release -p pool-fire --example beside -- [FOLDER [KIND...]] > perf/files.toml`.
//!
//! # Theory
//! Each file system gets an image of its own in FOLDER (default: the current one) and the same work, in turn, [`ROUNDS`] times; medians count. The pool's library
//! runs in this process over the image, through its vnodes, with its cache; ext4 and btrfs are the host's, mounted over a loop device. What is
//! to be durable is synced in all of them, down to the image file; before reads that are to be cold, images are closed (unmounted) and the host's cache of them is
//! dropped. Contents do not compress.
//!
//! # Failure
//! Mounting needs root; a file system whose `mkfs` or kernel driver is missing is left out, and said so on standard error. No image is left behind.
//!
//! # Limits
//! The library pays no system calls and the host's file systems do, a fraction of a microsecond each; they pay no checksum of data (btrfs does: crc32c), the
//! pool does (fletcher4). A ratio to another file system is for this host's disk, and moves with it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use kif::{BlockDev, BlockError, ZoneId};
use pool_dmu::Store;
use pool_fs::Storage;
use pool_spa::{Layout, Pool};
use pool_zpl::{NewEntry, create_filesystem};
use vfs::mount::Filesystem;
use vfs::{DevNo, Io, Kind, Owner, VnodeRef};

const ROUNDS: usize = 3;
/// Of an image in bytes.
const IMAGE: u64 = 1 << 30;
/// Of the large file.
const LARGE: u64 = 128 << 20;
/// One read or write of it.
const RECORD: usize = 128 << 10;
/// Of the file that is read from the cache and written in places.
const SMALL: u64 = 8 << 20;
const PAGE: usize = 4096;
const READS: u64 = 100_000;
const SYNCS: u64 = 300;
const FILES: u64 = 3_000;

const IO: Io = Io { zone: ZoneId::GLOBAL, nonblock: false };
const OWNER: Owner = Owner { uid: 0, gid: 0, zone: ZoneId::GLOBAL };

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What the work is done on.
trait Files {
    /// Opens the image; on a new one makes the file system first.
    fn open(&mut self) -> Outcome<()>;
    /// Everything durable, the image closed.
    fn close(&mut self) -> Outcome<()>;
    fn create(&mut self, name: &str) -> Outcome<()>;
    fn unlink(&mut self, name: &str) -> Outcome<()>;
    fn write(&mut self, name: &str, at: u64, data: &[u8]) -> Outcome<()>;
    fn read(&mut self, name: &str, at: u64, out: &mut [u8]) -> Outcome<()>;
    /// One file durable.
    fn sync(&mut self, name: &str) -> Outcome<()>;
    /// All of them.
    fn sync_all(&mut self) -> Outcome<()>;
}

/// A file of the host as a disk.
struct Image(File);

impl BlockDev for Image {
    fn size_bytes(&self) -> u64 {
        IMAGE
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.0.read_exact_at(out, offset).map_err(|_| BlockError::Io)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.0.write_all_at(data, offset).map_err(|_| BlockError::Io)
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.0.sync_data().map_err(|_| BlockError::Io)
    }
}

/// splitmix64.
fn random(seed: u64) -> impl FnMut() -> u64 + Send {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}

fn image(path: &Path) -> Outcome<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.set_len(IMAGE)?;
    Ok(file)
}

/// Our pool.
struct Ours {
    image: PathBuf,
    made: bool,
    open: Option<(Arc<Storage>, VnodeRef)>,
    /// Files that were used, as a process keeps them open.
    nodes: BTreeMap<String, VnodeRef>,
}

impl Ours {
    fn root(&self) -> Outcome<&VnodeRef> {
        Ok(&self.open.as_ref().ok_or("the pool is not open")?.1)
    }

    fn node(&mut self, name: &str) -> Outcome<VnodeRef> {
        if let Some(node) = self.nodes.get(name) {
            return Ok(node.clone());
        }
        let node = self.root()?.lookup(name.as_bytes()).map_err(|error| format!("{name}: {error:?}"))?;
        self.nodes.insert(name.to_owned(), node.clone());
        Ok(node)
    }
}

impl Files for Ours {
    fn open(&mut self) -> Outcome<()> {
        let device = Box::new(Image(image(&self.image)?)) as Box<dyn BlockDev>;
        let store = if self.made {
            let pool = Pool::import(vec![device], None).map_err(|error| format!("import: {error:?}"))?;
            let mut store = Store::open(pool, Box::new(random(3))).map_err(|error| format!("open: {error:?}"))?;
            pool_zpl::replay_logs(&mut store, (1, 0)).map_err(|error| format!("replay: {error:?}"))?;
            store
        } else {
            let layout = Layout { redundancy: None, devices: vec![("disk".to_owned(), device)] };
            let (pool, config) = pool_spa::create("tank", vec![layout], 12, &mut random(1)).map_err(|error| format!("create: {error:?}"))?;
            let mut store = Store::create(pool, config, 1, Box::new(random(2))).map_err(|error| format!("create: {error:?}"))?;
            create_filesystem(&mut store, "tank", &NewEntry { mode: 0o755, uid: 0, gid: 0, now: (1, 0) }).map_err(|error| format!("create: {error:?}"))?;
            store.commit(1).map_err(|error| format!("commit: {error:?}"))?;
            self.made = true;
            store
        };
        let storage = Storage::start(store).map_err(|error| format!("{error:?}"))?;
        let dataset = storage.with(|store| store.find("tank")).map_err(|error| format!("{error:?}"))?;
        let root = storage.mount(dataset, false).map_err(|error| format!("{error:?}"))?.root();
        self.open = Some((storage, root));
        Ok(())
    }

    fn close(&mut self) -> Outcome<()> {
        self.nodes.clear();
        if let Some((storage, root)) = self.open.take() {
            drop(root);
            storage.export(false).map_err(|error| format!("export: {error:?}"))?;
        }
        Ok(())
    }

    fn create(&mut self, name: &str) -> Outcome<()> {
        let node = self.root()?.create(name.as_bytes(), Kind::File, 0o644, DevNo::default(), OWNER).map_err(|error| format!("{name}: {error:?}"))?;
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    fn unlink(&mut self, name: &str) -> Outcome<()> {
        self.nodes.remove(name);
        Ok(self.root()?.unlink(name.as_bytes()).map_err(|error| format!("{name}: {error:?}"))?)
    }

    fn write(&mut self, name: &str, at: u64, data: &[u8]) -> Outcome<()> {
        let count = self.node(name)?.write_at(at, data, IO).map_err(|error| format!("{name}: {error:?}"))?;
        if count == data.len() { Ok(()) } else { Err(format!("{name}: {count} bytes written").into()) }
    }

    fn read(&mut self, name: &str, at: u64, out: &mut [u8]) -> Outcome<()> {
        let count = self.node(name)?.read_at(at, out, IO).map_err(|error| format!("{name}: {error:?}"))?;
        if count == out.len() { Ok(()) } else { Err(format!("{name}: {count} bytes read").into()) }
    }

    fn sync(&mut self, name: &str) -> Outcome<()> {
        Ok(self.node(name)?.sync().map_err(|error| format!("{name}: {error:?}"))?)
    }

    fn sync_all(&mut self) -> Outcome<()> {
        let (storage, _) = self.open.as_ref().ok_or("the pool is not open")?;
        Ok(storage.sync().map_err(|error| format!("{error:?}"))?)
    }
}

/// One of the host's, over a loop device.
struct Hosts {
    kind: &'static str,
    image: PathBuf,
    made: bool,
    mounted: Option<PathBuf>,
    open: BTreeMap<String, File>,
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) -> Outcome<()> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()).into()) }
}

impl Hosts {
    fn at(&self) -> Outcome<&Path> {
        Ok(self.mounted.as_deref().ok_or("the image is not mounted")?)
    }

    fn file(&mut self, name: &str) -> Outcome<&File> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new().read(true).write(true).open(self.at()?.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        Ok(self.open.get(name).ok_or("just opened")?)
    }
}

impl Files for Hosts {
    fn open(&mut self) -> Outcome<()> {
        drop(image(&self.image)?);
        if !self.made {
            command(&format!("mkfs.{}", self.kind), &["-q".as_ref(), self.image.as_os_str()])?;
            self.made = true;
        }
        let at = self.image.with_extension("mnt");
        std::fs::create_dir_all(&at)?;
        command("mount", &["-o".as_ref(), "loop".as_ref(), self.image.as_os_str(), at.as_os_str()])?;
        self.mounted = Some(at);
        Ok(())
    }

    fn close(&mut self) -> Outcome<()> {
        self.open.clear();
        if let Some(at) = self.mounted.take() {
            command("umount", &[at.as_os_str()])?;
            std::fs::remove_dir(at)?;
        }
        Ok(())
    }

    fn create(&mut self, name: &str) -> Outcome<()> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.at()?.join(name))?;
        self.open.insert(name.to_owned(), file);
        Ok(())
    }

    fn unlink(&mut self, name: &str) -> Outcome<()> {
        self.open.remove(name);
        Ok(std::fs::remove_file(self.at()?.join(name))?)
    }

    fn write(&mut self, name: &str, at: u64, data: &[u8]) -> Outcome<()> {
        Ok(self.file(name)?.write_all_at(data, at)?)
    }

    fn read(&mut self, name: &str, at: u64, out: &mut [u8]) -> Outcome<()> {
        Ok(self.file(name)?.read_exact_at(out, at)?)
    }

    fn sync(&mut self, name: &str) -> Outcome<()> {
        Ok(self.file(name)?.sync_all()?)
    }

    fn sync_all(&mut self) -> Outcome<()> {
        let root = File::open(self.at()?)?;
        rustix::fs::syncfs(&root)?;
        Ok(())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            eprintln!("{}: {error}", self.image.display());
        }
    }
}

/// Name and what is measured; the figure is microseconds for one.
const ROWS: [(&str, &str); 7] = [
    ("write_128k", "128 KiB of a file of 128 MiB written in order, then made durable"),
    ("read_128k_cold", "128 KiB of it read in order, nothing cached"),
    ("read_4k_cached", "4 KiB at random of a file of 8 MiB that was read before"),
    ("write_4k_sync", "4 KiB written at random into it and made durable"),
    ("create", "a file of 1 KiB made, all of them durable at the end"),
    ("unlink", "one of them removed, likewise"),
    ("mount", "a clean file system opened"),
];

fn rest(path: &Path) -> Outcome<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// All rows on one file system; microseconds for one.
fn work(files: &mut dyn Files, image: &Path) -> Outcome<[f64; ROWS.len()]> {
    let micros = |since: Instant, count: u64| since.elapsed().as_secs_f64() * 1e6 / count as f64;
    let mut noise = random(7);
    let mut record: Vec<u8> = std::iter::repeat_with(&mut noise).take(RECORD / 8).flat_map(u64::to_le_bytes).collect();
    let records = LARGE / RECORD as u64;
    files.open()?;
    files.create("large")?;
    let since = Instant::now();
    for index in 0..records {
        // Each differs from the others.
        record[..8].copy_from_slice(&index.to_le_bytes());
        files.write("large", index * RECORD as u64, &record)?;
    }
    files.sync("large")?;
    let write = micros(since, records);
    files.create("small")?;
    for index in 0..SMALL / RECORD as u64 {
        files.write("small", index * RECORD as u64, &record)?;
    }
    files.close()?;
    rest(image)?;

    let since = Instant::now();
    files.open()?;
    let mount = micros(since, 1);
    let since = Instant::now();
    for index in 0..records {
        files.read("large", index * RECORD as u64, &mut record)?;
        if record[..8] != index.to_le_bytes() {
            return Err(format!("record {index} is another").into());
        }
    }
    let cold = micros(since, records);
    let mut page = [0; PAGE];
    let pages = SMALL / PAGE as u64;
    for index in 0..pages {
        files.read("small", index * PAGE as u64, &mut page)?;
    }
    let since = Instant::now();
    for _ in 0..READS {
        files.read("small", noise() % pages * PAGE as u64, &mut page)?;
    }
    let cached = micros(since, READS);
    let since = Instant::now();
    for _ in 0..SYNCS {
        page[..8].copy_from_slice(&noise().to_le_bytes());
        files.write("small", noise() % pages * PAGE as u64, &page)?;
        files.sync("small")?;
    }
    let synced = micros(since, SYNCS);
    let since = Instant::now();
    for index in 0..FILES {
        let name = format!("file{index}");
        files.create(&name)?;
        files.write(&name, 0, &record[..1024])?;
        if index % 500 == 499 {
            // As a program that keeps few of them open.
            files.sync_all()?;
        }
    }
    files.sync_all()?;
    let create = micros(since, FILES);
    let since = Instant::now();
    for index in 0..FILES {
        files.unlink(&format!("file{index}"))?;
    }
    files.sync_all()?;
    let unlink = micros(since, FILES);
    files.close()?;
    Ok([write, cold, cached, synced, create, unlink, mount])
}

/// An image that goes whatever happens to the work on it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

fn main() -> Outcome<()> {
    kif_host::start();
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    let wanted: Vec<String> = std::env::args().skip(2).collect();
    let mut figures: BTreeMap<&str, Vec<[f64; ROWS.len()]>> = BTreeMap::new();
    for round in 0..ROUNDS {
        for kind in ["orrery", "ext4", "btrfs"].into_iter().filter(|kind| wanted.is_empty() || wanted.iter().any(|wanted| wanted == kind)) {
            let path = folder.join(format!("beside-{kind}.img"));
            File::create(&path)?;
            // Let go of after what works on it.
            let _scratch = Scratch(path.clone());
            let mut files: Box<dyn Files> = match kind {
                "orrery" => Box::new(Ours { image: path.clone(), made: false, open: None, nodes: BTreeMap::new() }),
                _ => Box::new(Hosts { kind, image: path.clone(), made: false, mounted: None, open: BTreeMap::new() }),
            };
            eprintln!("round {} of {ROUNDS}: {kind}", round + 1);
            match work(files.as_mut(), &path) {
                Ok(row) => figures.entry(kind).or_default().push(row),
                Err(error) if kind != "orrery" => eprintln!("{kind} is left out: {error}"),
                Err(error) => return Err(error),
            }
            drop(files);
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "# The pool library beside the host's file systems, over image files: microseconds for one, median of {ROUNDS} (cargo run --release -p pool-fire --example beside).")?;
    for (index, (name, what)) in ROWS.iter().enumerate() {
        writeln!(out, "\n# {what}\n[{name}]")?;
        let median = |kind: &str| {
            let mut column: Vec<f64> = figures.get(kind)?.iter().map(|row| row[index]).collect();
            column.sort_by(f64::total_cmp);
            column.get(column.len() / 2).copied()
        };
        for kind in ["orrery", "ext4", "btrfs"] {
            if let Some(figure) = median(kind) {
                writeln!(out, "{kind} = {figure:.1}")?;
            }
        }
    }
    Ok(())
}
