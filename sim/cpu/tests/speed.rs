//! Rough speed of simple loops: prints figures, asserts only that the tick counts are exact. Run with `--release -- --nocapture --ignored`.

mod support;

use iced_x86::code_asm::*;
use support::{CODE, DATA, Machine};

/// Time this thread spent on a processor, so that other programs do not count.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn measure(name: &str, ticks: u64, build: impl Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) {
    let speed = |translate: bool| {
        let mut machine = Machine::long();
        machine.code(CODE, &build);
        if machine.cpu.set_translating(translate.then_some(sim_cpu::HOT)).is_err() {
            return 0.0;
        }
        machine.run(10_000);
        let began = cpu_seconds();
        assert_eq!(machine.run(ticks), sim_cpu::Stop::Deadline);
        let seconds = cpu_seconds() - began;
        assert_eq!(machine.cpu.ticks(), ticks + 10_000);
        ticks as f64 / seconds / 1e6
    };
    println!("{name:12} {:7.1} M ticks/s, translated {:7.1}", speed(false), speed(true));
}

#[test]
#[ignore = "a measurement"]
fn loops() {
    let ticks = 60_000_000;
    measure("compute", ticks, |a| {
        let mut top = a.create_label();
        a.mov(rcx, 0x1234_5678u64)?;
        a.set_label(&mut top)?;
        a.mov(rax, rcx)?;
        a.shl(rax, 13)?;
        a.xor(rcx, rax)?;
        a.mov(rax, rcx)?;
        a.shr(rax, 7)?;
        a.xor(rcx, rax)?;
        a.imul_2(rdx, rcx)?;
        a.add(rdx, rax)?;
        a.lea(rsi, rdx + rax * 4 + 17)?;
        a.sub(rdi, rsi)?;
        a.jmp(top)
    });
    measure("branchy", ticks, |a| {
        let mut top = a.create_label();
        let mut odd = a.create_label();
        let mut next = a.create_label();
        let mut low = a.create_label();
        a.mov(ecx, 12345)?;
        a.set_label(&mut top)?;
        a.imul_3(ecx, ecx, 1_103_515_245)?;
        a.add(ecx, 12345)?;
        a.test(ecx, 0x10000)?;
        a.jne(odd)?;
        a.inc(eax)?;
        a.jmp(next)?;
        a.set_label(&mut odd)?;
        a.dec(edx)?;
        a.set_label(&mut next)?;
        a.cmp(ecx, 0x4000_0000)?;
        a.jb(low)?;
        a.add(esi, 3)?;
        a.set_label(&mut low)?;
        a.cmp(eax, edx)?;
        a.jne(top)?;
        a.jmp(top)
    });
    measure("memory", ticks, |a| {
        let mut top = a.create_label();
        let mut inner = a.create_label();
        a.set_label(&mut top)?;
        a.mov(rsi, DATA)?;
        a.mov(ecx, 4096)?;
        a.set_label(&mut inner)?;
        a.mov(rax, qword_ptr(rsi))?;
        a.add(rax, rdx)?;
        a.mov(qword_ptr(rsi + 8), rax)?;
        a.add(qword_ptr(rsi + 16), 1)?;
        a.mov(edx, dword_ptr(rsi + rcx * 8))?;
        a.add(rsi, 16)?;
        a.dec(ecx)?;
        a.jne(inner)?;
        a.jmp(top)
    });
    measure("calls", ticks, |a| {
        let mut top = a.create_label();
        let mut callee = a.create_label();
        a.set_label(&mut top)?;
        a.call(callee)?;
        a.call(callee)?;
        a.jmp(top)?;
        a.set_label(&mut callee)?;
        a.push(rbp)?;
        a.mov(rbp, rsp)?;
        a.add(rax, 1)?;
        a.pop(rbp)?;
        a.ret()
    });
    measure("sse2", ticks, |a| {
        let mut top = a.create_label();
        a.mov(rsi, DATA)?;
        a.set_label(&mut top)?;
        a.movdqu(xmm0, xmmword_ptr(rsi))?;
        a.pcmpeqb(xmm0, xmm1)?;
        a.pmovmskb(eax, xmm0)?;
        a.test(eax, eax)?;
        a.movups(xmmword_ptr(rsi + 32), xmm0)?;
        a.addsd(xmm2, xmm3)?;
        a.mulsd(xmm2, xmm4)?;
        a.jmp(top)
    });
    measure("rep movsb", ticks * 20, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.mov(rsi, DATA)?;
        a.mov(rdi, DATA + 0x2_0000)?;
        a.mov(ecx, 0x1_0000)?;
        a.rep().movsb()?;
        a.jmp(top)
    });
}
