//! The small hypervisor on the simulator and on QEMU.

use metal::{Known, build, compare, golden, ours, qemu};

/// Where QEMU TCG 7.2 and the manual (APM vol. 2 unless it says otherwise) part; ours follows the manual.
const KNOWN: &[Known] = &[
    (&["svm-features"], "CPUID 8000_000A EDX: TCG has nested paging only"),
    (&["assist-nrip"], "§15.7.1: TCG has no nRIP save"),
    (&["assist-cr"], "§15.8.1: TCG has no decode assists"),
    (&["assist-bytes"], "§15.8.4: TCG has no decode assists"),
    (&["assist-int"], "§15.8.3: TCG has no decode assists"),
    (&["pause-filter"], "§15.14.4: TCG has none"),
    (&["bad-ncr3"], "§15.25.3: an nCR3 beyond the physical address width is VMEXIT_INVALID; TCG walks it"),
    (&["df"], "§15.12.9: #DF is intercepted like any other vector; TCG never asks for it"),
    (&["exception-bp"], "§15.12.4: INT3 exits as vector 3; TCG takes it for INTn"),
    (&["protected-unpaged-bp"], "§15.12.4: as above"),
    (&["exception-gp-selector"], "vol. 3, LTR: #GP(0) for a null selector; TCG accepts it"),
    (&["exception-ss"], "§8.2.13: a non-canonical address through SS is #SS(0); TCG raises #GP(0)"),
    (&["exception-xf"], "§8.2.20: TCG raises no SIMD floating-point exceptions"),
    (&["guest-reserved"], "§8.4.2: RSV implies that the entry was present, P = 1"),
    (&["npf-reserved"], "§15.25.6: bits 4:0 are those of a page fault, so P = 1 with RSV"),
    (&["icebp"], "§15.14.3, code 0x88: TCG has no ICEBP intercept"),
    (&["invd"], "§15.9, code 0x76: TCG has no INVD intercept"),
    (&["rdtscp"], "§15.9, code 0x87: TCG has no RDTSCP intercept"),
    (&["xsetbv"], "§15.9, code 0x8d: TCG has no XSETBV intercept"),
    (&["io-ins"], "§15.10.2: EXITINFO1 has address size and segment; TCG leaves them out"),
    (&["io-outs"], "§15.10.2: as above"),
    (&["io-outs-fs"], "§15.10.2: as above"),
    (&["monitor"], "CPUID 1 ECX[3] is 0 on our processor: MONITOR is #UD"),
    (&["mwait"], "as MONITOR"),
    (&["pat"], "§15.25.4: nested paging loads the guest's PAT from G_PAT; TCG does not"),
    (&["shutdown"], "§15.14.3: what is saved at SHUTDOWN is undefined; TCG leaves the first event in EXITINTINFO"),
    (&["virq-shadow"], "§15.21.5: INTERRUPT_SHADOW holds virtual interrupts off for an instruction; TCG drops it at VMRUN"),
    (&["virq-tpr"], "§15.21.4: taken if the priority is greater than V_TPR; TCG takes it if equal"),
    (&["virq-tpr-lowered"], "§15.21.4: as above"),
];

#[test]
fn a_hypervisor_sees_the_same_exits_here_and_on_qemu() {
    let image = build("svm").expect("the guest compiles");
    let left = ours(&image).expect("the guest boots");
    assert_eq!(left.lines.last().map(String::as_str), Some("end"), "{:#?}", left);
    let complaints = golden("svm", &left);
    assert!(complaints.is_empty(), "{} differences from the golden:\n{}", complaints.len(), complaints.join("\n"));
    let Some(right) = qemu(&image, "EPYC").expect("QEMU starts") else {
        println!("no QEMU here: only the simulator's log was made");
        return;
    };
    let complaints = compare(&left, &right, KNOWN);
    assert!(complaints.is_empty(), "{} differences:\n{}", complaints.len(), complaints.join("\n"));
}
