//! `orrery pool zpool`: subcommands of `zpool(8)` over image files that have no verb of their own above.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Subcommand, ValueEnum};
use pool_dmu::edit::EditError;
use pool_dmu::{Auxiliary, Datasets, Store, date, history, human};
use pool_spa::{FreeWork, Event, EventSink, Pool, VdevStatus};

use crate::device::{finish, leaf, new_device, resilver};
use crate::list::print;
use crate::write::{now, parse_size, random};
use crate::{Devices, Failure, image, tend};

/// What a device outside the vdev tree is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    Spare,
    Cache,
}

#[derive(Debug, Subcommand)]
pub enum Zpool {
    /// Shows the spares and cache devices beside what `status` shows.
    Status { pool: Option<String> },
    /// Reads every block and shows what each device did: capacity, operations, bytes.
    Iostat {
        pool: String,
        /// No header, tabs between columns.
        #[arg(short = 'H')]
        scripted: bool,
        /// Exact numbers.
        #[arg(short = 'p')]
        parsable: bool,
    },
    /// Shows the commands that were given to the pool; -i also what it did by itself.
    History {
        pool: String,
        #[arg(short = 'i')]
        internal: bool,
        /// Also who gave them.
        #[arg(short = 'l')]
        long: bool,
    },
    /// Lists pools with any properties as columns.
    List {
        pools: Vec<String>,
        /// No header, tabs between columns.
        #[arg(short = 'H')]
        scripted: bool,
        /// Exact numbers.
        #[arg(short = 'p')]
        parsable: bool,
        #[arg(short = 'o', default_value = tend::COLUMNS)]
        columns: String,
    },
    /// Shows properties of pools: `get all tank`, `get -H -o value comment,failmode tank`.
    Get {
        /// `all`, or names with commas between.
        properties: String,
        pools: Vec<String>,
        #[arg(short = 'H')]
        scripted: bool,
        #[arg(short = 'p')]
        parsable: bool,
        #[arg(short = 'o', default_value = "name,property,value,source")]
        columns: String,
    },
    /// Sets a property: `set comment=archive tank`.
    Set {
        #[arg(value_name = "PROPERTY=VALUE")]
        pair: String,
        pool: String,
    },
    /// Gives a pool another name: `import tank archive`.
    Import { pool: String, new: String },
    /// Replays what intent logs hold, and marks the pool as exported.
    Export { pool: String },
    /// Gives a pool another guid, so that it and a copy of its images can be told apart.
    Reguid { pool: String },
    /// Brings what devices lack, from the start.
    Resilver { pool: String },
    /// Shows which features pools lack, or enables them; -v: the features that there are.
    Upgrade {
        pools: Vec<String>,
        /// All pools on the devices.
        #[arg(short = 'a')]
        all: bool,
        #[arg(short = 'v')]
        list: bool,
    },
    /// Makes a pool of one side of each mirror: those named, or the last ones.
    Split {
        pool: String,
        new: String,
        disks: Vec<String>,
        /// Only says which.
        #[arg(short = 'n')]
        dry: bool,
    },
    /// Makes the labels of files invalid: they belong to no pool.
    Labelclear {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(short = 'f')]
        force: bool,
    },
    /// Gives free space back to the host: holes in image files.
    Trim { pool: String, disk: Option<String> },
    /// Writes over all free space once.
    Initialize { pool: String, disk: Option<String> },
    /// Reads the whole pool and shows what its devices reported meanwhile.
    Events { pool: String },
    /// Gives the pool a spare or a cache device.
    Add {
        pool: String,
        kind: Kind,
        files: Vec<PathBuf>,
        /// Size of files to be made.
        #[arg(long, default_value = "128M")]
        size: String,
    },
    /// Takes a spare or a cache device away.
    Remove { pool: String, disk: String },
    /// Marks a pool as destroyed: its files belong to no pool.
    Destroy { pool: String },
    /// Lets a spare stand in for a disk, and resilvers it.
    StandIn { pool: String, disk: String, spare: String },
    /// Puts a partition table on an image of a whole disk, as zpool does with disks. What was on it is lost.
    LabelDisk {
        file: PathBuf,
        /// Overwrites a file that carries a pool.
        #[arg(short = 'f')]
        force: bool,
    },
}

fn about(name: &str) -> impl Fn(EditError) -> Failure {
    move |error| Failure::Change(name.into(), error)
}

/// Carries a subcommand out.
///
/// # Errors
/// See [`Failure`].
pub fn run(devices: &Devices, verb: &Zpool) -> Result<(), Failure> {
    match verb {
        Zpool::Status { pool } => devices.each(pool.as_deref(), |pool| {
            let name = pool.name();
            let store = devices.store_for_reading(name)?;
            print(&format!("  pool: {name}\n state: {}\n{}{}\n", pool.health().name(), crate::list::vdevs(store.pool()), store.auxiliary_lines().map_err(about(name))?))
        }),
        Zpool::Iostat { pool, scripted, parsable } => iostat(&devices.pool(Some(pool))?, *scripted, *parsable),
        Zpool::List { pools, scripted, parsable, columns } => tend::list(devices, pools, *scripted, *parsable, columns),
        Zpool::Get { properties, pools, scripted, parsable, columns } => tend::get(devices, properties, pools, *scripted, *parsable, columns),
        Zpool::Set { pair, pool } => tend::set(devices, pair, pool),
        Zpool::Import { pool, new } => tend::rename(devices, pool, new),
        Zpool::Export { pool } => tend::export(devices, pool),
        Zpool::Reguid { pool } => tend::reguid(devices, pool),
        Zpool::Resilver { pool } => tend::resilver(devices, pool),
        Zpool::Upgrade { pools, all, list } => tend::upgrade(devices, pools, *all, *list),
        Zpool::Split { pool, new, disks, dry } => tend::split(devices, pool, new, disks, *dry),
        Zpool::Labelclear { files, force } => tend::clear_labels(files, *force),
        Zpool::Trim { pool, disk } => tend::free_space(devices, pool, disk.as_deref(), FreeWork::Discard),
        Zpool::Initialize { pool, disk } => tend::free_space(devices, pool, disk.as_deref(), FreeWork::Overwrite),
        Zpool::History { pool, internal, long } => {
            let opened = devices.pool(Some(pool))?;
            let datasets = Datasets::open(&opened).map_err(|error| Failure::Pool(pool.clone(), error))?;
            let lines = history(datasets.mos()).map_err(about(pool))?;
            let shown = lines.iter().filter(|line| *internal || !line.internal).map(|line| format!("{} {}{}\n", date(line.time), line.text, if *long { format!(" [user {} on {}]", line.who, line.host) } else { String::new() }));
            print(&format!("History for '{pool}':\n{}\n", shown.collect::<String>()))
        }
        Zpool::Events { pool } => events(devices, pool),
        Zpool::Add { pool, kind, files, size } => {
            let (mut store, bytes) = (devices.store(pool)?, parse_size(size)?);
            let kind = match kind {
                Kind::Spare => Auxiliary::Spare,
                Kind::Cache => Auxiliary::Cache,
            };
            for file in files {
                let (path, device) = new_device(file, Some(bytes))?;
                store.note_history(&format!("zpool add {pool} {} {path}", if kind == Auxiliary::Spare { "spare" } else { "cache" }), now()).map_err(about(pool))?;
                store.add_auxiliary(kind, &path, device, now()).map_err(about(pool))?;
            }
            finish(store)
        }
        Zpool::Remove { pool, disk } => {
            let mut store = devices.store(pool)?;
            let guid = auxiliary(&store, disk)?;
            store.note_history(&format!("zpool remove {pool} {disk}"), now()).map_err(about(pool))?;
            store.remove_auxiliary(guid, now()).map_err(about(pool))?;
            finish(store)
        }
        Zpool::Destroy { pool } => devices.store(pool)?.destroy_pool(now()).map_err(about(pool)),
        Zpool::StandIn { pool, disk, spare } => {
            let mut store = devices.store(pool)?;
            let (disk, spare) = (leaf(&store, disk)?, auxiliary(&store, spare)?);
            store.stand_in(disk, spare, now()).map_err(about(pool))?;
            let found = resilver(&mut store);
            finish(store)?;
            found
        }
        Zpool::LabelDisk { file, force } => label_disk(file, *force),
    }
}

/// A spare or cache device by path or guid.
fn auxiliary(store: &Store, disk: &str) -> Result<u64, Failure> {
    let full = std::fs::canonicalize(disk).map_or_else(|_| disk.to_owned(), |path| path.display().to_string());
    for kind in [Auxiliary::Spare, Auxiliary::Cache] {
        let devices = store.auxiliaries(kind).map_err(about(disk))?;
        if let Some(found) = devices.into_iter().find(|device| device.path == disk || device.path == full || disk.parse() == Ok(device.guid)) {
            return Ok(found.guid);
        }
    }
    Err(Failure::Request(format!("no spare or cache device of the pool is called '{disk}'; see zpool status")))
}

fn label_disk(file: &Path, force: bool) -> Result<(), Failure> {
    let devices = [image::open(file, true)?];
    if let (Some(found), false) = (pool_spa::scan(&devices).first(), force) {
        return Err(Failure::Request(format!("{} belongs to pool '{}' (-f overwrites it)", file.display(), found.name)));
    }
    let [device] = devices;
    let part = pool_spa::label_disk(device, &mut *random(None)?).map_err(Failure::Create)?;
    print(&format!("{}: partition 1 is the pool's, {}\n", file.display(), human(part.size_bytes())))
}

fn iostat(pool: &Pool, scripted: bool, parsable: bool) -> Result<(), Failure> {
    pool_dmu::check(pool, true).map_err(about(pool.name()))?;
    let number = |value: u64| if parsable { value.to_string() } else { human(value) };
    let line = |name: &str, words: [String; 4]| {
        if scripted { format!("{name}\t{}\n", words.join("\t")) } else { format!("{name:<40} {:>10} {:>10} {:>10} {:>10}\n", words[0], words[1], words[2], words[3]) }
    };
    let mut out = if scripted { String::new() } else { line("vdev", ["reads", "writes", "read", "written"].map(String::from)) };
    fn walk(vdev: &VdevStatus, depth: usize, show: &mut dyn FnMut(&VdevStatus, usize)) {
        show(vdev, depth);
        vdev.children.iter().for_each(|child| walk(child, depth + 1, show));
    }
    for top in pool.status() {
        walk(&top, 0, &mut |vdev, depth| {
            let indent = if scripted { 0 } else { depth * 2 };
            let name = format!("{:indent$}{}", "", vdev.name);
            let counts = vdev.leaf.as_ref().map(|leaf| leaf.counts);
            let words = counts.map_or_else(|| ["-", "-", "-", "-"].map(String::from), |c| [c.reads.to_string(), c.writes.to_string(), number(c.bytes_read), number(c.bytes_written)]);
            out.push_str(&line(&name, words));
        });
    }
    print(&out)
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl EventSink for Lines {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{:<32} {event:?}\n", event.class()));
    }
}

fn events(devices: &Devices, name: &str) -> Result<(), Failure> {
    let mut pool = devices.pool(Some(name))?;
    let lines = Arc::new(Lines::default());
    pool.set_events(Arc::clone(&lines) as Arc<dyn EventSink>);
    // Reading only: what is wrong stays as it is.
    let found = pool_dmu::check(&pool, true).map_err(about(name))?;
    let text = std::mem::take(&mut *lines.0.lock().unwrap_or_else(PoisonError::into_inner));
    print(&format!("{:<32} EVENT\n{}", "CLASS", text.concat()))?;
    if found.fault_count == 0 { Ok(()) } else { Err(Failure::Damaged) }
}
