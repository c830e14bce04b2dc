//! A bare-metal guest as an ELF image with a PVH note: 32-bit entry, identity-mapped long mode, then the guest's body.

use iced_x86::code_asm::{CodeAssembler, CodeLabel, al, cr0, cr3, cr4, dx, eax, ecx, edx, ptr, rsp};

use crate::BenchError;

/// Load address of the image.
const BASE: u32 = 0x10_0000;
/// Page tables: PML4, PDPT, one directory of 2 MiB pages (1 GiB).
const TABLES: u32 = BASE + 0x4000;
/// The page for page faults: not mapped.
pub const UNMAPPED: u64 = 0x4000_0000;
const STACK_TOP: u64 = 0x20_0000;
/// Free memory for guests.
pub const ARENA: u64 = 0x100_0000;

const NOTE_AT: u32 = 0x1000;
const ENTRY_AT: u32 = 0x1100;
const GDT_AT: u32 = 0x1300;
const BODY_AT: u32 = 0x1400;

fn fail(error: iced_x86::IcedError) -> BenchError {
    BenchError::Assemble(error.to_string())
}

/// What a guest's body is assembled with.
pub struct Body {
    pub asm: CodeAssembler,
}

impl Body {
    /// Writes a letter to COM1.
    pub fn mark(&mut self, letter: u8) -> Result<(), iced_x86::IcedError> {
        self.asm.mov(dx, 0x3f8)?;
        self.asm.mov(al, u32::from(letter))?;
        self.asm.out(dx, al)
    }
    /// A label placed here.
    pub fn here(&mut self) -> Result<CodeLabel, iced_x86::IcedError> {
        let mut label = self.asm.create_label();
        self.asm.set_label(&mut label)?;
        Ok(label)
    }
}

/// Assembles a guest: set-up by `prepare`, then `S`, `run`, `E`, exit.
pub fn build(
    prepare: impl FnOnce(&mut Body) -> Result<(), iced_x86::IcedError>,
    run: impl FnOnce(&mut Body) -> Result<(), iced_x86::IcedError>,
) -> Result<Vec<u8>, BenchError> {
    let mut body = Body { asm: CodeAssembler::new(64).map_err(fail)? };
    let make = || -> Result<(), iced_x86::IcedError> {
        body.asm.mov(rsp, STACK_TOP)?;
        prepare(&mut body)?;
        body.mark(b'S')?;
        run(&mut body)?;
        body.mark(b'E')?;
        body.asm.mov(dx, 0xf4)?;
        body.asm.mov(eax, 0x10)?;
        body.asm.out(dx, eax)?;
        // Port 0xf4 ends the machine; nothing follows.
        body.asm.hlt()
    };
    make().map_err(fail)?;
    let code = body.asm.assemble(u64::from(BASE - 0x1000 + BODY_AT)).map_err(fail)?;
    image(&entry().map_err(fail)?, &code)
}

/// 32-bit protected mode without paging to 64-bit mode.
fn entry() -> Result<Vec<u8>, iced_x86::IcedError> {
    let mut a = CodeAssembler::new(32)?;
    let gdtr = BASE - 0x1000 + GDT_AT + 0x20;
    a.lgdt(ptr(gdtr))?;
    a.mov(eax, TABLES)?;
    a.mov(cr3, eax)?;
    a.mov(eax, cr4)?;
    // PAE, OSFXSR, OSXMMEXCPT.
    a.or(eax, 0x620)?;
    a.mov(cr4, eax)?;
    a.mov(ecx, 0xc000_0080u32)?;
    a.rdmsr()?;
    // LME.
    a.or(eax, 0x100)?;
    a.wrmsr()?;
    a.mov(eax, cr0)?;
    a.and(eax, 0xffff_fffbu32)?;
    // PG, MP, PE.
    a.or(eax, 0x8000_0003u32)?;
    a.mov(cr0, eax)?;
    a.xor(edx, edx)?;
    let mut code = a.assemble(u64::from(BASE - 0x1000 + ENTRY_AT))?;
    // Far jump to the 64-bit code segment.
    code.push(0xea);
    code.extend_from_slice(&(BASE - 0x1000 + BODY_AT).to_le_bytes());
    code.extend_from_slice(&8u16.to_le_bytes());
    Ok(code)
}

/// Lays the file out: ELF header and two program headers, the note, code, GDT, page tables; file offset 0x1000 is at `BASE`.
fn image(entry: &[u8], code: &[u8]) -> Result<Vec<u8>, BenchError> {
    let mut out = vec![0u8; 0x1000 + 0x7000];
    if BODY_AT as usize + code.len() > 0x5000 {
        return Err(BenchError::Assemble(format!("the body has {} bytes", code.len())));
    }
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let size = 0x7000u64;
    // ELF header.
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &u64::from(BASE - 0x1000 + BODY_AT).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    put(58, &64u16.to_le_bytes());
    let mut header = |index: usize, kind: u32, flags: u32, offset: u64, address: u64, length: u64, align: u64| {
        let at = 64 + 56 * index;
        put(at, &kind.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (i, value) in [offset, address, address, length, length, align].iter().enumerate() {
            put(at + 8 + 8 * i, &value.to_le_bytes());
        }
    };
    header(0, 1, 7, 0x1000, u64::from(BASE), size, 0x1000);
    // QEMU finds the descriptor by this alignment.
    header(1, 4, 4, u64::from(NOTE_AT), u64::from(BASE - 0x1000 + NOTE_AT), 24, 4);
    // XEN_ELFNOTE_PHYS32_ENTRY.
    put(NOTE_AT as usize, &4u32.to_le_bytes());
    put(NOTE_AT as usize + 4, &8u32.to_le_bytes());
    put(NOTE_AT as usize + 8, &18u32.to_le_bytes());
    put(NOTE_AT as usize + 12, b"Xen\0");
    put(NOTE_AT as usize + 16, &u64::from(BASE - 0x1000 + ENTRY_AT).to_le_bytes());
    put(ENTRY_AT as usize, entry);
    // GDT: null, 64-bit code, data; its register image at +0x20.
    put(GDT_AT as usize + 8, &0x00af_9b00_0000_ffffu64.to_le_bytes());
    put(GDT_AT as usize + 16, &0x00cf_9300_0000_ffffu64.to_le_bytes());
    put(GDT_AT as usize + 0x20, &0x17u16.to_le_bytes());
    put(GDT_AT as usize + 0x22, &(BASE - 0x1000 + GDT_AT).to_le_bytes());
    put(BODY_AT as usize, code);
    let tables = 0x1000 + (TABLES - BASE) as usize;
    put(tables, &u64::from(TABLES + 0x1000 + 3).to_le_bytes());
    put(tables + 0x1000, &u64::from(TABLES + 0x2000 + 3).to_le_bytes());
    for page in 0..512u64 {
        put(tables + 0x2000 + 8 * page as usize, &(page << 21 | 0x83).to_le_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::code_asm::ebx;
    use sim_board::{Board, Boot, Machine};

    /// The alarm of `--engine both` on a whole machine: a translator that forgets a carry is found. (Where exactly may stay open: a run cut
    /// elsewhere has other blocks translated.)
    #[test]
    fn a_wrong_translation_is_found_on_a_whole_machine() {
        if !std::arch::is_x86_feature_detected!("bmi2") {
            eprintln!("nothing to test: the host cannot translate");
            return;
        }
        let image = build(|_| Ok(()), |body| {
            body.asm.mov(ecx, 5_000)?;
            let top = body.here()?;
            body.asm.stc()?;
            body.asm.adc(ebx, 3)?;
            body.asm.dec(ecx)?;
            body.asm.jne(top)
        })
        .expect("it assembles");
        let machine = || Machine::new(&Board::default(), &Boot::new(&image, None, "")).expect("it starts");
        let find = |mut right: Machine| {
            let mut left = sim_cpu::on_engine(None, machine);
            sim_snap::first_divergence(&mut left, &mut right, 10_000_000).expect("snapshots can be taken").map(|found| found.to_string())
        };
        assert_eq!(find(sim_cpu::on_engine(Some(1), machine)), None);
        let text = find(sim_cpu::on_spoiled_engine(machine)).expect("it is found");
        assert!(text.contains("the runs part"), "{text}");
    }
}
