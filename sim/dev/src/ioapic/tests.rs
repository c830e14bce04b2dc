use sim_bus::{Backends, Cx, Effect};

use super::IoApic;

struct Rig {
    chip: IoApic,
    effects: Vec<Effect>,
    backends: Backends,
}

impl Rig {
    fn new() -> Self {
        Self { chip: IoApic::default(), effects: Vec::new(), backends: Backends::new(1) }
    }
    fn run<R>(&mut self, work: impl FnOnce(&mut IoApic, &mut Cx<'_>) -> R) -> R {
        work(&mut self.chip, &mut Cx::new(0, &mut self.effects, &mut self.backends, None))
    }
    fn set(&mut self, register: u64, value: u64) {
        self.run(|chip, cx| {
            chip.write(0, 4, register, cx);
            chip.write(0x10, 4, value, cx);
        });
    }
    fn get(&mut self, register: u64) -> u64 {
        self.run(|chip, cx| {
            chip.write(0, 4, register, cx);
            chip.read(0x10, 4, cx)
        })
    }
    fn line(&mut self, input: u8, level: bool) -> Vec<Effect> {
        self.run(|chip, cx| chip.set_line(input, level, cx));
        std::mem::take(&mut self.effects)
    }
}

#[test]
fn version_says_24_inputs_and_entries_start_masked() {
    let mut rig = Rig::new();
    assert_eq!(rig.get(1), 0x17_0020);
    assert_eq!(rig.get(0x10 + 2 * 23), 1 << 16);
}

#[test]
fn an_edge_sends_once() {
    let mut rig = Rig::new();
    rig.set(0x18, 0x31);
    rig.set(0x19, 3 << 24);
    assert_eq!(rig.line(4, true), [Effect::Message { address: 0xfee0_3000, data: 0x4031 }]);
    assert!(rig.line(4, true).is_empty());
    assert!(rig.line(4, false).is_empty());
    assert_eq!(rig.line(4, true).len(), 1);
}

#[test]
fn a_masked_edge_is_lost() {
    let mut rig = Rig::new();
    rig.line(4, true);
    rig.set(0x18, 0x31);
    assert!(rig.effects.is_empty());
}

#[test]
fn a_level_sends_again_after_eoi_while_asserted() {
    let mut rig = Rig::new();
    rig.set(0x10 + 2 * 16, 0xa045); // level, active low
    assert_eq!(rig.line(16, true).len(), 1);
    assert_eq!(rig.get(0x10 + 2 * 16) & (1 << 14), 1 << 14, "remote IRR");
    assert!(rig.line(16, true).is_empty());
    rig.run(|chip, cx| chip.end_of_interrupt(0x45, cx));
    assert_eq!(std::mem::take(&mut rig.effects).len(), 1);
    rig.line(16, false);
    rig.run(|chip, cx| chip.write(0x40, 4, 0x45, cx));
    assert!(rig.effects.is_empty());
    assert_eq!(rig.get(0x10 + 2 * 16) & (1 << 14), 0);
}

#[test]
fn an_nmi_is_an_edge_whatever_its_entry_says() {
    let mut rig = Rig::new();
    rig.set(0x10 + 2 * 5, 0x8400);
    for _ in 0..2 {
        assert_eq!(rig.line(5, true).len(), 1, "no EOI will ever come");
        assert!(rig.line(5, false).is_empty());
    }
    assert_eq!(rig.get(0x10 + 2 * 5), 0x8400);
}

#[test]
fn parts_of_the_window_are_reported() {
    let mut rig = Rig::new();
    rig.set(0x18, 0x31);
    rig.run(|chip, cx| chip.write(0x10, 1, 0x55, cx));
    assert!(matches!(std::mem::take(&mut rig.effects)[..], [Effect::Unimplemented(_)]));
    assert_eq!(rig.get(0x18), 0x31);
}
