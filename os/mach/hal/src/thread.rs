//! The machine's half of a kernel thread: stack, switch, lock bookkeeping, address space.
//!
//! Who runs is decided above. [`switch_to`] is safe to call with any context: one that runs already, or has ended, is refused by an
//! assertion (`running`), so no stack is ever used twice.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::arch::global_asm;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering, Ordering::Relaxed};

use kif::{Fault, FaultHandler, OutOfMemory, ThreadId, ZoneId};

use crate::stack::Stack;
use crate::user::{self, UserState};
use crate::{cpu, hooks, paging, percpu, stack};

/// The machine's half of a kernel thread.
#[allow(missing_debug_implementations, reason = "cells of the running thread")]
pub struct Context {
    id: ThreadId,
    stack: Stack,
    /// Bounds of the stack it is on: its own, or a large one.
    on: Cell<(u64, u64)>,
    sp: Cell<u64>,
    /// True from being switched to until the next thread has taken over, and for ever once ended.
    running: AtomicBool,
    /// It will not run again.
    ended: AtomicBool,
    body: UnsafeCell<Option<Box<dyn FnOnce() + Send>>>,
    /// What the kernel keeps with the thread.
    local: Box<dyn Any + Send + Sync>,
    /// CR3 while this thread runs; 0: any will do.
    space: Cell<u64>,
    faults: UnsafeCell<Option<Arc<dyn FaultHandler>>>,
    /// The user context whose state is in the registers.
    pub(crate) live: Cell<*mut UserState>,
    /// Cycles in user mode that [`take_user_cycles`] has not given yet.
    pub(crate) user_cycles: Cell<u64>,
    /// A word for whoever wakes the thread.
    note: AtomicU8,
    pub(crate) interrupted: AtomicBool,
    /// Classes of mutexes held, a bit each; and how many of a class that nests.
    held: Cell<u64>,
    nested: Cell<u32>,
    nested_class: Cell<u8>,
}

// SAFETY: the cells are used by the running thread itself, and by `switch_to` on the CPU that stops or starts it; `running` orders the two
// (release when it stopped, acquire before it starts). Everything else is atomic or immutable.
unsafe impl Send for Context {}
// SAFETY: the same.
unsafe impl Sync for Context {}

global_asm!(
    r#"
    .text
    /* thread_switch(rdi: where to keep RSP, rsi: RSP of the next) */
    .p2align 4
    .globl thread_switch, thread_start
    .type thread_switch, @function
thread_switch:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
    /* First code of a thread: the frame chain ends here (rbp = 0). */
    .type thread_start, @function
thread_start:
    call {first}
    ud2
    /* call_on(rdi: upper end of a stack, rsi: where the call is) */
    .p2align 4
    .globl call_on
    .type call_on, @function
call_on:
    push rbp
    mov rbp, rsp
    mov rsp, rdi
    mov rdi, rsi
    call {called}
    mov rsp, rbp
    pop rbp
    ret
    "#,
    first = sym first,
    called = sym called,
);

unsafe extern "C" {
    fn thread_switch(keep: *mut u64, next: u64);
    fn thread_start();
    fn call_on(high: u64, call: *mut core::ffi::c_void);
}

/// A call on another stack.
struct Call<'c> {
    body: &'c mut dyn FnMut(),
}

/// First Rust code on the large stack.
extern "C" fn called(call: &mut Call<'_>) {
    cpu::interrupts_on();
    (call.body)();
    cpu::interrupts_off();
}

/// Calls `body` on a large stack. It may block; the thread comes back on its own stack. Interrupts are on, no spin lock is held.
///
/// # Errors
/// No memory for a stack: `body` was not called.
pub fn on_large_stack(body: &mut dyn FnMut()) -> Result<(), OutOfMemory> {
    let inside = with_current(|context| context.on.get() != context.stack.bounds());
    if inside != Some(false) {
        // There already, or no threads yet: the boot stack does.
        body();
        return Ok(());
    }
    assert!(cpu::interrupts_enabled(), "a large stack is for work that may block");
    let (low, high) = stack::borrow_large()?;
    let place = |bounds: (u64, u64)| {
        with_current(|context| context.on.set(bounds));
        let area = percpu::this();
        area.stack_low.set(bounds.0);
        area.stack_high.set(bounds.1);
    };
    let mut call = Call { body };
    cpu::interrupts_off();
    place((low, high));
    // SAFETY: a mapped stack that nobody else is on; `call` outlives the call; `called` returns with interrupts off, as it was called.
    unsafe { call_on(high, (&raw mut call).cast()) };
    place(with_current(|context| context.stack.bounds()).expect("this thread runs"));
    cpu::interrupts_on();
    stack::give_large_back(high);
    Ok(())
}

impl Context {
    /// A thread that will run `body`, with a stack charged to `zone`.
    ///
    /// # Errors
    /// No memory for the stack.
    pub fn new(
        id: ThreadId,
        zone: ZoneId,
        local: Box<dyn Any + Send + Sync>,
        body: Box<dyn FnOnce() + Send>,
    ) -> Result<Arc<Self>, OutOfMemory> {
        let stack = Stack::allocate(zone)?;
        let (_, high) = stack.bounds();
        // What `thread_switch` pops: six registers, then the return address; above it a word, so that `thread_start` begins with RSP
        // at a multiple of 16.
        let image: [u64; 8] = [0, 0, 0, 0, 0, 0, thread_start as *const () as u64, 0];
        let sp = high - 72;
        // SAFETY: the top of a stack that was just mapped and that nobody uses.
        unsafe { (sp as *mut [u64; 8]).write(image) };
        Ok(Arc::new(Self::with(id, stack, sp, local, Some(body), false)))
    }

    fn with(
        id: ThreadId,
        stack: Stack,
        sp: u64,
        local: Box<dyn Any + Send + Sync>,
        body: Option<Box<dyn FnOnce() + Send>>,
        running: bool,
    ) -> Self {
        Self {
            id,
            on: Cell::new(stack.bounds()),
            stack,
            sp: Cell::new(sp),
            running: AtomicBool::new(running),
            ended: AtomicBool::new(false),
            body: UnsafeCell::new(body),
            local,
            space: Cell::new(0),
            faults: UnsafeCell::new(None),
            live: Cell::new(core::ptr::null_mut()),
            user_cycles: Cell::new(0),
            note: AtomicU8::new(0),
            interrupted: AtomicBool::new(false),
            held: Cell::new(0),
            nested: Cell::new(0),
            nested_class: Cell::new(0),
        }
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> ThreadId {
        self.id
    }
    /// Bounds of its own stack.
    pub(crate) const fn own_stack(&self) -> (u64, u64) {
        self.stack.bounds()
    }
    /// What the kernel keeps with the thread.
    #[must_use]
    pub fn local(&self) -> &(dyn Any + Send + Sync) {
        &*self.local
    }
    /// Sets or clears the sticky interrupt: while set, user mode is not entered.
    pub fn set_interrupted(&self, value: bool) {
        self.interrupted.store(value, Relaxed);
        // If the thread runs here; elsewhere it would take an interrupt of that CPU.
        percpu::look_first();
    }
    /// Leaves the thread a word (why it was woken).
    pub fn set_note(&self, note: u8) {
        self.note.store(note, Relaxed);
    }
    /// The word left last.
    #[must_use]
    pub fn note(&self) -> u8 {
        self.note.load(Relaxed)
    }
    /// The sticky interrupt.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }
}

/// Makes the code that is running on the boot stack a thread.
pub fn adopt_boot_thread(id: ThreadId, local: Box<dyn Any + Send + Sync>) -> Arc<Context> {
    assert!(percpu::current().is_null(), "the boot thread is adopted once");
    let (low, high) = paging::boot_stack();
    let context = Arc::new(Context::with(id, Stack::boot(low, high), 0, local, None, true));
    let area = percpu::this();
    area.stack_low.set(low);
    area.stack_high.set(high);
    area.current.set(Arc::into_raw(Arc::clone(&context)));
    context
}

/// Calls `body` with the running thread; `None` before threads exist.
pub fn with_current<R>(body: impl FnOnce(&Context) -> R) -> Option<R> {
    let current = percpu::current();
    if current.is_null() {
        return None;
    }
    // SAFETY: the area holds a reference for the running thread, and this thread runs for as long as `body` does.
    Some(body(unsafe { &*current }))
}

/// Identity of the running thread; 0 before threads exist.
#[must_use]
pub fn current_id() -> ThreadId {
    with_current(Context::id).unwrap_or(ThreadId(0))
}

/// Cycles the running thread has spent in user mode since the last call.
#[must_use]
pub fn take_user_cycles() -> u64 {
    with_current(|context| context.user_cycles.replace(0)).unwrap_or(0)
}

/// Runs `next` on this CPU until somebody switches back. Interrupts are off, no spin lock is held. Takes the reference by value: a thread
/// that has ended never comes back here to drop one.
pub fn switch_to(next: Arc<Context>) {
    assert!(!cpu::interrupts_enabled(), "a switch with interrupts on");
    let area = percpu::this();
    let previous = area.current.get();
    if core::ptr::eq(previous, Arc::as_ptr(&next)) {
        return;
    }
    // SAFETY: the running thread's context exists.
    let from = unsafe { &*previous };
    assert_eq!(area.held_spins.get(), 0, "thread {} switches with a spin lock held", from.id.0);
    assert!(!next.running.swap(true, Ordering::Acquire), "thread {} runs already or has ended", next.id.0);
    area.ready.set(core::ptr::null());
    let live = from.live.replace(core::ptr::null_mut());
    if !live.is_null() {
        // SAFETY: `live` names an existing state of this thread (its drop clears it).
        unsafe { user::retire(live) };
    }
    let space = next.space.get();
    if space != 0 && space != area.loaded_cr3.get() {
        // SAFETY: `space` is a table that `activate` got for this thread, which keeps it alive.
        unsafe { cpu::write_cr3(space) };
        area.loaded_cr3.set(space);
    }
    let (low, high) = next.on.get();
    area.stack_low.set(low);
    area.stack_high.set(high);
    let sp = next.sp.get();
    area.current.set(Arc::into_raw(next));
    area.previous.set(previous);
    // SAFETY: 1. `sp` of a context that was not running is what `thread_switch` or `new` left; 2. the old one is kept in its own context.
    unsafe { thread_switch(from.sp.as_ptr(), sp) };
    took_over();
}

/// First thing on the new stack: the previous thread's registers are stored, so another CPU may run it.
fn took_over() {
    let area = percpu::this();
    let previous = area.previous.replace(core::ptr::null());
    assert!(!previous.is_null(), "a thread took over from nobody");
    // SAFETY: the reference that `switch_to` moved from `current` to `previous`.
    let previous = unsafe { Arc::from_raw(previous) };
    if !previous.ended.load(Relaxed) {
        previous.running.store(false, Ordering::Release);
    }
    // The kernel's own reference frees an ended thread (and its stack, which nobody is on any more).
}

/// First Rust code of a thread.
extern "C" fn first() -> ! {
    took_over();
    cpu::interrupts_on();
    // SAFETY: only the thread itself takes its body, here, once.
    let body = with_current(|context| unsafe { (*context.body.get()).take() }).flatten();
    body.expect("a thread starts once")();
    with_current(|context| {
        assert_eq!(context.held.get(), 0, "thread {} ends with locks held: {:#x}", context.id.0, context.held.get());
        assert!(context.live.get().is_null(), "thread {} ends before its user context", context.id.0);
    });
    activate(None, None);
    hooks().thread_end()
}

// ---- address space -----------------------------------------------------------------------------------------------------------------

/// See [`kif::Mmu::activate`].
pub(crate) fn activate(token: Option<u64>, faults: Option<Arc<dyn FaultHandler>>) {
    let flags = cpu::interrupts_off();
    let old = with_current(|context| {
        let space = token.unwrap_or(0);
        context.space.set(space);
        let cr3 = token.unwrap_or_else(paging::kernel_root);
        let area = percpu::this();
        if area.loaded_cr3.get() != cr3 {
            // SAFETY: a table made by `new_table` and kept by the caller, or the kernel's.
            unsafe { cpu::write_cr3(cr3) };
            area.loaded_cr3.set(cr3);
        }
        // SAFETY: only the running thread uses its fault handler; `resolve_fault` works on a clone.
        unsafe { core::mem::replace(&mut *context.faults.get(), faults) }
    });
    if flags & cpu::IF != 0 {
        cpu::interrupts_on();
    }
    // May run the address space's drop: with interrupts on.
    drop(old);
}

/// Resolves a fault of a user copy with the running thread's handler.
pub(crate) fn resolve_fault(fault: Fault) -> bool {
    // SAFETY: as in `activate`.
    let handler = with_current(|context| unsafe { (*context.faults.get()).clone() }).flatten();
    handler.is_some_and(|handler| handler.resolve(fault).is_ok())
}

/// Asserts that a page fault may be taken here: no spin lock held.
pub(crate) fn assert_may_fault() {
    let held = percpu::held_spins();
    assert_eq!(held, 0, "a user copy under a spin lock: {:?}", Classes(held));
}

// ---- lock order --------------------------------------------------------------------------------------------------------------------

/// Notes that the running thread takes a mutex of `class`; asserts that it is above all it holds.
pub fn lock_taken(class: u8, nests: bool) {
    with_current(|context| {
        let held = context.held.get();
        let bit = 1_u64 << (class & 63);
        if held >= bit || percpu::held_spins() != 0 {
            take_nested(context, class, nests);
        }
        context.held.set(held | bit);
    });
}

/// Something of this class or above is held already.
#[cold]
fn take_nested(context: &Context, class: u8, nests: bool) {
    let held = context.held.get() | percpu::held_spins();
    assert!(nests && held >> class == 1, "thread {} takes a lock of class {class} while holding {:?}", context.id.0, Classes(held));
    context.nested.set(context.nested.get() + 1);
    context.nested_class.set(class);
}

/// Notes the release.
pub fn lock_released(class: u8) {
    with_current(|context| {
        let bit = 1_u64 << (class & 63);
        // Locks taken before threads existed are released without having been noted.
        if context.nested.get() > 0 && context.nested_class.get() == class {
            context.nested.set(context.nested.get() - 1);
        } else {
            context.held.set(context.held.get() & !bit);
        }
    });
}

/// Locks of sleeping classes that the running thread holds: it should not be starved.
#[must_use]
pub fn holds_mutex() -> bool {
    with_current(|context| context.held.get() != 0).unwrap_or(false)
}

/// Asserts that the running thread may block.
pub fn assert_may_block() {
    let held = percpu::held_spins();
    assert_eq!(held, 0, "thread {} blocks under {:?}", current_id().0, Classes(held));
}

/// Ends the running thread for good: the next switch away from it is the last.
pub fn retire_current() {
    cpu::interrupts_off();
    // `running` stays true, so nobody can switch to it again.
    with_current(|context| context.ended.store(true, Relaxed));
}

/// Prints a set of lock classes.
pub(crate) struct Classes(pub(crate) u64);

impl core::fmt::Debug for Classes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries((0..64).filter(|class| self.0 >> class & 1 != 0)).finish()
    }
}
