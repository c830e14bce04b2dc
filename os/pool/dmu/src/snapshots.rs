//! Snapshots, clones, rollback, rename: what makes and moves datasets (format section 11).
//!
//! Each operation changes directories, datasets and deadlists in the MOS and is committed as a whole. A dataset's contents are never copied: a
//! snapshot takes over the head's root pointer and deadlist, a clone begins with the root pointer of its origin.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::blkptr::BlockPointer;
use pool_phys::dnode::kind;
use pool_phys::intent_log;

use crate::Error;
use crate::dsl::{CLONES, NEXT_CLONES, Part, SNAPSHOT_NAMES, Space, check_length, check_part, dir, ds, put, shift, signed, split_name, word};
use crate::edit::EditError;
use crate::store::Store;

impl Store {
    /// Takes a snapshot of a dataset as of the last change made to it.
    ///
    /// # Errors
    /// The name is taken or no name; what [`Store::commit`] says.
    pub fn snapshot(&mut self, dataset: &str, name: &str, now: u64) -> Result<(), EditError> {
        self.snapshot_with(dataset, name, None, None, now).map(drop)
    }

    /// Takes a snapshot with a guid and time of creation from elsewhere, as a received stream brings them. Returns its object number.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn snapshot_with(&mut self, dataset: &str, name: &str, guid: Option<u64>, created: Option<u64>, now: u64) -> Result<u64, EditError> {
        let head = self.find(dataset)?;
        self.settle(&[head], now)?;
        self.transact(now, |store| {
            let snapshot = store.take_snapshot(head, dataset, name, created.unwrap_or(now))?;
            if let Some(guid) = guid {
                put(store.ds_words(snapshot)?, ds::GUID, guid);
            }
            Ok(snapshot)
        })
    }

    /// Takes snapshots `dataset@name`, all in one transaction group: all or none.
    ///
    /// # Errors
    /// As [`Store::snapshot`]; two snapshots of one dataset.
    pub fn snapshot_all(&mut self, names: &[&str], now: u64) -> Result<(), EditError> {
        let mut wanted: Vec<(u64, &str, &str)> = Vec::new();
        for name in names {
            let (dataset, short) = split_name(name, '@')?;
            let head = self.find(dataset)?;
            if wanted.iter().any(|(other, ..)| *other == head) {
                return Err(EditError::Invalid("two snapshots of one dataset at once"));
            }
            wanted.push((head, dataset, short));
        }
        let heads: Vec<u64> = wanted.iter().map(|(head, ..)| *head).collect();
        self.settle(&heads, now)?;
        self.transact(now, |store| wanted.iter().try_for_each(|(head, dataset, short)| store.take_snapshot(*head, dataset, short, now).map(drop)))
    }

    /// Takes a snapshot of a dataset and all below it, at one moment.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn snapshot_tree(&mut self, dataset: &str, name: &str, now: u64) -> Result<(), EditError> {
        let names: Vec<String> = self.visible_tree(dataset)?.into_iter().map(|(dataset, _)| format!("{dataset}@{name}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.snapshot_all(&names, now)
    }

    /// Directories at and below `name` that are for people.
    pub(crate) fn visible_tree(&self, name: &str) -> Result<Vec<(String, u64)>, EditError> {
        let mut tree = self.tree_of(name)?;
        tree.retain(|(name, _)| !name.contains('%'));
        Ok(tree)
    }

    /// Makes what heads have open durable, without a log that would stay behind in a snapshot.
    fn settle(&mut self, heads: &[u64], now: u64) -> Result<(), EditError> {
        for head in heads {
            if self.pending_logs.contains_key(head) {
                return Err(EditError::Invalid("the dataset has an intent log to be replayed first"));
            }
            self.drop_log(*head);
        }
        self.commit(now)
    }

    fn take_snapshot(&mut self, head: u64, dataset: &str, name: &str, created: u64) -> Result<u64, EditError> {
        check_part(name)?;
        check_length(&format!("{dataset}@{name}"))?;
        if name.starts_with('%') {
            return Err(EditError::Invalid("not a snapshot name"));
        }
        let old = self.peek_ds(head)?;
        let names = word(&old, ds::SNAPSHOTS);
        if self.number_in(names, name)?.is_some() {
            return Err(EditError::Exists);
        }
        self.check_headroom(1)?;
        let (directory, previous, previous_txg, txg) = (word(&old, ds::DIR), word(&old, ds::PREVIOUS), word(&old, ds::PREVIOUS_TXG), self.txg);
        if previous_txg >= txg {
            return Err(EditError::Invalid("two snapshots of one dataset at once"));
        }
        if !name.contains('%') && !dataset.contains('%') {
            self.check_counts(directory, 0, 1)?;
        }
        // What the head has used of its refreservation may become the snapshot's, and the head has it reserved once more.
        let again = signed(word(&old, ds::UNIQUE)).min(signed(self.refreservation(directory)?));
        if again > signed(self.available(directory)?) {
            return Err(EditError::NoSpace);
        }
        let mut bonus = old.clone();
        for at in [ds::SNAPSHOTS, ds::NEXT_CLONES, ds::PROPS, ds::HOLDS] {
            put(&mut bonus, at, 0);
        }
        put(&mut bonus, ds::NEXT, head);
        // Everything in it is the head's too, for now.
        put(&mut bonus, ds::UNIQUE, 0);
        put(&mut bonus, ds::CHILDREN, 1);
        put(&mut bonus, ds::CREATED, created);
        put(&mut bonus, ds::CREATED_TXG, txg);
        put(&mut bonus, ds::FSID, (self.random)() & ((1 << 56) - 1));
        put(&mut bonus, ds::GUID, (self.random)());
        put(
            &mut bonus,
            ds::FLAGS,
            word(&old, ds::FLAGS) | ds::UNIQUE_ACCURATE,
        );
        let snapshot =
            self.mos
                .allocate(&self.pool, kind::DSL_DATASET, 512, kind::DSL_DATASET, bonus)?;
        self.copy_marks(head, snapshot)?;
        if previous != 0 {
            let next_clones = self.peek(previous, ds::NEXT_CLONES)?;
            if self.peek(previous, ds::NEXT)? == head {
                put(self.ds_words(previous)?, ds::NEXT, snapshot);
            } else if next_clones != 0 {
                self.leave(next_clones, head)?;
                self.enter(next_clones, snapshot)?;
            }
        }
        let deadlist = self.deadlist_like(word(&old, ds::DEADLIST), u64::MAX, Some(previous_txg))?;
        let bonus = self.ds_words(head)?;
        put(bonus, ds::DEADLIST, deadlist);
        put(bonus, ds::PREVIOUS, snapshot);
        put(bonus, ds::PREVIOUS_TXG, txg);
        put(bonus, ds::UNIQUE, 0);
        put(bonus, ds::FLAGS, word(&old, ds::FLAGS) | ds::UNIQUE_ACCURATE);
        self.set_number(names, name, snapshot)?;
        self.did_use(directory, Part::HeadReserved, Space::used(again))?;
        Ok(snapshot)
    }

    /// A head in `directory` that begins as snapshot `origin`; the caller fills in the rest.
    pub(crate) fn begin_head(&mut self, directory: u64, origin: u64, now: u64) -> Result<u64, EditError> {
        let from = self.peek_ds(origin)?;
        let origin_dir = word(&from, ds::DIR);
        let origin_head = self.peek(origin_dir, dir::HEAD)?;
        let origin_txg = word(&from, ds::CREATED_TXG);
        let keys = self.peek(origin_head, ds::DEADLIST)?;
        let mut bonus = vec![0; ds::SIZE];
        put(&mut bonus, ds::DIR, directory);
        put(&mut bonus, ds::PREVIOUS, origin);
        put(&mut bonus, ds::PREVIOUS_TXG, origin_txg);
        put(&mut bonus, ds::SNAPSHOTS, self.table(SNAPSHOT_NAMES)?);
        put(&mut bonus, ds::CREATED, now);
        put(&mut bonus, ds::CREATED_TXG, self.txg);
        put(&mut bonus, ds::DEADLIST, self.deadlist_like(keys, origin_txg, None)?);
        Space::read(&from, ds::REFERENCED).put(&mut bonus, ds::REFERENCED);
        put(&mut bonus, ds::FSID, (self.random)() & ((1 << 56) - 1));
        put(&mut bonus, ds::GUID, (self.random)());
        put(&mut bonus, ds::FLAGS, ds::UNIQUE_ACCURATE | word(&from, ds::FLAGS) & (ds::INCONSISTENT | ds::CASE_INSENSITIVE));
        bonus[ds::ROOT..ds::ROOT + 128].copy_from_slice(&from[ds::ROOT..ds::ROOT + 128]);
        let head =
            self.mos
                .allocate(&self.pool, kind::DSL_DATASET, 512, kind::DSL_DATASET, bonus)?;
        self.copy_marks(origin, head)?;
        let dir_bonus = self.dir_words(directory)?;
        put(dir_bonus, dir::HEAD, head);
        put(dir_bonus, dir::ORIGIN, origin);
        shift(self.ds_words(origin)?, ds::CHILDREN, 1);
        let next_clones = self.table_of(origin, ds::NEXT_CLONES, NEXT_CLONES)?;
        self.enter(next_clones, head)?;
        let clones = self.table_of(origin_dir, dir::CLONES, CLONES)?;
        self.enter(clones, head)?;
        Ok(head)
    }

    /// The table that a word of an object's bonus names; made if there is none yet.
    pub(crate) fn table_of(&mut self, object: u64, at: usize, kind: u8) -> Result<u64, EditError> {
        let table = self.peek(object, at)?;
        if table != 0 {
            return Ok(table);
        }
        let table = self.table(kind)?;
        put(self.words_of(object, None, at + 8)?, at, table);
        Ok(table)
    }

    /// Makes dataset `name` with the contents of snapshot `origin` (`dataset@snapshot`): at once, whatever their size. Returns its object number.
    ///
    /// # Errors
    /// Not found, the name is taken or no name; what [`Store::commit`] says.
    pub fn clone_dataset(&mut self, origin: &str, name: &str, now: u64) -> Result<u64, EditError> {
        let snapshot = self.find_snapshot(origin)?;
        let head = self.try_change(|store| {
            store.check_headroom(1)?;
            let (parent, last) = store.place_for(name)?;
            store.check_counts(parent, 1, 0)?;
            let directory = store.directory(parent, now)?;
            store.add_child(parent, last, directory)?;
            store.begin_head(directory, snapshot, now)
        })?;
        // A snapshot that an older version took may have the head of its dataset's log: the blocks are not the clone's.
        let root = self.root_of(head)?;
        if !root.is_hole() && !intent_log::Header::parse(&self.pool.read(&root).map_err(Error::from)?)?.first.is_hole() {
            let (set, _) = self.edit_dataset(head, None)?;
            set.set_log_header(&intent_log::Header::new(BlockPointer::hole()));
        }
        self.commit(now)?;
        Ok(head)
    }

    /// Object number of the snapshot of `head` that is called `short`.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn snapshot_of(&self, head: u64, short: &str) -> Result<u64, EditError> {
        self.number_in(self.peek(head, ds::SNAPSHOTS)?, short)?.ok_or_else(|| Error::NotFound.into())
    }

    /// Whether what was read of a dataset is in memory.
    #[must_use]
    pub fn has_open(&self, dataset: u64) -> bool {
        self.heads.contains_key(&dataset)
    }

    /// Lets go of what was read of a snapshot. One that is not open, or no snapshot, is left.
    pub fn let_go_of_snapshot(&mut self, dataset: u64) {
        let is_snapshot = || Ok::<bool, EditError>(self.peek(self.peek(dataset, ds::DIR)?, dir::HEAD)? != dataset);
        // A number that is no dataset's any more was forgotten with it.
        if self.heads.get(&dataset).is_some_and(|head| !head.set.is_dirty()) && is_snapshot().unwrap_or(false) {
            self.heads.remove(&dataset);
        }
    }

    /// Root of a dataset as last synced.
    pub(crate) fn root_of(&self, dataset: u64) -> Result<BlockPointer, EditError> {
        let bonus = self.peek_bonus(dataset)?;
        Ok(BlockPointer::parse(bonus.get(ds::ROOT..ds::ROOT + 128).ok_or(EditError::Invalid("not a dataset"))?)?)
    }

    /// True if a dataset changed since its last snapshot (or since the snapshot it was cloned from).
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn is_modified_since_snapshot(&self, dataset: u64) -> Result<bool, EditError> {
        let is_open = self.heads.get(&dataset).is_some_and(|head| head.set.is_dirty());
        Ok(is_open || self.root_of(dataset)?.birth > self.peek(dataset, ds::PREVIOUS_TXG)?)
    }

    /// Takes a dataset back to its last snapshot. What was done to it since, committed or not, is gone.
    ///
    /// # Errors
    /// Not found, no snapshot; what [`Store::commit`] says.
    pub fn rollback(&mut self, dataset: &str, now: u64) -> Result<(), EditError> {
        let head = self.find(dataset)?;
        self.try_change(|store| {
            let old = store.peek_ds(head)?;
            let (directory, previous, previous_txg) = (word(&old, ds::DIR), word(&old, ds::PREVIOUS), word(&old, ds::PREVIOUS_TXG));
            if previous == 0 || store.peek(previous, ds::DIR)? != directory {
                return Err(EditError::Invalid("there is no snapshot to go back to"));
            }
            let target = store.peek_ds(previous)?;
            let deadlist = word(&old, ds::DEADLIST);
            // Blocks born since are what the head has and the snapshot has not.
            let born = Space::read(&old, ds::REFERENCED) + store.deadlist_space(deadlist)? - Space::read(&target, ds::REFERENCED);
            let back = store.deadlist_range(deadlist, store.origin_txg(directory)?, u64::MAX)?;
            let fresh = store.deadlist_like(deadlist, u64::MAX, None)?;
            store.free_deadlist(deadlist)?;
            store.doom_tree(&store.root_of(head)?, previous_txg, born)?;
            let (reserved, unique) = (signed(store.refreservation(directory)?), signed(word(&old, ds::UNIQUE)));
            let seen = Space { used: reserved - unique.max(reserved), ..-born };
            store.account(directory, Some(Part::HeadReserved), Part::Head, seen, -born.used)?;
            store.transfer(directory, Part::Snapshots, Part::Head, back.used)?;
            let bonus = store.ds_words(head)?;
            bonus[ds::ROOT..ds::ROOT + 128].copy_from_slice(&target[ds::ROOT..ds::ROOT + 128]);
            Space::read(&target, ds::REFERENCED).put(bonus, ds::REFERENCED);
            put(bonus, ds::UNIQUE, 0);
            put(bonus, ds::DEADLIST, fresh);
            put(bonus, ds::FLAGS, word(&old, ds::FLAGS) & !ds::INCONSISTENT);
            store.copy_marks(previous, head)?;
            // All its blocks are the head's again.
            put(store.ds_words(previous)?, ds::UNIQUE, 0);
            Ok(())
        })?;
        self.forget_head(head)?;
        self.commit(now)
    }

    /// Exchanges the contents of a head and a clone of its last snapshot, as the end of a receive does. What either has open is committed first.
    ///
    /// # Errors
    /// The clone is not one of the head's last snapshot; what [`Store::commit`] says.
    pub fn swap_clone(&mut self, head: u64, clone: u64, now: u64) -> Result<(), EditError> {
        self.settle(&[head, clone], now)?;
        self.try_change(|store| {
            let (ours, theirs) = (store.peek_ds(head)?, store.peek_ds(clone)?);
            let previous = word(&ours, ds::PREVIOUS);
            let (directory, clone_dir) = (word(&ours, ds::DIR), word(&theirs, ds::DIR));
            if word(&theirs, ds::PREVIOUS) != previous || store.peek(clone_dir, dir::ORIGIN)? != previous {
                return Err(EditError::Invalid("the clone is not one of the dataset's last snapshot"));
            }
            let (our_dead, their_dead) = (word(&ours, ds::DEADLIST), word(&theirs, ds::DEADLIST));
            let ours_whole = Space::read(&ours, ds::REFERENCED) + store.deadlist_space(our_dead)?;
            let delta = Space::read(&theirs, ds::REFERENCED) + store.deadlist_space(their_dead)? - ours_whole;
            let origin_txg = store.origin_txg(directory)?;
            let dead = store.deadlist_range(their_dead, origin_txg, u64::MAX)? - store.deadlist_range(our_dead, origin_txg, u64::MAX)?;
            let (our_unique, their_unique) = (signed(word(&ours, ds::UNIQUE)), signed(word(&theirs, ds::UNIQUE)));
            for (directory, from, to, delta) in [(directory, our_unique, their_unique, delta), (clone_dir, their_unique, our_unique, -delta)] {
                let reserved = signed(store.refreservation(directory)?);
                let seen = Space { used: to.max(reserved) - from.max(reserved), ..delta };
                store.account(directory, Some(Part::HeadReserved), Part::Head, seen, delta.used)?;
            }
            store.transfer(directory, Part::Head, Part::Snapshots, dead.used)?;
            if store.peek(previous, ds::NEXT)? == head {
                let unique = store.deadlist_range(their_dead, store.peek(previous, ds::PREVIOUS_TXG)?, u64::MAX)?;
                put(store.ds_words(previous)?, ds::UNIQUE, unique.used.cast_unsigned());
            }
            for (dataset, from) in [(head, &theirs), (clone, &ours)] {
                let bonus = store.ds_words(dataset)?;
                for range in [ds::DEADLIST..ds::UNIQUE + 8, ds::ROOT..ds::ROOT + 128] {
                    bonus[range.clone()].copy_from_slice(&from[range]);
                }
            }
            store.swap_marks(head, clone)
        })?;
        self.forget_head(head)?;
        self.forget_head(clone)?;
        self.unvisit(head);
        self.unvisit(clone);
        self.commit(now)
    }

    /// Gives a dataset, with all below it, or a snapshot (`dataset@old` to `dataset@new`) another name.
    ///
    /// # Errors
    /// Not found, the name is taken or no name, into itself; the new place has no space for it.
    pub fn rename(&mut self, from: &str, to: &str, now: u64) -> Result<(), EditError> {
        self.transact(now, |store| {
            if let Some((dataset, old)) = from.split_once('@') {
                let new = to.strip_prefix(dataset).and_then(|rest| rest.strip_prefix('@')).or((!to.contains(['/', '@'])).then_some(to));
                return store.rename_snapshot(store.find(dataset)?, dataset, old, new.ok_or(EditError::Invalid("a snapshot stays with its dataset"))?);
            }
            store.rename_dir(from, to)
        })
    }

    /// Renames the snapshots `from` of a dataset and all below it that have one.
    ///
    /// # Errors
    /// As [`Store::rename`]; all or none.
    pub fn rename_snapshots(&mut self, dataset: &str, from: &str, to: &str, now: u64) -> Result<(), EditError> {
        self.transact(now, |store| {
            let mut found = false;
            for (name, directory) in store.visible_tree(dataset)? {
                let head = store.peek(directory, dir::HEAD)?;
                if store.number_in(store.peek(head, ds::SNAPSHOTS)?, from)?.is_some() {
                    store.rename_snapshot(head, &name, from, to)?;
                    found = true;
                }
            }
            if found { Ok(()) } else { Err(Error::NotFound.into()) }
        })
    }

    fn rename_snapshot(&mut self, head: u64, dataset: &str, old: &str, new: &str) -> Result<(), EditError> {
        check_part(new)?;
        check_length(&format!("{dataset}@{new}"))?;
        let names = self.peek(head, ds::SNAPSHOTS)?;
        let snapshot = self.number_in(names, old)?.ok_or(Error::NotFound)?;
        if self.number_in(names, new)?.is_some() {
            return Err(EditError::Exists);
        }
        self.remove_name(names, old)?;
        self.set_number(names, new, snapshot)
    }

    fn rename_dir(&mut self, from: &str, to: &str) -> Result<(), EditError> {
        let directory = self.find_dir(from)?;
        if directory == self.root_dir {
            return Err(EditError::Invalid("a pool is renamed by importing it under another name"));
        }
        if to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
            return Err(EditError::Invalid("a dataset cannot become its own child"));
        }
        if to.split('/').next() != Some(self.pool.name()) {
            return Err(EditError::Invalid("a dataset stays in its pool"));
        }
        let (parent, last) = self.place_for(to)?;
        for (name, _) in self.tree_of(from)? {
            check_length(&format!("{to}{}", name.strip_prefix(from).unwrap_or("")))?;
        }
        let old_parent = self.peek(directory, dir::PARENT)?;
        let old_last = from.rsplit_once('/').map_or(from, |(_, last)| last);
        let children = self.peek(old_parent, dir::CHILDREN)?;
        self.remove_name(children, old_last)?;
        self.add_child(parent, last, directory)?;
        if parent == old_parent {
            return Ok(());
        }
        let bonus = self.peek_bonus(directory)?;
        let space = Space::read(&bonus, dir::USED);
        let unused = (signed(word(&bonus, dir::RESERVED)) - space.used).max(0);
        self.did_use(old_parent, Part::Child, -space)?;
        self.did_use(old_parent, Part::ChildReserved, Space::used(-unused))?;
        if space.used + unused > signed(self.available(parent)?) {
            return Err(EditError::Quota);
        }
        self.did_use(parent, Part::Child, space)?;
        self.did_use(parent, Part::ChildReserved, Space::used(unused))?;
        put(self.dir_words(directory)?, dir::PARENT, parent);
        Ok(())
    }
}
