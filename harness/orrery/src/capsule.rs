//! The verbs `replay` and `open`, and the capsules that failing scenarios leave.
//!
//! # Theory
//! A capsule holds what a run took in, so this host repeats it whatever has become of the checkout since. `replay` runs it to its end and compares receipts;
//! `open` runs it to the point of failure, with snapshots on the way, and waits for gdb there: both ways from there are open.

use crate::Failure;
use crate::context::Context;
use runner::verdict::Result as Judged;
use runner::{Prepared, Transcript, Verdict};
use scenario::Scenario;
use sim_board::{Machine, Outcome, Port, Until};
use sim_gdb::{Place, Session};
use sim_snap::{Capsule, FileKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub struct ReplayArgs {
    /// The capsule.
    capsule: PathBuf,
    /// For a power cut that `explore` found: also write the disk as it was cut to this file, for the host's own tools.
    #[arg(long)]
    disk: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct OpenArgs {
    /// The capsule, or a snapshot.
    capsule: PathBuf,
    /// For a snapshot: the kernel's ELF file, for names. Default: our kernel as it was built last, if that is what runs there.
    #[arg(long)]
    symbols: Option<PathBuf>,
    /// TCP port on this host; 0 takes a free one.
    #[arg(long, default_value_t = 1234)]
    port: u16,
    /// Stand at another point of its run than that of the failure: a tick, a time (`1.5s`), or text on the console (`print:TEXT`).
    #[arg(long)]
    at: Option<String>,
}

/// Reads a point given on the command line.
pub fn place(text: &str) -> Result<Place, Failure> {
    if let Some(printed) = text.strip_prefix("print:") {
        return Ok(Place { console: Some(printed.to_owned()), ..Place::default() });
    }
    if let Ok(ticks) = text.replace('_', "").parse() {
        return Ok(Place { ticks, ..Place::default() });
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "s" => Some(1e9),
        "ms" => Some(1e6),
        "us" => Some(1e3),
        "ns" => Some(1.0),
        _ => None,
    };
    match (scale, digits.parse::<f64>()) {
        (Some(scale), Ok(number)) if number >= 0.0 => Ok(Place { ns: (number * scale) as u64, ..Place::default() }),
        _ => Err(Failure::Request(format!("`{text}` is no point in time\n   = hint: a tick (1200000), a time (350ms, 1.5s), or text on the console (print:login)"))),
    }
}

/// Reads a capsule.
pub fn load(path: &Path) -> Result<Capsule, Failure> {
    let bytes = std::fs::read(path).map_err(Failure::file(path))?;
    Capsule::load(&bytes).map_err(|error| Failure::Request(format!("{}: {error}", path.display())))
}

/// The verb `replay`.
pub fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let capsule = load(&args.capsule)?;
    if let Some(plan) = &capsule.plan {
        return crate::explore::again(&capsule, plan, args.disk.as_deref());
    }
    println!("{}: {}", capsule.scenario, capsule.failure.what);
    let begun = Instant::now();
    let replayed = capsule.replay().map_err(|error| Failure::Request(format!("{}: {error}", args.capsule.display())))?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("receipt {} at tick {}, {:.3} s of machine time, in {seconds:.1} s", replayed.receipt, replayed.ticks, replayed.ns as f64 / 1e9);
    if replayed.same {
        println!("the same run, bit for bit");
        return Ok(());
    }
    println!("NOT the same run: recorded was {} at tick {}", capsule.receipt, capsule.ticks);
    Err(Failure::DoesNotHold)
}

/// The verb `open`.
pub fn open(args: &OpenArgs) -> Result<(), Failure> {
    let bytes = std::fs::read(&args.capsule).map_err(Failure::named(&args.capsule))?;
    if sim_snap::file::kind_of(&bytes) == Some(FileKind::Snapshot) {
        return open_snapshot(args, &bytes);
    }
    let capsule = load(&args.capsule)?;
    let wrong = |error: sim_snap::FileError| Failure::Request(format!("{}: {error}", args.capsule.display()));
    let mut machine = capsule.machine().map_err(wrong)?;
    let place = match &args.at {
        Some(text) => place(text)?,
        None => point_of_failure(&capsule),
    };
    let symbols = args.capsule.with_extension("kernel");
    std::fs::write(&symbols, &capsule.kernel).map_err(Failure::file(&symbols))?;
    println!("{}: {}", capsule.scenario, capsule.failure.what);
    if let Some(plan) = &capsule.plan {
        println!("{}", plan.trim_end());
    }
    let session = stand(&mut machine, &capsule, &place);
    for mark in session.marks() {
        println!("marked, reverse-continue stops there: {mark}");
    }
    wait(session, args.port, Some(&symbols))
}

/// Stands where a snapshot was taken, or further on. There is nothing before it to go back to.
fn open_snapshot(args: &OpenArgs, bytes: &[u8]) -> Result<(), Failure> {
    let mut machine = sim_snap::saved::resume(bytes).map_err(|error| Failure::Request(format!("{}: {error}", args.capsule.display())))?;
    let mut session = Session::new(&mut machine);
    // Our own kernel's names are at hand, if it is the one that runs there.
    let ours = Context::find().ok().map(|context| context.root.join("target/kernel/orrery-kernel"));
    let ours = ours.filter(|path| args.symbols.is_none() && std::fs::read(path).is_ok_and(|image| session.runs(&image)));
    let symbols = args.symbols.clone().or(ours);
    if let Some(symbols) = &symbols {
        session.read_symbols(&std::fs::read(symbols).map_err(Failure::named(symbols))?);
    }
    if let Some(text) = &args.at {
        session.run_to(&place(text)?);
    }
    wait(session, args.port, symbols.as_deref())
}

/// A session of gdb at a point of a capsule's run. Where its power cut lost writes, those are marked.
pub fn stand<'m>(machine: &'m mut Machine, capsule: &Capsule, place: &Place) -> Session<'m> {
    let mut session = Session::new(machine);
    session.read_symbols(&capsule.kernel);
    session.run_to(place);
    if let Some((disk, writes)) = crate::explore::lost_writes(capsule) {
        for write in writes {
            session.mark_write(disk, write, ": lost by the power cut");
        }
    }
    session
}

/// Where a capsule's run failed.
pub fn point_of_failure(capsule: &Capsule) -> Place {
    Place { ticks: capsule.failure.ticks, ns: capsule.failure.ns, console: None }
}

/// Says how to connect, and serves.
fn wait(session: Session<'_>, port: u16, symbols: Option<&Path>) -> Result<(), Failure> {
    let listener = TcpListener::bind(("127.0.0.1", port)).map_err(|error| Failure::Host(format!("port {port}: {error}\n   = hint: --port 0 takes a free one")))?;
    let port = listener.local_addr().map_err(|error| Failure::Host(error.to_string()))?.port();
    let (ticks, ns) = session.position();
    println!("The machine stands at tick {ticks}, {:.6} s. In another terminal:\n", ns as f64 / 1e9);
    let symbols = symbols.map(|path| format!("{} ", path.display())).unwrap_or_default();
    println!("    gdb -x gdb/orrery.gdb {symbols}-ex 'target remote :{port}'\n");
    println!("then for example: backtrace, frames, reverse-continue, reverse-stepi, monitor last-write ADDRESS, monitor help.");
    let ended = sim_gdb::serve_session(session, &listener, again).map_err(|error| Failure::Host(error.to_string()))?;
    println!("{ended:?}");
    Ok(())
}

/// gdb is gone without a word of ending: the next one finds the machine as it was left.
pub fn again(session: &Session<'_>, error: Option<&sim_gdb::GdbError>) -> bool {
    if let Some(error) = error {
        println!("{error}");
    }
    println!("gdb is gone; the machine stands at tick {} and waits for the next (`kill` or `monitor quit` in gdb ends it, or Ctrl-C here)", session.position().0);
    true
}

/// A capsule of a run that has just ended.
pub fn of_run(context: &Context, scenario: &Scenario, prepared: &Prepared, machine: &mut Machine, failure: sim_snap::Failure) -> Capsule {
    let text = std::fs::read_to_string(context.root.join("scenarios").join(&scenario.name).with_extension("toml")).unwrap_or_default();
    Capsule {
        board: prepared.board.clone(),
        kernel: prepared.kernel.clone(),
        initrd: prepared.initrd.clone(),
        append: prepared.append.clone(),
        images: prepared.disks.clone(),
        scenario: scenario.name.clone(),
        scenario_text: text,
        inputs: machine.inputs().to_vec(),
        ticks: machine.ticks(),
        ns: machine.now_ns(),
        receipt: machine.receipt(),
        failure,
        plan: None,
    }
}

/// Writes the capsule of a failing run into its bundle, and says where.
pub fn leave(context: &Context, scenario: &Scenario, prepared: &Prepared, machine: &mut Machine, run: &Transcript, verdict: &Verdict) -> Result<PathBuf, Failure> {
    let row = verdict.rows.iter().find(|row| row.result == Judged::Fails);
    let what = row.map_or_else(|| "it failed".to_owned(), |row| format!("{}: {}: {}", row.place, row.what, row.found));
    let step = row.and_then(|row| run.step(&row.what)).and_then(|step| step.ended_ns);
    let mut capsule = of_run(context, scenario, prepared, machine, sim_snap::Failure { what, ..sim_snap::Failure::default() });
    (capsule.failure.ticks, capsule.failure.ns) = (capsule.ticks, capsule.ns);
    if let Some(ns) = step {
        (capsule.failure.ticks, capsule.failure.ns) = (0, ns.min(capsule.ns));
    } else if let Some(row) = row.filter(|row| row.place == "console" && !row.found.is_empty()) {
        // A line that should not be there: it stands where the line was printed.
        if let Ok(mut again) = capsule.machine()
            && let Outcome::Output(_) = again.run(&Until::ns(capsule.ns).or_output(Port::Com1, row.found.as_bytes()))
        {
            (capsule.failure.ticks, capsule.failure.ns) = (again.ticks(), again.now_ns());
        }
    }
    let path = context.bundle(&scenario.name).join("failure.capsule");
    write(context, &capsule, &path)?;
    Ok(path)
}

/// Writes a capsule.
pub fn write(context: &Context, capsule: &Capsule, path: &Path) -> Result<(), Failure> {
    let bytes = capsule.save(&context.commit()).map_err(|error| Failure::Host(error.to_string()))?;
    std::fs::write(path, bytes).map_err(Failure::file(path))
}
