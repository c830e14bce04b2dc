//! The fault matrix: every trouble of a disk, on every layout, in every state of the pool.
//!
//! A cell is one run: a pool in one state, one disk with one trouble. What must come out: every file read is right or an error, an error only where
//! the layout cannot bear the trouble; and afterwards, mended and scrubbed, the pool holds what it held. What happened is the cell's outcome; a silent
//! one, in which the trouble hit and nobody noticed, is a finding.
//!
//! A disk that spoils what it writes does so under load. In every other state the damage lies there already: it was done, and acknowledged, before the state
//! began, and scrub, resilver, send and import meet it. Where a resilver reads, that is what was written while the other disk was away.
//!
//! This is also the home of the list of troubles that the random lives draw from ([`draw`]).

use std::fmt;
use std::sync::Arc;

use pool_dmu::ScanKind;
use pool_dmu::edit::EditError;
use pool_spa::{Event, VdevState};
use pool_stream::SendOptions;

use crate::disk::Trouble;
use crate::rig::{self, Events, NAME, NOW, OpenError, Shape};
use crate::streams;
use crate::work::{Model, Work};

/// What the pool does while the disk has trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Files are read.
    Idle,
    /// Files are written and read.
    Load,
    Scrub,
    Resilver,
    /// A snapshot is sent.
    Send,
    /// It is opened.
    Import,
}

/// All states.
pub const STATES: [State; 6] = [State::Idle, State::Load, State::Scrub, State::Resilver, State::Send, State::Import];

/// All troubles, each in every `every`-th transfer.
const fn troubles(every: u64) -> [Trouble; 9] {
    [
        Trouble::ReadErrors(every),
        Trouble::WriteErrors(every),
        Trouble::WrongReads(every),
        Trouble::BitRot(every),
        Trouble::LostWrites(every),
        Trouble::MisdirectedWrites(every),
        Trouble::TornWrites(every),
        Trouble::Dead,
        Trouble::Gone,
    ]
}

/// All troubles of the matrix.
pub const TROUBLES: [Trouble; 9] = troubles(3);

/// One of the first `count` troubles, by a random number.
///
/// # Panics
/// If `count` is none or more than there are.
#[must_use]
pub fn draw(every: u64, dice: u64, count: usize) -> Trouble {
    troubles(every)[..count][usize::try_from(dice).unwrap_or(0) % count]
}

/// True if it spoils what is written, and says nothing: the damage outlives the trouble.
const fn stays(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::BitRot(_) | Trouble::LostWrites(_) | Trouble::MisdirectedWrites(_) | Trouble::TornWrites(_))
}

/// Workloads that a cell tries until the trouble strikes something.
const TRIES: u64 = 8;

/// Runs a cell, with other workloads as long as the trouble touches nothing.
///
/// # Errors
/// As [`cell`].
pub fn struck(shape: &Shape, trouble: Trouble, state: State, seed: u64) -> Result<Outcome, EditError> {
    for seed in seed..seed + TRIES {
        match cell(shape, trouble, state, seed)? {
            Outcome::Untouched => {}
            outcome => return Ok(outcome),
        }
    }
    Ok(Outcome::Untouched)
}

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The trouble never showed: nothing was read or written that it touched.
    Untouched,
    /// Noticed, and everything is there again.
    Healed,
    /// Noticed, named and not mended: an error where the layout bears no more.
    Reported,
    /// The pool did not open, or took no more writes, and said why.
    Refused,
    /// Wrong bytes, or damage that nobody noticed: a finding.
    Silent,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "untouched",
            Self::Healed => "healed",
            Self::Reported => "reported",
            Self::Refused => "refused",
            Self::Silent => "SILENT",
        })
    }
}

/// Runs one cell.
///
/// # Errors
/// The preparation failed, on good disks.
pub fn cell(shape: &Shape, trouble: Trouble, state: State, seed: u64) -> Result<Outcome, EditError> {
    let (disks, mut store) = rig::create(shape, seed)?;
    let mut work = Work::new(seed);
    for _ in 0..60 {
        work.step(&mut store)?;
    }
    store.commit(NOW.0)?;
    let victim = &disks[0];
    let at_rest = stays(trouble) && state != State::Load;
    let other_is_away = state == State::Resilver && shape.bearable() > 0;
    if other_is_away {
        // Another disk misses some txgs: the one with trouble is needed to bring them back, as far as the layout goes.
        disks[1].break_down(&[Trouble::Gone]);
    }
    if at_rest {
        victim.break_down(&[trouble]);
    }
    if at_rest || other_is_away {
        for _ in 0..30 {
            match work.step(&mut store) {
                Ok(_) => {}
                // What is read back may be wrong by now.
                Err(_) if at_rest => break,
                Err(error) => return Err(error),
            }
        }
        if store.commit(NOW.0).is_err() {
            return Ok(Outcome::Refused);
        }
        disks.iter().for_each(|disk| disk.break_down(&[]));
    }
    let snapshot = format!("{NAME}@sent");
    if state == State::Send && store.snapshot(NAME, "sent", NOW.0).is_err() || store.export(NOW.0).is_err() {
        return Ok(Outcome::Refused);
    }
    drop(store);
    let events = Arc::new(Events::default());
    let troubles = if at_rest { Vec::new() } else { vec![trouble] };
    if state == State::Import {
        victim.break_down(&troubles);
    }
    let mut store = match rig::open(&disks, 1, Some(Arc::clone(&events))) {
        Ok(store) => store,
        Err(OpenError::Import(_) | OpenError::Open(_)) => return Ok(Outcome::Refused),
    };
    victim.break_down(&troubles);
    // A disk that is not there at the import is seen to be missing.
    let is_missed = rig::leaves(store.pool()).into_iter().any(|guid| store.pool().leaf_state(guid) == Some(VdevState::Unavail));
    let mut refused = false;
    let mut wrong = false;
    // A stream that was begun and cannot be ended is an error, and says where.
    let mut unsent = false;
    match state {
        State::Load => {
            for _ in 0..60 {
                if work.step(&mut store).is_err() {
                    refused = true;
                    break;
                }
            }
            refused |= store.commit(NOW.0).is_err();
        }
        State::Scrub => refused |= store.run_scan(ScanKind::Scrub, NOW.0).is_err(),
        State::Resilver => refused |= store.run_scan(ScanKind::Resilver, NOW.0).is_err(),
        State::Send => match streams::send(&store, &snapshot, None, SendOptions::default()) {
            Ok(sent) => wrong |= !carries(&sent, &work.model)?,
            Err(_) => unsent = true,
        },
        State::Idle | State::Import => {}
    }
    // Each file is right or an error.
    let read = rig::read_all(store.pool(), NAME);
    if !refused
        && let Ok(found) = &read
    {
        wrong |= *found != work.model;
    }
    let noticed = is_missed || events.take().iter().any(|event| matches!(event, Event::Io { .. } | Event::Checksum { .. } | Event::Data { .. } | Event::Suspended { .. }));
    if wrong {
        return Ok(Outcome::Silent);
    }
    if refused {
        return Ok(Outcome::Refused);
    }
    // The disk is mended and back: whatever the layout can bear must be there again, and nothing wrong left.
    victim.break_down(&[]);
    for guid in rig::leaves(store.pool()) {
        if store.pool().leaf_state(guid) == Some(VdevState::Unavail) && !store.return_device(guid, victim.device()) {
            return Ok(Outcome::Refused);
        }
        if store.online(guid, NOW.0).is_err() {
            return Ok(Outcome::Refused);
        }
    }
    let (first, second) = (store.run_scan(ScanKind::Scrub, NOW.0), store.run_scan(ScanKind::Resilver, NOW.0));
    let (Ok(first), Ok(_)) = (first, second) else { return Ok(Outcome::Refused) };
    let noticed = noticed || first.bad > 0;
    if first.errors > 0 || read.is_err() || unsent {
        return Ok(if noticed { Outcome::Reported } else { Outcome::Silent });
    }
    let clean = store.run_scan(ScanKind::Scrub, NOW.0).is_ok_and(|again| again.bad == 0 && again.errors == 0);
    let same = rig::read_all(store.pool(), NAME).is_ok_and(|found| found == work.model);
    Ok(match (clean && same, noticed) {
        (false, _) => Outcome::Silent,
        (true, true) => Outcome::Healed,
        (true, false) => Outcome::Untouched,
    })
}

/// True if who receives a stream has the files that were sent.
fn carries(stream: &[u8], model: &Model) -> Result<bool, EditError> {
    let (_, mut store) = rig::create(&rig::SHAPES[0], 1)?;
    let target = format!("{NAME}/received");
    let taken = streams::receive(&mut store, &target, stream).is_ok();
    store.commit(NOW.0)?;
    Ok(taken && rig::read_all(store.pool(), &target).is_ok_and(|found| found == *model))
}

/// What a cell may end as. Every trouble strikes where it can. A layout that bears a disk's loss must heal whatever one disk does; one that does not must at least say so.
#[must_use]
pub const fn allowed(shape: &Shape, trouble: Trouble, state: State, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Silent => false,
        Outcome::Healed => true,
        // Nothing is written then.
        Outcome::Untouched => matches!((trouble, state), (Trouble::WriteErrors(_), State::Idle | State::Send | State::Import)),
        // In the resilver of a layout that bears one loss, two disks are in trouble at once.
        Outcome::Reported | Outcome::Refused => shape.bearable() == 0 || matches!(state, State::Resilver) && shape.bearable() == 1,
    }
}
