//! The fault matrix: every trouble of a disk, on every layout, in every state of the pool.
//!
//! A cell is one run: a pool in one state, one disk with one trouble. What must come out: every file read is right or an error, an error only where
//! the layout cannot bear the trouble; and afterwards, mended and scrubbed, the pool holds what it held. What happened is the cell's outcome; a silent
//! one, in which the trouble hit and nobody noticed, is a finding.

use std::fmt;
use std::sync::Arc;

use pool_dmu::ScanKind;
use pool_dmu::edit::EditError;
use pool_spa::{Event, VdevState};
use pool_stream::SendOptions;

use crate::disk::Trouble;
use crate::rig::{self, Events, NAME, NOW, OpenError, Shape};
use crate::streams;
use crate::work::Work;

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

/// All troubles.
pub const TROUBLES: [Trouble; 9] = [
    Trouble::ReadErrors(3),
    Trouble::WriteErrors(3),
    Trouble::WrongReads(3),
    Trouble::BitRot(3),
    Trouble::LostWrites(3),
    Trouble::MisdirectedWrites(3),
    Trouble::TornWrites(3),
    Trouble::Dead,
    Trouble::Gone,
];

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
    if state == State::Resilver && shape.bearable() > 0 {
        // Another disk misses some txgs: the one with trouble is needed to bring them back, as far as the layout goes.
        disks[1].break_down(&[Trouble::Gone]);
        for _ in 0..30 {
            work.step(&mut store)?;
        }
        store.commit(NOW.0)?;
        disks[1].break_down(&[]);
    }
    let snapshot = format!("{NAME}@sent");
    let mut stream = None;
    if state == State::Send {
        store.snapshot(NAME, "sent", NOW.0)?;
        stream = streams::send(&store, &snapshot, None, SendOptions::default()).ok();
    }
    store.export(NOW.0)?;
    drop(store);
    let events = Arc::new(Events::default());
    if state == State::Import {
        victim.break_down(&[trouble]);
    }
    let mut store = match rig::open(&disks, 1, Some(Arc::clone(&events))) {
        Ok(store) => store,
        Err(OpenError::Import(_) | OpenError::Open(_)) => return Ok(Outcome::Refused),
    };
    victim.break_down(&[trouble]);
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
            Ok(sent) => wrong |= stream != Some(sent),
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
    let noticed = events.take().iter().any(|event| matches!(event, Event::Io { .. } | Event::Checksum { .. } | Event::Data { .. } | Event::Suspended { .. }));
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

/// What a cell may end as. A layout that bears a disk's loss must heal whatever one disk does; one that does not must at least say so.
#[must_use]
pub const fn allowed(shape: &Shape, state: State, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Silent => false,
        Outcome::Healed | Outcome::Untouched => true,
        // In the resilver of a layout that bears one loss, two disks are in trouble at once.
        Outcome::Reported | Outcome::Refused => shape.bearable() == 0 || matches!(state, State::Resilver) && shape.bearable() == 1,
    }
}
