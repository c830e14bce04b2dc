/* The headers of Multiboot 1 (0.6.96 §3.1) and 2 (2.0 §3.1), and the way into C. */
        .section .multiboot, "a"
#ifdef MULTIBOOT2
        .align 8
header:
        .long 0xe85250d6, 0, header_end - header, -(0xe85250d6 + (header_end - header))
        /* Information request: memory map, command line. Optional. */
        .align 8
        .short 1, 1
        .long 16, 6, 1
        /* Modules on pages. */
        .align 8
        .short 6, 0
        .long 8
        .align 8
        .short 0, 0
        .long 8
header_end:
#else
        .align 4
#ifdef ADDRESSES
#define FLAGS 0x10003
#else
#define FLAGS 3
#endif
header:
        .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
#ifdef ADDRESSES
        .long header, image_start, data_end, bss_end, start
#endif
#endif
        .section .text.start, "ax"
        .code32
        .globl start
start:  movl $stack_top, %esp
        pushl $0
        popfl
        pushl %ebx
        pushl %eax
        call kernel
1:      hlt
        jmp 1b
        .section .bss
        .align 16
        .skip 16384
stack_top:
        .section .note.GNU-stack, "", @progbits
