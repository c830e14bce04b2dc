//! Faults of the machine itself, carried out between ticks.

use std::sync::Arc;

use sim_bus::{Ending, Fields, NEVER, Nanos, Point, Report};
use sim_core::Streams;
use sim_cpu::Activity;
use sim_fault::{Fault, FaultDisk, MachineCheck, MachineFaults, MachineKind, Strike};

use crate::machine::Machine;

const CR4_MCE: u64 = 1 << 6;

/// Bits of MCi_STATUS and MCG_STATUS, and how #MC is injected (the form of EVENTINJ: APM vol. 2 §15.20).
mod mc {
    pub const VALID: u64 = 1 << 63;
    pub const OVERFLOW: u64 = 1 << 62;
    pub const UNCORRECTED: u64 = 1 << 61;
    pub const ENABLED: u64 = 1 << 60;
    pub const ADDRESS_VALID: u64 = 1 << 58;
    pub const CONTEXT_CORRUPT: u64 = 1 << 57;
    pub const RESTART_VALID: u64 = 1;
    pub const IN_PROGRESS: u64 = 1 << 2;
    pub const VECTOR: u64 = 18;
    pub const EVENT_EXCEPTION: u64 = 1 << 31 | 3 << 8;
}

/// The plan as it stands, and what is broken for a while.
#[derive(Debug)]
pub(crate) struct Faults {
    plan: MachineFaults,
    /// Until when each vCPU executes nothing.
    stalled_until: Vec<Nanos>,
}

impl Faults {
    pub fn new(plan: &Arc<[Fault]>, seed: u64, vcpus: u32) -> Self {
        Self { plan: MachineFaults::new(plan, &Streams::new(seed)), stalled_until: vec![0; vcpus as usize] }
    }

    pub fn alarm(&mut self, number: u16) {
        self.plan.alarm(number);
    }

    /// Whether a vCPU executes nothing now.
    pub fn is_stalled(&self, vcpu: usize, now: Nanos) -> bool {
        self.stalled_until[vcpu] > now
    }

    /// When the run loop must look again at the latest: virtual time and tick.
    pub fn next(&self, point: Point) -> (Nanos, Option<u64>) {
        let (ns, tick) = self.plan.next(point);
        let stalls = self.stalled_until.iter().filter(|until| **until > point.ns);
        (stalls.fold(ns, |ns, until| ns.min(*until)), tick)
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        self.plan.state(fields);
        for until in &mut self.stalled_until {
            fields.u64("stalled_until", until);
        }
    }
}

impl Machine {
    /// Carries out what is due.
    pub(crate) fn strike_faults(&mut self) {
        while let Some((disk, report)) = self.bus.backends.report() {
            match report {
                Report::Note(text) => {
                    let now = self.now_ns();
                    self.bus.add_event("fault", "disk", format!("disk {}: {text}", disk.0), now);
                }
                Report::Alarm(number) => self.bus.faults.alarm(number),
            }
        }
        let point = self.fault_point();
        while let Some(strike) = self.bus.faults.plan.due(point) {
            self.strike(&strike);
        }
    }

    /// The present point.
    pub(crate) fn fault_point(&mut self) -> Point {
        let (ticks, ns) = (self.ticks(), self.now_ns());
        self.bus.backends.set_point(ticks, ns);
        self.bus.backends.point()
    }

    fn strike(&mut self, strike: &Strike) {
        let name = self.bus.faults.plan.name(strike.number).to_owned();
        let now = self.now_ns();
        let vcpus = self.cpus.len();
        let what = match strike.kind {
            MachineKind::PowerCut => {
                self.bus.ending.get_or_insert(Ending::PowerCut);
                "power cut".to_owned()
            }
            MachineKind::Nmi { vcpu } => {
                self.bus.fabric.nmi(vcpu as usize);
                format!("NMI to vcpu {vcpu}")
            }
            MachineKind::MachineCheck { check } => self.machine_check(&check),
            MachineKind::BitFlip { address, bit } => {
                let address = address.unwrap_or_else(|| self.draw_address(strike.draw));
                let bit = bit.unwrap_or((strike.draw & 7) as u8);
                let mut byte = [0];
                let done = self.memory.read(address, &mut byte).and_then(|()| self.memory.write(address, &[byte[0] ^ 1 << bit])).is_ok();
                format!("bit {bit} of {address:#x} {}", if done { "flipped" } else { "is no RAM" })
            }
            MachineKind::Stall { vcpu, ns } => match self.bus.faults.stalled_until.get_mut(vcpu as usize) {
                Some(until) => {
                    *until = now.saturating_add(ns).min(NEVER - 1);
                    format!("vcpu {vcpu} stalls for {ns} ns")
                }
                None => format!("there is no vcpu {vcpu}"),
            },
            MachineKind::SpuriousInterrupt { vcpu, vector } => {
                if (vcpu as usize) < vcpus {
                    self.bus.interrupt(vcpu, vector);
                }
                format!("spurious vector {vector:#04x} to vcpu {vcpu}")
            }
            MachineKind::LostInterrupt { vector } => {
                self.bus.fabric.lose(vector);
                "the next interrupt message will be lost".to_owned()
            }
        };
        self.bus.add_event("fault", "machine", format!("{name}: {what}"), now);
    }

    /// Fills a machine-check bank; an uncorrected error raises #MC, or stops a processor that has it off or is in its handler already (APM vol. 2
    /// §9.3.2).
    fn machine_check(&mut self, check: &MachineCheck) -> String {
        let Some(cpu) = self.cpus.get_mut(check.vcpu as usize) else { return format!("there is no vcpu {}", check.vcpu) };
        let mut state = cpu.state();
        let Some([_, status, address, _]) = state.sys.mc_banks.get_mut(usize::from(check.bank)) else {
            return format!("there is no bank {}", check.bank);
        };
        let overflow = if *status & mc::VALID != 0 { mc::OVERFLOW } else { 0 };
        *status = u64::from(check.code) | mc::VALID | mc::ENABLED | overflow;
        if let Some(at) = check.address {
            *status |= mc::ADDRESS_VALID;
            *address = at;
        }
        let kind = if check.uncorrected { "uncorrected" } else { "corrected" };
        let mut text = format!("{kind} machine check {:#06x} in bank {} of vcpu {}", check.code, check.bank, check.vcpu);
        if check.uncorrected {
            *status |= mc::UNCORRECTED | mc::CONTEXT_CORRUPT;
            let sys = &mut state.sys;
            if sys.cr4 & CR4_MCE == 0 || sys.mcg_status & mc::IN_PROGRESS != 0 {
                sys.activity = Activity::Shutdown;
                text.push_str(": the processor shuts down");
            } else {
                sys.mcg_status |= mc::IN_PROGRESS | mc::RESTART_VALID;
                sys.svm.inject = mc::VECTOR | mc::EVENT_EXCEPTION;
                if sys.activity == Activity::Halted {
                    sys.activity = Activity::Running;
                }
            }
        }
        cpu.set_state(&state);
        text
    }

    /// A byte of RAM.
    fn draw_address(&self, draw: u64) -> u64 {
        let ranges: Vec<_> = self.memory.map().iter().filter(|range| range.writable).map(|range| range.gpa.clone()).collect();
        let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let mut at = (draw >> 3) % total.max(1);
        for range in ranges {
            let length = range.end - range.start;
            if at < length {
                return range.start + at;
            }
            at -= length;
        }
        0
    }

    /// Replaces the fault plan from here on: counters start anew, what is broken stays broken. It is another run from here; exploring forks begin with this.
    pub fn set_faults(&mut self, plan: &[Fault]) {
        let plan: Arc<[Fault]> = plan.into();
        let streams = Streams::new(self.board.seed);
        self.board.faults = plan.to_vec();
        for index in 0..self.bus.backends.disks() as u8 {
            if let Some(disk) = self.fault_disk_mut(index) {
                disk.set_plan(index, &plan, &streams);
            }
        }
        self.bus.backends.watch_marks(sim_fault::marker_texts(&plan));
        let stalled = std::mem::take(&mut self.bus.faults.stalled_until);
        self.bus.faults = Faults { plan: MachineFaults::new(&plan, &streams), stalled_until: stalled };
    }

    /// The middleware of a disk: its journal, its base.
    pub fn fault_disk(&self, index: u8) -> Option<&FaultDisk> {
        self.bus.backends.disk(sim_bus::DiskId(index))?.middleware()?.downcast_ref()
    }
    pub fn fault_disk_mut(&mut self, index: u8) -> Option<&mut FaultDisk> {
        self.bus.backends.disk_mut(sim_bus::DiskId(index))?.middleware_mut()?.downcast_mut()
    }
}
