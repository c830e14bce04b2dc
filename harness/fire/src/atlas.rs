//! The power-cut atlas: every moment of a workload as the moment the power fails.

use std::collections::HashSet;
use std::fmt;

use pool_dmu::edit::EditError;

use crate::disk::{Journal, Loss, Replay, Step, mix};
use crate::rig::{self, NAME, OpenError, Shape};
use crate::work::{Did, Digest, Work, digest};

/// What the atlas of one layout found.
#[derive(Clone, Debug, Default)]
pub struct Atlas {
    pub writes: u64,
    pub flushes: u64,
    /// Operations, and syncs among them that were acknowledged.
    pub operations: u64,
    pub syncs: u64,
    /// Power cuts: places times ways.
    pub cuts: u64,
    /// Different states of the disks that they left, each opened and checked.
    pub states: u64,
    /// States whose pool held an older state than the last acknowledged.
    pub lost: u64,
    /// States whose pool held what it never held: an operation in part.
    pub torn: u64,
    /// States whose pool did not open.
    pub refused: u64,
    /// States where the full check found something.
    pub damaged: u64,
    /// The first findings, to be found again.
    pub findings: Vec<String>,
}

impl Atlas {
    /// True if nothing was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost + self.torn + self.refused + self.damaged == 0
    }

    /// Counts what another workload came to.
    pub fn add(&mut self, other: &Self) {
        let Self { writes, flushes, operations, syncs, cuts, states, lost, torn, refused, damaged, findings } = other;
        self.writes += writes;
        self.flushes += flushes;
        self.operations += operations;
        self.syncs += syncs;
        self.cuts += cuts;
        self.states += states;
        self.lost += lost;
        self.torn += torn;
        self.refused += refused;
        self.damaged += damaged;
        findings.iter().for_each(|finding| self.note(finding.clone()));
    }

    fn note(&mut self, finding: String) {
        if self.findings.len() < 10 {
            self.findings.push(finding);
        }
    }
}

impl fmt::Display for Atlas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes, {} flushes, {} cuts, {} states: {} lost, {} torn, {} refused, {} damaged",
            self.writes, self.flushes, self.cuts, self.states, self.lost, self.torn, self.refused, self.damaged
        )
    }
}

/// How much of an atlas to draw.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The workload ends when the disks took so many writes.
    pub writes: u64,
    /// Every n-th write and flush is a cut point.
    pub every: u64,
}

/// Where the workload is while its writes happen.
struct Tour<'a> {
    shape: &'a Shape,
    seed: u64,
    every: u64,
    replay: Replay,
    /// Marks of the cuts examined since writes were last made safe.
    seen: HashSet<Vec<(usize, usize, usize)>>,
    /// States of the model before the last acknowledged sync, and since then with that one; the last may not be reached yet.
    past: Vec<Digest>,
    possible: Vec<Digest>,
    atlas: Atlas,
}

/// Draws the atlas of a layout: runs the workload of `seed`, cuts the power at every `scale.every`-th step in four ways, and examines what is left. Nothing is kept
/// but what the disks hold: the pool under the workload lives on while its past is looked at. `progress` hears how many of how many writes are done.
///
/// # Errors
/// The workload itself failed, on good disks.
pub fn draw(shape: &Shape, seed: u64, scale: Scale, progress: &mut dyn FnMut(u64, u64)) -> Result<Atlas, EditError> {
    let (disks, mut store) = rig::create(shape, seed)?;
    let journal = Journal::default();
    disks.iter().enumerate().for_each(|(index, disk)| disk.record(index, &journal));
    let mut work = Work::small(seed);
    let possible = vec![digest(&work.model)];
    let mut tour = Tour { shape, seed, every: scale.every, replay: Replay::new(&disks), seen: HashSet::new(), past: Vec::new(), possible, atlas: Atlas::default() };
    loop {
        let is_end = tour.atlas.writes >= scale.writes;
        let did = if is_end {
            store.export(rig::NOW.0)?;
            Did::Sync
        } else {
            work.step(&mut store)?
        };
        tour.atlas.operations += 1;
        // An operation may write before it returns: its state is possible from its first write on.
        if did == Did::Change {
            tour.possible.push(digest(&work.model));
        }
        journal.take().into_iter().for_each(|step| tour.step(step));
        if did == Did::Sync {
            tour.atlas.syncs += 1;
            let last = tour.possible.pop().unwrap_or(digest(&work.model));
            tour.past.append(&mut tour.possible);
            tour.possible.push(last);
            // From here on less is allowed: disks that were fine before are opened again.
            tour.seen.clear();
        }
        progress(tour.atlas.writes, scale.writes);
        if is_end {
            return Ok(tour.atlas);
        }
    }
}

impl Tour<'_> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Write { .. } => self.atlas.writes += 1,
            Step::Flush { .. } => self.atlas.flushes += 1,
        }
        let number = self.atlas.writes + self.atlas.flushes;
        if self.replay.step(step) {
            self.seen.clear();
        }
        if !number.is_multiple_of(self.every) {
            return;
        }
        let dice = mix(self.seed ^ number);
        for loss in [Loss::Nothing, Loss::Everything, Loss::Some(dice), Loss::Torn(dice)] {
            self.atlas.cuts += 1;
            if self.seen.insert(self.replay.mark(loss)) {
                self.atlas.states += 1;
                if let Err((kind, what)) = self.examine(loss) {
                    let count = match kind {
                        Kind::Lost => &mut self.atlas.lost,
                        Kind::Torn => &mut self.atlas.torn,
                        Kind::Refused => &mut self.atlas.refused,
                        Kind::Damaged => &mut self.atlas.damaged,
                    };
                    *count += 1;
                    self.atlas.note(format!("{} seed {} step {number} {loss:?}: {what}", self.shape.name, self.seed));
                }
            }
        }
    }

    /// Opens what a cut leaves. Opening replays the intent logs and commits: what the pool holds after that is what counts.
    fn examine(&self, loss: Loss) -> Result<(), (Kind, String)> {
        let disks = self.replay.cut(loss);
        let store = rig::open(&disks, 1, None).map_err(|error| match error {
            OpenError::Import(error) => (Kind::Refused, format!("import: {error}")),
            OpenError::Open(error) => (Kind::Refused, format!("open: {error}")),
        })?;
        let found = pool_dmu::check(store.pool(), true).map_err(|error| (Kind::Damaged, error.to_string()))?;
        if found.fault_count > 0 {
            return Err((Kind::Damaged, format!("{} faults, first {:?}", found.fault_count, found.faults.first())));
        }
        let held = digest(&rig::read_all(store.pool(), NAME).map_err(|error| (Kind::Damaged, error.to_string()))?);
        if self.possible.contains(&held) {
            Ok(())
        } else if self.past.contains(&held) {
            Err((Kind::Lost, String::from("a state from before the last acknowledged sync")))
        } else {
            Err((Kind::Torn, format!("none of the {} states since the last acknowledged sync", self.possible.len())))
        }
    }
}

/// What may be wrong after a cut.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Lost,
    Torn,
    Refused,
    Damaged,
}
