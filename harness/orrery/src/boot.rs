//! The verb `boot`: any kernel, its console on this terminal.
//!
//! # Theory
//! On a terminal the guest's idle time is real time: while all its CPUs are halted the machine waits for a key or for its next event, no faster
//! than the clock on the wall. Where standard input is a pipe or a file nobody is waiting, so virtual time runs as fast as it can, and standard input is
//! typed line by line, each when the guest has said nothing for [`QUIET_NS`] and waits (or for [`DEAF_NS`], whatever it does): a
//! guest that is still booting would throw it away. When a line is typed depends on the guest alone, so the same input gives the same receipt.
//!
//! # Failure
//! The terminal's settings are put back whatever happens; a guest that ends badly is a status, not an error.

use crate::Failure;
use crate::build::Profile;
use crate::context::Context;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use runner::sim::Cuts;
use sim_board::{Board, Boot, BuildError, Disk, DiskModel, ImageError, Machine, Module, NicModel, NicSpec, Outcome, Port, Until};
use sim_snap::FileKind;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Leaves the machine, with `x` behind it; with `p`, presses its power button; twice sends one to the guest.
const ESCAPE: u8 = 0x01;
/// Virtual time between looks at the keyboard.
const PIECE_NS: u64 = 10_000_000;

/// Silence after which an idle guest that nobody can type at is left.
const IDLE_NS: u64 = 30_000_000_000;

/// Silence after which an idle guest is typed the next line of what was piped in, and a busy one.
const QUIET_NS: u64 = 400_000_000;
const DEAF_NS: u64 = 5_000_000_000;

#[derive(clap::Args)]
pub struct BootArgs {
    /// A PVH, Multiboot or bzImage kernel, or a snapshot to go on from. Nothing: our own, with the live root.
    kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// A module beside it, `FILE` or `FILE WORDS` with a command line of its own; may be given several times.
    #[arg(long)]
    module: Vec<String>,
    /// Kernel command line. Ours gets `console=ttyS0` in any case.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// A board file (TOML).
    #[arg(long)]
    board: Option<PathBuf>,
    /// Virtual CPUs.
    #[arg(long, visible_alias = "cpus", value_parser = clap::value_parser!(u32).range(1..=32))]
    vcpus: Option<u32>,
    /// The processor's model: `v2` (x86-64-v2, the default) or `v3` (with AVX, AVX2, FMA, F16C). Features are left out by the names Linux has for
    /// them, as in `v3,-avx2,-smap`.
    #[arg(long)]
    cpu: Option<String>,
    /// RAM in MiB, 16 to 65536, or with its unit: `512M`, `4G`.
    #[arg(long, value_parser = mebibytes)]
    mem: Option<u64>,
    /// Stop after so many instructions.
    #[arg(long)]
    limit: Option<u64>,
    /// Plug in a disk: an image file, raw or qcow2, with `:virtio-blk` (default), `:nvme` or `:ahci` behind it; may be given several times. The file stays as it is.
    #[arg(long, value_parser = disk_of)]
    disk: Vec<(PathBuf, DiskModel)>,
    /// Writes what is on the disks at the end to this folder, as disk0.img, ...
    #[arg(long)]
    disks_out: Option<PathBuf>,
    /// Seed of the board: with several vCPUs another interleaving.
    #[arg(long)]
    seed: Option<u64>,
    /// The vCPUs take adversarial turns.
    #[arg(long)]
    chaos: bool,
    /// Cut the run into slices of 1, 13 and 777 instructions by this seed. The receipt is the same as without.
    #[arg(long)]
    cut_seed: Option<u64>,
    /// Press the power button after so many seconds of machine time.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    power_button: Option<u64>,
    /// Plug in a NIC: `virtio-net` or `e1000e`; may be given several times. They are on a network with a gateway, 10.0.2.2: DHCP, DNS (`gateway.test`), echo on
    /// port 7, a sink on port 9, HTTP on port 80 (`/bulk/BYTES/SEED`, `/sum/BYTES/SEED`, PUT). What went over it is told at the end.
    #[arg(long, value_parser = nic_model)]
    nic: Vec<NicModel>,
    /// Folder to write what each NIC sent and received to, as pcapng.
    #[arg(long)]
    capture: Option<PathBuf>,
    /// With our own kernel: build it without link-time optimisation.
    #[arg(long)]
    quick: bool,
}

impl BootArgs {
    /// An option that says what machine to build or what to load into it, if one was given.
    fn changes_machine(&self) -> Option<&'static str> {
        let given = [
            ("--initrd", self.initrd.is_some()),
            ("--module", !self.module.is_empty()),
            ("--append", !self.append.is_empty()),
            ("--board", self.board.is_some()),
            ("--vcpus", self.vcpus.is_some()),
            ("--cpu", self.cpu.is_some()),
            ("--mem", self.mem.is_some()),
            ("--disk", !self.disk.is_empty()),
            ("--seed", self.seed.is_some()),
            ("--chaos", self.chaos),
            ("--nic", !self.nic.is_empty()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }
}

/// MiB, or a number with its unit.
fn mebibytes(word: &str) -> Result<u64, String> {
    let (digits, unit) = match word.trim_end_matches(['M', 'G']) {
        digits if word.len() == digits.len() + 1 && word.ends_with('G') => (digits, 1024),
        digits if word.len() <= digits.len() + 1 => (digits, 1),
        _ => (word, 1),
    };
    let mebibytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    mebibytes.filter(|mebibytes| (16..=65_536).contains(mebibytes)).ok_or_else(|| "16 to 65536 MiB, as `512`, `512M` or `4G`".to_owned())
}

/// Seconds, as nanoseconds.
fn seconds(word: &str) -> Result<u64, String> {
    let seconds = word.parse::<u32>().map_err(|_| "a whole number of seconds".to_owned())?;
    Ok(u64::from(seconds) * 1_000_000_000)
}

fn nic_model(word: &str) -> Result<NicModel, String> {
    match word {
        "virtio-net" => Ok(NicModel::VirtioNet),
        "e1000e" => Ok(NicModel::E1000e),
        _ => Err("`virtio-net` or `e1000e`".to_owned()),
    }
}

/// `FILE` or `FILE:MODEL`.
fn disk_of(word: &str) -> Result<(PathBuf, DiskModel), String> {
    let Some((file, model)) = word.rsplit_once(':') else { return Ok((PathBuf::from(word), DiskModel::VirtioBlk)) };
    let model = match model {
        "virtio-blk" => DiskModel::VirtioBlk,
        "nvme" => DiskModel::Nvme,
        "ahci" => DiskModel::Ahci,
        _ => return Err("behind the colon stands `virtio-blk`, `nvme` or `ahci`".to_owned()),
    };
    Ok((PathBuf::from(file), model))
}

/// A terminal in raw mode until dropped.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn enter() -> Self {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Self { before: None };
        }
        let Ok(before) = tcgetattr(&stdin) else { return Self { before: None } };
        let mut raw = before.clone();
        raw.make_raw();
        if tcsetattr(&stdin, OptionalActions::Now, &raw).is_err() {
            return Self { before: None };
        }
        Self { before: Some(before) }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nothing left to do if the terminal is gone.
            let _gone = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Bytes typed, or `None` at the end of standard input.
fn keyboard() -> Receiver<Option<Vec<u8>>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        loop {
            let read = std::io::stdin().read(&mut buffer);
            let piece = match read {
                Ok(0) | Err(_) => None,
                Ok(count) => Some(buffer[..count].to_vec()),
            };
            let over = piece.is_none();
            if sender.send(piece).is_err() || over {
                return;
            }
        }
    });
    receiver
}

/// Longest wait for a key before the machine is looked at again.
const PATIENCE: Duration = Duration::from_millis(100);

/// What was piped in and is not typed yet.
#[derive(Default)]
struct Lines {
    read: Vec<u8>,
    over: bool,
}

enum Piped {
    /// With its line end, if it has one.
    Line(Vec<u8>),
    NotYet,
    Over,
}

impl Lines {
    fn next(&mut self, keys: &Receiver<Option<Vec<u8>>>) -> Piped {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                return Piped::Line(self.read.drain(..=end).collect());
            }
            if self.over {
                return if self.read.is_empty() { Piped::Over } else { Piped::Line(std::mem::take(&mut self.read)) };
            }
            // Whoever pipes has it ready, or is answering what the guest has said: then the guest goes on.
            match keys.recv_timeout(PATIENCE) {
                Ok(Some(bytes)) => self.read.extend(bytes),
                Ok(None) | Err(RecvTimeoutError::Disconnected) => self.over = true,
                Err(RecvTimeoutError::Timeout) => return Piped::NotYet,
            }
        }
    }
}

/// Why the loop ended.
enum Left {
    Machine(Outcome),
    Limit,
    ByUser,
    /// Halted for ever, and nothing more can be typed.
    Stuck,
    /// Standard input has ended, and the guest has been idle and silent for a long time.
    Idle,
}

/// Boots and stays until the machine ends or the user leaves.
pub fn boot(args: &BootArgs) -> Result<(), Failure> {
    let (kernel, initrd, append) = match &args.kernel {
        Some(kernel) => (kernel.clone(), args.initrd.as_ref().map(|path| std::fs::read(path).map_err(Failure::named(path))).transpose()?, args.append.clone()),
        None => {
            let context = Context::find()?;
            let kernel = context.kernel(if args.quick { Profile::Quick } else { Profile::Ship })?;
            let initrd = match &args.initrd {
                Some(path) => std::fs::read(path).map_err(Failure::named(path))?,
                None => context.live(&context.programs()?)?.to_cpio(),
            };
            (kernel, Some(initrd), format!("console=ttyS0 {}", args.append).trim_end().to_owned())
        }
    };
    let image = std::fs::read(&kernel).map_err(Failure::named(&kernel))?;
    let mut board = match &args.board {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(Failure::named(path))?;
            Board::from_toml(&text).map_err(|error| Failure::Request(format!("{}: {error}", path.display())))?
        }
        None => Board { ram: 512 << 20, ..Board::default() },
    };
    // What a kernel writes there is told at the end.
    board.screen = true;
    board.vcpus = args.vcpus.unwrap_or(board.vcpus);
    if let Some(cpu) = &args.cpu {
        board.cpuid = cpu.clone();
    }
    board.ram = args.mem.map_or(board.ram, |mebibytes| mebibytes << 20);
    board.nics.extend(args.nic.iter().map(|&model| NicSpec { model, segment: None, mac: None }));
    board.seed = args.seed.unwrap_or(board.seed);
    board.chaos |= args.chaos;
    // The board file's disks come first, and are empty.
    let mut disks = vec![Vec::new(); board.disks.len()];
    for (path, model) in &args.disk {
        let file = std::fs::read(path).map_err(Failure::named(path))?;
        let mut bytes = sim_host::raw_image(file).map_err(|error| Failure::Request(format!("{}: {error}", path.display())))?;
        if bytes.is_empty() {
            return Err(Failure::Request(format!("{}: an empty file is no disk", path.display())));
        }
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        board.disks.push(Disk { model: *model, size: bytes.len() as u64, read_only: false });
        disks.push(bytes);
    }
    let mut files = Vec::new();
    for module in &args.module {
        let (file, append) = module.split_once(' ').unwrap_or((module, ""));
        files.push((std::fs::read(file).map_err(Failure::named(Path::new(file)))?, append));
    }
    let modules: Vec<Module<'_>> = files.iter().map(|(content, append)| Module { content, append }).collect();
    let boot = Boot { disks: &disks, modules: &modules, ..Boot::new(&image, initrd.as_deref(), &append) };
    let mut machine = if sim_snap::file::kind_of(&image) == Some(FileKind::Snapshot) {
        if let Some(option) = args.changes_machine() {
            return Err(Failure::Request(format!("{}: a snapshot goes on with the machine it was taken of; `{option}` has no place there", kernel.display())));
        }
        sim_snap::saved::resume(&image).map_err(|error| Failure::Request(format!("{}: {error}", kernel.display())))?
    } else {
        Machine::new(&board, &boot).map_err(|error| {
            let hint = match &error {
                BuildError::Image(ImageError::NoRam { .. } | ImageError::NoRoom { .. }) => format!("\n   = hint: the machine has {} MiB; `--mem` gives it more", board.ram >> 20),
                _ => String::new(),
            };
            Failure::Request(format!("{}: {error}{hint}", kernel.display()))
        })?
    };
    let raw = Raw::enter();
    if raw.before.is_some() {
        eprint!("Ctrl-A x leaves the machine, Ctrl-A p presses its power button.\r\n");
    }
    let left = converse(&mut machine, args, raw.before.is_some());
    drop(raw);
    let left = left.map_err(|error| Failure::Host(format!("this terminal: {error}")))?;
    let (how, status) = match left {
        Left::Machine(Outcome::DebugExit(status)) => (format!("debug exit, status {status}"), u8::try_from(status & 0xff).unwrap_or(u8::MAX)),
        Left::Machine(Outcome::PowerOff) => ("powered off".to_owned(), 0),
        Left::Machine(outcome) => (format!("{outcome:?}"), 4),
        Left::Stuck => ("all CPUs are halted and nothing can wake them".to_owned(), 4),
        Left::Idle => ("nothing more to do: standard input has ended and the guest is idle".to_owned(), 0),
        Left::Limit => ("the limit was reached".to_owned(), 5),
        Left::ByUser => ("left".to_owned(), 0),
    };
    eprintln!("\n{how} after {} instructions, {:.3} s of machine time", machine.ticks(), machine.now_ns() as f64 / 1e9);
    eprintln!("receipt {}", machine.receipt());
    for line in machine.network().map(|network| network.report()).unwrap_or_default() {
        eprintln!("network: {line}");
    }
    if let Some(folder) = &args.capture {
        std::fs::create_dir_all(folder).map_err(Failure::file(folder))?;
        for (name, bytes) in machine.captures() {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(Failure::file(&path))?;
        }
    }
    if let Some(folder) = &args.disks_out {
        std::fs::create_dir_all(folder).map_err(Failure::file(folder))?;
        for (index, bytes) in (0..=u8::MAX).map_while(|index| Some((index, machine.disk_content(index)?))) {
            let path = folder.join(format!("disk{index}.img"));
            std::fs::write(&path, bytes).map_err(Failure::file(&path))?;
        }
    }
    for line in machine.screen_text() {
        eprintln!("screen: {line}");
    }
    for line in runner::sim::unimplemented(&machine) {
        eprintln!("not there: {line}");
    }
    if status == 0 { Ok(()) } else { Err(Failure::Status(status)) }
}

fn converse(machine: &mut Machine, args: &BootArgs, terminal: bool) -> std::io::Result<Left> {
    let (limit, mut cuts, mut button) = (args.limit, args.cut_seed.map(Cuts::new), args.power_button);
    let keys = keyboard();
    let mut open = true;
    let mut escaped = false;
    let begun = Instant::now();
    let mut out = std::io::stdout();
    let mut heard_ns = 0;
    let mut piped = Lines::default();
    loop {
        if button.take_if(|at| *at <= machine.now_ns()).is_some() {
            machine.press_power_button();
        }
        let mut until = Until::ns(machine.now_ns().saturating_add(PIECE_NS));
        if let Some(limit) = limit {
            until = until.or_ticks(limit);
        }
        let outcome = match &mut cuts {
            Some(cuts) => cuts.run(machine, &until),
            None => machine.run(&until),
        };
        let said = machine.serial_take(Port::Com1);
        if !said.is_empty() {
            out.write_all(&said)?;
            out.flush()?;
            heard_ns = machine.now_ns();
        }
        // The agent's line has nobody at its other end here.
        drop(machine.serial_take(Port::Com2));
        if outcome.is_final() {
            return Ok(Left::Machine(outcome));
        }
        if limit.is_some_and(|limit| machine.ticks() >= limit) {
            return Ok(Left::Limit);
        }
        let stuck = outcome == Outcome::Stuck;
        if stuck && !open && button.is_none() {
            return Ok(Left::Stuck);
        }
        if !open && button.is_none() && machine.is_idle() && machine.now_ns().saturating_sub(heard_ns) > IDLE_NS {
            return Ok(Left::Idle);
        }
        if !terminal {
            let silent = machine.now_ns().saturating_sub(heard_ns);
            if open && (stuck || silent > DEAF_NS || silent > QUIET_NS && machine.is_idle()) {
                match piped.next(&keys) {
                    Piped::Line(line) => {
                        machine.serial_put(Port::Com1, &line);
                        heard_ns = machine.now_ns();
                    }
                    Piped::NotYet => {}
                    Piped::Over => open = false,
                }
            }
            continue;
        }
        // How far the machine is ahead of the wall: only ever because it was idle.
        let ahead = Duration::from_nanos(machine.now_ns()).saturating_sub(begun.elapsed());
        let patience = if stuck { PATIENCE } else if open { ahead.min(PATIENCE) } else { Duration::ZERO };
        let typed = if open { keys.recv_timeout(patience) } else { Err(RecvTimeoutError::Timeout) };
        match typed {
            Ok(Some(bytes)) => {
                let mut kept = Vec::new();
                for byte in bytes {
                    match (std::mem::replace(&mut escaped, false), byte) {
                        (true, b'x' | b'X') => return Ok(Left::ByUser),
                        (true, b'p' | b'P') => machine.press_power_button(),
                        (false, ESCAPE) => escaped = true,
                        (_, byte) => kept.push(byte),
                    }
                }
                machine.serial_put(Port::Com1, &kept);
            }
            Ok(None) | Err(RecvTimeoutError::Disconnected) => open = false,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_of_ram() {
        let good = ["16", "512M", "4G", "65536"].map(|word| super::mebibytes(word).ok());
        assert_eq!(good, [Some(16), Some(512), Some(4096), Some(65_536)]);
        for word in ["", "M", "15", "65G", "4GG", "4GM", "4K", "-1", "99999999999999999999G"] {
            assert!(super::mebibytes(word).is_err(), "{word}");
        }
    }
}
