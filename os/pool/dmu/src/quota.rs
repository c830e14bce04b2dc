//! Quotas and reservations.
//!
//! # Theory
//! A directory may use what its quota leaves and its parent has for it; a reservation is part of the parent's use before it is used. A head with a refquota
//! may refer to no more; one with a refreservation has that much set aside in its own directory. [`Store::reserve_in`] asks before a change is taken into
//! memory, counting what other changes of the open group will use. What is overwritten counts as used until the group is committed: who is
//! refused commits and asks once more.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::dsl::{Part, Space, dir, ds, put, signed, word};
use crate::edit::EditError;
use crate::look::{Look, ancestors};
use crate::store::{Store, headroom};
use crate::{Datasets, Error};

/// Space OpenZFS keeps back in a pool: a 32nd, 128 MiB at least (but no more than half), 128 GiB at most.
fn slop(size: u64) -> u64 {
    (size >> 5).min(128 << 30).max((size >> 1).min(128 << 20))
}

/// What is known of a directory's limits since the last commit.
#[derive(Clone, Copy, Debug)]
struct Limit {
    used: u64,
    quota: u64,
    reserved: u64,
    /// Bytes accepted at or below it.
    pending: u64,
}

#[derive(Clone, Debug)]
struct HeadLimit {
    /// Directories up to the root.
    chain: Vec<u64>,
    referenced: u64,
    unique: u64,
    refquota: u64,
    refreservation: u64,
    pending: u64,
}

/// Limits as they were asked for since the last commit.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    dirs: BTreeMap<u64, Limit>,
    heads: BTreeMap<u64, HeadLimit>,
}

impl Limits {
    pub fn clear(&mut self) {
        self.dirs.clear();
        self.heads.clear();
    }
}

/// Deflated bytes of all metaslabs: what a pool has to give.
pub(crate) fn pool_size(look: &dyn Look) -> u64 {
    let mut out = 0_u64;
    for (_, geometry) in look.spa().geometry() {
        if !geometry.is_log {
            let ratio = geometry.shape.map_or(512, |shape| (128 << 10) / (shape.asize(128 << 10) / 512));
            let whole = geometry.asize >> geometry.metaslab_shift << geometry.metaslab_shift;
            out = out.saturating_add((whole / 512).saturating_mul(ratio));
        }
    }
    out
}

/// One directory's room, given its parent's (`None`: it is the root).
fn room(parent: Option<u64>, used: u64, quota: u64, reserved: u64, pool: u64) -> u64 {
    let quota = if quota == 0 { u64::MAX } else { quota };
    match parent {
        None => quota.min(pool).saturating_sub(used),
        Some(parent) => parent.saturating_add(reserved.saturating_sub(used)).min(quota.saturating_sub(used)),
    }
}

/// Bytes that may be written more at a directory, as `zfs list` shows them.
pub(crate) fn available(look: &dyn Look, directory: u64) -> Result<u64, Error> {
    let size = pool_size(look);
    let pool = size - slop(size);
    let mut out = None;
    for directory in ancestors(look, directory)?.into_iter().rev() {
        let bonus = look.words(directory)?;
        out = Some(room(out, word(&bonus, dir::USED), word(&bonus, dir::QUOTA), word(&bonus, dir::RESERVED), pool));
    }
    Ok(out.unwrap_or(0))
}

/// A number set at a directory itself, by hand or by a received stream.
pub(crate) fn own_number(look: &dyn Look, directory: u64, name: &str) -> Result<u64, Error> {
    let table = word(&look.words(directory)?, dir::PROPS);
    for suffix in ["", "$recvd"] {
        if let Some(value) = look.one(table, &alloc::format!("{name}{suffix}"))?.and_then(|entry| entry.number()) {
            return Ok(value);
        }
    }
    Ok(0)
}

/// Bytes that may be written more to a head.
pub(crate) fn available_to(look: &dyn Look, head: u64) -> Result<u64, Error> {
    let bonus = look.words(head)?;
    let directory = word(&bonus, ds::DIR);
    let (referenced, unique) = (word(&bonus, ds::REFERENCED), word(&bonus, ds::UNIQUE));
    let mut out = available(look, directory)?.saturating_add(own_number(look, directory, "refreservation")?.saturating_sub(unique));
    let refquota = own_number(look, directory, "refquota")?;
    if refquota != 0 {
        out = out.min(refquota.saturating_sub(referenced));
    }
    Ok(out)
}

/// Where a dataset's space is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceUse {
    pub used: u64,
    pub available: u64,
    pub referenced: u64,
    pub by_dataset: u64,
    pub by_snapshots: u64,
    pub by_children: u64,
    pub by_refreservation: u64,
    /// Uncompressed bytes of what is used and referenced.
    pub logical_used: u64,
    pub logical_referenced: u64,
    /// As stored, before copies and parity.
    pub compressed_used: u64,
    pub compressed_referenced: u64,
}

impl Datasets<'_> {
    /// Where the space of a dataset or snapshot is. A snapshot uses what it alone has.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn space(&self, info: &crate::DatasetInfo) -> Result<SpaceUse, Error> {
        let own = &info.dataset;
        let mut out = SpaceUse {
            used: own.unique_bytes,
            referenced: own.referenced_bytes,
            logical_referenced: own.uncompressed_bytes,
            compressed_referenced: own.compressed_bytes,
            ..SpaceUse::default()
        };
        if info.kind == crate::DatasetKind::Snapshot {
            return Ok(out);
        }
        let bonus = self.words(own.dir)?;
        let part = |part: Part| word(&bonus, dir::BREAKDOWN + part as usize * 8);
        let space = Space::read(&bonus, dir::USED);
        out.used = word(&bonus, dir::USED);
        out.compressed_used = space.compressed.cast_unsigned();
        out.logical_used = space.uncompressed.cast_unsigned();
        out.available = available_to(self, word(&bonus, dir::HEAD))?;
        out.by_dataset = part(Part::Head);
        out.by_snapshots = part(Part::Snapshots);
        out.by_children = part(Part::Child).saturating_add(part(Part::ChildReserved));
        out.by_refreservation = part(Part::HeadReserved);
        Ok(out)
    }
}

impl Store {
    pub(crate) fn available(&self, directory: u64) -> Result<u64, EditError> {
        Ok(available(self, directory)?)
    }

    /// Bytes that may be written more to a head, and those it refers to, as of the last commit.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn room_and_use(&self, head: u64) -> Result<(u64, u64), EditError> {
        Ok((available_to(self, head)?, word(&self.words(head)?, ds::REFERENCED)))
    }

    /// Bytes set aside for a directory's head.
    pub(crate) fn refreservation(&self, directory: u64) -> Result<u64, EditError> {
        Ok(own_number(self, directory, "refreservation")?)
    }

    /// Accepts that `bytes` more of `dataset`, in blocks of `block` bytes, are to be written with the open txg: as [`Store::reserve`], and within its quotas and reservations.
    ///
    /// # Errors
    /// [`EditError::Quota`], [`EditError::NoSpace`] (with changes open, a commit may make room); [`EditError::Suspended`].
    pub fn reserve_in(&mut self, dataset: u64, bytes: u64, block: u64) -> Result<(), EditError> {
        self.load_limits(dataset)?;
        let copies = self.heads.get(&dataset).map_or(1, |head| head.style.copies as u64);
        let wanted = bytes.saturating_mul(copies);
        let pool = pool_size(self);
        let pool = pool - headroom(pool).min(pool);
        let Limits { dirs, heads } = &self.limits;
        let head = heads.get(&dataset).ok_or(Error::NotFound)?;
        if head.refquota != 0 && head.referenced.saturating_add(head.pending).saturating_add(wanted) > head.refquota {
            return Err(EditError::Quota);
        }
        let set_aside = head.refreservation.saturating_sub(head.unique).saturating_sub(head.pending);
        let outside = wanted.saturating_sub(set_aside);
        let mut space: Option<u64> = None;
        let mut is_quota = false;
        for directory in head.chain.iter().rev() {
            let Some(limit) = dirs.get(directory) else { continue };
            let used = limit.used.saturating_add(limit.pending);
            let here = room(space, used, limit.quota, limit.reserved, pool);
            is_quota |= limit.quota != 0 && here == limit.quota.saturating_sub(used);
            space = Some(here);
        }
        if outside > space.unwrap_or(u64::MAX) {
            return Err(if is_quota { EditError::Quota } else { EditError::NoSpace });
        }
        self.reserve(bytes, block)?;
        let Limits { dirs, heads } = &mut self.limits;
        if let Some(head) = heads.get_mut(&dataset) {
            head.pending += wanted;
            for directory in &head.chain {
                if let Some(limit) = dirs.get_mut(directory) {
                    limit.pending += outside;
                }
            }
        }
        if let Some(head) = self.heads.get_mut(&dataset) {
            head.pending += wanted;
        }
        Ok(())
    }

    fn load_limits(&mut self, dataset: u64) -> Result<(), EditError> {
        if self.limits.heads.is_empty() {
            let open: Vec<u64> = self.heads.iter().filter(|(_, head)| head.pending > 0).map(|(number, _)| *number).collect();
            open.into_iter().try_for_each(|head| self.load_limit(head))?;
        }
        if self.limits.heads.contains_key(&dataset) { Ok(()) } else { self.load_limit(dataset) }
    }

    fn load_limit(&mut self, dataset: u64) -> Result<(), EditError> {
        let bonus = self.peek_bonus(dataset)?;
        let directory = word(&bonus, ds::DIR);
        let chain = ancestors(self, directory)?;
        for directory in &chain {
            if !self.limits.dirs.contains_key(directory) {
                let bonus = self.peek_bonus(*directory)?;
                let (used, quota, reserved) = (word(&bonus, dir::USED), word(&bonus, dir::QUOTA), word(&bonus, dir::RESERVED));
                self.limits.dirs.insert(*directory, Limit { used, quota, reserved, pending: 0 });
            }
        }
        let limit = HeadLimit {
            chain,
            referenced: word(&bonus, ds::REFERENCED),
            unique: word(&bonus, ds::UNIQUE),
            refquota: own_number(self, directory, "refquota")?,
            refreservation: own_number(self, directory, "refreservation")?,
            // What was accepted before the limits changed.
            pending: self.heads.get(&dataset).map_or(0, |head| head.pending),
        };
        for directory in &limit.chain {
            if let Some(known) = self.limits.dirs.get_mut(directory) {
                known.pending += limit.pending;
            }
        }
        self.limits.heads.insert(dataset, limit);
        let lists = self.entries_of(word(&bonus, ds::DEADLIST))?.len() as u64;
        if let Some(head) = self.heads.get_mut(&dataset) {
            head.lists = lists.max(1);
        }
        Ok(())
    }

    /// Changes the field that a quota has in its directory.
    pub(crate) fn set_quota(&mut self, directory: u64, quota: u64) -> Result<(), EditError> {
        let bonus = self.dir_words(directory)?;
        if quota != 0 && quota < word(bonus, dir::USED).max(word(bonus, dir::RESERVED)) {
            return Err(EditError::Invalid("size is less than current used or reserved space"));
        }
        put(bonus, dir::QUOTA, quota);
        Ok(())
    }

    /// Changes what a directory has set aside in those above it.
    pub(crate) fn set_reservation(&mut self, directory: u64, reserved: u64) -> Result<(), EditError> {
        let bonus = self.peek_bonus(directory)?;
        let (used, old, quota) = (word(&bonus, dir::USED), word(&bonus, dir::RESERVED), word(&bonus, dir::QUOTA));
        let parent = word(&bonus, dir::PARENT);
        let delta = signed(used.max(reserved)) - signed(used.max(old));
        if delta > 0 {
            let here = if parent == 0 { pool_size(self).saturating_sub(used) } else { self.available(parent)? };
            if delta.cast_unsigned() > here {
                return Err(EditError::NoSpace);
            }
            if quota != 0 && reserved > quota {
                return Err(EditError::Quota);
            }
        }
        put(self.dir_words(directory)?, dir::RESERVED, reserved);
        if parent == 0 { Ok(()) } else { self.did_use(parent, Part::ChildReserved, Space::used(delta)) }
    }

    /// Accounts a change of what a head has set aside, from the value now set to `new`.
    pub(crate) fn account_refreservation(&mut self, directory: u64, old: u64, new: u64) -> Result<(), EditError> {
        let head = self.peek(directory, dir::HEAD)?;
        let unique = self.peek(head, ds::UNIQUE)?;
        let delta = signed(new.saturating_sub(unique)) - signed(old.saturating_sub(unique));
        if delta > 0 {
            let quota = self.peek(directory, dir::QUOTA)?;
            if delta.cast_unsigned() > self.available(directory)? {
                return Err(EditError::NoSpace);
            }
            if quota != 0 && new > quota {
                return Err(EditError::Quota);
            }
        }
        self.did_use(directory, Part::HeadReserved, Space::used(delta))
    }

    /// Ends or changes a refreservation without asking whether there is room.
    pub(crate) fn put_refreservation(&mut self, directory: u64, new: u64) -> Result<(), EditError> {
        let old = self.refreservation(directory)?;
        self.account_refreservation(directory, old, new)?;
        let table = self.peek(directory, dir::PROPS)?;
        self.remove_name(table, "refreservation$recvd")?;
        self.set_number(table, "refreservation", new)
    }

    /// Whether the limits on numbers of file systems and snapshots count for who makes changes from now on. Those who administer the whole system are not held
    /// to them.
    pub const fn enforce_counts(&mut self, enforced: bool) {
        self.counts_enforced = enforced;
    }

    /// Room for so many more file systems and snapshots below a directory.
    ///
    /// # Errors
    /// [`EditError::Quota`].
    pub(crate) fn check_counts(&self, directory: u64, filesystems: u64, snapshots: u64) -> Result<(), EditError> {
        if !self.counts_enforced {
            return Ok(());
        }
        for above in ancestors(self, directory)? {
            let table = self.peek(above, dir::PROPS)?;
            for (name, more) in [("filesystem_limit", filesystems), ("snapshot_limit", snapshots)] {
                let Some(limit) = self.number_in(table, name)?.filter(|limit| *limit != u64::MAX && more > 0) else { continue };
                let tree = self.tree_of(&self.dir_name(above)?)?;
                let visible = || tree.iter().filter(|(name, _)| !name.contains('%'));
                let mut count = 0;
                if name == "filesystem_limit" {
                    count = visible().count() as u64 - 1;
                } else {
                    for (_, below) in visible() {
                        count += self.entries_of(self.peek(self.peek(*below, dir::HEAD)?, ds::SNAPSHOTS)?)?.len() as u64;
                    }
                }
                if count + more > limit {
                    return Err(EditError::Quota);
                }
            }
        }
        Ok(())
    }
}
