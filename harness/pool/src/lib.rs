//! `orrery pool`: look into a ZFS pool through its image files, without a kernel module.
//!
//! # Theory
//! The pool library of the operating system is an ordinary library; here it runs over files of the host. Devices are named by `-d`
//! (a file, or a folder whose files are scanned); the pool's name picks among those found.
//!
//! # Failure
//! Images are opened read-only and never changed. Damage is survived as far as the pool's redundancy goes; what is lost is named by
//! dataset, path and block, and the exit status is 1. Usage errors exit with 2.
//!
//! # Limits
//! Reading only: `create`, `send`, `receive` and all that writes wait for the writing half of the pool.

mod files;
mod image;
mod list;
mod scrub;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pool_spa::Pool;

const EXAMPLES: &str = "\
Examples:
  orrery pool import -d DIR                      what pools are on the images in DIR
  orrery pool status -d DIR tank                 vdev tree, features, error counts
  orrery pool zfs-list -d DIR tank               datasets and snapshots
  orrery pool ls -l -d DIR tank/home@monday /    files of a snapshot
  orrery pool cat -d DIR tank/home /notes.txt    a file's contents
  orrery pool cp -r -d DIR tank/home /src OUT    copy files out
  orrery pool scrub -d DIR tank                  verify every copy of every block";

/// Look into ZFS pools on image files (read-only).
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
        /// Pool name or guid; may be left out if there is only one.
        pool: Option<String>,
    },
    /// Lists datasets and snapshots with their space.
    ZfsList {
        #[command(flatten)]
        devices: Devices,
        /// Dataset to start from (default: the pool).
        dataset: Option<String>,
        /// Scripted: no header, tabs between columns.
        #[arg(short = 'H')]
        scripted: bool,
        /// Exact numbers of bytes.
        #[arg(short = 'p')]
        parsable: bool,
    },
    /// Shows the properties of a dataset as stored, with their sources.
    ZfsGet {
        #[command(flatten)]
        devices: Devices,
        dataset: String,
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
    /// Reads and verifies every copy of every block, and says what is damaged.
    Scrub {
        #[command(flatten)]
        devices: Devices,
        pool: Option<String>,
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
    /// Asked for something that does not fit, for example a file from a volume.
    Request(String),
    /// The verb did all it could and printed what is damaged.
    Damaged,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(what, error) => write!(f, "{what}: {error}"),
            Self::Import(error) => error.fmt(f),
            Self::Pool(what, error) => write!(f, "{what}: {error}"),
            Self::Request(what) => f.write_str(what),
            Self::Damaged => write!(f, "damage was found; see above"),
        }
    }
}

impl std::error::Error for Failure {}

/// Carries a verb out.
///
/// # Errors
/// See [`Failure`].
pub fn run(args: &PoolArgs) -> Result<(), Failure> {
    match &args.verb {
        Verb::Import { devices, json } => list::import(&devices.open()?, *json),
        Verb::Status { devices, pool } => list::status(&devices.pool(pool.as_deref())?),
        Verb::ZfsList { devices, dataset, scripted, parsable } => {
            let pool = devices.pool(dataset.as_deref().map(pool_of))?;
            list::datasets(&pool, dataset.as_deref(), *scripted, *parsable)
        }
        Verb::ZfsGet { devices, dataset } => list::properties(&devices.pool(Some(pool_of(dataset)))?, dataset),
        Verb::Ls { devices, dataset, path, long, recursive } => {
            files::ls(&devices.pool(Some(pool_of(dataset)))?, dataset, path, *long, *recursive)
        }
        Verb::Cat { devices, dataset, path } => files::cat(&devices.pool(Some(pool_of(dataset)))?, dataset, path.as_deref()),
        Verb::Cp { devices, dataset, path, target, recursive } => {
            files::cp(&devices.pool(Some(pool_of(dataset)))?, dataset, path, target, *recursive)
        }
        Verb::Scrub { devices, pool } => scrub::scrub(&devices.pool(pool.as_deref())?),
    }
}

/// The pool's part of a dataset name.
fn pool_of(dataset: &str) -> &str {
    dataset.split(['/', '@']).next().unwrap_or(dataset)
}

impl Devices {
    fn open(&self) -> Result<Vec<Box<dyn kif::BlockDev>>, Failure> {
        image::open_all(&self.paths)
    }
    fn pool(&self, wanted: Option<&str>) -> Result<Pool, Failure> {
        Pool::import(self.open()?, wanted).map_err(Failure::Import)
    }
}
