//! Images that lie under good checksums: one block of a pool is changed, and every pointer above it is made right again, up to the uberblock.
//!
//! # Theory
//! Bit rot stops at the first checksum; a stranger's image does not. [`Tree`] reads a pool once and notes where each block's pointer lies. A lie is a changed copy
//! of a block in free space at the end of the disk, and of all blocks above it, each with the sum of what it points to: some six blocks and an uberblock one
//! txg newer, written into a fork of the disk. No library takes part in the making, and a case costs microseconds.
//!
//! # Limits
//! One disk. Copies are not compressed; a block that several snapshots share is changed for the one it was found through.

use std::collections::{BTreeMap, BTreeSet};

use kif::BlockDev;
use pool_phys::blkptr::{self, BlockPointer, Checksum, Compression, Dva, Target};
use pool_phys::dnode::{SLOT, kind};
use pool_phys::label::{self, Uberblock};
use pool_spa::{Pool, ReadError};

use crate::disk::{Disk, Pages, mix};

/// Where the changed blocks go: behind all that a small pool uses.
const FREE: u64 = 70 << 20;
/// Object types of space maps and their headers.
const SPACE_MAPS: [u8; 2] = [7, 8];

struct Block {
    pointer: BlockPointer,
    /// Block and byte in it that hold the pointer; `None`: the uberblock.
    parent: Option<(usize, usize)>,
    data: Vec<u8>,
}

/// The blocks of a pool on one disk, each with its way to the uberblock.
pub struct Tree {
    pages: Pages,
    size: u64,
    ashift: u32,
    uberblock: Uberblock,
    blocks: Vec<Block>,
    /// Indices of blocks by what they are.
    classes: BTreeMap<&'static str, Vec<usize>>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree of {} blocks", self.blocks.len())
    }
}

/// What a block is, in the words of a report.
fn class(pointer: &BlockPointer) -> &'static str {
    match pointer.kind {
        _ if pointer.level > 0 => "indirect",
        kind::OBJSET => "object set",
        kind::DNODE => "dnodes",
        kind if SPACE_MAPS.contains(&kind) => "space map",
        kind::FILE => "data",
        _ => "table",
    }
}

/// Places of pointers in a block.
fn pointers(pointer: &BlockPointer, data: &[u8]) -> Vec<usize> {
    let mut out = Vec::new();
    let mut dnode = |at: usize| -> usize {
        let Some(slot) = data.get(at..at + SLOT).filter(|slot| slot[0] != 0) else { return SLOT };
        let (count, bytes) = (usize::from(slot[3]), (usize::from(slot[12]) + 1) * SLOT);
        out.extend((0..count).map(|index| at + 64 + index * blkptr::SIZE));
        if slot[4] == kind::DSL_DATASET {
            out.push(at + 64 + count * blkptr::SIZE + 128);
        }
        if slot[7] & 4 != 0 {
            out.push(at + bytes - blkptr::SIZE);
        }
        bytes
    };
    if pointer.level > 0 {
        return (0..data.len()).step_by(blkptr::SIZE).collect();
    }
    match pointer.kind {
        kind::OBJSET => {
            for at in [0, 1024, 1536, 2048] {
                dnode(at);
            }
        }
        kind::DNODE => {
            let mut at = 0;
            while at < data.len() {
                at += dnode(at);
            }
        }
        _ => {}
    }
    out
}

impl Tree {
    /// Reads all blocks of the pool on `disk`.
    ///
    /// # Errors
    /// One cannot be read: the pool is to be a good one.
    pub fn grow(pool: &Pool, disk: &Disk, ashift: u32) -> Result<Self, ReadError> {
        let mut tree = Self { pages: disk.pages(), size: disk.size_bytes(), ashift, uberblock: pool.uberblock().clone(), blocks: Vec::new(), classes: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        let mut waiting = vec![(tree.uberblock.root.clone(), None)];
        while let Some((pointer, parent)) = waiting.pop() {
            let Some(dva) = pointer.copies().next() else { continue };
            if !seen.insert((dva.vdev, dva.offset)) {
                continue;
            }
            let data = pool.read(&pointer)?;
            let index = tree.blocks.len();
            for at in pointers(&pointer, &data) {
                if let Some(Ok(child)) = data.get(at..at + blkptr::SIZE).map(BlockPointer::parse) {
                    waiting.push((child, Some((index, at))));
                }
            }
            tree.classes.entry(class(&pointer)).or_default().push(index);
            tree.blocks.push(Block { pointer, parent, data });
        }
        Ok(tree)
    }

    /// A disk with a lie chosen by `dice`, and what was changed. Each class of blocks is as likely as any other.
    #[must_use]
    pub fn lie(&self, dice: u64) -> (Disk, &'static str) {
        let (class, members) = self.classes.iter().nth(usize::try_from(dice % self.classes.len() as u64).unwrap_or(0)).expect("a pool has blocks");
        let mut index = members[usize::try_from(mix(dice) % members.len() as u64).unwrap_or(0)];
        let mut data = self.blocks[index].data.clone();
        spoil(&mut data, &self.blocks[index].pointer, dice);
        let (mut pages, mut at) = (self.pages.clone(), FREE);
        let root = loop {
            let block = &self.blocks[index];
            let asize = (data.len() as u64).next_multiple_of(1 << self.ashift);
            pages.write(label::FRONT + at, &data);
            let size = data.len() as u64;
            let place = Dva { vdev: 0, offset: at, asize, gang: false };
            let pointer = BlockPointer {
                target: Target::Stored([Some(place), None, None]),
                lsize: size,
                psize: size,
                compression: Compression::Off,
                checksum: Checksum::Fletcher4,
                words: codec::fletcher4(&data),
                ..block.pointer.clone()
            };
            at += asize;
            let Some((above, place)) = block.parent else { break pointer };
            data.clone_from(&self.blocks[above].data);
            data[place..place + blkptr::SIZE].copy_from_slice(&pointer.encode());
            index = above;
        };
        let uberblock = Uberblock { txg: self.uberblock.txg + 1, root, ..self.uberblock.clone() };
        let (slot, size) = label::ring_slot(uberblock.txg, self.ashift);
        pages.write(slot, &uberblock.encode(size, slot));
        (Disk::of(pages, self.size), class)
    }
}

/// Changes a few bytes: anywhere, near the start where counts lie, in one entry of what has entries; to noise, extremes, or by one bit.
fn spoil(data: &mut [u8], pointer: &BlockPointer, dice: u64) {
    let unit = match pointer.kind {
        _ if pointer.level > 0 => blkptr::SIZE,
        kind::DNODE | kind::OBJSET => SLOT,
        _ => 64,
    };
    // Most of a large block is empty: choose among what is not, if there is any.
    let full: Vec<usize> = data.chunks(unit).enumerate().filter(|(_, unit)| unit.iter().any(|byte| *byte != 0)).map(|(index, _)| index * unit).collect();
    for hit in 0..1 + (dice >> 8 & 3) {
        let place = mix(dice ^ hit << 40);
        let pick = |choices: usize| usize::try_from(place >> 16).unwrap_or(usize::MAX) % choices.max(1);
        let start = match place & 3 {
            0 => pick(data.len()),
            1 => pick(data.len().min(256)),
            _ => full.get(pick(full.len())).map_or(0, |start| start + pick(unit)),
        };
        let width = [1, 1, 2, 8][usize::try_from(place >> 2 & 3).unwrap_or(0)];
        for (index, byte) in data.iter_mut().skip(start).take(width).enumerate() {
            *byte = match place >> 4 & 3 {
                0 => 0,
                1 => 0xFF,
                2 => *byte ^ 1 << (place >> 8 & 7),
                _ => mix(place ^ index as u64).to_le_bytes()[0],
            };
        }
    }
}
