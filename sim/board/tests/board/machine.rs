use iced_x86::code_asm::*;

use sim_board::{Board, Boot, ImageError, Input, Machine, Outcome, Port, Until};

/// Where test code is loaded and entered: 32-bit protected mode, flat, no paging.
const BASE: u64 = 0x10_0000;

/// A PVH ELF64 around flat 32-bit code.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0u8; 0x1000];
    image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    image[16..20].copy_from_slice(&[2, 0, 62, 0]);
    image[20..24].copy_from_slice(&1u32.to_le_bytes());
    image[24..32].copy_from_slice(&BASE.to_le_bytes());
    image[32..40].copy_from_slice(&64u64.to_le_bytes());
    image[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
    let mut header = |index: usize, kind: u32, offset: u64, address: u64, size: u64| {
        let at = 64 + 56 * index;
        image[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        image[at + 4..at + 8].copy_from_slice(&7u32.to_le_bytes());
        for (field, value) in [offset, address, address, size, size, 16].into_iter().enumerate() {
            image[at + 8 + 8 * field..at + 16 + 8 * field].copy_from_slice(&value.to_le_bytes());
        }
    };
    header(0, 1, 0x1000, BASE, code.len() as u64);
    header(1, 4, 0x200, 0, 20);
    image[0x200..0x214].copy_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0x10, 0]);
    image.extend_from_slice(code);
    image
}

/// Assembles a 32-bit guest.
pub(crate) fn assemble(write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(32).expect("32 is a bitness");
    write(&mut a).expect("test code is well-formed");
    a.assemble(BASE).expect("test code assembles")
}

/// `out dx, al` to a port.
pub(crate) fn outb(a: &mut CodeAssembler, port: u32, value: u32) -> Result<(), iced_x86::IcedError> {
    a.mov(edx, port)?;
    a.mov(eax, value)?;
    a.out(dx, al)
}

/// Ends the machine with `eax << 1 | 1`.
pub(crate) fn exit(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.mov(edx, 0xf4)?;
    a.out(dx, eax)
}

pub(crate) fn boot(board: &Board, code: &[u8]) -> Machine {
    Machine::new(board, &Boot::new(&elf(code), None, "test")).expect("test image loads")
}

fn run(code: &[u8]) -> (Machine, Outcome) {
    let mut machine = boot(&Board::default(), code);
    let outcome = machine.run(&Until::ticks(50_000_000));
    (machine, outcome)
}

/// Where the interrupt handler of [`with_handler`] is.
const HANDLER: u64 = BASE + 0x400;

/// A guest and its interrupt handler.
pub(crate) fn with_handler(
    main: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
    handler: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Vec<u8> {
    let mut code = assemble(main);
    assert!(code.len() <= 0x400);
    code.resize(0x400, 0xcc);
    let mut a = CodeAssembler::new(32).expect("32 is a bitness");
    handler(&mut a).expect("test code is well-formed");
    code.extend(a.assemble(HANDLER).expect("test code assembles"));
    code
}

/// Sets up an IDT at 0x2000 whose vector `vector` leads to [`HANDLER`], and a GDT at 0x1800, and a stack.
pub(crate) fn interrupts(a: &mut CodeAssembler, vector: u32) -> Result<(), iced_x86::IcedError> {
    // GDT: null, code, data.
    for (at, value) in [(0x1808, 0x0000_ffffu32), (0x180c, 0x00cf_9b00), (0x1810, 0x0000_ffff), (0x1814, 0x00cf_9300)] {
        a.mov(dword_ptr(at), value as i32)?;
    }
    a.mov(word_ptr(0x17f0), 0x17i32)?;
    a.mov(dword_ptr(0x17f2), 0x1800)?;
    a.lgdt(fword_ptr(0x17f0))?;
    let at = 0x2000 + 8 * vector;
    a.mov(dword_ptr(at), 8 << 16 | (HANDLER as i32 & 0xffff))?;
    a.mov(dword_ptr(at + 4), (HANDLER as i32) & !0xffff | 0x8e00)?;
    a.mov(word_ptr(0x17e0), 0x7ffi32)?;
    a.mov(dword_ptr(0x17e2), 0x2000)?;
    a.lidt(fword_ptr(0x17e0))?;
    a.mov(esp, 0x8000)
}

/// Writes a LAPIC register.
pub(crate) fn lapic(a: &mut CodeAssembler, offset: u32, value: u32) -> Result<(), iced_x86::IcedError> {
    a.mov(dword_ptr(0xfee0_0000u32 + offset), value as i32)
}

#[test]
fn debug_exit_gives_the_status() {
    let (machine, outcome) = run(&assemble(|a| {
        a.mov(eax, 21)?;
        exit(a)
    }));
    assert_eq!(outcome, Outcome::DebugExit(43));
    assert_eq!(machine.ticks(), 3);
    assert_eq!(machine.now_ns(), 3);
}

/// Echoes what comes by COM1 up to a full stop.
fn echo() -> Vec<u8> {
    assemble(|a| {
        let mut wait = a.create_label();
        a.set_label(&mut wait)?;
        a.mov(edx, 0x3fd)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.je(wait)?;
        a.mov(edx, 0x3f8)?;
        a.in_(al, dx)?;
        a.out(dx, al)?;
        a.cmp(al, b'.' as i32)?;
        a.jne(wait)?;
        exit(a)
    })
}

#[test]
fn serial_prints_and_echoes_what_is_typed() {
    let code = echo();
    let mut machine = boot(&Board::default(), &code);
    assert_eq!(machine.run(&Until::ticks(1000)), Outcome::Deadline);
    assert_eq!(machine.ticks(), 1000);
    machine.serial_put(Port::Com1, b"hello, world");
    assert_eq!(machine.run(&Until::ticks(1_000_000).or_output(Port::Com1, b"lo,")), Outcome::Output(0));
    assert_eq!(machine.serial_take(Port::Com1), b"hello,");
    machine.serial_put(Port::Com1, b".");
    assert!(matches!(machine.run(&Until::default()), Outcome::DebugExit(_)));
    assert_eq!(machine.serial_take(Port::Com1), b" world.");
}

#[test]
fn a_recorded_run_replays_to_the_same_receipt() {
    let code = echo();
    let mut first = boot(&Board::default(), &code);
    for (tick, text) in [(777, &b"a"[..]), (12_345, b"bc"), (12_346, b"d"), (50_000, b".")] {
        first.run_until(tick);
        first.serial_put(Port::Com1, text);
    }
    let end = first.run(&Until::default());
    let recording: Vec<Input> = first.inputs().to_vec();
    let mut second = boot(&Board::default(), &code);
    second.replay(recording.clone());
    assert_eq!(second.run(&Until::default()), end);
    assert_eq!(second.inputs(), recording);
    assert_eq!(second.receipt(), first.receipt());
}

#[test]
fn lapic_timer_interrupts_at_its_exact_tick() {
    // The handler stores the TSC; the count begins at the write of the initial count.
    let main = |a: &mut CodeAssembler| {
        let mut spin = a.create_label();
        interrupts(a, 0x40)?;
        lapic(a, 0xf0, 0x1ff)?;
        lapic(a, 0x3e0, 0xb)?;
        lapic(a, 0x320, 0x40)?;
        a.sti()?;
        a.nop()?;
        a.rdtsc()?;
        a.mov(ebx, eax)?;
        lapic(a, 0x380, 1000)?;
        a.set_label(&mut spin)?;
        a.jmp(spin)
    };
    let handler = |a: &mut CodeAssembler| {
        a.rdtsc()?;
        a.sub(eax, ebx)?;
        exit(a)
    };
    let (_, outcome) = run(&with_handler(main, handler));
    // RDTSC at t; MOV; the write at t + 2 sets expiry t + 2 + 1000; delivery is one tick; the handler's RDTSC reads t + 1003.
    assert_eq!(outcome, Outcome::DebugExit(1003 << 1 | 1));
}

#[test]
fn hlt_skips_to_the_timer() {
    let main = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        interrupts(a, 0x40)?;
        lapic(a, 0x3e0, 0xb)?;
        lapic(a, 0xf0, 0x1ff)?;
        lapic(a, 0x320, 0x2_0040)?;
        a.xor(esi, esi)?;
        lapic(a, 0x380, 100_000_000)?;
        a.set_label(&mut again)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.cmp(esi, 50)?;
        a.jne(again)?;
        a.mov(eax, esi)?;
        exit(a)
    };
    let handler = |a: &mut CodeAssembler| {
        a.inc(esi)?;
        lapic(a, 0xb0, 0)?;
        a.iretd()
    };
    let (machine, outcome) = run(&with_handler(main, handler));
    assert_eq!(outcome, Outcome::DebugExit(101));
    assert!(machine.now_ns() >= 5_000_000_000 && machine.now_ns() < 5_000_100_000, "{}", machine.now_ns());
    assert!(machine.ticks() < 1000, "{}", machine.ticks());
}

#[test]
fn pit_through_the_8259_and_through_the_io_apic() {
    for io_apic in [false, true] {
        let main = |a: &mut CodeAssembler| {
            let mut again = a.create_label();
            interrupts(a, 0x30)?;
            for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, if io_apic { 0xff } else { 0xfe })] {
                outb(a, port, value)?;
            }
            if io_apic {
                lapic(a, 0x350, 0x1_0000)?;
                a.mov(dword_ptr(0xfec0_0000u32), 0x14)?; // input 2
                a.mov(dword_ptr(0xfec0_0010u32), 0x30)?;
            }
            // Channel 0, mode 2, 11,932: 100 Hz.
            for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
                outb(a, port, value)?;
            }
            a.xor(esi, esi)?;
            a.set_label(&mut again)?;
            a.sti()?;
            a.hlt()?;
            a.cli()?;
            a.cmp(esi, 10)?;
            a.jne(again)?;
            a.mov(eax, esi)?;
            exit(a)
        };
        let handler = |a: &mut CodeAssembler| {
            a.inc(esi)?;
            if io_apic {
                lapic(a, 0xb0, 0)?;
            } else {
                outb(a, 0x20, 0x20)?;
            }
            a.iretd()
        };
        let (machine, outcome) = run(&with_handler(main, handler));
        assert_eq!(outcome, Outcome::DebugExit(21), "through the I/O APIC: {io_apic}");
        // The line is high already when the mode is set: ten whole periods.
        assert!((99_000_000..101_000_000).contains(&machine.now_ns()), "{}", machine.now_ns());
    }
}

#[test]
fn hpet_in_the_place_of_the_pit_through_the_8259() {
    let main = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        interrupts(a, 0x30)?;
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
            outb(a, port, value)?;
        }
        // Periodic, 32 bits, 10 ms; then on, with legacy replacement.
        for (offset, value) in [(0x100u32, 0x14c), (0x108, 1_000_000), (0x10, 3)] {
            a.mov(dword_ptr(0xfed0_0000 + offset), value)?;
        }
        a.xor(esi, esi)?;
        a.set_label(&mut again)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.cmp(esi, 10)?;
        a.jne(again)?;
        a.mov(eax, esi)?;
        exit(a)
    };
    let handler = |a: &mut CodeAssembler| {
        a.inc(esi)?;
        outb(a, 0x20, 0x20)?;
        a.iretd()
    };
    let (machine, outcome) = run(&with_handler(main, handler));
    assert_eq!(outcome, Outcome::DebugExit(21));
    assert!((99_000_000..101_000_000).contains(&machine.now_ns()), "{}", machine.now_ns());
}

#[test]
fn power_off_and_reset() {
    let (_, outcome) = run(&assemble(|a| {
        a.mov(edx, 0x604)?;
        a.mov(eax, 5 << 10 | 1 << 13)?;
        a.out(dx, ax)
    }));
    assert_eq!(outcome, Outcome::PowerOff);
    let (_, outcome) = run(&assemble(|a| outb(a, 0xcf9, 6)));
    assert_eq!(outcome, Outcome::Reset);
    let (_, outcome) = run(&assemble(|a| outb(a, 0x64, 0xfe)));
    assert_eq!(outcome, Outcome::Reset);
}

#[test]
fn endings_of_other_kinds() {
    let (_, outcome) = run(&assemble(|a| {
        a.cli()?;
        a.hlt()
    }));
    assert_eq!(outcome, Outcome::Stuck);
    let (_, outcome) = run(&assemble(|a| a.ud2()));
    assert_eq!(outcome, Outcome::TripleFault { vcpu: 0 });
}

#[test]
fn a_window_that_was_hidden_answers_when_the_other_has_gone() {
    let code = assemble(|a| {
        // The first disk's registers onto the second's, and then the second's away.
        for (device, base) in [(1, 0xc020_0000u32), (2, 0xc030_0000)] {
            a.mov(edx, 0xcf8)?;
            a.mov(eax, (0x8000_0010u32 | device << 11) as i32)?;
            a.out(dx, eax)?;
            a.mov(edx, 0xcfc)?;
            a.mov(eax, base as i32)?;
            a.out(dx, eax)?;
        }
        a.movzx(eax, word_ptr(0xc020_0012u32))?; // how many queues there are
        a.movzx(ecx, word_ptr(0xc030_0012u32))?;
        a.shl(ecx, 4)?;
        a.or(eax, ecx)?;
        exit(a)
    });
    let disk = "[[disk]]\nmodel='virtio-blk'\nsize='64K'\n";
    let mut machine = boot(&Board::from_toml(&disk.repeat(2)).expect("a sound board"), &code);
    assert_eq!(machine.run(&Until::ticks(1000)), Outcome::DebugExit(0x11 << 1 | 1));
}

#[test]
fn unimplemented_accesses_are_listed_with_counts() {
    let (machine, _) = run(&assemble(|a| {
        for _ in 0..3 {
            a.mov(edx, 0x2e8)?;
            a.in_(al, dx)?;
        }
        a.mov(dword_ptr(0xfd00_0000u32), 1)?;
        a.mov(eax, dword_ptr(0xfd00_0000u32))?;
        exit(a)
    }));
    let list: Vec<String> = machine.unimplemented().map(|(access, count)| format!("{access} x{count}")).collect();
    assert_eq!(list, ["mmio: read 4 at 0xfd000000 x1", "mmio: write 4 at 0xfd000000 x1", "ports: read 1 at 0x2e8 x3"]);
}

/// A guest that mixes timers, interrupts, output and memory traffic; it never ends.
fn busy() -> Vec<u8> {
    let main = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        interrupts(a, 0x40)?;
        lapic(a, 0xf0, 0x1ff)?;
        lapic(a, 0x3e0, 0xb)?;
        lapic(a, 0x320, 0x2_0040)?;
        lapic(a, 0x380, 997)?;
        a.xor(esi, esi)?;
        a.set_label(&mut again)?;
        a.sti()?;
        a.add(esi, 4093)?;
        a.and(esi, 0xf_fffc)?;
        a.add(dword_ptr(esi + 0x20_0000), esi)?;
        a.rdtsc()?;
        a.xor(dword_ptr(esi + 0x20_0000), eax)?;
        a.mov(ecx, 7)?;
        a.lea(edi, dword_ptr(esi + 0x30_0000))?;
        a.rep().stosb()?;
        a.test(esi, 0x7000)?;
        a.jne(again)?;
        a.hlt()?;
        a.jmp(again)
    };
    let handler = |a: &mut CodeAssembler| {
        a.push(eax)?;
        a.push(edx)?;
        a.rdtsc()?;
        a.mov(edx, 0x3f8)?;
        a.out(dx, al)?;
        lapic(a, 0xb0, 0)?;
        a.pop(edx)?;
        a.pop(eax)?;
        a.iretd()
    };
    with_handler(main, handler)
}

#[test]
fn receipts_do_not_depend_on_how_a_run_is_cut() {
    let board = Board { checkpoint_ticks: 10_007, ..Board::default() };
    let limit = 100_000;
    let receipts: Vec<(String, u64, Vec<u8>)> = [limit, 1, 13, 777]
        .into_iter()
        .map(|slice| {
            let mut machine = boot(&board, &busy());
            while machine.ticks() < limit {
                let to = (machine.ticks() + slice).min(limit);
                assert_eq!(machine.run_until(to), Outcome::Deadline);
                assert_eq!(machine.ticks(), to);
            }
            (machine.receipt(), machine.now_ns(), machine.serial_take(Port::Com1))
        })
        .collect();
    assert!(receipts[0].2.len() > 50, "the timer printed {} bytes", receipts[0].2.len());
    for other in &receipts[1..] {
        assert_eq!(other, &receipts[0]);
    }
}

#[test]
fn another_seed_is_another_receipt_and_the_same_seed_the_same() {
    let receipt = |seed: u64| {
        let mut machine = boot(&Board { seed, ..Board::default() }, &busy());
        machine.run_until(30_000);
        machine.receipt()
    };
    assert_eq!(receipt(1), receipt(1));
    assert_ne!(receipt(1), receipt(2));
}

#[test]
fn bad_images_are_refused_with_a_reason() {
    let load = |image: &[u8]| Machine::new(&Board::default(), &Boot::new(image, None, "")).map(|_| ());
    let good = elf(&[0xf4]);
    let mut messages = Vec::new();
    let mut refused = |image: &[u8]| messages.push(load(image).expect_err("must be refused").to_string());
    refused(&[]);
    refused(b"#!/bin/sh\n");
    refused(&good[..40]);
    refused(&good[..100]);
    refused(&good[..0x1000]);
    let mut other = good.clone();
    other[18] = 183;
    refused(&other);
    let mut other = good.clone();
    other[0x200..0x214].fill(0);
    refused(&other);
    let mut other = good.clone();
    other[64 + 24..64 + 32].copy_from_slice(&0xffff_ffff_f000u64.to_le_bytes());
    refused(&other);
    assert_eq!(
        messages,
        [
            "kernel image is empty",
            "kernel image is neither ELF nor bzImage nor Multiboot (it begins with [23, 21, 2f, 62, 69, 6e, 2f, 73])",
            "kernel image is truncated: ELF header needs 64 bytes, the file has 40",
            "kernel image is truncated: ELF program headers needs 120 bytes, the file has 100",
            "kernel image is truncated: ELF segment needs 4097 bytes, the file has 4096",
            "kernel image is for ELF machine 183, not for x86 (3) or x86-64 (62)",
            "kernel ELF has no entry a boot loader could use: no PVH note (Xen, type 18), no Multiboot 1 or 2 header",
            "ELF segment at 0xfffffffff000+0x1 does not lie in RAM (which ends at 0x10000000 below 4 GiB)",
        ]
    );
    let big = vec![0; 300 << 20];
    let refused = Machine::new(&Board::default(), &Boot::new(&good, Some(&big), "")).expect_err("does not fit");
    assert_eq!(refused, sim_board::BuildError::Image(ImageError::NoRoom { what: "initial RAM disk", length: 300 << 20, from: 1 << 20, to: 256 << 20 }));
}

/// A bzImage of protocol 2.12 that takes command lines of 20 bytes and initial RAM disks below 32 MiB, and prefers 1 MiB: its 64-bit entry exits with the first
/// word of what `boot_params` says the command line is.
fn bz_image() -> Vec<u8> {
    let mut image = vec![0u8; 0x400 + 0x400];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(0x400u32 / 16).to_le_bytes());
    put(0x201, &[0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20cu16.to_le_bytes());
    put(0x22c, &0x1ff_ffffu32.to_le_bytes());
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &20u32.to_le_bytes());
    put(0x258, &0x10_0000u64.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    let mut entry = CodeAssembler::new(64).expect("64 is a bitness");
    let mut write = || {
        entry.mov(eax, dword_ptr(rsi + 0x228))?;
        entry.movzx(eax, word_ptr(rax))?;
        entry.mov(edx, 0xf4)?;
        entry.out(dx, eax)
    };
    write().expect("assembles");
    put(0x400 + 0x200, &entry.assemble(0x10_0200).expect("assembles"));
    image
}

#[test]
fn a_bz_image_says_what_it_takes() {
    let image = bz_image();
    let mut machine = Machine::new(&Board::default(), &Boot::new(&image, None, "AB: twenty letters..")).expect("just fits");
    assert_eq!(machine.run(&Until::ticks(100)), Outcome::DebugExit(0x4241 << 1 | 1));
    let refused = |board: &Board, initrd: Option<&[u8]>, append: &str| Machine::new(board, &Boot::new(&image, initrd, append)).expect_err("is too much").to_string();
    let board = Board::default();
    assert_eq!(refused(&board, None, "one letter is too many"), "command line has 22 bytes, and this kernel takes at most 20");
    let disk = vec![0; 31 << 20];
    assert_eq!(
        refused(&board, Some(&disk), ""),
        "initial RAM disk (32505856 bytes) does not fit into RAM where it may lie (0x100000 to 0x2000000, beside the kernel)"
    );
    let modules = [sim_board::Module { content: b"module", append: "" }];
    let refused = Machine::new(&board, &Boot { modules: &modules, ..Boot::new(&image, None, "") }).expect_err("takes none").to_string();
    assert_eq!(refused, "modules are given beside the initial RAM disk, and Linux takes none");
    let mut large = image.clone();
    large[0x260..0x264].copy_from_slice(&(1u32 << 30).to_le_bytes());
    let refused = Machine::new(&board, &Boot::new(&large, None, "")).expect_err("no such RAM").to_string();
    assert_eq!(refused, "Linux kernel at 0x100000+0x40000000 does not lie in RAM (which ends at 0x10000000 below 4 GiB)");
}

/// A header, then code that does something and exits with EAX's low half; the entry is given in the header or is the ELF's.
fn with_header(header: &[u32], write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(64, 0x90);
    bytes.extend(assemble(|a| {
        write(a)?;
        a.and(eax, 0xffff)?;
        exit(a)
    }));
    let mut image = elf(&bytes);
    image[24..32].copy_from_slice(&(BASE + 64).to_le_bytes());
    image
}

/// Of Multiboot 1: page alignment, memory information, and a video mode, which is not given.
const MULTIBOOT_1: [u32; 3] = [0x1bad_b002, 7, 0u32.wrapping_sub(0x1bad_b002 + 7)];

#[test]
fn a_multiboot_kernel_finds_what_a_bios_and_a_boot_loader_leave() {
    let end = |image: &[u8], modules: &[sim_board::Module<'_>]| {
        let mut machine = Machine::new(&Board::default(), &Boot { modules, ..Boot::new(image, Some(b"first"), "") }).expect("loads");
        machine.run(&Until::ticks(100))
    };
    let exits = |value: u32| Outcome::DebugExit(value << 1 | 1);
    // The segment of the extended BIOS data area; a PVH note changes nothing.
    let area = with_header(&MULTIBOOT_1, |a| a.mov(eax, dword_ptr(0x40e)));
    assert_eq!(end(&area, &[]), exits(0x9fc0));
    // INT 15 in real mode is answered; INT 8 returns.
    let vector = |number: u32| with_header(&MULTIBOOT_1, |a| a.mov(eax, dword_ptr(4 * number)));
    assert_ne!(end(&vector(0x15), &[]), end(&vector(8), &[]));
    // The third module's command line.
    let modules = [sim_board::Module { content: b"second", append: "" }, sim_board::Module { content: b"third", append: "ok" }];
    let third = with_header(&MULTIBOOT_1, |a| {
        a.mov(ecx, dword_ptr(ebx + 24))?;
        a.mov(ecx, dword_ptr(ecx + 40))?;
        a.mov(eax, dword_ptr(ecx))
    });
    assert_eq!(end(&third, &modules), exits(u32::from(u16::from_le_bytes(*b"ok"))));
    // Packed by gzip: one stored block (RFC 1951 §3.2.4), and a file name.
    let length = u16::try_from(area.len()).expect("a few KiB");
    let mut packed = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03kernel\0\x01".to_vec();
    packed.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
    packed.extend(&area);
    assert_eq!(end(&packed, &[]), exits(0x9fc0));
    let cut = Machine::new(&Board::default(), &Boot::new(&packed[..100], None, "")).expect_err("is cut off");
    assert_eq!(cut.to_string(), "kernel image is malformed: gzip data");
}

/// Moves the one segment of an ELF of [`elf`].
fn moved(mut image: Vec<u8>, to: u64) -> Vec<u8> {
    let old = u64::from_le_bytes(image[64 + 24..64 + 32].try_into().expect("eight bytes"));
    let entry = u64::from_le_bytes(image[24..32].try_into().expect("eight bytes"));
    for at in [64 + 16, 64 + 24] {
        image[at..at + 8].copy_from_slice(&to.to_le_bytes());
    }
    image[24..32].copy_from_slice(&(entry - old + to).to_le_bytes());
    image
}

#[test]
fn what_the_loader_adds_lies_beside_the_image() {
    let kernel = || {
        with_header(&MULTIBOOT_1, |a| {
            a.mov(ecx, dword_ptr(ebx + 16))?;
            a.mov(eax, dword_ptr(ecx))
        })
    };
    let load = |image: &[u8]| Machine::new(&Board::default(), &Boot::new(image, Some(b"disk"), "words"));
    // Where boot information would be, and where modules would be, it goes elsewhere.
    for to in [0x9_0000, 0x9_8000, (256 << 20) - 0x1000] {
        let mut machine = load(&moved(kernel(), to)).expect("loads");
        let said = u32::from(u16::from_le_bytes(*b"wo"));
        assert_eq!(machine.run(&Until::ticks(100)), Outcome::DebugExit(said << 1 | 1), "{to:#x}");
    }
    // The BIOS's own places cannot give way.
    for (to, said) in [(0, "BIOS vectors and data area"), (0x400, "BIOS vectors and data area"), (0x9_fbc0, "extended BIOS data area")] {
        let error = load(&moved(kernel(), to)).expect_err("is taken").to_string();
        assert!(error.contains(said), "{to:#x}: {error}");
    }
    let mut astray = kernel();
    astray[24..32].copy_from_slice(&0x70_0000u64.to_le_bytes());
    assert_eq!(load(&astray).expect_err("leads nowhere").to_string(), "kernel image is malformed: the entry lies outside what is loaded");
}

#[test]
fn multiboot_1_and_2_hand_over_as_specified() {
    // The guest exits with EAX's low half, which is the magic's.
    let one = with_header(&MULTIBOOT_1, |_| Ok(()));
    let mut machine = Machine::new(&Board::default(), &Boot::new(&one, None, "a b")).expect("loads");
    assert_eq!(machine.run(&Until::ticks(100)), Outcome::DebugExit(0xb002 << 1 | 1));

    let tags = [3u32, 12, (BASE + 64) as u32, 0, 0, 8];
    let length = 16 + 4 * tags.len() as u32;
    let magic = 0xe852_50d6u32;
    let header: Vec<u32> = [magic, 0, length, 0u32.wrapping_sub(magic).wrapping_sub(length)].into_iter().chain(tags).collect();
    let mut two = with_header(&header, |_| Ok(()));
    two[0x200..0x214].fill(0);
    let mut machine = Machine::new(&Board::default(), &Boot::new(&two, Some(b"module"), "a b")).expect("loads");
    assert_eq!(machine.run(&Until::ticks(100)), Outcome::DebugExit(0x6289 << 1 | 1));
}

/// Multiboot 2 §3.1.5: the address tag says where the file goes, whether it is an ELF or not; from where the load address is, or whole (all ones).
#[test]
fn a_multiboot_2_address_tag_places_the_file() {
    const AT: u32 = 0x30_0000;
    let bytes = |load: u32, load_end: u32, bss_end: u32| {
        let magic = 0xe852_50d6u32;
        let tags = [2, 24, AT, load, load_end, bss_end, 3, 12, AT + 64, 0, 0, 8];
        let length = 16 + 4 * tags.len() as u32;
        let header = [magic, 0, length, 0u32.wrapping_sub(magic).wrapping_sub(length)].into_iter().chain(tags);
        let mut bytes: Vec<u8> = header.flat_map(u32::to_le_bytes).collect();
        bytes.resize(64, 0x90);
        // What lies at the header's address, and whether the end of the zeroed part is zero.
        bytes.extend(assemble(|a| {
            a.mov(eax, dword_ptr(AT))?;
            a.add(eax, dword_ptr(AT + 0x7ff))?;
            a.and(eax, 0xffff)?;
            exit(a)
        }));
        bytes
    };
    let end = |image: &[u8]| Machine::new(&Board::default(), &Boot::new(image, None, "")).map(|mut machine| machine.run(&Until::ticks(100)));
    for load in [AT, u32::MAX] {
        assert_eq!(end(&bytes(load, 0, AT + 0x800)), Ok(Outcome::DebugExit(0x50d6 << 1 | 1)), "{load:#x}");
    }
    // In an ELF the tag counts, not the segments.
    let mut inside = elf(&bytes(AT, 0, 0));
    inside[0x200..0x214].fill(0);
    assert_eq!(end(&inside), Ok(Outcome::DebugExit(0x50d6 << 1 | 1)));
    for (image, said) in [
        (bytes(AT + 8, 0, 0), "kernel image is malformed: Multiboot address fields"),
        (bytes(AT - 8, 0, 0), "kernel image is malformed: Multiboot address fields"),
        (bytes(AT, AT - 1, 0), "kernel image is malformed: Multiboot address fields"),
        (bytes(AT, AT + 0x1000, 0), "kernel image is truncated: Multiboot image needs 4096 bytes, the file has "),
        (bytes(AT, 0, 0xf000_0000), "Multiboot image at 0x300000+0xefd00000 does not lie in RAM"),
    ] {
        let error = end(&image).expect_err("is refused").to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn board_tables_are_checked() {
    let board = Board::from_toml("vcpus = 4\nram = \"1G\"\nseed = 7\n").expect("good table");
    assert_eq!((board.vcpus, board.ram, board.seed), (4, 1 << 30, 7));
    for (text, part) in [
        ("vcpu = 4", "unknown field `vcpu`"),
        ("vcpus = 0", "`vcpus` must be 1 to 32"),
        ("ram = \"12Q\"", "`12Q` is no size"),
        ("ram = 5", "`ram` must be"),
        ("vcpus = [", "line 1"),
        ("cpu = \"v4\"", "no model `v4`"),
        ("cpu = \"v3,-mmx\"", "`-mmx` is no feature to leave out"),
    ] {
        let message = Board::from_toml(text).expect_err("bad table").to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn going_back_to_a_snapshot_and_running_on_is_the_same_run() {
    for vcpus in [1, 2] {
        let board = Board { checkpoint_ticks: 10_007, vcpus, ..Board::default() };
        let mut plain = boot(&board, &busy());
        plain.run_until(35_000);
        plain.serial_put(Port::Com1, b"x");
        plain.run_until(70_000);

        let mut machine = boot(&board, &busy());
        machine.keep_snapshots();
        let start = machine.snapshot().expect("before the first tick");
        let mut snapshots = Vec::new();
        while machine.ticks() < 35_000 {
            assert_eq!(machine.run(&Until { checkpoint: true, ..Until::ticks(35_000) }), Outcome::Deadline);
            snapshots.extend(machine.snapshot());
        }
        assert_eq!(snapshots.len(), 3);
        assert!(machine.snapshot().is_none(), "not between checkpoints");
        machine.serial_put(Port::Com1, b"x");
        machine.run_until(70_000);
        assert_eq!(machine.receipt(), plain.receipt(), "taking snapshots changes nothing");
        let printed = machine.serial_take(Port::Com1);
        for snapshot in [&snapshots[1], &start, &snapshots[2], &snapshots[0]] {
            machine.restore(snapshot).expect("own snapshot");
            assert_eq!(machine.ticks(), snapshot.ticks());
            machine.run_until(70_000);
            assert_eq!(machine.receipt(), plain.receipt(), "from tick {}", snapshot.ticks());
            assert_eq!(machine.inputs(), plain.inputs());
        }
        assert_eq!(machine.serial_take(Port::Com1), b"", "nothing is printed twice");
        assert_eq!(printed, plain.serial_take(Port::Com1));
    }
}

/// What a kernel writes on the screen can be read, by it and at the end; a board without a screen has nothing there.
#[test]
fn a_screen_shows_what_was_written() {
    let code = assemble(|a| {
        a.mov(dword_ptr(0xb_8000u32), 0x0769_0748)?;
        a.mov(eax, dword_ptr(0xb_8000u32))?;
        a.and(eax, 0xff)?;
        exit(a)
    });
    let mut machine = boot(&Board { screen: true, ..Board::default() }, &code);
    assert_eq!(machine.run(&Until::ticks(100)), Outcome::DebugExit(0x48 << 1 | 1));
    assert_eq!(machine.screen_text(), ["Hi"]);
    let mut without = boot(&Board::default(), &code);
    assert_eq!(without.run(&Until::ticks(100)), Outcome::DebugExit(0xff << 1 | 1));
    assert!(without.screen_text().is_empty());
}
