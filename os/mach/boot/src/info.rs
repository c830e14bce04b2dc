//! What the loader said: parsed once, copied out, checked.

use core::fmt;

/// Entries of the memory map that are kept.
pub const MAX_REGIONS: usize = 128;
/// Bytes of the command line that are kept.
pub const MAX_COMMAND_LINE: usize = 2048;

/// EAX at a Multiboot2 entry (Multiboot2 specification, section 3.3).
const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;
/// First word of a PVH start info block (`xen/include/public/arch-x86/hvm/start_info.h`).
const PVH_MAGIC: u32 = 0x336e_c578;

/// Physical addresses `start .. end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PhysRange {
    pub start: u64,
    pub end: u64,
}

impl PhysRange {
    /// From start and length; `None` if it wraps.
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }
    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
    /// True if it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// What a region of physical memory is for (ACPI 6.5, table 15.374, the same numbers for PVH and Multiboot2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    Usable,
    /// ACPI tables; ours after they were read.
    AcpiTables,
    /// ACPI non-volatile storage: never touched.
    AcpiNvs,
    /// Reserved, bad or unknown.
    Reserved,
}

/// An entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub range: PhysRange,
    pub kind: RegionKind,
}

/// Who started us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    Pvh,
    Multiboot2,
}

/// Where the image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    /// Physical address of the image base.
    pub physical: u64,
    /// Lengths from the image base, page-aligned: end of text, of read-only data, of data and bss, of the symbol table.
    pub text_end: u64,
    pub rodata_end: u64,
    pub data_end: u64,
    pub end: u64,
    /// Offset of the page below the boot stack that must not be mapped.
    pub boot_stack_guard: u64,
}

/// Why the loader's words were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// Neither PVH nor Multiboot2 (the two words that should have said so).
    UnknownLoader { eax: u32, first_word: u32 },
    /// A structure lies outside the addresses that can be read, at this physical address.
    Unreadable(u64),
    /// The loader gave no memory map.
    NoMemoryMap,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLoader { eax, first_word } => {
                write!(f, "started by neither PVH nor Multiboot2 (eax {eax:#x}, first word {first_word:#x})")
            }
            Self::Unreadable(address) => write!(f, "boot information at {address:#x} cannot be read"),
            Self::NoMemoryMap => write!(f, "the loader gave no memory map"),
        }
    }
}

/// The kernel's command line: words separated by spaces; after a word `--` they belong to init.
#[derive(Clone, Copy)]
pub struct CommandLine {
    bytes: [u8; MAX_COMMAND_LINE],
    len: usize,
    /// Bytes the loader gave beyond [`MAX_COMMAND_LINE`], which are lost.
    pub dropped: usize,
}

impl CommandLine {
    fn new(text: &[u8]) -> Self {
        let mut line = Self { bytes: [0; MAX_COMMAND_LINE], len: 0, dropped: 0 };
        for byte in text {
            if line.len == MAX_COMMAND_LINE {
                line.dropped += 1;
            } else {
                // Not UTF-8 on purpose: what is not printable ASCII would only confuse the console.
                line.bytes[line.len] = if (0x20..0x7f).contains(byte) { *byte } else { b' ' };
                line.len += 1;
            }
        }
        line
    }
    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).expect("only printable ASCII was stored")
    }
    /// Words for the kernel: those before `--`.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.text().split_ascii_whitespace().take_while(|word| *word != "--")
    }
    /// Words for init: those after `--`.
    pub fn init_arguments(&self) -> impl Iterator<Item = &str> {
        self.text().split_ascii_whitespace().skip_while(|word| *word != "--").skip(1)
    }
    /// The value of the last word `key=value`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.words().filter_map(|word| word.split_once('=')).filter(|(name, _)| *name == key).map(|(_, value)| value).last()
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

/// What the loader told us. Nothing in it points into memory that is handed out later, except the initrd, which
/// [`BootInfo::usable`] leaves out.
#[derive(Clone, Debug)]
pub struct BootInfo {
    pub loader: Loader,
    pub command_line: CommandLine,
    /// First module.
    pub initrd: Option<PhysRange>,
    /// The ACPI root pointer, its first 36 bytes, if the loader or a search found one (ACPI 6.5, section 5.2.5.3).
    pub rsdp: Option<[u8; 36]>,
    pub image: ImageLayout,
    regions: [Region; MAX_REGIONS],
    region_count: usize,
    /// Entries of the memory map that made no sense or did not fit.
    pub regions_dropped: usize,
}

impl BootInfo {
    /// The memory map as the loader gave it, sorted by address.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.region_count]
    }

    /// Calls `give` for each run of whole pages that nobody uses: usable regions without the first megabyte, the image and the
    /// initrd, and without what another entry claims.
    pub fn usable(&self, mut give: impl FnMut(PhysRange)) {
        for region in self.regions().iter().filter(|region| region.kind == RegionKind::Usable) {
            let mut at = page_up(region.range.start).max(0x10_0000);
            let end = region.range.end & !0xfff;
            while at < end {
                // The first obstacle that ends after `at` bounds this run.
                let obstacle = self.obstacles().filter(|o| o.end > at && o.start < end).min_by_key(|o| o.start);
                let run_end = obstacle.map_or(end, |o| (o.start & !0xfff).clamp(at, end));
                if run_end > at {
                    give(PhysRange { start: at, end: run_end });
                }
                at = obstacle.map_or(end, |o| page_up(o.end)).max(run_end);
            }
        }
    }

    fn obstacles(&self) -> impl Iterator<Item = PhysRange> {
        let image = PhysRange { start: self.image.physical, end: self.image.physical + self.image.end };
        let claimed = self.regions().iter().filter(|region| region.kind != RegionKind::Usable).map(|region| region.range);
        core::iter::once(image).chain(self.initrd).chain(claimed).filter(|range| !range.is_empty())
    }

    /// First address above all memory that is RAM or ACPI tables.
    #[must_use]
    pub fn memory_end(&self) -> u64 {
        self.regions().iter().filter(|r| r.kind != RegionKind::Reserved).map(|r| r.range.end).max().unwrap_or(0)
    }

    fn add_region(&mut self, start: u64, len: u64, kind: u32) {
        let kind = match kind {
            1 => RegionKind::Usable,
            3 => RegionKind::AcpiTables,
            4 => RegionKind::AcpiNvs,
            _ => RegionKind::Reserved,
        };
        // 52 bits are the architectural limit of physical addresses (APM vol. 2, section 5.1).
        let range = PhysRange::new(start, len).filter(|range| !range.is_empty() && range.end <= 1 << 52);
        match range {
            Some(range) if self.region_count < MAX_REGIONS => {
                self.regions[self.region_count] = Region { range, kind };
                self.region_count += 1;
            }
            _ => self.regions_dropped += 1,
        }
    }
}

const fn page_up(address: u64) -> u64 {
    (address.saturating_add(0xfff)) & !0xfff
}

/// Little-endian fields of bytes that may be too short.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// Reads what the loader left. `eax` and `info` are the entry's EAX and EBX; `memory` gives the bytes at a physical address, if
/// they can be read at all.
///
/// # Errors
/// See [`BootError`].
pub fn parse<'m>(
    eax: u32,
    info: u64,
    image: ImageLayout,
    memory: &dyn Fn(u64, usize) -> Option<&'m [u8]>,
) -> Result<BootInfo, BootError> {
    let first_word = memory(info, 4).and_then(|bytes| u32_at(bytes, 0)).ok_or(BootError::Unreadable(info))?;
    let mut boot = BootInfo {
        loader: Loader::Pvh,
        command_line: CommandLine::new(b""),
        initrd: None,
        rsdp: None,
        image,
        regions: [Region { range: PhysRange { start: 0, end: 0 }, kind: RegionKind::Reserved }; MAX_REGIONS],
        region_count: 0,
        regions_dropped: 0,
    };
    if eax == MULTIBOOT2_MAGIC {
        boot.loader = Loader::Multiboot2;
        let bytes = usize::try_from(first_word).ok().and_then(|len| memory(info, len)).ok_or(BootError::Unreadable(info))?;
        multiboot2(&mut boot, bytes);
    } else if first_word == PVH_MAGIC {
        pvh(&mut boot, info, memory)?;
    } else {
        return Err(BootError::UnknownLoader { eax, first_word });
    }
    if boot.region_count == 0 {
        return Err(BootError::NoMemoryMap);
    }
    boot.regions[..boot.region_count].sort_unstable_by_key(|region| region.range.start);
    if boot.rsdp.is_none() {
        boot.rsdp = search_rsdp(memory);
    }
    adopt_initrd(&mut boot);
    Ok(boot)
}

/// A loader may put the end of the initrd over memory that firmware reserved for its own use during boot and still claims (SeaBIOS does, for each
/// disk it drives). Where the initrd is, there is memory: the usable region it starts in reaches as far as it does. Nobody else gets the part that firmware
/// claims.
fn adopt_initrd(boot: &mut BootInfo) {
    let Some(initrd) = boot.initrd else { return };
    let claimed = |at: u64| boot.regions().iter().any(|region| region.range.start <= at && at < region.range.end);
    let last = initrd.end.saturating_sub(1);
    if !claimed(last) {
        return;
    }
    let regions = &mut boot.regions[..boot.region_count];
    let starts_in = |region: &&mut Region| region.kind == RegionKind::Usable && region.range.start <= initrd.start && initrd.start < region.range.end;
    if let Some(region) = regions.iter_mut().find(starts_in) {
        region.range.end = region.range.end.max(initrd.end);
    }
}

/// `struct hvm_start_info`, version 0 and 1.
fn pvh<'m>(boot: &mut BootInfo, info: u64, memory: &dyn Fn(u64, usize) -> Option<&'m [u8]>) -> Result<(), BootError> {
    let unreadable = BootError::Unreadable(info);
    let bytes = memory(info, 40).ok_or(unreadable)?;
    let version = u32_at(bytes, 4).ok_or(unreadable)?;
    let modules = u32_at(bytes, 12).ok_or(unreadable)?;
    let module_list = u64_at(bytes, 16).ok_or(unreadable)?;
    let command_line = u64_at(bytes, 24).ok_or(unreadable)?;
    let rsdp = u64_at(bytes, 32).ok_or(unreadable)?;
    if command_line != 0 {
        boot.command_line = CommandLine::new(c_string(command_line, memory));
    }
    if modules > 0 {
        let module = memory(module_list, 32).ok_or(BootError::Unreadable(module_list))?;
        boot.initrd = u64_at(module, 0).zip(u64_at(module, 8)).and_then(|(start, len)| PhysRange::new(start, len));
    }
    if rsdp != 0 {
        boot.rsdp = rsdp_at(rsdp, memory);
    }
    if version >= 1 {
        let bytes = memory(info, 56).ok_or(unreadable)?;
        let map = u64_at(bytes, 40).ok_or(unreadable)?;
        let entries = u32_at(bytes, 48).ok_or(unreadable)?;
        for index in 0..u64::from(entries) {
            let at = map.checked_add(index * 24).ok_or(BootError::Unreadable(map))?;
            let entry = memory(at, 24).ok_or(BootError::Unreadable(at))?;
            if let (Some(start), Some(len), Some(kind)) = (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 16)) {
                boot.add_region(start, len, kind);
            }
        }
    }
    Ok(())
}

/// The tag list (Multiboot2 specification, section 3.4). A tag that does not fit ends the list.
fn multiboot2(boot: &mut BootInfo, bytes: &[u8]) {
    let mut at = 8_usize;
    while let (Some(kind), Some(size)) = (u32_at(bytes, at), u32_at(bytes, at.saturating_add(4))) {
        let Some(tag) = usize::try_from(size).ok().and_then(|size| bytes.get(at..at.checked_add(size)?)) else { break };
        if tag.len() < 8 {
            break;
        }
        let body = &tag[8..];
        match kind {
            0 => break,
            1 => boot.command_line = CommandLine::new(until_nul(body)),
            3 if boot.initrd.is_none() => {
                boot.initrd = u32_at(body, 0)
                    .zip(u32_at(body, 4))
                    .map(|(start, end)| PhysRange { start: start.into(), end: end.into() })
                    .filter(|range| !range.is_empty());
            }
            6 => {
                let entry_size = u32_at(body, 0).and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
                if entry_size >= 24 {
                    for entry in body.get(8..).unwrap_or(&[]).chunks_exact(entry_size) {
                        if let (Some(start), Some(len), Some(kind)) = (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 16)) {
                            boot.add_region(start, len, kind);
                        }
                    }
                }
            }
            // ACPI old and new RSDP: the structure itself is in the tag. The new one wins.
            14 if boot.rsdp.is_none() => boot.rsdp = rsdp_from(body),
            15 => boot.rsdp = rsdp_from(body).or(boot.rsdp),
            _ => {}
        }
        let Some(next) = at.checked_add(tag.len().next_multiple_of(8)) else { break };
        at = next;
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}

fn c_string<'m>(at: u64, memory: &dyn Fn(u64, usize) -> Option<&'m [u8]>) -> &'m [u8] {
    // One byte more than is kept, so that a line that is too long can be told from one that just fits.
    memory(at, MAX_COMMAND_LINE + 1).map_or(&[], until_nul)
}

/// A root pointer, if signature and checksum are right. Version 0 has 20 bytes; the rest is zero then.
fn rsdp_from(bytes: &[u8]) -> Option<[u8; 36]> {
    let old = bytes.get(..20)?;
    if !old.starts_with(b"RSD PTR ") || old.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
        return None;
    }
    let mut out = [0; 36];
    let len = if old[15] >= 2 { 36 } else { 20 };
    out[..len].copy_from_slice(bytes.get(..len)?);
    Some(out)
}

fn rsdp_at<'m>(at: u64, memory: &dyn Fn(u64, usize) -> Option<&'m [u8]>) -> Option<[u8; 36]> {
    memory(at, 36).and_then(rsdp_from)
}

/// Looks where the BIOS keeps it: the first KiB of the EBDA, then 0xe0000..0x100000 (ACPI 6.5, section 5.2.5.1).
fn search_rsdp<'m>(memory: &dyn Fn(u64, usize) -> Option<&'m [u8]>) -> Option<[u8; 36]> {
    let ebda = memory(0x40e, 2).map_or(0, |bytes| u64::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 4);
    let places = [ebda..ebda + 1024, 0xe_0000..0x10_0000];
    places
        .into_iter()
        .filter(|place| place.start >= 0x400)
        .find_map(|place| place.step_by(16).find_map(|at| rsdp_at(at, memory)))
}
