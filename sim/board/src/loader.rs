//! Kernel images: PVH ELF, Multiboot 1 and 2, Linux bzImage.
//!
//! # Theory
//! The image is foreign bytes: everything is read through checked slices, and what does not fit is an error that names what is wrong. Nothing is
//! guessed: an image with none of the entry notes is refused with a list of what was looked for. If an image offers several ways, the order is
//! PVH, Multiboot 2, Multiboot 1 (an ELF), then bzImage; but a kernel with a Multiboot 1 header is not entered by PVH (nor is it by QEMU): Xen's own
//! PVH entry is for a guest of Xen, not for a machine.
//!
//! An image that gzip packed is unpacked first, as GRUB does.
//!
//! PVH: Xen `docs/misc/pvh.pandoc`, `start_info.h`. Multiboot: specifications 0.6.96 and 2.0. Linux: `Documentation/arch/x86/boot.rst`.
//!
//! # Structures
//! Boot information lies in conventional memory from [`INFO`] up; the initial RAM disk and other modules at the top of low RAM, page-aligned. Both give
//! way to the image ([`Loaded`]), wherever that lies; only the BIOS's own places cannot, and an image that lies there is refused.

use std::fmt;

use goblin::elf::header::header32;
use goblin::elf::program_header::{PT_LOAD, PT_NOTE};
use sim_cpu::{CpuState, TableRegister};
use sim_mem::GuestMemory;

use crate::api::Boot;
use crate::{gzip, map};

/// Boot information: from here to the end of conventional memory.
const INFO: u64 = 0x9_0000;
const INFO_END: u64 = map::CONVENTIONAL_END;

/// The services of [`bios`], in the extended BIOS data area.
const BIOS: u64 = map::CONVENTIONAL_END + 0x100;

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file is empty.
    Empty,
    /// Neither an ELF nor a bzImage, and no Multiboot header.
    Foreign { first: Vec<u8> },
    /// An ELF for another machine.
    Machine { machine: u16 },
    /// An ELF that has no PVH note and no Multiboot header.
    NoEntry,
    /// The file ends before what its headers describe.
    Truncated { what: &'static str, needs: u64, has: u64 },
    /// A header field makes no sense.
    Malformed { what: &'static str },
    /// A part of the image does not lie in RAM, which ends at `end` below 4 GiB.
    NoRam { what: &'static str, address: u64, length: u64, end: u64 },
    /// A part of the image lies where the BIOS has its data.
    Taken { what: &'static str, address: u64, length: u64 },
    /// Boot information, command line and modules do not fit where they go, `from` to `to`, beside the image.
    NoRoom { what: &'static str, length: u64, from: u64, to: u64 },
    /// Modules beside the initial RAM disk, for a kernel whose protocol has none.
    Modules,
    /// The command line is longer than the kernel says it takes.
    CommandLine { length: u64, limit: u64 },
    /// The image asks for something the board does not have.
    Unsupported { what: String },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Empty => write!(f, "kernel image is empty"),
            ImageError::Foreign { first } => {
                write!(f, "kernel image is neither ELF nor bzImage nor Multiboot (it begins with {first:02x?})")
            }
            ImageError::Machine { machine } => write!(f, "kernel image is for ELF machine {machine}, not for x86 (3) or x86-64 (62)"),
            ImageError::NoEntry => {
                write!(f, "kernel ELF has no entry a boot loader could use: no PVH note (Xen, type 18), no Multiboot 1 or 2 header")
            }
            ImageError::Truncated { what, needs, has } => {
                write!(f, "kernel image is truncated: {what} needs {needs} bytes, the file has {has}")
            }
            ImageError::Malformed { what } => write!(f, "kernel image is malformed: {what}"),
            ImageError::NoRam { what, address, length, end } => {
                write!(f, "{what} at {address:#x}+{length:#x} does not lie in RAM (which ends at {end:#x} below 4 GiB)")
            }
            ImageError::Taken { what, address, length } => write!(f, "kernel image has parts where the {what} lies ({address:#x}+{length:#x})"),
            ImageError::NoRoom { what, length, from, to } => {
                write!(f, "{what} ({length} bytes) does not fit into RAM where it may lie ({from:#x} to {to:#x}, beside the kernel)")
            }
            ImageError::Modules => write!(f, "modules are given beside the initial RAM disk, and Linux takes none"),
            ImageError::CommandLine { length, limit } => write!(f, "command line has {length} bytes, and this kernel takes at most {limit}"),
            ImageError::Unsupported { what } => write!(f, "kernel image asks for {what}: the board does not offer that"),
        }
    }
}

impl std::error::Error for ImageError {}

/// One range of the firmware's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapEntry {
    pub base: u64,
    pub length: u64,
    /// E820 type: 1 RAM, 2 reserved, 3 ACPI.
    pub kind: u32,
}

/// What loaders need of the board.
#[derive(Debug)]
pub(crate) struct Firmware {
    pub map: Vec<MapEntry>,
    pub rsdp: u64,
    pub rsdp_bytes: Vec<u8>,
    /// End of RAM below 4 GiB.
    pub low_end: u64,
}

/// Loads the image and everything it is handed. The result is the state of the bootstrap vCPU.
pub(crate) fn load(memory: &mut GuestMemory, boot: &Boot<'_>, firmware: &Firmware) -> Result<CpuState, ImageError> {
    if boot.kernel.is_empty() {
        return Err(ImageError::Empty);
    }
    match gzip::body(boot.kernel) {
        // What does not fit into RAM is no kernel for this board.
        Some(packed) => load_unpacked(memory, &Boot { kernel: &gzip::unpack(packed?, firmware.low_end)?, ..*boot }, firmware),
        None => load_unpacked(memory, boot, firmware),
    }
}

fn load_unpacked(memory: &mut GuestMemory, boot: &Boot<'_>, firmware: &Firmware) -> Result<CpuState, ImageError> {
    let image = Bytes(boot.kernel);
    if boot.kernel.starts_with(b"\x7fELF") {
        let elf = Elf::parse(image)?;
        let plain = Multiboot1::find(image);
        if !matches!(plain, Ok(Some(_))) && let Some(entry) = elf.pvh_entry(image)? {
            let loaded = elf.load(image, memory)?;
            loaded.enter(entry)?;
            return pvh(memory, boot, firmware, entry, &loaded);
        }
        if let Some(header) = Multiboot2::find(image)? {
            let (loaded, entry) = match header.addresses {
                Some(addresses) => (addresses.load(image, memory)?, header.entry.ok_or(ImageError::Malformed { what: "Multiboot 2 header (addresses without an entry)" })?),
                None => (elf.load(image, memory)?, header.entry.map_or_else(|| elf.physical_entry(), Ok)?),
            };
            return multiboot2(memory, boot, firmware, entry, &loaded);
        }
        if let Some(header) = plain? {
            let (loaded, entry) = match header.addresses {
                Some((addresses, entry)) => (addresses.load(image, memory)?, entry),
                None => (elf.load(image, memory)?, elf.physical_entry()?),
            };
            return multiboot1(memory, boot, firmware, entry, &loaded);
        }
        return Err(ImageError::NoEntry);
    }
    if image.u32(0x202).is_some_and(|magic| magic == u32::from_le_bytes(*b"HdrS")) {
        return linux(memory, boot, firmware, image);
    }
    if let Some(Multiboot2 { entry: Some(entry), addresses: Some(addresses) }) = Multiboot2::find(image)? {
        let loaded = addresses.load(image, memory)?;
        return multiboot2(memory, boot, firmware, entry, &loaded);
    }
    if let Some((addresses, entry)) = Multiboot1::find(image)?.and_then(|header| header.addresses) {
        let loaded = addresses.load(image, memory)?;
        return multiboot1(memory, boot, firmware, entry, &loaded);
    }
    Err(ImageError::Foreign { first: boot.kernel.iter().copied().take(8).collect() })
}

/// Checked reads of a file.
#[derive(Clone, Copy, Debug)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn slice(self, at: u64, length: u64, what: &'static str) -> Result<&'a [u8], ImageError> {
        let has = self.0.len() as u64;
        let needs = at.checked_add(length).ok_or(ImageError::Malformed { what })?;
        if needs > has {
            return Err(ImageError::Truncated { what, needs, has });
        }
        // Both fit: they are at most the slice's length.
        Ok(&self.0[at as usize..needs as usize])
    }
    fn u16(self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.0.get(at..at.checked_add(2)?)?.try_into().ok()?))
    }
    fn u32(self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.0.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }
    fn u64(self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.0.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }
}

/// Memory that is taken: where the parts of the image lie, from and to.
#[derive(Clone, Debug, Default)]
struct Loaded {
    parts: Vec<(u64, u64)>,
}

impl Loaded {
    /// The part that shares memory with this range.
    fn meets(&self, address: u64, length: u64) -> Option<(u64, u64)> {
        self.parts.iter().copied().find(|&(from, to)| address < to && from < address.saturating_add(length))
    }

    /// The lowest place from `at` up that is free.
    fn free_up(&self, mut at: u64, length: u64, align: u64) -> u64 {
        at = at.next_multiple_of(align);
        while let Some((_, to)) = self.meets(at, length) {
            at = to.next_multiple_of(align);
        }
        at
    }

    /// The highest place below `top` that is free and page-aligned.
    fn free_down(&self, mut top: u64, length: u64) -> Option<u64> {
        loop {
            let at = top.checked_sub(length)? & !0xfff;
            match self.meets(at, length) {
                Some((from, _)) => top = from,
                None => return Some(at),
            }
        }
    }

    /// Nothing may lie where the firmware has its own.
    fn keep_off(&self, what: &'static str, from: u64, to: u64) -> Result<(), ImageError> {
        match self.meets(from, to - from) {
            Some(_) => Err(ImageError::Taken { what, address: from, length: to - from }),
            None => Ok(()),
        }
    }

    /// An entry outside the image would only run into the void.
    fn enter(&self, entry: u32) -> Result<(), ImageError> {
        self.meets(entry.into(), 1).map(|_| ()).ok_or(ImageError::Malformed { what: "the entry lies outside what is loaded" })
    }
}

fn put(memory: &mut GuestMemory, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), ImageError> {
    let length = bytes.len() as u64;
    if !is_ram(memory, address, length) {
        return Err(no_ram(memory, what, address, length));
    }
    memory.load(address, bytes).map_err(|_| no_ram(memory, what, address, length))
}

fn no_ram(memory: &GuestMemory, what: &'static str, address: u64, length: u64) -> ImageError {
    let low = memory.map().iter().filter(|range| range.writable && range.gpa.start < map::HIGH_RAM);
    ImageError::NoRam { what, address, length, end: low.map(|range| range.gpa.end).max().unwrap_or(0) }
}

fn is_ram(memory: &GuestMemory, address: u64, length: u64) -> bool {
    let Some(end) = address.checked_add(length) else { return false };
    length == 0 || memory.map().iter().any(|range| range.writable && range.gpa.start <= address && end <= range.gpa.end)
}

/// One loadable segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    physical: u64,
    virtual_address: u64,
    file_size: u64,
    memory_size: u64,
}

#[derive(Debug)]
struct Elf {
    entry: u64,
    segments: Vec<Segment>,
    notes: Vec<(u64, u64)>,
}

impl Elf {
    fn parse(image: Bytes<'_>) -> Result<Elf, ImageError> {
        let is_64 = match image.0.get(4) {
            Some(1) => false,
            Some(2) => true,
            Some(_) => return Err(ImageError::Malformed { what: "ELF class" }),
            None => return Err(ImageError::Truncated { what: "ELF header", needs: 16, has: image.0.len() as u64 }),
        };
        if image.0.get(5) != Some(&1) {
            return Err(ImageError::Malformed { what: "ELF byte order (big-endian)" });
        }
        let size = if is_64 { 64 } else { header32::SIZEOF_EHDR as u64 };
        image.slice(0, size, "ELF header")?;
        let machine = image.u16(18).unwrap_or(0);
        if machine != 62 && machine != 3 {
            return Err(ImageError::Machine { machine });
        }
        let missing = ImageError::Malformed { what: "ELF header" };
        let word = |wide: usize, narrow: usize| if is_64 { image.u64(wide) } else { image.u32(narrow).map(u64::from) };
        let entry = word(24, 24).ok_or(missing.clone())?;
        let table = word(32, 28).ok_or(missing.clone())?;
        let entry_size = u64::from(image.u16(if is_64 { 54 } else { 42 }).ok_or(missing.clone())?);
        let count = u64::from(image.u16(if is_64 { 56 } else { 44 }).ok_or(missing)?);
        let least = if is_64 { 56 } else { 32 };
        if count > 0 && entry_size < least {
            return Err(ImageError::Malformed { what: "ELF program header size" });
        }
        let mut elf = Elf { entry, segments: Vec::new(), notes: Vec::new() };
        for index in 0..count {
            let at = table.checked_add(index * entry_size).ok_or(ImageError::Malformed { what: "ELF program header offset" })?;
            let header = Bytes(image.slice(at, least, "ELF program headers")?);
            let field = |wide: usize, narrow: usize| {
                (if is_64 { header.u64(wide) } else { header.u32(narrow).map(u64::from) })
                    .ok_or(ImageError::Malformed { what: "ELF program header" })
            };
            let segment = Segment {
                offset: field(8, 4)?,
                virtual_address: field(16, 8)?,
                physical: field(24, 12)?,
                file_size: field(32, 16)?,
                memory_size: field(40, 20)?,
            };
            match header.u32(0) {
                Some(PT_LOAD) => elf.segments.push(segment),
                Some(PT_NOTE) => elf.notes.push((segment.offset, segment.file_size)),
                _ => {}
            }
        }
        if elf.segments.is_empty() {
            return Err(ImageError::Malformed { what: "ELF has nothing to load" });
        }
        Ok(elf)
    }

    /// The entry of the Xen PHYS32_ENTRY note (type 18).
    fn pvh_entry(&self, image: Bytes<'_>) -> Result<Option<u32>, ImageError> {
        for &(offset, length) in &self.notes {
            let notes = Bytes(image.slice(offset, length, "ELF notes")?);
            let mut at = 0usize;
            while let (Some(name_size), Some(size), Some(kind)) = (notes.u32(at), notes.u32(at + 4), notes.u32(at + 8)) {
                let name_at = at + 12;
                let value_at = name_at + (name_size as usize).next_multiple_of(4);
                let name = notes.0.get(name_at..name_at + name_size as usize);
                if kind == 18 && name == Some(b"Xen\0") {
                    let entry = match size {
                        4 => notes.u32(value_at).map(u64::from),
                        8 => notes.u64(value_at),
                        _ => None,
                    };
                    let entry = entry.and_then(|entry| u32::try_from(entry).ok());
                    return entry.map(Some).ok_or(ImageError::Malformed { what: "PVH note" });
                }
                at = value_at + (size as usize).next_multiple_of(4);
            }
        }
        Ok(None)
    }

    /// The entry as a physical address: kernels may be linked high.
    fn physical_entry(&self) -> Result<u32, ImageError> {
        let through = self.segments.iter().find(|segment| {
            segment.virtual_address <= self.entry && self.entry - segment.virtual_address < segment.memory_size
        });
        let physical = through.map_or(self.entry, |segment| segment.physical.wrapping_add(self.entry - segment.virtual_address));
        u32::try_from(physical).map_err(|_| ImageError::Malformed { what: "ELF entry above 4 GiB" })
    }

    fn load(&self, image: Bytes<'_>, memory: &mut GuestMemory) -> Result<Loaded, ImageError> {
        let mut loaded = Loaded::default();
        for segment in &self.segments {
            if segment.memory_size < segment.file_size {
                return Err(ImageError::Malformed { what: "ELF segment is larger in the file than in memory" });
            }
            if segment.memory_size == 0 {
                continue;
            }
            let bytes = image.slice(segment.offset, segment.file_size, "ELF segment")?;
            if !is_ram(memory, segment.physical, segment.memory_size) {
                return Err(no_ram(memory, "ELF segment", segment.physical, segment.memory_size));
            }
            if loaded.meets(segment.physical, segment.memory_size).is_some() {
                return Err(ImageError::Malformed { what: "ELF segments share memory" });
            }
            // What lies past the file's part is zero: so is fresh RAM.
            put(memory, "ELF segment", segment.physical, bytes)?;
            loaded.parts.push((segment.physical, segment.physical + segment.memory_size));
        }
        Ok(loaded)
    }
}

/// Lays out boot information from [`INFO`] up, around the image.
#[derive(Debug)]
struct Layout<'a> {
    next: u64,
    loaded: &'a Loaded,
}

impl<'a> Layout<'a> {
    fn new(loaded: &'a Loaded) -> Self {
        Self { next: INFO, loaded }
    }
    fn reserve(&mut self, length: u64, what: &'static str) -> Result<u64, ImageError> {
        self.reserve_aligned(length, 16, what)
    }
    fn reserve_aligned(&mut self, length: u64, align: u64, what: &'static str) -> Result<u64, ImageError> {
        let at = self.loaded.free_up(self.next, length, align);
        self.next = at + length;
        if self.next > INFO_END { Err(ImageError::NoRoom { what, length, from: INFO, to: INFO_END }) } else { Ok(at) }
    }
    fn put(&mut self, memory: &mut GuestMemory, bytes: &[u8], what: &'static str) -> Result<u64, ImageError> {
        let at = self.reserve(bytes.len() as u64, what)?;
        put(memory, what, at, bytes)?;
        Ok(at)
    }
    fn text(&mut self, memory: &mut GuestMemory, text: &str, what: &'static str) -> Result<u64, ImageError> {
        self.put(memory, &[text.as_bytes(), &[0]].concat(), what)
    }
}

/// A module in memory.
#[derive(Clone, Copy, Debug)]
struct Placed<'a> {
    at: u64,
    length: u64,
    append: &'a str,
}

/// Places the initial RAM disk and the modules after it, from the top of low RAM (and from `limit`) downwards, around the image.
fn place_modules<'a>(memory: &mut GuestMemory, boot: &Boot<'a>, firmware: &Firmware, loaded: &Loaded, limit: u64) -> Result<Vec<Placed<'a>>, ImageError> {
    loaded.keep_off("extended BIOS data area", map::CONVENTIONAL_END, map::VIDEO)?;
    let initrd = boot.initrd.iter().map(|&content| ("initial RAM disk", content, ""));
    let mut top = firmware.low_end.min(limit);
    let mut placed = Vec::new();
    for (what, content, append) in initrd.chain(boot.modules.iter().map(|module| ("module", module.content, module.append))) {
        let length = content.len() as u64;
        let no_room = ImageError::NoRoom { what, length, from: map::FIRMWARE_END, to: top };
        let at = loaded.free_down(top, length).filter(|&at| at >= map::FIRMWARE_END).ok_or(no_room)?;
        put(memory, what, at, content)?;
        placed.push(Placed { at, length, append });
        top = at;
    }
    Ok(placed)
}

fn pvh(memory: &mut GuestMemory, boot: &Boot<'_>, firmware: &Firmware, entry: u32, loaded: &Loaded) -> Result<CpuState, ImageError> {
    let placed = place_modules(memory, boot, firmware, loaded, u64::MAX)?;
    let mut layout = Layout::new(loaded);
    let info = layout.reserve(56, "start info")?;
    let command_line = layout.text(memory, boot.append, "command line")?;
    let mut entries = Vec::new();
    for entry in &firmware.map {
        entries.extend_from_slice(&entry.base.to_le_bytes());
        entries.extend_from_slice(&entry.length.to_le_bytes());
        entries.extend_from_slice(&entry.kind.to_le_bytes());
        entries.extend_from_slice(&[0; 4]);
    }
    let map_at = layout.put(memory, &entries, "memory map")?;
    let mut list = Vec::new();
    for module in &placed {
        let append = if module.append.is_empty() { 0 } else { layout.text(memory, module.append, "module's command line")? };
        list.extend([module.at, module.length, append, 0].iter().flat_map(|word| word.to_le_bytes()));
    }
    let modules = if list.is_empty() { 0 } else { layout.put(memory, &list, "module list")? };
    let mut start = Vec::new();
    start.extend_from_slice(&0x336e_c578u32.to_le_bytes());
    start.extend_from_slice(&1u32.to_le_bytes()); // version
    start.extend_from_slice(&0u32.to_le_bytes()); // flags
    start.extend_from_slice(&(placed.len() as u32).to_le_bytes());
    for word in [modules, command_line, firmware.rsdp, map_at] {
        start.extend_from_slice(&word.to_le_bytes());
    }
    start.extend_from_slice(&(firmware.map.len() as u32).to_le_bytes());
    start.extend_from_slice(&[0; 4]);
    put(memory, "start info", info, &start)?;
    Ok(CpuState::pvh(entry, info as u32))
}

/// What is left of a BIOS: enough for kernels that were written for one to see that it has nothing to say. A kernel entered by PVH or as Linux asks its
/// loader instead.
///
/// * The data area: serial ports, the segment of the extended area and the size of conventional memory (Xen puts its real-mode code below the
///   smaller of the two).
/// * Interrupt vectors for real mode: every service says "not supported" (carry set, AH 0x86), interrupts of devices return.
fn bios(memory: &mut GuestMemory, loaded: &Loaded) -> Result<(), ImageError> {
    loaded.keep_off("BIOS vectors and data area", 0, 0x500)?;
    let what = "BIOS data area";
    put(memory, what, 0x400, &[map::COM1, map::COM2].map(u16::to_le_bytes).concat())?;
    put(memory, what, 0x40e, &((map::CONVENTIONAL_END >> 4) as u16).to_le_bytes())?;
    put(memory, what, 0x413, &((map::CONVENTIONAL_END >> 10) as u16).to_le_bytes())?;
    // The extended area begins with its size in KiB.
    put(memory, what, map::CONVENTIONAL_END, &[((map::VIDEO - map::CONVENTIONAL_END) >> 10) as u8])?;
    // PUSH BP; MOV BP, SP; OR BYTE [BP + 6], 1; POP BP; MOV AH, 0x86; IRET.
    const SERVICE: [u8; 11] = [0x55, 0x89, 0xe5, 0x80, 0x4e, 6, 1, 0x5d, 0xb4, 0x86, 0xcf];
    put(memory, what, BIOS, &SERVICE)?;
    let vectors: Vec<u8> = (0..256u64)
        .flat_map(|vector| {
            let device = matches!(vector, 8..=0xf | 0x70..=0x77);
            let target = BIOS + if device { SERVICE.len() as u64 - 1 } else { 0 };
            [(target & 0xf) as u16, (target >> 4) as u16].map(u16::to_le_bytes).concat()
        })
        .collect();
    put(memory, what, 0, &vectors)
}

/// The address fields of a Multiboot header: where the file goes, instead of what an ELF says.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    /// Of the header in the file.
    offset: u64,
    header_address: u32,
    /// All ones (Multiboot 2): the file's beginning.
    load_address: u32,
    /// 0: to the file's end.
    load_end: u32,
    bss_end: u32,
}

impl Addresses {
    fn load(&self, image: Bytes<'_>, memory: &mut GuestMemory) -> Result<Loaded, ImageError> {
        let bad = ImageError::Malformed { what: "Multiboot address fields" };
        let before = match self.load_address {
            u32::MAX => self.offset,
            address => u64::from(self.header_address.checked_sub(address).ok_or(bad.clone())?),
        };
        let first = self.offset.checked_sub(before).ok_or(bad.clone())?;
        let address = u64::from(self.header_address).checked_sub(before).ok_or(bad.clone())?;
        let length = if self.load_end == 0 { image.0.len() as u64 - first } else { u64::from(self.load_end).checked_sub(address).ok_or(bad)? };
        put(memory, "Multiboot image", address, image.slice(first, length, "Multiboot image")?)?;
        let end = (address + length).max(u64::from(self.bss_end));
        if !is_ram(memory, address, end - address) {
            return Err(no_ram(memory, "Multiboot image", address, end - address));
        }
        Ok(Loaded { parts: vec![(address, end)] })
    }
}

/// A Multiboot 1 header.
#[derive(Clone, Copy, Debug)]
struct Multiboot1 {
    /// Where it goes, and its entry; without, the file is an ELF and says so.
    addresses: Option<(Addresses, u32)>,
}

impl Multiboot1 {
    const MAGIC: u32 = 0x1bad_b002;

    fn find(image: Bytes<'_>) -> Result<Option<Self>, ImageError> {
        for at in (0..8192usize.min(image.0.len())).step_by(4) {
            if image.u32(at) != Some(Self::MAGIC) {
                continue;
            }
            let (Some(flags), Some(checksum)) = (image.u32(at + 4), image.u32(at + 8)) else { continue };
            if Self::MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
                continue;
            }
            // Bits 0 to 15 must be understood: page alignment and memory map are given anyway. A video mode (bit 2) is not, and the flags of the
            // information say so: kernels that would like one run with the console they have, as they do on QEMU.
            if flags & 0xfff8 != 0 {
                return Err(ImageError::Unsupported { what: format!("Multiboot features {:#x}", flags & 0xfff8) });
            }
            // Bit 16: the address fields are there.
            if flags & 1 << 16 == 0 {
                return Ok(Some(Self { addresses: None }));
            }
            let fields = Bytes(image.slice(at as u64, 32, "Multiboot header")?);
            let field = |index: usize| fields.u32(12 + 4 * index).unwrap_or(0);
            let addresses = Addresses { offset: at as u64, header_address: field(0), load_address: field(1), load_end: field(2), bss_end: field(3) };
            return Ok(Some(Self { addresses: Some((addresses, field(4))) }));
        }
        Ok(None)
    }
}

fn multiboot1(memory: &mut GuestMemory, boot: &Boot<'_>, firmware: &Firmware, entry: u32, loaded: &Loaded) -> Result<CpuState, ImageError> {
    bios(memory, loaded)?;
    loaded.enter(entry)?;
    let placed = place_modules(memory, boot, firmware, loaded, u64::MAX)?;
    let mut layout = Layout::new(loaded);
    let info_at = layout.reserve(120, "Multiboot information")?;
    let command_line = layout.text(memory, boot.append, "command line")?;
    let name = layout.text(memory, "orrery", "loader name")?;
    let mut entries = Vec::new();
    for entry in &firmware.map {
        entries.extend_from_slice(&20u32.to_le_bytes());
        entries.extend_from_slice(&entry.base.to_le_bytes());
        entries.extend_from_slice(&entry.length.to_le_bytes());
        entries.extend_from_slice(&entry.kind.to_le_bytes());
    }
    let map_at = layout.put(memory, &entries, "memory map")?;
    let mut info = [0u8; 120];
    let mut set = |offset: usize, value: u64| info[offset..offset + 4].copy_from_slice(&(value as u32).to_le_bytes());
    // Memory, command line, modules, memory map, loader name.
    set(0, 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    set(4, map::CONVENTIONAL_END >> 10);
    set(8, firmware.low_end.saturating_sub(1 << 20) >> 10);
    set(16, command_line);
    let mut list = Vec::new();
    for module in &placed {
        let append = if module.append.is_empty() { 0 } else { layout.text(memory, module.append, "module's command line")? };
        list.extend([module.at, module.at + module.length, append, 0].iter().flat_map(|word| (*word as u32).to_le_bytes()));
    }
    if !list.is_empty() {
        let modules = layout.put(memory, &list, "module list")?;
        set(20, placed.len() as u64);
        set(24, modules);
    }
    set(44, entries.len() as u64);
    set(48, map_at);
    set(64, name);
    put(memory, "Multiboot information", info_at, &info)?;
    Ok(CpuState::multiboot(entry, 0x2bad_b002, info_at as u32))
}

/// What the tags of a Multiboot 2 header ask for.
#[derive(Clone, Copy, Debug, Default)]
struct Multiboot2 {
    entry: Option<u32>,
    addresses: Option<Addresses>,
}

impl Multiboot2 {
    const MAGIC: u32 = 0xe852_50d6;

    fn find(image: Bytes<'_>) -> Result<Option<Self>, ImageError> {
        for at in (0..32_768usize.min(image.0.len())).step_by(8) {
            if image.u32(at) != Some(Self::MAGIC) {
                continue;
            }
            let (Some(architecture), Some(length), Some(checksum)) = (image.u32(at + 4), image.u32(at + 8), image.u32(at + 12)) else {
                continue;
            };
            if [Self::MAGIC, architecture, length, checksum].iter().fold(0u32, |sum, word| sum.wrapping_add(*word)) != 0 {
                continue;
            }
            if architecture != 0 {
                return Err(ImageError::Unsupported { what: format!("Multiboot 2 architecture {architecture}") });
            }
            let tags = Bytes(image.slice(at as u64, u64::from(length), "Multiboot 2 header")?);
            return Self::tags(tags, at as u64).map(Some);
        }
        Ok(None)
    }

    fn tags(tags: Bytes<'_>, offset: u64) -> Result<Self, ImageError> {
        let malformed = ImageError::Malformed { what: "Multiboot 2 header tags" };
        let mut found = Self::default();
        let mut at = 16usize;
        loop {
            let (Some(kind), Some(flags), Some(size)) = (tags.u16(at), tags.u16(at + 2), tags.u32(at + 4)) else {
                return Err(malformed);
            };
            if size < 8 {
                return Err(malformed);
            }
            match kind {
                0 => return Ok(found),
                2 => {
                    let field = |index: usize| tags.u32(at + 8 + 4 * index).ok_or(malformed.clone());
                    found.addresses = Some(Addresses { offset, header_address: field(0)?, load_address: field(1)?, load_end: field(2)?, bss_end: field(3)? });
                }
                3 => found.entry = Some(tags.u32(at + 8).ok_or(malformed.clone())?),
                // Information request, module alignment, EFI entries and boot services, relocatable: served or without effect here.
                1 | 6 | 7 | 8 | 9 | 10 => {}
                // A framebuffer is not given, and its tag says so by being absent: kernels that would like one run with the console they have.
                5 => {}
                // Anything else may stay unmet unless it is required.
                _ if flags & 1 != 0 => {}
                _ => return Err(ImageError::Unsupported { what: format!("Multiboot 2 header tag {kind}") }),
            }
            at += (size as usize).next_multiple_of(8);
        }
    }
}

fn multiboot2(memory: &mut GuestMemory, boot: &Boot<'_>, firmware: &Firmware, entry: u32, loaded: &Loaded) -> Result<CpuState, ImageError> {
    bios(memory, loaded)?;
    loaded.enter(entry)?;
    let placed = place_modules(memory, boot, firmware, loaded, u64::MAX)?;
    let mut info = vec![0u8; 8];
    let mut tag = |kind: u32, content: &[u8]| {
        info.resize(info.len().next_multiple_of(8), 0);
        info.extend_from_slice(&kind.to_le_bytes());
        info.extend_from_slice(&(8 + content.len() as u32).to_le_bytes());
        info.extend_from_slice(content);
    };
    tag(1, &[boot.append.as_bytes(), &[0]].concat());
    tag(2, b"orrery\0");
    for module in &placed {
        tag(3, &[&(module.at as u32).to_le_bytes()[..], &((module.at + module.length) as u32).to_le_bytes(), module.append.as_bytes(), &[0]].concat());
    }
    let upper = (firmware.low_end.saturating_sub(1 << 20) >> 10) as u32;
    tag(4, &[((map::CONVENTIONAL_END >> 10) as u32).to_le_bytes(), upper.to_le_bytes()].concat());
    let mut entries = Vec::new();
    entries.extend_from_slice(&24u32.to_le_bytes());
    entries.extend_from_slice(&0u32.to_le_bytes());
    for entry in &firmware.map {
        entries.extend_from_slice(&entry.base.to_le_bytes());
        entries.extend_from_slice(&entry.length.to_le_bytes());
        entries.extend_from_slice(&entry.kind.to_le_bytes());
        entries.extend_from_slice(&[0; 4]);
    }
    tag(6, &entries);
    tag(14, firmware.rsdp_bytes.get(..20).unwrap_or(&firmware.rsdp_bytes));
    tag(15, &firmware.rsdp_bytes);
    tag(0, &[]);
    let total = info.len() as u32;
    info[..4].copy_from_slice(&total.to_le_bytes());
    let at = Layout::new(loaded).put(memory, &info, "Multiboot 2 information")?;
    Ok(CpuState::multiboot(entry, 0x36d7_6289, at as u32))
}

/// Linux: the 64-bit entry at 0x200 in the protected-mode part, with boot_params, identity page tables and a GDT made here; of a kernel that has no such
/// entry, the 32-bit one at its beginning, with paging off.
fn linux(memory: &mut GuestMemory, boot: &Boot<'_>, firmware: &Firmware, image: Bytes<'_>) -> Result<CpuState, ImageError> {
    let short = |needs: u64| ImageError::Truncated { what: "Linux setup header", needs, has: image.0.len() as u64 };
    let version = image.u16(0x206).ok_or(short(0x208))?;
    let xloadflags = image.u16(0x236).ok_or(short(0x238))?;
    // XLF_KERNEL_64; without it the 32-bit entry is taken, which kernels have since 2.10 (with the fields used below).
    let long = version >= 0x20c && xloadflags & 1 != 0;
    if version < 0x20a {
        return Err(ImageError::Unsupported { what: format!("Linux boot protocol {}.{:02}, older than 2.10", version >> 8, version & 0xff) });
    }
    let sectors = match image.0.get(0x1f1) {
        Some(0) | None => 4,
        Some(&sectors) => u64::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    let kernel = image.slice(setup, image.0.len() as u64 - setup.min(image.0.len() as u64), "Linux kernel")?;
    let declared = u64::from(image.u32(0x1f4).ok_or(short(0x1f8))?) * 16;
    // The field counts paragraphs, and build tools round it up.
    if declared > (kernel.len() as u64).next_multiple_of(16) {
        return Err(ImageError::Truncated { what: "Linux kernel", needs: setup + declared, has: image.0.len() as u64 });
    }
    let preferred = image.u64(0x258).ok_or(short(0x260))?;
    let init_size = u64::from(image.u32(0x260).ok_or(short(0x264))?);
    if init_size == 0 {
        return Err(ImageError::Malformed { what: "Linux setup header (init_size is 0)" });
    }
    let limit = u64::from(image.u32(0x22c).ok_or(short(0x230))?);
    let longest = u64::from(image.u32(0x238).ok_or(short(0x23c))?);
    let length = boot.append.len() as u64;
    if length > longest {
        // Linux would cut it off in silence.
        return Err(ImageError::CommandLine { length, limit: longest });
    }
    // What maps memory here, and the 32-bit entry, reach 4 GiB.
    let size = init_size.max(kernel.len() as u64);
    if !is_ram(memory, preferred, size) || preferred >= map::HIGH_RAM {
        return Err(no_ram(memory, "Linux kernel", preferred, size));
    }
    put(memory, "Linux kernel", preferred, kernel)?;
    let loaded = &Loaded { parts: vec![(preferred, preferred + size)] };
    if !boot.modules.is_empty() {
        return Err(ImageError::Modules);
    }
    let initrd = place_modules(memory, boot, firmware, loaded, limit.saturating_add(1))?;

    let mut layout = Layout::new(loaded);
    // Boot parameters take the first page; page tables (one PML4, one PDPT, four PDs) follow on page bounds.
    let params_at = layout.reserve(4096, "boot parameters")?;
    let tables = layout.reserve_aligned(6 * 4096, 4096, "page tables")?;
    let code = if long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    let gdt: Vec<u8> = [0u64, 0, code, 0x00cf_9300_0000_ffff].iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let gdt_at = layout.put(memory, &gdt, "descriptor table")?;
    let command_line = layout.text(memory, boot.append, "command line")?;

    let mut pages = vec![0u8; 6 * 4096];
    let mut entry = |table: usize, index: usize, value: u64| {
        let at = table * 4096 + index * 8;
        pages[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    entry(0, 0, (tables + 4096) | 3);
    for gigabyte in 0..4 {
        entry(1, gigabyte, (tables + (2 + gigabyte as u64) * 4096) | 3);
        for index in 0..512 {
            entry(2 + gigabyte, index, ((gigabyte * 512 + index) as u64) << 21 | 0x83);
        }
    }
    put(memory, "page tables", tables, &pages)?;

    let mut params = vec![0u8; 4096];
    // The setup header is copied from the image: from 0x1f1 to where its first jump leads (boot.rst, "64-bit boot protocol").
    let header_end = 0x202 + usize::from(image.0.get(0x201).copied().unwrap_or(0));
    let header = image.slice(0x1f1, header_end.clamp(0x1f1, 0x290) as u64 - 0x1f1, "Linux setup header")?;
    params[0x1f1..0x1f1 + header.len()].copy_from_slice(header);
    let mut set = |at: usize, bytes: &[u8]| params[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x210, &[0xff]); // type_of_loader: undefined
    set(0x1fa, &0xffffu16.to_le_bytes()); // vid_mode: normal
    set(0x228, &(command_line as u32).to_le_bytes());
    if let Some(Placed { at, length, .. }) = initrd.first() {
        set(0x218, &(*at as u32).to_le_bytes());
        set(0x21c, &(*length as u32).to_le_bytes());
    }
    set(0x070, &firmware.rsdp.to_le_bytes());
    set(0x1e8, &[firmware.map.len() as u8]);
    for (index, entry) in firmware.map.iter().enumerate() {
        let at = 0x2d0 + 20 * index;
        set(at, &entry.base.to_le_bytes());
        set(at + 8, &entry.length.to_le_bytes());
        set(at + 16, &entry.kind.to_le_bytes());
    }
    put(memory, "boot parameters", params_at, &params)?;
    let gdt = TableRegister { base: gdt_at, limit: gdt.len() as u16 - 1 };
    Ok(if long { CpuState::linux64(preferred + 0x200, params_at, tables, gdt) } else { CpuState::linux32(preferred as u32, params_at as u32, gdt) })
}
