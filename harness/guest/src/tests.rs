use super::*;

/// Moves everything between two ends over a line that `wire` may spoil; nudges when it falls silent.
fn exchange(guest: &mut Link, host: &mut Link, mut wire: impl FnMut(Vec<u8>) -> Vec<u8>) -> (Vec<LinkEvent>, Vec<LinkEvent>) {
    let (mut at_guest, mut at_host) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        let to_host = guest.take_outgoing();
        let to_guest = host.take_outgoing();
        if to_host.is_empty() && to_guest.is_empty() {
            if !guest.is_waiting() && !host.is_waiting() {
                break;
            }
            guest.nudge();
            host.nudge();
            continue;
        }
        at_host.extend(host.receive(&wire(to_host)));
        at_guest.extend(guest.receive(&wire(to_guest)));
    }
    (at_guest, at_host)
}

fn messages(events: Vec<LinkEvent>) -> Vec<String> {
    events.into_iter().filter_map(|event| if let LinkEvent::Message(text) = event { Some(text) } else { None }).collect()
}

#[test]
fn messages_arrive_once_and_in_order() {
    let mut guest = Link::opening("hello");
    let mut host = Link::listening();
    exchange(&mut guest, &mut host, |bytes| bytes);
    let long = "\u{e4}b".repeat(20_000);
    host.send("one");
    host.send(&long);
    guest.send("two");
    let (at_guest, at_host) = exchange(&mut guest, &mut host, |bytes| bytes);
    assert_eq!(messages(at_guest), ["one".to_owned(), long]);
    assert_eq!(messages(at_host), ["two"]);
    assert_eq!((guest.damaged(), host.damaged()), (0, 0));
}

#[test]
fn line_that_damages_and_drops_bytes_loses_no_message() {
    for seed in 1..60u64 {
        let mut state = seed;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let mut guest = Link::opening("hello");
        let mut host = Link::listening();
        exchange(&mut guest, &mut host, |bytes| bytes);
        let sent: Vec<String> = (0..40).map(|i| format!("message {i} {}", "x".repeat(i * 97))).collect();
        for text in &sent {
            host.send(text);
            guest.send(text);
        }
        let (at_guest, at_host) = exchange(&mut guest, &mut host, |bytes| {
            bytes.into_iter().filter_map(|byte| match random() % 4000 { 0 => None, 1 => Some(byte ^ 0x11), 2 => Some(b'\n'), _ => Some(byte) }).collect()
        });
        assert_eq!(messages(at_guest), sent, "seed {seed}");
        assert_eq!(messages(at_host), sent, "seed {seed}");
    }
}

#[test]
fn restarted_agent_opens_a_new_session() {
    let mut host = Link::listening();
    let mut guest = Link::opening("hello");
    let (_, first) = exchange(&mut guest, &mut host, |bytes| bytes);
    assert_eq!(first, [LinkEvent::Session, LinkEvent::Message("hello".into())]);
    host.send("work");
    exchange(&mut guest, &mut host, |bytes| bytes);
    let mut guest = Link::opening("hello again");
    let (_, second) = exchange(&mut guest, &mut host, |bytes| bytes);
    assert_eq!(second, [LinkEvent::Session, LinkEvent::Message("hello again".into())]);
    host.send("more work");
    let (at_guest, _) = exchange(&mut guest, &mut host, |bytes| bytes);
    assert_eq!(messages(at_guest), ["more work"]);
}

#[test]
fn noise_is_counted_and_skipped() {
    let mut host = Link::listening();
    assert_eq!(host.receive(b"boot: hello world\n\n#1 zzzz .x\n#\xff\n"), []);
    assert_eq!(host.damaged(), 3);
    assert_eq!(host.receive(&vec![b'a'; 1 << 20]), []);
}

#[test]
fn bytes_survive_json() {
    for bytes in [&b"text\n"[..], b"\xff\x00\x80", b""] {
        let json = serde_json::to_string(&Body::new(bytes)).unwrap();
        assert!(!json.contains('\n'));
        assert_eq!(serde_json::from_str::<Body>(&json).unwrap().bytes().unwrap(), bytes);
    }
    assert_eq!(Body::Hex("abc".into()).bytes(), None);
    assert_eq!(Body::Hex("zz".into()).bytes(), None);
}
