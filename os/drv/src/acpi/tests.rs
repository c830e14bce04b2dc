//! Tables good and broken, in a memory of their own.

use super::*;

const BASE: u64 = 0x7fe_0000;

#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
}

impl Memory {
    fn read(&self, at: u64, out: &mut [u8]) -> Option<()> {
        let from = usize::try_from(at.checked_sub(BASE)?).ok()?;
        out.copy_from_slice(self.bytes.get(from..from.checked_add(out.len())?)?);
        Some(())
    }
    fn table(&mut self, signature: &[u8; 4], body: &[u8]) -> u64 {
        let at = BASE + self.bytes.len() as u64;
        let mut table = signature.to_vec();
        table.extend(u32::try_from(36 + body.len()).unwrap().to_le_bytes());
        table.extend([0; 28]);
        table.extend(body);
        table[9] = 0_u8.wrapping_sub(table.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
        self.bytes.extend(table);
        at
    }
    fn tables(&self, rsdp: &[u8; 36]) -> Tables {
        tables(rsdp, &|at, out| self.read(at, out))
    }
}

fn machine() -> (Memory, [u8; 36]) {
    let mut memory = Memory::default();
    let mut aml = b"\x10\x20\\_SB_".to_vec();
    aml.extend(b"\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00");
    let dsdt = memory.table(b"DSDT", &aml);
    let mut fadt = vec![0; 244 - 36];
    fadt[40 - 36..44 - 36].copy_from_slice(&u32::try_from(dsdt).unwrap().to_le_bytes());
    fadt[64 - 36..66 - 36].copy_from_slice(&0x604_u16.to_le_bytes());
    fadt[76 - 36..78 - 36].copy_from_slice(&0x608_u16.to_le_bytes());
    fadt[108 - 36] = 0x32;
    fadt[113 - 36] = 4;
    fadt[116 - 36] = 1;
    fadt[120 - 36..122 - 36].copy_from_slice(&0xcf9_u16.to_le_bytes());
    fadt[128 - 36] = 6;
    let fadt = memory.table(b"FACP", &fadt);
    let mut madt = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    madt.extend([0, 8, 1, 7, 0, 0, 0, 0]);
    madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    madt.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    madt.extend([2, 10, 0, 9, 9, 0, 0, 0, 0xf, 0]);
    let madt = memory.table(b"APIC", &madt);
    let mut hpet = vec![0; 20];
    hpet[8..12].copy_from_slice(&0xfed0_0000_u32.to_le_bytes());
    let hpet = memory.table(b"HPET", &hpet);
    let root: Vec<u8> = [fadt, madt, hpet, 0x1234].iter().flat_map(|address| address.to_le_bytes()).collect();
    let root = memory.table(b"XSDT", &root);
    let mut rsdp = [0; 36];
    rsdp[15] = 2;
    rsdp[24..32].copy_from_slice(&root.to_le_bytes());
    (memory, rsdp)
}

#[test]
fn a_machine_is_read() {
    let (memory, rsdp) = machine();
    let found = memory.tables(&rsdp);
    assert_eq!(found.local_apic, 0xfee0_0000);
    assert_eq!(found.processors, [0]);
    assert_eq!(found.io_apics, [IoApic { address: 0xfec0_0000, first: 0 }]);
    assert_eq!(found.isa(0).global, 2);
    assert_eq!(found.isa(9), Override { isa: 9, global: 9, active_low: true, level: true });
    assert_eq!(found.isa(4), Override { isa: 4, global: 4, active_low: false, level: false });
    assert_eq!(found.pm_timer, Some(0x608));
    assert_eq!(found.hpet, Some(0xfed0_0000));
    assert_eq!(found.pm1_control, Some((0x604, None)));
    assert_eq!(found.soft_off, Some((5, 0)));
    assert_eq!(found.reset, Some((Address::Port(0xcf9), 6)));
    assert_eq!(found.century, 0x32);
}

#[test]
fn a_table_with_a_wrong_checksum_is_ignored_and_named() {
    let (mut memory, rsdp) = machine();
    let at = memory.bytes.windows(4).position(|four| four == b"APIC").unwrap();
    memory.bytes[at + 40] ^= 1;
    let found = memory.tables(&rsdp);
    assert!(found.io_apics.is_empty());
    assert_eq!(found.ignored, [*b"APIC"]);
    assert_eq!(found.pm_timer, Some(0x608));
}

#[test]
fn no_broken_byte_does_harm() {
    let (memory, rsdp) = machine();
    for at in 0..memory.bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let (mut broken, _) = machine();
            broken.bytes[at] ^= flip;
            // Repair the checksums, so that the parsers behind them are reached.
            let mut start = 0;
            while start + 36 <= broken.bytes.len() {
                let Some(len) = u32_at(&memory.bytes, start + 4).and_then(|len| usize::try_from(len).ok()) else { break };
                let sum = broken.bytes[start..start + len].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                broken.bytes[start + 9] = broken.bytes[start + 9].wrapping_sub(sum);
                start += len;
            }
            broken.tables(&rsdp);
        }
    }
}

#[test]
fn a_sleep_package_that_is_cut_short_is_refused() {
    let whole = b"\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00";
    assert_eq!(soft_off(whole), Some((5, 0)));
    for len in 0..9 {
        assert_eq!(soft_off(&whole[..len]), None);
    }
    assert_eq!(soft_off(b"_S5_\x12\x06\x04\x05"), None);
}
