//! Registers of the HBA (§3.1) and of its port (§3.3).

use sim_bus::{RegMap, Row};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    Capabilities,
    Control,
    Pending,
    Ports,
    Version,
    Coalescing,
    CoalescingPorts,
    EnclosureLocation,
    EnclosureControl,
    Capabilities2,
    Handoff,
    ListBase,
    ListBaseHigh,
    FisBase,
    FisBaseHigh,
    PortInterrupt,
    PortEnable,
    Command,
    TaskFile,
    Signature,
    LinkStatus,
    LinkControl,
    LinkError,
    Active,
    Issue,
    Notification,
    Switching,
    Sleep,
}

/// The port's registers begin here.
const PORT: u32 = 0x100;

pub static MAP: RegMap<Reg> = RegMap::new(&[
    Row { offset: 0x00, size: 4, reg: Reg::Capabilities },
    Row { offset: 0x04, size: 4, reg: Reg::Control },
    Row { offset: 0x08, size: 4, reg: Reg::Pending },
    Row { offset: 0x0c, size: 4, reg: Reg::Ports },
    Row { offset: 0x10, size: 4, reg: Reg::Version },
    Row { offset: 0x14, size: 4, reg: Reg::Coalescing },
    Row { offset: 0x18, size: 4, reg: Reg::CoalescingPorts },
    Row { offset: 0x1c, size: 4, reg: Reg::EnclosureLocation },
    Row { offset: 0x20, size: 4, reg: Reg::EnclosureControl },
    Row { offset: 0x24, size: 4, reg: Reg::Capabilities2 },
    Row { offset: 0x28, size: 4, reg: Reg::Handoff },
    Row { offset: PORT, size: 4, reg: Reg::ListBase },
    Row { offset: PORT + 0x04, size: 4, reg: Reg::ListBaseHigh },
    Row { offset: PORT + 0x08, size: 4, reg: Reg::FisBase },
    Row { offset: PORT + 0x0c, size: 4, reg: Reg::FisBaseHigh },
    Row { offset: PORT + 0x10, size: 4, reg: Reg::PortInterrupt },
    Row { offset: PORT + 0x14, size: 4, reg: Reg::PortEnable },
    Row { offset: PORT + 0x18, size: 4, reg: Reg::Command },
    Row { offset: PORT + 0x20, size: 4, reg: Reg::TaskFile },
    Row { offset: PORT + 0x24, size: 4, reg: Reg::Signature },
    Row { offset: PORT + 0x28, size: 4, reg: Reg::LinkStatus },
    Row { offset: PORT + 0x2c, size: 4, reg: Reg::LinkControl },
    Row { offset: PORT + 0x30, size: 4, reg: Reg::LinkError },
    Row { offset: PORT + 0x34, size: 4, reg: Reg::Active },
    Row { offset: PORT + 0x38, size: 4, reg: Reg::Issue },
    Row { offset: PORT + 0x3c, size: 4, reg: Reg::Notification },
    Row { offset: PORT + 0x40, size: 4, reg: Reg::Switching },
    Row { offset: PORT + 0x44, size: 4, reg: Reg::Sleep },
]);

/// Command slots.
pub const SLOTS: u32 = 32;
/// CAP: one port, 32 slots, AHCI only, 6 Gb/s, command list override, NCQ, 64-bit addresses.
pub const CAPABILITIES: u32 = (SLOTS - 1) << 8 | 1 << 18 | 3 << 20 | 1 << 24 | 1 << 30 | 1 << 31;
pub const VERSION: u32 = 0x0001_0301;

/// GHC.
pub mod ghc {
    pub const RESET: u32 = 1;
    pub const INTERRUPTS: u32 = 1 << 1;
    pub const AHCI: u32 = 1 << 31;
}

/// PxIS and PxIE.
pub mod irq {
    pub const D2H: u32 = 1;
    pub const PIO_SETUP: u32 = 1 << 1;
    pub const SET_BITS: u32 = 1 << 3;
    pub const CONNECT: u32 = 1 << 6;
    pub const PHY_CHANGE: u32 = 1 << 22;
    pub const OVERFLOW: u32 = 1 << 24;
    pub const HOST_FATAL: u32 = 1 << 29;
    pub const TASK_FILE: u32 = 1 << 30;
    /// Bits that software can enable.
    pub const DEFINED: u32 = 0xfdc0_00ff;
    /// Mirrors of PxSERR: not cleared by a write.
    pub const MIRRORS: u32 = CONNECT | PHY_CHANGE;
}

/// PxCMD.
pub mod cmd {
    pub const START: u32 = 1;
    pub const SPIN_UP: u32 = 1 << 1;
    pub const POWER_ON: u32 = 1 << 2;
    pub const OVERRIDE: u32 = 1 << 3;
    pub const FIS_RECEIVE: u32 = 1 << 4;
    pub const FIS_RUNNING: u32 = 1 << 14;
    pub const LIST_RUNNING: u32 = 1 << 15;
    /// Link power requests: taken as done, the link knows no power states.
    pub const LINK_POWER: u32 = 0xf << 28;
    /// What software can set and reads back. Without staggered spin-up and cold presence, spin-up and power are always on.
    pub const KEPT: u32 = START | FIS_RECEIVE | 7 << 24;
}

/// PxSERR.
pub mod serr {
    pub const PHY_CHANGE: u32 = 1 << 16;
    pub const EXCHANGED: u32 = 1 << 26;
}

/// Task file status bits.
pub mod status {
    pub const ERROR: u8 = 0x01;
    pub const REQUEST: u8 = 0x08;
    pub const SEEK_COMPLETE: u8 = 0x10;
    pub const READY: u8 = 0x40;
    pub const BUSY: u8 = 0x80;
    pub const GOOD: u8 = READY | SEEK_COMPLETE;
}
