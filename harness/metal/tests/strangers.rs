//! Kernels by strangers: Multiboot 1 and 2 in every shape a linker makes, and what the machine says of them at the end.

use std::path::{Path, PathBuf};
use std::process::Command;

use metal::{Known, Log, compare, qemu};
use sim_board::{Board, Boot, Machine, Outcome, Port, Until};

/// Where QEMU and the manual part.
const KNOWN: &[Known] = &[(&["msr-faults"], "SDM vol. 2, RDMSR, WRMSR: #GP(0) for a number that is not implemented; TCG reads zero and ignores")];

/// How a kernel is built.
struct Shape {
    name: &'static str,
    defines: &'static [&'static str],
    script: &'static str,
    /// Turned into another format by `objcopy -O`.
    format: Option<&'static str>,
    /// QEMU's `-kernel` takes it.
    qemu: bool,
}

const SHAPES: &[Shape] = &[
    Shape { name: "one-elf32", defines: &[], script: "together.ld", format: None, qemu: true },
    Shape { name: "one-elf32-apart", defines: &[], script: "apart.ld", format: None, qemu: true },
    Shape { name: "one-elf32-addresses", defines: &["-DADDRESSES"], script: "together.ld", format: None, qemu: true },
    Shape { name: "one-flat", defines: &["-DADDRESSES"], script: "together.ld", format: Some("binary"), qemu: true },
    Shape { name: "one-elf64", defines: &[], script: "together.ld", format: Some("elf64-x86-64"), qemu: false },
    Shape { name: "two-elf32", defines: &["-DMULTIBOOT2"], script: "together.ld", format: None, qemu: false },
    Shape { name: "two-elf32-apart", defines: &["-DMULTIBOOT2"], script: "apart.ld", format: None, qemu: false },
    Shape { name: "two-elf64", defines: &["-DMULTIBOOT2"], script: "apart.ld", format: Some("elf64-x86-64"), qemu: false },
];

fn run(command: &mut Command) {
    let done = command.output().expect("the C compiler and binutils are there: Rust needs them too");
    assert!(done.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&done.stderr));
}

fn build(shape: &Shape, out: &Path) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/stranger");
    let image = out.join(shape.name);
    run(Command::new("cc")
        .args(["-m32", "-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-mno-sse", "-nostdlib", "-static", "-no-pie", "-Wall", "-Werror"])
        .args(shape.defines)
        .arg(format!("-Wl,--build-id=none,-z,max-page-size=4096,--no-warn-rwx-segments,-T,{}", sources.join(shape.script).display()))
        .args([sources.join("head.S"), sources.join("kernel.c")])
        .arg("-o")
        .arg(&image));
    if let Some(format) = shape.format {
        run(Command::new("objcopy").args(["-O", format]).arg(&image));
    }
    image
}

/// What ours says, how it ended, and what was not there.
fn ours(image: &Path, append: &str, initrd: Option<&[u8]>) -> (Log, Vec<String>) {
    let bytes = std::fs::read(image).expect("the kernel was built");
    let board = Board { ram: 64 << 20, ..Board::default() };
    let mut machine = Machine::new(&board, &Boot::new(&bytes, initrd, append)).expect("the kernel boots");
    let end = match machine.run(&Until::ticks(50_000_000)) {
        Outcome::DebugExit(status) => format!("status {status}"),
        other => format!("{other:?}"),
    };
    let log = Log::new(&machine.serial_take(Port::Com1), end);
    (log, machine.unimplemented().map(|(access, count)| format!("{access}, {count}")).collect())
}

fn value<'a>(log: &'a Log, name: &str) -> &'a str {
    log.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("nothing")
}

#[test]
fn multiboot_kernels_of_every_shape_run() {
    let out = std::env::temp_dir().join(format!("orrery-strangers-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("there is room for a few kernels");
    for shape in SHAPES {
        let image = build(shape, &out);
        let (log, not_there) = ours(&image, "root=/dev/none quiet", Some(b"module bytes"));
        let name = shape.name;
        assert_eq!((log.end.as_str(), log.lines.last().map(String::as_str)), ("status 67", Some("end")), "{name}: {log:#?}");
        let expected = [
            ("magic", if name.starts_with("one") { "0x2badb002" } else { "0x36d76289" }),
            ("data", "0x12345678"),
            ("bss", "0x0"),
            ("upper-mib", "0x3f"),
            ("usable-mib", "0x3f"),
            ("pic-mask", "0xfb"),
            ("i8042", "0x55"),
            ("pit-counts", "0x1"),
            ("rtc-valid", "0x1"),
            ("empty-ports", "0xffffffff"),
            ("msr-faults", "0x2"),
        ];
        for (key, wanted) in expected {
            assert_eq!(value(&log, key), wanted, "{name}: {key} of {log:#?}");
        }
        assert!(value(&log, "command").contains("root=/dev/none quiet"), "{name}: {log:#?}");
        assert!(value(&log, "module").ends_with("m 0xc"), "{name}: {log:#?}");
        // All that the kernel touched and nobody answers is told, by address.
        for wanted in ["2e1", "dead"] {
            assert!(not_there.iter().any(|line| line.contains(wanted)), "{name}: {wanted} is not among {not_there:#?}");
        }
        if shape.qemu
            && let Some(theirs) = qemu(&image, "qemu64").expect("QEMU starts")
        {
            let (plain, _) = ours(&image, "", None);
            // QEMU's firmware takes another part of the memory map, and its command line is the file's name.
            let facts = |log: &Log| Log { lines: log.lines.iter().filter(|line| !["command", "module", "usable-mib", "upper-mib", "lower"].contains(&line.split(' ').next().unwrap_or(""))).cloned().collect(), end: log.end.clone() };
            let complaints = compare(&facts(&plain), &facts(&theirs), KNOWN);
            assert!(complaints.is_empty(), "{name}:\n{}", complaints.join("\n"));
        }
    }
    std::fs::remove_dir_all(&out).expect("the folder is ours");
}
