//! The guests: each a loop that stresses one thing.

use iced_x86::IcedError;
use iced_x86::code_asm::{
    al, byte_ptr, dl, dword_ptr, eax, ebx, ecx, edx, esi, edi, qword_ptr, r8, r9, r10, r11, r12, rax, rbx, rcx, rdi, rdx, rsi, rsp, xmm0, xmm1, xmm2, xmm3, xmm4,
    xmm5, xmm6, xmm7, xmmword_ptr,
};

use crate::BenchError;
use crate::image::{ARENA, Body, UNMAPPED, build};

/// One bench guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    pub name: &'static str,
    pub what: &'static str,
    /// Design section 7, against `-icount`, where it names one.
    pub target: Option<f64>,
    make: fn() -> Result<Vec<u8>, BenchError>,
}

impl Guest {
    /// The ELF image.
    ///
    /// # Errors
    /// A mistake in the guest's assembly.
    pub fn image(&self) -> Result<Vec<u8>, BenchError> {
        (self.make)()
    }
}

/// All of them, in the order they are printed.
pub const GUESTS: &[Guest] = &[
    Guest { name: "compute", what: "ALU mix, eleven instructions a turn", target: Some(0.2), make: compute },
    Guest { name: "branchy", what: "data-dependent branches", target: Some(0.45), make: branchy },
    Guest { name: "memory", what: "loads and stores over 512 KiB", target: Some(0.3), make: memory },
    Guest { name: "calls", what: "calls through a table of sixteen", target: None, make: calls },
    Guest { name: "crosspage", what: "calls to functions on other pages", target: None, make: crosspage },
    Guest { name: "latency", what: "a chain of dependent operations", target: None, make: latency },
    Guest { name: "random", what: "loads at random over 512 KiB", target: None, make: random },
    Guest { name: "crc", what: "a CRC by table, byte by byte", target: None, make: crc },
    Guest { name: "lz", what: "copies of a few bytes from a little back", target: None, make: lz },
    Guest { name: "bytecode", what: "an interpreter of bytecode: load, jump by table", target: None, make: bytecode },
    Guest { name: "chase", what: "pointer chase over 512 KiB", target: None, make: chase },
    Guest { name: "thrash", what: "a new page each access over 64 MiB", target: None, make: thrash },
    Guest { name: "doubles", what: "SSE2 doubles, packed and scalar", target: None, make: doubles },
    Guest { name: "simd", what: "SSE2 integers", target: None, make: simd },
    Guest { name: "movsb", what: "rep movsb of 4 KiB", target: None, make: movsb },
    Guest { name: "interrupts", what: "INT and IRETQ", target: None, make: interrupts },
    Guest { name: "faults", what: "page faults skipped by their handler", target: None, make: faults },
];

fn nothing(_: &mut Body) -> Result<(), IcedError> {
    Ok(())
}

/// `count` turns of `inner`, counted in RCX.
fn repeat(body: &mut Body, count: u32, inner: impl FnOnce(&mut Body) -> Result<(), IcedError>) -> Result<(), IcedError> {
    body.asm.mov(ecx, count)?;
    let top = body.here()?;
    inner(body)?;
    body.asm.dec(ecx)?;
    body.asm.jne(top)
}

fn compute() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        repeat(body, 6_000_000, |body| {
            let a = &mut body.asm;
            a.add(rax, rbx)?;
            a.xor(rdx, rax)?;
            a.rol(rbx, 7)?;
            a.lea(rsi, rax + rdx * 2 + 5)?;
            a.imul_3(rdi, rsi, 0x9e37)?;
            a.sub(r8, rdi)?;
            a.and(r9, r8)?;
            a.or(r10, r9)?;
            a.shr(r11, 3)?;
            a.add(r11, rdi)?;
            a.mov(rbx, r11)
        })
    })
}

fn branchy() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        body.asm.mov(rax, 0x1234_5678_9abc_def1u64)?;
        repeat(body, 4_000_000, |body| {
            let a = &mut body.asm;
            a.mov(rdx, rax)?;
            a.shl(rdx, 13)?;
            a.xor(rax, rdx)?;
            a.mov(rdx, rax)?;
            a.shr(rdx, 7)?;
            a.xor(rax, rdx)?;
            for (bit, amount) in [(1u32, 3u32), (4, 5), (16, 7), (64, 11)] {
                let mut other = a.create_label();
                let mut join = a.create_label();
                a.test(eax, bit)?;
                a.je(other)?;
                a.add(rbx, amount as i32)?;
                a.jmp(join)?;
                a.set_label(&mut other)?;
                a.sub(rsi, amount as i32)?;
                a.set_label(&mut join)?;
                a.nop()?;
            }
            Ok(())
        })
    })
}

fn memory() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        body.asm.mov(rsi, ARENA)?;
        body.asm.xor(ebx, ebx)?;
        repeat(body, 8_000_000, |body| {
            let a = &mut body.asm;
            a.mov(rax, qword_ptr(rsi + rbx))?;
            a.add(rax, rdx)?;
            a.mov(qword_ptr(rsi + rbx), rax)?;
            a.add(rdx, qword_ptr(rsi + rbx + 64))?;
            a.add(ebx, 72)?;
            a.and(ebx, 0x7_fff8)
        })
    })
}

fn calls() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        let a = &mut body.asm;
        let mut start = a.create_label();
        let mut functions: Vec<_> = (0..16).map(|_| a.create_label()).collect();
        // The table is filled in by the guest.
        for (i, function) in functions.iter().enumerate() {
            a.lea(rax, qword_ptr(*function))?;
            a.mov(rdi, ARENA + 8 * i as u64)?;
            a.mov(qword_ptr(rdi), rax)?;
        }
        a.jmp(start)?;
        for (i, function) in functions.iter_mut().enumerate() {
            a.set_label(function)?;
            a.add(rbx, i as i32)?;
            a.xor(rdx, rbx)?;
            a.ret()?;
        }
        a.set_label(&mut start)?;
        a.mov(rsi, ARENA)?;
        repeat(body, 6_000_000, |body| {
            let a = &mut body.asm;
            a.mov(eax, ecx)?;
            a.and(eax, 15)?;
            a.call(qword_ptr(rsi + rax * 8))
        })
    })
}

/// Two functions a page and two pages further on, called in turn.
fn crosspage() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        let a = &mut body.asm;
        let mut start = a.create_label();
        let mut functions = [a.create_label(), a.create_label()];
        let [near, far] = functions;
        a.jmp(start)?;
        for (i, function) in functions.iter_mut().enumerate() {
            for _ in 0..4096 / 8 {
                a.db(&[0x90; 8])?;
            }
            a.set_label(function)?;
            a.add(rbx, 1 + i as i32)?;
            a.ret()?;
        }
        a.set_label(&mut start)?;
        repeat(body, 6_000_000, |body| {
            body.asm.call(near)?;
            body.asm.xor(rdx, rbx)?;
            body.asm.call(far)
        })
    })
}

fn latency() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        body.asm.mov(rax, 0x1234_5678_9abc_def1u64)?;
        body.asm.mov(rbx, 0x9e37_79b9_7f4a_7c15u64)?;
        repeat(body, 6_000_000, |body| {
            let a = &mut body.asm;
            a.imul_2(rax, rbx)?;
            a.add(rax, rbx)?;
            a.ror(rax, 23)?;
            a.xor(rax, rbx)?;
            a.sub(rax, 77)?;
            a.lea(rax, rax + rax * 4 + 3)
        })
    })
}

fn random() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        body.asm.mov(rsi, ARENA)?;
        body.asm.mov(eax, 1)?;
        repeat(body, 8_000_000, |body| {
            let a = &mut body.asm;
            a.imul_3(eax, eax, 1_103_515_245)?;
            a.add(eax, 12345)?;
            a.mov(edx, eax)?;
            a.shr(edx, 13)?;
            a.add(rbx, qword_ptr(rsi + rdx))
        })
    })
}

fn crc() -> Result<Vec<u8>, BenchError> {
    build(
        |body| {
            // Any table does.
            let a = &mut body.asm;
            a.mov(rsi, ARENA)?;
            a.mov(eax, 1)?;
            a.xor(ebx, ebx)?;
            repeat(body, 256, |body| {
                let a = &mut body.asm;
                a.imul_3(eax, eax, 1_103_515_245)?;
                a.add(eax, 12345)?;
                a.mov(dword_ptr(rsi + rbx * 4), eax)?;
                a.inc(ebx)
            })
        },
        |body| {
            let a = &mut body.asm;
            a.mov(rsi, ARENA)?;
            a.lea(rdi, qword_ptr(rsi + 0x1000))?;
            a.xor(ebx, ebx)?;
            repeat(body, 10_000_000, |body| {
                let a = &mut body.asm;
                a.movzx(edx, byte_ptr(rdi + rbx))?;
                a.xor(edx, eax)?;
                a.movzx(edx, dl)?;
                a.shr(eax, 8)?;
                a.xor(eax, dword_ptr(rsi + rdx * 4))?;
                a.inc(ebx)?;
                a.and(ebx, 0xffff)
            })
        },
    )
}

fn lz() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        let a = &mut body.asm;
        a.mov(rdi, ARENA + 0x1000)?;
        a.mov(eax, 1)?;
        repeat(body, 1_500_000, |body| {
            let a = &mut body.asm;
            // Length 4 to 11 and distance 1 to 1024 from a generator.
            a.imul_3(eax, eax, 1_103_515_245)?;
            a.add(eax, 12345)?;
            a.mov(edx, eax)?;
            a.shr(edx, 16)?;
            a.mov(ebx, edx)?;
            a.and(edx, 1023)?;
            a.inc(edx)?;
            a.shr(ebx, 10)?;
            a.and(ebx, 7)?;
            a.add(ebx, 4)?;
            a.mov(rsi, rdi)?;
            a.sub(rsi, rdx)?;
            let copy = body.here()?;
            let a = &mut body.asm;
            a.mov(dl, byte_ptr(rsi))?;
            a.mov(byte_ptr(rdi), dl)?;
            a.inc(rsi)?;
            a.inc(rdi)?;
            a.dec(ebx)?;
            a.jne(copy)?;
            a.and(edi, 0x103_ffff)
        })
    })
}

fn bytecode() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        let a = &mut body.asm;
        let mut start = a.create_label();
        let mut next = a.create_label();
        let mut handlers: Vec<_> = (0..8).map(|_| a.create_label()).collect();
        // The table, and a program of 4096 bytes.
        for (i, handler) in handlers.iter().enumerate() {
            a.lea(rax, qword_ptr(*handler))?;
            a.mov(rdi, ARENA + 8 * i as u64)?;
            a.mov(qword_ptr(rdi), rax)?;
        }
        a.mov(rsi, ARENA)?;
        a.lea(rdi, qword_ptr(rsi + 0x1000))?;
        a.mov(edx, 1)?;
        a.xor(ebx, ebx)?;
        repeat(body, 4096, |body| {
            let a = &mut body.asm;
            a.imul_3(edx, edx, 1_103_515_245)?;
            a.add(edx, 12345)?;
            a.mov(eax, edx)?;
            a.shr(eax, 20)?;
            a.and(eax, 7)?;
            a.mov(byte_ptr(rdi + rbx), al)?;
            a.inc(ebx)
        })?;
        let a = &mut body.asm;
        a.jmp(start)?;
        for (i, handler) in handlers.iter_mut().enumerate() {
            a.set_label(handler)?;
            match i % 4 {
                0 => a.add(r8, r9)?,
                1 => a.xor(r9, r8)?,
                2 => a.lea(r10, r8 + r9 * 2)?,
                _ => a.sub(r8, r10)?,
            }
            a.jmp(next)?;
        }
        a.set_label(&mut start)?;
        a.xor(ebx, ebx)?;
        repeat(body, 6_000_000, |body| {
            let a = &mut body.asm;
            a.movzx(eax, byte_ptr(rdi + rbx))?;
            a.inc(ebx)?;
            a.and(ebx, 0xfff)?;
            a.jmp(qword_ptr(rsi + rax * 8))?;
            a.set_label(&mut next)
        })
    })
}

fn chase() -> Result<Vec<u8>, BenchError> {
    build(
        |body| {
            // 64K pointers in the order of a full-period generator: next(i) = 5 i + 12345 mod 64K.
            let a = &mut body.asm;
            a.mov(rsi, ARENA)?;
            a.xor(ebx, ebx)?;
            repeat(body, 0x1_0000, |body| {
                let a = &mut body.asm;
                a.lea(eax, ebx + ebx * 4 + 12345)?;
                a.and(eax, 0xffff)?;
                a.lea(rdx, rsi + rax * 8)?;
                a.mov(qword_ptr(rsi + rbx * 8), rdx)?;
                a.inc(ebx)
            })
        },
        |body| {
            body.asm.mov(rax, ARENA)?;
            repeat(body, 12_000_000, |body| {
                for _ in 0..4 {
                    body.asm.mov(rax, qword_ptr(rax))?;
                }
                Ok(())
            })
        },
    )
}

fn thrash() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        body.asm.mov(rsi, ARENA)?;
        body.asm.xor(ebx, ebx)?;
        repeat(body, 5_000_000, |body| {
            let a = &mut body.asm;
            a.add(rax, qword_ptr(rsi + rbx))?;
            a.add(ebx, 4096 + 64)?;
            a.and(ebx, 0x3ff_fff8)
        })
    })
}

fn doubles() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        let a = &mut body.asm;
        a.mov(rsi, ARENA)?;
        for (i, value) in [1.000_000_1f64, 0.999_999_9, 3.5, -1.25].iter().enumerate() {
            a.mov(rax, value.to_bits())?;
            a.mov(qword_ptr(rsi + 8 * i as i32), rax)?;
        }
        a.movapd(xmm1, xmmword_ptr(rsi))?;
        a.movapd(xmm3, xmmword_ptr(rsi + 16))?;
        a.movapd(xmm0, xmm3)?;
        repeat(body, 3_000_000, |body| {
            let a = &mut body.asm;
            a.mulpd(xmm0, xmm1)?;
            a.addpd(xmm2, xmm0)?;
            a.subsd(xmm4, xmm0)?;
            a.mulsd(xmm5, xmm1)?;
            a.addsd(xmm5, xmm3)?;
            a.movapd(xmm6, xmm0)?;
            a.maxpd(xmm6, xmm3)?;
            a.ucomisd(xmm0, xmm3)
        })
    })
}

fn simd() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        body.asm.mov(rsi, ARENA)?;
        body.asm.xor(ebx, ebx)?;
        repeat(body, 4_000_000, |body| {
            let a = &mut body.asm;
            a.movdqa(xmm0, xmmword_ptr(rsi + rbx))?;
            a.paddd(xmm0, xmm1)?;
            a.pxor(xmm1, xmm0)?;
            a.pshufd(xmm2, xmm1, 0x4e)?;
            a.pcmpgtd(xmm2, xmm0)?;
            a.punpcklbw(xmm7, xmm1)?;
            a.movdqa(xmmword_ptr(rsi + rbx), xmm0)?;
            a.add(ebx, 16)?;
            a.and(ebx, 0x7_fff0)
        })
    })
}

fn movsb() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        body.asm.mov(edx, 40_000)?;
        let top = body.here()?;
        let a = &mut body.asm;
        a.mov(esi, ARENA as u32)?;
        a.mov(edi, ARENA as u32 + 0x10_0000)?;
        a.mov(ecx, 4096)?;
        a.rep().movsb()?;
        a.dec(edx)?;
        a.jne(top)
    })
}

/// Writes a gate for `vector` to an IDT at the arena and loads it.
fn idt(body: &mut Body, vector: u64, handler: iced_x86::code_asm::CodeLabel) -> Result<(), IcedError> {
    let a = &mut body.asm;
    let at = ARENA + 16 * vector;
    a.lea(rax, qword_ptr(handler))?;
    a.mov(rdi, at)?;
    // Low word, selector 8, 64-bit interrupt gate; the handler is below 4 GiB.
    a.mov(rdx, rax)?;
    a.and(edx, 0xffff)?;
    a.or(edx, 8 << 16)?;
    a.mov(dword_ptr(rdi), edx)?;
    a.mov(rdx, rax)?;
    a.and(edx, 0xffff_0000u32)?;
    a.or(edx, 0x8e00)?;
    a.mov(dword_ptr(rdi + 4), edx)?;
    a.mov(rdi, ARENA + 0x2000)?;
    a.mov(dword_ptr(rdi), 0xfff)?;
    a.mov(rax, ARENA)?;
    a.mov(qword_ptr(rdi + 2), rax)?;
    a.lidt(byte_ptr(rdi))
}

fn interrupts() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        let mut start = body.asm.create_label();
        let mut handler = body.asm.create_label();
        body.asm.jmp(start)?;
        body.asm.set_label(&mut handler)?;
        body.asm.inc(rbx)?;
        body.asm.iretq()?;
        body.asm.set_label(&mut start)?;
        idt(body, 0x30, handler)?;
        repeat(body, 400_000, |body| {
            body.asm.inc(r12)?;
            body.asm.int(0x30)
        })
    })
}

fn faults() -> Result<Vec<u8>, BenchError> {
    build(nothing, |body| {
        let mut start = body.asm.create_label();
        let mut handler = body.asm.create_label();
        body.asm.jmp(start)?;
        body.asm.set_label(&mut handler)?;
        // Skips the three-byte load.
        body.asm.add(rsp, 8)?;
        body.asm.add(qword_ptr(rsp), 3)?;
        body.asm.iretq()?;
        body.asm.set_label(&mut start)?;
        idt(body, 14, handler)?;
        body.asm.mov(rsi, UNMAPPED)?;
        repeat(body, 200_000, |body| body.asm.mov(rax, qword_ptr(rsi)))?;
        // AL is clobbered by the mark that follows.
        body.asm.mov(al, 0)?;
        body.asm.mov(rcx, 0u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_assembles() {
        for guest in GUESTS {
            let image = guest.image().unwrap_or_else(|error| panic!("{}: {error}", guest.name));
            assert_eq!(&image[..4], b"\x7fELF");
        }
    }
}
