use sim_bus::SECOND;
use sim_bus::bench::Bench;

use super::Pit;

const HERTZ: u64 = super::chip::HERTZ;

fn at_clock(clock: u64) -> u64 {
    (clock * SECOND).div_ceil(HERTZ)
}

#[test]
fn mode_0_counts_down_and_raises_once() {
    let mut bench = Bench::new(Pit::default());
    bench.write(0, 3, 1, 0x30);
    assert!(!bench.pins[0]);
    bench.write(0, 0, 1, 0xe8);
    bench.write(0, 0, 1, 0x03); // 1000
    bench.run_to(at_clock(999));
    assert!(!bench.pins[0]);
    bench.run_to(at_clock(1000));
    assert!(bench.pins[0]);
    assert_eq!(bench.timers.earliest(), sim_bus::NEVER, "one shot: no further events");
}

#[test]
fn mode_2_makes_one_edge_a_period() {
    let mut bench = Bench::new(Pit::default());
    bench.write(0, 3, 1, 0x34);
    bench.write(0, 0, 1, 0xa9);
    bench.write(0, 0, 1, 0x04); // 1193: about 1 kHz
    bench.take();
    bench.run_to(SECOND / 100);
    let mut level = true;
    let mut edges = 0;
    for effect in bench.take() {
        if let sim_bus::Effect::Pin { level: new, .. } = effect {
            edges += u32::from(new && !level);
            level = new;
        }
    }
    assert_eq!(edges, 10);
}

#[test]
fn mode_3_is_square() {
    let mut bench = Bench::new(Pit::default());
    bench.write(0, 3, 1, 0x36);
    bench.write(0, 0, 1, 0);
    bench.write(0, 0, 1, 0);
    assert!(bench.pins[0]);
    bench.run_to(at_clock(0x8000));
    assert!(!bench.pins[0]);
    bench.run_to(at_clock(0x1_0000));
    assert!(bench.pins[0]);
}

#[test]
fn channel_2_calibration_as_kernels_do_it() {
    // Gate on, speaker off, mode 0, 11,932 clocks: bit 5 of port 0x61 rises after 10 ms.
    let mut bench = Bench::new(Pit::default());
    bench.write(1, 0, 1, 0x01);
    bench.write(0, 3, 1, 0xb0);
    bench.write(0, 2, 1, 0x9c);
    bench.write(0, 2, 1, 0x2e);
    assert_eq!(bench.read(1, 0, 1) & 0x20, 0);
    bench.run_to(at_clock(11_931));
    assert_eq!(bench.read(1, 0, 1) & 0x20, 0);
    bench.run_to(at_clock(11_932));
    assert_eq!(bench.read(1, 0, 1) & 0x21, 0x21);
}

#[test]
fn a_low_gate_holds_mode_0() {
    let mut bench = Bench::new(Pit::default());
    bench.write(1, 0, 1, 0x01);
    bench.write(0, 3, 1, 0xb0);
    bench.write(0, 2, 1, 100);
    bench.write(0, 2, 1, 0);
    bench.run_to(at_clock(40));
    bench.write(1, 0, 1, 0x00);
    bench.run_to(at_clock(1000));
    bench.write(0, 3, 1, 0x80);
    assert_eq!(bench.read(0, 2, 1) | bench.read(0, 2, 1) << 8, 60);
}

#[test]
fn latch_and_read_back() {
    let mut bench = Bench::new(Pit::default());
    bench.write(0, 3, 1, 0x34);
    bench.write(0, 0, 1, 0x00);
    bench.write(0, 0, 1, 0x10);
    bench.run_to(at_clock(0x10));
    bench.write(0, 3, 1, 0x00); // latch
    bench.run_to(at_clock(0x200));
    assert_eq!(bench.read(0, 0, 1), 0xf0);
    assert_eq!(bench.read(0, 0, 1), 0x0f);
    bench.write(0, 3, 1, 0xe2); // read-back of status, channel 0
    assert_eq!(bench.read(0, 0, 1), 0xb4);
}

#[test]
fn channel_0_runs_as_firmware_leaves_it() {
    let mut bench = Bench::new(Pit::default());
    bench.call(|node, cx| sim_bus::Node::reset(node, sim_bus::Reset::PowerOn, cx));
    bench.take();
    let (mut edges, mut level) = (0, true);
    bench.run_to(SECOND);
    for effect in bench.take() {
        if let sim_bus::Effect::Pin { level: new, .. } = effect {
            edges += u32::from(new && !level);
            level = new;
        }
    }
    assert_eq!(edges, 18, "18.2 Hz");
    bench.write(0, 3, 1, 0);
    let first = bench.read(0, 0, 1) | bench.read(0, 0, 1) << 8;
    bench.run_to(SECOND + 100_000);
    bench.write(0, 3, 1, 0);
    assert_ne!(bench.read(0, 0, 1) | bench.read(0, 0, 1) << 8, first, "it counts");
}
