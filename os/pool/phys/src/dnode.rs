//! Dnodes: the description of one object.

use alloc::vec::Vec;

use crate::FormatError;
use crate::blkptr::{self, BlockPointer};
use crate::bytes::View;

/// Bytes of one dnode slot.
pub const SLOT: usize = 512;
const CORE: usize = 64;

/// Object types that readers ask for by name.
pub mod kind {
    pub const OBJECT_DIRECTORY: u8 = 1;
    pub const DNODE: u8 = 10;
    pub const OBJSET: u8 = 11;
    pub const DSL_DIR: u8 = 12;
    pub const DSL_DATASET: u8 = 16;
    pub const ZNODE: u8 = 17;
    pub const FILE: u8 = 19;
    pub const DIRECTORY: u8 = 20;
    pub const ZVOL: u8 = 23;
    pub const SYSTEM_ATTRIBUTES: u8 = 44;
}

/// A parsed dnode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dnode {
    /// Object type; never 0 (free slots do not parse to a dnode).
    pub kind: u8,
    /// log2 of the indirect block size in bytes, 12 to 17 (10 to 17 accepted).
    pub indirect_shift: u32,
    /// 1 = the block pointers point to data.
    pub levels: u8,
    pub bonus_kind: u8,
    /// Checksum and compression ids of the object; 0 = the dataset's.
    pub checksum: u8,
    pub compression: u8,
    /// Flags as stored; bits 0 (used in bytes) and 2 (spill) follow from the other fields when encoded.
    pub flags: u8,
    /// Bytes of a data block.
    pub block_size: u64,
    /// Largest block number.
    pub last_block: u64,
    /// Space used, in bytes.
    pub used: u64,
    /// Slots this dnode takes, 1 or more.
    pub slots: usize,
    pub pointers: Vec<BlockPointer>,
    pub bonus: Vec<u8>,
    pub spill: Option<BlockPointer>,
}

impl Dnode {
    /// Parses the dnode at the start of `data`, which reaches to the end of its block. `None`: the slot is free.
    ///
    /// # Errors
    /// Counts, sizes and shifts out of range, a dnode that crosses its block's end, bad block pointers.
    pub fn parse(data: &[u8]) -> Result<Option<Self>, FormatError> {
        let view = View::new("dnode", data);
        let kind = view.u8(0)?;
        if kind == 0 {
            return Ok(None);
        }
        let indirect_shift = u32::from(view.u8(1)?);
        let (levels, count) = (view.u8(2)?, usize::from(view.u8(3)?));
        let slots = usize::from(view.u8(12)?) + 1;
        let flags = view.u8(7)?;
        let bonus_size = usize::from(view.u16(10)?);
        if !(10..=17).contains(&indirect_shift) {
            return Err(view.error("indirect block shift out of range", u64::from(indirect_shift)));
        }
        if !(1..=7).contains(&levels) || !(1..=3).contains(&count) {
            return Err(view.error("level or pointer count out of range", u64::from(levels)));
        }
        let block_size = u64::from(view.u16(8)?) * crate::SECTOR;
        if block_size == 0 || block_size > crate::BLOCK_MAX {
            return Err(view.error("impossible block size", block_size));
        }
        let whole = View::new("dnode", view.slice(0, slots * SLOT)?);
        let spill_at = whole.data.len() - blkptr::SIZE;
        let bonus_at = CORE + count * blkptr::SIZE;
        let has_spill = flags & 4 != 0;
        let bonus_end = if has_spill { spill_at } else { whole.data.len() };
        if bonus_at + bonus_size > bonus_end {
            return Err(view.error("bonus buffer is too long", bonus_size as u64));
        }
        let pointer = |at: usize| whole.slice(at, blkptr::SIZE).and_then(BlockPointer::parse);
        let used = whole.u64(24)?;
        Ok(Some(Self {
            kind,
            indirect_shift,
            levels,
            bonus_kind: whole.u8(4)?,
            checksum: whole.u8(5)?,
            compression: whole.u8(6)?,
            flags,
            block_size,
            last_block: whole.u64(16)?,
            used: if flags & 1 != 0 { used } else { used.saturating_mul(crate::SECTOR) },
            slots,
            pointers: (0..count).map(|index| pointer(CORE + index * blkptr::SIZE)).collect::<Result<_, _>>()?,
            bonus: whole.slice(bonus_at, bonus_size)?.to_vec(),
            spill: if has_spill { Some(pointer(spill_at)?) } else { None },
        }))
    }

    /// The dnode's bytes on disk, `slots` times 512.
    ///
    /// # Panics
    /// If bonus, pointers and spill do not fit: our own broken invariant.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = alloc::vec![0; self.slots * SLOT];
        let count = self.pointers.len();
        let bonus_at = CORE + count * blkptr::SIZE;
        let spill_at = out.len() - blkptr::SIZE;
        let end = if self.spill.is_some() { spill_at } else { out.len() };
        assert!((1..=3).contains(&count) && bonus_at + self.bonus.len() <= end, "dnode with {count} pointers, {} bonus bytes", self.bonus.len());
        let small = |value: usize| u8::try_from(value).expect("checked above");
        let block_sectors = u16::try_from(self.block_size / crate::SECTOR).expect("block size within limits");
        out[..8].copy_from_slice(&[
            self.kind,
            u8::try_from(self.indirect_shift).expect("at most 17"),
            self.levels,
            small(count),
            self.bonus_kind,
            self.checksum,
            self.compression,
            // `used` is in bytes; the others as they were.
            1 | (self.flags & !5) | if self.spill.is_some() { 4 } else { 0 },
        ]);
        out[8..10].copy_from_slice(&block_sectors.to_le_bytes());
        out[10..12].copy_from_slice(&u16::try_from(self.bonus.len()).expect("fits a dnode").to_le_bytes());
        out[12] = small(self.slots - 1);
        out[16..24].copy_from_slice(&self.last_block.to_le_bytes());
        out[24..32].copy_from_slice(&self.used.to_le_bytes());
        for (index, pointer) in self.pointers.iter().enumerate() {
            out[CORE + index * blkptr::SIZE..][..blkptr::SIZE].copy_from_slice(&pointer.encode());
        }
        out[bonus_at..bonus_at + self.bonus.len()].copy_from_slice(&self.bonus);
        if let Some(spill) = &self.spill {
            out[spill_at..].copy_from_slice(&spill.encode());
        }
        out
    }

    /// Index of block `block`'s pointer at `level` within its parent: the dnode itself for the top level, else an indirect
    /// block of `1 << (indirect_shift - 7)` pointers.
    #[must_use]
    pub const fn pointer_index(&self, block: u64, level: u8) -> u64 {
        let fan = self.indirect_shift - 7;
        let shift = fan * level as u32;
        let index = if shift >= 64 { 0 } else { block >> shift };
        if level + 1 == self.levels { index } else { index & ((1 << fan) - 1) }
    }
}
