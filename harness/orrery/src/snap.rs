//! The verb `snap`: saves the machine of a scenario, or of a capsule, as it is at a point in time.
//!
//! # Theory
//! A snapshot in a file is a machine of its own: `open` stands in gdb there, `boot` goes on with the console on the terminal, `diff` compares two by name. It holds what
//! had entered from outside by then and nothing of what came later, so what it does from there on is up to who uses it.

use crate::Failure;
use crate::capsule;
use crate::context::Context;
use sim_board::Machine;
use sim_gdb::Session;
use sim_snap::saved;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct SnapArgs {
    /// A scenario (a path, or its name below scenarios/) or a capsule.
    what: String,
    /// The point: a tick, a time (`1.5s`), or text on the console (`print:TEXT`). Default: a capsule's point of failure; for a scenario before the first instruction.
    #[arg(long)]
    at: Option<String>,
    /// Where to write it. Default: out/NAME/TICK.snap.
    #[arg(long, short)]
    out: Option<PathBuf>,
}

/// The verb `snap`.
pub fn snap(args: &SnapArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let at = args.at.as_deref().map(capsule::place).transpose()?;
    let (mut machine, name, place) = if args.what.ends_with(".capsule") {
        let capsule = capsule::load(Path::new(&args.what))?;
        let machine = capsule.machine().map_err(|error| Failure::Request(format!("{}: {error}", args.what)))?;
        (machine, capsule.scenario.clone(), at.unwrap_or_else(|| capsule::point_of_failure(&capsule)))
    } else {
        let (machine, _) = crate::gdb::machine(&context, &args.what, false)?;
        (machine, context.scenario(&args.what)?.name, at.unwrap_or_default())
    };
    let outcome = Session::new(&mut machine).run_to(&place);
    if outcome.is_final() {
        return Err(Failure::Request(format!("the machine ends before that point, at tick {}: {outcome:?}", machine.ticks())));
    }
    let bytes = save(&context, &mut machine)?;
    let path = args.out.clone().unwrap_or_else(|| context.bundle(&name).join(format!("{}.snap", machine.ticks())));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Failure::file(folder))?;
    }
    std::fs::write(&path, &bytes).map_err(Failure::file(&path))?;
    let shown = path.strip_prefix(&context.root).unwrap_or(&path).display();
    println!("{shown}: tick {}, {:.6} s, {:.1} MB", machine.ticks(), machine.now_ns() as f64 / 1e9, bytes.len() as f64 / 1e6);
    println!("  in gdb, there:  cargo orrery open {shown}\n  to go on:       cargo orrery boot {shown}\n  to compare:     cargo orrery diff {shown} OTHER.snap");
    Ok(())
}

/// The machine as it is now, as a file's bytes.
fn save(context: &Context, machine: &mut Machine) -> Result<Vec<u8>, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::Host(format!("no snapshot can be taken here: {why}"));
    machine.keep_snapshots();
    if !machine.can_snapshot() {
        // Snapshots are of checkpoints; one more is an input as any other.
        machine.take_checkpoint();
    }
    let snapshot = machine.snapshot().ok_or_else(|| failed(&"the machine stands inside of a tick"))?;
    saved::save(&snapshot, &context.commit()).map_err(|error| failed(&error))
}
