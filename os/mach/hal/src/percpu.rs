//! The per-CPU area, reached through GS.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;

use crate::cpu;
use crate::thread::Context;
use crate::user::UserState;

/// Bytes of each IST stack: enough for the panic path.
const IST_BYTES: usize = 16 * 1024;
/// IST stacks: 1 all vectors, 2 debug, 3 NMI, 4 double fault, 5 machine check.
pub(crate) const IST_COUNT: usize = 5;

/// What the entry stubs use. Written only by its own CPU, with interrupts off or in single instructions.
#[repr(C)]
pub(crate) struct PerCpu {
    pub(crate) this: Cell<*const PerCpu>,
    /// The context in (or about to enter) user mode.
    pub(crate) user_state: Cell<*mut UserState>,
    /// RSP to come back to from user mode.
    pub(crate) kernel_rsp: Cell<u64>,
    pub(crate) scratch: Cell<u64>,
    /// Bounds of the current stack; the entry stubs check them.
    pub(crate) stack_low: Cell<u64>,
    pub(crate) stack_high: Cell<u64>,
    /// The running thread; null until threads exist.
    pub(crate) current: Cell<*const Context>,
    /// The thread that was switched away from, until the next one has taken over.
    pub(crate) previous: Cell<*const Context>,
    /// The state that user mode may be entered with at once: live, and neither a switch nor an interrupt waits. Null: look first.
    pub(crate) ready: Cell<*const UserState>,
    /// Classes of spin locks held on this CPU, a bit each. (Whoever holds one has interrupts off, so it is one thread's.)
    pub(crate) held_spins: Cell<u64>,
    /// A switch is due.
    pub(crate) switch_due: Cell<bool>,
    pub(crate) index: Cell<u32>,
    pub(crate) loaded_cr3: Cell<u64>,
    pub(crate) loaded_fs: Cell<u64>,
    pub(crate) loaded_gs: Cell<u64>,
    pub(crate) tss: UnsafeCell<Tss>,
    pub(crate) gdt: UnsafeCell<[u64; 10]>,
}

/// Task-state segment (APM vol. 2, section 12.2.5). `repr(packed)`: the fields are at odd multiples of 4.
#[repr(C, packed(4))]
pub(crate) struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

pub(crate) const USER_STATE: usize = offset_of!(PerCpu, user_state);
pub(crate) const KERNEL_RSP: usize = offset_of!(PerCpu, kernel_rsp);
pub(crate) const SCRATCH: usize = offset_of!(PerCpu, scratch);
pub(crate) const STACK_LOW: usize = offset_of!(PerCpu, stack_low);
pub(crate) const STACK_HIGH: usize = offset_of!(PerCpu, stack_high);
const CURRENT: usize = offset_of!(PerCpu, current);
const SWITCH_DUE: usize = offset_of!(PerCpu, switch_due);
const HELD_SPINS: usize = offset_of!(PerCpu, held_spins);
const INDEX: usize = offset_of!(PerCpu, index);
const READY_STATE: usize = offset_of!(PerCpu, ready);

/// Selectors: the values Linux has, since programs see them.
pub(crate) const KERNEL_CS: u16 = 0x10;
pub(crate) const KERNEL_SS: u16 = 0x18;
pub(crate) const USER_SS: u16 = 0x2b;
pub(crate) const USER_CS: u16 = 0x33;
const TSS_SELECTOR: u16 = 0x40;

#[repr(C, align(16))]
struct IstStacks(UnsafeCell<[[u8; IST_BYTES]; IST_COUNT]>);

/// A cell of one CPU's static data.
struct CpuStatic<T>(T);
// SAFETY: used only by the boot CPU, as `PerCpu` says; other CPUs would get areas of their own.
unsafe impl<T> Sync for CpuStatic<T> {}

static BOOT_CPU: CpuStatic<PerCpu> = CpuStatic(PerCpu {
    this: Cell::new(core::ptr::null()),
    user_state: Cell::new(core::ptr::null_mut()),
    kernel_rsp: Cell::new(0),
    scratch: Cell::new(0),
    stack_low: Cell::new(0),
    stack_high: Cell::new(u64::MAX),
    current: Cell::new(core::ptr::null()),
    previous: Cell::new(core::ptr::null()),
    ready: Cell::new(core::ptr::null()),
    held_spins: Cell::new(0),
    switch_due: Cell::new(false),
    index: Cell::new(0),
    loaded_cr3: Cell::new(0),
    loaded_fs: Cell::new(0),
    loaded_gs: Cell::new(0),
    tss: UnsafeCell::new(Tss { reserved0: 0, rsp: [0; 3], reserved1: 0, ist: [0; 7], reserved2: 0, reserved3: 0, io_map: 104 }),
    gdt: UnsafeCell::new([0; 10]),
});
static IST_STACKS: CpuStatic<IstStacks> = CpuStatic(IstStacks(UnsafeCell::new([[0; IST_BYTES]; IST_COUNT])));

/// GS is set up.
static READY: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

pub(crate) fn is_ready() -> bool {
    READY.load(core::sync::atomic::Ordering::Relaxed)
}

/// This CPU's area. Call with interrupts off, or use only what cannot change CPU under you.
pub(crate) fn this() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: GS points to this CPU's area from `init` on, and its first field is its own address.
    unsafe { asm!("mov {}, gs:[0]", out(reg) area, options(nostack, preserves_flags, readonly, pure)) };
    // SAFETY: a static.
    unsafe { &*area }
}

/// The running thread, null before threads exist. One instruction, so right whatever CPU it runs on.
pub(crate) fn current() -> *const Context {
    let context: *const Context;
    // SAFETY: GS is set up.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) context, const CURRENT, options(nostack, preserves_flags, readonly)) };
    context
}

/// Classes of spin locks held on this CPU. Zero wherever interrupts are on.
pub(crate) fn held_spins() -> u64 {
    let held: u64;
    // SAFETY: GS is set up.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) held, const HELD_SPINS, options(nostack, preserves_flags, readonly)) };
    held
}

/// Notes the spin locks held. Interrupts are off.
pub(crate) fn set_held_spins(held: u64) {
    // SAFETY: GS is set up; one instruction.
    unsafe { asm!("mov gs:[{}], {}", const HELD_SPINS, in(reg) held, options(nostack, preserves_flags)) };
}

/// Index of this CPU.
#[must_use]
pub fn index() -> u32 {
    let index: u32;
    // SAFETY: GS is set up.
    unsafe { asm!("mov {:e}, gs:[{}]", out(reg) index, const INDEX, options(nostack, preserves_flags, readonly)) };
    index
}

/// Something happened that must be looked at before user mode is entered again.
pub(crate) fn look_first() {
    // SAFETY: GS is set up; one instruction.
    unsafe { asm!("mov qword ptr gs:[{}], 0", const READY_STATE, options(nostack, preserves_flags)) };
}

/// See [`PerCpu::ready`].
pub(crate) fn ready() -> *const UserState {
    let state: *const UserState;
    // SAFETY: GS is set up.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) state, const READY_STATE, options(nostack, preserves_flags, readonly)) };
    state
}

/// Asks for a switch as soon as one is allowed on this CPU.
pub fn request_switch() {
    look_first();
    // SAFETY: GS is set up; one instruction.
    unsafe { asm!("mov byte ptr gs:[{}], 1", const SWITCH_DUE, options(nostack, preserves_flags)) };
}

/// True if a switch is due.
#[must_use]
pub fn switch_requested() -> bool {
    let due: u8;
    // SAFETY: GS is set up.
    unsafe { asm!("mov {}, gs:[{}]", out(reg_byte) due, const SWITCH_DUE, options(nostack, preserves_flags, readonly)) };
    due != 0
}

/// Forgets the request: a switch is being made.
pub fn switch_done() {
    // SAFETY: GS is set up; one instruction.
    unsafe { asm!("mov byte ptr gs:[{}], 0", const SWITCH_DUE, options(nostack, preserves_flags)) };
}

/// Loads GDT, TSS and GS for the boot CPU: first of all, since every lock keeps its books here. Needs no memory.
pub fn init() {
    let area = &BOOT_CPU.0;
    area.this.set(area);
    let tss = area.tss.get();
    for index in 0..IST_COUNT {
        let top = IST_STACKS.0.0.get() as u64 + ((index + 1) * IST_BYTES) as u64;
        // SAFETY: the static's field, before anybody else uses it; the field is packed, so written unaligned.
        unsafe { (&raw mut (*tss).ist[index]).write_unaligned(top) };
    }
    let base = tss as u64;
    let limit = size_of::<Tss>() as u64 - 1;
    let tss_low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    let gdt = [
        0,
        0,
        0x00af_9b00_0000_ffff, // 10 kernel code
        0x00cf_9300_0000_ffff, // 18 kernel data
        0,                     // 20 (32-bit user code: none)
        0x00cf_f300_0000_ffff, // 28 user data
        0x00af_fb00_0000_ffff, // 30 user code
        0,
        tss_low, // 40 TSS
        base >> 32,
    ];
    // SAFETY: the static's field, before it is loaded.
    unsafe { area.gdt.get().write(gdt) };
    let mut pointer = [0_u8; 10];
    pointer[..2].copy_from_slice(&79_u16.to_le_bytes());
    pointer[2..].copy_from_slice(&(area.gdt.get() as u64).to_le_bytes());
    // SAFETY: 1. the table is static and valid; 2. the far return reloads CS with its 64-bit code segment and goes on at the next instruction;
    // 3. the data segments are null or the kernel's; 4. the TSS descriptor is available.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push {cs}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {ss:x}",
            "xor {scratch:e}, {scratch:e}",
            "mov ds, {scratch:x}",
            "mov es, {scratch:x}",
            "mov fs, {scratch:x}",
            "mov gs, {scratch:x}",
            "ltr {tr:x}",
            pointer = in(reg) pointer.as_ptr(),
            cs = const KERNEL_CS,
            ss = in(reg) u64::from(KERNEL_SS),
            tr = in(reg) u64::from(TSS_SELECTOR),
            scratch = out(reg) _,
        );
    }
    // SAFETY: GS points to the static area from now on; user mode has none yet.
    unsafe { cpu::write_msr(cpu::GS_BASE, core::ptr::from_ref(area) as u64) };
    // SAFETY: the value of user mode's GS base.
    unsafe { cpu::write_msr(cpu::KERNEL_GS_BASE, 0) };
    READY.store(true, core::sync::atomic::Ordering::Relaxed);
}
