//! Where two runs part: the first instruction after which CPUs or memory differ.
//!
//! # Theory
//! Two machines that should do the same are run side by side from checkpoint to checkpoint. At the first checkpoint where registers or pages written since the last
//! one differ, both go back to the one before, and the interval is halved until it is one tick. Devices are not compared on the way, only shown: a device
//! may hold the cause (a clock that was set from the host's) long before the first instruction sees it.
//!
//! # Limits
//! A difference that does not come again when the interval is repeated (the cause is outside the machine and has passed) is reported as the interval it
//! was seen in. Of two runs that go on for ever, `limit` ticks are looked at.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use sim_board::{Machine, Outcome, Snapshot, Until};
use sim_core::LoadError;

use crate::diff;

/// Where two runs part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The tick that both runs reached in the same state.
    pub ticks: u64,
    /// The first tick at which they differ: one more, if the difference could be repeated.
    pub until: u64,
    /// Whose turn it was.
    pub vcpu: usize,
    /// The instruction that was next at `ticks`.
    pub rip: u64,
    pub instruction: String,
    /// What of CPUs and memory differs at `until`.
    pub differences: Vec<String>,
    /// What of devices differed already at `ticks`: look here for the cause.
    pub devices: Vec<String>,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.until == self.ticks + 1 {
            writeln!(f, "the runs part at tick {}: vcpu {}, {:#x}: {}", self.ticks, self.vcpu, self.rip, self.instruction)?;
        } else {
            writeln!(f, "the runs part between ticks {} and {}, not always at the same place", self.ticks, self.until)?;
        }
        self.differences.iter().try_for_each(|line| writeln!(f, "    after it  {line}"))?;
        self.devices.iter().try_for_each(|line| writeln!(f, "    before it {line}"))
    }
}

/// Runs both machines, which stand where snapshots can be taken, for at most `limit` ticks. `None`: they do the same to their ends.
pub fn first_divergence(left: &mut Machine, right: &mut Machine, limit: u64) -> Result<Option<Divergence>, LoadError> {
    left.keep_snapshots();
    right.keep_snapshots();
    let Some(mut before) = left.snapshot().zip(right.snapshot()) else {
        return Err(LoadError::Malformed);
    };
    if left.ticks() != right.ticks() || !same(left, right) {
        let (ticks, until) = (left.ticks(), right.ticks());
        return Ok(Some(describe(left, right, ticks, until)));
    }
    loop {
        let step = Until { checkpoint: true, ticks: Some(limit), ..Until::default() };
        let (mine, theirs) = (left.run(&step), right.run(&step));
        let after = left.snapshot().zip(right.snapshot());
        let equal = mine == theirs
            && left.ticks() == right.ticks()
            && match &after {
                Some(after) => same_cpus(left, right) && same_written(&before, after),
                None => same(left, right),
            };
        if !equal {
            return halve(left, right, &before).map(Some);
        }
        let over = mine.is_final() || mine == Outcome::Stuck || left.ticks() >= limit;
        match after {
            Some(after) if !over => before = after,
            _ => return Ok(None),
        }
    }
}

fn same_cpus(left: &Machine, right: &Machine) -> bool {
    left.vcpus() == right.vcpus() && (0..left.vcpus()).all(|vcpu| left.cpu_state(vcpu) == right.cpu_state(vcpu))
}

/// Whether the pages that either wrote between two checkpoints are the same.
fn same_written(before: &(Snapshot, Snapshot), after: &(Snapshot, Snapshot)) -> bool {
    let mut pages = after.0.written_since(&before.0);
    pages.extend(after.1.written_since(&before.1));
    pages.into_iter().all(|page| after.0.page(page) == after.1.page(page))
}

/// Whether registers and the pages written since the last checkpoint are the same.
fn same(left: &Machine, right: &Machine) -> bool {
    same_cpus(left, right) && differing_pages(left, right).is_empty()
}

fn differing_pages(left: &Machine, right: &Machine) -> Vec<u32> {
    let mut pages: Vec<u32> = left.written_pages().iter().chain(right.written_pages()).copied().collect();
    pages.sort_unstable();
    pages.dedup();
    pages.retain(|page| left.page(*page) != right.page(*page));
    pages
}

/// Runs both to a tick. Nothing else may stop them on the way but their ends.
fn run_both(left: &mut Machine, right: &mut Machine, ticks: u64) {
    for machine in [left, right] {
        let mut outcome = Outcome::Deadline;
        while machine.ticks() < ticks && !outcome.is_final() && outcome != Outcome::Stuck {
            outcome = machine.run(&Until::ticks(ticks));
        }
    }
}

fn halve(left: &mut Machine, right: &mut Machine, before: &(Snapshot, Snapshot)) -> Result<Divergence, LoadError> {
    let mut good = before.0.ticks();
    let mut bad = left.ticks().max(right.ticks());
    let back = |left: &mut Machine, right: &mut Machine| left.restore(&before.0).and_then(|()| right.restore(&before.1));
    back(left, right)?;
    // Invariant: both stand at `good` or before it in the same state.
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        run_both(left, right, middle);
        if left.ticks() == right.ticks() && same(left, right) {
            good = middle;
        } else {
            bad = middle;
            back(left, right)?;
        }
    }
    run_both(left, right, good);
    let found = describe_next(left, right, good);
    if found.differences.is_empty() {
        // It did not come again.
        return Ok(Divergence { ticks: before.0.ticks(), ..found });
    }
    Ok(found)
}

/// At `ticks` both are the same: says what is next, makes that tick, and says what differs.
fn describe_next(left: &mut Machine, right: &mut Machine, ticks: u64) -> Divergence {
    let states: Vec<_> = (0..left.vcpus()).map(|vcpu| left.cpu_state(vcpu)).collect();
    let texts: Vec<String> = (0..left.vcpus()).map(|vcpu| instruction(left, vcpu)).collect();
    let devices = devices(left, right);
    run_both(left, right, ticks + 1);
    let mut found = describe(left, right, ticks, ticks + 1);
    let moved = |machine: &Machine| (0..machine.vcpus()).find(|&vcpu| machine.cpu_state(vcpu) != states[vcpu]);
    found.vcpu = moved(left).or_else(|| moved(right)).unwrap_or(0);
    found.rip = states[found.vcpu].as_ref().map_or(0, |state| state.rip);
    found.instruction.clone_from(&texts[found.vcpu]);
    found.devices = devices;
    found
}

fn describe(left: &mut Machine, right: &mut Machine, ticks: u64, until: u64) -> Divergence {
    let mut differences = Vec::new();
    for vcpu in 0..left.vcpus().min(right.vcpus()) {
        if let (Some(mine), Some(theirs)) = (left.cpu_state(vcpu), right.cpu_state(vcpu)) {
            differences.extend(diff::cpu(vcpu, &mine.save(), &theirs.save()));
        }
    }
    differences.extend(differing_pages(left, right).into_iter().map(|page| format!("memory page {page:#x}")));
    let vcpu = left.current_vcpu();
    let rip = left.cpu_state(vcpu).map_or(0, |state| state.rip);
    Divergence { ticks, until, vcpu, rip, instruction: instruction(left, vcpu), differences, devices: devices(left, right) }
}

fn devices(left: &mut Machine, right: &mut Machine) -> Vec<String> {
    left.save_parts().iter().zip(right.save_parts()).flat_map(|(mine, theirs)| mine.diff(&theirs)).collect()
}

/// The instruction a vCPU executes next.
fn instruction(machine: &mut Machine, vcpu: usize) -> String {
    let Some(state) = machine.cpu_state(vcpu) else { return "no such vCPU".to_owned() };
    let code = state.sys.seg[sim_cpu::CS];
    let mut bytes = [0; 15];
    let count = machine.read_linear(vcpu, code.base.wrapping_add(state.rip), &mut bytes);
    if count == 0 {
        return "(not mapped)".to_owned();
    }
    let long = state.sys.efer & sim_cpu::efer::LMA != 0;
    let bits = match (long && code.attr & sim_cpu::attr::L != 0, code.attr & sim_cpu::attr::DB != 0) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let mut decoder = Decoder::with_ip(bits, &bytes[..count], state.rip, DecoderOptions::NONE);
    let decoded = decoder.decode();
    let mut text = String::new();
    IntelFormatter::new().format(&decoded, &mut text);
    text
}
