//! What the pool costs: each loop between two marks on the console, so that whoever watches the machine counts its instructions, and nothing of the time
//! that disks take.
//!
//! A section is `@B NAME COUNT` and a line's end, the loop, `@E`. Three disks are wanted: `vda` for what one operation costs, `vdb` and `vdc` for how
//! costs grow: the second has ten times the files of the first.
//!
//! The same operations measure Linux with OpenZFS's own module ([`System::openzfs`]); what must be said differently there is in [`System`].

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

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

/// Words of a small vocabulary: what compressors make about a third of.
fn prose(bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = ["the ", "pool ", "of ", "blocks ", "is ", "a ", "tree ", "whose ", "root ", "uberblock ", "and ", "each ", "pointer ", "holds ", "its checksum, ", "written\n"];
    let mut out = Vec::with_capacity(bytes + 16);
    for byte in noise(bytes) {
        if out.len() >= bytes {
            break;
        }
        out.extend_from_slice(WORDS[usize::from(byte & 15)].as_bytes());
        // A letter here and there keeps them from being all the same.
        if byte >= 0xE0 {
            out.push(b'a' + (byte & 15));
        }
    }
    out.truncate(bytes);
    out
}

/// Where this runs.
#[derive(Clone, Copy)]
pub struct System {
    /// Linux with OpenZFS's module. sync(2) writes its intent log and leaves the transaction group open, so `zpool sync` stands for it.
    pub openzfs: bool,
}

impl System {
    /// `count` operations between two marks.
    fn section(self, name: &str, count: usize, body: impl FnOnce() -> Outcome) -> Outcome {
        self.mark(&format!("@B {name} {count}"))?;
        body()?;
        self.mark("@E")
    }

    fn mark(self, line: &str) -> Outcome {
        let mut console = std::io::stdout();
        io("console", writeln!(console, "{line}").and_then(|()| console.flush()))?;
        if self.openzfs {
            // Linux would go on sending the line while the loop runs.
            // SAFETY: tcdrain takes a file descriptor and touches no memory.
            unsafe { libc::tcdrain(1) };
        }
        Ok(())
    }

    /// Waits until everything written is in a transaction group on disk.
    fn settle(self) -> Outcome {
        if self.openzfs {
            return command("/usr/sbin/zpool sync");
        }
        // SAFETY: sync has no arguments and touches no memory.
        unsafe { libc::sync() };
        Ok(())
    }

    fn disk(self, name: &str) -> String {
        if self.openzfs { format!("/dev/{name}1") } else { name.to_owned() }
    }

    fn create(self, pool: &str, disk: &str) -> Outcome {
        command(&format!("/usr/sbin/zpool create -f {pool} {}", self.disk(disk)))
    }

    fn import(self, pool: &str) -> Outcome {
        command(&format!("/usr/sbin/zpool import {}{pool}", if self.openzfs { "-d /disks " } else { "" }))
    }

    fn again(self, pool: &str) -> Outcome {
        command(&format!("/usr/sbin/zpool export {pool}"))?;
        self.import(pool)
    }

    /// A program that does as little as can be, and is started as `zpool` and `zfs` are.
    fn nothing(self) -> Outcome {
        command(if self.openzfs { "/usr/sbin/zfs -V" } else { "/usr/bin/zonename" })
    }
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

fn operations(on: System) -> Outcome {
    on.create("tank", "vda")?;
    let data = noise(FILE_BYTES);
    let path = "/tank/file";
    let file = io(path, OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path))?;
    on.section("nothing", 1, || Ok(()))?;
    on.section("write_4k", 512, || each_write(&file, &data, SMALL, 512, false))?;
    on.section("commit_4k", 512, || on.settle())?;
    on.section("commit_nothing", 1, || on.settle())?;
    on.section("write_4k_sync", 32, || each_write(&file, &data, SMALL, 32, true))?;
    on.settle()?;
    on.section("write_128k", 64, || each_write(&file, &data, LARGE, 64, false))?;
    on.section("commit_128k", 64, || on.settle())?;
    on.section("write_128k_sync", 16, || each_write(&file, &data, LARGE, 16, true))?;
    on.settle()?;
    drop(file);
    on.again("tank")?;
    let file = io(path, File::open(path))?;
    let before = crate::memory_kib()?;
    on.section("read_128k_uncached", 64, || each_read(&file, LARGE, 64, LARGE))?;
    let after = crate::memory_kib()?;
    println!("@V kib_per_cached_mib {}", after.saturating_sub(before) / (FILE_BYTES >> 20) as u64);
    on.section("read_128k_cached", 64, || each_read(&file, LARGE, 64, LARGE))?;
    on.section("read_4k_cached", 512, || each_read(&file, SMALL, 512, SMALL))?;
    drop(file);
    on.again("tank")?;
    let file = io(path, File::open(path))?;
    on.section("read_4k_uncached", 512, || each_read(&file, SMALL, 512, SMALL))?;
    drop(file);
    on.again("tank")?;
    let file = io(path, File::open(path))?;
    // One page of every other block, from the end: nothing that came before helps.
    on.section("read_4k_scattered", 24, || (0..24).rev().try_for_each(|number| {
        let mut buffer = [0; SMALL];
        io("read", file.read_exact_at(&mut buffer, (2 * number * LARGE) as u64))
    }))?;
    drop(file);
    on.section("create_delete", 200, || {
        for number in 0..200 {
            let path = format!("/tank/made{number}");
            io(&path, File::create(&path))?;
            io(&path, fs::remove_file(&path))?;
        }
        Ok(())
    })?;
    on.section("stat", 200, || (0..200).try_for_each(|_| io(path, fs::metadata(path)).map(drop)))?;
    on.settle()?;
    command("/usr/sbin/zfs snapshot tank@base")?;
    on.section("command", 4, || (0..4).try_for_each(|_| on.nothing()))?;
    on.section("clone_mount", 4, || (0..4).try_for_each(|number| command(&format!("/usr/sbin/zfs clone tank@base tank/clone{number}"))))?;
    command("/usr/sbin/zpool export tank")
}

/// What is done to the bytes of a block: properties of a dataset, and the row's name. Our zstd has one level, about what OpenZFS calls zstd-fast.
const CODECS: [(&str, &str); 4] = [("compression=lz4", "lz4"), ("compression=gzip-1", "gzip"), ("compression=zstd", "zstd"), ("checksum=sha256", "sha256")];
/// Blocks of 128 KiB for each.
const CODED: usize = 16;

/// Commits and reads where blocks are compressed, summed otherwise, or spread over disks with parity.
fn codecs(on: System) -> Outcome {
    let disks = ["vda", "vdb", "vdc"].map(|disk| on.disk(disk)).join(" ");
    command(&format!("/usr/sbin/zpool create -f tank raidz {disks}"))?;
    let (prose, noise) = (prose(CODED * LARGE), noise(CODED * LARGE));
    let write = |name: &str, path: &str, data: &[u8]| {
        let file = io(path, File::create(path))?;
        each_write(&file, data, LARGE, CODED, false)?;
        drop(file);
        on.section(&format!("commit_{name}"), CODED, || on.settle())
    };
    write("raidz1", "/tank/file", &noise)?;
    command("/usr/sbin/zpool destroy tank")?;
    on.create("tank", "vda")?;
    for (property, name) in CODECS {
        let level = if on.openzfs && name == "zstd" { "-fast" } else { "" };
        command(&format!("/usr/sbin/zfs create -o {property}{level} tank/{name}"))?;
        write(name, &format!("/tank/{name}/file"), &prose)?;
    }
    on.again("tank")?;
    for (_, name) in CODECS {
        let path = format!("/tank/{name}/file");
        let file = io(&path, File::open(&path))?;
        on.section(&format!("read_{name}"), CODED, || each_read(&file, LARGE, CODED, LARGE))?;
    }
    command("/usr/sbin/zpool destroy tank")
}

fn fill(on: System, directory: &Path, files: usize) -> Outcome {
    let data = noise(EACH);
    for number in 0..files {
        let path = directory.join(format!("file{number}"));
        io("file", fs::write(path, &data))?;
        if number % 200 == 199 {
            on.settle()?;
        }
    }
    on.settle()
}

/// The same on a pool of `files` files; sections end in `tag`.
fn growth(on: System, disk: &str, tag: &str, files: usize) -> Outcome {
    let pool = format!("grow{tag}");
    on.create(&pool, disk)?;
    command(&format!("/usr/sbin/zfs create {pool}/data"))?;
    let directory = Path::new("/").join(&pool).join("data");
    fill(on, &directory, files)?;
    command(&format!("/usr/sbin/zpool export {pool}"))?;
    on.section(&format!("import_{tag}"), 1, || on.import(&pool))?;
    on.section(&format!("snapshot_{tag}"), 1, || command(&format!("/usr/sbin/zfs snapshot {pool}/data@s")))?;
    on.section(&format!("clone_{tag}"), 1, || command(&format!("/usr/sbin/zfs clone {pool}/data@s {pool}/clone")))?;
    command(&format!("/usr/sbin/zfs destroy {pool}/clone"))?;
    on.section(&format!("scrub_{tag}"), 1, || command(&format!("/usr/sbin/zpool scrub -w {pool}")))?;
    for number in 0..files {
        io("remove", fs::remove_file(directory.join(format!("file{number}"))))?;
    }
    on.settle()?;
    on.section(&format!("snapshot_delete_{tag}"), 1, || {
        command(&format!("/usr/sbin/zfs destroy {pool}/data@s"))?;
        on.settle()
    })?;
    command(&format!("/usr/sbin/zpool export {pool}"))
}

/// All of them.
pub fn run(on: System) -> Outcome {
    operations(on)?;
    codecs(on)?;
    growth(on, "vdb", "1x", FILES)?;
    growth(on, "vdc", "10x", 10 * FILES)
}
