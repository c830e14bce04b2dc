//! What a debugger sees of the zones: a table at a symbol, in a layout of its own.
//!
//! # Theory
//! A debugger outside of the machine cannot know how this compiler lays out a [`Zone`]. So each change of state is also written down where it can be found: in the
//! static `zone::watch::TABLE`, whose layout is fixed and versioned by its first eight bytes (`docs/formats/zone-table.md`).
//!
//! # Structures
//! ```text
//! 0   "ORZONES1"
//! 8   u32 rows        12  u32 bytes of a row      16  u32 zones for which there was no row
//! 20  u32 0
//! 24  rows x { u32 id + 1 (0: no zone), u32 state, u32 process id of its init (0: none yet), u32 0, name[64] }
//! ```
//!
//! # Locking
//! None: atomics. A row belongs to the zone whose id is in it; one zone's states are written in their order, as only one caller moves it on.
//!
//! # Limits
//! [`ROWS`] zones at a time; those beyond are counted and not shown.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::config::NAME_BYTES_MAX;
use crate::{State, Zone};

/// Zones that are shown.
const ROWS: usize = 256;
const NAME: usize = NAME_BYTES_MAX + 1;
const MAGIC: u64 = u64::from_le_bytes(*b"ORZONES1");

#[repr(C)]
struct Row {
    id: AtomicU32,
    state: AtomicU32,
    init_pid: AtomicU32,
    zero: u32,
    name: [AtomicU8; NAME],
}

#[repr(C)]
struct Table {
    magic: AtomicU64,
    rows: u32,
    row_bytes: u32,
    missed: AtomicU32,
    zero: u32,
    row: [Row; ROWS],
}

#[used]
static TABLE: Table = Table {
    magic: AtomicU64::new(MAGIC),
    rows: ROWS as u32,
    row_bytes: size_of::<Row>() as u32,
    missed: AtomicU32::new(0),
    zero: 0,
    row: [const { Row { id: AtomicU32::new(0), state: AtomicU32::new(0), init_pid: AtomicU32::new(0), zero: 0, name: [const { AtomicU8::new(0) }; NAME] } }; ROWS],
};

/// A zone's state has changed, or its init is known.
pub(crate) fn note(zone: &Zone) {
    let id = zone.id().0 + 1;
    let state = zone.state();
    let row = match TABLE.row.iter().find(|row| row.id.load(Ordering::Acquire) == id) {
        Some(row) => row,
        None if state >= State::Dying => return,
        None => {
            let taken = TABLE.row.iter().find(|row| row.id.compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed).is_ok());
            let Some(row) = taken else {
                TABLE.missed.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let name = zone.name().as_bytes().iter().copied().chain(core::iter::repeat(0));
            row.name.iter().zip(name).for_each(|(slot, byte)| slot.store(byte, Ordering::Relaxed));
            row
        }
    };
    row.init_pid.store(zone.init_pid().unwrap_or(0), Ordering::Relaxed);
    row.state.store(state as u32, Ordering::Release);
    if state >= State::Dead {
        row.id.store(0, Ordering::Release);
    }
}

/// State and init of the zone that the table shows under this name.
#[cfg(test)]
pub(crate) fn shown(name: &str) -> Option<(u32, u32)> {
    let is = |row: &&Row| row.name.iter().map(|slot| slot.load(Ordering::Relaxed)).take_while(|byte| *byte != 0).eq(name.bytes());
    let row = TABLE.row.iter().filter(|row| row.id.load(Ordering::Acquire) != 0).find(is)?;
    Some((row.state.load(Ordering::Acquire), row.init_pid.load(Ordering::Relaxed)))
}
