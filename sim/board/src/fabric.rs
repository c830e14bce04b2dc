//! The interrupt fabric: lines into 8259s and I/O APIC, messages between I/O APIC, MSI and local APICs, and what each vCPU sees.
//!
//! A line is an ISA interrupt (0 to 15: both an 8259 input and an I/O APIC input, with IRQ 0 on input 2) or an I/O APIC input alone. Several devices may
//! drive one line: it is the OR of them.
//!
//! A PCI function's INTA# is on one of the lines PIRQA to PIRQH, which are I/O APIC inputs 16 to 23, and 8259 inputs too: through the chipset's router
//! (ICH9 data sheet §13.1.9, PIRQ[n]_ROUT) as firmware leaves it. The router cannot be programmed here: its ways are those of [`map::pirq_isa`], `_PRT` says
//! so to kernels that know ACPI, and the interrupt line register to the others.

use sim_bus::{Attention, Cx, Effect, NodeId};
use sim_dev::ioapic::{INPUTS, IoApic};
use sim_dev::lapic::{Delivery, Lapic};
use sim_dev::pic::PicPair;

use crate::bus::Visit;
use crate::map;

/// Where a device's pin is wired to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Isa(u8),
    Gsi(u8),
    /// PIRQA (0) to PIRQH (7).
    Pirq(u8),
    /// HPET legacy replacement: PIT and RTC are off their lines while it is high.
    LegacyReplacement,
    /// An ISA line as driven by the HPET.
    Replaced(u8),
}

/// What a message asks of a vCPU beyond interrupts, carried out between instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Init,
    Startup(u8),
}

/// Index of "any vector" in [`Fabric::lost`].
const ANY_VECTOR: usize = 256;

/// The fabric.
#[derive(Clone, Debug)]
pub(crate) struct Fabric {
    pub pic: PicPair,
    pub ioapic: IoApic,
    pub lapics: Vec<Lapic>,
    attention: Vec<Attention>,
    /// In order of arrival.
    pub requests: Vec<(usize, Request)>,
    /// Which nodes drive each I/O APIC input, and each ISA line.
    gsi_sources: [u64; INPUTS],
    isa_sources: [u64; 16],
    pirq_sources: [u64; map::PIRQS],
    legacy_replacement: bool,
    /// Interrupt messages that will not arrive, by fault: how many of each vector, and of any.
    lost: [u8; 257],
    /// Set when a vCPU other than the running one may have to wake, or a request came in.
    pub woke: bool,
}

impl Fabric {
    pub fn new(vcpus: u32, tsc_khz: u64) -> Self {
        let mut pic = PicPair::default();
        // Where PCI comes in is level-triggered: firmware has set it so.
        pic.set_level_triggered((0..map::PIRQS as u8).fold(0, |mask, pirq| mask | 1 << map::pirq_isa(pirq)));
        Self {
            pic,
            ioapic: IoApic::default(),
            lapics: (0..vcpus).map(|id| Lapic::new(id, id == 0, tsc_khz)).collect(),
            attention: vec![Attention::default(); vcpus as usize],
            requests: Vec::new(),
            gsi_sources: [0; INPUTS],
            isa_sources: [0; 16],
            pirq_sources: [0; map::PIRQS],
            legacy_replacement: false,
            lost: [0; 257],
            woke: false,
        }
    }

    /// What is pending for a vCPU.
    #[inline]
    pub fn attention(&self, vcpu: usize) -> Attention {
        self.attention[vcpu]
    }

    /// A vCPU took its NMI.
    pub fn take_nmi(&mut self, vcpu: usize) {
        self.attention[vcpu].nmi = false;
    }

    /// Makes an NMI pending.
    pub fn nmi(&mut self, vcpu: usize) {
        if let Some(attention) = self.attention.get_mut(vcpu) {
            attention.nmi = true;
            self.woke = true;
        }
    }

    /// Recomputes what a vCPU sees after its local APIC or the 8259s changed.
    pub fn refresh(&mut self, vcpu: usize) {
        let wanted = self.lapics[vcpu].wants_interrupt(self.pic.output());
        if wanted && !self.attention[vcpu].interrupt {
            self.woke = true;
        }
        self.attention[vcpu].interrupt = wanted;
    }

    pub fn refresh_all(&mut self) {
        for vcpu in 0..self.lapics.len() {
            self.refresh(vcpu);
        }
    }

    /// The INTA cycle of a vCPU.
    pub fn acknowledge(&mut self, vcpu: usize) -> Option<u8> {
        let vector = match self.lapics[vcpu].acknowledge() {
            Some(vector) => Some(vector),
            None if self.pic.output() && self.lapics[vcpu].takes_external() => Some(self.pic.acknowledge()),
            None => None,
        };
        self.refresh_all_if_external(vcpu);
        vector
    }

    fn refresh_all_if_external(&mut self, vcpu: usize) {
        // The 8259's output may have changed for everyone who listens to it.
        if self.lapics.len() == 1 { self.refresh(vcpu) } else { self.refresh_all() }
    }

    /// A node drives one of its wires.
    pub fn drive(&mut self, node: NodeId, line: Line, level: bool, cx: &mut Cx<'_>) {
        let bit = 1u64 << (node.0 & 63);
        match line {
            Line::LegacyReplacement if level == self.legacy_replacement => {}
            Line::LegacyReplacement => {
                self.legacy_replacement = level;
                for irq in [0, 8] {
                    self.isa_sources[irq] = 0;
                    self.update_isa(irq as u8, cx);
                }
            }
            Line::Replaced(irq) => self.drive_isa(bit, irq, level, cx),
            Line::Isa(irq @ (0 | 8)) if self.legacy_replacement => {
                // Off the line.
                self.isa_sources[usize::from(irq)] &= !bit;
                self.update_isa(irq, cx);
            }
            Line::Isa(irq) => self.drive_isa(bit, irq, level, cx),
            Line::Gsi(input) => self.drive_gsi(bit, input, level, cx),
            Line::Pirq(pirq) => {
                self.drive_gsi(bit, map::pirq_gsi(pirq), level, cx);
                if let Some(sources) = self.pirq_sources.get_mut(usize::from(pirq)) {
                    let before = *sources != 0;
                    *sources = if level { *sources | bit } else { *sources & !bit };
                    if before != (*sources != 0) {
                        self.update_pic(map::pirq_isa(pirq));
                    }
                }
            }
        }
    }

    fn drive_gsi(&mut self, bit: u64, input: u8, level: bool, cx: &mut Cx<'_>) {
        if let Some(sources) = self.gsi_sources.get_mut(usize::from(input)) {
            *sources = if level { *sources | bit } else { *sources & !bit };
            let level = *sources != 0;
            self.ioapic.set_line(input, level, cx);
        }
    }

    fn drive_isa(&mut self, bit: u64, irq: u8, level: bool, cx: &mut Cx<'_>) {
        if let Some(sources) = self.isa_sources.get_mut(usize::from(irq)) {
            let before = *sources != 0;
            *sources = if level { *sources | bit } else { *sources & !bit };
            if before != (*sources != 0) {
                self.update_isa(irq, cx);
            }
        }
    }

    fn update_isa(&mut self, irq: u8, cx: &mut Cx<'_>) {
        let level = self.isa_sources[usize::from(irq)] != 0;
        self.ioapic.set_line(if irq == 0 { 2 } else { irq }, level, cx);
        self.update_pic(irq);
    }

    /// An 8259 input: the ISA line, and what is routed to it.
    fn update_pic(&mut self, irq: u8) {
        let routed = (0u8..).zip(&self.pirq_sources).any(|(pirq, sources)| *sources != 0 && map::pirq_isa(pirq) == irq);
        self.pic.set_line(irq, routed || self.isa_sources[usize::from(irq)] != 0);
        self.refresh_all();
    }

    /// The next message of a vector, or of any, will not arrive.
    pub fn lose(&mut self, vector: Option<u8>) {
        let slot = &mut self.lost[vector.map_or(ANY_VECTOR, usize::from)];
        *slot = slot.saturating_add(1);
    }

    /// A message in MSI form arrives (SDM vol. 3 §11.11). `false`: no interrupt address.
    pub fn message(&mut self, address: u64, data: u32, cx: &mut Cx<'_>) -> bool {
        if address >> 20 != 0xfee {
            return false;
        }
        let destination = (address >> 12 & 0xff) as u32;
        let logical = address >> 2 & 1 != 0;
        let delivery = match Delivery::decode(data >> 8) {
            // With the redirection hint one of those addressed takes it.
            Some(Delivery::Fixed) if address >> 3 & 1 != 0 => Delivery::LowestPriority,
            Some(delivery) => delivery,
            None => return true,
        };
        if matches!(delivery, Delivery::Fixed | Delivery::LowestPriority) {
            for slot in [usize::from(data as u8), ANY_VECTOR] {
                if self.lost[slot] > 0 {
                    self.lost[slot] -= 1;
                    cx.push(Effect::Note { what: "interrupt lost by fault", value: u64::from(data & 0xff) });
                    return true;
                }
            }
        }
        self.deliver(destination, logical, false, delivery, data as u8, data >> 15 & 1 != 0, cx);
        true
    }

    /// An inter-processor interrupt: low half as in the command register, destination above.
    pub fn ipi(&mut self, from: usize, command: u64, cx: &mut Cx<'_>) {
        let (low, destination) = (command as u32, (command >> 32) as u32);
        let Some(delivery) = Delivery::decode(low >> 8) else { return };
        let level_triggered = low >> 15 & 1 != 0;
        if delivery == Delivery::Init && level_triggered && low >> 14 & 1 == 0 {
            // INIT level de-assert: no effect since the Pentium 4 (SDM vol. 3 §11.6.1).
            return;
        }
        let vector = low as u8;
        match low >> 18 & 3 {
            0 => {
                let wide = self.lapics[from].sends_wide();
                self.deliver(destination, low >> 11 & 1 != 0, wide, delivery, vector, false, cx);
            }
            1 => self.hit(from, delivery, vector, false, cx),
            shorthand => {
                for target in 0..self.lapics.len() {
                    if target != from || shorthand == 2 {
                        self.hit(target, delivery, vector, false, cx);
                    }
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of an interrupt message")]
    fn deliver(&mut self, destination: u32, logical: bool, wide: bool, delivery: Delivery, vector: u8, level: bool, cx: &mut Cx<'_>) {
        let targets = (0..self.lapics.len()).filter(|&target| self.lapics[target].matches(destination, logical, wide));
        if delivery == Delivery::LowestPriority {
            // Who does not accept takes no part. Ties go to the lowest identifier: one fixed rule.
            let targets = targets.filter(|&target| self.lapics[target].software_enabled());
            if let Some(target) = targets.min_by_key(|&target| (self.lapics[target].processor_priority(), target)) {
                self.hit(target, Delivery::Fixed, vector, level, cx);
            }
            return;
        }
        let targets: u64 = targets.fold(0, |mask, target| mask | 1 << target);
        for target in 0..self.lapics.len() {
            if targets >> target & 1 != 0 {
                self.hit(target, delivery, vector, level, cx);
            }
        }
    }

    fn hit(&mut self, target: usize, delivery: Delivery, vector: u8, level: bool, cx: &mut Cx<'_>) {
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                self.lapics[target].accept(vector, level, cx);
                self.refresh(target);
            }
            Delivery::Nmi => self.nmi(target),
            Delivery::Init => {
                self.requests.push((target, Request::Init));
                self.woke = true;
            }
            Delivery::Startup => {
                self.requests.push((target, Request::Startup(vector)));
                self.woke = true;
            }
            // The 8259 answers by itself through LINT0; SMM does not exist here.
            Delivery::External => cx.push(Effect::Note { what: "ExtINT message dropped", value: target as u64 }),
            Delivery::Smi => cx.push(Effect::Note { what: "SMI dropped", value: target as u64 }),
        }
    }

    /// All state, part by part.
    pub fn parts(&mut self, visit: &mut Visit<'_>) {
        visit("pic", &mut |fields| self.pic.state(fields));
        visit("ioapic", &mut |fields| self.ioapic.state(fields));
        for (vcpu, lapic) in self.lapics.iter_mut().enumerate() {
            visit(&format!("lapic{vcpu}"), &mut |fields| lapic.state(fields));
        }
        visit("interrupt-lines", &mut |fields| {
            for attention in &mut self.attention {
                fields.flag("nmi_pending", &mut attention.nmi);
            }
            for sources in self.gsi_sources.iter_mut().chain(&mut self.isa_sources).chain(&mut self.pirq_sources) {
                fields.u64("sources", sources);
            }
            fields.flag("legacy_replacement", &mut self.legacy_replacement);
            fields.array("lost", &mut self.lost);
        });
        self.refresh_all();
    }
}

#[cfg(test)]
mod tests {
    use sim_bus::{Backends, Cx, NodeId};
    use sim_dev::pic;

    use super::{Fabric, Line};

    #[test]
    fn one_takes_a_message_for_several_who_accepts_and_has_least_to_do() {
        let (mut effects, mut backends) = (Vec::new(), Backends::new(1));
        let mut cx = Cx::new(0, &mut effects, &mut backends, None);
        let mut fabric = Fabric::new(4, 1_000_000);
        // The first is turned off by software, the second busy.
        for (vcpu, lapic) in fabric.lapics.iter_mut().enumerate() {
            lapic.write(0xd0, 4, 1 << (24 + vcpu), &mut cx);
            lapic.write(0xf0, 4, if vcpu == 0 { 0xff } else { 0x1ff }, &mut cx);
        }
        fabric.lapics[1].set_cr8(5);
        let taken = |fabric: &Fabric| (0..4).filter(|&vcpu| fabric.lapics[vcpu].wants_interrupt(false)).collect::<Vec<_>>();
        // Logical, 0 to 3: lowest priority by delivery mode, then by the redirection hint, then all.
        for (address, data, who) in [(0xfee0_f004u64, 0x4181u32, vec![2]), (0xfee0_f00c, 0x4082, vec![2]), (0xfee0_f004, 0x4083, vec![1, 2, 3])] {
            let mut fabric = fabric.clone();
            assert!(fabric.message(address, data, &mut cx));
            assert_eq!(taken(&fabric), who, "{address:#x} {data:#x}");
        }
    }

    #[test]
    fn functions_that_share_an_8259_input_hold_it_until_the_last_lets_go() {
        let (mut effects, mut backends) = (Vec::new(), Backends::new(1));
        let mut cx = Cx::new(0, &mut effects, &mut backends, None);
        let mut fabric = Fabric::new(1, 1_000_000);
        for (chip, words) in [(pic::MASTER, [0x20, 0x04, 0x01]), (pic::SLAVE, [0x28, 0x02, 0x01])] {
            fabric.pic.write(chip, 0, 1, 0x11, &mut cx);
            words.into_iter().for_each(|word| fabric.pic.write(chip, 1, 1, word, &mut cx));
        }
        // PIRQA of two functions and PIRQB of a third are on input 10, PIRQC is on input 11.
        let wires = [(NodeId(7), Line::Pirq(0)), (NodeId(8), Line::Pirq(0)), (NodeId(9), Line::Pirq(1))];
        for (node, line) in wires {
            fabric.drive(node, line, true, &mut cx);
        }
        for (node, line) in wires {
            assert!(fabric.pic.output(), "{node:?}");
            assert_eq!(fabric.pic.acknowledge(), 0x2a);
            fabric.drive(node, line, false, &mut cx);
            for chip in [pic::SLAVE, pic::MASTER] {
                fabric.pic.write(chip, 0, 1, 0x20, &mut cx);
            }
        }
        assert!(!fabric.pic.output());
        fabric.drive(NodeId(3), Line::Pirq(2), true, &mut cx);
        assert_eq!(fabric.pic.acknowledge(), 0x2b);
    }
}
