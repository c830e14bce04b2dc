use sim_bus::bench::Bench;
use sim_bus::{DiskBackend, DiskError, DiskId, Effect, Node};

use super::Nvme;
use super::command::Status;

const ADMIN_SUBMISSION: u64 = 0x1000;
const ADMIN_COMPLETION: u64 = 0x2000;
const IO_SUBMISSION: u64 = 0x3000;
const IO_COMPLETION: u64 = 0x4000;
const DATA: u64 = 0x10000;
const SECTORS: u64 = 4096;

/// Sector n is full of n; the last one cannot be read.
#[derive(Debug, Clone)]
struct Disk(Vec<u8>);

impl DiskBackend for Disk {
    fn sectors(&self) -> u64 {
        SECTORS
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = sector as usize * 512;
        if at + into.len() == self.0.len() {
            return Err(DiskError::Medium);
        }
        into.copy_from_slice(&self.0[at..at + into.len()]);
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let at = sector as usize * 512;
        self.0[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        self.write(sector, &vec![0; count as usize * 512])
    }
    fn fork(&self) -> Box<dyn DiskBackend> {
        Box::new(self.clone())
    }
}

/// A host: where it is in each queue pair.
struct Host {
    bench: Bench<Nvme>,
    tail: [u16; 2],
    head: [u16; 2],
}

const DEPTH: u16 = 8;

impl Host {
    /// Controller on, admin queue of eight; MSI-X with vector n to 0x40 + n if `vectors`.
    fn new(vectors: bool) -> Self {
        let mut bench = Bench::new(Nvme::with_namespace(DiskId(0), SECTORS, false));
        bench.memory = vec![0; 0x30_0000];
        bench.backends.add_disk(Box::new(Disk((0..SECTORS as usize * 512).map(|byte| (byte / 512) as u8).collect())));
        bench.call(|node, cx| node.config_write(4, 2, 6, cx));
        if vectors {
            let capability = find(&mut bench, 0x11);
            bench.call(|node, cx| node.config_write(capability + 2, 2, 0x8000, cx));
            for vector in 0..3u64 {
                for (offset, value) in [(0, 0xfee0_0000u64), (4, 0), (8, 0x40 + vector), (12, 0)] {
                    bench.write(4, 16 * vector + offset, 4, value);
                }
            }
        }
        bench.write(0, 0x24, 4, u64::from(DEPTH - 1) << 16 | u64::from(DEPTH - 1));
        bench.write(0, 0x28, 8, ADMIN_SUBMISSION);
        // In halves, as 32-bit drivers do.
        bench.write(0, 0x30, 4, ADMIN_COMPLETION);
        bench.write(0, 0x34, 4, 0);
        bench.write(0, 0x14, 4, 0x0046_0001);
        assert_eq!(bench.read(0, 0x1c, 4), 0, "not ready at once");
        bench.run_to(2_000_000);
        assert_eq!(bench.read(0, 0x1c, 4), 1);
        Self { bench, tail: [0; 2], head: [0; 2] }
    }

    fn with_io(vectors: bool) -> Self {
        let mut host = Self::new(vectors);
        assert_eq!(host.admin(5, [IO_COMPLETION, 0], [u32::from(DEPTH - 1) << 16 | 1, 1 << 16 | 3]).1, 0);
        assert_eq!(host.admin(1, [IO_SUBMISSION, 0], [u32::from(DEPTH - 1) << 16 | 1, 1 << 16 | 1]).1, 0);
        host.bench.take();
        host
    }

    fn submit(&mut self, queue: usize, opcode: u8, namespace: u32, prps: [u64; 2], dwords: &[u32]) -> u16 {
        let id = 0x100 + self.tail[queue];
        let mut entry = [0; 64];
        entry[0] = opcode;
        entry[2..4].copy_from_slice(&id.to_le_bytes());
        entry[4..8].copy_from_slice(&namespace.to_le_bytes());
        entry[24..32].copy_from_slice(&prps[0].to_le_bytes());
        entry[32..40].copy_from_slice(&prps[1].to_le_bytes());
        for (index, dword) in dwords.iter().enumerate() {
            entry[40 + 4 * index..44 + 4 * index].copy_from_slice(&dword.to_le_bytes());
        }
        let base = [ADMIN_SUBMISSION, IO_SUBMISSION][queue] as usize + 64 * usize::from(self.tail[queue]);
        self.bench.memory[base..base + 64].copy_from_slice(&entry);
        self.tail[queue] = (self.tail[queue] + 1) % DEPTH;
        self.bench.write(0, 0x1000 + 8 * queue as u64, 4, u64::from(self.tail[queue]));
        id
    }

    /// The next completion: result, status, identifier.
    fn completion(&mut self, queue: usize, laps: u16) -> Option<(u32, u16, u16)> {
        let base = [ADMIN_COMPLETION, IO_COMPLETION][queue] as usize + 16 * usize::from(self.head[queue] % DEPTH);
        let entry = &self.bench.memory[base..base + 16];
        let status = u16::from_le_bytes([entry[14], entry[15]]);
        if status & 1 == laps & 1 {
            return None;
        }
        let result = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let id = u16::from_le_bytes([entry[12], entry[13]]);
        self.head[queue] += 1;
        let head = u64::from(self.head[queue] % DEPTH);
        self.bench.write(0, 0x1004 + 8 * queue as u64, 4, head);
        Some((result, status >> 1, id))
    }

    fn call(&mut self, queue: usize, opcode: u8, namespace: u32, prps: [u64; 2], dwords: &[u32]) -> (u32, u16) {
        let laps = self.head[queue] / DEPTH;
        let id = self.submit(queue, opcode, namespace, prps, dwords);
        let until = self.bench.now + 10_000_000;
        self.bench.run_to(until);
        let (result, status, answered) = self.completion(queue, laps).expect("completed");
        assert_eq!(answered, id);
        (result, status)
    }
    fn admin(&mut self, opcode: u8, prps: [u64; 2], dwords: [u32; 2]) -> (u32, u16) {
        self.call(0, opcode, 0, prps, &dwords)
    }
    fn io(&mut self, opcode: u8, prps: [u64; 2], first: u32, blocks: u32) -> u16 {
        self.call(1, opcode, 1, prps, &[first, 0, blocks - 1]).1
    }
    fn data(&self, at: u64, length: usize) -> &[u8] {
        &self.bench.memory[at as usize..at as usize + length]
    }
}

fn find(bench: &mut Bench<Nvme>, wanted: u64) -> u16 {
    let mut at = bench.call(|node, cx| node.config_read(0x34, 1, cx)) as u16;
    while at != 0 {
        if bench.call(|node, cx| node.config_read(at, 1, cx)) == wanted {
            return at;
        }
        at = bench.call(|node, cx| node.config_read(at + 1, 1, cx)) as u16;
    }
    panic!("no capability {wanted:#x}");
}

#[test]
fn it_says_what_it_is() {
    let mut host = Host::new(true);
    assert_eq!(host.call(0, 6, 0, [DATA, 0], &[1]), (0, 0));
    assert_eq!(host.data(DATA + 24, 16), b"Orrery NVMe disk");
    assert_eq!(host.call(0, 6, 1, [DATA, 0], &[0]), (0, 0));
    assert_eq!(host.data(DATA, 8), SECTORS.to_le_bytes());
    assert_eq!(host.data(DATA + 130, 1), [9]);
    assert_eq!(host.call(0, 6, 2, [DATA, 0], &[0]).1, Status::INVALID_NAMESPACE.0);
    assert_eq!(host.call(0, 6, 0, [DATA, 0], &[2]).1, 0);
    assert_eq!(host.data(DATA, 8), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host.call(0, 6, 0, [DATA, 0], &[0x13]).1, Status::INVALID_FIELD.0);
    assert_eq!(host.admin(9, [0, 0], [7, 0x0003_0003]), (0x001f_001f, 0), "32 queue pairs");
    assert_eq!(host.admin(0x55, [0, 0], [0, 0]).1, Status::INVALID_OPCODE.0);
}

#[test]
fn blocks_move_through_prps_and_lists_and_interrupts_follow() {
    let mut host = Host::with_io(true);
    // One page, two pages from the middle of one, and a list.
    assert_eq!(host.io(2, [DATA, 0], 5, 8), 0);
    assert_eq!((host.data(DATA, 512), host.data(DATA + 7 * 512, 512)), (&[5; 512][..], &[12; 512][..]));
    assert!(host.bench.take().contains(&Effect::Message { address: 0xfee0_0000, data: 0x41 }));
    assert_eq!(host.io(2, [DATA + 0x800, DATA + 0x5000], 5, 8), 0);
    assert_eq!((host.data(DATA + 0x800, 512), host.data(DATA + 0x5000, 512)), (&[5; 512][..], &[9; 512][..]));
    for page in 0..200u64 {
        let entry = DATA + 0x1_0000 + 0x1000 * page;
        let at = if page < 99 { 0x9ce0 + 8 * page } else { 0xa000 + 8 * (page - 99) } as usize;
        host.bench.memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
    // The list begins so that its entry 99 is the last on the page: it points to the next page instead.
    host.bench.memory[0x9ff8..0xa000].copy_from_slice(&0xa000u64.to_le_bytes());
    assert_eq!(host.io(2, [DATA, 0x9ce0], 0, 1024), 0);
    let sector = |host: &Host, number: u64| host.data(DATA + if number < 8 { 512 * number } else { 0x1_0000 + 512 * (number - 8) }, 1)[0];
    for number in [0u64, 7, 8, 9, 500, 806, 807, 808, 809, 1023] {
        assert_eq!(sector(&host, number), number as u8, "sector {number}");
    }
    // Writes come back.
    host.bench.memory[DATA as usize..DATA as usize + 512].fill(0xab);
    assert_eq!((host.io(1, [DATA, 0], 77, 1), host.io(2, [DATA + 0x1000, 0], 77, 1)), (0, 0));
    assert_eq!(host.data(DATA + 0x1000, 512), [0xab; 512]);
    assert_eq!((host.io(5, [DATA, 0], 77, 1), host.io(5, [DATA, 0], 78, 1)), (0, Status::COMPARE_FAILURE.0));
    assert_eq!((host.io(8, [0, 0], 77, 1), host.io(2, [DATA, 0], 77, 1)), (0, 0));
    assert_eq!(host.data(DATA, 512), [0; 512]);
}

#[test]
fn what_is_wrong_is_named() {
    let mut host = Host::with_io(true);
    for (opcode, prps, first, blocks, status) in [
        (2u8, [DATA, 0], 4096u32, 1u32, Status::LBA_RANGE),
        (2, [DATA, 0], 4095, 2, Status::LBA_RANGE),
        (2, [DATA, 0], 0, 1025, Status::INVALID_FIELD),
        (2, [DATA + 1, 0], 0, 1, Status::PRP_OFFSET),
        (2, [DATA, 4], 0, 9, Status::PRP_OFFSET),
        (1, [0x7fff_0000, 0], 0, 1, Status::DATA_TRANSFER),
        (2, [0x7fff_0000, 0], 0, 1, Status::DATA_TRANSFER),
        (2, [DATA, 0], 4095, 1, Status::UNRECOVERED_READ),
        (0x99, [0, 0], 0, 1, Status::INVALID_OPCODE),
    ] {
        assert_eq!(host.io(opcode, prps, first, blocks), status.0, "opcode {opcode} at {first} +{blocks}");
    }
    // The error log has the medium error with its block, and health counts it.
    let opcode_error = host.call(0, 2, 0xffff_ffff, [DATA, 0], &[15 << 16 | 1]);
    assert_eq!(opcode_error.1, 0);
    assert_eq!(host.data(DATA + 16, 8), 0u64.to_le_bytes(), "newest first: the unknown opcode");
    host.call(0, 2, 0xffff_ffff, [DATA, 0], &[31 << 16 | 1]);
    assert_eq!(host.data(DATA + 64 + 16, 8), 4095u64.to_le_bytes());
    host.call(0, 2, 0xffff_ffff, [DATA, 0], &[127 << 16 | 2]);
    assert_eq!(host.data(DATA + 160, 1), [1], "media errors");
    assert_eq!(host.call(0, 2, 0, [DATA, 0], &[127 << 16 | 0x42]).1, Status::INVALID_LOG.0);
}

#[test]
fn queues_are_checked_and_deleted_in_order() {
    let mut host = Host::with_io(false);
    assert_eq!(host.admin(5, [IO_COMPLETION, 0], [7 << 16 | 1, 1]).1, Status::INVALID_QUEUE.0, "it is there");
    assert_eq!(host.admin(5, [IO_COMPLETION, 0], [7 << 16 | 33, 1]).1, Status::INVALID_QUEUE.0);
    assert_eq!(host.admin(5, [IO_COMPLETION, 0], [1024 << 16 | 2, 1]).1, Status::INVALID_QUEUE_SIZE.0);
    assert_eq!(host.admin(5, [IO_COMPLETION, 0], [7 << 16 | 2, 0]).1, Status::INVALID_FIELD.0, "not contiguous");
    assert_eq!(host.admin(5, [IO_COMPLETION, 0], [7 << 16 | 2, 99 << 16 | 3]).1, Status::INVALID_VECTOR.0);
    assert_eq!(host.admin(1, [IO_SUBMISSION, 0], [7 << 16 | 2, 5 << 16 | 1]).1, Status::INVALID_COMPLETION_QUEUE.0);
    assert_eq!(host.admin(4, [0, 0], [1, 0]).1, Status::QUEUE_DELETION.0);
    assert_eq!(host.admin(0, [0, 0], [1, 0]).1, 0);
    assert_eq!(host.admin(4, [0, 0], [1, 0]).1, 0);
    assert_eq!(host.admin(0, [0, 0], [1, 0]).1, Status::INVALID_QUEUE.0);
}

#[test]
fn the_pin_is_high_while_entries_wait() {
    let mut host = Host::with_io(false);
    assert!(!host.bench.pins[0]);
    host.submit(1, 0, 1, [0, 0], &[]);
    host.bench.run_to(host.bench.now + 1_000_000);
    assert!(host.bench.pins[0]);
    host.bench.write(0, 0x0c, 4, 2);
    assert!(!host.bench.pins[0], "masked");
    host.bench.write(0, 0x10, 4, 2);
    assert!(host.bench.pins[0]);
    assert!(host.completion(1, 0).is_some());
    assert!(!host.bench.pins[0], "taken");
}

#[test]
fn events_errors_and_aborts_find_their_requests() {
    let mut host = Host::new(true);
    let request = host.submit(0, 0x0c, 0, [0, 0], &[]);
    host.bench.run_to(host.bench.now + 1_000_000);
    assert!(host.completion(0, 0).is_none(), "it waits");
    host.bench.write(0, 0x1000 + 8 * 20, 4, 1);
    host.bench.run_to(host.bench.now + 1_000_000);
    assert_eq!(host.completion(0, 0), Some((0x0001_0000, 0, request)), "invalid doorbell register");
    let request = host.submit(0, 0x0c, 0, [0, 0], &[]);
    host.bench.run_to(host.bench.now + 1_000_000);
    let abort = host.submit(0, 8, 0, [0, 0], &[u32::from(request) << 16]);
    host.bench.run_to(host.bench.now + 1_000_000);
    assert_eq!(host.completion(0, 0), Some((0, Status::ABORTED.0, request)));
    assert_eq!(host.completion(0, 0), Some((0, 0, abort)));
    let abort = host.submit(0, 8, 0, [0, 0], &[0x7777_0000]);
    host.bench.run_to(host.bench.now + 1_000_000);
    assert_eq!(host.completion(0, 0), Some((1, 0, abort)), "not found");
}

#[test]
fn a_full_completion_queue_holds_the_rest_back() {
    let mut host = Host::with_io(false);
    for _ in 0..7 {
        host.submit(1, 0, 1, [0, 0], &[]);
    }
    host.bench.run_to(host.bench.now + 1_000_000);
    // Seven entries fill a queue of eight; more commands wait for room.
    for _ in 0..3 {
        host.submit(1, 0, 1, [0, 0], &[]);
    }
    host.bench.run_to(host.bench.now + 1_000_000);
    let waiting = |host: &mut Host| {
        let mut count = 0;
        while host.completion(1, host.head[1] / DEPTH).is_some() {
            count += 1;
        }
        count
    };
    assert_eq!(waiting(&mut host), 7);
    host.bench.run_to(host.bench.now + 1_000_000);
    assert_eq!(waiting(&mut host), 3);
}

#[test]
fn reset_and_shutdown_follow_the_register() {
    let mut host = Host::with_io(false);
    host.bench.write(0, 0x14, 4, 0x0046_4001);
    assert_eq!(host.bench.read(0, 0x1c, 4) >> 2 & 3, 1);
    host.bench.run_to(host.bench.now + 2_000_000);
    assert_eq!(host.bench.read(0, 0x1c, 4) >> 2 & 3, 2);
    host.bench.write(0, 0x14, 4, 0);
    assert_eq!(host.bench.read(0, 0x1c, 4), 0);
    assert_eq!(host.bench.read(0, 0x28, 8), ADMIN_SUBMISSION, "admin registers survive");
    // Pages of 8 KiB are not offered.
    host.bench.write(0, 0x14, 4, 0x0046_0081);
    assert_eq!(host.bench.read(0, 0x1c, 4) & 2, 2, "fatal");
}

#[test]
fn commands_in_flight_survive_save_and_load() {
    let mut host = Host::with_io(true);
    host.submit(1, 2, 1, [DATA, 0], &[9, 0, 0]);
    host.bench.run_to(host.bench.now + 5_000);
    assert_eq!(host.data(DATA, 1), [0], "it takes its time");
    let saved = host.bench.node.save();
    let mut other = Nvme::with_namespace(DiskId(0), SECTORS, false);
    other.load(&saved).expect("same kind");
    assert_eq!(other.save(), saved);
    host.bench.node = other;
    host.bench.run_to(host.bench.now + 1_000_000);
    assert_eq!(host.data(DATA, 512), [9; 512]);
    assert!(host.completion(1, 0).is_some());
}

#[test]
fn a_host_that_asks_for_all_at_once_gets_it_piece_by_piece() {
    let mut host = Host::new(false);
    // A queue pair of 256, all of it reads of half a megabyte to the same place.
    const SUBMISSION: u64 = 0x10_0000;
    const COMPLETION: u64 = 0x11_0000;
    const READS: u64 = 200;
    assert_eq!(host.admin(5, [COMPLETION, 0], [255 << 16 | 1, 1]).1, 0);
    assert_eq!(host.admin(1, [SUBMISSION, 0], [255 << 16 | 1, 1 << 16 | 1]).1, 0);
    for page in 0..127 {
        host.bench.memory[0x8000 + 8 * page..0x8008 + 8 * page].copy_from_slice(&(DATA + 0x1000).to_le_bytes());
    }
    for read in 0..READS {
        let mut entry = [0u8; 64];
        (entry[0], entry[2], entry[4]) = (2, read as u8, 1);
        entry[24..32].copy_from_slice(&DATA.to_le_bytes());
        entry[32..40].copy_from_slice(&0x8000u64.to_le_bytes());
        entry[48..50].copy_from_slice(&1023u16.to_le_bytes());
        let at = (SUBMISSION + 64 * read) as usize;
        host.bench.memory[at..at + 64].copy_from_slice(&entry);
    }
    host.bench.write(0, 0x1008, 4, READS);
    let mut most = 0;
    for _ in 0..READS * 160 {
        let until = host.bench.now + 1_000;
        host.bench.run_to(until);
        most = most.max(host.bench.node.chip.held());
    }
    assert!((64 << 20..=65 << 20).contains(&most), "{most} bytes held");
    let done = (0..READS).filter(|read| host.data(COMPLETION + 16 * read + 14, 2) == [1, 0]).count();
    assert_eq!(done as u64, READS);
}
