//! `orrery pool`: ZFS pools on image files, without a kernel module.
//!
//! # Theory
//! The pool library of the operating system is an ordinary library; here it runs over files of the host. Devices are named by `-d`
//! (a file, or a folder whose files are scanned); the pool's name picks among those found.
//!
//! # Failure
//! Images are opened read-only unless the verb writes. A verb that writes commits at its end (and `put` every 64 MiB): interrupted, it leaves the pool at its last commit. Damage is survived as far as the pool's redundancy goes; what is lost is named by
//! dataset, path and block, and the exit status is 1. Usage errors exit with 2.
//!
//! # Limits
//! Writing needs enough devices of each vdev and a pool whose features we can write.

mod device;
mod files;
mod image;
mod list;
mod owners;
mod scrub;
mod stream;
mod tend;
mod write;
mod zfs;
mod zpool;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pool_dmu::{Datasets, unreadable};
use pool_spa::{ImportError, Pool};

const EXAMPLES: &str = "\
Examples (a session: each works after those before it, in a folder where you may write):
  mkdir -p DIR BACK SRC/deep; echo notes >SRC/notes.txt; echo words >SRC/deep/words; echo more >more.txt
  cargo orrery pool create tank mirror DIR/a.img DIR/b.img --size 128M
  cargo orrery pool zfs-create -d DIR tank/home
  cargo orrery pool put -r -d DIR SRC tank/home /        copy files in
  cargo orrery pool snapshot -d DIR tank/home@sunday
  cargo orrery pool put -d DIR more.txt tank/home /
  cargo orrery pool snapshot -d DIR tank/home@monday
  cargo orrery pool import -d DIR                        what pools are on the images in DIR
  cargo orrery pool list -d DIR                          size, use and health of all of them
  cargo orrery pool status -d DIR tank                   vdev tree, features, error counts
  cargo orrery pool status -j -d DIR tank                JSON for programs (also: import, zfs-list, zfs-get)
  cargo orrery pool zfs-list -d DIR tank                 datasets and snapshots
  cargo orrery pool ls -l -d DIR tank/home@monday /      files of a snapshot
  cargo orrery pool cat -d DIR tank/home /notes.txt      a file's contents
  cargo orrery pool cp -r -d DIR tank/home /deep OUT     copy files out
  cargo orrery pool zfs -d DIR list -H -p -t all -o name,used,refer,origin tank
  cargo orrery pool zfs -d DIR set compression=zstd tank/home
  cargo orrery pool zfs -d DIR get -H -o value compression tank/home
  cargo orrery pool zfs -d DIR diff tank/home@sunday @monday     what changed between two snapshots
  cargo orrery pool zfs -d DIR set userquota@1000=10M tank/home
  cargo orrery pool zfs -d DIR userspace tank/home       what each user has of it, and may have
  cargo orrery pool zfs -d DIR clone tank/home@monday tank/try
  cargo orrery pool zfs -d DIR destroy -r tank/try
  cargo orrery pool create backup BACK/e.img
  cargo orrery pool send -d DIR tank/home@sunday >all.zfs
  cargo orrery pool receive --device BACK backup/home <all.zfs
  cargo orrery pool send -d DIR -c -i @sunday tank/home@monday >step.zfs
  cargo orrery pool stream dump step.zfs
  cargo orrery pool receive --device BACK -s backup/home <step.zfs
  cargo orrery pool scrub -d DIR tank                    verify every copy of every block (--repair: mend it)
  cargo orrery pool attach -d DIR tank DIR/a.img DIR/c.img       one more side of a mirror
  cargo orrery pool replace -s -d DIR tank DIR/b.img DIR/d.img   put a new file in a disk's place (-s: copy first, then scrub)
  cargo orrery pool offline -d DIR tank DIR/c.img
  cargo orrery pool online -e -d DIR tank DIR/c.img      back in service; -e: use what the images grew by
  cargo orrery pool detach -d DIR tank DIR/c.img
  cargo orrery pool zpool -d DIR iostat tank             what each device did
  cargo orrery pool zpool -d DIR set comment=archive tank        properties: also failmode, autoexpand, bootfs, ...
  cargo orrery pool zpool -d DIR get all tank
  cargo orrery pool attach -d DIR tank DIR/a.img DIR/c2.img
  cargo orrery pool zpool -d DIR split tank copy         one side of each mirror becomes a pool of its own
  cargo orrery pool zpool -d DIR import copy second      gives it another name
  cargo orrery pool zpool -d DIR list -o name,size,frag,health
  cargo orrery pool zpool -d DIR trim tank               what is free takes no room on the host any more";

/// ZFS pools on image files: look into them, make them, put files in.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PoolArgs {
    #[command(subcommand)]
    verb: Verb,
}

/// Where the devices are.
#[derive(Debug, Args)]
struct Devices {
    /// An image file or block device, or a folder whose files are scanned; may be given several times.
    #[arg(short = 'd', long = "device", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

/// How a list of sizes is printed.
#[derive(Debug, Args)]
struct Look {
    /// Scripted: no header, tabs between columns.
    #[arg(short = 'H')]
    scripted: bool,
    /// Exact numbers of bytes.
    #[arg(short = 'p')]
    parsable: bool,
    /// Prints JSON, with exact numbers of bytes.
    #[arg(short = 'j', long)]
    json: bool,
}

impl Look {
    fn form(&self) -> list::Form {
        list::Form::new(self.scripted, self.json)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists the pools found on the devices.
    Import {
        #[command(flatten)]
        devices: Devices,
        /// Prints JSON.
        #[arg(short = 'j', long)]
        json: bool,
    },
    /// Shows a pool's vdev tree, state and features.
    Status {
        #[command(flatten)]
        devices: Devices,
        /// Prints JSON.
        #[arg(short = 'j', long)]
        json: bool,
        /// Pool name or guid; all if left out.
        pool: Option<String>,
    },
    /// Lists pools: NAME SIZE ALLOC FREE CAP HEALTH.
    List {
        #[command(flatten)]
        devices: Devices,
        #[command(flatten)]
        look: Look,
        /// Pool name or guid; all if left out.
        pool: Option<String>,
    },
    /// Writes a snapshot, or what changed since another, as a stream: `zfs send`.
    Send {
        #[command(flatten)]
        devices: Devices,
        #[command(flatten)]
        args: stream::SendArgs,
    },
    /// Takes a stream in: `zfs receive`.
    #[command(visible_alias = "recv")]
    Receive {
        /// An image file or block device, or a folder whose files are scanned. (-d is the option of zfs receive.)
        #[arg(long = "device", value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        args: stream::ReceiveArgs,
    },
    /// Lists datasets and snapshots with their space.
    ZfsList {
        #[command(flatten)]
        devices: Devices,
        /// Dataset to start from (default: the pool).
        dataset: Option<String>,
        #[command(flatten)]
        look: Look,
    },
    /// Shows the properties of a dataset as stored, with their sources.
    ZfsGet {
        #[command(flatten)]
        devices: Devices,
        dataset: String,
        /// Scripted: no header, tabs between columns.
        #[arg(short = 'H')]
        scripted: bool,
        /// Prints JSON.
        #[arg(short = 'j', long)]
        json: bool,
    },
    /// Lists a directory of a file system or snapshot.
    Ls {
        #[command(flatten)]
        devices: Devices,
        dataset: String,
        #[arg(default_value = "/")]
        path: String,
        /// Long form: mode, links, owner, size, time.
        #[arg(short = 'l')]
        long: bool,
        /// The whole tree.
        #[arg(short = 'R')]
        recursive: bool,
    },
    /// Writes a file's contents (or a volume's, with no path) to standard output.
    Cat {
        #[command(flatten)]
        devices: Devices,
        dataset: String,
        path: Option<String>,
    },
    /// Copies a file or (with -r) a tree out of the pool.
    Cp {
        #[command(flatten)]
        devices: Devices,
        dataset: String,
        path: String,
        target: PathBuf,
        #[arg(short = 'r')]
        recursive: bool,
    },
    /// Makes a pool: `create NAME [mirror|raidz|raidz1|raidz2|raidz3] FILE... [KIND FILE...]`, as zpool does.
    Create {
        name: String,
        /// Kinds and files; files are made where they do not exist.
        #[arg(required = true)]
        layout: Vec<String>,
        /// Size of files to be made, with suffix K, M, G or T.
        #[arg(long, default_value = "128M")]
        size: String,
        /// log2 of the smallest allocation: 9 (512 bytes) to 16.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(9..=16))]
        ashift: u32,
        /// Overwrites files that already carry a pool.
        #[arg(short = 'f')]
        force: bool,
        /// Seed of the guids: the same seed, files and time give the same pool.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// The subcommands of zfs(8): `zfs -d DIR list -t all tank`.
    Zfs {
        #[command(flatten)]
        devices: Devices,
        #[command(subcommand)]
        verb: zfs::Zfs,
    },
    /// Subcommands of zpool(8): `zpool -d DIR iostat tank`.
    Zpool {
        #[command(flatten)]
        devices: Devices,
        #[command(subcommand)]
        verb: zpool::Zpool,
    },
    /// Looks into send streams.
    Stream {
        #[command(subcommand)]
        verb: stream::Stream,
    },
    /// Makes a file system.
    ZfsCreate {
        #[command(flatten)]
        devices: Devices,
        dataset: String,
    },
    /// Takes a snapshot, `DATASET@NAME`.
    Snapshot {
        #[command(flatten)]
        devices: Devices,
        snapshot: String,
    },
    /// Copies a file or (with -r) a tree into a file system's directory.
    Put {
        #[command(flatten)]
        devices: Devices,
        source: PathBuf,
        dataset: String,
        #[arg(default_value = "/")]
        path: String,
        #[arg(short = 'r')]
        recursive: bool,
    },
    /// Reads and verifies every copy of every block, and says what is damaged.
    Scrub {
        #[command(flatten)]
        devices: Devices,
        pool: Option<String>,
        /// Writes wrong copies afresh.
        #[arg(long)]
        repair: bool,
    },
    /// Makes a file another side of a disk or mirror, and resilvers it.
    Attach {
        #[command(flatten)]
        devices: Devices,
        pool: String,
        /// The disk: its path as `status` shows it, or its guid.
        disk: String,
        file: PathBuf,
        /// Sequentially: copies what is in use in the order of places, then scrubs. For mirrors.
        #[arg(short = 's')]
        sequential: bool,
    },
    /// Puts a file in a disk's place: resilvers it, then lets the disk go.
    Replace {
        #[command(flatten)]
        devices: Devices,
        pool: String,
        disk: String,
        file: PathBuf,
        /// Sequentially: copies what is in use in the order of places, then scrubs. For mirrors.
        #[arg(short = 's')]
        sequential: bool,
    },
    /// Takes a side out of a mirror.
    Detach {
        #[command(flatten)]
        devices: Devices,
        pool: String,
        disk: String,
    },
    /// Takes a disk out of service; what is written meanwhile is resilvered later.
    Offline {
        #[command(flatten)]
        devices: Devices,
        pool: String,
        disk: String,
    },
    /// Puts a disk back into service and resilvers what it missed; -e uses what the devices grew by.
    Online {
        #[command(flatten)]
        devices: Devices,
        pool: String,
        disk: String,
        #[arg(short = 'e')]
        expand: bool,
    },
    /// Adds vdevs: `add POOL [log] [mirror|raidz...] FILE...`.
    Add {
        #[command(flatten)]
        devices: Devices,
        pool: String,
        #[arg(required = true)]
        layout: Vec<String>,
        /// Size of files to be made.
        #[arg(long, default_value = "128M")]
        size: String,
    },
}

/// Why a verb failed; printed after `orrery pool: `.
#[derive(Debug)]
pub enum Failure {
    /// A host file: what was tried, and the system's answer.
    Host(String, std::io::Error),
    Import(pool_spa::ImportError),
    /// Something in the pool: its name, and what happened.
    Pool(String, pool_dmu::Error),
    /// A change to the pool: its name, and why it was not made.
    Change(String, pool_dmu::edit::EditError),
    /// A stream: what it is of, and what is wrong with it and where.
    Stream(String, pool_stream::StreamError),
    /// A pool that could not be made.
    Create(pool_spa::CreateError),
    /// Asked for something that does not fit, for example a file from a volume.
    Request(String),
    /// Words that make no sense to the verb.
    Usage(String),
    /// The verb did all it could and printed what is damaged.
    Damaged,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(what, error) => write!(f, "{what}: {error}"),
            Self::Import(error) => error.fmt(f),
            Self::Pool(what, error) => write!(f, "{what}: {error}"),
            Self::Change(what, error @ pool_dmu::edit::EditError::Features(_)) => {
                write!(f, "{what}: {error} (status, zfs list, ls, cat, cp and zfs send only read)")
            }
            Self::Change(what, error) => write!(f, "{what}: {error}"),
            Self::Stream(what, error) => write!(f, "{what}: {error}"),
            Self::Create(error) => error.fmt(f),
            Self::Request(what) | Self::Usage(what) => f.write_str(what),
            Self::Damaged => write!(f, "damage was found; see above"),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// Exit status of the verb: 2 for words that make no sense, 1 for all else.
    #[must_use]
    pub const fn status(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// Carries a verb out.
///
/// # Errors
/// See [`Failure`].
pub fn run(args: &PoolArgs) -> Result<(), Failure> {
    match &args.verb {
        Verb::Import { devices, json } => list::import(&devices.open()?, *json),
        Verb::Status { devices, pool, json } => devices.each(pool.as_deref(), |pool| list::status(pool, *json)),
        Verb::List { devices, look, pool } => {
            let mut pools = Vec::new();
            devices.each(pool.as_deref(), |pool| {
                pools.push(list::size_of(pool)?);
                Ok(())
            })?;
            list::pools(&pools, look.form(), look.parsable)
        }
        Verb::Send { devices, args } => stream::send(devices, args),
        Verb::Receive { paths, args } => stream::receive(&Devices { paths: paths.clone() }, args),
        Verb::ZfsList { devices, dataset, look } => {
            let pool = devices.pool(dataset.as_deref().map(pool_of))?;
            list::datasets(&pool, dataset.as_deref(), look.form(), look.parsable)
        }
        Verb::ZfsGet { devices, dataset, scripted, json } => list::properties(&devices.pool(Some(pool_of(dataset)))?, dataset, list::Form::new(*scripted, *json)),
        Verb::Ls { devices, dataset, path, long, recursive } => {
            files::ls(&devices.pool(Some(pool_of(dataset)))?, dataset, path, *long, *recursive)
        }
        Verb::Cat { devices, dataset, path } => files::cat(&devices.pool(Some(pool_of(dataset)))?, dataset, path.as_deref()),
        Verb::Cp { devices, dataset, path, target, recursive } => {
            files::cp(&devices.pool(Some(pool_of(dataset)))?, dataset, path, target, *recursive)
        }
        Verb::Create { name, layout, size, ashift, force, seed } => write::create(name, layout, size, *ashift, *force, *seed),
        Verb::Stream { verb } => stream::dump(verb),
        Verb::Zfs { devices, verb } => zfs::run(devices, verb),
        Verb::Zpool { devices, verb } => zpool::run(devices, verb),
        Verb::ZfsCreate { devices, dataset } => write::zfs_create(devices.store(dataset)?, dataset),
        Verb::Snapshot { devices, snapshot } => write::snapshot(devices.store(snapshot)?, snapshot),
        Verb::Put { devices, source, dataset, path, recursive } => write::put(devices.store(dataset)?, source, dataset, path, *recursive),
        Verb::Scrub { devices, pool, repair: false } => scrub::scrub(&devices.pool(pool.as_deref())?),
        Verb::Scrub { devices, pool, repair: true } => {
            let name = devices.pool(pool.as_deref())?.name().to_owned();
            device::scrub(devices.store(&name)?)
        }
        Verb::Attach { devices, pool, disk, file, sequential } => device::attach(devices.store(pool)?, disk, file, false, *sequential),
        Verb::Replace { devices, pool, disk, file, sequential } => device::attach(devices.store(pool)?, disk, file, true, *sequential),
        Verb::Detach { devices, pool, disk } => device::detach(devices.store(pool)?, disk),
        Verb::Offline { devices, pool, disk } => device::offline(devices.store(pool)?, disk),
        Verb::Online { devices, pool, disk, expand } => device::online(devices.store(pool)?, disk, *expand),
        Verb::Add { devices, pool, layout, size } => device::add(devices.store(pool)?, layout, size),
    }
}

/// The pool's part of a dataset name.
fn pool_of(dataset: &str) -> &str {
    dataset.split(['/', '@', '#']).next().unwrap_or(dataset)
}

impl Devices {
    fn open(&self) -> Result<Vec<Box<dyn kif::BlockDev>>, Failure> {
        image::open_all(&self.paths, false)
    }
    fn store(&self, dataset: &str) -> Result<pool_dmu::Store, Failure> {
        let pool = Pool::import(image::open_all(&self.paths, true)?, Some(pool_of(dataset))).map_err(Failure::Import)?;
        if pool.state() == 0 {
            eprintln!("note: the pool was not exported; make sure that nothing else has it open");
        }
        let about = |error| Failure::Change(dataset.into(), error);
        let mut store = pool_dmu::Store::open(pool, write::random(None)?).map_err(about)?;
        let records = pool_zpl::replay_logs(&mut store, (write::now(), 0)).map_err(about)?;
        if records > 0 {
            eprintln!("note: {records} records of intent logs were replayed");
        }
        Ok(store)
    }
    /// A store that is looked at and never committed; logs are not replayed into it.
    fn store_for_reading(&self, dataset: &str) -> Result<pool_dmu::Store, Failure> {
        let pool = self.pool(Some(pool_of(dataset)))?;
        pool_dmu::Store::open_for_reading(pool, write::random(Some(0))?).map_err(|error| Failure::Change(dataset.into(), error))
    }
    /// Shows the pool that is named, or each that is there.
    fn each(&self, wanted: Option<&str>, mut show: impl FnMut(&Pool) -> Result<(), Failure>) -> Result<(), Failure> {
        if wanted.is_some() {
            return show(&self.pool(wanted)?);
        }
        let found = pool_spa::scan(&self.open()?);
        if found.is_empty() {
            return Err(Failure::Request("no pools are on the given devices".into()));
        }
        let mut result = Ok(());
        for pool in found {
            // One that cannot be imported keeps no other from being shown.
            let shown = self.pool(Some(&pool.guid.to_string())).and_then(|pool| show(&pool));
            if let (Err(error), Ok(())) = (shown, &result) {
                result = Err(error);
            }
        }
        result
    }
    fn pool(&self, wanted: Option<&str>) -> Result<Pool, Failure> {
        let pool = Pool::import(self.open()?, wanted).map_err(Failure::Import)?;
        let about = |error| Failure::Pool(pool.name().into(), error);
        let unknown = Datasets::open(&pool).and_then(|datasets| unreadable(&datasets)).map_err(about)?;
        if unknown.is_empty() { Ok(pool) } else { Err(Failure::Import(ImportError::Features(unknown))) }
    }
}
