//! `orrery boot` of what is no kernel: a clear error, exit status 2, and no machine that runs into the void.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Boots a file; gives the exit status and what was said.
fn boot(kernel: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_orrery"))
        .args(["boot", "--limit", "1000000"])
        .arg(kernel)
        .stdin(Stdio::null())
        .output()
        .expect("the program under test can be started");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A file of the test's own with these bytes.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).expect("the test's directory can be written");
    path
}

fn assert_refused(kernel: &Path, why: &str) {
    let (status, said) = boot(kernel);
    assert_eq!(status, Some(2), "{}: {said}", kernel.display());
    assert!(said.starts_with("error: ") && said.contains(why), "{} should be refused with {why:?}, but: {said}", kernel.display());
    assert!(said.contains(&kernel.display().to_string()), "the error does not name the file: {said}");
    assert_eq!(said.lines().count(), 1, "one line says it: {said}");
}

/// An ELF file for x86-64 whose one segment claims more bytes than there are.
fn truncated_elf() -> Vec<u8> {
    let mut elf = vec![0_u8; 64 + 56];
    elf[..20].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0]);
    elf[20..24].copy_from_slice(&1_u32.to_le_bytes());
    elf[24..32].copy_from_slice(&0x10_0000_u64.to_le_bytes()); // entry
    elf[32..40].copy_from_slice(&64_u64.to_le_bytes()); // program headers
    elf[52..54].copy_from_slice(&64_u16.to_le_bytes());
    elf[54..56].copy_from_slice(&56_u16.to_le_bytes());
    elf[56..58].copy_from_slice(&1_u16.to_le_bytes());
    let segment = &mut elf[64..];
    segment[..4].copy_from_slice(&4_u32.to_le_bytes()); // PT_NOTE
    segment[8..16].copy_from_slice(&120_u64.to_le_bytes());
    segment[32..40].copy_from_slice(&1_000_000_u64.to_le_bytes());
    segment[40..48].copy_from_slice(&1_000_000_u64.to_le_bytes());
    elf
}

#[test]
fn a_truncated_kernel() {
    assert_refused(&file("truncated", &truncated_elf()), "truncated");
    assert_refused(&file("header-only", &truncated_elf()[..40]), "kernel");
}

#[test]
fn a_program_that_is_no_kernel() {
    // An ELF file of this architecture in any case: the program under test.
    assert_refused(Path::new(env!("CARGO_BIN_EXE_orrery")), "no entry a boot loader could use");
}

#[test]
fn an_empty_file() {
    assert_refused(&file("empty", b""), "empty");
}

#[test]
fn text() {
    assert_refused(&file("text", b"#!/bin/sh\necho I am no kernel\n"), "kernel");
}

#[test]
fn a_file_that_is_not_there() {
    assert_refused(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-such-kernel"), "No such file");
}

#[test]
fn a_directory() {
    assert_refused(Path::new(env!("CARGO_TARGET_TMPDIR")), "directory");
}
