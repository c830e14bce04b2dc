//! Random lists survive a round trip; random bytes are refused or are the one encoding of what they decode to.

use nv::{DEPTH_MAX, NvList, Value};
use proptest::prelude::*;

fn lists(depth: usize) -> BoxedStrategy<NvList> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::Number),
        any::<i64>().prop_map(Value::Signed),
        ".{0,12}".prop_map(Value::String),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        prop::collection::vec(".{0,5}", 0..4).prop_map(Value::Strings),
        prop::collection::vec(any::<u64>(), 0..4).prop_map(Value::Numbers),
    ];
    let value = if depth == 0 {
        leaf.boxed()
    } else {
        prop_oneof![
            4 => leaf,
            1 => lists(depth - 1).prop_map(Value::List),
            1 => prop::collection::vec(lists(depth - 1), 0..3).prop_map(Value::Lists),
        ]
        .boxed()
    };
    prop::collection::vec(("[a-z.-]{1,8}", value), 0..6)
        .prop_map(|pairs| pairs.into_iter().fold(NvList::new(), |list, (name, value)| list.with(&name, value)))
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn round_trip(list in lists(DEPTH_MAX.min(3))) {
        prop_assert_eq!(NvList::decode(&list.encode()), Ok(list));
    }

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut message = b"NV\x01".to_vec();
        message.extend(bytes);
        if let Ok(list) = NvList::decode(&message) {
            prop_assert_eq!(list.encode(), message);
        }
    }

    #[test]
    fn damaged_messages(list in lists(2), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut message = list.encode();
        let at = at.index(message.len());
        message[at] = with;
        message.truncate(cut.index(message.len()) + 1);
        if let Ok(list) = NvList::decode(&message) {
            prop_assert_eq!(list.encode(), message);
        }
    }
}
