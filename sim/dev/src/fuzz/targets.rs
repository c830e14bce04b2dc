//! The table of targets: a row for each device.

use sim_bus::{Backends, ConsoleId, Cx, DiskId, Effect, Region, WireId};
use sim_core::Rng;

use super::drive::{SECTORS, Shape, nothing, run, value};
use super::network::{MAC, e1000e_act, e1000e_prepare};
use super::storage::{ahci_act, ahci_prepare, nvme_act, nvme_prepare, virtio_act, virtio_prepare};
use super::{Counts, Target};
use crate::{acpi, ahci, debug, e1000e, fwcfg, hpet, i8042, ioapic, lapic, nvme, pci, pic, pit, post, rtc, screen, uart, virtio};

/// A row: name, steps a second in thousands, how to make the device, its regions, its tokens, and how to talk to it.
macro_rules! target {
    ($name:literal, $rate:literal, $make:expr, $regions:expr, $tokens:expr) => {
        target!($name, $rate, $make, $regions, $tokens, nothing, nothing)
    };
    ($name:literal, $rate:literal, $make:expr, $regions:expr, $tokens:expr, $prepare:expr, $act:expr) => {
        Target {
            name: $name,
            second: $rate * 1000,
            run: |random, steps| {
                let shape = Shape { make: $make, regions: $regions, tokens: $tokens, prepare: $prepare, act: $act };
                run(&shape, random, steps)
            },
        }
    };
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target!("uart", 10_000, || uart::Uart::new(ConsoleId(0), false), &[(0, 9)], 3),
    target!("uart-timed", 9000, || uart::Uart::new(ConsoleId(0), true), &[(0, 9)], 3),
    target!("pit", 3000, pit::Pit::default, &[(0, 5), (1, 2)], 2),
    target!("rtc", 11_000, || rtc::Rtc::new(1_767_225_600, 1 << 28), &[(0, 3)], 3),
    target!("hpet", 6500, hpet::Hpet::default, &[(0, 0x170)], 4),
    target!("acpi", 14_000, acpi::Acpi::default, &[(0, 16), (1, 1), (2, 1)], 1),
    target!("i8042", 13_500, i8042::I8042::default, &[(0, 1), (1, 1), (2, 1)], 1),
    target!("fw-cfg", 16_500, || fwcfg::FwCfg::new(1 << 28, 2), &[(0, 4)], 1),
    target!("post", 21_000, post::Post::default, &[(0, 2), (1, 2)], 1),
    target!("debug-exit", 17_000, || debug::DebugExit, &[(0, 4)], 1),
    target!("screen", 10_000, screen::Screen::default, &[(0, 0x8000), (1, 2)], 1),
    target!("pci-config", 16_000, pci::HostBridge::default, &[(0, 64)], 1),
    target!(
        "virtio-blk", 6000,
        || virtio::Virtio::new(virtio::Block::new(DiskId(0), SECTORS, false)),
        &[(0, 0x40), (0, 0x3010), (2, 0x1000)],
        4,
        virtio_prepare,
        virtio_act
    ),
    target!("virtio-rng", 6000, || virtio::Virtio::new(virtio::Entropy), &[(0, 0x40), (0, 0x3010), (2, 0x1000)], 4, virtio_prepare, virtio_act),
    target!(
        "virtio-net", 5000,
        || virtio::Virtio::new(virtio::Net::new(WireId(0), MAC, true)),
        &[(0, 0x40), (0, 0x3010), (2, 0x1000)],
        0x101,
        virtio_prepare,
        virtio_act
    ),
    target!(
        "virtio-console", 1200,
        || virtio::Virtio::new(virtio::Console::new(ConsoleId(0))),
        &[(0, 0x40), (0, 0x3010), (2, 0x1000)],
        0x101,
        virtio_prepare,
        virtio_act
    ),
    target!(
        "e1000e", 900,
        || e1000e::E1000e::new(WireId(0), MAC, true),
        &[(0, 0x120), (0, 0x1030), (0, 0x2830), (0, 0x3830), (0, 0x4128), (0, 0x5c00), (3, 0x60)],
        14,
        e1000e_prepare,
        e1000e_act
    ),
    target!("nvme", 2600, || nvme::Nvme::with_namespace(DiskId(0), SECTORS, false), &[(0, 0x44), (0, 0x1120), (4, 0x1000)], 4, nvme_prepare, nvme_act),
    target!("ahci", 3800, || ahci::Ahci::with_disk(DiskId(0), SECTORS), &[(5, 0x30), (5, 0x180)], 4, ahci_prepare, ahci_act),
    Target { name: "interrupts", second: 16_000_000, run: interrupts },
];

/// Local APIC, I/O APIC and 8259s: no nodes, but types the board holds.
fn interrupts(random: &mut Rng, steps: u64) -> Counts {
    let mut counts = Counts { devices: 1, ..Counts::default() };
    let mut lapic = lapic::Lapic::new(3, true, 1_000_000);
    let mut ioapic = ioapic::IoApic::default();
    let mut pic = pic::PicPair::default();
    let mut backends = Backends::new(1);
    let mut now = 0;
    for _ in 0..steps {
        now += random.below(10_000);
        let mut effects: Vec<Effect> = Vec::new();
        let mut cx = Cx::new(now, &mut effects, &mut backends, None);
        let cx = &mut cx;
        let value = value(random);
        let size = 1u8 << random.below(4);
        counts.accesses += 1;
        match random.below(14) {
            0 => {
                lapic.read(random.below(0x1000), size, cx);
            }
            1 | 2 => lapic.write(16 * random.below(64), size, value, cx),
            3 => {
                lapic.write_msr(0x800 + random.below(0x40) as u32, value, cx);
            }
            4 => {
                lapic.write_msr(0x1b, value, cx);
            }
            5 => {
                lapic.write_msr(0x1b, 0xfee0_0000 | random.below(16) << 8, cx);
            }
            6 => lapic.accept(value as u8, value & 0x100 != 0, cx),
            7 => {
                lapic.acknowledge();
                lapic.expire(cx);
            }
            8 => {
                ioapic.read(16 * random.below(6), size, cx);
            }
            9 => ioapic.write(16 * random.below(6), size, value, cx),
            10 => ioapic.set_line(random.below(32) as u8, value & 1 != 0, cx),
            11 => {
                pic.read(Region(random.below(3) as u16), random.below(3), size, cx);
            }
            12 => pic.write(Region(random.below(3) as u16), random.below(3), size, value, cx),
            _ => {
                pic.set_line(random.below(20) as u8, value & 1 != 0);
                pic.acknowledge();
            }
        }
        for effect in effects {
            match effect {
                Effect::Message { .. } | Effect::Ipi(_) => counts.interrupts += 1,
                Effect::Unimplemented(_) => counts.reports += 1,
                _ => {}
            }
        }
    }
    counts
}
