//! Local APIC, one for each vCPU: xAPIC and x2APIC, timer, IPIs, priorities.
//!
//! # Theory
//! SDM vol. 3 chapter 11. A fixed interrupt sets its bit in IRR; the highest bit whose class is above the processor priority is
//! deliverable; the INTA cycle moves it to ISR; EOI clears the highest ISR bit and, for level-triggered vectors, tells the I/O APICs.
//! The timer counts a 1 GHz clock through the divider; TSC-deadline mode compares the TSC. All times follow from virtual time: the
//! current count is computed when read, and one event marks the expiry.
//!
//! # Structures
//! The board holds [`Lapic`]s by type. What one of them wants from others leaves as [`Effect::Ipi`] (the command register, destination
//! in the upper 32 bits in x2APIC form), [`Effect::Eoi`].
//!
//! # Failure
//! Reserved register offsets set ESR bit 7 and leave a record; illegal vectors set bits 5 or 6 and raise the error interrupt.
//!
//! # Limits
//! The deadline is compared with the TSC before any guest offset. The base address may not be moved (a write that tries is refused
//! with #GP, as systems that lock it do). SMI and remote read are not modelled. Delivery status reads idle.

mod regs;
#[cfg(test)]
mod tests;

use sim_bus::{Access, Cx, Effect, Fields, Nanos, Region, Token};

use regs::{Lvt, Reg, VERSION, base, esr, lvt};

/// Where the registers are: 4 KiB, private to each vCPU.
pub const BASE: u64 = 0xfee0_0000;
/// The timer's token.
pub const TIMER: Token = Token(0);

pub const MSR_APIC_BASE: u32 = 0x1b;
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// While an interrupt of the timer waits to be taken, the next comes this much later at the earliest.
const LOST_NS: Nanos = 10_000;
pub const MSR_X2APIC_FIRST: u32 = 0x800;
pub const MSR_X2APIC_LAST: u32 = 0x8ff;

/// A 256-bit register: IRR, ISR or TMR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }
    fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }
    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }
    fn highest(&self) -> Option<u8> {
        let word = (0..8).rev().find(|&word| self.0[word] != 0)?;
        Some((word * 32) as u8 + (31 - self.0[word].leading_zeros()) as u8)
    }
}

/// Delivery modes that end at a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Fixed,
    LowestPriority,
    Smi,
    Nmi,
    Init,
    Startup,
    External,
}

impl Delivery {
    /// Decodes the three-bit field.
    pub fn decode(field: u32) -> Option<Self> {
        Some(match field & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            7 => Self::External,
            _ => return None,
        })
    }
}

/// One local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    id: u32,
    tsc_khz: u64,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    esr: u32,
    esr_pending: u32,
    icr: u64,
    lvt: [u32; 6],
    initial: u32,
    divide: u32,
    /// When the running count began; `None`: stopped.
    started: Option<Nanos>,
    /// The armed TSC deadline; 0 is disarmed.
    deadline: u64,
}

impl Lapic {
    /// `tsc_khz` converts deadlines to virtual time.
    pub fn new(id: u32, bootstrap: bool, tsc_khz: u64) -> Self {
        let mut lapic = Self {
            id,
            tsc_khz,
            base: BASE | base::ENABLED | if bootstrap { base::BOOTSTRAP } else { 0 },
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt: [0; 6],
            initial: 0,
            divide: 0,
            started: None,
            deadline: 0,
        };
        lapic.clear();
        lapic
    }

    /// Register values after power-up, RESET or INIT (SDM vol. 3 §11.4.7.1). The base MSR is left alone.
    fn clear(&mut self) {
        self.tpr = 0;
        self.ldr = if self.x2apic() { self.x2apic_ldr() } else { 0 };
        self.dfr = u32::MAX;
        self.svr = 0xff;
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.irr = Vectors::default();
        self.esr = 0;
        self.esr_pending = 0;
        self.icr = 0;
        self.lvt = [lvt::MASKED; 6];
        self.initial = 0;
        self.divide = 0;
        self.started = None;
        self.deadline = 0;
    }

    /// INIT: registers to their reset values.
    pub fn init(&mut self, cx: &mut Cx<'_>) {
        self.clear();
        cx.cancel(TIMER);
    }

    /// What PC firmware leaves on the bootstrap processor: enabled, LINT0 as ExtINT, LINT1 as NMI (MultiProcessor specification 3.6.2.2).
    pub fn virtual_wire(&mut self) {
        self.svr = 0x1ff;
        self.lvt[Lvt::Lint0.index()] = 0x0700;
        self.lvt[Lvt::Lint1.index()] = 0x0400;
    }

    pub fn id(&self) -> u32 {
        self.id
    }
    fn globally_enabled(&self) -> bool {
        self.base & base::ENABLED != 0
    }
    fn x2apic(&self) -> bool {
        self.base & base::X2APIC != 0
    }
    /// Whether the registers answer at [`BASE`].
    pub fn answers_mmio(&self) -> bool {
        self.globally_enabled() && !self.x2apic()
    }
    /// Whether fixed interrupts are accepted (SDM vol. 3 §11.4.7.2).
    pub fn software_enabled(&self) -> bool {
        self.svr & 0x100 != 0
    }
    fn x2apic_ldr(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 15)
    }

    /// Task priority as CR8 shows it.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
    }

    /// Processor priority (SDM vol. 3 §11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= service >> 4 { self.tpr } else { service & 0xf0 }
    }

    fn deliverable(&self) -> Option<u8> {
        self.irr.highest().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// Whether an interrupt waits that the task priority lets through; `external` is the 8259's output.
    pub fn wants_interrupt(&self, external: bool) -> bool {
        if !self.globally_enabled() {
            return external;
        }
        self.deliverable().is_some() || external && self.takes_external()
    }

    /// LINT0 is set to ExtINT and not masked.
    pub fn takes_external(&self) -> bool {
        let entry = self.lvt[Lvt::Lint0.index()];
        !self.globally_enabled() || entry & lvt::MASKED == 0 && entry >> 8 & 7 == 7
    }

    /// The INTA cycle for the APIC's own interrupts. `None`: none is deliverable.
    pub fn acknowledge(&mut self) -> Option<u8> {
        if !self.globally_enabled() {
            return None;
        }
        let vector = self.deliverable()?;
        self.irr.clear(vector);
        self.isr.set(vector);
        Some(vector)
    }

    /// Accepts a fixed interrupt.
    pub fn accept(&mut self, vector: u8, level: bool, cx: &mut Cx<'_>) {
        if !self.globally_enabled() || !self.software_enabled() {
            return;
        }
        if vector < 16 {
            self.error(esr::RECEIVE_ILLEGAL, cx);
            return;
        }
        self.irr.set(vector);
        if level {
            self.tmr.set(vector);
        } else {
            self.tmr.clear(vector);
        }
    }

    /// Whether a message with this destination is for this APIC (SDM vol. 3 §11.6.2). `wide` is the 32-bit form of x2APIC.
    pub fn matches(&self, destination: u32, logical: bool, wide: bool) -> bool {
        if !self.globally_enabled() {
            // INIT and SIPI still reach a processor whose APIC is off only over the physical identifier; nothing else does.
            return false;
        }
        let broadcast = if wide { u32::MAX } else { 0xff };
        if destination == broadcast {
            return true;
        }
        if !logical {
            return destination == self.id;
        }
        if self.x2apic() {
            let own = self.x2apic_ldr();
            if wide {
                return destination >> 16 == own >> 16 && destination & own & 0xffff != 0;
            }
            // An 8-bit logical destination reaches cluster 0.
            return own >> 16 == 0 && destination & own & 0xff != 0;
        }
        let own = self.ldr >> 24;
        if self.dfr >> 28 == 0xf {
            destination & own & 0xff != 0
        } else {
            destination >> 4 & 0xf == own >> 4 && destination & own & 0xf != 0
        }
    }

    fn error(&mut self, bit: u32, cx: &mut Cx<'_>) {
        self.esr_pending |= bit;
        let entry = self.lvt[Lvt::Error.index()];
        // The error interrupt itself must not recurse when its own vector is illegal.
        if entry & lvt::MASKED == 0 && entry as u8 >= 16 {
            self.accept(entry as u8, false, cx);
        }
    }

    fn tsc(&self, now: Nanos) -> u64 {
        tsc_at(now, self.tsc_khz)
    }

    fn divisor(&self) -> u64 {
        // Bits 3, 1, 0: 2, 4, ..., 128, 1 (SDM vol. 3 figure 11-10).
        let field = self.divide >> 1 & 4 | self.divide & 3;
        if field == 7 { 1 } else { 2 << field }
    }

    fn timer_mode(&self) -> u32 {
        self.lvt[Lvt::Timer.index()] & lvt::MODE
    }

    fn current_count(&self, now: Nanos) -> u32 {
        let Some(started) = self.started else { return 0 };
        let mut counted = now.saturating_sub(started) / self.divisor();
        if self.timer_mode() & lvt::PERIODIC != 0 {
            counted %= u64::from(self.initial).max(1);
        }
        u64::from(self.initial).saturating_sub(counted) as u32
    }

    /// Starts the count at `initial` now.
    fn start(&mut self, now: Nanos, cx: &mut Cx<'_>) {
        if self.initial == 0 || self.timer_mode() & lvt::TSC_DEADLINE != 0 {
            self.started = None;
            cx.cancel(TIMER);
        } else {
            self.started = Some(now);
            self.arm(cx);
        }
    }

    /// Asks for the event at the end of the running count. From the exact time it began, not from now: no drift when a tick is longer than a nanosecond.
    /// A periodic timer that is masked needs none: what it would cost to count a nanosecond's period to nobody, nobody may spend.
    fn arm(&mut self, cx: &mut Cx<'_>) {
        let Some(started) = self.started else { return };
        let period = (u64::from(self.initial) * self.divisor()).max(1);
        let periods = if self.timer_mode() & lvt::PERIODIC != 0 { cx.now().saturating_sub(started) / period } else { 0 };
        let begun = started.saturating_add(periods * period);
        self.started = Some(begun);
        if self.lvt[Lvt::Timer.index()] & (lvt::PERIODIC | lvt::MASKED) == lvt::PERIODIC | lvt::MASKED {
            cx.cancel(TIMER);
        } else {
            cx.at(begun.saturating_add(period), TIMER);
        }
    }

    /// The timer's event.
    pub fn expire(&mut self, cx: &mut Cx<'_>) {
        let entry = self.lvt[Lvt::Timer.index()];
        if self.timer_mode() & lvt::TSC_DEADLINE != 0 {
            if self.deadline == 0 {
                return;
            }
            self.deadline = 0;
        } else {
            if self.started.is_none() {
                return;
            }
            if self.timer_mode() & lvt::PERIODIC != 0 {
                self.arm(cx);
                if let Some(begun) = self.started.filter(|_| entry & lvt::MASKED == 0 && self.irr.has(entry as u8)) {
                    // The last one still waits, so this one is lost, and so are those to come: a processor that takes none may not cost an event a nanosecond.
                    let period = (u64::from(self.initial) * self.divisor()).max(1);
                    cx.at(begun.saturating_add(period.saturating_mul(LOST_NS.div_ceil(period))), TIMER);
                }
            } else {
                self.started = None;
            }
        }
        if entry & lvt::MASKED == 0 {
            self.local(entry, cx);
        }
    }

    /// A local interrupt source fires with fixed delivery.
    fn local(&mut self, entry: u32, cx: &mut Cx<'_>) {
        self.accept(entry as u8, false, cx);
    }

    fn arm_deadline(&mut self, value: u64, cx: &mut Cx<'_>) {
        if self.timer_mode() & lvt::TSC_DEADLINE == 0 {
            // Ignored outside the mode; reads as zero.
            return;
        }
        self.deadline = value;
        if value == 0 {
            cx.cancel(TIMER);
        } else {
            cx.at(ns_at_tsc(value, self.tsc_khz), TIMER);
        }
    }

    fn read_reg(&self, reg: Reg, now: Nanos) -> u32 {
        match reg {
            Reg::Id if self.x2apic() => self.id,
            Reg::Id => self.id << 24,
            Reg::Version => VERSION,
            Reg::TaskPriority => u32::from(self.tpr),
            Reg::ArbitrationPriority | Reg::RemoteRead => 0,
            Reg::ProcessorPriority => u32::from(self.processor_priority()),
            Reg::Eoi | Reg::SelfIpi => 0,
            Reg::LogicalDestination if self.x2apic() => self.x2apic_ldr(),
            Reg::LogicalDestination => self.ldr,
            Reg::DestinationFormat => self.dfr,
            Reg::Spurious => self.svr,
            Reg::InService(word) => self.isr.0[word & 7],
            Reg::TriggerMode(word) => self.tmr.0[word & 7],
            Reg::Request(word) => self.irr.0[word & 7],
            Reg::ErrorStatus => self.esr,
            Reg::CommandLow => self.icr as u32,
            Reg::CommandHigh => (self.icr >> 32) as u32,
            Reg::Lvt(entry) => self.lvt[entry.index()],
            Reg::InitialCount => self.initial,
            Reg::CurrentCount => self.current_count(now),
            Reg::Divide => self.divide,
        }
    }

    fn write_reg(&mut self, reg: Reg, value: u32, cx: &mut Cx<'_>) {
        let now = cx.now();
        match reg {
            // Read-only registers; the ID is hardwired here, as on recent processors.
            Reg::Id
            | Reg::Version
            | Reg::ArbitrationPriority
            | Reg::ProcessorPriority
            | Reg::RemoteRead
            | Reg::InService(_)
            | Reg::TriggerMode(_)
            | Reg::Request(_)
            | Reg::CurrentCount => {}
            Reg::TaskPriority => self.tpr = value as u8,
            Reg::Eoi => self.end_of_interrupt(cx),
            Reg::LogicalDestination => self.ldr = value & 0xff00_0000,
            Reg::DestinationFormat => self.dfr = value | 0x0fff_ffff,
            Reg::Spurious => {
                self.svr = value & 0x3ff;
                if !self.software_enabled() {
                    for entry in &mut self.lvt {
                        *entry |= lvt::MASKED;
                    }
                }
            }
            Reg::ErrorStatus => self.esr = std::mem::take(&mut self.esr_pending),
            Reg::CommandLow => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & 0x000c_cfff);
                self.command(cx);
            }
            Reg::CommandHigh => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            Reg::Lvt(which) => {
                let index = which.index();
                let old_mode = self.timer_mode();
                let mut entry = value & which.writable();
                if !self.software_enabled() {
                    entry |= lvt::MASKED;
                }
                self.lvt[index] = entry;
                if which == Lvt::Timer && (old_mode ^ entry) & lvt::TSC_DEADLINE != 0 {
                    // Entering or leaving the mode disarms the timer (SDM vol. 3 §11.5.4.1).
                    self.started = None;
                    self.deadline = 0;
                    self.initial = 0;
                    cx.cancel(TIMER);
                } else if which == Lvt::Timer {
                    self.arm(cx);
                }
            }
            Reg::InitialCount => {
                if self.timer_mode() & lvt::TSC_DEADLINE == 0 {
                    self.initial = value;
                    self.start(now, cx);
                }
            }
            Reg::Divide => {
                let left = self.current_count(now);
                let done = u64::from(self.initial) - u64::from(left).min(u64::from(self.initial));
                self.divide = value & 0x0b;
                if self.started.is_some() {
                    // What is left to count is counted at the new rate.
                    let started = now.saturating_sub(done * self.divisor());
                    self.started = Some(started);
                    cx.at(now.saturating_add(u64::from(left) * self.divisor()), TIMER);
                }
            }
            Reg::SelfIpi => {
                let vector = value as u8;
                if vector < 16 {
                    self.error(esr::SEND_ILLEGAL, cx);
                } else {
                    self.accept(vector, false, cx);
                }
            }
        }
    }

    fn command(&mut self, cx: &mut Cx<'_>) {
        let low = self.icr as u32;
        let fixed = matches!(Delivery::decode(low >> 8), Some(Delivery::Fixed | Delivery::LowestPriority));
        if fixed && low as u8 & 0xf0 == 0 {
            self.error(esr::SEND_ILLEGAL, cx);
            return;
        }
        let destination = if self.x2apic() { self.icr >> 32 } else { self.icr >> 56 };
        cx.push(Effect::Ipi(destination << 32 | u64::from(low)));
    }

    /// Whether IPIs of this APIC carry 32-bit destinations.
    pub fn sends_wide(&self) -> bool {
        self.x2apic()
    }

    fn end_of_interrupt(&mut self, cx: &mut Cx<'_>) {
        if let Some(vector) = self.isr.highest() {
            self.isr.clear(vector);
            // TMR stays: it tells of the vector's last acceptance (SDM vol. 3 §11.8.4).
            if self.tmr.has(vector) {
                cx.push(Effect::Eoi(vector));
            }
        }
    }

    /// A register read over the bus.
    pub fn read(&mut self, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        let reg = (offset & 0xf == 0).then(|| regs::find((offset >> 4) as u32)).flatten().filter(|reg| *reg != Reg::SelfIpi);
        match reg {
            Some(reg) => u64::from(self.read_reg(reg, cx.now())),
            None => {
                self.error(esr::ILLEGAL_REGISTER, cx);
                cx.unimplemented(Access::read(Region(0), offset, size));
                0
            }
        }
    }

    /// A register write over the bus.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        let reg = (offset & 0xf == 0).then(|| regs::find((offset >> 4) as u32)).flatten().filter(|reg| *reg != Reg::SelfIpi);
        match reg {
            Some(reg) => self.write_reg(reg, value as u32, cx),
            None => {
                self.error(esr::ILLEGAL_REGISTER, cx);
                cx.unimplemented(Access::write(Region(0), offset, size, value));
            }
        }
    }

    /// An MSR the APIC owns. `None`: #GP.
    pub fn read_msr(&self, msr: u32, now: Nanos) -> Option<u64> {
        match msr {
            MSR_APIC_BASE => Some(self.base),
            MSR_TSC_DEADLINE => Some(if self.tsc(now) >= self.deadline { 0 } else { self.deadline }),
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.x2apic() => {
                match regs::find(msr - MSR_X2APIC_FIRST)? {
                    // Not in x2APIC mode, or write-only (SDM vol. 3 table 11-6).
                    Reg::DestinationFormat | Reg::CommandHigh | Reg::ArbitrationPriority | Reg::RemoteRead | Reg::Eoi | Reg::SelfIpi => None,
                    Reg::CommandLow => Some(self.icr),
                    reg => Some(u64::from(self.read_reg(reg, now))),
                }
            }
            _ => None,
        }
    }

    /// The same for writes. `false`: #GP.
    pub fn write_msr(&mut self, msr: u32, value: u64, cx: &mut Cx<'_>) -> bool {
        match msr {
            MSR_APIC_BASE => self.write_base(value, cx),
            MSR_TSC_DEADLINE => {
                self.arm_deadline(value, cx);
                true
            }
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.x2apic() => self.write_x2apic(msr - MSR_X2APIC_FIRST, value, cx),
            _ => false,
        }
    }

    fn write_x2apic(&mut self, index: u32, value: u64, cx: &mut Cx<'_>) -> bool {
        let Some(reg) = regs::find(index) else { return false };
        let allowed: u64 = match reg {
            Reg::Id
            | Reg::Version
            | Reg::ArbitrationPriority
            | Reg::ProcessorPriority
            | Reg::RemoteRead
            | Reg::LogicalDestination
            | Reg::DestinationFormat
            | Reg::InService(_)
            | Reg::TriggerMode(_)
            | Reg::Request(_)
            | Reg::CommandHigh
            | Reg::CurrentCount => return false,
            Reg::Eoi | Reg::ErrorStatus => 0,
            Reg::TaskPriority | Reg::SelfIpi => 0xff,
            Reg::Spurious => 0x3ff,
            Reg::CommandLow => 0xffff_ffff_000c_cfff,
            // Delivery status and, of the pins, remote IRR are read-only, not reserved (§11.5.1): hypervisors write them back as ones.
            Reg::Lvt(which @ (Lvt::Lint0 | Lvt::Lint1)) => u64::from(which.writable()) | 1 << 12 | 1 << 14,
            Reg::Lvt(which) => u64::from(which.writable()) | 1 << 12,
            Reg::InitialCount => 0xffff_ffff,
            Reg::Divide => 0x0b,
        };
        if value & !allowed != 0 {
            return false;
        }
        if reg == Reg::CommandLow {
            self.icr = value;
            self.command(cx);
        } else {
            self.write_reg(reg, value as u32, cx);
        }
        true
    }

    fn write_base(&mut self, value: u64, cx: &mut Cx<'_>) -> bool {
        let mode = base::ENABLED | base::X2APIC;
        let address = value & !(0xfff);
        let reserved = value & 0xff | value & 1 << 9;
        if reserved != 0 || address != BASE {
            return false;
        }
        // Legal transitions: SDM vol. 3 §11.12.5. x2APIC without enable never; x2APIC to xAPIC only through disabled.
        let (old, new) = (self.base & mode, value & mode);
        if new == base::X2APIC || old == mode && new == base::ENABLED || old == 0 && new == mode {
            return false;
        }
        self.base = self.base & base::BOOTSTRAP | BASE | new;
        if new == 0 {
            self.clear();
            cx.cancel(TIMER);
        } else if new == mode && old != mode {
            self.ldr = self.x2apic_ldr();
        }
        true
    }

    /// Vectors in service and requested, highest first, for `monitor devices`.
    pub fn describe(&self) -> String {
        let list = |set: &Vectors| {
            (0..=255u8).rev().filter(|&vector| set.has(vector)).map(|vector| format!("{vector:#04x}")).collect::<Vec<_>>().join(" ")
        };
        format!(
            "id {} base {:#x} svr {:#x} tpr {:#04x} irr [{}] isr [{}] lvt-timer {:#x} initial {} deadline {}",
            self.id,
            self.base,
            self.svr,
            self.tpr,
            list(&self.irr),
            list(&self.isr),
            self.lvt[0],
            self.initial,
            self.deadline
        )
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("base", &mut self.base);
        fields.u8("tpr", &mut self.tpr);
        fields.u32("ldr", &mut self.ldr);
        fields.u32("dfr", &mut self.dfr);
        fields.u32("svr", &mut self.svr);
        for (name, set) in [("isr", &mut self.isr), ("tmr", &mut self.tmr), ("irr", &mut self.irr)] {
            for word in &mut set.0 {
                fields.u32(name, word);
            }
        }
        fields.u32("esr", &mut self.esr);
        fields.u32("esr_pending", &mut self.esr_pending);
        fields.u64("icr", &mut self.icr);
        for entry in &mut self.lvt {
            fields.u32("lvt", entry);
        }
        fields.u32("initial", &mut self.initial);
        fields.u32("divide", &mut self.divide);
        fields.option("started", &mut self.started);
        fields.u64("deadline", &mut self.deadline);
    }
}

/// The TSC at a virtual time.
pub fn tsc_at(now: Nanos, tsc_khz: u64) -> u64 {
    if tsc_khz == 1_000_000 {
        return now;
    }
    (u128::from(now) * u128::from(tsc_khz) / 1_000_000) as u64
}

/// The first nanosecond at which the TSC is at least `tsc`.
pub fn ns_at_tsc(tsc: u64, tsc_khz: u64) -> Nanos {
    if tsc_khz == 1_000_000 {
        return tsc;
    }
    u64::try_from((u128::from(tsc) * 1_000_000).div_ceil(u128::from(tsc_khz))).unwrap_or(u64::MAX)
}
