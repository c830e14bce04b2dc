//! Paging, the TLB as guests see it, exceptions, debug features.

mod support;

use iced_x86::code_asm::*;
use sim_cpu::{DebugStop, RAX, RCX, RDX, RSP, Stop, Watch, cr4, rflags};
use support::{CODE, DATA, HANDLERS, IDT, Machine, STACK, TSS};

const PAGE_TABLE: u64 = 0x4000;

fn pte(address: u64) -> u64 {
    PAGE_TABLE + (address >> 12) * 8
}

fn set_pte(machine: &mut Machine, address: u64, value: u64) {
    machine.memory.write_u64(pte(address), 8, value).expect("tables are in RAM");
}

fn get_pte(machine: &Machine, address: u64) -> u64 {
    machine.memory.read_u64(pte(address), 8).expect("tables are in RAM")
}

/// Makes every handler stop the machine by HLT, with its frame on the stack.
fn halt_on_exceptions(machine: &mut Machine) {
    for vector in 0..256 {
        machine.bytes(HANDLERS + 16 * vector, &[0xf4]);
    }
}

fn stacked(machine: &Machine, index: u64) -> u64 {
    machine.memory.read_u64(machine.gpr(RSP) + 8 * index, 8).expect("the stack is in RAM")
}

fn to_user(state: &mut sim_cpu::CpuState) {
    state.sys.cpl = 3;
    state.sys.seg[sim_cpu::CS].selector = 0x33;
    state.sys.seg[sim_cpu::CS].attr |= 3 << 5;
    state.sys.seg[sim_cpu::SS].selector = 0x3b;
    state.sys.seg[sim_cpu::SS].attr |= 3 << 5;
}

/// The vector whose handler the machine halted in.
fn vector(machine: &Machine) -> u64 {
    (machine.cpu.rip() - HANDLERS - 1) / 16
}

#[test]
fn accessed_and_dirty_bits_follow_use() {
    let mut machine = Machine::long();
    machine.code(CODE, |a| {
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(qword_ptr(DATA + 0x1000), rax)?;
        a.hlt()
    });
    assert_eq!(machine.run(100), Stop::Halted);
    assert_eq!(get_pte(&machine, DATA) & 0x60, 0x20);
    assert_eq!(get_pte(&machine, DATA + 0x1000) & 0x60, 0x60);
    assert_eq!(get_pte(&machine, DATA + 0x2000) & 0x60, 0);
    assert_eq!(get_pte(&machine, CODE) & 0x60, 0x20);
}

#[test]
fn a_write_through_a_clean_entry_sets_the_dirty_bit() {
    let mut machine = Machine::long();
    machine.code(CODE, |a| {
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(qword_ptr(DATA), rax)?;
        a.hlt()
    });
    machine.run(100);
    assert_eq!(get_pte(&machine, DATA) & 0x60, 0x60);
}

#[test]
fn stale_entries_stay_until_invlpg() {
    let mut machine = Machine::long();
    machine.memory.write_u64(DATA, 8, 1).expect("RAM");
    machine.memory.write_u64(DATA + 0x1000, 8, 2).expect("RAM");
    machine.code(CODE, |a| {
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(rbx, (DATA + 0x1000) | 7)?;
        a.mov(qword_ptr(pte(DATA)), rbx)?;
        a.mov(rcx, qword_ptr(DATA))?;
        a.invlpg(byte_ptr(DATA))?;
        a.mov(rdx, qword_ptr(DATA))?;
        a.hlt()
    });
    assert_eq!(machine.run(100), Stop::Halted);
    assert_eq!((machine.gpr(RAX), machine.gpr(RCX), machine.gpr(RDX)), (1, 1, 2));
}

#[test]
fn a_widened_permission_faults_once() {
    let mut machine = Machine::long();
    set_pte(&mut machine, DATA, DATA | 5);
    machine.code(CODE, |a| {
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(rbx, DATA | 7)?;
        a.mov(qword_ptr(pte(DATA)), rbx)?;
        a.mov(qword_ptr(DATA), rax)?;
        a.hlt()
    });
    machine.code(HANDLERS + 16 * 14, |a| {
        a.inc(r15)?;
        a.add(rsp, 8)?;
        a.iretq()
    });
    assert_eq!(machine.run(100), Stop::Halted);
    assert_eq!(machine.gpr(15), 1, "the stale read-only entry faults, and the fault drops it");
}

#[test]
fn the_debugger_sees_memory_but_not_the_tlb() {
    let mut machine = Machine::long();
    machine.code(CODE, |a| a.jmp(CODE));
    machine.run(10);
    let before = machine.cpu.tlb_entries();
    assert_eq!(machine.cpu.translate(&mut machine.memory, DATA + 5), Some(DATA + 5));
    assert_eq!(machine.cpu.translate(&mut machine.memory, 0x8000_0000), None);
    assert_eq!(machine.cpu.tlb_entries(), before);
    assert_eq!(get_pte(&machine, DATA) & 0x20, 0);
}

#[test]
fn page_fault_error_codes() {
    // (page-table entry, user?, instruction, expected code); CR2 is DATA throughout.
    let nx = 1 << 63;
    let read: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError> = |a| a.mov(rax, qword_ptr(DATA));
    let write: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError> = |a| a.mov(qword_ptr(DATA), rax);
    let fetch: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError> = |a| a.jmp(DATA);
    for (entry, user, code, expected) in [
        (0, false, read, 0),
        (0, false, write, 2),
        (DATA | 5, false, write, 3),
        (DATA | 3, true, read, 5),
        (DATA | 3, true, write, 7),
        (DATA | 5, true, write, 7),
        (DATA | 7 | nx, false, fetch, 0x11),
        (DATA | 7 | nx, true, fetch, 0x15),
        (0, true, fetch, 0x14),
        (DATA | 7 | 1 << 45, false, read, 9),
        (DATA | 7 | 1 << 45, true, write, 0xf),
    ] {
        let mut machine = Machine::long();
        halt_on_exceptions(&mut machine);
        set_pte(&mut machine, DATA, entry);
        machine.code(CODE, code);
        machine.change(|state| {
            state.sys.efer |= 1 << 11;
            if user {
                to_user(state);
            }
        });
        assert_eq!(machine.run(100), Stop::Halted);
        assert_eq!(vector(&machine), 14);
        assert_eq!(stacked(&machine, 0), expected, "entry {entry:#x}, user {user}");
        assert_eq!(machine.cpu.state().sys.cr2, DATA);
        assert_eq!(stacked(&machine, 1), if expected & 0x10 != 0 { DATA } else { CODE });
        assert_eq!(stacked(&machine, 2), if user { 0x33 } else { 0x10 });
        assert_ne!(stacked(&machine, 3) & rflags::RF, 0, "a fault pushes RF");
    }
}

#[test]
fn smep_and_smap_keep_the_kernel_from_user_pages() {
    for (bits, ac, code, expected) in [(cr4::SMAP, false, 0, Some(1)), (cr4::SMAP, true, 0, None), (cr4::SMEP, false, 1, Some(0x11)), (0, false, 0, None)] {
        let mut machine = Machine::long();
        halt_on_exceptions(&mut machine);
        // Everything but DATA becomes a supervisor page.
        for page in (0..8 << 20).step_by(4096).filter(|&page| page != DATA) {
            set_pte(&mut machine, page, page | 3);
        }
        machine.bytes(DATA, &[0xf4]);
        machine.code(CODE, |a| {
            if ac {
                a.stac()?;
            }
            if code == 1 {
                a.mov(rax, DATA)?;
                return a.jmp(rax);
            }
            a.mov(rax, qword_ptr(DATA))?;
            a.hlt()
        });
        machine.change(|state| state.sys.cr4 |= bits);
        assert_eq!(machine.run(100), Stop::Halted);
        match expected {
            Some(error) => assert_eq!((vector(&machine), stacked(&machine, 0)), (14, error)),
            None => assert!(machine.cpu.rip() < HANDLERS),
        }
    }
}

#[test]
fn an_instruction_that_crosses_pages_follows_its_second_page() {
    let mut machine = Machine::long();
    let start = CODE + 0xffd;
    // mov eax, imm32 over the bound; its last two bytes and the HLT come from the second page.
    machine.bytes(start, &[0xb8, 1, 0, 0, 0, 0xf4]);
    machine.bytes(DATA, &[2, 0, 0xf4]);
    machine.change(|state| state.rip = start);
    assert_eq!(machine.run(10), Stop::Halted);
    assert_eq!(machine.gpr(RAX), 1);
    set_pte(&mut machine, CODE + 0x1000, DATA | 7);
    machine.cpu.flush_tlb();
    machine.change(|state| {
        state.rip = start;
        state.sys.activity = sim_cpu::Activity::Running;
    });
    assert_eq!(machine.run(10), Stop::Halted);
    assert_eq!(machine.gpr(RAX), 0x2_0001);
    halt_on_exceptions(&mut machine);
    set_pte(&mut machine, CODE + 0x1000, 0);
    machine.cpu.flush_tlb();
    machine.change(|state| {
        state.rip = start;
        state.sys.activity = sim_cpu::Activity::Running;
    });
    machine.run(10);
    assert_eq!((vector(&machine), machine.cpu.state().sys.cr2, stacked(&machine, 1)), (14, CODE + 0x1000, start));
}

#[test]
fn a_stale_second_page_faults_once_wherever_the_run_is_cut() {
    let (start, second, aside) = (CODE + 0xffd, CODE + 0x1000, CODE + 0x8000);
    for step in [1, 3, 1000] {
        let mut machine = Machine::long();
        // mov eax, 1 over the bound, in its fifth turn with a TLB entry that does not permit to fetch any more.
        machine.bytes(start, &[0xb8, 1, 0]);
        machine.bytes(second, &[0, 0]);
        machine.code(second + 2, |a| a.jmp(aside));
        machine.code(aside, |a| {
            let (mut go, mut done) = (a.create_label(), a.create_label());
            a.dec(ecx)?;
            a.je(done)?;
            a.cmp(ecx, 1)?;
            a.jne(go)?;
            a.mov(qword_ptr(pte(second)), rbx)?;
            a.invlpg(byte_ptr(second))?;
            a.mov(rax, qword_ptr(second))?;
            a.mov(qword_ptr(pte(second)), rdx)?;
            a.jmp(go)?;
            a.set_label(&mut go)?;
            a.jmp(start)?;
            a.set_label(&mut done)?;
            a.hlt()
        });
        machine.code(HANDLERS + 16 * 14, |a| {
            a.inc(r15)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        machine.change(|state| {
            state.rip = aside;
            state.sys.efer |= 1 << 11;
            (state.gpr[RCX], state.gpr[3], state.gpr[RDX]) = (6, second | 7 | 1 << 63, second | 7);
        });
        while machine.run(step) == Stop::Deadline {}
        assert_eq!((machine.gpr(RAX), machine.gpr(RCX), machine.gpr(15)), (1, 0, 1), "cut every {step} ticks");
    }
}

#[test]
fn code_written_through_another_mapping_runs_at_once() {
    let mut machine = Machine::long();
    // DATA maps the frame of the code page.
    set_pte(&mut machine, DATA, CODE | 7);
    machine.code(CODE, |a| {
        let mut site = a.create_label();
        a.mov(ecx, 2)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.lea(rbx, qword_ptr(site))?;
        a.add(rbx, (DATA - CODE) as i32)?;
        a.mov(byte_ptr(rbx + 1), 7)?;
        a.set_label(&mut site)?;
        a.mov(al, 1)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(machine.run(100), Stop::Halted);
    assert_eq!(machine.gpr(RAX) & 0xff, 7);
}

#[test]
fn user_mode_enters_the_kernel_on_the_task_stack() {
    let mut machine = Machine::long();
    machine.code(CODE, |a| {
        a.push(0x3b)?;
        a.push((STACK - 0x100) as i32)?;
        a.push(0x202)?;
        a.push(0x33)?;
        a.push((CODE + 0x100) as i32)?;
        a.iretq()
    });
    machine.code(CODE + 0x100, |a| a.int(0x80));
    machine.code(HANDLERS + 16 * 0x80, |a| a.hlt());
    assert_eq!(machine.run(100), Stop::Halted);
    let state = machine.cpu.state();
    assert_eq!((state.sys.cpl, state.gpr[RSP]), (0, STACK + 0x8000 - 40));
    assert_eq!([0, 1, 2, 3, 4].map(|index| stacked(&machine, index)), [CODE + 0x102, 0x33, 0x202, STACK - 0x100, 0x3b]);
}

#[test]
fn interrupt_stack_table_is_used_and_aligned() {
    let mut machine = Machine::long();
    machine.memory.write_u64(TSS + 0x24, 8, STACK + 0x4008).expect("RAM");
    let low = machine.memory.read_u64(IDT + 16 * 3, 8).expect("RAM");
    machine.memory.write_u64(IDT + 16 * 3, 8, low | 1 << 32).expect("RAM");
    machine.code(CODE, |a| a.int3());
    machine.code(HANDLERS + 16 * 3, |a| a.hlt());
    assert_eq!(machine.run(100), Stop::Halted);
    assert_eq!(machine.gpr(RSP), STACK + 0x4000 - 40);
}

#[test]
fn a_fault_in_delivery_doubles_and_then_shuts_down() {
    let mut machine = Machine::long();
    halt_on_exceptions(&mut machine);
    machine.code(CODE, |a| a.ud2());
    // #UD's gate is not present: #NP, benign on contributory, is delivered itself.
    machine.memory.write_u64(IDT + 16 * 6, 8, 0x0e00 << 32).expect("RAM");
    machine.run(10);
    assert_eq!((vector(&machine), stacked(&machine, 0)), (11, 6 << 3 | 3));

    let mut machine = Machine::long();
    halt_on_exceptions(&mut machine);
    machine.code(CODE, |a| a.mov(rax, qword_ptr(0x7fff_f000u64)));
    machine.memory.write_u64(IDT + 16 * 14, 8, 0).expect("RAM");
    machine.run(10);
    assert_eq!((vector(&machine), stacked(&machine, 0)), (8, 0));

    let mut machine = Machine::long();
    machine.code(CODE, |a| a.mov(rax, qword_ptr(0x7fff_f000u64)));
    machine.change(|state| state.sys.idtr.limit = 0);
    assert_eq!(machine.run(10), Stop::TripleFault);
    assert_eq!(machine.run(10), Stop::TripleFault, "shut down stays shut down");
}

#[test]
fn single_step_traps_after_each_instruction() {
    let mut machine = Machine::long();
    machine.code(CODE, |a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.mov(eax, 1)?;
        a.mov(ecx, 3)?;
        a.rep().stosb()?;
        a.pushfq()?;
        a.and(dword_ptr(rsp), !0x100)?;
        a.popfq()?;
        a.hlt()
    });
    machine.code(HANDLERS + 16, |a| a.inc(r15).and_then(|()| a.iretq()));
    machine.change(|state| state.gpr[7] = DATA);
    machine.run(100);
    // mov, mov, three iterations, pushfq, and, popfq (which began with TF on).
    assert_eq!(machine.gpr(15), 8);
    assert_ne!(machine.cpu.state().sys.dr6 & 1 << 14, 0);
}

#[test]
fn guest_breakpoints_and_watchpoints_raise_debug_exceptions() {
    let mut machine = Machine::long();
    halt_on_exceptions(&mut machine);
    let mut site = 0;
    machine.code(CODE, |a| {
        a.mov(eax, 1)?;
        a.mov(dword_ptr(DATA + 4), eax)?;
        a.nop()?;
        a.hlt()
    });
    site += CODE + 5;
    machine.change(|state| {
        state.sys.dr = [site, DATA + 4, 0, 0];
        // DR0: execute, DR1: write of 4 bytes.
        state.sys.dr7 = 0x400 | 1 | 4 | 1 << 20 | 3 << 22;
    });
    machine.run(100);
    assert_eq!((vector(&machine), stacked(&machine, 0)), (1, site));
    assert_eq!(machine.cpu.state().sys.dr6 & 15, 1);
    machine.change(|state| {
        state.rip = site;
        state.sys.dr7 &= !1;
        state.sys.dr6 &= !15;
        state.sys.activity = sim_cpu::Activity::Running;
    });
    machine.run(100);
    assert_eq!((vector(&machine), machine.cpu.state().sys.dr6 & 15), (1, 2));
    assert_eq!(machine.memory.read_u64(DATA + 4, 4), Ok(1), "a data breakpoint traps after the write");
}

#[test]
fn host_breakpoints_stop_before_and_watchpoints_after() {
    let mut machine = Machine::long();
    let end = machine.code(CODE, |a| {
        a.inc(rax)?;
        a.inc(rax)?;
        a.mov(qword_ptr(DATA + 8), rax)?;
        a.jmp(CODE)
    });
    assert!(end > CODE);
    machine.cpu.add_breakpoint(CODE + 3);
    for round in 0..3 {
        assert_eq!(machine.run(1000), Stop::Debug(DebugStop::Breakpoint { rip: CODE + 3 }));
        assert_eq!(machine.cpu.ticks(), 1 + 4 * round);
    }
    machine.cpu.remove_breakpoint(CODE + 3);
    let watch = Watch { address: DATA + 8, len: 8, read: false, write: true };
    machine.cpu.add_watch(watch);
    assert_eq!(machine.run(1000), Stop::Debug(DebugStop::Watch { address: DATA + 8, write: true }));
    assert_eq!(machine.cpu.ticks(), 11);
    machine.cpu.remove_watch(watch);
    assert_eq!(machine.run(989), Stop::Deadline);
    assert_eq!(machine.cpu.ticks(), 1000);
}

#[test]
fn sti_holds_interrupts_off_for_one_instruction() {
    let mut machine = Machine::long();
    machine.code(CODE, |a| {
        a.sti()?;
        a.inc(rax)?;
        a.inc(rax)?;
        a.hlt()
    });
    machine.code(HANDLERS + 16 * 0x40, |a| a.hlt());
    machine.bus.interrupt_at = Some((0, 0x40));
    machine.run(100);
    assert_eq!(machine.gpr(RAX), 1);
}

#[test]
fn real_mode_start_up_reaches_long_mode() {
    // What a start-up IPI does, then 16-bit code: load a GDT, set PE, far jump to 32-bit code.
    let mut machine = Machine::long();
    let mut state = sim_cpu::CpuState::start_up(0x70);
    state.sys.activity = sim_cpu::Activity::Running;
    machine.cpu.set_state(&state);
    machine.memory.write(0x7f00, &[0x4f, 0, 0x00, 0x80, 0, 0]).expect("RAM");
    machine.bytes(
        0x7_0000,
        &[
            0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
            0x0f, 0x01, 0x16, 0x00, 0x7f, // lgdt [0x7f00]
            0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, // mov eax, cr0; or al, 1; mov cr0, eax
            0x66, 0xea, 0x00, 0x00, 0x10, 0x00, 0x40, 0x00, // jmp 0x40:CODE
        ],
    );
    machine.bytes(CODE, &[0xb8, 0x78, 0x56, 0x34, 0x12, 0xf4]);
    assert_eq!(machine.run(100), Stop::Halted);
    assert_eq!((machine.gpr(RAX), machine.cpu.ticks()), (0x1234_5678, 9));
}

#[test]
fn saved_state_comes_back() {
    let mut machine = Machine::long();
    machine.code(CODE, |a| {
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.movq(xmm3, rax)?;
        a.fld1()?;
        a.std()?;
        a.jmp(CODE)
    });
    machine.run(1001);
    let state = machine.cpu.state();
    let payload = sim_core::Payload::decode(&state.save().encode()).expect("what was saved can be read");
    assert_eq!(sim_cpu::CpuState::load(&payload).as_ref(), Ok(&state));
}

/// Found by the oracle: a page that had been used before AC came on was not checked any more, and a whole operand has one boundary.
#[test]
fn alignment_is_checked_on_pages_in_use() {
    type Build = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let cases: [(Build, Option<u64>); 6] = [
        (|a| a.mov(eax, dword_ptr(DATA + 1)), Some(17)),
        (|a| a.mov(dword_ptr(DATA + 4), eax), None),
        (|a| a.push(rax).and_then(|()| a.add(rsp, 3)).and_then(|()| a.push(rax)), Some(17)),
        // Sixteen bytes of an instruction that asks for no alignment without AC.
        (|a| a.movdqu(xmmword_ptr(DATA + 8), xmm0), Some(17)),
        (|a| a.fld(tword_ptr(DATA + 8)), None),
        // Not canonical comes first, absent comes later.
        (|a| a.mov(rcx, 0x8000_0000_0000_0001_u64).and_then(|()| a.mov(eax, dword_ptr(rcx))), Some(13)),
    ];
    for (index, (build, expected)) in cases.into_iter().enumerate() {
        let mut machine = Machine::long();
        halt_on_exceptions(&mut machine);
        machine.code(CODE, |a| {
            a.mov(rax, qword_ptr(DATA))?;
            a.mov(qword_ptr(DATA), rax)?;
            a.push(0x4_0202)?;
            a.popfq()?;
            build(a)?;
            a.int3()
        });
        machine.change(|state| {
            to_user(state);
            state.sys.cr0 |= sim_cpu::cr0::AM;
        });
        assert_eq!(machine.run(100), Stop::Halted);
        assert_eq!(vector(&machine), expected.unwrap_or(3), "case {index}");
    }
}

/// Found by the oracle: bits of the control word that do not exist came back from an image.
#[test]
fn fxrstor_loads_the_control_word_as_fldcw_does() {
    let mut machine = Machine::long();
    machine.memory.write_u64(DATA, 8, 0xe0b8).expect("RAM");
    machine.memory.write_u64(DATA + 24, 8, 0x1f80).expect("RAM");
    machine.code(CODE, |a| {
        a.fxrstor(ptr(DATA))?;
        a.fnstcw(word_ptr(DATA + 0x800))?;
        a.movzx(eax, word_ptr(DATA + 0x800))?;
        a.hlt()
    });
    assert_eq!(machine.run(100), Stop::Halted);
    assert_eq!(machine.gpr(RAX), 0x0078);
}
