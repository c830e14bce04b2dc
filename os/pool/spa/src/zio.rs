//! Reading one block: copies, gang trees, checksum, decompression.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use pool_phys::blkptr::{BlockPointer, Checksum, Compression, Dva, SIZE, Target};
use pool_phys::label;

use crate::{Pool, Scrubbed};

const GANG_DEPTH_MAX: u32 = 8;
const GANG_HEADER: usize = 512;

/// Why a block could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No copy on any device matched the checksum, or none could be read.
    NoGoodCopy,
    /// Its bytes matched the checksum but do not decompress: a writer's bug or an attack.
    Damaged,
    /// The checksum needs the pool's salt (skein, edonr, blake3) or is sha512.
    UnsupportedChecksum,
    /// zstd.
    UnsupportedCompression,
    /// Native encryption; the key is not ours.
    Encrypted,
}

/// A block that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError {
    pub reason: Reason,
    /// First copy, if the block has an address.
    pub dva: Option<Dva>,
    pub birth: u64,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::NoGoodCopy => "no copy matches its checksum",
            Reason::Damaged => "checksum matches, contents do not decompress",
            Reason::UnsupportedChecksum => "checksum algorithm not supported",
            Reason::UnsupportedCompression => "compression algorithm not supported",
            Reason::Encrypted => "encrypted",
        };
        match self.dva {
            Some(dva) => write!(f, "block {}:{:#x} born in txg {}: {why}", dva.vdev, dva.offset, self.birth),
            None => write!(f, "embedded block born in txg {}: {why}", self.birth),
        }
    }
}

impl core::error::Error for ReadError {}

fn checksum_ok(algorithm: Checksum, words: codec::Words, data: &[u8]) -> Result<bool, Reason> {
    Ok(match algorithm {
        Checksum::Off | Checksum::NoParity => true,
        Checksum::Fletcher2 => codec::fletcher2(data) == words,
        Checksum::Fletcher4 => codec::fletcher4(data) == words,
        Checksum::Sha256 => codec::sha256(data) == words,
        Checksum::Label | Checksum::GangHeader | Checksum::Zilog | Checksum::Zilog2 | Checksum::Sha512 | Checksum::Foreign(_) => {
            return Err(Reason::UnsupportedChecksum);
        }
    })
}

fn decompress(algorithm: Compression, data: &[u8], out: &mut [u8]) -> Result<(), Reason> {
    let result = match algorithm {
        Compression::Off => {
            let Some(data) = data.get(..out.len()) else { return Err(Reason::Damaged) };
            out.copy_from_slice(data);
            Ok(())
        }
        Compression::Lzjb => codec::lzjb_decode(data, out),
        Compression::Gzip(_) => codec::gzip_decode(data, out),
        Compression::Zle => codec::zle_decode(data, out),
        Compression::Lz4 => codec::lz4_decode(data, out),
        Compression::Zstd => return Err(Reason::UnsupportedCompression),
    };
    result.map_err(|codec::Damaged| Reason::Damaged)
}

impl Pool {
    /// Reads a block: `lsize` bytes that matched the checksum, decompressed. A hole gives `lsize` zeros (none if it was never
    /// written and so has no size).
    ///
    /// # Errors
    /// See [`Reason`]; the error names the block.
    pub fn read(&self, pointer: &BlockPointer) -> Result<Vec<u8>, ReadError> {
        let fail = |reason| ReadError { reason, dva: pointer.copies().next(), birth: pointer.birth };
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| fail(Reason::Damaged));
        let mut out = vec![0; size(pointer.lsize)?];
        match &pointer.target {
            Target::Hole => {}
            Target::Embedded(payload) => {
                let data = payload.get(..size(pointer.psize)?).ok_or_else(|| fail(Reason::Damaged))?;
                decompress(pointer.compression, data, &mut out).map_err(fail)?;
            }
            Target::Stored(_) if pointer.encrypted => return Err(fail(Reason::Encrypted)),
            Target::Stored(_) => {
                let stored = self.read_stored(pointer, 0).map_err(fail)?;
                decompress(pointer.compression, &stored, &mut out).map_err(fail)?;
            }
        }
        Ok(out)
    }

    /// Reads a block wherever it is stored, as a scrub does: every copy, every side of a mirror, every column of a raidz.
    ///
    /// # Errors
    /// An algorithm that is not supported.
    pub fn verify(&self, pointer: &BlockPointer) -> Result<Scrubbed, ReadError> {
        let mut sum = Scrubbed::default();
        let fail = |reason, dva| ReadError { reason, dva: Some(dva), birth: pointer.birth };
        for dva in pointer.copies() {
            if dva.gang {
                // The header and its pieces are read through their own pointers, first good copy each.
                match self.read_gang(pointer, dva, 0) {
                    Ok(_) => sum.good = true,
                    Err(Reason::NoGoodCopy) => sum.bad += 1,
                    Err(reason) => return Err(fail(reason, dva)),
                }
                continue;
            }
            let size = usize::try_from(pointer.psize).map_err(|_| fail(Reason::Damaged, dva))?;
            let mut unsupported = None;
            let found = self.top(dva.vdev).map(|top| {
                top.scrub(dva.offset, size, &mut |data| {
                    checksum_ok(pointer.checksum, pointer.words, data).unwrap_or_else(|reason| {
                        unsupported = Some(reason);
                        true
                    })
                })
            });
            if let Some(reason) = unsupported {
                return Err(fail(reason, dva));
            }
            let found = found.unwrap_or(Scrubbed { good: false, bad: 1 });
            sum = Scrubbed { good: sum.good || found.good, bad: sum.bad + found.bad };
        }
        sum.good |= pointer.copies().next().is_none();
        Ok(sum)
    }

    /// The stored (compressed) bytes from the first copy that verifies.
    fn read_stored(&self, pointer: &BlockPointer, depth: u32) -> Result<Vec<u8>, Reason> {
        let mut last = Reason::NoGoodCopy;
        for dva in pointer.copies() {
            match self.read_copy(pointer, dva, depth) {
                Ok(data) => return Ok(data),
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }

    fn read_copy(&self, pointer: &BlockPointer, dva: Dva, depth: u32) -> Result<Vec<u8>, Reason> {
        if dva.gang {
            return self.read_gang(pointer, dva, depth);
        }
        let size = usize::try_from(pointer.psize).map_err(|_| Reason::Damaged)?;
        let mut verdict = Err(Reason::NoGoodCopy);
        let top = self.top(dva.vdev).ok_or(Reason::NoGoodCopy)?;
        top.read(dva.offset, size, &mut |data| match checksum_ok(pointer.checksum, pointer.words, data) {
            Ok(true) => {
                verdict = Ok(data.to_vec());
                true
            }
            Ok(false) => false,
            Err(reason) => {
                verdict = Err(reason);
                // Nothing that another copy could mend.
                true
            }
        });
        verdict
    }

    /// A gang header holds three block pointers whose data, joined, is the stored block.
    fn read_gang(&self, pointer: &BlockPointer, dva: Dva, depth: u32) -> Result<Vec<u8>, Reason> {
        if depth == GANG_DEPTH_MAX {
            return Err(Reason::Damaged);
        }
        let verifier = [u64::from(dva.vdev), dva.offset, pointer.physical_birth, 0];
        let mut header = None;
        self.top(dva.vdev).ok_or(Reason::NoGoodCopy)?.read(dva.offset, GANG_HEADER, &mut |data| {
            let good = label::embedded_checksum_ok(data, verifier);
            if good {
                header = Some(data.to_vec());
            }
            good
        });
        let header = header.ok_or(Reason::NoGoodCopy)?;
        let size = usize::try_from(pointer.psize).map_err(|_| Reason::Damaged)?;
        let mut whole = Vec::new();
        for child in header.chunks_exact(SIZE).take(3) {
            let child = BlockPointer::parse(child).map_err(|_| Reason::Damaged)?;
            if !child.is_hole() {
                whole.extend_from_slice(&self.read_stored(&child, depth + 1)?);
            }
            if whole.len() > size {
                return Err(Reason::Damaged);
            }
        }
        if whole.len() == size && checksum_ok(pointer.checksum, pointer.words, &whole)? { Ok(whole) } else { Err(Reason::NoGoodCopy) }
    }
}
