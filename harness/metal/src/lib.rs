//! Bare-metal guests that try the processor out, and the same guests on QEMU.
//!
//! # Theory
//! A guest (`guests/`) does something the manuals describe, prints a line for each thing that happened on COM1, and ends the machine through port 0xf4.
//! The log of our simulator is compared line by line with that of QEMU TCG. A difference is a bug of ours, or stands in a table of the test with
//! the section of the manual that says who is right; a row of that table that no longer differs is an error too. Ours is also a golden
//! (`golden/`), for the lines QEMU cannot judge and for hosts without it.
//!
//! # Structures
//! [`build`] compiles a guest with the toolchain at hand: freestanding Rust and assembly, linked at 1 MiB with a PVH note, no cargo in between.
//! [`ours`] and [`qemu`] run it; [`compare`] judges.
//!
//! # Failure
//! A guest that hangs is cut off after [`TICKS_MAX`] or [`QEMU_SECONDS_MAX`]; its log so far is compared.
//!
//! # Limits
//! One vCPU, 64 MiB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sim_board::{Board, Boot, Machine, Outcome, Port, Until};

/// The longest a guest may run on the simulator.
pub const TICKS_MAX: u64 = 2_000_000_000;
/// The longest it may run on QEMU.
pub const QEMU_SECONDS_MAX: u64 = 60;

/// Compiles `guests/NAME.rs`; returns the ELF image's path.
///
/// # Errors
/// What the compiler said.
pub fn build(name: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
    let out = std::env::temp_dir().join(format!("orrery-metal-{}", std::process::id()));
    std::fs::create_dir_all(&out).map_err(|error| error.to_string())?;
    let image = out.join(name);
    let flags = [
        "--edition=2024",
        "--crate-type=bin",
        "--target=x86_64-unknown-linux-gnu",
        "-Copt-level=1",
        "-Cpanic=abort",
        "-Crelocation-model=static",
        "-Cno-redzone=yes",
        "-Coverflow-checks=off",
        "-Ccodegen-units=1",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none,-z,max-page-size=4096",
    ];
    let done = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(flags)
        // Where the checkout lies must not move anything in the image.
        .arg(format!("--remap-path-prefix={}=guests", folder.display()))
        .arg(format!("-Clink-arg=-Wl,-T,{}", folder.join("link.ld").display()))
        .arg(folder.join(format!("{name}.rs")))
        .arg("-o")
        .arg(&image)
        .output()
        .map_err(|error| format!("rustc could not be started: {error}"))?;
    if done.status.success() { Ok(image) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub lines: Vec<String>,
    /// How it ended, in words.
    pub end: String,
}

impl Log {
    /// The firmware's own lines end where the guest says `begin`.
    #[must_use]
    pub fn new(bytes: &[u8], end: String) -> Log {
        let text = String::from_utf8_lossy(bytes);
        let said = text.split_once("begin\n").map_or(text.as_ref(), |(_, said)| said);
        Log { lines: said.lines().map(|line| line.trim_end().to_owned()).collect(), end }
    }
}

/// Runs the image on the simulator.
///
/// # Errors
/// The image cannot be read or booted.
pub fn ours(image: &Path) -> Result<Log, String> {
    let bytes = std::fs::read(image).map_err(|error| error.to_string())?;
    let board = Board { ram: 64 << 20, ..Board::default() };
    let mut machine = Machine::new(&board, &Boot::new(&bytes, None, "")).map_err(|error| format!("{error:?}"))?;
    let outcome = machine.run(&Until::ticks(TICKS_MAX));
    let end = match outcome {
        Outcome::DebugExit(status) => format!("status {status}"),
        other => format!("{other:?}"),
    };
    Ok(Log::new(&machine.serial_take(Port::Com1), end))
}

/// Runs the image on `qemu-system-x86_64 -accel tcg -cpu CPU`. `None`: there is no QEMU here.
///
/// # Errors
/// QEMU does not start.
pub fn qemu(image: &Path, cpu: &str) -> Result<Option<Log>, String> {
    let child = Command::new("timeout")
        .arg(QEMU_SECONDS_MAX.to_string())
        .args(["qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu, "-m", "64M", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel"])
        .arg(image)
        .stdin(Stdio::null())
        .output();
    let done = match child {
        Ok(done) if done.status.code() == Some(127) => return Ok(None),
        Ok(done) => done,
        Err(error) => return Err(error.to_string()),
    };
    let end = match done.status.code() {
        Some(124) => "cut off".to_owned(),
        Some(code) => format!("status {code}"),
        None => "killed".to_owned(),
    };
    if done.stdout.is_empty() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    Ok(Some(Log::new(&done.stdout, end)))
}

/// Complaints where the log is not the golden `golden/NAME.log`, which pins what QEMU cannot judge. With `ORRERY_METAL_BLESS` set it is written instead.
#[must_use]
pub fn golden(name: &str, log: &Log) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.log"));
    let text: String = log.lines.iter().flat_map(|line| [line, "\n"]).collect();
    if std::env::var_os("ORRERY_METAL_BLESS").is_some() {
        return std::fs::write(&path, text).err().map(|error| format!("{}: {error}", path.display())).into_iter().collect();
    }
    match std::fs::read_to_string(&path) {
        Ok(wanted) => {
            let mut out: Vec<String> = wanted.lines().zip(text.lines()).filter(|(a, b)| a != b).map(|(a, b)| format!("golden {a}\n  now  {b}")).collect();
            if wanted.lines().count() != text.lines().count() {
                out.push(format!("{} lines, the golden has {}", text.lines().count(), wanted.lines().count()));
            }
            out
        }
        Err(error) => vec![format!("{}: {error}", path.display())],
    }
}

/// A known difference: names of lines (a line's name is its first word; `WAY.NAME`, or `NAME` for every way) and why our reading is the manual's.
pub type Known = (&'static [&'static str], &'static str);

fn covers(row: &str, name: &str) -> bool {
    row == name || name.split_once('.').is_some_and(|(_, short)| short == row)
}

/// Lines by name, in order; several of a name are joined.
fn by_name(log: &Log) -> BTreeMap<&str, Vec<&str>> {
    let mut map: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &log.lines {
        map.entry(line.split(' ').next().unwrap_or_default()).or_default().push(line);
    }
    map
}

/// Complaints: differences that are not known, and known ones that are none.
#[must_use]
pub fn compare(ours: &Log, theirs: &Log, known: &[Known]) -> Vec<String> {
    let mut out = Vec::new();
    if ours.end != theirs.end {
        out.push(format!("ends: ours `{}`, QEMU's `{}`", ours.end, theirs.end));
    }
    let (left, right) = (by_name(ours), by_name(theirs));
    let names: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    for name in names {
        let (a, b) = (left.get(*name), right.get(*name));
        let listed = known.iter().flat_map(|(rows, _)| *rows).any(|row| covers(row, name));
        if a != b && !listed {
            let text = |lines: Option<&Vec<&str>>| lines.map_or("nothing".to_owned(), |lines| lines.join("\n        "));
            out.push(format!("{name}:\n  ours  {}\n  QEMU  {}", text(a), text(b)));
        }
    }
    for row in known.iter().flat_map(|(rows, _)| *rows) {
        let differs = |name: &&str| covers(row, name) && left.get(*name) != right.get(*name);
        if !left.keys().chain(right.keys()).any(differs) {
            out.push(format!("{row}: listed as a difference, and there is none"));
        }
    }
    out
}
