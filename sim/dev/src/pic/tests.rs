use sim_bus::{Backends, Cx};

use super::{EDGE_LEVEL, MASTER, PicPair, SLAVE};

fn with<R>(pics: &mut PicPair, work: impl FnOnce(&mut PicPair, &mut Cx<'_>) -> R) -> R {
    let (mut effects, mut backends) = (Vec::new(), Backends::new(1));
    work(pics, &mut Cx::new(0, &mut effects, &mut backends, None))
}

fn out(pics: &mut PicPair, port: u16, value: u8) {
    let (region, offset) = match port {
        0x20 | 0x21 => (MASTER, port - 0x20),
        0xa0 | 0xa1 => (SLAVE, port - 0xa0),
        _ => (EDGE_LEVEL, port - 0x4d0),
    };
    with(pics, |pics, cx| pics.write(region, u64::from(offset), 1, u64::from(value), cx));
}

fn read(pics: &mut PicPair, port: u16) -> u8 {
    let (region, offset) = if port < 0x80 { (MASTER, port - 0x20) } else { (SLAVE, port - 0xa0) };
    with(pics, |pics, cx| pics.read(region, u64::from(offset), 1, cx)) as u8
}

fn ready() -> PicPair {
    let mut pics = PicPair::default();
    for (port, value) in
        [(0x20, 0x11), (0xa0, 0x11), (0x21, 0x20), (0xa1, 0x28), (0x21, 4), (0xa1, 2), (0x21, 1), (0xa1, 1), (0x21, 0), (0xa1, 0)]
    {
        out(&mut pics, port, value);
    }
    pics
}

#[test]
fn vectors_and_priority() {
    let mut pics = ready();
    pics.set_line(4, true);
    pics.set_line(1, true);
    assert!(pics.output());
    assert_eq!(pics.acknowledge(), 0x21);
    assert!(!pics.output(), "line 4 waits while line 1 is in service");
    out(&mut pics, 0x20, 0x20);
    assert!(pics.output());
    assert_eq!(pics.acknowledge(), 0x24);
}

#[test]
fn a_slave_line_comes_through_the_cascade() {
    let mut pics = ready();
    pics.set_line(8, true);
    assert_eq!(pics.acknowledge(), 0x28);
    out(&mut pics, 0x20, 0x0b);
    assert_eq!(read(&mut pics, 0x20), 0x04);
    out(&mut pics, 0xa0, 0x20);
    out(&mut pics, 0x20, 0x20);
    assert!(!pics.output(), "the edge was consumed");
    pics.set_line(8, false);
    pics.set_line(8, true);
    assert!(pics.output());
}

#[test]
fn a_request_that_vanishes_is_spurious() {
    let mut pics = ready();
    pics.set_line(5, true);
    pics.set_line(5, false);
    assert_eq!(pics.acknowledge(), 0x27);
    out(&mut pics, 0x20, 0x0b);
    assert_eq!(read(&mut pics, 0x20), 0, "nothing is in service");
}

#[test]
fn a_level_line_asks_again_after_eoi() {
    let mut pics = ready();
    out(&mut pics, 0x4d1, 0x08);
    pics.set_line(11, true);
    assert_eq!(pics.acknowledge(), 0x2b);
    out(&mut pics, 0xa0, 0x20);
    out(&mut pics, 0x20, 0x20);
    assert!(pics.output());
    pics.set_line(11, false);
    assert!(!pics.output());
}

#[test]
fn rotation_and_specific_eoi() {
    let mut pics = ready();
    pics.set_line(3, true);
    assert_eq!(pics.acknowledge(), 0x23);
    out(&mut pics, 0x20, 0xe3); // rotate on specific EOI: 3 is lowest now
    pics.set_line(3, false);
    pics.set_line(3, true);
    pics.set_line(7, true);
    assert_eq!(pics.acknowledge(), 0x27);
}

#[test]
fn masked_lines_and_auto_eoi() {
    let mut pics = ready();
    out(&mut pics, 0x21, 0x10);
    pics.set_line(4, true);
    assert!(!pics.output());
    out(&mut pics, 0x21, 0x00);
    assert!(pics.output(), "unmasking shows the latched edge");
    out(&mut pics, 0x20, 0x0c);
    assert_eq!(read(&mut pics, 0x20), 0x84, "poll");
}

#[test]
fn special_mask_mode_and_the_eoi_that_names_no_line() {
    let mut pics = ready();
    pics.set_line(3, true);
    assert_eq!(pics.acknowledge(), 0x23);
    out(&mut pics, 0x21, 0x08);
    out(&mut pics, 0x20, 0x68); // special mask mode
    pics.set_line(5, true);
    assert_eq!(pics.acknowledge(), 0x25, "a masked line in service holds nobody back");
    out(&mut pics, 0x20, 0x20);
    out(&mut pics, 0x20, 0x20);
    out(&mut pics, 0x20, 0x0b);
    assert_eq!(read(&mut pics, 0x20), 0x08, "nor is it ended without its name");
    out(&mut pics, 0x20, 0x63);
    assert_eq!(read(&mut pics, 0x20), 0);
}

#[test]
fn a_line_that_is_up_when_it_becomes_a_level_asks() {
    let mut pics = ready();
    pics.set_line(9, true);
    assert_eq!(pics.acknowledge(), 0x29);
    out(&mut pics, 0xa0, 0x20);
    out(&mut pics, 0x20, 0x20);
    assert!(!pics.output());
    out(&mut pics, 0x4d1, 0x02);
    assert!(pics.output());
}

#[test]
fn special_fully_nested_mode_and_rotation_on_automatic_eoi() {
    let mut pics = PicPair::default();
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 0x11), (0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 0x03)] {
        out(&mut pics, port, value);
    }
    out(&mut pics, 0x21, 0);
    out(&mut pics, 0xa1, 0);
    out(&mut pics, 0xa0, 0x80); // the slave rotates on automatic EOI
    pics.set_line(10, true);
    assert_eq!(pics.acknowledge(), 0x2a);
    pics.set_line(10, false);
    pics.set_line(10, true);
    pics.set_line(11, true);
    assert!(pics.output(), "the slave may interrupt itself");
    assert_eq!(pics.acknowledge(), 0x2b, "line 10 is lowest now");
    pics.set_line(3, true);
    assert_eq!(pics.acknowledge(), 0x2a, "before the master's lower lines");
}
