//! Address spaces against a model: random operations on a family of forked spaces, every byte and every permission compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use kif::{Frame, ZoneId, user};
use proptest::prelude::*;
use vm::{
    Advice, AddressSpace, Backing, BackingError, FaultError, Limits, MapRequest, Object, Place, Protection, USER_END, VmError,
};

const PAGE: u64 = 4096;
const BASE: u64 = 0x10_0000;
/// Pages the operations play in.
const PAGES: u64 = 24;
const NO_LIMITS: Limits = Limits { address_space: u64::MAX, data: u64::MAX, stack: 8 << 20 };

/// A file whose page n holds n + 100 everywhere.
struct Numbers(Vec<Frame>);

impl Numbers {
    fn new(zone: ZoneId) -> Arc<Self> {
        let frames = (0..PAGES).map(|page| {
            let frame = Frame::allocate(zone).expect("memory");
            frame.write(0, &[page as u8 + 100; 4096]);
            frame
        });
        Arc::new(Self(frames.collect()))
    }
}

impl Backing for Numbers {
    fn page(&self, index: u64, _zone: ZoneId, _write: bool) -> Result<Frame, BackingError> {
        self.0.get(index as usize).cloned().ok_or(BackingError::PastEnd)
    }
    fn name(&self) -> String {
        "numbers".into()
    }
    fn identity(&self) -> (u64, u64) {
        (7, 7)
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Cell {
    protection: Protection,
    value: u8,
    /// What it reads as after MADV_DONTNEED.
    origin: u8,
}

type Model = BTreeMap<u64, Cell>;

#[derive(Clone, Debug)]
enum Op {
    MapAnonymous { page: u64, pages: u64, protection: u8 },
    MapFile { page: u64, pages: u64, first: u64, protection: u8 },
    Unmap { page: u64, pages: u64 },
    Protect { page: u64, pages: u64, protection: u8 },
    Write { page: u64, value: u8 },
    DontNeed { page: u64, pages: u64 },
    Move { page: u64, pages: u64, to: u64 },
    Fork,
    Exit,
    Switch(usize),
}

fn protection(bits: u8) -> Protection {
    Protection { read: bits & 1 != 0, write: bits & 2 != 0, execute: false }
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..PAGES, 1..6_u64);
    prop_oneof![
        3 => (range(), 0..4_u8).prop_map(|((page, pages), protection)| Op::MapAnonymous { page, pages, protection }),
        3 => (range(), 0..8_u64, 0..4_u8).prop_map(|((page, pages), first, protection)| Op::MapFile { page, pages, first, protection }),
        2 => range().prop_map(|(page, pages)| Op::Unmap { page, pages }),
        3 => (range(), 0..4_u8).prop_map(|((page, pages), protection)| Op::Protect { page, pages, protection }),
        8 => (0..PAGES, any::<u8>()).prop_map(|(page, value)| Op::Write { page, value }),
        1 => range().prop_map(|(page, pages)| Op::DontNeed { page, pages }),
        2 => (range(), 0..PAGES).prop_map(|((page, pages), to)| Op::Move { page, pages, to }),
        2 => Just(Op::Fork),
        1 => Just(Op::Exit),
        3 => (0..4_usize).prop_map(Op::Switch),
    ]
}

struct World {
    spaces: Vec<(Arc<AddressSpace>, Model)>,
    at: usize,
    file: Arc<Numbers>,
}

fn address(page: u64) -> u64 {
    BASE + page * PAGE
}

impl World {
    fn activate(&self) {
        self.spaces[self.at].0.activate();
    }

    fn apply(&mut self, op: &Op) {
        let file = Arc::clone(&self.file);
        let at = self.at;
        let spaces = self.spaces.len();
        let (space, model) = &mut self.spaces[at];
        match *op {
            Op::MapAnonymous { page, pages, protection: bits } => {
                let request = MapRequest::anonymous(Place::Fixed(address(page)), pages * PAGE, protection(bits));
                assert_eq!(space.map(request), Ok(address(page)));
                for page in page..page + pages {
                    model.insert(page, Cell { protection: protection(bits), value: 0, origin: 0 });
                }
            }
            Op::MapFile { page, pages, first, protection: bits } => {
                let request = MapRequest {
                    object: Some(Object { backing: file, first_page: first }),
                    ..MapRequest::anonymous(Place::Fixed(address(page)), pages * PAGE, protection(bits))
                };
                assert_eq!(space.map(request), Ok(address(page)));
                for (page, number) in (page..page + pages).zip(first..) {
                    let value = number as u8 + 100;
                    model.insert(page, Cell { protection: protection(bits), value, origin: value });
                }
            }
            Op::Unmap { page, pages } => {
                assert_eq!(space.unmap(address(page), pages * PAGE), Ok(()));
                model.retain(|at, _| !(page..page + pages).contains(at));
            }
            Op::Protect { page, pages, protection: bits } => {
                let whole = (page..page + pages).all(|page| model.contains_key(&page));
                let expected = if whole { Ok(()) } else { Err(VmError::NoRoom) };
                assert_eq!(space.protect(address(page), pages * PAGE, protection(bits)), expected);
                if whole {
                    for (_, cell) in model.range_mut(page..page + pages) {
                        cell.protection = protection(bits);
                    }
                }
            }
            Op::Write { page, value } => {
                let at = address(page) + 5;
                let allowed = model.get(&page).is_some_and(|cell| cell.protection.write);
                assert_eq!(user().write(at, &[value]).is_ok(), allowed, "write at page {page}");
                if allowed {
                    // The whole page holds one value in the model: fill it.
                    user().write(address(page), &[value; 4096]).expect("just written");
                    model.get_mut(&page).expect("allowed").value = value;
                }
            }
            Op::DontNeed { page, pages } => {
                let whole = (page..page + pages).all(|page| model.contains_key(&page));
                assert_eq!(space.advise(address(page), pages * PAGE, Advice::DontNeed).is_ok(), whole);
                for (_, cell) in model.range_mut(page..page + pages) {
                    cell.value = cell.origin;
                }
            }
            Op::Move { page, pages, to } => {
                let overlaps = to < page + pages && page < to + pages;
                let moved = space.remap(address(page), pages * PAGE, pages * PAGE, true, Some(address(to)));
                if overlaps {
                    assert!(moved.is_err());
                    return;
                }
                // It fails where the range spans segments; the model cannot tell, but may look at the outcome.
                let Ok(target) = moved else { return };
                assert_eq!(target, address(to));
                model.retain(|at, _| !(to..to + pages).contains(at));
                let cells: Vec<_> = (page..page + pages).map(|at| model.remove(&at).expect("one segment has no holes")).collect();
                model.extend((to..).zip(cells));
            }
            Op::Fork => {
                if spaces < 4 {
                    let child = space.fork().expect("memory");
                    let model = model.clone();
                    self.spaces.push((child, model));
                }
            }
            Op::Exit => {
                if self.spaces.len() > 1 {
                    kif::mmu().activate(None, None);
                    self.spaces.swap_remove(at);
                    self.at = 0;
                    self.activate();
                }
            }
            Op::Switch(to) => {
                self.at = to % self.spaces.len();
                self.activate();
            }
        }
    }

    fn check(&mut self) {
        for at in 0..self.spaces.len() {
            self.spaces[at].0.activate();
            let (space, model) = &self.spaces[at];
            for page in 0..PAGES + 8 {
                let mut byte = [0];
                let read = user().read(address(page) + 4095, &mut byte);
                match model.get(&page) {
                    Some(cell) if cell.protection.any() => {
                        assert_eq!((read, byte[0]), (Ok(()), cell.value), "space {at} page {page}");
                    }
                    _ => assert!(read.is_err(), "space {at} page {page} should not be readable"),
                }
            }
            // The listing covers exactly the model.
            let listed: u64 = space.regions(0).iter().map(|region| (region.end - region.start) / PAGE).sum();
            assert_eq!(listed, model.len() as u64);
            assert_eq!(space.usage().mapped, model.len() as u64);
        }
        self.activate();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn a_family_of_spaces_agrees_with_the_model(ops in prop::collection::vec(op(), 1..80)) {
        kif_host::start();
        let zone = kif_host::fresh_zone();
        {
            let first = AddressSpace::new(zone, NO_LIMITS).expect("memory");
            let mut world = World { spaces: vec![(first, Model::new())], at: 0, file: Numbers::new(zone) };
            world.activate();
            for op in &ops {
                world.apply(op);
            }
            world.check();
            kif::mmu().activate(None, None);
        }
        prop_assert_eq!(kif::frames().charged_bytes(zone), 0, "pages or reservations leaked");
    }

    /// Whichever allocation fails: the operation fails or not, nothing leaks, and the others' memory is as it was.
    #[test]
    fn any_failing_allocation_leaves_spaces_whole(nth in 1..40_u64, writes in prop::collection::vec((0..PAGES, any::<u8>()), 1..30)) {
        kif_host::start();
        let zone = kif_host::fresh_zone();
        {
            let parent = AddressSpace::new(zone, NO_LIMITS).expect("memory");
            parent.activate();
            parent.map(MapRequest::anonymous(Place::Fixed(BASE), PAGES * PAGE, Protection::RW)).expect("room");
            let mut model = BTreeMap::new();
            for (page, value) in &writes {
                user().write(address(*page), &[*value]).expect("memory");
                model.insert(*page, *value);
            }
            kif_host::fail_nth(nth);
            let child = parent.fork();
            for (page, value) in &writes {
                if user().write(address(*page), &[value.wrapping_add(1)]).is_ok() {
                    model.insert(*page, value.wrapping_add(1));
                }
            }
            kif_host::fail_nth(0);
            for (page, value) in &model {
                let mut byte = [0];
                user().read(address(*page), &mut byte).expect("memory");
                prop_assert_eq!(byte[0], *value);
            }
            if let Ok(child) = child {
                child.activate();
                let last: BTreeMap<_, _> = writes.iter().copied().collect();
                for (page, value) in &last {
                    let mut byte = [0];
                    user().read(address(*page), &mut byte).expect("memory");
                    prop_assert_eq!(byte[0], *value, "the child sees the parent's store");
                }
            }
            kif::mmu().activate(None, None);
        }
        prop_assert_eq!(kif::frames().charged_bytes(zone), 0);
    }
}

fn space() -> (Arc<AddressSpace>, ZoneId) {
    kif_host::start();
    let zone = kif_host::fresh_zone();
    (AddressSpace::new(zone, NO_LIMITS).expect("memory"), zone)
}

#[test]
fn shared_memory_is_seen_by_the_child_and_private_is_not() {
    let (parent, _) = space();
    let shared = parent.map(MapRequest { shared: true, ..MapRequest::anonymous(Place::Hint(0), PAGE, Protection::RW) }).expect("room");
    let private = parent.map(MapRequest::anonymous(Place::Hint(0), PAGE, Protection::RW)).expect("room");
    parent.activate();
    user().write(shared, &[1]).expect("mapped");
    user().write(private, &[1]).expect("mapped");
    let child = parent.fork().expect("memory");
    child.activate();
    user().write(shared, &[2]).expect("mapped");
    user().write(private, &[2]).expect("mapped");
    parent.activate();
    let mut bytes = [0; 2];
    user().read(shared, &mut bytes[..1]).expect("mapped");
    user().read(private, &mut bytes[1..]).expect("mapped");
    assert_eq!(bytes, [2, 1]);
    assert_eq!(parent.futex_key(shared), child.futex_key(shared));
    assert_ne!(parent.futex_key(private), child.futex_key(private));
    kif::mmu().activate(None, None);
}

#[test]
fn the_stack_grows_to_its_limit_and_keeps_its_distance() {
    let (space, _) = space();
    let top = USER_END;
    let stack = MapRequest { grows_down: true, ..MapRequest::anonymous(Place::Fixed(top - PAGE), PAGE, Protection::RW) };
    space.map(stack).expect("room");
    space.activate();
    user().write(top - (1 << 20), &[1]).expect("within the limit");
    assert!(user().write(top - (9 << 20), &[1]).is_err(), "beyond RLIMIT_STACK");
    // A mapping near the lower end stops it a gap away.
    space.map(MapRequest::anonymous(Place::Fixed(top - (4 << 20)), PAGE, Protection::RW)).expect("room");
    assert!(user().write(top - (4 << 20) + 2 * PAGE, &[1]).is_err(), "within the guard gap");
    assert!(user().write(top - (2 << 20), &[1]).is_ok());
    kif::mmu().activate(None, None);
}

#[test]
fn kernel_addresses_and_wrapping_ranges_are_refused() {
    let (space, _) = space();
    for (start, length) in [(0xffff_8000_0000_0000, PAGE), (USER_END, PAGE), (USER_END - PAGE, 2 * PAGE), (BASE, u64::MAX - BASE)] {
        assert!(space.map(MapRequest::anonymous(Place::Fixed(start), length, Protection::RW)).is_err(), "{start:#x}+{length:#x}");
        assert!(space.unmap(start, length).is_err());
        assert!(space.protect(start, length, Protection::R).is_err());
        assert!(space.remap(start, length, length, true, None).is_err());
        assert!(space.resident_map(start, length).is_err());
    }
    assert_eq!(
        space.fault(kif::Fault { address: 0xffff_ffff_8000_0000, write: true, execute: false }),
        Err(FaultError::NotMapped)
    );
    assert!(space.map(MapRequest::anonymous(Place::Fixed(0), PAGE, Protection::RW)).is_err(), "page zero stays free");
    assert_eq!(
        space.map(MapRequest::anonymous(Place::FixedEmpty(BASE), PAGE, Protection::RW)).and_then(|_| {
            space.map(MapRequest::anonymous(Place::FixedEmpty(BASE), PAGE, Protection::RW))
        }),
        Err(VmError::Occupied)
    );
}

#[test]
fn limits_hold() {
    kif_host::start();
    let zone = kif_host::fresh_zone();
    let limits = Limits { address_space: 16 * PAGE, data: 8 * PAGE, stack: 8 << 20 };
    let space = AddressSpace::new(zone, limits).expect("memory");
    let map = |pages, protection| space.map(MapRequest::anonymous(Place::Hint(0), pages * PAGE, protection));
    assert!(map(9, Protection::RW).is_err(), "RLIMIT_DATA");
    map(8, Protection::RW).expect("within");
    assert!(map(9, Protection::R).is_err(), "RLIMIT_AS");
    map(8, Protection::R).expect("within");
    space.set_brk_base(BASE);
    assert_eq!(space.brk(BASE + PAGE), BASE, "brk counts against both");
    // A capped zone: the page fails, the space stays whole.
    kif::frames().set_cap_bytes(zone, kif::frames().charged_bytes(zone) + 2 * PAGE);
    let region = space.regions(0)[0].clone();
    let results: Vec<_> = (0..8)
        .map(|page| space.fault(kif::Fault { address: region.start + page * PAGE, write: false, execute: false }))
        .collect();
    assert!(results.contains(&Err(FaultError::OutOfMemory)), "{results:?}");
}

#[test]
fn segments_merge_and_brk_comes_back() {
    let (space, _) = space();
    space.set_brk_base(BASE);
    assert_eq!(space.brk(0), BASE);
    assert_eq!(space.brk(BASE + 100), BASE + 100);
    assert_eq!(space.brk(BASE + 5 * PAGE), BASE + 5 * PAGE);
    let regions = space.regions(0);
    assert_eq!((regions.len(), regions[0].name.as_str()), (1, "[heap]"));
    space.protect(BASE + PAGE, PAGE, Protection::R).expect("mapped");
    assert_eq!(space.regions(0).len(), 3);
    space.protect(BASE + PAGE, PAGE, Protection::RW).expect("mapped");
    assert_eq!(space.regions(0).len(), 1, "the same attributes merge again");
    assert_eq!(space.brk(BASE), BASE);
    assert!(space.regions(0).is_empty());
    assert_eq!(space.brk(BASE - 1), BASE, "below the start: no change");
}

#[test]
fn a_mapping_that_moves_counts_against_the_limits() {
    kif_host::start();
    let zone = kif_host::fresh_zone();
    let limits = Limits { address_space: 16 * PAGE, data: 8 * PAGE, stack: 8 << 20 };
    let space = AddressSpace::new(zone, limits).expect("memory");
    let map = |at, pages| space.map(MapRequest::anonymous(Place::Fixed(at), pages * PAGE, Protection::RW)).expect("within");
    // Something low in the address space must not count as replaced.
    let low = map(0x10000, 4);
    let high = map(BASE, 4);
    assert!(space.remap(high, 4 * PAGE, 9 * PAGE, true, None).is_err(), "RLIMIT_DATA, wherever it lands");
    assert!(space.remap(high, 4 * PAGE, 9 * PAGE, true, Some(BASE + 100 * PAGE)).is_err(), "RLIMIT_DATA, at a place of its own");
    assert!(space.remap(high, 4 * PAGE, 1000 * PAGE, true, Some(BASE + 100 * PAGE)).is_err(), "RLIMIT_AS");
    // In the place of the other one there is room for it: that one goes.
    assert_eq!(space.remap(high, 4 * PAGE, 8 * PAGE, true, Some(low)), Ok(low));
    assert_eq!(space.usage().mapped, 8);
}

#[test]
fn a_walk_finds_what_is_mapped_to_be_shared() {
    let (space, zone) = space();
    let numbers = Numbers::new(zone);
    let map = |page, pages, shared| {
        let object = Some(Object { backing: Arc::clone(&numbers) as Arc<dyn Backing>, first_page: 0 });
        let request = MapRequest::anonymous(Place::Fixed(address(page)), pages * PAGE, Protection::RW);
        space.map(MapRequest { shared, object, ..request }).expect("room");
    };
    map(0, 2, true);
    map(2, 1, false);
    map(3, 1, true);
    let found = |from, limit| space.shared_object(address(from), address(limit)).map(|(end, _)| (end - BASE) / PAGE);
    assert_eq!([found(0, 4), found(1, 4), found(2, 4), found(2, 3), found(4, 9)], [Some(2), Some(2), Some(4), None, None]);
}
