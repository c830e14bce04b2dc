//! `orrery boot` of small test kernels: Multiboot 1 and 2, exit status by port 0xf4, and what they asked for that is not there.

use iced_x86::code_asm::{CodeAssembler, al, byte_ptr, dx, eax};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BASE: u32 = 0x20_0000;
/// Code follows the headers of the file and of Multiboot.
const CODE_AT: u32 = 0x80;

/// What a boot loader's magic number in EAX must be, and the header that asks for it.
fn multiboot1() -> (u32, Vec<u8>) {
    let (magic, flags) = (0x1bad_b002_u32, 0_u32);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    (0x2bad_b002, [magic, flags, checksum].iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn multiboot2() -> (u32, Vec<u8>) {
    let (magic, architecture, length) = (0xe852_50d6_u32, 0_u32, 24_u32);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(architecture).wrapping_sub(length);
    // The last two words are the end tag: type and flags 0, size 8.
    (0x36d7_6289, [magic, architecture, length, checksum, 0, 8].iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// Says who started it, reads a port and memory nobody has, and leaves with 42.
fn kernel((magic, header): (u32, Vec<u8>)) -> Vec<u8> {
    let code = || -> Result<Vec<u8>, iced_x86::IcedError> {
        let mut a = CodeAssembler::new(32)?;
        let mut wrong = a.create_label();
        a.cmp(eax, magic)?;
        a.jne(wrong)?;
        a.mov(dx, 0x3f8)?;
        for letter in *b"started\n" {
            a.mov(al, u32::from(letter))?;
            a.out(dx, al)?;
        }
        a.mov(dx, 0x2f0)?;
        a.in_(al, dx)?;
        a.mov(al, byte_ptr(0xd000_0000_u32))?;
        a.mov(eax, 42)?;
        a.mov(dx, 0xf4)?;
        a.out(dx, eax)?;
        a.set_label(&mut wrong)?;
        a.mov(eax, 1)?;
        a.mov(dx, 0xf4)?;
        a.out(dx, eax)?;
        a.hlt()?;
        a.assemble(u64::from(BASE + CODE_AT))
    };
    let code = code().expect("the kernel above assembles");
    let size = CODE_AT + u32::try_from(code.len()).expect("a few bytes");
    let mut elf = vec![0_u8; 0x54];
    elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1, 1, 1]);
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &[2, 0, 3, 0, 1, 0, 0, 0]); // ET_EXEC, EM_386, version 1
    put(24, &(BASE + CODE_AT).to_le_bytes()); // entry
    put(28, &52_u32.to_le_bytes()); // program headers
    put(40, &[52, 0, 32, 0, 1, 0]); // sizes of headers, one segment
    let segment = [1, 0, BASE, BASE, size, size, 5, 0x1000_u32];
    put(52, &segment.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    // Multiboot 2 wants its header 8-byte aligned, within the first 32 KiB.
    elf.resize(0x58, 0);
    elf.extend(header);
    elf.resize(CODE_AT as usize, 0x90);
    elf.extend(code);
    elf
}

fn boot(name: &str, image: &[u8], more: &[&str]) -> Output {
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, image).expect("the test's directory can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
    command.arg("boot").arg(&path).args(["--limit", "1000000"]).args(more).stdin(Stdio::null());
    command.output().expect("the program under test can be started")
}

fn assert_ran(name: &str, image: &[u8]) -> String {
    let output = boot(name, image, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(42 << 1 | 1), "{said}");
    assert_eq!(output.stdout, b"started\n", "{said}");
    assert!(said.contains("not there: ports: read 1 at 0x2f0, 1 times"), "{said}");
    assert!(said.contains("not there: mmio: read 1 at 0xd0000000, 1 times"), "{said}");
    said
}

fn receipt(said: &str) -> &str {
    said.lines().find(|line| line.starts_with("receipt ")).expect("every boot ends with its receipt")
}

#[test]
fn multiboot_1_runs_and_says_its_status() {
    assert_ran("multiboot1.elf", &kernel(multiboot1()));
}

#[test]
fn multiboot_2_runs_and_says_its_status() {
    assert_ran("multiboot2.elf", &kernel(multiboot2()));
}

#[test]
fn the_receipt_does_not_show_cuts_and_shows_another_machine() {
    let image = kernel(multiboot1());
    let whole = assert_ran("whole.elf", &image);
    let cut = boot("cut.elf", &image, &["--cut-seed", "3"]);
    assert_eq!(receipt(&whole), receipt(&String::from_utf8_lossy(&cut.stderr)));
    let other = boot("other.elf", &image, &["--vcpus", "2"]);
    assert_ne!(receipt(&whole), receipt(&String::from_utf8_lossy(&other.stderr)));
}

#[test]
fn a_disk_is_there_and_its_file_stays_as_it_is() {
    let image = kernel(multiboot1());
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk.img");
    std::fs::write(&disk, [7; 1000]).expect("the test's directory can be written");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("disks");
    let output = boot("disk.elf", &image, &["--disk", &format!("{}:nvme", disk.display()), "--disks-out", &out.display().to_string()]);
    assert_eq!(output.status.code(), Some(85));
    let after = std::fs::read(out.join("disk0.img")).expect("was written");
    assert_eq!((after.len(), &after[..1000]), (1024, &[7; 1000][..]));
    assert_eq!(std::fs::read(&disk).expect("is there").len(), 1000);
    let refused = boot("disk.elf", &image, &["--disk", "x.img:floppy"]);
    assert_eq!(refused.status.code(), Some(2));
}
