//! The machine: traps, paging, interrupt controllers, timers, ports, user copies, context switch.
//!
//! # Theory
//! Everything here exists because a safe crate cannot do it. Each module holds one mechanism behind a safe interface and
//! knows no policy: who runs next, what a fault means and what is printed on a panic is decided by [`Hooks`].
//!
//! **Running user code is a call** ([`user`]): entering ring 3 saves the kernel's callee-saved registers; whatever ends user mode (SYSCALL,
//! exception, interrupt) stores the user registers in the context and returns from that call.
//!
//! **IST stacks are trampolines** ([`trap`]): the prebuilt `core` uses the red zone, so the processor must not push on the interrupted kernel
//! stack. Every vector enters on an IST stack; from kernel mode the stub copies the frame 128 bytes below the interrupted RSP and goes on
//! there, so handlers may block and be preempted.
//!
//! **SSE is live in the kernel** since the prebuilt `core` uses it: every entry saves XMM and MXCSR before the first Rust instruction; x87 and
//! the upper halves of YMM stay in the registers until the thread is switched out ([`fpu`]).
//!
//! # Structures
//! [`percpu::PerCpu`], reached through GS, is all that an entry stub may touch. [`thread::Context`] is the machine's half of a kernel thread,
//! [`user`]'s context the machine's half of an LWP.
//!
//! Kernel half of every address space, fixed at start-up (entries of the PML4):
//!
//! | entries | what |
//! |---|---|
//! | 256 .. 384 | direct map of physical memory |
//! | 400 | device registers ([`paging::map_device`]) |
//! | 401 | kernel stacks, 64 KiB apart, 32 KiB used, the rest a guard |
//! | 511 | the image at -2 GiB |
//!
//! # Locking
//! `KernelMap` (device and stack mappings) and `Stacks` (free slots) are spin locks. Per-CPU data is used with interrupts off.
//!
//! # Failure
//! A trap in kernel mode that no fix-up entry covers panics with all registers. An entry whose interrupted RSP is outside the current
//! thread's stack (overflow) panics on the IST stack. User state that the processor would refuse to load is never loaded.
//!
//! # Limits
//! One CPU is started. What would need more is in one place each: [`tlb`] (no shoot-down: asserts), `PerCpu` (one static area), IPIs (none).
// Nothing of this links into a host program: stubs, memory functions, the linker script's symbols.
#![cfg(feature = "metal")]
#![no_std]
extern crate alloc;

pub mod apic;
pub mod cpu;
pub mod fpu;
mod locks;
mod mem;
pub mod paging;
pub mod percpu;
pub mod port;
pub mod stack;
pub mod symbols;
pub mod thread;
pub mod time;
pub mod tlb;
pub mod trap;
pub mod user;

/// What the machine asks of the kernel.
pub trait Hooks: Sync {
    /// The one-shot timer fired. Interrupts are off.
    fn timer(&self);
    /// A switch is due ([`percpu::request_switch`]) and allowed. Interrupts are off on entry and must be off on return.
    fn preempt(&self);
    /// A kernel thread's body returned. Interrupts are on.
    fn thread_end(&self) -> !;
}

static HOOKS: once_cell::race::OnceBox<&'static dyn Hooks> = once_cell::race::OnceBox::new();

/// Installs the hooks (first one wins); before the first thread and the first interrupt.
pub fn install_hooks(hooks: &'static dyn Hooks) {
    if HOOKS.set(alloc::boxed::Box::new(hooks)).is_err() {}
}

fn hooks() -> &'static dyn Hooks {
    *HOOKS.get().expect("hal::install_hooks runs before interrupts and threads")
}
