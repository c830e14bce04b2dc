//! `orrery pool zfs`: the subcommands of `zfs(8)` over image files, with its columns and options.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use pool_dmu::edit::EditError;
use pool_dmu::{DatasetInfo, DatasetKind, Datasets, Holder, Shown, Store, full_name, parse_property, parse_size};
use pool_spa::Pool;
use pool_zpl::{NewEntry, Zvol, create_filesystem};

use crate::list::print;
use crate::write::now;
use crate::{Devices, Failure, pool_of};

/// Block size of volumes, as OpenZFS 2.1 has it.
const VOLUME_BLOCK: &str = "8K";
const SPACE_COLUMNS: &str = "name,avail,used,usedsnap,usedds,usedrefreserv,usedchild";

/// How far below the named datasets a verb looks.
#[derive(Debug, Args)]
pub struct Reach {
    /// All below, too.
    #[arg(short = 'r')]
    recursive: bool,
    /// Below, down to this depth.
    #[arg(short = 'd')]
    depth: Option<usize>,
    /// Kinds: filesystem, snapshot, volume, bookmark, all.
    #[arg(short = 't', value_delimiter = ',')]
    types: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Zfs {
    /// Writes a snapshot, or what changed since another, as a stream.
    Send(crate::stream::SendArgs),
    /// Takes a stream in.
    #[command(visible_alias = "recv")]
    Receive(crate::stream::ReceiveArgs),
    /// Lists datasets: NAME USED AVAIL REFER MOUNTPOINT.
    List {
        #[command(flatten)]
        reach: Reach,
        /// No header, tabs between columns.
        #[arg(short = 'H')]
        scripted: bool,
        /// Exact numbers.
        #[arg(short = 'p')]
        parsable: bool,
        /// Columns: properties, or `space`.
        #[arg(short = 'o', default_value = "name,used,avail,refer,mountpoint", value_delimiter = ',')]
        columns: Vec<String>,
        /// Sorts by a property, rising; the first that is given counts first, and those of -S behind them.
        #[arg(short = 's')]
        sort: Vec<String>,
        /// Sorts by a property, falling.
        #[arg(short = 'S')]
        sort_down: Vec<String>,
        datasets: Vec<String>,
    },
    /// Shows properties: NAME PROPERTY VALUE SOURCE.
    Get {
        #[command(flatten)]
        reach: Reach,
        #[arg(short = 'H')]
        scripted: bool,
        #[arg(short = 'p')]
        parsable: bool,
        #[arg(short = 'o', default_value = "name,property,value,source", value_delimiter = ',')]
        columns: Vec<String>,
        /// Sources: local, default, inherited, received, none.
        #[arg(short = 's', value_delimiter = ',')]
        sources: Vec<String>,
        /// `all`, or names with commas between.
        properties: String,
        datasets: Vec<String>,
    },
    /// Sets properties: `set compression=lz4 quota=10G tank/a`.
    Set {
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Lets datasets inherit a property; -S goes back to the received value.
    Inherit {
        #[arg(short = 'r')]
        recursive: bool,
        #[arg(short = 'S')]
        received: bool,
        property: String,
        #[arg(required = true)]
        datasets: Vec<String>,
    },
    /// Makes a file system, or with -V a volume.
    Create {
        /// Those above it too, where they are missing.
        #[arg(short = 'p')]
        parents: bool,
        /// Property: NAME=VALUE.
        #[arg(short = 'o')]
        options: Vec<String>,
        /// Size of a volume.
        #[arg(short = 'V')]
        volume: Option<String>,
        #[arg(short = 'b', default_value = VOLUME_BLOCK)]
        block_size: String,
        /// No reservation for the volume.
        #[arg(short = 's')]
        sparse: bool,
        dataset: String,
    },
    /// Destroys a dataset, snapshots (`tank/a@x`, `@x,y`, `@from%to`) or a bookmark.
    Destroy {
        /// What is below, too; of snapshots, those of the same name below.
        #[arg(short = 'r')]
        recursive: bool,
        /// Clones too.
        #[arg(short = 'R')]
        clones: bool,
        /// Snapshots that are held or have clones go when they can.
        #[arg(short = 'd')]
        defer: bool,
        /// Only says what would go.
        #[arg(short = 'n')]
        dry: bool,
        #[arg(short = 'v')]
        verbose: bool,
        /// For scripts: as -v, in words and tabs.
        #[arg(short = 'p')]
        parsable: bool,
        /// Accepted: nothing is mounted here.
        #[arg(short = 'f')]
        force: bool,
        name: String,
    },
    /// Takes snapshots, all at one moment.
    Snapshot {
        #[arg(short = 'r')]
        recursive: bool,
        /// User property: NAME=VALUE.
        #[arg(short = 'o')]
        options: Vec<String>,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Takes a dataset back to a snapshot.
    Rollback {
        /// Destroys newer snapshots and bookmarks.
        #[arg(short = 'r')]
        newer: bool,
        /// And clones of those.
        #[arg(short = 'R')]
        clones: bool,
        #[arg(short = 'f')]
        force: bool,
        snapshot: String,
    },
    /// Makes a dataset that begins as a snapshot.
    Clone {
        #[arg(short = 'p')]
        parents: bool,
        #[arg(short = 'o')]
        options: Vec<String>,
        snapshot: String,
        dataset: String,
    },
    /// Makes a clone independent of its origin.
    Promote { dataset: String },
    /// Renames a dataset or snapshot; -r: snapshots of that name below, too.
    Rename {
        #[arg(short = 'r')]
        recursive: bool,
        /// Makes the parents of the new name where they are missing.
        #[arg(short = 'p')]
        parents: bool,
        /// Accepted, both: nothing is mounted here.
        #[arg(short = 'f')]
        force: bool,
        #[arg(short = 'u')]
        unmounted: bool,
        from: String,
        to: String,
    },
    /// Keeps snapshots from being destroyed.
    Hold {
        #[arg(short = 'r')]
        recursive: bool,
        tag: String,
        #[arg(required = true)]
        snapshots: Vec<String>,
    },
    /// Ends a hold.
    Release {
        #[arg(short = 'r')]
        recursive: bool,
        tag: String,
        #[arg(required = true)]
        snapshots: Vec<String>,
    },
    /// Lists holds: NAME TAG TIMESTAMP.
    Holds {
        #[arg(short = 'r')]
        recursive: bool,
        #[arg(short = 'H')]
        scripted: bool,
        #[arg(short = 'p')]
        parsable: bool,
        #[arg(required = true)]
        snapshots: Vec<String>,
    },
    /// Lists what changed since a snapshot: M modified, + added, - removed, R renamed.
    Diff(crate::owners::DiffArgs),
    /// What each user has of a file system or snapshot: TYPE NAME USED QUOTA OBJUSED OBJQUOTA.
    Userspace(crate::owners::SpaceArgs),
    /// What each group has.
    Groupspace(crate::owners::SpaceArgs),
    /// What each project has.
    Projectspace(crate::owners::SpaceArgs),
    /// Remembers a snapshot's place in time: `bookmark tank/a@x tank/a#x`.
    Bookmark { snapshot: String, bookmark: String },
    /// Says which versions of file systems there are.
    Upgrade {
        #[arg(short = 'v')]
        versions: bool,
        #[arg(short = 'a')]
        all: bool,
        #[arg(short = 'r')]
        recursive: bool,
        datasets: Vec<String>,
    },
    /// Subcommands of OpenZFS that are none here are refused by name.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Why a subcommand of OpenZFS is none here.
fn absent(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "mount" | "unmount" | "umount" => "nothing is mounted here: look into a file system with ls, cat and cp",
        "share" | "unshare" => "nothing is shared here: copy files out with cp, or send the file system",
        "allow" | "unallow" => "rights are given to zones, not to users: whoever may open the images may do all",
        "load-key" | "unload-key" | "change-key" => "there are no encrypted datasets here: they are neither made nor received",
        "program" => "there is no interpreter of channel programs: run the commands one by one, snapshots of a tree in one step with snapshot -r",
        "redact" => "redacted streams are neither made nor received; send a clone from which what is secret was removed",
        "project" => "projects are kept as they are and not given; userspace and groupspace count by user and group",
        "jail" | "unjail" | "zone" | "unzone" | "wait" => "that is for a running system",
        _ => return None,
    })
}

fn upgrade(pool: &Pool, versions: bool) -> Result<(), Failure> {
    if versions {
        return print("The following filesystem versions are supported:\n\nVER  DESCRIPTION\n---  --------------------------------------------------------\n 5   System attributes\n\nOlder ones are read, and not changed.\n");
    }
    let about = |error| Failure::Pool(pool.name().into(), error);
    let datasets = Datasets::open(pool).map_err(about)?;
    let mut out = String::from("This system is currently running ZFS filesystem version 5.\n\n");
    let mut older = 0;
    for info in datasets.list(pool.name()).map_err(about)?.iter().filter(|info| info.kind == DatasetKind::Filesystem) {
        if let Some(version) = datasets.show(info, "version").map_err(about)?.filter(|shown| shown.value != "5") {
            out.push_str(&format!("{}: version {}; it can be read: send it into a new file system to have it in the current version\n", info.name, version.value));
            older += 1;
        }
    }
    if older == 0 {
        out.push_str("All filesystems are formatted with the current version.\n");
    }
    print(&out)
}

/// Carries a subcommand out.
pub fn run(devices: &Devices, verb: &Zfs) -> Result<(), Failure> {
    match verb {
        Zfs::Send(args) => crate::stream::send(devices, args),
        Zfs::Receive(args) => crate::stream::receive(devices, args),
        Zfs::List { reach, scripted, parsable, columns, sort, sort_down, datasets } => {
            let first = datasets.first().map(|name| pool_of(name));
            let order: Vec<(&str, bool)> = sort.iter().map(|name| (name.as_str(), false)).chain(sort_down.iter().map(|name| (name.as_str(), true))).collect();
            list(&devices.pool(first)?, reach, (*scripted, *parsable), columns, &order, datasets)
        }
        Zfs::Get { reach, scripted, parsable, columns, sources, properties, datasets } => {
            get(&devices.pool(datasets.first().map(|name| pool_of(name)))?, reach, (*scripted, *parsable), columns, sources, properties, datasets)
        }
        Zfs::Holds { recursive, scripted, parsable, snapshots } => {
            holds(&devices.pool(snapshots.first().map(|name| pool_of(name)))?, *recursive, (*scripted, *parsable), snapshots)
        }
        Zfs::Diff(args) => crate::owners::diff(&devices.pool(Some(pool_of(&args.from)))?, args),
        Zfs::Userspace(args) => crate::owners::space(&devices.pool(Some(pool_of(&args.dataset)))?, Holder::User, args),
        Zfs::Groupspace(args) => crate::owners::space(&devices.pool(Some(pool_of(&args.dataset)))?, Holder::Group, args),
        Zfs::Projectspace(args) => crate::owners::space(&devices.pool(Some(pool_of(&args.dataset)))?, Holder::Project, args),
        Zfs::Upgrade { versions, datasets, .. } => upgrade(&devices.pool(datasets.first().map(|name| pool_of(name)))?, *versions),
        Zfs::Other(words) => Err(match words.first().map(String::as_str).and_then(|verb| Some((verb, absent(verb)?))) {
            Some((verb, why)) => Failure::Request(format!("{verb}: {why}")),
            None => Failure::Usage(format!("'{}' is no subcommand of zfs; see --help", words.first().map_or("", String::as_str))),
        }),
        Zfs::Destroy { dry: true, .. } => destroy(None, devices, verb),
        _ => change(devices, verb),
    }
}

fn change(devices: &Devices, verb: &Zfs) -> Result<(), Failure> {
    let name = match verb {
        Zfs::Set { words } => words.iter().find(|word| !word.contains('=')).ok_or_else(|| Failure::Request("no dataset given".into()))?,
        Zfs::Inherit { datasets, .. } => &datasets[0],
        Zfs::Create { dataset, .. } | Zfs::Promote { dataset } => dataset,
        Zfs::Destroy { name, .. } => name,
        Zfs::Snapshot { names, .. } => &names[0],
        Zfs::Rollback { snapshot, .. } | Zfs::Clone { snapshot, .. } | Zfs::Bookmark { snapshot, .. } => snapshot,
        Zfs::Rename { from, .. } => from,
        Zfs::Hold { snapshots, .. } | Zfs::Release { snapshots, .. } => &snapshots[0],
        Zfs::List { .. } | Zfs::Get { .. } | Zfs::Holds { .. } | Zfs::Send(_) | Zfs::Receive(_) | Zfs::Diff(_) | Zfs::Userspace(_) | Zfs::Groupspace(_) | Zfs::Projectspace(_) | Zfs::Upgrade { .. } | Zfs::Other(_) => return Ok(()),
    };
    let mut store = devices.store(name)?;
    let seconds = now();
    let about = |error| Failure::Change(name.clone(), error);
    match verb {
        Zfs::Set { words } => {
            let (assignments, datasets): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| word.contains('='));
            if assignments.is_empty() {
                return Err(Failure::Request("no PROPERTY=VALUE given".into()));
            }
            for dataset in datasets {
                set_all(&mut store, dataset, assignments.iter().map(|word| word.as_str()))?;
            }
        }
        Zfs::Inherit { recursive, received, property, datasets } => {
            for dataset in datasets {
                for dataset in below(&store, dataset, *recursive)? {
                    store.inherit_property(&dataset, property, *received).map_err(|error| Failure::Change(dataset.clone(), error))?;
                }
            }
        }
        Zfs::Create { parents, options, volume, block_size, sparse, dataset } => {
            people(dataset)?;
            if *parents {
                make_parents(&mut store, dataset)?;
                if store.find(dataset).is_ok() {
                    return store.export(seconds).map_err(about);
                }
            }
            match volume {
                None => create_filesystem(&mut store, dataset, &directory()).map(drop).map_err(about)?,
                Some(size) => {
                    let bytes = |text: &str| parse_size(text).ok_or_else(|| Failure::Request(format!("'{text}' is not a size; write for example 256M")));
                    Zvol::create(&mut store, dataset, bytes(size)?, bytes(block_size)?, *sparse, seconds).map(drop).map_err(about)?;
                }
            }
            set_all(&mut store, dataset, options.iter().map(String::as_str))?;
        }
        Zfs::Destroy { .. } => return destroy(Some(store), devices, verb),
        Zfs::Snapshot { recursive, options, names } => {
            let mut wanted = Vec::new();
            for name in names {
                let (dataset, short) = name.split_once('@').ok_or_else(|| Failure::Request(format!("'{name}' is not DATASET@NAME")))?;
                wanted.extend(below(&store, dataset, *recursive)?.into_iter().map(|dataset| format!("{dataset}@{short}")));
            }
            let all: Vec<&str> = wanted.iter().map(String::as_str).collect();
            store.snapshot_all(&all, seconds).map_err(about)?;
            for snapshot in &wanted {
                set_all(&mut store, snapshot, options.iter().map(String::as_str))?;
            }
        }
        Zfs::Rollback { newer, clones, snapshot, .. } => rollback(&mut store, snapshot, *newer || *clones, *clones)?,
        Zfs::Clone { parents, options, snapshot, dataset } => {
            people(dataset)?;
            if *parents {
                make_parents(&mut store, dataset)?;
            }
            store.clone_dataset(snapshot, dataset, seconds).map_err(|error| Failure::Change(dataset.clone(), error))?;
            set_all(&mut store, dataset, options.iter().map(String::as_str))?;
        }
        Zfs::Promote { dataset } => store.promote(dataset, seconds).map_err(about)?,
        Zfs::Rename { recursive, parents, from, to, .. } => {
            people(to)?;
            if *parents {
                make_parents(&mut store, to)?;
            }
            match (*recursive, from.split_once('@')) {
                (true, Some((dataset, old))) => {
                    let new = to.rsplit('@').next().unwrap_or(to);
                    store.rename_snapshots(dataset, old, new, seconds).map_err(about)?;
                }
                _ => store.rename(from, to, seconds).map_err(about)?,
            }
        }
        Zfs::Hold { recursive, tag, snapshots } => {
            let names = with_below(&store, snapshots, *recursive)?;
            store.hold(&names.iter().map(String::as_str).collect::<Vec<_>>(), tag, seconds).map_err(about)?;
        }
        Zfs::Release { recursive, tag, snapshots } => {
            let names = with_below(&store, snapshots, *recursive)?;
            store.release(&names.iter().map(String::as_str).collect::<Vec<_>>(), tag, seconds).map_err(about)?;
        }
        Zfs::Bookmark { snapshot, bookmark } => store.bookmark(snapshot, bookmark, seconds).map_err(|error| Failure::Change(bookmark.clone(), error))?,
        Zfs::List { .. } | Zfs::Get { .. } | Zfs::Holds { .. } | Zfs::Send(_) | Zfs::Receive(_) | Zfs::Diff(_) | Zfs::Userspace(_) | Zfs::Groupspace(_) | Zfs::Projectspace(_) | Zfs::Upgrade { .. } | Zfs::Other(_) => {}
    }
    store.export(seconds).map_err(about)
}

/// Names with `%` are the pool's own.
fn people(name: &str) -> Result<(), Failure> {
    if name.contains('%') { Err(Failure::Request(format!("'{name}': a name has no '%'"))) } else { Ok(()) }
}

fn directory() -> NewEntry {
    NewEntry { mode: 0o755, uid: 0, gid: 0, now: (now(), 0) }
}

fn make_parents(store: &mut Store, dataset: &str) -> Result<(), Failure> {
    for (at, _) in dataset.match_indices('/') {
        let parent = &dataset[..at];
        if store.find(parent).is_err() {
            create_filesystem(store, parent, &directory()).map_err(|error| Failure::Change(parent.into(), error))?;
        }
    }
    Ok(())
}

fn set_all<'a>(store: &mut Store, dataset: &str, assignments: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    for word in assignments {
        let (name, text) = word.split_once('=').ok_or_else(|| Failure::Request(format!("'{word}' is not PROPERTY=VALUE")))?;
        let about = |error| Failure::Change(format!("{dataset}: {name}"), error);
        if name == "volsize" {
            let size = parse_size(text).ok_or_else(|| Failure::Request(format!("'{text}' is not a size")))?;
            let head = store.find(dataset).map_err(about)?;
            let mut volume = Zvol::open(store, head).map_err(about)?;
            volume.resize(store, dataset, size).map_err(about)?;
            continue;
        }
        let name = &*crate::owners::by_number(name)?;
        let value = parse_property(name, text).map_err(|error| Failure::Request(format!("{dataset}: {word}: {error}: {}", pool_dmu::hint(name))))?;
        store.set_property(dataset, name, &value).map_err(about)?;
    }
    Ok(())
}

/// A dataset, and with `recursive` all below it.
fn below(store: &Store, dataset: &str, recursive: bool) -> Result<Vec<String>, Failure> {
    if !recursive {
        return Ok(vec![dataset.to_owned()]);
    }
    store.datasets_below(dataset).map_err(|error| Failure::Change(dataset.into(), error))
}

/// Snapshots, and with `recursive` those of the same name below.
fn with_below(store: &Store, snapshots: &[String], recursive: bool) -> Result<Vec<String>, Failure> {
    let mut out = Vec::new();
    for snapshot in snapshots {
        let (dataset, short) = snapshot.split_once('@').ok_or_else(|| Failure::Request(format!("'{snapshot}' is not DATASET@NAME")))?;
        let names = below(store, dataset, recursive)?.into_iter().map(|dataset| format!("{dataset}@{short}"));
        out.extend(names.filter(|name| !recursive || store.find_snapshot(name).is_ok()));
    }
    Ok(out)
}

fn rollback(store: &mut Store, snapshot: &str, newer: bool, clones: bool) -> Result<(), Failure> {
    let about = |error| Failure::Change(snapshot.into(), error);
    let named = snapshot.split_once('@').filter(|(_, short)| !short.is_empty());
    let (dataset, short) = named.ok_or_else(|| Failure::Request(format!("'{snapshot}' is not DATASET@NAME")))?;
    let mut later = store.snapshot_range(dataset, short, "").map_err(about)?;
    later.remove(0);
    if !later.is_empty() && !newer {
        let names = later.join("\n");
        return Err(Failure::Request(format!("cannot roll back to '{snapshot}': more recent snapshots exist; -r destroys them:\n{names}")));
    }
    let seconds = now();
    if clones {
        for name in &later {
            for clone in store.clones(name).map_err(about)? {
                store.destroy_tree(&clone, true, seconds).map_err(about)?;
            }
        }
    }
    let later: Vec<&str> = later.iter().map(String::as_str).collect();
    if !later.is_empty() {
        store.destroy_snapshots(&later, false, seconds).map_err(about)?;
    }
    store.rollback(dataset, seconds).map_err(about)
}

fn destroy(store: Option<Store>, devices: &Devices, verb: &Zfs) -> Result<(), Failure> {
    let Zfs::Destroy { recursive, clones, defer, dry, verbose, parsable, name, .. } = verb else { return Ok(()) };
    let about = |error| Failure::Change(name.clone(), error);
    // A dry run opens the images to be written too, since only an open store knows what depends on what, but never commits.
    let mut store = match store {
        Some(store) => store,
        None => devices.store_for_reading(name)?,
    };
    if name.contains('#') {
        if !dry {
            store.destroy_bookmark(name, now()).map_err(about)?;
            store.export(now()).map_err(about)?;
        }
        return Ok(());
    }
    let mut targets = Vec::new();
    match name.split_once('@') {
        None => targets.push(name.clone()),
        Some((dataset, list)) => {
            for part in list.split(',') {
                if part.is_empty() {
                    return Err(Failure::Request(format!("{name}: which snapshot? a name is missing behind the @ or a comma")));
                }
                match part.split_once('%') {
                    None => targets.push(format!("{dataset}@{part}")),
                    Some((from, to)) => targets.extend(store.snapshot_range(dataset, from, to).map_err(about)?),
                }
            }
        }
    }
    let all = *recursive || *clones;
    let mut going = BTreeSet::new();
    for target in &targets {
        if all { going.extend(store.dependents(target, *clones).map_err(about)?) } else { going.insert(target.clone()); }
    }
    if *verbose || *parsable {
        let mut out = String::new();
        for name in &going {
            out.push_str(&if *parsable { format!("destroy\t{name}\n") } else { format!("{} {name}\n", if *dry { "would destroy" } else { "will destroy" }) });
        }
        print(&out)?;
    }
    if *dry {
        return Ok(());
    }
    let seconds = now();
    if all {
        targets.iter().try_for_each(|target| store.destroy_tree(target, *clones, seconds)).map_err(about)?;
    } else if name.contains('@') {
        let names: Vec<&str> = targets.iter().map(String::as_str).collect();
        store.destroy_snapshots(&names, *defer, seconds).map_err(about)?;
    } else {
        store.destroy_dataset(name, seconds).map_err(|error| match error {
            EditError::Busy(why) => Failure::Request(format!("cannot destroy '{name}': {why}; -r destroys what is below, -R clones too")),
            error => Failure::Change(name.clone(), error),
        })?;
    }
    store.drain(seconds).map_err(about)?;
    store.export(seconds).map_err(about)
}

// ---- showing ---------------------------------------------------------------------------------------------------------------------

/// What a row is about: a dataset, or a bookmark.
enum Row {
    Dataset(Box<DatasetInfo>),
    Bookmark(pool_dmu::Bookmark),
}

impl Row {
    fn name(&self) -> &str {
        match self {
            Self::Dataset(info) => &info.name,
            Self::Bookmark(bookmark) => &bookmark.name,
        }
    }

    fn show(&self, datasets: &Datasets<'_>, property: &str) -> Result<Option<Shown>, Failure> {
        match self {
            Self::Dataset(info) => datasets.show(info, property).map_err(|error| Failure::Pool(info.name.clone(), error)),
            Self::Bookmark(bookmark) => {
                let value = match full_name(property) {
                    "name" => bookmark.name.clone(),
                    "type" => "bookmark".into(),
                    "guid" => bookmark.guid.to_string(),
                    "createtxg" => bookmark.creation_txg.to_string(),
                    "creation" => bookmark.creation_time.to_string(),
                    _ => return Ok(None),
                };
                Ok(Some(Shown { name: property.into(), value: value.clone(), exact: value, source: "-".into() }))
            }
        }
    }
}

/// The rows of `names` and what is below them as far as asked.
fn rows(datasets: &Datasets<'_>, pool: &str, reach: &Reach, names: &[String], default: &[&str]) -> Result<Vec<Row>, Failure> {
    let mut types: Vec<&str> = reach.types.iter().map(String::as_str).collect();
    for kind in &types {
        if !["filesystem", "fs", "snapshot", "snap", "volume", "vol", "bookmark", "all"].contains(kind) {
            return Err(Failure::Request(format!("invalid type '{kind}'")));
        }
    }
    let whole = [pool.to_owned()];
    let (names, depth) = if names.is_empty() { (&whole[..], reach.depth.unwrap_or(usize::MAX)) } else { (names, reach.depth.unwrap_or(if reach.recursive { usize::MAX } else { 0 })) };
    let mut out = Vec::new();
    for name in names {
        let about = |error| Failure::Pool(name.clone(), error);
        let is_snapshot = name.contains('@');
        let mut wanted = if types.is_empty() { default.to_vec() } else { std::mem::take(&mut types) };
        types.clone_from(&wanted);
        if is_snapshot {
            wanted.push("snapshot");
        }
        let takes = |kind: &str, short: &str| wanted.iter().any(|wanted| [kind, short, "all"].contains(wanted));
        let all = if is_snapshot { vec![datasets.find(name).map_err(about)?] } else { datasets.list(name).map_err(about)? };
        for info in all {
            let own = info.name.strip_prefix(name.as_str()).unwrap_or("");
            let steps = own.matches('/').count() + own.matches('@').count();
            // A snapshot that a type asks for is shown with its dataset.
            let free = usize::from(own.contains('@') && takes("snapshot", "snap") && !reach.types.is_empty() && reach.depth.is_none());
            let shown = match info.kind {
                DatasetKind::Filesystem => takes("filesystem", "fs"),
                DatasetKind::Volume => takes("volume", "vol"),
                DatasetKind::Snapshot => takes("snapshot", "snap"),
            };
            let dataset = (info.kind != DatasetKind::Snapshot && takes("bookmark", "bookmark")).then(|| info.name.clone());
            if shown && steps.saturating_sub(free) <= depth {
                out.push(Row::Dataset(Box::new(info)));
            }
            if let Some(dataset) = dataset.filter(|_| steps <= depth) {
                out.extend(datasets.bookmarks(&dataset).map_err(about)?.into_iter().map(Row::Bookmark));
            }
        }
    }
    Ok(out)
}

/// Lays out rows: tabs, or columns with two spaces between, numbers to the right.
pub fn layout(header: &[String], right: &[bool], rows: &[Vec<String>], scripted: bool) -> String {
    let mut out = String::new();
    if scripted {
        rows.iter().for_each(|row| out.push_str(&format!("{}\n", row.join("\t"))));
        return out;
    }
    let width = |index: usize| rows.iter().chain([&header.to_vec()]).map(|row| row[index].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in [&header.to_vec()].into_iter().chain(rows) {
        let place = |(index, cell): (usize, &String)| {
            let width = widths[index];
            if right[index] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        };
        let cells: Vec<String> = row.iter().enumerate().map(place).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn heading(column: &str) -> String {
    match full_name(column) {
        "available" => "AVAIL".into(),
        "referenced" => "REFER".into(),
        "usedbydataset" => "USEDDS".into(),
        "usedbysnapshots" => "USEDSNAP".into(),
        "usedbychildren" => "USEDCHILD".into(),
        "usedbyrefreservation" => "USEDREFRESERV".into(),
        "compressratio" => "RATIO".into(),
        "readonly" => "RDONLY".into(),
        "compression" => "COMPRESS".into(),
        "recordsize" => "RECSIZE".into(),
        "reservation" => "RESERV".into(),
        "refreservation" => "REFRESERV".into(),
        name => name.to_uppercase(),
    }
}

fn is_known(property: &str) -> bool {
    property.contains(':') || pool_dmu::is_property(full_name(property))
}

fn list(
    pool: &Pool,
    reach: &Reach,
    (scripted, parsable): (bool, bool),
    columns: &[String],
    order: &[(&str, bool)],
    names: &[String],
) -> Result<(), Failure> {
    let datasets = Datasets::open(pool).map_err(|error| Failure::Pool(pool.name().into(), error))?;
    let columns: Vec<String> = columns.iter().flat_map(|column| if column == "space" { SPACE_COLUMNS.split(',').map(String::from).collect() } else { vec![column.clone()] }).collect();
    if let Some(bad) = columns.iter().find(|column| !is_known(column)) {
        return Err(Failure::Usage(format!("bad property list: invalid property '{bad}'")));
    }
    let mut rows = rows(&datasets, pool.name(), reach, names, &["filesystem", "volume"])?;
    for (property, down) in order.iter().rev() {
        if !is_known(property) {
            return Err(Failure::Usage(format!("bad property list: invalid property '{property}'")));
        }
        let mut keyed = Vec::new();
        for row in rows {
            let exact = row.show(&datasets, property)?.map_or(String::new(), |shown| shown.exact);
            keyed.push(((exact.parse::<u64>().ok(), exact), row));
        }
        keyed.sort_by(|(a, _), (b, _)| if *down { b.cmp(a) } else { a.cmp(b) });
        rows = keyed.into_iter().map(|(_, row)| row).collect();
    }
    let mut table = Vec::new();
    for row in &rows {
        let mut cells = Vec::new();
        for column in &columns {
            let shown = row.show(&datasets, column)?;
            cells.push(shown.map_or("-".into(), |shown| if parsable { shown.exact } else { shown.value }));
        }
        table.push(cells);
    }
    if table.is_empty() {
        eprintln!("no datasets available");
        return Ok(());
    }
    let header: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    let right: Vec<bool> = columns.iter().map(|column| pool_dmu::is_number(full_name(column))).collect();
    print(&layout(&header, &right, &table, scripted))
}

fn get(
    pool: &Pool,
    reach: &Reach,
    (scripted, parsable): (bool, bool),
    columns: &[String],
    sources: &[String],
    properties: &str,
    names: &[String],
) -> Result<(), Failure> {
    let datasets = Datasets::open(pool).map_err(|error| Failure::Pool(pool.name().into(), error))?;
    let wanted: Vec<&str> = properties.split(',').collect();
    if let Some(bad) = wanted.iter().find(|name| **name != "all" && !is_known(name)) {
        return Err(Failure::Usage(format!("bad property list: invalid property '{bad}'")));
    }
    let columns: Vec<&str> = columns.iter().flat_map(|column| if column == "all" { vec!["name", "property", "value", "received", "source"] } else { vec![column.as_str()] }).collect();
    let mut table = Vec::new();
    for row in rows(&datasets, pool.name(), reach, names, &["all"])? {
        let mut shown = Vec::new();
        for name in &wanted {
            match (&row, *name) {
                (Row::Dataset(info), "all") => shown.extend(datasets.show_all(info).map_err(|error| Failure::Pool(info.name.clone(), error))?),
                (Row::Bookmark(_), "all") => {
                    for name in ["type", "creation", "createtxg", "guid"] {
                        shown.extend(row.show(&datasets, name)?);
                    }
                }
                _ => {
                    let number = crate::owners::by_number(name)?;
                    let nothing = Shown { name: full_name(name).into(), value: "-".into(), exact: "-".into(), source: "-".into() };
                    let found = row.show(&datasets, &number)?.unwrap_or(nothing);
                    shown.push(Shown { name: full_name(name).into(), ..found });
                }
            }
        }
        for shown in shown {
            let kind = match shown.source.split(' ').next() {
                Some("-") | None => "none",
                Some(word) => word,
            };
            if !sources.is_empty() && !sources.iter().any(|source| source == kind) {
                continue;
            }
            let mut cells = Vec::new();
            for column in &columns {
                cells.push(match *column {
                    "name" => row.name().to_owned(),
                    "property" => shown.name.clone(),
                    "value" => if parsable { shown.exact.clone() } else { shown.value.clone() },
                    "source" => shown.source.clone(),
                    "received" => match &row {
                        Row::Dataset(info) => datasets.received(info, &shown.name).map_err(|error| Failure::Pool(info.name.clone(), error))?.unwrap_or("-".into()),
                        Row::Bookmark(_) => "-".into(),
                    },
                    other => return Err(Failure::Usage(format!("invalid column name '{other}'"))),
                });
            }
            table.push(cells);
        }
    }
    let header: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    print(&layout(&header, &vec![false; columns.len()], &table, scripted))
}

fn holds(pool: &Pool, recursive: bool, (scripted, parsable): (bool, bool), snapshots: &[String]) -> Result<(), Failure> {
    let datasets = Datasets::open(pool).map_err(|error| Failure::Pool(pool.name().into(), error))?;
    let mut table = Vec::new();
    for snapshot in snapshots {
        let about = |error| Failure::Pool(snapshot.clone(), error);
        let (dataset, short) = snapshot.split_once('@').ok_or_else(|| Failure::Request(format!("'{snapshot}' is not DATASET@NAME")))?;
        let names = if recursive {
            let ending = format!("@{short}");
            datasets.list(dataset).map_err(about)?.into_iter().map(|info| info.name).filter(|name| name.ends_with(&ending)).collect()
        } else {
            vec![snapshot.clone()]
        };
        for name in names {
            for (tag, time) in datasets.holds(&name).map_err(about)? {
                table.push(vec![name.clone(), tag, if parsable { time.to_string() } else { pool_dmu::date(time) }]);
            }
        }
    }
    let header: Vec<String> = ["NAME", "TAG", "TIMESTAMP"].map(String::from).to_vec();
    print(&layout(&header, &[false; 3], &table, scripted))
}
