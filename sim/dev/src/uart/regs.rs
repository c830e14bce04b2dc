//! Registers of the 16550A (PC16550D data sheet, table II).

use sim_bus::{RegMap, Row};

/// Names by address; DLAB and direction choose the second meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// RBR, THR; divisor low with DLAB.
    Data,
    /// IER; divisor high with DLAB.
    InterruptEnable,
    /// IIR, FCR.
    InterruptIdOrFifoControl,
    LineControl,
    ModemControl,
    LineStatus,
    ModemStatus,
    Scratch,
}

pub(super) static MAP: RegMap<Reg> = RegMap::new(&[
    Row { offset: 0, size: 1, reg: Reg::Data },
    Row { offset: 1, size: 1, reg: Reg::InterruptEnable },
    Row { offset: 2, size: 1, reg: Reg::InterruptIdOrFifoControl },
    Row { offset: 3, size: 1, reg: Reg::LineControl },
    Row { offset: 4, size: 1, reg: Reg::ModemControl },
    Row { offset: 5, size: 1, reg: Reg::LineStatus },
    Row { offset: 6, size: 1, reg: Reg::ModemStatus },
    Row { offset: 7, size: 1, reg: Reg::Scratch },
]);

pub(super) mod ier {
    pub const RECEIVED: u8 = 1 << 0;
    pub const THR_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
}
pub(super) mod iir {
    pub const NONE: u8 = 0b0001;
    pub const LINE_STATUS: u8 = 0b0110;
    pub const RECEIVED: u8 = 0b0100;
    pub const TIMEOUT: u8 = 0b1100;
    pub const THR_EMPTY: u8 = 0b0010;
    pub const MODEM_STATUS: u8 = 0b0000;
    pub const FIFOS_ON: u8 = 0b1100_0000;
}
pub(super) mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RECEIVE: u8 = 1 << 1;
    pub const CLEAR_TRANSMIT: u8 = 1 << 2;
}
pub(super) mod lcr {
    pub const DLAB: u8 = 1 << 7;
}
pub(super) mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOP: u8 = 1 << 4;
}
pub(super) mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const THR_EMPTY: u8 = 1 << 5;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 6;
}
pub(super) mod msr {
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    /// Trailing edge of RI: only a change from on to off counts.
    pub const DELTA_RI: u8 = 1 << 2;
}
