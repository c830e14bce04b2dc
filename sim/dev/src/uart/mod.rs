//! 16550A UART: a console line or the agent's line.
//!
//! # Theory
//! The chip of the National Semiconductor PC16550D data sheet: 16-byte FIFOs, the four interrupt sources in their fixed priority, modem
//! control with loopback. Transmission takes no time unless the board asks for byte timing; then a byte leaves the shift register
//! after as many bit times as divisor and line control say, with one event for each byte that is moved. Reception is paced by the
//! guest: a byte enters the FIFO when there is room, so nothing typed or sent by the harness is ever overrun.
//!
//! The character time-out interrupt (data waits below the trigger level) falls due four character times after the last arrival or read.
//!
//! # States
//! THR empty → loaded → (shift register) → empty. Interrupt pending bits are levels derived from state but for THRE, which is latched
//! when THR becomes empty or IER.1 is set while it is empty, and cleared by reading IIR when it is the reported source, or writing THR.
//!
//! # Limits
//! FIFO 16. No parity, framing or break errors are generated; no DMA mode.

mod chip;
mod regs;
#[cfg(test)]
mod tests;

use sim_bus::{Access, ConsoleId, Cx, Device, Fields, RegMap, Region, Reset, Token};

use chip::Chip;
pub use regs::Reg;

const SENT: Token = Token(0);
const CHARACTER_TIMEOUT: Token = Token(1);

/// A 16550A with a console behind it. Pin 0 is its interrupt.
#[derive(Debug, Clone)]
pub struct Uart {
    chip: Chip,
    console: ConsoleId,
    /// Whether bytes take their time on the line.
    timed: bool,
}

impl Uart {
    pub fn new(console: ConsoleId, timed: bool) -> Self {
        Self { chip: Chip::default(), console, timed }
    }

    /// Moves what can move, then shows the interrupt pin.
    fn settle(&mut self, cx: &mut Cx<'_>) {
        let mut looped = false;
        while let Some(byte) = self.chip.transmit(self.timed) {
            if self.chip.loopback() {
                self.chip.receive(byte);
                looped = true;
            } else {
                cx.output(self.console, byte);
            }
            if self.timed {
                cx.after(self.chip.character_ns(), SENT);
            }
        }
        if looped {
            self.watch(cx);
        }
        self.refill(cx);
        cx.irq(0, self.chip.interrupt());
    }

    fn refill(&mut self, cx: &mut Cx<'_>) {
        let mut arrived = false;
        while !self.chip.loopback() && self.chip.has_room() {
            let Some(byte) = cx.take_input(self.console) else { break };
            self.chip.receive(byte);
            arrived = true;
        }
        if arrived {
            self.watch(cx);
        }
    }

    /// Starts or stops the character time-out.
    fn watch(&mut self, cx: &mut Cx<'_>) {
        if self.chip.waits_below_trigger() {
            cx.after(4 * self.chip.character_ns(), CHARACTER_TIMEOUT);
        } else {
            cx.cancel(CHARACTER_TIMEOUT);
        }
    }
}

impl Device for Uart {
    const KIND: &'static str = "uart";
    type Reg = Reg;

    fn map(&self, _region: Region) -> &'static RegMap<Reg> {
        &regs::MAP
    }

    fn read(&mut self, reg: Reg, cx: &mut Cx<'_>) -> u64 {
        let value = self.chip.read(reg);
        match reg {
            Reg::Data if !self.chip.divisor_latch() => {
                self.refill(cx);
                self.watch(cx);
                cx.irq(0, self.chip.interrupt());
            }
            // These reads clear an interrupt cause.
            Reg::InterruptIdOrFifoControl | Reg::LineStatus | Reg::ModemStatus | Reg::Data => {
                cx.irq(0, self.chip.interrupt());
            }
            Reg::InterruptEnable | Reg::LineControl | Reg::ModemControl | Reg::Scratch => {}
        }
        u64::from(value)
    }

    fn write(&mut self, reg: Reg, value: u64, cx: &mut Cx<'_>) {
        match reg {
            // Factory test (data sheet, 8.6.3).
            Reg::LineStatus => cx.unimplemented(Access::write(Region(0), 5, 1, value)),
            Reg::ModemStatus => cx.unimplemented(Access::write(Region(0), 6, 1, value)),
            _ => {}
        }
        self.chip.write(reg, value as u8);
        if reg == Reg::InterruptIdOrFifoControl {
            // What has waited at the old trigger level may be below the new one.
            self.watch(cx);
        }
        self.settle(cx);
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        match what {
            SENT => self.chip.sent(),
            CHARACTER_TIMEOUT => self.chip.character_timeout(),
            _ => {}
        }
        self.settle(cx);
    }

    fn input(&mut self, cx: &mut Cx<'_>) {
        self.settle(cx);
    }

    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        self.chip = Chip::default();
        cx.cancel(SENT);
        cx.cancel(CHARACTER_TIMEOUT);
        cx.irq(0, false);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        self.chip.state(fields);
    }
}
