//! Almost sensible requests for storage controllers and virtio devices.

use sim_bus::bench::Bench;
use sim_bus::{Node, Region};
use sim_core::Rng;

use super::drive::{MEMORY, SECTORS, value};

fn put<N>(bench: &mut Bench<N>, at: u64, bytes: &[u8]) {
    let at = at as usize;
    bench.memory[at..at + bytes.len()].copy_from_slice(bytes);
}

/// An address that is often in RAM and often aligned.
fn address(random: &mut Rng) -> u64 {
    match random.below(8) {
        0 => value(random),
        1 => random.below(MEMORY),
        2 => MEMORY - 8 * random.below(4),
        _ => random.below(MEMORY) & !0xfff,
    }
}

fn write<N: Node>(bench: &mut Bench<N>, region: u16, offset: u64, size: u8, value: u64) {
    bench.call(|node, cx| node.write(Region(region), offset, size, value, cx));
}

/// Turns MSI-X on, its table in `region`, with vector n at 0x40 + n.
fn message_vectors<N: Node>(bench: &mut Bench<N>, region: u16) {
    let mut at = bench.call(|node, cx| node.config_read(0x34, 1, cx)) as u16;
    // No list is longer than the space has room for.
    for _ in 0..48 {
        if at == 0 {
            break;
        }
        if bench.call(|node, cx| node.config_read(at, 1, cx)) == 0x11 {
            bench.call(|node, cx| node.config_write(at + 2, 2, 0x8000, cx));
        }
        at = bench.call(|node, cx| node.config_read(at + 1, 1, cx)) as u16;
    }
    for vector in 0..4 {
        write(bench, region, 16 * vector, 8, 0xfee0_0000);
        write(bench, region, 16 * vector + 8, 8, 0x40 + vector);
    }
}

// NVMe.

const NVME_DEPTH: u64 = 16;
/// Submission and completion queue of pair n.
fn nvme_queues(pair: u64) -> (u64, u64) {
    (0x1000 + 0x2000 * pair, 0x2000 + 0x2000 * pair)
}

pub fn nvme_prepare<N: Node>(bench: &mut Bench<N>, random: &mut Rng) {
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    if random.chance(1, 2) {
        message_vectors(bench, 4);
    }
    write(bench, 0, 0x14, 4, 0);
    write(bench, 0, 0x24, 4, (NVME_DEPTH - 1) << 16 | (NVME_DEPTH - 1));
    let (submission, completion) = nvme_queues(0);
    write(bench, 0, 0x28, 8, submission);
    write(bench, 0, 0x30, 8, completion);
    write(bench, 0, 0x14, 4, 0x0046_0001);
    bench.run_to(bench.now + 2_000_000);
    for pair in 1..4u64 {
        let (submission, completion) = nvme_queues(pair);
        for (opcode, base, dword) in [(5u8, completion, pair << 16 | 3), (1, submission, pair << 16 | 1)] {
            let mut entry = [0; 64];
            entry[0] = opcode;
            entry[2] = (2 * pair) as u8 + opcode;
            entry[24..32].copy_from_slice(&base.to_le_bytes());
            entry[40..44].copy_from_slice(&((NVME_DEPTH as u32 - 1) << 16 | pair as u32).to_le_bytes());
            entry[44..48].copy_from_slice(&(dword as u32).to_le_bytes());
            let slot = 2 * (pair - 1) + u64::from(opcode == 1);
            put(bench, nvme_queues(0).0 + 64 * slot, &entry);
        }
    }
    write(bench, 0, 0x1000, 4, 6);
    bench.run_to(bench.now + 1_000_000);
    write(bench, 0, 0x1004, 4, 6);
}

pub fn nvme_act<N: Node>(bench: &mut Bench<N>, random: &mut Rng) {
    let pair = random.below(4);
    let (submission, _) = nvme_queues(pair);
    for _ in 0..random.below(4) {
        let mut entry = [0; 64];
        if random.chance(1, 8) {
            random.fill(&mut entry);
        }
        let admin = [0u8, 1, 2, 4, 5, 6, 8, 9, 10, 12, 0x10, 0x80];
        let io = [0u8, 1, 2, 2, 1, 5, 8, 9, 4, 0xc];
        entry[0] = if pair == 0 { admin[random.below(12) as usize] } else { io[random.below(10) as usize] };
        entry[1] = if random.chance(1, 16) { random.next_u64() as u8 } else { 0 };
        entry[2..4].copy_from_slice(&(random.below(40) as u16).to_le_bytes());
        let namespace = if random.chance(1, 8) { value(random) as u32 } else { 1 };
        entry[4..8].copy_from_slice(&namespace.to_le_bytes());
        entry[24..32].copy_from_slice(&address(random).to_le_bytes());
        entry[32..40].copy_from_slice(&address(random).to_le_bytes());
        let dwords = if pair == 0 {
            let id = random.below(12) as u32 | if random.chance(1, 4) { value(random) as u32 } else { (NVME_DEPTH as u32 - 1) << 16 };
            [id, random.below(5) as u32 | (random.below(5) as u32) << 16, 0, 0, 0, 0]
        } else {
            let first = if random.chance(1, 8) { value(random) as u32 } else { random.below(SECTORS + 8) as u32 };
            let blocks = if random.chance(1, 8) { value(random) as u32 } else { random.below(64) as u32 };
            [first, u32::from(random.chance(1, 8)) * 4, blocks, 0, 0, 0]
        };
        for (index, dword) in dwords.iter().enumerate() {
            entry[40 + 4 * index..44 + 4 * index].copy_from_slice(&dword.to_le_bytes());
        }
        put(bench, submission + 64 * random.below(NVME_DEPTH), &entry);
    }
    let doorbell = 0x1000 + 8 * pair + if random.chance(1, 3) { 4 } else { 0 };
    let limit = if random.chance(1, 16) { 40 } else { NVME_DEPTH };
    let at = random.below(limit);
    write(bench, 0, doorbell, 4, at);
}

// AHCI.

const AHCI_LIST: u64 = 0x1000;
const AHCI_RECEIVED: u64 = 0x2000;
const AHCI_TABLES: u64 = 0x4000;
const AHCI_PORT: u64 = 0x100;

pub fn ahci_prepare<N: Node>(bench: &mut Bench<N>, random: &mut Rng) {
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    write(bench, 5, AHCI_PORT + 0x18, 4, 0);
    write(bench, 5, AHCI_PORT, 8, AHCI_LIST);
    write(bench, 5, AHCI_PORT + 8, 8, AHCI_RECEIVED);
    write(bench, 5, AHCI_PORT + 0x18, 4, 0x10);
    if random.chance(1, 4) {
        write(bench, 5, 4, 4, 1);
    }
    bench.run_to(bench.now + 2_000_000);
    write(bench, 5, AHCI_PORT + 0x30, 4, 0xffff_ffff);
    write(bench, 5, AHCI_PORT + 0x10, 4, 0xffff_ffff);
    write(bench, 5, AHCI_PORT + 0x14, 4, 0xffff_ffff);
    write(bench, 5, 4, 4, 0x8000_0002);
    write(bench, 5, AHCI_PORT + 0x18, 4, 0x11);
}

pub fn ahci_act<N: Node>(bench: &mut Bench<N>, random: &mut Rng) {
    const COMMANDS: [u8; 20] = [
        0x25, 0x35, 0xc8, 0xca, 0x60, 0x60, 0x61, 0x61, 0xec, 0xef, 0xea, 0xe7, 0x06, 0x2f, 0x47, 0x20, 0x30, 0x3d, 0xc6, 0x42,
    ];
    let slot = random.below(32);
    let table = AHCI_TABLES + 0x200 * slot;
    let mut header = [0; 32];
    let mut body = [0; 0x200];
    if random.chance(1, 8) {
        random.fill(&mut header);
        random.fill(&mut body);
    }
    let regions = if random.chance(1, 16) { value(random) as u16 } else { random.below(20) as u16 };
    let fis_words = if random.chance(1, 16) { random.below(32) as u8 } else { 5 };
    header[0] = fis_words | (random.next_u64() as u8 & 0x40);
    header[1] = if random.chance(1, 8) { random.next_u64() as u8 } else { 0 };
    header[2..4].copy_from_slice(&regions.to_le_bytes());
    let where_ = if random.chance(1, 16) { address(random) } else { table };
    header[8..16].copy_from_slice(&where_.to_le_bytes());
    body[0] = if random.chance(1, 16) { random.next_u64() as u8 } else { 0x27 };
    body[1] = if random.chance(1, 16) { random.next_u64() as u8 } else { 0x80 };
    body[2] = if random.chance(1, 8) { random.next_u64() as u8 } else { COMMANDS[random.below(20) as usize] };
    body[3] = random.below(20) as u8;
    body[4..6].copy_from_slice(&(random.below(SECTORS + 4) as u16).to_le_bytes());
    body[7] = 0x40 | random.next_u64() as u8 & 0x80;
    body[12] = if random.chance(1, 2) { (slot << 3) as u8 } else { random.below(40) as u8 };
    body[15] = if random.chance(1, 8) { 4 } else { 0 };
    for region in body[0x80..].as_chunks_mut::<16>().0 {
        region[..8].copy_from_slice(&address(random).to_le_bytes());
        let length = if random.chance(1, 8) { value(random) as u32 } else { random.below(0x4000) as u32 };
        region[12..].copy_from_slice(&length.to_le_bytes());
    }
    put(bench, AHCI_LIST + 32 * slot, &header);
    put(bench, table, &body);
    if random.chance(1, 2) {
        write(bench, 5, AHCI_PORT + 0x34, 4, 1 << slot);
    }
    write(bench, 5, AHCI_PORT + 0x38, 4, 1 << slot);
    if random.chance(1, 8) {
        // What a driver does after an error.
        write(bench, 5, AHCI_PORT + 0x18, 4, 0x10);
        write(bench, 5, AHCI_PORT + 0x10, 4, 0xffff_ffff);
        write(bench, 5, AHCI_PORT + 0x18, 4, 0x11);
    }
}

// virtio.

const VIRTIO_DESCRIPTORS: u64 = 0x1000;
const VIRTIO_DRIVER: u64 = 0x3000;
const VIRTIO_DEVICE: u64 = 0x4000;
const VIRTIO_SIZE: u64 = 32;
/// Memory of one queue.
const VIRTIO_STRIDE: u64 = 0x8000;

pub fn virtio_prepare<N: Node>(bench: &mut Bench<N>, random: &mut Rng) {
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    if random.chance(3, 4) {
        message_vectors(bench, 2);
    }
    write(bench, 0, 20, 1, 0);
    write(bench, 0, 20, 1, 3);
    for half in [0u64, 1] {
        write(bench, 0, 0, 4, half);
        let offered = bench.read(0, 4, 4);
        let wanted = offered & if random.chance(1, 2) { u64::MAX } else { random.next_u64() | half };
        write(bench, 0, 8, 4, half);
        write(bench, 0, 12, 4, wanted);
    }
    write(bench, 0, 20, 1, 11);
    let queues = bench.read(0, 18, 2).min(4);
    for queue in 0..queues {
        let base = VIRTIO_STRIDE * queue;
        for (offset, size, value) in [
            (22u64, 2u8, queue),
            (24, 2, VIRTIO_SIZE),
            (26, 2, 0),
            (32, 8, base + VIRTIO_DESCRIPTORS),
            (40, 8, base + VIRTIO_DRIVER),
            (48, 8, base + VIRTIO_DEVICE),
            (28, 2, 1),
        ] {
            write(bench, 0, offset, size, value);
        }
    }
    write(bench, 0, 20, 1, 15);
}

pub fn virtio_act<N: Node>(bench: &mut Bench<N>, random: &mut Rng) {
    let queue = random.below(4);
    let base = VIRTIO_STRIDE * queue;
    let mut index = random.below(VIRTIO_SIZE);
    let head = index;
    // A chain, mostly well-formed: readable parts, then writable ones.
    let parts = 1 + random.below(5);
    let readable = random.below(parts + 1);
    for part in 0..parts {
        let next = if random.chance(1, 64) { random.below(VIRTIO_SIZE + 4) } else { (index + 1) % VIRTIO_SIZE };
        let mut flags = u16::from(part + 1 < parts) | if part >= readable { 2 } else { 0 };
        if random.chance(1, 64) {
            flags = random.below(8) as u16;
        }
        let length = match random.below(24) {
            0 => value(random) as u32,
            1..=4 => 1,
            5..=9 => 16,
            _ => 512 * random.below(9) as u32,
        };
        // One bad address breaks the whole queue: not too many of them.
        let at = if random.chance(1, 32) { address(random) } else { random.below(MEMORY - 0x1000) };
        let mut descriptor = at.to_le_bytes().to_vec();
        descriptor.extend(length.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend((next as u16).to_le_bytes());
        put(bench, base + VIRTIO_DESCRIPTORS + 16 * index, &descriptor);
        // A block request's header, whoever reads it.
        if part == 0 {
            let at = address(random).min(MEMORY - 16);
            let mut header = [0; 16];
            header[..4].copy_from_slice(&[0u32, 1, 4, 8, 11, 13][random.below(6) as usize].to_le_bytes());
            header[8..].copy_from_slice(&random.below(SECTORS + 4).to_le_bytes());
            put(bench, at, &header);
            put(bench, base + VIRTIO_DESCRIPTORS + 16 * index, &at.to_le_bytes());
        }
        index = next % VIRTIO_SIZE;
    }
    let at = (base + VIRTIO_DRIVER + 2) as usize;
    let available = u16::from_le_bytes([bench.memory[at], bench.memory[at + 1]]);
    put(bench, base + VIRTIO_DRIVER + 4 + 2 * (u64::from(available) % VIRTIO_SIZE), &(head as u16).to_le_bytes());
    let available = if random.chance(1, 64) { random.next_u64() as u16 } else { available.wrapping_add(1) };
    put(bench, base + VIRTIO_DRIVER + 2, &available.to_le_bytes());
    write(bench, 0, 0x3000 + 4 * queue, 2, queue);
}
