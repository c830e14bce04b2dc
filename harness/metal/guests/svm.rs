//! A small hypervisor: runs nested guests under nested paging and prints a line for each exit.
//!
//! Each case is a few instructions of guest code, a VMCB that intercepts something, and what to do at its exits until the guest says `vmmcall`. Guest
//! code is part of this image; guest-physical is host-physical but for the windows that paging cases move about.
//!
//! `NAME exit=CODE info1=.. info2=.. rip=+OFFSET flags=.. int=EXITINTINFO cr2=.. rax=.. rbx=..`
#![no_std]
#![no_main]

mod rt;

use core::arch::{asm, global_asm};
use core::fmt::Write as _;
use rt::{EMPTY, Page, Pages, Serial, address, cpuid, exit, put, put32, rdmsr, say, take, wrmsr};

static mut VMCB: Page = EMPTY;
static mut HOST_VMCB: Page = EMPTY;
static mut HSAVE: Page = EMPTY;
static mut IOPM: Pages<3> = Pages([EMPTY; 3]);
static mut MSRPM: Pages<2> = Pages([EMPTY; 2]);
/// Nested tables: PML4, PDPT, four directories, one table for the first 2 MiB, one for the window at 32 MiB.
static mut NESTED: Pages<8> = Pages([EMPTY; 8]);
/// The guest's own tables for cases about them: PML4, PDPT, directory, table (window at 32 MiB).
static mut GUEST_TABLES: Pages<4> = Pages([EMPTY; 4]);
static mut GUEST_STACK: Pages<2> = Pages([EMPTY; 2]);
static mut GUEST_IDT: Page = EMPTY;
static mut HOST_IDT: Page = EMPTY;
static mut GUEST_TSS: Page = EMPTY;
static mut GUEST_GDT: Page = EMPTY;

/// Linear (and guest-physical) addresses with a table of their own.
const WINDOW: u64 = 32 << 20;
/// Real-mode code goes here.
const LOW: u64 = 0x8000;

fn zero(at: u64, bytes: u64) {
    for offset in (0..bytes).step_by(8) {
        put(at + offset, 0);
    }
}

// ---- the VMCB -----------------------------------------------------------------------------------------------------------------

fn vmcb() -> u64 {
    address(&raw const VMCB)
}

fn set(offset: u64, value: u64) {
    put(vmcb() + offset, value);
}

fn set32(offset: u64, value: u32) {
    put32(vmcb() + offset, value);
}

fn get(offset: u64) -> u64 {
    take(vmcb() + offset)
}

fn or32(offset: u64, bits: u32) {
    let old = get(offset & !7) >> (8 * (offset & 4));
    set32(offset, old as u32 | bits);
}

/// Intercepts an exit code: its own number is its bit.
fn intercept(code: u32) {
    or32(u64::from(code / 32) * 4, 1 << (code % 32));
}

fn segment(offset: u64, selector: u16, attr: u16, limit: u32, base: u64) {
    set(offset, u64::from(selector) | u64::from(attr) << 16 | u64::from(limit) << 32);
    set(offset + 8, base);
}

const INT_CTL: u64 = 0x60;
const INT_STATE: u64 = 0x68;
const EXIT: u64 = 0x70;
const INFO1: u64 = 0x78;
const INFO2: u64 = 0x80;
const INT_INFO: u64 = 0x88;
const INJECT: u64 = 0xa8;
const NEXT_RIP: u64 = 0xc8;
const CR4: u64 = 0x548;
const CR3: u64 = 0x550;
const CR0: u64 = 0x558;
const RFLAGS: u64 = 0x570;
const RIP: u64 = 0x578;
const RSP: u64 = 0x5d8;
const RAX: u64 = 0x5f8;
const CR2: u64 = 0x640;
const EFER: u64 = 0x4d0;
const SVME: u64 = 1 << 12;

/// General registers of the guest but RAX and RSP.
#[repr(C)]
#[derive(Default)]
struct Regs {
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
    r8: u64,
}

global_asm!(
    r#"
    .global world_switch
world_switch:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rsi
    push rdx
    push rdi
    clgi
    mov rax, rdx
    vmsave rax
    mov rax, rdi
    mov rbx, [rsi]
    mov rcx, [rsi + 8]
    mov rdx, [rsi + 16]
    mov rdi, [rsi + 32]
    mov rbp, [rsi + 40]
    mov r8, [rsi + 48]
    mov rsi, [rsi + 24]
    vmload rax
    vmrun rax
    vmsave rax
    mov rax, [rsp + 16]
    mov [rax], rbx
    mov [rax + 8], rcx
    mov [rax + 16], rdx
    mov [rax + 24], rsi
    mov [rax + 32], rdi
    mov [rax + 40], rbp
    mov [rax + 48], r8
    pop rdi
    pop rax
    vmload rax
    stgi
    pop rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    .global host_nmi, host_irq, host_bad
host_nmi:
    inc dword ptr [nmi_count]
    iretq
host_irq:
    push rax
    inc dword ptr [irq_count]
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq
host_bad:
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    call {bad}
    .bss
    .global nmi_count, irq_count
nmi_count: .long 0
irq_count: .long 0
    .text
"#,
    bad = sym bad,
);

unsafe extern "C" {
    fn world_switch(vmcb: u64, regs: *mut Regs, host: u64);
    fn host_nmi();
    fn host_irq();
    fn host_bad();
    static nmi_count: u32;
    static irq_count: u32;
    static boot_pml4: Page;
}

extern "C" fn bad(a: u64, b: u64) -> ! {
    say!("host-exception {a:#x} {b:#x}");
    exit(0x7d)
}

fn gate(table: u64, vector: u64, target: u64) {
    rt::gate(table, vector, target, 8, 0x8e, 0);
}

// ---- guest code ----------------------------------------------------------------------------------------------------------------

/// Names a piece of guest code.
macro_rules! code {
    ($($name:ident: $text:literal;)*) => {
        global_asm!($(concat!(".balign 16\n.global ", stringify!($name), "\n", stringify!($name), ":\n", $text, "\n"),)*);
        unsafe extern "C" { $(fn $name();)* }
    };
}

code! {
    g_done: "vmmcall";
    g_nop: "nop\nnop\nvmmcall";
    g_cr0_read: "mov rbx, cr0\nvmmcall";
    g_cr3_read: "mov r8, cr3\nvmmcall";
    g_cr4_read: "mov rdx, cr4\nvmmcall";
    g_cr8_read: "mov rbx, cr8\nvmmcall";
    g_cr0_write: "mov rbx, cr0\nmov cr0, rbx\nvmmcall";
    g_cr3_write: "mov rcx, cr3\nmov cr3, rcx\nvmmcall";
    g_cr4_write: "mov rsi, cr4\nmov cr4, rsi\nvmmcall";
    g_cr8_write: "mov ebx, 5\nmov cr8, rbx\nvmmcall";
    g_clts: "clts\nvmmcall";
    g_lmsw: "mov eax, 0x3b\nlmsw ax\nvmmcall";
    g_smsw: "smsw rbx\nvmmcall";
    g_cr0_ts: "mov rbx, cr0\nxor rbx, 8\nmov cr0, rbx\nvmmcall";
    g_cr0_am: "mov rbx, cr0\nbtc rbx, 18\nmov cr0, rbx\nvmmcall";
    g_dr0_read: "mov rbx, dr0\nvmmcall";
    g_dr7_read: "mov rbx, dr7\nvmmcall";
    g_dr1_write: "mov dr1, rbx\nvmmcall";
    g_dr6_write: "mov ebx, 0xffff0ff0\nmov dr6, rbx\nvmmcall";
    g_de: "xor edx, edx\nxor ebx, ebx\ndiv ebx\nvmmcall";
    g_db: "pushfq\nor qword ptr [rsp], 0x100\npopfq\nnop\nvmmcall";
    g_bp: "int3\nvmmcall";
    g_ud: "ud2\nvmmcall";
    g_nm: "mov rbx, cr0\nor rbx, 8\nmov cr0, rbx\nfninit\nvmmcall";
    g_ts: "mov ax, 0x4b\nmov rbx, 0x1000\nmov ax, 0\nltr ax\nvmmcall";
    g_np: "mov ax, 0x20\nmov ds, ax\nvmmcall";
    g_ss: "mov rbp, 0x8000000000000000\nmov rbx, [rbp]\nvmmcall";
    g_gp: "mov rbx, 0x8000000000000000\nmov rbx, [rbx]\nvmmcall";
    g_pf: "mov rbx, 0x4000000000\nmov [rbx], rbx\nvmmcall";
    g_mf: "fninit\npush 0\nfldcw [rsp]\nfld1\nfldz\nfdivp\nfwait\nvmmcall";
    g_xf: "push 0\nldmxcsr [rsp]\nxorps xmm0, xmm0\npcmpeqd xmm1, xmm1\npsrld xmm1, 25\npslld xmm1, 23\ndivps xmm1, xmm0\nvmmcall";
    g_sti: "sti\nnop\nnop\nvmmcall";
    g_sti_hlt: "sti\nhlt\nnop\nvmmcall";
    g_sidt: "sub rsp, 16\nsidt [rsp]\nvmmcall";
    g_sgdt: "sub rsp, 16\nsgdt [rsp]\nvmmcall";
    g_sldt: "sldt eax\nvmmcall";
    g_str: "str eax\nvmmcall";
    g_lidt: "sub rsp, 16\nsidt [rsp]\nlidt [rsp]\nvmmcall";
    g_lgdt: "sub rsp, 16\nsgdt [rsp]\nlgdt [rsp]\nvmmcall";
    g_lldt: "xor eax, eax\nlldt ax\nvmmcall";
    g_ltr: "mov eax, 0x28\nltr ax\nvmmcall";
    g_rdtsc: "rdtsc\nvmmcall";
    g_rdtscp: "rdtscp\nvmmcall";
    g_rdpmc: "xor ecx, ecx\nrdpmc\nvmmcall";
    g_pushf: "pushfq\nvmmcall";
    g_popf: "push 2\npopfq\nvmmcall";
    g_cpuid: "mov eax, 0x40000000\nxor ecx, ecx\ncpuid\nvmmcall";
    g_iret: "mov rbx, rsp\npush 0x10\npush rbx\npush 2\npush 8\nlea rcx, [rip + 1f]\npush rcx\niretq\n1: vmmcall";
    g_int: "int 0x55\nvmmcall";
    g_invd: "invd\nvmmcall";
    g_wbinvd: "wbinvd\nvmmcall";
    g_pause: "pause\npause\npause\nvmmcall";
    g_hlt: "hlt\nvmmcall";
    g_invlpg: "invlpg [0x1234567]\nvmmcall";
    g_invlpga: "mov eax, 0x1000\nmov ecx, 1\ninvlpga rax, ecx\nvmmcall";
    g_in8: "in al, 0x71\nvmmcall";
    g_in32: "mov dx, 0xcfc\nin eax, dx\nvmmcall";
    g_out16: "mov dx, 0x1f0\nmov eax, 0x1234\nout dx, ax\nvmmcall";
    g_outs: "mov dx, 0x3f8\nmov rsi, rsp\nmov ecx, 3\nrep outsb\nvmmcall";
    g_ins: "mov dx, 0x60\nlea rdi, [rsp - 64]\nmov ecx, 2\n.byte 0x67\nrep insw\nvmmcall";
    g_outs_fs: "mov dx, 0x80\nxor esi, esi\nfs outsd\nvmmcall";
    g_io_open: "mov al, 7\nout 0x80, al\nvmmcall";
    g_io_edge: "mov dx, 0x7f\nin eax, dx\nvmmcall";
    g_rdmsr: "mov ecx, 0xc0000080\nrdmsr\nvmmcall";
    g_wrmsr: "mov ecx, 0x174\nmov eax, 0x33\nxor edx, edx\nwrmsr\nvmmcall";
    g_msr_far: "mov ecx, 0x40000000\nrdmsr\nvmmcall";
    g_msr_open: "mov ecx, 0x174\nmov eax, 0x44\nxor edx, edx\nwrmsr\nrdmsr\nmov rbx, rax\nvmmcall";
    g_shutdown: "push 0\npush 0\nlidt [rsp]\nud2\nvmmcall";
    g_vmrun: "mov rax, 0x1000\nvmrun rax";
    g_vmload: "mov rax, 0x1000\nvmload rax";
    g_vmsave: "mov rax, 0x1000\nvmsave rax";
    g_stgi: "stgi\nvmmcall";
    g_clgi: "clgi\nvmmcall";
    g_icebp: ".byte 0xf1\nvmmcall";
    g_monitor: "mov rax, rsp\nxor ecx, ecx\nxor edx, edx\nmonitor\nvmmcall";
    g_mwait: "xor eax, eax\nxor ecx, ecx\nmwait\nvmmcall";
    g_xsetbv: "mov rbx, cr4\nbts rbx, 18\nmov cr4, rbx\nmov eax, 3\nxor edx, edx\nxor ecx, ecx\nxsetbv\nvmmcall";
    g_load: "mov rbx, [0x2000000]\nvmmcall";
    g_store: "mov rax, 0x2000008\nmov [rax], rsp\nmov rbx, [rax]\nvmmcall";
    g_call: "mov rax, 0x2000010\njmp rax";
    g_touch: "mov rbx, [0x2000000]\nmov rcx, [0x2001000]\nvmmcall";
    g_handler: "mov r8, [rsp]\nmov rbx, 0x4444\nvmmcall\niretq";
    g_handler_code: "pop r8\nmov rbx, 0x5555\nvmmcall\niretq";
    g_virq: "sti\nnop\nnop\nnop\nvmmcall";
    g_tpr: "mov rbx, cr8\nmov ecx, 9\nmov cr8, rcx\nmov rdx, cr8\nvmmcall";
    g_tpr_low: "xor ecx, ecx\nmov cr8, rcx\nnop\nvmmcall";
    g_pat: "mov ecx, 0x277\nrdmsr\nshl rdx, 32\nor rax, rdx\nmov rbx, rax\nvmmcall";
    g_tsc_diff: "rdtsc\nshl rdx, 32\nor rax, rdx\nmov rbx, rax\nvmmcall";
    g_shadow: "mov ax, 16\nmov ss, ax\nvmmcall";
    g_sti_exit: "sti\nvmmcall";
    g_two_stores: "mov rax, 0x2000000\nmov [rax], rax\nadd rax, 0x1000\nmov [rax], rax\nvmmcall";
}

// 16- and 32-bit code is copied, or entered with its own segments.
global_asm!(
    r#"
    .code16
    .global r_code, r_end, r_int, r_int_end
r_code:
    mov ax, 0x1234
    in al, 0x21
    mov bx, 0x7777
    hlt
r_end:
r_int:
    int 0x21
r_int_end:
    .code32
    .global p_code
p_code:
    mov ebx, 0x32323232
    cpuid
    int3
    .code64
"#
);
unsafe extern "C" {
    fn r_code();
    fn r_end();
    fn r_int();
    fn r_int_end();
    fn p_code();
}

// ---- cases ----------------------------------------------------------------------------------------------------------------------

/// What to do after an exit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Stop,
    Go,
}

struct Case {
    name: &'static str,
    code: unsafe extern "C" fn(),
    set: fn(),
    /// After each exit (code, how many so far).
    after: fn(u64, u32) -> Then,
}

fn stop(_: u64, _: u32) -> Then {
    Then::Stop
}

fn to_the_end(code: u64, count: u32) -> Then {
    if code == 0x81 || count > 6 { Then::Stop } else { Then::Go }
}

/// Skips the intercepted instruction of `N` bytes.
fn skip<const N: u64>(code: u64, count: u32) -> Then {
    set(RIP, get(RIP) + N);
    to_the_end(code, count)
}

fn window_leaf(page: u64) -> u64 {
    address(&raw const NESTED) + 7 * 4096 + 8 * page
}

fn guest_leaf(page: u64) -> u64 {
    address(&raw const GUEST_TABLES) + 3 * 4096 + 8 * page
}

fn own_tables() {
    set(CR3, address(&raw const GUEST_TABLES));
}

fn prepare(case: &Case) {
    zero(vmcb(), 4096);
    let nested = address(&raw const NESTED);
    zero(nested, 8 * 4096);
    put(nested, nested + 0x1007);
    for index in 0..4 {
        put(nested + 0x1000 + 8 * index, nested + 0x2007 + 0x1000 * index);
        for entry in 0..512 {
            put(nested + 0x2000 + 0x1000 * index + 8 * entry, (index << 30 | entry << 21) | 0x87);
        }
    }
    // The first 2 MiB and the window by small pages.
    put(nested + 0x2000, nested + 0x6007);
    put(nested + 0x2000 + 8 * (WINDOW >> 21), nested + 0x7007);
    for page in 0..512 {
        put(nested + 0x6000 + 8 * page, page << 12 | 7);
        put(nested + 0x7000 + 8 * page, WINDOW + (page << 12) | 7);
    }
    let tables = address(&raw const GUEST_TABLES);
    zero(tables, 4 * 4096);
    put(tables, tables + 0x1007);
    put(tables + 0x1000, tables + 0x2007);
    for entry in 0..512 {
        put(tables + 0x2000 + 8 * entry, entry << 21 | 0x87);
        put(tables + 0x3000 + 8 * entry, WINDOW + (entry << 12) | 7);
    }
    put(tables + 0x2000 + 8 * (WINDOW >> 21), tables + 0x3007);
    zero(address(&raw const IOPM), 0x3000);
    zero(address(&raw const MSRPM), 0x2000);
    zero(WINDOW, 0x4000);
    // mov rbx, 0x1111; vmmcall at the window's first code.
    put(WINDOW + 0x10, 0x0f_0000_1111_c3c7_48);
    put(WINDOW + 0x18, 0xd9_01);

    intercept(0x80);
    intercept(0x81);
    set(0x40, address(&raw const IOPM));
    set(0x48, address(&raw const MSRPM));
    set32(0x58, 1);
    set32(0x5c, 1);
    set(0x90, 1);
    set(0xb0, nested);
    let gdt = address(&raw const GUEST_GDT);
    for (index, entry) in [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff, 0x00cf_1300_0000_ffff].into_iter().enumerate() {
        put(gdt + 8 * index as u64, entry);
    }
    let tss = address(&raw const GUEST_TSS);
    put(gdt + 0x28, 0x0000_8900_0000_0067 | (tss & 0xff_ffff) << 16);
    put(gdt + 0x30, 0);
    for offset in [0x400, 0x420, 0x430, 0x440, 0x450] {
        segment(offset, 16, 0xc93, u32::MAX, 0);
    }
    segment(0x410, 8, 0xa9b, u32::MAX, 0);
    segment(0x460, 0, 0, 0x37, gdt);
    segment(0x480, 0, 0, 0xfff, address(&raw const GUEST_IDT));
    segment(0x470, 0, 0x82, 0xffff, 0);
    segment(0x490, 0x28, 0x8b, 0x67, tss);
    set(EFER, SVME | 0x500 | 0x800);
    set(CR0, 0x8001_0033);
    set(CR3, address(&raw const boot_pml4));
    set(CR4, 0x620);
    set(0x560, 0x400);
    set(0x568, 0xffff_0ff0);
    set(RFLAGS, 2);
    set(RIP, case.code as usize as u64);
    set(RSP, address(&raw const GUEST_STACK) + 0x1800);
    set(0x668, 0x0007_0406_0007_0406);
}

fn run(case: &Case) {
    prepare(case);
    (case.set)();
    let mut regs = Regs { rbx: 0xb, rcx: 0xc, rdx: 0xd, rsi: 0x51, rdi: 0xd1, rbp: 0xb9, r8: 8 };
    let start = case.code as usize as u64;
    let mut count = 0;
    loop {
        // SAFETY: the VMCB is complete; the routine keeps what the ABI keeps.
        unsafe { world_switch(vmcb(), &raw mut regs, address(&raw const HOST_VMCB)) };
        count += 1;
        let code = get(EXIT) & 0xffff_ffff;
        if code == 0xffff_ffff {
            // The state was refused: nothing else is said of the VMCB.
            say!("{} exit=invalid", case.name);
            break;
        }
        let mut rip = get(RIP);
        let mut sign = '+';
        let mut from = start;
        for (mark, base) in [('h', g_handler as *const () as usize as u64), ('c', g_handler_code as *const () as usize as u64), ('w', WINDOW)] {
            if rip >= base && rip < base + 32 {
                sign = mark;
                from = base;
            }
        }
        rip = rip.wrapping_sub(from);
        let r8 = regs.r8.wrapping_sub(start);
        let r8 = if r8 < 64 { r8 } else { regs.r8 };
        say!(
            "{} exit={:x} info1={:x} info2={} rip={}{:x} flags={:x} int={:x} cr2={:x} rax={} rbx={:x} rcx={:x} rdx={:x} rsi={} r8={}",
            case.name,
            code,
            // What decode assists add is not everywhere; `assist` lines tell.
            if matches!(code, 0..=0x3f | 0x65 | 0x75 | 0x79) { 0 } else { get(INFO1) },
            Place(get(INFO2), start),
            sign,
            rip,
            get(RFLAGS),
            if get(INT_INFO) & 1 << 31 != 0 { get(INT_INFO) } else { 0 },
            get(CR2),
            Place(get(RAX), start),
            regs.rbx,
            regs.rcx,
            regs.rdx,
            Place(regs.rsi, start),
            Place(r8, start),
        );
        // SAFETY: events that came meanwhile are taken here, with their handlers in place.
        unsafe { asm!("sti", "nop", "nop", "cli") };
        if (case.after)(code, count) == Then::Stop {
            break;
        }
    }
}

/// A number that may be an address of this image or its tables.
struct Place(u64, u64);

impl core::fmt::Display for Place {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Place(value, start) = *self;
        let stack = address(&raw const GUEST_STACK);
        let tables = address(&raw const GUEST_TABLES);
        if value >= start && value < start + 64 {
            write!(out, "+{:x}", value - start)
        } else if value >= stack && value < stack + 0x2000 {
            write!(out, "stack+{:x}", value - stack)
        } else if value >= tables && value < tables + 0x4000 {
            write!(out, "tables+{:x}", value - tables)
        } else {
            write!(out, "{value:x}")
        }
    }
}

const APIC: u64 = 0xfee0_0000;

fn apic(register: u64, value: u32) {
    // SAFETY: the local APIC is mapped here.
    unsafe { ((APIC + register) as *mut u32).write_volatile(value) }
}

/// Makes an interrupt pending in the host.
fn raise_irq() {
    apic(0x300, 0x0004_4050);
}

fn raise_nmi() {
    // Held until the guest runs.
    // SAFETY: VMRUN or STGI follows.
    unsafe { asm!("clgi") };
    apic(0x310, 0);
    apic(0x300, 0x4400);
}

fn exceptions() {
    set32(8, u32::MAX);
}

/// Virtual interrupt: control bits, priority, vector.
fn virtual_irq(bits: u64, priority: u64, vector: u64) {
    set(INT_CTL, 1 << 8 | bits | priority << 16 | vector << 32);
}

fn inject(kind: u64, vector: u64, code: Option<u64>) {
    set(INJECT, vector | kind << 8 | 1 << 31 | code.map_or(0, |code| 1 << 11 | code << 32));
}

/// A case that intercepts one code and stops at the first exit.
macro_rules! one {
    ($name:literal, $code:ident, $exit:expr) => {
        Case { name: $name, code: $code, set: || intercept($exit), after: stop }
    };
}

macro_rules! case {
    ($name:literal, $code:ident, $set:expr) => {
        Case { name: $name, code: $code, set: $set, after: stop }
    };
    ($name:literal, $code:ident, $set:expr, $after:expr) => {
        Case { name: $name, code: $code, set: $set, after: $after }
    };
}

static CASES: &[Case] = &[
    case!("vmmcall", g_done, || {}),
    one!("cr0-read", g_cr0_read, 0),
    one!("cr3-read", g_cr3_read, 3),
    one!("cr4-read", g_cr4_read, 4),
    one!("cr8-read", g_cr8_read, 8),
    one!("cr0-write", g_cr0_write, 0x10),
    one!("cr3-write", g_cr3_write, 0x13),
    one!("cr4-write", g_cr4_write, 0x14),
    one!("cr8-write", g_cr8_write, 0x18),
    one!("clts", g_clts, 0x10),
    one!("lmsw", g_lmsw, 0x10),
    one!("smsw", g_smsw, 0),
    one!("cr0-selective-ts", g_cr0_ts, 0x65),
    one!("cr0-selective-am", g_cr0_am, 0x65),
    one!("dr0-read", g_dr0_read, 0x20),
    one!("dr7-read", g_dr7_read, 0x27),
    one!("dr1-write", g_dr1_write, 0x31),
    one!("dr6-write", g_dr6_write, 0x36),
    case!("exception-de", g_de, exceptions),
    case!("exception-db", g_db, exceptions),
    case!("exception-bp", g_bp, exceptions),
    case!("exception-ud", g_ud, exceptions),
    case!("exception-nm", g_nm, exceptions),
    case!("exception-gp-selector", g_ts, exceptions),
    case!("exception-np", g_np, exceptions),
    case!("exception-ss", g_ss, exceptions),
    case!("exception-gp", g_gp, exceptions),
    case!("exception-pf", g_pf, exceptions),
    case!("exception-mf", g_mf, || {
        exceptions();
        set(CR0, 0x8001_0033);
    }),
    case!("exception-xf", g_xf, exceptions),
    case!("intr", g_sti, || {
        intercept(0x60);
        raise_irq();
    }),
    case!("intr-hlt", g_sti_hlt, || {
        intercept(0x60);
        raise_irq();
    }),
    case!("intr-masked", g_nop, || {
        intercept(0x60);
        raise_irq();
    }),
    case!("nmi", g_nop, || {
        intercept(0x61);
        raise_nmi();
    }),
    case!("vintr", g_sti, || {
        intercept(0x64);
        virtual_irq(1 << 24, 15, 0x60);
    }),
    one!("sidt", g_sidt, 0x66),
    one!("sgdt", g_sgdt, 0x67),
    one!("sldt", g_sldt, 0x68),
    one!("str", g_str, 0x69),
    one!("lidt", g_lidt, 0x6a),
    one!("lgdt", g_lgdt, 0x6b),
    one!("lldt", g_lldt, 0x6c),
    one!("ltr", g_ltr, 0x6d),
    case!("ltr-open", g_ltr, || {}),
    case!("rdtsc", g_rdtsc, || {
        intercept(0x6e);
        set(RAX, 0);
    }),
    one!("rdpmc", g_rdpmc, 0x6f),
    one!("pushf", g_pushf, 0x70),
    one!("popf", g_popf, 0x71),
    one!("cpuid", g_cpuid, 0x72),
    one!("iret", g_iret, 0x74),
    case!("iret-open", g_iret, || {}),
    one!("int-n", g_int, 0x75),
    one!("invd", g_invd, 0x76),
    one!("pause", g_pause, 0x77),
    one!("hlt", g_hlt, 0x78),
    one!("invlpg", g_invlpg, 0x79),
    one!("invlpga", g_invlpga, 0x7a),
    case!("io-in8", g_in8, io_closed),
    case!("io-in32", g_in32, io_closed),
    case!("io-out16", g_out16, io_closed),
    case!("io-outs", g_outs, io_closed),
    case!("io-ins", g_ins, io_closed),
    case!("io-outs-fs", g_outs_fs, io_closed),
    case!("io-open", g_io_open, || intercept(0x7b)),
    case!("io-edge", g_io_edge, || {
        intercept(0x7b);
        put(address(&raw const IOPM) + 0x10, 1 << 2);
    }),
    case!("msr-read", g_rdmsr, || {
        intercept(0x7c);
        put(address(&raw const MSRPM) + 0x800 + 0x20, 1);
    }),
    case!("msr-write", g_wrmsr, || {
        intercept(0x7c);
        // Read of 0x174 is bit 0x2e8, write the next.
        put(address(&raw const MSRPM) + 0x58, 1 << (0x2e8 - 0x58 * 8 + 1));
    }),
    case!("msr-far", g_msr_far, || intercept(0x7c)),
    case!("msr-open", g_msr_open, || intercept(0x7c)),
    one!("shutdown", g_shutdown, 0x7f),
    case!("nested-vmrun", g_vmrun, || {}),
    one!("vmload", g_vmload, 0x82),
    one!("vmsave", g_vmsave, 0x83),
    one!("stgi", g_stgi, 0x84),
    one!("clgi", g_clgi, 0x85),
    one!("rdtscp", g_rdtscp, 0x87),
    one!("icebp", g_icebp, 0x88),
    one!("wbinvd", g_wbinvd, 0x89),
    one!("monitor", g_monitor, 0x8a),
    one!("mwait", g_mwait, 0x8b),
    one!("xsetbv", g_xsetbv, 0x8d),
    // Nested page faults, each mended and gone on with.
    case!("npf-absent", g_load, || put(window_leaf(0), 0), |code, count| {
        put(window_leaf(0), WINDOW | 7);
        to_the_end(code, count)
    }),
    case!("npf-read-only", g_store, || put(window_leaf(0), WINDOW | 5), |code, count| {
        put(window_leaf(0), WINDOW | 7);
        set32(0x5c, 1);
        to_the_end(code, count)
    }),
    case!("npf-read-only-loads", g_load, || put(window_leaf(0), WINDOW | 5)),
    case!("npf-supervisor", g_load, || put(window_leaf(0), WINDOW | 3)),
    case!("npf-no-execute", g_call, || put(window_leaf(0), 1 << 63 | WINDOW | 7), |code, count| {
        put(window_leaf(0), WINDOW | 7);
        set32(0x5c, 1);
        to_the_end(code, count)
    }),
    case!("npf-reserved", g_load, || put(window_leaf(0), 1 << 51 | WINDOW | 7)),
    case!("npf-directory-absent", g_load, || put(address(&raw const NESTED) + 0x2000 + 8 * (WINDOW >> 21), 0)),
    case!("npf-high", g_load, || {
        own_tables();
        put(guest_leaf(0), 0x80_0000_0007);
    }),
    case!("npf-remap", g_load, || {
        put(window_leaf(0), WINDOW + 0x1000 | 7);
        put(WINDOW + 0x1000, 0xabcd);
    }),
    case!("npf-table-absent", g_load, || {
        own_tables();
        // The guest's last table lies in a page of the window that is not there.
        put(address(&raw const GUEST_TABLES) + 0x2000 + 8 * (WINDOW >> 21), WINDOW + 0x3007);
        put(window_leaf(3), 0);
    }),
    case!("npf-table-read-only", g_load, || {
        own_tables();
        put(address(&raw const GUEST_TABLES) + 0x2000 + 8 * (WINDOW >> 21), WINDOW + 0x3007);
        put(WINDOW + 0x3000, WINDOW | 7);
        put(window_leaf(3), WINDOW + 0x3000 | 5);
    }),
    case!("guest-fault-before-nested", g_store, || {
        exceptions();
        own_tables();
        put(guest_leaf(0), WINDOW | 5);
        put(window_leaf(0), 0);
    }),
    case!("guest-wp-off", g_store, || {
        own_tables();
        set(CR0, 0x8000_0033);
        put(guest_leaf(0), WINDOW | 5);
        put(window_leaf(0), WINDOW | 5);
    }),
    case!("guest-reserved", g_load, || {
        exceptions();
        own_tables();
        put(guest_leaf(0), 1 << 51 | WINDOW | 7);
    }),
    case!("guest-global", g_touch, || {
        own_tables();
        set(CR4, 0x6a0);
        put(guest_leaf(0), WINDOW | 0x107);
        put(WINDOW, 0x1234);
        put(WINDOW + 0x1000, 0x5678);
    }),
    // Events.
    case!("inject-interrupt", g_nop, || inject(0, 0x41, None)),
    case!("inject-nmi", g_nop, || inject(2, 2, None)),
    case!("inject-exception", g_nop, || inject(3, 13, Some(0x1234))),
    case!("inject-software", g_nop, || inject(4, 0x42, None)),
    case!("inject-interrupted", g_nop, || {
        inject(0, 0x41, None);
        put(window_leaf(0), 0);
        segment(0x480, 0, 0, 0xfff, WINDOW);
    }),
    case!("inject-exception-interrupted", g_nop, || {
        inject(3, 14, Some(6));
        put(window_leaf(0), 0);
        segment(0x480, 0, 0, 0xfff, WINDOW);
    }),
    case!("inject-then-pf", g_nop, || {
        exceptions();
        inject(0, 0x41, None);
        segment(0x480, 0, 0, 0xfff, 0x40_0000_0000);
    }),
    case!("inject-bad", g_nop, || inject(3, 2, None)),
    case!("inject-bad-type", g_nop, || inject(1, 2, None)),
    case!("exception-delivered", g_ud, || {}),
    case!("exception-delivered-code", g_gp, || {}),
    case!("df", g_gp, || {
        set32(8, 1 << 8);
        segment(0x480, 0, 0, 0xff, address(&raw const GUEST_IDT));
        put(address(&raw const GUEST_IDT) + 16 * 13, 0);
    }, |_, _| {
        gates();
        Then::Stop
    }),
    case!("virq", g_virq, || virtual_irq(1 << 24, 15, 0x43)),
    case!("virq-if-off", g_nop, || virtual_irq(1 << 24, 15, 0x43)),
    case!("virq-tpr", g_virq, || virtual_irq(1 << 24 | 9, 9, 0x43)),
    case!("virq-ignore-tpr", g_virq, || virtual_irq(1 << 24 | 1 << 20 | 9, 9, 0x43)),
    case!("virq-tpr-lowered", g_tpr_low, || {
        virtual_irq(1 << 24 | 9, 9, 0x43);
        set(RFLAGS, 0x202);
    }),
    case!("virq-shadow", g_nop, || {
        virtual_irq(1 << 24, 9, 0x43);
        set(RFLAGS, 0x202);
        set(INT_STATE, 1);
    }),
    case!("virq-vintr-pending", g_sti, || {
        intercept(0x64);
        virtual_irq(1 << 24, 15, 0x43);
    }, |code, count| {
        virtual_irq(1 << 24, 15, 0x43);
        set32(0xc, 0);
        to_the_end(code, count)
    }),
    case!("vtpr", g_tpr, || set(INT_CTL, 1 << 24 | 3)),
    case!("masking-intr", g_nop, || {
        // The host's IF is off: the guest's does not count.
        intercept(0x60);
        set(INT_CTL, 1 << 24);
        set(RFLAGS, 0x202);
        raise_irq();
    }),
    case!("shadow", g_shadow, || {}),
    case!("shadow-sti", g_sti_exit, || {}),
    case!("shadow-state", g_sti_exit, || {}, |code, count| {
        say!("shadow-state-is {:x}", get(INT_STATE));
        to_the_end(code, count)
    }),
    // Running on.
    case!("skip-cpuid", g_cpuid, || intercept(0x72), skip::<2>),
    case!("skip-hlt", g_hlt, || intercept(0x78), |code, count| if code == 0x78 { skip::<1>(code, count) } else { Then::Stop }),
    case!("pat", g_pat, || set(0x668, 0x0606_0606_0606_0606)),
    // Modes.
    case!("real-in", g_done, || real(r_code as *const () as u64, r_end as *const () as u64, || {
        intercept(0x7b);
        put(address(&raw const IOPM), u64::MAX);
    })),
    case!("real-hlt", g_done, || real(r_code as *const () as u64, r_end as *const () as u64, || intercept(0x78))),
    case!("real-int", g_done, || real(r_int as *const () as u64, r_int_end as *const () as u64, || intercept(0x75))),
    case!("protected-cpuid", g_done, || {
        intercept(0x72);
        protected();
    }),
    case!("protected-unpaged-bp", g_done, || {
        exceptions();
        protected();
    }),
    // Consistency (§15.5.1).
    case!("bad-asid", g_done, || set32(0x58, 0)),
    case!("bad-no-vmrun-intercept", g_done, || set32(0x10, 2)),
    case!("bad-svme", g_done, || set(EFER, 0xd00)),
    case!("bad-cr0-nw", g_done, || set(CR0, 0xa001_0033)),
    case!("bad-cr0-high", g_done, || set(CR0, 0x1_8001_0033)),
    case!("bad-cr4", g_done, || set(CR4, 1 << 40 | 0x620)),
    case!("bad-cr4-pae", g_done, || set(CR4, 0x600)),
    case!("bad-dr6", g_done, || set(0x568, 1 << 32)),
    case!("bad-dr7", g_done, || set(0x560, 1 << 32)),
    case!("bad-efer", g_done, || set(EFER, 1 << 40 | SVME | 0xd00)),
    case!("bad-cs-l-d", g_done, || segment(0x410, 8, 0xe9b, u32::MAX, 0)),
    case!("bad-pe", g_done, || set(CR0, 0x8001_0032)),
    case!("bad-iopm", g_done, || set(0x40, 0xffff_ffff_ffff_f000)),
    case!("bad-ncr3", g_done, || set(0xb0, 0xf_ffff_ffff_f000)),
];

fn io_closed() {
    intercept(0x7b);
    for offset in (0..0x3000).step_by(8) {
        put(address(&raw const IOPM) + offset, u64::MAX);
    }
}

/// The guest in real mode, its code at LOW.
fn real(from: u64, to: u64, set_up: fn()) {
    // SAFETY: low memory is free.
    unsafe { core::ptr::copy_nonoverlapping(from as *const u8, LOW as *mut u8, (to - from) as usize) };
    set_up();
    for offset in [0x400, 0x420, 0x430, 0x440, 0x450] {
        segment(offset, 0, 0x93, 0xffff, 0);
    }
    segment(0x410, (LOW >> 4) as u16, 0x9b, 0xffff, LOW);
    segment(0x480, 0, 0, 0x3ff, 0);
    set(EFER, SVME);
    set(CR0, 0x10);
    set(CR4, 0);
    set(RIP, 0);
    set(RSP, 0x7000);
}

/// The guest in 32-bit protected mode without paging.
fn protected() {
    segment(0x410, 0x18, 0xc9b, u32::MAX, 0);
    set(EFER, SVME);
    set(CR0, 0x11);
    set(CR4, 0);
    set(RIP, p_code as *const () as u64);
}

fn gates() {
    let idt = address(&raw const GUEST_IDT);
    for vector in 0..256 {
        let code = matches!(vector, 8 | 10..=14 | 17);
        gate(idt, vector, if code { g_handler_code as *const () as u64 } else { g_handler as *const () as u64 });
    }
}

extern "C" fn main() -> ! {
    let idt = address(&raw const HOST_IDT);
    for vector in 0..256 {
        gate(idt, vector, host_bad as *const () as u64);
    }
    gate(idt, 2, host_nmi as *const () as u64);
    gate(idt, 0x50, host_irq as *const () as u64);
    let idtr = rt::table(idt, 0xfff);
    // SAFETY: the table is complete and stays.
    unsafe { asm!("lidt [{}]", in(reg) &idtr) };
    // The firmware's timer interrupts are none of ours.
    rt::outb(0x21, 0xff);
    rt::outb(0xa1, 0xff);
    apic(0xf0, 0x1ff);
    apic(0x80, 0);
    gates();

    say!("\nbegin");
    let features = cpuid(0x8000_000a, 0);
    say!("svm revision={} asids={}", features[0], features[1]);
    say!("svm-features {:x}", features[3]);
    wrmsr(0xc000_0080, rdmsr(0xc000_0080) | SVME);
    wrmsr(0xc001_0117, address(&raw const HSAVE));
    say!("efer {:x} vm_cr {:x}", rdmsr(0xc000_0080), rdmsr(0xc001_0114));
    for case in CASES {
        run(case);
        // SAFETY: counters of the handlers.
        let (nmis, irqs) = unsafe { ((&raw const nmi_count).read_volatile(), (&raw const irq_count).read_volatile()) };
        if nmis + irqs != 0 {
            say!("{}-host nmis={nmis} interrupts={irqs}", case.name);
            // SAFETY: as above; nothing else runs.
            unsafe {
                (&raw const nmi_count as *mut u32).write_volatile(0);
                (&raw const irq_count as *mut u32).write_volatile(0);
            }
        }
    }
    marks();
    tsc();
    assists();
    pause_filter();
    let _ = writeln!(Serial, "end");
    exit(0x10)
}

/// Accessed and dirty bits of both tables.
fn marks() {
    let case = case!("marks", g_touch, own_tables);
    run(&case);
    say!("marks-read guest={:x},{:x} nested={:x},{:x}", take(guest_leaf(0)), take(guest_leaf(1)), take(window_leaf(0)), take(window_leaf(1)));
    let case = case!("marks-write", g_two_stores, own_tables);
    run(&case);
    say!("marks-written guest={:x},{:x} nested={:x},{:x}", take(guest_leaf(0)), take(guest_leaf(1)), take(window_leaf(0)), take(window_leaf(2)));
}

/// The TSC offset, as far as it can be said on both machines.
fn tsc() {
    let mut regs = Regs::default();
    let case = case!("tsc", g_tsc_diff, || set(0x50, 1 << 50));
    prepare(&case);
    (case.set)();
    // SAFETY: as in `run`.
    unsafe { world_switch(vmcb(), &raw mut regs, address(&raw const HOST_VMCB)) };
    say!("tsc offset seen={}", regs.rbx >> 50);
}

/// nRIP and decode assists, where CPUID says so.
fn assists() {
    let features = cpuid(0x8000_000a, 0)[3];
    let mut regs = Regs::default();
    let once = |case: &Case, regs: &mut Regs| {
        prepare(case);
        (case.set)();
        // SAFETY: as in `run`.
        unsafe { world_switch(vmcb(), regs, address(&raw const HOST_VMCB)) };
    };
    if features & 1 << 3 != 0 {
        once(&one!("", g_cpuid, 0x72), &mut regs);
        say!("assist-nrip +{}", get(NEXT_RIP).wrapping_sub(get(RIP)));
    } else {
        say!("assist-nrip absent");
    }
    if features & 1 << 7 != 0 {
        once(&one!("", g_cr3_read, 3), &mut regs);
        say!("assist-cr {:x}", get(INFO1));
        once(&case!("", g_store, || put(window_leaf(0), 0)), &mut regs);
        say!("assist-bytes {:x} {:x}", get(0xd0), get(0xd8));
        once(&one!("", g_int, 0x75), &mut regs);
        say!("assist-int {:x}", get(INFO1));
    } else {
        say!("assist-cr absent");
    }
}

fn pause_filter() {
    if cpuid(0x8000_000a, 0)[3] & 1 << 10 == 0 {
        say!("pause-filter absent");
        return;
    }
    let case = case!("pause-filter", g_pause, || {
        intercept(0x77);
        set32(0x3c, 2 << 16);
    });
    run(&case);
}
