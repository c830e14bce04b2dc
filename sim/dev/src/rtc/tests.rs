use sim_bus::SECOND;
use sim_bus::bench::Bench;

use super::{Calendar, Rtc, UNIX_EPOCH};

fn get(bench: &mut Bench<Rtc>, index: u8) -> u8 {
    bench.write(0, 0, 1, u64::from(index));
    bench.read(0, 1, 1) as u8
}
fn set(bench: &mut Bench<Rtc>, index: u8, value: u8) {
    bench.write(0, 0, 1, u64::from(index));
    bench.write(0, 1, 1, u64::from(value));
}

#[test]
fn calendar_is_its_own_inverse() {
    for unix in [0, 951_782_399, 951_782_400, 1_767_225_600, 1_709_164_800, 4_102_444_799, 253_402_300_799] {
        assert_eq!(Calendar::from_seconds(unix + UNIX_EPOCH).to_seconds(), unix + UNIX_EPOCH);
    }
    let leap = Calendar::from_seconds(1_709_164_800 + UNIX_EPOCH);
    assert_eq!((leap.year, leap.month, leap.day, leap.weekday), (2024, 2, 29, 5));
}

#[test]
fn time_is_shown_in_bcd() {
    let mut bench = Bench::new(Rtc::new(1_767_225_600, 256 << 20)); // 2026-01-01 00:00:00, a Thursday
    bench.now = (23 * 3600 + 59 * 60 + 58) * SECOND;
    let shown: Vec<u8> = [0x32, 9, 8, 7, 6, 4, 2, 0].iter().map(|&index| get(&mut bench, index)).collect();
    assert_eq!(shown, [0x20, 0x26, 0x01, 0x01, 0x05, 0x23, 0x59, 0x58]);
    set(&mut bench, 0x0b, 0x04); // binary, 12 hours
    assert_eq!(get(&mut bench, 4), 11 | 0x80);
}

#[test]
fn setting_the_clock() {
    let mut bench = Bench::new(Rtc::new(0, 1 << 20));
    bench.now = 5 * SECOND;
    set(&mut bench, 0x0b, 0x82);
    for (index, value) in [(0, 0x30), (2, 0x15), (4, 0x12), (7, 0x24), (8, 0x12), (9, 0x30), (0x32, 0x20)] {
        set(&mut bench, index, value);
    }
    bench.now = 9 * SECOND;
    set(&mut bench, 0x0b, 0x02);
    bench.now = 10 * SECOND;
    assert_eq!([get(&mut bench, 0x32), get(&mut bench, 9), get(&mut bench, 8), get(&mut bench, 7)], [0x20, 0x30, 0x12, 0x24]);
    assert_eq!([get(&mut bench, 4), get(&mut bench, 2), get(&mut bench, 0)], [0x12, 0x15, 0x31]);
}

#[test]
fn periodic_interrupt_at_1024_hertz() {
    let mut bench = Bench::new(Rtc::new(0, 1 << 20));
    set(&mut bench, 0x0b, 0x42);
    let mut interrupts = 0;
    for step in 1..=1024u64 {
        bench.run_to(step * SECOND / 1024 + 1);
        if bench.pins[0] {
            interrupts += 1;
            assert_eq!(get(&mut bench, 0x0c) & 0xe0, 0xc0);
            assert!(!bench.pins[0]);
        }
    }
    assert_eq!(interrupts, 1024);
}

#[test]
fn alarm_and_update() {
    let mut bench = Bench::new(Rtc::new(0, 1 << 20));
    for (index, value) in [(1, 0x03), (3, 0xff), (5, 0xff), (0x0b, 0x32)] {
        set(&mut bench, index, value);
    }
    bench.run_to(2 * SECOND);
    // The periodic flag comes up besides: its rate is set.
    assert_eq!(get(&mut bench, 0x0c) & !0x40, 0x90);
    bench.run_to(3 * SECOND);
    assert_eq!(get(&mut bench, 0x0c) & !0x40, 0xb0);
    bench.now = 4 * SECOND - 100_000;
    assert_eq!(get(&mut bench, 0x0a), 0xa6, "update in progress");
}

#[test]
fn flags_come_up_without_their_interrupts() {
    let mut bench = Bench::new(Rtc::new(0, 1 << 20));
    set(&mut bench, 1, 0x02); // alarm at 00:00:02
    bench.run_to(SECOND / 2);
    assert_eq!(get(&mut bench, 0x0c), 0x40, "the periodic flag");
    assert_eq!(get(&mut bench, 0x0c), 0);
    bench.run_to(SECOND);
    assert_eq!(get(&mut bench, 0x0c), 0x50, "the update-ended flag");
    bench.run_to(2 * SECOND + 1);
    assert_eq!(get(&mut bench, 0x0c), 0x70, "the alarm flag");
    assert!(!bench.pins[0]);
    set(&mut bench, 0x0b, 0x82);
    bench.run_to(4 * SECOND);
    assert_eq!(get(&mut bench, 0x0c), 0x40, "SET holds the clock still");
}

#[test]
fn an_interrupt_enabled_while_its_flag_is_up_comes_at_once() {
    let mut bench = Bench::new(Rtc::new(0, 1 << 20));
    bench.run_to(SECOND / 2);
    set(&mut bench, 0x0b, 0x42);
    assert!(bench.pins[0], "periodic");
    assert_eq!(get(&mut bench, 0x0c), 0xc0);
    assert!(!bench.pins[0]);
    set(&mut bench, 0x0b, 0x02);
    bench.run_to(3 * SECOND / 2);
    get(&mut bench, 0x0c);
    set(&mut bench, 0x0b, 0x12);
    assert!(!bench.pins[0], "no update since");
}
