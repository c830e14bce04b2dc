//! What the pool costs in the kernel, in guest instructions: boots the kernel with three empty disks, runs `bench_os --pool` at the shell, and counts ticks
//! between its marks. While all wait for a disk nothing is counted.

use sim_board::{Board, Boot, Disk, DiskModel, Machine, Outcome, Port, Until};

use crate::BenchError;
use crate::os::{Cost, PROGRAM};

const PROMPT: &[u8] = b"# ";
const BOOT_TICKS_MAX: u64 = 2_000_000_000;
/// Ticks of one section, or of what is between two.
const SECTION_TICKS_MAX: u64 = 40_000_000_000;

/// Name, what is counted, and the target where there is one.
pub const ROWS: &[(&str, &str, Option<u64>)] = &[
    ("read_4k_cached", "a read of 4 KiB that is in memory", Some(2_500)),
    ("read_128k_cached", "the same of 128 KiB", Some(60_000)),
    ("read_4k_uncached", "a read of 4 KiB, one after the other, from disk", None),
    ("read_4k_scattered", "a read of 4 KiB of a block that is not in memory", None),
    ("read_128k_uncached", "a read of 128 KiB from disk", None),
    ("write_4k", "a write of 4 KiB into the open transaction group", None),
    ("commit_4k", "its part in the commit", None),
    ("write_4k_sync", "a write of 4 KiB and fdatasync", None),
    ("write_128k", "a write of 128 KiB", None),
    ("commit_128k", "its part in the commit", None),
    ("commit_nothing", "a commit with nothing to write", None),
    ("write_128k_sync", "a write of 128 KiB and fdatasync", None),
    ("commit_raidz1", "128 KiB in a commit to a raidz1 of three disks", None),
    ("commit_sha256", "128 KiB in a commit, with checksum=sha256", None),
    ("read_sha256", "128 KiB of it from disk", None),
    ("commit_lz4", "128 KiB of words, with compression=lz4", None),
    ("read_lz4", "128 KiB of it from disk", None),
    ("commit_gzip", "the same with gzip-1", None),
    ("read_gzip", "128 KiB of it from disk", None),
    ("commit_zstd", "the same with zstd-fast", None),
    ("read_zstd", "128 KiB of it from disk", None),
    ("create_delete", "an empty file made and removed", None),
    ("stat", "stat of a file by its path", None),
    ("command", "a command that does nothing: part of each row below", None),
    ("clone_mount", "zfs clone, mounted", Some(5_000_000)),
    ("import_1x", "zpool import, 40 files of 16 KiB", None),
    ("import_10x", "400 files", None),
    ("snapshot_1x", "zfs snapshot", None),
    ("snapshot_10x", "", None),
    ("clone_1x", "zfs clone", None),
    ("clone_10x", "", None),
    ("scrub_1x", "zpool scrub -w", None),
    ("scrub_10x", "", None),
    ("snapshot_delete_1x", "a snapshot destroyed that was the last to have all files", None),
    ("snapshot_delete_10x", "", None),
    ("kib_per_cached_mib", "memory taken by a mebibyte of cached file, in KiB", Some(1_100)),
];

pub(crate) struct Watch {
    machine: Machine,
    /// Console output after the last mark that was waited for.
    pending: Vec<u8>,
}

impl Watch {
    /// A machine with three empty disks, and `ram` bytes of memory or what boards have.
    pub(crate) fn boot(boot: &Boot<'_>, ram: Option<u64>) -> Result<Watch, BenchError> {
        let disk = |mib: u64| Disk { model: DiskModel::VirtioBlk, size: mib << 20, read_only: false };
        let board = Board { disks: vec![disk(128), disk(128), disk(192)], ..Board::default() };
        let board = Board { ram: ram.unwrap_or(board.ram), ..board };
        let machine = Machine::new(&board, boot).map_err(|error| BenchError::Machine(error.to_string()))?;
        Ok(Watch { machine, pending: Vec::new() })
    }

    /// Runs to `text` on the console; gives what came before it.
    fn wait(&mut self, text: &[u8], limit: u64, what: &str) -> Result<String, BenchError> {
        let outcome = self.machine.run(&Until::ticks(self.machine.ticks() + limit).or_output(Port::Com1, text));
        self.pending.extend(self.machine.serial_take(Port::Com1));
        if matches!(outcome, Outcome::Output(_)) {
            return Ok(String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned());
        }
        let tail = String::from_utf8_lossy(&self.pending[self.pending.len().saturating_sub(2000)..]).into_owned();
        Err(BenchError::Os(format!("{what} was not reached ({outcome:?}); the console ends:\n{tail}")))
    }

    /// Counts what lies between the marks of `bench_os`, to its last.
    pub(crate) fn costs(mut self) -> Result<Vec<Cost>, BenchError> {
        let mut costs = Vec::new();
        let mut empty = 0;
        loop {
            // Every line of interest begins with `@`; the shell's echo of the command has none.
            self.wait(b"@", SECTION_TICKS_MAX, "the next mark of bench_os")?;
            let line = self.wait(b"\n", SECTION_TICKS_MAX, "the end of a mark")?;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["B", name, count] => {
                    let (name, count) = ((*name).to_owned(), count.parse::<u64>().unwrap_or(1).max(1));
                    let begun = self.machine.ticks();
                    self.wait(b"@E", SECTION_TICKS_MAX, &format!("the end of {name}"))?;
                    let ticks = self.machine.ticks() - begun;
                    if name == "nothing" {
                        empty = ticks;
                    } else {
                        costs.push(Cost { name: name.clone(), value: Ok(ticks.saturating_sub(empty) / count) });
                    }
                    if name == "snapshot_delete_10x" {
                        return Ok(costs);
                    }
                }
                ["V", name, value] => costs.push(Cost { name: (*name).to_owned(), value: value.parse().map_err(|_| line.clone()) }),
                _ => return Err(BenchError::Os(format!("bench_os: {}", line.trim()))),
            }
        }
    }
}

/// Boots and measures.
///
/// # Errors
/// The shell's prompt or the program's end is not reached, or the program says what went wrong.
pub fn run(kernel: &[u8], initrd: &[u8], append: &str) -> Result<Vec<Cost>, BenchError> {
    let mut watch = Watch::boot(&Boot::new(kernel, Some(initrd), append), None)?;
    watch.wait(PROMPT, BOOT_TICKS_MAX, "the shell's prompt")?;
    watch.machine.serial_put(Port::Com1, format!("{PROGRAM} --pool\n").as_bytes());
    watch.costs()
}
