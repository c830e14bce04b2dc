//! The check of the dataset layer's sums: what is stated of space is what the blocks take.
//!
//! Everything is counted anew from the block trees and the deadlists, without the steps by which the sums came to be.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use pool_phys::blkptr::{self, BlockPointer};
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::objset::Objset;
use pool_spa::{Allocator, Pool};

use crate::check::{Fault, Within, bounded};
use crate::dsl::{Part, dir, ds, word};
use crate::edit::{EditError, Set};
use crate::lists::list;
use crate::look::Look;
use crate::quota::own_number;
use crate::store::load_space;
use crate::{Datasets, Error};

/// Bytes of blocks by the txg they were born in.
type Births = BTreeMap<u64, u64>;

fn since(births: &Births, txg: u64) -> u64 {
    births.range(txg.saturating_add(1)..).map(|(_, bytes)| bytes).sum()
}

struct Auditor<'a> {
    datasets: &'a Datasets<'a>,
    pool: &'a Pool,
    space: Allocator,
    /// How many blocks lists may name still.
    listable: u64,
    /// Blocks of trees that were looked at.
    visits: u64,
    faults: Vec<Fault>,
}

impl Auditor<'_> {
    fn expect(&mut self, object: u64, what: &'static str, stated: u64, found: u64) {
        if stated != found {
            self.faults.push(Fault::Account { object, what, stated, found });
        }
    }

    /// Blocks of a tree by birth. Unreadable ones are the other check's business.
    fn tree(&mut self, pointer: &BlockPointer, within: Within, out: &mut Births) -> Result<(), Error> {
        if pointer.is_hole() {
            return Ok(());
        }
        self.visits += 1;
        bounded(self.pool, self.visits)?;
        *out.entry(pointer.birth).or_default() += self.space.deflated(pointer);
        if !within.leads_on(pointer) {
            return Ok(());
        }
        let data = self.pool.read_shared(pointer)?;
        if pointer.level > 0 {
            return blkptr::below(pointer.level, &data).try_for_each(|child| self.tree(&child?.1, within, out));
        }
        let mut dnode_at = |bytes: &[u8], out: &mut Births| -> Result<usize, Error> {
            let Some(dnode) = Dnode::parse(bytes)? else { return Ok(1) };
            dnode.pointers.iter().chain(dnode.spill.as_ref()).try_for_each(|pointer| self.tree(pointer, Within::Object, out))?;
            Ok(dnode.slots)
        };
        if pointer.kind == kind::OBJSET {
            let objset = Objset::parse(&data)?;
            for at in [1024, 1536, 2048] {
                if let Some(bytes) = data.get(at..at + dnode::SLOT) {
                    dnode_at(bytes, out)?;
                }
            }
            return objset.meta.pointers.iter().try_for_each(|pointer| self.tree(pointer, Within::Dnodes, out));
        }
        let mut slot = 0;
        while let Some(bytes) = data.get(slot * dnode::SLOT..).filter(|bytes| bytes.len() >= dnode::SLOT) {
            slot += dnode_at(bytes, out)?;
        }
        Ok(())
    }

    /// Blocks of a list by birth; the sum it states is checked.
    fn list(&mut self, object: u64, out: &mut Births) -> Result<(), Error> {
        let mut found = Births::new();
        crate::check::each_listed(self.datasets, object, &mut self.listable, &mut |pointer| {
            *found.entry(pointer.birth).or_default() += self.space.deflated(pointer);
        })?;
        let stated = word(&self.datasets.words(object)?, list::BYTES);
        self.expect(object, "list", stated, found.values().sum());
        for (birth, bytes) in found {
            *out.entry(birth).or_default() += bytes;
        }
        Ok(())
    }

    /// Blocks of a deadlist by birth.
    fn deadlist(&mut self, object: u64) -> Result<Births, Error> {
        let mut out = Births::new();
        let mut lists: Vec<(u64, u64)> = Vec::new();
        for entry in self.datasets.all(object)? {
            lists.push((u64::from_str_radix(&entry.text(), 16).unwrap_or(u64::MAX), entry.number().unwrap_or(0)));
        }
        lists.sort_unstable();
        for (index, (key, list)) in lists.iter().enumerate() {
            let mut births = Births::new();
            self.list(*list, &mut births)?;
            let limit = lists.get(index + 1).map_or(u64::MAX, |(next, _)| *next);
            let strange = births.keys().filter(|birth| **birth <= *key || **birth > limit).count();
            self.expect(*list, "births in a deadlist's part", 0, strange as u64);
            for (birth, bytes) in births {
                *out.entry(birth).or_default() += bytes;
            }
        }
        if object != 0 {
            let stated = word(&self.datasets.words(object)?, 0);
            self.expect(object, "deadlist", stated, out.values().sum());
        }
        Ok(out)
    }

    /// Checks a directory and what is below; returns what it uses and has reserved.
    fn directory(&mut self, directory: u64, depth: usize) -> Result<(u64, u64), Error> {
        let bonus = self.datasets.words(directory)?;
        let (used, reserved) = (word(&bonus, dir::USED), word(&bonus, dir::RESERVED));
        if depth > crate::dsl::DEPTH_MAX {
            return Ok((used, reserved));
        }
        let (mut in_head, mut in_snapshots, mut in_children, mut unused) = (0, 0, 0, 0);
        let mut head_unique = 0;
        let head = word(&bonus, dir::HEAD);
        let origin = word(&bonus, dir::ORIGIN);
        let origin_txg = if origin == 0 { 0 } else { word(&self.datasets.words(origin)?, ds::CREATED_TXG) };
        if head != 0 {
            let names = word(&self.datasets.words(head)?, ds::SNAPSHOTS);
            let mut members: Vec<u64> = self.datasets.all(names)?.iter().filter_map(|entry| entry.number()).collect();
            members.push(head);
            for member in members {
                let own = self.datasets.words(member)?;
                self.expect(member, "directory of a dataset", word(&own, ds::DIR), directory);
                let mut blocks = Births::new();
                self.tree(&BlockPointer::parse(own.get(ds::ROOT..ds::ROOT + blkptr::SIZE).unwrap_or_default())?, Within::Root, &mut blocks)?;
                self.expect(member, "referenced", word(&own, ds::REFERENCED), blocks.values().sum());
                let next = word(&own, ds::NEXT);
                let unique = if next == 0 {
                    head_unique = since(&blocks, word(&own, ds::PREVIOUS_TXG));
                    in_head = since(&blocks, origin_txg);
                    head_unique
                } else {
                    let next = self.datasets.words(next)?;
                    self.expect(member, "txg of the snapshot before", word(&next, ds::PREVIOUS_TXG), word(&own, ds::CREATED_TXG));
                    since(&self.deadlist(word(&next, ds::DEADLIST))?, word(&own, ds::PREVIOUS_TXG))
                };
                self.expect(member, "unique", word(&own, ds::UNIQUE), unique);
                in_snapshots += since(&self.deadlist(word(&own, ds::DEADLIST))?, origin_txg);
            }
        }
        for entry in self.datasets.all(word(&bonus, dir::CHILDREN))? {
            let (child_used, child_reserved) = self.directory(entry.number().unwrap_or(0), depth + 1)?;
            // What a directory states is no more than what the disk says.
            in_children = u64::saturating_add(in_children, child_used);
            unused = u64::saturating_add(unused, child_reserved.saturating_sub(child_used));
        }
        let set_aside = own_number(self.datasets, directory, "refreservation")?.saturating_sub(head_unique);
        let parts = [(Part::Head, in_head), (Part::Snapshots, in_snapshots), (Part::Child, in_children), (Part::ChildReserved, unused), (Part::HeadReserved, set_aside)];
        // The pool's own directories count what has no dataset.
        if head != 0 {
            for (part, found) in parts {
                let what = ["used by the head", "used by snapshots", "used by children", "reserved by children", "reserved by the head"][part as usize];
                self.expect(directory, what, word(&bonus, dir::BREAKDOWN + part as usize * 8), found);
            }
            self.expect(directory, "used", used, parts.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes)));
        }
        Ok((used, reserved))
    }
}

/// Checks what directories, datasets, snapshots and lists of a pool state of their space.
///
/// # Errors
/// Unreadable, malformed.
pub fn check_space(pool: &Pool) -> Result<Vec<Fault>, EditError> {
    let space = load_space(pool, &Set::open(pool, &pool.uberblock().root)?)?;
    let datasets = Datasets::open(pool)?;
    let mut auditor = Auditor { datasets: &datasets, pool, space, listable: crate::check::listable(pool), visits: 0, faults: Vec::new() };
    auditor.directory(datasets.root_dir(), 0)?;
    let children = word(&datasets.words(datasets.root_dir())?, dir::CHILDREN);
    let free_dir = datasets.one(children, "$FREE")?.and_then(|entry| entry.number()).ok_or(Error::NotFound)?;
    let mut waiting = Births::new();
    auditor.list(datasets.mos().lookup_number(1, "free_bpobj")?, &mut waiting)?;
    let mut found: u64 = waiting.values().sum();
    if let Some(trees) = datasets.one(1, "bptree_obj")?.and_then(|entry| entry.number()) {
        let mut bytes = 0;
        crate::drain::each_doomed(&datasets, trees, &mut |pointer| bytes += auditor.space.deflated(pointer))?;
        let stated = word(&datasets.words(trees)?, 16);
        auditor.expect(trees, "doomed trees", stated, bytes);
        found += bytes;
    }
    let stated = word(&datasets.words(free_dir)?, dir::USED);
    auditor.expect(free_dir, "waiting to be freed", stated, found);
    Ok(auditor.faults)
}
