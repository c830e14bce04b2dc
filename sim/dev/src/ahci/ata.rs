//! The disk: what it makes of commands (ACS-2).

use sim_bus::{Cx, DiskError, DiskId, Fields, Nanos};

use super::fis::{Registers, TaskFile};
use super::identify::{MULTIPLE_MAX, TRIM_BLOCKS_MAX, identify};
use super::regs::status;

const SECTOR: u64 = 512;

/// Error register (ACS-2 §6.2).
mod error {
    pub const ABORT: u8 = 0x04;
    pub const ID_NOT_FOUND: u8 = 0x10;
    pub const UNCORRECTABLE: u8 = 0x40;
}

const REQUEST_NS: Nanos = 40_000;
const FLUSH_NS: Nanos = 100_000;
const CONTROL_NS: Nanos = 10_000;
/// 550 MB/s on the link.
pub const KIB_NS: Nanos = 1_800;

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Read { ext: bool, pio: bool },
    Write { ext: bool, durable: bool },
    Verify { ext: bool },
    QueuedRead,
    QueuedWrite,
    Flush,
    Identify,
    SetFeatures,
    SetMultiple,
    CheckPower,
    ReadLog { pio: bool },
    Trim,
    Diagnostic,
    /// Accepted, without effect.
    Nothing,
}

/// The commands.
const COMMANDS: &[(u8, Work)] = &[
    (0x06, Work::Trim),
    (0x20, Work::Read { ext: false, pio: true }),
    (0x24, Work::Read { ext: true, pio: true }),
    (0x25, Work::Read { ext: true, pio: false }),
    (0x29, Work::Read { ext: true, pio: true }),
    (0x2f, Work::ReadLog { pio: true }),
    (0x30, Work::Write { ext: false, durable: false }),
    (0x34, Work::Write { ext: true, durable: false }),
    (0x35, Work::Write { ext: true, durable: false }),
    (0x39, Work::Write { ext: true, durable: false }),
    (0x3d, Work::Write { ext: true, durable: true }),
    (0x40, Work::Verify { ext: false }),
    (0x42, Work::Verify { ext: true }),
    (0x47, Work::ReadLog { pio: false }),
    (0x60, Work::QueuedRead),
    (0x61, Work::QueuedWrite),
    (0x90, Work::Diagnostic),
    (0x91, Work::Nothing), // initialize device parameters
    (0xc4, Work::Read { ext: false, pio: true }),
    (0xc5, Work::Write { ext: false, durable: false }),
    (0xc6, Work::SetMultiple),
    (0xc8, Work::Read { ext: false, pio: false }),
    (0xca, Work::Write { ext: false, durable: false }),
    (0xce, Work::Write { ext: true, durable: true }),
    (0xe0, Work::Nothing), // standby immediate
    (0xe1, Work::Nothing), // idle immediate
    (0xe2, Work::Nothing), // standby
    (0xe3, Work::Nothing), // idle
    (0xe5, Work::CheckPower),
    (0xe7, Work::Flush),
    (0xea, Work::Flush),
    (0xec, Work::Identify),
    (0xef, Work::SetFeatures),
];

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    None,
    /// To the host.
    In(u64),
    /// From the host.
    Out(u64),
}

/// What a command came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub task: TaskFile,
    pub data: Vec<u8>,
    /// Data goes by PIO: a PIO Setup FIS announces it.
    pub pio: bool,
    pub takes: Nanos,
    pub moved: u64,
    /// The disk is not there.
    pub gone: bool,
}

/// A refusal: error register.
type Refused = u8;

#[derive(Clone, Debug)]
pub struct Ata {
    disk: DiskId,
    sectors: u64,
    write_cache: bool,
    multiple: u8,
    /// The queued command that failed: tag and registers, for log page 0x10.
    queue_error: Option<(u8, TaskFile)>,
}

impl Ata {
    pub fn new(disk: DiskId, sectors: u64) -> Self {
        Self { disk, sectors, write_cache: true, multiple: 0, queue_error: None }
    }

    pub fn disk(&self) -> DiskId {
        self.disk
    }

    /// Power-on or COMRESET.
    pub fn reset(&mut self) {
        *self = Self::new(self.disk, self.sectors);
    }

    /// The registers after a reset: the signature of a disk (ACS-2 §9.12).
    pub fn signature() -> TaskFile {
        TaskFile { status: status::GOOD, error: 1, lba: 1, device: 0, count: 1 }
    }

    fn work(command: u8) -> Option<Work> {
        COMMANDS.iter().find(|row| row.0 == command).map(|row| row.1)
    }

    /// Whether the command is a queued one, and its tag.
    pub fn tag(fis: &Registers) -> Option<u8> {
        match Self::work(fis.command) {
            Some(Work::QueuedRead | Work::QueuedWrite) => Some((fis.count >> 3 & 31) as u8),
            _ => None,
        }
    }

    /// First sector and how many.
    fn extent(&self, fis: &Registers, ext: bool) -> Result<(u64, u64), Refused> {
        let (first, count) = if ext {
            (fis.lba, if fis.count == 0 { 0x1_0000 } else { u64::from(fis.count) })
        } else {
            (fis.lba28(), if fis.count & 0xff == 0 { 0x100 } else { u64::from(fis.count & 0xff) })
        };
        self.on_disk(first, count)
    }

    fn queued_extent(&self, fis: &Registers) -> Result<(u64, u64), Refused> {
        self.on_disk(fis.lba, if fis.features == 0 { 0x1_0000 } else { u64::from(fis.features) })
    }

    fn on_disk(&self, first: u64, count: u64) -> Result<(u64, u64), Refused> {
        if first + count <= self.sectors { Ok((first, count)) } else { Err(error::ID_NOT_FOUND) }
    }

    /// What a command moves. Refusals come from [`Self::execute`].
    pub fn transfer(&self, fis: &Registers) -> Transfer {
        let bytes = |extent: Result<(u64, u64), Refused>| extent.map(|(_, count)| count * SECTOR);
        let found = match Self::work(fis.command) {
            Some(Work::Read { ext, .. }) => bytes(self.extent(fis, ext)).map(Transfer::In),
            Some(Work::Write { ext, .. }) => bytes(self.extent(fis, ext)).map(Transfer::Out),
            Some(Work::QueuedRead) => bytes(self.queued_extent(fis)).map(Transfer::In),
            Some(Work::QueuedWrite) => bytes(self.queued_extent(fis)).map(Transfer::Out),
            Some(Work::Identify) => Ok(Transfer::In(SECTOR)),
            Some(Work::ReadLog { .. }) if Self::log_sectors(fis).is_ok() => Ok(Transfer::In(u64::from(fis.count) * SECTOR)),
            Some(Work::Trim) if Self::trim_blocks(fis).is_ok() => Ok(Transfer::Out(u64::from(fis.count) * SECTOR)),
            Some(
                Work::ReadLog { .. }
                | Work::Trim
                | Work::Verify { .. }
                | Work::Flush
                | Work::SetFeatures
                | Work::SetMultiple
                | Work::CheckPower
                | Work::Diagnostic
                | Work::Nothing,
            )
            | None => Ok(Transfer::None),
        };
        found.unwrap_or(Transfer::None)
    }

    fn log_sectors(fis: &Registers) -> Result<(), Refused> {
        // One page is all that is asked of the logs that are here; more are zeros.
        if (1..=64).contains(&fis.count) { Ok(()) } else { Err(error::ABORT) }
    }

    fn trim_blocks(fis: &Registers) -> Result<(), Refused> {
        if (1..=TRIM_BLOCKS_MAX).contains(&fis.count) && fis.features & 0xff == 1 { Ok(()) } else { Err(error::ABORT) }
    }

    /// Carries a command out. `data` is what came from the host.
    pub fn execute(&mut self, fis: &Registers, data: &[u8], cx: &mut Cx<'_>) -> Answer {
        let mut answer = Answer { takes: CONTROL_NS, ..Answer::default() };
        answer.task = TaskFile { status: status::GOOD, error: 0, lba: fis.lba, device: fis.device, count: fis.count };
        if !cx.disk(self.disk).is_some_and(|disk| disk.is_present()) {
            answer.gone = true;
            return answer;
        }
        let done = self.carry_out(fis, data, &mut answer, cx);
        answer.takes = cx.disk(self.disk).map_or(answer.takes, |disk| disk.takes(answer.takes));
        // This very command may be the one it was pulled at.
        answer.gone = !cx.disk(self.disk).is_some_and(|disk| disk.is_present());
        if let Err(refused) = done {
            answer.data.clear();
            answer.pio = false;
            answer.task.status = status::READY | status::ERROR;
            answer.task.error = refused;
            answer.moved = 0;
            if let Some(tag) = Self::tag(fis) {
                self.queue_error = Some((tag, answer.task));
            }
        }
        answer
    }

    fn carry_out(&mut self, fis: &Registers, data: &[u8], answer: &mut Answer, cx: &mut Cx<'_>) -> Result<(), Refused> {
        let Some(work) = Self::work(fis.command) else {
            cx.note("ahci: ATA command not implemented", u64::from(fis.command));
            return Err(error::ABORT);
        };
        match work {
            Work::Read { ext, pio } => {
                let (first, count) = self.extent(fis, ext)?;
                answer.pio = pio;
                self.read(first, count, answer, cx)?;
            }
            Work::QueuedRead => {
                let (first, count) = self.queued_extent(fis)?;
                self.read(first, count, answer, cx)?;
            }
            Work::Write { ext, durable } => {
                let (first, _) = self.extent(fis, ext)?;
                self.write(first, data, durable, answer, cx)?;
            }
            Work::QueuedWrite => {
                let (first, _) = self.queued_extent(fis)?;
                self.write(first, data, fis.device & 0x80 != 0, answer, cx)?;
            }
            Work::Verify { ext } => {
                let (first, count) = self.extent(fis, ext)?;
                self.read(first, count, answer, cx)?;
                answer.data.clear();
                answer.moved = 0;
            }
            Work::Flush => {
                let disk = cx.disk(self.disk).ok_or(error::ABORT)?;
                disk.flush().map_err(refusal)?;
                answer.takes = FLUSH_NS;
            }
            Work::Identify => {
                answer.pio = true;
                answer.data = identify(self.disk.0, self.sectors, self.write_cache, self.multiple);
            }
            Work::SetFeatures => self.set_features(fis, cx)?,
            Work::SetMultiple => {
                let count = fis.count as u8;
                if count > MULTIPLE_MAX || count != 0 && !count.is_power_of_two() {
                    return Err(error::ABORT);
                }
                self.multiple = count;
            }
            Work::CheckPower => answer.task.count = 0xff,
            Work::ReadLog { pio } => {
                Self::log_sectors(fis)?;
                answer.pio = pio;
                answer.data = self.log(fis)?;
                answer.data.resize(usize::from(fis.count) * SECTOR as usize, 0);
            }
            Work::Trim => {
                Self::trim_blocks(fis)?;
                self.trim(data, cx)?;
                answer.takes = REQUEST_NS;
            }
            Work::Diagnostic => answer.task = Self::signature(),
            Work::Nothing => {}
        }
        Ok(())
    }

    fn read(&mut self, first: u64, count: u64, answer: &mut Answer, cx: &mut Cx<'_>) -> Result<(), Refused> {
        answer.data = vec![0; (count * SECTOR) as usize];
        answer.takes = REQUEST_NS;
        answer.moved = count * SECTOR;
        let disk = cx.disk(self.disk).ok_or(error::ABORT)?;
        let done = disk.read(first, &mut answer.data);
        if done == Err(DiskError::Medium) {
            // The first sector that cannot be read is named.
            let mut sector = [0; SECTOR as usize];
            let bad = (first..first + count).find(|at| disk.read(*at, &mut sector).is_err());
            answer.task.lba = bad.unwrap_or(first);
        }
        done.map_err(refusal)
    }

    fn write(&mut self, first: u64, data: &[u8], durable: bool, answer: &mut Answer, cx: &mut Cx<'_>) -> Result<(), Refused> {
        let durable = durable || !self.write_cache;
        answer.takes = if durable { FLUSH_NS } else { REQUEST_NS };
        answer.moved = data.len() as u64;
        let disk = cx.disk(self.disk).ok_or(error::ABORT)?;
        let done = if durable { disk.write_durable(first, data) } else { disk.write(first, data) };
        done.map_err(refusal)
    }

    fn set_features(&mut self, fis: &Registers, cx: &mut Cx<'_>) -> Result<(), Refused> {
        match fis.features & 0xff {
            0x02 => self.write_cache = true,
            0x82 => {
                // What the cache holds is written first.
                let disk = cx.disk(self.disk).ok_or(error::ABORT)?;
                disk.flush().map_err(refusal)?;
                self.write_cache = false;
            }
            // Transfer mode; look-ahead off and on.
            0x03 | 0x55 | 0xaa => {}
            other => {
                cx.note("ahci: SET FEATURES subcommand not implemented", u64::from(other));
                return Err(error::ABORT);
            }
        }
        Ok(())
    }

    /// A general purpose log (ACS-2 annex A): the directory, and the queued error log.
    fn log(&mut self, fis: &Registers) -> Result<Vec<u8>, Refused> {
        let mut page = vec![0; SECTOR as usize];
        match fis.lba & 0xff {
            0x00 => {
                page[0] = 1; // version
                page[2 * 0x10] = 1;
            }
            0x10 => {
                page[0] = 1 << 7; // no queued command failed
                if let Some((tag, task)) = self.queue_error.take() {
                    let lba = task.lba.to_le_bytes();
                    let count = task.count.to_le_bytes();
                    page[0] = tag;
                    page[2..4].copy_from_slice(&[task.status, task.error]);
                    page[4..8].copy_from_slice(&[lba[0], lba[1], lba[2], task.device]);
                    page[8..11].copy_from_slice(&lba[3..6]);
                    page[12..14].copy_from_slice(&count);
                }
                page[511] = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
            }
            _ => return Err(error::ABORT),
        }
        Ok(page)
    }

    /// DATA SET MANAGEMENT with TRIM: ranges of 48-bit address and 16-bit count (ACS-2 §7.10).
    fn trim(&mut self, data: &[u8], cx: &mut Cx<'_>) -> Result<(), Refused> {
        for range in data.as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*range);
            let (first, count) = self.on_disk(word & 0xffff_ffff_ffff, word >> 48)?;
            if count > 0 {
                let disk = cx.disk(self.disk).ok_or(error::ABORT)?;
                disk.discard(first, count).map_err(refusal)?;
            }
        }
        Ok(())
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.flag("write_cache", &mut self.write_cache);
        fields.u8("multiple", &mut self.multiple);
        let mut failed = self.queue_error.is_some();
        fields.flag("queue_failed", &mut failed);
        if failed {
            let (tag, task) = self.queue_error.get_or_insert_default();
            fields.u8("queue_tag", tag);
            task_state(task, fields);
        } else {
            self.queue_error = None;
        }
    }
}

pub fn task_state(task: &mut TaskFile, fields: &mut dyn Fields) {
    fields.u8("task_status", &mut task.status);
    fields.u8("task_error", &mut task.error);
    fields.u64("task_lba", &mut task.lba);
    fields.u8("task_device", &mut task.device);
    fields.u16("task_count", &mut task.count);
}

fn refusal(why: DiskError) -> Refused {
    match why {
        DiskError::Range => error::ID_NOT_FOUND,
        DiskError::Medium => error::UNCORRECTABLE,
        DiskError::ReadOnly | DiskError::Host | DiskError::Gone => error::ABORT,
    }
}
