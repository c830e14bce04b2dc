//! Writes files and promises what it has written, and says later what of it is there.
//!
//! # Theory
//! What fsync(2) has acknowledged survives a power cut. `keeper write DIR COUNT` does COUNT small things to a directory, each made durable by the calls that POSIX asks
//! for, and prints a promise after the last of them returned; `keeper check DIR` prints what it finds. Whoever cuts the power compares. Contents follow from numbers
//! alone, so that nothing has to be remembered.
//!
//! # Structures
//! | thing | done | promise |
//! |---|---|---|
//! | a file of its own | write, fsync, fsync of the directory | `file N` |
//! | a record at the end of a log | write, fdatasync | `log N` |
//! | a file replaced by rename | write and fsync of another, rename, fsync of the directory | `current N` |
//! | a slot of a table in place | pwrite, fsync | `slot N` |
//!
//! On a block device in place of a directory each thing is a piece at a place of its own, across sectors and blocks: pwrite and fsync, then `piece N`. A piece that is neither
//! as it was nor as it was to be is one that nobody wrote.
//!
//! # Failure
//! `write` ends with 1 at the first call that fails: what was not acknowledged was not promised. `check` ends with 1 if a thing can be read but holds what nobody wrote there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;
use std::process::ExitCode;

const RECORD: usize = 256;
/// A sector: a disk writes it whole or not at all, so a slot that is written in place holds its old content or its new one.
const SLOT: usize = 512;
const SLOTS: u32 = 8;
/// Pieces of a device: how many, how far apart, how long. None begins or ends with a sector.
const PIECES: u32 = 24;
const PIECE_STEP: u64 = 20_011;
const PIECE: usize = 9_001;

/// Bytes that follow from a number.
fn content(number: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(number) * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut bytes = number.to_le_bytes().to_vec();
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push(state as u8);
    }
    bytes.truncate(length);
    bytes
}

fn length(number: u32) -> usize {
    600 + (number as usize * 2_741) % 9_000
}

/// A promise goes to the console as it is made.
fn promise(what: &str, number: u32) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "ack {what} {number}")?;
    out.flush()
}

fn write(folder: &Path, count: u32) -> io::Result<()> {
    let entries = File::open(folder)?;
    let mut log = OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let table = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("table"))?;
    table.write_all_at(&vec![0; SLOT * SLOTS as usize], 0)?;
    table.sync_all()?;
    log.sync_all()?;
    entries.sync_all()?;
    for number in 0..count {
        match number % 4 {
            0 => {
                let mut file = File::create(folder.join(format!("file-{number}")))?;
                file.write_all(&content(number, length(number)))?;
                file.sync_all()?;
                entries.sync_all()?;
                promise("file", number)?;
            }
            1 => {
                log.write_all(&content(number, RECORD))?;
                log.sync_data()?;
                promise("log", number)?;
            }
            2 => {
                let mut file = File::create(folder.join("next"))?;
                file.write_all(&content(number, length(number)))?;
                file.sync_all()?;
                fs::rename(folder.join("next"), folder.join("current"))?;
                entries.sync_all()?;
                promise("current", number)?;
            }
            _ => {
                let slot = number / 4 % SLOTS;
                table.write_all_at(&content(number, SLOT), u64::from(slot) * SLOT as u64)?;
                table.sync_all()?;
                promise("slot", number)?;
            }
        }
    }
    Ok(())
}

fn place(number: u32) -> u64 {
    77 + u64::from(number % PIECES) * PIECE_STEP
}

fn write_device(path: &Path, count: u32) -> io::Result<()> {
    let device = OpenOptions::new().write(true).open(path)?;
    for number in 1..=count {
        device.write_all_at(&content(number, PIECE), place(number))?;
        device.sync_all()?;
        promise("piece", number)?;
    }
    Ok(())
}

fn check_device(path: &Path) -> io::Result<bool> {
    let device = File::open(path)?;
    let mut sound = true;
    let mut out = io::stdout().lock();
    for at in 0..PIECES {
        let mut bytes = vec![0; PIECE];
        device.read_exact_at(&mut bytes, place(at))?;
        match number_of(&bytes) {
            Some(0) if bytes.iter().all(|byte| *byte == 0) => {}
            Some(last) if last % PIECES == at && bytes == content(last, PIECE) => {
                (1..=last).filter(|number| number % PIECES == at).try_for_each(|number| writeln!(out, "have piece {number}"))?;
            }
            _ => {
                writeln!(out, "piece {at} holds what nobody wrote")?;
                sound = false;
            }
        }
    }
    Ok(sound)
}

/// Whether it is a block device rather than a directory.
fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Prints what is there. `Ok(false)`: something is there that nobody wrote.
fn check(folder: &Path) -> io::Result<bool> {
    let mut sound = true;
    let mut out = io::stdout().lock();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix("file-").and_then(|digits| digits.parse::<u32>().ok()) else { continue };
        if read(&folder.join(&name))? == content(number, length(number)) {
            writeln!(out, "have file {number}")?;
        }
    }
    for record in read(&folder.join("log")).unwrap_or_default().chunks_exact(RECORD) {
        match number_of(record) {
            Some(number) if record == content(number, RECORD) => writeln!(out, "have log {number}")?,
            _ => break,
        }
    }
    if let Ok(bytes) = read(&folder.join("current")) {
        match number_of(&bytes).filter(|number| bytes == content(*number, length(*number))) {
            // It replaced all before it.
            Some(last) => (0..=last).filter(|number| number % 4 == 2).try_for_each(|number| writeln!(out, "have current {number}"))?,
            None => {
                // A rename shows the whole of a file that was synced before it, or the one before.
                writeln!(out, "`current` holds what nobody wrote ({} bytes)", bytes.len())?;
                sound = false;
            }
        }
    }
    for (slot, bytes) in read(&folder.join("table")).unwrap_or_default().chunks_exact(SLOT).enumerate() {
        let Some(last) = number_of(bytes).filter(|number| *number != 0 && bytes == content(*number, SLOT)) else { continue };
        let here = |number: &u32| number % 4 == 3 && (number / 4 % SLOTS) as usize == slot;
        (0..=last).filter(here).try_for_each(|number| writeln!(out, "have slot {number}"))?;
    }
    Ok(sound)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["write", folder, count] => match count.parse() {
            Ok(count) if is_device(Path::new(folder)) => write_device(Path::new(folder), count).map(|()| true),
            Ok(count) => write(Path::new(folder), count).map(|()| true),
            Err(_) => Err(io::Error::other("COUNT is a number")),
        },
        ["check", folder] if is_device(Path::new(folder)) => check_device(Path::new(folder)),
        ["check", folder] => check(Path::new(folder)),
        _ => {
            eprintln!("usage: keeper write DIR|DEVICE COUNT | keeper check DIR|DEVICE");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}
