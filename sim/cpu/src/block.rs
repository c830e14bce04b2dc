//! The cache of decoded blocks. Transparent: dropping any of it at any time changes nothing a guest can see.

use crate::op::Op;

pub(crate) const NONE: u32 = u32::MAX;

/// Block flags.
pub(crate) const CROSSES: u8 = 1;
pub(crate) const STOP_BEFORE: u8 = 2;
/// Translated code exists.
pub(crate) const TRANSLATED: u8 = 4;

/// Instructions in a block at most; offsets must fit a byte.
pub(crate) const BLOCK_INSNS_MAX: usize = 64;
pub(crate) const BLOCK_BYTES_MAX: usize = 240;
/// Operations held before the cache starts over (32 bytes each).
const OPS_MAX: usize = 2 << 20;
/// Whole systems have some hundred thousand blocks; each step along a chain is a cache miss.
const BUCKETS: usize = 1 << 18;
const JUMPS: usize = 1 << 15;

/// One cache line, since running from block to block reads one of these each time.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Block {
    /// Linear address, RIP and mode the block was decoded for.
    pub linear: u64,
    pub rip: u64,
    /// RIP after the block: falling through, taking the branch.
    pub target: [u64; 2],
    /// Flat page index of the code.
    pub page: u32,
    /// Of the second page, if the block's only instruction crosses into it.
    pub second_page: u32,
    pub start: u32,
    pub mode: u16,
    /// Operations, instructions and bytes.
    pub count: u8,
    pub ticks: u8,
    pub bytes: u8,
    pub flags: u8,
    pub valid: bool,
    /// Blocks last found there: fall, taken.
    pub link: [u32; 2],
    next_in_bucket: u32,
}

pub(crate) struct Cache {
    pub blocks: Vec<Block>,
    pub ops: Vec<Op>,
    buckets: Vec<u32>,
    /// First block of each flat page, and for each block the next one of its page.
    pages: Vec<u32>,
    next_in_page: Vec<u32>,
    jumps: Vec<u32>,
    /// Blocks whose instruction crosses into a second page: few.
    crossing: Vec<u32>,
    /// Translated blocks that were dropped, for the translator to forget.
    pub killed: Vec<u32>,
    /// How often the cache started over; indices from before mean nothing.
    pub generation: u64,
}

#[inline(always)]
fn bucket(linear: u64, page: u32) -> usize {
    let mixed = (linear ^ u64::from(page) << 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 46) as usize & (BUCKETS - 1)
}

#[inline(always)]
fn jump_slot(linear: u64) -> usize {
    (linear ^ linear >> 12) as usize & (JUMPS - 1)
}

impl Cache {
    pub fn new() -> Cache {
        Cache { blocks: Vec::new(), ops: Vec::new(), buckets: vec![NONE; BUCKETS], pages: Vec::new(), next_in_page: Vec::new(), jumps: vec![NONE; JUMPS], crossing: Vec::new(), killed: Vec::new(), generation: 0 }
    }

    /// A cache that has no place for blocks: for whoever borrows one before it runs.
    pub fn nowhere() -> Cache {
        Cache { blocks: Vec::new(), ops: Vec::new(), buckets: Vec::new(), pages: Vec::new(), next_in_page: Vec::new(), jumps: Vec::new(), crossing: Vec::new(), killed: Vec::new(), generation: 0 }
    }

    /// Whether it has no place for blocks.
    pub fn is_nowhere(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if self.blocks.len() < BUCKETS / 64 {
            for block in &self.blocks {
                self.buckets[bucket(block.linear, block.page)] = NONE;
            }
        } else {
            self.buckets.fill(NONE);
        }
        if self.blocks.len() < JUMPS / 64 {
            for block in &self.blocks {
                self.jumps[jump_slot(block.linear)] = NONE;
            }
        } else {
            self.jumps.fill(NONE);
        }
        self.blocks.clear();
        self.ops.clear();
        self.pages.fill(NONE);
        self.next_in_page.clear();
        self.crossing.clear();
        self.killed.clear();
        self.generation += 1;
    }

    /// Whether block `at` is still there.
    #[inline(always)]
    pub fn is_valid(&self, at: u32) -> bool {
        self.blocks.get(at as usize).is_some_and(|block| block.valid)
    }

    /// Whether the next block may not fit.
    pub fn full(&self) -> bool {
        self.ops.len() + BLOCK_INSNS_MAX > OPS_MAX
    }

    /// Finds a valid block. Dropped ones on the way leave their chain, so that code written again and again does not make it longer.
    pub fn find(&mut self, linear: u64, rip: u64, page: u32, mode: u16) -> Option<u32> {
        let slot = bucket(linear, page);
        let mut before = NONE;
        let mut at = self.buckets[slot];
        while at != NONE {
            let block = &self.blocks[at as usize];
            let next = block.next_in_bucket;
            if !block.valid {
                if before == NONE {
                    self.buckets[slot] = next;
                } else {
                    self.blocks[before as usize].next_in_bucket = next;
                }
            } else if block.linear == linear && block.page == page && block.mode == mode && block.rip == rip {
                return Some(at);
            } else {
                before = at;
            }
            at = next;
        }
        None
    }

    /// The valid block that link `L` of block `at` leads to, and whether it is on the same page of addresses.
    #[inline(always)]
    pub fn follow<const L: usize>(&self, at: u32) -> Option<(u32, bool)> {
        let block = &self.blocks[at as usize];
        let next = block.link[L];
        let target = self.blocks.get(next as usize)?;
        target.valid.then_some((next, target.linear >> 12 == block.linear >> 12))
    }

    /// Guesses the block at `linear` for an indirect jump; the caller checks the page.
    #[inline(always)]
    pub fn guess(&self, linear: u64, rip: u64, mode: u16) -> Option<u32> {
        let at = self.jumps[jump_slot(linear)];
        let block = self.blocks.get(at as usize)?;
        (block.linear == linear && block.rip == rip && block.mode == mode && block.valid).then_some(at)
    }

    /// Remembers a block for [`Cache::guess`].
    #[inline(always)]
    pub fn remember(&mut self, linear: u64, at: u32) {
        self.jumps[jump_slot(linear)] = at;
    }

    /// Adds a block with its operations.
    pub fn insert(&mut self, mut block: Block, ops: &[Op]) -> u32 {
        let at = self.blocks.len() as u32;
        block.start = self.ops.len() as u32;
        self.ops.extend_from_slice(ops);
        block.count = ops.len() as u8;
        let slot = bucket(block.linear, block.page);
        block.next_in_bucket = self.buckets[slot];
        self.buckets[slot] = at;
        if block.flags & CROSSES != 0 {
            self.crossing.push(at);
        }
        let top = block.page as usize;
        if self.pages.len() <= top {
            self.pages.resize(top + 1, NONE);
        }
        self.next_in_page.push(self.pages[block.page as usize]);
        self.pages[block.page as usize] = at;
        self.blocks.push(block);
        at
    }

    /// Whether block `at` can end after `ticks` instructions: it does, or an operation begins there. None begins between a comparison and the branch it is fused with.
    pub fn can_end(&self, at: u32, ticks: usize) -> bool {
        let block = &self.blocks[at as usize];
        usize::from(block.ticks) == ticks || self.ops[block.ops()].iter().skip(1).any(|op| usize::from(op.idx) == ticks)
    }

    /// Lets block `at` end after `ticks` instructions if it can ([`Cache::can_end`]). What follows is found when it is next gone to.
    pub fn cut(&mut self, at: u32, ticks: usize) {
        let block = &mut self.blocks[at as usize];
        let range = block.ops();
        if let Some((count, next)) = self.ops[range].iter().enumerate().skip(1).find(|(_, op)| usize::from(op.idx) == ticks) {
            block.count = count as u8;
            block.ticks = ticks as u8;
            block.bytes = next.off;
            block.target[0] = block.rip.wrapping_add(u64::from(next.off));
            block.link = [NONE; 2];
        }
    }

    /// Drops the blocks of a page that was written. Blocks that cross into it are found by their own page: the decoder marks
    /// both, and [`Cache::drop_crossing`] takes them.
    pub fn drop_page(&mut self, page: u32) {
        let Some(slot) = self.pages.get_mut(page as usize) else { return };
        let mut at = std::mem::replace(slot, NONE);
        while at != NONE {
            let block = &mut self.blocks[at as usize];
            block.valid = false;
            if block.flags & TRANSLATED != 0 {
                self.killed.push(at);
            }
            at = self.next_in_page[at as usize];
        }
        self.drop_crossing(page);
    }

    fn drop_crossing(&mut self, page: u32) {
        let blocks = &mut self.blocks;
        self.crossing.retain(|&at| {
            let block = &mut blocks[at as usize];
            block.valid &= block.second_page != page;
            block.valid
        });
    }
}

impl Block {
    /// The block's operations in the arena.
    #[inline(always)]
    pub fn ops(&self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + usize::from(self.count)
    }

    /// A block before its operations are known.
    pub fn new(linear: u64, rip: u64, mode: u16, page: u32) -> Block {
        Block {
            linear,
            rip,
            target: [0; 2],
            page,
            second_page: NONE,
            start: 0,
            mode,
            count: 0,
            ticks: 0,
            bytes: 0,
            flags: 0,
            valid: true,
            link: [NONE; 2],
            next_in_bucket: NONE,
        }
    }
}


const _: () = assert!(size_of::<Block>() == 64, "a block is one cache line");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_blocks_leave_their_chain() {
        let mut cache = Cache::new();
        for _ in 0..100 {
            cache.insert(Block::new(0x1000, 0x1000, 2, 7), &[]);
            cache.drop_page(7);
        }
        assert_eq!(cache.find(0x1000, 0x1000, 7, 2), None);
        assert_eq!(cache.buckets[bucket(0x1000, 7)], NONE);
        let kept = cache.insert(Block::new(0x1000, 0x1000, 2, 7), &[]);
        assert_eq!(cache.find(0x1000, 0x1000, 7, 2), Some(kept));
        assert_eq!(cache.blocks[kept as usize].next_in_bucket, NONE);
    }
}
