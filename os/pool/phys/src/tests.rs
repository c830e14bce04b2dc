//! Parsers never panic; raidz geometry and parity hold together.

use crate::{blkptr, dnode, label, nvlist, objset, raidz, sa, zap};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

#[test]
fn raidz_columns_cover_the_block_once() {
    for (children, parity) in [(3, 1), (5, 2), (7, 3), (2, 1)] {
        let shape = raidz::Shape { children, parity, ashift: 9 };
        for sectors in 1..40_u64 {
            for row in 0..20_u64 {
                let columns = shape.columns(row * 512, sectors * 512);
                let data: u64 = columns.iter().skip(parity).map(|column| column.size).sum();
                assert_eq!(data, sectors * 512, "data columns hold the block");
                assert!(columns[..parity].iter().all(|column| column.size == columns.iter().map(|c| c.size).max().unwrap_or(0)));
                let mut children: Vec<usize> = columns.iter().map(|column| column.child).collect();
                children.sort_unstable();
                children.dedup();
                assert_eq!(children.len(), columns.len(), "each column has a child of its own");
                assert!(shape.asize(sectors * 512) >= columns.iter().map(|column| column.size).sum());
            }
        }
    }
}

proptest! {
    #[test]
    fn raidz_rebuilds_any_lost_columns(
        columns in prop::collection::vec(prop::collection::vec(any::<u8>(), 8..=8), 1..9),
        lost in prop::collection::btree_set(0_usize..12, 0..=3),
    ) {
        let count = columns.len();
        let views: Vec<&[u8]> = columns.iter().map(Vec::as_slice).collect();
        let parity = raidz::generate(&views, 3);
        let missing: Vec<usize> = lost.iter().copied().filter(|index| *index < count).collect();
        // Indices past the data stand for lost parity columns.
        let lost_parity: Vec<usize> = lost.iter().filter_map(|index| index.checked_sub(count)).collect();
        let rows: Vec<(usize, &[u8])> =
            (0..3).filter(|row| !lost_parity.contains(row)).map(|row| (row, parity[row].as_slice())).collect();
        let mut damaged = columns.clone();
        for index in &missing {
            damaged[*index] = vec![0xEE; 8];
        }
        prop_assume!(missing.len() <= rows.len());
        prop_assert!(raidz::rebuild(&mut damaged, &missing, &rows));
        prop_assert_eq!(damaged, columns);
    }

    #[test]
    fn garbage_never_panics(data in prop::collection::vec(any::<u8>(), 0..2048)) {
        drop(blkptr::BlockPointer::parse(&data));
        drop(dnode::Dnode::parse(&data));
        drop(objset::Objset::parse(&data));
        drop(nvlist::parse(&data));
        drop(label::parse(&data, 0));
        drop(zap::parse_root(&data));
        drop(sa::Registry::default().parse(&data));
        drop(sa::Znode::parse_old(&data));
    }

    #[test]
    fn garbage_behind_valid_magics_never_panics(mut data in prop::collection::vec(any::<u8>(), 1024..=1024), pick in 0..3) {
        let head: [u8; 8] = match pick {
            0 => 0x8000_0000_0000_0003_u64.to_le_bytes(),
            1 => 0x8000_0000_0000_0001_u64.to_le_bytes(),
            _ => [1, 1, 0, 0, 0, 0, 0, 0],
        };
        data[..8].copy_from_slice(&head);
        data[8..16].copy_from_slice(&0x2_F52A_B2AB_u64.to_le_bytes());
        drop(zap::parse_root(&data));
        drop(nvlist::parse(&data));
        data[..8].copy_from_slice(&0x8000_0000_0000_0000_u64.to_le_bytes());
        data[24..28].copy_from_slice(&0x2AB_1EAF_u32.to_le_bytes());
        let header = zap::Header { word_keys: pick == 1, ..zap::Header::new(10, 1, 0) };
        drop(zap::parse_leaf(&data, &header));
    }
}

proptest! {
    #[test]
    fn block_pointers_survive_a_round_trip(
        offsets in prop::array::uniform3(0_u64..1 << 40), birth in 1_u64.., lsize in 1_u64..256, psize in 1_u64..256, level in 0_u8..6, words: [u64; 4],
    ) {
        use blkptr::{BlockPointer, Checksum, Compression, Dva, Target};
        let dva = |index: usize| Some(Dva { vdev: 3, offset: offsets[index] * 512, asize: psize * 512, gang: false });
        let pointer = BlockPointer {
            target: Target::Stored([dva(0), dva(1), None]),
            lsize: lsize.max(psize) * 512, psize: psize * 512, compression: Compression::Lz4, checksum: Checksum::Fletcher4,
            kind: 19, level, encrypted: false, dedup: false, physical_birth: birth, birth, fill: 1, words,
        };
        prop_assert_eq!(BlockPointer::parse(&pointer.encode()), Ok(pointer));
    }

    #[test]
    fn nvlists_survive_a_round_trip(numbers in prop::collection::vec(any::<u64>(), 0..5), text in "[a-z]{0,20}") {
        use nvlist::{List, Value};
        let mut inner = List::default();
        inner.set("numbers", Value::Numbers(numbers));
        inner.set("flag", Value::Boolean);
        let mut list = List::default();
        list.set("text", Value::Text(text));
        list.set("children", Value::Lists(vec![inner.clone(), inner.clone()]));
        list.set("inner", Value::List(inner));
        prop_assert_eq!(nvlist::parse(&nvlist::encode(&list)), Ok(list));
    }

    #[test]
    fn space_maps_survive_a_round_trip(runs in prop::collection::vec((any::<bool>(), 0_u64..1 << 40, 1_u64..1 << 15), 0..20)) {
        use crate::spacemap::{Entry, encode, parse};
        let entries: Vec<Entry> = runs.into_iter().map(|(free, offset, run)| Entry { free, offset, run }).collect();
        prop_assert_eq!(parse(&encode(entries.clone(), 7)).and_then(Iterator::collect::<Result<Vec<_>, _>>), Ok(entries));
    }
}

proptest! {
    #[test]
    fn zap_leaves_survive_a_round_trip(names in prop::collection::btree_map("[a-z]{1,80}", prop::collection::vec(any::<u64>(), 1..6), 0..40)) {
        let header = zap::Header::new(14, 0x1234_5678_9abc, 0);
        let entries: Vec<zap::Entry> =
            names.into_iter().map(|(name, value)| zap::Entry { name: name.into_bytes(), integer_size: 8, value }).collect();
        let leaf = zap::encode_leaf(&entries, &header, 0, 0, 16384).expect("fits");
        let mut found = zap::parse_leaf(&leaf, &header).expect("parses");
        found.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(found, entries);
    }
}

/// A hostile object set made the readers divide by it (campaign `pool-liar`, seed 3001).
#[test]
fn a_dnode_has_a_block_size() {
    let mut slot = [0; dnode::SLOT];
    slot[..4].copy_from_slice(&[dnode::kind::DNODE, 17, 1, 1]);
    assert!(dnode::Dnode::parse(&slot).is_err());
    slot[8] = 1;
    assert_eq!(dnode::Dnode::parse(&slot).expect("a dnode").expect("not free").block_size, 512);
}
