//! Loader structures, good and broken.

use crate::*;

const IMAGE: ImageLayout = ImageLayout {
    physical: 0x20_0000,
    text_end: 0x1000,
    rodata_end: 0x2000,
    data_end: 0x3000,
    end: 0x4000,
    boot_stack_guard: 0x2000,
};

/// Physical memory of a test: pieces at addresses.
#[derive(Default)]
struct Memory(Vec<(u64, Vec<u8>)>);

impl Memory {
    fn put(&mut self, at: u64, words: &[u64]) {
        self.0.push((at, words.iter().flat_map(|word| word.to_le_bytes()).collect()));
    }
    fn get(&self, at: u64, len: usize) -> Option<&[u8]> {
        self.0.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(at.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(len)?)
        })
    }
    fn parse(&self, eax: u32, info: u64) -> Result<BootInfo, BootError> {
        parse(eax, info, IMAGE, &|at, len| self.get(at, len))
    }
}

/// A start info block with this map.
fn pvh(map: &[(u64, u64, u64)]) -> Memory {
    let mut memory = Memory::default();
    memory.put(
        0x9000,
        &[0x1_336e_c578, 1 << 32, 0x9100, 0x9200, 0, 0xb000, map.len() as u64],
    );
    memory.put(0x9100, &[0x100_0000, 0x2345, 0, 0]);
    memory.0.push((0x9200, {
        let mut line = b"quiet init=/bin/sh x=1 x=2 -- -c ls".to_vec();
        line.resize(4096, 0);
        line
    }));
    let words: Vec<u64> = map.iter().flat_map(|(start, len, kind)| [*start, *len, *kind]).collect();
    memory.put(0xb000, &words);
    memory
}

fn usable(boot: &BootInfo) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    boot.usable(|range| out.push((range.start, range.end)));
    out
}

#[test]
fn pvh_block_gives_map_command_line_and_initrd() {
    let boot = pvh(&[(0, 0x9fc00, 1), (0x10_0000, 0x1ff0_0000, 1)]).parse(0, 0x9000).unwrap();
    assert_eq!(boot.loader, Loader::Pvh);
    assert_eq!(boot.command_line.words().collect::<Vec<_>>(), ["quiet", "init=/bin/sh", "x=1", "x=2"]);
    assert_eq!(boot.command_line.init_arguments().collect::<Vec<_>>(), ["-c", "ls"]);
    assert_eq!(boot.command_line.value("x"), Some("2"));
    assert_eq!(boot.initrd, Some(PhysRange { start: 0x100_0000, end: 0x100_2345 }));
    assert_eq!(boot.memory_end(), 0x2000_0000);
}

#[test]
fn usable_leaves_out_image_initrd_and_first_megabyte() {
    let boot = pvh(&[(0, 0x9fc00, 1), (0x10_0000, 0x1ff0_0000, 1)]).parse(0, 0x9000).unwrap();
    assert_eq!(
        usable(&boot),
        [(0x10_0000, 0x20_0000), (0x20_4000, 0x100_0000), (0x100_3000, 0x2000_0000)]
    );
}

#[test]
fn a_reserved_entry_wins_over_a_usable_one() {
    let boot = pvh(&[(0x10_0000, 0x1ff0_0000, 1), (0x300_0800, 0x100, 2)]).parse(0, 0x9000).unwrap();
    assert!(usable(&boot).contains(&(0x300_1000, 0x2000_0000)));
    assert!(usable(&boot).contains(&(0x100_3000, 0x300_0000)));
}

#[test]
fn an_initrd_may_end_in_memory_that_firmware_claims() {
    // The initrd is 0x100_0000..0x100_2345; firmware claims all from 0x100_1000.
    let boot = pvh(&[(0x10_0000, 0xf0_1000, 1), (0x100_1000, 0x10_0000, 2)]).parse(0, 0x9000).unwrap();
    assert_eq!(boot.regions()[0].range, PhysRange { start: 0x10_0000, end: 0x100_2345 });
    assert!(usable(&boot).iter().all(|(_, end)| *end <= 0x100_0000), "nobody gets what firmware claims");
    // Beyond any entry there is no memory.
    let boot = pvh(&[(0x10_0000, 0xf0_1000, 1)]).parse(0, 0x9000).unwrap();
    assert_eq!(boot.regions()[0].range.end, 0x100_1000);
}

#[test]
fn entries_that_wrap_are_dropped() {
    let boot = pvh(&[(u64::MAX - 5, 10, 1), (0x10_0000, 0x1000, 1)]).parse(0, 0x9000).unwrap();
    assert_eq!((boot.regions().len(), boot.regions_dropped), (1, 1));
}

#[test]
fn an_empty_map_is_refused() {
    assert_eq!(pvh(&[]).parse(0, 0x9000).unwrap_err(), BootError::NoMemoryMap);
}

#[test]
fn structures_outside_memory_are_refused() {
    let mut memory = Memory::default();
    memory.put(0x9000, &[0x1_336e_c578, 0, 0, 0, 0, 0xdead_0000, 3]);
    assert_eq!(memory.parse(0, 0x9000).unwrap_err(), BootError::Unreadable(0xdead_0000));
    assert_eq!(memory.parse(0, 0x5000).unwrap_err(), BootError::Unreadable(0x5000));
}

#[test]
fn a_foreign_loader_is_named() {
    let mut memory = Memory::default();
    memory.put(0x9000, &[0x1234]);
    assert_eq!(memory.parse(7, 0x9000).unwrap_err(), BootError::UnknownLoader { eax: 7, first_word: 0x1234 });
}

fn tag(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut out = kind.to_le_bytes().to_vec();
    out.extend((8 + u32::try_from(body.len()).unwrap()).to_le_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn multiboot2(tags: &[Vec<u8>]) -> Memory {
    let body: Vec<u8> = tags.concat();
    let mut bytes = (8 + u32::try_from(body.len()).unwrap()).to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(body);
    Memory(vec![(0x7000, bytes)])
}

fn map_tag(entries: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut body = vec![24, 0, 0, 0, 0, 0, 0, 0];
    body.extend(entries.iter().flat_map(|(a, b, c)| [*a, *b, *c]).flat_map(u64::to_le_bytes));
    tag(6, &body)
}

#[test]
fn multiboot2_tags_are_read() {
    let mut rsdp = *b"RSD PTR \0ORRERY\0\0\0\0\0";
    rsdp[16] = 0x10;
    rsdp[8] = 0_u8.wrapping_sub(rsdp.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    let boot = multiboot2(&[
        tag(1, b"quiet\0"),
        tag(3, &[0, 0, 0, 1, 0x10, 0, 0, 1, 0]),
        tag(99, b"unknown"),
        map_tag(&[(0x10_0000, 0x1000_0000, 1)]),
        tag(14, &rsdp),
        tag(0, b""),
    ])
    .parse(0x36d7_6289, 0x7000)
    .unwrap();
    assert_eq!(boot.loader, Loader::Multiboot2);
    assert_eq!(boot.command_line.text(), "quiet");
    assert_eq!(boot.initrd, Some(PhysRange { start: 0x100_0000, end: 0x100_0010 }));
    assert_eq!(&boot.rsdp.unwrap()[..8], b"RSD PTR ");
}

#[test]
fn a_root_pointer_with_a_wrong_checksum_is_ignored() {
    let boot = multiboot2(&[map_tag(&[(0x10_0000, 0x1000, 1)]), tag(14, b"RSD PTR \x01ORRERY\0\0\0\0\0")]);
    assert_eq!(boot.parse(0x36d7_6289, 0x7000).unwrap().rsdp, None);
}

#[test]
fn every_truncation_and_every_broken_byte_is_survived() {
    let whole = multiboot2(&[tag(1, b"a b\0"), map_tag(&[(0x10_0000, 0x9000, 1), (0x20_0000, 0x9000, 3)])]);
    for cut in 0..whole.0[0].1.len() {
        let mut memory = multiboot2(&[]);
        memory.0[0].1 = whole.0[0].1[..cut].to_vec();
        if let Ok(boot) = memory.parse(0x36d7_6289, 0x7000) {
            usable(&boot);
        }
        for value in [0, 1, 0x7f, 0xff] {
            let mut memory = multiboot2(&[]);
            memory.0[0].1 = whole.0[0].1.clone();
            memory.0[0].1[cut] = value;
            if let Ok(boot) = memory.parse(0x36d7_6289, 0x7000) {
                usable(&boot);
            }
        }
    }
}
