//! The memory functions that the compiler calls, and the two symbols the prebuilt `core` and `alloc` refer to.
//!
//! In assembler: written in Rust, the compiler would turn each into a call to itself. No red zone problem: none uses the stack.
//! Long moves use REP MOVSQ (fast on hardware, one tick for eight bytes on our machine), short ones overlapping pairs of moves.

core::arch::global_asm!(
    r#"
    .text
    .globl memcpy, memmove, memset, memcmp, bcmp, strlen
    .type memcpy, @function
    .type memmove, @function
    .type memset, @function
    .type memcmp, @function
    .type bcmp, @function
    .type strlen, @function
    .p2align 4
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jb 20f                      /* target inside source: backwards */
memcpy:
    mov rax, rdi
    cmp rdx, 16
    jb 10f
    cmp rdx, 32
    ja 5f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
5:  cmp rdx, 128
    ja 7f
    /* 33 .. 128: the last 16 are loaded first, since memmove may overlap downwards. */
    movups xmm2, [rsi + rdx - 16]
    lea rcx, [rdi + rdx - 16]
6:  movups xmm0, [rsi]
    add rsi, 16
    movups [rdi], xmm0
    add rdi, 16
    cmp rdi, rcx
    jb 6b
    movups [rcx], xmm2
    ret
7:  mov r8, [rsi + rdx - 8]
    lea r9, [rdi + rdx - 8]
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    mov [r9], r8
    ret
10: cmp edx, 8
    jb 11f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
11: cmp edx, 4
    jb 12f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
12: test edx, edx
    jz 13f
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    cmp edx, 3
    jb 14f
    movzx r9d, byte ptr [rsi + 1]
    mov [rdi + 1], r9b
14: mov [rdi], cl
    mov [rdi + rdx - 1], r8b
13: ret

20: mov rax, rdi
    cmp rdx, 16
    jb 10b                      /* all loads come before the stores there */
    mov r8, [rsi]
    lea rsi, [rsi + rdx - 8]
    lea r9, [rdi + rdx - 8]
    mov rcx, rdx
    shr rcx, 3
    mov r10, rdi
    mov rdi, r9
    std
    rep movsq
    cld
    mov [r10], r8
    ret

    .p2align 4
memset:
    mov rax, rdi
    movzx esi, sil
    movabs rcx, 0x0101010101010101
    imul rsi, rcx
    cmp rdx, 16
    jb 30f
    movq xmm0, rsi
    punpcklqdq xmm0, xmm0
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm0
    cmp rdx, 32
    jbe 33f
    cmp rdx, 512
    jae 32f
    lea rcx, [rdi + rdx - 16]
    add rdi, 16
31: movups [rdi], xmm0
    add rdi, 16
    cmp rdi, rcx
    jb 31b
33: ret
32: xor r8d, r8d                /* 256 bytes a turn; the last turn may overlap */
    lea rcx, [rdi + rdx - 256]
35: movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    movups [rdi + 64], xmm0
    movups [rdi + 80], xmm0
    movups [rdi + 96], xmm0
    movups [rdi + 112], xmm0
    movups [rdi + 128], xmm0
    movups [rdi + 144], xmm0
    movups [rdi + 160], xmm0
    movups [rdi + 176], xmm0
    movups [rdi + 192], xmm0
    movups [rdi + 208], xmm0
    movups [rdi + 224], xmm0
    movups [rdi + 240], xmm0
    add rdi, 256
    cmp rdi, rcx
    jb 35b
    mov rdi, rcx                /* once more: the last 256 bytes */
    test r8d, r8d
    jnz 33b
    inc r8d
    jmp 35b
30: cmp edx, 8
    jb 34f
    mov [rdi], rsi
    mov [rdi + rdx - 8], rsi
    ret
34: test edx, edx
    jz 33b
    mov [rdi], sil
    mov [rdi + rdx - 1], sil
    cmp edx, 3
    jb 33b
    mov [rdi + 1], sil
    mov [rdi + rdx - 2], sil
    cmp edx, 5
    jb 33b
    mov [rdi + 2], sil
    mov [rdi + rdx - 3], sil
    mov [rdi + 3], sil
    ret

    .p2align 4
memcmp:
bcmp:
    xor ecx, ecx
40: lea r8, [rcx + 8]
    cmp r8, rdx
    ja 41f
    mov rax, [rdi + rcx]
    mov r9, [rsi + rcx]
    cmp rax, r9
    jne 42f
    mov rcx, r8
    jmp 40b
42: bswap rax                   /* the first byte in memory decides */
    bswap r9
    cmp rax, r9
    sbb eax, eax
    or eax, 1
    ret
41: cmp rcx, rdx
    jae 43f
    movzx eax, byte ptr [rdi + rcx]
    movzx r9d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r9d
    jz 41b
    ret
43: xor eax, eax
    ret

    .p2align 4
strlen:
    xor eax, eax
50: cmp byte ptr [rdi + rax], 0
    je 51f
    inc rax
    jmp 50b
51: ret

    /* Named by the prebuilt core and alloc, which unwind elsewhere; here a panic never returns. */
    .globl rust_eh_personality, _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
    ud2
    "#
);
