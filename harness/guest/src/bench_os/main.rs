//! What the OS costs, measured from inside with the time-stamp counter.
//!
//! # Theory
//! On the simulator's default board the TSC advances by one per tick, so differences are exact instruction counts; elsewhere they are cycles. Each
//! measurement repeats an operation, subtracts the cost of the empty loop, and takes the smallest of a few batches: interrupts only add.
//!
//! # Structures
//! One line each on standard output, `bench_os NAME TICKS`, and `bench_os done` at the end; `harness/bench` reads them. A measurement that cannot be made
//! prints `bench_os NAME - REASON`. `bench_os --marks DEVICE` is for whoever measures from outside: it writes a letter to DEVICE before and after each loop.
//! `bench_os --pool` does the same for the pool (module `pool`), with marks on the console; `--openzfs` for OpenZFS on Linux.

mod pool;

use std::arch::asm;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// Batches of which the smallest counts.
const BATCHES: usize = 5;

fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC touches nothing but its two result registers.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// getppid(2), without a library in between.
fn null_call() {
    // SAFETY: getppid has no arguments and touches no memory; the call clobbers RCX and R11 (psABI A.2.1).
    unsafe {
        asm!("syscall", inlateout("rax") 110u64 => _, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
}

/// Ticks of one `operation`, the loop around it taken off.
fn measure(count: u64, mut operation: impl FnMut()) -> u64 {
    let empty = batch(count, || std::hint::black_box(()));
    let best = (0..BATCHES).map(|_| batch(count, &mut operation)).min().unwrap_or(0);
    best.saturating_sub(empty) / count
}

fn batch(count: u64, mut operation: impl FnMut()) -> u64 {
    let start = tsc();
    for _ in 0..count {
        operation();
    }
    tsc() - start
}

fn report(name: &str, result: Result<u64, String>) {
    match result {
        Ok(ticks) => println!("bench_os {name} {ticks}"),
        Err(why) => println!("bench_os {name} - {why}"),
    }
}

fn last_error() -> String {
    std::io::Error::last_os_error().to_string()
}

/// A byte there and a byte back between two processes: two context switches.
fn pipe_round_trip() -> Result<u64, String> {
    let (mut from_child, mut to_parent) = std::io::pipe().map_err(|error| error.to_string())?;
    let (mut from_parent, mut to_child) = std::io::pipe().map_err(|error| error.to_string())?;
    // SAFETY: this program has one thread, so the child may go on as an ordinary process.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(last_error());
    }
    let mut byte = [0u8];
    if pid == 0 {
        drop(to_child);
        drop(from_child);
        while matches!(from_parent.read(&mut byte), Ok(1)) && to_parent.write_all(&byte).is_ok() {}
        // SAFETY: _exit touches no memory of ours.
        unsafe { libc::_exit(0) };
    }
    drop(from_parent);
    drop(to_parent);
    let mut broken = None;
    let ticks = measure(200, || {
        let trip = to_child.write_all(&byte).and_then(|()| from_child.read_exact(&mut byte));
        if let Err(error) = trip {
            broken = Some(error.to_string());
        }
    });
    drop(to_child);
    wait(pid);
    broken.map_or(Ok(ticks), Err)
}

fn wait(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: `status` is a live place; a child that is gone already is reported as an error, which changes nothing here.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
}

fn fork_exit_wait() -> Result<u64, String> {
    let mut failed = None;
    let ticks = measure(20, || {
        // SAFETY: this program has one thread, so the child may go on as an ordinary process.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => failed = Some(last_error()),
            // SAFETY: _exit touches no memory of ours.
            0 => unsafe { libc::_exit(0) },
            pid => wait(pid),
        }
    });
    failed.map_or(Ok(ticks), Err)
}

/// First touch of an anonymous page.
fn page_fault() -> Result<u64, String> {
    const PAGES: usize = 256;
    let mut best = u64::MAX;
    for _ in 0..BATCHES {
        // SAFETY: a fresh anonymous mapping replaces nothing.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGES * 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(last_error());
        }
        let start = tsc();
        for page in 0..PAGES {
            // SAFETY: the byte is inside the mapping made above, which nothing else refers to.
            unsafe { at.cast::<u8>().wrapping_add(page * 4096).write_volatile(1) };
        }
        best = best.min(tsc() - start);
        // SAFETY: unmaps exactly what was mapped; nothing refers to it any more.
        unsafe { libc::munmap(at, PAGES * 4096) };
    }
    Ok(best / PAGES as u64)
}

/// A small static program: fork, exec, exit, wait.
fn spawn_true() -> Result<u64, String> {
    command_ticks("/bin/true", &[])
}

fn command_ticks(program: &str, arguments: &[&str]) -> Result<u64, String> {
    let start = tsc();
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let ticks = tsc() - start;
    match status {
        Ok(status) if status.success() => Ok(ticks),
        Ok(status) => Err(format!("{program} {}: {status}", arguments.join(" "))),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// `zoneadm boot` of an installed zone, the command included.
fn zone_boot() -> Result<u64, String> {
    const NAME: &str = "benchzone";
    command_ticks("/usr/sbin/zonecfg", &["-z", NAME, "create; set zonepath=/zones/benchzone; set tree=/export/trees/busybox"])?;
    command_ticks("/usr/sbin/zoneadm", &["-z", NAME, "install"])?;
    let ticks = command_ticks("/usr/sbin/zoneadm", &["-z", NAME, "boot"])?;
    // Tidying up is not measured; a failure shows in the next run.
    drop(command_ticks("/usr/sbin/zoneadm", &["-z", NAME, "halt"]));
    Ok(ticks)
}

/// Memory in use, from /proc/meminfo.
fn memory_kib() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .ok_or_else(|| format!("/proc/meminfo has no {name}"))
    };
    Ok(field("MemTotal:")?.saturating_sub(field("MemFree:")?))
}

/// The loops that are timed from outside, each between two letters on `device`.
fn marks(device: &str) -> Result<(), String> {
    let mut line = std::fs::OpenOptions::new().write(true).open(device).map_err(|error| format!("{device}: {error}"))?;
    let mut mark = |letter: &[u8; 1]| line.write_all(letter).and_then(|()| line.flush()).map_err(|error| error.to_string());
    mark(b"S")?;
    for _ in 0..400_000 {
        null_call();
    }
    mark(b"E")?;
    mark(b"P")?;
    for _ in 0..30 {
        page_fault()?;
    }
    mark(b"F")?;
    mark(b"C")?;
    for _ in 0..12 {
        pipe_round_trip()?;
    }
    mark(b"D")?;
    mark(b"X")?;
    for _ in 0..3 {
        fork_exit_wait()?;
    }
    mark(b"Y")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [option, device] = arguments.as_slice()
        && option == "--marks"
    {
        if let Err(why) = marks(device) {
            eprintln!("bench_os: {why}");
            std::process::exit(1);
        }
        return;
    }
    if let [option] = arguments.as_slice()
        && matches!(option.as_str(), "--pool" | "--openzfs")
    {
        if let Err(why) = pool::run(pool::System { openzfs: option == "--openzfs" }) {
            println!("@F {why}");
        }
        println!("bench_os done");
        return;
    }
    report("memory_kib", memory_kib());
    report("null_call", Ok(measure(1000, null_call)));
    report("page_fault", page_fault());
    report("pipe_round_trip", pipe_round_trip());
    report("fork_exit_wait", fork_exit_wait());
    report("spawn_true", spawn_true());
    report("zone_boot", zone_boot());
    println!("bench_os done");
}
