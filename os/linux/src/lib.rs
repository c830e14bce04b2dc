//! The Linux system calls of x86-64.
//!
//! # Theory
//! One table ([`table`]) names every call; a row says what its arguments are, who serves it, what it may cost, and how it behaves
//! when a signal comes. Handlers are grouped by manual-page subject and stay thin: they convert, call the subsystem, and
//! convert back. Whatever a program passes is an allegation until an [`args`] type has taken it in.
//!
//! A call is looked up by number in an array, its arguments are read from the registers by a function made for its row: no search and
//! no allocation on the way.
//!
//! # Structures
//! [`fail`] is the only place that knows error numbers; [`args`] the only one that reads arguments.
//!
//! # Failure
//! A handler returns an error number, "interrupted", or "registers are set". A call without a handler answers ENOSYS, is counted
//! ([`table::misses`]), and is named once in the log with the program that made it.
//!
//! # Limits
//! No sockets, no ptrace, no AIO, no inotify yet: their rows say absent or partial.
//!
//! # Watching
//! kstat `linux:0:syscalls` counts absent calls by name.
//!
//! # Reading order
//! `table`, `args`, `fail`; then the subjects.
#![no_std]
extern crate alloc;

pub mod args;
mod events;
pub mod fail;
mod futex;
mod io;
mod mem;
mod net;
mod path;
mod paths;
mod poll;
mod process;
pub mod procfs;
mod signal;
pub mod system;
pub mod table;
mod time;
mod xattr;

use alloc::sync::Arc;

use linux_abi::Errno;
use proc::{Outcome, Personality, Task};

use fail::Fail;
use table::{Answer, Ending, Entry};

struct Linux;

impl Personality for Linux {
    fn call(&self, task: &mut Task) -> Outcome {
        let regs = task.regs();
        let number = regs.orig_rax;
        let registers = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        task.zone.stats.syscalls.bump();
        let entry = table::entry(number);
        let outcome = if entry.is_quick { (entry.handler)(task, &registers) } else { serve(task, number, entry, &registers) };
        match outcome.ending {
            Ending::Value => task.regs().rax = outcome.value,
            Ending::Set => {}
            Ending::Interrupted => return Outcome::Interrupted { restartable: entry.is_restartable },
        }
        Outcome::Done
    }
}

/// A call that may block or allocate: noted, and with its kernel memory set aside. Kept apart so that quick calls do not pay for its
/// registers.
#[inline(never)]
fn serve(task: &mut Task, number: u64, entry: &Entry, registers: &[u64; 6]) -> Answer {
    // Numbers with an entry are small.
    task.note_call(u16::try_from(number).unwrap_or(u16::MAX));
    let outcome = if entry.reserve == 0 {
        (entry.handler)(task, registers)
    } else {
        // Held to the end of the call: what it allocates infallibly draws on it.
        let zone = task.zone.id();
        let mut reserved = kif::reserve(zone, entry.reserve.into());
        while reserved.is_err() && kif::relieve(zone) {
            reserved = kif::reserve(zone, entry.reserve.into());
        }
        match reserved {
            Ok(_reservation) => (entry.handler)(task, registers),
            Err(kif::OutOfMemory) => Answer::from(Err(Fail::Errno(Errno::ENOMEM))),
        }
    };
    task.note_return();
    outcome
}

/// Answers a number that nobody serves: counts it, and names the first program that used it.
#[cold]
fn absent(task: &mut Task, _registers: &[u64; 6]) -> Answer {
    let number = task.regs().orig_rax;
    if table::miss(number) {
        let name = table::row(number).map_or("unknown", |row| row.name);
        kif::log().line(format_args!(
            "zone {}: pid {} ({}): system call {number} ({name}) is not implemented",
            task.zone.name(),
            task.process.pid(),
            task.process.name(),
        ));
    }
    Answer::from(Err(Fail::Errno(Errno::ENOSYS)))
}

struct Misses;

impl probe::Source for Misses {
    fn read(&self, sink: &mut dyn probe::Sink) {
        let mut total = 0;
        for (_, name, count) in table::misses() {
            sink.value(name, probe::Value::U64(count));
            total += count;
        }
        sink.value("absent", probe::Value::U64(total));
    }
}

/// Installs the system calls. Before the first process.
pub fn install() {
    proc::install_personality(&Linux);
    probe::register("linux", 0, "syscalls", "misc", probe::Audience::Global, Arc::new(Misses)).forever();
}
