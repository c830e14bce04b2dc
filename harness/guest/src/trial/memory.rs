//! Things the processor must refuse: kernel addresses, privileged instructions, forged states.

use crate::child::{self, End};
use std::arch::asm;

/// Addresses no user program may touch: the kernel's halves as usual kernels lay them out, the edges, the hole in the middle, and the interrupt
/// controllers' physical addresses as if they were mapped.
const ADDRESSES: &[u64] = &[
    0x0000_7fff_ffff_f000,
    0x0000_8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_8000_0010_0000,
    0xffff_8880_0000_0000,
    0xffff_c900_0000_0000,
    0xffff_ff80_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_8020_0000,
    0xffff_ffff_ff60_1000,
    0xffff_ffff_ffff_f000,
    0x0000_0000_fee0_0000,
    0x0000_0000_0000_0000,
];

fn each_address(what: &str, act: fn(u64)) -> u8 {
    let mut survived = 0;
    for &address in ADDRESSES {
        let end = child::run(|| {
            act(address);
            0
        });
        if !matches!(end, End::Signal(libc::SIGSEGV | libc::SIGBUS)) {
            println!("{what}: NOT STOPPED: {address:#x}: {end:?}");
            survived += 1;
        }
    }
    println!("{what}: {} of {} stopped by a signal", ADDRESSES.len() - survived, ADDRESSES.len());
    u8::from(survived > 0)
}

pub fn jump(_: &[String]) -> u8 {
    each_address("kernel-jump", |address| {
        // SAFETY: none: this is meant to fault, in a child that ends with it.
        unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) };
    })
}

pub fn read(_: &[String]) -> u8 {
    each_address("kernel-read", |address| {
        // SAFETY: none: this is meant to fault, in a child that ends with it.
        unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _) };
    })
}

pub fn write(_: &[String]) -> u8 {
    each_address("kernel-write", |address| {
        // SAFETY: none: this is meant to fault, in a child that ends with it.
        unsafe { asm!("mov [{0}], {0}", in(reg) address) };
    })
}

/// A row of a table of instructions, each meant to fault.
macro_rules! forbidden {
    ($($name:literal: $($line:literal),+;)*) => {
        &[$(($name, || {
            // SAFETY: none: the instruction is meant to fault, in a child that ends with it.
            unsafe { asm!($($line),+, clobber_abi("C")) };
        })),*]
    };
}

pub fn privileged(_: &[String]) -> u8 {
    child::all_must_be_killed(
        "privileged",
        forbidden![
            "hlt": "hlt";
            "cli": "cli";
            "sti": "sti";
            "in": "in al, 0x60";
            "out": "out 0xf4, al";
            "mov cr0": "mov rax, cr0";
            "mov cr3": "mov cr3, rax";
            "mov cr8": "mov cr8, rax";
            "mov dr7": "mov dr7, rax";
            "rdmsr": "mov ecx, 0xc0000080", "rdmsr";
            "wrmsr": "mov ecx, 0xc0000080", "wrmsr";
            "lgdt": "sub rsp, 16", "lgdt [rsp]";
            "lidt": "sub rsp, 16", "lidt [rsp]";
            "lldt": "xor eax, eax", "lldt ax";
            "ltr": "xor eax, eax", "ltr ax";
            "invlpg": "invlpg [rsp]";
            "invd": "invd";
            "wbinvd": "wbinvd";
            "clts": "clts";
            "swapgs": "swapgs";
            "sysretq": "sysretq";
            "lmsw": "xor eax, eax", "lmsw ax";
            "xsetbv": "xor ecx, ecx", "xsetbv";
            "int of the double fault": "int 8";
            "int of the timer": "int 0x20";
            "int of a device": "int 0xf0";
            "undefined": "ud2";
            "load of a kernel segment": "mov eax, 0x10", "mov ss, ax";
            "far return to ring 0": "push 8", "lea rax, [rip]", "push rax", "retfq";
            "iretq to ring 0": "mov rcx, rsp", "push 0x10", "push rcx", "push 2", "push 8", "lea rax, [rip]", "push rax", "iretq";
            "instruction of 16 bytes": ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90";
            "division by zero": "xor ecx, ecx", "xor edx, edx", "div rcx";
        ],
    )
}

/// Faults, calls and breakpoints while the stack pointer lies in the kernel: the kernel must never use a user's stack pointer.
pub fn bad_stack(_: &[String]) -> u8 {
    child::all_must_be_killed(
        "bad-stack",
        &[
            ("fault", || {
                // SAFETY: none: meant to fault, in a child.
                unsafe { asm!("mov rsp, -4096", "ud2", options(noreturn)) }
            }),
            ("push", || {
                // SAFETY: none: meant to fault, in a child.
                unsafe { asm!("mov rsp, -2147483648", "push rax", "ud2", options(noreturn)) }
            }),
            ("breakpoint", || {
                // SAFETY: none: meant to fault, in a child.
                unsafe { asm!("mov rsp, -2147479552", "int3", options(noreturn)) }
            }),
            ("call and return", || {
                // SAFETY: none: a call with a stack pointer that is no address at all, then a fault, in a child.
                unsafe { asm!("mov rsp, 1", "ror rsp, 1", "mov eax, 39", "syscall", "pop rax", "ud2", options(noreturn)) }
            }),
            ("no stack at all", || {
                // SAFETY: none: meant to fault, in a child.
                unsafe { asm!("xor esp, esp", "push rax", "ud2", options(noreturn)) }
            }),
            ("endless recursion", || {
                // SAFETY: none: runs off the end of its stack, in a child.
                unsafe { asm!("2: call 2b", options(noreturn)) }
            }),
        ],
    )
}

/// rt_sigreturn takes a whole register set from user memory: it must not become a door. Frames: zeros, kernel instruction pointer, kernel code segment,
/// address in the hole. (`sigreturn(2)`.)
pub fn bad_return(_: &[String]) -> u8 {
    child::all_must_be_killed(
        "bad-return",
        &[
            ("frame of zeros", || {
                // SAFETY: none: meant to end the child.
                unsafe { asm!("sub rsp, 2048", "mov rdi, rsp", "xor eax, eax", "mov ecx, 256", "rep stosq", "mov eax, 15", "syscall", "ud2", options(noreturn)) }
            }),
            ("frame of ones", || {
                // SAFETY: none: meant to end the child.
                unsafe { asm!("sub rsp, 2048", "mov rdi, rsp", "mov rax, -1", "mov ecx, 256", "rep stosq", "mov eax, 15", "syscall", "ud2", options(noreturn)) }
            }),
            ("kernel addresses and segments everywhere", || {
                // SAFETY: none: meant to end the child.
                unsafe { asm!("sub rsp, 2048", "mov rdi, rsp", "mov rax, -2147483640", "mov ecx, 256", "rep stosq", "mov eax, 15", "syscall", "ud2", options(noreturn)) }
            }),
            ("addresses in the hole", || {
                // SAFETY: none: meant to end the child.
                unsafe { asm!("sub rsp, 2048", "mov rdi, rsp", "mov rax, 1", "ror rax, 1", "mov ecx, 256", "rep stosq", "mov eax, 15", "syscall", "ud2", options(noreturn)) }
            }),
            ("stack in the kernel", || {
                // SAFETY: none: meant to end the child.
                unsafe { asm!("mov rsp, -65536", "mov eax, 15", "syscall", "ud2", options(noreturn)) }
            }),
            ("system call on the last bytes of the user's half", || {
                // Returning from it would go to an address that is none: SYSRET faults there in ring 0 on some processors.
                // SAFETY: MAP_FIXED over the last page of the user's half, where nothing of this program lies (the stack ends below).
                let page = unsafe { libc::mmap(0x7fff_ffff_f000_u64 as *mut libc::c_void, 4096, 7, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED, -1, 0) };
                if page == libc::MAP_FAILED {
                    // The kernel keeps that page out of reach: the right answer.
                    // SAFETY: none: ends the child.
                    unsafe { asm!("ud2", options(noreturn)) }
                }
                // SAFETY: none: writes `syscall` as the last bytes of the page just mapped, and goes there.
                unsafe { asm!("mov word ptr [rax + 4094], 0x050f", "lea rcx, [rax + 4094]", "mov eax, 39", "jmp rcx", in("rax") page as u64, options(noreturn)) }
            }),
        ],
    )
}

/// Flags a user program may set itself and that must not follow it into the kernel.
pub fn bad_flags(_: &[String]) -> u8 {
    let acts: &[(&str, fn())] = &[
        ("direction flag", || {
            // SAFETY: a call that reads nothing, with DF set, and DF cleared again.
            unsafe { asm!("std", "mov eax, 39", "syscall", "cld", out("rax") _, out("rcx") _, out("r11") _) };
        }),
        ("nested task", || {
            // SAFETY: sets NT, makes a call, clears it again; the stack is balanced.
            unsafe {
                asm!("pushfq", "or dword ptr [rsp], 0x4000", "popfq", "mov eax, 39", "syscall", "pushfq", "and dword ptr [rsp], 0xffffbfff", "popfq", out("rax") _, out("rcx") _, out("r11") _);
            };
        }),
        ("alignment check", || {
            // SAFETY: sets AC, makes a call, clears it again; the stack stays aligned to 8.
            unsafe {
                asm!("pushfq", "or dword ptr [rsp], 0x40000", "popfq", "mov eax, 39", "syscall", "pushfq", "and dword ptr [rsp], 0xfffbffff", "popfq", out("rax") _, out("rcx") _, out("r11") _);
            };
        }),
    ];
    let mut bad = 0;
    for (name, act) in acts {
        let end = child::run(|| {
            act();
            0
        });
        if end != End::Exit(0) {
            println!("bad-flags: {name}: {end:?}");
            bad += 1;
        }
    }
    // The trap flag: a debug exception after the next instruction, also when that is `syscall`.
    let trapped = child::run(|| {
        // SAFETY: none: meant to end the child by SIGTRAP.
        unsafe { asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "mov eax, 39", "syscall", "nop", out("rax") _, out("rcx") _, out("r11") _) };
        0
    });
    if trapped != End::Signal(libc::SIGTRAP) {
        println!("bad-flags: trap flag: {trapped:?}");
        bad += 1;
    }
    println!("bad-flags: {} of {} as they should be", acts.len() + 1 - bad, acts.len() + 1);
    u8::from(bad > 0)
}
