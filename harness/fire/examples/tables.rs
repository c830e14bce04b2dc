//! Prints the tables of `docs/pool-fire.md`.
//!
//! ```text
//! cargo run --release -p pool-fire --example tables -- [WRITES [LAYOUT...]] > docs/pool-fire.md
//! ```
//!
//! With layouts it prints their rows of the first table alone, so that a long atlas can be drawn in parts.

use std::io::Write;

use pool_fire::atlas::{Scale, draw};
use pool_fire::matrix::{Outcome, STATES, TROUBLES, cell};
use pool_fire::rig::{SHAPES, Shape};

const SEED: u64 = 23;
/// Writes to all disks of a layout together.
const WRITES: u64 = 20_000;

fn row(shape: &Shape, scale: Scale, out: &mut impl Write) -> std::io::Result<()> {
    let mut told = 0;
    let drawn = draw(shape, SEED, scale, &mut |done, of| {
        if done * 20 / of.max(1) > told {
            told = done * 20 / of.max(1);
            eprintln!("{}: {done} of {of} writes", shape.name);
        }
    });
    match drawn {
        Ok(a) => {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                shape.name, a.operations, a.syncs, a.writes, a.flushes, a.cuts, a.states, a.lost, a.torn, a.refused, a.damaged
            )?;
            a.findings.iter().for_each(|finding| eprintln!("FINDING: {finding}"));
        }
        Err(error) => writeln!(out, "| {} | the workload failed: {error} |", shape.name)?,
    }
    out.flush()
}

fn main() -> std::io::Result<()> {
    let writes = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(WRITES);
    let scale = Scale { writes, every: 1 };
    let only: Vec<String> = std::env::args().skip(2).collect();
    let mut out = std::io::stdout().lock();
    if !only.is_empty() {
        return SHAPES.iter().filter(|shape| only.iter().any(|name| name == shape.name)).try_for_each(|shape| row(shape, scale, &mut out));
    }
    writeln!(out, "# The pool under fire\n")?;
    writeln!(out, "Written by `cargo run --release -p pool-fire --example tables -- {writes} > docs/pool-fire.md` (seed {SEED}); `pool-fire` says what is done.\n")?;
    writeln!(out, "## Power cuts\n")?;
    writeln!(out, "A workload per layout; the power fails at every write and every flush, each time in four ways: everything arrived, nothing since the last")?;
    writeln!(out, "flush, each write by chance, the last one torn. Each state of the disks that differs from the others is opened, checked in full, and compared with what was")?;
    writeln!(out, "acknowledged and what was under way.\n")?;
    writeln!(out, "| layout | operations | acknowledged syncs | writes | flushes | cuts | states opened | acknowledged sync lost | operation in part | refused | damaged |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|")?;
    SHAPES.iter().try_for_each(|shape| row(shape, scale, &mut out))?;
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
