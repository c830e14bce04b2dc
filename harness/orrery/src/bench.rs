//! The verb `bench`: what the OS costs, and how fast the simulator is.

use crate::Failure;
use crate::build::Profile;
use crate::context::Context;
use ::bench::baseline::{Os, Sim, Travel};
use ::bench::linux::{self, LinuxGuest};
use ::bench::{BenchError, baseline, os, pool, report, speed, travel};
use runner::{debian::Store, live};
use std::path::Path;

#[derive(clap::Args)]
pub struct BenchArgs {
    /// Another machine to compare speed with, in the same run.
    #[arg(long, value_parser = ["qemu"])]
    against: Option<String>,
    /// Only the speed guests of these names.
    #[arg(long)]
    only: Vec<String>,
    /// Only what time travel costs: snapshots, forks, steps back, recordings.
    #[arg(long)]
    travel: bool,
    /// Only what the pool costs in the kernel, in guest instructions.
    #[arg(long)]
    pool: bool,
    /// How often each guest runs on each machine; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=99))]
    rounds: u64,
    /// Makes what was measured the baselines in perf/.
    #[arg(long)]
    bless: bool,
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        Self::Host(error.to_string())
    }
}

/// Debian's kernel with an initial RAM disk that measures.
fn linux_guest(context: &Context, load: &linux::Workload, programs: &live::Programs, scratch: &Path) -> Result<LinuxGuest, Failure> {
    let host = |error: &dyn std::fmt::Display| Failure::Host(error.to_string());
    let store = Store::new(&context.root);
    let kernel = runner::linux::kernel(&store, scenario::Flavour::Cloud).map_err(|error| host(&error))?;
    let userland = scenario::Userland { packages: load.packages.iter().map(|name| (*name).to_owned()).collect(), ..scenario::Userland::default() };
    let (mut tree, _) = runner::linux::root(&store, &kernel, &userland, &runner::linux::Hardware::default(), programs).map_err(|error| host(&error))?;
    tree.file("init", 0o755, load.init);
    let initrd = tree.to_cpio();
    let initrd_path = scratch.join(format!("{}.cpio", load.name));
    std::fs::write(&initrd_path, &initrd).map_err(Failure::file(&initrd_path))?;
    let image = std::fs::read(&kernel.image).map_err(Failure::file(&kernel.image))?;
    Ok(LinuxGuest { kernel: image, kernel_path: kernel.image, initrd, initrd_path })
}

/// What time travel costs.
fn time_travel(args: &BenchArgs, perf: &Path) -> Result<(), Failure> {
    let figures = travel::run()?;
    let path = perf.join("travel.toml");
    let known: Travel = baseline::read(&path)?;
    print!("{}", report::travel(&figures, &known));
    if args.bless {
        let rounded = Travel { figure: figures.into_iter().map(|(name, value)| (name, (value * 1000.0).round() / 1000.0)).collect() };
        baseline::write(&path, "What time travel costs on the host that blessed it (cargo orrery bench --travel --bless).", &rounded)?;
    }
    Ok(())
}

/// What the pool costs.
fn pool_costs(args: &BenchArgs, context: &Context, perf: &Path) -> Result<(), Failure> {
    let programs = context.programs()?;
    let ours = context.ours(Profile::Ship, &programs)?;
    let kernel = std::fs::read(&ours.kernel).map_err(Failure::file(&ours.kernel))?;
    let costs = pool::run(&kernel, &ours.live.to_cpio(), "console=ttyS0 agent=ttyS1")?;
    let path = perf.join("pool.toml");
    let known: Os = baseline::read(&path)?;
    print!("{}", report::pool(&costs, &known));
    if args.bless {
        baseline::write(&path, "What the pool costs in the kernel, in ticks, exact (cargo orrery bench --pool --bless).", &report::os_baseline(&costs))?;
    }
    Ok(())
}

/// Measures and prints.
pub fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let perf = context.root.join("perf");
    let scratch = context.root.join("out/bench");
    std::fs::create_dir_all(&scratch).map_err(Failure::file(&scratch))?;
    if args.travel {
        return time_travel(args, &perf);
    }
    if args.pool {
        return pool_costs(args, &context, &perf);
    }
    let all = args.only.is_empty();
    let rounds = usize::try_from(args.rounds).unwrap_or(1);
    let qemu = args.against.is_some();
    let programs = context.programs()?;
    let options = speed::Options { only: args.only.clone(), rounds, qemu, scratch: scratch.clone() };
    let progress = |what: &str| eprintln!("bench: {what}");
    if sim_cpu::chosen_engine() == sim_cpu::Engine::Both {
        // In turn, they would give figures of neither.
        sim_cpu::choose_engine(sim_cpu::Engine::Translate).map_err(|why| Failure::Host(why.to_string()))?;
    }
    let mut rows = speed::run(&options, progress)?;
    // What needs packages beyond the system's is long, and runs where it is named.
    for load in linux::WORKLOADS.iter().filter(|load| (all && load.packages.is_empty()) || load.names().any(|name| args.only.iter().any(|wanted| wanted == name))) {
        let guest = linux_guest(&context, load, &programs, &scratch)?;
        rows.extend(linux::run(load, &guest, rounds, qemu, progress)?);
    }
    if all || linux::quanta_names().any(|name| args.only.iter().any(|wanted| wanted == name)) {
        let guest = linux_guest(&context, &linux::PARALLEL, &programs, &scratch)?;
        rows.extend(linux::quanta(&guest, rounds, qemu, progress)?);
    }
    // Each engine has figures of its own.
    let translated = sim_cpu::chosen_engine() == sim_cpu::Engine::Translate;
    let speeds = perf.join(if translated { "translate.toml" } else { "sim.toml" });
    let sim: Sim = baseline::read(&speeds)?;
    print!("{}", report::speed(&rows, &sim));
    if !all {
        return if args.bless { Err(Failure::Request("--bless writes all figures, so it takes no --only".to_owned())) } else { Ok(()) };
    }
    // After the guests: its snapshots stay in the process's heap, and would count as theirs.
    time_travel(args, &perf)?;
    pool_costs(args, &context, &perf)?;
    let ours = context.ours(Profile::Ship, &programs)?;
    let kernel = std::fs::read(&ours.kernel).map_err(Failure::file(&ours.kernel))?;
    let costs = os::run(&kernel, &ours.live.to_cpio(), "console=ttyS0 agent=ttyS1")?;
    let known: Os = baseline::read(&perf.join("os.toml"))?;
    print!("{}", report::costs(&costs, &known));
    if args.bless {
        std::fs::create_dir_all(&perf).map_err(Failure::file(&perf))?;
        let command = if translated { "cargo orrery bench --against qemu --bless" } else { "cargo orrery --engine interpret bench --against qemu --bless" };
        baseline::write(&speeds, &format!("Simulator speed beside QEMU: ratios of one run ({command})."), &report::sim_baseline(&rows))?;
        baseline::write(&perf.join("os.toml"), "What the OS costs, in ticks, exact (cargo orrery bench --bless).", &report::os_baseline(&costs))?;
    }
    Ok(())
}
