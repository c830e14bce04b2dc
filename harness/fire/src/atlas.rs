//! The power-cut atlas: every moment of a workload as the moment the power fails.

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
    /// States of the disks that were opened and checked.
    pub cuts: u64,
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
            "{} writes, {} flushes, {} cuts: {} lost, {} torn, {} refused, {} damaged",
            self.writes, self.flushes, self.cuts, self.lost, self.torn, self.refused, self.damaged
        )
    }
}

/// How much of an atlas to draw.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Operations of the workload.
    pub operations: u64,
    /// Every n-th write and flush is a cut point.
    pub every: u64,
}

/// A workload's journal, and which states of the model it went through.
struct Recording {
    start: Replay,
    steps: Vec<Step>,
    states: Vec<Digest>,
}

/// Marks: a state of the model begins (even) or is acknowledged (odd).
const fn begun(state: u64) -> u64 {
    state * 2
}

const fn acknowledged(state: u64) -> u64 {
    state * 2 + 1
}

fn record(shape: &Shape, seed: u64, operations: u64) -> Result<Recording, EditError> {
    let (disks, mut store) = rig::create(shape, seed)?;
    let journal = Journal::default();
    for (index, disk) in disks.iter().enumerate() {
        disk.record(index, &journal);
    }
    let start = Replay::new(&disks);
    let mut work = Work::new(seed);
    let mut states = vec![digest(&work.model)];
    journal.mark(acknowledged(0));
    for _ in 0..operations {
        // The operation may write before it returns: its state is possible from here on.
        let did = work.step(&mut store)?;
        let now = states.len() as u64 - 1;
        match did {
            Did::Sync => journal.mark(acknowledged(now)),
            Did::Change => {
                states.push(digest(&work.model));
                journal.mark(begun(now + 1));
            }
        }
    }
    store.export(rig::NOW.0)?;
    journal.mark(acknowledged(states.len() as u64 - 1));
    Ok(Recording { start, steps: journal.take(), states })
}

/// Draws the atlas of a layout: runs the workload of `seed`, cuts the power at every `scale.every`-th step in four ways, and examines what is left.
/// `progress` hears how many of how many steps are done.
///
/// # Errors
/// The workload itself failed, on good disks.
pub fn draw(shape: &Shape, seed: u64, scale: Scale, progress: &mut dyn FnMut(u64, u64)) -> Result<Atlas, EditError> {
    let Recording { start, steps, states } = record(shape, seed, scale.operations)?;
    let mut atlas = Atlas::default();
    let mut replay = start;
    let (mut oldest, mut newest) = (0_u64, 0_u64);
    let total = steps.len() as u64;
    for (number, step) in (0_u64..).zip(&steps) {
        match step {
            Step::Mark(mark) if mark & 1 == 1 => oldest = mark / 2,
            Step::Mark(mark) => newest = mark / 2,
            Step::Write { .. } => atlas.writes += 1,
            Step::Flush { .. } => atlas.flushes += 1,
        }
        replay.step(step);
        if matches!(step, Step::Mark(_)) || !number.is_multiple_of(scale.every) {
            continue;
        }
        let dice = mix(seed ^ number);
        for loss in [Loss::Nothing, Loss::Everything, Loss::Some(dice), Loss::Torn(dice)] {
            examine(shape, &replay, loss, number, (oldest, newest), &states, &mut atlas);
        }
        progress(number, total);
    }
    Ok(atlas)
}

fn examine(shape: &Shape, replay: &Replay, loss: Loss, number: u64, (oldest, newest): (u64, u64), states: &[Digest], atlas: &mut Atlas) {
    atlas.cuts += 1;
    let place = format!("{} step {number} {loss:?}", shape.name);
    let disks = replay.cut(loss);
    // Opening replays the intent logs and commits: the state after that is what counts, and the state before must be whole too.
    let store = match rig::open(&disks, 1, None) {
        Ok(store) => store,
        Err(error) => {
            atlas.refused += 1;
            atlas.note(format!("{place}: {}", match error {
                OpenError::Import(error) => format!("import: {error}"),
                OpenError::Open(error) => format!("open: {error}"),
            }));
            return;
        }
    };
    match pool_dmu::check(store.pool(), true) {
        Ok(found) if found.fault_count == 0 => {}
        Ok(found) => {
            atlas.damaged += 1;
            atlas.note(format!("{place}: {} faults, first {:?}", found.fault_count, found.faults.first()));
        }
        Err(error) => {
            atlas.damaged += 1;
            atlas.note(format!("{place}: {error}"));
        }
    }
    match rig::read_all(store.pool(), NAME) {
        Ok(model) => {
            let found = digest(&model);
            let at = |state: u64| usize::try_from(state).unwrap_or(0);
            if states[at(oldest)..=at(newest)].contains(&found) {
                return;
            }
            if states[..at(oldest)].contains(&found) {
                atlas.lost += 1;
                atlas.note(format!("{place}: an older state than {oldest}"));
            } else {
                atlas.torn += 1;
                atlas.note(format!("{place}: no state of {oldest}..={newest}"));
            }
        }
        Err(error) => {
            atlas.damaged += 1;
            atlas.note(format!("{place}: {error}"));
        }
    }
}
