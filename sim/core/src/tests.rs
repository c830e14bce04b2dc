use super::*;

#[test]
fn clock_does_not_see_cuts() {
    for running in 1..9 {
        let mut whole = Clock::with_ns_per_tick(1);
        let mut cut = whole.clone();
        whole.advance(1_000_003, running);
        for step in [1, 13, 777, 999_212] {
            cut.advance(step, running);
        }
        assert_eq!(whole, cut);
    }
}

#[test]
fn clock_reaches_a_deadline_at_the_first_possible_tick() {
    for running in 1..33 {
        let mut clock = Clock::new((3 << FRACTION_BITS) / 7);
        clock.advance(12_345, running);
        for ahead in [0, 1, 2, 3, 999, 1_000_000] {
            let target = clock.ns() + ahead;
            let ticks = clock.ticks_until(target, running);
            assert!(clock.ns_after(ticks, running) >= target);
            assert!(ticks == 0 || clock.ns_after(ticks - 1, running) < target);
        }
    }
}

#[test]
fn queue_fires_by_time_then_by_posting_order() {
    let mut queue = EventQueue::new();
    let late = queue.post(20, 'c');
    queue.post(10, 'a');
    queue.post(10, 'b');
    let gone = queue.post(5, 'x');
    assert_eq!(queue.cancel(gone), Some('x'));
    assert_eq!(queue.pop_due(9), None);
    let fired: Vec<char> = std::iter::from_fn(|| queue.pop_due(15).map(|(_, event)| event)).collect();
    assert_eq!(fired, ['a', 'b']);
    assert_eq!(queue.pop_due(20), Some((late, 'c')));
}

#[test]
fn streams_are_independent_and_stable() {
    let streams = Streams::new(7);
    let mut disk = streams.stream("disk0.fault");
    let mut nic = streams.stream("nic0.fault");
    let first = disk.next_u64();
    assert_ne!(first, nic.next_u64());
    assert_eq!(streams.stream("disk0.fault").next_u64(), first);
    let saved = disk.state();
    let next = disk.next_u64();
    assert_eq!(Rng::from_state(saved).expect("not all zero").next_u64(), next);
}

#[test]
fn payload_survives_the_trip_and_refuses_every_damaged_byte() {
    let mut inner = Payload::new("queue", 2);
    inner.number("head", 3);
    let mut payload = Payload::new("device", 1);
    payload.number("a", 1).bytes("b", &[1, 2, 3]).put("c", Value::Numbers(vec![9, 8])).put("d", Value::Wide(1 << 100));
    payload.put("e", Value::Text("text".into())).put("f", Value::Nested(inner.clone())).put("g", Value::List(vec![inner]));
    let bytes = payload.encode();
    assert_eq!(Payload::decode(&bytes).as_ref(), Ok(&payload));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        assert!(Payload::decode(&damaged).is_err(), "byte {at} may not be damaged unnoticed");
        assert!(Payload::decode(&bytes[..at]).is_err());
    }
}

#[test]
fn payload_diff_names_the_field() {
    let mut left = Payload::new("cpu", 1);
    left.put("gpr", Value::Numbers(vec![1, 2])).bytes("x", &[1, 2]);
    let mut right = Payload::new("cpu", 1);
    right.put("gpr", Value::Numbers(vec![1, 3])).bytes("x", &[1, 2]);
    assert_eq!(left.diff(&right), ["cpu.gpr[1]: 0x2 / 0x3"]);
}

#[test]
fn receipt_is_the_hash_of_its_parts_one_after_the_other() {
    // However they are cut: small ones, pages with numbers between them, some longer than what is gathered.
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect();
    let parts: Vec<&[u8]> = [&bytes[..0], &bytes[..7]].into_iter().chain(bytes[..90_112].chunks(4096)).chain([&bytes[..65_536], &bytes[1..200_000]]).collect();
    let mut receipt = Receipt::new();
    receipt.extend("state", 9, &parts);
    let mut plain = [0; 32].to_vec();
    plain.extend(9u64.to_le_bytes());
    plain.extend(5u64.to_le_bytes());
    plain.extend(b"state");
    for part in parts {
        plain.extend((part.len() as u64).to_le_bytes());
        plain.extend(part);
    }
    assert_eq!(receipt.hash(), *blake3::hash(&plain).as_bytes());
}

#[test]
fn receipt_depends_on_every_part_and_its_bounds() {
    let chain = |parts: &[&[u8]]| {
        let mut receipt = Receipt::new();
        receipt.extend("state", 1, parts);
        receipt.hash()
    };
    assert_ne!(chain(&[b"ab", b"c"]), chain(&[b"a", b"bc"]));
    assert_eq!(chain(&[b"ab"]), chain(&[b"ab"]));
}
