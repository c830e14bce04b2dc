//! Random lives of a pool: operations, snapshots, device changes, broken disks, kills; after each life it is opened, checked and compared.
//!
//! Everything follows from the seed. A finding is an error whose text names seed, layout and life.

use std::collections::BTreeMap;
use std::fmt;

use pool_dmu::edit::EditError;
use pool_dmu::{ScanKind, Store};

use crate::disk::{Disk, Journal, Loss, Replay, mix};
use crate::matrix;
use crate::rig::{self, NAME, NOW, Shape};
use crate::work::{Did, Digest, Model, Work, digest};

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub lives: u64,
    pub operations: u64,
    pub kills: u64,
    pub snapshots: u64,
    pub troubles: u64,
    pub scans: u64,
    /// Blocks that the full checks read.
    pub blocks: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lives, operations, kills, snapshots, troubles, scans, blocks } = self;
        write!(f, "{lives} lives, {operations} operations, {kills} kills, {snapshots} snapshots, {troubles} troubles, {scans} scans, {blocks} blocks checked")
    }
}

struct Life<'a> {
    shape: &'a Shape,
    seed: u64,
    count: u64,
    report: Report,
    snapshots: BTreeMap<String, Model>,
}

impl Life<'_> {
    fn dice(&mut self) -> u64 {
        self.count += 1;
        mix(mix(self.seed ^ 0xFEED) ^ self.count)
    }

    fn say(&self, what: impl fmt::Display) -> String {
        format!("{} seed {} life {}: {what}", self.shape.name, self.seed, self.report.lives)
    }

    /// Something that is not a file operation.
    fn extra(&mut self, store: &mut Store, disks: &[Disk], work: &Work) -> Result<(), EditError> {
        let pick = self.dice();
        match pick % 8 {
            0 => {
                let name = format!("s{}", self.report.snapshots);
                store.snapshot(NAME, &name, NOW.0)?;
                self.snapshots.insert(name, work.model.clone());
                self.report.snapshots += 1;
            }
            1 if self.shape.bearable() > 0 => {
                // One disk at a time has trouble, and is mended before the next.
                let index = usize::try_from(pick >> 16).unwrap_or(0) % self.shape.disks;
                let every = (pick >> 8) % 6 + 2;
                // A pulled disk is not one of them.
                let trouble = matrix::draw(every, pick >> 32, 8);
                if disks.iter().all(|disk| !disk.is_broken()) {
                    disks[index].break_down(&[trouble]);
                    self.report.troubles += 1;
                }
            }
            2 | 3 => self.mend(store, disks)?,
            4 => {
                store.start_scan(ScanKind::Scrub);
                self.report.scans += 1;
            }
            _ => drop(store.scan_step(pick >> 32 & 63, NOW.0)?),
        }
        Ok(())
    }

    /// Ends all trouble: the disks are good again, in service, and scrubbed.
    fn mend(&mut self, store: &mut Store, disks: &[Disk]) -> Result<(), EditError> {
        if disks.iter().all(|disk| !disk.is_broken()) {
            return Ok(());
        }
        disks.iter().for_each(|disk| disk.break_down(&[]));
        for guid in rig::leaves(store.pool()) {
            store.online(guid, NOW.0)?;
        }
        store.run_scan(ScanKind::Scrub, NOW.0)?;
        store.run_scan(ScanKind::Resilver, NOW.0)?;
        self.report.scans += 2;
        Ok(())
    }
}

/// Runs `lives` lives on a layout.
///
/// # Errors
/// A finding, with all that is needed to find it again.
pub fn run(shape: &Shape, seed: u64, lives: u64) -> Result<Report, String> {
    let mut life = Life { shape, seed, count: 0, report: Report::default(), snapshots: BTreeMap::new() };
    let (mut disks, store) = rig::create(shape, seed).map_err(|error| life.say(error))?;
    let mut store = Some(store);
    let mut model = Model::new();
    while life.report.lives < lives {
        life.report.lives += 1;
        let mut now = store.take().expect("a life begins with an open pool");
        let journal = Journal::default();
        disks.iter().enumerate().for_each(|(index, disk)| disk.record(index, &journal));
        let mut replay = Replay::new(&disks);
        let mut work = Work::resume(mix(seed ^ life.report.lives), model.clone());
        // States since the last sync, that included.
        let mut possible: Vec<Digest> = vec![digest(&model)];
        let operations = 40 + life.dice() % 80;
        for _ in 0..operations {
            life.report.operations += 1;
            match work.step(&mut now).map_err(|error| life.say(error))? {
                Did::Change => possible.push(digest(&work.model)),
                Did::Sync => possible = vec![digest(&work.model)],
            }
            if life.dice().is_multiple_of(12) {
                life.extra(&mut now, &disks, &work).map_err(|error| life.say(error))?;
            }
        }
        let is_kill = !life.dice().is_multiple_of(3);
        if is_kill {
            life.report.kills += 1;
            drop(now);
        } else {
            life.mend(&mut now, &disks).map_err(|error| life.say(error))?;
            now.export(NOW.0).map_err(|error| life.say(error))?;
            possible = vec![digest(&work.model)];
            drop(now);
        }
        let had_trouble = disks.iter().any(Disk::is_broken);
        for step in journal.take() {
            replay.step(step);
        }
        if is_kill {
            let dice = life.dice();
            let loss = [Loss::Nothing, Loss::Everything, Loss::Some(dice), Loss::Torn(dice)][usize::try_from(dice >> 8).unwrap_or(0) % 4];
            disks = replay.cut(loss);
        } else {
            disks = disks.iter().map(Disk::fork).collect();
        }
        let mut again = rig::open(&disks, seed ^ life.report.lives, None).map_err(|error| life.say(error))?;
        if had_trouble {
            // What the disks lost must be found and mended before the check, which counts any damage.
            again.run_scan(ScanKind::Scrub, NOW.0).map_err(|error| life.say(error))?;
            again.run_scan(ScanKind::Resilver, NOW.0).map_err(|error| life.say(error))?;
        }
        let found = pool_dmu::check(again.pool(), true).map_err(|error| life.say(error))?;
        life.report.blocks += found.blocks;
        if found.fault_count > 0 {
            return Err(life.say(format!("{} faults, first {:?}", found.fault_count, found.faults.first())));
        }
        model = rig::read_all(again.pool(), NAME).map_err(|error| life.say(error))?;
        if !possible.contains(&digest(&model)) {
            return Err(life.say(format!("the pool holds none of {} possible states", possible.len())));
        }
        for (name, then) in &life.snapshots {
            match rig::read_all(again.pool(), &format!("{NAME}@{name}")) {
                Ok(held) if held == *then => {}
                Ok(_) => return Err(life.say(format!("snapshot {name} changed"))),
                Err(error) => return Err(life.say(format!("snapshot {name}: {error}"))),
            }
        }
        store = Some(again);
    }
    Ok(life.report)
}
