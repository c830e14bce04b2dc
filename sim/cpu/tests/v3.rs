//! The v3 model: who may use AVX, what XSAVE does with upper halves, that the default model has none of it, and that a feature which CPUID lacks is not
//! there. What instructions compute
//! is the differential oracle's (`sim-cpu-oracle`, `vex`).

mod support;

use iced_x86::code_asm::*;
use sim_cpu::{Activity, Config, Cpu, CpuChoice, CpuModel, RAX, RBX, RCX, RDX, Stop, cr0, cr4};
use support::{CODE, DATA, HANDLERS, Machine};

const OPEN: u64 = 7;

/// A machine of `model` with AVX enabled as an operating system does; every exception halts in its handler.
fn machine(model: CpuModel) -> Machine {
    machine_of(&CpuChoice::from(model))
}

fn machine_of(choice: &CpuChoice) -> Machine {
    let mut machine = Machine::long();
    let state = machine.cpu.state();
    machine.cpu = Cpu::new(Config { cpuid: choice.table(0, 1), ..Config::default() });
    machine.cpu.set_state(&state);
    machine.change(|state| {
        state.sys.cr4 |= cr4::OSXSAVE;
        state.sys.xcr0 = OPEN;
        state.ymm_high = std::array::from_fn(|i| 0x1111_2222_3333_4444_u128 + i as u128);
        state.xmm = std::array::from_fn(|i| 0xaaaa_bbbb_u128 << 64 | i as u128);
    });
    for vector in 0..256 {
        machine.bytes(HANDLERS + 16 * vector, &[0xf4]);
    }
    machine
}

/// Runs code that ends in HLT; the vector of the exception that came first, if one did.
fn run(machine: &mut Machine, build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Option<u64> {
    machine.code(CODE, |asm| {
        build(asm)?;
        asm.hlt()
    });
    machine.change(|state| {
        state.rip = CODE;
        state.sys.activity = Activity::Running;
    });
    assert_eq!(machine.run(1000), Stop::Halted);
    let rip = machine.cpu.rip();
    (HANDLERS..HANDLERS + 16 * 256).contains(&rip).then(|| (rip - HANDLERS - 1) / 16)
}

#[test]
fn avx_needs_the_model_osxsave_and_both_states() {
    let add = |asm: &mut CodeAssembler| asm.vaddps(ymm1, ymm2, ymm3);
    assert_eq!(run(&mut machine(CpuModel::V3), add), None);
    assert_eq!(run(&mut machine(CpuModel::V2), add), Some(6), "the default model has no AVX whatever XCR0 holds");
    for closed in [1, 3] {
        let mut closing = machine(CpuModel::V3);
        closing.change(|state| state.sys.xcr0 = closed);
        assert_eq!(run(&mut closing, add), Some(6), "XCR0 {closed}");
    }
    let mut without = machine(CpuModel::V3);
    without.change(|state| state.sys.cr4 &= !cr4::OSXSAVE);
    assert_eq!(run(&mut without, add), Some(6));
    let mut switched = machine(CpuModel::V3);
    switched.change(|state| state.sys.cr0 |= cr0::TS);
    assert_eq!(run(&mut switched, add), Some(7), "#NM comes with CR0.TS");
    let mut both = machine(CpuModel::V3);
    both.change(|state| {
        state.sys.cr0 |= cr0::TS;
        state.sys.xcr0 = 3;
    });
    assert_eq!(run(&mut both, add), Some(6), "#UD comes before #NM");
    // BMI is no vector state, and CR4.OSFXSR is for legacy SSE.
    let mut plain = machine(CpuModel::V2);
    plain.change(|state| state.sys.xcr0 = 1);
    assert_eq!(run(&mut plain, |asm| asm.andn(eax, ebx, ecx)), None);
    let mut no_fxsr = machine(CpuModel::V3);
    no_fxsr.change(|state| state.sys.cr4 &= !cr4::OSFXSR);
    assert_eq!(run(&mut no_fxsr, add), None);
}

#[test]
fn other_extensions_stay_undefined() {
    for (bytes, what) in [
        (&[0xc4, 0xe2, 0x75, 0xdc, 0xc2][..], "VAES on 256 bits"),
        (&[0xc4, 0xe2, 0x71, 0x50, 0xc2], "AVX-VNNI"),
        (&[0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2], "AVX-512"),
        (&[0x8f, 0xe9, 0x78, 0x01, 0xc8], "XOP"),
        (&[0x8f, 0xea, 0x78, 0x10, 0xc0, 1, 0, 0, 0], "TBM's BEXTR"),
    ] {
        let mut machine = machine(CpuModel::V3);
        machine.bytes(CODE, bytes);
        assert_eq!(machine.run(1000), Stop::Halted);
        assert_eq!((machine.cpu.rip() - HANDLERS - 1) / 16, 6, "{what}");
    }
}

#[test]
fn cpuid_agrees_with_what_is_there() {
    let mut machine = machine(CpuModel::V3);
    let mut leaf = |leaf: u32, subleaf: u32| {
        machine.change(|state| {
            state.gpr[RAX] = u64::from(leaf);
            state.gpr[RCX] = u64::from(subleaf);
        });
        assert_eq!(run(&mut machine, |asm| asm.cpuid()), None);
        [RAX, RBX, RCX, RDX].map(|register| machine.gpr(register))
    };
    assert_eq!(leaf(1, 0)[2] & (1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29), 1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29);
    assert_eq!(leaf(7, 0)[1] & (1 << 3 | 1 << 5 | 1 << 8 | 1 << 16), 1 << 3 | 1 << 5 | 1 << 8);
    assert_eq!(leaf(0xd, 0), [7, 0x340, 0x340, 0]);
    assert_eq!(leaf(0xd, 1)[1], 0x340);
    assert_eq!(leaf(0xd, 2), [256, 576, 0, 0]);
    assert_eq!(leaf(0xd, 3), [0; 4]);
}

#[test]
fn xsetbv_takes_only_what_makes_sense() {
    for (value, model, fault) in [
        (7, CpuModel::V3, None),
        (3, CpuModel::V3, None),
        (5, CpuModel::V3, Some(13)),
        (6, CpuModel::V3, Some(13)),
        (0xf, CpuModel::V3, Some(13)),
        (7, CpuModel::V2, Some(13)),
    ] {
        let mut machine = machine(model);
        machine.change(|state| {
            state.sys.xcr0 = 1;
            state.gpr[RAX] = value;
        });
        assert_eq!(run(&mut machine, |asm| asm.xsetbv()), fault, "{value} on {model:?}");
    }
}

#[test]
fn upper_halves_are_zeroed_by_vex_and_kept_by_sse() {
    let mut machine = machine(CpuModel::V3);
    let before = machine.cpu.state();
    assert_eq!(
        run(&mut machine, |asm| {
            asm.vpaddd(xmm1, xmm2, xmm3)?;
            asm.paddd(xmm4, xmm5)?;
            asm.vmovd(xmm6, eax)
        }),
        None
    );
    let after = machine.cpu.state();
    assert_eq!((after.ymm_high[1], after.ymm_high[4], after.ymm_high[6]), (0, before.ymm_high[4], 0));
    assert_eq!(run(&mut machine, |asm| asm.vzeroupper()), None);
    let after = machine.cpu.state();
    assert_eq!(after.ymm_high, [0; 16]);
    assert_eq!(after.xmm[15], before.xmm[15]);
    assert_eq!(run(&mut machine, |asm| asm.vzeroall()), None);
    assert_eq!(machine.cpu.state().xmm, [0; 16]);
}

#[test]
fn only_aligned_moves_ask_for_alignment() {
    for (build, fault) in [
        ((|asm: &mut CodeAssembler| asm.vmovaps(ymm0, ymmword_ptr(rbx))) as fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>, Some(13)),
        (|asm| asm.vmovups(ymm0, ymmword_ptr(rbx)), None),
        (|asm| asm.vaddps(ymm0, ymm1, ymmword_ptr(rbx)), None),
        (|asm| asm.vmovntdq(ymmword_ptr(rbx), ymm0), Some(13)),
        (|asm| asm.vmovdqa(xmm0, xmmword_ptr(rbx)), None),
    ] {
        let mut machine = machine(CpuModel::V3);
        machine.change(|state| state.gpr[RBX] = DATA + 16);
        assert_eq!(run(&mut machine, build), fault);
    }
}

#[test]
fn xsave_and_xrstor_carry_the_upper_halves() {
    for form in 0..3 {
        let mut machine = machine(CpuModel::V3);
        let before = machine.cpu.state();
        machine.change(|state| {
            state.gpr[RBX] = DATA;
            state.gpr[RAX] = 7;
        });
        let area = ptr(rbx);
        assert_eq!(
            run(&mut machine, |asm| {
                match form {
                    0 => asm.xsave64(area)?,
                    1 => asm.xsaveopt64(area)?,
                    _ => asm.xsavec64(area)?,
                }
                asm.vzeroall()?;
                asm.xrstor64(area)
            }),
            None
        );
        let after = machine.cpu.state();
        assert_eq!((after.xmm, after.ymm_high), (before.xmm, before.ymm_high), "form {form}");
        assert_eq!(machine.memory.read_u64(DATA + 576 + 16, 8), Ok(before.ymm_high[1] as u64));
        // What is in its first state is said to be so, and comes back as zero.
        machine.change(|state| {
            state.gpr[RBX] = DATA;
            state.gpr[RAX] = 7;
            state.ymm_high = [0; 16];
        });
        assert_eq!(
            run(&mut machine, |asm| {
                if form == 2 { asm.xsavec64(area)? } else { asm.xsave64(area)? }
                asm.vinsertf128(ymm1, ymm1, xmm1, 1)?;
                asm.xrstor64(area)
            }),
            None
        );
        assert_eq!(machine.memory.read_u64(DATA + 512, 8).map(|bits| bits & 4), Ok(0));
        assert_eq!(machine.cpu.state().ymm_high, [0; 16]);
    }
}

#[test]
fn a_gather_that_faults_has_done_what_came_before() {
    let mut machine = machine(CpuModel::V3);
    // VPGATHERDD XMM0, [RBX + XMM1 * 4], XMM2: element 2 lies on a page that is not there.
    let entry = 0x4000 + ((DATA + 0x1000) >> 12) * 8;
    machine.memory.write_u64(entry, 8, 0).expect("tables are in RAM");
    for i in 0..4u64 {
        machine.memory.write_u64(DATA + 0xff8 + 4 * i, 4, 0x100 + i).expect("in RAM");
    }
    machine.change(|state| {
        state.gpr[RBX] = DATA + 0xff8;
        state.xmm[1] = 3 << 96 | 2 << 64 | 1 << 32;
        state.xmm[2] = u128::MAX;
        state.xmm[0] = 0;
    });
    assert_eq!(run(&mut machine, |asm| asm.db(&[0xc4, 0xe2, 0x69, 0x90, 0x04, 0x8b])), Some(14));
    let state = machine.cpu.state();
    assert_eq!((state.xmm[0], state.xmm[2]), (0x101 << 32 | 0x100, u128::MAX << 64));
    // With the page there it goes on.
    machine.memory.write_u64(entry, 8, (DATA + 0x1000) | 7).expect("tables are in RAM");
    machine.change(|state| {
        state.rip = CODE;
        state.sys.activity = Activity::Running;
    });
    assert_eq!(machine.run(1), Stop::Deadline);
    let state = machine.cpu.state();
    assert_eq!((state.xmm[0], state.xmm[2], state.ymm_high[0], state.ymm_high[2]), (0x103 << 96 | 0x102 << 64 | 0x101 << 32 | 0x100, 0, 0, 0));
}

#[test]
fn an_unmasked_exception_in_one_half_hides_what_came_after_in_the_other() {
    let mut machine = machine(CpuModel::V3);
    // Low half: 1 / 3 is inexact. High half: a zero divide, unmasked.
    let singles = |value: f32| (0..4).fold(0, |acc, i| acc | u128::from(value.to_bits()) << (32 * i));
    machine.change(|state| {
        state.mxcsr = 0x1f80 & !(1 << 9);
        state.xmm[1] = singles(1.0);
        state.xmm[2] = singles(3.0);
        state.ymm_high[1] = singles(1.0);
        state.ymm_high[2] = 0;
    });
    let before = machine.cpu.state();
    assert_eq!(run(&mut machine, |asm| asm.vdivps(ymm0, ymm1, ymm2)), Some(19));
    let after = machine.cpu.state();
    assert_eq!(after.mxcsr & 0x3f, 4, "only Z");
    assert_eq!((after.xmm[0], after.ymm_high[0]), (before.xmm[0], before.ymm_high[0]));
}

/// An instruction, in a few bytes, that exists with a feature.
const INSTRUCTIONS: [(&str, &[u8]); 27] = [
    ("pni", &[0xf2, 0x0f, 0x7c, 0xc1]),                         // haddps xmm0, xmm1
    ("ssse3", &[0x66, 0x0f, 0x38, 0x00, 0xc1]),                 // pshufb xmm0, xmm1
    ("sse4_1", &[0x66, 0x0f, 0x38, 0x17, 0xc1]),                // ptest xmm0, xmm1
    ("sse4_2", &[0xf2, 0x0f, 0x38, 0xf1, 0xc1]),                // crc32 eax, ecx
    ("popcnt", &[0xf3, 0x0f, 0xb8, 0xc1]),                      // popcnt eax, ecx
    ("aes", &[0x66, 0x0f, 0x38, 0xdc, 0xc1]),                   // aesenc xmm0, xmm1
    ("pclmulqdq", &[0x66, 0x0f, 0x3a, 0x44, 0xc1, 0]),          // pclmulqdq xmm0, xmm1, 0
    ("cx16", &[0x48, 0x0f, 0xc7, 0x0b]),                        // cmpxchg16b [rbx]
    ("movbe", &[0x0f, 0x38, 0xf0, 0x03]),                       // movbe eax, [rbx]
    ("bmi1", &[0xc4, 0xe2, 0x78, 0xf2, 0xc1]),                  // andn eax, eax, ecx
    ("bmi2", &[0xc4, 0xe2, 0x7a, 0xf5, 0xc1]),                  // pext eax, eax, ecx
    ("adx", &[0x66, 0x0f, 0x38, 0xf6, 0xc1]),                   // adcx eax, ecx
    ("rdrand", &[0x0f, 0xc7, 0xf0]),                            // rdrand eax
    ("rdseed", &[0x0f, 0xc7, 0xf8]),                            // rdseed eax
    ("rdtscp", &[0x0f, 0x01, 0xf9]),                            // rdtscp
    ("rdpid", &[0xf3, 0x0f, 0xc7, 0xf8]),                       // rdpid rax
    ("clflushopt", &[0x66, 0x0f, 0xae, 0x3b]),                  // clflushopt [rbx]
    ("clwb", &[0x66, 0x0f, 0xae, 0x33]),                        // clwb [rbx]
    ("xsave", &[0x31, 0xc9, 0x0f, 0x01, 0xd0]),                 // xor ecx, ecx; xgetbv
    ("xsaveopt", &[0x31, 0xc0, 0x31, 0xd2, 0x0f, 0xae, 0x33]),  // xor eax, eax; xor edx, edx; xsaveopt [rbx]
    ("xsavec", &[0x31, 0xc0, 0x31, 0xd2, 0x0f, 0xc7, 0x23]),    // the same with xsavec
    ("avx", &[0xc5, 0xf8, 0x57, 0xc0]),                         // vxorps xmm0, xmm0, xmm0
    ("avx2", &[0xc5, 0xf5, 0xfe, 0xc2]),                        // vpaddd ymm0, ymm1, ymm2
    ("fma", &[0xc4, 0xe2, 0x71, 0x98, 0xc2]),                   // vfmadd132ps xmm0, xmm1, xmm2
    ("f16c", &[0xc4, 0xe2, 0x79, 0x13, 0xc1]),                  // vcvtph2ps xmm0, xmm1
    ("smap", &[0x0f, 0x01, 0xca]),                              // clac
    ("invpcid", &[0x31, 0xc0, 0x66, 0x0f, 0x38, 0x82, 0x03]),   // xor eax, eax; invpcid rax, [rbx]
];

#[test]
fn a_feature_that_is_left_out_is_neither_in_cpuid_nor_there() {
    let choice = |text: &str| CpuChoice::parse(text).expect("is one");
    let end = |text: &str, bytes: &[u8]| {
        let mut machine = machine_of(&choice(text));
        machine.change(|state| state.gpr[RBX] = DATA);
        run(&mut machine, |asm| asm.db(bytes))
    };
    for (name, bytes) in INSTRUCTIONS {
        assert_eq!(end("v3", bytes), None, "{name}");
        assert_eq!(end(&format!("v3,-{name}"), bytes), Some(6), "{name}");
    }
    // With what needs them.
    assert_eq!(end("v3,-avx", &[0xc5, 0xf5, 0xfe, 0xc2]), Some(6));
    assert_eq!(end("v3,-xsave", &[0xc5, 0xf8, 0x57, 0xc0]), Some(6));
    // LZCNT becomes BSR, TZCNT BSF: of 2, the same 1 of both.
    for (text, bytes, value) in [("v3,-abm", [0xf3, 0x0f, 0xbd, 0xc1], 1), ("v3", [0xf3, 0x0f, 0xbd, 0xc1], 30), ("v3,-bmi1", [0xf3, 0x0f, 0xbc, 0xc1], 1)] {
        let mut machine = machine_of(&choice(text));
        machine.change(|state| state.gpr[RCX] = 2);
        assert_eq!(run(&mut machine, |asm| asm.db(&bytes)), None);
        assert_eq!(machine.cpu.state().gpr[RAX], value, "{text}");
    }
    // Control bits are reserved.
    for (name, bit) in [("xsave", 18), ("fsgsbase", 16), ("smap", 21), ("smep", 20), ("umip", 11), ("pcid", 17)] {
        let set = |asm: &mut CodeAssembler| {
            asm.mov(rax, cr4)?;
            asm.btr(rax, 18)?;
            asm.bts(rax, bit)?;
            asm.mov(cr4, rax)
        };
        // With SMEP the next fetch would fault: the test's pages are the user's.
        if name != "smep" {
            assert_eq!(run(&mut machine_of(&choice("v3")), set), None, "{name}");
        }
        assert_eq!(run(&mut machine_of(&choice(&format!("v3,-{name}"))), set), Some(13), "{name}");
    }
    for (name, bit) in [("nx", 11), ("svm", 12)] {
        let set = |asm: &mut CodeAssembler| {
            asm.mov(ecx, 0xc000_0080_u32)?;
            asm.rdmsr()?;
            asm.bts(eax, bit)?;
            asm.wrmsr()
        };
        assert_eq!(run(&mut machine_of(&choice("v3")), set), None, "{name}");
        assert_eq!(run(&mut machine_of(&choice(&format!("v3,-{name}"))), set), Some(13), "{name}");
    }
    // And the table agrees: nothing else changes but what hangs on it.
    let full = choice("v3").table(0, 1);
    let without = choice("v3,-avx2").table(0, 1);
    let differ: Vec<u32> = full.rows.iter().zip(&without.rows).filter(|(a, b)| a != b).map(|(a, _)| a.leaf).collect();
    assert_eq!(differ, [7]);
    assert_eq!(choice("v3,-avx").table(0, 1).get(0xd, 0), choice("v2").table(0, 1).get(0xd, 0));
    assert_eq!(choice("v3,-xsave").table(0, 1).get(0xd, 1), [0; 4]);
    assert!(CpuChoice::parse("v3,-sse9").is_err_and(|error| error.contains("avx2")));
    assert!(CpuChoice::parse("v4").is_err());
}
