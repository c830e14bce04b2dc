//! Replaying intent logs: what was synced and not committed when the power failed.
//!
//! Records are applied in order through the same operations that made them. A record that cannot be applied, or of a type we do not replay, is an error that
//! names it: the pool stays as it was (the chain is dropped only with the commit at the end) and can be read, and imported by OpenZFS.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use pool_dmu::edit::EditError;
use pool_dmu::{Error, Store};
use pool_phys::intent_log::{Change as Logged, Record};
use pool_phys::sa::Time;

use crate::zvol::{DATA as ZVOL_DATA, OS_KIND as ZVOL};
use crate::{Change, Make, NewEntry, Writer};

const TYPE_MASK: u64 = 0o170_000;
/// Longest block there is.
const BLOCK_MAX: u64 = 16 << 20;

/// Replays all intent logs that the import found, and commits. Returns the number of records applied. Call it right after [`Store::open`].
///
/// # Errors
/// See the module description; a failed commit.
pub fn replay_logs(store: &mut Store, now: Time) -> Result<u64, EditError> {
    let datasets = store.pending_logs();
    let mut count = 0;
    for dataset in &datasets {
        let records = store.begin_replay(*dataset)?;
        count += records.len() as u64;
        let is_volume = store.edit_dataset(*dataset, None)?.0.os_kind() == ZVOL;
        if !is_volume && !records.is_empty() {
            // As every mount does, and before it has users: a record may be about a file that took the number of one that was still open at the commit, and went since.
            Writer::open(store, *dataset)?.drain_unlinked()?;
        }
        // Files that got blocks as they were in memory, which may hold more than the file: a write to come, of which a later record may tell.
        let mut whole = BTreeSet::new();
        for record in &records {
            let change = Logged::parse(record)?;
            if let Logged::WriteIndirect { object, .. } = &change {
                whole.insert(*object);
            }
            if is_volume { replay_volume(store, *dataset, change)? } else { replay_file(store, *dataset, record, change, now)? }
        }
        if !is_volume {
            for object in whole {
                missing_is_fine(Writer::open(store, *dataset)?.clear_behind_end(object))?;
            }
        }
    }
    if !datasets.is_empty() {
        store.commit(now.0)?;
    }
    Ok(count)
}

/// What an indirect write puts where: its block is a whole one of the object, wherever in it the write was.
fn indirect(store: &Store, block: &pool_phys::blkptr::BlockPointer, offset: u64, length: u64) -> Result<(u64, Vec<u8>), EditError> {
    if length > BLOCK_MAX {
        return Err(EditError::Invalid("an intent log record is too long"));
    }
    let at = if length < block.lsize { offset - offset % block.lsize } else { offset };
    if block.is_hole() {
        return Ok((at, vec![0; usize::try_from(length.max(block.lsize)).unwrap_or(0)]));
    }
    Ok((at, store.pool().read(block).map_err(Error::from)?))
}

fn replay_volume(store: &mut Store, dataset: u64, change: Logged) -> Result<(), EditError> {
    let (offset, data) = match change {
        Logged::Write { offset, data, .. } => (offset, data),
        Logged::WriteIndirect { offset, length, block, .. } => indirect(store, &block, offset, length)?,
        Logged::Truncate { offset, length, .. } => {
            let (set, pool) = store.edit_dataset(dataset, None)?;
            return crate::punch(set.edit(pool, ZVOL_DATA)?, pool, offset, offset.saturating_add(length));
        }
        Logged::Extend { .. } => return Ok(()),
        _ => return Err(EditError::Invalid("a volume's log has a record that is about files")),
    };
    let (set, pool) = store.edit_dataset(dataset, None)?;
    Ok(set.edit(pool, ZVOL_DATA)?.write_at(pool, offset, &data)?)
}

fn replay_file(store: &mut Store, dataset: u64, record: &Record, change: Logged, now: Time) -> Result<(), EditError> {
    match change {
        Logged::Create { parent, object, mode, uid, gid, time, rdev, name, target, .. } => {
            let make = match (&target, mode & TYPE_MASK) {
                (Some(target), _) => Make::Symlink(target),
                (None, 0o040_000) => Make::Directory,
                (None, 0o100_000) => Make::File,
                (None, type_bits) => Make::Special { type_bits, rdev },
            };
            let new = NewEntry { mode: mode & 0o7777, uid, gid, now: time };
            Writer::open(store, dataset)?.make_numbered(parent, &name, make, &new, Some(object)).map(drop)
        }
        Logged::Remove { parent, name, .. } => Writer::open(store, dataset)?.remove(parent, &name, now),
        Logged::Link { parent, object, name } => Writer::open(store, dataset)?.link(parent, &name, object, now),
        Logged::Rename { from, to, old, new } => Writer::open(store, dataset)?.rename((from, &old), (to, &new), false, now, false),
        Logged::Write { object, offset, data } => write(store, dataset, object, offset, &data, now),
        Logged::WriteIndirect { object, offset, length, block } => {
            let end = offset.saturating_add(length);
            let (at, data) = indirect(store, &block, offset, length)?;
            missing_is_fine(Writer::open(store, dataset)?.write_whole(object, at, &data, end, now))
        }
        Logged::Extend { object, offset, length } => missing_is_fine(Writer::open(store, dataset)?.write_whole(object, 0, &[], offset.saturating_add(length), now)),
        Logged::Truncate { object, offset, length: 0 } => missing_is_fine(Writer::open(store, dataset)?.truncate(object, offset, now)),
        Logged::Truncate { object, offset, length } => missing_is_fine(Writer::open(store, dataset)?.punch_hole(object, offset, length, now)),
        Logged::SetAttributes { object, mask, mode, uid, gid, size, accessed, modified } => {
            let with = |bit: u32| mask >> bit & 1 == 1;
            let mut writer = Writer::open(store, dataset)?;
            if with(3) {
                missing_is_fine(writer.truncate(object, size, now))?;
            }
            let change = Change {
                mode: with(0).then_some(mode),
                uid: with(1).then_some(uid),
                gid: with(2).then_some(gid),
                accessed: with(4).then_some(accessed),
                modified: with(5).then_some(modified),
                changed: Some(now),
            };
            missing_is_fine(writer.set_attributes(object, &change))
        }
    }
    .map_err(|error| match error {
        EditError::Exists | EditError::Read(Error::NotFound) => {
            pool_phys::FormatError::new("intent log record", "does not fit the file system it is to be replayed into", record.seq).into()
        }
        other => other,
    })
}

fn write(store: &mut Store, dataset: u64, object: u64, offset: u64, data: &[u8], now: Time) -> Result<(), EditError> {
    missing_is_fine(Writer::open(store, dataset)?.write(object, offset, data, now))
}

/// Changes to a file that was unlinked while it was open are of no interest any more.
fn missing_is_fine(done: Result<(), EditError>) -> Result<(), EditError> {
    match done {
        Err(EditError::Read(Error::NotFound)) => Ok(()),
        other => other,
    }
}
