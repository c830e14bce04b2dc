use sim_bus::bench::Bench;
use sim_bus::{Effect, Node, Region};

use super::{Bar, ConfigAddress, ConfigPorts, Function, HostBridge, Identity, MsiX, ecam};

#[test]
fn mechanism_one() {
    let mut ports = ConfigPorts::default();
    assert_eq!(ports.target(4, 4), None, "not enabled");
    ports.write(0, 4, 0x8000_1804);
    assert_eq!(ports.target(6, 2), Some(ConfigAddress { bus: 0, device: 3, function: 0, register: 6 }));
    ports.write(0, 1, 0);
    assert_eq!(ports.read(0, 4), 0x8000_1804, "byte writes are not for this register");
    assert_eq!(ports.target(6, 4), None, "past the end");
    assert_eq!(ecam(0x1_9004), ConfigAddress { bus: 0, device: 3, function: 1, register: 4 });
}

#[test]
fn host_bridge_answers() {
    let mut bench = Bench::new(HostBridge::default());
    assert_eq!(bench.call(|node, cx| node.config_read(0, 4, cx)), 0x29c0_8086);
    bench.call(|node, cx| node.config_write(0, 4, 0, cx));
    assert_eq!(bench.call(|node, cx| node.config_read(0, 2, cx)), 0x8086, "read-only");
}

/// A node that is nothing but a function.
struct Probe(Function, MsiX);
impl Node for Probe {
    fn kind(&self) -> &'static str {
        "probe"
    }
    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut sim_bus::Cx<'_>) -> u64 {
        self.1.read(region, offset, size, cx)
    }
    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut sim_bus::Cx<'_>) {
        self.1.write(region, offset, size, value, &self.0, cx);
    }
    fn event(&mut self, what: sim_bus::Token, cx: &mut sim_bus::Cx<'_>) {
        self.1.raise(what.0, &self.0, cx);
    }
    fn input(&mut self, _cx: &mut sim_bus::Cx<'_>) {}
    fn reset(&mut self, _how: sim_bus::Reset, cx: &mut sim_bus::Cx<'_>) {
        self.0.reset(cx);
    }
    fn state(&mut self, fields: &mut dyn sim_bus::Fields) {
        self.0.state(fields);
        self.1.state(fields);
    }
    fn config_read(&mut self, register: u16, size: u8, _cx: &mut sim_bus::Cx<'_>) -> u64 {
        self.0.read(register, size)
    }
    fn config_write(&mut self, register: u16, size: u8, value: u64, cx: &mut sim_bus::Cx<'_>) {
        self.0.write(register, size, value, cx);
        self.1.settle(&self.0, cx);
    }
}

fn probe() -> Bench<Probe> {
    let mut function =
        Function::new(Identity { vendor: 1, device: 2, ..Identity::default() }).with_bar(Bar::wide(0, 0x4000, Region(5)));
    let msix = MsiX::new(&mut function, 0, 3);
    Bench::new(Probe(function, msix))
}

#[test]
fn bar_sizing_and_moving() {
    let mut bench = probe();
    bench.call(|node, cx| node.config_write(0x10, 4, 0xffff_ffff, cx));
    bench.call(|node, cx| node.config_write(0x14, 4, 0xffff_ffff, cx));
    assert_eq!(bench.call(|node, cx| node.config_read(0x10, 4, cx)), 0xffff_c004);
    assert_eq!(bench.call(|node, cx| node.config_read(0x14, 4, cx)), 0xffff_ffff);
    bench.call(|node, cx| node.config_write(0x10, 4, 0xe000_0000, cx));
    bench.call(|node, cx| node.config_write(0x14, 4, 0, cx));
    bench.take();
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    assert_eq!(bench.take(), [Effect::Window { region: Region(5), base: Some(0xe000_0000), length: 0x4000 }]);
}

#[test]
fn msix_sends_or_pends() {
    let mut bench = probe();
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    bench.write(5, 16, 4, 0xfee0_0000);
    bench.write(5, 24, 4, 0x41);
    bench.take();
    bench.call(|node, cx| node.event(sim_bus::Token(1), cx));
    assert!(bench.take().is_empty(), "not enabled");
    bench.call(|node, cx| node.config_write(0x42, 2, 0x8000, cx));
    bench.call(|node, cx| node.event(sim_bus::Token(1), cx));
    assert!(bench.take().is_empty(), "masked");
    assert_eq!(bench.read(5, 0x800, 4), 2);
    bench.write(5, 28, 4, 0);
    assert_eq!(bench.take(), [Effect::Message { address: 0xfee0_0000, data: 0x41 }]);
    assert_eq!(bench.read(5, 0x800, 4), 0);
    bench.call(|node, cx| node.event(sim_bus::Token(9), cx));
    assert!(bench.take().is_empty(), "no such vector");
}

#[test]
fn narrow_bars_and_the_single_message() {
    let mut function = Function::new(Identity { vendor: 1, device: 2, ..Identity::default() })
        .with_bar(Bar::narrow(0, 0x2_0000, Region(0)))
        .with_bar(Bar::narrow(3, 0x4000, Region(3)))
        .with_power_management()
        .with_express()
        .with_pin();
    let msi = super::Msi::new(&mut function);
    let mut bench = Bench::new(Probe(function.clone(), MsiX::new(&mut function, 3, 1)));
    for (register, seen) in [(0x10u16, 0xfffe_0000u64), (0x14, 0), (0x18, 0), (0x1c, 0xffff_c000), (0x20, 0)] {
        bench.call(|node, cx| node.config_write(register, 4, 0xffff_ffff, cx));
        assert_eq!(bench.call(|node, cx| node.config_read(register, 4, cx)), seen, "register {register:#x}");
    }
    let mut ids = Vec::new();
    let mut at = bench.call(|node, cx| node.config_read(0x34, 1, cx)) as u16;
    while at != 0 {
        ids.push((bench.call(|node, cx| node.config_read(at, 1, cx)), at));
        at = bench.call(|node, cx| node.config_read(at + 1, 1, cx)) as u16;
    }
    assert_eq!(ids.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0x10, 5]);
    let capability = ids[2].1;
    bench.call(|node, cx| node.config_write(capability + 4, 4, 0xfee0_1003, cx));
    bench.call(|node, cx| node.config_write(capability + 12, 2, 0x31, cx));
    bench.call(|node, cx| node.config_write(4, 2, 4, cx));
    bench.take();
    bench.call(|node, cx| msi.raise(&node.0, cx));
    assert!(bench.take().is_empty(), "not enabled");
    bench.call(|node, cx| node.config_write(capability + 2, 2, 1, cx));
    bench.call(|node, cx| msi.raise(&node.0, cx));
    assert_eq!(bench.take().last(), Some(&Effect::Message { address: 0xfee0_1000, data: 0x31 }));
    // INTA# follows the condition and the disable bit.
    bench.call(|node, cx| node.0.interrupt(true, cx));
    assert!(bench.pins[0]);
    bench.call(|node, cx| node.config_write(4, 2, 0x404, cx));
    assert!(!bench.pins[0], "disabled");
    bench.call(|node, cx| node.config_write(4, 2, 4, cx));
    assert!(bench.pins[0], "still asserted");
}

#[test]
fn the_byte_with_the_interrupt_disable_bit_acts_alone() {
    let function = Function::new(Identity::default()).with_bar(Bar::wide(0, 0x4000, Region(5))).with_pin();
    let mut table = Function::new(Identity::default());
    let mut bench = Bench::new(Probe(function, MsiX::new(&mut table, 0, 1)));
    bench.call(|node, cx| node.0.interrupt(true, cx));
    assert!(bench.pins[0]);
    bench.call(|node, cx| node.config_write(5, 1, 4, cx));
    assert!(!bench.pins[0]);
    assert_eq!(bench.call(|node, cx| node.config_read(6, 1, cx)) & 8, 8, "the status tells still");
}

#[test]
fn a_sleeping_function_answers_to_configuration_alone() {
    let mut bench = probe();
    bench.node.0 = bench.node.0.clone().with_power_management().with_express();
    bench.call(|node, cx| node.config_write(0x10, 4, 0xe000_0000, cx));
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    let power = bench.call(|node, cx| node.config_read(0x41, 1, cx)) as u16 + 4;
    bench.call(|node, cx| node.config_write(power, 1, 2, cx));
    assert_eq!(bench.call(|node, cx| node.config_read(power, 1, cx)), 8, "D2 is not there");
    bench.take();
    bench.call(|node, cx| node.config_write(power, 2, 3, cx));
    assert_eq!(bench.take(), [Effect::Window { region: Region(5), base: None, length: 0x4000 }]);
    assert!(!bench.node.0.is_master());
    bench.call(|node, cx| node.config_write(power, 2, 0, cx));
    assert_eq!(bench.take(), [Effect::Window { region: Region(5), base: Some(0xe000_0000), length: 0x4000 }]);
    let express = bench.call(|node, cx| node.config_read(power - 3, 1, cx)) as u16;
    assert_eq!(bench.call(|node, cx| node.config_read(express + 8, 2, cx)), 0x2810, "device control");
}

#[test]
fn function_mask_and_what_lies_past_the_table() {
    let mut bench = probe();
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    bench.call(|node, cx| node.config_write(0x42, 2, 0xc000, cx));
    for vector in [0u64, 2] {
        bench.write(5, 16 * vector, 8, 0xfee0_1000);
        bench.write(5, 16 * vector + 8, 8, 0x50 + vector);
        bench.call(|node, cx| node.event(sim_bus::Token(vector as u16), cx));
    }
    bench.call(|node, cx| node.event(sim_bus::Token(1), cx));
    assert_eq!(bench.read(5, 0x800, 8), 7, "all are pending");
    bench.take();
    bench.call(|node, cx| node.config_write(0x43, 1, 0x80, cx));
    assert_eq!(bench.take(), [0x50, 0x52].map(|data| Effect::Message { address: 0xfee0_1000, data }));
    assert_eq!(bench.read(5, 0x800, 4), 2, "one has its own mask");
    for (offset, told) in [(0x2cu64, 0), (0x30, 2), (0x800, 1), (0x804, 1), (0x808, 2)] {
        bench.take();
        bench.read(5, offset, 4);
        bench.write(5, offset, 4, 0);
        let count = bench.take().into_iter().filter(|effect| matches!(effect, Effect::Unimplemented(_))).count();
        assert_eq!(count, told, "{offset:#x}");
    }
}
