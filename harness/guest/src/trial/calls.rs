//! System calls with arguments no kernel should believe.

use crate::child::{self, End};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

/// One past the last call number tried; the Linux table ends below.
const LAST_CALL: u64 = 470;
/// Calls that rightly do not come back, wait for ever, or take this program's children or outputs away whatever their arguments.
const LEFT_OUT: &[u64] = &[
    15,  // rt_sigreturn: bad-return is about it
    34,  // pause
    56,  // clone, fork, vfork, clone3: their pointers are tried by the calls after a fork
    57, 58, 435, 60,  // exit
    231, // exit_group
    62,  // kill, tkill, tgkill: -1 would mean everybody
    200, 234, 169, // reboot
];
const POINTERS: &[u64] = &[0xffff_8000_0010_0000, 0xffff_ffff_8020_0000, 0x0000_8000_0000_0000, 0x0000_7fff_ffff_fff8];

/// Every call, with kernel pointers in all arguments; after a descriptor; after a small number. Runs in children that report how far they came.
pub fn pointers(_: &[String]) -> u8 {
    let mut calls = 0;
    let mut died = 0;
    for &pointer in POINTERS {
        for shape in 0..3 {
            let mut next = 0;
            while next < LAST_CALL {
                let (end, reached) = run_calls(next, LAST_CALL, |number| arguments(shape, number, pointer));
                calls += reached.saturating_sub(next);
                next = reached.max(next) + 1;
                match end {
                    End::Exit(0) => break,
                    End::Refused => {
                        println!("kernel-pointers: no child could be made");
                        return 1;
                    }
                    // A call may end its caller for a bad pointer; that is an answer, too.
                    End::Signal(_) | End::Stuck | End::Exit(_) => died += 1,
                }
            }
        }
    }
    println!("kernel-pointers: every call was answered");
    eprintln!("{calls} calls made, {died} children ended early");
    0
}

fn arguments(shape: u32, number: u64, pointer: u64) -> [u64; 6] {
    match shape {
        0 => [pointer; 6],
        // Descriptor 3 is /dev/zero, opened anew before each call.
        1 => [3, pointer, 64, pointer, pointer, pointer],
        _ => [number % 4, pointer + 8, pointer, 8, pointer, 8],
    }
}

/// Makes the calls `first..limit` in a child until it dies; says how it ended and at which call.
fn run_calls(first: u64, limit: u64, arguments: impl Fn(u64) -> [u64; 6]) -> (End, u64) {
    let mut ends = [0; 2];
    // SAFETY: `ends` holds the two descriptors the call writes.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return (End::Refused, first);
    }
    let [from_child, to_parent] = ends;
    let end = child::run(|| {
        // SAFETY: dup2 touches no memory. The report goes to a high number that the calls below do not guess.
        unsafe { libc::dup2(to_parent, 100) };
        for number in (first..limit).filter(|number| !LEFT_OUT.contains(number)) {
            let zero = c"/dev/zero";
            // SAFETY: opens and moves a descriptor; the path is a C string that lives on.
            let opened = unsafe { libc::open(zero.as_ptr(), libc::O_RDWR) };
            // SAFETY: dup2 touches no memory.
            unsafe { libc::dup2(opened, 3) };
            let report = number.to_le_bytes();
            // SAFETY: writes eight bytes of a live array.
            unsafe { libc::write(100, report.as_ptr().cast(), report.len()) };
            // SAFETY: the pointers are not this program's memory; if the call does harm here, only this child is harmed.
            unsafe { child::raw(number, arguments(number)) };
        }
        0
    });
    // SAFETY: closes what this function opened.
    unsafe { libc::close(to_parent) };
    let mut reached = first;
    let mut report = [0; 8];
    // SAFETY: reads into a live array of that size.
    while unsafe { libc::read(from_child, report.as_mut_ptr().cast(), report.len()) } == 8 {
        reached = u64::from_le_bytes(report);
    }
    // SAFETY: closes what this function opened.
    unsafe { libc::close(from_child) };
    (end, if end == End::Exit(0) { limit } else { reached })
}

/// The same numbers for the same seed, everywhere (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn number(arguments: &[String], index: usize, default: u64) -> u64 {
    arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub fn random(arguments: &[String]) -> u8 {
    let count = number(arguments, 0, 2000);
    let mut dice = Dice(number(arguments, 1, 1));
    let mut left = count;
    while left > 0 {
        let batch = left.min(50);
        left -= batch;
        let seed = dice.next();
        let end = child::run(|| {
            let mut dice = Dice(seed);
            let buffer = vec![0u8; 1 << 16];
            for _ in 0..batch {
                let mut number = dice.below(LAST_CALL);
                // Nothing that waits for ever or reaches other processes.
                if LEFT_OUT.contains(&number) || matches!(number, 7 | 23 | 35 | 61 | 109 | 112 | 130 | 202 | 230 | 232 | 247 | 270 | 271 | 281) {
                    number = 39;
                }
                let mut argument = || match dice.below(8) {
                    0 => 0,
                    1 => dice.below(16),
                    2 => dice.below(1 << 32),
                    3 => u64::MAX - dice.below(4096),
                    4 | 5 => buffer.as_ptr() as u64 + dice.below(1 << 16),
                    6 => POINTERS[dice.below(4) as usize],
                    _ => dice.next(),
                };
                let arguments = std::array::from_fn(|_| argument());
                // SAFETY: none: the call may write anywhere in this child's memory; it then misbehaves or ends, which harms nobody else.
                unsafe { child::raw(number, arguments) };
            }
            0
        });
        if end == End::Refused {
            println!("random-calls: no child could be made");
            return 1;
        }
    }
    println!("random-calls: {count} calls made");
    0
}

/// Copies of this program with a few bytes of the headers changed, executed one after the other.
pub fn broken_programs(arguments: &[String]) -> u8 {
    let count = number(arguments, 0, 100);
    let mut dice = Dice(number(arguments, 1, 1));
    let Ok(good) = std::fs::read("/proc/self/exe") else {
        println!("broken-programs: cannot read myself");
        return 1;
    };
    let path = "/tmp/broken";
    for _ in 0..count {
        // ELF header and program headers, and no more than 64 KiB: what matters is what they say.
        let mut bad = good[..good.len().min(1 << 16)].to_vec();
        for _ in 0..=dice.below(4) {
            let at = dice.below(0x40 + 56 * 8) as usize;
            if let Some(byte) = bad.get_mut(at) {
                *byte = match dice.below(3) {
                    0 => 0xff,
                    1 => 0,
                    _ => dice.next().to_le_bytes()[0],
                };
            }
        }
        bad.truncate(dice.below(1 << 16) as usize + 1);
        let written = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(path).and_then(|mut file| file.write_all(&bad));
        if written.is_err() {
            println!("broken-programs: cannot write {path}");
            return 1;
        }
        child::run(|| {
            use std::os::unix::process::CommandExt as _;
            // Comes back only if the kernel refuses.
            drop(std::process::Command::new(path).arg("count").arg("0").exec());
            0
        });
    }
    println!("broken-programs: {count} executed");
    0
}
