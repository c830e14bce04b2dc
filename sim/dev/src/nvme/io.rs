//! NVM commands (§6).

use sim_bus::{Cx, DiskError, Nanos};

use super::admin::BROADCAST;
use super::chip::{Answer, Controller};
use super::command::{Command, Status, TRANSFER_MAX, gather, segments};
use super::identify::NAMESPACE;

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const COMPARE: u8 = 0x05;
const WRITE_ZEROES: u8 = 0x08;
const DATASET: u8 = 0x09;

const SECTOR: u64 = 512;
/// Dword 12.
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
const DEALLOCATE_RANGE: u32 = 1 << 2;

/// What a fast disk takes.
const READ_NS: Nanos = 15_000;
const WRITE_NS: Nanos = 10_000;
const FLUSH_NS: Nanos = 40_000;
/// Time on the data path for each KiB.
pub const KIB_NS: Nanos = 300;

fn refusal(error: DiskError, otherwise: Status) -> Status {
    match error {
        DiskError::Range => Status::LBA_RANGE,
        DiskError::ReadOnly => Status::WRITE_PROTECTED,
        DiskError::Medium => otherwise,
        DiskError::Host => Status::INTERNAL,
        DiskError::Gone => Status::NOT_READY,
    }
}

impl Controller {
    /// Carries out an NVM command.
    pub(super) fn io(&mut self, command: &Command, cx: &mut Cx<'_>) -> Answer {
        let first = u64::from(command.dword(10)) | u64::from(command.dword(11)) << 32;
        let everywhere = command.opcode == FLUSH && command.namespace == BROADCAST;
        let done = if !command.is_plain() {
            Err(Status::INVALID_FIELD)
        } else if command.namespace != NAMESPACE && !everywhere {
            Err(Status::INVALID_NAMESPACE)
        } else {
            match command.opcode {
                FLUSH => self.flush(cx),
                READ => self.read_blocks(command, first, cx),
                WRITE => self.write_blocks(command, first, cx),
                COMPARE => self.compare(command, first, cx),
                WRITE_ZEROES => self.write_zeroes(command, first, cx),
                DATASET => self.dataset(command, cx),
                opcode => {
                    cx.note("nvme: NVM command not implemented", u64::from(opcode));
                    Err(Status::INVALID_OPCODE)
                }
            }
        };
        let mut answer = done.unwrap_or_else(Answer::status);
        answer.block = first;
        if matches!(answer.status, Some(Status::UNRECOVERED_READ | Status::WRITE_FAULT)) {
            self.logs.media_errors += 1;
        }
        answer.takes = cx.disk(self.disk).map_or(answer.takes, |disk| disk.takes(answer.takes));
        answer
    }

    /// Bytes of the blocks a command names, if they are on the disk.
    fn extent(&self, command: &Command, first: u64) -> Result<u64, Status> {
        let blocks = u64::from(command.dword(12) & 0xffff) + 1;
        match first.checked_add(blocks) {
            Some(end) if end <= self.sectors => Ok(blocks * SECTOR),
            Some(_) | None => Err(Status::LBA_RANGE),
        }
    }

    fn transfer(&self, command: &Command, first: u64) -> Result<u64, Status> {
        let bytes = self.extent(command, first)?;
        if bytes > TRANSFER_MAX { Err(Status::INVALID_FIELD) } else { Ok(bytes) }
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let disk = cx.disk(self.disk).ok_or(Status::NOT_READY)?;
        disk.flush().map_err(|error| refusal(error, Status::WRITE_FAULT))?;
        Ok(Answer { takes: FLUSH_NS, ..Answer::result(0) })
    }

    fn read_blocks(&mut self, command: &Command, first: u64, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let bytes = self.transfer(command, first)?;
        let to = segments(command, bytes, cx)?;
        let mut data = vec![0; bytes as usize];
        let disk = cx.disk(self.disk).ok_or(Status::NOT_READY)?;
        disk.read(first, &mut data).map_err(|error| refusal(error, Status::UNRECOVERED_READ))?;
        self.logs.reads += 1;
        self.logs.sectors_read += bytes / SECTOR;
        Ok(Answer { takes: READ_NS, moved: bytes, ..Answer::data(data, to) })
    }

    fn write_blocks(&mut self, command: &Command, first: u64, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let bytes = self.transfer(command, first)?;
        let data = gather(&segments(command, bytes, cx)?, cx)?;
        let durable = command.dword(12) & FORCE_UNIT_ACCESS != 0 || !self.features.cache();
        let disk = cx.disk(self.disk).ok_or(Status::NOT_READY)?;
        let done = if durable { disk.write_durable(first, &data) } else { disk.write(first, &data) };
        done.map_err(|error| refusal(error, Status::WRITE_FAULT))?;
        self.logs.writes += 1;
        self.logs.sectors_written += bytes / SECTOR;
        let takes = if durable { FLUSH_NS } else { WRITE_NS };
        Ok(Answer { takes, moved: bytes, ..Answer::result(0) })
    }

    fn compare(&mut self, command: &Command, first: u64, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let bytes = self.transfer(command, first)?;
        let wanted = gather(&segments(command, bytes, cx)?, cx)?;
        let mut data = vec![0; bytes as usize];
        let disk = cx.disk(self.disk).ok_or(Status::NOT_READY)?;
        disk.read(first, &mut data).map_err(|error| refusal(error, Status::UNRECOVERED_READ))?;
        if data != wanted {
            return Err(Status::COMPARE_FAILURE);
        }
        Ok(Answer { takes: READ_NS, moved: bytes, ..Answer::result(0) })
    }

    fn write_zeroes(&mut self, command: &Command, first: u64, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let bytes = self.extent(command, first)?;
        let durable = command.dword(12) & FORCE_UNIT_ACCESS != 0 || !self.features.cache();
        let disk = cx.disk(self.disk).ok_or(Status::NOT_READY)?;
        let mut done = disk.discard(first, bytes / SECTOR);
        if durable {
            done = done.and_then(|()| disk.flush());
        }
        done.map_err(|error| refusal(error, Status::WRITE_FAULT))?;
        self.logs.writes += 1;
        Ok(Answer { takes: WRITE_NS, ..Answer::result(0) })
    }

    /// Dataset management (§6.7): up to 256 ranges; only deallocation has an effect.
    fn dataset(&mut self, command: &Command, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let ranges = u64::from(command.dword(10) & 0xff) + 1;
        let list = gather(&segments(command, 16 * ranges, cx)?, cx)?;
        let parsed: Vec<(u64, u64)> = list
            .as_chunks::<16>()
            .0
            .iter()
            .map(|range| {
                let word = |at: usize| u32::from_le_bytes([range[at], range[at + 1], range[at + 2], range[at + 3]]);
                (u64::from(word(8)) | u64::from(word(12)) << 32, u64::from(word(4)))
            })
            .collect();
        if parsed.iter().any(|(first, count)| first.checked_add(*count).is_none_or(|end| end > self.sectors)) {
            return Err(Status::LBA_RANGE);
        }
        if command.dword(11) & DEALLOCATE_RANGE != 0 {
            let disk = cx.disk(self.disk).ok_or(Status::NOT_READY)?;
            for (first, count) in parsed.into_iter().filter(|(_, count)| *count > 0) {
                disk.discard(first, count).map_err(|error| refusal(error, Status::WRITE_FAULT))?;
            }
        }
        Ok(Answer { takes: WRITE_NS, ..Answer::result(0) })
    }
}
