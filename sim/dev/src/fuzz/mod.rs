//! Devices under noise: random and structured garbage in registers, rings, command lists and configuration space.
//!
//! # Theory
//! A guest may write anything anywhere at any time; no model may panic, hang, or forget how to save itself. A target is a device with what it needs to get past its
//! front door: a `prepare` that sets queues up as a driver would, and an `act` that puts almost sensible requests into memory. Between those come plain noise on
//! registers and configuration space, time, bus mastering switched off, and resets. Everything follows from target and seed.
//!
//! # Failure
//! A finding is a panic, with the target, seed and step in its message: [`fuzz`] with the same arguments meets it again. A device that keeps asking for the present moment
//! is a hang, and panics too.
//!
//! # Limits
//! No coverage feedback: the generators know the formats instead. DMA goes to 256 KiB of RAM at address 0.
//!
//! # Reading order
//! `targets.rs` (the table), `drive.rs` (one run).

mod drive;
mod network;
mod storage;
mod targets;

use std::fmt;

pub use targets::TARGETS;

/// A device that can be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Steps that take about a second of a processor: what a campaign's batch and a test are counted in, since nothing here looks at a clock.
    pub second: u64,
    run: fn(&mut sim_core::Rng, u64) -> Counts,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Register and configuration accesses.
    pub accesses: u64,
    /// Device events (completions, fetches, timers).
    pub events: u64,
    /// Interrupt messages and pin changes.
    pub interrupts: u64,
    /// Accesses the device reported as undefined, and notes.
    pub reports: u64,
    /// Fresh devices.
    pub devices: u64,
}

/// The result of [`fuzz`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub target: &'static str,
    pub seed: u64,
    pub iterations: u64,
    pub counts: Counts,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { accesses, events, interrupts, reports, devices } = self.counts;
        write!(
            f,
            "{}: seed {}, {} steps on {devices} devices: {accesses} accesses, {events} events, {interrupts} interrupts, {reports} reports",
            self.target, self.seed, self.iterations
        )
    }
}

/// There is no such target; [`TARGETS`] has the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTarget(pub String);

impl fmt::Display for UnknownTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        write!(f, "no fuzz target is called `{}` (targets: {})", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownTarget {}

/// Runs `iterations` steps of noise on a target. Panics on a finding.
pub fn fuzz(target: &str, seed: u64, iterations: u64) -> Result<Summary, UnknownTarget> {
    let target = TARGETS.iter().find(|row| row.name == target).ok_or_else(|| UnknownTarget(target.to_owned()))?;
    let mut random = sim_core::Streams::new(seed).stream(target.name);
    let counts = (target.run)(&mut random, iterations);
    Ok(Summary { target: target.name, seed, iterations, counts })
}
