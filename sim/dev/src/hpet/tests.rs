use sim_bus::Effect;
use sim_bus::bench::Bench;

use super::{Hpet, PIN_LEGACY, PIN_LEGACY_IRQ0};

#[test]
fn capabilities_and_counting() {
    let mut bench = Bench::new(Hpet::default());
    assert_eq!(bench.read(0, 4, 4), 10_000_000, "femtoseconds");
    assert_eq!(bench.read(0, 0, 8) & 0xffff_ffff, 0x8086_a201);
    bench.now = 1000;
    assert_eq!(bench.read(0, 0xf0, 8), 0, "halted");
    bench.write(0, 0x10, 4, 1);
    bench.now = 2000;
    assert_eq!(bench.read(0, 0xf0, 8), 100);
    bench.write(0, 0x10, 4, 0);
    bench.now = 9000;
    assert_eq!(bench.read(0, 0xf0, 4), 100);
}

#[test]
fn one_shot_edge() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x10, 4, 1);
    bench.write(0, 0x120, 4, 0x4 | 20 << 9);
    bench.write(0, 0x128, 8, 500);
    bench.take();
    bench.run_to(4999);
    assert!(bench.take().is_empty());
    bench.run_to(5000);
    assert_eq!(bench.take(), [Effect::Pin { pin: 20, level: true }, Effect::Pin { pin: 20, level: false }]);
}

#[test]
fn periodic_in_legacy_replacement() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x100, 4, 0x4 | 0x8 | 0x40);
    bench.write(0, 0x108, 8, 100);
    bench.write(0, 0x108, 8, 100);
    bench.write(0, 0x10, 4, 3);
    assert!(bench.take().contains(&Effect::Pin { pin: PIN_LEGACY, level: true }));
    bench.run_to(10_000);
    let edges = bench.take().iter().filter(|effect| **effect == Effect::Pin { pin: PIN_LEGACY_IRQ0, level: true }).count();
    assert_eq!(edges, 10);
}

#[test]
fn level_status_is_write_one_to_clear() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x10, 4, 1);
    bench.write(0, 0x140, 4, 0x6 | 21 << 9);
    bench.write(0, 0x148, 8, 10);
    bench.run_to(100);
    assert!(bench.pins[21]);
    assert_eq!(bench.read(0, 0x20, 4), 4);
    bench.write(0, 0x20, 4, 4);
    assert!(!bench.pins[21]);
}

#[test]
fn fsb_message() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x10, 4, 1);
    bench.write(0, 0x130, 8, 0xfee0_1000 << 32 | 0x44);
    bench.write(0, 0x120, 4, 0x4004);
    bench.write(0, 0x128, 8, 10);
    bench.take();
    bench.run_to(100);
    assert_eq!(bench.take(), [Effect::Message { address: 0xfee0_1000, data: 0x44 }]);
}

#[test]
fn a_match_comes_once_in_a_turn_of_32_bits() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x10, 4, 1);
    bench.write(0, 0x120, 4, 0x104 | 20 << 9);
    bench.write(0, 0x128, 8, 500);
    bench.run_to(5000);
    bench.take();
    bench.run_to(5000 + (10 << 32) - 1);
    assert!(bench.take().is_empty());
    bench.run_to(5000 + (10 << 32) + 100);
    assert_eq!(bench.take().len(), 2);
}

#[test]
fn a_level_that_is_up_follows_its_route() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x10, 4, 1);
    bench.write(0, 0x120, 4, 0x6 | 20 << 9);
    bench.write(0, 0x128, 8, 500);
    bench.run_to(5000);
    assert!(bench.pins[20]);
    bench.write(0, 0x120, 4, 0x6 | 21 << 9);
    assert!(!bench.pins[20] && bench.pins[21]);
    bench.write(0, 0x20, 4, 2);
    assert!(!bench.pins[21]);
}

#[test]
fn no_period_is_shorter_than_the_table_says() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x100, 4, 0x4 | 0x8 | 0x40);
    bench.write(0, 0x108, 8, 1);
    bench.write(0, 0x108, 8, 1);
    bench.write(0, 0x10, 4, 3);
    bench.run_to(10_000);
    let edges = bench.take().iter().filter(|effect| **effect == Effect::Pin { pin: PIN_LEGACY_IRQ0, level: true }).count();
    assert!(edges <= 11, "{edges}");
}

#[test]
fn one_write_sets_match_and_period_and_the_line_stays_up_for_the_8259() {
    let mut bench = Bench::new(Hpet::default());
    assert_eq!(bench.read(0, 0x128, 8), u64::MAX, "after reset");
    bench.write(0, 0x100, 4, 0x4 | 0x8 | 0x40 | 0x100);
    bench.write(0, 0x108, 8, 500);
    bench.write(0, 0x10, 4, 3);
    bench.take();
    bench.run_to(10_000);
    let edge = [false, true].map(|level| Effect::Pin { pin: PIN_LEGACY_IRQ0, level });
    assert_eq!(bench.take(), [edge, edge].concat());
    bench.write(0, 0x100, 4, 0);
    assert_eq!(bench.take(), [Effect::Pin { pin: PIN_LEGACY_IRQ0, level: false }]);
}

#[test]
fn a_level_that_is_up_goes_over_to_the_replaced_line() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0x100, 4, 0x6 | 21 << 9);
    bench.write(0, 0x108, 8, 10);
    bench.write(0, 0x10, 4, 1);
    bench.run_to(100);
    bench.take();
    let pins = |pins: [(u8, bool); 3]| pins.map(|(pin, level)| Effect::Pin { pin, level });
    let shown = |bench: &mut Bench<Hpet>| bench.take().into_iter().filter(|effect| matches!(effect, Effect::Pin { .. })).collect::<Vec<_>>();
    // The board clears both lines when the owner changes: what is up is shown after that.
    bench.write(0, 0x10, 4, 3);
    assert_eq!(shown(&mut bench), pins([(21, false), (PIN_LEGACY, true), (PIN_LEGACY_IRQ0, true)]));
    bench.write(0, 0x10, 4, 1);
    assert_eq!(shown(&mut bench), pins([(PIN_LEGACY_IRQ0, false), (PIN_LEGACY, false), (21, true)]));
}

#[test]
fn the_halves_of_match_and_period_are_their_own() {
    let mut bench = Bench::new(Hpet::default());
    bench.write(0, 0xf0, 8, 5 << 32);
    bench.write(0, 0x100, 4, 0x4 | 0x8 | 0x40);
    bench.write(0, 0x108, 8, 5 << 32 | 300);
    bench.write(0, 0x108, 4, 200);
    bench.write(0, 0x10c, 4, 0);
    bench.write(0, 0x10, 4, 3);
    bench.take();
    bench.run_to(7_000);
    assert_eq!(bench.take().len(), 6, "at 300, 500 and 700");
}
