//! `attach`, `replace`, `detach`, `offline`, `online`, `add`, `scrub --repair`.

use std::fs::File;
use std::path::Path;

use indicatif::ProgressBar;
use kif::BlockDev;
use pool_dmu::edit::EditError;
use pool_dmu::{ScanKind, Store};
use pool_spa::Layout;

use crate::list::{print, vdevs};
use pool_dmu::human;
use crate::write::{now, parse_layout, parse_size};
use crate::{Failure, image};

/// Blocks between two looks at the progress.
const STEP: u64 = 1000;
/// Bytes between two looks at it.
const STEP_BYTES: u64 = 16 << 20;

fn about(name: &str) -> impl Fn(EditError) -> Failure {
    move |error| Failure::Change(name.into(), error)
}

/// A leaf by path or guid. A path is also looked for as the host sees it.
pub fn leaf(store: &Store, disk: &str) -> Result<u64, Failure> {
    let full = std::fs::canonicalize(disk).map(|path| path.display().to_string());
    let found = store.leaf_called(disk).or_else(|| full.ok().and_then(|full| store.leaf_called(&full)));
    found.ok_or_else(|| Failure::Request(format!("no disk of the pool is called '{disk}'; see status")))
}

pub fn run(store: &mut Store, kind: ScanKind) -> Result<(), Failure> {
    let name = store.name();
    let progress = ProgressBar::new_spinner();
    store.start_scan(kind);
    let began = now();
    let report = loop {
        let report = store.scan_step(STEP, now()).map_err(about(&name))?;
        progress.set_message(format!("{} blocks, {}, {} mended", report.blocks, human(report.bytes), report.repaired));
        progress.tick();
        if report.done {
            break report;
        }
    };
    progress.finish_and_clear();
    let (free, total) = store.free_total();
    print(&format!("{} blocks, {} read: {} places mended\n  scan: {}\n", report.blocks, human(report.bytes), report.repaired, report.lines(kind, began, now(), total - free)))?;
    if report.errors == 0 { Ok(()) } else { Err(Failure::Damaged) }
}

/// Copies what mirrors' sides lack in the order of places, then scrubs.
fn rebuild(store: &mut Store) -> Result<(), Failure> {
    let name = store.name();
    let progress = ProgressBar::new_spinner();
    store.start_rebuild().map_err(about(&name))?;
    let report = loop {
        let report = store.rebuild_step(STEP_BYTES, now()).map_err(about(&name))?;
        progress.set_message(format!("{} copied", human(report.bytes)));
        progress.tick();
        if report.done {
            break report;
        }
    };
    progress.finish_and_clear();
    print(&format!("copied {}: {} errors\n", human(report.bytes), report.errors))?;
    run(store, if report.errors == 0 { ScanKind::Scrub } else { ScanKind::Resilver })
}

/// Brings back what leaves in service lack.
pub fn resilver(store: &mut Store) -> Result<(), Failure> {
    run(store, ScanKind::Resilver)
}

pub fn finish(mut store: Store) -> Result<(), Failure> {
    print(&vdevs(store.pool()))?;
    let name = store.name();
    store.export(now()).map_err(about(&name))
}

pub fn scrub(mut store: Store) -> Result<(), Failure> {
    let found = run(&mut store, ScanKind::Scrub);
    finish(store)?;
    found
}

/// Opens a file as a device for a pool it does not belong to yet.
pub fn new_device(path: &Path, size: Option<u64>) -> Result<(String, Box<dyn BlockDev>), Failure> {
    let host = |error| Failure::Host(path.display().to_string(), error);
    if let (false, Some(size)) = (path.exists(), size) {
        File::create(path).and_then(|file| file.set_len(size)).map_err(host)?;
    }
    let device = [image::open(path, true)?];
    if let Some(found) = pool_spa::scan(&device).first() {
        return Err(Failure::Request(format!("{} belongs to pool '{}'", path.display(), found.name)));
    }
    let [device] = device;
    Ok((std::fs::canonicalize(path).map_err(host)?.display().to_string(), device))
}

pub fn attach(mut store: Store, disk: &str, file: &Path, replace: bool, sequential: bool) -> Result<(), Failure> {
    let at = leaf(&store, disk)?;
    let like = Some(store.pool().leaf_size(at)).filter(|size| *size > 0);
    let (path, device) = new_device(file, like)?;
    let name = store.name();
    store.attach(at, &path, device, replace, now()).map_err(about(&name))?;
    let found = if sequential { rebuild(&mut store) } else { resilver(&mut store) };
    finish(store)?;
    found
}

pub fn detach(mut store: Store, disk: &str) -> Result<(), Failure> {
    let (guid, name) = (leaf(&store, disk)?, store.name());
    store.detach(guid, now()).map_err(about(&name))?;
    finish(store)
}

pub fn offline(mut store: Store, disk: &str) -> Result<(), Failure> {
    let (guid, name) = (leaf(&store, disk)?, store.name());
    store.offline(guid, now()).map_err(about(&name))?;
    finish(store)
}

pub fn online(mut store: Store, disk: &str, expand: bool) -> Result<(), Failure> {
    let (guid, name) = (leaf(&store, disk)?, store.name());
    store.online(guid, now()).map_err(about(&name))?;
    if expand {
        let gained = store.expand(now()).map_err(about(&name))?;
        print(&format!("{} gained\n", human(gained)))?;
    }
    let found = resilver(&mut store);
    finish(store)?;
    found
}

pub fn add(mut store: Store, layout: &[String], size: &str) -> Result<(), Failure> {
    let (is_log, words) = match layout.split_first() {
        Some((first, rest)) if first == "log" => (true, rest),
        _ => (false, layout),
    };
    let (bytes, name) = (parse_size(size)?, store.name());
    for (redundancy, files) in parse_layout(words) {
        let devices = files.iter().map(|file| new_device(Path::new(file), Some(bytes))).collect::<Result<Vec<_>, _>>()?;
        store.add(Layout { redundancy, devices }, is_log, now()).map_err(about(&name))?;
    }
    finish(store)
}
