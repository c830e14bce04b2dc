//! Translation caches: the one place that knows who may hold a stale entry.
//!
//! Only the boot CPU runs, so flushing here is enough; a second CPU would need an interrupt to the others in each of these functions.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::{cpu, percpu};

/// CPUs that run kernel code.
static ONLINE: AtomicU32 = AtomicU32::new(1);

/// CPUs that run.
pub fn online() -> u32 {
    ONLINE.load(Relaxed)
}

fn invalidate(address: u64) {
    // SAFETY: INVLPG only drops a cached translation.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Forgets a page of the kernel half.
pub(crate) fn flush_kernel_page(address: u64) {
    assert_eq!(online(), 1, "shoot-down is not there yet");
    invalidate(address);
}

/// Forgets a page of the user address space `cr3`.
pub(crate) fn flush_user_page(cr3: u64, address: u64) {
    assert_eq!(online(), 1, "shoot-down is not there yet");
    if percpu::this().loaded_cr3.get() == cr3 {
        invalidate(address);
    }
}

/// Forgets all user pages of the address space `cr3`.
pub(crate) fn flush_user(cr3: u64) {
    assert_eq!(online(), 1, "shoot-down is not there yet");
    if percpu::this().loaded_cr3.get() == cr3 {
        // SAFETY: the address space that is loaded.
        unsafe { cpu::write_cr3(cr3) };
    }
}
