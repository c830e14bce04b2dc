//! Random programs give the same state, ticks and memory however the run is cut.

mod support;

use iced_x86::code_asm::*;
use sim_cpu::{Config, Cpu, Stop, rflags};
use support::{CODE, DATA, HANDLERS, Machine, STACK};

/// A small generator of its own, so that a seed names a program for ever.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

const REGS: [AsmRegister64; 8] = [rax, rbx, rdx, r8, r9, r10, r11, r12];
const REGS32: [AsmRegister32; 8] = [eax, ebx, edx, r8d, r9d, r10d, r11d, r12d];

/// Random arithmetic, memory, branches, calls, REP, faults, ports and self-modification in an endless loop.
/// Returns where what is called begins: `push rbx`, `rol rbx, 3`...
fn program(machine: &mut Machine, seed: u64) -> u64 {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let end = machine.code(CODE, |a| {
        let mut top = a.create_label();
        let mut callee = a.create_label();
        a.mov(rbp, DATA)?;
        a.set_label(&mut top)?;
        for step in 0..40 {
            let (x, y) = (REGS[rng.below(8) as usize], REGS[rng.below(8) as usize]);
            let (w, v) = (REGS32[rng.below(8) as usize], REGS32[rng.below(8) as usize]);
            let at = rng.below(0x2000) as i32;
            match rng.below(22) {
                0 => a.add(x, y)?,
                1 => a.sub(w, v)?,
                2 => a.adc(x, y)?,
                3 => a.sbb(x, 7)?,
                4 => a.xor(w, v)?,
                5 => a.imul_2(x, y)?,
                6 => a.mov(qword_ptr(rbp + at), x)?,
                7 => a.mov(x, qword_ptr(rbp + at))?,
                8 => a.add(dword_ptr(rbp + at), w)?,
                9 => a.shl(x, rng.below(64) as u32)?,
                10 => a.ror(w, rng.below(32) as u32)?,
                11 => {
                    let mut skip = a.create_label();
                    a.cmp(x, y)?;
                    if rng.below(2) == 0 { a.jb(skip)? } else { a.jle(skip)? }
                    a.inc(w)?;
                    a.set_label(&mut skip)?;
                    a.setne(al)?;
                }
                12 => {
                    let mut skip = a.create_label();
                    a.dec(w)?;
                    a.js(skip)?;
                    a.cmovo(x, y)?;
                    a.set_label(&mut skip)?;
                    a.nop()?;
                }
                13 => a.call(callee)?,
                14 => {
                    a.lea(rsi, qword_ptr(rbp + at))?;
                    a.lea(rdi, qword_ptr(rbp + rng.below(0x2000) as i32))?;
                    a.mov(ecx, rng.below(300) as u32)?;
                    match rng.below(4) {
                        0 => a.rep().movsb()?,
                        1 => a.rep().stosd()?,
                        2 => a.repe().cmpsb()?,
                        _ => a.repne().scasb()?,
                    }
                }
                15 => a.ud2()?,
                16 => a.rdtsc()?,
                17 => a.out(dx, eax)?,
                18 => a.mov(x, qword_ptr(0xfee0_0000u64.wrapping_sub(0xf000_0000) as i32))?,
                19 => {
                    // Changes the immediate of an instruction just ahead, in the same block.
                    let mut site = a.create_label();
                    a.lea(rsi, qword_ptr(site))?;
                    a.mov(byte_ptr(rsi + 1), bl)?;
                    a.set_label(&mut site)?;
                    a.mov(cl, step)?;
                }
                20 => a.div(w)?,
                _ => a.pushfq().and_then(|()| a.pop(x))?,
            }
        }
        a.jmp(top)?;
        a.set_label(&mut callee)?;
        a.push(rbx)?;
        a.rol(rbx, 3)?;
        a.mov(rcx, rbx)?;
        a.pop(rbx)?;
        a.ret()
    });
    // #DE (length unknown: skip by the table of the faulting instruction) and #UD: both skip what faulted.
    machine.code(HANDLERS, |a| {
        a.mov(r13, qword_ptr(rsp))?;
        a.jmp(HANDLERS + 0x2000)
    });
    machine.code(HANDLERS + 16 * 6, |a| a.add(qword_ptr(rsp), 2).and_then(|()| a.iretq()));
    machine.code(HANDLERS + 0x2000, |a| {
        let mut short = a.create_label();
        a.inc(r14)?;
        a.add(qword_ptr(rsp), 2)?;
        a.test(byte_ptr(r13), 0x40)?;
        a.je(short)?;
        a.cmp(byte_ptr(r13), 0x41)?;
        a.jne(short)?;
        a.add(qword_ptr(rsp), 1)?;
        a.set_label(&mut short)?;
        a.iretq()
    });
    machine.code(HANDLERS + 16 * 0x30, |a| a.inc(r15).and_then(|()| a.iretq()));
    machine.change(|state| {
        state.rflags |= rflags::IF;
        for (index, reg) in state.gpr.iter_mut().enumerate().filter(|(index, _)| *index != 4) {
            *reg = (index as u64 + 1).wrapping_mul(0x1234_5678_9abc_def1);
        }
        state.gpr[14] = 0;
        state.gpr[15] = 0;
    });
    machine.bus.interrupt_at = Some((997 + seed * 13 % 500, 0x30));
    end - 10
}

struct Outcome {
    state: sim_cpu::CpuState,
    memory: Vec<u8>,
    tlb: Vec<(u64, u64, u16)>,
    out: Vec<(u64, u16, u32)>,
    mmio: Vec<(u64, u64, u64)>,
}

fn run(seed: u64, ticks: u64, mut cut: impl FnMut(u64) -> u64) -> Outcome {
    let mut machine = Machine::long();
    program(&mut machine, seed);
    while machine.cpu.ticks() < ticks {
        let now = machine.cpu.ticks();
        let mut step = cut(now).min(ticks - now);
        // As a board does: a run ends where an event is due.
        if let Some((due, _)) = machine.bus.interrupt_at.filter(|(due, _)| *due > now) {
            step = step.min(due - now);
        }
        match machine.run(step) {
            Stop::Deadline => {}
            other => {
                assert_eq!(other, Stop::TripleFault, "seed {seed}");
                break;
            }
        }
    }
    Outcome { state: machine.cpu.state(), memory: machine.memory.ram().to_vec(), tlb: machine.cpu.tlb_entries(), out: machine.bus.out, mmio: machine.bus.mmio }
}

#[test]
fn cuts_cannot_be_seen() {
    for seed in 1..60 {
        let ticks = 6_000;
        let whole = run(seed, ticks, |_| u64::MAX / 2);
        for step in [1u64, 13, 777] {
            let cut = run(seed, ticks, |_| step);
            assert_eq!(whole.state.save().diff(&cut.state.save()), Vec::<String>::new(), "seed {seed}, cuts of {step}");
            assert!(whole.memory == cut.memory, "seed {seed}, cuts of {step}: memory differs at {:?}", whole.memory.iter().zip(&cut.memory).position(|(a, b)| a != b));
            assert_eq!(whole.tlb, cut.tlb, "seed {seed}, cuts of {step}");
            assert!(whole.out == cut.out && whole.mmio == cut.mmio, "seed {seed}, cuts of {step}: the bus saw something else");
        }
        let mut rng = Rng(seed);
        let cut = run(seed, ticks, |_| 1 + rng.below(40));
        assert_eq!(whole.state.save().diff(&cut.state.save()), Vec::<String>::new(), "seed {seed}, random cuts");
    }
}

/// An interrupt waits behind STI, whose shadow covers a REP: it comes after the first iteration, wherever the run is cut.
#[test]
fn a_shadow_ends_with_an_iteration() {
    let run = |step: u64| {
        let mut machine = Machine::long();
        machine.code(CODE, |a| {
            a.mov(rdi, DATA)?;
            a.mov(ecx, 500u32)?;
            a.sti()?;
            a.rep().stosb()?;
            a.cli()?;
            a.hlt()
        });
        machine.code(HANDLERS + 16 * 0x30, |a| a.mov(r15, rcx).and_then(|()| a.iretq()));
        machine.bus.interrupt_at = Some((0, 0x30));
        while machine.cpu.ticks() < 2_000 && machine.run(step) == Stop::Deadline {}
        machine.cpu.state()
    };
    let whole = run(2_000);
    assert_eq!(whole.gpr[15], 499);
    for step in [1, 3, 13, 200] {
        assert_eq!(whole.save().diff(&run(step).save()), Vec::<String>::new(), "cuts of {step}");
    }
}

/// A physical interrupt that goes away before it is acknowledged does not hold a virtual one off (APM vol. 2 §15.21.4), wherever the run is cut.
#[test]
fn a_spurious_interrupt_lets_a_virtual_one_through() {
    for step in [1, 1_000] {
        let mut machine = Machine::long();
        machine.code(CODE, |a| a.inc(rax).and_then(|()| a.jmp(CODE)));
        machine.code(HANDLERS + 16 * 0x41, |a| a.mov(r15, rax).and_then(|()| a.hlt()));
        machine.change(|state| {
            state.rflags |= rflags::IF;
            state.sys.svm.guest = true;
            // V_IRQ, V_IGN_TPR, the vector.
            state.sys.svm.int_ctl = 1 << 8 | 1 << 20 | 0x41 << 32;
        });
        machine.bus.spurious = true;
        while machine.cpu.ticks() < 1_000 && machine.run(step) == Stop::Deadline {}
        assert_eq!((machine.gpr(15), machine.cpu.state().ticks), (0, 3), "cuts of {step}");
    }
}

#[test]
fn programs_do_run() {
    // Guards the test above against programs that die at once.
    let long = (1..60).filter(|&seed| run(seed, 6_000, |_| 6_000).state.ticks == 6_000).count();
    assert!(long >= 55, "only {long} of 59 programs ran to the end");
    assert!((1..60).any(|seed| run(seed, 6_000, |_| 6_000).state.gpr[14] > 0), "no division faulted");
    assert!((1..60).any(|seed| run(seed, 6_000, |_| 6_000).state.gpr[15] > 0), "no interrupt came");
    assert!((1..60).all(|seed| run(seed, 50, |_| 6_000).state.gpr[4] <= STACK + 0x8000));
}

/// What three vCPUs that take turns over one memory do to it and to themselves, and how often the host's breakpoint on the last one stopped it.
fn turns(seed: u64, shared: bool, hot: Option<u16>) -> (Vec<sim_cpu::CpuState>, Vec<u8>, u32) {
    let mut machine = Machine::long();
    let callee = program(&mut machine, seed);
    machine.bus.interrupt_at = None;
    // #DB: the frame has RF, so the instruction runs.
    machine.code(HANDLERS + 16, |a| a.inc(r15).and_then(|()| a.iretq()));
    let mut cpus: Vec<Cpu> = (0..3)
        .map(|vcpu| {
            let config = Config { vcpu, ..Config::default() };
            let mut cpu = if shared && vcpu > 0 { Cpu::beside(config) } else { Cpu::new(config) };
            let mut state = machine.cpu.state();
            state.gpr[3] ^= u64::from(vcpu);
            state.gpr[4] -= 0x1000 * u64::from(vcpu);
            if vcpu == 1 && seed.is_multiple_of(3) {
                (state.sys.dr[0], state.sys.dr7) = (callee + 1, 0x401);
            }
            cpu.set_state(&state);
            if !(shared && vcpu > 0) {
                cpu.set_translating(hot).expect("asked before");
            }
            cpu
        })
        .collect();
    if seed.is_multiple_of(2) {
        cpus[2].add_breakpoint(callee);
    }
    let (mut rng, mut at, mut stops) = (Rng(seed), 0, 0);
    for _ in 0..300 {
        let next = rng.below(3) as usize;
        let longest = if rng.below(4) == 0 { 200 } else { 30 };
        let deadline = cpus[next].ticks() + 1 + rng.below(longest);
        if shared && let Ok([from, to]) = cpus.get_disjoint_mut([at, next]) {
            to.take_code(from);
        }
        at = next;
        machine.bus.base = cpus[next].ticks();
        while let Stop::Debug(_) = cpus[next].run(&mut machine.memory, &mut machine.bus, deadline) {
            stops += 1;
            machine.bus.base = cpus[next].ticks();
        }
        if !shared {
            let read = cpus.iter().map(Cpu::code_log_position).min().unwrap_or(0);
            machine.memory.trim_code_log(read);
        } else if rng.0 & 8 == 0 {
            machine.memory.trim_code_log(cpus[at].code_log_position());
        }
    }
    (cpus.iter().map(Cpu::state).collect(), machine.memory.ram().to_vec(), stops)
}

#[test]
fn whose_code_it_was_cannot_be_seen() {
    let translates = Machine::long().cpu.set_translating(Some(1)).is_ok();
    let (mut stopped, mut trapped, mut alone) = (0, 0, 0);
    for seed in 1..40 {
        let own = turns(seed, false, None);
        stopped += own.2;
        trapped += own.0[1].gpr[15];
        for hot in [None, Some(2)].into_iter().filter(|hot| hot.is_none() || translates) {
            let shared = turns(seed, true, hot);
            for (vcpu, (own, shared)) in own.0.iter().zip(&shared.0).enumerate() {
                assert_eq!(own.save().diff(&shared.save()), Vec::<String>::new(), "seed {seed}, vCPU {vcpu}, hot after {hot:?}");
            }
            assert!(own.1 == shared.1, "seed {seed}, hot after {hot:?}: memory differs");
            assert_eq!(own.2, shared.2, "seed {seed}, hot after {hot:?}: stops");
        }
        alone += u64::from(own.0.iter().all(|state| state.sys.activity == sim_cpu::Activity::Running));
    }
    assert!(stopped > 8 && trapped > 20, "the host's breakpoint stopped {stopped} times, the guest's trapped {trapped} times");
    assert!(alone > 25, "only {alone} of 39 programs ran to the end");
}
