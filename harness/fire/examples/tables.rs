//! Prints the tables of `docs/pool-fire.md`: `cargo run --release -p pool-fire --example tables -- [SEEDS [WRITES]] > docs/pool-fire.md`.
//!
//! The atlas is drawn in pieces: each seed from 1 to SEEDS is a workload of WRITES writes on the layout that the seed chooses. What each piece came to goes to
//! standard error, as the campaign `pool-atlas` says it.

use std::collections::BTreeMap;
use std::io::Write;

use pool_fire::atlas::{Atlas, Scale, draw};
use pool_fire::matrix::{Outcome, STATES, TROUBLES, cell};
use pool_fire::rig::SHAPES;
use pool_fire::shape_of;

/// Of the table of broken disks.
const SEED: u64 = 23;

fn main() -> std::io::Result<()> {
    let number = |index: usize, default: u64| std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seeds, writes) = (number(1, 400), number(2, 500));
    let mut out = std::io::stdout().lock();
    writeln!(out, "# The pool under fire\n")?;
    writeln!(out, "Written by `cargo run --release -p pool-fire --example tables -- {seeds} {writes} > docs/pool-fire.md`; `pool-fire` says what is done.\n")?;
    writeln!(out, "## Power cuts\n")?;
    writeln!(out, "Each seed from 1 to {seeds} is a workload of {writes} writes on a layout it chooses. The power fails at every write and every flush, each time in four ways:")?;
    writeln!(out, "everything arrived, nothing since the last flush, each write by chance, the last one torn. Each state of the disks that differs from the others is opened,")?;
    writeln!(out, "checked in full, and compared with what was acknowledged and what was under way.\n")?;
    writeln!(out, "| layout | workloads | writes | flushes | cuts | states opened | acknowledged sync lost | operation in part | refused | damaged |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    let mut sums: BTreeMap<&str, (u64, Atlas)> = BTreeMap::new();
    for seed in 1..=seeds {
        let shape = shape_of(seed);
        match draw(shape, seed, Scale { writes, every: 1 }, &mut |_, _| {}) {
            Ok(atlas) => {
                eprintln!("seed {seed} {}: {atlas}", shape.name);
                atlas.findings.iter().for_each(|finding| eprintln!("FINDING: {finding}"));
                let (count, sum) = sums.entry(shape.name).or_default();
                *count += 1;
                sum.add(&atlas);
            }
            Err(error) => writeln!(out, "| {} | seed {seed}: the workload failed: {error} |", shape.name)?,
        }
    }
    for shape in &SHAPES {
        if let Some((count, a)) = sums.get(shape.name) {
            writeln!(out, "| {} | {count} | {} | {} | {} | {} | {} | {} | {} | {} |", shape.name, a.writes, a.flushes, a.cuts, a.states, a.lost, a.torn, a.refused, a.damaged)?;
        }
    }
    writeln!(out, "\n## Broken disks\n\nOne disk with one trouble (every third transfer), while the pool does one thing; then the disk is mended, and the pool scrubbed.\n")?;
    write!(out, "| layout | trouble |")?;
    STATES.iter().try_for_each(|state| write!(out, " {state:?} |"))?;
    writeln!(out, "\n|---|---|{}", "---|".repeat(STATES.len()))?;
    for shape in &SHAPES {
        for trouble in TROUBLES {
            write!(out, "| {} | {trouble:?} |", shape.name)?;
            for state in STATES {
                let outcome = cell(shape, trouble, state, SEED).unwrap_or(Outcome::Silent);
                write!(out, " {outcome} |")?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}
