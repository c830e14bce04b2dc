//! The image's own symbols, backtraces, and the registers of the trap that a panic is about.

use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::percpu;
use crate::trap::TrapFrame;

/// Start of the image (`os/kernel/kernel.ld`).
const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;

unsafe extern "C" {
    static __ksyms: u8;
    static __text_end: u8;
}

/// The table of `harness/orrery/src/build.rs`: entries and names; empty if the post-link step did not run.
fn table() -> (&'static [[u8; 8]], &'static [u8]) {
    let base = &raw const __ksyms;
    // SAFETY: the linker script reserves 16 bytes here.
    let header = unsafe { core::slice::from_raw_parts(base, 16) };
    if !header.starts_with(b"ORSYMS01") {
        return (&[], &[]);
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (count, names) = (word(8), word(12));
    // SAFETY: the build step that wrote the magic wrote `count` entries and `names` bytes after it, and the segment is loaded whole.
    unsafe {
        (
            core::slice::from_raw_parts(base.add(16).cast(), count),
            core::slice::from_raw_parts(base.add(16 + 8 * count), names),
        )
    }
}

/// The symbol that covers an address of kernel text, and the offset in it.
#[must_use]
pub fn lookup(address: u64) -> Option<(&'static str, u64)> {
    let offset = u32::try_from(address.checked_sub(IMAGE_BASE)?).ok()?;
    if address >= (&raw const __text_end) as u64 {
        return None;
    }
    let (entries, names) = table();
    let half = |entry: &[u8; 8], at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let after = entries.partition_point(|entry| half(entry, 0) <= offset);
    let entry = entries.get(after.checked_sub(1)?)?;
    let name = names.get(half(entry, 4) as usize..)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some((core::str::from_utf8(&name[..end]).ok()?, u64::from(offset - half(entry, 0))))
}

/// Prints an address of kernel text as `symbol+0x12`.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub u64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match lookup(self.0) {
            Some((name, offset)) => write!(f, "{name}+{offset:#x}"),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

struct TrapCell(UnsafeCell<Option<TrapFrame>>);
// SAFETY: written by the first trap that is fatal (`NOTED`), read on its panic path only.
unsafe impl Sync for TrapCell {}
static TRAP: TrapCell = TrapCell(UnsafeCell::new(None));
static NOTED: AtomicBool = AtomicBool::new(false);

/// Keeps the registers of a fatal trap for the panic report.
pub(crate) fn note_trap(frame: &TrapFrame) {
    if !NOTED.swap(true, Ordering::AcqRel) {
        // SAFETY: only the first caller gets here.
        unsafe { *TRAP.0.get() = Some(*frame) };
    }
}

/// Writes the registers of the trap that is being reported, if the panic comes from one, and the backtrace.
///
/// # Errors
/// Those of `out`.
pub fn report(out: &mut dyn fmt::Write) -> fmt::Result {
    let trap = if NOTED.load(Ordering::Acquire) {
        // SAFETY: written before `NOTED` was set for good; the writer is this CPU's panic path.
        unsafe { (*TRAP.0.get()).as_ref() }
    } else {
        None
    };
    let mut frame_pointer: u64;
    if let Some(trap) = trap {
        writeln!(out, "{trap}")?;
        writeln!(out, "backtrace:")?;
        writeln!(out, "  {:#018x} {}", trap.rip, Name(trap.rip))?;
        frame_pointer = trap.rbp;
    } else {
        writeln!(out, "backtrace:")?;
        // SAFETY: reads RBP, which is a frame pointer (`-Cforce-frame-pointers`).
        unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
    }
    if !percpu::is_ready() {
        return Ok(());
    }
    let area = percpu::this();
    // Frames lie in the stack the thread is on, ascending; those below a call on a large stack lie in its own. Anything else ends the walk.
    let (mut low, mut high) = (area.stack_low.get(), area.stack_high.get());
    let own = crate::thread::with_current(crate::thread::Context::own_stack);
    for _ in 0..60 {
        let inside = |(low, high): (u64, u64)| low <= frame_pointer && frame_pointer <= high.saturating_sub(16) && high != u64::MAX;
        if let Some(own) = own.filter(|own| !inside((low, high)) && inside(*own)) {
            (low, high) = own;
        }
        if !inside((low, high)) || !frame_pointer.is_multiple_of(8) {
            break;
        }
        // SAFETY: two words inside the running thread's mapped stack.
        let [next, back] = unsafe { *(frame_pointer as *const [u64; 2]) };
        if lookup(back).is_none() {
            break;
        }
        writeln!(out, "  {back:#018x} {}", Name(back))?;
        if next <= frame_pointer && own.is_none_or(|(low, high)| next < low || high <= next) {
            break;
        }
        frame_pointer = next;
    }
    Ok(())
}
