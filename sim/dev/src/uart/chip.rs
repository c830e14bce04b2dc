//! The 16550A as a pure state machine.

use std::collections::VecDeque;

use sim_bus::{Fields, Nanos, SECOND};

use super::regs::{Reg, fcr, ier, iir, lcr, lsr, mcr, msr};

const FIFO_DEPTH: usize = 16;
/// The crystal of the PC: 1.8432 MHz, sixteen clocks a bit.
const BASE_BAUD: u64 = 115_200;

#[derive(Debug, Clone)]
pub(super) struct Chip {
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    overrun: bool,
    modem_delta: u8,
    receive: VecDeque<u8>,
    transmit: VecDeque<u8>,
    /// A byte is in the shift register (byte timing only).
    shifting: bool,
    thre_pending: bool,
    timeout_pending: bool,
}

impl Default for Chip {
    fn default() -> Self {
        Self {
            // Software programs the divisor; until then 9600 baud, as firmware leaves it.
            divisor: 12,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            overrun: false,
            modem_delta: 0,
            receive: VecDeque::new(),
            transmit: VecDeque::new(),
            shifting: false,
            thre_pending: false,
            timeout_pending: false,
        }
    }
}

impl Chip {
    fn fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }
    fn depth(&self) -> usize {
        if self.fifos() { FIFO_DEPTH } else { 1 }
    }
    fn trigger(&self) -> usize {
        if self.fifos() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }
    pub(super) fn divisor_latch(&self) -> bool {
        self.lcr & lcr::DLAB != 0
    }
    pub(super) fn loopback(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }
    pub(super) fn has_room(&self) -> bool {
        self.receive.len() < self.depth()
    }
    pub(super) fn waits_below_trigger(&self) -> bool {
        self.fifos() && !self.receive.is_empty() && self.receive.len() < self.trigger()
    }

    /// Start bit, data bits, parity, stop bits: at the programmed rate.
    pub(super) fn character_ns(&self) -> Nanos {
        let data = 5 + u64::from(self.lcr & 3);
        let parity = u64::from(self.lcr >> 3 & 1);
        let stop = 1 + u64::from(self.lcr >> 2 & 1);
        let divisor = if self.divisor == 0 { 0x1_0000 } else { u64::from(self.divisor) };
        (1 + data + parity + stop) * divisor * (SECOND / BASE_BAUD)
    }

    /// A byte arrives from the line.
    pub(super) fn receive(&mut self, byte: u8) {
        if !self.has_room() {
            self.overrun = true;
            // The FIFO keeps what it has; the one register is overwritten (data sheet, 8.4).
            if !self.fifos() {
                self.receive.clear();
            }
        }
        if self.has_room() {
            self.receive.push_back(byte);
        }
        self.timeout_pending = false;
    }

    /// The next byte to leave, if the line is free.
    pub(super) fn transmit(&mut self, timed: bool) -> Option<u8> {
        if self.shifting {
            return None;
        }
        let byte = self.transmit.pop_front()?;
        self.shifting = timed;
        if self.transmit.is_empty() {
            self.thre_pending = true;
        }
        Some(byte)
    }
    /// The shift register is empty again.
    pub(super) fn sent(&mut self) {
        self.shifting = false;
    }
    pub(super) fn character_timeout(&mut self) {
        self.timeout_pending = self.waits_below_trigger();
    }

    fn modem_lines(&self) -> u8 {
        if self.loopback() {
            let mut lines = 0;
            for (out, line) in [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)] {
                if self.mcr & out != 0 {
                    lines |= line;
                }
            }
            lines
        } else {
            msr::CTS | msr::DSR | msr::DCD
        }
    }

    /// The highest-priority interrupt, as IIR shows it.
    fn cause(&self) -> u8 {
        if self.ier & ier::LINE_STATUS != 0 && self.overrun {
            iir::LINE_STATUS
        } else if self.ier & ier::RECEIVED != 0 && self.receive.len() >= self.trigger() {
            iir::RECEIVED
        } else if self.ier & ier::RECEIVED != 0 && self.timeout_pending {
            iir::TIMEOUT
        } else if self.ier & ier::THR_EMPTY != 0 && self.thre_pending {
            iir::THR_EMPTY
        } else if self.ier & ier::MODEM_STATUS != 0 && self.modem_delta != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    /// The level of the interrupt pin. OUT2 gates it on a PC; in loopback OUT2 is off the pin.
    pub(super) fn interrupt(&self) -> bool {
        self.cause() != iir::NONE && self.mcr & mcr::OUT2 != 0 && !self.loopback()
    }

    pub(super) fn read(&mut self, reg: Reg) -> u8 {
        match reg {
            Reg::Data if self.divisor_latch() => self.divisor as u8,
            Reg::Data => {
                self.timeout_pending = false;
                self.receive.pop_front().unwrap_or(0)
            }
            Reg::InterruptEnable if self.divisor_latch() => (self.divisor >> 8) as u8,
            Reg::InterruptEnable => self.ier,
            Reg::InterruptIdOrFifoControl => {
                let cause = self.cause();
                if cause == iir::THR_EMPTY {
                    self.thre_pending = false;
                }
                cause | if self.fifos() { iir::FIFOS_ON } else { 0 }
            }
            Reg::LineControl => self.lcr,
            Reg::ModemControl => self.mcr,
            Reg::LineStatus => {
                let mut status = 0;
                if !self.receive.is_empty() {
                    status |= lsr::DATA_READY;
                }
                if std::mem::take(&mut self.overrun) {
                    status |= lsr::OVERRUN;
                }
                if self.transmit.is_empty() {
                    status |= lsr::THR_EMPTY;
                    if !self.shifting {
                        status |= lsr::TRANSMITTER_EMPTY;
                    }
                }
                status
            }
            Reg::ModemStatus => self.modem_lines() | std::mem::take(&mut self.modem_delta),
            Reg::Scratch => self.scratch,
        }
    }

    pub(super) fn write(&mut self, reg: Reg, value: u8) {
        match reg {
            Reg::Data if self.divisor_latch() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            Reg::Data => {
                self.thre_pending = false;
                // A full FIFO loses its newest byte (data sheet, 8.4).
                if self.transmit.len() == self.depth() {
                    self.transmit.pop_back();
                }
                self.transmit.push_back(value);
            }
            Reg::InterruptEnable if self.divisor_latch() => {
                self.divisor = self.divisor & 0x00ff | u16::from(value) << 8;
            }
            Reg::InterruptEnable => {
                let rising = value & !self.ier;
                self.ier = value & 0x0f;
                if rising & ier::THR_EMPTY != 0 && self.transmit.is_empty() {
                    self.thre_pending = true;
                }
            }
            Reg::InterruptIdOrFifoControl => {
                // Changing the enable bit clears both FIFOs; the other bits take only if it is written as one.
                let toggled = (value ^ self.fcr) & fcr::ENABLE != 0;
                let value = if value & fcr::ENABLE != 0 { value } else { 0 };
                if toggled || value & fcr::CLEAR_RECEIVE != 0 {
                    self.receive.clear();
                    self.timeout_pending = false;
                }
                if toggled || value & fcr::CLEAR_TRANSMIT != 0 {
                    self.transmit.clear();
                    self.thre_pending = true;
                }
                self.fcr = value & 0b1100_1001;
            }
            Reg::LineControl => self.lcr = value,
            Reg::ModemControl => {
                let before = self.modem_lines();
                self.mcr = value & 0x1f;
                let after = self.modem_lines();
                let changed = (before ^ after) >> 4;
                let ring_fell = before & msr::RI != 0 && after & msr::RI == 0;
                self.modem_delta |= changed & !msr::DELTA_RI | if ring_fell { msr::DELTA_RI } else { 0 };
            }
            // Writes have no effect.
            Reg::LineStatus | Reg::ModemStatus => {}
            Reg::Scratch => self.scratch = value,
        }
    }

    pub(super) fn state(&mut self, fields: &mut dyn Fields) {
        fields.u16("divisor", &mut self.divisor);
        fields.u8("ier", &mut self.ier);
        fields.u8("fcr", &mut self.fcr);
        fields.u8("lcr", &mut self.lcr);
        fields.u8("mcr", &mut self.mcr);
        fields.u8("scratch", &mut self.scratch);
        fields.flag("overrun", &mut self.overrun);
        fields.u8("modem_delta", &mut self.modem_delta);
        fields.queue("receive", &mut self.receive);
        fields.queue("transmit", &mut self.transmit);
        fields.flag("shifting", &mut self.shifting);
        fields.flag("thre_pending", &mut self.thre_pending);
        fields.flag("timeout_pending", &mut self.timeout_pending);
    }
}
