//! Changing a pool's devices: attach, detach, replace, add, expand, online, offline; the pool config and the dirty time logs in the MOS.
//!
//! # Theory
//! A change edits the vdev tree's description, reshapes the open tree ([`Pool::reshape`]) and commits: labels and the MOS config change with one txg. A new
//! mirror side starts with a dirty time log of all txgs; new blocks go to it at once, and a resilver ([`Store::start_scan`]) brings the rest. A
//! `replacing` vdev loses its old side when the new one is whole.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use ds::RangeTree;
use kif::BlockDev;
use pool_phys::FormatError;
use pool_phys::nvlist::{self, List, Value};
use pool_phys::spacemap;
use pool_spa::config::{VdevConfig, VdevKind};
use pool_spa::{Layout, Pool, VdevState, usable_bytes};

use crate::edit::EditError;
use crate::spares::Auxiliary;
use crate::dsl::put;
use crate::store::{OBJECT_ARRAY, OBJECT_DIRECTORY, SPACE_MAP, SPACE_MAP_BLOCK, SPACE_MAP_HEADER, Store, ZAP_METADATA};
use crate::zap_edit as zap;
use crate::{Error, ObjectSet};

/// First txg of any pool.
const TXG_INITIAL: u64 = 4;
/// Largest config object we read, in bytes.
const CONFIG_MAX: u64 = 16 << 20;
/// Keys that belong to the place of a top-level vdev, not to what stands there.
pub(crate) const TOP_KEYS: [&str; 8] =
    ["metaslab_array", "metaslab_shift", "ashift", "asize", "is_log", "create_txg", "com.delphix:vdev_zap_top", "com.delphix:vdev_zap_root"];
const ZAP_MAP: &[u8] = b"com.delphix:vdev_zap_map";
const LEAF_ZAP: &str = "com.delphix:vdev_zap_leaf";

/// Reads the pool config.
fn read_config(pool: &Pool) -> Result<List, EditError> {
    let mos = ObjectSet::mos(pool)?;
    let mut object = mos.object(mos.lookup_number(OBJECT_DIRECTORY, "config")?)?;
    let size = crate::dsl::word(&object.dnode().bonus, 0);
    let length = usize::try_from(size).ok().filter(|_| size <= CONFIG_MAX).ok_or(FormatError::new("pool config", "is too long", size))?;
    let mut packed = vec![0; length];
    object.read_at(0, &mut packed)?;
    Ok(nvlist::parse(&packed)?)
}

/// The vdev tree as the pool config has it: labels leave out what only the MOS knows.
fn trees_of(config: &List) -> Result<Vec<VdevConfig>, EditError> {
    let root = config.list("vdev_tree").ok_or(FormatError::new("pool config", "has no vdev tree", 0))?;
    Ok(root.lists("children").iter().map(VdevConfig::parse).collect::<Result<Vec<_>, _>>()?)
}

/// The top-level vdevs as the MOS describes them.
pub(crate) fn described_tops(pool: &Pool) -> Result<Vec<VdevConfig>, EditError> {
    trees_of(&read_config(pool)?)
}

/// Reads the pool config and makes its vdev tree the pool's.
pub fn load_config(pool: &mut Pool) -> Result<List, EditError> {
    let config = read_config(pool)?;
    pool.adopt(&trees_of(&config)?)?;
    Ok(config)
}

fn find_top(trees: &[VdevConfig], guid: u64) -> Result<usize, EditError> {
    trees.iter().position(|tree| tree.find(guid).is_some()).ok_or(EditError::Read(Error::NotFound))
}

/// Puts `new` where the vdev `guid` is. The keys of a top-level place go over to `new`.
pub(crate) fn substitute(tree: &mut VdevConfig, guid: u64, new: &VdevConfig) -> Result<(), FormatError> {
    if tree.guid == guid {
        let mut top = new.clone();
        for key in TOP_KEYS {
            if let Some(value) = tree.to_list().get(key).cloned() {
                top.set(key, Some(value))?;
            }
        }
        top.set("id", Some(Value::Number(tree.id)))?;
        *tree = top;
        return Ok(());
    }
    let mut children = tree.children.clone();
    for child in &mut children {
        if child.guid == guid {
            *child = new.clone();
        } else if child.find(guid).is_some() {
            substitute(child, guid, new)?;
        }
    }
    tree.set_children(children)
}

fn strip_top_keys(vdev: &VdevConfig) -> Result<VdevConfig, FormatError> {
    let mut out = vdev.clone();
    for key in TOP_KEYS {
        if key != "create_txg" {
            out.set(key, None)?;
        }
    }
    Ok(out)
}

impl Store {
    pub(crate) fn new_guid(&mut self) -> u64 {
        loop {
            let guid = (self.random)();
            if guid != 0 {
                return guid;
            }
        }
    }

    /// The vdev's data can be had without `without`: every place that needs it has another that is whole.
    pub(crate) fn serves_without(&self, vdev: &VdevConfig, without: u64) -> bool {
        if vdev.guid == without {
            return false;
        }
        let whole = |children: &[VdevConfig]| children.iter().filter(|child| self.serves_without(child, without)).count();
        match vdev.kind {
            VdevKind::Leaf => self.pool.is_whole(vdev.guid),
            VdevKind::Mirror => whole(&vdev.children) > 0,
            VdevKind::Raidz { parity } => whole(&vdev.children) + parity >= vdev.children.len(),
            VdevKind::Hole | VdevKind::Missing => true,
        }
    }

    pub(crate) fn retree(&mut self, trees: &[VdevConfig], devices: Vec<(u64, Box<dyn BlockDev>)>) -> Vec<u64> {
        self.config_dirty = true;
        self.pool.reshape(trees, devices)
    }

    /// Makes the tree what `trees` say, with new devices, whose labels are invalid until the commit. If one of these cannot be written, all is as it was: a leaf that stayed
    /// would pass for whole.
    fn take_in(&mut self, trees: &[VdevConfig], devices: Vec<(u64, Box<dyn BlockDev>)>) -> Result<(), EditError> {
        let before = self.pool.trees();
        let guids: Vec<u64> = devices.iter().map(|(guid, _)| *guid).collect();
        self.retree(trees, devices);
        let prepared = guids.iter().try_for_each(|guid| self.pool.prepare(*guid));
        if prepared.is_err() {
            self.retree(&before, Vec::new());
            for guid in guids {
                // The one that failed, again.
                let _cleared = self.pool.forget(guid);
            }
        }
        Ok(prepared?)
    }

    pub(crate) fn leaf_config(&mut self, path: &str, guid: u64) -> Result<VdevConfig, EditError> {
        let mut leaf = VdevConfig::new(pool_spa::leaf_type(path), guid, Vec::new())?;
        leaf.set("path", Some(Value::Text(path.to_string())))?;
        leaf.set("create_txg", Some(Value::Number(self.txg)))?;
        // A pool whose vdevs have ZAPs of their own must have one for each.
        if self.config.get("com.delphix:has_per_vdev_zaps").is_some() {
            let object = self.table(ZAP_METADATA)?;
            leaf.set(LEAF_ZAP, Some(Value::Number(object)))?;
            let map = zap::number(&*self.mos.view(&self.pool, OBJECT_DIRECTORY)?, &self.pool, ZAP_MAP)?.ok_or(Error::NotFound)?;
            self.set_number(map, &format!("{object:x}"), object)?;
        }
        Ok(leaf)
    }

    /// Frees a leaf's dirty time log.
    pub(crate) fn drop_log_object(&mut self, leaf: &VdevConfig) -> Result<(), EditError> {
        if leaf.dtl != 0 {
            self.mos.free(&self.pool, leaf.dtl)?;
        }
        Ok(())
    }

    /// Frees the MOS objects that a leaf owns.
    pub(crate) fn drop_leaf_objects(&mut self, leaf: &VdevConfig) -> Result<(), EditError> {
        self.drop_log_object(leaf)?;
        if let Some(object) = leaf.number(LEAF_ZAP).filter(|object| *object != 0) {
            let map = zap::number(&*self.mos.view(&self.pool, OBJECT_DIRECTORY)?, &self.pool, ZAP_MAP)?.ok_or(Error::NotFound)?;
            zap::remove(self.mos.edit(&self.pool, map)?, &self.pool, format!("{object:x}").as_bytes())?;
            self.mos.free(&self.pool, object)?;
        }
        Ok(())
    }

    /// Makes `device` another side of leaf `at` (`replace`: its successor, which takes its place when it is whole). Returns the new leaf's guid; a
    /// resilver must follow ([`Store::start_scan`]).
    ///
    /// # Errors
    /// No such leaf, a place where that is not possible, a device too small or with larger sectors.
    pub fn attach(&mut self, at: u64, path: &str, device: Box<dyn BlockDev>, replace: bool, now: u64) -> Result<u64, EditError> {
        self.check_place(at, device.size_bytes())?;
        let tree = self.pool.trees().into_iter().find(|tree| tree.find(at).is_some()).ok_or(Error::NotFound)?;
        if u64::from(device.sector_bytes()) > 1 << tree.ashift {
            return Err(EditError::Invalid("the device's sectors are larger than the vdev's allocation unit"));
        }
        let guid = self.new_guid();
        let saved = self.mos.clone();
        let leaf = self.leaf_config(path, guid)?;
        let done = self.graft(at, leaf, device, if replace { "replacing" } else { "mirror" }, now);
        if done.is_err() && !self.is_suspended() {
            self.mos = saved;
        }
        done.map(|()| guid)
    }

    /// A device of `bytes` can stand beside or in place of leaf `at`.
    ///
    /// # Errors
    /// No such leaf, or the device is too small.
    pub fn check_place(&self, at: u64, bytes: u64) -> Result<(), EditError> {
        let trees = self.pool.trees();
        let tree = &trees[find_top(&trees, at)?];
        if tree.find(at).is_none_or(|old| old.kind != VdevKind::Leaf) {
            return Err(EditError::Invalid("only to a disk can another be attached"));
        }
        let needed = match tree.kind {
            VdevKind::Raidz { .. } => tree.asize / tree.children.len() as u64,
            _ => tree.asize,
        };
        if usable_bytes(bytes, tree.ashift) < needed { Err(EditError::Invalid("the device is too small")) } else { Ok(()) }
    }

    /// Puts a new leaf beside leaf `at`, both below a vdev of type `kind` (mirror, replacing, spare).
    pub(crate) fn graft(&mut self, at: u64, leaf: VdevConfig, device: Box<dyn BlockDev>, kind: &str, now: u64) -> Result<(), EditError> {
        let mut trees = self.pool.trees();
        let top = find_top(&trees, at)?;
        let tree = trees[top].clone();
        let old = tree.find(at).cloned().ok_or(Error::NotFound)?;
        let guid = leaf.guid;
        let parent = tree.parent_of(at).map(|parent| (parent.guid, parent.kind, parent.type_name.clone()));
        match parent {
            Some((parent, VdevKind::Mirror, around)) if around == kind => {
                let mut group = tree.find(parent).cloned().ok_or(Error::NotFound)?;
                let mut children = group.children.clone();
                children.push(leaf);
                group.set_children(children)?;
                substitute(&mut trees[top], parent, &group)?;
            }
            Some((_, VdevKind::Raidz { .. }, _)) if kind == "mirror" => return Err(EditError::Invalid("a raidz takes no more sides; replace its disks")),
            // What a spare stands in for can be replaced for good.
            Some((_, VdevKind::Mirror, around)) if around != "mirror" && !(around == "spare" && kind == "replacing") => {
                return Err(EditError::Invalid("the disk is being replaced already"));
            }
            _ => {
                let group_guid = self.new_guid();
                let mut group = VdevConfig::new(kind, group_guid, vec![strip_top_keys(&old)?, leaf])?;
                group.set("id", Some(Value::Number(old.id)))?;
                group.set_children(group.children.clone())?;
                substitute(&mut trees[top], at, &group)?;
            }
        }
        self.take_in(&trees, vec![(guid, device)])?;
        let txg = self.txg;
        self.pool.note_lacking(guid, TXG_INITIAL..txg + 1);
        self.rebuild_anew();
        self.commit(now)
    }

    /// Takes a side out of a mirror, or ends a replacement. Its labels are made invalid.
    ///
    /// # Errors
    /// Not a side of a mirror; the others are not whole without it.
    pub fn detach(&mut self, guid: u64, now: u64) -> Result<(), EditError> {
        let mut trees = self.pool.trees();
        let top = find_top(&trees, guid)?;
        let tree = trees[top].clone();
        let leaf = tree.find(guid).cloned().ok_or(Error::NotFound)?;
        let mut parent = tree.parent_of(guid).cloned().ok_or(EditError::Invalid("only mirrors and replacing vdevs let a disk go"))?;
        if parent.kind != VdevKind::Mirror || leaf.kind != VdevKind::Leaf {
            return Err(EditError::Invalid("only mirrors and replacing vdevs let a disk go"));
        }
        if !self.serves_without(&parent, guid) {
            return Err(EditError::Invalid("no valid replicas: the other sides do not have everything"));
        }
        let parent_guid = parent.guid;
        let mut children = parent.children.clone();
        children.retain(|child| child.guid != guid);
        if let [only] = children.as_slice() {
            let mut only = only.clone();
            if parent.type_name == "spare" && only.kind == VdevKind::Leaf {
                self.settle_spare(&mut only)?;
            }
            only.set("id", Some(Value::Number(parent.id)))?;
            substitute(&mut trees[top], parent_guid, &only)?;
        } else {
            parent.set_children(children)?;
            substitute(&mut trees[top], parent_guid, &parent)?;
        }
        self.drop_leaf_objects(&leaf)?;
        self.retree(&trees, Vec::new());
        self.commit(now)?;
        if self.put_back_spare(guid)? {
            return Ok(());
        }
        // Gone from the pool whether or not its labels can be cleared.
        self.pool.forget(guid).or(Ok(()))
    }

    /// Takes a leaf out of service by request; what is written meanwhile goes to its dirty time log.
    ///
    /// # Errors
    /// No such leaf; data would become unreadable.
    pub fn offline(&mut self, guid: u64, now: u64) -> Result<(), EditError> {
        if self.serve_cache(guid, VdevState::Offline)? {
            return Ok(());
        }
        self.withdraw(guid, "offline", VdevState::Offline, now)
    }

    /// Takes a leaf out of service because it is not to be trusted.
    ///
    /// # Errors
    /// As [`Store::offline`].
    pub fn fault(&mut self, guid: u64, now: u64) -> Result<(), EditError> {
        self.withdraw(guid, "faulted", VdevState::Faulted, now)
    }

    fn withdraw(&mut self, guid: u64, key: &str, state: VdevState, now: u64) -> Result<(), EditError> {
        let mut trees = self.pool.trees();
        let top = find_top(&trees, guid)?;
        if !self.serves_without(&trees[top], guid) {
            return Err(EditError::Invalid("no valid replicas: the others do not have everything"));
        }
        set_key(&mut trees[top], guid, key, Some(Value::Number(1)))?;
        self.retree(&trees, Vec::new());
        self.pool.set_leaf_state(guid, state);
        self.commit(now)
    }

    /// Puts a leaf back into service. If it missed anything, a resilver must follow.
    ///
    /// # Errors
    /// No such leaf.
    pub fn online(&mut self, guid: u64, now: u64) -> Result<(), EditError> {
        if self.serve_cache(guid, VdevState::Online)? {
            self.pool.clear_errors(Some(guid));
            return Ok(());
        }
        let mut trees = self.pool.trees();
        let top = find_top(&trees, guid)?;
        for key in ["offline", "faulted"] {
            set_key(&mut trees[top], guid, key, None)?;
        }
        self.retree(&trees, Vec::new());
        self.pool.clear_errors(Some(guid));
        self.pool.set_leaf_state(guid, VdevState::Online);
        self.rebuild_anew();
        self.commit(now)
    }

    /// Takes the device out of a leaf: it was pulled. The leaf misses everything until [`Store::return_device`].
    pub fn remove_device(&mut self, guid: u64) -> Option<Box<dyn BlockDev>> {
        self.pool.remove_device(guid)
    }

    /// Gives a leaf its device back; a resilver must follow. False if it is another's device.
    pub fn return_device(&mut self, guid: u64, device: Box<dyn BlockDev>) -> bool {
        let returned = self.pool.return_device(guid, device);
        self.rebuild_anew();
        returned
    }

    /// Forgets the error counts of a leaf, or of all.
    pub fn clear_errors(&self, guid: Option<u64>) {
        self.pool.clear_errors(guid);
    }

    /// Adds a top-level vdev: for data, or for the intent log.
    ///
    /// # Errors
    /// A layout that cannot be, a device too small; a raidz as log.
    pub fn add(&mut self, layout: Layout, is_log: bool, now: u64) -> Result<(), EditError> {
        if is_log && layout.redundancy.is_some_and(|parity| parity > 0) {
            return Err(EditError::Invalid("a log device is a disk or a mirror"));
        }
        let mut trees = self.pool.trees();
        let id = trees.iter().map(|tree| tree.id + 1).max().unwrap_or(0);
        let ashift = self.ashift_wanted()?.or_else(|| trees.iter().map(|tree| tree.ashift).max()).unwrap_or(9);
        let txg = self.txg;
        let (mut tree, devices) = pool_spa::plan_top(layout, id, ashift, txg, &mut *self.random).map_err(|error| match error {
            pool_spa::CreateError::Layout(why) => EditError::Invalid(why),
            pool_spa::CreateError::Format(error) => error.into(),
            pool_spa::CreateError::Write(error) => error.into(),
            pool_spa::CreateError::TooSmall { .. } => EditError::Invalid("a device is too small"),
        })?;
        let bytes = ((tree.asize >> tree.metaslab_shift) * 8).next_multiple_of(512);
        let saved = self.mos.clone();
        let array = self.mos.allocate(&self.pool, OBJECT_ARRAY, bytes, 0, Vec::new())?;
        self.mos.edit(&self.pool, array)?.put_block(0, vec![0; usize::try_from(bytes).unwrap_or(512)]);
        tree.set("metaslab_array", Some(Value::Number(array)))?;
        tree.set("is_log", Some(Value::Number(u64::from(is_log))))?;
        trees.push(tree);
        if let Err(error) = self.take_in(&trees, devices) {
            self.mos = saved;
            return Err(error);
        }
        let number = u32::try_from(id).map_err(|_| EditError::Invalid("too many vdevs"))?;
        if let Some((_, geometry)) = self.pool.geometry().into_iter().find(|(top, _)| *top == number) {
            self.space.add_top(number, &geometry);
        }
        self.commit(now)
    }

    /// Bytes that [`Store::expand`] would gain.
    #[must_use]
    pub fn expandable(&self) -> u64 {
        let gain = |tree: &VdevConfig| {
            let possible = self.pool.possible_asize(tree.id);
            if possible >> tree.metaslab_shift <= tree.asize >> tree.metaslab_shift { 0 } else { possible - tree.asize }
        };
        self.pool.trees().iter().map(gain).sum()
    }

    /// Uses what the devices of all top-level vdevs grew by, in whole metaslabs. Returns the bytes gained.
    ///
    /// # Errors
    /// Unreadable, or a failed commit.
    pub fn expand(&mut self, now: u64) -> Result<u64, EditError> {
        let mut trees = self.pool.trees();
        let mut gained = 0;
        for tree in &mut trees {
            let possible = self.pool.possible_asize(tree.id);
            if possible >> tree.metaslab_shift <= tree.asize >> tree.metaslab_shift {
                continue;
            }
            gained += possible - tree.asize;
            tree.set("asize", Some(Value::Number(possible)))?;
            let bytes = (possible >> tree.metaslab_shift) * 8;
            let edit = self.mos.edit(&self.pool, tree.metaslab_array)?;
            if bytes > edit.dnode.block_size && edit.dnode.last_block == 0 {
                edit.resize_block(&self.pool, bytes.next_multiple_of(512))?;
            }
        }
        if gained > 0 {
            self.retree(&trees, Vec::new());
            for (id, geometry) in self.pool.geometry() {
                self.space.grow_top(id, &geometry);
            }
            self.commit(now)?;
        }
        Ok(gained)
    }

    /// Ends replacements whose new side is whole. Called when a resilver is done.
    pub(crate) fn finish_replacements(&mut self, now: u64) -> Result<(), EditError> {
        fn replaced(vdev: &VdevConfig, store: &Store, out: &mut Vec<u64>) {
            if vdev.type_name == "replacing"
                && let Some((last, before)) = vdev.children.split_last()
                && store.pool.is_whole(last.guid)
            {
                out.extend(before.iter().map(|old| old.guid));
            }
            vdev.children.iter().for_each(|child| replaced(child, store, out));
        }
        let mut old = Vec::new();
        self.pool.trees().iter().for_each(|tree| replaced(tree, self, &mut old));
        old.into_iter().try_for_each(|guid| self.detach(guid, now))?;
        self.idle_spares().into_iter().try_for_each(|guid| self.detach(guid, now))
    }

    pub(crate) fn load_dirty_logs(&mut self) -> Result<(), EditError> {
        let leaves: Vec<(u64, u64)> = self.pool.trees().iter().flat_map(|tree| tree.leaves().iter().map(|leaf| (leaf.guid, leaf.dtl)).collect::<Vec<_>>()).collect();
        for (guid, object) in leaves.into_iter().filter(|(_, object)| *object != 0) {
            let map = self.mos.view(&self.pool, object)?;
            let header = spacemap::Header::parse(&map.dnode.bonus)?;
            let size = usize::try_from(header.length).ok().filter(|size| *size <= 16 << 20).ok_or(FormatError::new("dirty time log", "is too long", header.length))?;
            let mut log = vec![0; size];
            map.read_at(&self.pool, 0, &mut log)?;
            let mut txgs = RangeTree::new();
            for entry in spacemap::parse(&log)? {
                let entry = entry?;
                let range = entry.offset..entry.offset.saturating_add(entry.run);
                if entry.free { txgs.subtract(&range) } else { txgs.merge(range) }
            }
            // None is missing that was not yet.
            txgs.subtract(&(self.txg..u64::MAX));
            self.pool.load_log(guid, &txgs);
        }
        Ok(())
    }

    /// Stores the dirty time logs that changed.
    pub(crate) fn write_dirty_logs(&mut self) -> Result<(), EditError> {
        let changed: BTreeMap<u64, RangeTree> = self.pool.take_dirty_logs().into_iter().collect();
        for (guid, txgs) in changed {
            let mut trees = self.pool.trees();
            let top = find_top(&trees, guid)?;
            let mut object = trees[top].find(guid).map_or(0, |leaf| leaf.dtl);
            if object == 0 {
                if txgs.is_empty() {
                    continue;
                }
                object = self.mos.allocate(&self.pool, SPACE_MAP, SPACE_MAP_BLOCK, SPACE_MAP_HEADER, vec![0; 24])?;
                self.mos.edit(&self.pool, object)?.dnode.indirect_shift = 14;
                set_key(&mut trees[top], guid, "DTL", Some(Value::Number(object)))?;
                self.retree(&trees, Vec::new());
            }
            let entries = txgs.iter().map(|range| spacemap::Entry { free: false, offset: range.start, run: range.end - range.start });
            let log = spacemap::encode(entries, self.txg);
            let edit = self.mos.edit(&self.pool, object)?;
            edit.write_at(&self.pool, 0, &log)?;
            edit.cut((log.len() as u64).div_ceil(edit.dnode.block_size).max(1));
            put(&mut edit.dnode.bonus, 8, log.len() as u64);
            put(&mut edit.dnode.bonus, 16, txgs.total());
        }
        Ok(())
    }

    /// Stores the pool config with the vdev tree as it is.
    pub(crate) fn write_config(&mut self) -> Result<(), EditError> {
        let trees = self.pool.trees();
        let mut root = self.config.list("vdev_tree").cloned().unwrap_or_default();
        root.set("children", Value::Lists(trees.iter().map(VdevConfig::to_list).collect()));
        self.config.set("vdev_tree", Value::List(root));
        self.config.set("vdev_children", Value::Number(trees.len() as u64));
        self.config.set("txg", Value::Number(self.txg));
        let packed = nvlist::encode(&self.config);
        let object = zap::number(&*self.mos.view(&self.pool, OBJECT_DIRECTORY)?, &self.pool, b"config")?.ok_or(Error::NotFound)?;
        let edit = self.mos.edit(&self.pool, object)?;
        edit.write_at(&self.pool, 0, &packed)?;
        put(&mut edit.dnode.bonus, 0, packed.len() as u64);
        Ok(())
    }

    /// Says where leaves were found, by guid. Where that is not what their pool has it, the labels say so with the next commit.
    ///
    /// # Errors
    /// Malformed.
    pub fn note_paths(&mut self, found: &[(u64, String)]) -> Result<(), EditError> {
        let mut trees = self.pool.trees();
        let mut moved = false;
        for (guid, path) in found {
            let Ok(top) = find_top(&trees, *guid) else { continue };
            if trees[top].find(*guid).is_some_and(|leaf| leaf.path.as_deref() != Some(path)) {
                set_key(&mut trees[top], *guid, "path", Some(Value::Text(path.clone())))?;
                moved = true;
            }
        }
        if moved {
            self.retree(&trees, Vec::new());
        }
        Ok(())
    }

    /// Guid of the leaf whose path hint is `path`, or that `path` names in decimal.
    #[must_use]
    pub fn leaf_called(&self, path: &str) -> Option<u64> {
        let trees = self.pool.trees();
        let leaves: Vec<(u64, Option<String>)> = trees.iter().flat_map(VdevConfig::leaves).map(|leaf| (leaf.guid, leaf.path.clone())).collect();
        leaves.into_iter().find(|(guid, known)| known.as_deref() == Some(path) || path.parse() == Ok(*guid)).map(|(guid, _)| guid).or_else(|| {
            let caches = self.auxiliaries(Auxiliary::Cache).unwrap_or_default();
            caches.into_iter().find(|device| device.path == path).map(|device| device.guid)
        })
    }
}

fn set_key(tree: &mut VdevConfig, guid: u64, key: &str, value: Option<Value>) -> Result<(), FormatError> {
    tree.edit(&mut |vdev| if vdev.guid == guid { vdev.set(key, value.clone()) } else { Ok(()) })
}
