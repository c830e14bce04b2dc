//! Every kind of exception, on the simulator and on QEMU.

use metal::{Known, build, compare, golden, ours, qemu};

/// Where QEMU TCG 7.2 and the manual (APM vol. 2 unless it says otherwise) part; ours follows the manual.
const KNOWN: &[Known] = &[
    (
        &[
            "compat3.c_code_write",
            "compat3.c_expand",
            "compat3.c_lds",
            "compat3.c_limit",
            "compat3.c_limit_cross",
            "compat3.c_null_ds",
            "compat3.c_readonly",
            "compat3.c_ss_limit",
            "protected.c_code_write",
            "protected.c_expand",
            "protected.c_limit",
            "protected.c_limit_cross",
            "protected.c_null_ds",
            "protected.c_readonly",
            "protected.c_ss_limit",
            "protected.expand0",
            "protected.limit0",
            "protected.load",
            "protected.c_lds",
        ],
        "§4.12: limits, types and null selectors of data segments are checked outside 64-bit mode; TCG checks none of them",
    ),
    (&["compat3.c_int_dpl", "gp_int_absent", "gp_int_dpl", "gp_int_type", "np_int"], "§8.2: the selector error code has the vector in bits 15:3; TCG doubles it in long mode"),
    (&["gp_call", "gp_jmp", "gp_ret"], "vol. 3, near transfers: #GP before RIP changes; TCG faults at the target"),
    (&["gp_canonical_cross"], "§5.3.1: any byte beyond the canonical range is #GP(0); TCG looks at the first only"),
    (&["ss_canonical", "ss_push"], "§8.2.13: non-canonical through SS is #SS(0); TCG raises #GP(0)"),
    (&["gp_iret_rip"], "vol. 3, IRET: #GP(0) for a non-canonical RIP; TCG loses its way"),
    (&["gp_cr0_high", "gp_cr0_nw"], "§3.1.1: bits 63:32, and NW without CD, are #GP(0)"),
    (&["gp_cr4_pcid"], "§5.5.1: PCIDE with a CR3 whose low bits are not 0 is #GP(0); TCG has no PCID"),
    (&["gp_cr8"], "§3.1.5: bits 63:4 are reserved, #GP(0)"),
    (&["gp_invpcid", "gp_invpcid_high"], "TCG has no INVPCID"),
    (&["gp_ldmxcsr"], "vol. 4, LDMXCSR: reserved bits are #GP(0)"),
    (&["gp_ltr_null"], "vol. 3, LTR: #GP(0) for a null selector"),
    (&["gp_rdmsr", "gp_wrmsr", "gp_wrmsr_efer"], "vol. 3, RDMSR and WRMSR: unknown MSRs and reserved bits are #GP(0)"),
    (&["gp_wrmsr_fsbase", "gp_wrmsr_lstar", "gp_wrfsbase"], "vol. 3, WRMSR, WRFSBASE: not canonical is #GP(0)"),
    (&["gp_wrmsr_pat"], "§7.8.1: a reserved memory type is #GP(0)"),
    (&["gp_rdpmc"], "vol. 3, RDPMC: an unknown counter is #GP(0); TCG has no RDPMC"),
    (&["gp_ss_null3"], "vol. 3, MOV: a null SS needs RPL = CPL in 64-bit mode"),
    (&["db_gd"], "§13.1.1.4: DR7.GD; TCG ignores it"),
    (&["db_icebp"], "§8.2.2: INT1 is #DB; TCG decodes it only with an emulator's debug option"),
    (&["mf_late"], "§8.2.17: any waiting x87 instruction takes the pending exception; TCG only FWAIT"),
    (&["xf"], "§8.2.20: TCG raises no SIMD floating-point exceptions"),
    (&["ac_load", "ac_store", "ac_push", "ac_movups"], "§8.2.18: TCG has no alignment checks"),
    (&["pf_modify"], "§8.4.2: an instruction that reads and writes faults as a write; TCG reads first"),
    (&["pf_reserved"], "§8.4.2: RSV implies P = 1"),
    (&["ud_bt_bad", "ud_lock_mov"], "vol. 3, §1.2.5 and group 8: #UD; TCG decodes them"),
    (&["ring3.ud_cr1", "ring3.ud_cr5"], "§8.5: #UD for the register comes before the privilege check"),
    (&["only_cr0_pg_pe", "only_cr0_unpage", "only_cr3", "only_cr4", "only_cr4_pae", "only_lgdt"], "§3.1, vol. 3 LGDT: #GP(0); TCG does it and dies, so the guest skips them there"),
];

#[test]
fn exceptions_look_the_same_here_and_on_qemu() {
    let image = build("exceptions").expect("the guest compiles");
    let left = ours(&image).expect("the guest boots");
    assert_eq!(left.lines.last().map(String::as_str), Some("end"), "{left:#?}");
    let complaints = golden("exceptions", &left);
    assert!(complaints.is_empty(), "{} differences from the golden:\n{}", complaints.len(), complaints.join("\n"));
    let Some(right) = qemu(&image, "EPYC,+umip").expect("QEMU starts") else {
        println!("no QEMU here: only the simulator's log was made");
        return;
    };
    let complaints = compare(&left, &right, KNOWN);
    assert!(complaints.is_empty(), "{} differences:\n{}", complaints.len(), complaints.join("\n"));
}
