//! `zfs send` and `zfs receive`.

use std::io::{IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use control_abi::Operation;
use nv::NvList;

use crate::bytes::size;
use crate::control::{Session, call};
use crate::usage::{self, Failure, Step};

/// Between two lines of `zfs send -v`.
const TICK: Duration = Duration::from_secs(1);
/// Bytes of a stream that go to the kernel at once.
const PIECE: usize = 60 << 10;

pub fn send(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "DLPRbcehnpsvwi:I:t:")?;
    let has = |letter| steps.contains(&Step::Flag(letter));
    for (letter, why) in [
        ('D', "streams are not deduplicated any more, as in OpenZFS since 2.0: send without it"),
        ('w', "raw streams are of encrypted datasets, and there are none: send without it"),
        ('b', "a backup is received with its properties as they are: send with -p"),
        ('h', "holds are not sent: zfs hold them again where they are received"),
    ] {
        if has(letter) {
            return Err(Failure::new(format!("send -{letter}: {why}")));
        }
    }
    let flag = |letter| u64::from(has(letter));
    let token = steps.iter().find_map(|step| if let Step::Value('t', token) = step { Some(token) } else { None });
    let mut request = match (operands.as_slice(), token) {
        ([], Some(token)) => NvList::new().with("token", token.as_str()),
        ([to], None) => NvList::new().with("to", to.as_str()).with("replicate", flag('R')).with("properties", flag('p')),
        _ => return Err(Failure::usage("zfs send [-ceLnpPRv] [-i|-I FROM] DATASET@NAME, or zfs send -t TOKEN")),
    };
    for (letter, field) in [('L', "large_blocks"), ('e', "embed"), ('c', "compressed")] {
        request.set(field, flag(letter));
    }
    let mut base = None;
    for step in &steps {
        let Step::Value(letter @ ('i' | 'I'), from) = step else { continue };
        // `@NAME` or NAME alone is of the same file system; a bookmark keeps its sign.
        request.set("from", from.strip_prefix('@').unwrap_or(from));
        request.set("intermediate", u64::from(*letter == 'I'));
        base = Some(from.clone());
    }
    let mut out = std::io::stdout().lock();
    if out.is_terminal() && !has('n') {
        return Err(Failure::usage("a stream is not for a terminal: send it to a file or to zfs receive"));
    }
    let mut session = Session::open()?;
    session.call(Operation::StreamSend, &request)?;
    let mut told = Told { dry: has('n'), script: has('P'), base, sizes: Vec::new() };
    let (mut sent, mut last) = (0_u64, Instant::now());
    if has('v') && !has('n') {
        eprintln!("TIME        SENT   SNAPSHOT");
    }
    loop {
        let piece = session.call(Operation::StreamSend, &NvList::new())?;
        let data = piece.bytes("data").map_err(Failure::new)?;
        if data.is_empty() {
            break;
        }
        sent += data.len() as u64;
        let name = piece.opt_string("name").map_err(Failure::new)?.unwrap_or_default();
        told.note(name, data.len() as u64);
        if !has('n') {
            out.write_all(data).and_then(|()| out.flush()).map_err(|error| Failure::new(format!("writing the stream: {error}")))?;
            if has('v') && last.elapsed() >= TICK {
                last = Instant::now();
                eprintln!("{}   {}   {name}", time_of_day(), size(sent, has('P')));
            }
        }
    }
    if has('n') || has('v') || has('P') {
        let text = told.text(sent);
        // Of a dry run it is what there is to see.
        if has('n') { usage::print(&text) } else { eprint!("{text}") }
    }
    Ok(0)
}

/// What `-n`, `-v` and `-P` say of each snapshot.
struct Told {
    dry: bool,
    script: bool,
    base: Option<String>,
    sizes: Vec<(String, u64)>,
}

impl Told {
    fn note(&mut self, name: &str, bytes: u64) {
        match self.sizes.last_mut() {
            Some((known, total)) if name.is_empty() || known == name => *total += bytes,
            _ if name.is_empty() => {}
            _ => self.sizes.push((name.to_owned(), bytes)),
        }
    }

    /// The lines of OpenZFS. Sizes are exact: the stream was made.
    fn text(&self, sent: u64) -> String {
        let mut out = String::new();
        let filesystem = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
        for (at, (name, bytes)) in self.sizes.iter().enumerate() {
            // Behind another of its file system it begins there.
            let before = self.sizes[..at].iter().rev().find(|(other, _)| filesystem(other) == filesystem(name));
            let from = before.map(|(other, _)| other.rsplit('@').next().unwrap_or_default().to_owned()).or_else(|| self.base.clone());
            let what = if self.dry { "estimated size is" } else { "size is" };
            out.push_str(&match (self.script, from) {
                (true, Some(from)) => format!("incremental\t{}\t{name}\t{bytes}\n", from.trim_start_matches('@')),
                (true, None) => format!("full\t{name}\t{bytes}\n"),
                (false, Some(from)) => format!("send from @{} to {name} {what} {}\n", from.rsplit('@').next().unwrap_or_default(), size(*bytes, false)),
                (false, None) => format!("full send of {name} {what} {}\n", size(*bytes, false)),
            });
        }
        out.push_str(&if self.script { format!("size\t{sent}\n") } else { format!("total {}size is {}\n", if self.dry { "estimated " } else { "" }, size(sent, false)) });
        out
    }
}

fn time_of_day() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

pub fn receive(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "AFdehMnsuvo:x:")?;
    let [target] = operands.as_slice() else { return Err(Failure::usage("zfs receive [-Fnsuv] [-d|-e] [-o PROPERTY=VALUE]... [-x PROPERTY]... DATASET, or zfs receive -A DATASET")) };
    let flag = |letter| steps.contains(&Step::Flag(letter));
    if flag('A') {
        call(Operation::DatasetChange, &NvList::new().with("change", "abort-receive").with("name", target.as_str()))?;
        return Ok(0);
    }
    let (mut properties, mut excluded) = (Vec::new(), Vec::new());
    for step in &steps {
        match step {
            // The origin of a clone is found by what the stream says; it has to be here.
            Step::Value('o', pair) if pair.starts_with("origin=") => {
                let origin = &pair["origin=".len()..];
                call(Operation::DatasetGet, &NvList::new().with("name", origin).with("properties", vec!["guid".to_owned()]))?;
            }
            Step::Value('o', pair) if pair.contains('=') => properties.push(pair.clone()),
            Step::Value('o', pair) => return Err(Failure::usage(format!("-o {pair}: PROPERTY=VALUE, please"))),
            Step::Value('x', property) => excluded.push(property.clone()),
            _ => {}
        }
    }
    let mut request = NvList::new().with("target", target.as_str()).with("force", u64::from(flag('F'))).with("resumable", u64::from(flag('s')));
    request = request.with("unmounted", u64::from(flag('u'))).with("dry", u64::from(flag('n'))).with("properties", properties).with("excluded", excluded);
    if flag('d') || flag('e') {
        request.set("naming", if flag('d') { "drop-pool" } else { "last-part" });
    }
    let begun = Instant::now();
    let mut session = Session::open()?;
    session.call(Operation::StreamReceive, &request)?;
    let mut input = std::io::stdin().lock();
    let mut piece = vec![0; PIECE];
    let mut total = 0_u64;
    loop {
        let length = input.read(&mut piece).map_err(|error| Failure::new(format!("reading the stream: {error}")))?;
        if length == 0 {
            break;
        }
        total += length as u64;
        session.call(Operation::StreamReceive, &NvList::new().with("data", piece[..length].to_vec()))?;
    }
    let done = session.call(Operation::StreamReceive, &NvList::new().with("end", 1_u64))?;
    if flag('v') || flag('n') {
        for name in done.strings("received").map_err(Failure::new)? {
            usage::print(&format!("{} {name}\n", if flag('n') { "would receive" } else { "received" }));
        }
    }
    if flag('v') && !flag('n') {
        let seconds = begun.elapsed().as_secs().max(1);
        usage::print(&format!("received {} stream in {seconds} seconds ({}/sec)\n", size(total, false), size(total / seconds, false)));
    }
    Ok(0)
}
