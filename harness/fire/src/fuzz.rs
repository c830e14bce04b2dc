//! Pools that lie: structures damaged under good checksums, as a hostile writer makes them.
//!
//! [`liar`] changes blocks of a pool so that every checksum above them is right ([`crate::lie`]), and then does everything that can be done with such a pool;
//! [`labels`] does the same to configs and uberblocks. Bit rot cannot get this far; an image from a stranger
//! can. [`parsers`] feeds mutated structures to each parser.
//! Whatever happens is an error that names the structure: no panic, no hang, no wrong bytes of other files.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, ScanKind, Store};
use pool_phys::{blkptr, dnode, dsl, gpt, intent_log, label, nvlist, nvlist_native, objset, sa, spacemap, zap};
use pool_spa::Pool;

use crate::disk::{Disk, mix};
use crate::lie::Tree;
use crate::rig::{self, NAME, NOW, SHAPES};
use crate::work::Work;

/// A case that takes longer is a hang: those of good pools take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of so many lies one is not only read: the pool is opened for writing, worked with, and scrubbed.
const WRITTEN: u64 = 16;
/// Size of the disk that damaged partition tables are read from.
const DISK: u64 = 80 << 20;

/// What a fuzz run saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub cases: u64,
    /// Cases in which everything went through: the damage hit nothing that matters.
    pub fine: u64,
    /// Cases that ended in errors.
    pub errors: u64,
    /// Cases by what was changed.
    pub classes: BTreeMap<&'static str, u64>,
}

/// Runs a case; what it says of a panic or a hang ends the run.
fn guarded(say: impl Fn(&str) -> String, case: impl FnOnce() -> bool) -> Result<bool, String> {
    let started = Instant::now();
    let found = catch_unwind(AssertUnwindSafe(case)).map_err(|_| say("a panic"))?;
    if started.elapsed() > PATIENCE { Err(say("a hang")) } else { Ok(found) }
}

/// A small pool with something of everything: files, directories, a snapshot, a clone, a volume, properties, holds, a bookmark.
fn everything(store: &mut Store, seed: u64) -> Result<(), EditError> {
    let mut work = Work::small(seed);
    for _ in 0..60 {
        work.step(store)?;
    }
    store.snapshot(NAME, "before", NOW.0)?;
    store.clone_dataset(&format!("{NAME}@before"), &format!("{NAME}/clone"), NOW.0)?;
    let volume = pool_zpl::Zvol::create(store, &format!("{NAME}/volume"), 1 << 20, 8 << 10, true, NOW.0)?;
    volume.write(store, 4096, &[7; 100_000])?;
    store.set_property(&format!("{NAME}/clone"), "quota", &nvlist::Value::Number(20 << 20))?;
    store.hold(&[&format!("{NAME}@before")], "keep", NOW.0)?;
    store.bookmark(&format!("{NAME}@before"), &format!("{NAME}#mark"), NOW.0)?;
    let dataset = store.find(&format!("{NAME}/clone"))?;
    let mut writer = pool_zpl::Writer::open(store, dataset)?;
    let root = writer.root();
    for index in 0..40 {
        // More names than a micro-table holds with this length.
        writer.make(root, format!("{index}{}", "n".repeat(60)).as_bytes(), pool_zpl::Make::File, &rig::NEW)?;
    }
    for _ in 0..20 {
        work.step(store)?;
    }
    store.commit(NOW.0)
}

/// Changes blocks under good checksums, then uses the pool. `Err` names the seed of a case that panicked or hung.
///
/// # Errors
/// A finding.
pub fn liar(seed: u64, cases: u64) -> Result<Report, String> {
    let shape = &SHAPES[0];
    // The pool is a small one of its own every few thousand cases; the lies differ in each.
    let prepare = || -> Result<Tree, String> {
        let (disks, mut store) = rig::create(shape, seed).map_err(|error| error.to_string())?;
        everything(&mut store, seed).map_err(|error| error.to_string())?;
        Tree::grow(store.pool(), &disks[0], shape.ashift).map_err(|error| error.to_string())
    };
    let tree = prepare().map_err(|error| format!("prepare: {error}"))?;
    let mut report = Report::default();
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0001));
        let (disk, class) = tree.lie(dice);
        report.cases += 1;
        *report.classes.entry(class).or_default() += 1;
        let disks = [disk];
        let say = |what: &str| format!("seed {seed} case {case}, {class}: {what}");
        let is_fine = guarded(say, || {
            let fine = look_at(&disks);
            if case % WRITTEN == 0 { fine & work_with(&disks, dice) } else { fine }
        })?;
        *(if is_fine { &mut report.fine } else { &mut report.errors }) += 1;
    }
    Ok(report)
}

/// Places of the regions of a label that have a checksum of their own: config, and the uberblock ring.
const CONFIG: (usize, usize) = (16 << 10, 112 << 10);
const RING: usize = 128 << 10;
/// Bytes of a region's checksum trailer.
const TRAILER: usize = 40;

/// Changes bytes of the config and the newest uberblock of a pool's only label, seals it again, and opens the pool. `Err` names the seed of a case that panicked or
/// hung.
///
/// # Errors
/// A finding.
pub fn labels(seed: u64, cases: u64) -> Result<Report, String> {
    let shape = &SHAPES[0];
    let prepare = || -> Result<(Disk, u64), EditError> {
        let (disks, mut store) = rig::create(shape, seed)?;
        store.export(NOW.0)?;
        Ok((disks[0].clone(), store.pool().uberblock().txg))
    };
    let (base, txg) = prepare().map_err(|error| format!("prepare: {error}"))?;
    // No good label and no good uberblock is left to turn to.
    let device = base.device();
    let (slot, slot_size) = label::ring_slot(txg, shape.ashift);
    let [first, others @ ..] = label::offsets(device.size_bytes());
    let mut front = vec![0; RING];
    let mut newest = vec![0; slot_size];
    (device.read(first, &mut front).and_then(|()| device.read(first + slot, &mut newest))).map_err(|error| format!("prepare: {error:?}"))?;
    let empty = vec![0; usize::try_from(label::SIZE).unwrap_or(0)];
    others.iter().for_each(|offset| base.scribble(*offset, &empty));
    base.scribble(first + RING as u64, &empty[RING..]);
    base.scribble(first + slot, &newest);
    let mut report = Report::default();
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0003));
        let disk = base.fork();
        let (is_config, class) = if dice & 1 == 0 { (true, "config") } else { (false, "uberblock") };
        if is_config {
            let mut region = front[CONFIG.0..].to_vec();
            spoil(&mut region, 1500, dice);
            label::seal(&mut region, [first + CONFIG.0 as u64, 0, 0, 0]);
            disk.scribble(first + CONFIG.0 as u64, &region);
        } else {
            let mut region = newest.clone();
            spoil(&mut region, 216.min(slot_size - TRAILER), dice);
            label::seal(&mut region, [first + slot, 0, 0, 0]);
            disk.scribble(first + slot, &region);
        }
        report.cases += 1;
        *report.classes.entry(class).or_default() += 1;
        let disks = [disk];
        let is_fine = guarded(|what| format!("labels: seed {seed} case {case}, {class}: {what}"), || {
            pool_spa::scan(&rig::devices(&disks)).len() == 1 && rig::open(&disks, 1, None).is_ok()
        })?;
        *(if is_fine { &mut report.fine } else { &mut report.errors }) += 1;
    }
    Ok(report)
}

/// A flipped bit, or a byte of the kind that makes sizes large, in the first `used` bytes.
fn spoil(region: &mut [u8], used: usize, dice: u64) {
    for hit in 0..1 + (dice >> 8 & 3) {
        let place = mix(dice ^ hit << 32);
        let at = usize::try_from(place >> 16).unwrap_or(usize::MAX) % used;
        region[at] = if place & 1 == 0 { region[at] ^ 1 << (place >> 1 & 7) } else { place.to_le_bytes()[1] };
    }
}

/// Reads everything that can be read; true if nothing complained.
fn look_at(disks: &[Disk]) -> bool {
    let Ok(pool) = Pool::import(rig::devices(disks), None) else { return false };
    // The lie itself lies where nothing is allocated: faults are no complaint here, but their counting must come to an end.
    let mut fine = pool_dmu::check(&pool, true).is_ok();
    fine &= pool_dmu::check_space(&pool).is_ok();
    match Datasets::open(&pool) {
        Ok(datasets) => {
            fine &= datasets.features().is_ok();
            match datasets.list(NAME) {
                Ok(list) => list.iter().for_each(|info| {
                    fine &= datasets.properties(info).is_ok() && datasets.space(info).is_ok();
                    fine &= rig::read_all(&pool, &info.name).is_ok();
                }),
                Err(_) => fine = false,
            }
        }
        Err(_) => fine = false,
    }
    fine
}

/// Opens the pool for writing and does what its owner would; true if nothing complained.
fn work_with(disks: &[Disk], seed: u64) -> bool {
    let Ok(mut store) = rig::open(disks, 2, None) else { return false };
    let mut fine = store.run_scan(ScanKind::Scrub, NOW.0).is_ok();
    let mut work = Work::new(seed);
    for _ in 0..20 {
        // The pool has files of its own: names may be taken.
        drop(work.step(&mut store));
    }
    fine &= store.snapshot(NAME, "after", NOW.0).is_ok();
    fine &= store.promote(&format!("{NAME}/clone"), NOW.0).is_ok();
    fine &= store.destroy_tree(&format!("{NAME}/volume"), true, NOW.0).is_ok();
    fine &= store.rollback(NAME, NOW.0).is_ok();
    fine &= store.export(NOW.0).is_ok();
    fine
}

/// Feeds `cases` mutated structures to every parser. A panic of a parser is the caller's to see.
pub fn parsers(seed: u64, cases: u64) {
    let mut list = nvlist::List::default();
    list.set("name", nvlist::Value::Text("tank".into()));
    list.set("txg", nvlist::Value::Number(7));
    list.set("vdev_tree", nvlist::Value::List(list.clone()));
    list.set("children", nvlist::Value::Lists(vec![list.clone(), list.clone()]));
    let change = intent_log::Change::Rename { from: 3, to: 4, old: b"old".to_vec(), new: b"new".to_vec() };
    let words = [1, 2, 3, 4];
    let log = intent_log::seal(8192, &change.encode(5, 1), &blkptr::BlockPointer::hole(), words);
    let entries = vec![zap::Entry { name: b"a name".to_vec(), integer_size: 8, value: vec![7] }];
    let header = zap::Header::new(14, 5, 0);
    let samples: Vec<Vec<u8>> = vec![
        nvlist::encode(&list),
        log,
        zap::encode_micro(&entries, 512, 3, 0).unwrap_or_default(),
        header.encode(16 << 10),
        zap::encode_leaf(&entries, &header, 0, 0, 16 << 10).unwrap_or_default(),
        spacemap::encode([spacemap::Entry { free: false, offset: 3, run: 70_000 }], 9),
        vec![0x5A; 4096],
        sa::encode(2, &[(false, &[1; 8]), (true, b"variable")]),
        gpt::plan(DISK, 512, &mut || seed).map(|plan| plan.writes.into_iter().take(3).flat_map(|(_, data)| data).collect()).unwrap_or_default(),
    ];
    let layout = |name: &[u8], value: &[u16]| zap::Entry { name: name.to_vec(), integer_size: 2, value: value.iter().map(|word| u64::from(*word)).collect() };
    let registry = vec![zap::Entry { name: b"ZPL_SIZE".to_vec(), integer_size: 8, value: vec![8 << 24 | 1] }, zap::Entry { name: b"ZPL_SYMLINK".to_vec(), integer_size: 8, value: vec![2] }];
    let registry = sa::Registry::new(&registry, &[layout(b"2", &[1, 2])]).unwrap_or_default();
    for case in 0..cases {
        let dice = mix(seed ^ case);
        let mut data = samples[usize::try_from(dice).unwrap_or(usize::MAX) % samples.len()].clone();
        for hit in 0..1 + (dice >> 8 & 15) {
            let place = mix(dice ^ hit);
            let at = usize::try_from(place >> 8).unwrap_or(usize::MAX) % data.len().max(1);
            let at = if place & 1 == 0 { at % data.len().clamp(1, 200) } else { at };
            if let Some(byte) = data.get_mut(at) {
                *byte = place.to_be_bytes()[0];
            }
        }
        if dice >> 16 & 7 == 0 {
            data.truncate(usize::try_from(dice >> 20).unwrap_or(usize::MAX) % data.len().max(1));
        }
        drop(nvlist::parse(&data));
        drop(nvlist_native::parse_either(&data));
        drop(dsl::DslDir::parse(&data));
        drop(dsl::Dataset::parse(&data));
        drop(registry.parse(&data));
        drop(sa::Znode::parse_old(&data));
        drop(zap::parse_table(&data));
        drop(gpt::partitions(DISK, 512, &mut |offset, out| {
            let from = usize::try_from(offset).ok().and_then(|at| data.get(at..at.checked_add(out.len())?));
            from.map(|bytes| out.copy_from_slice(bytes)).is_some()
        }));
        drop(dnode::Dnode::parse(&data));
        drop(objset::Objset::parse(&data));
        drop(label::parse(&data, 0));
        if let Ok(entries) = spacemap::parse(&data) {
            entries.for_each(drop);
        }
        drop(blkptr::BlockPointer::parse(&data));
        if let Ok(zap::Root::Fat(header)) = zap::parse_root(&data) {
            drop(zap::parse_leaf(&data, &header));
        }
        drop(zap::parse_leaf(&data, &header));
        if let Ok((_, records)) = intent_log::parse_block(&data) {
            records.iter().for_each(|record| drop(intent_log::Change::parse(record)));
        }
    }
}
