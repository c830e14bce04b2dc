//! Trial programs: guests that behave badly on purpose, and a few that behave well and measurably.
//!
//! # Theory
//! Each program tries one thing that no tenant may succeed with, counts how the kernel answered, prints one line a scenario can look for, and
//! exits with 0 if every answer was a refusal it can live with. What must *not* happen (the kernel dies, the neighbour suffers) is judged from
//! outside, by the scenario. The programs know nothing of our kernel: the addresses they try are those of any x86-64 kernel, and they
//! make raw calls by number, so that no library stands between them and the kernel.
//!
//! # Structures
//! One row per program in [`PROGRAMS`]; `memory.rs` and `calls.rs` are about the processor and the system calls, `greed.rs` takes all it can get,
//! `work.rs` behaves.
//!
//! # Failure
//! Every dangerous act happens in a child, so that the program survives to tell how the child ended.

mod calls;
mod child;
mod greed;
mod memory;
mod work;

/// A trial: name, what it does, and the function, which gets the other arguments.
type Program = (&'static str, &'static str, fn(&[String]) -> u8);

const PROGRAMS: &[Program] = &[
    ("kernel-jump", "jumps to kernel addresses", memory::jump),
    ("kernel-read", "reads kernel addresses", memory::read),
    ("kernel-write", "writes kernel addresses", memory::write),
    ("privileged", "executes privileged instructions", memory::privileged),
    ("bad-stack", "takes faults and makes calls with a stack pointer into the kernel", memory::bad_stack),
    ("bad-return", "returns from signals into the kernel's segments and to addresses that are none", memory::bad_return),
    ("bad-flags", "runs with the trap, nested-task and alignment flags set", memory::bad_flags),
    ("kernel-pointers", "passes kernel pointers to every system call", calls::pointers),
    ("random-calls", "makes COUNT system calls with random numbers and arguments from SEED", calls::random),
    ("broken-programs", "executes COUNT damaged ELF files from SEED", calls::broken_programs),
    ("fork-bomb", "forks without end (or `count`: until refused, then cleans up)", greed::fork_bomb),
    ("memory-hog", "takes memory until refused or killed", greed::memory),
    ("pipe-hog", "fills pipes until no more can be opened", greed::pipes),
    ("file-hog", "fills the root file system", greed::files),
    ("exec-hog", "executes programs with as many arguments as fit, from many processes at once", greed::execs),
    ("descriptor-hog", "forks and polls with the longest table of descriptors", greed::descriptors),
    ("inode-hog", "makes empty files until refused, and leaves them", greed::inodes),
    ("mapping-hog", "makes mappings of one page until refused", greed::mappings),
    ("close-console", "closes, steals and hangs up the console", greed::close_console),
    ("spin", "computes for ever, or for SECONDS", work::spin),
    ("count", "prints how many rounds it computed in SECONDS", work::count),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((_, _, program)) = arguments.first().and_then(|name| PROGRAMS.iter().find(|(known, _, _)| known == name)) else {
        eprintln!("usage: trial PROGRAM [ARGUMENT...]");
        for (name, what, _) in PROGRAMS {
            eprintln!("  {name:16} {what}");
        }
        std::process::exit(2);
    };
    std::process::exit(i32::from(program(&arguments[1..])));
}
