//! `unicorn-engine` as a runner: QEMU's TCG, flat memory, ring 0.
//!
//! # Failure
//! Unicorn 2.1.5 descends from QEMU 5 and is wrong in places; [`KNOWN`] lists what is masked and why. Where the host can judge ([`crate::native`])
//! it does; unicorn is the only judge on other hosts and for ring 0.

use unicorn_engine::{Arch, HookType, MemType, Mode, Prot, RegisterX86 as R, Unicorn};

use iced_x86::{Code, FlowControl, Mnemonic as M};

use crate::case::{Case, End, Outcome};
use crate::layout::{CODE, CODE_BYTES, DATA, DATA_BYTES, DATA_WRITABLE, MEMORY_BYTES, STACK, STACK_BYTES};

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

/// Known faults of the oracle.
pub const KNOWN: &[Known] = &[
    Known {
        reason: "BT, BTS, BTR, BTC: flags depend on where unicorn cuts the block (SDM vol. 2: only CF changes)",
        applies: |case| any(case, |m| matches!(m, M::Bt | M::Bts | M::Btr | M::Btc)),
    },
    Known {
        reason: "unmasked SIMD exceptions are never raised by TCG",
        applies: |case| case.start.mxcsr & 0x1f80 != 0x1f80 || any(case, |m| m == M::Ldmxcsr),
    },
    Known {
        reason: "STMXCSR would store flags that QEMU 5 does not keep",
        applies: |case| any(case, |m| m == M::Stmxcsr),
    },
    Known {
        reason: "IN, OUT, INS, OUTS and HLT go to unicorn's embedder",
        applies: |case| any(case, |m| matches!(m, M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd | M::Hlt)),
    },
    Known {
        reason: "a page-crossing access that faults is split differently, partial stores included; indirect targets fault late",
        applies: |case| case.insns.iter().any(|insn| matches!(insn.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return)),
    },
    Known {
        reason: "CMPccPx with a predicate above 7 is #UD (hardware ignores the upper bits)",
        applies: |case| {
            case.insns.iter().any(|insn| {
                matches!(insn.mnemonic(), M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd) && !insn.is_string_instruction() && insn.immediate8() > 7
            })
        },
    },
    Known {
        reason: "SHLD and SHRD by an immediate take RIP-relative operands one byte too low (the immediate is not counted)",
        applies: |case| case.insns.iter().any(|insn| matches!(insn.mnemonic(), M::Shld | M::Shrd) && insn.is_ip_rel_memory_operand()),
    },
    Known {
        reason: "BSF and BSR of zero clear the upper half of a 32-bit destination (hardware leaves all of it)",
        applies: |case| case.insns.iter().any(|insn| matches!(insn.code(), Code::Bsf_r32_rm32 | Code::Bsr_r32_rm32)),
    },
    Known {
        reason: "LOOPE and LOOPNE counting in ECX lose pending flags",
        applies: |case| any(case, |m| matches!(m, M::Loope | M::Loopne)),
    },
    Known {
        reason: "LOCK NEG sets flags from another value",
        applies: |case| case.insns.iter().any(|insn| insn.mnemonic() == M::Neg && insn.has_lock_prefix()),
    },
    Known {
        reason: "CMPXCHG8B and CMPXCHG16B lose flags before them and change RDX before a fault",
        applies: |case| any(case, |m| matches!(m, M::Cmpxchg8b | M::Cmpxchg16b)),
    },
    Known {
        reason: "CMPXCHG r32 clears the upper half of its destination when nothing is written (hardware does not)",
        applies: |case| case.insns.iter().any(|insn| matches!(insn.code(), Code::Cmpxchg_rm32_r32 | Code::Cmpxchg486_rm32_r32)),
    },
    Known {
        reason: "ENTER with a 16-bit operand sets all of RBP",
        applies: |case| case.insns.iter().any(|insn| insn.code() == Code::Enterw_imm16_imm8),
    },
    Known {
        reason: "PCMPESTRx with REX.W takes the lengths from 32 bits",
        applies: |case| any(case, |m| matches!(m, M::Pcmpestri64 | M::Pcmpestrm64)),
    },
    Known {
        reason: "PHADDx and PHSUBx overwrite a source that is also the destination",
        applies: |case| any(case, |m| matches!(m, M::Phaddw | M::Phaddd | M::Phaddsw | M::Phsubw | M::Phsubd | M::Phsubsw)),
    },
    Known {
        reason: "CVTPS2PD and CVTDQ2PD from memory read sixteen bytes",
        applies: |case| any(case, |m| matches!(m, M::Cvtps2pd | M::Cvtdq2pd)),
    },
    Known {
        reason: "REP with a 32-bit address size counts in the wrong width",
        applies: |case| case.insns.iter().any(|insn| insn.is_string_instruction() && (0..insn.op_count()).any(|i| matches!(insn.op_kind(i), iced_x86::OpKind::MemorySegESI | iced_x86::OpKind::MemoryESEDI))),
    },
    Known {
        reason: "MIN, MAX, ADDSUB, horizontal and dot-product NaN rules; PCMPxSTRx with lengths out of range; MASKMOVDQU",
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
pub struct Uni(Unicorn<'static, Seen>);

impl std::fmt::Debug for Uni {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Uni")
    }
}

/// What hooks noted.
#[derive(Debug, Default)]
struct Seen {
    vector: Option<u32>,
    fault: Option<(u64, bool, bool)>,
    invalid: bool,
}

const GPR: [R; 16] = [
    R::RAX, R::RCX, R::RDX, R::RBX, R::RSP, R::RBP, R::RSI, R::RDI, R::R8, R::R9, R::R10, R::R11, R::R12, R::R13, R::R14, R::R15,
];

fn xmm(n: usize) -> i32 {
    R::XMM0 as i32 + n as i32
}

impl Uni {
    /// # Errors
    /// Unicorn's own, as text.
    pub fn new() -> Result<Uni, String> {
        let fail = |error| format!("unicorn: {error:?}");
        let mut uc = Unicorn::new_with_data(Arch::X86, Mode::MODE_64, Seen::default()).map_err(fail)?;
        uc.mem_map(CODE, CODE_BYTES, Prot::READ | Prot::EXEC).map_err(fail)?;
        uc.mem_map(DATA, DATA_WRITABLE, Prot::READ | Prot::WRITE).map_err(fail)?;
        uc.mem_map(DATA + DATA_WRITABLE, DATA_BYTES - DATA_WRITABLE, Prot::READ).map_err(fail)?;
        uc.mem_map(STACK, STACK_BYTES, Prot::READ | Prot::WRITE).map_err(fail)?;
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
        uc.add_mem_hook(HookType::MEM_INVALID, 1, 0, |uc, kind, address, _, _| {
            let write = matches!(kind, MemType::WRITE_UNMAPPED | MemType::WRITE_PROT);
            let present = matches!(kind, MemType::WRITE_PROT | MemType::READ_PROT | MemType::FETCH_PROT);
            uc.get_data_mut().fault = Some((address, write, present));
            false
        })
        .map_err(fail)?;
        Ok(Uni(uc))
    }

    /// Runs a case; [`End::Unknown`] where a known fault of unicorn's applies.
    ///
    /// # Errors
    /// Unicorn's own, as text.
    pub fn run(&mut self, case: &Case, bytes: &[u8], memory: &[u8; MEMORY_BYTES]) -> Result<Outcome, String> {
        let fail = |error| format!("unicorn: {error:?}");
        let mut out = Outcome {
            end: End::Unknown,
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            xmm: [0; 16],
            mxcsr: 0,
            x87: case.start.x87,
            memory: Box::new(*memory),
        };
        if KNOWN.iter().any(|known| (known.applies)(case)) {
            return Ok(out);
        }
        let uc = &mut self.0;
        *uc.get_data_mut() = Seen::default();
        let (arena, stack) = memory.split_at(DATA_BYTES as usize);
        uc.mem_write(CODE, &[0xcc; CODE_BYTES as usize]).map_err(fail)?;
        uc.mem_write(case.origin, bytes).map_err(fail)?;
        uc.mem_write(DATA, arena).map_err(fail)?;
        uc.mem_write(STACK, stack).map_err(fail)?;
        uc.ctl_flush_tb().map_err(fail)?;
        for (register, value) in GPR.iter().zip(case.start.gpr) {
            uc.reg_write(*register, value).map_err(fail)?;
        }
        uc.reg_write(R::RFLAGS, case.start.rflags).map_err(fail)?;
        uc.reg_write(R::MXCSR, u64::from(case.start.mxcsr)).map_err(fail)?;
        for (n, value) in case.start.xmm.iter().enumerate() {
            uc.reg_write_long(xmm(n), &value.to_le_bytes()).map_err(fail)?;
        }
        let end = case.origin + bytes.len() as u64 - 1;
        let result = uc.emu_start(case.origin, end, 0, 20_000);
        out.rip = uc.reg_read(R::RIP).map_err(fail)?;
        let seen = std::mem::take(uc.get_data_mut());
        out.end = match (seen.vector, seen.fault, seen.invalid, result) {
            (_, _, true, _) => End::Fault { vector: 6, code: 0, address: 0 },
            (_, Some((address, write, present)), ..) => {
                // Only the first byte is known, and non-canonical addresses look like any other.
                if !(-0x8000_0000_0000..0x8000_0000_0000).contains(&(address as i64)) {
                    End::Unknown
                } else {
                    End::Fault { vector: 14, code: u32::from(present) | u32::from(write) << 1, address }
                }
            }
            (Some(vector), ..) if vector < 32 => End::Fault { vector: vector as u8, code: 0, address: 0 },
            (None, None, false, Ok(())) if out.rip == end => {
                out.rip += 1;
                End::Fault { vector: 3, code: 0, address: 0 }
            }
            _ => End::Unknown,
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
        uc.mem_read(DATA, arena).map_err(fail)?;
        uc.mem_read(STACK, stack).map_err(fail)?;
        Ok(out)
    }
}
