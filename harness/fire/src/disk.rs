//! Disks in memory: they note what was written when, and break on request.
//!
//! A [`Disk`] is a handle; clones share one medium. With a [`Journal`] every write and flush of several disks is noted in the order it happened, so that
//! the state after a power cut at any point can be made again ([`Replay`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kif::{BlockDev, BlockError};

const PAGE: u64 = 4096;

type Page = Arc<[u8; PAGE as usize]>;

/// Pages of one node of the table below.
const FAN: usize = 64;

type Node = Arc<[Option<Page>; FAN]>;

/// Contents of a medium; pages never written are zero. Cloning is cheap: the table has two levels, and nodes and pages are shared until they change.
#[derive(Clone, Debug, Default)]
pub struct Pages(Vec<Option<Node>>);

/// Node and place in it of a page.
fn place(page: u64) -> (usize, usize) {
    let page = usize::try_from(page).expect("within memory");
    (page / FAN, page % FAN)
}

impl Pages {
    /// Reads at a byte offset.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        for (index, byte_range) in spans(offset, out.len()) {
            let part = &mut out[byte_range.1.clone()];
            let (node, at) = place(index);
            match self.0.get(node).and_then(Option::as_ref).and_then(|node| node[at].as_ref()) {
                Some(page) => part.copy_from_slice(&page[byte_range.0]),
                None => part.fill(0),
            }
        }
    }

    /// Writes at a byte offset.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, byte_range) in spans(offset, data.len()) {
            let (node, at) = place(index);
            if self.0.len() <= node {
                self.0.resize(node + 1, None);
            }
            let node = Arc::make_mut(self.0[node].get_or_insert_with(|| Arc::new([const { None }; FAN])));
            let page = node[at].get_or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[byte_range.0].copy_from_slice(&data[byte_range.1]);
        }
    }

    /// The pages that were written, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let nodes = self.0.iter().enumerate().filter_map(|(number, node)| Some((number * FAN, node.as_ref()?)));
        nodes.flat_map(|(first, node)| node.iter().enumerate().filter_map(move |(at, page)| Some(((first + at) as u64, &page.as_ref()?[..]))))
    }
}

type Span = (u64, (std::ops::Range<usize>, std::ops::Range<usize>));

/// The pages a byte range touches: page number, range in the page, range in the buffer.
fn spans(offset: u64, length: usize) -> impl Iterator<Item = Span> {
    let end = offset + length as u64;
    (offset / PAGE..end.div_ceil(PAGE)).map(move |index| {
        let (from, to) = (offset.max(index * PAGE), end.min((index + 1) * PAGE));
        let size = |bytes: u64| usize::try_from(bytes).expect("within memory");
        (index, (size(from - index * PAGE)..size(to - index * PAGE), size(from - offset)..size(to - offset)))
    })
}

/// What a disk was asked to keep.
#[derive(Clone, Debug)]
pub enum Step {
    Write { disk: usize, offset: u64, data: Vec<u8> },
    Flush { disk: usize },
}

/// Steps of several disks in order.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<Step>>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Takes all steps out.
    #[must_use]
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut locked(&self.0))
    }
}

/// How a disk breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Every n-th read fails.
    ReadErrors(u64),
    /// Every n-th write fails, and nothing of it is kept.
    WriteErrors(u64),
    /// Every n-th read gives wrong bytes once.
    WrongReads(u64),
    /// Every n-th write is kept with a flipped bit.
    BitRot(u64),
    /// Every n-th write is not kept, though the disk says so.
    LostWrites(u64),
    /// Every n-th write goes to the place behind its own.
    MisdirectedWrites(u64),
    /// Every n-th write keeps its first half only.
    TornWrites(u64),
    /// Every transfer fails.
    Dead,
    /// The disk is pulled: every transfer says so.
    Gone,
    /// It says that it flushed, and did not: the same as none, while the power stays on.
    IgnoredFlushes,
}

/// Pulls disks in the middle of what is written: all that share it are gone when so many writes and flushes were carried out.
#[derive(Clone, Debug)]
pub struct Fuse(Arc<AtomicU64>);

impl Default for Fuse {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Fuse {
    /// The disks are gone after `steps` more writes and flushes.
    pub fn set(&self, steps: u64) {
        self.0.store(steps, Ordering::Relaxed);
    }

    /// Puts the disks back: what lasts, and of what no flush made safe each write with even odds, by a seed.
    pub fn mend(&self, disks: &[Disk], seed: u64) {
        self.set(u64::MAX);
        for (index, disk) in (0_u64..).zip(disks) {
            let mut state = locked(&disk.0);
            let Some(cache) = &mut state.cache else { continue };
            let mut pages = cache.safe.clone();
            for (number, (offset, data)) in (0_u64..).zip(std::mem::take(&mut cache.open)) {
                if mix(seed ^ index << 32 ^ number) & 1 == 0 {
                    pages.write(offset, &data);
                }
            }
            cache.safe = pages.clone();
            state.pages = pages;
        }
    }

    /// Writes and flushes that are left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a disk behind a [`Fuse`] has on its medium, and what only in its cache.
#[derive(Debug)]
struct Cache {
    fuse: Fuse,
    safe: Pages,
    open: Vec<(u64, Vec<u8>)>,
}

impl Cache {
    fn is_out(&self) -> bool {
        self.fuse.left() == 0
    }

    /// One more write or flush; false if the disk is gone.
    fn takes(&self) -> bool {
        self.fuse.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

#[derive(Debug, Default)]
struct State {
    cache: Option<Cache>,
    pages: Pages,
    troubles: Vec<Trouble>,
    reads: u64,
    writes: u64,
    journal: Option<(usize, Journal)>,
    size: u64,
}

/// A handle of a disk.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// An empty disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::of(Pages::default(), size)
    }

    /// A disk with contents.
    #[must_use]
    pub fn of(pages: Pages, size: u64) -> Self {
        Self(Arc::new(Mutex::new(State { pages, size, ..State::default() })))
    }

    /// Notes all steps in `journal` from now on, as disk `index`.
    pub fn record(&self, index: usize, journal: &Journal) {
        locked(&self.0).journal = Some((index, journal.clone()));
    }

    /// Is pulled by `fuse` from now on, and has a cache that it loses then.
    pub fn behind(&self, fuse: &Fuse) {
        let mut state = locked(&self.0);
        state.cache = Some(Cache { fuse: fuse.clone(), safe: state.pages.clone(), open: Vec::new() });
    }

    /// Breaks as `troubles` say from now on; none mends it.
    pub fn break_down(&self, troubles: &[Trouble]) {
        locked(&self.0).troubles = troubles.to_vec();
    }

    /// True if it has trouble.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !locked(&self.0).troubles.is_empty()
    }

    /// Contents now.
    #[must_use]
    pub fn pages(&self) -> Pages {
        locked(&self.0).pages.clone()
    }

    /// A disk of its own with the same contents.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = locked(&self.0);
        Self::of(state.pages.clone(), state.size)
    }

    /// Reads and writes so far.
    #[must_use]
    pub fn transfers(&self) -> u64 {
        let state = locked(&self.0);
        state.reads + state.writes
    }

    /// Makes the disk larger.
    pub fn grow(&self, size: u64) {
        let mut state = locked(&self.0);
        state.size = state.size.max(size);
    }

    /// Overwrites bytes behind the pool's back.
    pub fn scribble(&self, offset: u64, data: &[u8]) {
        locked(&self.0).pages.write(offset, data);
    }

    /// The handle as a device.
    #[must_use]
    pub fn device(&self) -> Box<dyn BlockDev> {
        Box::new(self.clone())
    }
}

fn hits(count: u64, every: u64) -> bool {
    count % every.max(1) == every.max(1) - 1
}

impl BlockDev for Disk {
    fn size_bytes(&self) -> u64 {
        locked(&self.0).size
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let mut state = locked(&self.0);
        if offset.saturating_add(out.len() as u64) > state.size {
            return Err(BlockError::OutOfRange);
        }
        if state.cache.as_ref().is_some_and(Cache::is_out) {
            return Err(BlockError::Gone);
        }
        let count = state.reads;
        state.reads += 1;
        state.pages.read(offset, out);
        for trouble in &state.troubles {
            match trouble {
                Trouble::Dead => return Err(BlockError::Io),
                Trouble::Gone => return Err(BlockError::Gone),
                Trouble::ReadErrors(every) if hits(count, *every) => return Err(BlockError::Io),
                Trouble::WrongReads(every) if hits(count, *every) => {
                    let middle = out.len() / 2;
                    out[middle] ^= 0x10;
                }
                _ => {}
            }
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut state = locked(&self.0);
        if offset.saturating_add(data.len() as u64) > state.size {
            return Err(BlockError::OutOfRange);
        }
        if state.cache.as_ref().is_some_and(|cache| !cache.takes()) {
            return Err(BlockError::Gone);
        }
        let count = state.writes;
        state.writes += 1;
        let (mut offset, mut kept) = (offset, data.to_vec());
        for trouble in &state.troubles {
            match trouble {
                Trouble::Dead => return Err(BlockError::Io),
                Trouble::Gone => return Err(BlockError::Gone),
                Trouble::WriteErrors(every) if hits(count, *every) => return Err(BlockError::Io),
                Trouble::BitRot(every) if hits(count, *every) => {
                    let middle = kept.len() / 2;
                    kept[middle] ^= 0x04;
                }
                Trouble::LostWrites(every) if hits(count, *every) => kept.clear(),
                Trouble::MisdirectedWrites(every) if hits(count, *every) && offset + 2 * kept.len() as u64 <= state.size => offset += kept.len() as u64,
                Trouble::TornWrites(every) if hits(count, *every) => kept.truncate(kept.len() / 2 / 512 * 512),
                _ => {}
            }
        }
        state.pages.write(offset, &kept);
        if let Some(cache) = &mut state.cache {
            cache.open.push((offset, kept.clone()));
        }
        if let Some((disk, journal)) = &state.journal {
            locked(&journal.0).push(Step::Write { disk: *disk, offset, data: kept });
        }
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        let mut state = locked(&self.0);
        if state.cache.as_ref().is_some_and(|cache| !cache.takes()) {
            return Err(BlockError::Gone);
        }
        for trouble in &state.troubles {
            match trouble {
                Trouble::Dead => return Err(BlockError::Io),
                Trouble::Gone => return Err(BlockError::Gone),
                _ => {}
            }
        }
        let State { cache, pages, .. } = &mut *state;
        if let Some(cache) = cache {
            cache.open.clear();
            cache.safe = pages.clone();
        }
        if let Some((disk, journal)) = &state.journal {
            locked(&journal.0).push(Step::Flush { disk: *disk });
        }
        Ok(())
    }
}

/// What a power cut leaves of the writes that no flush made safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of them arrived.
    Nothing,
    /// None did.
    Everything,
    /// Each with even odds, by a seed.
    Some(u64),
    /// All but the last, of which the first sectors arrived, by a seed.
    Torn(u64),
}

/// Disks as a journal makes them, step by step.
#[derive(Clone, Debug)]
pub struct Replay {
    safe: Vec<Pages>,
    /// Writes since each disk's last flush.
    open: Vec<Vec<(u64, Vec<u8>)>>,
    size: u64,
}

/// SplitMix64 (Steele et al. 2014).
#[must_use]
pub const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// How many bytes of each open write of each disk are kept.
type Kept = Vec<Vec<usize>>;

impl Replay {
    /// Begins with disks as they are now.
    #[must_use]
    pub fn new(disks: &[Disk]) -> Self {
        let size = disks.first().map_or(0, Disk::size_bytes);
        Self { safe: disks.iter().map(Disk::pages).collect(), open: vec![Vec::new(); disks.len()], size }
    }

    /// Takes one more step; true if it made writes safe.
    pub fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Write { disk, offset, data } => self.open[disk].push((offset, data)),
            Step::Flush { disk } => {
                let is_news = !self.open[disk].is_empty();
                for (offset, data) in self.open[disk].drain(..) {
                    self.safe[disk].write(offset, &data);
                }
                return is_news;
            }
        }
        false
    }

    fn kept(&self, loss: Loss) -> Kept {
        let of_disk = |(index, open): (usize, &Vec<(u64, Vec<u8>)>)| {
            let of_write = |(number, (_, data)): (usize, &(u64, Vec<u8>))| {
                let dice = |seed: u64| mix(seed ^ (index as u64) << 32 ^ number as u64);
                match loss {
                    Loss::Nothing => data.len(),
                    Loss::Everything => 0,
                    Loss::Some(seed) => if dice(seed) & 1 == 0 { data.len() } else { 0 },
                    Loss::Torn(seed) if number + 1 == open.len() => {
                        let sectors = (data.len() / 512) as u64;
                        usize::try_from(dice(seed) % sectors.max(1)).unwrap_or(0) * 512
                    }
                    Loss::Torn(_) => data.len(),
                }
            };
            open.iter().enumerate().map(of_write).collect()
        };
        self.open.iter().enumerate().map(of_disk).collect()
    }

    /// What tells a cut here from others since writes were last made safe: two with the same mark leave the same disks.
    #[must_use]
    pub fn mark(&self, loss: Loss) -> Vec<(usize, usize, usize)> {
        let kept = self.kept(loss);
        let writes = kept.iter().enumerate().flat_map(|(disk, kept)| kept.iter().enumerate().map(move |(number, kept)| (disk, number, *kept)));
        writes.filter(|(_, _, kept)| *kept > 0).collect()
    }

    /// The disks after the power failed here.
    #[must_use]
    pub fn cut(&self, loss: Loss) -> Vec<Disk> {
        let kept = self.kept(loss);
        let disks = self.safe.iter().zip(&self.open).zip(&kept);
        disks
            .map(|((safe, open), kept)| {
                let mut pages = safe.clone();
                for ((offset, data), kept) in open.iter().zip(kept) {
                    pages.write(*offset, &data[..*kept]);
                }
                Disk::of(pages, self.size)
            })
            .collect()
    }
}
