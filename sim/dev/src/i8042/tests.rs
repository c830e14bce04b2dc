use sim_bus::bench::Bench;
use sim_bus::{Effect, Ending};

use super::I8042;

#[test]
fn self_test_and_probe_find_no_keyboard() {
    let mut bench = Bench::new(I8042::default());
    bench.write(1, 0, 1, 0xaa);
    assert_eq!(bench.read(1, 0, 1) & 1, 1);
    assert_eq!(bench.read(0, 0, 1), 0x55);
    bench.write(0, 0, 1, 0xff); // reset the keyboard
    assert_eq!(bench.read(1, 0, 1) & 0x41, 0x41, "time-out");
    assert_eq!(bench.read(0, 0, 1), 0xfe);
    bench.write(1, 0, 1, 0xa9);
    assert_ne!(bench.read(0, 0, 1), 0, "no mouse either");
}

#[test]
fn command_byte_round_trip() {
    let mut bench = Bench::new(I8042::default());
    bench.write(1, 0, 1, 0x60);
    bench.write(0, 0, 1, 0x74);
    bench.write(1, 0, 1, 0x20);
    assert_eq!(bench.read(0, 0, 1), 0x74);
}

#[test]
fn pulse_resets() {
    let mut bench = Bench::new(I8042::default());
    bench.write(1, 0, 1, 0xfe);
    assert!(bench.take().contains(&Effect::End(Ending::Reset)));
}

#[test]
fn answers_are_bounded() {
    let mut bench = Bench::new(I8042::default());
    for _ in 0..1000 {
        bench.write(1, 0, 1, 0x20);
    }
    let mut count = 0;
    while bench.read(1, 0, 1) & 1 != 0 {
        bench.read(0, 0, 1);
        count += 1;
    }
    assert_eq!(count, 16);
}
