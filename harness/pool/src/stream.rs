//! `zfs send`, `zfs receive`, `stream dump`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use pool_dmu::{Datasets, human};
use pool_spa::Pool;
use pool_stream::listing::{Listing, line};
use pool_stream::{Naming, Package, PackageOptions, ReceiveOptions, SendOptions, Sender, StreamError, Token, Unpacker};

use crate::list::print;
use crate::write::now;
use crate::{Devices, Failure, pool_of};

/// Bytes read of a stream at a time.
const PIECE: usize = 1 << 20;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the options of zfs send")]
pub struct SendArgs {
    /// Incremental: the snapshot (`@a`, `tank/fs@a`) or bookmark (`#a`) to start from.
    #[arg(short = 'i', value_name = "BASE")]
    base: Option<String>,
    /// Incremental, with all snapshots between.
    #[arg(short = 'I', value_name = "BASE", conflicts_with = "base")]
    all_since: Option<String>,
    /// A package of all below, with snapshots, clones and properties.
    #[arg(short = 'R')]
    replicate: bool,
    /// With properties.
    #[arg(short = 'p')]
    properties: bool,
    /// Blocks as they are compressed on disk.
    #[arg(short = 'c')]
    compressed: bool,
    /// Blocks that are in their pointers as they are.
    #[arg(short = 'e')]
    embed: bool,
    /// Blocks past 128 KiB whole.
    #[arg(short = 'L')]
    large_blocks: bool,
    /// Makes nothing, only says how much it would be.
    #[arg(short = 'n')]
    dry: bool,
    /// Says on standard error what is sent.
    #[arg(short = 'v')]
    verbose: bool,
    /// For scripts: as -v, in words and tabs.
    #[arg(short = 'P')]
    parsable: bool,
    /// Refused: streams have not been deduplicated since OpenZFS 2.0.
    #[arg(short = 'D')]
    dedup: bool,
    /// Refused: raw streams are of encrypted datasets.
    #[arg(short = 'w')]
    raw: bool,
    /// Goes on where a receive stopped.
    #[arg(short = 't', value_name = "TOKEN")]
    token: Option<String>,
    /// A file instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The snapshot; with -t the pool may be given.
    snapshot: Option<String>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the options of zfs receive")]
pub struct ReceiveArgs {
    /// Rolls the target back to the base of the stream first.
    #[arg(short = 'F')]
    force: bool,
    /// Keeps what was received when the stream ends too early; see `receive_resume_token` below.
    #[arg(short = 's')]
    resumable: bool,
    /// Puts the name without its pool below the target.
    #[arg(short = 'd', conflicts_with = "last")]
    drop_pool: bool,
    /// Puts the name's last part below the target.
    #[arg(short = 'e')]
    last: bool,
    /// Accepted: nothing is mounted here.
    #[arg(short = 'u')]
    unmounted: bool,
    /// Only says what would be received.
    #[arg(short = 'n')]
    dry: bool,
    /// A property of the uppermost file system, whatever the stream says: NAME=VALUE.
    #[arg(short = 'o', value_name = "NAME=VALUE")]
    options: Vec<String>,
    /// A property that is not taken from the stream.
    #[arg(short = 'x', value_name = "NAME")]
    excluded: Vec<String>,
    #[arg(short = 'v')]
    verbose: bool,
    /// Removes what an earlier receive with -s left.
    #[arg(short = 'A')]
    abort: bool,
    /// A file instead of standard input.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// A file system, volume or snapshot.
    target: String,
}

#[derive(Debug, Subcommand)]
pub enum Stream {
    /// Lists the records of a stream and verifies its checksums.
    Dump {
        /// Only the counts.
        #[arg(short = 's')]
        summary: bool,
        /// `-`: standard input.
        file: PathBuf,
    },
    /// Shows what a resume token says.
    Token { token: String },
}

fn about(name: &str) -> impl Fn(StreamError) -> Failure {
    move |error| Failure::Stream(name.into(), error)
}

fn read_from(path: Option<&Path>) -> Result<Box<dyn Read>, Failure> {
    match path {
        Some(path) if path.as_os_str() != "-" => Ok(Box::new(File::open(path).map_err(|error| Failure::Host(path.display().to_string(), error))?)),
        _ => Ok(Box::new(std::io::stdin().lock())),
    }
}

/// Gives a file's bytes to `sink` piece by piece.
fn pieces(input: &mut dyn Read, mut sink: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut buffer = vec![0; PIECE];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink(&buffer[..count])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Host("the stream".into(), error)),
        }
    }
}

pub fn dump(verb: &Stream) -> Result<(), Failure> {
    match verb {
        Stream::Dump { summary, file } => {
            let name = file.display().to_string();
            let mut listing = Listing::default();
            pieces(&mut *read_from(Some(file))?, |bytes| {
                let mut text = String::new();
                let fed = listing.feed(bytes, |parsed| {
                    if !summary {
                        text.push_str(&line(parsed));
                        text.push('\n');
                    }
                });
                print(&text)?;
                fed.map_err(about(&name))
            })?;
            print(&listing.finish().map_err(about(&name))?)
        }
        Stream::Token { token } => {
            let token = Token::decode(token).ok_or_else(|| Failure::Request("this is no resume token, or a damaged one".into()))?;
            let from = token.from_guid.map_or_else(|| "-".into(), |guid| format!("{guid:#x}"));
            print(&format!(
                "toname   {}\ntoguid   {:#x}\nfromguid {from}\nobject   {}\noffset   {}\nbytes    {}\n",
                token.name, token.to_guid, token.object, token.offset, token.bytes
            ))
        }
    }
}

/// A stream or a package being sent.
enum Sending {
    One(Box<Sender>),
    Package(Box<Package>),
}

impl Sending {
    fn next(&mut self, pool: &Pool, out: &mut Vec<u8>) -> Result<bool, StreamError> {
        match self {
            Self::One(sender) => sender.next(pool, out),
            Self::Package(package) => package.next(pool, out),
        }
    }
    fn name(&self) -> String {
        match self {
            Self::One(sender) => sender.name().into(),
            Self::Package(package) => package.current().map_or_else(String::new, |name| format!("{name} ({} to go)", package.left())),
        }
    }
}

fn plan(pool: &Pool, args: &SendArgs) -> Result<Sending, Failure> {
    let tree = Datasets::open(pool).map_err(|error| Failure::Pool(pool.name().into(), error))?;
    if let Some(token) = &args.token {
        let token = Token::decode(token).ok_or_else(|| Failure::Request("this is no resume token, or a damaged one".into()))?;
        return Ok(Sending::One(Box::new(Sender::resume(&tree, &token, |_| true).map_err(about(&token.name))?)));
    }
    let to = args.snapshot.as_deref().ok_or_else(|| Failure::Request("name a snapshot, or a token with -t".into()))?;
    let send = SendOptions { embed: args.embed, large_blocks: args.large_blocks, compressed: args.compressed };
    if args.replicate || args.properties || args.all_since.is_some() {
        let options = PackageOptions { replicate: args.replicate, intermediate: args.all_since.is_some(), properties: args.properties || args.replicate, send };
        let from = args.all_since.as_deref().or(args.base.as_deref());
        return Ok(Sending::Package(Box::new(Package::new(&tree, to, from, options).map_err(about(to))?)));
    }
    let info = tree.find(to).map_err(|error| Failure::Pool(to.into(), error))?;
    let base = args.base.as_deref().map(|name| pool_stream::base(&tree, to, name)).transpose().map_err(|why| Failure::Stream(to.into(), StreamError { offset: 0, record: 0, why }))?;
    Ok(Sending::One(Box::new(Sender::new(&tree, &info, base, send, None).map_err(about(to))?)))
}

pub fn send(devices: &Devices, args: &SendArgs) -> Result<(), Failure> {
    for (given, letter, why) in [(args.dedup, 'D', "streams are not deduplicated any more, as in OpenZFS since 2.0"), (args.raw, 'w', "raw streams are of encrypted datasets, and those are not read here")] {
        if given {
            return Err(Failure::Request(format!("send -{letter}: {why}: send without it")));
        }
    }
    let token = args.token.as_deref().and_then(Token::decode);
    let name = args.snapshot.clone().or_else(|| token.map(|token| token.name)).unwrap_or_default();
    let pool = devices.pool(Some(pool_of(&name)))?;
    let mut sending = plan(&pool, args)?;
    let to = args.output.as_ref().map_or_else(|| "standard output".into(), |path| path.display().to_string());
    let host = |error| Failure::Host(to.clone(), error);
    let mut out: Box<dyn Write> = match &args.output {
        Some(path) if !args.dry => Box::new(File::create(path).map_err(host)?),
        _ => Box::new(std::io::stdout().lock()),
    };
    let progress = ProgressBar::new_spinner();
    let (mut total, mut piece) = (0_u64, Vec::new());
    loop {
        let more = sending.next(&pool, &mut piece).map_err(about(&name))?;
        total += piece.len() as u64;
        if !args.dry {
            out.write_all(&piece).map_err(host)?;
        }
        piece.clear();
        progress.set_message(format!("{}: {}", sending.name(), human(total)));
        progress.tick();
        if !more {
            break;
        }
    }
    out.flush().map_err(host)?;
    progress.finish_and_clear();
    if args.parsable {
        eprintln!("{}\t{name}\t{total}\nsize\t{total}", if args.base.is_some() || args.all_since.is_some() { "incremental" } else { "full" });
    } else if args.verbose || args.dry {
        eprintln!("{name}: {total} bytes ({})", human(total));
    }
    Ok(())
}

pub fn receive(devices: &Devices, args: &ReceiveArgs) -> Result<(), Failure> {
    let mut store = devices.store(&args.target)?;
    let target = args.target.split('@').next().unwrap_or_default();
    let change = |error| Failure::Change(args.target.clone(), error);
    if target.contains('%') {
        return Err(Failure::Request(format!("'{target}' is not a dataset name")));
    }
    if args.abort {
        let found = pool_stream::abort(&mut store, target, now()).map_err(|why| Failure::Stream(target.into(), StreamError { offset: 0, record: 0, why }))?;
        store.export(now()).map_err(change)?;
        return if found { Ok(()) } else { Err(Failure::Request(format!("{target}: nothing was received in part"))) };
    }
    let naming = if args.drop_pool {
        Naming::DropPool
    } else if args.last {
        Naming::LastPart
    } else {
        Naming::Exact
    };
    let mut properties = Vec::new();
    for pair in &args.options {
        let (name, text) = pair.split_once('=').ok_or_else(|| Failure::Request(format!("'{pair}' is not PROPERTY=VALUE")))?;
        if name == "origin" {
            // Found by what the stream says; it has to be here.
            store.find_snapshot(text).map_err(|error| Failure::Change(text.into(), error))?;
            continue;
        }
        let value = pool_dmu::parse_property(name, text).map_err(|error| Failure::Request(format!("{pair}: {error}: {}", pool_dmu::hint(name))))?;
        properties.push((name.to_owned(), value));
    }
    if let Some(name) = args.excluded.iter().find(|name| !pool_dmu::is_settable(name)) {
        return Err(Failure::Usage(format!("-x {name}: there is no such property that can be set")));
    }
    let (force, resumable, dry, excluded) = (args.force, args.resumable, args.dry, args.excluded.clone());
    let options = ReceiveOptions { force, resumable, owners: Some(pool_zpl::owners), origins: None, dry, properties, excluded };
    let mut unpacker = Unpacker::new(&args.target, naming, options);
    let progress = ProgressBar::new_spinner();
    let fed = pieces(&mut *read_from(args.input.as_deref())?, |bytes| {
        unpacker.feed(&mut store, bytes, now()).map_err(about(&args.target))?;
        let last = unpacker.received().last().map_or("", |received| received.snapshot.as_str());
        progress.set_message(format!("{} {last}", human(unpacker.bytes())));
        progress.tick();
        Ok(())
    });
    let done = match fed {
        Ok(()) => unpacker.finish(&mut store, now()).map_err(about(&args.target)),
        Err(error) => {
            // Ends what is begun where the input failed; a stream at fault has ended already.
            drop(unpacker.finish(&mut store, now()));
            Err(error)
        }
    };
    progress.finish_and_clear();
    if done.is_err() && args.resumable {
        // What a later `send -t` needs.
        if let Ok(Some(token)) = pool_stream::resume_token(&store, target) {
            eprintln!("{target}: receive_resume_token {}", token.encode());
        }
    }
    if args.dry {
        for received in done?.0 {
            print(&format!("would receive {}\n", received.snapshot))?;
        }
        return Ok(());
    }
    store.export(now()).map_err(change)?;
    let (received, notes) = done?;
    for note in notes {
        eprintln!("note: {note}");
    }
    if args.verbose {
        for received in received {
            print(&format!("received {}: {} records, {} bytes\n", received.snapshot, received.records, received.bytes))?;
        }
    }
    Ok(())
}
