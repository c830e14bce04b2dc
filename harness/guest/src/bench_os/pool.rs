//! What the pool costs: each loop between two marks on the console, so that whoever watches the machine counts its instructions, and nothing of the time
//! that disks take.
//!
//! A section is `@B NAME COUNT` and a line's end, the loop, `@E`. Three disks are wanted: `vda` for what one operation costs, `vdb` and `vdc` for how
//! costs grow: the second has ten times the files of the first.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

type Outcome = Result<(), String>;

/// Bytes of the file that is read and written.
const FILE_BYTES: usize = 8 << 20;
const SMALL: usize = 4 << 10;
const LARGE: usize = 128 << 10;
/// Files of the smaller of the two pools that are compared, and bytes of each.
const FILES: usize = 40;
const EACH: usize = 16 << 10;

fn io<R>(what: &str, result: std::io::Result<R>) -> Result<R, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

fn command(line: &str) -> Outcome {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let output = io(line, Command::new(program).args(words).stdin(Stdio::null()).output())?;
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())) }
}

/// Bytes that no compressor makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out
}

/// `count` operations between two marks.
fn section(name: &str, count: usize, body: impl FnOnce() -> Outcome) -> Outcome {
    let mut console = std::io::stdout();
    io("console", writeln!(console, "@B {name} {count}").and_then(|()| console.flush()))?;
    body()?;
    io("console", writeln!(console, "@E").and_then(|()| console.flush()))
}

fn each_write(file: &File, data: &[u8], size: usize, count: usize, sync: bool) -> Outcome {
    for (number, part) in data.chunks(size).take(count).enumerate() {
        io("write", file.write_all_at(part, (number * size) as u64))?;
        if sync {
            io("fdatasync", file.sync_data())?;
        }
    }
    Ok(())
}

fn each_read(file: &File, size: usize, count: usize, stride: usize) -> Outcome {
    let mut buffer = vec![0; size];
    (0..count).try_for_each(|number| io("read", file.read_exact_at(&mut buffer, (number * stride) as u64)))
}

fn again(pool: &str) -> Outcome {
    command(&format!("/usr/sbin/zpool export {pool}"))?;
    command(&format!("/usr/sbin/zpool import {pool}"))
}

/// Waits until everything written is in a transaction group.
fn settle() {
    // SAFETY: sync has no arguments and touches no memory.
    unsafe { libc::sync() };
}

fn operations() -> Outcome {
    command("/usr/sbin/zpool create tank vda")?;
    let data = noise(FILE_BYTES);
    let path = "/tank/file";
    let file = io(path, OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path))?;
    section("nothing", 1, || Ok(()))?;
    section("write_4k", 512, || each_write(&file, &data, SMALL, 512, false))?;
    section("commit_4k", 512, || {
        settle();
        Ok(())
    })?;
    section("write_4k_sync", 32, || each_write(&file, &data, SMALL, 32, true))?;
    settle();
    section("write_128k", 64, || each_write(&file, &data, LARGE, 64, false))?;
    section("commit_128k", 64, || {
        settle();
        Ok(())
    })?;
    section("write_128k_sync", 16, || each_write(&file, &data, LARGE, 16, true))?;
    settle();
    drop(file);
    again("tank")?;
    let file = io(path, File::open(path))?;
    let before = crate::memory_kib()?;
    section("read_128k_uncached", 64, || each_read(&file, LARGE, 64, LARGE))?;
    let after = crate::memory_kib()?;
    println!("@V kib_per_cached_mib {}", after.saturating_sub(before) / (FILE_BYTES >> 20) as u64);
    section("read_128k_cached", 64, || each_read(&file, LARGE, 64, LARGE))?;
    section("read_4k_cached", 512, || each_read(&file, SMALL, 512, SMALL))?;
    drop(file);
    again("tank")?;
    let file = io(path, File::open(path))?;
    section("read_4k_uncached", 512, || each_read(&file, SMALL, 512, SMALL))?;
    drop(file);
    again("tank")?;
    let file = io(path, File::open(path))?;
    // One page of every other block, from the end: nothing that came before helps.
    section("read_4k_scattered", 24, || (0..24).rev().try_for_each(|number| {
        let mut buffer = [0; SMALL];
        io("read", file.read_exact_at(&mut buffer, (2 * number * LARGE) as u64))
    }))?;
    drop(file);
    section("create_delete", 200, || {
        for number in 0..200 {
            let path = format!("/tank/made{number}");
            io(&path, File::create(&path))?;
            io(&path, fs::remove_file(&path))?;
        }
        Ok(())
    })?;
    section("stat", 200, || (0..200).try_for_each(|_| io(path, fs::metadata(path)).map(drop)))?;
    settle();
    command("/usr/sbin/zfs snapshot tank@base")?;
    section("command", 4, || (0..4).try_for_each(|_| command("/usr/bin/zonename")))?;
    section("clone_mount", 4, || (0..4).try_for_each(|number| command(&format!("/usr/sbin/zfs clone tank@base tank/clone{number}"))))?;
    command("/usr/sbin/zpool export tank")
}

fn fill(directory: &Path, files: usize) -> Outcome {
    let data = noise(EACH);
    for number in 0..files {
        let path = directory.join(format!("file{number}"));
        io("file", fs::write(path, &data))?;
        if number % 200 == 199 {
            settle();
        }
    }
    settle();
    Ok(())
}

/// The same on a pool of `files` files; sections end in `tag`.
fn growth(disk: &str, tag: &str, files: usize) -> Outcome {
    let pool = format!("grow{tag}");
    command(&format!("/usr/sbin/zpool create {pool} {disk}"))?;
    command(&format!("/usr/sbin/zfs create {pool}/data"))?;
    let directory = Path::new("/").join(&pool).join("data");
    fill(&directory, files)?;
    command(&format!("/usr/sbin/zpool export {pool}"))?;
    section(&format!("import_{tag}"), 1, || command(&format!("/usr/sbin/zpool import {pool}")))?;
    section(&format!("snapshot_{tag}"), 1, || command(&format!("/usr/sbin/zfs snapshot {pool}/data@s")))?;
    section(&format!("clone_{tag}"), 1, || command(&format!("/usr/sbin/zfs clone {pool}/data@s {pool}/clone")))?;
    command(&format!("/usr/sbin/zfs destroy {pool}/clone"))?;
    section(&format!("scrub_{tag}"), 1, || {
        command(&format!("/usr/sbin/zpool scrub {pool}"))?;
        for _ in 0..600 {
            let output = io("status", Command::new("/usr/sbin/zpool").args(["status", &pool]).stdin(Stdio::null()).output())?;
            if !String::from_utf8_lossy(&output.stdout).contains("in progress") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Err("the scrub does not end".to_owned())
    })?;
    for number in 0..files {
        io("remove", fs::remove_file(directory.join(format!("file{number}"))))?;
    }
    settle();
    section(&format!("snapshot_delete_{tag}"), 1, || {
        command(&format!("/usr/sbin/zfs destroy {pool}/data@s"))?;
        settle();
        Ok(())
    })?;
    command(&format!("/usr/sbin/zpool export {pool}"))
}

/// All of them.
pub fn run() -> Outcome {
    operations()?;
    growth("vdb", "1x", FILES)?;
    growth("vdc", "10x", 10 * FILES)
}
