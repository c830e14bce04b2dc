//! What every bare-metal guest stands on: PVH entry, long mode with the first 4 GiB mapped one to one, COM1, the exit port.
#![allow(dead_code, reason = "each guest uses its own part")]

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start32

    .section .text.start, "ax"
    .code32
    .global start32
start32:
    cli
    cld
    mov esp, offset boot_stack_top
    mov eax, offset boot_pdpt
    or eax, 7
    mov [boot_pml4], eax
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 12
    add eax, offset boot_pd
    or eax, 7
    mov [boot_pdpt + ecx * 8], eax
    inc ecx
    cmp ecx, 4
    jb 1b
    xor ecx, ecx
2:  mov eax, ecx
    shl eax, 21
    or eax, 0x87
    mov [boot_pd + ecx * 8], eax
    inc ecx
    cmp ecx, 2048
    jb 2b
    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    and eax, 0x9fffffff
    and eax, ~4
    or eax, 0x80010023
    mov cr0, eax
    lgdt [boot_gdtr]
    push 8
    mov eax, offset start64
    push eax
    retf
    .code64
start64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    mov rsp, offset boot_stack_top
    call {main}
    ud2
    .align 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .quad boot_gdt
    .section .bss
    .align 4096
    .global boot_pml4, boot_pdpt, boot_pd
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 16384
boot_stack: .skip 65536
boot_stack_top:
    .text
"#,
    main = sym super::main,
);

/// A page of its own.
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);
#[repr(C, align(4096))]
pub struct Pages<const N: usize>(pub [Page; N]);
pub const EMPTY: Page = Page([0; 4096]);

pub fn address<T>(of: *const T) -> u64 {
    of as u64
}

pub fn put(at: u64, value: u64) {
    // SAFETY: addresses come from the guest itself and are RAM or a device's registers.
    unsafe { (at as *mut u64).write_volatile(value) }
}

pub fn put32(at: u64, value: u32) {
    // SAFETY: as above.
    unsafe { (at as *mut u32).write_volatile(value) }
}

pub fn take(at: u64) -> u64 {
    // SAFETY: as above.
    unsafe { (at as *const u64).read_volatile() }
}

/// Writes a 64-bit gate (APM vol. 2 §4.8.4): `attributes` are P, DPL and type.
pub fn gate(table: u64, vector: u64, target: u64, selector: u64, attributes: u64, ist: u64) {
    put(table + 16 * vector, target & 0xffff | selector << 16 | ist << 32 | attributes << 40 | (target >> 16 & 0xffff) << 48);
    put(table + 16 * vector + 8, target >> 32);
}

/// What LGDT and LIDT load (APM vol. 2 §4.6.2).
pub fn table(base: u64, limit: u16) -> [u16; 5] {
    [limit, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16]
}

/// COM1 as a writer.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while inb(0x3fd) & 0x20 == 0 {}
            outb(0x3f8, byte);
        }
        Ok(())
    }
}

/// Prints a line on COM1.
macro_rules! say {
    ($($arg:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::rt::Serial, $($arg)*);
    }};
}
pub(crate) use say;

pub fn outb(port: u16, value: u8) {
    // SAFETY: this program owns the machine.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) }
}

pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: this program owns the machine.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) }
    value
}

/// Ends the machine with status `value << 1 | 1`.
pub fn exit(value: u32) -> ! {
    // SAFETY: this program owns the machine; the write ends it.
    unsafe { asm!("out dx, eax", in("dx") 0xf4u16, in("eax") value, options(nostack)) }
    loop {
        // SAFETY: nothing is left to do.
        unsafe { asm!("cli", "hlt") }
    }
}

pub fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller names an MSR that exists.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nostack)) }
    u64::from(high) << 32 | u64::from(low)
}

pub fn wrmsr(number: u32, value: u64) {
    // SAFETY: the caller names an MSR that exists.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack)) }
}

pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("panic: {info}");
    exit(0x7f)
}

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(0x7e)
}

global_asm!(
    r#"
    .global memcpy, memmove, memset, memcmp, bcmp, strlen
memmove:
    cmp rdi, rsi
    jbe memcpy
    mov rax, rdi
    mov rcx, rdx
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
bcmp:
memcmp:
    xor eax, eax
    mov rcx, rdx
    jrcxz 1f
2:  movzx eax, byte ptr [rdi]
    movzx edx, byte ptr [rsi]
    inc rdi
    inc rsi
    sub eax, edx
    jne 1f
    dec rcx
    jne 2b
1:  ret
strlen:
    xor eax, eax
1:  cmp byte ptr [rdi + rax], 0
    je 2f
    inc rax
    jmp 1b
2:  ret
"#
);
