use sim_bus::bench::Bench;
use sim_bus::{Backends, ConsoleId};

use super::Uart;

fn uart() -> Bench<Uart> {
    let mut bench = Bench::new(Uart::new(ConsoleId(0), false));
    bench.backends = Backends::new(1);
    bench.backends.add_console();
    bench
}

fn typed(bench: &mut Bench<Uart>, bytes: &[u8]) {
    bench.backends.console_mut(ConsoleId(0)).expect("added").extend(bytes);
    bench.call(sim_bus::Node::input);
}

#[test]
fn reset_values() {
    let mut bench = uart();
    assert_eq!(bench.read(0, 2, 1), 0x01, "IIR: none pending");
    assert_eq!(bench.read(0, 5, 1), 0x60, "LSR: transmitter empty");
    assert_eq!(bench.read(0, 6, 1) & 0xb0, 0xb0, "MSR: a peer is there");
}

#[test]
fn a_byte_written_is_printed_at_once() {
    let mut bench = uart();
    bench.write(0, 0, 1, u64::from(b'x'));
    assert_eq!(bench.printed(), b"x");
    assert_eq!(bench.read(0, 5, 1) & 0x60, 0x60);
}

#[test]
fn thre_interrupt_is_latched_and_cleared_by_reading_iir() {
    let mut bench = uart();
    bench.write(0, 4, 1, 0x0b);
    bench.write(0, 1, 1, 0x02);
    assert!(bench.pins[0]);
    assert_eq!(bench.read(0, 2, 1), 0x02);
    assert!(!bench.pins[0]);
    assert_eq!(bench.read(0, 2, 1), 0x01);
    bench.write(0, 0, 1, 0x41);
    assert!(bench.pins[0], "sending makes THR empty again");
}

#[test]
fn out2_gates_the_pin() {
    let mut bench = uart();
    bench.write(0, 1, 1, 0x02);
    assert!(!bench.pins[0]);
    bench.write(0, 4, 1, 0x08);
    assert!(bench.pins[0]);
}

#[test]
fn nothing_typed_is_lost_whatever_the_depth() {
    let mut bench = uart();
    let text: Vec<u8> = (0..100).collect();
    typed(&mut bench, &text);
    let mut got = Vec::new();
    while bench.read(0, 5, 1) & 1 != 0 {
        got.push(bench.read(0, 0, 1) as u8);
    }
    assert_eq!(got, text);
    assert_eq!(bench.read(0, 5, 1) & 2, 0, "no overrun");
}

#[test]
fn trigger_level_and_character_timeout() {
    let mut bench = uart();
    bench.write(0, 2, 1, 0x81); // FIFOs on, trigger 8
    bench.write(0, 4, 1, 0x08);
    bench.write(0, 1, 1, 0x01);
    typed(&mut bench, b"abc");
    assert!(!bench.pins[0], "three bytes are below the trigger");
    bench.run_to(sim_bus::SECOND / 10);
    assert!(bench.pins[0]);
    assert_eq!(bench.read(0, 2, 1), 0xcc, "time-out");
    assert_eq!(bench.read(0, 0, 1), u64::from(b'a'));
    assert_eq!(bench.read(0, 2, 1), 0xc1, "reading clears it");
    typed(&mut bench, b"defghijk");
    assert_eq!(bench.read(0, 2, 1), 0xc4, "trigger reached");
}

#[test]
fn loopback_returns_what_was_sent_and_crosses_the_modem_lines() {
    let mut bench = uart();
    bench.write(0, 4, 1, 0x1e);
    bench.write(0, 0, 1, 0xae);
    assert_eq!(bench.read(0, 0, 1), 0xae);
    assert!(bench.printed().is_empty());
    bench.write(0, 4, 1, 0x1a);
    assert_eq!(bench.read(0, 6, 1) & 0xf0, 0x90, "RTS to CTS, OUT2 to DCD");
}

#[test]
fn byte_timing_holds_the_transmitter_busy() {
    let mut bench = Bench::new(Uart::new(ConsoleId(0), true));
    bench.backends.add_console();
    bench.write(0, 3, 1, 0x83);
    bench.write(0, 0, 2, 1); // divisor 1: 115200 baud, both bytes in one access
    bench.write(0, 3, 1, 0x03);
    bench.write(0, 2, 1, 0x01);
    for byte in b"hello" {
        bench.write(0, 0, 1, u64::from(*byte));
    }
    assert_eq!(bench.read(0, 5, 1) & 0x60, 0);
    bench.run_to(4 * 10 * (sim_bus::SECOND / 115_200));
    assert_eq!(bench.printed(), b"hello");
    assert_eq!(bench.read(0, 5, 1) & 0x60, 0x20, "THR empty, last byte still on the line");
    bench.run_to(6 * 10 * (sim_bus::SECOND / 115_200));
    assert_eq!(bench.read(0, 5, 1) & 0x60, 0x60);
}

#[test]
fn save_and_load_are_inverse() {
    let mut bench = uart();
    bench.write(0, 2, 1, 0x81);
    typed(&mut bench, b"abc");
    let saved = sim_bus::Node::save(&mut bench.node);
    let mut other = uart();
    sim_bus::Node::load(&mut other.node, &saved).expect("same kind");
    assert_eq!(sim_bus::Node::save(&mut other.node), saved);
    let empty = sim_core::Payload::new("uart", 1);
    assert!(sim_bus::Node::load(&mut other.node, &empty).is_err());
    let mut surplus = saved.clone();
    surplus.number("surplus", 0);
    assert!(sim_bus::Node::load(&mut other.node, &surplus).is_err());
}

#[test]
fn character_timeout_in_loopback_and_after_a_new_trigger_level() {
    let mut bench = uart();
    bench.write(0, 4, 1, 0x1b);
    bench.write(0, 2, 1, 0x81); // FIFOs on, trigger 8
    bench.write(0, 1, 1, 0x01);
    for byte in b"abc" {
        bench.write(0, 0, 1, u64::from(*byte));
    }
    assert_eq!(bench.read(0, 2, 1), 0xc1);
    bench.run_to(sim_bus::SECOND / 10);
    assert_eq!(bench.read(0, 2, 1), 0xcc, "time-out");
    let mut bench = uart();
    bench.write(0, 2, 1, 0x01); // trigger 1
    bench.write(0, 4, 1, 0x08);
    bench.write(0, 1, 1, 0x01);
    typed(&mut bench, b"abc");
    assert_eq!(bench.read(0, 2, 1), 0xc4);
    bench.write(0, 2, 1, 0x81);
    assert!(!bench.pins[0]);
    bench.run_to(sim_bus::SECOND / 10);
    assert!(bench.pins[0], "what waited is not forgotten");
    assert_eq!(bench.read(0, 2, 1), 0xcc);
}

#[test]
fn fifo_control_takes_nothing_without_its_enable_bit() {
    let mut bench = uart();
    typed(&mut bench, b"a");
    bench.write(0, 2, 1, 0x06);
    assert_eq!(bench.read(0, 5, 1) & 1, 1, "the byte is still there");
    assert_eq!(bench.read(0, 0, 1), u64::from(b'a'));
}

#[test]
fn an_overrun_overwrites_the_register_and_spares_the_fifo() {
    for (control, kept) in [(0u64, 17u64), (1, 0)] {
        let mut bench = uart();
        bench.write(0, 4, 1, 0x10);
        bench.write(0, 2, 1, control);
        for byte in 0..18 {
            bench.write(0, 0, 1, byte);
        }
        assert_eq!(bench.read(0, 5, 1) & 3, 3, "overrun");
        assert_eq!(bench.read(0, 5, 1) & 3, 1, "told once");
        assert_eq!(bench.read(0, 0, 1), kept);
    }
}

#[test]
fn factory_test_writes_are_reported() {
    let mut bench = uart();
    bench.take();
    bench.write(0, 5, 1, 0);
    bench.write(0, 6, 1, 0);
    let told = bench.take().into_iter().filter(|effect| matches!(effect, sim_bus::Effect::Unimplemented(_))).count();
    assert_eq!(told, 2);
}
