//! Controller registers (§3.1) and their bits.

use sim_bus::{RegMap, Row};

/// Registers below the doorbells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    Capabilities,
    Version,
    MaskSet,
    MaskClear,
    Configuration,
    Status,
    AdminAttributes,
    AdminSubmission,
    AdminCompletion,
    MemoryLocation,
    MemorySize,
    BootPartition,
}

pub static MAP: RegMap<Reg> = RegMap::new(&[
    Row { offset: 0x00, size: 8, reg: Reg::Capabilities },
    Row { offset: 0x08, size: 4, reg: Reg::Version },
    Row { offset: 0x0c, size: 4, reg: Reg::MaskSet },
    Row { offset: 0x10, size: 4, reg: Reg::MaskClear },
    Row { offset: 0x14, size: 4, reg: Reg::Configuration },
    Row { offset: 0x1c, size: 4, reg: Reg::Status },
    Row { offset: 0x24, size: 4, reg: Reg::AdminAttributes },
    Row { offset: 0x28, size: 8, reg: Reg::AdminSubmission },
    Row { offset: 0x30, size: 8, reg: Reg::AdminCompletion },
    Row { offset: 0x38, size: 4, reg: Reg::MemoryLocation },
    Row { offset: 0x3c, size: 4, reg: Reg::MemorySize },
    Row { offset: 0x40, size: 4, reg: Reg::BootPartition },
]);

/// Entries of a queue at most.
pub const QUEUE_ENTRIES_MAX: u16 = 1024;
/// I/O queue pairs.
pub const IO_QUEUES: u16 = 32;

/// CAP (§3.1.1): 1,024 entries, contiguous queues, ready within 500 ms, doorbells 4 bytes apart, NVM command set, 4 KiB pages only.
pub const CAPABILITIES: u64 = (QUEUE_ENTRIES_MAX as u64 - 1) | 1 << 16 | 1 << 24 | 1 << 37;
/// VS: 1.4.
pub const VERSION: u32 = 0x0001_0400;

/// CC (§3.1.5).
pub mod cc {
    pub const ENABLE: u32 = 1;
    pub const COMMAND_SET: u32 = 7 << 4;
    pub const PAGE_SIZE: u32 = 0xf << 7;
    pub const ARBITRATION: u32 = 7 << 11;
    pub const SHUTDOWN: u32 = 3 << 14;
    pub const SUBMISSION_ENTRY: u32 = 0xf << 16;
    pub const COMPLETION_ENTRY: u32 = 0xf << 20;
    pub const DEFINED: u32 = ENABLE | COMMAND_SET | PAGE_SIZE | ARBITRATION | SHUTDOWN | SUBMISSION_ENTRY | COMPLETION_ENTRY;
}

/// CSTS (§3.1.6).
pub mod csts {
    pub const READY: u32 = 1;
    pub const FATAL: u32 = 1 << 1;
    pub const SHUTDOWN: u32 = 3 << 2;
    pub const SHUTDOWN_RUNNING: u32 = 1 << 2;
    pub const SHUTDOWN_DONE: u32 = 2 << 2;
}
