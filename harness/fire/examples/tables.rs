//! Prints the tables of `docs/pool-fire.md`: `cargo run --release -p pool-fire --example tables -- [WRITES [STEPS]] > docs/pool-fire.md`.
//!
//! The atlas is drawn in pieces: on each layout the seeds 1, 2, 3 and so on, each a workload of STEPS steps, until the disks were written WRITES times. What each
//! piece came to goes to standard error, as the campaign `pool-atlas` says it.

use std::io::Write;

use pool_fire::atlas::{Atlas, Scale, draw};
use pool_fire::matrix::{Outcome, STATES, TROUBLES, cell};
use pool_fire::rig::SHAPES;

/// Of the table of broken disks.
const SEED: u64 = 23;

fn main() -> std::io::Result<()> {
    let number = |index: usize, default: u64| std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (writes, steps) = (number(1, 20_000), number(2, 500));
    let mut out = std::io::stdout().lock();
    writeln!(out, "# The pool under fire\n")?;
    writeln!(out, "Written by `cargo run --release -p pool-fire --example tables -- {writes} {steps} > docs/pool-fire.md`; `pool-fire` says what is done.\n")?;
    writeln!(out, "## Power cuts\n")?;
    writeln!(out, "On each layout one workload of {steps} steps after the other, from seed 1 on, until the disks were written {writes} times. The power fails at every write and every flush, each time in four ways:")?;
    writeln!(out, "everything arrived, nothing since the last flush, each write by chance, the last one torn. Each state of the disks that differs from the others is opened,")?;
    writeln!(out, "checked in full, and compared with what was acknowledged and what was under way.\n")?;
    writeln!(out, "| layout | workloads | writes | flushes | cuts | states opened | acknowledged sync lost | operation in part | refused | damaged |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    for shape in &SHAPES {
        let (mut sum, mut seed) = (Atlas::default(), 0);
        while sum.writes < writes {
            seed += 1;
            match draw(shape, seed, Scale { writes: steps, every: 1 }, &mut |_, _| {}) {
                Ok(atlas) => {
                    eprintln!("{} seed {seed}: {atlas}", shape.name);
                    atlas.findings.iter().for_each(|finding| eprintln!("FINDING: {finding}"));
                    sum.add(&atlas);
                }
                Err(error) => return Err(std::io::Error::other(format!("{} seed {seed}: the workload failed: {error}", shape.name))),
            }
        }
        let Atlas { writes, flushes, cuts, states, lost, torn, refused, damaged, .. } = sum;
        writeln!(out, "| {} | {seed} | {writes} | {flushes} | {cuts} | {states} | {lost} | {torn} | {refused} | {damaged} |", shape.name)?;
        out.flush()?;
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
