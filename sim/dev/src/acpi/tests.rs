use sim_bus::bench::Bench;
use sim_bus::{Effect, Ending, SECOND};

use super::Acpi;

#[test]
fn pm_timer_runs_at_its_rate() {
    let mut bench = Bench::new(Acpi::default());
    bench.now = SECOND;
    assert_eq!(bench.read(0, 8, 4), 3_579_545);
    bench.now = 3600 * SECOND;
    assert_eq!(bench.read(0, 8, 4), (3600u64 * 3_579_545) & 0xffff_ffff);
}

#[test]
fn s5_powers_off_and_other_types_do_not() {
    let mut bench = Bench::new(Acpi::default());
    bench.write(0, 4, 2, 3 << 10 | 1 << 13);
    assert!(matches!(bench.take()[..], [Effect::Unimplemented(_)]));
    bench.write(0, 4, 2, 5 << 10 | 1 << 13);
    assert_eq!(bench.take(), [Effect::End(Ending::PowerOff)]);
}

#[test]
fn power_button_raises_the_sci_until_cleared() {
    let mut bench = Bench::new(Acpi::default());
    bench.write(0, 2, 2, 1 << 8);
    bench.call(sim_bus::Node::input);
    assert!(bench.pins[0]);
    assert_eq!(bench.read(0, 0, 4), 1 << 8 | 1 << 24);
    bench.write(0, 1, 1, 1); // a byte write clears bit 8 alone
    assert!(!bench.pins[0]);
}

#[test]
fn port_cf9_resets_on_the_rise_of_bit_2() {
    let mut bench = Bench::new(Acpi::default());
    bench.write(2, 0, 1, 2);
    assert!(bench.take().is_empty());
    bench.write(2, 0, 1, 6);
    assert_eq!(bench.take(), [Effect::End(Ending::Reset)]);
}

#[test]
fn the_control_register_shows_what_it_has() {
    let mut bench = Bench::new(Acpi::default());
    bench.write(0, 4, 2, 0xdfff);
    assert_eq!(bench.read(0, 4, 2), 0x1c03);
}
