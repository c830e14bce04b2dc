//! Micro ZAPs that are changed in place, against a map.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use kif::{BlockDev, BlockError};
use pool_dmu::{Store, zap_edit as zap};
use pool_phys::zap::Entry;
use pool_spa::{Layout, Pool};

#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no test of this file panics with it")
    }
}

impl BlockDev for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes().len() as u64
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        out.copy_from_slice(&self.bytes()[offset as usize..][..out.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.bytes()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

fn random(seed: u64) -> impl FnMut() -> u64 + Send {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}

/// A name of a directory entry's object type; any will do.
const KIND: u8 = 20;

#[test]
fn a_micro_table_changed_in_place_has_what_was_put_there() {
    let disk = Memory(Arc::new(Mutex::new(vec![0; 64 << 20])));
    let layout = Layout { redundancy: None, devices: vec![("disk".to_owned(), Box::new(disk.clone()) as Box<dyn BlockDev>)] };
    let (pool, config) = pool_spa::create("tank", vec![layout], 9, &mut random(1)).expect("laid out");
    let mut store = Store::create(pool, config, 1, Box::new(random(2))).expect("made");
    let dataset = store.create_dataset("tank", 2, 1).expect("a dataset");
    let table = {
        let (set, pool) = store.edit_dataset(dataset, None).expect("open");
        let table = set.allocate(pool, KIND, 512, 0, Vec::new()).expect("an object");
        // Hashes of names in capitals.
        zap::format(set.edit(pool, table).expect("there"), 2);
        table
    };
    let (salt, normalisation) = {
        let (set, pool) = store.edit_dataset(dataset, None).expect("open");
        let data = set.view(pool, table).expect("there").block(pool, 0).expect("read");
        pool_phys::zap::micro_header(&data).expect("a header")
    };
    let header = pool_phys::zap::micro_hashes(salt, normalisation);
    // Hashed as if they were the same: they are told apart by numbers.
    let twins = ["twin".to_owned(), "TWIN".to_owned(), "Twin".to_owned()];
    assert!(twins.iter().all(|name| header.hash(name.as_bytes()) == header.hash(b"TWIN")));

    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    let mut next = random(3);
    // Slots behind the header of the largest micro table, 128 KiB; how many names there were at most.
    const SLOTS: usize = (128 << 10) / 64 - 1;
    let (mut is_micro, mut most) = (true, 0);
    for round in 0..9000_u64 {
        let name = match next() % 10 {
            twin @ 0..3 => twins[twin as usize].clone(),
            // More and more, beyond what a micro table holds.
            _ => format!("name{}", next() % (10 + round * 2 / 3)),
        };
        let value = next();
        let (set, pool) = store.edit_dataset(dataset, None).expect("open");
        let edit = set.edit(pool, table).expect("there");
        if next().is_multiple_of(8) {
            assert_eq!(zap::remove(edit, pool, name.as_bytes()), Ok(model.remove(&name).is_some()), "{name}");
        } else {
            zap::set(edit, pool, Entry { name: name.clone().into_bytes(), integer_size: 8, value: vec![value] }).expect("set");
            model.insert(name.clone(), value);
            most = most.max(model.len());
        }
        assert_eq!(zap::number(edit, pool, name.as_bytes()), Ok(model.get(&name).copied()));
        if round % 500 == 499 {
            let mut all: Vec<(String, u64)> =
                zap::entries(edit, pool, None).expect("read").into_iter().map(|entry| (String::from_utf8(entry.name.clone()).expect("ours"), entry.number().expect("a number"))).collect();
            all.sort();
            assert_eq!(all, model.iter().map(|(name, value)| (name.clone(), *value)).collect::<Vec<_>>());
            let data = edit.block(pool, 0).expect("read");
            is_micro = data.starts_with(&(1_u64 << 63 | 3).to_le_bytes());
            // No two of one hash have the same number.
            let mut numbers = BTreeMap::new();
            for (slot, name, _) in pool_phys::zap::micro_entries(&data).into_iter().flatten() {
                assert_eq!(numbers.insert((header.hash(name), pool_phys::zap::micro_twin(&data, slot)), slot), None);
            }
            assert!(!is_micro || numbers.len() == model.len(), "every name in a slot of its own at {round}");
            assert_eq!(is_micro, most <= SLOTS, "at {round}");
            store.commit(round).expect("commits");
        }
    }
    assert!(!is_micro, "it has become a fat one");
    drop(store);
    let pool = Pool::import(vec![Box::new(disk) as Box<dyn BlockDev>], None).expect("imports");
    let mut store = Store::open(pool, Box::new(random(4))).expect("opens");
    let (set, pool) = store.edit_dataset(dataset, None).expect("open");
    let view = set.view(pool, table).expect("there");
    for (name, value) in &model {
        assert_eq!(zap::number(&view, pool, name.as_bytes()), Ok(Some(*value)), "{name}");
    }
}

#[test]
fn a_micro_table_that_is_larger_than_any_keeps_its_names_apart() {
    let disk = Memory(Arc::new(Mutex::new(vec![0; 64 << 20])));
    let layout = Layout { redundancy: None, devices: vec![("disk".to_owned(), Box::new(disk) as Box<dyn BlockDev>)] };
    let (pool, config) = pool_spa::create("tank", vec![layout], 9, &mut random(1)).expect("laid out");
    let mut store = Store::create(pool, config, 1, Box::new(random(2))).expect("made");
    let dataset = store.create_dataset("tank", 2, 1).expect("a dataset");
    let (set, pool) = store.edit_dataset(dataset, None).expect("open");
    // What OpenZFS never makes: more slots than 16 bits count.
    let names = 80_000_u64;
    let entry = |number: u64| Entry { name: format!("n{number}").into_bytes(), integer_size: 8, value: vec![number] };
    let entries: Vec<Entry> = (0..names).map(entry).collect();
    let table = set.allocate(pool, KIND, 8 << 20, 0, Vec::new()).expect("an object");
    let edit = set.edit(pool, table).expect("there");
    edit.put_block(0, pool_phys::zap::encode_micro(&entries, 8 << 20, 7, 0).expect("fits"));
    let number = |edit: &pool_dmu::edit::Edit, name: u64| zap::number(edit, pool, format!("n{name}").as_bytes()).expect("read");
    for name in [0, 65_533, 65_534, 65_535, 70_000, names - 1] {
        zap::set(edit, pool, Entry { value: vec![name + 1], ..entry(name) }).expect("set");
        assert_eq!((number(edit, name), number(edit, (name + 1) % names)), (Some(name + 1), Some((name + 1) % names)), "{name}");
        assert_eq!(zap::remove(edit, pool, format!("n{name}").as_bytes()), Ok(true));
        assert_eq!(number(edit, name), None);
        zap::set(edit, pool, entry(name)).expect("set");
    }
    assert_eq!(zap::entries(edit, pool, None).expect("read").len() as u64, names);
}
