//! Who a pool is: its name and guid, and that of a pool that is split off it.
//!
//! # Theory
//! Name and guid stand in the labels and in the pool config; a commit that writes both changes them. A split takes one side out of every mirror; each is a whole copy of the pool
//! as of the last commit. Put together as vdevs of their own, under another name and guid, they are another pool, whose first commit says so.
//!
//! # Failure
//! A split first lets the sides go from the old pool, with a commit. A crash before the first commit of the new one leaves the old one with fewer sides, and on the others labels of
//! leaves that no pool has: they can be attached again.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pool_phys::nvlist::Value;
use pool_spa::Pool;
use pool_spa::VdevState;
use pool_spa::config::{VdevConfig, VdevKind};

use crate::Error;
use crate::edit::EditError;
use crate::spares::Auxiliary;
use crate::store::Store;
use crate::topology::{TOP_KEYS, substitute};

impl Store {
    /// Calls the pool `name`: for good, or (`for_now`) until it is exported.
    ///
    /// # Errors
    /// A failed commit; for good, intent logs that are not replayed yet: a commit before that would lose what they hold.
    pub fn rename_pool(&mut self, name: &str, for_now: bool, now: u64) -> Result<(), EditError> {
        if for_now {
            self.pool.rename(name);
            return Ok(());
        }
        if !self.pending_logs().is_empty() {
            return Err(EditError::Busy("its intent logs are not replayed yet"));
        }
        self.pool.rename(name);
        self.set_config_text("name", Some(name));
        self.commit(now)
    }

    /// Gives the pool another guid, so that it and a copy of its disks can be told apart.
    ///
    /// # Errors
    /// A device is not there: its labels would keep the old one. A failed commit.
    pub fn reguid(&mut self, now: u64) -> Result<u64, EditError> {
        let trees = self.pool.trees();
        let is_online = |leaf: &&VdevConfig| self.pool.leaf_state(leaf.guid) == Some(VdevState::Online);
        if !trees.iter().flat_map(VdevConfig::leaves).all(|leaf| is_online(&leaf)) {
            return Err(EditError::Busy("every device has to be online, so that all labels change: see 'zpool status'"));
        }
        let guid = self.new_guid();
        self.pool.set_guid(guid);
        self.set_config_guid(guid);
        self.commit(now)?;
        Ok(guid)
    }

    fn set_config_guid(&mut self, guid: u64) {
        self.config.set("pool_guid", Value::Number(guid));
        let mut root = self.config.list("vdev_tree").cloned().unwrap_or_default();
        root.set("guid", Value::Number(guid));
        self.config.set("vdev_tree", Value::List(root));
        self.config_dirty = true;
    }

    /// The sides that a split would take: those of `chosen`, and of each mirror that none is chosen of the last.
    ///
    /// # Errors
    /// The pool is not all mirrors; a side that is not whole; two of one mirror, or something else, are chosen.
    pub fn plan_split(&self, chosen: &[u64]) -> Result<Vec<u64>, EditError> {
        let mut out = Vec::new();
        let trees = self.pool.trees();
        for tree in &trees {
            if tree.is_log {
                return Err(EditError::Invalid("the pool has a log device, which is in no mirror's copy: a pool with one is not split"));
            }
            if tree.type_name != "mirror" {
                return Err(EditError::Invalid("only a pool whose vdevs are all mirrors can be split"));
            }
            let mut named = tree.children.iter().filter(|child| chosen.contains(&child.guid));
            let side = named.next().or(tree.children.last()).ok_or(Error::NotFound)?;
            if named.next().is_some() {
                return Err(EditError::Invalid("of each mirror one disk goes to the new pool: two of one were named"));
            }
            if side.kind != VdevKind::Leaf || !self.pool.is_whole(side.guid) || self.pool.leaf_state(side.guid) != Some(VdevState::Online) {
                return Err(EditError::Busy("a disk that is to go is not whole: wait for the resilver, or name another"));
            }
            if !self.serves_without(tree, side.guid) {
                return Err(EditError::Busy("no valid replicas would stay: the other sides do not have everything"));
            }
            out.push(side.guid);
        }
        if chosen.iter().any(|guid| !out.contains(guid)) {
            return Err(EditError::Invalid("only disks of the pool's mirrors can go to the new pool"));
        }
        Ok(out)
    }

    /// Splits one side of every mirror off as the pool `name`, which is returned, in use. `random` is for it.
    ///
    /// # Errors
    /// As [`Store::plan_split`]; a failed commit of this pool, or of the new one: its disks can be attached again then.
    pub fn split(&mut self, name: &str, chosen: &[u64], random: Box<dyn FnMut() -> u64 + Send>, now: u64) -> Result<Self, EditError> {
        let going = self.plan_split(chosen)?;
        // The sides have everything, and no intent log that only one pool could replay.
        self.drop_logs();
        self.keep_scan_place();
        self.commit(now)?;
        self.commit(now)?;
        let uberblock = self.pool.uberblock().clone();
        let old = self.pool.trees();
        let (mut kept, mut new) = (old.clone(), Vec::new());
        for (tree, guid) in kept.iter_mut().zip(&going) {
            let mut side = tree.find(*guid).cloned().ok_or(Error::NotFound)?;
            for key in TOP_KEYS.into_iter().filter(|key| *key != "create_txg") {
                side.set(key, tree.to_list().get(key).cloned())?;
            }
            side.set("id", Some(Value::Number(tree.id)))?;
            side.set("DTL", None)?;
            new.push(side);
            let mut left = tree.children.clone();
            left.retain(|child| child.guid != *guid);
            let mut group = tree.clone();
            match left.as_slice() {
                [only] => group = only.clone(),
                _ => group.set_children(left)?,
            }
            let (top, id) = (tree.guid, tree.id);
            group.set("id", Some(Value::Number(id)))?;
            substitute(tree, top, &group)?;
        }
        // The old pool lets go of them first.
        for guid in &going {
            let leaf = old.iter().find_map(|tree| tree.find(*guid)).cloned().ok_or(Error::NotFound)?;
            self.drop_leaf_objects(&leaf)?;
        }
        let mut config = self.config.clone();
        self.retree(&kept, Vec::new());
        let devices: Option<Vec<_>> = going.iter().map(|guid| Some((*guid, self.pool.take_stray(*guid)?))).collect();
        let devices = devices.ok_or(Error::NotFound)?;
        self.commit(now)?;
        // The other pool, as it was before that.
        let guid = self.new_guid();
        config.set("name", Value::Text(name.to_string()));
        config.set("pool_guid", Value::Number(guid));
        let mut root = config.list("vdev_tree").cloned().unwrap_or_default();
        root.set("guid", Value::Number(guid));
        root.set("children", Value::Lists(new.iter().map(VdevConfig::to_list).collect()));
        config.set("vdev_tree", Value::List(root));
        let mut other = Self::open_as(Pool::assemble(&config, uberblock, &new, devices), config, random)?;
        for leaf in old.iter().flat_map(VdevConfig::leaves) {
            if going.contains(&leaf.guid) {
                // Its own place in the new tree is at the top; what it lacked it lacks no more.
                other.drop_log_object(leaf)?;
            } else {
                other.drop_leaf_objects(leaf)?;
            }
        }
        for kind in [Auxiliary::Spare, Auxiliary::Cache] {
            other.drop_list(kind)?;
        }
        other.config_dirty = true;
        other.commit(now)?;
        Ok(other)
    }

    /// Name of the pool in its labels.
    #[must_use]
    pub fn lasting_name(&self) -> String {
        self.config.text("name").unwrap_or_default().to_string()
    }
}
