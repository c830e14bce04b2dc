//! Send streams: made, received, and streams that lie under good checksums.
//!
//! A stream from a stranger has every sum right. [`lies`] changes fields of records of good streams and seals them again, so that the damage reaches what is behind the
//! sums; [`noise`] makes records of nothing. An error or a good end, never a panic, and nothing left behind but a snapshot that was promised.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, Store};
use pool_judge::{payload, seal};
use pool_stream::record::{CHECKSUM_AT, SIZE};
use pool_stream::{Base, Naming, ReceiveOptions, Received, SendOptions, Sender, StreamError, Unpacker};

use crate::disk::{Disk, mix};
use crate::fuzz::Report;
use crate::rig::{self, NAME, NOW, SHAPES};
use crate::work::Work;

/// A target is forked anew after so many refused streams.
const TURNS: u64 = 200;

/// The stream of snapshot `to`, from `from` on if there is one.
///
/// # Errors
/// What the sender says.
pub fn send(store: &Store, to: &str, from: Option<&str>, options: SendOptions) -> Result<Vec<u8>, StreamError> {
    let fail = |error: pool_dmu::Error| StreamError { offset: 0, record: 0, why: error.into() };
    let tree = Datasets::open(store.pool()).map_err(fail)?;
    let base = match from {
        Some(from) => {
            let from = tree.find(from).map_err(fail)?.dataset;
            Some(Base { guid: from.guid, txg: from.creation_txg, is_origin: false })
        }
        None => None,
    };
    let mut sender = Sender::new(&tree, &tree.find(to).map_err(fail)?, base, options, None)?;
    let mut out = Vec::new();
    while sender.next(store.pool(), &mut out)? {}
    Ok(out)
}

/// Receives a stream as `target`.
///
/// # Errors
/// What the receiver says.
pub fn receive(store: &mut Store, target: &str, stream: &[u8]) -> Result<Vec<Received>, StreamError> {
    let options = ReceiveOptions { owners: Some(pool_zpl::owners), ..ReceiveOptions::default() };
    let mut unpacker = Unpacker::new(target, Naming::Exact, options);
    // Pieces of an odd size, so that records are cut anywhere.
    for piece in stream.chunks(70_001) {
        unpacker.feed(store, piece, NOW.0)?;
    }
    unpacker.finish(store, NOW.0).map(|(received, _)| received)
}

/// A target that has the first snapshot, and streams of ours for it.
struct Stage {
    target: Disk,
    /// The first snapshot in full, and what brings the second.
    full: Vec<u8>,
    second: Vec<u8>,
}

fn stage(seed: u64) -> Result<Stage, String> {
    let open = || rig::create(&SHAPES[0], seed).map_err(|error| error.to_string());
    let ((_, mut source), (disks, mut target)) = (open()?, open()?);
    let mut work = Work::small(seed);
    let mut live = |store: &mut Store, steps: u64, snapshot: &str| -> Result<(), EditError> {
        for _ in 0..steps {
            work.step(store)?;
        }
        store.snapshot(NAME, snapshot, NOW.0)
    };
    live(&mut source, 30, "one").and_then(|()| live(&mut source, 20, "two")).map_err(|error| error.to_string())?;
    let (one, two) = (format!("{NAME}@one"), format!("{NAME}@two"));
    let plain = SendOptions::default();
    let told = |error: StreamError| error.to_string();
    let full = send(&source, &one, None, plain).map_err(told)?;
    let second = send(&source, &two, Some(&one), SendOptions { compressed: true, embed: true, ..plain }).map_err(told)?;
    receive(&mut target, &format!("{NAME}/b"), &full).map_err(told)?;
    target.export(NOW.0).map_err(|error| error.to_string())?;
    Ok(Stage { target: disks[0].clone(), full, second })
}

fn spoil(stream: &mut [u8], dice: u64) {
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(record) = stream.get(at..at + SIZE) {
        starts.push(at);
        at += SIZE + payload(record);
    }
    for hit in 0..=dice >> 8 & 3 {
        let place = mix(dice ^ hit << 48);
        let start = starts[usize::try_from(place >> 8).unwrap_or(0) % starts.len()];
        // The fields are at the front.
        let field = usize::try_from(mix(place) % if place & 3 == 0 { 400 } else { 64 }).unwrap_or(0);
        if let Some(byte) = stream.get_mut(start + field) {
            *byte = match place >> 2 & 3 {
                0 => 0,
                1 => 0xFF,
                2 => *byte ^ 1 << (place >> 4 & 7),
                _ => mix(place).to_le_bytes()[1],
            };
        }
    }
    seal(stream);
}

fn names(store: &Store) -> Result<Vec<String>, pool_dmu::Error> {
    Ok(Datasets::open(store.pool())?.list(NAME)?.into_iter().map(|info| info.name).collect())
}

/// Feeds `cases` lying streams to a receiver. `Err` names the seed and the case.
///
/// # Errors
/// A finding: a panic, something left behind, a pool that is not whole afterwards.
pub fn lies(seed: u64, cases: u64) -> Result<Report, String> {
    let Stage { target, full, second } = stage(seed).map_err(|error| format!("prepare: {error}"))?;
    let before = [NAME.to_owned(), format!("{NAME}/b"), format!("{NAME}/b@one")];
    let open = |turn: u64| {
        let disks = [target.fork()];
        rig::open(&disks, turn, None).map_err(|error| format!("seed {seed}: the target does not open: {error}"))
    };
    let mut report = Report::default();
    let mut store = open(0)?;
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0005));
        let (class, mut stream, name) = if dice & 3 == 0 { ("full", full.clone(), "n") } else { ("from a base", second.clone(), "b") };
        spoil(&mut stream, dice);
        report.cases += 1;
        *report.classes.entry(class).or_default() += 1;
        let say = |what: String| format!("streams: seed {seed} case {case}, {class}: {what}");
        let taken = catch_unwind(AssertUnwindSafe(|| receive(&mut store, &format!("{NAME}/{name}"), &stream).is_ok())).map_err(|_| say(String::from("a panic")))?;
        if taken {
            report.fine += 1;
            store = open(case)?;
            continue;
        }
        report.errors += 1;
        let after = names(&store).map_err(|error| say(error.to_string()))?;
        if after != before {
            return Err(say(format!("left behind: {after:?}")));
        }
        if case % TURNS == 0 {
            let found = pool_dmu::check(store.pool(), true).map_err(|error| say(error.to_string()))?;
            if found.fault_count > 0 {
                return Err(say(format!("{} faults: {:?}", found.fault_count, found.faults.first())));
            }
            store = open(case)?;
        }
    }
    Ok(report)
}

/// Lists `cases` streams of noise: records of random types with fields that are small, huge, or noise, sums made right. Gives how many were whole.
#[must_use]
pub fn noise(seed: u64, cases: u64) -> u64 {
    let mut draw = rig::random(seed);
    let mut whole = 0;
    for _ in 0..cases {
        let mut stream = Vec::new();
        for index in 0..=draw() % 4 {
            let mut record = [0; SIZE];
            for field in record[8..CHECKSUM_AT].as_chunks_mut::<8>().0 {
                let value = match draw() % 8 {
                    0..4 => draw() % 700,
                    4 => u64::MAX,
                    5 => draw(),
                    _ => 512 << (draw() % 12),
                };
                *field = value.to_le_bytes();
            }
            record[0] = if index == 0 { 0 } else { (draw() % 9).to_le_bytes()[0] };
            if index == 0 {
                record[8..16].copy_from_slice(&0x2_F5BA_CBAC_u64.to_le_bytes());
                record[16..24].copy_from_slice(&(1 + draw() % 2).to_le_bytes());
                record[56..].fill(0);
            }
            stream.extend_from_slice(&record);
            stream.extend((0..draw() % 600).map(|_| draw().to_le_bytes()[0]));
        }
        seal(&mut stream);
        let mut listing = pool_stream::listing::Listing::default();
        let mut lines = 0;
        if listing.feed(&stream, |parsed| lines += pool_stream::listing::line(parsed).len()).is_ok() && listing.finish().is_ok() {
            whole += 1;
        }
    }
    whole
}
