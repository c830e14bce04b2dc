//! The kernel's build recipe: flags, linker script, and the post-link step that gives the image its symbol table.
//!
//! # Theory
//! The kernel is built by the pinned stable toolchain for the ordinary host target (`docs/ARCHITECTURE.md`, "Building the
//! kernel"), with flags that only the kernel needs. They travel in `CARGO_ENCODED_RUSTFLAGS`, with an explicit `--target` and a target
//! directory of the kernel's own, so that build scripts and host crates neither see them nor get rebuilt because of them.
//!
//! After the link the symbols are read back from the ELF file, demangled, sorted and appended as the contents of the last
//! segment, which the linker script leaves as a 16-byte placeholder at the end of the address space of the image: nothing moves,
//! so one link is enough. Panic backtraces, the tracer and outside tools read that table.
//!
//! The same step disassembles the image and refuses it if kernel code has VEX-encoded or x87 instructions: the kernel keeps the user's x87
//! state and the upper halves of YMM in the registers, so it must not touch them.
//!
//! # Structures
//! The table, little endian:
//!
//! ```text
//! 0   "ORSYMS01"
//! 8   u32 number of symbols      12  u32 length of the names in bytes
//! 16  number x { u32 address - image base, u32 offset of the name }, by address
//! ..  names, each ended by a zero byte
//! ```
//!
//! # Failure
//! A failing compiler has already said why on the terminal; every other failure names the file and what was wrong with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use goblin::elf::{Elf, program_header::PT_LOAD, sym};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction};

/// Virtual address of the first byte of the image (`os/kernel/kernel.ld`).
const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Section (and segment) that the table replaces.
const SYMBOLS_SECTION: &str = ".ksyms";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How much the optimiser works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What ships and what scenarios and goldens run: fat LTO, one codegen unit, the same bytes everywhere.
    Ship,
    /// For edit-and-try: no LTO, incremental. Works the same, but tick counts differ.
    Quick,
}

/// Why there is no kernel.
#[derive(Debug)]
pub enum BuildError {
    /// Cargo could not be started.
    Start(std::io::Error),
    /// The compiler refused; it said why on standard error.
    Compile(Option<i32>),
    /// The linked file is not what the linker script should give.
    Image { file: PathBuf, what: String },
    /// A file could not be read or written.
    File(PathBuf, std::io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "cargo could not be started: {error}"),
            Self::Compile(Some(code)) => write!(f, "building the kernel failed (cargo ended with status {code})"),
            Self::Compile(None) => write!(f, "building the kernel failed (cargo was killed)"),
            Self::Image { file, what } => write!(f, "{}: {what}", file.display()),
            Self::File(file, error) => write!(f, "{}: {error}", file.display()),
        }
    }
}

impl std::error::Error for BuildError {}

/// Builds the kernel of the checkout at `root` and returns the path of the bootable ELF file
/// (`target/kernel/orrery-kernel`, or `target/kernel/orrery-kernel-quick`).
///
/// # Errors
/// See [`BuildError`].
pub fn kernel(root: &Path, profile: Profile) -> Result<PathBuf, BuildError> {
    let target_dir = root.join("target/kernel");
    let (profile_name, out) = match profile {
        Profile::Ship => ("kernel", target_dir.join("orrery-kernel")),
        Profile::Quick => ("kernel-quick", target_dir.join("orrery-kernel-quick")),
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--package", "kernel", "--profile", profile_name, "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root).join("\x1f"))
        .env_remove("RUSTFLAGS")
        // Variables that would change the image behind our back.
        .env_remove("CARGO_BUILD_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTC_WRAPPER");
    let status = cargo.status().map_err(BuildError::Start)?;
    if !status.success() {
        return Err(BuildError::Compile(status.code()));
    }
    let linked = target_dir.join(TARGET).join(profile_name).join("kernel");
    let image = std::fs::read(&linked).map_err(|error| BuildError::File(linked.clone(), error))?;
    check_instructions(&image).map_err(|what| BuildError::Image { file: linked.clone(), what })?;
    let image = embed_symbols(image).map_err(|what| BuildError::Image { file: linked, what })?;
    // Replaced in one step, so that a machine that is being started never reads half a file; and only if it changed.
    if std::fs::read(&out).is_ok_and(|old| old == image) {
        return Ok(out);
    }
    let temporary = out.with_extension(format!("tmp{}", std::process::id()));
    std::fs::write(&temporary, &image).map_err(|error| BuildError::File(temporary.clone(), error))?;
    std::fs::rename(&temporary, &out).map_err(|error| BuildError::File(out.clone(), error))?;
    Ok(out)
}

/// The compiler flags, one place for all of them.
fn flags(root: &Path) -> Vec<String> {
    let mut flags: Vec<String> = [
        // Fixed virtual base in the top 2 GiB.
        "-Crelocation-model=static",
        "-Ccode-model=kernel",
        // Our own code never uses the red zone; the prebuilt core may, which the trap entry allows for.
        "-Cno-redzone=yes",
        "-Cforce-frame-pointers=yes",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none",
        "-Clink-arg=-Wl,-z,noexecstack",
        "-Clink-arg=-Wl,-z,max-page-size=0x1000",
        // Relative to the workspace root, where cargo runs the compiler: an absolute path would end up in hashes.
        "-Clink-arg=-Wl,-T,os/kernel/kernel.ld",
    ]
    .map(String::from)
    .to_vec();
    // Paths of this machine must not be in the image.
    flags.push(format!("--remap-path-prefix={}=/orrery", root.display()));
    if let Some(home) = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
    {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    flags
}

/// Refuses VEX, EVEX and x87 instructions in kernel code.
fn check_instructions(image: &[u8]) -> Result<(), String> {
    let elf = Elf::parse(image).map_err(|error| format!("not an ELF file: {error}"))?;
    let text = elf
        .section_headers
        .iter()
        .find(|section| elf.shdr_strtab.get_at(section.sh_name) == Some(".text"))
        .ok_or("no section .text")?;
    let code = text.file_range().and_then(|range| image.get(range)).ok_or("section .text is not in the file")?;
    let functions: BTreeMap<u64, &str> = elf
        .syms
        .iter()
        .filter(|symbol| (text.sh_addr..text.sh_addr + text.sh_size).contains(&symbol.st_value))
        .filter_map(|symbol| elf.strtab.get_at(symbol.st_name).map(|name| (symbol.st_value, name)))
        .collect();
    let ends = functions.keys().skip(1).copied().chain([text.sh_addr + text.sh_size]);
    for ((start, name), end) in functions.iter().zip(ends) {
        // The loader entry is 32-bit code with its tables in between.
        if name.starts_with("boot_") || name.starts_with("pvh_") || name.starts_with("multiboot2") || name.starts_with("__") {
            continue;
        }
        let at = |address: u64| usize::try_from(address - text.sh_addr).expect("inside a section that is in memory");
        if let Some(instruction) = forbidden(&code[at(*start)..at(end)], *start) {
            return Err(format!("{:#} has `{instruction}` at {:#x}: x87 and VEX are user state", rustc_demangle::demangle(name), instruction.ip()));
        }
    }
    Ok(())
}

/// The first instruction that kernel code must not have.
fn forbidden(code: &[u8], address: u64) -> Option<Instruction> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE).into_iter().find(|instruction| {
        let x87 = instruction.cpuid_features().iter().any(|feature| {
            matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU287XL_ONLY | CpuidFeature::FPU387)
        });
        let legacy = instruction.encoding() == EncodingKind::Legacy;
        instruction.code() != Code::INVALID && (x87 || !legacy)
    })
}

/// Appends the symbol table as the contents of the placeholder segment.
fn embed_symbols(mut image: Vec<u8>) -> Result<Vec<u8>, String> {
    let elf = Elf::parse(&image).map_err(|error| format!("not an ELF file: {error}"))?;
    let table = symbol_table(&elf)?;
    let (section_index, section) = elf
        .section_headers
        .iter()
        .enumerate()
        .find(|(_, section)| elf.shdr_strtab.get_at(section.sh_name) == Some(SYMBOLS_SECTION))
        .ok_or_else(|| format!("no section {SYMBOLS_SECTION}"))?;
    let address = section.sh_addr;
    let (segment_index, segment) = elf
        .program_headers
        .iter()
        .enumerate()
        .find(|(_, segment)| segment.p_type == PT_LOAD && segment.p_vaddr == address)
        .ok_or_else(|| format!("section {SYMBOLS_SECTION} has no segment of its own"))?;
    if elf.program_headers.iter().any(|other| other.p_type == PT_LOAD && other.p_vaddr > segment.p_vaddr) {
        return Err(format!("the segment of {SYMBOLS_SECTION} is not the last one"));
    }
    let program_header = usize::try_from(elf.header.e_phoff).map_err(|error| error.to_string())?
        + segment_index * usize::from(elf.header.e_phentsize);
    let section_header = usize::try_from(elf.header.e_shoff).map_err(|error| error.to_string())?
        + section_index * usize::from(elf.header.e_shentsize);
    // File offset and address must agree modulo the page size (ELF-64 object file format, section 8).
    let offset = image.len().next_multiple_of(4096) + usize::try_from(address % 4096).map_err(|error| error.to_string())?;
    image.resize(offset, 0);
    image.extend_from_slice(&table);
    let mut put = |at: usize, value: usize| {
        let value = u64::try_from(value).expect("sizes of files fit 64 bits");
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(program_header + 8, offset); // p_offset
    put(program_header + 32, table.len()); // p_filesz
    put(program_header + 40, table.len()); // p_memsz
    put(section_header + 24, offset); // sh_offset
    put(section_header + 32, table.len()); // sh_size
    Ok(image)
}

/// The bytes of the table; the layout is in the page above.
fn symbol_table(elf: &Elf<'_>) -> Result<Vec<u8>, String> {
    let mut by_address: BTreeMap<u32, String> = BTreeMap::new();
    for symbol in &elf.syms {
        let function = symbol.st_type() == sym::STT_FUNC || (symbol.st_type() == sym::STT_NOTYPE && symbol.st_shndx != 0);
        let Some(offset) = symbol.st_value.checked_sub(IMAGE_BASE).and_then(|offset| u32::try_from(offset).ok()) else { continue };
        let name = elf.strtab.get_at(symbol.st_name).unwrap_or("");
        if !function || name.is_empty() || name.starts_with('.') || name.starts_with("$") {
            continue;
        }
        // `{:#}`: without the hash, so that the table reads well.
        let name = format!("{:#}", rustc_demangle::demangle(name));
        // Several names at one address (folded functions): the first in the alphabet, so that the order of the input does not matter.
        let entry = by_address.entry(offset).or_insert_with(|| name.clone());
        if name < *entry {
            *entry = name;
        }
    }
    if by_address.is_empty() {
        return Err("the image has no symbols".into());
    }
    let too_long = |_| "symbol table too long".to_string();
    let mut index = Vec::new();
    let mut names = Vec::new();
    for (offset, name) in &by_address {
        index.extend_from_slice(&offset.to_le_bytes());
        index.extend_from_slice(&u32::try_from(names.len()).map_err(too_long)?.to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    let mut table = b"ORSYMS01".to_vec();
    table.extend_from_slice(&u32::try_from(by_address.len()).map_err(too_long)?.to_le_bytes());
    table.extend_from_slice(&u32::try_from(names.len()).map_err(too_long)?.to_le_bytes());
    table.extend_from_slice(&index);
    table.extend_from_slice(&names);
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vex_and_x87_are_found_and_the_rest_is_not() {
        // addps, fxsave64, xsave64, ret
        assert_eq!(forbidden(&[0x0f, 0x58, 0xc1, 0x48, 0x0f, 0xae, 0x07, 0x48, 0x0f, 0xae, 0x27, 0xc3], 0x1000), None);
        // nop, vaddps xmm0, xmm1, xmm2
        assert_eq!(forbidden(&[0x90, 0xc5, 0xf0, 0x58, 0xc2], 0x1000).map(|found| found.ip()), Some(0x1001));
        // fld1
        assert!(forbidden(&[0xd9, 0xe8], 0x1000).is_some());
    }

    #[test]
    fn a_foreign_file_is_refused_with_a_reason() {
        assert!(embed_symbols(b"#!/bin/sh".to_vec()).unwrap_err().contains("not an ELF file"));
        assert!(check_instructions(b"MZ").unwrap_err().contains("not an ELF file"));
    }
}
