//! qcow2 images, read into a flat image.
//!
//! Format: *QEMU qcow2 specification* (docs/interop/qcow2.txt), versions 2 and 3: header, two-level cluster table, deflate-compressed clusters. Not read, with
//! an error that says so: encryption, backing files, external data files, extended L2 entries, zstd compression. Snapshots inside the file are ignored. An image's virtual
//! size is at most 16 GiB here, since the flat image is in memory.

use std::fmt;

const MAGIC: [u8; 4] = *b"QFI\xfb";
const SIZE_MAX: u64 = 16 << 30;

/// Why a qcow2 image cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qcow2Error {
    /// The file ends before this part of it.
    Truncated(&'static str),
    /// A header field has a value the format does not allow.
    Field(&'static str),
    /// The image uses something that is not read here.
    Unsupported(&'static str),
    /// The virtual size is too large for memory.
    Size(u64),
    /// A compressed cluster does not unpack to a cluster.
    Cluster(u64),
}

impl fmt::Display for Qcow2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Qcow2Error::Truncated(part) => write!(f, "qcow2: the file ends inside the {part}"),
            Qcow2Error::Field(field) => write!(f, "qcow2: bad {field}"),
            Qcow2Error::Unsupported(what) => write!(f, "qcow2: {what} cannot be read here; `qemu-img convert -O raw` can"),
            Qcow2Error::Size(bytes) => write!(f, "qcow2: {bytes} bytes is more than an image in memory may have ({SIZE_MAX})"),
            Qcow2Error::Cluster(number) => write!(f, "qcow2: compressed cluster {number} is damaged"),
        }
    }
}

impl std::error::Error for Qcow2Error {}

/// The flat image of a file: a qcow2 image is unpacked, anything else is raw.
pub fn raw_image(file: Vec<u8>) -> Result<Vec<u8>, Qcow2Error> {
    if file.starts_with(&MAGIC) { unpack(&file) } else { Ok(file) }
}

fn bytes<'a>(file: &'a [u8], at: u64, length: usize, part: &'static str) -> Result<&'a [u8], Qcow2Error> {
    let at = usize::try_from(at).map_err(|_| Qcow2Error::Truncated(part))?;
    at.checked_add(length).and_then(|end| file.get(at..end)).ok_or(Qcow2Error::Truncated(part))
}

fn word32(file: &[u8], at: u64, part: &'static str) -> Result<u32, Qcow2Error> {
    bytes(file, at, 4, part).map(|word| word.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

fn word64(file: &[u8], at: u64, part: &'static str) -> Result<u64, Qcow2Error> {
    bytes(file, at, 8, part).map(|word| word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Incompatible feature bits that change nothing for a reader: dirty, corrupt (refused below), compression type.
mod incompatible {
    pub const DIRTY: u64 = 1;
    pub const CORRUPT: u64 = 1 << 1;
    pub const COMPRESSION: u64 = 1 << 3;
}

/// Bits of an L1 or L2 entry that are the offset of a table or cluster.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// In an L2 entry of version 3: the cluster reads as zeros.
const ZERO: u64 = 1;

fn unpack(file: &[u8]) -> Result<Vec<u8>, Qcow2Error> {
    const HEADER: &str = "header";
    let version = word32(file, 4, HEADER)?;
    if !matches!(version, 2 | 3) {
        return Err(Qcow2Error::Unsupported("this version"));
    }
    if word64(file, 8, HEADER)? != 0 {
        return Err(Qcow2Error::Unsupported("a backing file"));
    }
    let cluster_bits = word32(file, 20, HEADER)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Qcow2Error::Field("cluster size"));
    }
    let size = word64(file, 24, HEADER)?;
    if size > SIZE_MAX {
        return Err(Qcow2Error::Size(size));
    }
    if word32(file, 32, HEADER)? != 0 {
        return Err(Qcow2Error::Unsupported("encryption"));
    }
    if version == 3 {
        let features = word64(file, 72, HEADER)?;
        if features & incompatible::CORRUPT != 0 {
            return Err(Qcow2Error::Field("state: the image is marked corrupt"));
        }
        if features & !(incompatible::DIRTY | incompatible::COMPRESSION) != 0 {
            return Err(Qcow2Error::Unsupported("an external data file or extended table entries"));
        }
        if features & incompatible::COMPRESSION != 0 && word32(file, 104, HEADER)? >> 24 != 0 {
            return Err(Qcow2Error::Unsupported("zstd compression"));
        }
    }
    let entries = u64::from(word32(file, 36, HEADER)?);
    let table = word64(file, 40, HEADER)?;
    let cluster = 1u64 << cluster_bits;
    let per_table = cluster / 8;
    let clusters = size.div_ceil(cluster);
    if clusters.div_ceil(per_table) > entries {
        return Err(Qcow2Error::Field("L1 table size"));
    }
    let mut image = vec![0; usize::try_from(size).map_err(|_| Qcow2Error::Size(size))?];
    for number in 0..clusters {
        let level2 = word64(file, table.saturating_add(8 * (number / per_table)), "L1 table")? & OFFSET;
        if level2 == 0 {
            continue;
        }
        let entry = word64(file, level2.saturating_add(8 * (number % per_table)), "L2 table")?;
        let start = (number * cluster) as usize;
        let end = (start + cluster as usize).min(image.len());
        let target = &mut image[start..end];
        if entry & COMPRESSED != 0 {
            // The offset takes the low bits, the number of further 512-byte sectors the rest.
            let offset_bits = 62 - (cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
            let length = (sectors + 1) * 512 - offset % 512;
            let have = (file.len() as u64).saturating_sub(offset).min(length) as usize;
            let packed = bytes(file, offset, have, "compressed cluster")?;
            let unpacked = inflate(packed, cluster as usize).ok_or(Qcow2Error::Cluster(number))?;
            let length = target.len();
            target.copy_from_slice(&unpacked[..length]);
        } else if entry & OFFSET != 0 && entry & ZERO == 0 {
            // The last cluster may be cut off at the end of the file.
            let have = (file.len() as u64).saturating_sub(entry & OFFSET).min(target.len() as u64) as usize;
            target[..have].copy_from_slice(bytes(file, entry & OFFSET, have, "data")?);
        }
    }
    Ok(image)
}

/// One cluster of raw deflate; what follows it in its last sector is not part of it.
fn inflate(packed: &[u8], cluster: usize) -> Option<Vec<u8>> {
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let mut out = vec![0; cluster];
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (_, _, written) = decompress(&mut DecompressorOxide::new(), packed, &mut out, 0, flags);
    (written == cluster).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 KiB clusters: one L2 table; cluster 0 is data, 1 absent, 2 compressed, 3 marked zero, and the size ends in cluster 4.
    fn image() -> Vec<u8> {
        let mut file = vec![0u8; 0x6000];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &3u32.to_be_bytes());
        put(20, &12u32.to_be_bytes());
        put(24, &(4 * 4096u64 + 512).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &0x1000u64.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        put(0x1000, &(0x2000u64 | 1 << 63).to_be_bytes());
        put(0x2000, &(0x3000u64 | 1 << 63).to_be_bytes());
        let packed = miniz_oxide::deflate::compress_to_vec(&[0xcd; 4096], 6);
        assert!(packed.len() < 512);
        put(0x4100, &packed);
        put(0x2010, &(COMPRESSED | 0x4100).to_be_bytes());
        put(0x2018, &(0x3000u64 | ZERO).to_be_bytes());
        put(0x2020, &0x5000u64.to_be_bytes());
        put(0x3000, &[0xab; 4096]);
        put(0x5000, &[0xef; 512]);
        file
    }

    #[test]
    fn clusters_of_every_kind_are_read() {
        let flat = raw_image(image()).expect("a sound image");
        assert_eq!(flat.len(), 4 * 4096 + 512);
        for (at, byte) in [(0, 0xab), (4095, 0xab), (4096, 0), (8192, 0xcd), (12287, 0xcd), (12288, 0), (16384, 0xef), (16895, 0xef)] {
            assert_eq!(flat[at], byte, "byte {at}");
        }
        assert_eq!(raw_image(vec![1, 2, 3]), Ok(vec![1, 2, 3]), "anything else is raw");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let with = |at: usize, bytes: &[u8]| {
            let mut file = image();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            raw_image(file).expect_err("refused").to_string()
        };
        assert!(with(4, &[0, 0, 0, 9]).contains("version"));
        assert!(with(8, &[1; 8]).contains("backing file"));
        assert!(with(20, &[0, 0, 0, 60]).contains("cluster size"));
        assert!(with(24, &[9; 8]).contains("more than"));
        assert!(with(32, &[0, 0, 0, 1]).contains("encryption"));
        assert!(with(36, &[0; 4]).contains("L1 table size"));
        assert!(with(40, &[0xff; 8]).contains("L1 table"));
        assert!(with(79, &[4]).contains("external data"));
        assert!(with(0x4100, &[0xff; 64]).contains("cluster 2"));
    }

    #[test]
    fn cut_and_flipped_images_give_errors_or_images() {
        let whole = image();
        for length in (0..whole.len()).step_by(37) {
            // Any answer will do; a panic will not.
            let _answer = raw_image(whole[..length].to_vec());
        }
        // Not the high bytes of the size: gigabytes of zeros are an answer too, but a slow one.
        for at in (0..24).chain(29..108).chain(0x1000..0x1008).chain(0x2000..0x2028) {
            for bit in 0..8 {
                let mut file = whole.clone();
                file[at] ^= 1 << bit;
                let _answer = raw_image(file);
            }
        }
    }
}
