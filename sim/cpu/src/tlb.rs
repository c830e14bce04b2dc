//! The translation look-aside buffer.
//!
//! # Theory
//! Guests can see stale translations, so the TLB is *state*: direct-mapped, [`ENTRIES`] entries of 4 KiB, one per virtual page
//! number modulo [`ENTRIES`]; the entry of a large page is filled 4 KiB at a time. The architectural part is `tag`, `leaf` and `pcid`. The *fast
//! tags* beside it say which accesses need no look at permissions; they are derived, and dropping them is never visible.
//!
//! A fast tag is the negated page address, so `address + tag <= 4096 - size` tests hit and page crossing at once. A write tag is set only
//! when the page may be written without bookkeeping ([`sim_mem::GuestMemory::plain_writable`]).
//!
//! There are three views, because the same entry permits different things to different callers: [`KERNEL`] (supervisor, user pages
//! refused: SMAP), [`KERNEL_USER`] (supervisor, user pages allowed) and [`USER`].

pub(crate) use sim_translate::ENTRIES;
use sim_translate::FastTags;
pub(crate) use sim_translate::index;

pub(crate) const KERNEL: usize = 0;
pub(crate) const KERNEL_USER: usize = 1;
pub(crate) const USER: usize = 2;

/// `leaf` bits beside the frame address.
pub(crate) const LEAF_WRITE: u64 = 2;
pub(crate) const LEAF_USER: u64 = 4;
/// Nested tables refuse writes, or execution, whatever the guest's say.
pub(crate) const LEAF_NESTED_RO: u64 = 1 << 3;
pub(crate) const LEAF_NESTED_NX: u64 = 1 << 4;
pub(crate) const LEAF_DIRTY: u64 = 1 << 6;
pub(crate) const LEAF_GLOBAL: u64 = 1 << 8;
/// Fragment of a large page.
pub(crate) const LEAF_LARGE: u64 = 1 << 9;
/// RAM or ROM backs the frame (the addend is right).
pub(crate) const LEAF_RAM: u64 = 1 << 10;
pub(crate) const LEAF_NX: u64 = 1 << 63;
pub(crate) const LEAF_FRAME: u64 = 0x000f_ffff_ffff_f000;

#[derive(Clone)]
pub(crate) struct Tlb {
    /// Fast tags, and where the pages are in memory.
    pub fast: FastTags,
    /// Virtual page address | 1, or 0.
    pub tag: Box<[u64; ENTRIES]>,
    pub leaf: Box<[u64; ENTRIES]>,
    pub pcid: Box<[u16; ENTRIES]>,
    filled: Vec<u16>,
    /// Fragments of large pages, by the GiB they lie in modulo [`GIBS`].
    large: Box<[u32; GIBS]>,
}

/// A kernel's large pages are far from a program's small ones.
const GIBS: usize = 256;

fn gib(address: u64) -> usize {
    (address >> 30) as usize & (GIBS - 1)
}

fn boxed<T: Copy + std::fmt::Debug, const N: usize>(value: T) -> Box<[T; N]> {
    vec![value; N].into_boxed_slice().try_into().expect("the length is N")
}

impl Tlb {
    pub fn new() -> Tlb {
        Tlb {
            fast: FastTags::new(),
            tag: boxed(0),
            leaf: boxed(0),
            pcid: boxed(0),
            filled: Vec::new(),
            large: boxed(0),
        }
    }

    /// The leaf for `address` as it stands in the TLB.
    #[inline(always)]
    pub fn find(&self, address: u64, pcid: u16) -> Option<u64> {
        let index = index(address);
        let leaf = self.leaf[index];
        (self.tag[index] == address & !0xfff | 1 && (self.pcid[index] == pcid || leaf & LEAF_GLOBAL != 0)).then_some(leaf)
    }

    /// Fills the entry for `address`, throwing out what was there.
    pub fn fill(&mut self, address: u64, pcid: u16, leaf: u64, addend: u64) {
        let index = index(address);
        if self.tag[index] == 0 {
            self.filled.push(index as u16);
        } else {
            self.large[gib(self.tag[index])] -= u32::from(self.leaf[index] & LEAF_LARGE != 0);
        }
        self.large[gib(address)] += u32::from(leaf & LEAF_LARGE != 0);
        self.tag[index] = address & !0xfff | 1;
        self.leaf[index] = leaf;
        self.pcid[index] = pcid;
        self.fast.place(index, addend);
    }

    fn clear(&mut self, index: usize) {
        self.large[gib(self.tag[index])] -= u32::from(self.leaf[index] & LEAF_LARGE != 0);
        self.tag[index] = 0;
        self.leaf[index] = 0;
        self.fast.drop_tags(index);
    }

    /// Drops the entries for which `goes(tag, leaf, pcid)` holds.
    pub fn flush_if(&mut self, goes: impl Fn(u64, u64, u16) -> bool) {
        let filled = std::mem::take(&mut self.filled);
        let mut kept = Vec::new();
        for slot in filled {
            let index = usize::from(slot);
            if goes(self.tag[index], self.leaf[index], self.pcid[index]) {
                self.clear(index);
            } else {
                kept.push(slot);
            }
        }
        self.filled = kept;
    }

    /// Drops everything.
    pub fn flush(&mut self) {
        let mut filled = std::mem::take(&mut self.filled);
        for slot in filled.drain(..) {
            self.clear(usize::from(slot));
        }
        self.filled = filled;
        debug_assert!(self.large.iter().all(|&count| count == 0));
    }

    /// Drops what translates `address` (INVLPG): the whole 1 GiB around it, of what is large there.
    pub fn flush_page(&mut self, address: u64, pcid: u16) {
        if self.large[gib(address)] != 0 {
            self.flush_if(|tag, leaf, entry_pcid| {
                let near = leaf & LEAF_LARGE != 0 && tag >> 30 == address >> 30;
                (near || tag & !0xfff == address & !0xfff) && (entry_pcid == pcid || leaf & LEAF_GLOBAL != 0)
            });
        } else if self.find(address, pcid).is_some() {
            let index = index(address);
            self.clear(index);
            self.filled.retain(|&slot| usize::from(slot) != index);
        }
    }

    /// Drops the fast tags of what is not global: another address space came in.
    pub fn drop_fast_not_global(&mut self) {
        for &slot in &self.filled {
            if self.leaf[usize::from(slot)] & LEAF_GLOBAL == 0 {
                self.fast.drop_tags(usize::from(slot));
            }
        }
    }

    /// Drops all fast tags: permissions of views changed (CR0.WP, SMEP...).
    pub fn drop_all_fast(&mut self) {
        let filled = std::mem::take(&mut self.filled);
        for &slot in &filled {
            self.fast.drop_tags(usize::from(slot));
        }
        self.filled = filled;
    }

    /// Drops all fast write tags: some page must be watched again.
    pub fn drop_write_tags(&mut self) {
        for &slot in &self.filled {
            self.fast.drop_write(usize::from(slot));
        }
    }

    /// Entries in a fixed order, for hashing and comparing in tests.
    pub fn entries(&self) -> Vec<(u64, u64, u16)> {
        let mut slots: Vec<u16> = self.filled.clone();
        slots.sort_unstable();
        slots.iter().map(|&slot| usize::from(slot)).map(|index| (self.tag[index], self.leaf[index], self.pcid[index])).collect()
    }
}
