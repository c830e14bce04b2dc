//! The pool's history: what was asked of it, kept in the pool (format section 19).
//!
//! A ring of records behind the one of the pool's creation, which is never overwritten. Each is a length and a packed nvlist.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::nvlist::{self, List, Value};
use pool_phys::{FormatError, nvlist_native};

use crate::dsl::{put, word};
use crate::edit::EditError;
use crate::store::{OBJECT_DIRECTORY, Store};
use crate::zap_edit as zap;
use crate::{Error, ObjectSet};

const HISTORY: u8 = 29;
const HISTORY_OFFSETS: u8 = 30;
const BLOCK: u64 = 128 << 10;
/// The ring takes a thousandth of the pool, within these bounds.
const RING_MIN: u64 = 128 << 10;
const RING_MAX: u64 = 1 << 30;
/// Largest record we read or write, in bytes.
const RECORD_MAX: u64 = 64 << 10;
/// Most of the ring that is read at once, in bytes.
const READ_MAX: u64 = 16 << 20;

/// Words of the bonus buffer.
mod at {
    /// Length of the creation's record.
    pub const CREATION: usize = 0;
    /// Size of the ring with the creation's record.
    pub const LIMIT: usize = 8;
    /// Logical offsets of the oldest record and behind the newest.
    pub const OLDEST: usize = 16;
    pub const END: usize = 24;
    pub const LOST: usize = 32;
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// UTC seconds.
    pub time: u64,
    /// A command as it was given, or an event of the pool's own.
    pub text: String,
    /// It was not asked for by a command.
    pub internal: bool,
    /// User id of who asked, on which host, in which zone; of what the pool did by itself the host alone.
    pub who: u64,
    pub host: String,
    pub zone: String,
}

/// Where a logical offset lies in the object.
const fn place(offset: u64, creation: u64, limit: u64) -> u64 {
    if offset < creation || limit <= creation { offset } else { (offset - creation) % (limit - creation) + creation }
}

fn line(record: &List) -> Line {
    let time = record.number("history time").unwrap_or(0);
    let text = |name| String::from(record.text(name).unwrap_or_default());
    let (who, host, zone) = (record.number("history who").unwrap_or(0), text("history hostname"), text("history zone"));
    match (record.text("history command"), record.text("history internal str").or(record.text("internal str"))) {
        (Some(command), _) => Line { time, text: command.into(), internal: false, who, host, zone },
        (None, event) => {
            let what = record.text("internal_name").unwrap_or_default();
            let on = record.text("dsname").unwrap_or_default();
            let txg = record.number("history txg").unwrap_or(0);
            Line { time, text: alloc::format!("[txg:{txg}] {what} {on} {}", event.unwrap_or_default()), internal: true, who, host, zone }
        }
    }
}

/// Reads the history; empty for a pool that keeps none.
///
/// # Errors
/// Unreadable or malformed.
pub fn history(mos: &ObjectSet<'_>) -> Result<Vec<Line>, EditError> {
    let number = match mos.lookup_number(OBJECT_DIRECTORY, "history") {
        Ok(number) => number,
        Err(Error::NotFound) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut object = mos.object(number)?;
    let bonus = object.dnode().bonus.clone();
    let error = |why, value| EditError::from(FormatError::new("history", why, value));
    let (creation, limit, oldest, end) = (word(&bonus, at::CREATION), word(&bonus, at::LIMIT), word(&bonus, at::OLDEST), word(&bonus, at::END));
    if creation > limit || oldest > end || end - oldest > READ_MAX || creation > READ_MAX {
        return Err(error("impossible offsets", end));
    }
    let mut bytes = Vec::new();
    for (mut from, to) in [(0, creation), (oldest.max(creation), end)] {
        while from < to {
            let place = place(from, creation, limit);
            let run = (to - from).min(limit.saturating_sub(place));
            if run == 0 {
                return Err(error("impossible offsets", from));
            }
            let start = bytes.len();
            bytes.resize(start + usize::try_from(run).map_err(|_| Error::NotFound)?, 0);
            object.read_at(place, &mut bytes[start..])?;
            from += run;
        }
    }
    let mut out = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        let size = usize::try_from(length).ok().filter(|size| length <= RECORD_MAX && *size <= after.len()).ok_or_else(|| error("record of impossible length", length))?;
        out.push(line(&nvlist_native::parse_either(&after[..size])?));
        rest = &after[size..];
    }
    Ok(out)
}

impl Store {
    /// Adds a command to the history; it is there with the next commit.
    ///
    /// # Errors
    /// Unreadable or malformed, or too long.
    pub fn note_history(&mut self, command: &str, now: u64) -> Result<(), EditError> {
        let mut list = List::default();
        list.set("history command", Value::Text(command.into()));
        list.set("history time", Value::Number(now));
        list.set("history who", Value::Number(0));
        list.set("history hostname", Value::Text("orrery".into()));
        let packed = nvlist::encode(&list);
        let length = packed.len() as u64;
        if length > RECORD_MAX {
            return Err(EditError::Invalid("too long for the history"));
        }
        let known = zap::number(&*self.mos.view(&self.pool, OBJECT_DIRECTORY)?, &self.pool, b"history")?;
        let object = match known {
            Some(object) => object,
            None => {
                let object = self.mos.allocate(&self.pool, HISTORY, BLOCK, HISTORY_OFFSETS, vec![0; 40])?;
                let limit = (self.pool.room() / 1000).clamp(RING_MIN, RING_MAX);
                put(&mut self.mos.edit(&self.pool, object)?.dnode.bonus, at::LIMIT, limit);
                self.note("history", object)?;
                object
            }
        };
        let edit = self.mos.edit(&self.pool, object)?;
        let mut bonus = edit.dnode.bonus.clone();
        let (creation, limit) = (word(&bonus, at::CREATION), word(&bonus, at::LIMIT));
        let (mut oldest, mut end) = (word(&bonus, at::OLDEST), word(&bonus, at::END));
        if creation > limit || oldest > end || limit > RING_MAX {
            return Err(FormatError::new("history", "impossible offsets", end).into());
        }
        // The oldest records make room.
        while end + 8 + length - oldest > limit - creation {
            let mut header = [0; 8];
            for (index, byte) in (0..).zip(header.iter_mut()) {
                edit.read_at(&self.pool, place(oldest + index, creation, limit), core::slice::from_mut(byte))?;
            }
            let size = u64::from_le_bytes(header);
            if size > RECORD_MAX || oldest + 8 + size > end {
                return Err(FormatError::new("history", "record of impossible length", size).into());
            }
            oldest += 8 + size;
            let lost = word(&bonus, at::LOST);
            put(&mut bonus, at::LOST, lost + 1);
        }
        let mut record = length.to_le_bytes().to_vec();
        record.extend_from_slice(&packed);
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            let at = place(end, creation, limit);
            let room = usize::try_from(limit - at).unwrap_or(usize::MAX).min(rest.len());
            edit.write_at(&self.pool, at, &rest[..room])?;
            end += room as u64;
            rest = &rest[room..];
        }
        if creation == 0 {
            put(&mut bonus, at::CREATION, end);
            oldest = end;
        }
        put(&mut bonus, at::OLDEST, oldest);
        put(&mut bonus, at::END, end);
        edit.dnode.bonus = bonus;
        Ok(())
    }
}
