//! Batches: many cases on the chosen oracle, differences shrunk and printed.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use iced_x86::Code;

use crate::case::{Assembled, Case, End, Outcome, Ring, decode};
use crate::check::{comparable, differences, listing, start};
use crate::generate;
use crate::ours::Ours;
use crate::setting::Rights;
use crate::shrink::shrink;
use crate::uni::Uni;

/// Which judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    Host,
    Unicorn,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub judge: Judge,
    pub first_seed: u64,
    pub count: u64,
    /// Opcodes to draw from.
    pub codes: Vec<Code>,
    /// Differences to print before giving up.
    pub reports_max: usize,
    /// Our engine runs in slices of so many ticks (`u64::MAX`: uncut).
    pub slice: u64,
    /// The entry of [`crate::uni::KNOWN`] not to believe.
    pub without: Option<usize>,
    /// A deliberate fault in our side: what the canary test must find.
    pub planted: Option<fn(&mut Case)>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Cases that both sides ran and whose outcomes were held against each other; what the judge could not take, or could say nothing about,
    /// is not among them.
    pub compared: u64,
    /// Those of them in ring 3.
    pub users: u64,
    /// Those of them that ended in a fault, not at the INT3 after the sequence.
    pub faults: u64,
    /// Cases the judge could not take.
    pub skipped: u64,
    pub reports: Vec<String>,
    /// Distinct first lines of differences by mnemonic.
    pub by_mnemonic: BTreeMap<String, u64>,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
type HostRunner = crate::native::Native;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
type HostRunner = std::convert::Infallible;

struct Runners {
    ours: Ours,
    host: Option<HostRunner>,
    unicorn: Option<Uni>,
    planted: Option<fn(&mut Case)>,
    /// What `--judge` says of it.
    name: &'static str,
}

impl Runners {
    fn new(plan: &Plan) -> Result<Runners, String> {
        let mut ours = Ours::new();
        ours.slice = plan.slice;
        let name = match plan.judge {
            Judge::Host if plan.codes.iter().any(|code| crate::vex::is_simd(*code)) => "vex",
            Judge::Host => "host",
            Judge::Unicorn => "unicorn",
        };
        if plan.judge == Judge::Host && crate::vex::host_has() {
            ours.use_v3();
        }
        let mut out = Runners { ours, host: None, unicorn: None, planted: plan.planted, name };
        match plan.judge {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Judge::Host => out.host = Some(HostRunner::new()?),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            Judge::Host => return Err("this host is no x86-64 Linux".to_string()),
            Judge::Unicorn => {
                let mut unicorn = Uni::new(&out.ours)?;
                unicorn.without = plan.without;
                out.unicorn = Some(unicorn);
            },
        }
        Ok(out)
    }

    /// Runs a case on both; `None` if it cannot be encoded.
    fn both(&mut self, case: &Case) -> Result<Option<(Assembled, Outcome, Outcome)>, String> {
        let Some(code) = case.assemble() else { return Ok(None) };
        let memory = case.memory();
        let ours = match self.planted {
            None => self.ours.run(case, &code.bytes, &memory),
            Some(plant) => {
                let mut wrong = case.clone();
                plant(&mut wrong);
                let bytes = wrong.assemble().filter(|other| other.offsets == code.offsets).map_or_else(|| code.bytes.clone(), |other| other.bytes);
                self.ours.run(case, &bytes, &memory)
            }
        };
        let unknown = Outcome { end: End::Unknown, ..ours.clone() };
        let expected = if let Some(unicorn) = &mut self.unicorn {
            unicorn.run(case, &code.bytes, &memory)?
        } else if runs_wild(&ours) {
            unknown
        } else {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            let outcome = self.host.as_mut().map(|host| host.run(case, &code.bytes, &memory));
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            let outcome = None;
            outcome.unwrap_or(unknown)
        };
        Ok(Some((code, ours, expected)))
    }

    fn fails(&mut self, case: &Case) -> Option<Vec<String>> {
        let (code, mut ours, expected) = self.both(case).ok()??;
        if self.unicorn.is_some() {
            mask_unicorn(case, &code, &mut ours, &expected);
        }
        let lines = differences(case, &code, &ours, &expected);
        (!lines.is_empty()).then_some(lines)
    }
}

/// Our engine says that the case reaches addresses where the host process may have memory of its own, or never ends.
fn runs_wild(ours: &Outcome) -> bool {
    match ours.end {
        End::Fault { vector: 14, address, .. } => (0x4000_0000..0x8000_0000_0000).contains(&address),
        End::Fault { .. } => false,
        End::Runaway | End::Unknown => true,
    }
}

/// What unicorn cannot tell is taken from it. Each line has its reason; all were judged against the host or the manual.
fn mask_unicorn(case: &Case, code: &Assembled, ours: &mut Outcome, expected: &Outcome) {
    // QEMU 5 keeps only some MXCSR flags; the x87 is the host's to judge.
    ours.mxcsr = expected.mxcsr;
    ours.x87 = expected.x87;
    // Nor does it know AVX.
    ours.upper = expected.upper;
    // Of two NaNs QEMU 5 takes the one with the larger significand (SDM vol. 1 table 4-7: the first operand, as the host does).
    let chosen = ours.xmm.iter().zip(&expected.xmm).any(|(ours, theirs)| {
        let wide = (0..2).any(|n| nan_64((ours >> (64 * n)) as u64, (theirs >> (64 * n)) as u64));
        wide || (0..4).any(|n| nan_32((ours >> (32 * n)) as u32, (theirs >> (32 * n)) as u32))
    });
    if chosen && case.insns.iter().any(crate::uni::computes) {
        ours.end = End::Unknown;
        return;
    }
    for ((name, value), (_, theirs)) in ours.system.iter_mut().zip(&expected.system) {
        let unjudged = match *name {
            // Reserved bits stay clear whatever is written (APM vol. 2 §3.1.1); QEMU 5 keeps them.
            "cr0" => !0xe005_003f,
            // Bit 12 is always clear, bits 31:16 and 11:4 always set (APM vol. 2 §13.1.1.4, SDM vol. 3 §17.2.3); QEMU 5 keeps what was written.
            "dr6" => !0xe00f,
            // Bits 15:14 and 12:11 are always clear, bit 10 always set (SDM vol. 3 figure 17-1); QEMU 5 keeps what was written.
            "dr7" => 0xdc00,
            // Bits 63:32 are not there (APM vol. 2 §6.1.1).
            "sfmask" => !0xffff_ffff,
            // An instruction that faults may have walked for a part of its access (SDM vol. 3 §4.8, APM vol. 2 §5.4.2: A and D may be set
            // speculatively): read before write in QEMU, both pages before the write here.
            "page 0" | "page 1" | "page 2" | "stack page" if !matches!(expected.end, End::Fault { vector: 3, .. }) => Rights::ACCESSED | Rights::DIRTY,
            _ => 0,
        };
        *value = *value & !unjudged | theirs & unjudged;
    }
    match (ours.end, expected.end) {
        // Error codes are not reported, and flags computed before the fault are not written back.
        (End::Fault { vector, .. }, End::Fault { vector: theirs, .. }) if matches!(vector, 12 | 13 | 17) && vector == theirs && ours.rip == expected.rip => {
            ours.end = expected.end;
            ours.rflags = expected.rflags;
        }
        // TCG checks neither the alignment of SSE operands nor canonical addresses the way hardware does, nor what is reserved in a system
        // register; of the rest it can judge.
        (End::Fault { vector: 12 | 13, .. }, _) if crate::check::stopped_at_a_value(case, code, ours) => ours.end = End::Unknown,
        // CR0.EM goes before CR0.TS for SSE (SDM vol. 3 table 13-1); QEMU 5 looks at TS first.
        (End::Fault { vector: 6, .. }, End::Fault { vector: 7, .. }) if ours.system.first().is_some_and(|(_, cr0)| cr0 & 0xc == 0xc) => ours.end = End::Unknown,
        // TCG has no alignment check at all (APM vol. 2 §8.2.16): the host judges it.
        (End::Fault { vector: 17, .. }, _) => ours.end = End::Unknown,
        (End::Fault { vector: 14, address, .. }, End::Fault { vector: 14, address: theirs, .. }) => {
            // Of an access to two pages either may be named; flags computed before the fault are not written back; of an access that crosses
            // into the absent page the first part is done.
            if address.abs_diff(theirs) < 16 {
                ours.end = expected.end;
                if let (Some(cr2), Some(theirs)) = (ours.system.get_mut(1), expected.system.get(1)) {
                    cr2.1 = theirs.1;
                }
            }
            ours.rflags = expected.rflags;
            ours.memory.clone_from(&expected.memory);
            ours.xmm = expected.xmm;
        }
        // Error codes are not reported.
        (End::Fault { vector, .. }, End::Fault { vector: theirs, .. }) if vector == theirs => ours.end = expected.end,
        _ => {}
    }
}

/// Whether two numbers are different NaNs.
fn nan_64(a: u64, b: u64) -> bool {
    a != b && f64::from_bits(a).is_nan() && f64::from_bits(b).is_nan()
}

/// The same for single precision.
fn nan_32(a: u32, b: u32) -> bool {
    a != b && f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan()
}

/// Runs a plan in this process.
///
/// # Errors
/// A runner cannot be set up.
pub fn run(plan: &Plan, mut progress: impl FnMut(u64)) -> Result<Verdict, String> {
    let ring = if plan.judge == Judge::Host { Ring::User } else { Ring::Kernel };
    let mut runners = Runners::new(plan)?;
    let mut verdict = Verdict::default();
    let reduced: Vec<Code> = plan.codes.iter().copied().filter(|code| !crate::uni::unsupported(*code)).collect();
    let codes = if plan.judge == Judge::Unicorn { &reduced } else { &plan.codes };
    for seed in plan.first_seed..plan.first_seed.saturating_add(plan.count) {
        progress(seed);
        let mut case = generate::case(seed, ring, codes);
        crate::privileged::enrich(&mut case, plan.judge);
        if plan.judge == Judge::Unicorn {
            // TCG never raises a SIMD exception, knows no DAZ, and flushes by rules of its own.
            case.start.mxcsr = case.start.mxcsr & !0x8040 | 0x1f80;
        }
        let Some((code, mut ours, expected)) = runners.both(&case)? else { continue };
        if plan.judge == Judge::Unicorn {
            mask_unicorn(&case, &code, &mut ours, &expected);
        }
        if !comparable(&case, &code, &ours, &expected) {
            verdict.skipped += 1;
            continue;
        }
        verdict.compared += 1;
        verdict.users += u64::from(case.ring == Ring::User);
        verdict.faults += u64::from(!matches!(ours.end, End::Fault { vector: 3, .. }));
        if differences(&case, &code, &ours, &expected).is_empty() {
            continue;
        }
        let small = shrink(&case, |candidate| runners.fails(candidate).is_some());
        let names: Vec<String> = small.insns.iter().map(|insn| format!("{:?}", insn.code())).collect();
        let count = verdict.by_mnemonic.entry(names.join(" ")).or_default();
        *count += 1;
        if *count == 1 {
            verdict.reports.push(report(&mut runners, &small));
        }
        if verdict.reports.len() >= plan.reports_max {
            break;
        }
    }
    Ok(verdict)
}

fn report(runners: &mut Runners, case: &Case) -> String {
    let lines = runners.fails(case).unwrap_or_default();
    let code = case.assemble().unwrap_or(Assembled { bytes: Vec::new(), offsets: Vec::new() });
    let judge_name = runners.name;
    format!(
        "seed {} against {judge_name}; repeat: cargo run --release -p sim-cpu-oracle -- --judge {judge_name} --seed {} --count 1\n{}{}  differences (ours, should be):\n{}\n",
        case.seed,
        case.seed,
        listing(case, &code),
        start(case),
        lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    )
}

/// Runs a plan in a forked child, so that a host case that goes wild is found and named instead of ending the test. Only for processes with
/// one thread.
///
/// # Errors
/// The fork or the runner failed.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn run_isolated(plan: &Plan) -> Result<Verdict, String> {
    if plan.judge == Judge::Host {
        return run_in_children(plan);
    }
    // Unicorn dies by itself now and then (an assertion or a wild pointer in its translator): short batches, and what died is skipped.
    let mut total = Verdict::default();
    let end = plan.first_seed.saturating_add(plan.count);
    let mut seed = plan.first_seed;
    while seed < end && total.reports.len() < plan.reports_max {
        let count = (end - seed).min(UNICORN_BATCH);
        let part = run_in_children(&Plan { first_seed: seed, count, ..plan.clone() })?;
        if part.compared + part.skipped == 0 {
            // It died.
            total.skipped += count;
        } else {
            total.compared += part.compared;
            total.users += part.users;
            total.faults += part.faults;
            total.skipped += part.skipped;
            total.reports.extend(part.reports);
            for (name, count) in part.by_mnemonic {
                *total.by_mnemonic.entry(name).or_default() += count;
            }
        }
        seed += count;
    }
    Ok(total)
}

/// Cases for one instance of unicorn.
const UNICORN_BATCH: u64 = 1000;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn run_in_children(plan: &Plan) -> Result<Verdict, String> {
    let mut total = Verdict::default();
    let mut plan = plan.clone();
    let end = plan.first_seed.saturating_add(plan.count);
    // A bound on crashes: after a few the pattern is clear.
    for _ in 0..8 {
        let mut pipe = [0; 2];
        // SAFETY: `pipe` has room for the two descriptors.
        if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
            return Err("pipe failed".to_string());
        }
        // SAFETY: the process has one thread (see the doc), so the child's copy of every lock is free.
        let child = unsafe { libc::fork() };
        if child < 0 {
            return Err("fork failed".to_string());
        }
        let (mut reader, mut writer) = descriptors(pipe);
        if child == 0 {
            drop(reader);
            let mut last = u64::MAX;
            let mut note = writer.try_clone().expect("the pipe's descriptor can be copied");
            let result = run(&plan, |seed| {
                // A crash loses at most this seed's name; the parent reads the last line.
                if seed != last {
                    last = seed;
                    if seed % 64 == 0 {
                        // The parent notices a broken pipe itself.
                        drop(writeln!(note, "@{seed}"));
                    }
                }
            });
            let text = match result {
                Ok(verdict) => encode(&verdict),
                Err(error) => format!("!{error}\n"),
            };
            // The parent notices a broken pipe itself.
            drop(writer.write_all(text.as_bytes()));
            // SAFETY: leaves at once, without running the parent's destructors.
            unsafe { libc::_exit(0) };
        }
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).map_err(|error| format!("reading from the child: {error}"))?;
        let mut status = 0;
        // SAFETY: `child` is our child, `status` a live place.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        if let Some(error) = text.lines().find_map(|line| line.strip_prefix('!')) {
            return Err(error.to_string());
        }
        let last = text.lines().filter_map(|line| line.strip_prefix('@')?.parse::<u64>().ok()).max().unwrap_or(plan.first_seed);
        if let Some(at) = text.find("#verdict\n") {
            merge(&mut total, &text[at + 9..]);
            return Ok(total);
        }
        if plan.judge == Judge::Unicorn {
            return Ok(Verdict::default());
        }
        total.reports.push(format!("a case of seeds {last} to {} ended the child (status {status:#x}): our engine kept it in the arena, the host did not\n", last + 63));
        plan.first_seed = last + 64;
        if plan.first_seed >= end {
            break;
        }
        plan.count = end - plan.first_seed;
    }
    Ok(total)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn descriptors(pipe: [libc::c_int; 2]) -> (std::fs::File, std::fs::File) {
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor is fresh from pipe() and owned by nothing else.
    let reader = unsafe { std::fs::File::from_raw_fd(pipe[0]) };
    // SAFETY: as above.
    let writer = unsafe { std::fs::File::from_raw_fd(pipe[1]) };
    (reader, writer)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn encode(verdict: &Verdict) -> String {
    let mut out = format!("#verdict\n{} {} {} {}\n", verdict.compared, verdict.users, verdict.faults, verdict.skipped);
    for (name, count) in &verdict.by_mnemonic {
        out.push_str(&format!("={count} {name}\n"));
    }
    for report in &verdict.reports {
        out.push_str("#report\n");
        out.push_str(report);
    }
    out
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn merge(total: &mut Verdict, text: &str) {
    let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut numbers = head.split(' ').filter_map(|n| n.parse::<u64>().ok());
    for field in [&mut total.compared, &mut total.users, &mut total.faults, &mut total.skipped] {
        *field += numbers.next().unwrap_or(0);
    }
    let mut parts = rest.split("#report\n");
    for line in parts.next().unwrap_or("").lines() {
        if let Some((count, name)) = line.strip_prefix('=').and_then(|line| line.split_once(' ')) {
            *total.by_mnemonic.entry(name.to_string()).or_default() += count.parse::<u64>().unwrap_or(1);
        }
    }
    total.reports.extend(parts.map(str::to_string));
}

/// A reproducer given as bytes: runs them from the start state of `seed`.
///
/// # Errors
/// A runner cannot be set up.
pub fn run_bytes(judge: Judge, seed: u64, bytes: &[u8]) -> Result<String, String> {
    let plan = Plan { judge, first_seed: seed, count: 1, codes: Vec::new(), reports_max: 1, slice: u64::MAX, without: None, planted: None };
    let mut runners = Runners::new(&plan)?;
    let ring = if judge == Judge::Host { Ring::User } else { Ring::Kernel };
    let mut case = generate::case(seed, ring, &generate::CODES);
    case.insns = decode(bytes);
    case.origin = crate::layout::CODE;
    Ok(match runners.fails(&case) {
        Some(_) => report(&mut runners, &case),
        None => "no difference\n".to_string(),
    })
}
