//! The first instructions.
//!
//! The 32-bit part runs wherever the loader put it. It may use only offsets from the image base (`off_*` in `os/kernel/kernel.ld`) and
//! the base it computes. EBP = physical image base, EBX = the loader's information, EDI = the loader's EAX.

use core::arch::global_asm;

use crate::{BootError, BootInfo, DIRECT_MAP, IMAGE_BASE, ImageLayout};

/// Bytes of the stack that the boot CPU starts on.
const BOOT_STACK: usize = 64 * 1024;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .align 4
    .long 4                     /* name size */
    .long 4                     /* descriptor size */
    .long 18                    /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long phys_pvh_entry

    .section .boot.multiboot2, "ax"
    .align 8
multiboot2_header:
    .long 0xe85250d6            /* magic, architecture i386, length, checksum */
    .long 0
    .long multiboot2_end - multiboot2_header
    .long 0x100000000 - (0xe85250d6 + (multiboot2_end - multiboot2_header))
    .align 8
    .short 1, 1                 /* information request, optional: memory map, module, command line, RSDPs */
    .long 8 + 5 * 4
    .long 1, 3, 6, 14, 15
    .align 8
    .short 3, 0                 /* entry address */
    .long 12
    .long phys_multiboot2_entry
    .align 8
    .short 6, 1                 /* modules page aligned */
    .long 8
    .align 8
    .short 10, 0                /* relocatable: 2 MiB to 2 GiB, 2 MiB steps, lowest first */
    .long 24
    .long 0x200000, 0x7fffffff, 0x200000, 1
    .align 8
    .short 0, 0
    .long 8
multiboot2_end:

    .section .boot.text, "ax"
    .code32
    .globl pvh_entry, multiboot2_entry
pvh_entry:
    xor eax, eax
multiboot2_entry:
    cli
    cld
    mov edi, eax
    /* Where are we? A call needs a stack: borrow the first word of the loader's information and put it back. */
    mov esi, [ebx]
    lea esp, [ebx + 4]
    call boot_anchor
    .globl boot_anchor
boot_anchor:
    pop ebp
    mov [ebx], esi
    lea eax, [off_anchor]
    sub ebp, eax
    lea esp, [ebp + off_stack_top]

    /* Long mode at all? (APM vol. 3, appendix D) */
    push ebx
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb 8f
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc 8f
    /* NX, if the CPU has it. */
    xor esi, esi
    bt edx, 20
    jnc 1f
    mov esi, 0x800
1:  pop ebx

    /* 0 .. 4 GiB, 2 MiB pages: present, writable, large. */
    lea ecx, [ebp + off_pd_low]
    mov eax, 0x83
    mov edx, 2048
2:  mov [ecx], eax
    mov dword ptr [ecx + 4], 0
    add eax, 0x200000
    add ecx, 8
    dec edx
    jnz 2b
    lea ecx, [ebp + off_pdpt_low]
    lea eax, [ebp + off_pd_low + 3]
    mov edx, 4
3:  mov [ecx], eax
    mov dword ptr [ecx + 4], 0
    add eax, 0x1000
    add ecx, 8
    dec edx
    jnz 3b
    /* The image, 128 MiB. */
    lea ecx, [ebp + off_pd_high]
    lea eax, [ebp + 0x83]
    mov edx, 64
4:  mov [ecx], eax
    mov dword ptr [ecx + 4], 0
    add eax, 0x200000
    add ecx, 8
    dec edx
    jnz 4b
    lea eax, [ebp + off_pd_high + 3]
    mov [ebp + off_pdpt_high + 510 * 8], eax
    lea ecx, [ebp + off_pml4]
    lea eax, [ebp + off_pdpt_low + 3]
    mov [ecx], eax
    mov [ecx + 256 * 8], eax
    lea eax, [ebp + off_pdpt_high + 3]
    mov [ecx + 511 * 8], eax

    /* PAE, PGE, OSFXSR, OSXMMEXCPT; LME, SCE, NXE; PG, WP, NE, MP, PE and neither EM nor TS. */
    mov eax, 0x6a0
    mov cr4, eax
    mov cr3, ecx
    push esi
    mov ecx, 0xc0000080
    rdmsr
    pop esi
    or eax, 0x101
    or eax, esi
    wrmsr
    mov eax, 0x80010023
    mov cr0, eax

    /* Into 64-bit code: still at the physical address, which is mapped. */
    lea eax, [ebp + off_gdt]
    mov [esp - 4], eax
    mov word ptr [esp - 6], 23
    lgdt [esp - 6]
    push 8
    lea eax, [ebp + off_long_mode]
    push eax
    retf

8:  mov dword ptr [0xb8000], 0x4f344f36
    mov word ptr [0xb8004], 0x4f3f
9:  hlt
    jmp 9b

    .code64
    .globl boot_long_mode
boot_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi                /* loader's EAX */
    mov esi, ebx                /* its information */
    mov edx, ebp                /* image base */
    movabs rsp, offset boot_stack_top
    xor ebp, ebp                /* end of the frame chain */
    push rbp
    push rbp
    mov rbp, rsp
    fninit
    push 0x1f80
    ldmxcsr [rsp]
    pop rax
    xor ebp, ebp
    movabs rax, offset kernel_entry
    call rax
    ud2

    .align 16
    .globl boot_gdt
boot_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff

    .section .boot.bss, "aw", @nobits
    .align 4096
    .globl boot_pml4, boot_pdpt_low, boot_pdpt_high, boot_pd_low, boot_pd_high, boot_stack_top, boot_stack_guard
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd_low:    .skip 4 * 4096
boot_pd_high:   .skip 4096
boot_stack_guard: .skip 4096
    .skip {stack}
boot_stack_top:
    .text
    "#,
    stack = const BOOT_STACK,
);

unsafe extern "C" {
    static __text_end: u8;
    static __rodata_end: u8;
    static __data_end: u8;
    static __ksyms: u8;
    static boot_stack_guard: u8;
}

/// The parts of the image, `physical` being where the loader put it.
#[must_use]
pub fn image_layout(physical: u64) -> ImageLayout {
    let offset = |symbol: *const u8| symbol as u64 - IMAGE_BASE;
    let symbols = &raw const __ksyms;
    // SAFETY: the linker script reserves 16 bytes at this symbol, and the first address space maps 128 MiB of the image.
    let header = unsafe { core::slice::from_raw_parts(symbols, 16) };
    let word = |at: usize| u64::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let symbol_bytes = if header.starts_with(b"ORSYMS01") { 16 + 8 * word(8) + word(12) } else { 16 };
    ImageLayout {
        physical,
        text_end: offset(&raw const __text_end),
        rodata_end: offset(&raw const __rodata_end),
        data_end: offset(&raw const __data_end),
        end: (offset(symbols) + symbol_bytes).next_multiple_of(4096),
        boot_stack_guard: offset(&raw const boot_stack_guard),
    }
}

/// Collects what the loader left; called by [`entry!`](crate::entry) with what the entry code passes.
///
/// # Errors
/// See [`BootError`].
///
/// # Safety
/// Only on the first address space, with the values of the entry code: physical addresses below 4 GiB are readable in the direct
/// map, and nobody writes there for as long as the parser runs.
pub unsafe fn collect(eax: u32, info: u64, physical: u64) -> Result<BootInfo, BootError> {
    let memory = |at: u64, len: usize| -> Option<&'static [u8]> {
        let end = at.checked_add(u64::try_from(len).ok()?)?;
        if end > 1 << 32 {
            return None;
        }
        // SAFETY: below 4 GiB, so inside the direct map (the caller's promise); bytes have no invalid values.
        Some(unsafe { core::slice::from_raw_parts((DIRECT_MAP + at) as *const u8, len) })
    };
    crate::parse(eax, info, image_layout(physical), &memory)
}

impl BootInfo {
    /// The bytes of the initrd, if there is one and it lies in RAM. [`BootInfo::usable`] leaves it out, so it stays as it is. The direct map
    /// must cover RAM.
    #[must_use]
    pub fn initrd_bytes(&self) -> Option<&'static [u8]> {
        let range = self.initrd?;
        let in_ram = self
            .regions()
            .iter()
            .any(|region| region.kind == crate::RegionKind::Usable && region.range.start <= range.start && range.end <= region.range.end);
        if !in_ram {
            return None;
        }
        let len = usize::try_from(range.len()).ok()?;
        // SAFETY: RAM (checked) in the direct map, that `usable` gives to nobody and the loader no longer touches.
        Some(unsafe { core::slice::from_raw_parts((DIRECT_MAP + range.start) as *const u8, len) })
    }
}

/// Defines the symbol that the entry code calls, and with it the kernel's first function:
/// `boot::entry!(main)` with `fn main(boot: Result<boot::BootInfo, boot::BootError>) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn kernel_entry(eax: u32, info: u64, physical: u64) -> ! {
            // SAFETY: called once, by the entry code, with its values.
            let boot = unsafe { $crate::collect(eax, info, physical) };
            $main(boot)
        }
    };
}
