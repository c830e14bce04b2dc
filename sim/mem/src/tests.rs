use super::*;

#[test]
fn ram_continues_above_the_hole() {
    let mut memory = GuestMemory::new_pc(4 * PAGE_SIZE, 2 * PAGE_SIZE);
    assert_eq!(memory.write(2 * PAGE_SIZE - 1, &[1, 2]), Err(Unbacked { gpa: 2 * PAGE_SIZE }));
    assert_eq!(memory.read_u64(2 * PAGE_SIZE - 1, 1), Ok(0), "a refused write changes nothing");
    memory.write_u64((1 << 32) + 8, 8, 77).expect("RAM is there");
    assert_eq!(memory.ram()[2 * PAGE_SIZE as usize + 8], 77);
    assert_eq!(memory.gpa_of(2 * PAGE_SIZE as usize + 8), Some((1 << 32) + 8));
}

#[test]
fn dirty_pages_are_listed_once_and_in_order() {
    let mut memory = GuestMemory::new(16 * PAGE_SIZE);
    for gpa in [5 * PAGE_SIZE, 1, 5 * PAGE_SIZE + 9] {
        memory.write(gpa, &[1]).expect("RAM is there");
    }
    assert_eq!(memory.dirty_pages(), [5, 0]);
    let epoch = memory.mark_epoch();
    memory.clear_dirty();
    assert_ne!(memory.mark_epoch(), epoch);
    assert!(memory.dirty_pages().is_empty() && !memory.plain_writable(1));
}

#[test]
fn a_write_to_code_is_logged_for_every_reader() {
    let mut memory = GuestMemory::new(16 * PAGE_SIZE);
    memory.write(PAGE_SIZE, &[0x90]).expect("RAM is there");
    memory.mark_code(PAGE_SIZE as usize);
    assert!(!memory.plain_writable(PAGE_SIZE as usize));
    let start = memory.code_log_end();
    memory.write(PAGE_SIZE + 5, &[0xcc]).expect("RAM is there");
    assert_eq!(memory.code_writes(start), Some(&[1][..]));
    memory.trim_code_log(memory.code_log_end());
    assert_eq!(memory.code_writes(start), None, "a reader that is too far behind must drop everything");
}

#[test]
fn rom_ignores_guest_writes_but_not_the_loader() {
    let map = vec![MapRange { gpa: 0..PAGE_SIZE, offset: 0, writable: true }, MapRange { gpa: 0xf_f000..0x10_0000, offset: PAGE_SIZE, writable: false }];
    let mut memory = GuestMemory::with_map(2 * PAGE_SIZE, map);
    memory.load(0xf_fff0, &[0xea]).expect("ROM is there");
    memory.write(0xf_fff0, &[0]).expect("ROM is there");
    assert_eq!(memory.read_u64(0xf_fff0, 1), Ok(0xea));
}
