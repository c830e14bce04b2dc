//! Vdev labels: geometry, embedded checksums, the config and the uberblock ring.

use alloc::vec::Vec;

use crate::FormatError;
use crate::blkptr::BlockPointer;
use crate::bytes::{View, index};
use crate::nvlist::{self, List};

/// Bytes of one label.
pub const SIZE: u64 = 256 << 10;
/// Labels and boot area at the front of a leaf: where DVA offset 0 lies, in bytes.
pub const FRONT: u64 = 4 << 20;
/// Smallest leaf that OpenZFS accepts, in bytes.
pub const LEAF_MIN: u64 = 64 << 20;

/// `state` in the label of a spare that no pool uses now, and of a cache device.
pub const STATE_SPARE: u64 = 3;
pub const STATE_CACHE: u64 = 4;

const PHYS_OFFSET: usize = 16 << 10;
const PHYS_SIZE: usize = 112 << 10;
const RING_OFFSET: usize = 128 << 10;
const RING_SIZE: usize = 128 << 10;
const ECK_SIZE: usize = 40;
const ECK_MAGIC: u64 = 0x0210_DA7A_B10C_7A11;
const UBERBLOCK_MAGIC: u64 = 0x00BA_B10C;
const MMP_MAGIC: u64 = 0xA11C_EA11;

/// Byte offsets of the four labels on a device of `device_bytes`.
#[must_use]
pub const fn offsets(device_bytes: u64) -> [u64; 4] {
    let psize = device_bytes / SIZE * SIZE;
    [0, SIZE, psize.saturating_sub(2 * SIZE), psize.saturating_sub(SIZE)]
}

/// Checks an embedded checksum: SHA-256 of the region with the checksum field replaced by `verifier`.
#[must_use]
pub fn embedded_checksum_ok(region: &[u8], verifier: codec::Words) -> bool {
    let Some(body) = region.len().checked_sub(ECK_SIZE) else { return false };
    let view = View::new("eck", region);
    let (Ok(magic), Ok(found)) = (view.u64(body), view.words::<4>(body + 8)) else { return false };
    if magic != ECK_MAGIC {
        return false;
    }
    let mut copy = region.to_vec();
    for (slot, word) in copy[body + 8..].chunks_exact_mut(8).zip(verifier) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    codec::sha256(&copy) == found
}

/// Fills in the embedded checksum at the end of `region`.
///
/// # Panics
/// If the region is smaller than the checksum.
pub fn seal(region: &mut [u8], verifier: codec::Words) {
    Seal::of(region).put(region, verifier);
}

/// The embedded checksum of a region that is written to several places: only its end depends on where.
#[derive(Clone, Debug)]
struct Seal(codec::Sha256Begun);

impl Seal {
    /// Puts the magic number into the region, and sums all in front of the place's own part.
    fn of(region: &mut [u8]) -> Self {
        let body = region.len().checked_sub(ECK_SIZE).expect("region holds its checksum");
        region[body..body + 8].copy_from_slice(&ECK_MAGIC.to_le_bytes());
        Self(codec::Sha256Begun::new(&region[..body + 8]))
    }

    /// Fills in the checksum of the same region for a place.
    fn put(&self, region: &mut [u8], verifier: codec::Words) {
        let body = region.len() - ECK_SIZE;
        region[body..body + 8].copy_from_slice(&ECK_MAGIC.to_le_bytes());
        let mut own = [0; 32];
        for (slot, word) in own.as_chunks_mut::<8>().0.iter_mut().zip(verifier) {
            *slot = word.to_le_bytes();
        }
        for (slot, word) in region[body + 8..].chunks_exact_mut(8).zip(self.0.end(&own)) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// What the labels of one device have in front of the uberblock ring (128 KiB): pad, boot block, config.
#[derive(Clone, Debug)]
pub struct Front {
    packed: Vec<u8>,
    boot: Seal,
    config: Seal,
}

impl Front {
    /// Packs a config.
    ///
    /// # Errors
    /// It is larger than its 112 KiB region.
    pub fn new(config: &List) -> Result<Self, FormatError> {
        let packed = nvlist::encode(config);
        if packed.len() > PHYS_SIZE - ECK_SIZE {
            return Err(FormatError::new("label", "config is too large", packed.len() as u64));
        }
        let mut phys = alloc::vec![0; PHYS_SIZE];
        phys[..packed.len()].copy_from_slice(&packed);
        let config = Seal::of(&mut phys);
        Ok(Self { boot: Seal::of(&mut [0; PHYS_OFFSET / 2]), config, packed })
    }

    /// Its bytes for the label at device byte `offset`.
    #[must_use]
    pub fn at(&self, offset: u64) -> Vec<u8> {
        let mut out = alloc::vec![0; RING_OFFSET];
        let (front, phys) = out.split_at_mut(PHYS_OFFSET);
        phys[..self.packed.len()].copy_from_slice(&self.packed);
        self.boot.put(&mut front[PHYS_OFFSET / 2..], [offset + PHYS_OFFSET as u64 / 2, 0, 0, 0]);
        self.config.put(phys, [offset + PHYS_OFFSET as u64, 0, 0, 0]);
        out
    }
}

/// Byte offset within a label, and size, of the ring slot of txg `txg`.
#[must_use]
pub const fn ring_slot(txg: u64, ashift: u32) -> (u64, usize) {
    let shift = if ashift < 10 { 10 } else if ashift > 13 { 13 } else { ashift };
    let size = 1_u64 << shift;
    (RING_OFFSET as u64 + txg % (RING_SIZE as u64 / size) * size, 1 << shift)
}

/// An uberblock: the root of one transaction group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uberblock {
    pub version: u64,
    pub txg: u64,
    /// Wrapping sum of all vdev guids.
    pub guid_sum: u64,
    /// UTC seconds.
    pub timestamp: u64,
    /// The MOS.
    pub root: BlockPointer,
    /// Multihost sequence, the last key when several uberblocks of one txg exist.
    pub mmp_sequence: u64,
    /// True if another host may be using the pool (`multihost=on`).
    pub multihost: bool,
}

impl Uberblock {
    /// The order in which uberblocks are preferred.
    #[must_use]
    pub const fn rank(&self) -> (u64, u64, u64) {
        (self.txg, self.timestamp, self.mmp_sequence)
    }

    /// The sealed ring slot of `size` bytes for the label slot at device byte `offset`.
    #[must_use]
    pub fn encode(&self, size: usize, offset: u64) -> Vec<u8> {
        self.sealed(size).at(offset).to_vec()
    }

    /// The same for any place.
    #[must_use]
    pub fn sealed(&self, size: usize) -> SealedUberblock {
        let mut out = alloc::vec![0; size];
        let mut put = |at: usize, value: u64| out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, UBERBLOCK_MAGIC);
        put(8, self.version);
        put(16, self.txg);
        put(24, self.guid_sum);
        put(32, self.timestamp);
        put(168, self.version);
        put(176, MMP_MAGIC);
        out[40..168].copy_from_slice(&self.root.encode());
        SealedUberblock { seal: Seal::of(&mut out), bytes: out }
    }

    fn parse(data: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("uberblock", data);
        let magic = view.u64(0)?;
        if magic != UBERBLOCK_MAGIC {
            let why = if magic.swap_bytes() == UBERBLOCK_MAGIC { "big-endian pools are not supported" } else { "wrong magic" };
            return Err(view.error(why, magic));
        }
        let mmp = view.u64(176)? == MMP_MAGIC;
        let config = view.u64(192)?;
        Ok(Self {
            version: view.u64(8)?,
            txg: view.u64(16)?,
            guid_sum: view.u64(24)?,
            timestamp: view.u64(32)?,
            root: BlockPointer::parse(view.slice(40, 128)?)?,
            mmp_sequence: if mmp && config & 2 != 0 { config >> 32 & 0xFFFF } else { 0 },
            multihost: mmp && view.u64(184)? != 0,
        })
    }
}

/// An uberblock that goes to several places.
#[derive(Clone, Debug)]
pub struct SealedUberblock {
    bytes: Vec<u8>,
    seal: Seal,
}

impl SealedUberblock {
    /// Its bytes for device byte `offset`.
    pub fn at(&mut self, offset: u64) -> &[u8] {
        self.seal.put(&mut self.bytes, [offset, 0, 0, 0]);
        &self.bytes
    }
}

/// What one label says.
#[derive(Clone, Debug)]
pub struct Label {
    pub config: List,
    /// Valid uberblocks, in ring order.
    pub uberblocks: Vec<Uberblock>,
}

/// Parses the label whose first byte lies at `offset` on the device.
///
/// # Errors
/// See [`Parser::parse`].
pub fn parse(data: &[u8], offset: u64) -> Result<Label, FormatError> {
    Parser::default().parse(data, offset)
}

/// Reads labels of one pool. A device's four labels say the same, and the rings of all devices hold the same uberblocks: what was found good once is compared,
/// not summed, where it is found again.
#[derive(Debug, Default)]
pub struct Parser {
    /// The config region of this device that verified last.
    config: Option<(Vec<u8>, List)>,
    /// By ring slot, what verified there last.
    slots: Vec<Option<(Vec<u8>, Uberblock)>>,
}

/// What a region holds in front of its checksum, which depends on its place.
fn body(region: &[u8]) -> &[u8] {
    &region[..region.len().saturating_sub(ECK_SIZE)]
}

impl Parser {
    /// Labels of another device follow, with a config of their own.
    pub fn next_device(&mut self) {
        self.config = None;
    }

    /// Parses the label whose first byte lies at `offset` on the device.
    ///
    /// # Errors
    /// Too short; no valid checksum over the config; a config that does not parse. Damaged uberblock slots are left out, as the
    /// ring is made for it.
    pub fn parse(&mut self, data: &[u8], offset: u64) -> Result<Label, FormatError> {
        let view = View::new("label", data);
        let phys = view.slice(PHYS_OFFSET, PHYS_SIZE)?;
        let at = |region: usize| [offset.wrapping_add(region as u64), 0, 0, 0];
        let config = match &self.config {
            Some((known, config)) if known == body(phys) => config.clone(),
            _ if !embedded_checksum_ok(phys, at(PHYS_OFFSET)) => return Err(view.error("checksum of the config does not match", offset)),
            _ => {
                let config = nvlist::parse(body(phys))?;
                self.config = Some((body(phys).to_vec(), config.clone()));
                config
            }
        };
        let ashift = config.list("vdev_tree").and_then(|tree| tree.number("ashift")).unwrap_or(9);
        let slot_size = 1_usize << index(ashift.clamp(10, 13));
        let ring = view.slice(RING_OFFSET, RING_SIZE)?;
        let mut uberblocks = Vec::new();
        self.slots.resize(RING_SIZE / slot_size, None);
        for (slot, (data, known)) in ring.chunks_exact(slot_size).zip(&mut self.slots).enumerate() {
            match known {
                Some((known, uberblock)) if known == body(data) => uberblocks.push(uberblock.clone()),
                _ if embedded_checksum_ok(data, at(RING_OFFSET + slot * slot_size)) => {
                    let uberblock = Uberblock::parse(data)?;
                    *known = Some((body(data).to_vec(), uberblock.clone()));
                    uberblocks.push(uberblock);
                }
                _ => {}
            }
        }
        Ok(Label { config, uberblocks })
    }
}
