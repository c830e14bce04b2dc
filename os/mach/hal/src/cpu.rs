//! Control registers, MSRs, CPUID, interrupt flag.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// MSRs (APM vol. 2, appendix A).
pub(crate) const EFER: u32 = 0xc000_0080;
pub(crate) const STAR: u32 = 0xc000_0081;
pub(crate) const LSTAR: u32 = 0xc000_0082;
pub(crate) const SFMASK: u32 = 0xc000_0084;
pub(crate) const FS_BASE: u32 = 0xc000_0100;
pub(crate) const GS_BASE: u32 = 0xc000_0101;
pub(crate) const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// RFLAGS.IF.
pub(crate) const IF: u64 = 1 << 9;

/// # Safety
/// Reading this MSR has no side effect and the CPU has it.
pub(crate) unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// The CPU has this MSR and the value keeps the kernel's invariants.
pub(crate) unsafe fn write_msr(msr: u32, value: u64) {
    let (low, high) = (value & 0xffff_ffff, value >> 32);
    // SAFETY: the caller's promise.
    unsafe { asm!("wrmsr", in("ecx") msr, in("rax") low, in("rdx") high, options(nostack, preserves_flags)) };
}

/// EAX, EBX, ECX, EDX of a CPUID leaf; zeros beyond the highest leaf.
#[must_use]
pub fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let highest = core::arch::x86_64::__cpuid(leaf & 0xffff_0000).eax;
    if leaf > highest {
        return [0; 4];
    }
    let r = core::arch::x86_64::__cpuid_count(leaf, sub);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// What the CPU can do, of what we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    pub nx: bool,
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub xsave: bool,
    pub avx: bool,
    pub rdrand: bool,
    pub tsc_deadline: bool,
    pub invariant_tsc: bool,
    pub x2apic: bool,
    pub global_pages: bool,
    pub gib_pages: bool,
}

/// Asks CPUID.
#[must_use]
pub fn features() -> Features {
    let [_, _, c1, d1] = cpuid(1, 0);
    let [_, b7, c7, _] = cpuid(7, 0);
    let [_, _, _, dx] = cpuid(0x8000_0001, 0);
    let [_, _, _, d87] = cpuid(0x8000_0007, 0);
    let bit = |word: u32, bit: u32| word >> bit & 1 != 0;
    let xsave = bit(c1, 26);
    Features {
        nx: bit(dx, 20),
        smep: bit(b7, 7),
        smap: bit(b7, 20),
        umip: bit(c7, 2),
        xsave,
        avx: xsave && bit(c1, 28),
        rdrand: bit(c1, 30),
        tsc_deadline: bit(c1, 24),
        invariant_tsc: bit(d87, 8),
        x2apic: bit(c1, 21),
        global_pages: bit(d1, 13),
        gib_pages: bit(dx, 26),
    }
}

/// Bits of [`STATE`], for the paths that cannot ask CPUID each time.
const SMAP_ON: u32 = 1;
const NX_ON: u32 = 2;
static STATE: AtomicU32 = AtomicU32::new(0);

pub(crate) fn smap_on() -> bool {
    STATE.load(Relaxed) & SMAP_ON != 0
}
pub(crate) fn nx_on() -> bool {
    STATE.load(Relaxed) & NX_ON != 0
}

/// Turns on the protections this CPU has: WP, SMEP, SMAP, UMIP, global pages, NX (the entry code did NX and WP).
pub(crate) fn protect(features: &Features) {
    let mut cr4 = read_cr4();
    if features.global_pages {
        cr4 |= 1 << 7;
    }
    if features.umip {
        cr4 |= 1 << 11;
    }
    if features.smep {
        cr4 |= 1 << 20;
    }
    if features.smap {
        cr4 |= 1 << 21;
    }
    // SAFETY: only bits whose features CPUID reports; no kernel page is a user page, so SMEP and SMAP forbid nothing we do.
    unsafe { write_cr4(cr4) };
    STATE.store(if features.smap { SMAP_ON } else { 0 } | if features.nx { NX_ON } else { 0 }, Relaxed);
}

pub(crate) fn read_cr4() -> u64 {
    let value: u64;
    // SAFETY: reading CR4 in ring 0 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
/// # Safety
/// Only bits that the CPU has and that keep the kernel running.
pub(crate) unsafe fn write_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}
pub(crate) fn read_cr0() -> u64 {
    let value: u64;
    // SAFETY: reading CR0 in ring 0 has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
pub(crate) fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 in ring 0 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
pub(crate) fn read_cr3() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 in ring 0 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
/// # Safety
/// A valid PML4 with the kernel half.
pub(crate) unsafe fn write_cr3(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Interrupts off; returns the flags before.
pub fn interrupts_off() -> u64 {
    let flags: u64;
    // SAFETY: reading RFLAGS and clearing IF; memory is clobbered so that what must happen with interrupts off stays behind it.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
    flags
}

/// Interrupts off, where it is known that they are on.
pub(crate) fn disable_interrupts() {
    // SAFETY: clears IF; a memory barrier for the compiler as in `interrupts_off`.
    unsafe { asm!("cli", options(nostack)) };
}

/// Interrupts on.
pub fn interrupts_on() {
    // SAFETY: handlers are installed before anything calls this.
    unsafe { asm!("sti", options(nostack)) };
}

/// True if interrupts are on.
#[must_use]
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: reads RFLAGS.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags & IF != 0
}

/// Waits for an interrupt and handles it: interrupts are on while waiting, off on return. Nothing is lost between (STI shadows HLT).
pub fn wait_for_interrupt() {
    // SAFETY: as for `interrupts_on`.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Stops this CPU for ever.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off HLT only waits; an NMI continues the loop.
        unsafe { asm!("cli", "hlt") };
    }
}

/// The time-stamp counter.
#[must_use]
pub fn timestamp() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU and CR4.TSD does not apply to ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A random number from the CPU, if it has any.
#[must_use]
pub fn hardware_random() -> Option<u64> {
    if !features().rdrand {
        return None;
    }
    // Ten tries, as the manual advises (Intel SDM vol. 1, section 7.3.17.1).
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: RDRAND exists (CPUID).
        unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
        if ok != 0 {
            return Some(value);
        }
    }
    None
}

/// Maker and model, as CPUID gives them (`psrinfo`, /proc/cpuinfo).
#[must_use]
pub fn brand() -> ([u8; 12], [u8; 48]) {
    let mut vendor = [0; 12];
    let [_, b, c, d] = cpuid(0, 0);
    for (chunk, word) in vendor.chunks_exact_mut(4).zip([b, d, c]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    let mut name = [0; 48];
    for (part, chunk) in (0x8000_0002_u32..).zip(name.chunks_exact_mut(16)) {
        for (bytes, word) in chunk.chunks_exact_mut(4).zip(cpuid(part, 0)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
    (vendor, name)
}
