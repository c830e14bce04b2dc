//! Guests that do what a translator likes least: both engines must end in the same state, and neither may grow without bound.

use cpu_check::EchoBus;
use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, byte_ptr, cr0, cr3, cr4, dword_ptr, eax, ecx, edx, qword_ptr, r8, r9, rax, rbx, rcx, rdi, rdx, rsi};
use sim_cpu::bare::{CODE, DATA, HANDLERS, long};
use sim_cpu::{Config, Cpu, CpuState, Stop};
use sim_mem::GuestMemory;

/// Where the big code goes.
const FIELD: u64 = 0x40_0000;

struct End {
    state: CpuState,
    tlb: Vec<(u64, u64, u16)>,
    memory: GuestMemory,
}

/// Runs `code` (at [`CODE`]) for `ticks`, in pieces of `cut`. An interrupt is `due` at a tick; its handler writes down the present RBX and goes back.
fn run(code: &[u8], hot: Option<u16>, ticks: u64, cut: u64, due: Option<u64>) -> Option<End> {
    let (mut memory, state) = long();
    memory.write(CODE, code).expect("it is in RAM");
    // mov [DATA], rbx; iretq.
    let mut handler = vec![0x48, 0x89, 0x1c, 0x25];
    handler.extend((DATA as u32).to_le_bytes());
    handler.extend([0x48, 0xcf]);
    memory.write(HANDLERS + 16 * 0x30, &handler).expect("it is in RAM");
    let mut cpu = Cpu::new(Config::default());
    cpu.set_translating(hot).ok()?;
    cpu.set_state(&state);
    let mut bus = EchoBus::new(due);
    while cpu.ticks() < ticks {
        bus.base = cpu.ticks();
        let mut deadline = ticks.min(cpu.ticks().saturating_add(cut));
        // As a board does: a run ends where an event is due.
        if let Some(due) = bus.due.filter(|&due| due > cpu.ticks()) {
            deadline = deadline.min(due);
        }
        match cpu.run(&mut memory, &mut bus, deadline) {
            Stop::Deadline => {}
            other => panic!("{other:?} at tick {}, {:#x}", cpu.ticks(), cpu.rip()),
        }
        memory.trim_code_log(cpu.code_log_position());
    }
    Some(End { state: cpu.state(), tlb: cpu.tlb_entries(), memory })
}

/// Both engines on what `make` assembles.
fn both(ticks: u64, make: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    let mut a = CodeAssembler::new(64).expect("64 is a size of code");
    make(&mut a).expect("it assembles");
    let code = a.assemble(CODE).expect("it assembles");
    let reference = run(&code, None, ticks, u64::MAX, None).expect("the interpreter is always there");
    for (hot, cut) in [(1, u64::MAX), (3, 9_999), (1, 777)] {
        let Some(end) = run(&code, Some(hot), ticks, cut, None) else {
            eprintln!("nothing to compare: the host cannot translate");
            return;
        };
        assert_eq!(reference.state, end.state, "hot after {hot}, pieces of {cut}");
        assert_eq!(reference.tlb, end.tlb, "hot after {hot}, pieces of {cut}");
        assert!(reference.memory.ram() == end.memory.ram(), "memory differs: hot after {hot}, pieces of {cut}");
    }
}

/// Resident memory of this process in KiB (`proc(5)`).
fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn code_without_end_is_held_in_bounds() {
    // Writes `inc rax; ret` all over two megabytes, calls each copy twice, and begins again with other code.
    let before = resident_kib();
    both(2_500_000, |a| {
        let mut round = a.create_label();
        let mut next = a.create_label();
        a.xor(r8, r8)?;
        a.set_label(&mut round)?;
        a.mov(rdi, FIELD)?;
        a.inc(r8)?;
        a.set_label(&mut next)?;
        // 48 ff c0 c3 or 48 ff c8 c3 by turns.
        a.mov(eax, 0xc3c0_ff48u32)?;
        a.mov(rdx, r8)?;
        a.and(edx, 1)?;
        a.shl(edx, 19)?;
        a.xor(eax, edx)?;
        a.mov(dword_ptr(rdi), eax)?;
        a.call(rdi)?;
        a.call(rdi)?;
        a.add(rdi, 16)?;
        a.cmp(rdi, FIELD as i32 + 0x20_0000)?;
        a.jb(next)?;
        a.jmp(round)
    });
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 700 << 10, "{} MiB more than before", grown >> 10);
}

#[test]
fn jumps_into_the_middle_of_instructions() {
    // `mov rax, imm64` holds another program in its constant: add rbx, 1; jmp to what follows.
    both(300_000, |a| {
        let mut top = a.create_label();
        let mut middle = a.create_label();
        a.set_label(&mut top)?;
        a.inc(rcx)?;
        a.test(ecx, 1)?;
        a.lea(rdx, qword_ptr(middle))?;
        let mut odd = a.create_label();
        a.jne(odd)?;
        a.sub(rdx, -2)?;
        a.set_label(&mut odd)?;
        a.jmp(rdx)?;
        a.set_label(&mut middle)?;
        a.db(&[0x48, 0xb8, 0x48, 0x83, 0xc3, 0x01, 0xeb, 0x02, 0x90, 0x90])?;
        a.jmp(top)
    });
}

#[test]
fn code_written_through_an_alias() {
    // Another page of addresses leads to the code; its immediate is changed each turn, just before it runs.
    both(400_000, |a| {
        let mut top = a.create_label();
        let mut patched = a.create_label();
        // The entry of DATA + 0x5000 becomes that of the code's page.
        a.mov(rdi, 0x5000u64 + 8 * ((DATA >> 12 & 0x1ff) + 5))?;
        a.mov(qword_ptr(rdi), CODE as i32 | 7)?;
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.lea(rsi, qword_ptr(patched))?;
        a.sub(rsi, CODE as i32)?;
        a.add(rsi, DATA as i32 + 0x5000)?;
        a.set_label(&mut top)?;
        a.inc(r9)?;
        a.mov(rdx, r9)?;
        a.shr(rdx, 4)?;
        a.mov(dword_ptr(rsi + 1), edx)?;
        a.set_label(&mut patched)?;
        a.mov(eax, 0x1111_1111)?;
        a.add(rbx, rax)?;
        a.jmp(top)
    });
}

#[test]
fn modes_that_toggle_all_the_time() {
    // CR0.WP, CR4.PGE and SMEP, CR3, with stores to a page that is read-only in between: they fault or not by WP.
    both(400_000, |a| {
        let mut top = a.create_label();
        a.mov(rdi, 0x5000u64 + 8 * ((DATA >> 12 & 0x1ff) + 5))?;
        a.mov(qword_ptr(rdi), (DATA + 0x5000) as i32 | 5)?;
        a.mov(rsi, DATA + 0x5000)?;
        a.set_label(&mut top)?;
        a.inc(r9)?;
        a.mov(rax, cr0)?;
        a.and(rax, !0x1_0000)?;
        a.mov(cr0, rax)?;
        a.mov(qword_ptr(rsi), r9)?;
        a.or(rax, 0x1_0000)?;
        a.mov(cr0, rax)?;
        a.mov(rax, cr4)?;
        a.xor(rax, 0x80)?;
        a.mov(cr4, rax)?;
        a.add(rbx, qword_ptr(rsi))?;
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.mov(rdx, DATA)?;
        a.add(byte_ptr(rdx), 3)?;
        a.jmp(top)
    });
}

#[test]
fn paging_goes_off_and_on() {
    // Long mode, compatibility mode, protected mode without paging, and back, with a loop in each.
    let mut code = vec![
        // far jmp through memory to 0x40:compat: the pointer lies at DATA.
        0x48, 0xc7, 0xc1, 0x20, 0, 0, 0, // mov rcx, 32
        0x48, 0xff, 0xc3, 0xe2, 0xfb, // inc rbx; loop
        0xff, 0x2c, 0x25, 0, 0, 0x20, 0, // jmp far [DATA]
    ];
    let compat = CODE + code.len() as u64;
    code.extend([
        0xb9, 0x20, 0, 0, 0, // mov ecx, 32
        0x43, 0x49, 0x75, 0xfc, // inc ebx; dec ecx; jnz
        0x0f, 0x20, 0xc0, 0x0f, 0xba, 0xf0, 31, 0x0f, 0x22, 0xc0, // cr0.PG off: leaves long mode
        0xb9, 0x20, 0, 0, 0, 0x43, 0x49, 0x75, 0xfc, // the loop once more
        0x0f, 0x20, 0xc0, 0x0f, 0xba, 0xe8, 31, 0x0f, 0x22, 0xc0, // cr0.PG on: EFER.LME is still set
        0xea, // jmp far 0x10:CODE
    ]);
    code.extend((CODE as u32).to_le_bytes());
    code.extend([0x10, 0]);
    let go = |hot: Option<u16>, cut: u64| {
        let (mut memory, state) = long();
        memory.write(CODE, &code).expect("it is in RAM");
        memory.write_u64(DATA, 8, compat | 0x40 << 32).expect("it is in RAM");
        let mut cpu = Cpu::new(Config::default());
        cpu.set_translating(hot).ok()?;
        cpu.set_state(&state);
        let mut bus = EchoBus::new(None);
        while cpu.ticks() < 300_000 {
            bus.base = cpu.ticks();
            let deadline = cpu.ticks().saturating_add(cut).min(300_000);
            assert_eq!(cpu.run(&mut memory, &mut bus, deadline), Stop::Deadline, "at {:#x}", cpu.rip());
        }
        Some((cpu.state(), cpu.tlb_entries()))
    };
    let reference = go(None, u64::MAX);
    for (hot, cut) in [(1, u64::MAX), (2, 1_003)] {
        let Some(end) = go(Some(hot), cut) else { return };
        assert_eq!(reference, Some(end), "hot after {hot}, pieces of {cut}");
    }
}

#[test]
fn what_neither_processor_knows_is_undefined() {
    // CMPSXADD has a condition, as CMOVcc has: it was handed to the host, which stopped. The handler skips its five bytes.
    both(100_000, |a| {
        let mut top = a.create_label();
        a.mov(rdi, HANDLERS + 16 * 6)?;
        // add qword [rsp], 5; iretq; nop.
        a.mov(rax, u64::from_le_bytes([0x48, 0x83, 0x04, 0x24, 0x05, 0x48, 0xcf, 0x90]))?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(r8, DATA)?;
        a.set_label(&mut top)?;
        a.inc(rbx)?;
        a.add(rcx, rbx)?;
        a.db(&[0xc4, 0x42, 0x71, 0xe8, 0x38])?;
        a.jmp(top)
    });
}

#[test]
fn an_interrupt_waits_for_the_instruction_after_sti() {
    // Counts in RBX with interrupts off and on, and puts RFLAGS by: three rounds warm the translator up, then the interrupt comes at each tick of two.
    let mut a = CodeAssembler::new(64).expect("64 is a size of code");
    let mut assemble = || -> Result<Vec<u8>, IcedError> {
        let mut round = a.create_label();
        a.set_label(&mut round)?;
        a.cli()?;
        a.pushfq()?;
        a.inc(rbx)?;
        a.inc(rbx)?;
        a.sti()?;
        a.inc(rbx)?;
        a.pushfq()?;
        a.inc(rbx)?;
        a.pop(rax)?;
        a.pop(rcx)?;
        a.add(rdx, rax)?;
        a.xor(rsi, rcx)?;
        // With interrupts on, STI holds nothing off; with them off, two in a row do so once.
        a.sti()?;
        a.inc(rbx)?;
        a.cli()?;
        a.sti()?;
        a.sti()?;
        a.inc(rbx)?;
        a.jmp(round)?;
        a.assemble(CODE)
    };
    let code = assemble().expect("it assembles");
    let mut written = std::collections::BTreeSet::new();
    for due in 57..57 + 40 {
        let end = |hot, cut| run(&code, hot, 300, cut, Some(due));
        let reference = end(None, u64::MAX).expect("the interpreter is always there");
        let mut noted = [0; 8];
        reference.memory.read(DATA, &mut noted).expect("it is in RAM");
        written.insert(u64::from_le_bytes(noted));
        for (hot, cut) in [(None, 1), (Some(1), u64::MAX), (Some(1), 7)] {
            let Some(found) = end(hot, cut) else {
                eprintln!("nothing to compare: the host cannot translate");
                return;
            };
            assert_eq!(reference.state, found.state, "due {due}, hot after {hot:?}, pieces of {cut}");
            assert!(reference.memory.ram() == found.memory.ram(), "due {due}, hot after {hot:?}, pieces of {cut}");
        }
    }
    // After the second INC, which is before the first STI, no interrupt is ever taken: one more is done by then.
    assert!(written.iter().all(|count| count % 6 != 2), "{written:?}");
    assert!(written.iter().any(|count| count % 6 == 3), "{written:?}");
}
