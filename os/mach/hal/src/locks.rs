//! What `sync`'s locks do on every lock, bound to them at link time (`os/mach/sync/src/dispatch.rs`).
//!
//! Books are kept in two places: the classes of mutexes held with the thread, which keeps them while it sleeps; the classes of spin locks with
//! the CPU, where they cannot change hands, since interrupts are off while one is held. All classes of spin locks are above all of mutexes, so
//! each check is one comparison of a word.

use crate::{cpu, percpu, thread, trap};

/// The running thread.
// SAFETY: the one definition of this name; `sync` declares it with this signature.
#[unsafe(no_mangle)]
fn orrery_current() -> u64 {
    thread::current_id().0
}

/// The CPU it runs on.
// SAFETY: as for `orrery_current`.
#[unsafe(no_mangle)]
fn orrery_cpu() -> u32 {
    percpu::index()
}

/// A mutex of `class` is taken; asserts the order.
// SAFETY: as for `orrery_current`.
#[unsafe(no_mangle)]
fn orrery_lock_taken(class: u8, nests: bool) {
    thread::lock_taken(class, nests);
}

/// It is given back.
// SAFETY: as for `orrery_current`.
#[unsafe(no_mangle)]
fn orrery_lock_released(class: u8) {
    thread::lock_released(class);
}

/// A spin lock of `class` is taken: interrupts go off; asserts the order.
// SAFETY: as for `orrery_current`.
#[unsafe(no_mangle)]
fn orrery_enter_spin(class: u8) -> u64 {
    let saved = cpu::interrupts_off();
    let held = percpu::held_spins();
    let bit = 1_u64 << (class & 63);
    if held >= bit {
        out_of_order(class, held);
    }
    percpu::set_held_spins(held | bit);
    saved
}

/// It is given back: interrupts as they were, and a switch if one became due.
// SAFETY: as for `orrery_current`.
#[unsafe(no_mangle)]
fn orrery_leave_spin(class: u8, saved: u64) {
    percpu::set_held_spins(percpu::held_spins() & !(1_u64 << (class & 63)));
    trap::restore(saved);
}

#[cold]
#[inline(never)]
fn out_of_order(class: u8, held: u64) -> ! {
    panic!("thread {} takes a spin lock of class {class} while holding {:?}", thread::current_id().0, thread::Classes(held));
}
