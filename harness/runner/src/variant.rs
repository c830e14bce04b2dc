//! The ways in which a scenario is run again, and what must be equal.
//!
//! # Theory
//! The machine is deterministic, so a second run says nothing new about the guest, but everything about the machine: its receipt must be equal, also when
//! the run is cut into slices of 1, 13 and 777 ticks. Another interleaving of the vCPUs is another run: everything the scenario asks for must
//! hold in it as well, and it too must come out the same twice.
//!
//! With `--engine both` the runs that repeat another one are translated, and those they repeat are interpreted; a scenario that runs once runs a second time
//! then. Equal receipts are equal engines; where they are not, [`Bench::part`] finds the block.

use crate::{Bench, Prepared, Recorded, RunError, TargetError, Transcript, Watcher};
use scenario::Scenario;
use sim_cpu::{Engine, HOT, chosen_engine, on_engine};

/// How a run differs from the scenario's first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// Not at all.
    #[default]
    Plain,
    /// Cut into slices drawn from this seed.
    Cut(u64),
    /// The vCPUs take adversarial turns drawn from this seed.
    Chaos { seed: u64, again: bool },
}

impl Variant {
    /// All runs of a scenario, the first included.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Vec<Self> {
        let mut variants = vec![Self::Plain; usize::try_from(scenario.repeat).unwrap_or(1)];
        variants.extend(scenario.cut.map(Self::Cut));
        for offset in 0..u64::from(scenario.chaos_seeds) {
            let seed = scenario.board.seed.wrapping_add(1 + offset);
            variants.extend([Self::Chaos { seed, again: false }, Self::Chaos { seed, again: true }]);
        }
        if variants.len() == 1 && chosen_engine() == Engine::Both {
            variants.push(Self::Plain);
        }
        variants
    }

    /// Runs before a block is translated in the run with this number, where both engines take part.
    fn engine(self, index: usize) -> Option<u16> {
        let repeats = index > 0 && !matches!(self, Self::Chaos { again: false, .. });
        repeats.then_some(HOT)
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain => f.write_str("again"),
            Self::Cut(seed) => write!(f, "cut into slices of 1, 13 and 777 ticks, seed {seed}"),
            Self::Chaos { seed, again: false } => write!(f, "chaos, seed {seed}"),
            Self::Chaos { seed, again: true } => write!(f, "chaos, seed {seed}, again"),
        }
    }
}

impl Bench {
    /// Runs a prepared scenario on the simulator in one of these ways, as the run with this number.
    pub fn simulate_as(&self, index: usize, variant: Variant, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
        if chosen_engine() == Engine::Both {
            return on_engine(variant.engine(index), || self.vary(variant, scenario, prepared, watcher));
        }
        self.vary(variant, scenario, prepared, watcher)
    }

    /// The first run, recorded: interpreted where both engines take part.
    pub fn record_first(&self, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Recorded, RunError> {
        if chosen_engine() == Engine::Both {
            return on_engine(None, || self.record(scenario, prepared, watcher));
        }
        self.record(scenario, prepared, watcher)
    }

    /// Where a translated repetition of a run parts from the interpreted one: both are made again with what entered the first, and compared from
    /// checkpoint to checkpoint, then tick by tick. Says the instruction, the states, and the block's code for the guest and for the host.
    pub fn part(&self, prepared: &Prepared, inputs: &[sim_board::Input], ticks: u64) -> Result<Option<String>, RunError> {
        let machine = |after: Option<u16>| -> Result<sim_board::Machine, RunError> {
            let mut machine = on_engine(after, || self.machine(prepared))?;
            machine.replay(inputs.to_vec());
            Ok(machine)
        };
        let (mut left, mut right) = (machine(None)?, machine(Some(HOT))?);
        let found = sim_snap::first_divergence(&mut left, &mut right, ticks).map_err(|error| TargetError(format!("comparing the engines: {error}")))?;
        Ok(found.map(|found| {
            let listing = right.translation_of(found.rip).unwrap_or_else(|| "that instruction is not translated\n".to_owned());
            format!("interpreter and translator: {found}{listing}")
        }))
    }

    fn vary(&self, variant: Variant, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
        let mut transcript = match variant {
            Variant::Plain => self.simulate(scenario, prepared, watcher)?,
            Variant::Cut(seed) => self.simulate_cut(scenario, prepared, Some(seed), watcher)?,
            Variant::Chaos { seed, .. } => {
                let board = sim_board::Board { chaos: true, seed, ..prepared.board.clone() };
                self.simulate(scenario, &Prepared { board, ..prepared.clone() }, watcher)?
            }
        };
        transcript.variant = variant;
        Ok(transcript)
    }
}
