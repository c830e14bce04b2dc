//! ACPI fixed hardware: PM1a event and control blocks, the PM timer, and the reset register.
//!
//! # Theory
//! ACPI specification 6.4, chapter 4.8. PM1 status bits are write-one-to-clear; the SCI (pin 0) is high while an enabled status bit is
//! set and SCI_EN is on. Writing SLP_EN with the sleep type of `\_S5` powers the machine off. The PM timer counts 3,579,545 Hz in
//! 32 bits from virtual time. SMI_CMD switches ACPI mode on and off; the machine starts with it on, as `Hardware-reduced` firmware
//! tables of virtual machines have it.
//!
//! # Limits
//! Sleep types other than S5 leave a record and are ignored. No GPE blocks. The PM timer's carry interrupt is not raised (the FADT
//! offers 32 bits, which kernels do not need it for); enabling TMR_EN leaves a record.

#[cfg(test)]
mod tests;

use sim_bus::{Access, Cx, Device, Ending, Fields, RegMap, Region, Reset, Row, SECOND};

/// Window of the PM block: event block at 0 (4 bytes), control at 4 (2), timer at 8 (4).
pub const PM: Region = Region(0);
/// Window of SMI_CMD (1 byte).
pub const SMI_CMD: Region = Region(1);
/// Window of the PC reset port 0xcf9 (1 byte), which is also the ACPI reset register.
pub const RESET: Region = Region(2);

/// The value FADT names for the reset register.
pub const RESET_VALUE: u8 = 0x06;
/// SLP_TYP of `\_S5`.
pub const SLEEP_TYPE_S5: u16 = 5;
/// Values of SMI_CMD that FADT names.
pub const ACPI_ENABLE: u8 = 0xf1;
pub const ACPI_DISABLE: u8 = 0xf0;

const PM_TIMER_HERTZ: u128 = 3_579_545;

mod bits {
    pub const TMR: u16 = 1 << 0;
    pub const POWER_BUTTON: u16 = 1 << 8;
    pub const STATUS: u16 = 0x8731;
    pub const ENABLE: u16 = 0x0721;
    pub const SCI_EN: u16 = 1 << 0;
    /// Of the control register: BM_RLD and SLP_TYP. GBL_RLS and SLP_EN are write-only (table 4.16), and nobody waits for the global lock.
    pub const CONTROL: u16 = 0x1c02;
    pub const SLEEP_TYPE_SHIFT: u16 = 10;
    pub const SLEEP_ENABLE: u16 = 1 << 13;
}

/// Registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    Status,
    Enable,
    Control,
    Timer,
    SmiCommand,
    ResetControl,
}

static PM_MAP: RegMap<Reg> = RegMap::new(&[
    Row { offset: 0, size: 2, reg: Reg::Status },
    Row { offset: 2, size: 2, reg: Reg::Enable },
    Row { offset: 4, size: 2, reg: Reg::Control },
    Row { offset: 8, size: 4, reg: Reg::Timer },
]);
static SMI_MAP: RegMap<Reg> = RegMap::new(&[Row { offset: 0, size: 1, reg: Reg::SmiCommand }]);
static RESET_MAP: RegMap<Reg> = RegMap::new(&[Row { offset: 0, size: 1, reg: Reg::ResetControl }]);

/// The fixed hardware.
#[derive(Clone, Debug)]
pub struct Acpi {
    status: u16,
    enable: u16,
    control: u16,
    reset_control: u8,
}

impl Default for Acpi {
    fn default() -> Self {
        Self { status: 0, enable: 0, control: bits::SCI_EN, reset_control: 0 }
    }
}

impl Acpi {
    /// The power button is pressed: the one input from outside.
    fn press_power_button(&mut self, cx: &mut Cx<'_>) {
        self.status |= bits::POWER_BUTTON;
        self.drive(cx);
    }
    fn drive(&mut self, cx: &mut Cx<'_>) {
        cx.irq(0, self.control & bits::SCI_EN != 0 && self.status & self.enable != 0);
    }
}

impl Device for Acpi {
    const KIND: &'static str = "acpi";
    type Reg = Reg;

    fn map(&self, region: Region) -> &'static RegMap<Reg> {
        match region {
            SMI_CMD => &SMI_MAP,
            RESET => &RESET_MAP,
            _ => &PM_MAP,
        }
    }
    fn read(&mut self, reg: Reg, cx: &mut Cx<'_>) -> u64 {
        match reg {
            Reg::Status => u64::from(self.status),
            Reg::Enable => u64::from(self.enable),
            Reg::Control => u64::from(self.control),
            Reg::Timer => (u128::from(cx.now()) * PM_TIMER_HERTZ / u128::from(SECOND)) as u64 & 0xffff_ffff,
            Reg::SmiCommand => 0,
            Reg::ResetControl => u64::from(self.reset_control),
        }
    }
    fn write(&mut self, reg: Reg, value: u64, cx: &mut Cx<'_>) {
        match reg {
            Reg::Status => {
                self.status &= !(value as u16 & bits::STATUS);
                self.drive(cx);
            }
            Reg::Enable => {
                self.enable = value as u16 & bits::ENABLE;
                if self.enable & bits::TMR != 0 {
                    cx.unimplemented(Access::write(PM, 2, 2, value));
                }
                self.drive(cx);
            }
            Reg::Control => {
                let value = value as u16;
                self.control = value & bits::CONTROL | self.control & bits::SCI_EN;
                if value & bits::SLEEP_ENABLE != 0 {
                    if value >> bits::SLEEP_TYPE_SHIFT & 7 == SLEEP_TYPE_S5 {
                        cx.end(Ending::PowerOff);
                    } else {
                        cx.unimplemented(Access::write(PM, 4, 2, u64::from(value)));
                    }
                }
            }
            Reg::Timer => cx.unimplemented(Access::write(PM, 8, 4, value)),
            Reg::SmiCommand => {
                match value as u8 {
                    ACPI_ENABLE => self.control |= bits::SCI_EN,
                    ACPI_DISABLE => self.control &= !bits::SCI_EN,
                    _ => cx.unimplemented(Access::write(SMI_CMD, 0, 1, value)),
                }
                self.drive(cx);
            }
            Reg::ResetControl => {
                // Bit 2 going up resets (ICH9 data sheet, RST_CNT).
                let rose = value as u8 & !self.reset_control & 4 != 0;
                self.reset_control = value as u8 & 0x0e;
                if rose {
                    cx.end(Ending::Reset);
                }
            }
        }
    }
    fn input(&mut self, cx: &mut Cx<'_>) {
        self.press_power_button(cx);
    }
    fn peek(&self, reg: Reg) -> Option<u64> {
        match reg {
            // A byte written as zero clears nothing.
            Reg::Status => Some(0),
            Reg::Enable => Some(u64::from(self.enable)),
            Reg::Control => Some(u64::from(self.control)),
            Reg::Timer | Reg::SmiCommand | Reg::ResetControl => None,
        }
    }
    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        *self = Self::default();
        cx.irq(0, false);
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u16("status", &mut self.status);
        fields.u16("enable", &mut self.enable);
        fields.u16("control", &mut self.control);
        fields.u8("reset_control", &mut self.reset_control);
    }
}
