//! A bare 64-bit guest: what tests of the engine and its fuzz target start from.

use sim_mem::GuestMemory;

use crate::{CpuState, RSP, Segment, TR, TableRegister, cr0, cr4};

/// Its memory in bytes.
pub const RAM: u64 = 8 << 20;
/// Page tables, GDT, IDT and TSS live below 1 MiB; code and data above.
pub const PML4: u64 = 0x1000;
pub const GDT: u64 = 0x8000;
pub const IDT: u64 = 0x9000;
pub const TSS: u64 = 0xa000;
pub const CODE: u64 = 0x10_0000;
pub const DATA: u64 = 0x20_0000;
pub const STACK: u64 = 0x30_0000;
/// Handlers: vector n enters at HANDLERS + 16 n.
pub const HANDLERS: u64 = 0x18_0000;

/// Memory and state: long mode, ring 0, the first 8 MiB mapped one to one by 4 KiB pages (writable, user), RIP at [`CODE`], RSP at [`STACK`].
///
/// # Panics
/// Never: everything it writes lies in [`RAM`].
#[must_use]
pub fn long() -> (GuestMemory, CpuState) {
    let mut memory = GuestMemory::new(RAM);
    let mut put = |gpa: u64, value: u64| memory.write_u64(gpa, 8, value).expect("tables are in RAM");
    put(PML4, 0x2007);
    put(0x2000, 0x3007);
    for index in 0..4 {
        put(0x3000 + 8 * index, (0x4000 + 0x1000 * index) | 7);
        for page in 0..512 {
            put(0x4000 + 0x1000 * index + 8 * page, (index * 512 + page) << 12 | 7);
        }
    }
    // 0x10 code64, 0x18 data, 0x20 tss (16 bytes), 0x33 user code64, 0x3b user data, 0x40 code32, 0x48 data32.
    put(GDT + 0x10, 0x00af_9b00_0000_ffff);
    put(GDT + 0x18, 0x00cf_9300_0000_ffff);
    put(GDT + 0x20, 0x0000_8b00_0000_0067 | (TSS & 0xff_ffff) << 16);
    put(GDT + 0x28, 0);
    put(GDT + 0x30, 0x00af_fb00_0000_ffff);
    put(GDT + 0x38, 0x00cf_f300_0000_ffff);
    put(GDT + 0x40, 0x00cf_9b00_0000_ffff);
    put(GDT + 0x48, 0x00cf_9300_0000_ffff);
    for vector in 0..256u64 {
        let handler = HANDLERS + 16 * vector;
        put(IDT + 16 * vector, handler & 0xffff | 0x10 << 16 | 0xee00 << 32 | (handler >> 16 & 0xffff) << 48);
        put(IDT + 16 * vector + 8, handler >> 32);
    }
    put(TSS + 4, STACK + 0x8000);
    let mut state = CpuState::linux64(CODE, 0, PML4, TableRegister { base: GDT, limit: 0x4f });
    state.sys.cr0 |= cr0::WP | cr0::NE;
    state.sys.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    state.sys.idtr = TableRegister { base: IDT, limit: 0xfff };
    state.sys.seg[TR] = Segment { base: TSS, limit: 0x67, attr: 0x8b, selector: 0x20 };
    state.gpr = [0; 16];
    state.gpr[RSP] = STACK;
    (memory, state)
}
