//! Guest-physical memory: RAM and ROM ranges in a 64-bit address space, with the page bookkeeping that snapshots and the CPU need.
//!
//! # Theory
//! All RAM lies in one flat host allocation; an address map of a few ranges says which guest-physical addresses it backs
//! (normally two: below the PCI hole and above 4 GiB) and which of them are ROM. Whoever writes memory, CPU or device, goes through
//! [`GuestMemory`], which keeps two facts per page:
//!
//! * *dirty*: written since the last snapshot (a snapshot copies only these);
//! * *code*: some CPU has decoded instructions from it. A write to such a page drops the mark and is logged in
//!   [`GuestMemory::code_writes`], and each CPU reads the log before it runs on. So self-modifying and cross-modifying code work
//!   through any alias, from any CPU or device, and CPUs need no check in front of each block.
//!
//! A CPU may write through [`GuestMemory::ram_mut`] only to pages that are dirty and not code ([`GuestMemory::plain_writable`]); when a page gains
//! the code mark or loses the dirty mark, [`GuestMemory::mark_epoch`] changes and CPUs drop their licence to write directly.
//!
//! # Failure
//! Accesses outside RAM and ROM return [`Unbacked`]; the board decides what a bus does then. Writes to ROM are ignored, as on a PC.
//!
//! # Limits
//! At most [`RANGES_MAX`] ranges; RAM up to the host's memory. Pages are 4 KiB.

use std::fmt;
use std::ops::Range;

#[cfg(test)]
mod tests;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// Ranges an address map may hold: RAM below and above the hole, and a few ROMs.
pub const RANGES_MAX: usize = 16;

/// No RAM or ROM answers at this guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unbacked {
    pub gpa: u64,
}

impl fmt::Display for Unbacked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "no memory at guest-physical address {:#x}", self.gpa)
    }
}

impl std::error::Error for Unbacked {}

/// One range of the address map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRange {
    /// Guest-physical addresses.
    pub gpa: Range<u64>,
    /// Where in the flat allocation the range begins.
    pub offset: u64,
    /// Whether guest writes reach it.
    pub writable: bool,
}

const DIRTY: u8 = 1;
const CODE: u8 = 2;
const ROM: u8 = 4;

/// All memory of one machine.
#[derive(Clone)]
pub struct GuestMemory {
    ram: Box<[u8]>,
    map: Vec<MapRange>,
    /// Per page of `ram`: DIRTY, CODE, ROM.
    marks: Box<[u8]>,
    /// Pages (of `ram`) marked dirty, in order of their first write.
    dirty: Vec<u32>,
    /// Pages that lost their code mark, in order; never shortened between [`GuestMemory::trim_code_log`] calls.
    code_writes: Vec<u32>,
    /// Entries trimmed off the front of the log.
    code_trimmed: u64,
    mark_epoch: u64,
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("GuestMemory").field("bytes", &self.ram.len()).field("map", &self.map).finish_non_exhaustive()
    }
}

impl GuestMemory {
    /// Makes a PC's memory: `bytes` of zeroed RAM (rounded up to a page), what does not fit below `hole_start` continues at 4 GiB.
    pub fn new_pc(bytes: u64, hole_start: u64) -> GuestMemory {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        let low = bytes.min(hole_start);
        let mut map = vec![MapRange { gpa: 0..low, offset: 0, writable: true }];
        if bytes > low {
            map.push(MapRange { gpa: 1 << 32..(1 << 32) + (bytes - low), offset: low, writable: true });
        }
        GuestMemory::with_map(bytes, map)
    }

    /// Makes `bytes` of RAM at address 0 (below 3 GiB; more continues at 4 GiB).
    pub fn new(bytes: u64) -> GuestMemory {
        GuestMemory::new_pc(bytes, 3 << 30)
    }

    /// Makes memory with a map of its own. Ranges are page-aligned, disjoint and inside `bytes`.
    pub fn with_map(bytes: u64, map: Vec<MapRange>) -> GuestMemory {
        assert!(map.len() <= RANGES_MAX, "too many ranges: {}", map.len());
        assert!(bytes.is_multiple_of(PAGE_SIZE));
        let size = usize::try_from(bytes).expect("the host can address guest memory");
        let mut marks = vec![0u8; size / PAGE_SIZE as usize].into_boxed_slice();
        for range in &map {
            let len = range.gpa.end - range.gpa.start;
            assert!((range.gpa.start | range.gpa.end | range.offset).is_multiple_of(PAGE_SIZE) && range.offset + len <= bytes, "bad range {range:?}");
            if !range.writable {
                let first = (range.offset / PAGE_SIZE) as usize;
                marks[first..first + (len / PAGE_SIZE) as usize].fill(ROM);
            }
        }
        GuestMemory {
            ram: vec![0u8; size].into_boxed_slice(),
            map,
            marks,
            dirty: Vec::new(),
            code_writes: Vec::new(),
            code_trimmed: 0,
            mark_epoch: 0,
        }
    }

    /// The address map.
    pub fn map(&self) -> &[MapRange] {
        &self.map
    }

    /// Bytes of RAM and ROM.
    pub fn len(&self) -> u64 {
        self.ram.len() as u64
    }

    /// Whether there is no memory at all.
    pub fn is_empty(&self) -> bool {
        self.ram.is_empty()
    }

    /// The offset of `gpa` in the flat allocation, if memory answers there.
    #[inline]
    pub fn offset_of(&self, gpa: u64) -> Option<usize> {
        for range in &self.map {
            if range.gpa.contains(&gpa) {
                return Some((gpa - range.gpa.start + range.offset) as usize);
            }
        }
        None
    }

    /// The guest-physical address of an offset (the first range that covers it).
    pub fn gpa_of(&self, offset: usize) -> Option<u64> {
        let offset = offset as u64;
        self.map.iter().find(|range| (range.offset..range.offset + (range.gpa.end - range.gpa.start)).contains(&offset)).map(|range| offset - range.offset + range.gpa.start)
    }

    /// All RAM, flat, for reading.
    #[inline]
    pub fn ram(&self) -> &[u8] {
        &self.ram
    }

    /// All RAM, flat, for a CPU's direct writes: only to pages for which [`GuestMemory::plain_writable`] holds.
    #[inline]
    pub fn ram_mut(&mut self) -> &mut [u8] {
        &mut self.ram
    }

    /// Whether the page at `offset` may be written without telling: it is dirty, holds no code and is not ROM.
    #[inline]
    pub fn plain_writable(&self, offset: usize) -> bool {
        self.marks[offset / PAGE_SIZE as usize] == DIRTY
    }

    /// Changes when a page that may have been plainly writable is so no more.
    #[inline]
    pub fn mark_epoch(&self) -> u64 {
        self.mark_epoch
    }

    /// Marks the page at `offset` as holding decoded instructions.
    pub fn mark_code(&mut self, offset: usize) {
        let mark = &mut self.marks[offset / PAGE_SIZE as usize];
        if *mark & CODE == 0 {
            *mark |= CODE;
            self.mark_epoch += 1;
        }
    }

    /// Notes a write to the page at `offset`. Returns false if the page is ROM and the write must be dropped.
    #[inline]
    fn note_write(&mut self, offset: usize) -> bool {
        let page = offset / PAGE_SIZE as usize;
        let mark = self.marks[page];
        if mark == DIRTY {
            return true;
        }
        self.note_first_write(page, mark)
    }

    #[cold]
    fn note_first_write(&mut self, page: usize, mark: u8) -> bool {
        if mark & ROM != 0 {
            return false;
        }
        if mark & DIRTY == 0 {
            self.dirty.push(page as u32);
        }
        if mark & CODE != 0 {
            self.code_writes.push(page as u32);
        }
        self.marks[page] = DIRTY;
        true
    }

    /// Position of the end of the log of code-page writes.
    #[inline]
    pub fn code_log_end(&self) -> u64 {
        self.code_trimmed + self.code_writes.len() as u64
    }

    /// Pages (index into the flat allocation, in pages) that lost their code mark since position `from`; `None` if the log no longer
    /// reaches back that far, and every decoded block must go.
    pub fn code_writes(&self, from: u64) -> Option<&[u32]> {
        let skip = from.checked_sub(self.code_trimmed)?;
        self.code_writes.get(usize::try_from(skip).ok()?..)
    }

    /// Forgets log entries before `position`. The board calls it when every CPU has read that far.
    pub fn trim_code_log(&mut self, position: u64) {
        let count = position.saturating_sub(self.code_trimmed).min(self.code_writes.len() as u64);
        self.code_writes.drain(..count as usize);
        self.code_trimmed += count;
    }

    /// Reads bytes that may span pages and ranges.
    pub fn read(&self, gpa: u64, out: &mut [u8]) -> Result<(), Unbacked> {
        let mut done = 0;
        while done < out.len() {
            let at = gpa.wrapping_add(done as u64);
            let offset = self.offset_of(at).ok_or(Unbacked { gpa: at })?;
            let count = (out.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            out[done..done + count].copy_from_slice(&self.ram[offset..offset + count]);
            done += count;
        }
        Ok(())
    }

    /// Writes bytes that may span pages and ranges. Nothing is written if any byte is unbacked; writes to ROM are dropped.
    pub fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), Unbacked> {
        let mut at = gpa;
        while at < gpa.saturating_add(bytes.len() as u64) {
            self.offset_of(at).ok_or(Unbacked { gpa: at })?;
            at = (at | (PAGE_SIZE - 1)).wrapping_add(1);
            if at == 0 {
                break;
            }
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = gpa.wrapping_add(done as u64);
            let offset = self.offset_of(at).ok_or(Unbacked { gpa: at })?;
            let count = (bytes.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            if self.note_write(offset) {
                self.ram[offset..offset + count].copy_from_slice(&bytes[done..done + count]);
            }
            done += count;
        }
        Ok(())
    }

    /// Writes bytes at a flat offset within one page, with bookkeeping.
    #[inline]
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        if self.note_write(offset) {
            self.ram[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Takes the right to write the page at `offset` directly: marks it dirty and drops its code mark. False for ROM.
    #[inline]
    pub fn open_for_write(&mut self, offset: usize) -> bool {
        self.note_write(offset)
    }

    /// Loads an image into RAM or ROM, ROM included (the loader is not the guest).
    pub fn load(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), Unbacked> {
        for (index, chunk) in bytes.chunks(PAGE_SIZE as usize).enumerate() {
            // Chunks need not be page-aligned: split once more at the page bound.
            let start = gpa.wrapping_add(index as u64 * PAGE_SIZE);
            let first = chunk.len().min((PAGE_SIZE - start % PAGE_SIZE) as usize);
            for (at, part) in [(start, &chunk[..first]), (start.wrapping_add(first as u64), &chunk[first..])] {
                if part.is_empty() {
                    continue;
                }
                let offset = self.offset_of(at).ok_or(Unbacked { gpa: at })?;
                self.note_write(offset);
                self.ram[offset..offset + part.len()].copy_from_slice(part);
            }
        }
        Ok(())
    }

    /// Reads a little-endian number of 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn read_u64(&self, gpa: u64, size: u8) -> Result<u64, Unbacked> {
        let mut bytes = [0; 8];
        if size == 8 && gpa % PAGE_SIZE <= PAGE_SIZE - 8 {
            let offset = self.offset_of(gpa).ok_or(Unbacked { gpa })?;
            bytes.copy_from_slice(&self.ram[offset..offset + 8]);
            return Ok(u64::from_le_bytes(bytes));
        }
        self.read(gpa, &mut bytes[..usize::from(size.min(8))])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a little-endian number of 1, 2, 4 or 8 bytes.
    pub fn write_u64(&mut self, gpa: u64, size: u8, value: u64) -> Result<(), Unbacked> {
        self.write(gpa, &value.to_le_bytes()[..usize::from(size.min(8))])
    }

    /// Pages (flat, in pages) written since the last [`GuestMemory::clear_dirty`], in order of first write.
    pub fn dirty_pages(&self) -> &[u32] {
        &self.dirty
    }

    /// Starts a new snapshot interval.
    pub fn clear_dirty(&mut self) {
        for page in self.dirty.drain(..) {
            self.marks[page as usize] &= !DIRTY;
        }
        self.mark_epoch += 1;
    }

    /// Forgets which pages hold decoded instructions, and the log of their writes: nobody has any.
    pub fn forget_code(&mut self) {
        for mark in &mut self.marks {
            *mark &= !CODE;
        }
        self.mark_epoch += 1;
        self.trim_code_log(self.code_log_end());
    }

    /// The bytes of one page (flat, in pages).
    pub fn page(&self, page: u32) -> &[u8] {
        let start = page as usize * PAGE_SIZE as usize;
        &self.ram[start..start + PAGE_SIZE as usize]
    }

    /// Replaces one page, as restoring a snapshot does. ROM included.
    pub fn restore_page(&mut self, page: u32, bytes: &[u8]) {
        let start = page as usize * PAGE_SIZE as usize;
        self.note_write(start);
        self.ram[start..start + PAGE_SIZE as usize].copy_from_slice(bytes);
    }
}
