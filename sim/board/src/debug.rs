//! The debugger's door: registers, memory, breakpoints, single steps. Looking changes nothing; a run with a debugger attached has the same receipt.

use sim_cpu::{CpuState, Watch};

use crate::api::{Outcome, Until};
use crate::machine::Machine;

/// What a debugger may watch for.
pub type Watchpoint = Watch;

impl Machine {
    /// The architectural state of a vCPU.
    pub fn cpu_state(&self, vcpu: usize) -> Option<CpuState> {
        self.cpus.get(vcpu).map(|cpu| cpu.state())
    }

    /// Replaces the state of a vCPU: this *does* change the run, and is an event in the log.
    pub fn set_cpu_state(&mut self, vcpu: usize, state: &CpuState) {
        if let Some(cpu) = self.cpus.get_mut(vcpu) {
            cpu.set_state(state);
            let now = self.now_ns();
            self.bus.add_event("debugger", "write", format!("registers of vcpu {vcpu}"), now);
        }
    }

    /// Task priority of a vCPU, as CR8 reads.
    pub fn cr8(&self, vcpu: usize) -> u8 {
        self.bus.fabric.lapics.get(vcpu).map_or(0, |lapic| lapic.cr8())
    }

    /// Translates a linear address through a vCPU's present page tables, whatever its privilege.
    pub fn translate(&mut self, vcpu: usize, linear: u64) -> Option<u64> {
        self.cpus.get(vcpu)?.translate(&mut self.memory, linear)
    }

    /// Host code of the translated block that holds the instruction at `rip`, for reports; `None` where it is interpreted.
    pub fn translation_of(&self, rip: u64) -> Option<String> {
        self.cpus.get(self.code_at)?.translation_of(rip)
    }

    /// Reads memory at linear addresses; returns how many bytes could be read from the start.
    pub fn read_linear(&mut self, vcpu: usize, linear: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let at = linear.wrapping_add(done as u64);
            let count = (into.len() - done).min(0x1000 - (at & 0xfff) as usize);
            let Some(gpa) = self.translate(vcpu, at) else { break };
            if self.memory.read(gpa, &mut into[done..done + count]).is_err() {
                break;
            }
            done += count;
        }
        done
    }

    /// Writes memory at linear addresses; all or (at the first page that is not there) a part. Changes the run; is an event in the log.
    pub fn write_linear(&mut self, vcpu: usize, linear: u64, from: &[u8]) -> usize {
        let mut done = 0;
        while done < from.len() {
            let at = linear.wrapping_add(done as u64);
            let count = (from.len() - done).min(0x1000 - (at & 0xfff) as usize);
            let Some(gpa) = self.translate(vcpu, at) else { break };
            if self.memory.write(gpa, &from[done..done + count]).is_err() {
                break;
            }
            done += count;
        }
        let now = self.now_ns();
        self.bus.add_event("debugger", "write", format!("{done} bytes at {linear:#x}"), now);
        done
    }

    /// Reads RAM and ROM at guest-physical addresses. `false`: some of it is not backed.
    pub fn read_physical(&self, gpa: u64, into: &mut [u8]) -> bool {
        self.memory.read(gpa, into).is_ok()
    }

    /// Pages written since the last checkpoint, by number.
    pub fn written_pages(&self) -> &[u32] {
        self.memory.dirty_pages()
    }

    /// The bytes of a page by its number.
    pub fn page(&self, page: u32) -> Option<&[u8]> {
        (u64::from(page) < self.memory.len() / sim_mem::PAGE_SIZE).then(|| self.memory.page(page))
    }

    /// RAM and ROM as ranges: first address, length, writable.
    pub fn memory_ranges(&self) -> Vec<(u64, u64, bool)> {
        self.memory.map().iter().map(|range| (range.gpa.start, range.gpa.end - range.gpa.start, range.writable)).collect()
    }

    /// Stops every vCPU before it executes the instruction at `linear`.
    pub fn add_breakpoint(&mut self, linear: u64) {
        for cpu in &mut self.cpus {
            cpu.add_breakpoint(linear);
        }
    }
    pub fn remove_breakpoint(&mut self, linear: u64) {
        for cpu in &mut self.cpus {
            cpu.remove_breakpoint(linear);
        }
    }
    /// Stops every vCPU after an access to a range.
    pub fn add_watch(&mut self, watch: Watchpoint) {
        for cpu in &mut self.cpus {
            cpu.add_watch(watch);
        }
    }
    pub fn remove_watch(&mut self, watch: Watchpoint) {
        for cpu in &mut self.cpus {
            cpu.remove_watch(watch);
        }
    }

    /// Runs until a vCPU has retired one more tick: an instruction, a REP iteration, or the delivery of an interrupt or exception. The
    /// others run as the turns say. `limit_ns` bounds the wait for a halted vCPU.
    pub fn step(&mut self, vcpu: usize, limit_ns: u64) -> Outcome {
        let target = self.vcpu_ticks(vcpu) + 1;
        self.run(&Until { vcpu_ticks: Some((vcpu, target)), ns: Some(limit_ns), ..Until::default() })
    }

    /// One line for each device: name, kind, and its state as named fields.
    pub fn describe_devices(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for slot in &mut self.bus.nodes {
            let payload = slot.node.save();
            let fields: Vec<String> = payload
                .fields()
                .iter()
                .filter_map(|(name, value)| match value {
                    sim_core::Value::Number(number) => Some(format!("{name}={number:#x}")),
                    sim_core::Value::Bytes(bytes) if bytes.len() <= 16 => Some(format!("{name}={bytes:02x?}")),
                    _ => None,
                })
                .collect();
            lines.push(format!("{:<10} {}", slot.name, fields.join(" ")));
        }
        for (vcpu, lapic) in self.bus.fabric.lapics.iter().enumerate() {
            lines.push(format!("lapic{vcpu:<5} {}", lapic.describe()));
        }
        for (input, entry, level) in self.bus.fabric.ioapic.describe().filter(|(_, entry, _)| entry & 0x1_0000 == 0) {
            lines.push(format!("ioapic     input {input} entry {entry:#018x} line {}", u8::from(level)));
        }
        for (node, token, at) in self.bus.timers.pending() {
            lines.push(format!("timer      {} token {} at {at} ns", self.bus.name(node), token.0));
        }
        lines
    }
}
