//! Differential test of the processor: random instruction sequences on our engine, on the host's own processor, and on unicorn.
//!
//! # Theory
//! A [`Case`] is a short sequence of random instructions, with registers and memory, made from a seed. Three runners take it to an
//! [`Outcome`] and the outcomes are compared, field by field, but for what the manual leaves undefined:
//!
//! * [`ours`]: `sim-cpu` with page tables, IDT and TSS of its own; an exception is really delivered and read from its frame.
//! * [`native`]: the host, in user mode. The sequence runs at the same addresses in this process; the fault or the INT3 at the end comes back as a signal
//!   with the whole register state. This is the truth (ring 3 only, x86-64 hosts only), and fast.
//! * [`uni`]: `unicorn-engine` (QEMU's TCG), in ring 0 and ring 3, over the same page tables and descriptors as [`ours`], so that page rights, privileged
//!   instructions, selectors and MSRs are compared too, and the A and D bits that walks leave. Where it is known to be wrong its verdict is masked: [`uni::KNOWN`] gives
//!   each reason.
//!
//! Random draws seldom say anything to a system register, so half of the cases hold a [`privileged`] template (a value and the MOV to CR4 that loads it, POPF
//! with TF or AC, FXSAVE and what comes back from it), and every case has a random [`setting`]: rights of its pages, CR0.WP, CR4.SMEP and SMAP.
//!
//! A difference is shrunk ([`shrink`]) to the fewest instructions and the plainest registers that still show it, and printed with its bytes,
//! both states, the seed and the command that repeats it.
//!
//! # Structures
//! Everything happens at fixed linear addresses below 4 GiB ([`layout`]): two code pages, an arena of four pages (the third read-only, the fourth
//! absent, where the setting says nothing else), a stack page, nothing around them.
//!
//! # Failure
//! Native sequences can reach wild addresses. A case whose fault address (by our engine) lies where the host process may have memory is not
//! run natively; the batch runs in a forked child, so that a wild write of a *wrong* engine's making ends that child and names the case.
//!
//! # Limits
//! On the host no segment loads, no system calls, no RDTSC-like instructions; TF and AC come by POPF only. Error codes are the host's to judge
//! (unicorn reports none), as are the x87, alignment checks and AVX; privileged instructions are unicorn's. Ports, HLT and breakpoints of DR7 are tried
//! by the guests of `harness/metal` on QEMU, and so is what ends a world: INT n, SYSCALL, task gates.
//! The x87 transcendentals, RCPxx and RSQRTxx are not compared (vendors differ, ours are canonical).
//!
//! # Reading order
//! `case`, `setting`, `generate`, `privileged`, `vex`, `ours`, `native`, `uni`, `check`, `shrink`.

pub mod batch;
pub mod case;
pub mod check;
pub mod generate;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod native;
pub mod ours;
pub mod privileged;
pub mod rng;
pub mod setting;
pub mod shrink;
pub mod uni;
pub mod vex;

/// Where things are.
pub mod layout {
    pub const PAGE: u64 = 0x1000;
    /// Two pages of code, readable and executable.
    pub const CODE: u64 = 0x1000_0000;
    pub const CODE_BYTES: u64 = 0x2000;
    /// Arena: two writable pages, one read-only, one absent.
    pub const DATA: u64 = 0x1001_0000;
    pub const DATA_BYTES: u64 = 0x3000;
    pub const DATA_WRITABLE: u64 = 0x2000;
    /// One page of stack.
    pub const STACK: u64 = 0x1002_0000;
    pub const STACK_BYTES: u64 = 0x1000;
    /// Bytes compared: arena and stack.
    pub const MEMORY_BYTES: usize = (DATA_BYTES + STACK_BYTES) as usize;
}
