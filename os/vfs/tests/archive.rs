//! cpio archives, good and bad.

mod support;

use kif::ZoneId;
use support::World;
use vfs::cpio::{CpioProblem, unpack};
use vfs::{Kind, VfsError};

#[derive(Clone)]
struct Entry {
    name: &'static str,
    mode: u32,
    ino: u32,
    nlink: u32,
    rdev: (u32, u32),
    data: Vec<u8>,
}

fn entry(name: &'static str, mode: u32, data: &[u8]) -> Entry {
    Entry { name, mode, ino: 0, nlink: 1, rdev: (0, 0), data: data.to_vec() }
}

fn pack(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Vec::new();
    let trailer = entry("TRAILER!!!", 0, b"");
    for (index, e) in entries.iter().chain([&trailer]).enumerate() {
        let ino = if e.ino == 0 { 1000 + index as u32 } else { e.ino };
        let fields = [ino, e.mode, 0, 0, e.nlink, 1_000_000, e.data.len() as u32, 0, 1, e.rdev.0, e.rdev.1, e.name.len() as u32 + 1, 0];
        archive.extend_from_slice(b"070701");
        for field in fields {
            archive.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        archive.extend_from_slice(e.name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(&e.data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

fn sample() -> Vec<Entry> {
    let mut first = entry("bin/sh", 0o100_755, b"");
    let mut second = entry("bin/busybox", 0o100_755, &[7; 10_000]);
    (first.ino, first.nlink, second.ino, second.nlink) = (5, 2, 5, 2);
    let mut console = entry("dev/console", 0o020_600, b"");
    console.rdev = (5, 1);
    vec![
        entry(".", 0o040_700, b""),
        entry("bin", 0o040_755, b""),
        first,
        second,
        entry("bin/ls", 0o120_777, b"busybox"),
        console,
        entry("./deep/er/file", 0o100_644, b"text"),
        entry("/abs", 0o010_600, b""),
    ]
}

fn unpack_into(world: &World, archive: &[u8]) -> Result<vfs::cpio::Unpacked, vfs::cpio::CpioError> {
    unpack(archive, &world.root.vnode, ZoneId::GLOBAL)
}

#[test]
fn archive_becomes_a_tree() {
    let world = World::new();
    let done = unpack_into(&world, &pack(&sample())).expect("unpack");
    assert_eq!(done.entries, 8);
    assert_eq!(world.stat("/").expect("root").mode, 0o700);
    let (sh, busybox) = (world.stat("/bin/sh").expect("sh"), world.stat("/bin/busybox").expect("busybox"));
    assert_eq!((sh.id, sh.nlink, sh.size), (busybox.id, 2, 10_000));
    assert_eq!(world.read("/bin/ls").expect("through the link"), [7; 10_000]);
    let console = world.stat("/dev/console").expect("console");
    assert_eq!((console.kind, console.rdev.major, console.rdev.minor), (Kind::CharDevice, 5, 1));
    assert_eq!(world.stat("/deep").expect("made on the way").mode, 0o755);
    assert_eq!(world.read("/deep/er/file").expect("file"), b"text");
    assert_eq!(world.stat("/deep/er/file").expect("file").mtime.0, 1_000_000 * 1_000_000_000);
    assert_eq!(world.stat("/abs").expect("fifo").kind, Kind::Fifo);
}

#[test]
fn archives_may_follow_each_other_and_replace() {
    let world = World::new();
    let mut archive = pack(&sample());
    archive.resize(archive.len() + 300, 0);
    archive.extend(pack(&[entry("bin/busybox", 0o100_700, b"new"), entry("bin", 0o040_711, b"")]));
    assert_eq!(unpack_into(&world, &archive).expect("unpack").entries, 10);
    assert_eq!(world.read("/bin/busybox").expect("replaced"), b"new");
    assert_eq!(world.stat("/bin/sh").expect("the other name keeps the old file").nlink, 1);
    assert_eq!(world.stat("/bin").expect("bin").mode, 0o711);
}

#[test]
fn bad_archives_are_refused_with_the_place() {
    let good = pack(&sample());
    let fresh = |archive: &[u8]| unpack_into(&World::new(), archive).expect_err("refused");
    assert_eq!(fresh(b"").problem, CpioProblem::Truncated);
    assert_eq!(fresh(&[0x1f; 200]).problem, CpioProblem::BadMagic);
    let mut bad = good.clone();
    bad[20] = b'g';
    assert_eq!((fresh(&bad).problem, fresh(&bad).offset), (CpioProblem::BadNumber, 0));
    for (name, problem) in [
        ("a/../../etc", CpioProblem::BadName),
        ("..", CpioProblem::BadName),
    ] {
        assert_eq!(fresh(&pack(&[entry(name, 0o100_644, b"")])).problem, problem, "{name}");
    }
    let error = fresh(&pack(&[entry("ok", 0o100_644, b""), entry("odd", 0o170_000, b"")]));
    assert_eq!((error.problem, error.name.as_str(), error.offset), (CpioProblem::BadType, "odd", 116));
    assert_eq!(error.to_string(), "initrd: byte 116: `odd': mode names no type of file");
    let error = fresh(&pack(&[entry("f", 0o100_644, b""), entry("f/x", 0o100_644, b"")]));
    assert_eq!(error.problem, CpioProblem::Refused(VfsError::NotDirectory));
}

#[test]
fn no_cut_or_flip_of_an_archive_panics() {
    let good = pack(&sample());
    for end in 0..good.len() {
        assert!(end == good.len() || unpack_into(&World::new(), &good[..end]).is_err() || end + 4 > good.len(), "cut at {end}");
    }
    let mut random = 12345_u64;
    for _ in 0..3000 {
        let mut bad = good.clone();
        for _ in 0..3 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 33) as usize % 900;
            bad[at] = (random >> 20) as u8;
        }
        // Any answer but a panic or a runaway.
        if unpack_into(&World::new(), &bad).is_err() {}
    }
}

#[test]
fn full_memory_is_reported_not_swallowed() {
    let world = World::with(&vfs::tmpfs::Options { max_pages: 1, ..World::options() });
    let error = unpack_into(&world, &pack(&sample())).expect_err("no room");
    assert_eq!((error.problem, error.name.as_str()), (CpioProblem::Refused(VfsError::NoSpace), "bin/busybox"));
}
