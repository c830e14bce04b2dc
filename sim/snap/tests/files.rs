//! What is saved comes back as it was; what is damaged is named.

mod support;

use proptest::prelude::*;
use sim_board::{Machine, Port, Snapshot, Until};
use sim_snap::file::{FileError, FileKind, Reader, Writer};
use sim_snap::{Capsule, Failure, capsule, diff, saved};
use support::{board, busy, elf, machine};

const COMMIT: &str = "0123456789ab";

/// A run with something typed, and the snapshot at its third checkpoint.
fn third_checkpoint() -> (Machine, Snapshot) {
    let mut machine = machine(&board());
    machine.keep_snapshots();
    machine.run_until(7_000);
    machine.serial_put(Port::Com1, b"hello");
    for _ in 0..2 {
        machine.run(&Until { checkpoint: true, ..Until::default() });
    }
    let snapshot = machine.snapshot().expect("at a checkpoint");
    (machine, snapshot)
}

fn capsule() -> Capsule {
    let mut machine = machine(&board());
    machine.run_until(12_345);
    machine.serial_put(Port::Com1, b"typed at 12345");
    machine.run_until(98_765);
    Capsule {
        board: board(),
        kernel: elf(&busy()),
        initrd: None,
        append: "test".to_owned(),
        images: Vec::new(),
        scenario: "test/typed".to_owned(),
        scenario_text: "property = \"none\"\n".to_owned(),
        inputs: machine.inputs().to_vec(),
        ticks: machine.ticks(),
        ns: machine.now_ns(),
        receipt: machine.receipt(),
        failure: Failure { what: "it was typed at".to_owned(), ticks: 20_000, ns: 20_000 },
        plan: None,
    }
}

#[test]
fn a_saved_snapshot_runs_on_as_the_machine_it_was_taken_from() {
    let (mut machine, snapshot) = third_checkpoint();
    let bytes = saved::save(&snapshot, COMMIT).expect("a board has a text");
    let loaded = saved::load(&bytes).expect("undamaged");
    assert_eq!(diff::snapshots(&snapshot, &loaded), Vec::<String>::new());
    let mut other = saved::resume(&bytes).expect("undamaged");
    machine.run_until(60_000);
    other.run_until(60_000);
    assert_eq!(other.receipt(), machine.receipt());
    assert_eq!(other.inputs(), machine.inputs());
    assert!(bytes.len() < 200_000, "{} bytes", bytes.len());
}

#[test]
fn forks_run_alike_and_apart() {
    let (mut machine, snapshot) = third_checkpoint();
    machine.run_until(80_000);
    let receipts: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2)
            .map(|index| {
                let snapshot = &snapshot;
                scope.spawn(move || {
                    let mut fork = Machine::fork(snapshot).expect("the same board");
                    if index == 1 {
                        fork.serial_put(Port::Com1, b"x");
                    }
                    fork.run_until(80_000);
                    fork.receipt()
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().expect("no panic")).collect()
    });
    assert_eq!(receipts[0], machine.receipt());
    assert_ne!(receipts[1], machine.receipt());
}

#[test]
fn differences_have_names() {
    let (mut machine, snapshot) = third_checkpoint();
    machine.serial_put(Port::Com1, b"more");
    machine.run(&Until { checkpoint: true, ..Until::default() });
    let later = machine.snapshot().expect("at a checkpoint");
    let lines = diff::snapshots(&snapshot, &later);
    for wanted in ["tick: 15000 / 20000", "vcpu 0: rbx: ", "vcpu 0: ticks", "memory page 0x3", "consoles.printed", "clock.ticks", "inputs: 1 / 2"] {
        assert!(lines.iter().any(|line| line.starts_with(wanted)), "{wanted} is not in {lines:#?}");
    }
}

#[test]
fn a_capsule_repeats_its_run() {
    let made = capsule();
    let bytes = made.save(COMMIT).expect("a board has a text");
    let read = Capsule::load(&bytes).expect("undamaged");
    assert_eq!((&read.inputs, &read.failure, &read.scenario_text), (&made.inputs, &made.failure, &made.scenario_text));
    let replayed = read.replay().expect("it boots");
    assert!(replayed.same, "{replayed:?}");
    let mut other = read;
    other.inputs[0].ticks += 5_000;
    assert!(!other.replay().expect("it boots").same, "keys in another checkpoint interval are another run");
}

#[test]
fn another_version_says_which_commit_made_it() {
    let mut file = Writer::new(FileKind::Capsule, COMMIT);
    file.section("board", b"");
    let mut bytes = file.finish();
    // The version is behind magic and kind; the header's sum covers it.
    bytes[12] = 99;
    assert_eq!(Capsule::load(&bytes).expect_err("its sum is wrong"), FileError::Header);
    let sum = blake3::hash(&bytes[..18 + COMMIT.len()]);
    bytes[18 + COMMIT.len()..26 + COMMIT.len()].copy_from_slice(&sum.as_bytes()[..8]);
    let error = Capsule::load(&bytes).expect_err("another version");
    assert_eq!(error, FileError::Version { kind: FileKind::Capsule, found: 99, commit: COMMIT.to_owned() });
    assert!(error.to_string().contains("git checkout 0123456789ab"));
    let error = saved::load(&capsule().save(COMMIT).expect("a board has a text")).expect_err("a capsule is no snapshot");
    assert_eq!(error.to_string(), "a snapshot is wanted, this is a capsule");
}

fn files() -> &'static (Vec<u8>, Vec<u8>) {
    static FILES: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
    FILES.get_or_init(|| {
        let (_, snapshot) = third_checkpoint();
        (saved::save(&snapshot, COMMIT).expect("a board has a text"), capsule().save(COMMIT).expect("a board has a text"))
    })
}

/// Reads a file of either kind all the way.
fn read(bytes: &[u8], is_capsule: bool) -> Result<(), FileError> {
    if is_capsule { Capsule::load(bytes).map(|_| ()) } else { saved::load(bytes).map(|_| ()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_found_and_its_section_named(is_capsule: bool, at: prop::sample::Index, bit in 0u32..8) {
        let mut bytes = if is_capsule { files().1.clone() } else { files().0.clone() };
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let error = read(&bytes, is_capsule).expect_err("every byte is covered by a sum");
        let named = match &error {
            FileError::Magic => at < 8,
            FileError::Header => (8..64).contains(&at),
            FileError::Damaged { at: start, .. } => *start <= at as u64,
            // A length that was flipped in the header leads past the header.
            FileError::Truncated { .. } => true,
            _ => false,
        };
        prop_assert!(named, "bit {} of byte {}: {}", bit, at, error);
    }

    #[test]
    fn a_cut_file_says_where_it_ends(is_capsule: bool, at: prop::sample::Index) {
        let whole = if is_capsule { &files().1 } else { &files().0 };
        let bytes = &whole[..at.index(whole.len())];
        let error = read(bytes, is_capsule).expect_err("it is cut short");
        let named = matches!(&error, FileError::Truncated { at, .. } if *at == bytes.len() as u64);
        prop_assert!(named, "{}: {}", bytes.len(), error);
    }

    #[test]
    fn a_section_that_lies_with_a_good_sum_is_refused_or_runs(is_capsule: bool, which: prop::sample::Index, at: prop::sample::Index, flip in 1u8.., cut: bool) {
        let (bytes, kind) = if is_capsule { (&files().1, FileKind::Capsule) } else { (&files().0, FileKind::Snapshot) };
        let file = Reader::open(bytes, kind).expect("undamaged");
        let names: Vec<&str> = file.names().filter(|name| *name != "end").collect();
        let chosen = which.index(names.len());
        let mut forged = Writer::new(kind, COMMIT);
        for (index, name) in names.iter().enumerate() {
            let mut content = file.section(name).expect("undamaged");
            if index == chosen && !content.is_empty() {
                let at = at.index(content.len());
                if cut {
                    content.truncate(at);
                } else {
                    content[at] ^= flip;
                }
            }
            forged.section(name, &content);
        }
        let forged = forged.finish();
        // Whatever it says: an error, or a machine that can be run. No panic.
        let machine = if is_capsule { Capsule::load(&forged).and_then(|capsule| capsule.machine()) } else { saved::resume(&forged) };
        if let Ok(mut machine) = machine {
            machine.run(&Until::ticks(machine.ticks().saturating_add(3_000)).or_ns(machine.now_ns().saturating_add(1_000_000)));
        }
    }

    #[test]
    fn garbage_behind_a_good_header_is_refused(garbage: Vec<u8>) {
        let mut bytes = files().1[..26 + COMMIT.len()].to_vec();
        bytes.extend(garbage);
        prop_assert!(read(&bytes, true).is_err());
    }
}

#[test]
fn a_recording_of_typing_is_small() {
    let mut machine = machine(&board());
    for round in 1..=200u64 {
        machine.run_until(round * 400);
        machine.serial_put(Port::Com1, b"k");
    }
    let bytes = sim_snap::recording::encode(machine.inputs());
    assert!(bytes.len() < 200 * 8, "{} bytes", bytes.len());
    assert_eq!(sim_snap::recording::decode(&bytes).expect("undamaged"), machine.inputs());
    for cut in 0..bytes.len() {
        assert!(sim_snap::recording::decode(&bytes[..cut]).is_err());
    }
    let mut again = self::machine(&board());
    again.replay(machine.inputs().to_vec());
    capsule::run_to(&mut again, machine.ticks(), machine.now_ns());
    assert_eq!(again.receipt(), machine.receipt());
}
