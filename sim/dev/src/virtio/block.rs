//! The block device (§5.2): read, write, flush, identify, discard.

use sim_bus::{Cx, DiskError, DiskId, Fields, Nanos};

use super::{Answer, Chain, Personality};

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const IDENTIFY: u32 = 8;
const DISCARD: u32 = 11;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH_FEATURE: u64 = 1 << 9;
const DISCARD_FEATURE: u64 = 1 << 13;

const SECTOR: usize = 512;
const SEGMENTS: u32 = 126;
/// Sectors one discard may name.
const DISCARD_SECTORS_MAX: u32 = 1 << 22;

/// What a fast disk takes: a fixed part and a part for each KiB.
const REQUEST_NS: Nanos = 20_000;
const KIB_NS: Nanos = 500;
const FLUSH_NS: Nanos = 50_000;

/// A disk behind a virtqueue.
#[derive(Clone, Debug)]
pub struct Block {
    disk: DiskId,
    sectors: u64,
    read_only: bool,
    serial: [u8; 20],
}

impl Block {
    pub fn new(disk: DiskId, sectors: u64, read_only: bool) -> Self {
        let mut serial = [0; 20];
        let text = format!("orrery-{}", disk.0);
        serial[..text.len()].copy_from_slice(text.as_bytes());
        Self { disk, sectors, read_only, serial }
    }
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| word.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}
fn word64(bytes: &[u8], at: usize) -> u64 {
    u64::from(word32(bytes, at)) | u64::from(word32(bytes, at + 4)) << 32
}

fn refusal(error: DiskError) -> u8 {
    match error {
        DiskError::Range | DiskError::ReadOnly | DiskError::Medium | DiskError::Host | DiskError::Gone => IO_ERROR,
    }
}

impl Block {
    fn work(&self, kind: u32, sector: u64, chain: &Chain, cx: &mut Cx<'_>) -> (u8, Vec<u8>, Nanos) {
        let Some(disk) = cx.disk(self.disk) else { return (IO_ERROR, Vec::new(), REQUEST_NS) };
        let body = chain.input.get(16..).unwrap_or(&[]);
        let room = (chain.room() as usize).saturating_sub(1);
        let time = |bytes: usize| REQUEST_NS + KIB_NS * (bytes as u64).div_ceil(1024);
        let result = match kind {
            READ if room.is_multiple_of(SECTOR) => {
                let mut data = vec![0; room];
                disk.read(sector, &mut data).map(|()| (data, time(room)))
            }
            WRITE if body.len().is_multiple_of(SECTOR) => disk.write(sector, body).map(|()| (Vec::new(), time(body.len()))),
            FLUSH => disk.flush().map(|()| (Vec::new(), FLUSH_NS)),
            IDENTIFY => Ok((self.serial[..room.min(20)].to_vec(), REQUEST_NS)),
            DISCARD if body.len().is_multiple_of(16) && !body.is_empty() => {
                let mut done = Ok(());
                for range in body.chunks_exact(16) {
                    done = done.and_then(|()| disk.discard(word64(range, 0), u64::from(word32(range, 8).min(DISCARD_SECTORS_MAX))));
                }
                done.map(|()| (Vec::new(), REQUEST_NS))
            }
            // A request of no sectors or of an odd length is an error of the driver.
            READ | WRITE | DISCARD => Err(DiskError::Range),
            _ => return (UNSUPPORTED, Vec::new(), REQUEST_NS),
        };
        let takes = disk.takes(result.as_ref().map_or(REQUEST_NS, |(_, usual)| *usual));
        match result {
            Ok((data, _)) => (OK, data, takes),
            Err(error) => (refusal(error), Vec::new(), takes),
        }
    }
}

impl Personality for Block {
    const KIND: &'static str = "virtio-blk";
    const TYPE: u16 = 2;
    const CLASS: u32 = 0x01_0000;
    const QUEUES: u16 = 1;

    fn features(&self) -> u64 {
        SEG_MAX | BLOCK_SIZE | FLUSH_FEATURE | DISCARD_FEATURE | if self.read_only { READ_ONLY } else { 0 }
    }

    fn config(&self, offset: usize) -> u8 {
        let mut config = [0u8; 60];
        config[..8].copy_from_slice(&self.sectors.to_le_bytes());
        config[12..16].copy_from_slice(&SEGMENTS.to_le_bytes());
        config[20..24].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        config[36..40].copy_from_slice(&DISCARD_SECTORS_MAX.to_le_bytes());
        config[40..44].copy_from_slice(&1u32.to_le_bytes()); // ranges of one discard
        config[44..48].copy_from_slice(&1u32.to_le_bytes()); // alignment
        config.get(offset).copied().unwrap_or(0)
    }

    fn serve(&mut self, _queue: u16, chain: &Chain, cx: &mut Cx<'_>) -> Answer {
        if chain.input.len() < 16 || chain.room() == 0 {
            // No header or no place for a status: nothing can be said.
            return Answer { takes: REQUEST_NS, ..Answer::default() };
        }
        let (status, data, takes) = self.work(word32(&chain.input, 0), word64(&chain.input, 8), chain, cx);
        Answer { data, last: Some(status), takes, not_before: 0 }
    }

    fn reset(&mut self) {}

    fn state(&mut self, _fields: &mut dyn Fields) {}
}
