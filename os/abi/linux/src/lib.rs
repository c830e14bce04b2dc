//! The Linux x86-64 ABI as data: error numbers, constants, memory layouts.
//!
//! # Theory
//! One reading of the ABI for the kernel, from the manual pages (section 2) and the x86-64 psABI. Nothing here acts; `os/linux`
//! turns our types into these bytes and back. Layouts are encoded by hand, little-endian field by field, so that no `unsafe`, no
//! padding and no host type decides what a program sees.
//!
//! # Reading order
//! `errno`, `consts` (by manual page), `layout` (structures).
#![no_std]
extern crate alloc;

pub mod consts;
mod errno;
mod layout;

pub use errno::Errno;
pub use layout::{
    Bytes, EpollEvent, KernelSigaction, MCONTEXT_BYTES, Rusage, SIGINFO_BYTES, SigDetail, SigInfo, SigStack, Stat, Statfs, Statx, Sysinfo, Termios,
    Timespec, Timeval, UCONTEXT_BYTES, Winsize, dirent, dirent64, field_u16, field_u32, field_u64, utsname,
};
