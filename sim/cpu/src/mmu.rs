//! Address translation: the page walk, permissions, A/D bits, and the slow paths of memory access.

use crate::core::{Access, Core, Exception, Fault, Watch, mode, vector};
use crate::op::{Flow, Op};
use crate::state::{SS, cr0, cr4, efer};
use crate::tlb::{self, ENTRIES, LEAF_DIRTY, LEAF_FRAME, LEAF_GLOBAL, LEAF_LARGE, LEAF_NESTED_NX, LEAF_NESTED_RO, LEAF_NX, LEAF_RAM, LEAF_USER, LEAF_WRITE};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// Page-table entry bits.
const P: u64 = 1;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;

/// Page-fault error code bits.
const ERR_P: u32 = 1;
const ERR_WRITE: u32 = 2;
const ERR_USER: u32 = 4;
const ERR_RSVD: u32 = 8;
const ERR_FETCH: u32 = 16;

/// What a walk found: the leaf in TLB form.
struct Walk {
    leaf: u64,
}

/// Why a walk failed.
enum WalkError {
    NotPresent,
    Reserved,
    /// A table of the guest is not where its nested tables allow: EXITINFO1 and the guest-physical address.
    Nested(u64, u64),
}

/// What a walk goes by.
struct Tables {
    root: u64,
    cr4: u64,
    efer: u64,
}

/// EXITINFO1 of nested page faults: the fault was on the final address, or on a table of the guest (APM vol. 2 §15.25.6).
const NPF_FINAL: u64 = 1 << 32;
const NPF_TABLE: u64 = 1 << 33;

/// A guest's leaf and what its nested tables make of the frame.
fn combine(leaf: u64, nested: u64) -> u64 {
    let mut out = leaf & !LEAF_FRAME | nested & LEAF_FRAME | nested & LEAF_LARGE;
    if nested & LEAF_DIRTY == 0 {
        out &= !LEAF_DIRTY;
    }
    if nested & LEAF_WRITE == 0 {
        out |= LEAF_NESTED_RO;
    }
    if nested & LEAF_NX != 0 {
        out |= LEAF_NESTED_NX;
    }
    out
}

impl Core {
    /// Whether a linear address is canonical (48 bits) in the current mode.
    #[inline]
    pub fn canonical(&self, address: u64) -> bool {
        self.sys.efer & efer::LMA == 0 || (address << 16) as i64 >> 16 == address as i64
    }

    fn page_fault(&mut self, address: u64, present: u32, access: Access, view: usize) -> Fault {
        let mut code = present;
        if access == Access::Write {
            code |= ERR_WRITE;
        }
        if view == tlb::USER {
            code |= ERR_USER;
        }
        let nx_on = self.sys.cr4 & cr4::PAE != 0 && self.sys.efer & efer::NXE != 0;
        if access == Access::Fetch && (nx_on || self.sys.cr4 & cr4::SMEP != 0) {
            code |= ERR_FETCH;
        }
        self.fault = Exception { vector: vector::PF, code: Some(code), address };
        Fault
    }

    /// Whether a leaf permits an access seen from `view`.
    fn permits(&self, leaf: u64, access: Access, view: usize) -> bool {
        if view == tlb::USER {
            if leaf & LEAF_USER == 0 {
                return false;
            }
        } else if leaf & LEAF_USER != 0 {
            if access == Access::Fetch {
                if self.sys.cr4 & cr4::SMEP != 0 {
                    return false;
                }
            } else if view == tlb::KERNEL {
                return false;
            }
        }
        match access {
            Access::Read => true,
            Access::Write if leaf & LEAF_NESTED_RO != 0 => false,
            Access::Fetch if leaf & LEAF_NESTED_NX != 0 => false,
            Access::Write => leaf & LEAF_WRITE != 0 || (view != tlb::USER && self.sys.cr0 & cr0::WP == 0),
            Access::Fetch => leaf & LEAF_NX == 0,
        }
    }

    /// Translates through the TLB, walking and filling as the processor does. `view` without the factor [`ENTRIES`].
    pub fn translate(&mut self, m: &mut GuestMemory, address: u64, access: Access, view: usize) -> Result<u64, Fault> {
        if self.sys.cr0 & cr0::PG == 0 && !self.sys.svm.nested {
            return Ok(self.unpaged_leaf(m, address));
        }
        if let Some(leaf) = self.tlb.find(address, self.pcid) {
            if !self.permits(leaf, access, view) {
                if self.sys.svm.nested {
                    // Whose fault it is takes both tables to say.
                    let pcid = self.pcid;
                    self.tlb.flush_page(address, pcid);
                    return self.walk_and_fill(m, address, access, view);
                }
                // A fault drops the entry it came from (SDM vol. 3 §4.10.4.1), so that a stale entry faults once.
                let pcid = self.pcid;
                self.tlb.flush_page(address, pcid);
                return Err(self.page_fault(address, ERR_P, access, view));
            }
            if access != Access::Write || leaf & LEAF_DIRTY != 0 {
                return Ok(leaf);
            }
        }
        self.walk_and_fill(m, address, access, view)
    }

    /// With paging off: the identity, filled so that fast tags work.
    fn unpaged_leaf(&mut self, m: &GuestMemory, address: u64) -> u64 {
        let page = address & 0xffff_f000;
        if let Some(leaf) = self.tlb.find(page, self.pcid) {
            return leaf;
        }
        let mut leaf = page | LEAF_WRITE | LEAF_USER | LEAF_DIRTY;
        let mut addend = 0;
        if let Some(offset) = m.offset_of(page) {
            leaf |= LEAF_RAM;
            addend = (offset as u64).wrapping_sub(page);
        }
        self.tlb.fill(page, self.pcid, leaf, addend);
        leaf
    }

    fn walk_and_fill(&mut self, m: &mut GuestMemory, address: u64, access: Access, view: usize) -> Result<u64, Fault> {
        // A first walk without side effects decides; accessed and dirty bits are set only for accesses that succeed.
        let walk = match self.walk(m, address, None) {
            Ok(walk) => walk,
            Err(WalkError::NotPresent) => return Err(self.page_fault(address, 0, access, view)),
            Err(WalkError::Reserved) => return Err(self.page_fault(address, ERR_P | ERR_RSVD, access, view)),
            Err(WalkError::Nested(code, gpa)) => return Err(self.nested_fault(code, gpa)),
        };
        if !self.permits(walk.leaf, access, view) {
            return Err(self.page_fault(address, ERR_P, access, view));
        }
        if self.sys.svm.nested {
            let gpa = walk.leaf & LEAF_FRAME | address & 0xfff;
            if let Err((code, gpa)) = self.nested_walk(m, gpa, access, NPF_FINAL, None) {
                return Err(self.nested_fault(code, gpa));
            }
        }
        let log = m.code_log_end();
        let Ok(Walk { mut leaf }) = self.walk(m, address, Some(access == Access::Write)) else {
            return Err(self.page_fault(address, 0, access, view));
        };
        if self.sys.svm.nested {
            let gpa = leaf & LEAF_FRAME | address & 0xfff;
            match self.nested_walk(m, gpa, access, NPF_FINAL, Some(access == Access::Write)) {
                Ok(nested) => leaf = combine(leaf, nested),
                Err((code, gpa)) => return Err(self.nested_fault(code, gpa)),
            }
        }
        if m.code_log_end() != log && access != Access::Fetch {
            // Its accessed and dirty bits lie in code, perhaps this very block's. What a fetch writes is looked at before the block is.
            self.brk = Flow::Break;
        }
        let mut addend = 0;
        if let Some(offset) = m.offset_of(leaf & LEAF_FRAME) {
            leaf |= LEAF_RAM;
            addend = (offset as u64).wrapping_sub(address & !0xfff);
        }
        self.tlb.fill(address, self.pcid, leaf, addend);
        Ok(leaf)
    }

    fn reserved_high(&self) -> u64 {
        0x000f_ffff_ffff_ffff & !((1 << self.config.physical_bits) - 1)
    }

    /// Walks the page tables of the running code. `mark`: set accessed bits, and the dirty bit if `Some(true)`. Without it nothing changes (debugger).
    fn walk(&self, m: &mut GuestMemory, address: u64, mark: Option<bool>) -> Result<Walk, WalkError> {
        let tables = Tables { root: self.sys.cr3, cr4: self.sys.cr4, efer: self.sys.efer };
        if !self.sys.svm.nested {
            return self.walk_tables::<false>(m, &tables, address, mark);
        }
        if self.sys.cr0 & cr0::PG == 0 {
            // What the guest takes for physical.
            return Ok(Walk { leaf: address & 0xffff_f000 | LEAF_WRITE | LEAF_USER | LEAF_DIRTY });
        }
        self.walk_tables::<true>(m, &tables, address, mark)
    }

    /// Walks the nested tables for a guest-physical address; every access counts as the user's (§15.25.5). `stage` is the bit of EXITINFO1
    /// that says what for. The error is EXITINFO1 and EXITINFO2.
    fn nested_walk(&self, m: &mut GuestMemory, gpa: u64, access: Access, stage: u64, mark: Option<bool>) -> Result<u64, (u64, u64)> {
        let svm = &self.sys.svm;
        let tables = Tables { root: svm.n_cr3, cr4: svm.host_cr4, efer: svm.host_efer };
        let mut code = stage | u64::from(ERR_USER);
        match access {
            Access::Read => {}
            Access::Write => code |= u64::from(ERR_WRITE),
            Access::Fetch => code |= u64::from(ERR_FETCH),
        }
        let present = u64::from(ERR_P);
        if svm.host_efer & efer::LMA == 0 && gpa >> 32 != 0 {
            return Err((code, gpa));
        }
        let leaf = match self.walk_tables::<false>(m, &tables, gpa, mark) {
            Ok(walk) => walk.leaf,
            Err(WalkError::Reserved) => return Err((code | present | u64::from(ERR_RSVD), gpa)),
            Err(WalkError::NotPresent | WalkError::Nested(..)) => return Err((code, gpa)),
        };
        let refused = leaf & LEAF_USER == 0 || access == Access::Write && leaf & LEAF_WRITE == 0 || access == Access::Fetch && leaf & LEAF_NX != 0;
        if refused { Err((code | present, gpa)) } else { Ok(leaf) }
    }

    /// Where a table entry is: for a guest's table, through the nested tables, as a write (it may have to be marked: §15.25.5).
    fn table_entry<const NESTED: bool>(&self, m: &mut GuestMemory, at: u64, mark: Option<bool>) -> Result<u64, WalkError> {
        if !NESTED {
            return Ok(at);
        }
        match self.nested_walk(m, at, Access::Write, NPF_TABLE, mark.map(|_| true)) {
            Ok(leaf) => Ok(leaf & LEAF_FRAME | at & 0xfff),
            Err((code, gpa)) => Err(WalkError::Nested(code, gpa)),
        }
    }

    fn walk_tables<const NESTED: bool>(&self, m: &mut GuestMemory, tables: &Tables, address: u64, mark: Option<bool>) -> Result<Walk, WalkError> {
        if tables.cr4 & cr4::PAE == 0 {
            return self.walk32::<NESTED>(m, tables, address, mark);
        }
        let long = tables.efer & efer::LMA != 0;
        let nx_on = tables.efer & efer::NXE != 0;
        let high = self.reserved_high();
        let mut table = tables.root & if long { LEAF_FRAME } else { 0xffff_ffe0 };
        let mut level = if long { 4 } else { 3 };
        let mut rights = RW | US;
        let mut nx = 0;
        loop {
            let shift = 12 + 9 * (level - 1);
            let slots = if level == 3 && !long { 3 } else { 0x1ff };
            let at = self.table_entry::<NESTED>(m, table + (address >> shift & slots) * 8, mark)?;
            let entry = m.read_u64(at, 8).unwrap_or(0);
            if entry & P == 0 {
                return Err(WalkError::NotPresent);
            }
            let pae_root = level == 3 && !long;
            if pae_root {
                if entry & (high | 0xfff0_0000_0000_01e6) != 0 {
                    return Err(WalkError::Reserved);
                }
                table = entry & LEAF_FRAME;
                level = 2;
                continue;
            }
            let leaf = level == 1 || (entry & PS != 0 && (level == 2 || (level == 3 && long)));
            let mut bad = high;
            if !nx_on {
                bad |= LEAF_NX;
            }
            if !long {
                bad |= 0x7ff0_0000_0000_0000;
            }
            if entry & PS != 0 && level == 4 {
                bad |= PS;
            }
            if leaf && level > 1 {
                // Bit 12 is PAT; the rest below the frame is reserved.
                bad |= ((1 << shift) - 1) & !0x1fff;
            }
            if entry & bad != 0 {
                return Err(WalkError::Reserved);
            }
            rights &= entry;
            nx |= entry & LEAF_NX;
            if let Some(write) = mark {
                let want = ACCESSED | if leaf && write { DIRTY } else { 0 };
                if entry & want != want {
                    m.write_u64(at, 8, entry | want).map_err(|_| WalkError::NotPresent)?;
                }
            }
            if leaf {
                let low = (1u64 << shift) - 1;
                let frame = (entry & LEAF_FRAME & !low) | (address & low & !0xfff);
                let dirty = entry & DIRTY != 0 || mark == Some(true);
                return Ok(Walk { leaf: self.leaf(frame, rights, nx, entry, dirty, level > 1) });
            }
            table = entry & LEAF_FRAME;
            level -= 1;
        }
    }

    /// Two-level paging (APM vol. 2 §5.2.1), with 4 MiB pages if CR4.PSE.
    fn walk32<const NESTED: bool>(&self, m: &mut GuestMemory, tables: &Tables, address: u64, mark: Option<bool>) -> Result<Walk, WalkError> {
        let mut rights = RW | US;
        let mut table = tables.root & 0xffff_f000;
        for level in [2u32, 1] {
            let shift = 12 + 10 * (level - 1);
            let at = self.table_entry::<NESTED>(m, table + (address >> shift & 0x3ff) * 4, mark)?;
            let entry = m.read_u64(at, 4).unwrap_or(0);
            if entry & P == 0 {
                return Err(WalkError::NotPresent);
            }
            let large = level == 2 && entry & PS != 0 && tables.cr4 & cr4::PSE != 0;
            if large && entry & 1 << 21 != 0 {
                return Err(WalkError::Reserved);
            }
            rights &= entry;
            if let Some(write) = mark {
                let want = ACCESSED | if (large || level == 1) && write { DIRTY } else { 0 };
                if entry & want != want {
                    m.write_u64(at, 4, entry | want).map_err(|_| WalkError::NotPresent)?;
                }
            }
            let dirty = entry & DIRTY != 0 || mark == Some(true);
            if large {
                let frame = (entry & 0xffc0_0000) | (entry >> 13 & 0xff) << 32 | (address & 0x3f_f000);
                return Ok(Walk { leaf: self.leaf(frame, rights, 0, entry, dirty, true) });
            }
            if level == 1 {
                return Ok(Walk { leaf: self.leaf(entry & 0xffff_f000, rights, 0, entry, dirty, false) });
            }
            table = entry & 0xffff_f000;
        }
        Err(WalkError::NotPresent)
    }

    fn leaf(&self, frame: u64, rights: u64, nx: u64, entry: u64, dirty: bool, large: bool) -> u64 {
        let mut leaf = frame | rights & (RW | US) | nx;
        if dirty {
            leaf |= LEAF_DIRTY;
        }
        if entry & GLOBAL != 0 && self.sys.cr4 & cr4::PGE != 0 {
            leaf |= LEAF_GLOBAL;
        }
        if large {
            leaf |= LEAF_LARGE;
        }
        leaf
    }

    /// Translates for a debugger: no TLB use, no A/D bits, no permissions.
    pub fn probe(&self, m: &mut GuestMemory, address: u64) -> Option<u64> {
        if self.sys.cr0 & cr0::PG == 0 && !self.sys.svm.nested {
            return Some(address & 0xffff_ffff);
        }
        if !self.canonical(address) {
            return None;
        }
        let leaf = self.walk(m, address, None).ok()?.leaf;
        let leaf = if self.sys.svm.nested { self.nested_walk(m, leaf & LEAF_FRAME, Access::Read, NPF_FINAL, None).ok()? } else { leaf };
        Some(leaf & LEAF_FRAME | address & 0xfff)
    }

    fn watched(&self, page: u64) -> bool {
        self.watches.iter().any(|watch| watch.address >> 12 <= page >> 12 && page >> 12 <= watch.address.wrapping_add(watch.len - 1) >> 12)
    }

    /// Gives the page of `address` its fast tags, as far as its leaf permits.
    fn set_fast(&mut self, m: &GuestMemory, address: u64, leaf: u64, view: usize, write: bool) {
        if leaf & LEAF_RAM == 0 || self.mode & mode::ALIGN != 0 || (!self.watches.is_empty() && self.watched(address)) {
            return;
        }
        let index = tlb::index(address);
        if self.permits(leaf, Access::Read, view) {
            self.tlb.fast.allow_read(view, address, m.len());
        }
        if write && leaf & LEAF_DIRTY != 0 {
            let offset = self.tlb.fast.addend(index).wrapping_add(address & !0xfff) as usize;
            if m.plain_writable(offset) {
                self.tlb.fast.allow_write(view, address, m.len());
            }
        }
    }

    /// #GP(0) or #SS(0) for an address that is not canonical.
    fn check_canonical(&mut self, op: &Op, address: u64, size: u64) -> Result<(), Fault> {
        let last = address.wrapping_add(size - 1);
        if self.canonical(address) && self.canonical(last) {
            return Ok(());
        }
        let vector = if op.seg() == SS { vector::SS } else { vector::GP };
        Err(self.raise_code(vector, 0))
    }

    /// What is checked of an address before its pages: canonical, then aligned.
    pub fn check_place(&mut self, op: &Op, address: u64, size: u64) -> Result<(), Fault> {
        self.check_canonical(op, address, size)?;
        self.check_align(address, size)
    }

    /// #AC for an operand that is not on its own boundary, which comes before a page fault (APM vol. 2 §8.2.16; SDM vol. 3 table 6-7).
    pub fn check_align(&mut self, address: u64, size: u64) -> Result<(), Fault> {
        if self.mode & mode::ALIGN != 0 {
            let boundary = match size {
                // Extended precision and packed decimal numbers.
                10 => 8,
                // Environments and images of the x87, in 16-bit form and in 32-bit form.
                14 | 94 => 2,
                28 | 108 => 4,
                1 | 2 | 4 | 8 | 16 => size,
                // AMD asks no more of YMM operands.
                32 => 16,
                _ => 1,
            };
            if address & (boundary - 1) != 0 {
                return Err(self.raise_code(vector::AC, 0));
            }
        }
        Ok(())
    }

    #[inline]
    fn wrap(&self, address: u64) -> u64 {
        if self.sys.efer & efer::LMA == 0 { address & 0xffff_ffff } else { address }
    }

    fn note_watch(&mut self, address: u64, size: u64, write: bool) {
        for watch in &self.watches {
            let Watch { address: start, len, read, write: on_write } = *watch;
            let hit = address < start.wrapping_add(len) && start < address.wrapping_add(size);
            if hit && (write && on_write || !write && read) {
                self.watch_hit = Some((start, write));
                self.brk = Flow::Break;
            }
        }
    }

    /// Loads where the fast path did not: TLB miss, page crossing, devices, watched pages.
    #[cold]
    #[inline(never)]
    pub fn load_slow(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, size: u64) -> Result<u64, Fault> {
        self.check_place(op, address, size)?;
        self.load_part(m, b, op, address, size)
    }

    /// A load whose place has been checked, as part of something larger.
    pub fn load_part(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, size: u64) -> Result<u64, Fault> {
        let view = self.view / ENTRIES;
        if !self.watches.is_empty() {
            // Translated first, so that a faulting access hits nothing.
            self.translate(m, address, Access::Read, view)?;
            self.note_watch(address, size, false);
        }
        self.load_view(m, b, op, address, size, view)
    }

    /// Loads as seen from `view`.
    pub fn load_view(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, size: u64, view: usize) -> Result<u64, Fault> {
        let address = self.wrap(address);
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.read(view, index)) <= 4096 - size {
            // Frames of exceptions and descriptors lie where others lay before.
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram().get(at..at.wrapping_add(size as usize)) {
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                return Ok(u64::from_le_bytes(value));
            }
        }
        let first = (4096 - (address & 0xfff)).min(size);
        let leaf = self.translate(m, address, Access::Read, view)?;
        if first == size {
            self.set_fast(m, address, leaf, view, false);
            return Ok(self.read_frame(m, b, op, leaf & LEAF_FRAME | address & 0xfff, size));
        }
        let second = self.wrap(address.wrapping_add(first));
        let next = self.translate(m, second, Access::Read, view)?;
        let low = self.read_parts(m, b, op, leaf & LEAF_FRAME | address & 0xfff, first);
        let high = self.read_parts(m, b, op, next & LEAF_FRAME, size - first);
        Ok(low | high << (8 * first))
    }

    fn read_parts(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, gpa: u64, size: u64) -> u64 {
        (0..size).fold(0, |acc, index| acc | self.read_frame(m, b, op, gpa + index, 1) << (8 * index))
    }

    /// Reads physical memory or a device, inside one page.
    fn read_frame(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, gpa: u64, size: u64) -> u64 {
        if let Ok(value) = m.read_u64(gpa, size as u8) {
            return value;
        }
        self.brk = Flow::Break;
        let at = self.at(op);
        if gpa & (size - 1) == 0 {
            return b.mmio_read(at, gpa, size as u8) & (u64::MAX >> (64 - 8 * size));
        }
        (0..size).fold(0, |acc, index| acc | (b.mmio_read(at, gpa + index, 1) & 0xff) << (8 * index))
    }

    /// Checks that `size` bytes may be written, filling the TLB, without writing.
    pub fn check_write(&mut self, m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op, address: u64, size: u64) -> Result<(), Fault> {
        self.check_place(op, address, size)?;
        let view = self.view / ENTRIES;
        let mut at = address;
        let last = address.wrapping_add(size - 1);
        loop {
            let wrapped = self.wrap(at);
            self.translate(m, wrapped, Access::Write, view)?;
            if at >> 12 == last >> 12 {
                return Ok(());
            }
            at = (at | 0xfff).wrapping_add(1);
        }
    }

    /// Stores where the fast path did not.
    #[cold]
    #[inline(never)]
    pub fn store_slow(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, size: u64, value: u64) -> Result<(), Fault> {
        self.check_place(op, address, size)?;
        self.store_part(m, b, op, address, size, value)
    }

    /// A store whose place has been checked, as part of something larger.
    pub fn store_part(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, size: u64, value: u64) -> Result<(), Fault> {
        let view = self.view / ENTRIES;
        self.store_view(m, b, op, address, size, value, view)?;
        if !self.watches.is_empty() {
            self.note_watch(address, size, true);
        }
        Ok(())
    }

    /// Stores as seen from `view`.
    #[expect(clippy::too_many_arguments, reason = "the access is described by all of them")]
    pub fn store_view(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, size: u64, value: u64, view: usize) -> Result<(), Fault> {
        let address = self.wrap(address);
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.write(view, index)) <= 4096 - size {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram_mut().get_mut(at..at.wrapping_add(size as usize)) {
                bytes.copy_from_slice(&value.to_le_bytes()[..size as usize]);
                return Ok(());
            }
        }
        let first = (4096 - (address & 0xfff)).min(size);
        let leaf = self.translate(m, address, Access::Write, view)?;
        if first == size {
            self.write_frame(m, b, op, leaf & LEAF_FRAME | address & 0xfff, size, value);
            self.set_fast(m, address, leaf, view, true);
            return Ok(());
        }
        let second = self.wrap(address.wrapping_add(first));
        let next = self.translate(m, second, Access::Write, view)?;
        for index in 0..size {
            let gpa = if index < first { (leaf & LEAF_FRAME | address & 0xfff) + index } else { (next & LEAF_FRAME) + index - first };
            self.write_frame(m, b, op, gpa, 1, value >> (8 * index) & 0xff);
        }
        Ok(())
    }

    fn write_frame(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, gpa: u64, size: u64, value: u64) {
        let log = m.code_log_end();
        if m.write_u64(gpa, size as u8, value).is_ok() {
            if m.code_log_end() != log {
                self.brk = Flow::Break;
            }
            return;
        }
        self.brk = Flow::Break;
        let at = self.at(op);
        if gpa & (size - 1) == 0 {
            b.mmio_write(at, gpa, size as u8, value & (u64::MAX >> (64 - 8 * size)));
        } else {
            for index in 0..size {
                b.mmio_write(at, gpa + index, 1, value >> (8 * index) & 0xff);
            }
        }
    }

    /// Loads from a system table (GDT, IDT, TSS): supervisor access whatever the CPL.
    pub fn load_sys(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, address: u64, size: u64) -> Result<u64, Fault> {
        if !self.canonical(address) {
            return Err(self.gp0());
        }
        let op = self.system_op();
        self.load_view(m, b, &op, address, size, self.system_view())
    }

    /// Stores to a system table.
    pub fn store_sys(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, address: u64, size: u64, value: u64) -> Result<(), Fault> {
        if !self.canonical(address) {
            return Err(self.gp0());
        }
        let op = self.system_op();
        self.store_view(m, b, &op, address, size, value, self.system_view())
    }

    /// Implicit supervisor accesses obey SMAP whatever AC says (SDM vol. 3 §4.6.1).
    pub fn system_view(&self) -> usize {
        if self.sys.cr4 & cr4::SMAP != 0 { tlb::KERNEL } else { tlb::KERNEL_USER }
    }

    /// Stands in for the running instruction or event where none is at hand; the time of the access is where that began.
    pub fn system_op(&self) -> Op {
        Op { idx: self.running, ..Op::bare(crate::ops::nop) }
    }

    /// The frame the instruction at `address` is fetched from: through the latch, then the TLB.
    pub fn fetch_frame(&mut self, m: &mut GuestMemory, address: u64) -> Result<u64, Fault> {
        if !self.canonical(address) {
            return Err(self.gp0());
        }
        let view = self.view / ENTRIES;
        let leaf = self.translate(m, self.wrap(address), Access::Fetch, view)?;
        Ok(leaf & LEAF_FRAME)
    }
}
