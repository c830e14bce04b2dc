//! Where the vCPUs are, at fixed ticks.

use std::sync::Arc;

use sim_board::{Machine, Outcome, Until};
use sim_cpu::Activity;

use crate::programs::Programs;

/// Samples kept; past this every second one goes and the distance doubles.
pub const SAMPLES_MAX: usize = 1 << 15;
/// Frames of a stack at most.
pub const STACK_MAX: usize = 64;
const RSP: usize = 4;
const RBP: usize = 5;
/// Kernel addresses of x86-64 kernels are in the upper half.
const UPPER_HALF: u64 = 1 << 63;

/// What a vCPU was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Kernel,
    User,
    Halted,
}

/// One look at one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub ns: u64,
    pub vcpu: u32,
    pub at: Where,
    /// Address space: CR3 without its flag bits.
    pub space: u64,
    /// The program that runs in it, or did when it was last in user mode. `None`: a kernel's own, or a thread whose first stack was not seen.
    pub program: Option<Arc<str>>,
    /// LSTAR, by which a kernel that was moved is recognised.
    pub lstar: u64,
    /// Innermost first: instruction pointer, then return addresses.
    pub stack: Vec<u64>,
}

/// Takes samples.
#[derive(Debug)]
pub struct Sampler {
    every: u64,
    next: u64,
    samples: Vec<Sample>,
    programs: Programs,
}

impl Sampler {
    /// Every `every` ticks of all vCPUs.
    pub fn new(every: u64) -> Self {
        let every = every.max(1);
        Self { every, next: every, samples: Vec::new(), programs: Programs::default() }
    }

    /// Runs to one of the conditions of `until`, of which at most single bytes of output may be one, and looks on the way.
    pub fn run(&mut self, machine: &mut Machine, until: &Until) -> Outcome {
        loop {
            let outcome = machine.run(&until.clone().or_ticks(until.ticks.map_or(self.next, |limit| limit.min(self.next))));
            self.take(machine);
            let due = until.ns.is_some_and(|limit| machine.now_ns() >= limit) || until.ticks.is_some_and(|limit| machine.ticks() >= limit);
            if outcome != Outcome::Deadline || due {
                return outcome;
            }
        }
    }

    /// Looks at every vCPU, if it is time.
    fn take(&mut self, machine: &mut Machine) {
        if machine.ticks() < self.next {
            return;
        }
        for vcpu in 0..machine.vcpus() {
            let Some(state) = machine.cpu_state(vcpu) else { continue };
            let at = match state.sys.activity {
                Activity::Running if state.sys.cpl == 3 => Where::User,
                Activity::Running => Where::Kernel,
                Activity::Halted | Activity::WaitForSipi | Activity::Shutdown => Where::Halted,
            };
            let mut stack = vec![state.rip];
            let mut frame = state.gpr[RBP];
            while at == Where::Kernel && stack.len() < STACK_MAX && frame >= UPPER_HALF && frame.is_multiple_of(8) {
                let mut words = [0; 16];
                if machine.read_linear(vcpu, frame, &mut words) < words.len() {
                    break;
                }
                let word = |at: usize| words[at..at + 8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
                let (above, back) = (word(0), word(8));
                if back < UPPER_HALF {
                    break;
                }
                stack.push(back);
                // Stacks grow down: the caller's frame is above.
                if above <= frame {
                    break;
                }
                frame = above;
            }
            let space = state.sys.cr3 & 0x000f_ffff_ffff_f000;
            let program = match at {
                Where::User => self.programs.of_user(machine, vcpu, space, state.gpr[RSP]),
                Where::Kernel => self.programs.of_space(space),
                Where::Halted => None,
            };
            self.samples.push(Sample { ns: machine.now_ns(), vcpu: vcpu as u32, at, space, program, lstar: state.sys.lstar, stack });
        }
        if self.samples.len() > SAMPLES_MAX {
            let vcpus = machine.vcpus();
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                ((index - 1) / vcpus).is_multiple_of(2)
            });
            self.every *= 2;
        }
        self.next = machine.ticks() + self.every;
    }

    /// The samples and the ticks between them.
    pub fn finish(self) -> (Vec<Sample>, u64) {
        (self.samples, self.every)
    }
}
