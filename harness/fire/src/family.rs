//! Lives of datasets: random snapshots, clones, promotions, rollbacks, renames, destroys, holds and quotas, beside a model of what must be there.
//!
//! After each operation the pool's own sums are counted anew ([`pool_dmu::check_space`]); now and then it is closed, opened and checked in full. With
//! [`cuts`] the power goes at each write of such a life: what is found is the family before an operation or after it.

use std::collections::BTreeMap;
use std::fmt;

use pool_dmu::edit::EditError;
use pool_dmu::{DatasetKind, Datasets, Error, ScanKind, Store, check, check_space};
use pool_phys::nvlist::Value;
use pool_spa::Pool;
use pool_stream::SendOptions;
use pool_zpl::{Make, Writer, Zvol, create_filesystem};

use crate::disk::{Disk, Journal, Loss, Replay, Step, mix};
use crate::matrix;
use crate::rig::{self, NAME, NEW, NOW, Shape, VOLUME};
use crate::streams;
use crate::work::{Digest, Model, digest};

/// Datasets at most, and snapshots of each.
const DATASETS_MAX: usize = 16;
const SNAPSHOTS_MAX: usize = 6;
const TAG: &str = "keep";
/// Bytes of a volume, and of its blocks.
const VOLUME_BYTES: u64 = 256 << 10;
const VOLUME_BLOCK: u64 = 8 << 10;

#[derive(Clone, Debug)]
struct Snapshot {
    name: String,
    id: u64,
    files: Model,
    held: bool,
}

#[derive(Clone, Debug, Default)]
struct Member {
    files: Model,
    /// Oldest first.
    snapshots: Vec<Snapshot>,
    /// Id of the snapshot it was cloned from.
    origin: Option<u64>,
}

impl Member {
    fn is_volume(&self) -> bool {
        self.files.contains_key(VOLUME)
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub operations: u64,
    pub refused: u64,
    pub clones: u64,
    pub promotions: u64,
    pub rollbacks: u64,
    pub destroyed: u64,
    pub received: u64,
    pub cuts: u64,
    pub kills: u64,
    pub troubles: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, refused, clones, promotions, rollbacks, destroyed, received, cuts, kills, troubles } = self;
        write!(f, "{operations} operations ({refused} refused as they must be), {clones} clones, {promotions} promotions, {rollbacks} rollbacks, {destroyed} destroyed, {received} received, {cuts} cuts, {kills} kills, {troubles} troubles")
    }
}

/// A family of datasets and its model.
#[derive(Clone, Debug)]
struct Family {
    seed: u64,
    count: u64,
    next: u64,
    members: BTreeMap<String, Member>,
    /// Receive streams, too: an operation of several commits.
    streams: bool,
    report: Report,
}

/// Names, origins and contents of everything, as one digest.
fn sum_up(parts: impl IntoIterator<Item = (String, Digest)>) -> Digest {
    digest(&parts.into_iter().map(|(name, Digest(words))| (name, words.iter().flat_map(|word| word.to_le_bytes()).collect())).collect())
}

impl Family {
    fn new(seed: u64, streams: bool) -> Self {
        let members = BTreeMap::from([(NAME.to_owned(), Member::default())]);
        Self { seed, count: 0, next: 0, members, streams, report: Report::default() }
    }

    fn dice(&mut self) -> u64 {
        self.count += 1;
        mix(mix(self.seed ^ 0xFA31) ^ self.count)
    }

    fn pick(&mut self) -> String {
        let index = usize::try_from(self.dice() >> 8).unwrap_or(0) % self.members.len();
        self.members.keys().nth(index).cloned().unwrap_or_default()
    }

    /// A file system for a new dataset to be made in.
    fn parent(&mut self) -> String {
        let name = self.pick();
        if self.members[&name].is_volume() { NAME.to_owned() } else { name }
    }

    fn fresh(&mut self, letter: char) -> String {
        self.next += 1;
        format!("{letter}{}", self.next)
    }

    fn owner(&self, id: u64) -> Option<(&str, usize)> {
        self.members.iter().find_map(|(name, member)| Some((name.as_str(), member.snapshots.iter().position(|snapshot| snapshot.id == id)?)))
    }

    /// True if there is no order in which to destroy these: what is below goes first, and so does a clone, which may be what it is below of.
    fn is_tangled(&self, inside: &[String]) -> bool {
        let mut left: Vec<&String> = inside.iter().collect();
        loop {
            let is_free = |name: &String| {
                let below = format!("{name}/");
                let ids: Vec<u64> = self.members[name].snapshots.iter().map(|snapshot| snapshot.id).collect();
                !left.iter().any(|other| other.starts_with(&below) || self.members[*other].origin.is_some_and(|id| ids.contains(&id)))
            };
            match left.iter().position(|name| is_free(name)) {
                Some(at) => drop(left.remove(at)),
                None => return !left.is_empty(),
            }
        }
    }

    fn has_clones(&self, id: u64) -> bool {
        self.members.values().any(|member| member.origin == Some(id))
    }

    fn has_children(&self, name: &str) -> bool {
        self.members.keys().any(|other| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
    }

    fn origin_name(&self, member: &Member) -> String {
        let found = member.origin.and_then(|id| self.owner(id));
        found.map_or(String::new(), |(name, index)| format!("{name}@{}", self.members[name].snapshots[index].name))
    }

    fn digest(&self) -> Digest {
        let mut parts = Vec::new();
        for (name, member) in &self.members {
            parts.push((format!("{name} of {}", self.origin_name(member)), digest(&member.files)));
            parts.extend(member.snapshots.iter().map(|snapshot| (held(format!("{name}@{}", snapshot.name), snapshot.held), digest(&snapshot.files))));
        }
        sum_up(parts)
    }

    fn write(&mut self, store: &mut Store, name: &str) -> Result<(), EditError> {
        let dataset = store.find(name)?;
        for _ in 0..=self.dice() % 3 {
            let pick = self.dice();
            if let Some(bytes) = self.members.get_mut(name).and_then(|member| member.files.get_mut(VOLUME)) {
                let (offset, size) = (pick >> 8 & 0x1_FFFF, (pick >> 32) % 60_000 + 1);
                let data: Vec<u8> = (0..size).map(|at| mix(pick ^ (at / 8)).to_le_bytes()[usize::try_from(at & 7).unwrap_or(0)]).collect();
                let volume = Zvol::open(store, dataset)?;
                volume.write(store, offset, &data)?;
                let from = usize::try_from(offset).unwrap_or(0);
                bytes[from..from + data.len()].copy_from_slice(&data);
                continue;
            }
            let file = format!("f{}", pick & 7);
            let mut writer = Writer::open(store, dataset)?;
            let root = writer.root();
            let files = &mut self.members.get_mut(name).expect("a member").files;
            let object = match writer.lookup(root, file.as_bytes())? {
                Some(_) if pick >> 8 & 7 == 0 => {
                    writer.remove(root, file.as_bytes(), NOW)?;
                    files.remove(&format!("/{file}"));
                    continue;
                }
                Some(object) => object,
                None => writer.make(root, file.as_bytes(), Make::File, &NEW)?,
            };
            let (offset, size) = (pick >> 16 & 0x3FFF, (pick >> 32) % if pick >> 12 & 7 == 0 { 300_000 } else { 20_000 } + 1);
            let data: Vec<u8> = (0..size).map(|at| mix(pick ^ (at / 8)).to_le_bytes()[usize::try_from(at & 7).unwrap_or(0)]).collect();
            writer.write(object, offset, &data, NOW)?;
            let whole = files.entry(format!("/{file}")).or_default();
            let from = usize::try_from(offset).unwrap_or(0);
            whole.resize(whole.len().max(from + data.len()), 0);
            whole[from..from + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }

    /// An operation that the pool must refuse, and say so.
    fn refuse(&mut self, result: Result<(), EditError>) -> Result<(), EditError> {
        self.report.refused += 1;
        match result {
            Err(EditError::Busy(_) | EditError::Exists | EditError::Invalid(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(EditError::Invalid("the pool did what it had to refuse")),
        }
    }

    /// Does the next operation; the model goes along.
    #[allow(clippy::too_many_lines, reason = "one arm for each operation")]
    fn step(&mut self, store: &mut Store) -> Result<(), EditError> {
        self.report.operations += 1;
        let (kind, name, extra) = (self.dice() % 27, self.pick(), self.dice());
        let member = self.members[&name].clone();
        let chosen = usize::try_from(extra).unwrap_or(0) % member.snapshots.len().max(1);
        let chosen = member.snapshots.get(chosen).cloned();
        match (kind, chosen) {
            (24, _) if self.members.len() < DATASETS_MAX => {
                let child = format!("{}/{}", self.parent(), self.fresh('v'));
                Zvol::create(store, &child, VOLUME_BYTES, VOLUME_BLOCK, true, NOW.0)?;
                store.commit(NOW.0)?;
                let files = Model::from([(VOLUME.to_owned(), vec![0; usize::try_from(VOLUME_BYTES).unwrap_or(0)])]);
                self.members.insert(child, Member { files, ..Member::default() });
            }
            (25 | 26, Some(snapshot)) if self.streams && self.members.len() < DATASETS_MAX => {
                let target = format!("{}/{}", self.parent(), self.fresh('g'));
                let options = SendOptions { compressed: extra & 2 == 0, embed: extra & 4 == 0, large_blocks: false };
                let stream = streams::send(store, &format!("{name}@{}", snapshot.name), None, options).map_err(|_| EditError::Invalid("the stream was not sent"))?;
                streams::receive(store, &target, &stream).map_err(|_| EditError::Invalid("the stream was not received"))?;
                self.next += 1;
                let arrived = Snapshot { id: self.next, held: false, ..snapshot };
                self.members.insert(target, Member { files: arrived.files.clone(), snapshots: vec![arrived], origin: None });
                self.report.received += 1;
            }
            (0, _) if self.members.len() < DATASETS_MAX => {
                let child = format!("{}/{}", self.parent(), self.fresh('d'));
                create_filesystem(store, &child, &NEW)?;
                store.commit(NOW.0)?;
                self.members.insert(child, Member::default());
            }
            (1..=4, _) if member.snapshots.len() < SNAPSHOTS_MAX => {
                let short = self.fresh('s');
                store.snapshot(&name, &short, NOW.0)?;
                let id = self.next;
                let member = self.members.get_mut(&name).expect("a member");
                member.snapshots.push(Snapshot { name: short, id, files: member.files.clone(), held: false });
            }
            (5, _) if extra & 1 == 0 => {
                let short = self.fresh('r');
                store.snapshot_tree(&name, &short, NOW.0)?;
                let below = format!("{name}/");
                for (other, member) in &mut self.members {
                    if *other == name || other.starts_with(&below) {
                        self.next += 1;
                        member.snapshots.push(Snapshot { name: short.clone(), id: self.next, files: member.files.clone(), held: false });
                    }
                }
            }
            (6 | 7 | 22, Some(snapshot)) if self.members.len() < DATASETS_MAX => {
                let parent = self.parent();
                let clone = format!("{parent}/{}", self.fresh('c'));
                store.clone_dataset(&format!("{name}@{}", snapshot.name), &clone, NOW.0)?;
                self.members.insert(clone, Member { files: snapshot.files, snapshots: Vec::new(), origin: Some(snapshot.id) });
                self.report.clones += 1;
            }
            (8 | 9, _) => match member.origin.and_then(|id| self.owner(id).map(|(name, index)| (name.to_owned(), index))) {
                None => {
                    let result = store.promote(&name, NOW.0);
                    self.refuse(result)?;
                }
                Some((old, index)) => {
                    store.promote(&name, NOW.0)?;
                    let former = self.members.get_mut(&old).expect("an owner");
                    let moved: Vec<Snapshot> = former.snapshots.drain(..=index).collect();
                    let older = std::mem::replace(&mut former.origin, member.origin);
                    let member = self.members.get_mut(&name).expect("a member");
                    member.snapshots.splice(0..0, moved);
                    member.origin = older;
                    self.report.promotions += 1;
                }
            },
            (10, _) => match member.snapshots.last() {
                None => {
                    let result = store.rollback(&name, NOW.0);
                    self.refuse(result)?;
                }
                Some(last) => {
                    store.rollback(&name, NOW.0)?;
                    self.members.get_mut(&name).expect("a member").files = last.files.clone();
                    self.report.rollbacks += 1;
                }
            },
            (11..=14, Some(snapshot)) => {
                let full = format!("{name}@{}", snapshot.name);
                let result = store.destroy_snapshots(&[&full], false, NOW.0);
                if snapshot.held || self.has_clones(snapshot.id) {
                    self.refuse(result)?;
                } else {
                    result?;
                    self.members.get_mut(&name).expect("a member").snapshots.retain(|other| other.id != snapshot.id);
                    self.report.destroyed += 1;
                }
            }
            (15, _) => {
                let result = store.destroy_dataset(&name, NOW.0);
                if name == NAME || self.has_children(&name) || !member.snapshots.is_empty() {
                    self.refuse(result)?;
                } else {
                    result?;
                    self.members.remove(&name);
                    self.report.destroyed += 1;
                }
            }
            (16, _) if name != NAME => {
                let below = format!("{name}/");
                let inside: Vec<String> = self.members.keys().filter(|other| **other == name || other.starts_with(&below)).cloned().collect();
                let ids: Vec<u64> = inside.iter().flat_map(|name| &self.members[name].snapshots).map(|snapshot| snapshot.id).collect();
                let is_held = inside.iter().flat_map(|name| &self.members[name].snapshots).any(|snapshot| snapshot.held);
                let is_origin = self.members.iter().any(|(name, member)| !inside.contains(name) && member.origin.is_some_and(|id| ids.contains(&id)));
                let is_tangled = self.is_tangled(&inside);
                let result = store.destroy_tree(&name, false, NOW.0);
                if is_held || is_origin || is_tangled {
                    self.refuse(result)?;
                } else {
                    result?;
                    inside.iter().for_each(|name| drop(self.members.remove(name)));
                    self.report.destroyed += inside.len() as u64;
                }
            }
            (17, _) if name != NAME => {
                let parent = self.parent();
                let to = format!("{parent}/{}", self.fresh('n'));
                let result = store.rename(&name, &to, NOW.0);
                let below = format!("{name}/");
                if parent == name || parent.starts_with(&below) {
                    self.refuse(result)?;
                } else {
                    result?;
                    let moved: Vec<String> = self.members.keys().filter(|other| **other == name || other.starts_with(&below)).cloned().collect();
                    for old in moved {
                        let member = self.members.remove(&old).expect("a member");
                        self.members.insert(format!("{to}{}", &old[name.len()..]), member);
                    }
                }
            }
            (18, Some(snapshot)) => {
                let short = self.fresh('t');
                store.rename(&format!("{name}@{}", snapshot.name), &format!("{name}@{short}"), NOW.0)?;
                let own = self.members.get_mut(&name).and_then(|member| member.snapshots.iter_mut().find(|other| other.id == snapshot.id));
                own.expect("a snapshot").name = short;
            }
            (19, Some(snapshot)) => {
                let full = format!("{name}@{}", snapshot.name);
                if snapshot.held { store.release(&[&full], TAG, NOW.0)? } else { store.hold(&[&full], TAG, NOW.0)? }
                let own = self.members.get_mut(&name).and_then(|member| member.snapshots.iter_mut().find(|other| other.id == snapshot.id));
                own.expect("a snapshot").held = !snapshot.held;
            }
            (20, _) => {
                let (property, bytes) = [("reservation", 3 << 20), ("refreservation", 2 << 20), ("refreservation", 0), ("reservation", 0), ("quota", 0)][usize::try_from(extra % 5).unwrap_or(0)];
                store.set_property(&name, property, &Value::Number(bytes))?;
                store.commit(NOW.0)?;
            }
            (21, Some(snapshot)) => {
                let bookmark = format!("{name}#{}", self.fresh('b'));
                store.bookmark(&format!("{name}@{}", snapshot.name), &bookmark, NOW.0)?;
                if extra & 1 == 0 {
                    store.destroy_bookmark(&bookmark, NOW.0)?;
                }
            }
            _ => {
                self.write(store, &name)?;
                store.commit(NOW.0)?;
            }
        }
        Ok(())
    }
}

/// A snapshot's part of a digest tells whether it is held: a hold is all that some operations change.
fn held(name: String, is_held: bool) -> String {
    if is_held { name + " (held)" } else { name }
}

/// What a pool holds, as one digest.
fn found(pool: &Pool) -> Result<Digest, Error> {
    let mut parts = Vec::new();
    let datasets = Datasets::open(pool)?;
    for info in datasets.list(NAME)? {
        let files = digest(&rig::read_all(pool, &info.name)?);
        let origin = info.origin.clone().unwrap_or_default();
        let name = if info.kind == DatasetKind::Snapshot {
            let is_held = !datasets.holds(&info.name)?.is_empty();
            held(info.name, is_held)
        } else {
            format!("{} of {origin}", info.name)
        };
        parts.push((name, files));
    }
    Ok(sum_up(parts))
}

/// Full check, sums, and comparison with the model.
fn examine(pool: &Pool, states: &[Digest]) -> Result<(), String> {
    let whole = check(pool, true).map_err(|error| error.to_string())?;
    if whole.fault_count > 0 {
        return Err(format!("{} faults: {:?}", whole.fault_count, whole.faults));
    }
    let sums = check_space(pool).map_err(|error| error.to_string())?;
    if !sums.is_empty() {
        return Err(format!("sums: {sums:?}"));
    }
    let found = found(pool).map_err(|error| error.to_string())?;
    if states.contains(&found) { Ok(()) } else { Err(String::from("the datasets are not what they were made")) }
}

/// Runs `operations` operations on a layout, then exports the pool. Gives its disks too, for other judges.
///
/// # Errors
/// A finding, with the seed and the operation.
pub fn run(shape: &Shape, seed: u64, operations: u64) -> Result<(Report, Vec<Disk>), String> {
    let (disks, mut store) = rig::create(shape, seed).map_err(|error| error.to_string())?;
    let mut family = Family::new(seed, true);
    // Every other life frees so little at a time that trees are left half walked, at its end too.
    let is_slow = seed & 1 == 1;
    for number in 0..operations {
        store.set_frees_per_txg(if is_slow { 7 } else { 1 << 14 });
        let say = |what: String| format!("{} seed {seed} operation {number}: {what}", shape.name);
        family.step(&mut store).map_err(|error| say(error.to_string()))?;
        let sums = check_space(store.pool()).map_err(|error| say(error.to_string()))?;
        if !sums.is_empty() {
            return Err(say(format!("sums: {sums:?}")));
        }
        if family.dice().is_multiple_of(16) {
            store.export(NOW.0).map_err(|error| say(error.to_string()))?;
            drop(store);
            store = rig::open(&disks, seed ^ number, None).map_err(|error| say(error.to_string()))?;
            examine(store.pool(), &[family.digest()]).map_err(say)?;
        }
    }
    if !is_slow {
        store.drain(NOW.0).map_err(|error| error.to_string())?;
    }
    store.export(NOW.0).map_err(|error| error.to_string())?;
    examine(store.pool(), &[family.digest()]).map_err(|what| format!("{} seed {seed} at the end: {what}", shape.name))?;
    Ok((family.report, disks))
}

/// Runs a life and cuts the power at every `every`-th write of it.
///
/// # Errors
/// A finding, with the seed, the operation and the write.
pub fn cuts(shape: &Shape, seed: u64, operations: u64, every: u64) -> Result<Report, String> {
    let (disks, mut store) = rig::create(shape, seed).map_err(|error| error.to_string())?;
    let mut family = Family::new(seed, false);
    let journal = Journal::default();
    disks.iter().enumerate().for_each(|(index, disk)| disk.record(index, &journal));
    let mut replay = Replay::new(&disks);
    let mut before = family.digest();
    for number in 0..operations {
        let say = |what: String| format!("{} seed {seed} operation {number}: {what}", shape.name);
        family.step(&mut store).map_err(|error| say(error.to_string()))?;
        let after = family.digest();
        for (write, step) in (0_u64..).zip(journal.take()) {
            let is_write = matches!(step, Step::Write { .. });
            replay.step(step);
            let dice = mix(seed ^ number << 20 ^ write);
            if !is_write || !dice.is_multiple_of(every) {
                continue;
            }
            family.report.cuts += 1;
            let loss = [Loss::Nothing, Loss::Everything, Loss::Some(dice), Loss::Torn(dice)][usize::try_from(dice >> 40).unwrap_or(0) % 4];
            let found = rig::open(&replay.cut(loss), seed, None).map_err(|error| say(format!("write {write} {loss:?}: {error}")))?;
            examine(found.pool(), &[before, after]).map_err(|what| say(format!("write {write} {loss:?}: {what}")))?;
        }
        before = after;
    }
    Ok(family.report)
}

/// Runs `lives` lives of a family on disks that break, each ended by an export or by the power cut in the middle of its last operation; then the pool is opened,
/// mended, checked in full and compared.
///
/// # Errors
/// A finding, with the seed, the life and the operation.
pub fn ztest(shape: &Shape, seed: u64, lives: u64) -> Result<Report, String> {
    let (mut disks, mut store) = rig::create(shape, seed).map_err(|error| error.to_string())?;
    let mut family = Family::new(seed, true);
    for life in 0..lives {
        let journal = Journal::default();
        disks.iter().enumerate().for_each(|(index, disk)| disk.record(index, &journal));
        let mut replay = Replay::new(&disks);
        let operations = 10 + family.dice() % 30;
        let is_killed = !family.dice().is_multiple_of(3);
        let mut before = family.clone();
        for number in 0..operations {
            let say = |what: String| format!("{} seed {seed} life {life} operation {number}: {what}", shape.name);
            let is_last = number + 1 == operations;
            // A receive is several commits: the power goes in the middle of an operation that is one.
            family.streams = !(is_killed && is_last);
            let pick = family.dice();
            if shape.bearable() > 0 && pick.is_multiple_of(12) && disks.iter().all(|disk| !disk.is_broken()) {
                // At most one broken disk at a time, and no more than the layout bears; a pulled disk is not among them.
                let trouble = matrix::draw(pick >> 16 & 7 | 2, pick >> 8, 8);
                disks[usize::try_from(pick >> 32).unwrap_or(0) % shape.disks].break_down(&[trouble]);
                family.report.troubles += 1;
            } else if pick.is_multiple_of(7) {
                mend(&mut store, &disks).map_err(|error| say(error.to_string()))?;
            }
            if is_last {
                for step in journal.take() {
                    replay.step(step);
                }
                before = family.clone();
            }
            family.step(&mut store).map_err(|error| say(error.to_string()))?;
        }
        let say = |what: String| format!("{} seed {seed} life {life} at its end: {what}", shape.name);
        let had_trouble = disks.iter().any(Disk::is_broken);
        if is_killed {
            family.report.kills += 1;
            drop(store);
            let steps = journal.take();
            let dice = family.dice();
            let stop = usize::try_from(dice).unwrap_or(0) % (steps.len() + 1);
            for step in steps.into_iter().take(stop) {
                replay.step(step);
            }
            disks = replay.cut([Loss::Nothing, Loss::Everything, Loss::Some(dice), Loss::Torn(dice)][usize::try_from(dice >> 40).unwrap_or(0) % 4]);
        } else {
            mend(&mut store, &disks).map_err(|error| say(error.to_string()))?;
            store.export(NOW.0).map_err(|error| say(error.to_string()))?;
            drop(store);
            disks = disks.iter().map(Disk::fork).collect();
            before = family.clone();
        }
        store = rig::open(&disks, seed ^ life, None).map_err(|error| say(error.to_string()))?;
        if had_trouble {
            scrub(&mut store).map_err(|error| say(error.to_string()))?;
        }
        let is_after = examine(store.pool(), &[family.digest()]);
        if is_after.is_err() {
            examine(store.pool(), &[before.digest()]).map_err(say)?;
            // The last operation was not; its numbers and names are used up all the same.
            family.members = before.members;
        }
    }
    Ok(family.report)
}

fn scrub(store: &mut Store) -> Result<(), EditError> {
    store.run_scan(ScanKind::Scrub, NOW.0)?;
    store.run_scan(ScanKind::Resilver, NOW.0)?;
    Ok(())
}

/// Ends all trouble: the disks are good again, in service, and scrubbed.
fn mend(store: &mut Store, disks: &[Disk]) -> Result<(), EditError> {
    if disks.iter().all(|disk| !disk.is_broken()) {
        return Ok(());
    }
    disks.iter().for_each(|disk| disk.break_down(&[]));
    for guid in rig::leaves(store.pool()) {
        store.online(guid, NOW.0)?;
    }
    scrub(store)
}
