//! IDENTIFY DEVICE data (ACS-2 §7.16.7).

/// Most 512-byte blocks of ranges one DATA SET MANAGEMENT may carry.
pub const TRIM_BLOCKS_MAX: u16 = 8;
/// Sectors READ MULTIPLE may move between interrupts.
pub const MULTIPLE_MAX: u8 = 16;
/// Queued commands.
pub const QUEUE_DEPTH: u16 = 32;

/// Text is stored with the bytes of each word swapped.
fn text(words: &mut [u16], value: &str) {
    let mut bytes = value.bytes().chain(std::iter::repeat(b' '));
    for word in words {
        *word = u16::from_be_bytes([bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' ')]);
    }
}

/// The 512 bytes for a disk.
pub fn identify(number: u8, sectors: u64, write_cache: bool, multiple: u8) -> Vec<u8> {
    let mut words = [0u16; 256];
    let sectors28 = sectors.min(0x0fff_ffff);
    words[0] = 0x0040; // fixed device
    words[1] = 16383;
    words[3] = 16;
    words[6] = 63;
    text(&mut words[10..20], &format!("orrery-{number}"));
    text(&mut words[23..27], "1.3.1");
    text(&mut words[27..47], "Orrery SATA disk");
    words[47] = 0x8000 | u16::from(MULTIPLE_MAX);
    words[49] = 0x0f00; // DMA, LBA, IORDY
    words[50] = 0x4000;
    words[53] = 0x0006; // words 64 to 70 and 88 are valid
    words[59] = if multiple == 0 { 0 } else { 0x0100 | u16::from(multiple) };
    words[60] = sectors28 as u16;
    words[61] = (sectors28 >> 16) as u16;
    words[63] = 0x0007;
    words[64] = 0x0003;
    words[65..69].fill(120);
    words[69] = 1 << 14 | 1 << 5; // trimmed sectors read as zeros, always
    words[75] = QUEUE_DEPTH - 1;
    words[76] = 0x000e | 1 << 8; // 1.5, 3 and 6 Gb/s; NCQ
    words[80] = 0x01f0; // ATA/ATAPI-4 to ACS-2
    // Power management, write cache, look-ahead; 48-bit addresses, flushes; general purpose logging, FUA.
    words[82] = 1 << 3 | 1 << 5 | 1 << 6;
    words[83] = 1 << 14 | 1 << 10 | 1 << 12 | 1 << 13;
    words[84] = 1 << 14 | 1 << 5 | 1 << 6;
    words[85] = 1 << 3 | u16::from(write_cache) << 5 | 1 << 6;
    words[86] = 1 << 10 | 1 << 12 | 1 << 13;
    words[87] = words[84];
    words[88] = 0x407f; // Ultra DMA 6
    for (index, word) in words[100..104].iter_mut().enumerate() {
        *word = (sectors >> (16 * index)) as u16;
    }
    words[105] = TRIM_BLOCKS_MAX;
    words[106] = 0x4000; // logical sectors are physical ones
    words[169] = 1; // TRIM
    words[217] = 1; // nothing rotates
    words[222] = 0x107f; // SATA 3.1
    words[255] = 0xa5;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes[511] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    bytes
}
