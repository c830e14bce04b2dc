//! A stranger's kernel as a benchmark: how long Debian's Linux takes to boot, and how fast programs are on it.
//!
//! One boot ([`SYSTEM`]) gives the costs of the system: the init script marks the end of the boot with `B` on COM1, and the measuring program marks the
//! beginning and end of each of its loops. Linux itself is silent there. Another ([`PROGRAMS`]) runs openssl and Python's own tests, a third ([`PARALLEL`])
//! keeps four vCPUs busy with turns of different lengths ([`quanta_jobs`]). All sides see a processor
//! with the same features: a program that finds better instructions on one of them would do other work there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sim_board::{Board, Boot, Machine, Port, Until};

use crate::BenchError;
use crate::plan::{Job, Line, On, Span, Taken, fingerprint, own_cpu};
use crate::speed::{Marked, peak_kib, reset_peak};

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
    /// Seconds on an idle host, about: ours, TCG, `-icount`.
    seconds: [f32; 3],
    spans: &'static [Marks],
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
    seconds: [8.0, 10.0, 16.0],
    spans: &[
        Marks { name: "linux-boot", what: "Debian's Linux from power-on to its first program", from: None, until: b'B', target: Some(1.0 / 3.0) },
        Marks { name: "linux-call", what: "null system calls of a Linux program", from: Some(b'S'), until: b'E', target: None },
        Marks { name: "linux-fault", what: "anonymous page faults of a Linux program", from: Some(b'P'), until: b'F', target: None },
        Marks { name: "linux-switch", what: "a byte to and fro between two Linux processes", from: Some(b'C'), until: b'D', target: None },
        Marks { name: "linux-fork", what: "fork, exit and wait of a Linux program", from: Some(b'X'), until: b'Y', target: None },
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
cd /tmp && python3.11 -m test test_dict test_list test_generators test_richcmp test_slice >/tmp/log 2>&1 || printf ! >/dev/ttyS0
printf U >/dev/ttyS0
poweroff -f
",
    packages: &["openssl", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libpython3.11-testsuite"],
    ram: 512 << 20,
    vcpus: 1,
    seconds: [15.0, 25.0, 40.0],
    spans: &[
        Marks { name: "openssl", what: "sums, ciphers and keys of openssl on Linux", from: Some(b'O'), until: b'Q', target: None },
        Marks { name: "python-test", what: "five modules of `python3 -m test` on Linux", from: Some(b'T'), until: b'U', target: None },
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
    seconds: [8.0, 8.0, 16.0],
    spans: &[],
};

/// Lengths of a turn that [`quanta`] compares, in ticks.
const QUANTA: [(u64, Marks); 5] = [
    (1_000, turns("smp-1000", "four shells on four vCPUs, turns of 1,000 ticks")),
    (3_000, turns("smp-3000", "the same, turns of 3,000 ticks")),
    (10_000, turns("smp-10000", "the same, turns of 10,000 ticks")),
    (30_000, turns("smp-30000", "the same, turns of 30,000 ticks")),
    (100_000, turns("smp-100000", "the same, turns of 100,000 ticks")),
];

const fn turns(name: &'static str, what: &'static str) -> Marks {
    Marks { name, what, from: Some(b'S'), until: b'E', target: None }
}

/// Rows of [`PARALLEL`].
pub fn quanta_lines() -> Vec<Line> {
    QUANTA.iter().map(|(_, marks)| Line { theirs: (PARALLEL.name, PARALLEL.name), ..marks.line(marks.name) }).collect()
}

/// [`PARALLEL`] with turns of each length, beside one and the same QEMU.
pub fn quanta_jobs(guest: &LinuxGuest) -> Vec<Job<'_>> {
    const WHOLE: [Marks; 1] = [turns(PARALLEL.name, "")];
    let [ours, tcg, _] = PARALLEL.seconds.map(Some);
    // Four vCPUs under `-icount` take turns so short that QEMU does not come to the end in minutes.
    let beside = Job { seconds: [None, tcg, None], ..job(&PARALLEL, &WHOLE, guest, None) };
    let turns = QUANTA.iter().map(|(quantum, marks)| Job { name: marks.name, seconds: [ours, None, None], ..job(&PARALLEL, std::slice::from_ref(marks), guest, Some(*quantum)) });
    std::iter::once(beside).chain(turns).collect()
}

/// All of one vCPU.
pub const WORKLOADS: &[Workload] = &[SYSTEM, PROGRAMS];

/// Linux keeps its own words off COM1, where the marks go. It guards itself against some processors and not others (page-table isolation on QEMU's
/// Nehalem, not on ours): without that both machines run the same code.
const APPEND: &str = "console=ttyS1 quiet panic=-1 mitigations=off";
const TICKS_MAX: u64 = 60_000_000_000;

/// What lies between two marks.
#[derive(Clone, Copy, Debug)]
struct Marks {
    name: &'static str,
    what: &'static str,
    /// Power-on, or a mark.
    from: Option<u8>,
    until: u8,
    /// Against `-icount` (design section 7).
    target: Option<f64>,
}

impl Marks {
    fn line(&self, job: &'static str) -> Line {
        Line { name: self.name, what: self.what, target: self.target, ours: (job, self.name), theirs: (job, self.name) }
    }
}

impl Workload {
    /// Its rows.
    pub fn lines(&self) -> Vec<Line> {
        self.spans.iter().map(|marks| marks.line(self.name)).collect()
    }
}

/// A workload of one vCPU as a job.
pub fn workload<'a>(load: &'a Workload, guest: &'a LinuxGuest) -> Job<'a> {
    job(load, load.spans, guest, None)
}

fn job<'a>(load: &'a Workload, spans: &'a [Marks], guest: &'a LinuxGuest, quantum: Option<u64>) -> Job<'a> {
    let fingerprint = fingerprint(&[&guest.kernel, &guest.initrd, APPEND.as_bytes(), &quantum.unwrap_or(0).to_le_bytes()]);
    let run = move |on: On| {
        let at = match on {
            On::Ours => simulate(load, guest, quantum)?,
            On::Tcg => qemu(load, guest, false)?,
            On::Icount => qemu(load, guest, true)?,
        };
        at.taken(spans)
    };
    Job { name: load.name, fingerprint, seconds: load.seconds.map(Some), times: 1, run: Box::new(run) }
}

/// A mark: time since power-on, on the clock and of processors, and instructions where they are counted.
struct Mark {
    letter: u8,
    time: Duration,
    cpu: Duration,
    ticks: u64,
}

/// When each mark came.
struct Seen {
    at: Vec<Mark>,
    peak_kib: u64,
}

impl Seen {
    fn taken(&self, spans: &[Marks]) -> Result<Taken, BenchError> {
        let find = |letter: u8| {
            let found = self.at.iter().find(|mark| mark.letter == letter);
            found.ok_or_else(|| BenchError::Guest { name: "linux".to_owned(), how: format!("its time being over, without the mark {}", char::from(letter)) })
        };
        let power_on = Mark { letter: 0, time: Duration::ZERO, cpu: Duration::ZERO, ticks: 0 };
        let span = |marks: &Marks| -> Result<Span, BenchError> {
            let (begin, end) = (marks.from.map_or(Ok(&power_on), find)?, find(marks.until)?);
            Ok(Span { name: marks.name.to_owned(), time: end.time.saturating_sub(begin.time), cpu: end.cpu.saturating_sub(begin.cpu), ticks: end.ticks - begin.ticks })
        };
        Ok(Taken { spans: spans.iter().map(span).collect::<Result<_, _>>()?, peak_kib: self.peak_kib })
    }
}

fn failed(load: &Workload) -> BenchError {
    BenchError::Guest { name: load.name.to_owned(), how: "a program that failed".to_owned() }
}

fn simulate(load: &Workload, guest: &LinuxGuest, quantum: Option<u64>) -> Result<Seen, BenchError> {
    reset_peak();
    let board = Board { ram: load.ram, vcpus: load.vcpus, ..Board::default() };
    let board = Board { quantum: quantum.map_or(board.quantum, |ticks| [ticks; 2]), ..board };
    let (begun, cpu) = (Instant::now(), own_cpu());
    let mut machine = Machine::new(&board, &Boot::new(&guest.kernel, Some(&guest.initrd), APPEND)).map_err(|error| BenchError::Machine(error.to_string()))?;
    let mut at = Vec::new();
    loop {
        let outcome = machine.run(&Until::ticks(TICKS_MAX).or_any_output(Port::Com1));
        for letter in machine.serial_take(Port::Com1) {
            if letter == b'!' {
                return Err(failed(load));
            }
            at.push(Mark { letter, time: begun.elapsed(), cpu: own_cpu().saturating_sub(cpu), ticks: machine.ticks() });
        }
        if outcome.is_final() || machine.ticks() >= TICKS_MAX || outcome == sim_board::Outcome::Stuck {
            return Ok(Seen { at, peak_kib: peak_kib() });
        }
    }
}

/// Well above the slowest, on a host that has other work, too.
const QEMU_SECONDS_MAX: u64 = 900;

fn qemu(load: &Workload, guest: &LinuxGuest, icount: bool) -> Result<Seen, BenchError> {
    let text = |path: &PathBuf| path.to_str().map(str::to_owned).ok_or_else(|| BenchError::Qemu("the path of the checkout is no UTF-8".to_owned()));
    let (kernel, initrd) = (text(&guest.kernel_path)?, text(&guest.initrd_path)?);
    let (memory, vcpus) = ((load.ram >> 20).to_string(), load.vcpus.to_string());
    let arguments = ["-cpu", "Nehalem", "-m", &memory, "-smp", &vcpus, "-kernel", &kernel, "-initrd", &initrd, "-append", APPEND];
    let mut machine = Marked::start(QEMU_SECONDS_MAX, &arguments, icount)?;
    let mut seen = Seen { at: Vec::new(), peak_kib: 0 };
    while let Some(mark) = machine.next()? {
        if mark.letter == b'!' {
            return Err(failed(load));
        }
        seen.at.push(Mark { letter: mark.letter, time: mark.time, cpu: mark.cpu.unwrap_or(mark.time), ticks: 0 });
        seen.peak_kib = seen.peak_kib.max(mark.peak_kib);
    }
    Ok(seen)
}
