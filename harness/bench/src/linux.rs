//! A stranger's kernel as a benchmark: how long Debian's Linux takes to boot, and how fast programs are on it.
//!
//! One boot ([`SYSTEM`]) gives the costs of the system: the init script marks the end of the boot with `B` on COM1, and the measuring program marks the
//! beginning and end of each of its loops. Linux itself is silent there. Another ([`PROGRAMS`]) runs openssl and Python's own tests, a third ([`PARALLEL`])
//! keeps four vCPUs busy with turns of different lengths ([`quanta`]). All sides see a processor
//! with the same features: a program that finds better instructions on one of them would do other work there.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sim_board::{Board, Boot, Machine, Port, Until};

use crate::BenchError;
use crate::speed::{QEMU_SECONDS_MAX, Row, Side, child_peak, median, peak_kib, reset_peak};

/// The kernel and its initial RAM disk, as bytes and as files.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    pub kernel: Vec<u8>,
    pub kernel_path: PathBuf,
    pub initrd: Vec<u8>,
    pub initrd_path: PathBuf,
}

/// What is booted: `/init` of the initial RAM disk (busybox's shell runs it, and our program is at its usual place), Debian packages, RAM, and what lies
/// between its marks.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub init: &'static str,
    pub packages: &'static [&'static str],
    ram: u64,
    vcpus: u32,
    spans: &'static [Span],
}

/// The system itself.
pub const SYSTEM: Workload = Workload {
    name: "linux",
    init: "#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
printf B >/dev/ttyS0
/usr/lib/orrery/bench_os --marks /dev/ttyS0
poweroff -f
",
    packages: &[],
    ram: 256 << 20,
    vcpus: 1,
    spans: &[
        Span { name: "linux-boot", what: "Debian's Linux from power-on to its first program", from: None, until: b'B', target: Some(1.0 / 3.0) },
        Span { name: "linux-call", what: "null system calls of a Linux program", from: Some(b'S'), until: b'E', target: None },
        Span { name: "linux-fault", what: "anonymous page faults of a Linux program", from: Some(b'P'), until: b'F', target: None },
        Span { name: "linux-switch", what: "a byte to and fro between two Linux processes", from: Some(b'C'), until: b'D', target: None },
        Span { name: "linux-fork", what: "fork, exit and wait of a Linux program", from: Some(b'X'), until: b'Y', target: None },
    ],
};

/// Programs: the sums and signatures of `openssl speed`, a fixed number of them, and a part of `python3 -m test`.
pub const PROGRAMS: Workload = Workload {
    name: "programs",
    init: "#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ifconfig lo 127.0.0.1 up
export OPENSSL_ia32cap=0x0000020007000000:0x0 HOME=/tmp PYTHONHASHSEED=0
printf O >/dev/ttyS0
dd if=/dev/zero bs=64k count=160 2>/dev/null | openssl dgst -sha512 >/dev/null
dd if=/dev/zero bs=64k count=80 2>/dev/null | openssl enc -aes-256-ctr -pbkdf2 -iter 2000 -k secret >/dev/null
for i in 1 2 3; do openssl genpkey -algorithm ed25519 -out /tmp/key; openssl pkey -in /tmp/key -pubout -out /tmp/public; done
printf Q >/dev/ttyS0
printf T >/dev/ttyS0
cd /tmp && python3.11 -m test test_int test_dict test_list test_tuple test_set test_generators test_richcmp test_slice >/tmp/log 2>&1 || printf ! >/dev/ttyS0
printf U >/dev/ttyS0
poweroff -f
",
    packages: &["openssl", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libpython3.11-testsuite"],
    ram: 512 << 20,
    vcpus: 1,
    spans: &[
        Span { name: "openssl", what: "sums, ciphers and keys of openssl on Linux", from: Some(b'O'), until: b'Q', target: None },
        Span { name: "python-test", what: "eight modules of `python3 -m test` on Linux", from: Some(b'T'), until: b'U', target: None },
    ],
};

/// Four loops of a shell on four vCPUs: what turns of different lengths cost.
pub const PARALLEL: Workload = Workload {
    name: "parallel",
    init: "#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
printf S >/dev/ttyS0
for job in 1 2 3 4; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done) & done
wait
printf E >/dev/ttyS0
poweroff -f
",
    packages: &[],
    ram: 256 << 20,
    vcpus: 4,
    spans: &[],
};

/// Lengths of a turn that [`quanta`] compares, in ticks.
const QUANTA: [(u64, Span); 5] = [
    (1_000, turns("smp-1000", "four shells on four vCPUs, turns of 1,000 ticks")),
    (3_000, turns("smp-3000", "the same, turns of 3,000 ticks")),
    (10_000, turns("smp-10000", "the same, turns of 10,000 ticks")),
    (30_000, turns("smp-30000", "the same, turns of 30,000 ticks")),
    (100_000, turns("smp-100000", "the same, turns of 100,000 ticks")),
];

const fn turns(name: &'static str, what: &'static str) -> Span {
    Span { name, what, from: Some(b'S'), until: b'E', target: None }
}

/// Names of the rows of [`quanta`].
pub fn quanta_names() -> impl Iterator<Item = &'static str> {
    QUANTA.iter().map(|(_, span)| span.name)
}

/// [`PARALLEL`] with turns of each length, beside one and the same QEMU.
///
/// # Errors
/// See [`BenchError`].
pub fn quanta(guest: &LinuxGuest, rounds: usize, with_qemu: bool, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, BenchError> {
    let (mut tcg, mut icount) = (Vec::new(), Vec::new());
    if with_qemu {
        for round in 0..rounds.max(1) {
            progress(&format!("{} on QEMU, round {}", PARALLEL.name, round + 1));
            tcg.push(qemu(&PARALLEL, guest, false)?);
            icount.push(qemu(&PARALLEL, guest, true)?);
        }
    }
    let mut rows = Vec::new();
    for (quantum, span) in QUANTA {
        progress(span.name);
        let ours = (0..rounds.max(1)).map(|_| simulate(&PARALLEL, guest, Some(quantum))).collect::<Result<Vec<_>, _>>()?;
        rows.push(row(&span, &ours, &tcg, &icount)?);
    }
    Ok(rows)
}

/// All of one vCPU.
pub const WORKLOADS: &[Workload] = &[SYSTEM, PROGRAMS];

/// Linux keeps its own words off COM1, where the marks go. It guards itself against some processors and not others (page-table isolation on QEMU's
/// Nehalem, not on ours): without that both machines run the same code.
const APPEND: &str = "console=ttyS1 quiet panic=-1 mitigations=off";
const TICKS_MAX: u64 = 60_000_000_000;

/// What lies between two marks.
#[derive(Clone, Copy, Debug)]
struct Span {
    name: &'static str,
    what: &'static str,
    /// Power-on, or a mark.
    from: Option<u8>,
    until: u8,
    /// Against `-icount` (design section 7).
    target: Option<f64>,
}

impl Workload {
    /// Names of its rows.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.spans.iter().map(|span| span.name)
    }
}

/// When each mark came: time since power-on, instructions since power-on where they are counted.
struct Marks {
    at: Vec<(u8, Duration, u64)>,
    peak_kib: u64,
}

impl Marks {
    fn between(&self, from: Option<u8>, until: u8) -> Result<(Duration, u64), BenchError> {
        let find = |mark: u8| {
            let found = self.at.iter().find(|(letter, ..)| *letter == mark).map(|(_, time, ticks)| (*time, *ticks));
            found.ok_or_else(|| BenchError::Guest { name: "linux".to_owned(), how: format!("without the mark {}", char::from(mark)) })
        };
        let (begin, first) = from.map_or(Ok((Duration::ZERO, 0)), find)?;
        let (end, last) = find(until)?;
        Ok((end.saturating_sub(begin), last - first))
    }
}

/// Boots and measures on each side.
///
/// # Errors
/// See [`BenchError`].
pub fn run(load: &Workload, guest: &LinuxGuest, rounds: usize, with_qemu: bool, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, BenchError> {
    let (mut ours, mut tcg, mut icount) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        progress(&format!("{}, round {}", load.name, round + 1));
        ours.push(simulate(load, guest, None)?);
        if with_qemu {
            tcg.push(qemu(load, guest, false)?);
            icount.push(qemu(load, guest, true)?);
        }
    }
    load.spans.iter().map(|span| row(span, &ours, &tcg, &icount)).collect()
}

/// One span on all sides.
fn row(span: &Span, ours: &[Marks], tcg: &[Marks], icount: &[Marks]) -> Result<Row, BenchError> {
    let &Span { name, what, from, until, target } = span;
    let sides = |all: &[Marks]| -> Result<Option<Side>, BenchError> {
        let mut sides = all.iter().map(|marks| Ok(Side { time: marks.between(from, until)?.0, peak_kib: marks.peak_kib })).collect::<Result<Vec<_>, _>>()?;
        Ok(median(&mut sides))
    };
    let instructions = ours.iter().map(|marks| marks.between(from, until).map(|(_, ticks)| ticks)).collect::<Result<Vec<_>, _>>()?;
    let first = instructions.first().copied().unwrap_or(0);
    if let Some(other) = instructions.iter().find(|count| **count != first) {
        return Err(BenchError::Guest { name: name.to_owned(), how: format!("{other} instructions, before that {first}") });
    }
    let ours = sides(ours)?.unwrap_or(Side { time: Duration::ZERO, peak_kib: 0 });
    Ok(Row { name, what, target, instructions: first, ours, tcg: sides(tcg)?, icount: sides(icount)? })
}

fn simulate(load: &Workload, guest: &LinuxGuest, quantum: Option<u64>) -> Result<Marks, BenchError> {
    reset_peak();
    let board = Board { ram: load.ram, vcpus: load.vcpus, ..Board::default() };
    let board = Board { quantum: quantum.map_or(board.quantum, |ticks| [ticks; 2]), ..board };
    let mut machine = Machine::new(&board, &Boot::new(&guest.kernel, Some(&guest.initrd), APPEND)).map_err(|error| BenchError::Machine(error.to_string()))?;
    let begun = Instant::now();
    let mut at = Vec::new();
    loop {
        let outcome = machine.run(&Until::ticks(TICKS_MAX).or_any_output(Port::Com1));
        for letter in machine.serial_take(Port::Com1) {
            if letter == b'!' {
                return Err(BenchError::Guest { name: load.name.to_owned(), how: "a program that failed".to_owned() });
            }
            at.push((letter, begun.elapsed(), machine.ticks()));
        }
        if outcome.is_final() || machine.ticks() >= TICKS_MAX || outcome == sim_board::Outcome::Stuck {
            return Ok(Marks { at, peak_kib: peak_kib() });
        }
    }
}

fn qemu(load: &Workload, guest: &LinuxGuest, icount: bool) -> Result<Marks, BenchError> {
    let fail = |error: std::io::Error| BenchError::Qemu(error.to_string());
    let mut command = Command::new("timeout");
    command.arg((QEMU_SECONDS_MAX * 3).to_string()).arg("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-accel", "tcg", "-cpu", "Nehalem", "-serial", "stdio"]);
    command.arg("-m").arg((load.ram >> 20).to_string()).arg("-smp").arg(load.vcpus.to_string());
    command.arg("-kernel").arg(&guest.kernel_path).arg("-initrd").arg(&guest.initrd_path).args(["-append", APPEND]);
    if icount {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(fail)?;
    let mut output = child.stdout.take().ok_or_else(|| BenchError::Qemu("no output pipe".to_owned()))?;
    let mut letter = [0_u8; 1];
    let mut marks = Marks { at: Vec::new(), peak_kib: 0 };
    while output.read(&mut letter).map_err(fail)? == 1 {
        if letter[0] == b'!' {
            return Err(BenchError::Guest { name: load.name.to_owned(), how: "a program that failed".to_owned() });
        }
        marks.at.push((letter[0], begun.elapsed(), 0));
        marks.peak_kib = child_peak(child.id()).max(marks.peak_kib);
    }
    child.wait().map_err(fail)?;
    Ok(marks)
}
