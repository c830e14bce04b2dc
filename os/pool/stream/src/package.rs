//! Packages: several streams behind one head, for `-R`, `-I` and `-p`.
//!
//! ```text
//! BEGIN (compound) + list   END   [BEGIN ... END]  [BEGIN ... END]  ...   END
//! ```
//! The list says which file systems and snapshots there are: `tosnap`, `fromsnap`, `not_recursive`, and under `fss`, by the guid of each file system, its
//! `name`, `parentfromsnap`, `origin`, `snaps` (name to guid) and `props`. The END of the head and the last one have no checksum field.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pool_dmu::{DatasetInfo, DatasetKind, Datasets, Store};
use pool_phys::nvlist::{self, List, Value};
use pool_phys::nvlist_native;
use pool_spa::Pool;

use crate::parse::{Parsed, Parser};
use crate::receive::snapshots_of;
use crate::record::{Begin, Record, Writer, padded};
use crate::{Base, Feature, ReceiveOptions, Received, Receiver, SendOptions, Sender, StreamError, Why};

/// What a package holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackageOptions {
    /// All file systems below, with their snapshots and properties (`-R`).
    pub replicate: bool,
    /// All snapshots between the base and the last (`-I`).
    pub intermediate: bool,
    /// Properties (`-p`).
    pub properties: bool,
    pub send: SendOptions,
}

/// One stream of a package.
#[derive(Debug)]
struct Step {
    snapshot: String,
    base: Option<Base>,
}

/// A package being made.
#[derive(Debug)]
pub struct Package {
    head: Option<(Begin, Vec<u8>)>,
    steps: VecDeque<Step>,
    options: SendOptions,
    sender: Option<Sender>,
    bytes: u64,
    ended: bool,
}

fn file_system(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

fn last_part(name: &str) -> &str {
    name.split_once('@').map_or("", |(_, last)| last)
}

impl Package {
    /// A package that ends at snapshot `to`, and starts behind the snapshot called `from` of the same file system if there is one.
    ///
    /// # Errors
    /// A snapshot that is not there; unreadable.
    pub fn new(tree: &Datasets<'_>, to: &str, from: Option<&str>, options: PackageOptions) -> Result<Self, StreamError> {
        Self::plan(tree, to, from, options).map_err(|why| StreamError { offset: 0, record: 0, why })
    }

    fn plan(tree: &Datasets<'_>, to: &str, from: Option<&str>, options: PackageOptions) -> Result<Self, Why> {
        let missing = |name: &str| Why::Target("there is no such snapshot", name.to_string());
        let (top, last) = to.split_once('@').ok_or_else(|| missing(to))?;
        let from = from.map(|from| from.rsplit('@').next().unwrap_or(from));
        let all = tree.list(top).map_err(|_| missing(to))?;
        if !all.iter().any(|info| info.name == to) {
            return Err(missing(to));
        }
        if let Some(from) = from
            && !all.iter().any(|info| info.name == format!("{top}@{from}"))
        {
            return Err(missing(&format!("{top}@{from}")));
        }
        let heads = all.iter().filter(|info| info.kind != DatasetKind::Snapshot && (options.replicate || info.name == top));
        // Snapshots of each up to `last`, in order of creation; file systems without it are left out.
        let mut members: Vec<(&DatasetInfo, Vec<&DatasetInfo>)> = Vec::new();
        for head in heads {
            let of = |info: &&DatasetInfo| info.kind == DatasetKind::Snapshot && file_system(&info.name) == head.name;
            let snapshots: Vec<&DatasetInfo> = all.iter().filter(of).collect();
            if let Some(at) = snapshots.iter().position(|info| last_part(&info.name) == last) {
                members.push((head, snapshots[..=at].to_vec()));
            }
        }
        let mut package = Self { head: None, steps: VecDeque::new(), options: options.send, sender: None, bytes: 0, ended: false };
        let all_between = options.intermediate || options.replicate && from.is_none();
        let mut waiting: VecDeque<&(&DatasetInfo, Vec<&DatasetInfo>)> = members.iter().collect();
        let mut sent: BTreeSet<u64> = BTreeSet::new();
        let ours: BTreeSet<&str> = members.iter().flat_map(|(_, snapshots)| snapshots.iter().map(|info| info.name.as_str())).collect();
        let mut turns = waiting.len() * (waiting.len() + 1);
        while let Some(member) = waiting.pop_front() {
            let (head, snapshots) = member;
            let origin = head.origin.as_deref().filter(|origin| ours.contains(origin));
            let origin = origin.and_then(|name| all.iter().find(|info| info.name == name));
            // A clone comes behind its origin. Origins go round in no circle, so this ends.
            if origin.is_some_and(|origin| !sent.contains(&origin.dataset.guid)) && turns > 0 {
                turns -= 1;
                waiting.push_back(member);
                continue;
            }
            let start = from.and_then(|from| snapshots.iter().position(|info| last_part(&info.name) == from));
            let mut base = match start {
                Some(at) => Some(Base { guid: snapshots[at].dataset.guid, txg: snapshots[at].dataset.creation_txg, is_origin: false }),
                None => origin.map(|origin| Base { guid: origin.dataset.guid, txg: origin.dataset.creation_txg, is_origin: true }),
            };
            let wanted = &snapshots[start.map_or(0, |at| at + 1)..];
            // A file system that the base has not: all of it, if all is asked for.
            let wanted = if all_between || wanted.is_empty() { wanted } else { &wanted[wanted.len() - 1..] };
            for info in wanted {
                package.steps.push_back(Step { snapshot: info.name.clone(), base });
                base = Some(Base { guid: info.dataset.guid, txg: info.dataset.creation_txg, is_origin: false });
            }
            sent.extend(snapshots.iter().map(|info| info.dataset.guid));
        }
        if options.replicate || options.intermediate || options.properties {
            package.head = Some(head(tree, to, from, options, &members, &all)?);
        }
        Ok(package)
    }

    /// Snapshots still to be sent, the present one included.
    #[must_use]
    pub fn left(&self) -> usize {
        self.steps.len() + usize::from(self.sender.is_some())
    }

    /// The snapshot being sent.
    #[must_use]
    pub fn current(&self) -> Option<&str> {
        self.sender.as_ref().map(Sender::name)
    }

    /// Bytes made so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes + self.sender.as_ref().map_or(0, Sender::bytes)
    }

    /// Appends the next piece to `out`. False: that was all.
    ///
    /// # Errors
    /// As [`Sender::next`].
    pub fn next(&mut self, pool: &Pool, out: &mut Vec<u8>) -> Result<bool, StreamError> {
        let here = self.bytes();
        let about = |why: Why| StreamError { offset: here, record: 0, why };
        if let Some(sender) = &mut self.sender {
            if sender.next(pool, out)? {
                return Ok(true);
            }
            self.bytes += sender.bytes();
            self.sender = None;
        }
        let is_package = self.bytes > 0 || self.head.is_some();
        if let Some((begin, list)) = self.head.take() {
            let mut writer = Writer::default();
            writer.put(out, &Record::Begin(begin), 0, &list);
            writer.put_bare_end(out, true);
            self.bytes = writer.bytes;
            self.ended = true;
            return Ok(true);
        }
        if let Some(step) = self.steps.pop_front() {
            let tree = Datasets::open(pool).map_err(|error| about(error.into()))?;
            let info = tree.find(&step.snapshot).map_err(|error| about(error.into()))?;
            self.sender = Some(Sender::new(&tree, &info, step.base, self.options, None)?);
            return Ok(true);
        }
        if is_package && core::mem::take(&mut self.ended) {
            let mut writer = Writer::default();
            writer.put_bare_end(out, false);
            self.bytes += writer.bytes;
            return Ok(true);
        }
        Ok(false)
    }
}

/// The base of an incremental stream of `to`, by name: a snapshot of the same or another file system, or a bookmark. A name alone is of a snapshot of the same one.
///
/// # Errors
/// There is none; unreadable.
pub fn base(tree: &Datasets<'_>, to: &str, name: &str) -> Result<Base, Why> {
    let system = file_system(to);
    let full = if name.starts_with(['@', '#']) {
        format!("{system}{name}")
    } else if name.contains(['@', '#']) {
        name.to_string()
    } else {
        format!("{system}@{name}")
    };
    let missing = |_| Why::Target("there is no such snapshot or bookmark", full.clone());
    if let Some((dataset, _)) = full.split_once('#') {
        let found = tree.bookmarks(dataset).map_err(missing)?.into_iter().find(|known| known.name == full);
        let found = found.ok_or_else(|| missing(pool_dmu::Error::NotFound))?;
        return Ok(Base { guid: found.guid, txg: found.creation_txg, is_origin: false });
    }
    let from = tree.find(&full).map_err(missing)?.dataset;
    Ok(Base { guid: from.guid, txg: from.creation_txg, is_origin: file_system(&full) != system })
}

/// The head of a package; with `-I` alone it has no list.
fn head(tree: &Datasets<'_>, to: &str, from: Option<&str>, options: PackageOptions, members: &[(&DatasetInfo, Vec<&DatasetInfo>)], all: &[DatasetInfo]) -> Result<(Begin, Vec<u8>), Why> {
    let begin = Begin { compound: true, features: Feature::SA_SPILL.0, name: to.into(), ..Begin::default() };
    if !options.replicate && !options.properties {
        return Ok((begin, Vec::new()));
    }
    let mut systems = List::default();
    for (head, snapshots) in members {
        let mut entry = List::default();
        entry.set("name", Value::Text(head.name.clone()));
        let guid_of = |name: &str| all.iter().find(|info| info.name == name).map_or(0, |info| info.dataset.guid);
        let parent = head.name.rsplit_once('/').map_or("", |(parent, _)| parent);
        entry.set("parentfromsnap", Value::Number(from.map_or(0, |from| guid_of(&format!("{parent}@{from}")))));
        if let Some(origin) = &head.origin {
            let guid = tree.find(origin).map(|info| info.dataset.guid)?;
            entry.set("origin", Value::Number(guid));
        }
        entry.set("props", Value::List(tree.own_properties(head)?));
        let numbers = |info: &&DatasetInfo| (last_part(&info.name).to_string(), Value::Number(info.dataset.guid));
        entry.set("snaps", Value::List(List { pairs: snapshots.iter().map(numbers).collect() }));
        let empty = |info: &&DatasetInfo| (last_part(&info.name).to_string(), Value::List(List::default()));
        entry.set("snapprops", Value::List(List { pairs: snapshots.iter().map(empty).collect() }));
        systems.set(&format!("0x{:x}", head.dataset.guid), Value::List(entry));
    }
    let mut list = List::default();
    if let Some(from) = from {
        list.set("fromsnap", Value::Text(from.into()));
    }
    list.set("tosnap", Value::Text(last_part(to).into()));
    if !options.replicate {
        list.set("not_recursive", Value::Boolean);
    }
    list.set("fss", Value::List(systems));
    let packed = nvlist::encode(&list);
    let packed = padded(&packed, packed.len().next_multiple_of(8));
    let payload = u32::try_from(packed.len()).map_err(|_| Why::Field("list of a package", packed.len() as u64))?;
    Ok((Begin { payload, ..begin }, packed))
}

/// How names of a stream become names here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// The target is the name of what the stream is of; the file systems of a package go below as they were.
    #[default]
    Exact,
    /// The name without its pool goes below the target (`-d`).
    DropPool,
    /// The name's last part goes below the target (`-e`).
    LastPart,
}

/// Takes a stream or a package in.
#[derive(Debug)]
pub struct Unpacker {
    target: String,
    naming: Naming,
    options: ReceiveOptions,
    parser: Parser,
    state: State,
    /// The package's list, and the name of its top.
    list: Option<(List, String)>,
    /// File systems whose properties were set.
    settled: BTreeSet<String>,
    received: Vec<Received>,
    /// Properties that could not be set: what and why.
    notes: Vec<String>,
}

#[derive(Debug)]
enum State {
    /// Before a stream.
    Between,
    /// The head of a package was read; its END comes.
    Head,
    Stream(Box<Receiver>),
    /// A stream of a snapshot that is here already.
    Skip,
    Done,
}

impl Unpacker {
    /// Will receive into `target`.
    #[must_use]
    pub fn new(target: &str, naming: Naming, options: ReceiveOptions) -> Self {
        Self {
            target: target.into(),
            naming,
            options,
            parser: Parser::default(),
            state: State::Between,
            list: None,
            settled: BTreeSet::new(),
            received: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Bytes consumed.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.parser.offset()
    }

    /// Snapshots received so far.
    #[must_use]
    pub fn received(&self) -> &[Received] {
        &self.received
    }

    /// Properties of a package that could not be set.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What is wrong with them, and where. What was made of the stream at fault is removed, or kept to be resumed; what was received before it stays.
    pub fn feed(&mut self, store: &mut Store, bytes: &[u8], now: u64) -> Result<(), StreamError> {
        self.parser.feed(bytes);
        let done = self.drain(store, now);
        if done.is_err() {
            self.give_up(store, now);
        }
        done
    }

    /// The stream ends here.
    ///
    /// # Errors
    /// It ended too early.
    pub fn finish(mut self, store: &mut Store, now: u64) -> Result<(Vec<Received>, Vec<String>), StreamError> {
        let whole = self.parser.is_idle() && match self.state {
            State::Done => true,
            State::Between => self.list.is_none() && !self.received.is_empty(),
            _ => false,
        };
        if whole {
            return Ok((self.received, self.notes));
        }
        self.give_up(store, now);
        Err(self.parser.truncated())
    }

    fn give_up(&mut self, store: &mut Store, now: u64) {
        if let State::Stream(receiver) = &mut self.state {
            receiver.give_up(store, now);
        }
        self.state = State::Done;
    }

    fn drain(&mut self, store: &mut Store, now: u64) -> Result<(), StreamError> {
        while let Some(parsed) = self.parser.take()? {
            let at = |why| StreamError { offset: parsed.offset, record: parsed.number, why };
            match &mut self.state {
                State::Between => self.start(store, &parsed, now)?,
                State::Head | State::Skip => {
                    if let Record::End { .. } = parsed.record {
                        self.state = State::Between;
                    }
                }
                State::Stream(receiver) => {
                    if let Some(received) = receiver.take(store, &parsed, now)? {
                        let name = file_system(&received.snapshot).to_string();
                        self.received.push(received);
                        self.state = State::Between;
                        self.settle(store, &name, now).map_err(at)?;
                    }
                }
                State::Done => return Err(at(Why::Trailing)),
            }
        }
        Ok(())
    }

    /// BEGIN of a stream or package, or the END of a package.
    fn start(&mut self, store: &mut Store, parsed: &Parsed, now: u64) -> Result<(), StreamError> {
        let at = |why| StreamError { offset: parsed.offset, record: parsed.number, why };
        let begin = match &parsed.record {
            Record::Begin(begin) => begin,
            Record::End { .. } if self.list.is_some() => {
                self.state = State::Done;
                return Ok(());
            }
            _ => return Err(at(Why::Order("an END without a beginning"))),
        };
        if begin.compound {
            if self.list.is_some() || !self.received.is_empty() {
                return Err(at(Why::Order("a package within another")));
            }
            // With `-I` alone OpenZFS has no list.
            let list = if parsed.payload.is_empty() { List::default() } else { nvlist_native::parse_either(&parsed.payload).map_err(|error| at(Why::Store(error.into())))? };
            self.list = Some((list, file_system(&begin.name).to_string()));
            self.state = State::Head;
            return Ok(());
        }
        if self.list.is_none() && !self.received.is_empty() {
            return Err(at(Why::Trailing));
        }
        let target = self.name_here(begin).ok_or_else(|| at(Why::Target("is not below the package's top", begin.name.clone())))?;
        if self.list.is_some() && store.find(&target).is_ok() && snapshots_of(store, &target).map_err(at)?.iter().any(|(_, guid)| *guid == begin.to_guid) {
            self.state = State::Skip;
            return Ok(());
        }
        // A lone stream may be given the name of its snapshot.
        let whole = if self.list.is_none() && self.target.contains('@') && self.naming == Naming::Exact { self.target.clone() } else { target };
        if self.options.dry {
            let last = last_part(&begin.name);
            let snapshot = if whole.contains('@') { whole } else { format!("{whole}@{last}") };
            self.received.push(Received { snapshot, guid: begin.to_guid, bytes: 0, records: 0 });
            self.state = State::Skip;
            return Ok(());
        }
        let mut receiver = Receiver::new(&whole, self.options.clone());
        receiver.take(store, parsed, now)?;
        self.state = State::Stream(Box::new(receiver));
        Ok(())
    }

    /// What the file system of a stream is called here; `None`: it is outside of what the package is of.
    fn name_here(&self, begin: &Begin) -> Option<String> {
        let name = file_system(&begin.name);
        let target = file_system(&self.target);
        let top = self.list.as_ref().map_or(name, |(_, top)| top.as_str());
        let below = name.strip_prefix(top).filter(|below| below.is_empty() || below.starts_with('/'))?;
        Some(match self.naming {
            Naming::Exact => format!("{target}{below}"),
            Naming::DropPool => name.split_once('/').map_or_else(|| target.into(), |(_, rest)| format!("{target}/{rest}")),
            Naming::LastPart => format!("{target}/{}{below}", top.rsplit('/').next().unwrap_or(top)),
        })
    }

    /// Sets the properties that the package gives a file system.
    fn settle(&mut self, store: &mut Store, target: &str, now: u64) -> Result<(), Why> {
        let is_first = self.settled.is_empty();
        if !self.settled.insert(target.to_string()) {
            return Ok(());
        }
        self.take_properties(store, target, now)?;
        self.override_properties(store, target, is_first, now)
    }

    /// What the receiver wants instead of what the stream brought.
    fn override_properties(&mut self, store: &mut Store, target: &str, is_first: bool, now: u64) -> Result<(), Why> {
        let own = if is_first { self.options.properties.clone() } else { Vec::new() };
        if own.is_empty() {
            return Ok(());
        }
        for (name, value) in own {
            if let Err(error) = store.set_property(target, &name, &value) {
                self.notes.push(format!("{target}: property {name} was not set: {error}"));
            }
        }
        Ok(store.commit(now)?)
    }

    fn take_properties(&mut self, store: &mut Store, target: &str, now: u64) -> Result<(), Why> {
        let Some((list, _)) = &self.list else { return Ok(()) };
        let systems = list.list("fss").cloned().unwrap_or_default();
        let mut changed = false;
        for (_, entry) in &systems.pairs {
            let Value::List(entry) = entry else { continue };
            let (Some(name), Some(props)) = (entry.text("name"), entry.list("props")) else { continue };
            let as_begin = Begin { name: name.into(), ..Begin::default() };
            if self.name_here(&as_begin).is_none_or(|here| here != target) {
                continue;
            }
            for (name, value) in &props.pairs {
                // OpenZFS sends `props` as name to value; older ones as name to a list with `value`.
                let value = if let Value::List(inner) = value { inner.get("value").cloned().unwrap_or(Value::Boolean) } else { value.clone() };
                let is_excluded = self.options.excluded.iter().any(|excluded| pool_dmu::full_name(excluded) == pool_dmu::full_name(name));
                let set = if is_excluded { store.receive_excluded(target, name, &value) } else { store.set_property_from(target, name, &value, true) };
                if let Err(error) = set {
                    self.notes.push(format!("{target}: property {name} was not set: {error}"));
                }
                changed = true;
            }
        }
        if changed {
            store.commit(now)?;
        }
        Ok(())
    }
}
