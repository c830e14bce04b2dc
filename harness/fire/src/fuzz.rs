//! Pools that lie: structures damaged under good checksums, as a hostile writer makes them.
//!
//! [`liar`] writes random bytes into blocks of a pool's own objects through the library, so that every checksum above them is right, and then does
//! everything that can be done with such a pool; [`labels`] does the same to configs and uberblocks. Bit rot cannot get this far; an image from a stranger
//! can. [`parsers`] feeds mutated structures to each parser.
//! Whatever happens is an error that names the structure: no panic, no hang, no wrong bytes of other files.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, ScanKind};
use pool_phys::{blkptr, dnode, dsl, gpt, intent_log, label, nvlist, nvlist_native, objset, sa, spacemap, zap};
use pool_spa::Pool;

use crate::disk::{Disk, mix};
use crate::rig::{self, NAME, NOW, SHAPES};
use crate::work::Work;

/// Size of the disk that damaged partition tables are read from.
const DISK: u64 = 80 << 20;

/// What a fuzz run saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub cases: u64,
    /// Cases in which everything went through: the damage hit nothing that matters.
    pub fine: u64,
    /// Cases that ended in errors.
    pub errors: u64,
}

/// Writes garbage into random objects of the MOS or of the file system, then uses the pool. `Err` names the seed of a case that panicked.
///
/// # Errors
/// A finding.
pub fn liar(seed: u64, cases: u64) -> Result<Report, String> {
    let shape = &SHAPES[0];
    let base = (|| -> Result<Vec<Disk>, EditError> {
        let (disks, mut store) = rig::create(shape, seed)?;
        let mut work = Work::new(seed);
        for _ in 0..120 {
            work.step(&mut store)?;
        }
        store.snapshot(NAME, "before", NOW.0)?;
        for _ in 0..40 {
            work.step(&mut store)?;
        }
        store.commit(NOW.0)?;
        Ok(disks)
    })()
    .map_err(|error| format!("prepare: {error}"))?;
    let mut report = Report::default();
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0001));
        let disks: Vec<Disk> = base.iter().map(Disk::fork).collect();
        report.cases += 1;
        match catch_unwind(AssertUnwindSafe(|| one(&disks, dice))) {
            Ok(true) => report.fine += 1,
            Ok(false) => report.errors += 1,
            Err(_) => return Err(format!("seed {seed} case {case}: a panic")),
        }
    }
    Ok(report)
}

/// Places of the regions of a label that have a checksum of their own: config, and the uberblock ring.
const CONFIG: (usize, usize) = (16 << 10, 112 << 10);
const RING: usize = 128 << 10;
/// Bytes of a region's checksum trailer.
const TRAILER: usize = 40;

/// Changes bytes of configs and uberblocks, seals them again, and opens the pool. `Err` names the seed of a case that panicked.
///
/// # Errors
/// A finding.
pub fn labels(seed: u64, cases: u64) -> Result<Report, String> {
    let shape = &SHAPES[2];
    let prepare = || -> Result<Vec<Disk>, EditError> {
        let (disks, mut store) = rig::create(shape, seed)?;
        store.export(NOW.0)?;
        Ok(disks)
    };
    let base = prepare().map_err(|error| format!("prepare: {error}"))?;
    let mut report = Report::default();
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0003));
        let disks: Vec<Disk> = base.iter().map(Disk::fork).collect();
        disks.iter().for_each(|disk| spoil_label(disk, dice));
        report.cases += 1;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let found = pool_spa::scan(&rig::devices(&disks));
            found.len() == 1 && rig::open(&disks, 1, None).is_ok()
        }));
        match opened {
            Ok(true) => report.fine += 1,
            Ok(false) => report.errors += 1,
            Err(_) => return Err(format!("labels: seed {seed} case {case}: a panic")),
        }
    }
    Ok(report)
}

/// The same damage in every label of a disk, so that no good one is left to turn to.
fn spoil_label(disk: &Disk, dice: u64) {
    let device = disk.device();
    for offset in label::offsets(device.size_bytes()) {
        let mut data = vec![0; usize::try_from(label::SIZE).unwrap_or(0)];
        if device.read(offset, &mut data).is_err() {
            continue;
        }
        let mut spoil = |start: usize, size: usize, used: usize| {
            for hit in 0..1 + (dice >> 8 & 3) {
                let place = mix(dice ^ hit << 32);
                let at = usize::try_from(place >> 16).unwrap_or(usize::MAX) % used;
                // A flipped bit, or a byte of the kind that makes sizes large.
                data[start + at] = if place & 1 == 0 { data[start + at] ^ 1 << (place >> 1 & 7) } else { place.to_le_bytes()[1] };
            }
            label::seal(&mut data[start..start + size], [offset + start as u64, 0, 0, 0]);
        };
        if dice & 1 == 0 {
            spoil(CONFIG.0, CONFIG.1, 1500);
        } else {
            // All slots: the newest is among them.
            (0..128).for_each(|slot| spoil(RING + slot * 1024, 1024, 216.min(1024 - TRAILER)));
        }
        disk.scribble(offset, &data);
    }
}

/// Damages and uses one pool; true if nothing complained.
fn one(disks: &[Disk], dice: u64) -> bool {
    let Ok(mut store) = rig::open(disks, 1, None) else { return false };
    let Ok(dataset) = store.find(NAME) else { return false };
    let in_mos = dice & 1 == 0;
    let damaged = store.damage(if in_mos { 0 } else { dataset }, |block, number| {
        for hit in 0..1 + (dice >> 4 & 7) {
            let place = mix(dice ^ number ^ hit << 40);
            let at = usize::try_from(place).unwrap_or(usize::MAX) % block.len().max(1);
            // Near the start lie the counts and pointers.
            let at = if place >> 60 & 1 == 0 { at % block.len().clamp(1, 256) } else { at };
            if let Some(byte) = block.get_mut(at) {
                *byte = mix(place).to_le_bytes()[0];
            }
        }
    }, dice >> 8);
    if damaged.is_err() || store.commit(NOW.0).is_err() {
        return false;
    }
    drop(store);
    use_it(disks, dice)
}

fn use_it(disks: &[Disk], seed: u64) -> bool {
    let mut fine = true;
    let Ok(pool) = Pool::import(rig::devices(disks), None) else { return false };
    fine &= pool_dmu::check(&pool, true).is_ok_and(|found| found.fault_count == 0);
    match Datasets::open(&pool) {
        Ok(datasets) => {
            fine &= datasets.features().is_ok();
            match datasets.list(NAME) {
                Ok(list) => list.iter().for_each(|info| {
                    fine &= datasets.properties(info).is_ok();
                    fine &= rig::read_all(&pool, &info.name).is_ok();
                }),
                Err(_) => fine = false,
            }
        }
        Err(_) => fine = false,
    }
    drop(pool);
    let Ok(mut store) = rig::open(disks, 2, None) else { return false };
    fine &= store.run_scan(ScanKind::Scrub, NOW.0).is_ok();
    let mut work = Work::new(seed);
    for _ in 0..20 {
        // The pool has files of its own: names may be taken.
        drop(work.step(&mut store));
    }
    fine &= store.snapshot(NAME, "after", NOW.0).is_ok();
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
        drop(spacemap::parse(&data));
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
