//! Hot spares and cache devices.
//!
//! # Theory
//! Both are listed in the MOS (`spares`, `l2cache`: packed nvlists named in the object directory) and have no place in the vdev tree. A spare that stands in
//! makes a `spare` vdev of itself and the failed leaf, as a replacement does of old and new; it stays in the list. When the failed leaf, or what replaced
//! it, is whole again the spare goes back; when the failed leaf is detached the spare is an ordinary leaf from then on and leaves the list.
//!
//! # Limits
//! What cache devices hold (`second`) is lost with an export: they are empty to OpenZFS too.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use kif::BlockDev;
use pool_phys::label::{STATE_CACHE, STATE_SPARE};
use pool_phys::nvlist::{self, List, Value};
use pool_phys::{FormatError, label};
use pool_spa::config::{VdevConfig, VdevKind};
use pool_spa::{CacheDevice, VdevState, leaf_type};

use crate::dsl::{put, word};
use crate::edit::EditError;
use crate::store::{OBJECT_DIRECTORY, Store};
use crate::zap_edit as zap;
use crate::{Error, ObjectSet};

/// Object type of a packed nvlist, type of its bonus, and its block size.
const PACKED: u8 = 3;
const PACKED_BONUS: u8 = 4;
const PACKED_BLOCK: u64 = 16 << 10;
/// Largest list we read, in bytes.
const LIST_MAX: u64 = 1 << 20;

/// What a device outside the tree is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auxiliary {
    Spare,
    Cache,
}

impl Auxiliary {
    /// Name of the list, in the object directory and in itself.
    const fn list(self) -> &'static str {
        match self {
            Self::Spare => "spares",
            Self::Cache => "l2cache",
        }
    }

    const fn state(self) -> u64 {
        match self {
            Self::Spare => STATE_SPARE,
            Self::Cache => STATE_CACHE,
        }
    }
}

/// A device outside the tree, as `status` shows it.
#[derive(Clone, Debug)]
pub struct AuxiliaryStatus {
    pub guid: u64,
    pub path: String,
    /// It stands in for a leaf.
    pub in_use: bool,
    /// Its device is here.
    pub present: bool,
    /// Of a cache device that is here: how it is and what it holds.
    pub cache: Option<CacheDevice>,
}

/// Reads a list of devices from the MOS.
fn read_list(mos: &ObjectSet<'_>, kind: Auxiliary) -> Result<Vec<VdevConfig>, EditError> {
    let number = match mos.lookup_number(OBJECT_DIRECTORY, kind.list()) {
        Ok(number) => number,
        Err(Error::NotFound) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut object = mos.object(number)?;
    let size = word(&object.dnode().bonus, 0);
    let length = usize::try_from(size).ok().filter(|_| size <= LIST_MAX).ok_or(FormatError::new("device list", "is too long", size))?;
    let mut packed = vec![0; length];
    object.read_at(0, &mut packed)?;
    Ok(nvlist::parse(&packed)?.lists(kind.list()).iter().map(VdevConfig::parse).collect::<Result<_, _>>()?)
}

impl Store {
    /// A list as committed; every change of one ends in a commit.
    fn list(&self, kind: Auxiliary) -> Result<Vec<VdevConfig>, EditError> {
        read_list(&ObjectSet::mos(&self.pool)?, kind)
    }

    fn write_list(&mut self, kind: Auxiliary, mut devices: Vec<VdevConfig>) -> Result<(), EditError> {
        for (index, device) in devices.iter_mut().enumerate() {
            device.set("id", Some(Value::Number(index as u64)))?;
        }
        let mut list = List::default();
        list.set(kind.list(), Value::Lists(devices.iter().map(VdevConfig::to_list).collect()));
        let packed = nvlist::encode(&list);
        let known = zap::number(&*self.mos.view(&self.pool, OBJECT_DIRECTORY)?, &self.pool, kind.list().as_bytes())?;
        let object = match known {
            Some(object) => object,
            None => {
                let object = self.mos.allocate(&self.pool, PACKED, PACKED_BLOCK, PACKED_BONUS, vec![0; 8])?;
                self.note(kind.list(), object)?;
                object
            }
        };
        let edit = self.mos.edit(&self.pool, object)?;
        edit.write_at(&self.pool, 0, &packed)?;
        put(&mut edit.dnode.bonus, 0, packed.len() as u64);
        Ok(())
    }

    /// Frees the list: it is of another pool.
    pub(crate) fn drop_list(&mut self, kind: Auxiliary) -> Result<(), EditError> {
        if let Some(object) = self.number_in(OBJECT_DIRECTORY, kind.list())? {
            zap::remove(self.mos.edit(&self.pool, OBJECT_DIRECTORY)?, &self.pool, kind.list().as_bytes())?;
            self.mos.free(&self.pool, object)?;
        }
        Ok(())
    }

    /// The pool's spares or cache devices.
    ///
    /// # Errors
    /// The list is unreadable or malformed.
    pub fn auxiliaries(&self, kind: Auxiliary) -> Result<Vec<AuxiliaryStatus>, EditError> {
        let trees = self.pool.trees();
        let status = |device: VdevConfig| {
            let in_use = trees.iter().any(|tree| tree.find(device.guid).is_some());
            let present = in_use || self.pool.auxiliary_size(device.guid).is_some();
            let cache = self.pool.cache_device(device.guid).filter(|_| kind == Auxiliary::Cache);
            AuxiliaryStatus { guid: device.guid, path: device.path.unwrap_or_else(|| device.guid.to_string()), in_use, present, cache }
        };
        Ok(self.list(kind)?.into_iter().map(status).collect())
    }

    /// Gives the pool a spare or a cache device. Returns its guid.
    ///
    /// # Errors
    /// A device too small, or that cannot be written.
    pub fn add_auxiliary(&mut self, kind: Auxiliary, path: &str, device: Box<dyn BlockDev>, now: u64) -> Result<u64, EditError> {
        if device.size_bytes() < label::LEAF_MIN {
            return Err(EditError::Invalid("the device is too small"));
        }
        let guid = self.new_guid();
        let mut config = VdevConfig::new(leaf_type(path), guid, Vec::new())?;
        config.set("path", Some(Value::Text(path.to_string())))?;
        config.set("create_txg", Some(Value::Number(self.txg)))?;
        if kind == Auxiliary::Spare {
            config.set("is_spare", Some(Value::Number(1)))?;
        }
        let mut devices = self.list(kind)?;
        devices.push(config);
        self.pool.put_auxiliary(guid, device);
        if let Err(error) = self.pool.label_auxiliary(guid, Some(kind.state())) {
            drop(self.pool.take_auxiliary(guid));
            return Err(error.into());
        }
        self.write_list(kind, devices)?;
        self.commit(now)?;
        if kind == Auxiliary::Cache {
            self.pool.begin_cache(guid);
        }
        Ok(guid)
    }

    /// Takes a spare or a cache device away from the pool.
    ///
    /// # Errors
    /// No such device; a spare that stands in for a leaf: detach it first.
    pub fn remove_auxiliary(&mut self, guid: u64, now: u64) -> Result<(), EditError> {
        for kind in [Auxiliary::Spare, Auxiliary::Cache] {
            let mut devices = self.list(kind)?;
            let before = devices.len();
            devices.retain(|device| device.guid != guid);
            if devices.len() == before {
                continue;
            }
            if self.pool.trees().iter().any(|tree| tree.find(guid).is_some()) {
                return Err(EditError::Invalid("the spare is in use; detach it first"));
            }
            self.write_list(kind, devices)?;
            self.commit(now)?;
            if self.pool.auxiliary_size(guid).is_some() {
                // Gone from the pool whether or not its labels can be cleared.
                let _cleared = self.pool.label_auxiliary(guid, None);
                drop(self.pool.take_auxiliary(guid));
            }
            return Ok(());
        }
        Err(Error::NotFound.into())
    }

    /// Lets a spare stand in for a leaf; a resilver must follow ([`Store::start_scan`]).
    ///
    /// # Errors
    /// No such leaf or spare; one in use, absent or too small.
    pub fn stand_in(&mut self, failed: u64, spare: u64, now: u64) -> Result<(), EditError> {
        let known = self.list(Auxiliary::Spare)?.into_iter().find(|device| device.guid == spare).ok_or(Error::NotFound)?;
        let size = self.pool.auxiliary_size(spare).ok_or(EditError::Invalid("the spare is in use, or its device is not here"))?;
        self.check_place(failed, size)?;
        let device = self.pool.take_auxiliary(spare).ok_or(Error::NotFound)?;
        let path = known.path.unwrap_or_default();
        let mut leaf = self.leaf_config(&path, spare)?;
        leaf.set("is_spare", Some(Value::Number(1)))?;
        self.graft(failed, leaf, device, "spare", now)
    }

    /// Lets spares stand in for leaves that do not serve and have none: the first of each size that fits. Returns (leaf, spare) of each; a resilver must
    /// follow if there is any.
    ///
    /// # Errors
    /// A failed commit.
    pub fn engage_spares(&mut self, now: u64) -> Result<Vec<(u64, u64)>, EditError> {
        let mut out = Vec::new();
        let failed: Vec<u64> = self.pool.trees().iter().filter(|tree| tree.kind != VdevKind::Leaf).flat_map(|tree| unspared(tree, false)).collect();
        for leaf in failed {
            if !matches!(self.pool.leaf_state(leaf), Some(VdevState::Faulted | VdevState::Removed | VdevState::Unavail)) {
                continue;
            }
            for spare in self.auxiliaries(Auxiliary::Spare)?.into_iter().filter(|spare| spare.present && !spare.in_use) {
                match self.stand_in(leaf, spare.guid, now) {
                    Ok(()) => {
                        out.push((leaf, spare.guid));
                        break;
                    }
                    // Too small for this place; the next may fit.
                    Err(EditError::Invalid(_)) => {}
                    // It cannot be written, and is no spare any more.
                    Err(EditError::Write(_)) if !self.is_suspended() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(out)
    }

    /// Spares that are not needed any more: what they stood in for is whole.
    pub(crate) fn idle_spares(&self) -> Vec<u64> {
        fn idle(vdev: &VdevConfig, store: &Store, out: &mut Vec<u64>) {
            if vdev.type_name == "spare"
                && let Some((first, others)) = vdev.children.split_first()
                && first.leaves().iter().all(|leaf| store.pool.is_whole(leaf.guid))
            {
                out.extend(others.iter().map(|spare| spare.guid));
            }
            vdev.children.iter().for_each(|child| idle(child, store, out));
        }
        let mut out = Vec::new();
        self.pool.trees().iter().for_each(|tree| idle(tree, self, &mut out));
        out
    }

    /// A leaf that was detached goes back to the spares if it is one. False if it is none.
    pub(crate) fn put_back_spare(&mut self, guid: u64) -> Result<bool, EditError> {
        let is_spare = self.list(Auxiliary::Spare)?.iter().any(|device| device.guid == guid);
        if is_spare && self.pool.retire_to_auxiliary(guid) {
            self.pool.label_auxiliary(guid, Some(STATE_SPARE))?;
        }
        Ok(is_spare)
    }

    /// A spare whose failed leaf was detached is an ordinary leaf from now on.
    pub(crate) fn settle_spare(&mut self, leaf: &mut VdevConfig) -> Result<(), EditError> {
        if leaf.number("is_spare") == Some(1) {
            leaf.set("is_spare", None)?;
            let mut devices = self.list(Auxiliary::Spare)?;
            devices.retain(|device| device.guid != leaf.guid);
            self.write_list(Auxiliary::Spare, devices)?;
        }
        Ok(())
    }

    /// Lines that say what the pool's spares and cache devices do.
    ///
    /// # Errors
    /// As [`Store::auxiliaries`].
    pub fn auxiliary_lines(&self) -> Result<String, EditError> {
        let mut out = String::new();
        for (kind, title) in [(Auxiliary::Cache, "cache"), (Auxiliary::Spare, "spares")] {
            let devices = self.auxiliaries(kind)?;
            if !devices.is_empty() {
                out.push_str(&format!("{title}\n"));
            }
            for device in devices {
                let state = match (kind, device.present, device.in_use) {
                    (_, false, _) => "UNAVAIL",
                    (Auxiliary::Cache, ..) => device.cache.as_ref().map_or("ONLINE", |cache| cache.state.name()),
                    (Auxiliary::Spare, _, true) => "INUSE",
                    (Auxiliary::Spare, ..) => "AVAIL",
                };
                out.push_str(&format!("  {}  {state}\n", device.path));
            }
        }
        Ok(out)
    }
}

/// Leaves below that no spare stands in for.
fn unspared(vdev: &VdevConfig, spared: bool) -> Vec<u64> {
    let spared = spared || matches!(vdev.type_name.as_str(), "spare" | "replacing");
    match vdev.kind {
        VdevKind::Leaf if !spared => vec![vdev.guid],
        VdevKind::Leaf => Vec::new(),
        _ => vdev.children.iter().flat_map(|child| unspared(child, spared)).collect(),
    }
}
