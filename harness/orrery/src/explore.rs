//! The verbs `explore` and `merge`, and `replay` of what they left.

use crate::Failure;
use crate::build::Profile;
use crate::capsule;
use crate::context::Context;
use explore::campaign::Outcome;
use explore::job::{self, Engine};
use explore::{Base, Campaign, ExploreError, FAULT_NAME, Guest, Lost, Plan, Progress, Shard, Spec, Summary, shrink};
use crate::explore_table as table;
use serde::{Deserialize, Serialize};
use sim_snap::Capsule;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Kinds of failures that are shrunk and left as capsules.
const CAPSULES_MAX: usize = 8;
/// Seeds that are named.
const SEEDS_SHOWN: usize = 12;

#[derive(clap::Args)]
pub struct ExploreArgs {
    /// A scenario with an `[explore]` table: a path, or its name below scenarios/.
    scenario: String,
    /// Adversarial turns of the vCPUs.
    #[arg(long)]
    chaos: bool,
    /// How many interleavings to try. Default: what the scenario says.
    #[arg(long)]
    seeds: Option<u64>,
    /// Try only so many plans, evenly spread.
    #[arg(long)]
    limit: Option<u64>,
    /// One of n equal parts, for another machine: `2/8`.
    #[arg(long, value_parser = |text: &str| Shard::parse(text).ok_or_else(|| format!("`{text}` is no shard (example: 2/8)")))]
    shard: Option<Shard>,
    /// How many machines at once. Default: one per processor.
    #[arg(long)]
    jobs: Option<usize>,
    /// Do not resume: try everything again.
    #[arg(long)]
    fresh: bool,
    /// Brings the scenario's row in docs/explore.md up to date.
    #[arg(long)]
    record: bool,
    /// Print a job file for a batch engine instead, for as many shards as --shards says.
    #[arg(long, value_enum)]
    job: Option<EngineName>,
    /// With --job: how many tasks.
    #[arg(long, default_value_t = 16)]
    shards: u64,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum EngineName {
    Slurm,
    Kubernetes,
}

#[derive(clap::Args)]
pub struct MergeArgs {
    /// Results files of the shards.
    #[arg(required = true)]
    results: Vec<PathBuf>,
}

/// What a capsule of `explore` says besides the run.
#[derive(Serialize, Deserialize)]
struct Found {
    wrong: String,
    plan: Plan,
    explore: Spec,
}

fn failure(error: ExploreError) -> Failure {
    match error {
        ExploreError::Results(why) => Failure::Request(why),
        other => Failure::Host(other.to_string()),
    }
}

fn pool(jobs: Option<usize>) -> Result<rayon::ThreadPool, Failure> {
    rayon::ThreadPoolBuilder::new().num_threads(jobs.unwrap_or(0)).build().map_err(|error| Failure::Host(format!("cannot start threads: {error}")))
}

/// The verb `explore`.
pub fn explore(args: &ExploreArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let scenario = context.scenario(&args.scenario)?;
    if let Some(engine) = args.job {
        let engine = match engine {
            EngineName::Slurm => Engine::Slurm,
            EngineName::Kubernetes => Engine::Kubernetes,
        };
        let mut more = String::new();
        for (option, value) in [("--jobs", args.jobs.map(|jobs| jobs as u64)), ("--seeds", args.seeds), ("--limit", args.limit)] {
            if let Some(value) = value {
                more.push_str(&format!(" {option} {value}"));
            }
        }
        if args.chaos {
            more.push_str(" --chaos");
        }
        print!("{}", job::file(engine, &scenario.name, args.shards, &more));
        return Ok(());
    }
    let Some(table) = &scenario.explore else {
        return Err(Failure::Request(format!("scenario `{}` has no [explore] table\n   = hint: docs/formats/scenario.md says what goes there", scenario.name)));
    };
    let mut spec = Spec::from_toml(table).map_err(|error| Failure::Request(format!("scenarios/{}.toml: {error}", scenario.name)))?;
    spec.chaos |= args.chaos;
    spec.seeds = args.seeds.unwrap_or(spec.seeds);
    let bench = context.bench(Profile::Ship, [&scenario])?;
    let folder = context.bundle(&scenario.name);
    let prepared = bench.prepare(&scenario, &folder)?;
    let base = Base { board: prepared.board.clone(), kernel: prepared.kernel.clone(), initrd: prepared.initrd.clone(), append: prepared.append.clone(), images: prepared.disks.clone() };
    let begun = Instant::now();
    eprintln!("{}: booting once, and the reference run ...", scenario.name);
    let guest = Guest::boot(base, spec).map_err(failure)?;
    let campaign = Campaign::new(&scenario.name, guest, args.limit).map_err(failure)?;
    if let Some(reference) = &campaign.reference {
        let writes = reference.cuts.journal().writes() - reference.before;
        eprintln!("{} promises, {writes} writes to cut after; {} plans; ready after {:.1} s", reference.promises.len(), campaign.plans.len(), begun.elapsed().as_secs_f64());
    } else {
        eprintln!("{} plans; ready after {:.1} s", campaign.plans.len(), begun.elapsed().as_secs_f64());
    }
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    let results = folder.join(format!("explore-{}-of-{}.jsonl", shard.index + 1, shard.of));
    let line = Line::new();
    let before = processor_seconds();
    let summary = pool(args.jobs)?.install(|| campaign.run(shard, &results, args.fresh, |progress| line.show(progress))).map_err(failure)?;
    line.finish();
    let processor = processor_seconds() - before;
    show(&scenario.name, &summary, processor);
    if args.record {
        let writes = campaign.reference.as_ref().map(|reference| reference.cuts.journal().writes() - reference.before);
        table::record(&context.root, &scenario.name, writes, &summary, processor)?;
    }
    for (kind, failing) in summary.kinds().into_iter().take(CAPSULES_MAX) {
        let Some(smallest) = shrink::smallest(&campaign, kind, &failing).map_err(failure)? else { continue };
        let path = folder.join(format!("found-{}.capsule", slug(kind)));
        capsule::write(&context, &pack(&campaign, &smallest, &scenario.name)?, &path)?;
        let shown = path.strip_prefix(&context.root).unwrap_or(&path).display().to_string();
        println!("  smallest: {}\n            {}", smallest.plan, smallest.wrong.as_deref().unwrap_or_default());
        println!("  again, anywhere: cargo orrery replay {shown}\n  in gdb, there:   cargo orrery open {shown}");
    }
    if summary.failing.is_empty() { Ok(()) } else { Err(Failure::DoesNotHold) }
}

/// A word for a file's name.
fn slug(kind: &str) -> String {
    let words: Vec<&str> = kind.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

/// The verb `merge`.
pub fn merge(args: &MergeArgs) -> Result<(), Failure> {
    let (scenario, summary) = explore::merge(&args.results).map_err(failure)?;
    show(&scenario, &summary, 0.0);
    for outcome in summary.failing.iter().take(20) {
        println!("  {}: {}", outcome.plan, outcome.wrong.as_deref().unwrap_or_default());
    }
    if summary.failing.is_empty() && summary.open == 0 { Ok(()) } else { Err(Failure::DoesNotHold) }
}

/// Processor time this process has used: what a busy host leaves out of the rate of a core.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The table of results.
fn show(scenario: &str, summary: &Summary, processor: f64) {
    println!("{scenario}: {} tried, {} fail, {} open", summary.tried, summary.failing.len(), summary.open);
    if summary.fresh > 0 {
        let per_minute = summary.fresh as f64 * 60.0 / summary.seconds.max(1e-9);
        let per_core = summary.fresh as f64 * 60.0 / processor.max(1e-9);
        println!("  {} trials in {:.1} s on {} cores: {per_minute:.0} a minute; {per_core:.0} a minute of a core's time, {:.1} M ticks each", summary.fresh, summary.seconds, summary.cores, summary.ticks as f64 / summary.fresh as f64 / 1e6);
    }
    for (kind, failing) in summary.kinds() {
        let each = summary.tried as f64 / failing.len() as f64;
        let needed = if matches!(failing[0].plan, Plan::Turns { .. }) { format!("{each:.1} seeds are needed on average") } else { format!("one in {each:.1} tried finds it") };
        println!("  {kind}: {} times, {needed}; first: {}", failing.len(), failing[0].plan);
        let seeds: Vec<String> = failing.iter().filter_map(|outcome| if let Plan::Turns { seed, .. } = outcome.plan { Some(seed.to_string()) } else { None }).take(SEEDS_SHOWN).collect();
        if !seeds.is_empty() {
            println!("    by seed {}{}", seeds.join(", "), if failing.len() > seeds.len() { ", ..." } else { "" });
        }
    }
}

/// The capsule of a failing plan: the run it belongs to, and the plan.
fn pack(campaign: &Campaign, outcome: &Outcome, scenario: &str) -> Result<Capsule, Failure> {
    let base = &campaign.guest.base;
    let wrong = outcome.wrong.clone().unwrap_or_default();
    let found = Found { wrong: wrong.clone(), plan: outcome.plan.clone(), explore: campaign.guest.spec.clone() };
    let plan = toml::to_string(&found).map_err(|error| Failure::Host(error.to_string()))?;
    let mut board = base.board.clone();
    let (inputs, ticks, ns, receipt, point) = match (&outcome.plan, &campaign.reference) {
        (Plan::Cut { write, .. }, Some(reference)) => {
            let point = reference.cuts.point(*write).unwrap_or((reference.ticks, reference.ns));
            (reference.inputs.clone(), reference.ticks, reference.ns, reference.receipt.clone(), point)
        }
        (Plan::Fault { operation, fault }, _) => {
            let mut machine = campaign.guest.run_with_fault(*operation, *fault).map_err(failure)?;
            board = machine.board().clone();
            let (ticks, ns) = (machine.ticks(), machine.now_ns());
            let records = machine.fault_disk(campaign.guest.spec.disk).map(|disk| disk.journal().clone()).unwrap_or_default();
            // The last fault of the plan is the one that was added.
            let added = u16::try_from(board.faults.len().saturating_sub(1)).ok();
            let struck = records.records().find(|record| added.is_some() && record.fault == added).map_or((ticks, ns), |record| (record.ticks, record.ns));
            (machine.inputs().to_vec(), ticks, ns, machine.receipt(), struck)
        }
        _ => {
            let mut worker = campaign.guest.worker(campaign.reference.as_ref()).map_err(failure)?;
            campaign.guest.attempt(&mut worker, campaign.reference.as_ref(), &outcome.plan).map_err(failure)?;
            let machine = worker.machine_mut();
            let (ticks, ns) = (machine.ticks(), machine.now_ns());
            (machine.inputs().to_vec(), ticks, ns, machine.receipt(), (ticks, ns))
        }
    };
    Ok(Capsule {
        board,
        kernel: base.kernel.clone(),
        initrd: base.initrd.clone(),
        append: base.append.clone(),
        images: base.images.clone(),
        scenario: scenario.to_owned(),
        scenario_text: String::new(),
        inputs,
        ticks,
        ns,
        receipt,
        failure: sim_snap::Failure { what: format!("{}: {wrong}", outcome.plan), ticks: point.0, ns: point.1 },
        plan: Some(plan),
    })
}

/// Tries the plan of a capsule again: the run from power-on with its receipt, then the plan.
pub fn again(capsule: &Capsule, plan: &str, disk: Option<&Path>) -> Result<(), Failure> {
    let found: Found = toml::from_str(plan).map_err(|error| Failure::Request(format!("the capsule's plan: {error}")))?;
    println!("{}: {}", capsule.scenario, found.plan);
    let replayed = capsule.replay().map_err(|error| Failure::Request(error.to_string()))?;
    println!("receipt {} at tick {}", replayed.receipt, replayed.ticks);
    if !replayed.same {
        println!("NOT the same run: recorded was {} at tick {}", capsule.receipt, capsule.ticks);
        return Err(Failure::DoesNotHold);
    }
    let mut board = capsule.board.clone();
    // The trial adds the failure itself.
    board.faults.retain(|fault| fault.name != FAULT_NAME);
    let base = Base { board, kernel: capsule.kernel.clone(), initrd: capsule.initrd.clone(), append: capsule.append.clone(), images: capsule.images.clone() };
    let guest = Guest::boot(base, found.explore).map_err(failure)?;
    let reference = if matches!(found.plan, Plan::Turns { .. }) { None } else { Some(guest.reference().map_err(failure)?) };
    let mut worker = guest.worker(reference.as_ref()).map_err(failure)?;
    if let (Some(path), Plan::Cut { write, lost }, Some(cuts)) = (disk, &found.plan, worker.cuts()) {
        let mut cut = cuts.disk(*write, lost);
        let mut content = vec![0; cut.sectors() as usize * 512];
        cut.read(0, &mut content).map_err(|error| Failure::Host(format!("the disk cannot be read: {error:?}")))?;
        std::fs::write(path, content).map_err(Failure::file(path))?;
        println!("the disk as cut is in {}", path.display());
    }
    let trial = guest.attempt(&mut worker, reference.as_ref(), &found.plan).map_err(failure)?;
    let wrong = trial.wrong.unwrap_or_else(|| "nothing is wrong".to_owned());
    println!("then: {wrong}");
    if wrong == found.wrong {
        println!("the same run and the same failure");
        return Ok(());
    }
    println!("NOT the same failure: recorded was {}", found.wrong);
    Err(Failure::DoesNotHold)
}

/// The writes that the cut of a capsule loses, if it is of a cut that names them: the disk, and their numbers.
pub fn lost_writes(capsule: &Capsule) -> Option<(u8, Vec<u64>)> {
    let found: Found = toml::from_str(capsule.plan.as_deref()?).ok()?;
    match found.plan {
        Plan::Cut { lost: Lost::These(writes), .. } => Some((found.explore.disk, writes)),
        Plan::Cut { .. } | Plan::Fault { .. } | Plan::Turns { .. } => None,
    }
}

/// The live line: on a terminal it is redrawn, elsewhere it is a line every ten seconds.
struct Line {
    shown: Mutex<Instant>,
    terminal: bool,
}

impl Line {
    fn new() -> Self {
        Self { shown: Mutex::new(Instant::now()), terminal: std::io::stderr().is_terminal() }
    }

    fn show(&self, progress: Progress) {
        let every = Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if shown.elapsed() < every {
            return;
        }
        *shown = Instant::now();
        let left = progress.seconds_left as u64;
        let text = format!(
            "{} of {}, {} fail; {:.0} a minute, {:.0} a minute and core; {}:{:02} left",
            progress.done, progress.total, progress.failing, progress.per_minute, progress.per_core, left / 60, left % 60
        );
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else {
            eprintln!("{text}");
        }
        // A terminal that is gone is no reason to stop.
        drop(std::io::stderr().flush());
    }

    fn finish(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
