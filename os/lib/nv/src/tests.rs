use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::*;

fn sample() -> NvList {
    NvList::new()
        .with("name", "alpha")
        .with("shares", 300_u64)
        .with("delta", Value::Signed(-5))
        .with("autoboot", true)
        .with("uuid", vec![0xde_u8, 0xad])
        .with("rctls", vec![NvList::new().with("name", "zone.cpu-shares").with("value", 300_u64)])
        .with("args", vec!["a".to_string(), String::new()])
        .with("load", vec![1_u64, 2, 3])
        .with("inner", NvList::new())
}

#[test]
fn encoding_is_as_documented() {
    let bytes = NvList::new().with("ok", true).with("n", 0x0102_u64).encode();
    assert_eq!(bytes, b"NV\x01\x02\x00\x02ok\x01\x01\x01n\x02\x02\x01\0\0\0\0\0\0");
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let list = sample();
    assert_eq!(NvList::decode(&list.encode()), Ok(list));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample().encode();
    for end in 0..bytes.len() {
        assert!(NvList::decode(&bytes[..end]).is_err(), "{end} of {} bytes decoded", bytes.len());
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(NvList::decode(&longer).map_err(|e| e.reason), Err(Reason::Trailing));
}

#[test]
fn bad_messages_name_the_fault_and_its_place() {
    let cases: &[(&[u8], usize, Reason)] = &[
        (b"", 0, Reason::Magic),
        (b"NV\x02\0\0", 0, Reason::Magic),
        (b"NV\x01\x01\0\x00\x01\x01", 5, Reason::EmptyName),
        (b"NV\x01\x01\0\x01a\x0a", 7, Reason::Type(10)),
        (b"NV\x01\x01\0\x01a\x01\x02", 8, Reason::Bool(2)),
        (b"NV\x01\x02\0\x01a\x01\x00\x01a\x01\x00", 9, Reason::RepeatedName),
        (b"NV\x01\x01\0\x01\xff\x01\x00", 5, Reason::Utf8),
        (b"NV\x01\x01\0\x01a\x04\x01\0\0\0\xff", 8, Reason::Utf8),
        (b"NV\x01\x01\0\x01a\x04\xff\xff\xff\xff", 12, Reason::Truncated),
        (b"NV\x01\xff\xff\x01a\x01\x00", 9, Reason::Truncated),
    ];
    for (bytes, offset, reason) in cases {
        assert_eq!(NvList::decode(bytes), Err(DecodeError { offset: *offset, reason: *reason }), "{bytes:?}");
    }
}

#[test]
fn nesting_is_bounded() {
    let mut bytes = b"NV\x01".to_vec();
    for _ in 0..100_000 {
        bytes.extend_from_slice(b"\x01\0\x01a\x06");
    }
    assert_eq!(NvList::decode(&bytes).map_err(|e| e.reason), Err(Reason::Depth));
    let mut list = NvList::new();
    for _ in 1..DEPTH_MAX {
        list = NvList::new().with("in", list);
    }
    assert_eq!(NvList::decode(&list.encode()), Ok(list));
}

#[test]
fn readers_name_the_field() {
    let list = sample();
    assert_eq!(list.string("name"), Ok("alpha"));
    assert_eq!(list.opt_number("nothing"), Ok(None));
    let error = list.number("name").map_err(|e| e.to_string());
    assert_eq!(error, Err("field 'name' must be a number, not a string".to_string()));
    let error = list.opt_bool("shares").map_err(|e| e.to_string());
    assert_eq!(error, Err("field 'shares' must be a bool, not a number".to_string()));
    let error = list.list("zone").map_err(|e| e.to_string());
    assert_eq!(error, Err("field 'zone' is missing".to_string()));
}

#[test]
fn prints_for_people() {
    let text = NvList::new().with("name", "alpha").with("rctls", vec![NvList::new().with("value", 3_u64)]).to_string();
    assert_eq!(text, "name: \"alpha\"\nrctls: \n  [0]\n    value: 3\n");
}

#[test]
fn one_flipped_byte_never_panics_and_has_one_reading() {
    let bytes = sample().encode();
    for at in 0..bytes.len() {
        for flip in 1..=255_u8 {
            let mut broken: Vec<u8> = bytes.clone();
            broken[at] ^= flip;
            if let Ok(list) = NvList::decode(&broken) {
                assert_eq!(list.encode(), broken, "two encodings of one list");
            }
        }
    }
}
