//! Pools that lie: structures damaged under good checksums, as a hostile writer makes them.
//!
//! [`liar`] changes structures of a pool so that every checksum above them is right ([`crate::lie`]), and then does everything that can be done with such a pool;
//! [`labels`] does the same to configs and uberblocks. Bit rot cannot get this far; an image from a stranger
//! can. [`parsers`] feeds mutated structures to each parser.
//! Whatever happens is an error that names the structure: no panic, no hang, no wrong bytes of other files, no memory that a number on the disk asks for ([`crate::watch`]).

use std::collections::{BTreeMap, BTreeSet};

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, ScanKind, Store};
use pool_phys::nvlist::{List, Value};
use pool_phys::{blkptr, dnode, dsl, gpt, intent_log, label, nvlist, nvlist_native, objset, sa, spacemap, zap};
use pool_spa::Pool;
use pool_stream::Token;

use crate::disk::{Disk, mix};
use crate::lie::{Lie, Tree};
use crate::relic;
use crate::rig::{self, NAME, NEW, NOW, SHAPES, Shape};
use crate::watch::Watch;
use crate::work::{Model, Work};

/// Of so many lies one is not only read: the pool is opened for writing, worked with, and scrubbed. A lie in an intent log is always replayed: nobody else reads it.
const WRITTEN: u64 = 17;
/// Of so many lies one meets a pool that knows nothing yet; the others one that has read before what the lie left as it was.
const COLD: u64 = 13;
/// Of so many lies one is told about a pool of OpenZFS.
const FOREIGN: u64 = 16;
/// Transfers of one case: good pools here take some hundred.
const TRANSFERS: u64 = 100_000;
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
    /// Cases in which the pool was also written.
    pub written: u64,
    /// Cases by what was changed.
    pub classes: BTreeMap<&'static str, u64>,
}

impl Report {
    /// A case is over.
    pub fn count(&mut self, class: &'static str, is_fine: bool) {
        self.cases += 1;
        *self.classes.entry(class).or_default() += 1;
        *(if is_fine { &mut self.fine } else { &mut self.errors }) += 1;
    }
}

/// A pool to tell lies about.
struct Stage {
    tree: Tree,
    /// Every dataset: object in the MOS, what it holds.
    datasets: BTreeMap<String, (u64, Model)>,
}

impl Stage {
    fn new(disk: &Disk, ashift: u32) -> Result<Self, String> {
        let pool = Pool::import(vec![disk.device()], None).map_err(|error| error.to_string())?;
        let tree = Tree::grow(&pool, disk, ashift).map_err(|error| error.to_string())?;
        let list = Datasets::open(&pool).and_then(|datasets| datasets.list(pool.name())).map_err(|error| error.to_string())?;
        let read = |name: &str| rig::read_all(&pool, name).map_err(|error| format!("{name}: {error}"));
        let datasets = list.into_iter().map(|info| read(&info.name).map(|model| (info.name, (info.object, model)))).collect::<Result<_, _>>()?;
        Ok(Self { tree, datasets })
    }
}

/// A small pool with something of everything: files, directories, snapshots, a clone, a volume, properties, holds, a bookmark, blocks that died with
/// snapshots; and an intent log that was not replayed, as the power went.
fn everything(store: &mut Store, seed: u64) -> Result<(), EditError> {
    let mut work = Work::small(seed);
    let mut steps = |store: &mut Store, count: u64| (0..count).try_for_each(|_| work.step(store).map(drop));
    steps(store, 30)?;
    store.snapshot(NAME, "before", NOW.0)?;
    store.clone_dataset(&format!("{NAME}@before"), &format!("{NAME}/clone"), NOW.0)?;
    let volume = pool_zpl::Zvol::create(store, &format!("{NAME}/volume"), 128 << 10, 8 << 10, true, NOW.0)?;
    volume.write(store, 4096, &[7; 50_000])?;
    store.set_property(&format!("{NAME}/clone"), "quota", &Value::Number(20 << 20))?;
    store.hold(&[&format!("{NAME}@before")], "keep", NOW.0)?;
    store.bookmark(&format!("{NAME}@before"), &format!("{NAME}#mark"), NOW.0)?;
    let dataset = store.find(&format!("{NAME}/clone"))?;
    let mut writer = pool_zpl::Writer::open(store, dataset)?;
    let root = writer.root();
    for index in 0..40 {
        // More names than a micro-table holds with this length.
        writer.make(root, format!("{index}{}", "n".repeat(60)).as_bytes(), pool_zpl::Make::File, &NEW)?;
    }
    steps(store, 10)?;
    store.snapshot(NAME, "between", NOW.0)?;
    steps(store, 10)?;
    store.commit(NOW.0)?;
    // From the second sync on it is in the log only: the first one is a commit, and makes the log's first block.
    let dataset = store.find(&format!("{NAME}/clone"))?;
    for index in 0..4 {
        let mut writer = pool_zpl::Writer::open(store, dataset)?;
        let root = writer.root();
        let file = writer.make(root, format!("late{index}").as_bytes(), pool_zpl::Make::File, &NEW)?;
        writer.write(file, 0, &[5; 3000], NOW)?;
        writer.rename((root, format!("late{index}").as_bytes()), (root, format!("later{index}").as_bytes()), false, NOW, false)?;
        writer.truncate(file, 2000, NOW)?;
        store.log_sync(dataset, NOW.0)?;
    }
    Ok(())
}

/// Changes structures under good checksums, then uses the pool. `Err` names the seed of a case that is a finding.
///
/// # Errors
/// A finding.
pub fn liar(seed: u64, cases: u64, watch: &mut Watch) -> Result<Report, String> {
    let shape = &SHAPES[0];
    let ours = || -> Result<Stage, String> {
        let (disks, mut store) = rig::create(shape, seed).map_err(|error| error.to_string())?;
        everything(&mut store, seed).map_err(|error| error.to_string())?;
        drop(store);
        Stage::new(&disks[0], shape.ashift)
    };
    let ours = ours().map_err(|error| format!("prepare: {error}"))?;
    let foreign = relic::disk().map_err(|error| error.to_string()).and_then(|disk| Stage::new(&disk, shape.ashift)).map_err(|error| format!("prepare the relic: {error}"))?;
    let mut report = Report::default();
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0001));
        // Every other of those about a pool of OpenZFS is about what only those have.
        let (stage, other) = if case % FOREIGN == 3 { (&foreign, (case / FOREIGN).is_multiple_of(2).then_some(&ours.tree)) } else { (&ours, None) };
        let lie = stage.tree.lie(dice, other);
        let is_worked = case % WRITTEN == 0;
        let is_written = is_worked || lie.class == "intent log";
        let is_fine = watch.guard(
            |what| format!("seed {seed} case {case}, {}: {what}", lie.class),
            || {
                let mut fine = look_at(stage, &lie, case % COLD == 1)?;
                if is_written {
                    fine &= work_with(stage, &lie, is_worked.then_some(dice))?;
                }
                let transfers = lie.disk.transfers();
                if transfers > TRANSFERS { Err(format!("{transfers} transfers")) } else { Ok(fine) }
            },
        )?;
        report.written += u64::from(is_written);
        report.count(lie.class, is_fine);
    }
    Ok(report)
}

/// Places of the regions of a label that have a checksum of their own: config, and the uberblock ring.
const CONFIG: (usize, usize) = (16 << 10, 112 << 10);
const RING: usize = 128 << 10;
/// Bytes of a region's checksum trailer.
const TRAILER: usize = 40;
/// Of so many labels one is also written anew.
const LABELS_WRITTEN: u64 = 4;
/// Layouts whose labels lie.
const LABELLED: [usize; 3] = [0, 2, 3];

/// Changes the config or the newest uberblock in the only label of a pool's first disk, seals it again, opens the pool and commits. `Err` names the seed of a case that is a
/// finding.
///
/// # Errors
/// A finding.
pub fn labels(seed: u64, cases: u64, watch: &mut Watch) -> Result<Report, String> {
    let shape: &Shape = &SHAPES[LABELLED[usize::try_from(mix(seed)).unwrap_or(0) % LABELLED.len()]];
    let prepare = || -> Result<(Vec<Disk>, u64), EditError> {
        let (disks, mut store) = rig::create(shape, seed)?;
        store.export(NOW.0)?;
        let txg = store.pool().uberblock().txg;
        Ok((disks, txg))
    };
    let (disks, txg) = prepare().map_err(|error| format!("prepare: {error}"))?;
    // No good label and no good uberblock is left to turn to on this disk.
    let base = &disks[0];
    let device = base.device();
    let (slot, slot_size) = label::ring_slot(txg, shape.ashift);
    let [first, others @ ..] = label::offsets(device.size_bytes());
    let mut front = vec![0; RING];
    let mut newest = vec![0; slot_size];
    (device.read(first, &mut front).and_then(|()| device.read(first + slot, &mut newest))).map_err(|error| format!("prepare: {error:?}"))?;
    let config = nvlist::parse(&front[CONFIG.0..]).map_err(|error| format!("prepare: {error}"))?;
    let empty = vec![0; usize::try_from(label::SIZE).unwrap_or(0)];
    others.iter().for_each(|offset| base.scribble(*offset, &empty));
    base.scribble(first + RING as u64, &empty[RING..]);
    base.scribble(first + slot, &newest);
    let mut report = Report::default();
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0003));
        let disks: Vec<Disk> = disks.iter().map(Disk::fork).collect();
        let is_written = case % LABELS_WRITTEN == 0;
        let class = match dice & 3 {
            0 => {
                let mut region = front[CONFIG.0..].to_vec();
                spoil(&mut region, 1500, dice);
                label::seal(&mut region, [first + CONFIG.0 as u64, 0, 0, 0]);
                disks[0].scribble(first + CONFIG.0 as u64, &region);
                "config's bytes"
            }
            1 => {
                let mut config = config.clone();
                twist(&mut config, dice);
                match label::Front::new(&config) {
                    Ok(front) => disks[0].scribble(first, &front.at(first)),
                    Err(error) => return Err(format!("labels: seed {seed} case {case}: {error}")),
                }
                "config's values"
            }
            _ => {
                let mut region = newest.clone();
                spoil(&mut region, 216.min(slot_size - TRAILER), dice);
                label::seal(&mut region, [first + slot, 0, 0, 0]);
                disks[0].scribble(first + slot, &region);
                "uberblock"
            }
        };
        let is_fine = watch.guard(
            |what| format!("labels: seed {seed} case {case}, {} {class}: {what}", shape.name),
            || {
                let found = if is_written { pool_spa::scan(&rig::devices(&disks)).len() } else { 1 };
                let fine = rig::open(&disks, 1, None).is_ok_and(|mut store| !is_written || store.export(NOW.0).is_ok());
                Ok(found == 1 && fine)
            },
        )?;
        report.written += u64::from(is_written);
        report.count(class, is_fine);
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

/// Changes a value of a list, or of one in it: to another number or text, to a value of another type, to nothing.
fn twist(list: &mut List, dice: u64) {
    let dice = mix(dice ^ 0x7157);
    let count = list.pairs.len();
    if count == 0 {
        return;
    }
    let at = usize::try_from(dice >> 32).unwrap_or(0) % count;
    let goes_down = dice & 7 != 0;
    let other = [0, 1, u64::MAX, 1 << (dice >> 8 & 63), dice][usize::try_from(dice >> 16).unwrap_or(0) % 5];
    match &mut list.pairs[at].1 {
        Value::List(below) if goes_down => twist(below, dice),
        Value::Lists(below) if goes_down && !below.is_empty() => {
            let index = usize::try_from(dice >> 24).unwrap_or(0) % below.len();
            match dice >> 3 & 7 {
                0 => drop(below.remove(index)),
                1 => below.push(below[index].clone()),
                _ => twist(&mut below[index], dice),
            }
        }
        Value::Number(number) if goes_down => *number = if dice >> 20 & 3 == 0 { number.wrapping_add(1 << (dice >> 40 & 15)) } else { other },
        Value::Text(text) if goes_down => *text = ["", "disk", "mirror", "raidz", "hole", "missing", "spare", "/"][usize::try_from(dice >> 16).unwrap_or(0) % 8].to_owned(),
        value if dice >> 4 & 1 == 0 => *value = if dice >> 5 & 1 == 0 { Value::Number(other) } else { Value::Text("disk".to_owned()) },
        _ => drop(list.pairs.remove(at)),
    }
}

/// Reads everything that can be read; true if nothing complained.
fn look_at(stage: &Stage, lie: &Lie, is_cold: bool) -> Result<bool, String> {
    let disks = std::slice::from_ref(&lie.disk);
    let Ok(pool) = Pool::import(rig::devices(disks), None) else { return Ok(false) };
    if !is_cold {
        stage.tree.remind(&pool, lie);
    }
    // The lie itself lies where nothing is allocated: faults are no complaint here, but their counting must come to an end. No lie about the pool's own objects
    // changes what is in a block of a file.
    let mut fine = pool_dmu::check(&pool, is_cold || lie.dataset.is_some()).is_ok();
    if is_cold || lie.dataset.is_none() {
        fine &= pool_dmu::check_space(&pool).is_ok();
    }
    let Ok(datasets) = Datasets::open(&pool) else { return Ok(false) };
    fine &= datasets.features().is_ok();
    let Ok(list) = datasets.list(pool.name()) else { return Ok(false) };
    for info in &list {
        fine &= datasets.properties(info).is_ok() && datasets.space(info).is_ok();
        let known = stage.datasets.get(&info.name);
        let is_reached = lie.dataset.is_some() && lie.dataset == known.map(|(object, _)| *object);
        let contents = is_cold || is_reached;
        let read = if contents { rig::read_all(&pool, &info.name) } else { rig::read_names(&pool, &info.name) };
        fine &= read.is_ok();
        // What belongs to one dataset changes no other, and what belongs to one file no other file.
        if lie.dataset.is_some() {
            let (_, model) = known.ok_or_else(|| format!("{} is new", info.name))?;
            match read {
                Err(error) if !is_reached || lie.is_data => return Err(format!("{}: {error}", info.name)),
                Ok(read) if !is_reached && (!read.keys().eq(model.keys()) || contents && read != *model) => return Err(format!("wrong bytes of {}", info.name)),
                Ok(read) if is_reached && lie.is_data => {
                    // A file may have several names.
                    let others: BTreeSet<(&Vec<u8>, Option<&Vec<u8>>)> = read.iter().map(|(path, data)| (data, model.get(path))).filter(|(data, was)| Some(*data) != *was).collect();
                    if !read.keys().eq(model.keys()) || others.len() > 1 {
                        return Err(format!("wrong bytes of a second file of {}", info.name));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(fine)
}

/// Opens the pool for writing with replay of its logs and does what its owner would, by `seed` if there is one; true if nothing complained.
fn work_with(stage: &Stage, lie: &Lie, seed: Option<u64>) -> Result<bool, String> {
    let disks = std::slice::from_ref(&lie.disk);
    let Ok(pool) = Pool::import(rig::devices(disks), None) else { return Ok(false) };
    let name = pool.name().to_owned();
    let Ok(mut store) = Store::open(pool, rig::random(2)) else { return Ok(false) };
    let mut fine = pool_zpl::replay_logs(&mut store, NOW).is_ok();
    if let Some(seed) = seed {
        fine &= store.run_scan(ScanKind::Scrub, NOW.0).is_ok();
        let mut work = Work::new(seed);
        if name == NAME {
            for _ in 0..20 {
                // The pool has files of its own: names may be taken.
                drop(work.step(&mut store));
            }
            fine &= store.destroy_snapshots(&[&format!("{name}@between")], false, NOW.0).is_ok();
            fine &= store.destroy_tree(&format!("{name}/volume"), true, NOW.0).is_ok();
        }
        fine &= store.snapshot(&name, "after", NOW.0).is_ok();
        fine &= store.promote(&format!("{name}/clone"), NOW.0).is_ok();
        fine &= store.rollback(&name, NOW.0).is_ok();
    }
    fine &= store.export(NOW.0).is_ok();
    drop(store);
    // A snapshot that the lie is no part of may lose blocks to it: what is freed and written to is what the lie says. It never reads otherwise than it was.
    let Ok(pool) = Pool::import(rig::devices(disks), None) else { return Ok(false) };
    for (snapshot, (object, model)) in stage.datasets.iter().filter(|(name, _)| name.contains('@')) {
        if lie.dataset.is_some_and(|dataset| dataset != *object)
            && let Ok(read) = rig::read_all(&pool, snapshot)
            && read != *model
        {
            return Err(format!("wrong bytes of {snapshot} after it was written"));
        }
    }
    Ok(fine)
}

/// A good structure of each kind, for [`parsers`] to change.
fn samples(seed: u64) -> Vec<(&'static str, Vec<u8>)> {
    let mut list = List::default();
    list.set("name", Value::Text("tank".into()));
    list.set("txg", Value::Number(7));
    list.set("vdev_tree", Value::List(list.clone()));
    list.set("children", Value::Lists(vec![list.clone(), list.clone()]));
    let change = intent_log::Change::Rename { from: 3, to: 4, old: b"old".to_vec(), new: b"new".to_vec() };
    let log = intent_log::seal(8192, &[change.encode(5, 1)], &blkptr::BlockPointer::hole(), [1, 2, 3, 4]);
    let entries = vec![zap::Entry { name: b"a name".to_vec(), integer_size: 8, value: vec![7] }];
    let header = zap::Header::new(14, 5, 0);
    let place = blkptr::Dva { vdev: 0, offset: 1 << 20, asize: 4096, gang: false };
    let pointer = intent_log::pointer([Some(place), None, None], 4096, 7, [1, 2, 3, 4]);
    // Two words an entry: the first of them names the vdev (format section 12.3).
    let logged: Vec<u8> = (0..40_u64).flat_map(|index| [(3 << 62) | (index << 24), (index << 63) | (index * 8)]).flat_map(u64::to_le_bytes).collect();
    let token = Token { to_guid: seed, from_guid: Some(9), object: 12, offset: 1 << 17, bytes: 99, name: "tank/a@b".into(), options: pool_stream::SendOptions::default() };
    vec![
        ("list", nvlist::encode(&list)),
        ("intent log", log),
        ("micro table", zap::encode_micro(&entries, 512, 3, 0).unwrap_or_default()),
        ("fat table", header.encode(16 << 10)),
        ("leaf", zap::encode_leaf(&entries, &header, 0, 0, 16 << 10).unwrap_or_default()),
        ("space map", spacemap::encode([spacemap::Entry { free: false, offset: 3, run: 70_000 }], 9)),
        ("log space map", logged),
        ("block pointers", pointer.encode().repeat(8)),
        ("noise", vec![0x5A; 4096]),
        ("attributes", sa::encode(2, &[(false, &[1; 8]), (true, b"variable")])),
        ("partitions", gpt::plan(DISK, 512, &mut || seed).map(|plan| plan.writes.into_iter().take(3).flat_map(|(_, data)| data).collect()).unwrap_or_default()),
        ("token", token.encode().into_bytes()),
    ]
}

/// Feeds `cases` mutated structures to every parser. `Err` names the seed of a case that is a finding.
///
/// # Errors
/// A finding.
pub fn parsers(seed: u64, cases: u64, watch: &mut Watch) -> Result<Report, String> {
    let samples = samples(seed);
    let header = zap::Header::new(14, 5, 0);
    let layout = |name: &[u8], value: &[u16]| zap::Entry { name: name.to_vec(), integer_size: 2, value: value.iter().map(|word| u64::from(*word)).collect() };
    let registry = vec![zap::Entry { name: b"ZPL_SIZE".to_vec(), integer_size: 8, value: vec![8 << 24 | 1] }, zap::Entry { name: b"ZPL_SYMLINK".to_vec(), integer_size: 8, value: vec![2] }];
    let registry = sa::Registry::new(&registry, &[layout(b"2", &[1, 2])]).unwrap_or_default();
    let mut report = Report::default();
    for case in 0..cases {
        let dice = mix(seed ^ case);
        let (class, sample) = &samples[usize::try_from(dice).unwrap_or(usize::MAX) % samples.len()];
        let mut data = sample.clone();
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
        if *class == "token" {
            reseal_token(&mut data, sample, dice);
        }
        let is_fine = watch.guard(
            |what| format!("parsers: seed {seed} case {case}, {class}: {what}"),
            || {
                drop(nvlist_native::parse_either(&data));
                drop(dsl::DslDir::parse(&data));
                drop(dsl::Dataset::parse(&data));
                drop(registry.parse(&data));
                drop(sa::Znode::parse_old(&data));
                drop(dnode::Dnode::parse(&data));
                drop(objset::Objset::parse(&data));
                drop(label::parse(&data, 0));
                drop(intent_log::Header::parse(&data));
                drop(zap::parse_table(&data));
                let mut fine = nvlist::parse(&data).is_ok() | spacemap::Header::parse(&data).is_ok() | blkptr::BlockPointer::parse(&data).is_ok();
                fine |= gpt::partitions(DISK, 512, &mut |offset, out| {
                    let from = usize::try_from(offset).ok().and_then(|at| data.get(at..at.checked_add(out.len())?));
                    from.map(|bytes| out.copy_from_slice(bytes)).is_some()
                })
                .is_ok();
                fine |= spacemap::parse(&data).is_ok_and(|entries| entries.fold(true, |fine, entry| fine & entry.is_ok()));
                fine |= spacemap::parse_log(&data).is_ok_and(|entries| entries.fold(true, |fine, entry| fine & entry.is_ok()));
                if let Ok(zap::Root::Fat(header)) = zap::parse_root(&data) {
                    drop(zap::parse_leaf(&data, &header));
                }
                fine |= zap::parse_leaf(&data, &header).is_ok();
                if let Ok((_, records)) = intent_log::parse_block(&data) {
                    fine |= records.iter().fold(true, |fine, record| fine & intent_log::Change::parse(record).is_ok());
                }
                fine |= std::str::from_utf8(&data).is_ok_and(|text| Token::decode(text).is_some());
                Ok(fine)
            },
        )?;
        report.count(class, is_fine);
    }
    Ok(report)
}

/// Every other token that was changed gets its sum right again, so that the damage reaches what is behind it: bytes of `1-SUM-SIZE-PACKED` stay digits.
fn reseal_token(data: &mut Vec<u8>, sample: &[u8], dice: u64) {
    if dice >> 24 & 1 == 0 {
        return;
    }
    for (byte, was) in data.iter_mut().zip(sample) {
        *byte = match (*byte, *was) {
            (_, b'-') => b'-',
            (now, was) if now != was => b"0123456789abcdef"[usize::from(now & 15)],
            (now, _) => now,
        };
    }
    let text = String::from_utf8_lossy(data).into_owned();
    let mut parts = text.split('-');
    if let (Some(version), Some(_), Some(size), Some(packed)) = (parts.next(), parts.next(), parts.next(), parts.next()) {
        let bytes: Vec<u8> = packed.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
        *data = format!("{version}-{:x}-{size}-{packed}", codec::fletcher4(&bytes)[0]).into_bytes();
    }
}
