//! Streams that lie: damage with the checksums made right again, so that it reaches what is behind them. An error or a good end, never a panic, and never
//! anything left behind but a snapshot that was promised.

use pool_stream::record::{CHECKSUM_AT, SIZE};

use crate::rig::{NOW, drain, judge, live, make_fs, names, pool, random, receive};
use crate::single::sender;

/// Makes all checksums of a stream right.
pub fn seal(stream: &mut [u8]) {
    let mut sum = [0; 4];
    let mut at = 0;
    while at + SIZE <= stream.len() {
        let payload = {
            let record: &[u8; SIZE] = stream[at..at + SIZE].try_into().expect("312 bytes");
            pool_stream::record::Record::parse(record).map_or(0, |(record, _)| record.payload())
        };
        let kind = stream[at];
        if kind == 0 {
            sum = [0; 4];
        }
        if kind == 5 {
            for (index, word) in sum.iter().enumerate() {
                stream[at + 8 + index * 8..at + 16 + index * 8].copy_from_slice(&u64::to_le_bytes(*word));
            }
        }
        sum = codec::fletcher4_continue(sum, &stream[at..at + CHECKSUM_AT]);
        if kind != 0 {
            for (index, word) in sum.iter().enumerate() {
                stream[at + CHECKSUM_AT + index * 8..at + CHECKSUM_AT + 8 + index * 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        let end = (at + SIZE + usize::try_from(payload).expect("small")).min(stream.len());
        sum = codec::fletcher4_continue(sum, &stream[at + CHECKSUM_AT..end]);
        at = end;
    }
}

#[test]
fn lying_streams_end_in_errors() {
    let cases: u64 = std::env::var("ORRERY_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let ((_, mut source), (disk, mut target)) = (pool("lsrc"), pool("ldst"));
    let fs = make_fs(&mut source, "lsrc/a");
    let mut draw = random(12);
    live(&mut source, fs, &mut draw, 40);
    source.snapshot("lsrc/a", "one", NOW.0).expect("snapshot");
    live(&mut source, fs, &mut draw, 25);
    source.snapshot("lsrc/a", "two", NOW.0).expect("snapshot");
    let plain = pool_stream::SendOptions::default();
    let full = drain(&source, sender(&source, "lsrc/a@one", None, plain));
    let second = drain(&source, sender(&source, "lsrc/a@two", Some("lsrc/a@one"), pool_stream::SendOptions { compressed: true, embed: true, ..plain }));
    receive(&mut target, "ldst/b", &full).expect("full");
    // Places of the records.
    let (mut fine, mut refused) = (0, 0);
    for case in 0..cases {
        let mut stream = if case % 4 == 0 { full.clone() } else { second.clone() };
        let starts: Vec<usize> = {
            let (mut at, mut out) = (0, Vec::new());
            while let Some(record) = stream.get(at..at + SIZE) {
                out.push(at);
                let (record, _) = pool_stream::record::Record::parse(record.try_into().expect("312 bytes")).expect("ours");
                at += SIZE + usize::try_from(record.payload()).expect("small");
            }
            out
        };
        for _ in 0..=draw() % 3 {
            let start = starts[usize::try_from(draw() % starts.len() as u64).expect("small")];
            // The fields are at the front.
            let field = usize::try_from(draw() % if draw().is_multiple_of(4) { 400 } else { 64 }).expect("small");
            if let Some(byte) = stream.get_mut(start + field) {
                *byte = match draw() % 4 {
                    0 => 0,
                    1 => 0xFF,
                    2 => *byte ^ 1 << (draw() % 8),
                    _ => draw().to_le_bytes()[0],
                };
            }
        }
        seal(&mut stream);
        let name = if case % 4 == 0 { "ldst/n" } else { "ldst/b" };
        match receive(&mut target, name, &stream) {
            Ok(_) => {
                fine += 1;
                // Back to where it was.
                for snapshot in names(&target).iter().filter(|name| name.contains('@') && *name != "ldst/b@one") {
                    target.destroy_snapshots(&[snapshot], false, NOW.0).expect("destroy");
                }
                if name == "ldst/n" {
                    target.destroy_dataset(name, NOW.0).expect("destroy");
                } else {
                    target.rollback(name, NOW.0).expect("rollback");
                }
            }
            Err(_) => refused += 1,
        }
        assert_eq!(names(&target), ["ldst", "ldst/b", "ldst/b@one"], "case {case}");
    }
    eprintln!("{cases} lying streams: {refused} refused, {fine} taken");
    assert!(refused > 0 && fine > 0);
    judge(target, &disk);
}

#[test]
fn noise_is_never_taken_for_a_stream() {
    let cases: u64 = std::env::var("ORRERY_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut draw = random(13);
    let mut whole = 0;
    for _ in 0..cases {
        // Records of random types with fields that are small, huge, or noise; sums made right.
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
    eprintln!("{cases} streams of noise, {whole} of them whole");
}
