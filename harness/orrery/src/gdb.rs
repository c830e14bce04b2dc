//! The verb `gdb`: a scenario's machine for gdb, and recorded sessions as tests.
//!
//! # Theory
//! A scenario is first run once, undisturbed, to learn what its driver typed and said to the agent, and at which tick. A fresh machine then replays these
//! inputs while gdb looks at it: the debugged run is that very run, with nobody at the other end of its lines.
//!
//! A *session* is a text file: commands after `(gdb) `, and below each what gdb answered. Replaying it runs a real gdb with the same commands and
//! compares the whole dialogue; addresses and what else changes with every build is replaced by its name first, as in goldens.

use crate::Failure;
use crate::build::Profile;
use crate::capsule;
use crate::context::Context;
use runner::Quiet;
use sim_board::Machine;
use std::io::IsTerminal as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct GdbArgs {
    /// A scenario: a path, or its name below scenarios/. With --session: default, the one the session names.
    scenario: Option<String>,
    /// TCP port on this host; 0 takes a free one.
    #[arg(long, default_value_t = 1234)]
    port: u16,
    /// Do not run the scenario first: nothing is typed at the machine, nobody answers the agent.
    #[arg(long)]
    alone: bool,
    /// Halt at this point instead: a tick, a time (`1.5s`), or text on the console (`print:TEXT`). What was before can be gone back to.
    #[arg(long)]
    at: Option<String>,
    /// Replays a recorded dialogue and compares.
    #[arg(long)]
    session: Option<PathBuf>,
    /// With --session: makes what gdb says now the record.
    #[arg(long)]
    bless: bool,
}

/// How long a recorded session may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The verb `gdb`.
pub fn gdb(args: &GdbArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    if let Some(path) = &args.session {
        return replay(&context, path, args);
    }
    let Some(wanted) = &args.scenario else {
        return Err(Failure::Request("which scenario?\n   = hint: cargo orrery gdb scenarios/tenants.toml".to_owned()));
    };
    let at = args.at.as_deref().map(capsule::place).transpose()?.unwrap_or_default();
    let (mut machine, kernel) = machine(&context, wanted, args.alone)?;
    let mut session = sim_gdb::Session::new(&mut machine);
    session.read_symbols(&std::fs::read(&kernel).map_err(Failure::file(&kernel))?);
    session.run_to(&at);
    let listener = TcpListener::bind(("127.0.0.1", args.port)).map_err(|error| Failure::Host(format!("port {}: {error}\n   = hint: --port 0 takes a free one", args.port)))?;
    let port = listener.local_addr().map_err(|error| Failure::Host(error.to_string()))?.port();
    println!("The machine is halted {}. In another terminal:\n", match session.position() {
        (0, _) => "before its first instruction".to_owned(),
        (ticks, ns) => format!("at tick {ticks}, {:.6} s", ns as f64 / 1e9),
    });
    // Debian's kernels come without symbols, and packed: nothing gdb could read.
    let symbols = std::fs::read(&kernel).is_ok_and(|image| image.starts_with(b"\x7fELF"));
    let shown = if symbols { format!("{} ", kernel.strip_prefix(&context.root).unwrap_or(&kernel).display()) } else { String::new() };
    println!("    gdb -x gdb/orrery.gdb {shown}-ex 'target remote :{port}'\n");
    let first = if symbols { "hbreak zone::boot, continue, backtrace, frames" } else { "continue, Ctrl-C, x/5i $pc" };
    println!("then for example: {first}, info registers, monitor help.");
    let ended = sim_gdb::serve_session(session, &listener, capsule::again).map_err(|error| Failure::Host(error.to_string()))?;
    println!("{ended:?} after {} instructions; receipt {}", machine.ticks(), machine.receipt());
    Ok(())
}

/// A machine with a scenario loaded, and its inputs waiting.
pub fn machine(context: &Context, wanted: &str, alone: bool) -> Result<(Machine, PathBuf), Failure> {
    let scenario = context.scenario(wanted)?;
    let bench = context.bench(Profile::Ship, [&scenario])?;
    let prepared = bench.prepare(&scenario, &context.bundle(&scenario.name))?;
    let inputs = if alone {
        Vec::new()
    } else {
        if std::io::stderr().is_terminal() {
            eprintln!("running {} once, to know its inputs ...", scenario.name);
        }
        bench.record(&scenario, &prepared, &mut Quiet)?.machine.inputs().to_vec()
    };
    let mut machine = bench.machine(&prepared)?;
    machine.replay(inputs);
    Ok((machine, prepared.kernel_path))
}

/// A recorded dialogue.
struct Session {
    scenario: String,
    commands: Vec<String>,
    text: String,
}

fn read_session(path: &Path) -> Result<Session, Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::file(path))?;
    let scenario = text.lines().find_map(|line| line.strip_prefix("# scenario: ")).map(str::to_owned);
    let Some(scenario) = scenario else {
        return Err(Failure::Request(format!("{}: a session names its scenario: a line `# scenario: NAME`", path.display())));
    };
    let commands = text.lines().filter_map(|line| line.strip_prefix("(gdb) ")).map(str::to_owned).collect();
    Ok(Session { scenario, commands, text })
}

fn replay(context: &Context, path: &Path, args: &GdbArgs) -> Result<(), Failure> {
    let session = read_session(path)?;
    let wanted = args.scenario.as_ref().unwrap_or(&session.scenario);
    // A capsule is given as its path; it stands at its failure.
    let (mut machine, kernel, capsule) = if wanted.ends_with(".capsule") {
        let capsule = capsule::load(&context.root.join(wanted))?;
        let machine = capsule.machine().map_err(|error| Failure::Request(format!("{wanted}: {error}")))?;
        // What Linux it boots has no symbols that gdb could read.
        (machine, None, Some(capsule))
    } else {
        let (machine, kernel) = machine(context, wanted, args.alone)?;
        (machine, Some(kernel), None)
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| Failure::Host(error.to_string()))?;
    let port = listener.local_addr().map_err(|error| Failure::Host(error.to_string()))?.port();
    // Before gdb comes: it does not wait for long.
    let session_of_gdb = match (&capsule, &kernel) {
        (Some(capsule), _) => capsule::stand(&mut machine, capsule, &capsule::point_of_failure(capsule)),
        (None, kernel) => {
            let mut session = sim_gdb::Session::new(&mut machine);
            if let Some(kernel) = kernel {
                session.read_symbols(&std::fs::read(kernel).map_err(Failure::file(kernel))?);
            }
            session
        }
    };
    let mut gdb = Command::new("gdb");
    gdb.current_dir(&context.root).args(["-nx", "-batch", "-q"]).arg("-x").arg("gdb/orrery.gdb").args(&kernel).arg("-ex").arg(format!("target remote :{port}"));
    for command in &session.commands {
        gdb.arg("-ex").arg(format!("echo (gdb) {}\\n", command.replace('\\', "\\\\"))).arg("-ex").arg(command);
    }
    // One stream for both, in the order gdb says it.
    let log = context.root.join("out/gdb-session.txt");
    std::fs::create_dir_all(context.root.join("out")).map_err(Failure::file(&log))?;
    let file = std::fs::File::create(&log).map_err(Failure::file(&log))?;
    let again = file.try_clone().map_err(Failure::file(&log))?;
    let mut child = gdb.stdin(Stdio::null()).stdout(file).stderr(again).spawn().map_err(|error| Failure::Host(format!("cannot run gdb: {error}\n   = hint: apt-get install gdb")))?;
    // A gdb that never comes would leave the server waiting: end both after a while.
    let watchdog = std::thread::spawn(move || {
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(None) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(50)),
                Ok(Some(_)) | Err(_) => {
                    // If gdb ended without ever connecting, the server still waits: knock, and go.
                    drop(std::net::TcpStream::connect(("127.0.0.1", port)));
                    return true;
                }
                Ok(None) => {
                    drop(child.kill());
                    drop(child.wait());
                    drop(std::net::TcpStream::connect(("127.0.0.1", port)));
                    return false;
                }
            }
        }
    });
    let served = sim_gdb::serve_session(session_of_gdb, &listener, |_, _| false);
    drop(listener);
    let in_time = watchdog.join().unwrap_or(false);
    served.map_err(|error| Failure::Host(error.to_string()))?;
    if !in_time {
        return Err(Failure::Host(format!("the session was not over in {} s; what gdb said is in {}", PATIENCE.as_secs(), log.display())));
    }
    let said = std::fs::read_to_string(&log).map_err(Failure::file(&log))?;
    let head: String = session.text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    // What gdb says before the first command depends on its version.
    let dialogue = said.find("(gdb) ").map_or("", |at| &said[at..]);
    let now = head + &golden::normalise(&without_versions(dialogue));
    if args.bless {
        std::fs::write(path, &now).map_err(Failure::file(path))?;
        println!("blessed {}", path.display());
        return Ok(());
    }
    if now == session.text {
        println!("{}: {} commands, the same dialogue", path.display(), session.commands.len());
        return Ok(());
    }
    println!("{}: the dialogue differs\n{}", path.display(), golden::diff(&session.text, &now));
    Err(Failure::DoesNotHold)
}

/// Drops what gdb adds of its own (warnings about the host, messages of later versions), and names what every build of the kernel changes: line
/// numbers, values in stack slots, and where in inlined code a single step ends.
fn without_versions(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with("warning:") && !line.contains("auto-load") && !line.starts_with("Download")) {
        let kept = if let Some(rest) = line.strip_prefix("written at tick ") {
            // The answer of `monitor last-write`.
            let vcpu = rest.split_once(" by vcpu ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
            format!("written at tick [TICK] by vcpu {vcpu}")
        } else if let Some((head, rest)) = ["=> tick ", "   tick ", "marked: tick "].into_iter().find_map(|head| Some((head, line.strip_prefix(head)?))) {
            // The monitor's marks.
            format!("{head}[TICK]{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        } else if line.starts_with('#') && line.contains("  0x") && !line.contains(" in ") {
            // The monitor's stacks are complete, and change with what is inlined where.
            format!("{} [FRAME]", line.split(' ').next().unwrap_or_default())
        } else if let Some((head, _)) = line.split_once(", line ") {
            format!("{head}, line [LINE]")
        } else if let Some(side) = ["Old value", "New value"].into_iter().find(|side| line.starts_with(side)) {
            format!("{side} = [VALUE]")
        } else if line.ends_with("()") && !line.starts_with('#') && !line.contains("Breakpoint") {
            "[PLACE]".to_owned()
        } else {
            line.to_owned()
        };
        out.push_str(&kept);
        out.push('\n');
    }
    out
}
