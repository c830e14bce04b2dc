//! The ways in which a scenario is run again, and what must be equal.
//!
//! # Theory
//! The machine is deterministic, so a second run says nothing new about the guest, but everything about the machine: its receipt must be equal, also when
//! the run is cut into slices of 1, 13 and 777 ticks. Another interleaving of the vCPUs is another run: everything the scenario asks for must
//! hold in it as well, and it too must come out the same twice.

use crate::{Bench, Prepared, RunError, Transcript, Watcher};
use scenario::Scenario;

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
        variants
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
    /// Runs a prepared scenario on the simulator in one of these ways.
    pub fn simulate_as(&self, variant: Variant, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
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
