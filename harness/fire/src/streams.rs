//! Send streams: made, received, and streams that lie under good checksums.
//!
//! A stream from a stranger has every sum right. [`lies`] changes fields of records of good streams (full, from a base, packages, what resumes another) and of
//! resume tokens and seals them again, so that the damage reaches what is behind the
//! sums; [`noise`] makes records of nothing. An error or a good end, never a panic, and nothing left behind but a snapshot that was promised.

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, Store};
use pool_judge::{payload, seal};
use pool_stream::record::{CHECKSUM_AT, SIZE};
use pool_stream::{Base, Naming, Package, PackageOptions, ReceiveOptions, Received, SendOptions, Sender, StreamError, Token, Unpacker};

use crate::disk::{Disk, mix};
use crate::fuzz::Report;
use crate::rig::{self, NAME, NOW, SHAPES};
use crate::watch::Watch;
use crate::work::Work;

/// A target is checked and forked anew after so many refused streams; of those that were taken, one of so many is checked.
const TURNS: u64 = 200;
const CHECKED: u64 = 8;
/// Transfers of one case: a good stream takes some hundred.
const TRANSFERS: u64 = 100_000;

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

fn options() -> ReceiveOptions {
    ReceiveOptions { owners: Some(pool_zpl::owners), ..ReceiveOptions::default() }
}

/// Receives a stream as `target`.
///
/// # Errors
/// What the receiver says.
pub fn receive(store: &mut Store, target: &str, stream: &[u8]) -> Result<Vec<Received>, StreamError> {
    let mut unpacker = Unpacker::new(target, Naming::Exact, options());
    feed(store, &mut unpacker, stream)?;
    unpacker.finish(store, NOW.0).map(|(received, _)| received)
}

/// In pieces of an odd size, so that records are cut anywhere.
fn feed(store: &mut Store, unpacker: &mut Unpacker, stream: &[u8]) -> Result<(), StreamError> {
    stream.chunks(70_001).try_for_each(|piece| unpacker.feed(store, piece, NOW.0))
}

/// Targets, and streams of ours for them.
struct Stage {
    /// Has the snapshots.
    source: Store,
    /// Has the first snapshot.
    target: Disk,
    /// Has it too, and what followed in part: it waits to be resumed.
    halfway: Disk,
    token: Token,
    /// The first snapshot in full, what brings the second, the rest of that, and all as one package.
    full: Vec<u8>,
    second: Vec<u8>,
    rest: Vec<u8>,
    package: Vec<u8>,
}

/// The stream that goes on where a receiver stopped.
fn resume(store: &Store, token: &Token) -> Result<Vec<u8>, StreamError> {
    let tree = Datasets::open(store.pool()).map_err(|error| StreamError { offset: 0, record: 0, why: error.into() })?;
    let mut sender = Sender::resume(&tree, token, |_| true)?;
    let mut out = Vec::new();
    while sender.next(store.pool(), &mut out)? {}
    Ok(out)
}

/// Everything up to a snapshot, with its properties.
fn package(store: &Store, to: &str) -> Result<Vec<u8>, StreamError> {
    let tree = Datasets::open(store.pool()).map_err(|error| StreamError { offset: 0, record: 0, why: error.into() })?;
    let mut package = Package::new(&tree, to, None, PackageOptions { replicate: true, ..PackageOptions::default() })?;
    let mut out = Vec::new();
    while package.next(store.pool(), &mut out)? {}
    Ok(out)
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
    let told = |error: StreamError| error.to_string();
    let full = send(&source, &one, None, SendOptions::default()).map_err(told)?;
    let second = send(&source, &two, Some(&one), SendOptions { compressed: true, embed: true, large_blocks: false }).map_err(told)?;
    let package = package(&source, &two).map_err(told)?;
    receive(&mut target, &format!("{NAME}/b"), &full).map_err(told)?;
    target.commit(NOW.0).map_err(|error| error.to_string())?;
    let first = disks[0].fork();
    let mut unpacker = Unpacker::new(&format!("{NAME}/b"), Naming::Exact, ReceiveOptions { resumable: true, ..options() });
    unpacker.feed(&mut target, &second[..second.len() * 2 / 3], NOW.0).map_err(told)?;
    if unpacker.finish(&mut target, NOW.0).is_ok() {
        return Err(String::from("two thirds of a stream are no whole one"));
    }
    let token = pool_stream::resume_token(&target, &format!("{NAME}/b")).map_err(|why| why.to_string())?.ok_or("nothing was kept")?;
    let rest = resume(&source, &token).map_err(told)?;
    target.export(NOW.0).map_err(|error| error.to_string())?;
    Ok(Stage { source, target: first, halfway: disks[0].fork(), token, full, second, rest, package })
}

/// A token with one field changed.
fn twist(token: &Token, dice: u64) -> Token {
    let mut token = token.clone();
    let value = [0, 1, u64::MAX, dice >> 16, 1 << (dice >> 8 & 63), token.to_guid][usize::try_from(dice >> 32).unwrap_or(0) % 6];
    match dice & 7 {
        0 => token.to_guid = value,
        1 => token.from_guid = (value != 0).then_some(value),
        2 | 3 => token.object = value,
        4 | 5 => token.offset = value,
        6 => token.name = format!("{}{}", token.name, char::from(b'!' + (dice >> 40).to_le_bytes()[0] % 90)),
        _ => token.options = SendOptions { embed: dice & 8 != 0, large_blocks: dice & 16 != 0, compressed: dice & 32 != 0 },
    }
    token
}

fn spoil(stream: &mut [u8], dice: u64) {
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(record) = stream.get(at..at + SIZE) {
        starts.push((at, SIZE + payload(record)));
        at = at.saturating_add(SIZE).saturating_add(payload(record));
    }
    for hit in 0..=dice >> 8 & 3 {
        let place = mix(dice ^ hit << 48);
        let (start, size) = starts[usize::try_from(place >> 8).unwrap_or(0) % starts.len()];
        // The fields are at the front; what is behind them has a structure only here and there.
        let field = usize::try_from(mix(place)).unwrap_or(0) % match place & 7 {
            0 => size,
            1 => size.min(800),
            _ => 64,
        };
        if let Some(byte) = stream.get_mut(start + field) {
            *byte = match place >> 3 & 3 {
                0 => 0,
                1 => 0xFF,
                2 => *byte ^ 1 << (place >> 5 & 7),
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
pub fn lies(seed: u64, cases: u64, watch: &mut Watch) -> Result<Report, String> {
    let Stage { source, target, halfway, token, full, second, rest, package } = stage(seed).map_err(|error| format!("prepare: {error}"))?;
    let before = [NAME.to_owned(), format!("{NAME}/b"), format!("{NAME}/b@one")];
    let open = |disk: &Disk, turn: u64| {
        let disk = disk.fork();
        rig::open(std::slice::from_ref(&disk), turn, None).map(|store| (store, disk)).map_err(|error| format!("seed {seed}: the target does not open: {error}"))
    };
    let mut report = Report::default();
    let (mut store, mut disk) = open(&target, 0)?;
    for case in 0..cases {
        let dice = mix(seed ^ case.wrapping_mul(0x1_0005));
        let (class, stream, name) = match dice & 15 {
            0..3 => ("full", &full, "n"),
            3 | 4 => ("package", &package, "p"),
            5 | 6 => ("rest", &rest, "b"),
            7 => ("token", &rest, "b"),
            8 | 9 => ("kept", &second, "b"),
            _ => ("from a base", &second, "b"),
        };
        let say = |what: &str| format!("streams: seed {seed} case {case}, {class}: {what}");
        let goes_on = matches!(class, "rest" | "token");
        if goes_on {
            (store, disk) = open(&halfway, case)?;
        }
        let kept = class == "kept";
        let target_name = format!("{NAME}/{name}");
        let used = disk.transfers();
        let taken = watch.guard(say, || {
            let mut stream = if class == "token" {
                let token = Token::decode(&twist(&token, mix(dice)).encode()).ok_or("a token of ours is none")?;
                // A place that is not in the snapshot gives an error, or a stream that does not go on where the receiver stopped.
                let Ok(stream) = resume(&source, &token) else { return Ok(false) };
                stream
            } else {
                stream.clone()
            };
            if class != "token" {
                spoil(&mut stream, dice);
            }
            let mut unpacker = Unpacker::new(&target_name, Naming::Exact, ReceiveOptions { resumable: kept, force: dice >> 16 & 7 == 0, ..options() });
            let fed = feed(&mut store, &mut unpacker, &stream).is_ok();
            // Snapshots that were whole before what is wrong stay.
            let taken = !unpacker.received().is_empty();
            if fed {
                drop(unpacker.finish(&mut store, NOW.0));
            }
            if kept {
                pool_stream::abort(&mut store, &target_name, NOW.0).map_err(|why| format!("what was kept does not go away: {why}"))?;
            }
            Ok(taken)
        })?;
        let transfers = disk.transfers() - used;
        if transfers > TRANSFERS {
            return Err(say(&format!("{transfers} transfers")));
        }
        report.count(class, taken);
        let after = names(&store).map_err(|error| say(&error.to_string()))?;
        // A rest may leave what there was to be resumed.
        if !taken && !goes_on && after != before {
            return Err(say(&format!("left behind: {after:?}")));
        }
        // What was received in part is in no list.
        let changed = taken || goes_on || after != before;
        if changed || case % TURNS == 0 {
            if case % CHECKED == 0 || case % TURNS == 0 {
                report.written += 1;
                let found = pool_dmu::check(store.pool(), true).map_err(|error| say(&error.to_string()))?;
                if found.fault_count > 0 {
                    return Err(say(&format!("{} faults: {:?}", found.fault_count, found.faults.first())));
                }
                let sums = pool_dmu::check_space(store.pool()).map_err(|error| say(&error.to_string()))?;
                if !sums.is_empty() {
                    return Err(say(&format!("sums: {:?}", sums.first())));
                }
            }
            (store, disk) = open(&target, case)?;
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
