//! All disks of a pool are pulled at every write and flush of a commit, lose of their caches what they like, and come back: nothing is lost.

use kif::BlockDev as _;
use pool_dmu::{ScanKind, Store};
use pool_fire::disk::{Disk, Fuse, mix};
use pool_fire::rig::{self, NAME, NOW, SHAPES, Shape};
use pool_fire::work::{Did, Work};

/// A pool with some committed txgs, and one that is open; what is in it is synced now and then.
fn prepare(shape: &Shape, seed: u64, fuse: &Fuse) -> (Vec<Disk>, Store, Work) {
    let (disks, mut store) = rig::create(shape, seed).expect("good disks");
    disks.iter().for_each(|disk| disk.behind(fuse));
    let mut work = Work::small(seed);
    for step in 0..90 {
        work.step(&mut store).expect("good disks");
        if step % 30 == 29 {
            store.commit(NOW.0).expect("good disks");
        }
    }
    let mut left = 12;
    while left > 0 {
        left -= u64::from(work.step(&mut store).expect("good disks") == Did::Change);
    }
    (disks, store, work)
}

/// What is on the disks, opened by itself, is the model and whole.
fn examine(disks: &[Disk], work: &Work, what: &str) {
    let forks: Vec<Disk> = disks.iter().map(Disk::fork).collect();
    let store = rig::open(&forks, 3, None).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(rig::read_all(store.pool(), NAME).expect("readable") == work.model, "{what}: an import finds something else");
    let found = pool_dmu::check(store.pool(), true).expect("readable");
    assert_eq!(found.fault_count, 0, "{what}: {:?}", found.faults.first());
}

fn goes_on(shape: &Shape, disks: &[Disk], store: &mut Store, work: &mut Work, what: &str) {
    assert!(!store.is_suspended(), "{what}");
    assert!(rig::read_all(store.pool(), NAME).expect("readable") == work.model, "{what}: the files are others");
    examine(disks, work, what);
    for _ in 0..20 {
        work.step(store).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    store.commit(NOW.0).unwrap_or_else(|error| panic!("{what}: {error}"));
    examine(disks, work, what);
    let resilvered = store.run_scan(ScanKind::Resilver, NOW.0).expect("good disks");
    assert_eq!(resilvered.errors, 0, "{what}");
    // Each disk has everything now, whatever it missed before: all that the layout bears can go.
    store.commit(NOW.0).expect("good disks");
    if !shape.log {
        let forks: Vec<Disk> = disks.iter().map(Disk::fork).collect();
        forks[..shape.bearable()].iter().for_each(|disk| disk.break_down(&[pool_fire::disk::Trouble::Gone]));
        let alone = rig::open(&forks, 5, None).unwrap_or_else(|error| panic!("{what}: without what can be borne: {error}"));
        assert!(rig::read_all(alone.pool(), NAME).expect("readable") == work.model, "{what}: the other disks had less");
    }
}

#[test]
fn disks_pulled_anywhere_in_a_commit_and_put_back_lose_nothing() {
    for (shape, seed) in SHAPES.iter().zip(20..) {
        let fuse = Fuse::default();
        let steps = {
            let (_, mut store, _) = prepare(shape, seed, &fuse);
            fuse.set(1 << 20);
            store.commit(NOW.0).expect("good disks");
            (1 << 20) - fuse.left()
        };
        assert!(steps > 20, "{}: {steps}", shape.name);
        for at in 0..steps {
            let what = format!("{} seed {seed}, pulled at step {at} of {steps}", shape.name);
            let fuse = Fuse::default();
            let (disks, mut store, mut work) = prepare(shape, seed, &fuse);
            fuse.set(at);
            let done = store.commit(NOW.0);
            assert!(done.is_err() && store.is_suspended() && !store.is_broken(), "{what}: {done:?}");
            // While they are away nothing changes, however often it is asked for.
            assert!(store.retry(NOW.0).is_err() && store.is_suspended() && !store.is_broken(), "{what}");
            let dataset = store.find(NAME).expect("in memory");
            assert!(store.log_sync(dataset, NOW.0).is_err() && store.commit(NOW.0).is_err() && store.reserve(1, 512).is_err(), "{what}");
            fuse.mend(&disks, mix(at));
            let (back, silent) = store.revive();
            assert!(back > 0 && silent.is_empty(), "{what}: {back} came back, not {silent:?}");
            store.retry(NOW.0).unwrap_or_else(|error| panic!("{what}: {error}"));
            goes_on(shape, &disks, &mut store, &mut work, &what);
        }
    }
}

#[test]
fn disks_pulled_again_while_the_commit_is_tried_again_lose_nothing() {
    let shape = &SHAPES[2];
    for round in 0..60 {
        let fuse = Fuse::default();
        let (disks, mut store, mut work) = prepare(shape, 31, &fuse);
        fuse.set(mix(round) % 60);
        let mut done = store.commit(NOW.0);
        for attempt in 0..3 {
            if done.is_ok() {
                break;
            }
            fuse.mend(&disks, mix(round << 8 | attempt));
            store.revive();
            fuse.set(mix(round << 16 | attempt) % 80);
            done = store.retry(NOW.0);
            assert!(!store.is_broken(), "round {round}");
        }
        fuse.mend(&disks, mix(!round));
        store.revive();
        if store.is_suspended() {
            store.retry(NOW.0).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        goes_on(shape, &disks, &mut store, &mut work, &format!("round {round}"));
    }
}

#[test]
fn a_commit_does_not_begin_without_devices() {
    let fuse = Fuse::default();
    let (disks, mut store, mut work) = prepare(&SHAPES[3], 40, &fuse);
    let dataset = store.find(NAME).expect("in memory");
    fuse.set(0);
    // The log finds out; what it has written of its chain counts no more.
    assert!(store.log_sync(dataset, NOW.0).is_err() && store.is_suspended() && !store.is_broken());
    assert!(!store.pool().bears_losses() && store.pool().staged_bytes() == 0);
    fuse.mend(&disks, 1);
    let (back, silent) = store.revive();
    assert!(back >= 2 && silent.is_empty());
    store.retry(NOW.0).expect("they are back");
    // A block of a log that no disk took is nothing that a resilver could bring.
    assert!(store.pool().lacking_txgs().is_none(), "the commit had everything");
    goes_on(&SHAPES[3], &disks, &mut store, &mut work, "before a commit");
}

#[test]
fn another_disk_in_the_place_of_one_that_went_is_not_taken_for_it() {
    let fuse = Fuse::default();
    let (disks, mut store, mut work) = prepare(&SHAPES[2], 50, &fuse);
    let older: Vec<Disk> = disks.iter().map(Disk::fork).collect();
    work.step(&mut store).expect("good disks");
    store.commit(NOW.0).expect("good disks");
    fuse.set(3);
    work.step(&mut store).expect("in memory");
    if store.commit(NOW.0).is_ok() {
        return;
    }
    fuse.mend(&disks, 9);
    // One comes back as it was long ago, the other is blank.
    let blank = vec![0; 512 << 10];
    disks[0].scribble(0, &blank);
    disks[0].scribble(disks[0].size_bytes() - (512 << 10), &blank);
    older[1].pages().iter().for_each(|(page, data)| disks[1].scribble(page * 4096, data));
    let (back, silent) = store.revive();
    assert_eq!((back, silent.len()), (1, 1), "the blank one is not it");
    let _refused = store.retry(NOW.0);
    let guids = rig::leaves(store.pool());
    assert!(!store.pool().is_whole(guids[1]), "it lacks what was written since");
}
