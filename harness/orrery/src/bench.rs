//! The verb `bench`: what the OS costs, and how fast the simulator is.

use crate::Failure;
use crate::build::Profile;
use crate::context::Context;
use ::bench::baseline::{Os, Sim, Travel};
use ::bench::guests::GUESTS;
use ::bench::linux::{self, LinuxGuest};
use ::bench::plan::{self, Job, Line, On, Span, Taken};
use ::bench::{BenchError, baseline, openzfs, os, pool, report, speed, travel};
use runner::progress::{Quiet, Watcher};
use runner::{Prepared, debian::Store, live};
use scenario::Scenario;
use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct BenchArgs {
    /// Another machine to compare speed with, in the same run.
    #[arg(long, value_parser = ["qemu"])]
    against: Option<String>,
    /// Only the rows of the speed table of these names.
    #[arg(long)]
    only: Vec<String>,
    /// Ratios of processor time instead of the clock's: for a host that has other work.
    #[arg(long)]
    cpu_time: bool,
    /// Does not go on with what a killed run has measured.
    #[arg(long)]
    afresh: bool,
    /// Only what time travel costs: snapshots, forks, steps back, recordings.
    #[arg(long)]
    travel: bool,
    /// Only what the pool costs in the kernel, in guest instructions.
    #[arg(long)]
    pool: bool,
    /// Only what the pool costs beside OpenZFS's own module on Debian's Linux, in guest instructions of the same machine.
    #[arg(long)]
    openzfs: bool,
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

/// Debian's Linux with OpenZFS's module and the measuring program: the kernel, and its initial RAM disk.
fn openzfs_guest(context: &Context, programs: &live::Programs) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let host = |error: &dyn std::fmt::Display| Failure::Host(error.to_string());
    let made = Command::new(context.root.join("harness/fire/module")).output().map_err(|error| host(&error))?;
    if !made.status.success() {
        return Err(Failure::Host(format!("OpenZFS's module cannot be had: {}", String::from_utf8_lossy(&made.stderr).trim())));
    }
    let folder = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
    let image = runner::linux::unpacked(&folder.join("vmlinuz"), &folder.join("vmlinux")).map_err(|error| host(&error))?;
    let kernel = std::fs::read(&image).map_err(Failure::file(&image))?;
    // Linux lays one archive over the other; packed, the first would cost it half a second.
    let packed = folder.join("initrd");
    let plain = Command::new("gzip").arg("-dc").arg(&packed).output().map_err(|error| host(&error))?;
    if !plain.status.success() {
        return Err(Failure::Host(format!("{}: {}", packed.display(), String::from_utf8_lossy(&plain.stderr).trim())));
    }
    let mut tree = runner::archive::Tree::default();
    tree.file("init", 0o755, openzfs::init());
    tree.file(os::PROGRAM.trim_start_matches('/'), 0o755, std::fs::read(&programs.bench).map_err(Failure::file(&programs.bench))?);
    for tool in ["zpool", "zfs"] {
        tree.link(&format!("usr/sbin/{tool}"), &format!("/sbin/{tool}"));
    }
    for disk in ["vda1", "vdb1", "vdc1"] {
        tree.link(&format!("disks/{disk}"), &format!("/dev/{disk}"));
    }
    let mut initrd = plain.stdout;
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(tree.to_cpio());
    Ok((kernel, initrd))
}

/// What the pool costs beside OpenZFS.
fn openzfs_costs(args: &BenchArgs, context: &Context, perf: &Path) -> Result<(), Failure> {
    let programs = context.programs()?;
    let (kernel, initrd) = openzfs_guest(context, &programs)?;
    let theirs = openzfs::run(&kernel, &initrd)?;
    let ours = context.ours(Profile::Ship, &programs)?;
    let kernel = std::fs::read(&ours.kernel).map_err(Failure::file(&ours.kernel))?;
    let ours = pool::run(&kernel, &ours.live.to_cpio(), "console=ttyS0 agent=ttyS1")?;
    let rows = report::beside(&ours, &theirs);
    print!("{}", report::openzfs(&rows));
    if args.bless {
        baseline::write(&perf.join("openzfs.toml"), "The kernel's pool beside OpenZFS's module on Linux, in ticks, exact (cargo orrery bench --openzfs --bless; docs/pool-costs.md).", &rows)?;
    }
    Ok(())
}

/// The scenario that stands for our own system.
const MAIN: &str = "tenants";
/// Its row.
const MAIN_LINE: Line = Line { name: "main-scenario", what: "our kernel: two tenants at work, from power-on to the end", target: None, ours: (MAIN, MAIN), theirs: (MAIN, MAIN) };

/// Looks now and then at what QEMU needs, which is gone with it.
struct Meter {
    looked: Instant,
    cpu: Duration,
    peak_kib: u64,
}

impl Meter {
    fn look(&mut self) {
        if self.looked.elapsed() > Duration::from_millis(200) {
            self.looked = Instant::now();
            for process in plan::descendants() {
                self.cpu = self.cpu.max(plan::cpu_of(process));
                self.peak_kib = self.peak_kib.max(plan::peak_of(process));
            }
        }
    }
}

impl Watcher for Meter {
    fn phase(&mut self, _what: &str) {}
    fn step(&mut self, _index: usize, _total: usize, _name: &str) {
        self.look();
    }
    fn pulse(&mut self, _ticks: Option<u64>, _now_ns: u64) {
        self.look();
    }
    fn console(&mut self, _bytes: &[u8]) {}
}

/// Plays the main scenario once.
fn play(bench: &runner::Bench, scenario: &Scenario, prepared: &Prepared, on: On) -> Result<Taken, BenchError> {
    let failed = |how: String| BenchError::Guest { name: MAIN.to_owned(), how };
    speed::reset_peak();
    let cpu = plan::own_cpu();
    let mut meter = Meter { looked: Instant::now(), cpu: Duration::ZERO, peak_kib: 0 };
    let transcript = match on {
        On::Ours => bench.simulate(scenario, prepared, &mut Quiet),
        On::Tcg => bench.emulate(scenario, prepared, false, &mut meter),
        On::Icount => bench.emulate(scenario, prepared, true, &mut meter),
    };
    let transcript = transcript.map_err(|error| failed(error.to_string()))?;
    if let Some(why) = transcript.given_up {
        return Err(failed(format!("not coming to its end: {why}")));
    }
    let time = Duration::from_millis(u64::try_from(transcript.wall_ms).unwrap_or(u64::MAX));
    let (cpu, peak_kib) = if on == On::Ours { (plan::own_cpu().saturating_sub(cpu), speed::peak_kib()) } else { (meter.cpu, meter.peak_kib) };
    Ok(Taken { spans: vec![Span { name: MAIN.to_owned(), time, cpu, ticks: transcript.ticks.unwrap_or(0) }], peak_kib })
}

/// Guests of the rows that are asked for, prepared.
struct Guests {
    loads: Vec<(&'static linux::Workload, LinuxGuest)>,
    parallel: Option<LinuxGuest>,
    main: Option<(runner::Bench, Scenario, Prepared)>,
}

impl Guests {
    fn prepare(context: &Context, programs: &live::Programs, scratch: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Guests, Failure> {
        let any = |lines: &[Line]| lines.iter().any(|line| wanted(line.name));
        let mut loads = Vec::new();
        for load in linux::WORKLOADS.iter().filter(|load| any(&load.lines())) {
            loads.push((load, linux_guest(context, load, programs, scratch)?));
        }
        let parallel = any(&linux::quanta_lines()).then(|| linux_guest(context, &linux::PARALLEL, programs, scratch)).transpose()?;
        let mut main = None;
        if wanted(MAIN_LINE.name) {
            let mut scenario = context.scenario(MAIN)?;
            scenario.repeat = 1;
            let bench = context.bench(Profile::Ship, [&scenario])?;
            let prepared = bench.prepare(&scenario, &scratch.join(MAIN)).map_err(|error| Failure::Host(error.to_string()))?;
            main = Some((bench, scenario, prepared));
        }
        Ok(Guests { loads, parallel, main })
    }

    /// What there is to measure, and the rows that come of it.
    fn jobs<'a>(&'a self, scratch: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(Vec<Job<'a>>, Vec<Line>), Failure> {
        let (mut jobs, mut lines) = (Vec::new(), Vec::new());
        for guest in GUESTS.iter().filter(|guest| wanted(guest.name)) {
            jobs.push(speed::job(guest, scratch)?);
            lines.push(speed::line(guest));
        }
        for (load, guest) in &self.loads {
            jobs.push(linux::workload(load, guest));
            lines.extend(load.lines());
        }
        if let Some((bench, scenario, prepared)) = &self.main {
            let fingerprint = plan::fingerprint(&[&prepared.kernel, prepared.initrd.as_deref().unwrap_or_default(), prepared.append.as_bytes(), format!("{scenario:?}").as_bytes()]);
            jobs.push(Job { name: MAIN, fingerprint, seconds: [Some(20.0), Some(25.0), Some(40.0)], times: 1, run: Box::new(move |on| play(bench, scenario, prepared, on)) });
            lines.push(MAIN_LINE);
        }
        if let Some(guest) = &self.parallel {
            let all = linux::quanta_jobs(guest);
            // The first is QEMU's, for all of them.
            jobs.extend(all.into_iter().enumerate().filter(|(index, job)| *index == 0 || wanted(job.name)).map(|(_, job)| job));
            lines.extend(linux::quanta_lines());
        }
        Ok((jobs, lines))
    }
}

/// What measurements of an interrupted run must agree in to count: program and engine.
fn identity() -> String {
    let program = std::env::current_exe().and_then(std::fs::metadata);
    let made = program.as_ref().ok().and_then(|file| file.modified().ok()).and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    format!("{:?} {} {}", sim_cpu::chosen_engine(), program.map_or(0, |file| file.len()), made.map_or(0, |time| time.as_nanos()))
}

/// The table of speed.
fn speeds(args: &BenchArgs, context: &Context, programs: &live::Programs, scratch: &Path, known: &Sim) -> Result<plan::Outcome, Failure> {
    let names: Vec<&str> = GUESTS.iter().map(|guest| guest.name).chain(linux::WORKLOADS.iter().flat_map(linux::Workload::lines).chain([MAIN_LINE]).chain(linux::quanta_lines()).map(|line| line.name)).collect();
    if let Some(unknown) = args.only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Failure::Request(format!("there is no row {unknown}\n   = help: the rows are {}", names.join(", "))));
    }
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    eprintln!("bench: preparing the guests");
    let guests = Guests::prepare(context, programs, scratch, &wanted)?;
    let (jobs, lines) = guests.jobs(scratch, &wanted)?;
    // What is asked for alone leaves a whole run's measurements alone.
    let file = scratch.join(if args.only.is_empty() { "measured".to_owned() } else { format!("measured-{:016x}", plan::fingerprint(&[args.only.join(" ").as_bytes()])) });
    if args.afresh {
        drop(std::fs::remove_file(&file));
    }
    let mut store = plan::Store::open(&file, &identity())?;
    if !store.is_empty() {
        eprintln!("bench: going on with {} measurements of a run that was interrupted (--afresh begins anew)", store.len());
    }
    let terminal = std::io::stderr().is_terminal();
    let longest = Cell::new(0);
    let progress = |what: &str| {
        if terminal {
            eprint!("\rbench: {what:<width$}", width = longest.get());
            longest.set(what.len());
        } else {
            eprintln!("bench: {what}");
        }
    };
    let options = plan::Options { rounds: usize::try_from(args.rounds).unwrap_or(1), qemu: args.against.is_some(), by_cpu: args.cpu_time };
    let lines: Vec<Line> = lines.into_iter().filter(|line| args.only.is_empty() || wanted(line.name) || line.ours.0 != line.name).collect();
    let outcome = plan::run(&jobs, &lines, &options, &mut store, progress)?;
    if terminal {
        eprintln!();
    }
    print!("{}", report::speed(&outcome.rows, known));
    println!("median of {} on each machine, in turn; memory is each process's peak; {}", options.rounds, if options.by_cpu { "ratios of processor time" } else { "ratios of time on the clock" });
    if outcome.share < 0.9 && !options.by_cpu {
        println!("the host had other work: our side had {:.0} % of a processor, so the ratios mean little (--cpu-time compares processor time)", outcome.share * 100.0);
    }
    for (job, machine, why) in &outcome.failed {
        eprintln!("bench: {job} on {machine}: {why}");
    }
    if outcome.failed.is_empty() {
        store.done();
    }
    Ok(outcome)
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
    if args.openzfs {
        return openzfs_costs(args, &context, &perf);
    }
    if args.bless && (!args.only.is_empty() || args.against.is_none()) {
        return Err(Failure::Request("--bless writes all figures, so it takes no --only, and needs --against qemu (or --travel, --pool or --openzfs)".to_owned()));
    }
    let programs = context.programs()?;
    if sim_cpu::chosen_engine() == sim_cpu::Engine::Both {
        // In turn, they would give figures of neither.
        sim_cpu::choose_engine(sim_cpu::Engine::Translate).map_err(|why| Failure::Host(why.to_string()))?;
    }
    // Each engine has figures of its own.
    let translated = sim_cpu::chosen_engine() == sim_cpu::Engine::Translate;
    let path = perf.join(if translated { "translate.toml" } else { "sim.toml" });
    let command = if translated { "cargo orrery bench --against qemu --bless" } else { "cargo orrery --engine interpret bench --against qemu --bless" };
    let known: Sim = baseline::read(&path)?;
    if known.guest.is_empty() {
        eprintln!("bench: there is no perf/{} to compare speed with; `{command}` on an idle host makes it", path.file_name().unwrap_or_default().display());
    }
    let measured = speeds(args, &context, &programs, &scratch, &known)?;
    let failed = || Failure::Host(format!("{} of the guests could not be measured on a machine", measured.failed.len()));
    if !args.only.is_empty() {
        return if measured.failed.is_empty() { Ok(()) } else { Err(failed()) };
    }
    // After the guests: its snapshots stay in the process's heap, and would count as theirs.
    time_travel(args, &perf)?;
    pool_costs(args, &context, &perf)?;
    let ours = context.ours(Profile::Ship, &programs)?;
    let kernel = std::fs::read(&ours.kernel).map_err(Failure::file(&ours.kernel))?;
    let costs = os::run(&kernel, &ours.live.to_cpio(), "console=ttyS0 agent=ttyS1")?;
    let old: Os = baseline::read(&perf.join("os.toml"))?;
    print!("{}", report::costs(&costs, &old));
    if !measured.failed.is_empty() {
        return Err(failed());
    }
    if args.bless {
        std::fs::create_dir_all(&perf).map_err(Failure::file(&perf))?;
        baseline::write(&path, &format!("Simulator speed beside QEMU: ratios of one run ({command})."), &report::sim_baseline(&measured.rows))?;
        baseline::write(&perf.join("os.toml"), "What the OS costs, in ticks, exact (cargo orrery bench --against qemu --bless).", &report::os_baseline(&costs))?;
    }
    Ok(())
}
