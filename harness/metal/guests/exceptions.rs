//! Causes every kind of exception, in ring 0 and ring 3, in 64-bit, compatibility and 32-bit protected mode, and says what the handler saw.
//!
//! `NAME vector=V code=E at=CS:+OFFSET flags=F stack=SS:RSP cr2=.. dr6=..`; vector 80 is the end that every piece of code comes to if nothing else happens.
//!
//! The image is mapped twice: for the supervisor where it is linked, for ring 3 at [`USER`] above that.
#![no_std]
#![no_main]

mod rt;

use core::arch::{asm, global_asm};
use rt::{EMPTY, Page, Pages, address, exit, put, put32, rdmsr, say, wrmsr};

/// PML4, PDPT, directories of GiB 0, 1 (user alias), 2 (windows), 3 (devices), the window's table.
static mut TABLES: Pages<7> = Pages([EMPTY; 7]);
static mut GDT: Page = EMPTY;
static mut IDT: Page = EMPTY;
static mut IDT32: Page = EMPTY;
static mut TSS: Page = EMPTY;
static mut TSS32: Pages<2> = Pages([EMPTY; 2]);
static mut STACKS: Pages<8> = Pages([EMPTY; 8]);

const USER: u64 = 1 << 30;

// Selectors.
const TSS64_AT: u64 = 0x20;
const TSS32_AT: u64 = 0x30;

/// What a handler saw.
#[repr(C)]
struct Record {
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
    cr2: u64,
    dr6: u64,
    rax: u64,
}

global_asm!(
    r#"
    .macro stub64 n
    .balign 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17)
    .else
    push 0
    .endif
    push \n
    jmp common64
    .endm
    .balign 16
    .global stubs64
stubs64:
    .set n, 0
    .rept 33
    stub64 n
    .set n, n + 1
    .endr
    .balign 16
    .global end64
end64:
    push 0
    push 0x80
common64:
    cld
    push rax
    mov rax, [rsp + 8]
    mov [record], rax
    mov rax, [rsp + 16]
    mov [record + 8], rax
    mov rax, [rsp + 24]
    mov [record + 16], rax
    mov rax, [rsp + 32]
    mov [record + 24], rax
    mov rax, [rsp + 40]
    mov [record + 32], rax
    mov rax, [rsp + 48]
    mov [record + 40], rax
    mov rax, [rsp + 56]
    mov [record + 48], rax
    mov rax, cr2
    mov [record + 56], rax
    mov rax, dr6
    mov [record + 64], rax
    pop rax
    mov [record + 72], rax
    mov rsp, [saved_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    // go64(frame: &[rip, cs, flags, rsp, ss])
    .global go64
go64:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [saved_rsp], rsp
    push [rdi + 32]
    push [rdi + 24]
    push [rdi + 16]
    push [rdi + 8]
    push [rdi]
    mov rbx, 0x80000000
    mov rcx, 0
    mov rdx, 0
    mov rax, 0
    mov rsi, 0
    mov rbp, 0
    mov rdi, 0x8000000000000000
    iretq

    // go32(frame): leaves long mode, IRETDs with the frame, comes back through common32.
    .global go32
go32:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [saved_rsp], rsp
    mov rbx, rdi
    push 0x18
    lea rax, [rip + 1f]
    push rax
    retfq
    .code32
1:  mov eax, 0x10
    mov ss, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, ~0x100
    wrmsr
    mov eax, [wanted_cr4]
    mov cr4, eax
    mov eax, [wanted_cr3]
    mov cr3, eax
    mov eax, [wanted_cr0]
    mov cr0, eax
    lidt [idtr32]
    mov esp, [stack32]
    mov eax, 0x30
    ltr ax
    push 2
    popfd
    test dword ptr [ebx + 8], 0x20000
    jz 2f
    push 0x1000
    push 0x1000
    push 0x1000
    push 0x1000
2:  push [ebx + 16]
    push [ebx + 12]
    push [ebx + 8]
    push [ebx + 4]
    push [ebx]
    mov eax, [ebx + 20]
    mov ds, eax
    mov es, eax
    xor eax, eax
    xor ecx, ecx
    xor edx, edx
    xor ebx, ebx
    iretd

    .macro stub32 n
    .balign 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17)
    .else
    push 0
    .endif
    push \n
    jmp common32
    .endm
    .balign 16
    .global stubs32, end32, task32
stubs32:
    .set n, 0
    .rept 33
    stub32 n
    .set n, n + 1
    .endr
    .balign 16
end32:
    push 0
    push 0x80
common32:
    push eax
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov eax, [esp + 4]
    mov [record], eax
    mov eax, [esp + 8]
    mov [record + 8], eax
    mov eax, [esp + 12]
    mov [record + 16], eax
    mov eax, [esp + 16]
    mov [record + 24], eax
    mov eax, [esp + 20]
    mov [record + 32], eax
    mov eax, esp
    add eax, 24
    mov [record + 40], eax
    mov eax, ss
    mov [record + 48], eax
    mov eax, cr2
    mov [record + 56], eax
    mov eax, dr6
    mov [record + 64], eax
    mov eax, [esp]
    mov [record + 72], eax
    test byte ptr [record + 24], 3
    jnz 3f
    test dword ptr [record + 32], 0x20000
    jz back64
3:  mov eax, [esp + 24]
    mov [record + 40], eax
    mov eax, [esp + 28]
    mov [record + 48], eax
back64:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    xor eax, eax
    mov dr7, eax
    mov eax, [long_cr4]
    mov cr4, eax
    mov eax, [long_cr3]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, [long_cr0]
    mov cr0, eax
    push 8
    mov eax, offset back_in_long
    push eax
    retf
    .code64
back_in_long:
    lidt [idtr64]
    mov rsp, [saved_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .code32
    // The task behind the task gate: says what it was entered with.
task32:
    mov [record + 80], eax
    pushfd
    pop eax
    mov [record + 88], eax
    str eax
    mov [record + 96], eax
    push 0x80
    push 0x7777
    jmp common32
    .code64
    .bss
    .balign 8
    .global record, saved_rsp, wanted_cr0, wanted_cr3, wanted_cr4, long_cr0, long_cr3, long_cr4, idtr32, idtr64, stack32
record: .skip 128
saved_rsp: .quad 0
wanted_cr0: .quad 0
wanted_cr3: .quad 0
wanted_cr4: .quad 0
long_cr0: .quad 0
long_cr3: .quad 0
long_cr4: .quad 0
stack32: .quad 0
idtr32: .skip 16
idtr64: .skip 16
    .text
"#
);

unsafe extern "C" {
    fn stubs64();
    fn end64();
    fn stubs32();
    fn end32();
    fn task32();
    fn go64(frame: *const [u64; 5]);
    fn go32(frame: *const [u32; 6]);
    static mut record: Record;
    static mut wanted_cr0: u64;
    static mut wanted_cr3: u64;
    static mut wanted_cr4: u64;
    static mut long_cr0: u64;
    static mut long_cr3: u64;
    static mut long_cr4: u64;
    static mut stack32: u64;
    static mut idtr32: [u16; 8];
    static mut idtr64: [u16; 8];
}

/// Code, and what it is called: 64-bit.
macro_rules! code64 {
    ($($name:ident: $text:literal;)*) => {
        global_asm!(".code64", $(concat!(".balign 16\n.global ", stringify!($name), "\n", stringify!($name), ":\n", $text, "\nint 0x80\n"),)*);
        unsafe extern "C" { $(fn $name();)* }
        static CODE64: &[(&str, unsafe extern "C" fn())] = &[$((stringify!($name), $name)),*];
    };
}
/// 32-bit code.
macro_rules! code32 {
    ($($name:ident: $text:literal;)*) => {
        global_asm!(".code32", $(concat!(".balign 16\n.global ", stringify!($name), "\n", stringify!($name), ":\n", $text, "\nint 0x80\n"),)* ".code64");
        unsafe extern "C" { $(fn $name();)* }
        static CODE32: &[(&str, unsafe extern "C" fn())] = &[$((stringify!($name), $name)),*];
    };
}

// RBX points at the windows: page 0 absent, 1 read-only user, 2 no-execute user, 3 with a reserved bit, 4 supervisor, 5 user, 6 supervisor read-only,
// 7 user (8 absent). RDI is not canonical. All else is 0.
code64! {
    nothing: "nop";
    de_zero: "div ecx";
    de_overflow: "mov edx, 2\nmov ecx, 2\ndiv ecx";
    de_idiv: "mov eax, 0x80000000\ncdq\nmov ecx, -1\nidiv ecx";
    db_step: "pushfq\nor dword ptr [rsp], 0x100\npopfq\nnop\nnop";
    db_icebp: ".byte 0xf1";
    db_step_syscall_like: "pushfq\nor dword ptr [rsp], 0x100\npopfq\nmov ax, ss\nmov ss, ax\nnop\nnop";
    db_step_rep: "mov ecx, 3\nlea rdi, [rbx + 0x5000]\npushfq\nor dword ptr [rsp], 0x100\npopfq\nrep stosb";
    bp: "int3";
    bp_long: ".byte 0xcd, 3";
    of_into: ".byte 0xce";
    br_bound: ".byte 0x62, 0x03";
    ud: "ud2";
    ud_ff: ".byte 0x0f, 0xff, 0xc0";
    ud_lock_reg: ".byte 0xf0, 0x01, 0xc8";
    ud_lock_nop: ".byte 0xf0, 0x90";
    ud_lock_mov: ".byte 0xf0, 0x89, 0x03";
    ud_mov_cs: ".byte 0x8e, 0xc8";
    ud_cr1: ".byte 0x0f, 0x20, 0xc8";
    ud_cr5: ".byte 0x0f, 0x22, 0xe8";
    ud_push_cs: ".byte 0x0e";
    ud_aam: ".byte 0xd4, 0x0a";
    ud_pusha: ".byte 0x60";
    ud_far: ".byte 0xea, 0, 0, 0, 0, 8, 0";
    ud_rsm: "rsm";
    ud_vmcall: "vmcall";
    ud_lea_reg: ".byte 0x8d, 0xc0";
    ud_cmpxchg16b_reg: ".byte 0x48, 0x0f, 0xc7, 0xc8";
    ud_les: ".byte 0xc4, 0xe1";
    ud_lds_vex: ".byte 0xc5, 0xf8, 0x77";
    ud_bad_group: ".byte 0xff, 0xf8";
    ud_bt_bad: ".byte 0x0f, 0xba, 0x03, 0";
    ud_fisttp_reg: ".byte 0xdd, 0xc8 + 0x40 - 0x40";
    gp_long_insn: ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90";
    gp_canonical: "mov rax, [rdi]";
    gp_canonical_store: "mov [rdi], rax";
    gp_canonical_cross: "mov rdi, 0x7ffffffffffc\nmov rax, [rdi]";
    ss_canonical: "mov rbp, rdi\nmov rax, [rbp]";
    ss_push: "mov rsp, rdi\npush rax";
    gp_jmp: "jmp rdi";
    gp_call: "call rdi";
    gp_ret: "push rdi\nret";
    gp_rdmsr: "mov ecx, 0x12345678\nrdmsr";
    gp_wrmsr: "mov ecx, 0x12345678\nwrmsr";
    gp_wrmsr_efer: "mov ecx, 0xc0000080\nmov edx, 1\nwrmsr";
    gp_wrmsr_fsbase: "mov ecx, 0xc0000100\nmov edx, 0x80000000\nwrmsr";
    gp_wrmsr_lstar: "mov ecx, 0xc0000082\nmov edx, 0x80000000\nwrmsr";
    gp_wrmsr_pat: "mov ecx, 0x277\nmov eax, 2\nwrmsr";
    only_cr0_pg_pe: "mov eax, 0x80000000\nmov cr0, rax";
    gp_cr0_nw: "mov rax, cr0\nor eax, 0x20000000\nmov cr0, rax";
    gp_cr0_high: "mov rax, cr0\nbts rax, 40\nmov cr0, rax";
    only_cr0_unpage: "mov rax, cr0\nbtr rax, 31\nmov cr0, rax";
    only_cr3: "mov rax, cr3\nbts rax, 60\nmov cr3, rax";
    only_cr4: "mov rax, cr4\nbts rax, 50\nmov cr4, rax";
    only_cr4_pae: "mov rax, cr4\nbtr rax, 5\nmov cr4, rax";
    gp_cr4_pcid: "mov rax, cr3\nor rax, 8\nmov cr3, rax\nmov rax, cr4\nbts rax, 17\nmov cr4, rax";
    gp_cr8: "mov eax, 16\nmov cr8, rax";
    gp_dr7: "mov rax, 0x100000000\nmov dr7, rax";
    gp_dr6: "mov rax, 0x100000000\nmov dr6, rax";
    ud_dr4: "mov rax, cr4\nor eax, 8\nmov cr4, rax\n.byte 0x0f, 0x21, 0xe0";
    dr4_alias: ".byte 0x0f, 0x21, 0xe0";
    db_gd: "mov eax, 0x2400\nmov dr7, rax\nmov rax, dr0";
    db_exec: "lea rax, [rip + 1f]\nmov dr0, rax\nmov eax, 0x402\nmov dr7, rax\nnop\n1: nop";
    db_write: "lea rax, [rbx + 0x5000]\nmov dr1, rax\nmov eax, 0xd00408\nmov dr7, rax\nmov [rbx + 0x5002], ecx\nnop";
    db_write_miss: "lea rax, [rbx + 0x5000]\nmov dr1, rax\nmov eax, 0xd00408\nmov dr7, rax\nmov [rbx + 0x5004], ecx\nnop";
    db_read: "lea rax, [rbx + 0x5000]\nmov dr2, rax\nmov eax, 0xb000420\nmov dr7, rax\nmov rcx, [rbx + 0x5000]\nnop";
    nm_fpu_ts: "mov rax, cr0\nor eax, 8\nmov cr0, rax\nfld1";
    nm_sse_ts: "mov rax, cr0\nor eax, 8\nmov cr0, rax\naddps xmm0, xmm0";
    nm_wait: "mov rax, cr0\nor eax, 10\nmov cr0, rax\nfwait";
    nm_fpu_em: "mov rax, cr0\nor eax, 4\nmov cr0, rax\nfld1";
    ud_sse_em: "mov rax, cr0\nor eax, 4\nmov cr0, rax\naddps xmm0, xmm0";
    ud_sse_osfxsr: "mov rax, cr4\nbtr rax, 9\nmov cr4, rax\naddps xmm0, xmm0";
    ud_xgetbv: "xgetbv";
    gp_xsetbv: "mov rax, cr4\nbts rax, 18\nmov cr4, rax\nxor eax, eax\nxor ecx, ecx\nxsetbv";
    gp_xsetbv_high: "mov rax, cr4\nbts rax, 18\nmov cr4, rax\nmov eax, 1\nmov edx, 0x1000\nxor ecx, ecx\nxsetbv";
    gp_movaps: "lea rax, [rbx + 0x5001]\nmovaps xmm0, [rax]";
    gp_fxsave: "lea rax, [rbx + 0x5008]\nfxsave [rax]";
    gp_ldmxcsr: "mov dword ptr [rbx + 0x5000], 0x10000\nldmxcsr [rbx + 0x5000]";
    gp_cmpxchg16b: "lock cmpxchg16b [rbx + 0x5008]";
    gp_ds_limit: "mov eax, 0x1000\nmov ds, ax";
    gp_ds_system: "mov eax, 0x30\nmov ds, ax";
    gp_ds_xonly: "mov eax, 0x58\nmov ds, ax";
    np_ds: "mov eax, 0x50\nmov ds, ax";
    gp_ss_null3: "mov eax, 3\nmov ss, ax";
    ss_np: "mov eax, 0x50\nmov ss, ax";
    gp_ss_readonly: "mov eax, 0x78\nmov ss, ax";
    gp_lldt: "mov eax, 0x10\nlldt ax";
    np_lldt: "mov eax, 0xb0\nlldt ax";
    gp_ltr_busy: "mov eax, 0x20\nltr ax";
    gp_ltr_null: "ltr cx";
    gp_lar_like: "mov eax, 0x1000\nlar ecx, eax";
    np_far_jmp: "push 0x70\npush 0\n.byte 0x48, 0xff, 0x2c, 0x24";
    gp_far_data: "push 0x10\npush 0\n.byte 0x48, 0xff, 0x2c, 0x24";
    gp_far_null: "push 0\npush 0\n.byte 0x48, 0xff, 0x2c, 0x24";
    gp_retf: "push 0x10\npush 0\nretfq";
    gp_iret_cs: "push 0x10\npush rsp\npush 2\npush 0x10\npush 0\niretq";
    gp_iret_ss: "push 0x10\npush rsp\npush 2\npush 0x4b\npush 0\niretq";
    gp_iret_rip: "push 0x10\npush rbx\npush 2\npush 8\npush rdi\niretq";
    gp_iret_nt: "pushfq\nor dword ptr [rsp], 0x4000\npopfq\niretq";
    gp_int_absent: "int 0x70";
    np_int: "int 0x71";
    gp_int_dpl: "int 0x72";
    gp_int_type: "int 0x73";
    gp_int_cs: "int 0x74";
    df: "int 0x75";
    only_lgdt: "push rdi\npush rdi\nlgdt [rsp + 6]";
    gp_syscall: "syscall";
    gp_sysenter: "sysenter";
    gp_sysexit: "sysexit";
    ud_swapgs_like: "swapgs\nswapgs";
    gp_wrfsbase: "mov rax, cr4\nbts rax, 16\nmov cr4, rax\nwrfsbase rdi";
    ud_rdfsbase: "rdfsbase rax";
    gp_invpcid: "mov eax, 4\ninvpcid rax, [rbx + 0x5000]";
    gp_invpcid_high: "mov qword ptr [rbx + 0x5000], 0x1000\nmov eax, 1\ninvpcid rax, [rbx + 0x5000]";
    gp_cli: "cli";
    gp_sti: "sti\ncli";
    gp_hlt_not: "pushfq\npopfq";
    gp_in: "in al, 0x80";
    gp_out: "out 0x80, al";
    gp_clts: "clts";
    gp_invlpg: "invlpg [rbx]";
    gp_wbinvd: "wbinvd";
    rdtsc_tsd: "rdtsc\nxor eax, eax\nxor edx, edx";
    gp_rdpmc: "mov ecx, 0x12345\nrdpmc";
    umip_sgdt: "sgdt [rbx + 0x5000]";
    umip_sidt: "sidt [rbx + 0x5000]";
    umip_sldt: "sldt eax";
    umip_str: "str eax\nxor eax, eax";
    umip_smsw: "smsw eax\nxor eax, eax";
    pf_read: "mov rax, [rbx + 8]";
    pf_write: "mov [rbx + 16], rax";
    pf_modify: "add dword ptr [rbx + 24], 1";
    pf_fetch: "jmp rbx";
    pf_readonly: "mov [rbx + 0x1000], rax";
    pf_readonly_modify: "lock xadd [rbx + 0x1000], rax";
    pf_nx: "lea rax, [rbx + 0x2000]\njmp rax";
    pf_reserved: "mov rax, [rbx + 0x3000]";
    pf_supervisor: "mov rax, [rbx + 0x4000]";
    pf_supervisor_write: "mov [rbx + 0x4000], rax";
    pf_supervisor_readonly: "mov [rbx + 0x6000], rax";
    pf_cross: "mov rax, [rbx + 0x7ffc]";
    pf_cross_write: "mov [rbx + 0x7ffc], rax";
    pf_cross_sse: "movups xmm0, [rbx + 0x7ff8]";
    pf_push: "lea rsp, [rbx + 0x1004]\npush rax";
    pf_movs: "lea rsi, [rbx + 0x7ffe]\nlea rdi, [rbx + 0x5000]\nmov ecx, 5\nrep movsb";
    pf_call: "mov rax, rsp\nlea rsp, [rbx + 0x1008]\ncall nothing";
    smep: "lea rax, [rbx + 0x5000]\nmov byte ptr [rax], 0xcc\njmp rax";
    smap_read: "mov rax, [rbx + 0x5000]";
    smap_ac: "stac\nmov rax, [rbx + 0x5000]\nclac";
    mf: "fninit\npush 0\nfldcw [rsp]\nfld1\nfldz\nfdivp\nfwait";
    mf_late: "fninit\npush 0\nfldcw [rsp]\nfld1\nfldz\nfdivp\nnop\nfld1";
    xf: "push 0\nldmxcsr [rsp]\nxorps xmm0, xmm0\npcmpeqd xmm1, xmm1\npsrld xmm1, 25\npslld xmm1, 23\ndivps xmm1, xmm0";
    ac_load: "pushfq\nor dword ptr [rsp], 0x40000\npopfq\nmov eax, [rbx + 0x5001]";
    ac_store: "pushfq\nor dword ptr [rsp], 0x40000\npopfq\nmov [rbx + 0x5006], rcx";
    ac_aligned: "pushfq\nor dword ptr [rsp], 0x40000\npopfq\nmov eax, [rbx + 0x5004]";
    ac_push: "pushfq\nor dword ptr [rsp], 0x40000\npopfq\nlea rsp, [rbx + 0x5803]\npush rcx";
    ac_movups: "pushfq\nor dword ptr [rsp], 0x40000\npopfq\nmovups xmm0, [rbx + 0x5001]";
    popf_iopl: "push 0x3202\npopfq\npushfq\npop rax\ncli";
    popf_resume: "push 0x30202\npopfq\npushfq\npop rax\ncli";
}

code32! {
    c_nothing: "nop";
    c_of: "mov eax, 0x7fffffff\ninc eax\ninto";
    c_br: "push 5\npush 2\nmov eax, 9\nbound eax, [esp]";
    c_br_fine: "push 5\npush 2\nmov eax, 3\nbound eax, [esp]";
    c_aam: "aam 0";
    c_de: "div cl";
    c_bp: "int3";
    c_db: "pushfd\nor dword ptr [esp], 0x100\npopfd\nnop\nnop";
    c_ud: "ud2";
    c_null_ds: "mov eax, 0\nmov ds, ax\nmov eax, [0]";
    c_limit: "mov eax, 0xa3\nmov ds, ax\nmov eax, [0x1000]";
    c_limit_cross: "mov eax, 0xa3\nmov ds, ax\nmov eax, [0xffe]";
    c_limit_fine: "mov eax, 0xa3\nmov ds, ax\nmov eax, [0xffc]\nxor eax, eax";
    c_expand: "mov eax, 0xcb\nmov ds, ax\nmov eax, [0xffc]";
    c_expand_fine: "mov eax, 0xcb\nmov ds, ax\nmov eax, [0x1000]\nxor eax, eax";
    c_readonly: "mov eax, 0xd3\nmov ds, ax\nmov [0x1000], eax";
    c_code_write: "mov cs:[0x1000], eax";
    c_lds: "lds eax, [0xffffffff]";
    c_sldt: "sldt eax";
    c_arpl: "mov eax, 1\nmov ecx, 3\narpl ax, cx";
    c_far: ".byte 0xea, 0, 0, 0, 0, 0x70, 0";
    c_far_null: ".byte 0xea, 0, 0, 0, 0, 0, 0";
    c_call_gate_absent: ".byte 0x9a, 0, 0, 0, 0, 0x83, 0";
    c_cli: "cli";
    c_in: "in al, 0x80";
    c_hlt_like: "rdtsc\nxor eax, eax\nxor edx, edx";
    c_syscall: "syscall";
    c_lock: ".byte 0xf0, 0x01, 0xc8";
    c_int_dpl: "int 0x72";
    c_salc: ".byte 0xd6";
    c_ss_limit: "mov eax, 0xa3\nmov ss, ax\nmov esp, 0x1002\npush eax";
}

fn gate(vector: u64, target: u64, selector: u64, attributes: u64, ist: u64) {
    rt::gate(address(&raw const IDT), vector, target, selector, attributes, ist);
}

fn gate32(vector: u64, target: u64, selector: u64, attributes: u64) {
    put(address(&raw const IDT32) + 8 * vector, target & 0xffff | selector << 16 | attributes << 40 | (target >> 16 & 0xffff) << 48);
}

fn tables() {
    let t = address(&raw const TABLES);
    put(t, t + 0x1007);
    for gib in 0..4 {
        put(t + 0x1000 + 8 * gib, t + 0x2007 + 0x1000 * gib);
        for entry in 0..512 {
            let (frame, bits) = match gib {
                0 => (entry << 21, 0x83),
                1 => (entry << 21, 0x87),
                _ => (gib << 30 | entry << 21, 0x83),
            };
            put(t + 0x2000 + 0x1000 * gib + 8 * entry, frame | bits);
        }
    }
    put(t + 0x4000, t + 0x6007);
    let base = 48u64 << 20;
    for (page, bits) in [(1, 5), (2, 7 | 1 << 63), (3, 7 | 1 << 51), (4, 3), (5, 7), (6, 1), (7, 7)] {
        put(t + 0x6000 + 8 * page, base + page * 4096 | bits);
    }
}

fn segments() {
    let gdt = address(&raw const GDT);
    let tss = address(&raw const TSS);
    let tss32 = address(&raw const TSS32);
    let task = tss32 + 0x1000;
    let describe = |base: u64, kind: u64| 0x67 | (base & 0xff_ffff) << 16 | kind << 40 | (base >> 24 & 0xff) << 56;
    let rows: [(u64, u64); 25] = [
        (0x08, 0x00af_9b00_0000_ffff),
        (0x10, 0x00cf_9300_0000_ffff),
        (0x18, 0x00cf_9b00_0000_ffff),
        (0x20, describe(tss, 0x89)),
        (0x30, describe(tss32, 0x89)),
        (0x38, 0x00cf_fb00_0000_ffff),
        (0x40, 0x00cf_f300_0000_ffff),
        (0x48, 0x00af_fb00_0000_ffff),
        (0x50, 0x00cf_1300_0000_ffff),
        (0x58, 0x00cf_9900_0000_ffff),
        (0x60, 0x0040_9300_0000_0fff),
        (0x68, 0x0040_9700_0000_0fff),
        (0x70, 0x00cf_1b00_0000_ffff),
        (0x78, 0x00cf_9100_0000_ffff),
        (0x80, 0x0000_6c00_0018_0000),
        (0x88, 0x00cf_9f00_0000_ffff),
        (0x90, describe(task, 0x89)),
        (0x98, 0x0040_9b00_0000_0fff),
        (0xa0, 0x0040_f300_0000_0fff),
        (0xa8, 0x0000_8900_0000_0010),
        (0xb0, 0x0000_0200_0000_0fff),
        (0xc0, 0x0000_9b00_0000_ffff),
        (0xc8, 0x0040_f700_0000_0fff),
        (0xd0, 0x00cf_f100_0000_ffff),
        (0xe0, 0),
    ];
    for (at, value) in rows {
        put(gdt + at, value);
    }
    let stack = address(&raw const STACKS);
    put(tss + 4, stack + 0x2000);
    put(tss + 0x24, stack + 0x3000);
    put(tss + 0x66 - 6, 0x68 << 48);
    put32(tss32 + 4, (stack + 0x4000) as u32);
    put32(tss32 + 8, 0x10);
    put32(tss32 + 0x64, 0x68 << 16);
    put32(task + 0x1c, address(&raw const TABLES) as u32);
    put32(task + 0x20, task32 as *const () as usize as u32);
    put32(task + 0x24, 2);
    put32(task + 0x38, (stack + 0x5000) as u32);
    for (offset, selector) in [(0x48, 0x10), (0x4c, 0x18), (0x50, 0x10), (0x54, 0x10), (0x58, 0x10), (0x5c, 0x10)] {
        put32(task + offset, selector);
    }
    put32(task + 0x64, 0x68 << 16);
    let stub = |base: u64, vector: u64| base + 16 * vector;
    for vector in 0..33 {
        gate(vector, stub(stubs64 as *const () as u64, vector), 8, if matches!(vector, 3 | 4) { 0xee } else { 0x8e }, u64::from(vector == 8));
        gate32(vector, stub(stubs32 as *const () as u64, vector), 0x18, if matches!(vector, 3 | 4) { 0xee } else { 0x8e });
    }
    gate(0x80, end64 as *const () as u64, 8, 0xee, 0);
    gate32(0x80, end32 as *const () as u64, 0x18, 0xee);
    // Not present, too privileged, no gate type, no code segment, one whose handler stack cannot be written.
    let end = end64 as *const () as u64;
    gate(0x71, end, 8, 0x6e, 0);
    gate(0x72, end, 8, 0x8e, 0);
    gate(0x73, end, 8, 0xe5, 0);
    gate(0x74, end, 0x10, 0xee, 0);
    gate(0x75, 1 << 63, 0x1000, 0xee, 0);
    let end = end32 as *const () as u64;
    gate32(0x71, end, 0x18, 0x6e);
    gate32(0x72, end, 0x18, 0x8e);
    gate32(0x73, end, 0x18, 0xe8);
    gate32(0x74, end, 0x10, 0xee);
    gate32(0x76, 0, 0x90, 0xe5);
    gate32(0x77, 0, 0xa8, 0xe5);
    gate32(0x78, 0, 0x10, 0xe5);
    for (table, limit, out) in [(address(&raw const IDT), 0xfffu16, &raw mut idtr64), (address(&raw const IDT32), 0x7ff, &raw mut idtr32)] {
        // SAFETY: ours, and nobody else runs.
        unsafe { out.write([limit, table as u16, (table >> 16) as u16, (table >> 32) as u16, 0, 0, 0, 0]) };
    }
    let gdtr = rt::table(gdt, 0xef);
    // SAFETY: the tables are complete and keep the running selectors' meaning.
    unsafe {
        asm!("lgdt [{}]", "ltr {1:x}", in(reg) &gdtr, in(reg) TSS64_AT);
        asm!("lidt [{}]", in(reg) &raw const idtr64);
    }
}

/// Where and how a piece of code runs.
struct Way {
    name: &'static str,
    cs: u64,
    ss: u64,
    user: bool,
    cr0: u64,
    cr4: u64,
}

fn clean(cr0: u64, cr4: u64) {
    for (number, value) in [(0xc000_0080, 0xd00), (0xc000_0100, 0), (0xc000_0082, 0), (0x277, 0x0007_0406_0007_0406)] {
        wrmsr(number, value);
    }
    let cr3 = address(&raw const TABLES);
    // SAFETY: these are the values this program runs under, with features the caller picked.
    unsafe {
        asm!("mov cr0, {}", in(reg) cr0);
        asm!("mov cr4, {}", in(reg) cr4);
        asm!("mov cr3, {}", in(reg) cr3);
        asm!("mov dr7, {}", in(reg) 0x400u64);
        asm!("mov dr6, {}", in(reg) 0xffff_0ff0u64);
        asm!("mov cr2, {}", in(reg) 0u64);
        asm!("fninit");
        asm!("push {0}", "ldmxcsr [rsp]", "pop {0}", in(reg) 0x1f80u64);
        asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) 0x10u64);
        asm!("lgdt [{}]", in(reg) &rt::table(address(&raw const GDT), 0xef));
        asm!("lldt {0:x}", in(reg) 0u64);
    }
    put(address(&raw const GDT) + TSS64_AT, 0x0000_8900_0000_0067 | (address(&raw const TSS) & 0xff_ffff) << 16);
    // SAFETY: the descriptor is fresh.
    unsafe { asm!("ltr {0:x}", in(reg) TSS64_AT) };
}

fn report(way: &str, name: &str, start: u64) {
    // SAFETY: filled by the handler that just ran.
    let seen = unsafe { (&raw const record).read_volatile() };
    let stacks = address(&raw const STACKS);
    let mut rip = seen.rip;
    let mut mark = '+';
    if rip.wrapping_sub(start) < 256 {
        rip -= start;
    } else if rip.wrapping_sub(nothing as *const () as u64) < 16 {
        rip -= nothing as *const () as u64;
        mark = 'n';
    } else {
        mark = '=';
    }
    let mut rsp = seen.rsp;
    let mut base = "";
    for (alias, label) in [(0, "s"), (USER, "u")] {
        if rsp.wrapping_sub(stacks + alias) <= 0x8000 {
            rsp -= stacks + alias;
            base = label;
            break;
        }
    }
    // RAX is interesting where the code says so and always the same elsewhere.
    let rax = if name.starts_with("popf") { seen.rax } else { 0 };
    say!(
        "{way}.{name} vector={:x} code={:x} at={:x}:{mark}{rip:x} flags={:x} stack={:x}:{base}{rsp:x} cr2={:x} dr6={:x} rax={rax:x}",
        seen.vector,
        seen.code,
        seen.cs,
        // TCG never pushes RF; what it should be is for `paging.rs` of the engine's tests.
        seen.flags & !0x10000,
        seen.ss & 0xffff,
        seen.cr2,
        seen.dr6
    );
}

/// Whether this is QEMU TCG, which dies of what some cases do (their names begin with `only_`).
fn on_tcg() -> bool {
    rt::cpuid(0x4000_0000, 0)[1] == 0x5447_4354
}

fn run64(way: &Way, name: &str, code: u64) {
    if name.starts_with("only_") && on_tcg() {
        return;
    }
    let alias = if way.user { USER } else { 0 };
    tables();
    clean(way.cr0, way.cr4);
    let frame = [code + alias, way.cs, 2, address(&raw const STACKS) + 0x1000 + alias, way.ss];
    // SAFETY: comes back through the handlers.
    unsafe { go64(&raw const frame) };
    clean(0x8001_0033, 0x620);
    report(way.name, name, code + alias);
}

fn run32(name: &str, code: u64, cs: u32, ss: u32, ds: u32, flags: u32, paging: bool) {
    let stacks = address(&raw const STACKS);
    put(address(&raw const GDT) + TSS32_AT, 0x0000_8900_0000_0067 | (address(&raw const TSS32) & 0xff_ffff) << 16);
    let task = address(&raw const TSS32) + 0x1000;
    put(address(&raw const GDT) + 0x90, 0x0000_8900_0000_0067 | (task & 0xff_ffff) << 16);
    tables();
    // SAFETY: words of the routine below, which nothing else uses.
    unsafe {
        (&raw mut wanted_cr0).write(if paging { 0x8001_0033 } else { 0x33 });
        (&raw mut wanted_cr4).write(0x620);
        // The PDPT of the 64-bit tables without the rights bits that PAE reserves there.
        let pae = task + 0x800;
        for gib in 0..4 {
            put(pae + 8 * gib, address(&raw const TABLES) + 0x2001 + 0x1000 * gib);
        }
        (&raw mut wanted_cr3).write(pae);
        (&raw mut long_cr0).write(0x8001_0033);
        (&raw mut long_cr4).write(0x620);
        (&raw mut long_cr3).write(address(&raw const TABLES));
        (&raw mut stack32).write(stacks + 0x4000);
    }
    put32(task + 0x1c, (task + 0x800) as u32);
    let frame = [code as u32, cs, flags, (stacks + 0x1000) as u32, ss, ds];
    // SAFETY: comes back through the handlers.
    unsafe { go32(&raw const frame) };
    clean(0x8001_0033, 0x620);
    report("protected", name, code);
}

global_asm!(
    r#"
    .code32
    .global p_task_gate, p_task_bad, p_task_data, p_jmp_tss, p_call_tss, p_limit0, p_expand0, p_np, p_np_int, p_gp_int, p_cs_limit, p_xonly, p_v86_cli, p_v86_int, p_v86_in, p_v86_load, p_v86_pushf, p_v86_ud, p_ss_null, p_iret_nt
p_task_gate: int 0x76
    int 0x80
p_task_bad: int 0x77
    int 0x80
p_task_data: int 0x78
    int 0x80
p_jmp_tss: .byte 0xea, 0, 0, 0, 0, 0x90, 0
    int 0x80
p_call_tss: .byte 0x9a, 0, 0, 0, 0, 0x90, 0
    int 0x80
p_limit0: mov eax, 0x60
    mov ds, eax
    mov eax, [0xffd]
    int 0x80
p_expand0: mov eax, 0x68
    mov ds, eax
    mov eax, [0xfff]
    int 0x80
p_np: mov eax, 0x50
    mov ds, eax
    int 0x80
p_np_int: int 0x71
    int 0x80
p_gp_int: int 0x74
    int 0x80
p_cs_limit: .byte 0xea, 0, 0x20, 0, 0, 0x98, 0
    int 0x80
p_xonly: mov eax, 0x58
    mov ds, eax
    int 0x80
p_ss_null: xor eax, eax
    mov ss, eax
    int 0x80
p_iret_nt: pushfd
    or dword ptr [esp], 0x4000
    popfd
    iretd
    .code16
p_v86_cli: cli
    int 0x80
p_v86_int: int 0x20
p_v86_in: in al, 0x60
    int 0x80
p_v86_load: mov ax, [0xffff]
    int 0x80
p_v86_pushf: pushf
    int 0x80
p_v86_ud: ud2
    .code64
"#
);
unsafe extern "C" {
    fn p_task_gate();
    fn p_task_bad();
    fn p_task_data();
    fn p_jmp_tss();
    fn p_call_tss();
    fn p_limit0();
    fn p_expand0();
    fn p_np();
    fn p_np_int();
    fn p_gp_int();
    fn p_cs_limit();
    fn p_xonly();
    fn p_ss_null();
    fn p_iret_nt();
    fn p_v86_cli();
    fn p_v86_int();
    fn p_v86_in();
    fn p_v86_load();
    fn p_v86_pushf();
    fn p_v86_ud();
}

extern "C" fn main() -> ! {
    rt::outb(0x21, 0xff);
    rt::outb(0xa1, 0xff);
    say!("\nbegin");
    tables();
    segments();
    wrmsr(0xc000_0080, rdmsr(0xc000_0080) & !1 | 0x800);
    let plain = 0x620;
    let ways = [
        Way { name: "ring0", cs: 8, ss: 0x10, user: false, cr0: 0x8001_0033, cr4: plain },
        Way { name: "ring3", cs: 0x4b, ss: 0x43, user: true, cr0: 0x8005_0033, cr4: plain },
    ];
    for way in &ways {
        for (name, code) in CODE64 {
            // Without memory protection of its own the supervisor's own tables would go; those cases are ring 3's.
            run64(way, name, *code as usize as u64);
        }
    }
    let tight = Way { name: "smep-smap", cs: 8, ss: 0x10, user: false, cr0: 0x8001_0033, cr4: plain | 3 << 20 };
    for name in ["smep", "smap_read", "smap_ac", "pf_supervisor", "pf_readonly"] {
        for (found, code) in CODE64.iter().filter(|(found, _)| *found == name) {
            run64(&tight, found, *code as usize as u64);
        }
    }
    let nowp = Way { name: "wp-off", cs: 8, ss: 0x10, user: false, cr0: 0x8000_0033, cr4: plain };
    let umip = Way { name: "umip", cs: 0x4b, ss: 0x43, user: true, cr0: 0x8001_0033, cr4: plain | 1 << 11 | 4 };
    for (name, code) in CODE64 {
        if name.starts_with("pf_readonly") || name.starts_with("pf_supervisor") {
            run64(&nowp, name, *code as usize as u64);
        }
        if name.starts_with("umip") || *name == "rdtsc_tsd" {
            run64(&umip, name, *code as usize as u64);
        }
    }
    let compat = Way { name: "compat3", cs: 0x3b, ss: 0x43, user: true, cr0: 0x8001_0033, cr4: plain };
    for (name, code) in CODE32 {
        run64(&compat, name, *code as usize as u64);
    }
    for paging in [false, true] {
        for (name, code) in CODE32 {
            let user = if paging { USER } else { 0 };
            let _ = user;
            run32(name, *code as usize as u64, 0x18, 0x10, 0x10, 2, paging);
        }
    }
    for (name, code) in CODE32 {
        run32(name, *code as usize as u64, 0x3b, 0x43, 0x43, 2, false);
    }
    let more: &[(&str, unsafe extern "C" fn())] = &[
        ("limit0", p_limit0),
        ("expand0", p_expand0),
        ("np", p_np),
        ("np_int", p_np_int),
        ("gp_int", p_gp_int),
        ("cs_limit", p_cs_limit),
        ("xonly", p_xonly),
        ("ss_null", p_ss_null),
        ("task_bad", p_task_bad),
        ("task_data", p_task_data),
        ("task_gate", p_task_gate),
        ("jmp_tss", p_jmp_tss),
        ("call_tss", p_call_tss),
        ("iret_nt", p_iret_nt),
    ];
    for (name, code) in more {
        run32(name, *code as usize as u64, 0x18, 0x10, 0x10, 2, false);
        if name.contains("task") || name.contains("tss") {
            let task = address(&raw const TSS32);
            // SAFETY: both task segments are ours.
            let word = |at: u64| unsafe { (at as *const u32).read_volatile() };
            // SAFETY: written by the task.
            let seen = unsafe { ((&raw const record).cast::<u32>().add(22).read_volatile(), (&raw const record).cast::<u32>().add(24).read_volatile()) };
            say!(
                "protected.{name}-state link={:x} flags={:x} tr={:x} old-eip={:x} old-flags={:x} old-cs={:x}",
                word(task + 0x1000) & 0xffff,
                seen.0,
                seen.1,
                word(task + 0x20).wrapping_sub(*code as usize as u32),
                word(task + 0x24),
                word(task + 0x4c)
            );
            put32(task + 0x1000, 0);
            put32(task + 0x1020, task32 as *const () as usize as u32);
            put32(task + 0x1024, 2);
            put32(task + 0x1038, (address(&raw const STACKS) + 0x5000) as u32);
        }
    }
    for (name, code) in [("cli", p_v86_cli as *const ()), ("int", p_v86_int as *const ()), ("in", p_v86_in as *const ()), ("load", p_v86_load as *const ()), ("pushf", p_v86_pushf as *const ()), ("ud", p_v86_ud as *const ())] {
        // Virtual-8086 code sees the first MiB.
        // SAFETY: low memory is free; the code is short.
        unsafe { core::ptr::copy_nonoverlapping(code.cast::<u8>(), 0x8000 as *mut u8, 16) };
        run32(name, 0, 0x800, 0x900, 0x10, 0x20002, false);
    }
    say!("end");
    exit(0x10)
}
