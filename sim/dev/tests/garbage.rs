//! Every model programmed with noise: nothing panics, and what is saved loads again.

use sim_bus::bench::Bench;
use sim_bus::{Backends, Cx, Effect, Node, Region, Reset, Token};
use sim_core::{Rng, Streams};

/// Accesses per device and seed.
const ROUNDS: u32 = 20_000;

/// Odd values are likelier than their share: all ones, powers of two, small numbers.
fn value(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => u64::MAX,
        1 => 1 << rng.below(64),
        2 => rng.below(16),
        3 => rng.below(256),
        _ => rng.next_u64(),
    }
}

fn garble(name: &str, node: impl Node, regions: u16, span: u64, tokens: u16) {
    let mut rng = Streams::new(7).stream(name);
    let mut bench = Bench::new(node);
    bench.backends = Backends::new(3);
    bench.backends.add_console();
    bench.memory = vec![0; 1 << 16];
    for round in 0..ROUNDS {
        let region = rng.below(u64::from(regions)) as u16;
        let size = 1u8 << rng.below(4);
        let offset = rng.below(span);
        match rng.below(12) {
            0..=3 => {
                bench.read(region, offset, size);
            }
            4..=8 => {
                let value = value(&mut rng) & (u64::MAX >> (64 - 8 * u32::from(size)));
                bench.write(region, offset, size, value);
            }
            9 => {
                let register = rng.below(0x200) as u16;
                let value = value(&mut rng);
                bench.call(|node, cx| {
                    node.config_write(register, size, value, cx);
                    node.config_read(register, size, cx)
                });
            }
            10 => {
                let token = Token(rng.below(u64::from(tokens) + 1) as u16);
                bench.fire(token);
            }
            _ => {
                let step = match rng.below(4) {
                    0 => 1,
                    1 => rng.below(1000),
                    2 => rng.below(1_000_000_000),
                    _ => 10_000,
                };
                bench.now += step;
                for _ in 0..8 {
                    let Some((_, token)) = bench.timers.pop(bench.now) else { break };
                    bench.fire(token);
                }
                if let Some(console) = bench.backends.console_mut(sim_bus::ConsoleId(0)).filter(|console| console.len() < 64) {
                    console.push_back(round as u8);
                }
                bench.call(|node, cx| node.input(cx));
            }
        }
        if bench.effects.len() > 1000 {
            bench.take();
        }
    }
    let saved = bench.node.save();
    bench.node.load(&saved).unwrap_or_else(|error| panic!("{name} does not take back its own state: {error}"));
    assert_eq!(bench.node.save(), saved, "{name}");
    bench.call(|node, cx| node.reset(Reset::Warm, cx));
}

#[test]
fn nodes_take_garbage() {
    use sim_dev::*;
    garble("uart", uart::Uart::new(sim_bus::ConsoleId(0), false), 1, 9, 3);
    garble("uart timed", uart::Uart::new(sim_bus::ConsoleId(0), true), 1, 9, 3);
    garble("pit", pit::Pit::default(), 2, 5, 2);
    garble("rtc", rtc::Rtc::new(1_767_225_600, 1 << 28), 1, 3, 3);
    garble("hpet", hpet::Hpet::default(), 1, 0x170, 4);
    garble("acpi", acpi::Acpi::default(), 3, 16, 1);
    garble("i8042", i8042::I8042::default(), 3, 2, 1);
    garble("fw-cfg", fwcfg::FwCfg::new(1 << 28, 2), 1, 4, 1);
    garble("post", post::Post::default(), 2, 2, 1);
    garble("debug-exit", debug::DebugExit, 1, 4, 1);
    garble("pci-host", pci::HostBridge::default(), 1, 64, 1);
    garble("virtio-blk", virtio::Virtio::new(virtio::Block::new(sim_bus::DiskId(0), 16, false)), 3, 0x40, 1);
    garble("virtio-rng", virtio::Virtio::new(virtio::Entropy), 3, 0x3010, 1);
}

/// Rings full of noise in memory, set up properly: the device must refuse or serve, never hang.
#[test]
fn virtqueues_take_garbage() {
    use sim_dev::virtio::{Entropy, Virtio};
    let mut rng = Streams::new(7).stream("rings");
    for _ in 0..300 {
        let mut bench = Bench::new(Virtio::new(Entropy));
        bench.memory = vec![0; 0x8000];
        rng.fill(&mut bench.memory);
        for descriptor in 0..256 {
            // Addresses and lengths that often make sense.
            let at = 16 * descriptor;
            bench.memory[at + 2..at + 8].fill(0);
            bench.memory[at + 10..at + 12].fill(0);
            bench.memory[at + 13] = 0;
            bench.memory[at + 15] = 0;
        }
        bench.call(|node, cx| node.config_write(4, 2, 6, cx));
        for (offset, size, value) in
            [(8u64, 4u8, 1u64), (12, 4, 1), (20, 1, 11), (32, 8, 0), (40, 8, 0x4000), (48, 8, 0x6000), (28, 2, 1), (20, 1, 15)]
        {
            bench.write(0, offset, size, value);
        }
        let available = rng.below(300) as u16;
        bench.memory[0x4002..0x4004].copy_from_slice(&available.to_le_bytes());
        for _ in 0..4 {
            bench.write(0, 0x3000, 2, 0);
            let until = bench.now + 1_000_000;
            bench.run_to(until);
            bench.take();
        }
    }
}

#[test]
fn the_interrupt_fabric_takes_garbage() {
    let mut rng = Streams::new(7).stream("fabric");
    let mut lapic = sim_dev::lapic::Lapic::new(3, true, 1_000_000);
    let mut ioapic = sim_dev::ioapic::IoApic::default();
    let mut pic = sim_dev::pic::PicPair::default();
    let mut backends = Backends::new(1);
    let mut now = 0;
    for _ in 0..ROUNDS * 4 {
        now += rng.below(10_000);
        let mut effects: Vec<Effect> = Vec::new();
        let mut cx = Cx::new(now, &mut effects, &mut backends, None);
        let cx = &mut cx;
        let value = value(&mut rng);
        let size = 1u8 << rng.below(4);
        match rng.below(14) {
            0 => {
                lapic.read(rng.below(0x1000), size, cx);
            }
            1 | 2 => lapic.write(16 * rng.below(64), size, value, cx),
            3 => {
                lapic.write_msr(0x800 + rng.below(0x40) as u32, value, cx);
            }
            4 => {
                lapic.write_msr(0x1b, value, cx);
            }
            5 => {
                lapic.write_msr(0x1b, 0xfee0_0000 | rng.below(16) << 8, cx);
            }
            6 => lapic.accept(value as u8, value & 0x100 != 0, cx),
            7 => {
                lapic.acknowledge();
                lapic.expire(cx);
            }
            8 => {
                ioapic.read(16 * rng.below(6), size, cx);
            }
            9 => ioapic.write(16 * rng.below(6), size, value, cx),
            10 => ioapic.set_line(rng.below(32) as u8, value & 1 != 0, cx),
            11 => {
                pic.read(Region(rng.below(3) as u16), rng.below(3), size, cx);
            }
            12 => pic.write(Region(rng.below(3) as u16), rng.below(3), size, value, cx),
            _ => {
                pic.set_line(rng.below(20) as u8, value & 1 != 0);
                pic.acknowledge();
            }
        }
    }
}

#[test]
#[should_panic(expected = "canary")]
fn the_canary_dies() {
    struct Canary;
    impl Node for Canary {
        fn kind(&self) -> &'static str {
            "canary"
        }
        fn read(&mut self, _region: Region, _offset: u64, _size: u8, _cx: &mut Cx<'_>) -> u64 {
            0
        }
        fn write(&mut self, _region: Region, _offset: u64, _size: u8, value: u64, _cx: &mut Cx<'_>) {
            assert_ne!(value, u64::MAX, "canary");
        }
        fn event(&mut self, _what: Token, _cx: &mut Cx<'_>) {}
        fn input(&mut self, _cx: &mut Cx<'_>) {}
        fn reset(&mut self, _how: Reset, _cx: &mut Cx<'_>) {}
        fn state(&mut self, _fields: &mut dyn sim_bus::Fields) {}
    }
    garble("canary", Canary, 1, 4, 1);
}
