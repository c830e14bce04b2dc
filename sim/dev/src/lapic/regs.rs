//! Registers of the local APIC (SDM vol. 3 §11.4.1, table 11-1): the offset divided by 16, which is also the x2APIC MSR less 0x800.

/// A register by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reg {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    Eoi,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    Spurious,
    InService(usize),
    TriggerMode(usize),
    Request(usize),
    ErrorStatus,
    CommandLow,
    CommandHigh,
    Lvt(Lvt),
    InitialCount,
    CurrentCount,
    Divide,
    SelfIpi,
}

/// Entries of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lvt {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

impl Lvt {
    pub(super) fn index(self) -> usize {
        match self {
            Lvt::Timer => 0,
            Lvt::Thermal => 1,
            Lvt::Performance => 2,
            Lvt::Lint0 => 3,
            Lvt::Lint1 => 4,
            Lvt::Error => 5,
        }
    }
    /// Bits that software may set.
    pub(super) fn writable(self) -> u32 {
        match self {
            Lvt::Timer => 0x0007_00ff,
            Lvt::Thermal | Lvt::Performance => 0x0001_07ff,
            Lvt::Lint0 | Lvt::Lint1 => 0x0001_a7ff,
            Lvt::Error => 0x0001_00ff,
        }
    }
}

/// The register with number `index` (offset / 16).
pub(super) fn find(index: u32) -> Option<Reg> {
    Some(match index {
        0x02 => Reg::Id,
        0x03 => Reg::Version,
        0x08 => Reg::TaskPriority,
        0x09 => Reg::ArbitrationPriority,
        0x0a => Reg::ProcessorPriority,
        0x0b => Reg::Eoi,
        0x0c => Reg::RemoteRead,
        0x0d => Reg::LogicalDestination,
        0x0e => Reg::DestinationFormat,
        0x0f => Reg::Spurious,
        0x10..=0x17 => Reg::InService(index as usize - 0x10),
        0x18..=0x1f => Reg::TriggerMode(index as usize - 0x18),
        0x20..=0x27 => Reg::Request(index as usize - 0x20),
        0x28 => Reg::ErrorStatus,
        0x30 => Reg::CommandLow,
        0x31 => Reg::CommandHigh,
        0x32 => Reg::Lvt(Lvt::Timer),
        0x33 => Reg::Lvt(Lvt::Thermal),
        0x34 => Reg::Lvt(Lvt::Performance),
        0x35 => Reg::Lvt(Lvt::Lint0),
        0x36 => Reg::Lvt(Lvt::Lint1),
        0x37 => Reg::Lvt(Lvt::Error),
        0x38 => Reg::InitialCount,
        0x39 => Reg::CurrentCount,
        0x3e => Reg::Divide,
        0x3f => Reg::SelfIpi,
        _ => return None,
    })
}

/// 6 LVT entries (maximum index 5), version 0x14: integrated APIC.
pub(super) const VERSION: u32 = 5 << 16 | 0x14;

pub(super) mod lvt {
    pub const MASKED: u32 = 1 << 16;
    pub const PERIODIC: u32 = 1 << 17;
    pub const TSC_DEADLINE: u32 = 1 << 18;
    pub const MODE: u32 = PERIODIC | TSC_DEADLINE;
}
pub(super) mod esr {
    pub const SEND_ILLEGAL: u32 = 1 << 5;
    pub const RECEIVE_ILLEGAL: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}
pub(super) mod base {
    pub const BOOTSTRAP: u64 = 1 << 8;
    pub const X2APIC: u64 = 1 << 10;
    pub const ENABLED: u64 = 1 << 11;
}
