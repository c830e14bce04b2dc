//! Prints the tables of `docs/pool-fire.md`: `cargo run --release -p pool-fire --example tables -- [WRITES [STEPS]] > docs/pool-fire.md`.
//! With `--matrix FILE` in place of the numbers: FILE as it is, with the table of broken disks made anew; the other takes twenty minutes.
//!
//! The atlas is drawn in pieces: on each layout the seeds 1, 2, 3 and so on, each a workload of STEPS steps, until the disks were written WRITES times. What each
//! piece came to goes to standard error, as the campaign `pool-atlas` says it.

use std::io::Write;

use pool_fire::atlas::{Atlas, Scale, draw};
use pool_fire::matrix::{Outcome, STATES, TROUBLES, struck};
use pool_fire::rig::SHAPES;

/// Of the table of broken disks.
const SEED: u64 = 23;

/// What stands above the table of broken disks.
const BROKEN: &str = "## Broken disks";

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if std::env::args().nth(1).is_some_and(|word| word == "--matrix") {
        let text = std::fs::read_to_string(std::env::args().nth(2).unwrap_or_else(|| "docs/pool-fire.md".to_owned()))?;
        write!(out, "{}", text.split(BROKEN).next().unwrap_or_default())?;
    } else {
        let number = |index: usize, default: u64| std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default);
        cuts(&mut out, number(1, 20_000), number(2, 500))?;
    }
    broken(&mut out)
}

fn cuts(out: &mut impl Write, writes: u64, steps: u64) -> std::io::Result<()> {
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
    writeln!(out)
}

fn broken(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{BROKEN}\n")?;
    writeln!(out, "One disk with one trouble (every third transfer), while the pool does one thing; then the disk is mended, and the pool scrubbed. A disk that spoils what it writes (bit rot, lost,")?;
    writeln!(out, "misdirected and torn writes) does so under load; in the other states the damage is at rest: it was done and acknowledged before. A cell has up to eight workloads, until the trouble")?;
    writeln!(out, "strikes something. This table alone is made anew by `cargo run --release -p pool-fire --example tables -- --matrix docs/pool-fire.md > new.md`.\n")?;
    write!(out, "| layout | trouble |")?;
    STATES.iter().try_for_each(|state| write!(out, " {state:?} |"))?;
    writeln!(out, "\n|---|---|{}", "---|".repeat(STATES.len()))?;
    for shape in &SHAPES {
        for trouble in TROUBLES {
            write!(out, "| {} | {trouble:?} |", shape.name)?;
            for state in STATES {
                let outcome = struck(shape, trouble, state, SEED).unwrap_or(Outcome::Silent);
                write!(out, " {outcome} |")?;
            }
            writeln!(out)?;
            out.flush()?;
        }
    }
    writeln!(out, "\nUntouched: nothing is written while files are read, a snapshot is sent or a pool is opened, so no write fails then. Reported by a resilver of a layout that bears the loss of")?;
    writeln!(out, "one disk: what the other disk missed is on the disk with the trouble only.")
}
