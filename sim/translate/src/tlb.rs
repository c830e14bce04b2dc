//! The fast tags of a TLB: which guest addresses may be read and written directly, and where they are.
//!
//! # Theory
//! Translated code trusts these arrays without a bounds check, so they are sealed here: whoever fills them says where in guest memory a page is, and
//! [`FastTags::allow_read`] and [`FastTags::allow_write`] refuse what would lie outside [`FastTags::limit`]. A tag is the negated page address, so that
//! `address + tag <= 4096 - size` tests hit and page crossing at once.
//!
//! A *fetch* word says the same of code: which page of memory it comes from, and that fetching it may go on ([`fetch_word`]). Units compare it with the one they
//! were made for when control comes from another page.
//!
//! Most slots admit little, and few views have any: what a slot admits is kept in one place, so that dropping it touches only that.
//!
//! # Invariant
//! If `read` or `write` of a slot is the negated address of page `p` with that index, then `p + addend` of that view is a page inside `base..base + limit` of the host's
//! addresses. A tag that admits nothing is zero, or for the first and last index something else. Memory that has another place drops what is admitted ([`FastTags::stand_on`]).

/// Entries of each view: one per virtual page number modulo this.
pub const ENTRIES: usize = 1 << 16;
/// Views: kernel, kernel with user pages, user; a fourth so that masks suffice.
pub const VIEWS: usize = 4;
pub(crate) const READ: usize = 0;
pub(crate) const WRITE: usize = 1;
pub(crate) const ADDEND: usize = 2;
pub(crate) const FETCH: usize = 3;
const KINDS: usize = 4;
/// Words of one view.
pub(crate) const VIEW_WORDS: usize = KINDS * ENTRIES;
const WORDS: usize = VIEWS * VIEW_WORDS;

/// The fast tags of one TLB.
#[derive(Clone)]
pub struct FastTags {
    /// By view, kind and index.
    words: Box<[u64; WORDS]>,
    /// By index: flat memory offset minus address.
    places: Box<[u64; ENTRIES]>,
    /// By index: a bit for each word that admits something, by view and kind.
    admitted: Box<[u16; ENTRIES]>,
    limit: u64,
    /// Where guest memory is.
    base: u64,
}

/// The fetch word of code at `address` that is in page `page` of memory; `None` beyond a tebibyte of it. The slot has the middle of the address.
pub fn fetch_word(address: u64, page: u32) -> Option<u64> {
    let number = u64::from(page) + 1;
    (number < PAGES).then_some(address & !(PAGES - 1) | number)
}

/// Bytes that the slots reach, so that this many numbers of pages fit below the part of the address that a fetch word has.
const PAGES: u64 = ENTRIES as u64 * 4096;

fn bit(view: usize, kind: usize) -> u16 {
    1 << ((view & (VIEWS - 1)) * KINDS + kind)
}

fn boxed<T: Copy + std::fmt::Debug, const N: usize>(value: T) -> Box<[T; N]> {
    vec![value; N].into_boxed_slice().try_into().expect("the length is N")
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
        let mut tags = FastTags { words: boxed(0), places: boxed(0), admitted: boxed(0), limit: 0, base: 0 };
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

    /// The host's address that addends of views lead to guest memory at.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Says what memory what is admitted lies in. If that is elsewhere than before, nothing is admitted any more.
    #[inline]
    pub fn stand_on(&mut self, ram: &mut [u8]) {
        let base = ram.as_mut_ptr() as u64;
        if self.base != base {
            self.base = base;
            self.limit = 0;
            for index in 0..ENTRIES {
                self.drop_tags(index);
            }
        }
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
        self.places[index & (ENTRIES - 1)]
    }

    /// Says where the page of `index` is, and drops its tags.
    pub fn place(&mut self, index: usize, addend: u64) {
        self.drop_tags(index);
        self.places[index & (ENTRIES - 1)] = addend;
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

    /// Sets a tag.
    fn admit(&mut self, view: usize, kind: usize, address: u64, len: u64) {
        if self.backed(address, len) {
            let index = index(address);
            self.words[word(view, ADDEND, index)] = self.places[index].wrapping_add(self.base);
            self.words[word(view, kind, index)] = (address & !0xfff).wrapping_neg();
            self.admitted[index] |= bit(view, kind);
        }
    }

    /// Admits reads of the page of `address`, if it lies in memory of `len` bytes.
    pub fn allow_read(&mut self, view: usize, address: u64, len: u64) {
        self.admit(view, READ, address, len);
    }

    /// Admits writes to the page of `address`, if it lies in memory of `len` bytes.
    pub fn allow_write(&mut self, view: usize, address: u64, len: u64) {
        self.admit(view, WRITE, address, len);
    }

    /// Says that code at `address` may be fetched, from page `page` of memory.
    pub fn allow_fetch(&mut self, view: usize, address: u64, page: u32) {
        if let Some(fetch) = fetch_word(address, page) {
            let index = index(address);
            self.words[word(view, FETCH, index)] = fetch;
            self.admitted[index] |= bit(view, FETCH);
        }
    }

    /// The page of memory that code at `address` comes from, if it was said that it may be fetched.
    #[inline(always)]
    pub fn fetched(&self, view: usize, address: u64) -> Option<u32> {
        let fetch = self.words[word(view, FETCH, index(address))];
        let number = fetch & (PAGES - 1);
        (number != 0 && (fetch ^ address) & !(PAGES - 1) == 0).then(|| (number - 1) as u32)
    }

    /// Drops those tags of a slot whose bits are in `which`.
    fn drop_bits(&mut self, index: usize, which: u16) {
        let index = index & (ENTRIES - 1);
        let mut bits = self.admitted[index] & which;
        self.admitted[index] &= !which;
        while bits != 0 {
            let next = bits.trailing_zeros() as usize;
            let (view, kind) = (next / KINDS, next % KINDS);
            self.words[word(view, kind, index)] = if kind == FETCH { 0 } else { never(index) };
            bits &= bits - 1;
        }
    }

    /// Drops the tags of a slot.
    pub fn drop_tags(&mut self, index: usize) {
        self.drop_bits(index, u16::MAX);
    }

    /// Drops the write tags of a slot.
    pub fn drop_write(&mut self, index: usize) {
        const WRITES: u16 = 1 << WRITE | 1 << (KINDS + WRITE) | 1 << (2 * KINDS + WRITE) | 1 << (3 * KINDS + WRITE);
        self.drop_bits(index, WRITES);
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
    fn what_was_admitted_is_dropped_in_every_view() {
        let mut tags = FastTags::new();
        tags.place(5, 0);
        for view in 0..VIEWS {
            tags.allow_read(view, 0x5000, 0x10000);
            tags.allow_write(view, 0x5000, 0x10000);
            tags.allow_fetch(view, 0x5000, 5);
            assert_eq!(Some(tags.words[word(view, FETCH, 5)]), fetch_word(0x5fff, 5));
            assert_eq!([0x5123, 0x4fff, 0x6000, 0x1000_5000].map(|address| tags.fetched(view, address)), [Some(5), None, None, None]);
        }
        tags.drop_write(5);
        assert!((0..VIEWS).all(|view| tags.write(view, 5) == 0 && tags.read(view, 5) != 0));
        tags.drop_tags(5);
        assert!((0..VIEWS).all(|view| tags.read(view, 5) == 0 && tags.words[word(view, FETCH, 5)] == 0));
        // Pages that share a slot, and the first page of memory, have words of their own.
        assert_ne!(fetch_word(0x5000, 5), fetch_word(0x1000_5000, 5));
        assert_ne!(fetch_word(0, 0), Some(0));
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
