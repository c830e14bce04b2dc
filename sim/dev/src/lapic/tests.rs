use sim_bus::{Backends, Cx, Effect, Nanos};

use super::{Lapic, MSR_APIC_BASE, MSR_TSC_DEADLINE, ns_at_tsc, tsc_at};

struct Rig {
    chip: Lapic,
    now: Nanos,
    effects: Vec<Effect>,
    backends: Backends,
}

impl Rig {
    fn new() -> Self {
        let mut chip = Lapic::new(2, true, 1_000_000);
        chip.virtual_wire();
        Self { chip, now: 0, effects: Vec::new(), backends: Backends::new(1) }
    }
    fn run<R>(&mut self, work: impl FnOnce(&mut Lapic, &mut Cx<'_>) -> R) -> R {
        work(&mut self.chip, &mut Cx::new(self.now, &mut self.effects, &mut self.backends, None))
    }
    fn write(&mut self, offset: u64, value: u64) {
        self.run(|chip, cx| chip.write(offset, 4, value, cx));
    }
    fn read(&mut self, offset: u64) -> u64 {
        self.run(|chip, cx| chip.read(offset, 4, cx))
    }
    fn accept(&mut self, vector: u8, level: bool) {
        self.run(|chip, cx| chip.accept(vector, level, cx));
    }
}

#[test]
fn reset_values() {
    let mut chip = Lapic::new(0, false, 1_000_000);
    let (mut effects, mut backends) = (Vec::new(), Backends::new(1));
    let mut cx = Cx::new(0, &mut effects, &mut backends, None);
    for (offset, value) in [(0x30, 0x50014), (0xf0, 0xff), (0xe0, 0xffff_ffff), (0x320, 0x10000), (0x350, 0x10000), (0x80, 0)] {
        assert_eq!(chip.read(offset, 4, &mut cx), value, "offset {offset:#x}");
    }
}

#[test]
fn priority_classes_nest() {
    let mut rig = Rig::new();
    rig.accept(0x45, false);
    assert_eq!(rig.chip.acknowledge(), Some(0x45));
    rig.accept(0x4f, false);
    assert_eq!(rig.chip.acknowledge(), None, "same class waits");
    rig.accept(0x51, false);
    assert_eq!(rig.chip.acknowledge(), Some(0x51));
    assert_eq!(rig.read(0xa0), 0x50);
    rig.write(0xb0, 0);
    assert_eq!(rig.chip.acknowledge(), None);
    rig.write(0xb0, 0);
    assert_eq!(rig.chip.acknowledge(), Some(0x4f));
}

#[test]
fn task_priority_holds_back() {
    let mut rig = Rig::new();
    rig.chip.set_cr8(4);
    rig.accept(0x4f, false);
    assert!(!rig.chip.wants_interrupt(false));
    rig.chip.set_cr8(3);
    assert!(rig.chip.wants_interrupt(false));
}

#[test]
fn level_vectors_broadcast_their_end() {
    let mut rig = Rig::new();
    rig.accept(0x60, true);
    assert_eq!(rig.read(0x1b0), 1, "TMR");
    rig.chip.acknowledge();
    rig.write(0xb0, 0);
    assert_eq!(rig.effects, [Effect::Eoi(0x60)]);
    assert_eq!(rig.read(0x1b0), 1, "TMR tells of the last acceptance");
    rig.accept(0x60, false);
    assert_eq!(rig.read(0x1b0), 0);
}

#[test]
fn one_shot_counts_down_and_fires_once() {
    let mut rig = Rig::new();
    rig.write(0x3e0, 0x3); // divide by 16
    rig.write(0x320, 0x40);
    rig.write(0x380, 100);
    assert_eq!(rig.effects, [Effect::Set { token: super::TIMER, at: 1600 }]);
    rig.now = 800;
    assert_eq!(rig.read(0x390), 50);
    rig.now = 1600;
    rig.run(|chip, cx| chip.expire(cx));
    assert_eq!(rig.chip.acknowledge(), Some(0x40));
    assert_eq!(rig.read(0x390), 0);
}

#[test]
fn periodic_does_not_drift() {
    let mut rig = Rig::new();
    rig.write(0x3e0, 0xb); // divide by 1
    rig.write(0x320, 0x2_0040);
    rig.write(0x380, 1000);
    rig.effects.clear();
    rig.now = 1003; // a tick longer than a nanosecond overshoots
    rig.run(|chip, cx| chip.expire(cx));
    assert_eq!(rig.effects, [Effect::Set { token: super::TIMER, at: 2000 }]);
}

#[test]
fn tsc_deadline_arms_and_disarms() {
    let mut rig = Rig::new();
    rig.write(0x320, 0x4_0040);
    rig.effects.clear();
    assert!(rig.run(|chip, cx| chip.write_msr(MSR_TSC_DEADLINE, 5000, cx)));
    assert_eq!(rig.effects, [Effect::Set { token: super::TIMER, at: 5000 }]);
    assert_eq!(rig.chip.read_msr(MSR_TSC_DEADLINE, 10), Some(5000));
    rig.now = 5000;
    rig.run(|chip, cx| chip.expire(cx));
    assert_eq!(rig.chip.acknowledge(), Some(0x40));
    assert_eq!(rig.chip.read_msr(MSR_TSC_DEADLINE, 5000), Some(0));
}

#[test]
fn x2apic_mode() {
    let mut rig = Rig::new();
    let base = rig.chip.read_msr(MSR_APIC_BASE, 0).expect("always there");
    assert!(rig.chip.read_msr(0x802, 0).is_none(), "no x2APIC MSRs before the mode is on");
    assert!(rig.run(|chip, cx| chip.write_msr(MSR_APIC_BASE, base | 1 << 10, cx)));
    assert_eq!(rig.chip.read_msr(0x802, 0), Some(2));
    assert_eq!(rig.chip.read_msr(0x80d, 0), Some(4), "cluster 0, bit 2");
    assert!(!rig.run(|chip, cx| chip.write_msr(0x80b, 1, cx)), "EOI takes only zero");
    assert!(rig.run(|chip, cx| chip.write_msr(0x835, 0x5700, cx)), "read-only bits of LINT0 are ignored");
    assert_eq!(rig.chip.read_msr(0x835, 0), Some(0x700));
    assert!(!rig.run(|chip, cx| chip.write_msr(0x832, 0x4000, cx)), "reserved in the timer's");
    assert!(rig.run(|chip, cx| chip.write_msr(0x830, 7 << 32 | 0x4033, cx)));
    assert_eq!(rig.effects.pop(), Some(Effect::Ipi(7 << 32 | 0x4033)));
    assert!(!rig.run(|chip, cx| chip.write_msr(MSR_APIC_BASE, base, cx)), "not straight back to xAPIC");
}

#[test]
fn destinations() {
    let mut rig = Rig::new();
    assert!(rig.chip.matches(2, false, false) && rig.chip.matches(0xff, false, false) && !rig.chip.matches(3, false, false));
    rig.write(0xd0, 0x0400_0000);
    assert!(rig.chip.matches(0x0c, true, false) && !rig.chip.matches(0x03, true, false), "flat");
    rig.write(0xe0, 0x0fff_ffff);
    rig.write(0xd0, 0x1200_0000);
    assert!(rig.chip.matches(0x13, true, false) && !rig.chip.matches(0x23, true, false), "cluster");
}

#[test]
fn errors_latch_on_write() {
    let mut rig = Rig::new();
    rig.write(0x370, 0x44);
    rig.write(0x300, 0x0000_0005); // illegal vector
    assert_eq!(rig.read(0x280), 0);
    rig.write(0x280, 0);
    assert_eq!(rig.read(0x280), 0x20);
    assert_eq!(rig.chip.acknowledge(), Some(0x44));
    rig.write(0x280, 0);
    assert_eq!(rig.read(0x280), 0);
}

#[test]
fn software_disable_masks_the_table() {
    let mut rig = Rig::new();
    rig.write(0x320, 0x40);
    rig.write(0xf0, 0xff);
    assert_eq!(rig.read(0x320), 0x1_0040);
    rig.write(0x320, 0x40);
    assert_eq!(rig.read(0x320), 0x1_0040, "and keeps it masked");
}

#[test]
fn tsc_conversion_rounds_so_that_a_deadline_is_never_early() {
    for khz in [1_000_000u64, 2_399_998, 999_999, 3_500_000] {
        for tsc in [0u64, 1, 7, 1_000_003, u64::MAX / 4_000_000] {
            let ns = ns_at_tsc(tsc, khz);
            assert!(tsc_at(ns, khz) >= tsc, "{tsc} at {khz}");
            assert!(ns == 0 || tsc_at(ns - 1, khz) < tsc, "{tsc} at {khz}");
        }
    }
}

#[test]
fn a_storm_that_nobody_takes_is_slowed() {
    let mut rig = Rig::new();
    rig.write(0x3e0, 0xb); // divide by 1
    rig.write(0x320, 0x2_0040);
    rig.write(0x380, 1);
    let next = |rig: &mut Rig, now: Nanos| {
        rig.effects.clear();
        rig.now = now;
        rig.run(|chip, cx| chip.expire(cx));
        rig.effects.last().cloned()
    };
    assert_eq!(next(&mut rig, 1), Some(Effect::Set { token: super::TIMER, at: 2 }));
    assert_eq!(next(&mut rig, 2), Some(Effect::Set { token: super::TIMER, at: 10_002 }), "the first one waits");
    assert_eq!(rig.chip.acknowledge(), Some(0x40));
    assert_eq!(next(&mut rig, 10_002), Some(Effect::Set { token: super::TIMER, at: 10_003 }));
    // Masked there is no event at all, and the count goes on.
    rig.write(0x380, 1000);
    rig.effects.clear();
    rig.write(0x320, 0x3_0040);
    assert_eq!(rig.effects, [Effect::Cancel { token: super::TIMER }]);
    rig.now += 2_400;
    assert_eq!(rig.read(0x390), 600);
    rig.write(0x320, 0x2_0040);
    assert_eq!(rig.effects.last(), Some(&Effect::Set { token: super::TIMER, at: rig.now + 600 }));
}

#[test]
fn a_one_shot_that_is_overdue_does_not_begin_anew() {
    let mut rig = Rig::new();
    rig.write(0x3e0, 0xb); // divide by 1
    rig.write(0x320, 0x1_0040);
    rig.write(0x380, 100);
    rig.now = 103;
    rig.write(0x320, 0x40);
    assert_eq!(rig.effects.last(), Some(&Effect::Set { token: super::TIMER, at: 100 }));
    assert_eq!(rig.read(0x390), 0);
    rig.run(|chip, cx| chip.expire(cx));
    assert_eq!(rig.chip.acknowledge(), Some(0x40));
}
