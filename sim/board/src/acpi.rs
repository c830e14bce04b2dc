//! ACPI tables of the board: RSDP, XSDT, FADT, FACS, MADT, HPET, MCFG, DSDT.
//!
//! # Theory
//! ACPI specification 6.4, chapter 5.2. Tables are bytes built here from the board's figures; all are read-only but the FACS, which the operating system
//! writes (§5.2.10) and which lies in reserved RAM. The DSDT's AML is written by hand with the
//! few encoders below (§20.2). It names `\_S5`, the PCI root with its windows and interrupt lines, the two serial lines and the RTC: what kernels need to power
//! off and to find PCI.

use crate::map;

/// Where the tables lie: read-only memory below 1 MiB, as firmware has it.
const RSDP: u64 = 0xe_0000;
const TABLES: u64 = 0xe_0040;

fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(36 + body.len());
    bytes.extend_from_slice(signature);
    bytes.extend_from_slice(&(36 + body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[revision, 0]);
    bytes.extend_from_slice(b"ORRERYBOARD   ");
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(b"ORRY");
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes[9] = checksum(&bytes);
    bytes
}

/// The byte that makes the sum zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Generic address structure (§5.2.3.2): system I/O.
fn io_address(port: u16, bits: u8) -> [u8; 12] {
    let mut address = [0; 12];
    address[0] = 1;
    address[1] = bits;
    address[3] = match bits {
        8 => 1,
        16 => 2,
        _ => 3,
    };
    address[4..12].copy_from_slice(&u64::from(port).to_le_bytes());
    address
}

/// §5.2.10: nothing wakes this machine, and nobody else takes the global lock.
fn facs() -> Vec<u8> {
    let mut bytes = vec![0u8; 64];
    bytes[..4].copy_from_slice(b"FACS");
    bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
    bytes[32] = 2; // version
    bytes
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut body = vec![0u8; 276 - 36];
    let mut put = |offset: usize, bytes: &[u8]| body[offset - 36..offset - 36 + bytes.len()].copy_from_slice(bytes);
    put(36, &(map::FACS as u32).to_le_bytes()); // FIRMWARE_CTRL
    put(40, &(dsdt as u32).to_le_bytes());
    put(46, &9u16.to_le_bytes()); // SCI_INT
    put(48, &u32::from(map::SMI_CMD).to_le_bytes());
    put(52, &[sim_dev::acpi::ACPI_ENABLE, sim_dev::acpi::ACPI_DISABLE]);
    put(56, &u32::from(map::PM).to_le_bytes()); // PM1a_EVT_BLK
    put(64, &u32::from(map::PM + 4).to_le_bytes()); // PM1a_CNT_BLK
    put(76, &u32::from(map::PM + 8).to_le_bytes()); // PM_TMR_BLK
    put(88, &[4, 2, 0, 4]); // lengths: event, control, PM2, timer
    put(96, &0xfffu16.to_le_bytes()); // no C2
    put(98, &0xfffu16.to_le_bytes()); // no C3
    put(108, &[0x32]); // century
    put(109, &3u16.to_le_bytes()); // legacy devices, 8042
    // WBINVD, C1, no sleep button, RTC wake not fixed, 32-bit timer, reset register.
    put(112, &(1u32 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10).to_le_bytes());
    put(116, &io_address(map::RESET, 8));
    put(128, &[sim_dev::acpi::RESET_VALUE]);
    put(131, &[4]); // FADT minor version
    // X_FIRMWARE_CTRL stays 0, as it must beside FIRMWARE_CTRL.
    put(140, &dsdt.to_le_bytes());
    put(148, &io_address(map::PM, 32));
    put(172, &io_address(map::PM + 4, 16));
    put(208, &io_address(map::PM + 8, 32));
    table(b"FACP", 6, &body)
}

fn madt(vcpus: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&(sim_dev::lapic::BASE as u32).to_le_bytes());
    body.extend_from_slice(&1u32.to_le_bytes()); // 8259s are there
    for vcpu in 0..vcpus {
        body.extend_from_slice(&[0, 8, vcpu as u8, vcpu as u8, 1, 0, 0, 0]);
    }
    body.extend_from_slice(&[1, 12, 0, 0]);
    body.extend_from_slice(&(map::IOAPIC as u32).to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    // IRQ 0 is on input 2; the SCI is level, active high.
    body.extend_from_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    body.extend_from_slice(&[2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0]);
    // NMI on LINT1 of every CPU.
    body.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    table(b"APIC", 4, &body)
}

fn hpet() -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&0x8086_a201u32.to_le_bytes());
    body.extend_from_slice(&[0, 64, 0, 0]);
    body.extend_from_slice(&sim_dev::hpet::BASE.to_le_bytes());
    body.extend_from_slice(&[0, sim_dev::hpet::SHORTEST as u8, 0, 0]); // number, minimum tick, no page protection
    table(b"HPET", 1, &body)
}

fn mcfg() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&map::ECAM.to_le_bytes());
    body.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]); // segment 0, buses 0 to 0
    table(b"MCFG", 1, &body)
}

/// AML encoders (§20.2).
mod aml {
    /// A package length and what it covers.
    fn packaged(op: &[u8], content: &[u8]) -> Vec<u8> {
        let mut bytes = op.to_vec();
        if content.len() + 1 < 64 {
            bytes.push(content.len() as u8 + 1);
        } else if content.len() + 2 < 1 << 12 {
            let length = content.len() + 2;
            bytes.extend_from_slice(&[0x40 | (length & 0xf) as u8, (length >> 4) as u8]);
        } else {
            let length = content.len() + 3;
            bytes.extend_from_slice(&[0x80 | (length & 0xf) as u8, (length >> 4) as u8, (length >> 12) as u8]);
        }
        bytes.extend_from_slice(content);
        bytes
    }
    pub fn integer(value: u32) -> Vec<u8> {
        match value {
            0 => vec![0x00],
            1 => vec![0x01],
            2..=0xff => vec![0x0a, value as u8],
            0x100..=0xffff => [&[0x0b][..], &(value as u16).to_le_bytes()].concat(),
            _ => [&[0x0c][..], &value.to_le_bytes()].concat(),
        }
    }
    pub fn name(name: &[u8; 4], value: &[u8]) -> Vec<u8> {
        [&[0x08][..], name, value].concat()
    }
    pub fn package(elements: &[Vec<u8>]) -> Vec<u8> {
        packaged(&[0x12], &[&[elements.len() as u8][..], &elements.concat()].concat())
    }
    pub fn buffer(bytes: &[u8]) -> Vec<u8> {
        packaged(&[0x11], &[integer(bytes.len() as u32), bytes.to_vec()].concat())
    }
    pub fn scope(path: &[u8], content: &[u8]) -> Vec<u8> {
        packaged(&[0x10], &[path, content].concat())
    }
    pub fn device(name: &[u8; 4], content: &[Vec<u8>]) -> Vec<u8> {
        packaged(&[0x5b, 0x82], &[&name[..], &content.concat()].concat())
    }
    /// The first argument of a method.
    pub const ARGUMENT_0: &[u8] = &[0x68];
    /// A method, not serialized.
    pub fn method(name: &[u8; 4], arguments: u8, body: &[u8]) -> Vec<u8> {
        packaged(&[0x14], &[&name[..], &[arguments], body].concat())
    }
    pub fn store(value: &[u8], target: &[u8]) -> Vec<u8> {
        [&[0x70][..], value, target].concat()
    }
    pub fn if_then(condition: &[u8], body: &[u8]) -> Vec<u8> {
        packaged(&[0xa0], &[condition, body].concat())
    }
    /// Return.
    pub fn give_back(value: &[u8]) -> Vec<u8> {
        [&[0xa4], value].concat()
    }
    /// A compressed EISA identifier such as `PNP0A08` (§19.3.4, EISAID).
    pub fn eisa_id(id: &[u8; 7]) -> Vec<u8> {
        let letter = |byte: u8| u32::from(byte - 0x40) & 0x1f;
        let digit = |byte: u8| u32::from(if byte.is_ascii_digit() { byte - b'0' } else { byte - b'A' + 10 });
        let maker = letter(id[0]) << 10 | letter(id[1]) << 5 | letter(id[2]);
        let product = id[3..].iter().fold(0, |value, &byte| value << 4 | digit(byte));
        integer((maker << 16 | product).swap_bytes())
    }
}

/// An I/O port range descriptor (§6.4.2.5).
fn io_range(port: u16, length: u8) -> Vec<u8> {
    let port = port.to_le_bytes();
    vec![0x47, 0x01, port[0], port[1], port[0], port[1], 1, length]
}

/// An interrupt descriptor (§6.4.2.1): edge, active high.
fn irq(line: u8) -> Vec<u8> {
    let mask = (1u16 << line).to_le_bytes();
    vec![0x22, mask[0], mask[1]]
}

/// A word or double-word address space descriptor (§6.4.3.5): producer, fixed minimum and maximum.
fn address_space(wide: bool, kind: u8, flags: u8, minimum: u32, maximum: u32) -> Vec<u8> {
    let fields = [0, minimum, maximum, 0, maximum - minimum + 1];
    let content: Vec<u8> = if wide {
        fields.iter().flat_map(|field| field.to_le_bytes()).collect()
    } else {
        fields.iter().flat_map(|field| (*field as u16).to_le_bytes()).collect()
    };
    let length = (3 + content.len() as u16).to_le_bytes();
    [&[if wide { 0x87 } else { 0x88 }, length[0], length[1], kind, 0x0c, flags][..], &content].concat()
}

fn dsdt() -> Vec<u8> {
    let sleep = u32::from(sim_dev::acpi::SLEEP_TYPE_S5);
    let s5 = aml::name(b"_S5_", &aml::package(&[aml::integer(sleep), aml::integer(sleep), aml::integer(0), aml::integer(0)]));
    const END: [u8; 2] = [0x79, 0];
    let windows = [
        address_space(false, 2, 0, 0, 0), // bus 0
        io_range(0xcf8, 8),
        address_space(false, 1, 3, 0, 0x0cf7),
        address_space(false, 1, 3, 0x0d00, 0xffff),
        address_space(true, 0, 1, map::PCI_WINDOW as u32, map::PCI_WINDOW_LAST as u32),
        END.to_vec(),
    ]
    .concat();
    // Routing (§6.2.13): all functions of a device, INTA#, no link device, the input. Which of the two lists holds is what the kernel tells \_PIC (§5.8.1).
    let routes = |input: fn(u8) -> u8| {
        let rows: Vec<Vec<u8>> = (1..32u8)
            .map(|device| {
                let address = u32::from(device) << 16 | 0xffff;
                aml::package(&[aml::integer(address), aml::integer(0), aml::integer(0), aml::integer(u32::from(input(map::pirq(device))))])
            })
            .collect();
        aml::package(&rows)
    };
    let mode = [aml::name(b"PICM", &aml::integer(0)), aml::method(b"_PIC", 1, &aml::store(aml::ARGUMENT_0, b"\\PICM"))].concat();
    let pci = aml::device(
        b"PCI0",
        &[
            aml::name(b"_HID", &aml::eisa_id(b"PNP0A08")),
            aml::name(b"_CID", &aml::eisa_id(b"PNP0A03")),
            aml::name(b"_UID", &aml::integer(0)),
            aml::name(b"_CRS", &aml::buffer(&windows)),
            aml::name(b"PRTP", &routes(map::pirq_isa)),
            aml::name(b"PRTA", &routes(map::pirq_gsi)),
            aml::method(b"_PRT", 0, &[aml::if_then(b"\\PICM", &aml::give_back(b"PRTA")), aml::give_back(b"PRTP")].concat()),
        ],
    );
    // ECAM belongs to the motherboard: kernels use it only if it is reserved so.
    let ecam_low = map::ECAM as u32;
    let ecam = [
        &[0x86, 9, 0, 1][..],
        &ecam_low.to_le_bytes(),
        &(map::ECAM_BYTES as u32).to_le_bytes(),
        &END,
    ]
    .concat();
    let board =
        aml::device(b"MBRD", &[aml::name(b"_HID", &aml::eisa_id(b"PNP0C02")), aml::name(b"_CRS", &aml::buffer(&ecam))]);
    let serial = |name: &[u8; 4], uid: u32, port: u16, line: u8| {
        aml::device(
            name,
            &[
                aml::name(b"_HID", &aml::eisa_id(b"PNP0501")),
                aml::name(b"_UID", &aml::integer(uid)),
                aml::name(b"_CRS", &aml::buffer(&[io_range(port, 8), irq(line), END.to_vec()].concat())),
            ],
        )
    };
    let rtc = aml::device(
        b"RTC_",
        &[
            aml::name(b"_HID", &aml::eisa_id(b"PNP0B00")),
            aml::name(b"_CRS", &aml::buffer(&[io_range(0x70, 2), irq(8), END.to_vec()].concat())),
        ],
    );
    let devices = [pci, board, serial(b"COM1", 1, map::COM1, 4), serial(b"COM2", 2, map::COM2, 3), rtc].concat();
    let body = [s5, mode, aml::scope(b"\\_SB_", &devices)].concat();
    table(b"DSDT", 2, &body)
}

/// The tables as (address, bytes), and the RSDP's address.
pub(crate) fn tables(vcpus: u32) -> (u64, Vec<(u64, Vec<u8>)>) {
    let mut placed: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut next = TABLES;
    let mut place = |bytes: Vec<u8>| {
        let at = next;
        next = (next + bytes.len() as u64).next_multiple_of(16);
        placed.push((at, bytes));
        at
    };
    let dsdt = place(dsdt());
    let list = [place(fadt(dsdt)), place(madt(vcpus)), place(hpet()), place(mcfg())];
    let entries: Vec<u8> = list.iter().flat_map(|address| address.to_le_bytes()).collect();
    let xsdt = place(table(b"XSDT", 1, &entries));
    let entries: Vec<u8> = list.iter().flat_map(|address| (*address as u32).to_le_bytes()).collect();
    let rsdt = place(table(b"RSDT", 1, &entries));

    let mut rsdp = vec![0u8; 36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(b"ORRERY");
    rsdp[15] = 2;
    rsdp[16..20].copy_from_slice(&(rsdt as u32).to_le_bytes());
    rsdp[20..24].copy_from_slice(&36u32.to_le_bytes());
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    placed.push((RSDP, rsdp));
    placed.push((map::FACS, facs()));
    (RSDP, placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_sums_to_zero_and_none_overlaps() {
        let (rsdp, mut tables) = tables(32);
        assert_eq!(rsdp, RSDP);
        tables.sort();
        for pair in tables.windows(2) {
            assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0);
        }
        for (address, bytes) in tables.iter().filter(|(address, _)| *address != map::FACS) {
            assert_eq!(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "table at {address:#x}");
            assert!(address + bytes.len() as u64 <= 0x10_0000);
        }
    }

    #[test]
    fn eisa_ids_are_compressed_as_the_specification_says() {
        // ACPI 6.4 §19.6.38: EISAID("PNP0C09") is 0x090cd041.
        assert_eq!(aml::eisa_id(b"PNP0C09"), [0x0c, 0x41, 0xd0, 0x0c, 0x09]);
    }
}
