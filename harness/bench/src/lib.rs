//! The benchmark: simulator speed next to QEMU, and the OS's costs in exact guest ticks.
//!
//! # Theory
//! *Speed* is a ratio within one run: tiny bare-metal guests ([`guests`], assembled here into PVH ELF images) run the same bytes on our machine and on
//! QEMU TCG with and without `-icount`, interleaved, and the medians are compared ([`plan`]). A guest writes `S` to COM1 before its loop and `E` after it; the time
//! between the two letters counts, so loading and start-up do not. Instructions are counted by our machine, exactly.
//!
//! Debian's Linux ([`linux`]) gives three more rows: its boot, and a program's system calls and page faults.
//!
//! *Costs of the OS* are ticks, the same on every host ([`os`]): a change of one is a change. A guest program measures them with the TSC, which the default
//! board advances by one per tick. What the pool costs ([`pool`]) is counted from outside, between marks on the console, and so is what
//! OpenZFS's own module costs on Linux ([`openzfs`]).
//!
//! # Structures
//! [`baseline`] keeps both in `perf/*.toml`; [`report`] prints them with change and target.
//!
//! # Failure
//! A missing QEMU leaves its columns empty; a guest that does not end within its bound is an error that names it.
//!
//! # Limits
//! Ratios of one run drift with the host by a few percent; below 15 percent a difference between two runs means nothing.

pub mod baseline;
pub mod guests;
mod image;
pub mod linux;
pub mod openzfs;
pub mod os;
pub mod plan;
pub mod pool;
pub mod report;
pub mod speed;
pub mod travel;

/// What can go wrong.
#[derive(Debug)]
pub enum BenchError {
    /// The guest could not be assembled: a mistake of ours.
    Assemble(String),
    /// Our machine would not take the guest.
    Machine(String),
    /// A guest ended otherwise than by its own exit.
    Guest { name: String, how: String },
    /// QEMU would not start or gave no marks.
    Qemu(String),
    /// A baseline file is unreadable.
    Baseline { path: std::path::PathBuf, why: String },
    /// The OS did not reach the point named.
    Os(String),
}

impl std::fmt::Display for BenchError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BenchError::Assemble(why) => write!(out, "assembling a bench guest: {why}"),
            BenchError::Machine(why) => write!(out, "the simulator refused a bench guest: {why}"),
            BenchError::Guest { name, how } => write!(out, "bench guest {name} ended by {how}"),
            BenchError::Qemu(why) => write!(out, "qemu: {why}"),
            BenchError::Baseline { path, why } => write!(out, "{}: {why}", path.display()),
            BenchError::Os(why) => write!(out, "{why}"),
        }
    }
}

impl std::error::Error for BenchError {}
