//! Prints the tables of `docs/pool-fire.md`: `cargo run --release -p pool-fire --example tables -- [OPERATIONS [EVERY]] > docs/pool-fire.md`.

use std::io::Write;

use pool_fire::atlas::{Scale, draw};
use pool_fire::matrix::{Outcome, STATES, TROUBLES, cell};
use pool_fire::rig::SHAPES;

const SEED: u64 = 23;

fn main() -> std::io::Result<()> {
    let number = |index: usize, default: u64| std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let scale = Scale { operations: number(1, 600), every: number(2, 1) };
    let mut out = std::io::stdout().lock();
    writeln!(out, "# The pool under fire\n")?;
    writeln!(out, "Written by `cargo run --release -p pool-fire --example tables -- {} {}` (seed {SEED}); `pool-fire` says what is done.\n", scale.operations, scale.every)?;
    writeln!(out, "## Power cuts\n")?;
    writeln!(out, "A workload of {} operations per layout; the power fails at every write and flush{}, four times: everything arrived, nothing since", scale.operations, if scale.every == 1 { String::new() } else { format!(" of which the number divides by {}", scale.every) })?;
    writeln!(out, "the last flush, each write by chance, the last one torn.\n")?;
    writeln!(out, "| layout | writes | flushes | states opened | acknowledged sync lost | operation in part | refused | damaged |\n|---|---|---|---|---|---|---|---|")?;
    for shape in &SHAPES {
        match draw(shape, SEED, scale, &mut |_, _| {}) {
            Ok(a) => writeln!(out, "| {} | {} | {} | {} | {} | {} | {} | {} |", shape.name, a.writes, a.flushes, a.cuts, a.lost, a.torn, a.refused, a.damaged)?,
            Err(error) => writeln!(out, "| {} | the workload failed: {error} |", shape.name)?,
        }
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
