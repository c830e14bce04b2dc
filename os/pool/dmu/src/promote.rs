//! Promotion: a clone and the dataset it was made from change places.
//!
//! The snapshots up to the origin move to the clone's directory, and the dataset they were taken of becomes the clone. No block moves; what moves is the
//! account: the blocks that the shared snapshots alone have belong to the directory that has the snapshots.

use alloc::vec::Vec;

use crate::Error;
use crate::dsl::{CLONES, Part, Space, dir, ds, put, signed, word};
use crate::edit::EditError;
use crate::store::Store;

impl Store {
    /// Datasets from `last` back to, and without, `first`.
    fn chain(&self, first: u64, last: u64) -> Result<Vec<u64>, EditError> {
        let mut out = Vec::new();
        let mut at = last;
        while at != first && at != 0 {
            out.push(at);
            at = self.peek(at, ds::PREVIOUS)?;
            if out.len() > 1 << 20 {
                return Err(EditError::Invalid("a chain of snapshots has no end"));
            }
        }
        Ok(out)
    }

    /// Space of the blocks in the deadlists of `datasets` that were born after `txg`.
    fn dead_since(&self, datasets: &[u64], txg: u64) -> Result<i64, EditError> {
        let mut out = 0;
        for dataset in datasets {
            out += self.deadlist_range(self.peek(*dataset, ds::DEADLIST)?, txg, u64::MAX)?.used;
        }
        Ok(out)
    }

    /// Makes a clone independent of its origin: the snapshots up to the origin become its own, and the dataset they were taken of a clone of it.
    ///
    /// # Errors
    /// Not a clone; one of its snapshots has the name of one that would come to it ([`EditError::Exists`]); a quota; what [`Store::commit`] says.
    pub fn promote(&mut self, name: &str, now: u64) -> Result<(), EditError> {
        let head = self.find(name)?;
        self.transact(now, |store| store.promote_head(head))
    }

    fn promote_head(&mut self, head: u64) -> Result<(), EditError> {
        let own_dir = self.peek(head, ds::DIR)?;
        let origin = self.peek(own_dir, dir::ORIGIN)?;
        let (_, nothing) = self.origin()?;
        if origin == 0 || origin == nothing {
            return Err(EditError::Invalid("not a clone"));
        }
        let old_dir = self.peek(origin, ds::DIR)?;
        let old_head = self.peek(old_dir, dir::HEAD)?;
        let older = self.peek(old_dir, dir::ORIGIN)?;
        let shared = self.chain(older, origin)?;
        let clone_chain = self.chain(origin, head)?;
        let old_chain = self.chain(origin, old_head)?;
        let (first_own, first_old) = (*clone_chain.last().ok_or(Error::NotFound)?, *old_chain.last().ok_or(Error::NotFound)?);

        // The blocks that the shared snapshots gave birth to: what the last has, and what died on the way.
        let mut moved = Space::read(&self.peek_bonus(origin)?, ds::REFERENCED);
        for snapshot in &shared {
            moved = moved + self.deadlist_space(self.peek(*snapshot, ds::DEADLIST)?)?;
        }
        if older != 0 {
            moved = moved - Space::read(&self.peek_bonus(older)?, ds::REFERENCED);
        }
        let older_txg = self.origin_txg(old_dir)?;
        let origin_bonus = self.peek_bonus(origin)?;
        let snapshots_here = self.dead_since(&shared, older_txg)? + self.dead_since(&clone_chain, older_txg)?;
        let snapshots_there = self.dead_since(&old_chain, word(&origin_bonus, ds::CREATED_TXG))?;
        let unique = self.deadlist_range(self.peek(first_own, ds::DEADLIST)?, word(&origin_bonus, ds::PREVIOUS_TXG), u64::MAX)?;

        put(self.ds_words(origin)?, ds::NEXT, first_own);
        put(self.ds_words(origin)?, ds::UNIQUE, unique.used.cast_unsigned());
        let next_clones = word(&origin_bonus, ds::NEXT_CLONES);
        if next_clones != 0 {
            self.leave(next_clones, first_own)?;
            self.enter(next_clones, first_old)?;
        }
        put(self.dir_words(own_dir)?, dir::ORIGIN, older);
        put(self.dir_words(old_dir)?, dir::ORIGIN, origin);
        let old_clones = self.table_of(old_dir, dir::CLONES, CLONES)?;
        let own_clones = self.table_of(own_dir, dir::CLONES, CLONES)?;
        self.leave(old_clones, head)?;
        self.enter(own_clones, old_head)?;
        if older != 0 {
            let older_clones = self.table_of(self.peek(older, ds::DIR)?, dir::CLONES, CLONES)?;
            self.leave(older_clones, old_head)?;
            self.enter(older_clones, head)?;
        }

        let (old_names, own_names) = (self.peek(old_head, ds::SNAPSHOTS)?, self.peek(head, ds::SNAPSHOTS)?);
        let names = self.snapshots_of(old_head)?;
        for snapshot in &shared {
            let (name, _) = names.iter().find(|(_, object)| object == snapshot).ok_or(Error::NotFound)?;
            if self.number_in(own_names, name)?.is_some() {
                return Err(EditError::Exists);
            }
            self.remove_name(old_names, name)?;
            self.set_number(own_names, name, *snapshot)?;
            put(self.ds_words(*snapshot)?, ds::DIR, own_dir);
            // Other clones of it are now clones of this directory's snapshots.
            for entry in self.entries_of(self.peek(*snapshot, ds::NEXT_CLONES)?)? {
                let next = entry.number().unwrap_or(0);
                if next != first_old {
                    let clone = self.peek(self.peek(next, ds::DIR)?, dir::HEAD)?;
                    self.leave(old_clones, clone)?;
                    self.enter(own_clones, clone)?;
                }
            }
        }

        let snapshots = |bonus: &[u8]| signed(word(bonus, dir::BREAKDOWN + Part::Snapshots as usize * 8));
        let here = snapshots_here - snapshots(&self.peek_bonus(own_dir)?);
        let there = snapshots_there - snapshots(&self.peek_bonus(old_dir)?);
        self.did_use(old_dir, Part::Snapshots, Space::used(there))?;
        self.did_use(old_dir, Part::Head, Space { used: -moved.used - there, ..-moved })?;
        // Its new place may allow less.
        if moved.used > signed(self.available(own_dir)?) {
            return Err(EditError::Quota);
        }
        self.did_use(own_dir, Part::Snapshots, Space::used(here))?;
        self.did_use(own_dir, Part::Head, Space { used: moved.used - here, ..moved })
    }
}
