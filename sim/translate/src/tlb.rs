//! The fast tags of a TLB: which guest addresses may be read and written directly, and where they are.
//!
//! # Theory
//! Translated code trusts these arrays without a bounds check, so they are sealed here: whoever fills them says where in guest memory a page is, and
//! [`FastTags::allow_read`] and [`FastTags::allow_write`] refuse what would lie outside [`FastTags::limit`]. A tag is the negated page address, so that
//! `address + tag <= 4096 - size` tests hit and page crossing at once.
//!
//! # Invariant
//! If `read` or `write` of a slot is the negated address of page `p` with that index, then `p + addend` is a page inside `0..limit`. A tag that admits
//! nothing is zero, or for the first and last index something else.

/// Entries of each view: one per virtual page number modulo this.
pub const ENTRIES: usize = 1 << 16;
/// Views: kernel, kernel with user pages, user; a fourth so that masks suffice.
pub const VIEWS: usize = 4;
pub(crate) const READ: usize = 0;
pub(crate) const WRITE: usize = 1;
pub(crate) const ADDEND: usize = 2;
const KINDS: usize = 4;
/// Words of one view.
pub(crate) const VIEW_WORDS: usize = KINDS * ENTRIES;
const WORDS: usize = VIEWS * VIEW_WORDS;

/// The fast tags of one TLB.
#[derive(Clone)]
pub struct FastTags {
    /// By view, kind and index.
    words: Box<[u64; WORDS]>,
    limit: u64,
}

impl std::fmt::Debug for FastTags {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("FastTags").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// The slot of an address.
#[inline(always)]
pub fn index(address: u64) -> usize {
    (address >> 12) as usize & (ENTRIES - 1)
}

/// A tag that no address of this index hits, even if up to 15 is added to the sum: zero where that suffices, so that most of the memory need not be touched.
#[inline(always)]
fn never(index: usize) -> u64 {
    match index & (ENTRIES - 1) {
        // Zero would admit page 0, and by wrapping the last bytes of the last page. Half the reach of the index away, nothing is near.
        0 | LAST => 1 << 27,
        _ => 0,
    }
}

const LAST: usize = ENTRIES - 1;

#[inline(always)]
fn word(view: usize, kind: usize, index: usize) -> usize {
    ((view & (VIEWS - 1)) * KINDS + kind) * ENTRIES + (index & (ENTRIES - 1))
}

impl Default for FastTags {
    fn default() -> Self {
        FastTags::new()
    }
}

impl FastTags {
    /// Tags that admit nothing.
    pub fn new() -> FastTags {
        let words: Box<[u64; WORDS]> = vec![0u64; WORDS].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("the length is WORDS"));
        let mut tags = FastTags { words, limit: 0 };
        for view in 0..VIEWS {
            for index in [0, LAST] {
                tags.words[word(view, READ, index)] = never(index);
                tags.words[word(view, WRITE, index)] = never(index);
            }
        }
        tags
    }

    /// Bytes of guest memory that a hit may reach; what runs with these tags must have as many.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Read tag of a slot.
    #[inline(always)]
    pub fn read(&self, view: usize, index: usize) -> u64 {
        self.words[word(view, READ, index)]
    }

    /// Write tag of a slot.
    #[inline(always)]
    pub fn write(&self, view: usize, index: usize) -> u64 {
        self.words[word(view, WRITE, index)]
    }

    /// Flat memory offset minus address, of a slot's page.
    #[inline(always)]
    pub fn addend(&self, index: usize) -> u64 {
        self.words[word(0, ADDEND, index)]
    }

    /// Says where the page of `index` is, and drops its tags.
    pub fn place(&mut self, index: usize, addend: u64) {
        self.drop_tags(index);
        for view in 0..VIEWS {
            self.words[word(view, ADDEND, index)] = addend;
        }
    }

    /// Whether the page of `address` lies in memory of `len` bytes, as its slot is placed.
    fn backed(&mut self, address: u64, len: u64) -> bool {
        let at = self.addend(index(address)).wrapping_add(address & !0xfff);
        if len < 4096 || at > len - 4096 {
            return false;
        }
        self.limit = self.limit.max(at + 4096);
        true
    }

    /// Admits reads of the page of `address`, if it lies in memory of `len` bytes.
    pub fn allow_read(&mut self, view: usize, address: u64, len: u64) {
        if self.backed(address, len) {
            self.words[word(view, READ, index(address))] = (address & !0xfff).wrapping_neg();
        }
    }

    /// Admits writes to the page of `address`, if it lies in memory of `len` bytes.
    pub fn allow_write(&mut self, view: usize, address: u64, len: u64) {
        if self.backed(address, len) {
            self.words[word(view, WRITE, index(address))] = (address & !0xfff).wrapping_neg();
        }
    }

    /// Drops the tags of a slot.
    pub fn drop_tags(&mut self, index: usize) {
        for view in 0..VIEWS {
            self.words[word(view, READ, index)] = never(index);
            self.words[word(view, WRITE, index)] = never(index);
        }
    }

    /// Drops the write tags of a slot.
    pub fn drop_write(&mut self, index: usize) {
        for view in 0..VIEWS {
            self.words[word(view, WRITE, index)] = never(index);
        }
    }

    /// The words of one view.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(crate) fn view(&self, view: usize) -> *const u64 {
        self.words[(view & (VIEWS - 1)) * VIEW_WORDS..].as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_memory_is_not_admitted() {
        let mut tags = FastTags::new();
        tags.place(index(0x5000), 0x3000u64.wrapping_sub(0x5000));
        tags.allow_read(0, 0x5123, 0x3fff);
        assert_eq!(tags.read(0, 5), 0);
        tags.allow_read(0, 0x5123, 0x4000);
        assert_eq!(tags.read(0, 5), 0x5000u64.wrapping_neg());
        assert_eq!(tags.limit(), 0x4000);
        tags.place(5, 0);
        assert_eq!(tags.read(0, 5), 0);
    }

    #[test]
    fn nothing_hits_an_empty_slot() {
        let tags = FastTags::new();
        for page in [0u64, 1, 0xfffe, 0xffff, 0x1_0000, 0x7_ffff_ffff, 0x8_0000_0000_0000, 0x8_0000_0000_0001, 0xf_ffff_ffff_fffe, 0xf_ffff_ffff_ffff] {
            for (low, size) in [(0u64, 1u64), (0xff0, 16), (0xff9, 8), (0xfff, 16), (0xfff, 1)] {
                let address = page << 12 | low;
                // As the interpreter tests, and as translated code does.
                assert!(address.wrapping_add(tags.read(0, index(address))) > 4095, "{address:#x}");
                assert!(address.wrapping_add(tags.read(0, index(address))).wrapping_add(size - 1) > 4095, "{address:#x}");
            }
        }
    }
}
