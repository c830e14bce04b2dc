//! Destroying snapshots and datasets (format section 11.3).
//!
//! # Theory
//! With snapshot S, between P and N, those blocks die that neither has: in N's deadlist, and born after P. They are whole lists of N's deadlist, which move to
//! the pool's list of doomed blocks; S's own deadlist is merged into N's. A head's blocks since its last snapshot die with it. What is doomed is freed with
//! this and the next commits (`drain.rs`), so that destroying costs the same whatever the size.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::Error;
use crate::dsl::{Part, Space, dir, ds, put, shift, signed, split_name, word};
use crate::edit::EditError;
use crate::store::Store;

/// What a refused destroy says.
const HAS_CLONES: EditError = EditError::Busy("it has dependent clones");
const HELD: EditError = EditError::Busy("it is held");

impl Store {
    /// Drops what is open of a head, committed never, and its intent log.
    pub(crate) fn forget_head(&mut self, head: u64) -> Result<(), EditError> {
        let open = self.heads.remove(&head).map(|head| head.log.into_blocks()).unwrap_or_default();
        let found = self.pending_logs.remove(&head).map(crate::PendingLog::into_blocks).unwrap_or_default();
        for pointer in open.into_iter().chain(found) {
            pointer.copies().try_for_each(|dva| self.space.free_log(&dva))?;
        }
        Ok(())
    }

    /// Destroys snapshots, all or none. With `defer`, those with clones or holds go when the last of these goes.
    ///
    /// # Errors
    /// Not found; [`EditError::Busy`]; what [`Store::commit`] says.
    pub fn destroy_snapshots(&mut self, names: &[&str], defer: bool, now: u64) -> Result<(), EditError> {
        let touched = self.try_change(|store| {
            let mut touched = Vec::new();
            for name in names {
                let snapshot = store.find_snapshot(name)?;
                touched.push(store.peek(snapshot, ds::NEXT)?);
                store.destroy_or_defer(snapshot, defer)?;
            }
            Ok(touched)
        })?;
        touched.into_iter().for_each(|dataset| self.unvisit(dataset));
        self.commit(now)
    }

    fn destroy_or_defer(&mut self, snapshot: u64, defer: bool) -> Result<(), EditError> {
        let is_held = self.is_held(snapshot)?;
        let has_clones = self.peek(snapshot, ds::CHILDREN)? > 1;
        if defer && (is_held || has_clones) {
            let bonus = self.ds_words(snapshot)?;
            let flags = word(bonus, ds::FLAGS) | ds::DEFER_DESTROY;
            put(bonus, ds::FLAGS, flags);
            return Ok(());
        }
        if is_held {
            return Err(HELD);
        }
        if has_clones {
            return Err(HAS_CLONES);
        }
        self.destroy_snapshot(snapshot)
    }

    /// A snapshot that was to be destroyed goes if nothing keeps it any more.
    pub(crate) fn settle_deferred(&mut self, snapshot: u64) -> Result<(), EditError> {
        let bonus = self.peek_bonus(snapshot)?;
        if word(&bonus, ds::FLAGS) & ds::DEFER_DESTROY != 0 && word(&bonus, ds::CHILDREN) == 1 && !self.is_held(snapshot)? {
            let next = word(&bonus, ds::NEXT);
            self.destroy_snapshot(snapshot)?;
            self.unvisit(next);
        }
        Ok(())
    }

    fn destroy_snapshot(&mut self, snapshot: u64) -> Result<(), EditError> {
        let own = self.peek_bonus(snapshot)?;
        let (directory, previous, previous_txg) = (word(&own, ds::DIR), word(&own, ds::PREVIOUS), word(&own, ds::PREVIOUS_TXG));
        let (next, created_txg) = (word(&own, ds::NEXT), word(&own, ds::CREATED_TXG));
        let head = self.peek(directory, dir::HEAD)?;
        let names = self.peek(head, ds::SNAPSHOTS)?;
        let name = self.snapshots_of(head)?.into_iter().find(|(_, object)| *object == snapshot).ok_or(Error::NotFound)?.0;

        // The one before: its next is now the one behind, or the one behind takes this one's place among its clones.
        let is_first_of_clone = previous != 0 && self.peek(previous, ds::NEXT)? != snapshot;
        if is_first_of_clone {
            let next_clones = self.peek(previous, ds::NEXT_CLONES)?;
            if next_clones != 0 {
                self.leave(next_clones, snapshot)?;
                self.enter(next_clones, next)?;
            }
        } else if previous != 0 {
            put(self.ds_words(previous)?, ds::NEXT, next);
        }
        let old_unique = signed(self.peek(next, ds::UNIQUE)?);
        let bonus = self.ds_words(next)?;
        put(bonus, ds::PREVIOUS, previous);
        put(bonus, ds::PREVIOUS_TXG, previous_txg);
        let next_deadlist = word(bonus, ds::DEADLIST);

        if previous != 0 && !is_first_of_clone {
            // Blocks that only this one and the one before had are the latter's alone now.
            let since = self.peek(previous, ds::PREVIOUS_TXG)?;
            let gained = self.deadlist_range(next_deadlist, since, previous_txg)?;
            shift(self.ds_words(previous)?, ds::UNIQUE, gained.used);
        }
        let doomed = self.deadlist_to_free(next_deadlist, previous_txg)?;
        self.did_use(directory, Part::Snapshots, -doomed)?;
        self.did_doom(doomed)?;
        self.merge_deadlist(next_deadlist, word(&own, ds::DEADLIST))?;
        self.forget_key_in_clones(directory, created_txg, 0)?;

        let behind = self.peek(next, ds::NEXT)?;
        if behind == 0 {
            // The head's blocks since the one before are its own now.
            let bonus = self.peek_bonus(next)?;
            let kept = if previous == 0 { Space::default() } else { Space::read(&self.peek_bonus(previous)?, ds::REFERENCED) };
            let unique = Space::read(&bonus, ds::REFERENCED) + self.deadlist_space(next_deadlist)? - kept;
            put(self.ds_words(next)?, ds::UNIQUE, unique.used.cast_unsigned());
            let reserved = signed(self.refreservation(directory)?);
            let taken = unique.used.min(reserved) - old_unique.min(reserved);
            self.did_use(directory, Part::HeadReserved, Space::used(-taken))?;
        } else {
            // Blocks that only this one and the next had are in the deadlist behind that.
            let gained = self.deadlist_range(self.peek(behind, ds::DEADLIST)?, previous_txg, created_txg)?;
            shift(self.ds_words(next)?, ds::UNIQUE, gained.used);
            let head_deadlist = self.peek(head, ds::DEADLIST)?;
            self.deadlist_forget(head_deadlist, created_txg)?;
        }
        self.remove_name(names, &name)?;
        for at in [ds::NEXT_CLONES, ds::PROPS, ds::HOLDS] {
            self.free_object(word(&own, at))?;
        }
        self.free_zapified(snapshot)
    }

    /// No deadlist of a clone taken after `key` needs to tell apart what was born before and after it.
    fn forget_key_in_clones(&mut self, directory: u64, key: u64, depth: usize) -> Result<(), EditError> {
        if depth > crate::dsl::DEPTH_MAX {
            return Ok(());
        }
        for entry in self.entries_of(self.peek(directory, dir::CLONES)?)? {
            let clone = entry.number().unwrap_or(0);
            let clone_dir = self.peek(clone, ds::DIR)?;
            if self.origin_txg(clone_dir)? > key {
                let deadlist = self.peek(clone, ds::DEADLIST)?;
                self.deadlist_forget(deadlist, key)?;
                self.forget_key_in_clones(clone_dir, key, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Destroys a file system or volume, which must have no snapshots and nothing below it.
    ///
    /// # Errors
    /// Not found; [`EditError::Busy`]; what [`Store::commit`] says.
    pub fn destroy_dataset(&mut self, name: &str, now: u64) -> Result<(), EditError> {
        self.transact(now, |store| {
            let directory = store.find_dir(name)?;
            // What a receive left half done goes with it.
            for (child, object) in store.children_of(directory)? {
                if child.starts_with('%') {
                    store.destroy_head(object)?;
                }
            }
            store.destroy_head(directory)
        })
    }

    fn destroy_head(&mut self, directory: u64) -> Result<(), EditError> {
        if directory == self.root_dir {
            return Err(EditError::Busy("it is the pool's own; destroy the pool"));
        }
        if !self.children_of(directory)?.is_empty() {
            return Err(EditError::Busy("there are datasets below it"));
        }
        let head = self.peek(directory, dir::HEAD)?;
        let old = self.peek_bonus(head)?;
        if !self.entries_of(word(&old, ds::SNAPSHOTS))?.is_empty() {
            return Err(EditError::Busy("it has snapshots"));
        }
        if self.refreservation(directory)? != 0 {
            self.put_refreservation(directory, 0)?;
        }
        let previous = word(&old, ds::PREVIOUS);
        if previous != 0 {
            let next_clones = self.peek(previous, ds::NEXT_CLONES)?;
            if next_clones != 0 {
                self.leave(next_clones, head)?;
            }
            shift(self.ds_words(previous)?, ds::CHILDREN, -1);
            let clones = self.peek(self.peek(previous, ds::DIR)?, dir::CLONES)?;
            if clones != 0 {
                self.leave(clones, head)?;
            }
        }
        // What a clone no longer has of its origin is still the origin's.
        self.free_deadlist(word(&old, ds::DEADLIST))?;
        let space = Space::read(&self.peek_bonus(directory)?, dir::USED);
        let root = self.root_of(head)?;
        self.did_use(directory, Part::Head, -space)?;
        self.doom_tree(&root, word(&old, ds::PREVIOUS_TXG), space)?;
        self.free_object(word(&old, ds::SNAPSHOTS))?;
        self.drop_bookmarks(head)?;
        self.free_zapified(head)?;
        self.set_reservation(directory, 0)?;

        let bonus = self.peek_bonus(directory)?;
        for at in [dir::CHILDREN, dir::PROPS, dir::CLONES] {
            self.free_object(word(&bonus, at))?;
        }
        let parent = word(&bonus, dir::PARENT);
        let table = self.peek(parent, dir::CHILDREN)?;
        let entry = self.entries_of(table)?.into_iter().find(|entry| entry.number() == Some(directory)).ok_or(Error::NotFound)?;
        self.remove_name(table, &entry.text())?;
        self.free_zapified(directory)?;
        if previous != 0 {
            self.settle_deferred(previous)?;
        }
        Ok(())
    }

    /// Heads of the clones of a snapshot.
    pub(crate) fn clones_of(&self, snapshot: u64) -> Result<Vec<u64>, EditError> {
        let directory = self.peek(snapshot, ds::DIR)?;
        let mut out = Vec::new();
        for entry in self.entries_of(self.peek(directory, dir::CLONES)?)? {
            let clone = entry.number().unwrap_or(0);
            if self.peek(self.peek(clone, ds::DIR)?, dir::ORIGIN)? == snapshot {
                out.push(clone);
            }
        }
        Ok(out)
    }

    /// All that must go with `name`: datasets and snapshots at and below it and, `with_clones`, the clones of those and what is below them. Of a snapshot:
    /// itself, and those of the same name below (`zfs destroy -r`).
    ///
    /// # Errors
    /// Not found; clones outside, without `with_clones` ([`EditError::Busy`]).
    pub fn dependents(&self, name: &str, with_clones: bool) -> Result<Vec<String>, EditError> {
        let (datasets, snapshots) = self.doomed_with(name, with_clones)?;
        let mut out = Vec::new();
        for directory in datasets {
            out.push(self.dir_name(directory)?);
        }
        for snapshot in snapshots {
            out.push(self.dataset_name(snapshot)?);
        }
        out.sort();
        Ok(out)
    }

    /// Directories and snapshots that go with `name`.
    fn doomed_with(&self, name: &str, with_clones: bool) -> Result<(BTreeSet<u64>, BTreeSet<u64>), EditError> {
        let (mut datasets, mut snapshots) = (BTreeSet::new(), BTreeSet::new());
        let mut roots: Vec<String> = Vec::new();
        if let Ok((dataset, short)) = split_name(name, '@') {
            for (_, directory) in self.visible_tree(dataset)? {
                let names = self.peek(self.peek(directory, dir::HEAD)?, ds::SNAPSHOTS)?;
                snapshots.extend(self.number_in(names, short)?);
            }
            if snapshots.is_empty() {
                return Err(Error::NotFound.into());
            }
        } else {
            roots.push(String::from(name));
        }
        let mut seen: BTreeSet<u64> = BTreeSet::new();
        loop {
            while let Some(root) = roots.pop() {
                for (_, directory) in self.tree_of(&root)? {
                    if datasets.insert(directory) {
                        snapshots.extend(self.snapshots_of(self.peek(directory, dir::HEAD)?)?.into_iter().map(|(_, object)| object));
                    }
                }
            }
            let new: Vec<u64> = snapshots.difference(&seen).copied().collect();
            if new.is_empty() {
                return Ok((datasets, snapshots));
            }
            for snapshot in new {
                seen.insert(snapshot);
                for clone in self.clones_of(snapshot)? {
                    let directory = self.peek(clone, ds::DIR)?;
                    if !datasets.contains(&directory) {
                        roots.push(self.dir_name(directory)?);
                    }
                }
            }
            if !with_clones && !roots.is_empty() {
                return Err(HAS_CLONES);
            }
        }
    }

    /// Destroys a dataset with its snapshots and all below it, or a snapshot and those of its name below its dataset; `with_clones`, their clones too. All or nothing.
    ///
    /// # Errors
    /// Not found; [`EditError::Busy`]; what [`Store::commit`] says.
    pub fn destroy_tree(&mut self, name: &str, with_clones: bool, now: u64) -> Result<(), EditError> {
        let touched = self.try_change(|store| {
            let (mut datasets, mut snapshots) = store.doomed_with(name, with_clones)?;
            let mut touched = BTreeSet::new();
            if datasets.contains(&store.root_dir) {
                return Err(EditError::Busy("it is the pool's own; destroy the pool"));
            }
            // Each round takes what nothing depends on any more.
            loop {
                let before = datasets.len() + snapshots.len();
                for snapshot in snapshots.clone() {
                    let own = match store.peek_bonus(snapshot) {
                        Ok(own) => own,
                        // It was to go with its last clone, and did.
                        Err(EditError::Read(Error::NotFound)) => {
                            snapshots.remove(&snapshot);
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    if store.is_held(snapshot)? {
                        return Err(HELD);
                    }
                    if word(&own, ds::CHILDREN) == 1 {
                        touched.insert(store.peek(snapshot, ds::NEXT)?);
                        store.destroy_snapshot(snapshot)?;
                        snapshots.remove(&snapshot);
                    }
                }
                for directory in datasets.clone() {
                    let head = store.peek(directory, dir::HEAD)?;
                    if store.children_of(directory)?.is_empty() && store.entries_of(store.peek(head, ds::SNAPSHOTS)?)?.is_empty() {
                        store.destroy_head(directory)?;
                        datasets.remove(&directory);
                    }
                }
                match datasets.len() + snapshots.len() {
                    0 => return Ok(touched),
                    left if left == before => return Err(HAS_CLONES),
                    _ => {}
                }
            }
        })?;
        touched.into_iter().for_each(|dataset| self.unvisit(dataset));
        self.commit(now)
    }

    /// Names of the clones of a snapshot (`dataset@name`).
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn clones(&self, snapshot: &str) -> Result<Vec<String>, EditError> {
        self.clones_of(self.find_snapshot(snapshot)?)?.into_iter().map(|clone| self.dataset_name(clone)).collect()
    }

    /// A dataset and all below it, by name.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn datasets_below(&self, dataset: &str) -> Result<Vec<String>, EditError> {
        Ok(self.visible_tree(dataset)?.into_iter().map(|(name, _)| name).collect())
    }

    /// Snapshots from `first` to `last` of a dataset, both included: what `dataset@first%last` names.
    ///
    /// # Errors
    /// Not found.
    pub fn snapshot_range(&self, dataset: &str, first: &str, last: &str) -> Result<Vec<String>, EditError> {
        let all = self.snapshots_of(self.find(dataset)?)?;
        let place = |name: &str, end: usize| {
            if name.is_empty() { Ok(end) } else { all.iter().position(|(own, _)| own == name).ok_or(EditError::Read(Error::NotFound)) }
        };
        let (from, to) = (place(first, 0)?, place(last, all.len().saturating_sub(1))?);
        Ok(all.get(from..=to).unwrap_or_default().iter().map(|(name, _)| format!("{dataset}@{name}")).collect())
    }
}
