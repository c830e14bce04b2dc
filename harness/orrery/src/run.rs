//! The verbs `run` and `qemu`.

use crate::Failure;
use crate::capsule;
use crate::build::Profile;
use crate::context::Context;
use rayon::prelude::*;
use runner::{Bench, Court, Progress, Quiet, RunError, Transcript, Variant, Verdict, bundle};
use scenario::Scenario;
use std::io::IsTerminal as _;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct RunArgs {
    /// Scenarios, one after another: paths, or names below scenarios/.
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// How often to run it; all receipts must be equal. Default: what the scenario says.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16))]
    repeat: Option<u32>,
    /// Another seed of the board: another interleaving of everything that is left open.
    #[arg(long)]
    seed: Option<u64>,
    /// Once more, cut into slices of 1, 13 and 777 ticks by this seed; the receipt must be equal.
    #[arg(long)]
    cut_seed: Option<u64>,
    /// Under so many seeds of adversarial turns of the vCPUs, each twice: everything must hold, and each must repeat.
    #[arg(long, num_args = 0..=1, default_missing_value = "10", value_parser = clap::value_parser!(u32).range(1..=1000))]
    chaos: Option<u32>,
    /// With a kernel built for trying an edit (other instruction counts: goldens are not judged).
    #[arg(long)]
    quick: bool,
}

#[derive(clap::Args)]
pub struct QemuArgs {
    /// Scenarios, one after another: paths, or names below scenarios/.
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// With a kernel built for trying an edit.
    #[arg(long)]
    quick: bool,
}

fn profile(quick: bool) -> Profile {
    if quick { Profile::Quick } else { Profile::Ship }
}

/// A scenario with all its runs and what came of them.
#[derive(Debug)]
pub struct Finished {
    pub runs: Vec<Transcript>,
    pub verdict: Verdict,
    /// What repeats the first run, if it failed.
    pub capsule: Option<PathBuf>,
}

impl Finished {
    /// The commands that show the failure again, for a scenario that fails.
    pub fn again(&self, context: &Context, scenario: &str) -> String {
        let mut text = format!("  again: cargo orrery run {scenario}");
        if let Some(path) = &self.capsule {
            let path = path.strip_prefix(&context.root).unwrap_or(path).display();
            text.push_str(&format!("\n  the same, anywhere: cargo orrery replay {path}\n  in gdb, there: cargo orrery open {path}"));
        }
        text
    }
}

/// How to run one.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// With the live progress line.
    pub live: bool,
    /// Goldens are judged.
    pub goldens: bool,
}

/// Runs a scenario as often as it asks, side by side where there are processors, judges, writes the bundle.
pub fn simulate(context: &Context, bench: &Bench, scenario: &Scenario, how: How) -> Result<Finished, Failure> {
    let folder = context.bundle(&scenario.name);
    let prepared = bench.prepare(scenario, &folder)?;
    let mut progress = Progress::new(&scenario.name, std::io::stderr().is_terminal());
    let variants = Variant::of(scenario);
    // On the threads of whoever calls: with many scenarios side by side there are no more machines at once than processors.
    let mut others = Ok(Vec::new());
    let first = rayon::in_place_scope(|scope| {
        scope.spawn(|_| others = variants.par_iter().enumerate().skip(1).map(|(index, variant)| bench.simulate_as(index, *variant, scenario, &prepared, &mut Quiet)).collect::<Result<Vec<_>, RunError>>());
        if how.live { bench.record_first(scenario, &prepared, &mut progress) } else { bench.record_first(scenario, &prepared, &mut Quiet) }
    });
    progress.finish();
    let mut recorded = first?;
    let runs: Vec<Transcript> = std::iter::once(recorded.transcript.clone()).chain(others?).collect();
    let store = context.goldens();
    let verdict = Court { scenario, exact: true, goldens: how.goldens.then_some(&store), staged: &prepared.staged, disks: &folder.join("disks") }.judge(&runs);
    bundle::write(&folder, scenario, &runs, &verdict).map_err(Failure::file(&folder))?;
    let parted = runs.first().is_some_and(|first| runs.iter().any(|run| run.variant == Variant::Plain && run.receipt != first.receipt));
    if parted && sim_cpu::chosen_engine() == sim_cpu::Engine::Both {
        let text = bench.part(&prepared, recorded.machine.inputs(), recorded.machine.ticks())?.unwrap_or_else(|| "the engines do the same now\n".to_owned());
        let path = folder.join("engines.txt");
        std::fs::write(&path, &text).map_err(Failure::file(&path))?;
        println!("{text}");
    }
    bundle::evidence(&folder, scenario, &prepared, &recorded, &verdict).map_err(Failure::file(&folder))?;
    let capsule = match runs.first() {
        Some(run) if !verdict.holds() => Some(capsule::leave(context, scenario, &prepared, &mut recorded.machine, run, &verdict)?),
        _ => None,
    };
    Ok(Finished { runs, verdict, capsule })
}

/// The table, and for failures what belongs to them.
pub fn show(scenario: &Scenario, runs: &[Transcript], verdict: &Verdict) {
    print!("{}", bundle::table(scenario, runs, verdict, std::io::stdout().is_terminal()));
    for row in verdict.rows.iter().filter(|row| row.result == runner::verdict::Result::Fails) {
        if let Some(detail) = &row.detail {
            println!("\n  {}: {}", row.place, row.what);
            for line in detail.lines().take(40) {
                println!("      {line}");
            }
        }
    }
}

/// Does one after another; all are done, be it that one does not hold or that the host could not carry it out, which is said where it comes up. The worst is the result.
fn each(scenarios: &[String], one: impl Fn(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    // What is mistyped is said before hours of the others.
    let context = Context::find()?;
    scenarios.iter().try_for_each(|name| context.scenario(name).map(drop))?;
    if let [name] = scenarios {
        return one(name);
    }
    let (mut failing, mut broken) = (Vec::new(), Vec::new());
    let mut worst = Ok(());
    for name in scenarios {
        match one(name) {
            Ok(()) => {}
            Err(Failure::DoesNotHold) => {
                failing.push(name.as_str());
                worst = worst.and(Err(Failure::DoesNotHold));
            }
            // A request that makes no sense is one for all of them.
            Err(failure @ (Failure::Request(_) | Failure::Status(_))) => return Err(failure),
            Err(Failure::Host(why)) => {
                println!("\n{name}\n  {}", why.trim_end());
                broken.push(name.as_str());
                worst = Err(Failure::Host(format!("{name} could not be run")));
            }
        }
    }
    let listed = |what: &str, names: &[&str]| if names.is_empty() { String::new() } else { format!("; {what}: {}", names.join(" ")) };
    println!("\n{} of {} scenarios hold{}{}", scenarios.len() - failing.len() - broken.len(), scenarios.len(), listed("not", &failing), listed("could not be run", &broken));
    worst
}

/// The verb `run`.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    each(&args.scenarios, |name| run_one(args, name))
}

fn run_one(args: &RunArgs, name: &str) -> Result<(), Failure> {
    let context = Context::find()?;
    let mut scenario = context.scenario(name)?;
    scenario.repeat = args.repeat.unwrap_or(scenario.repeat);
    scenario.board.seed = args.seed.unwrap_or(scenario.board.seed);
    scenario.cut = args.cut_seed.or(scenario.cut);
    scenario.chaos_seeds = args.chaos.unwrap_or(scenario.chaos_seeds);
    let bench = context.bench(profile(args.quick), [&scenario])?;
    let finished = simulate(&context, &bench, &scenario, How { live: true, goldens: !args.quick })?;
    show(&scenario, &finished.runs, &finished.verdict);
    println!("  all of it: {}", context.bundle(&scenario.name).strip_prefix(&context.root).unwrap_or(&context.bundle(&scenario.name)).display());
    if finished.verdict.holds() {
        return Ok(());
    }
    println!("{}", finished.again(&context, name));
    Err(Failure::DoesNotHold)
}

/// The verb `qemu`.
pub fn qemu(args: &QemuArgs) -> Result<(), Failure> {
    each(&args.scenarios, |name| qemu_one(args, name))
}

fn qemu_one(args: &QemuArgs, name: &str) -> Result<(), Failure> {
    let context = Context::find()?;
    let mut scenario = context.scenario(name)?;
    scenario.repeat = 1;
    let bench = context.bench(profile(args.quick), [&scenario])?;
    let folder = context.bundle(&scenario.name);
    let prepared = bench.prepare(&scenario, &folder)?;
    let terminal = std::io::stderr().is_terminal();
    // Both at once: they do not share anything but the files they read.
    let (here, there) = std::thread::scope(|scope| {
        let here = scope.spawn(|| bench.simulate(&scenario, &prepared, &mut Quiet));
        let mut progress = Progress::new(&format!("{} on QEMU", scenario.name), terminal);
        let there = bench.emulate(&scenario, &prepared, false, &mut progress);
        progress.finish();
        (here.join(), there)
    });
    let there = there?;
    let here = match here {
        Ok(result) => result?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let verdict = Court { scenario: &scenario, exact: false, goldens: None, staged: &prepared.staged, disks: &folder.join("qemu/disks") }.judge(std::slice::from_ref(&there));
    bundle::write(&folder.join("qemu"), &scenario, std::slice::from_ref(&there), &verdict).map_err(Failure::file(&folder))?;
    show(&scenario, std::slice::from_ref(&there), &verdict);
    let differences = parity::compare(&scenario, &here, &there);
    let report = parity::report(&here.machine, &there.machine, &differences);
    let path = folder.join("qemu/differences.txt");
    std::fs::write(&path, &report).map_err(Failure::file(&path))?;
    print!("{report}");
    if verdict.holds() && parity::unexplained(&differences) == 0 { Ok(()) } else { Err(Failure::DoesNotHold) }
}
