//! What OpenZFS keeps in its pools and we do not: read when a pool is opened for writing, and retired with the first commit.
//!
//! # Theory
//! Three features are active in most pools that OpenZFS 2.1 made, and each lets its owner stop using it at any time:
//! - `log_spacemap`: the changes of recent txgs are in logs for all metaslabs together, and each metaslab says from which txg on the logs hold for it.
//!   [`replay_logs`] brings them into memory; the first commit writes the metaslabs concerned whole and frees the logs.
//! - `livelist`: a clone lists what it wrote, so that it can be destroyed without walking its tree. We walk the tree; the lists go.
//! - `bookmark_v2`, `bookmark_written`: bookmarks that count what was freed since. They become plain ones.
//!
//! What cannot be retired is kept as it should be (`features.rs`) or refused by name.
//!
//! # Failure
//! Until the first commit nothing on disk changes; a crash in it leaves the pool as OpenZFS left it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::spacemap;
use pool_spa::config::VdevKind;
use pool_spa::{Allocator, Pool};

use crate::dsl::dir;
use crate::edit::{EditError, Set};
use crate::features::{BOOKMARK_V2, BOOKMARK_WRITTEN, LIVELIST, LOG_SPACEMAP, SPACEMAP_HISTOGRAM};
use crate::store::{OBJECT_DIRECTORY, Store};
use crate::topology::described_tops;
use crate::zap_edit as zap;

const LOGS: &str = "com.delphix:log_spacemap_zap";
const UNFLUSHED: &str = "com.delphix:ms_unflushed_phys_txgs";
const TOP_ZAP: &str = "com.delphix:vdev_zap_top";
const LIVELIST_FIELD: &str = "com.delphix:livelist";
const DELETED_CLONES: &str = "com.delphix:deleted_clones";
/// Words of a plain bookmark.
const BOOKMARK_WORDS: usize = 3;
/// Longest space map we read.
const MAP_MAX: u64 = 256 << 20;
const SECTOR_SHIFT: u32 = 9;

/// The entries of a space map object.
pub(crate) fn map_bytes(
    pool: &Pool,
    mos: &Set,
    object: u64,
) -> Result<(spacemap::Header, Vec<u8>), EditError> {
    let map = mos.view(pool, object)?;
    let header = spacemap::Header::parse(&map.dnode.bonus)?;
    let size = usize::try_from(header.length).ok().filter(|_| header.length <= MAP_MAX);
    let size = size.ok_or(FormatError::new("space map", "is too long", header.length))?;
    // How long it is says the disk.
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| FormatError::new("space map", "is longer than there is memory for", header.length))?;
    bytes.resize(size, 0);
    map.read_at(pool, 0, &mut bytes)?;
    Ok((header, bytes))
}

/// Log space maps by txg: (txg, object).
fn logs(pool: &Pool, mos: &Set) -> Result<Vec<(u64, u64)>, EditError> {
    let Some(table) = zap::number(&*mos.view(pool, OBJECT_DIRECTORY)?, pool, LOGS.as_bytes())?
    else {
        return Ok(Vec::new());
    };
    let mut out = Vec::new();
    for entry in zap::entries(&*mos.view(pool, table)?, pool, None)? {
        let txg = u64::from_str_radix(&entry.text(), 16)
            .map_err(|_| FormatError::new("log space maps", "key is not a number", table))?;
        out.push((txg, entry.number().unwrap_or(0)));
    }
    out.sort_unstable();
    Ok(out)
}

/// Per vdev, the object that says from which txg on each metaslab's changes are in the logs only.
fn unflushed_objects(pool: &Pool, mos: &Set) -> Result<BTreeMap<u32, (u64, u64)>, EditError> {
    let mut out = BTreeMap::new();
    for tree in described_tops(pool)? {
        let Some(table) = tree.number(TOP_ZAP).filter(|table| *table != 0) else {
            continue;
        };
        if let Some(object) = zap::number(&*mos.view(pool, table)?, pool, UNFLUSHED.as_bytes())? {
            out.insert(u32::try_from(tree.id).unwrap_or(u32::MAX), (table, object));
        }
    }
    Ok(out)
}

/// Brings what only the log space maps say into `space`, which has all metaslabs' own maps.
pub(crate) fn replay_logs(pool: &Pool, mos: &Set, space: &mut Allocator) -> Result<(), EditError> {
    let logs = logs(pool, mos)?;
    if logs.is_empty() {
        return Ok(());
    }
    let mut since: BTreeMap<u32, (u32, Vec<u64>)> = BTreeMap::new();
    let objects = unflushed_objects(pool, mos)?;
    for (id, geometry) in pool.geometry() {
        let Some((_, object)) = objects.get(&id) else {
            continue;
        };
        let count = usize::try_from(geometry.asize >> geometry.metaslab_shift).unwrap_or(0);
        let mut bytes = vec![0; count * 8];
        mos.view(pool, *object)?.read_at(pool, 0, &mut bytes)?;
        let txgs = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect();
        since.insert(id, (geometry.metaslab_shift, txgs));
    }
    // What was on a vdev that was removed since is elsewhere now.
    let removed: BTreeSet<u64> = described_tops(pool)?.iter().filter(|top| top.kind == VdevKind::Hole).map(|top| top.id).collect();
    for (txg, object) in logs {
        for logged in spacemap::parse_log(&map_bytes(pool, mos, object)?.1)? {
            let logged = logged?;
            if removed.contains(&u64::from(logged.vdev)) {
                continue;
            }
            let bad = |why| FormatError::new("log space map", why, object);
            let (shift, txgs) = since
                .get(&logged.vdev)
                .ok_or_else(|| bad("of an unknown vdev"))?;
            let bytes = |sectors: u64| {
                sectors
                    .checked_shl(SECTOR_SHIFT)
                    .filter(|bytes| bytes >> SECTOR_SHIFT == sectors)
            };
            let start = bytes(logged.entry.offset).ok_or_else(|| bad("entry leaves its vdev"))?;
            let end = bytes(logged.entry.run)
                .and_then(|run| start.checked_add(run))
                .ok_or_else(|| bad("entry leaves its vdev"))?;
            let first = usize::try_from(start >> shift)
                .ok()
                .and_then(|slab| txgs.get(slab))
                .ok_or_else(|| bad("entry lies in no metaslab"))?;
            // What came before is in the metaslab's own map.
            if txg >= *first {
                space.replay(logged.vdev, start..end, logged.entry.free)?;
            }
        }
    }
    Ok(())
}

impl Store {
    /// Retires what of OpenZFS's bookkeeping we do not continue, with the open txg.
    pub(crate) fn retire_foreign(&mut self) -> Result<(), EditError> {
        if let Some(table) = self.number_in(OBJECT_DIRECTORY, DELETED_CLONES)?
            && !self.entries_of(table)?.is_empty()
        {
            return Err(EditError::Invalid(
                "OpenZFS is still destroying clones of the pool (livelist): import it there until that is done, or read it here",
            ));
        }
        self.retire_logs()?;
        if self.feature(&LIVELIST)?.unwrap_or(0) > 0 {
            self.retire_livelists()?;
        }
        if self.feature(&BOOKMARK_WRITTEN)?.unwrap_or(0) > 0
            || self.feature(&BOOKMARK_V2)?.unwrap_or(0) > 0
        {
            self.simplify_bookmarks()?;
        }
        Ok(())
    }

    fn retire_logs(&mut self) -> Result<(), EditError> {
        let Some(table) = self.number_in(OBJECT_DIRECTORY, LOGS)? else {
            return Ok(());
        };
        for (_, object) in logs(&self.pool, &self.mos)? {
            // Maps with a histogram are counted.
            let has_histogram = self.mos.with_view(&self.pool, object, |edit| {
                Ok::<_, EditError>(spacemap::Header::parse(&edit.dnode.bonus)?.histogram)
            })?;
            if has_histogram && self.feature(&SPACEMAP_HISTOGRAM)?.is_some() {
                self.count_feature(&SPACEMAP_HISTOGRAM, -1)?;
            }
            self.free_object(object)?;
        }
        for (_, (top, object)) in unflushed_objects(&self.pool, &self.mos)? {
            self.free_object(object)?;
            self.remove_name(top, UNFLUSHED)?;
        }
        self.free_object(table)?;
        self.remove_name(OBJECT_DIRECTORY, LOGS)?;
        if self.feature(&LOG_SPACEMAP)?.unwrap_or(0) > 0 {
            self.count_feature(&LOG_SPACEMAP, -1)?;
        }
        Ok(())
    }

    fn retire_livelists(&mut self) -> Result<(), EditError> {
        for (_, directory) in self.tree_of(&self.name())? {
            if let Some(list) = self
                .extra(directory, LIVELIST_FIELD)?
                .and_then(|entry| entry.number())
            {
                self.remove_name(directory, LIVELIST_FIELD)?;
                self.free_deadlist(list)?;
                self.count_feature(&LIVELIST, -1)?;
            }
        }
        Ok(())
    }

    /// Bookmarks keep which snapshot they stand for, and lose how much was freed since.
    fn simplify_bookmarks(&mut self) -> Result<(), EditError> {
        for (_, directory) in self.tree_of(&self.name())? {
            let head = self.peek(directory, dir::HEAD)?;
            let Some(table) = self.bookmark_table(head)? else {
                continue;
            };
            for mut entry in self
                .entries_of(table)?
                .into_iter()
                .filter(|entry| entry.value.len() > BOOKMARK_WORDS)
            {
                // Word 3 names what was redacted, word 4 begins with the flags.
                if entry.value[BOOKMARK_WORDS] != 0 {
                    return Err(EditError::Invalid(
                        "the pool has redaction bookmarks, which we cannot keep; it can be read",
                    ));
                }
                let counts_freed = entry
                    .value
                    .get(BOOKMARK_WORDS + 1)
                    .is_some_and(|flags| flags & 1 != 0);
                entry.value.truncate(BOOKMARK_WORDS);
                zap::set(self.mos.edit(&self.pool, table)?, &self.pool, entry)?;
                for feature in [Some(BOOKMARK_V2), counts_freed.then_some(BOOKMARK_WRITTEN)]
                    .into_iter()
                    .flatten()
                {
                    if self.feature(&feature)?.unwrap_or(0) > 0 {
                        self.count_feature(&feature, -1)?;
                    }
                }
            }
        }
        Ok(())
    }
}
