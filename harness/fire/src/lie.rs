//! Images that lie under good checksums: one structure of a pool is changed, and every pointer above it is made right again, up to the uberblock.
//!
//! # Theory
//! Bit rot stops at the first checksum; a stranger's image does not. [`Tree`] reads a pool once and notes where each block's pointer lies, what each block is, and
//! which dataset it belongs to. A lie is a changed copy
//! of a block in free space, and of all blocks above it, each with the sum of what it points to: some six blocks and an uberblock one
//! txg newer, written into a fork of the disk. Blocks of an intent log have their sum in themselves and are changed where they are. No library takes part in the
//! making, and a case costs microseconds.
//!
//! # Limits
//! One disk. Copies are not compressed; a block that several snapshots share is changed for the one it was found through.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use kif::BlockDev;
use pool_dmu::{Datasets, Error};
use pool_phys::blkptr::{self, BlockPointer, Checksum, Compression, Dva, Target};
use pool_phys::dnode::{SLOT, kind};
use pool_phys::intent_log;
use pool_phys::label::{self, Uberblock};
use pool_spa::Pool;

use crate::disk::{Disk, Pages, mix};

/// Room for a lie: the deepest way to the uberblock, with one large block.
const ROOM: u64 = 3 << 20;
/// Object types by number, where the library has no name for them.
mod other {
    pub const PACKED_LIST: u8 = 3;
    pub const BLOCK_LIST: u8 = 5;
    pub const SPACE_MAP_HEADER: u8 = 7;
    pub const SPACE_MAP: u8 = 8;
    pub const HISTORY: u8 = 29;
    pub const DEADLIST: u8 = 50;
}
/// First words of tables (format section 7): small, large, leaf of a large one.
const MICRO: u64 = 0x8000_0000_0000_0003;
const FAT: u64 = 0x8000_0000_0000_0001;
const LEAF: u64 = 0x8000_0000_0000_0000;
/// Places in a block of an intent log (format section 16): bytes in use, the sum.
const LOG_USED: usize = 136;
const LOG_SUM: usize = 152;

#[derive(Debug)]
struct Block {
    pointer: BlockPointer,
    /// Block and byte in it that hold the pointer; `None`: the uberblock.
    parent: Option<(usize, usize)>,
    data: Arc<Vec<u8>>,
    place: Place,
}

/// Where a block is: dataset (its object in the MOS; 0 is the MOS itself), object, number of the block on its level.
#[derive(Clone, Copy, Debug)]
struct Place {
    dataset: u64,
    object: u64,
    index: u64,
    /// It is a block of an intent log.
    is_log: bool,
}

/// What can be changed: bytes of a block.
type Structure = (usize, Range<usize>);

/// The blocks of a pool on one disk, each with its way to the uberblock.
#[derive(Debug)]
pub struct Tree {
    pages: Pages,
    size: u64,
    ashift: u32,
    uberblock: Uberblock,
    blocks: Vec<Block>,
    /// Where changed blocks go.
    free: u64,
    classes: Vec<(&'static str, Vec<Structure>)>,
}

/// A pool that lies.
#[derive(Debug)]
pub struct Lie {
    pub disk: Disk,
    /// What was changed.
    pub class: &'static str,
    /// The dataset it belongs to: no other may read otherwise. `None`: it belongs to all.
    pub dataset: Option<u64>,
    /// What was changed are contents of one file or volume.
    pub is_data: bool,
    /// Blocks of the tree that were changed.
    changed: BTreeSet<usize>,
}

/// Objects of the MOS that only their tables tell: log space maps and livelists.
fn tags(pool: &Pool) -> Result<BTreeMap<u64, &'static str>, Error> {
    let datasets = Datasets::open(pool)?;
    let mos = datasets.mos();
    let mut out = BTreeMap::new();
    let named = |table: u64, name: &str| mos.zap(table).ok()?.into_iter().find(|entry| entry.text() == name)?.number();
    let mut all = |table: u64, tag: &'static str| -> Result<(), Error> {
        out.insert(table, tag);
        out.extend(mos.zap(table)?.iter().filter_map(|entry| Some((entry.number()?, tag))));
        Ok(())
    };
    if let Some(table) = named(1, "com.delphix:log_spacemap_zap") {
        all(table, "log space map")?;
    }
    let mut directories = Vec::new();
    mos.for_each(|number, dnode| {
        directories.extend((dnode.bonus_kind == kind::DSL_DIR).then_some(number));
        Ok(())
    })?;
    for directory in directories {
        if let Some(list) = named(directory, "com.delphix:livelist") {
            all(list, "livelist")?;
        }
    }
    Ok(out)
}

/// What a dnode describes.
fn class_of_dnode(object_kind: u8, bonus_kind: u8) -> &'static str {
    match (object_kind, bonus_kind) {
        (other::DEADLIST, _) => "deadlist",
        (other::BLOCK_LIST, _) => "block list",
        (_, kind::DSL_DIR) => "DSL directory",
        (_, kind::DSL_DATASET) => "DSL dataset",
        (_, other::SPACE_MAP_HEADER) => "space map",
        _ => "dnode",
    }
}

/// What a block holds.
fn class_of_block(pointer: &BlockPointer, data: &[u8]) -> &'static str {
    if pointer.level > 0 {
        return "indirect";
    }
    match pointer.kind {
        kind::OBJSET => return "object set",
        kind::FILE => return "file data",
        kind::ZVOL => return "volume data",
        other::SPACE_MAP => return "space map",
        other::BLOCK_LIST => return "block list",
        other::PACKED_LIST => return "config",
        other::HISTORY => return "history",
        _ => {}
    }
    match data.first_chunk().map(|word| u64::from_le_bytes(*word)) {
        Some(MICRO) => "micro table",
        Some(FAT | LEAF) => "fat table",
        _ => "attributes",
    }
}

/// A dnode in a block of them: its bytes, number, type of object and bonus.
struct Slot {
    range: Range<usize>,
    number: u64,
    kinds: (u8, u8),
}

fn slots(data: &[u8], index: u64) -> Vec<Slot> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(slot) = data.get(at..at + SLOT) {
        let bytes = (usize::from(slot[12]) + 1) * SLOT;
        if slot[0] == 0 {
            at += SLOT;
            continue;
        }
        let number = index * (data.len() / SLOT) as u64 + (at / SLOT) as u64;
        out.push(Slot { range: at..(at + bytes).min(data.len()), number, kinds: (slot[0], slot[4]) });
        at += bytes;
    }
    out
}

/// Pointers of the dnode at byte `at`: where they are, and what they lead to.
fn pointers_of_dnode(data: &[u8], at: usize, place: Place, out: &mut Vec<(usize, Place)>) {
    let Some(slot) = data.get(at..at + SLOT).filter(|slot| slot[0] != 0) else { return };
    let (count, bytes) = (usize::from(slot[3]), (usize::from(slot[12]) + 1) * SLOT);
    out.extend((0..count).map(|index| (at + 64 + index * blkptr::SIZE, Place { index: index as u64, ..place })));
    if slot[4] == kind::DSL_DATASET {
        out.push((at + 64 + count * blkptr::SIZE + 128, Place { dataset: place.object, object: 0, index: 0, is_log: false }));
    }
    if slot[7] & 4 != 0 {
        out.push((at + bytes - blkptr::SIZE, Place { index: 0, ..place }));
    }
}

/// Places of pointers in a block, and of what they point to.
fn pointers(block: &Block) -> Vec<(usize, Place)> {
    let (data, place) = (&block.data, block.place);
    let mut out = Vec::new();
    if place.is_log {
        // The next one's.
        return vec![(8, place)];
    }
    if block.pointer.level > 0 {
        let fan = (data.len() / blkptr::SIZE) as u64;
        return (0..fan).map(|index| (usize::try_from(index).unwrap_or(0) * blkptr::SIZE, Place { index: place.index.wrapping_mul(fan).wrapping_add(index), ..place })).collect();
    }
    match block.pointer.kind {
        kind::OBJSET => {
            for (at, object) in [(0, 0), (1024, u64::MAX), (1536, u64::MAX), (2048, u64::MAX)] {
                pointers_of_dnode(data, at, Place { object, ..place }, &mut out);
            }
            out.push((intent_log::HEADER_AT + 16, Place { is_log: true, ..place }));
        }
        kind::DNODE => slots(data, place.index).iter().for_each(|slot| pointers_of_dnode(data, slot.range.start, Place { object: slot.number, ..place }, &mut out)),
        _ => {}
    }
    out
}

/// Structures of a block.
fn structures(block: &Block, tags: &BTreeMap<u64, &'static str>) -> Vec<(&'static str, Range<usize>)> {
    let whole = 0..block.data.len();
    if block.place.is_log {
        let used = block.data.get(LOG_USED..LOG_USED + 8).map_or(0, |word| word.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
        return vec![("intent log", 0..used.min(block.data.len()))];
    }
    if block.pointer.level == 0 && block.pointer.kind == kind::DNODE {
        let class = |slot: &Slot| tags.get(&slot.number).filter(|_| block.place.dataset == 0).copied().unwrap_or_else(|| class_of_dnode(slot.kinds.0, slot.kinds.1));
        return slots(&block.data, block.place.index).into_iter().map(|slot| (class(&slot), slot.range)).collect();
    }
    let class = class_of_block(&block.pointer, &block.data);
    let tag = tags.get(&block.place.object).filter(|_| block.place.dataset == 0 && block.pointer.level == 0);
    vec![(tag.copied().unwrap_or(class), whole)]
}

/// The last part of the largest gap between blocks.
fn gap(used: &[Range<u64>], size: u64) -> u64 {
    let mut used: Vec<&Range<u64>> = used.iter().collect();
    used.sort_by_key(|range| range.start);
    let (mut best, mut end) = (0..0, 0);
    for range in used.into_iter().chain([&(size..size)]) {
        if range.start.saturating_sub(end) > best.end - best.start {
            best = end..range.start;
        }
        end = end.max(range.end);
    }
    best.end.saturating_sub(ROOM).max(best.start) / 4096 * 4096
}

impl Tree {
    /// Reads all blocks of the pool on `disk`.
    ///
    /// # Errors
    /// One cannot be read: the pool is to be a good one.
    pub fn grow(pool: &Pool, disk: &Disk, ashift: u32) -> Result<Self, Error> {
        let uberblock = pool.uberblock().clone();
        let mut blocks: Vec<Block> = Vec::new();
        let (mut seen, mut used) = (BTreeSet::new(), Vec::new());
        let mut waiting = vec![(uberblock.root.clone(), None, Place { dataset: 0, object: 0, index: 0, is_log: false })];
        while let Some((pointer, parent, place)) = waiting.pop() {
            let Some(dva) = pointer.copies().next() else { continue };
            if !seen.insert((dva.vdev, dva.offset)) {
                continue;
            }
            let data: Arc<Vec<u8>> = if place.is_log {
                // The chain ends with a block that was never written.
                let Ok(Some(data)) = pool.read_log_block(&pointer) else { continue };
                data.into()
            } else {
                pool.read_shared(&pointer)?
            };
            used.extend(pointer.copies().map(|dva| dva.offset..dva.offset + dva.asize));
            let index = blocks.len();
            let block = Block { pointer, parent, data, place };
            for (at, place) in pointers(&block) {
                if let Some(Ok(child)) = block.data.get(at..at + blkptr::SIZE).map(BlockPointer::parse) {
                    waiting.push((child, Some((index, at)), place));
                }
            }
            blocks.push(block);
        }
        let tags = tags(pool)?;
        let mut classes: BTreeMap<&'static str, Vec<Structure>> = BTreeMap::new();
        for (index, block) in blocks.iter().enumerate() {
            for (class, range) in structures(block, &tags) {
                classes.entry(class).or_default().push((index, range));
            }
        }
        let free = gap(&used, pool.room());
        Ok(Self { pages: disk.pages(), size: disk.size_bytes(), ashift, uberblock, blocks, free, classes: classes.into_iter().collect() })
    }

    /// Tells a pool what is in the blocks of metadata that a lie left as they were: it was read when the tree was grown.
    pub fn remind(&self, pool: &Pool, lie: &Lie) {
        for (index, block) in self.blocks.iter().enumerate() {
            if !lie.changed.contains(&index) && !block.place.is_log {
                pool.remember(&block.pointer, Arc::clone(&block.data));
            }
        }
    }

    /// A disk with a lie chosen by `dice`, about a class of structures that `other` has not if there is one. Each class is as likely as any other.
    #[must_use]
    pub fn lie(&self, dice: u64, other: Option<&Self>) -> Lie {
        let pick = |dice: u64, choices: usize| usize::try_from(dice % choices.max(1) as u64).unwrap_or(0);
        let is_known = |class: &str| other.is_some_and(|other| other.classes.iter().any(|(known, _)| *known == class));
        let own: Vec<usize> = (0..self.classes.len()).filter(|index| !is_known(self.classes[*index].0)).collect();
        let chosen = if own.is_empty() { pick(dice, self.classes.len()) } else { own[pick(dice, own.len())] };
        let (class, members) = &self.classes[chosen];
        let (mut index, range) = members[pick(mix(dice), members.len())].clone();
        let block = &self.blocks[index];
        let dataset = (block.place.dataset != 0).then_some(block.place.dataset);
        let is_data = matches!(block.pointer.kind, kind::FILE | kind::ZVOL) && block.pointer.level == 0;
        let mut data = block.data.to_vec();
        spoil(&mut data, range, &block.pointer, dice);
        let mut pages = self.pages.clone();
        let mut changed = BTreeSet::from([index]);
        if block.place.is_log {
            seal_log(&mut data, block.pointer.words);
            block.pointer.copies().for_each(|dva| pages.write(label::FRONT + dva.offset, &data));
            return Lie { disk: Disk::of(pages, self.size), class, dataset, is_data, changed };
        }
        let mut at = self.free;
        let root = loop {
            changed.insert(index);
            let block = &self.blocks[index];
            let size = data.len() as u64;
            let asize = size.next_multiple_of(1 << self.ashift);
            pages.write(label::FRONT + at, &data);
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
            data = self.blocks[above].data.to_vec();
            data[place..place + blkptr::SIZE].copy_from_slice(&pointer.encode());
            index = above;
        };
        let uberblock = Uberblock { txg: self.uberblock.txg + 1, root, ..self.uberblock.clone() };
        let (slot, size) = label::ring_slot(uberblock.txg, self.ashift);
        pages.write(slot, &uberblock.encode(size, slot));
        Lie { disk: Disk::of(pages, self.size), class, dataset, is_data, changed }
    }
}

/// Makes the sum in a block of an intent log right (format section 16).
fn seal_log(block: &mut [u8], words: codec::Words) {
    let used = block.get(LOG_USED..LOG_USED + 8).map_or(0, |word| word.iter().rev().fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte)));
    let end = used.checked_next_multiple_of(intent_log::BLOCK_MIN).unwrap_or(usize::MAX).min(block.len());
    let put = |block: &mut [u8], words: codec::Words| {
        for (slot, word) in block[LOG_SUM..LOG_SUM + 32].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *slot = word.to_le_bytes();
        }
    };
    put(block, words);
    let sum = codec::fletcher4(&block[..end]);
    put(block, sum);
}

/// Changes a few bytes of a structure: anywhere, near the start where counts lie, in one entry of what has entries; to noise, extremes, or by one bit.
fn spoil(data: &mut [u8], range: Range<usize>, pointer: &BlockPointer, dice: u64) {
    let data = &mut data[range];
    let unit = match pointer.kind {
        _ if pointer.level > 0 => blkptr::SIZE,
        kind::OBJSET => SLOT,
        kind::DNODE => 8,
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
