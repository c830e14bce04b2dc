//! Finding functions in a configuration space of our own.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;

/// Configuration space as a map; what is not there reads as ones.
#[derive(Default)]
struct Space(Mutex<BTreeMap<(Address, u16), u32>>);

impl ConfigSpace for Space {
    fn read32(&self, at: Address, offset: u16) -> u32 {
        let map = self.0.lock().unwrap();
        let exists = map.contains_key(&(at, 0));
        map.get(&(at, offset)).copied().unwrap_or(if exists { 0 } else { u32::MAX })
    }
    fn write32(&self, at: Address, offset: u16, value: u32) {
        self.0.lock().unwrap().insert((at, offset), value);
    }
}

const fn at(bus: u8, device: u8, function: u8) -> Address {
    Address { bus, device, function }
}

#[test]
fn functions_are_found_behind_bridges_and_loops_end() {
    let space = Space::default();
    space.write32(at(0, 0, 0), 0, 0x1237_8086);
    // A device of two functions; the first one's capability list loops.
    space.write32(at(0, 3, 0), 0, 0x1042_1af4);
    space.write32(at(0, 3, 0), HEADER, 0x80 << 16);
    space.write32(at(0, 3, 0), COMMAND, STATUS_CAPABILITIES);
    space.write32(at(0, 3, 0), CAPABILITIES, 0x40);
    space.write32(at(0, 3, 0), 0x40, 0x5009);
    space.write32(at(0, 3, 0), 0x50, 0x4011);
    space.write32(at(0, 3, 5), 0, 0x1041_1af4);
    // A bridge to bus 2, and one on bus 2 that leads back to bus 0.
    space.write32(at(0, 4, 0), 0, 0x000c_1b36);
    space.write32(at(0, 4, 0), HEADER, 1 << 16);
    space.write32(at(0, 4, 0), BUSES, 2 << 8);
    space.write32(at(2, 0, 0), 0, 0x000c_1b36);
    space.write32(at(2, 0, 0), HEADER, 1 << 16);
    space.write32(at(2, 0, 0), BUSES, 0);
    space.write32(at(2, 1, 0), 0, 0x0010_1b36);
    let found = scan(&space);
    let addresses: Vec<Address> = found.iter().map(|function| function.address).collect();
    assert_eq!(addresses, [at(0, 0, 0), at(0, 3, 0), at(0, 3, 5), at(0, 4, 0), at(2, 0, 0), at(2, 1, 0)]);
    let disk = &found[1];
    assert_eq!((disk.vendor, disk.device, disk.capabilities.len()), (0x1af4, 0x1042, 48));
    assert_eq!(disk.capabilities[..2], [(9, 0x40), (0x11, 0x50)]);
}

#[test]
fn bars() {
    let space = Space::default();
    let here = at(0, 1, 0);
    space.write32(here, 0, 1);
    for (index, value) in [(0, 0xfebf_000c), (1, 0x12), (2, 0xfe00_0000), (3, 0xc001), (4, 0), (5, 0xfd00_0004)] {
        space.write32(here, BARS + 4 * index, value);
    }
    let function = &scan(&space)[0];
    let bar = |index| function.bar(&space, index);
    assert_eq!(bar(0), Ok(0x12_febf_0000), "64 bits");
    assert_eq!(bar(2), Ok(0xfe00_0000));
    for (index, why) in [(3, "ports"), (4, "not placed"), (5, "half of a 64-bit BAR"), (6, "no such BAR")] {
        assert_eq!(bar(index), Err(PciError::NoBar(index)), "{why}");
    }
}
