//! ELF headers and `#!` lines: whatever the bytes say, the answer is a plan that holds together, or a refusal.

use proc::elf::{self, ENTRY_BYTES, HEADER_BYTES};
use proptest::prelude::*;

/// A small valid program: one read-execute and one read-write load.
fn program() -> Vec<u8> {
    let mut file = vec![0; HEADER_BYTES + 2 * ENTRY_BYTES];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    put(&mut file, 16, &2_u16.to_le_bytes());
    put(&mut file, 18, &62_u16.to_le_bytes());
    put(&mut file, 24, &0x40_1000_u64.to_le_bytes());
    put(&mut file, 32, &(HEADER_BYTES as u64).to_le_bytes());
    put(&mut file, 54, &(ENTRY_BYTES as u16).to_le_bytes());
    put(&mut file, 56, &2_u16.to_le_bytes());
    let loads = [(5_u32, 0_u64, 0x40_0000_u64, 0x1800_u64, 0x1800_u64), (6, 0x1800, 0x40_2800, 0x100, 0x5000)];
    for (index, (flags, offset, address, file_size, size)) in loads.into_iter().enumerate() {
        let at = HEADER_BYTES + index * ENTRY_BYTES;
        put(&mut file, at, &1_u32.to_le_bytes());
        put(&mut file, at + 4, &flags.to_le_bytes());
        for (field, value) in [(8, offset), (16, address), (32, file_size), (40, size)] {
            put(&mut file, at + field, &value.to_le_bytes());
        }
    }
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn plan(file: &[u8]) -> Result<elf::Plan, elf::BadImage> {
    let header = elf::header(file)?;
    let start = usize::try_from(header.table_offset).unwrap_or(usize::MAX).min(file.len());
    elf::plan(&header, &file[start..])
}

/// What the loader relies on.
fn check(plan: &elf::Plan) {
    assert!(!plan.loads.is_empty());
    for load in &plan.loads {
        assert!(load.start % 4096 == 0 && load.file_bytes % 4096 == 0);
        assert!(load.start < load.end && load.end <= vm::USER_END);
        assert!(load.data_end <= load.end);
        assert!(load.start + load.file_bytes <= vm::USER_END + 4096);
        assert!(plan.span.0 <= load.start && load.end <= plan.span.1);
    }
}

#[test]
fn a_plain_program_is_planned_as_its_headers_say() {
    let plan = plan(&program()).expect("valid");
    check(&plan);
    assert_eq!((plan.movable, plan.entry, plan.span), (false, 0x40_1000, (0x40_0000, 0x40_8000)));
    assert_eq!(plan.table_address, 0x40_0040);
    let data = plan.loads[1];
    assert_eq!((data.start, data.first_page, data.file_bytes, data.data_end, data.end), (0x40_2000, 1, 0x1000, 0x40_2900, 0x40_7800));
}

#[test]
fn contradictions_are_refused() {
    let cases: [(usize, &[u8]); 8] = [
        (0, b"\x7fELG"),
        (4, &[1]),
        (18, &[3, 0]),
        (54, &[55, 0]),
        (56, &[0, 0]),
        (HEADER_BYTES + 32, &[0xff; 8]),
        (HEADER_BYTES + 16, &0xffff_8000_0000_0000_u64.to_le_bytes()),
        (HEADER_BYTES + 16, &0x40_0010_u64.to_le_bytes()),
    ];
    for (at, bytes) in cases {
        let mut file = program();
        put(&mut file, at, bytes);
        assert_eq!(plan(&file), Err(elf::BadImage), "{bytes:?} at {at}");
    }
    assert_eq!(plan(&program()[..60]), Err(elf::BadImage));
    assert_eq!(plan(&program()[..HEADER_BYTES + ENTRY_BYTES]), Err(elf::BadImage));
}

#[test]
fn script_lines() {
    assert_eq!(elf::script(b"#!/bin/sh\n"), Some((&b"/bin/sh"[..], None)));
    assert_eq!(elf::script(b"#!  /bin/awk -f x \nrest"), Some((&b"/bin/awk"[..], Some(&b"-f x"[..]))));
    assert_eq!(elf::script(b"#!\n"), None);
    assert_eq!(elf::script(b"\x7fELF"), None);
}

proptest! {
    #[test]
    fn damaged_headers_never_break_the_plan(changes in prop::collection::vec((0..HEADER_BYTES + 2 * ENTRY_BYTES, any::<u8>()), 1..12)) {
        let mut file = program();
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(plan) = plan(&file) {
            check(&plan);
        }
    }

    #[test]
    fn noise_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(plan) = plan(&bytes) {
            check(&plan);
        }
        if let Some((program, _)) = elf::script(&bytes) {
            prop_assert!(!program.is_empty());
        }
    }
}
