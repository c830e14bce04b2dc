//! The oracle in `cargo test`: a few seconds of it, more by `ORRERY_ORACLE_CASES`. One process, one thread: the host runner forks.

use iced_x86::Code;
use sim_cpu_oracle::batch::{Judge, Plan, Verdict, run_isolated};
use sim_cpu_oracle::case::Case;
use sim_cpu_oracle::generate::{CODES, HOST_CODES};

fn plan(judge: Judge, count: u64) -> Plan {
    let codes = if judge == Judge::Host { HOST_CODES.clone() } else { CODES.clone() };
    Plan { judge, first_seed: 1, count, codes, reports_max: 5, slice: u64::MAX, without: None, planted: None }
}

fn main() -> std::process::ExitCode {
    let cases = std::env::var("ORRERY_ORACLE_CASES").ok().and_then(|value| value.parse().ok()).unwrap_or(100_000u64);
    let native = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    let mut failed = false;
    let mut test = |name: &str, plan: &Plan, good: fn(&Verdict) -> bool| match run_isolated(plan) {
        Ok(verdict) => {
            let pass = good(&verdict);
            println!("test {name} ... {} ({} cases compared, {} skipped)", if pass { "ok" } else { "FAILED" }, verdict.compared, verdict.skipped);
            if !pass {
                failed = true;
                for report in &verdict.reports {
                    println!("{report}");
                }
            }
        }
        Err(error) => {
            failed = true;
            println!("test {name} ... FAILED: {error}");
        }
    };
    let clean: fn(&Verdict) -> bool = |verdict| verdict.reports.is_empty() && verdict.compared > 0;
    // Ours is one of AMD's: others' differ in what a fault leaves behind (the x87 stack's top, masks of gathers).
    let alike = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("AuthenticAMD"));
    if native && !alike {
        println!("not compared with the host's processor: it is none of AMD's, as ours is");
    }
    if native && alike {
        test("engine_equals_host_processor", &plan(Judge::Host, cases), clean);
        test("engine_cut_at_every_tick_equals_host_processor", &Plan { slice: 1, first_seed: 1 << 40, ..plan(Judge::Host, cases / 10) }, clean);
        if sim_cpu_oracle::vex::host_has() {
            let vex = Plan { codes: sim_cpu_oracle::vex::codes(), ..plan(Judge::Host, cases / 4) };
            test("v3_model_equals_host_processor", &vex, clean);
        }
    }
    if native {
        // The canary: an engine that takes ADC for ADD must be found and shrunk to one instruction.
        let add = Plan {
            planted: Some(add_as_adc),
            codes: vec![Code::Add_rm64_r64, Code::Mov_r64_rm64, Code::Xor_rm32_r32, Code::Paddb_xmm_xmmm128],
            ..plan(Judge::Host, 2_000)
        };
        test("a_planted_bug_is_found_and_shrunk", &add, |verdict| verdict.by_mnemonic.keys().any(|name| name == "Add_rm64_r64"));
    }
    test("engine_equals_unicorn_in_ring_0", &plan(Judge::Unicorn, cases / 10), clean);
    if failed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS }
}

fn add_as_adc(case: &mut Case) {
    for insn in &mut case.insns {
        if insn.code() == Code::Add_rm64_r64 {
            insn.set_code(Code::Adc_rm64_r64);
        }
    }
}
