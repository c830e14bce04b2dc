//! `unicorn-engine` as a runner: QEMU's TCG with paging on, in ring 0 and ring 3, in the same memory as [`crate::ours`].
//!
//! # Failure
//! Unicorn 2.1.5 descends from QEMU 5 and is wrong in places; [`KNOWN`] lists what is masked and why. Where the host can judge ([`crate::native`])
//! it does; unicorn is the only judge on other hosts and for ring 0.

use unicorn_engine::hook::sys;
use unicorn_engine::{Arch, Context, HookType, Mode, Prot, RegisterX86 as R, Unicorn, X86CpuModel, uc_error};

use iced_x86::{Code, Mnemonic as M, Register};

use crate::case::{Case, End, Outcome, Ring};
use crate::layout::{CODE, CODE_BYTES, DATA_BYTES, MEMORY_BYTES};
use crate::ours::{HANDLER_STACK_TOP, MEMORY, Ours, PHYS_CODE, PHYS_DATA, PHYS_STACK, PHYS_SYSTEM, RETURN, SYSTEM, TABLE, TSS, page_entries};

/// Why a verdict of unicorn's is not taken.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub reason: &'static str,
    /// The case is not run on unicorn at all.
    pub applies: fn(&Case) -> bool,
}

fn any(case: &Case, test: impl Fn(M) -> bool) -> bool {
    case.insns.iter().any(|insn| test(insn.mnemonic()))
}

/// Whether a case may change whether CR0 and CR4 let vector instructions run.
fn changes_control(case: &Case) -> bool {
    case.insns.iter().any(|insn| insn.mnemonic() == M::Lmsw || matches!(insn.op0_register(), Register::CR0 | Register::CR4))
}

/// Whether an instruction computes with floating-point numbers: may raise MXCSR's flags, may have two NaNs to choose from.
pub fn computes(insn: &iced_x86::Instruction) -> bool {
    use iced_x86::CpuidFeature as F;
    const VERBS: [&str; 12] = ["Add", "Sub", "Mul", "Div", "Sqrt", "Min", "Max", "Cmp", "Comi", "Ucomi", "Cvt", "Round"];
    const MORE: [&str; 4] = ["Hadd", "Hsub", "Dpp", "Addsub"];
    insn.cpuid_features().iter().any(|feature| matches!(feature, F::SSE | F::SSE2 | F::SSE3 | F::SSE4_1)) && {
        let name = format!("{:?}", insn.mnemonic());
        VERBS.iter().chain(&MORE).any(|verb| name.starts_with(verb))
    }
}

/// Known faults of the oracle.
pub const KNOWN: &[Known] = &[
    Known {
        reason: "unmasked SIMD exceptions (SDM vol. 1 §11.5.3) are never raised by TCG",
        applies: |case| case.start.mxcsr & 0x1f80 != 0x1f80 || any(case, |m| m == M::Ldmxcsr),
    },
    Known {
        reason: "what computations leave in MXCSR's flags is kept in part only (SDM vol. 1 §10.2.3.1: sticky until cleared), so that what stores them differs",
        applies: |case| any(case, |m| matches!(m, M::Stmxcsr | M::Fxsave | M::Fxsave64 | M::Xsave | M::Xsave64)) && case.insns.iter().any(computes),
    },
    Known {
        reason: "CRC32 and POPCNT are #UD with CR0.EM set or CR4.OSFXSR clear (they use general registers only: APM vol. 3)",
        applies: |case| any(case, |m| matches!(m, M::Crc32 | M::Popcnt)) && changes_control(case),
    },
    Known {
        reason: "PAUSE ends without the single-step trap that is due (SDM vol. 3 §17.3.1.4: after the next instruction)",
        applies: |case| any(case, |m| m == M::Pause) && any(case, |m| matches!(m, M::Popf | M::Popfq | M::Iretq)),
    },
    Known {
        reason: "IN, OUT, INS, OUTS and HLT go to unicorn's embedder: no verdict",
        applies: |case| any(case, |m| matches!(m, M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd | M::Hlt)),
    },
    Known {
        reason: "IRETQ and RETF of ring 3 read the stack as the supervisor would (SDM vol. 3 §4.6.1: an explicit access at CPL 3 is the user's)",
        applies: |case| case.ring == Ring::User && any(case, |m| matches!(m, M::Iretq | M::Retf)),
    },
    Known {
        reason: "CMPccPx with a predicate above 7 is #UD (SDM vol. 2, CMPPS: the upper bits of the predicate are ignored)",
        applies: |case| {
            case.insns.iter().any(|insn| {
                matches!(insn.mnemonic(), M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd) && !insn.is_string_instruction() && insn.immediate8() > 7
            })
        },
    },
    Known {
        reason: "SHLD and SHRD by an immediate take RIP-relative operands one byte too low (SDM vol. 2 §2.2.1.6: from the next instruction, the immediate counts)",
        applies: |case| case.insns.iter().any(|insn| matches!(insn.mnemonic(), M::Shld | M::Shrd) && insn.is_ip_rel_memory_operand()),
    },
    Known {
        reason: "BSF and BSR of zero clear the upper half of a 32-bit destination (APM vol. 3, BSF: the destination stays)",
        applies: |case| case.insns.iter().any(|insn| matches!(insn.code(), Code::Bsf_r32_rm32 | Code::Bsr_r32_rm32)),
    },
    Known {
        reason: "LOOPE and LOOPNE counting in ECX lose pending flags (SDM vol. 2, LOOP: none change)",
        applies: |case| any(case, |m| matches!(m, M::Loope | M::Loopne)),
    },
    Known {
        reason: "LOCK NEG sets flags from another value (SDM vol. 2, NEG: by the result)",
        applies: |case| case.insns.iter().any(|insn| insn.mnemonic() == M::Neg && insn.has_lock_prefix()),
    },
    Known {
        reason: "CMPXCHG8B and CMPXCHG16B lose flags before them and change RDX before a fault (SDM vol. 2: ZF only; vol. 3 §6.5: a fault leaves the state)",
        applies: |case| any(case, |m| matches!(m, M::Cmpxchg8b | M::Cmpxchg16b)),
    },
    Known {
        reason: "CMPXCHG r32 clears the upper half of its destination when nothing is written (APM vol. 3 §3.1.2: only a register that is written is extended; the host agrees)",
        applies: |case| case.insns.iter().any(|insn| matches!(insn.code(), Code::Cmpxchg_rm32_r32 | Code::Cmpxchg486_rm32_r32)),
    },
    Known {
        reason: "ENTER does not look whether the new top of the stack can be written (SDM vol. 2, ENTER: #PF), and with a 16-bit operand sets all of RBP",
        applies: |case| any(case, |m| m == M::Enter),
    },
    Known {
        reason: "PCMPESTRx with REX.W takes the lengths from 32 bits (SDM vol. 2 §4.1.3: RAX and RDX with REX.W)",
        applies: |case| any(case, |m| matches!(m, M::Pcmpestri64 | M::Pcmpestrm64)),
    },
    Known {
        reason: "PHADDx and PHSUBx overwrite a source that is also the destination (SDM vol. 2, PHADDW: the result is made of both as they were)",
        applies: |case| any(case, |m| matches!(m, M::Phaddw | M::Phaddd | M::Phaddsw | M::Phsubw | M::Phsubd | M::Phsubsw)),
    },
    Known {
        reason: "CVTPS2PD and CVTDQ2PD from memory read sixteen bytes (SDM vol. 2: m64)",
        applies: |case| any(case, |m| matches!(m, M::Cvtps2pd | M::Cvtdq2pd)),
    },
    Known {
        reason: "REP with a 32-bit address size counts in the wrong width (SDM vol. 2, REP: the address size says)",
        applies: |case| case.insns.iter().any(|insn| insn.is_string_instruction() && (0..insn.op_count()).any(|i| matches!(insn.op_kind(i), iced_x86::OpKind::MemorySegESI | iced_x86::OpKind::MemoryESEDI))),
    },
    Known {
        reason: "HADDPx and HSUBPx take the wrong NaN of two (SDM vol. 1 table 4-7)",
        applies: |case| any(case, |m| matches!(m, M::Haddps | M::Hsubps | M::Haddpd | M::Hsubpd)),
    },
    Known {
        reason: "PCMPESTRx in equal-ordered form finds matches that the lengths rule out (SDM vol. 2 §4.1.6); the host judges",
        applies: |case| any(case, |m| matches!(m, M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm)),
    },
    Known {
        reason: "DPPx sum in another order, ROUNDx reads its mode otherwise, MASKMOVDQU reads bytes it does not write (SDM vol. 2, under each)",
        applies: |case| any(case, |m| matches!(m, M::Dpps | M::Dppd | M::Maskmovdqu | M::Roundps | M::Roundpd | M::Roundss | M::Roundsd)),
    },
];

/// Opcodes that are not drawn for unicorn: x87 and MMX (the tag word, C1 and the exception rules of QEMU 5 are approximations), TEST by its second
/// encoding F6 /1 and F7 /1 (#UD in unicorn), DIV and IDIV (after a #DE its state depends on what ran before: the same case twice gives two
/// answers).
pub fn unsupported(code: iced_x86::Code) -> bool {
    use iced_x86::{CpuidFeature as F, OpCodeOperandKind as K};
    code.cpuid_features().iter().any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::MMX))
        || code.op_code().op_kinds().iter().any(|kind| matches!(kind, K::mm_reg | K::mm_rm | K::mm_or_mem))
        || matches!(code.mnemonic(), M::Div | M::Idiv)
        || matches!(code, Code::Test_rm8_imm8_F6r1 | Code::Test_rm16_imm16_F7r1 | Code::Test_rm32_imm32_F7r1 | Code::Test_rm64_imm32_F7r1)
}

/// The runner.
pub struct Uni {
    engine: Unicorn<'static, Seen>,
    /// Registers before any case, in ring 0 with paging on.
    clean: Context,
    image: Vec<u8>,
    /// One of [`KNOWN`] that is not believed: to see whether it still holds.
    pub without: Option<usize>,
}

impl std::fmt::Debug for Uni {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Uni")
    }
}

/// What hooks noted.
#[derive(Debug, Default)]
struct Seen {
    vector: Option<u32>,
    invalid: bool,
    /// An access outside RAM: page tables gone wild.
    lost: bool,
}

const GPR: [R; 16] = [
    R::RAX, R::RCX, R::RDX, R::RBX, R::RSP, R::RBP, R::RSI, R::RDI, R::R8, R::R9, R::R10, R::R11, R::R12, R::R13, R::R14, R::R15,
];

fn xmm(n: usize) -> i32 {
    R::XMM0 as i32 + n as i32
}

/// Unicorn's `uc_x86_mmr`: GDTR, IDTR, LDTR, TR.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Table {
    selector: u16,
    base: u64,
    limit: u32,
    flags: u32,
}

/// Unicorn's `uc_x86_msr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Msr {
    number: u32,
    value: u64,
}

fn fail(error: uc_error) -> String {
    format!("unicorn: {error:?}")
}

fn set_table(engine: &Unicorn<'_, Seen>, register: R, table: Table) -> Result<(), String> {
    // SAFETY: these registers are written from a `uc_x86_mmr`, which `Table` is.
    let result = unsafe { sys::uc_reg_write(engine.get_handle(), register as i32, (&raw const table).cast()) };
    if result == uc_error::OK { Ok(()) } else { Err(fail(result)) }
}

fn table(engine: &Unicorn<'_, Seen>, register: R) -> Result<Table, String> {
    let mut table = Table::default();
    // SAFETY: these registers are read into a `uc_x86_mmr`, which `Table` is.
    let result = unsafe { sys::uc_reg_read(engine.get_handle(), register as i32, (&raw mut table).cast()) };
    if result == uc_error::OK { Ok(table) } else { Err(fail(result)) }
}

fn set_msr(engine: &Unicorn<'_, Seen>, number: u32, value: u64) -> Result<(), String> {
    let msr = Msr { number, value };
    // SAFETY: MSR is written from a `uc_x86_msr`, which `Msr` is.
    let result = unsafe { sys::uc_reg_write(engine.get_handle(), R::MSR as i32, (&raw const msr).cast()) };
    if result == uc_error::OK { Ok(()) } else { Err(fail(result)) }
}

fn msr(engine: &Unicorn<'_, Seen>, number: u32) -> Result<u64, String> {
    let mut msr = Msr { number, value: 0 };
    // SAFETY: MSR is read into a `uc_x86_msr`, which `Msr` is.
    let result = unsafe { sys::uc_reg_read(engine.get_handle(), R::MSR as i32, (&raw mut msr).cast()) };
    if result == uc_error::OK { Ok(msr.value) } else { Err(fail(result)) }
}

impl Uni {
    /// A machine with the memory of `ours` before a case: the same page tables, descriptor tables and addresses.
    ///
    /// # Errors
    /// Unicorn's own, as text.
    pub fn new(ours: &Ours) -> Result<Uni, String> {
        let image = ours.image().to_vec();
        let mut uc = Unicorn::new_with_data(Arch::X86, Mode::MODE_64, Seen::default()).map_err(fail)?;
        // Before anything else: the model has SMEP, SMAP, FSGSBASE and XSAVE.
        uc.ctl_set_cpu_model(X86CpuModel::EPYC as i32).map_err(fail)?;
        uc.mem_map(0, MEMORY, Prot::ALL).map_err(fail)?;
        uc.mem_write(0, &image).map_err(fail)?;
        uc.add_intr_hook(|uc, vector| {
            uc.get_data_mut().vector = Some(vector);
            // Nothing to do if it has stopped already.
            uc.emu_stop().ok();
        })
        .map_err(fail)?;
        uc.add_insn_invalid_hook(|uc| {
            uc.get_data_mut().invalid = true;
            false
        })
        .map_err(fail)?;
        uc.add_mem_hook(HookType::MEM_UNMAPPED, 1, 0, |uc, _, _, _, _| {
            uc.get_data_mut().lost = true;
            false
        })
        .map_err(fail)?;
        let sys = ours.base();
        set_msr(&uc, 0xc000_0080, sys.efer)?;
        uc.reg_write(R::CR3, sys.cr3).map_err(fail)?;
        uc.reg_write(R::CR4, sys.cr4).map_err(fail)?;
        uc.reg_write(R::CR0, sys.cr0).map_err(fail)?;
        uc.reg_write(R::DR6, sys.dr6).map_err(fail)?;
        uc.reg_write(R::DR7, sys.dr7).map_err(fail)?;
        let table = |base: u64, limit: u16| Table { base, limit: u32::from(limit), ..Table::default() };
        set_table(&uc, R::GDTR, table(sys.gdtr.base, sys.gdtr.limit))?;
        set_table(&uc, R::IDTR, table(sys.idtr.base, sys.idtr.limit))?;
        set_table(&uc, R::LDTR, Table::default())?;
        set_table(&uc, R::TR, Table { selector: 0x38, base: TSS, limit: 0x67, flags: 0x8b00 })?;
        uc.reg_write(R::CS, 0x08).map_err(fail)?;
        for register in [R::SS, R::DS, R::ES, R::FS, R::GS] {
            uc.reg_write(register, 0x10).map_err(fail)?;
        }
        let clean = uc.context_init().map_err(fail)?;
        Ok(Uni { engine: uc, clean, image, without: None })
    }

    /// Runs a case; [`End::Unknown`] where a known fault of unicorn's applies.
    ///
    /// # Errors
    /// Unicorn's own, as text.
    pub fn run(&mut self, case: &Case, bytes: &[u8], memory: &[u8; MEMORY_BYTES]) -> Result<Outcome, String> {
        let mut out = Outcome {
            end: End::Unknown,
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            xmm: [0; 16],
            upper: [0; 16],
            mxcsr: 0,
            x87: case.start.x87,
            memory: Box::new(*memory),
            system: Vec::new(),
        };
        if KNOWN.iter().enumerate().any(|(index, known)| self.without != Some(index) && (known.applies)(case)) {
            return Ok(out);
        }
        let uc = &mut self.engine;
        uc.context_restore(&self.clean).map_err(fail)?;
        *uc.get_data_mut() = Seen::default();
        for at in [TABLE, PHYS_SYSTEM] {
            uc.mem_write(at, &self.image[at as usize..at as usize + 0x1000]).map_err(fail)?;
        }
        for (entry, rights) in page_entries(&case.setting) {
            uc.mem_write(entry, &rights.to_le_bytes()).map_err(fail)?;
        }
        let (arena, stack) = memory.split_at(DATA_BYTES as usize);
        uc.mem_write(PHYS_CODE, &[0xcc; CODE_BYTES as usize]).map_err(fail)?;
        uc.mem_write(PHYS_CODE + case.origin - CODE, bytes).map_err(fail)?;
        uc.mem_write(PHYS_DATA, arena).map_err(fail)?;
        uc.mem_write(PHYS_STACK, stack).map_err(fail)?;
        for (register, value) in GPR.iter().zip(case.start.gpr) {
            uc.reg_write(*register, value).map_err(fail)?;
        }
        uc.reg_write(R::MXCSR, u64::from(case.start.mxcsr)).map_err(fail)?;
        for (n, value) in case.start.xmm.iter().enumerate() {
            uc.reg_write_long(xmm(n), &value.to_le_bytes()).map_err(fail)?;
        }
        let (cr0, cr4) = (uc.reg_read(R::CR0).map_err(fail)?, uc.reg_read(R::CR4).map_err(fail)?);
        uc.reg_write(R::CR4, cr4 ^ case.setting.cr4).map_err(fail)?;
        uc.reg_write(R::CR0, cr0 ^ case.setting.cr0).map_err(fail)?;
        let begin = if case.ring == Ring::User {
            for register in [R::DS, R::ES, R::FS, R::GS] {
                uc.reg_write(register, 0x2b).map_err(fail)?;
            }
            // RIP, CS, RFLAGS, RSP, SS, on the stack of the handlers.
            let frame = [case.origin, 0x33, case.start.rflags, case.start.gpr[4], 0x2b];
            let at = HANDLER_STACK_TOP - 40;
            for (index, value) in frame.iter().enumerate() {
                uc.mem_write(at - SYSTEM + PHYS_SYSTEM + 8 * index as u64, &value.to_le_bytes()).map_err(fail)?;
            }
            uc.reg_write(R::RSP, at).map_err(fail)?;
            uc.reg_write(R::RFLAGS, 2).map_err(fail)?;
            RETURN
        } else {
            uc.reg_write(R::RFLAGS, case.start.rflags).map_err(fail)?;
            case.origin
        };
        uc.ctl_flush_tb().map_err(fail)?;
        uc.ctl_flush_tlb().map_err(fail)?;
        // What it returns says less than the hooks did.
        uc.emu_start(begin, 0, 0, 20_000).ok();
        out.rip = uc.reg_read(R::RIP).map_err(fail)?;
        let seen = std::mem::take(uc.get_data_mut());
        let cr2 = uc.reg_read(R::CR2).map_err(fail)?;
        out.end = match (seen.vector, seen.invalid) {
            _ if seen.lost => End::Unknown,
            (_, true) => End::Fault { vector: 6, code: 0, address: 0 },
            // Error codes are not reported.
            (Some(vector), _) if vector < 32 => End::Fault { vector: vector as u8, code: 0, address: if vector == 14 { cr2 } else { 0 } },
            _ => {
                // Too many instructions, or something that unicorn leaves to its embedder.
                End::Unknown
            }
        };
        for (register, slot) in GPR.iter().zip(&mut out.gpr) {
            *slot = uc.reg_read(*register).map_err(fail)?;
        }
        out.rflags = uc.reg_read(R::RFLAGS).map_err(fail)?;
        for (n, slot) in out.xmm.iter_mut().enumerate() {
            let bytes = uc.reg_read_long(xmm(n)).map_err(fail)?;
            let mut value = [0; 16];
            value.copy_from_slice(&bytes[..16]);
            *slot = u128::from_le_bytes(value);
        }
        let (arena, stack) = out.memory.split_at_mut(DATA_BYTES as usize);
        uc.mem_read(PHYS_DATA, arena).map_err(fail)?;
        uc.mem_read(PHYS_STACK, stack).map_err(fail)?;
        out.system = self.system()?;
        Ok(out)
    }

    /// What [`Ours`] calls by the same names, in the same order.
    fn system(&mut self) -> Result<Vec<(&'static str, u64)>, String> {
        const REGISTERS: [(&str, R); 16] = [
            ("cr0", R::CR0),
            ("cr2", R::CR2),
            ("cr3", R::CR3),
            ("cr4", R::CR4),
            ("dr0", R::DR0),
            ("dr1", R::DR1),
            ("dr2", R::DR2),
            ("dr3", R::DR3),
            ("dr6", R::DR6),
            ("dr7", R::DR7),
            ("es", R::ES),
            ("cs", R::CS),
            ("ss", R::SS),
            ("ds", R::DS),
            ("fs", R::FS),
            ("gs", R::GS),
        ];
        const MSRS: [(&str, u32); 12] = [
            ("fs base", 0xc000_0100),
            ("gs base", 0xc000_0101),
            ("kernel gs base", 0xc000_0102),
            ("efer", 0xc000_0080),
            ("star", 0xc000_0081),
            ("lstar", 0xc000_0082),
            ("cstar", 0xc000_0083),
            ("sfmask", 0xc000_0084),
            ("pat", 0x277),
            ("sysenter cs", 0x174),
            ("sysenter esp", 0x175),
            ("sysenter eip", 0x176),
        ];
        let mut out = Vec::with_capacity(40);
        for (name, register) in REGISTERS {
            // Selectors come as 16 bits in a place of 64.
            out.push((name, self.engine.reg_read(register).map_err(fail)?));
        }
        for (name, number) in MSRS {
            out.push((name, msr(&self.engine, number)?));
        }
        for (base, limit, register) in [("gdtr base", "gdtr limit", R::GDTR), ("idtr base", "idtr limit", R::IDTR)] {
            let table = table(&self.engine, register)?;
            out.push((base, table.base));
            out.push((limit, u64::from(table.limit)));
        }
        out.push(("ldtr", u64::from(table(&self.engine, R::LDTR)?.selector)));
        out.push(("tr", u64::from(table(&self.engine, R::TR)?.selector)));
        for ((at, _), name) in page_entries(&crate::setting::Setting::default()).into_iter().zip(["page 0", "page 1", "page 2", "stack page"]) {
            let mut entry = [0; 8];
            self.engine.mem_read(at, &mut entry).map_err(fail)?;
            out.push((name, u64::from_le_bytes(entry)));
        }
        Ok(out)
    }
}
