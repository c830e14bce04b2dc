//! A dialogue with the server, packet by packet, on a guest of a few instructions.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use iced_x86::code_asm::*;
use sim_board::{Board, Boot, Machine, Outcome, Until};
use sim_gdb::Ended;

const BASE: u64 = 0x10_0000;

/// A PVH ELF64 around flat 32-bit code.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0u8; 0x1000];
    image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    image[16..20].copy_from_slice(&[2, 0, 62, 0]);
    image[24..32].copy_from_slice(&BASE.to_le_bytes());
    image[32..40].copy_from_slice(&64u64.to_le_bytes());
    image[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
    for (index, kind, offset, address, size) in [(0, 1u32, 0x1000u64, BASE, code.len() as u64), (1, 4, 0x200, 0, 20)] {
        let at = 64 + 56 * index;
        image[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        for (field, value) in [offset, address, address, size, size, 16].into_iter().enumerate() {
            image[at + 8 + 8 * field..at + 16 + 8 * field].copy_from_slice(&value.to_le_bytes());
        }
    }
    image[0x200..0x214].copy_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0x10, 0]);
    image.extend_from_slice(code);
    image
}

/// Counts EBX up in memory at 0x5000, ten thousand times, then exits with 7. The loop's body is at BASE + 5.
fn counter() -> Machine {
    let mut a = CodeAssembler::new(32).expect("32 is a bitness");
    let write = |a: &mut CodeAssembler| -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        a.mov(ebx, 0)?;
        a.set_label(&mut again)?;
        a.inc(ebx)?;
        a.mov(dword_ptr(0x5000), ebx)?;
        a.cmp(ebx, 10_000)?;
        a.jne(again)?;
        a.mov(eax, 3)?;
        a.mov(edx, 0xf4)?;
        a.out(dx, eax)
    };
    write(&mut a).expect("well-formed");
    let code = a.assemble(BASE).expect("assembles");
    let board = Board { checkpoint_ticks: 5_000, ..Board::default() };
    Machine::new(&board, &Boot::new(&elf(&code), None, "")).expect("loads")
}

/// The other side of the protocol.
struct Client(TcpStream);

impl Client {
    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).expect("server listens");
    }
    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).expect("server answers");
        byte[0]
    }
    fn receive(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut packet = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                byte => packet.push(byte),
            }
        }
        self.byte();
        self.byte();
        self.0.write_all(b"+").expect("server listens");
        expand(&packet)
    }
    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }
    fn monitor(&mut self, command: &str) -> String {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(&format!("qRcmd,{hex}"));
        let mut text = String::new();
        loop {
            let answer = self.receive();
            match answer.strip_prefix('O') {
                Some(hex) if answer != "OK" => text.push_str(&String::from_utf8_lossy(&bytes(hex))),
                _ => return text,
            }
        }
    }
    /// RIP from the `g` packet.
    fn rip(&mut self) -> u64 {
        let regs = bytes(&self.ask("g"));
        u64::from_le_bytes(regs[128..136].try_into().expect("eight bytes"))
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap_or(0)).collect()
}

/// Undoes run-length encoding.
fn expand(packet: &[u8]) -> String {
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < packet.len() {
        if packet[at] == b'*' {
            let last = *out.last().expect("something to repeat");
            out.extend(std::iter::repeat_n(last, usize::from(packet[at + 1]) - 29));
            at += 2;
        } else {
            out.push(packet[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Runs `dialogue` against a server on `machine`.
fn session(mut machine: Machine, dialogue: impl FnOnce(&mut Client) + Send) -> (Machine, Ended) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("bound");
    let ended = std::thread::scope(|scope| {
        scope.spawn(move || {
            let stream = TcpStream::connect(address).expect("server listens");
            stream.set_nodelay(true).expect("a TCP option");
            dialogue(&mut Client(stream));
        });
        sim_gdb::serve(&mut machine, &listener).expect("the dialogue is well-formed")
    });
    (machine, ended)
}

#[test]
fn breakpoints_steps_and_watchpoints_leave_no_trace() {
    let mut plain = counter();
    assert_eq!(plain.run(&Until::default()), Outcome::DebugExit(7));

    let (mut machine, ended) = session(counter(), |gdb| {
        assert!(gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+").contains("qXfer:features:read+"));
        assert_eq!(gdb.rip(), BASE);
        assert!(gdb.ask("qXfer:features:read:target.xml:0,fff").contains("org.gnu.gdb.i386.core"));

        assert_eq!(gdb.ask(&format!("Z0,{:x},1", BASE + 5)), "OK");
        for round in 0..3u32 {
            assert!(gdb.ask("vCont;c").contains("swbreak"), "round {round}");
            assert_eq!(gdb.rip(), BASE + 5);
            let stored = if round == 0 { "00000000".to_owned() } else { format!("{round:02x}000000") };
            assert_eq!(gdb.ask("m5000,4"), stored);
        }
        assert_eq!(gdb.ask(&format!("z0,{:x},1", BASE + 5)), "OK");

        assert!(gdb.ask("vCont;s:p1.1").starts_with("T05"));
        assert_eq!(gdb.rip(), BASE + 6);

        assert_eq!(gdb.ask("Z2,5000,4"), "OK");
        assert!(gdb.ask("vCont;c").contains("watch:5000"));
        assert_eq!(gdb.ask("m5000,4"), "03000000");
        assert!(gdb.ask("vCont;c").contains("watch:5000"));
        assert_eq!(gdb.ask("m5000,4"), "04000000");
        assert_eq!(gdb.ask("z2,5000,4"), "OK");

        assert!(gdb.monitor("help").contains("receipt"));
        assert!(gdb.monitor("ticks").starts_with("tick "));
        assert!(gdb.monitor("devices").contains("lapic0"));
        assert!(gdb.monitor("no-such-thing").contains("no monitor command"));

        assert!(gdb.ask("vCont;c").starts_with("T0f"), "the end is shown first");
        assert_eq!(gdb.ask("m5000,4"), "10270000");
        assert!(gdb.ask("vCont;c").starts_with("W07"));
    });
    assert_eq!(ended, Ended::Exited(Outcome::DebugExit(7)));
    assert_eq!(machine.receipt(), plain.receipt());
}

#[test]
fn the_machine_goes_back_to_breakpoints_accesses_and_steps() {
    let mut plain = counter();
    plain.run(&Until::default());
    let (mut machine, _) = session(counter(), |gdb| {
        gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
        // To the end first: four snapshots lie on the way.
        assert!(gdb.ask("vCont;c").starts_with("T0f"));
        assert_eq!(gdb.ask("m5000,4"), "10270000");
        // Back over the last store, and the one before it.
        assert_eq!(gdb.ask("Z2,5000,4"), "OK");
        assert!(gdb.ask("bc").contains("watch:5000"));
        assert_eq!(gdb.ask("m5000,4"), "0f270000");
        assert!(gdb.ask("bc").contains("watch:5000"));
        assert_eq!(gdb.ask("m5000,4"), "0e270000");
        assert_eq!(gdb.ask("z2,5000,4"), "OK");
        // One tick back: from the store to the increment before it.
        assert_eq!(gdb.rip(), BASE + 6);
        assert!(gdb.ask("bs").starts_with("T05"));
        assert_eq!(gdb.rip(), BASE + 5);
        // Far back, through intervals without a stop.
        assert!(gdb.monitor("goto 3").contains("at tick 3"));
        assert_eq!(gdb.ask("m5000,4"), "01000000");
        assert!(gdb.monitor("goto 30000").contains("at tick 30000"));
        assert_eq!(gdb.ask(&format!("Z0,{BASE:x},1")), "OK");
        assert!(gdb.ask("bc").contains("swbreak"));
        assert_eq!(gdb.rip(), BASE);
        assert!(gdb.ask("bc").contains("replaylog:begin"));
        assert_eq!(gdb.ask(&format!("z0,{BASE:x},1")), "OK");
        // Who wrote last, from anywhere, without going there.
        assert!(gdb.monitor("goto 30000").contains("at tick 30000"));
        let said = gdb.monitor("last-write 0x5000 4");
        assert!(said.starts_with("written at tick 29998 by vcpu 0") && said.contains("#0   0x100006"), "{said}");
        assert!(gdb.monitor("ticks").starts_with("tick 30000 "));
        assert!(gdb.monitor("last-write 0x7000").starts_with("nothing was written"));
        // And forward again to the same end.
        assert!(gdb.ask("vCont;c").starts_with("T0f"));
        assert!(gdb.ask("vCont;c").starts_with("W07"));
    });
    assert_eq!(machine.receipt(), plain.receipt());
}

#[test]
fn unmapped_memory_is_an_error_and_writes_are_in_the_log() {
    let (machine, ended) = session(counter(), |gdb| {
        gdb.ask("qSupported:multiprocess+");
        assert!(gdb.ask("mfffff000,4").starts_with('E'));
        assert_eq!(gdb.ask("M6000,2:abcd"), "OK");
        assert_eq!(gdb.ask("m6000,2"), "abcd");
        assert_eq!(gdb.ask("D;1"), "OK");
    });
    assert_eq!(ended, Ended::Detached);
    assert!(machine.events().iter().any(|event| event.source == "debugger"));
}


/// Three processors that add to a word at 0x5000, the others in real mode at 0x8000.
fn three() -> Machine {
    let mut others = CodeAssembler::new(16).expect("16 is a bitness");
    let write = |a: &mut CodeAssembler| -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        a.xor(bx, bx)?;
        a.mov(ds, bx)?;
        a.set_label(&mut again)?;
        a.lock().inc(dword_ptr(0x5000))?;
        a.jmp(again)
    };
    write(&mut others).expect("well-formed");
    let bytes = others.assemble(0x8000).expect("assembles");
    let mut first = CodeAssembler::new(32).expect("32 is a bitness");
    let write = |a: &mut CodeAssembler| -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        for (index, byte) in bytes.iter().enumerate() {
            a.mov(byte_ptr(0x8000 + index as u32), i32::from(*byte))?;
        }
        a.mov(dword_ptr(0xfee0_00f0u32), 0x1ff)?;
        a.mov(dword_ptr(0xfee0_0300u32), 0xc_4500)?;
        a.mov(dword_ptr(0xfee0_0300u32), 0xc_4608)?;
        a.set_label(&mut again)?;
        a.lock().inc(dword_ptr(0x5000))?;
        a.jmp(again)
    };
    write(&mut first).expect("well-formed");
    let code = first.assemble(BASE).expect("assembles");
    let board = Board { vcpus: 3, quantum: [5, 60], checkpoint_ticks: 5_000, ..Board::default() };
    Machine::new(&board, &Boot::new(&elf(&code), None, "")).expect("loads")
}

#[test]
fn reverse_finds_the_writes_of_every_processor() {
    let mut plain = three();
    plain.run_until(20_000);
    let (mut machine, _) = session(three(), |gdb| {
        gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
        assert!(gdb.monitor("goto 20000").contains("at tick 20000"));
        let threads = gdb.ask("qfThreadInfo");
        for thread in ["p1.1", "p1.2", "p1.3"] {
            assert!(threads.contains(thread) || threads.contains(&thread.replace("p1.", "p01.0")), "one thread for each vCPU: {threads}");
        }
        assert_eq!(gdb.ask("Z2,5000,4"), "OK");
        let mut count = u32::MAX;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let stop = gdb.ask("bc");
            assert!(stop.contains("watch:5000"), "{stop}");
            let value = u32::from_str_radix(&gdb.ask("m5000,4"), 16).expect("hexadecimal").swap_bytes();
            assert!(value < count, "each stop is one write earlier");
            count = value;
            seen.extend(stop.split(';').find_map(|field| field.split("thread:").nth(1)).map(str::to_owned));
        }
        assert_eq!(seen.len(), 3, "all three wrote: {seen:?}");
        assert_eq!(gdb.ask("z2,5000,4"), "OK");
        assert!(gdb.monitor("goto-last-write 0x5000 4").starts_with("at tick "));
        let value = u32::from_str_radix(&gdb.ask("m5000,4"), 16).expect("hexadecimal").swap_bytes();
        assert_eq!(value, count - 1, "before the write before that of the last stop");
        assert!(gdb.monitor("goto-last-write 0x5000 0").starts_with("usage"));
        assert!(gdb.monitor("goto 20000").contains("at tick 20000"));
        assert_eq!(gdb.ask("D;1"), "OK");
    });
    assert_eq!(machine.receipt(), plain.receipt());
}

/// Where the parts of [`crossing`] lie.
mod at {
    use super::BASE;
    pub const TIMER: u64 = BASE + 0x400;
    pub const CALL: u64 = BASE + 0x440;
    pub const USER: u64 = BASE + 0x480;
    pub const GDT: u64 = BASE + 0x600;
    pub const POINTERS: u64 = BASE + 0x680;
    pub const IDT: u64 = BASE + 0x700;
    pub const TSS: u64 = BASE + 0xc00;
    /// Counted by user code of the first processor and by the second one; by the system call; by the timer's interrupt.
    pub const WORK: u32 = 0x5000;
    pub const CALLS: u32 = 0x5008;
    pub const TICKS: u32 = 0x5010;
}
const KERNEL_CODE: u32 = 0x08;
const KERNEL_DATA: u32 = 0x10;
const USER_CODE: u32 = 0x1b;
const USER_DATA: u32 = 0x23;

/// Two processors: the first runs a loop in ring 3 that makes a system call each round, with a periodic timer that interrupts it; the second counts in real mode.
fn crossing() -> Machine {
    let piece = |bitness: u32, base: u64, write: &dyn Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>| {
        let mut a = CodeAssembler::new(bitness).expect("a bitness");
        write(&mut a).expect("well-formed");
        a.assemble(base).expect("assembles")
    };
    let other = piece(16, 0x8000, &|a| {
        let mut again = a.create_label();
        a.xor(bx, bx)?;
        a.mov(ds, bx)?;
        a.set_label(&mut again)?;
        a.lock().inc(dword_ptr(at::WORK))?;
        a.jmp(again)
    });
    let start = piece(32, BASE, &|a| {
        let mut there = a.create_label();
        a.mov(esp, 0x7000)?;
        a.lgdt(fword_ptr(at::POINTERS as u32))?;
        a.lidt(fword_ptr(at::POINTERS as u32 + 8))?;
        // Far return: the new code segment.
        a.push(KERNEL_CODE as i32)?;
        a.call(there)?;
        a.set_label(&mut there)?;
        // The return address is that of this very instruction; go on behind the far return.
        a.add(dword_ptr(esp), 5)?;
        a.retf()?;
        a.mov(eax, KERNEL_DATA)?;
        a.mov(ss, eax)?;
        a.mov(eax, USER_DATA)?;
        a.mov(ds, eax)?;
        a.mov(es, eax)?;
        a.mov(eax, 0x28)?;
        a.ltr(ax)?;
        for (index, byte) in other.iter().enumerate() {
            a.mov(byte_ptr(0x8000 + index as u32), i32::from(*byte))?;
        }
        a.mov(dword_ptr(0xfee0_00f0u32), 0x1ff)?;
        a.mov(dword_ptr(0xfee0_0300u32), 0xc_4500)?;
        a.mov(dword_ptr(0xfee0_0300u32), 0xc_4608)?;
        // The timer: divided by 1, periodic, vector 0x20.
        a.mov(dword_ptr(0xfee0_03e0u32), 0xb)?;
        a.mov(dword_ptr(0xfee0_0320u32), 0x2_0020)?;
        a.mov(dword_ptr(0xfee0_0380u32), 700)?;
        for word in [USER_DATA, 0x6000, 0x202, USER_CODE, at::USER as u32] {
            a.push(word as i32)?;
        }
        a.iretd()
    });
    let timer = piece(32, at::TIMER, &|a| {
        a.inc(dword_ptr(at::TICKS))?;
        a.mov(dword_ptr(0xfee0_00b0u32), 0)?;
        a.iretd()
    });
    let call = piece(32, at::CALL, &|a| {
        a.inc(dword_ptr(at::CALLS))?;
        a.iretd()
    });
    let user = piece(32, at::USER, &|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.lock().inc(dword_ptr(at::WORK))?;
        a.int(0x80)?;
        a.jmp(again)
    });
    let gate = |handler: u64, kind: u64| handler & 0xffff | u64::from(KERNEL_CODE) << 16 | kind << 40 | (handler >> 16) << 48;
    let task = at::TSS;
    let segments = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x67 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24) << 56];
    let mut image = vec![0u8; 0x1000];
    let mut put = |address: u64, bytes: &[u8]| {
        let from = (address - BASE) as usize;
        image[from..from + bytes.len()].copy_from_slice(bytes);
    };
    assert!(start.len() < 0x400, "the parts do not overlap");
    for (address, bytes) in [(BASE, &start), (at::TIMER, &timer), (at::CALL, &call), (at::USER, &user)] {
        put(address, bytes);
    }
    for (index, segment) in (0u64..).zip(segments) {
        put(at::GDT + 8 * index, &u64::to_le_bytes(segment));
    }
    for (offset, limit, table) in [(0, 8 * 6 - 1, at::GDT), (8, 8 * 0x81 - 1, at::IDT)] {
        put(at::POINTERS + offset, &u16::to_le_bytes(limit));
        put(at::POINTERS + offset + 2, &(table as u32).to_le_bytes());
    }
    put(at::IDT + 8 * 0x20, &gate(at::TIMER, 0x8e).to_le_bytes());
    put(at::IDT + 8 * 0x80, &gate(at::CALL, 0xee).to_le_bytes());
    // The stack of ring 0.
    put(at::TSS + 4, &0x7000u32.to_le_bytes());
    put(at::TSS + 8, &KERNEL_DATA.to_le_bytes());
    let board = Board { vcpus: 2, quantum: [20, 200], checkpoint_ticks: 5_000, ..Board::default() };
    Machine::new(&board, &Boot::new(&elf(&image), None, "")).expect("loads")
}

/// What a processor is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Here {
    rip: u64,
    cs: u32,
}

impl Client {
    fn here(&mut self) -> Here {
        let regs = bytes(&self.ask("g"));
        Here { rip: u64::from_le_bytes(regs[128..136].try_into().expect("eight bytes")), cs: u32::from_le_bytes(regs[140..144].try_into().expect("four bytes")) }
    }
    fn word(&mut self, address: u32) -> u32 {
        u32::from_str_radix(&self.ask(&format!("m{address:x},4")), 16).expect("hexadecimal").swap_bytes()
    }
}

#[test]
fn reverse_crosses_interrupts_processors_and_the_border_to_user_mode() {
    const END: u64 = 23_456;
    // Forward: where the first processor stood at each of its ticks.
    let mut plain = crossing();
    let mut trail = Vec::new();
    while plain.ticks() < END {
        assert_eq!(plain.run_until(plain.ticks() + 1), Outcome::Deadline, "the guest lives");
        let state = plain.cpu_state(0).expect("there is one");
        let ticks = plain.vcpu_ticks(0) as usize;
        trail.resize(ticks + 1, Here { rip: state.rip, cs: u32::from(state.sys.seg[sim_cpu::CS].selector) });
    }
    let interrupts = trail.windows(2).filter(|pair| pair[1].rip == at::TIMER).count();
    assert!(interrupts > 5, "{interrupts} interrupts");
    let (mut machine, _) = session(crossing(), |gdb| {
        gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
        assert!(gdb.monitor(&format!("goto {END}")).contains(&format!("at tick {END}")));
        gdb.ask("Hgp1.1");
        // Step by step back, over system calls and interrupts: the same places as forward.
        let mut at = trail.len() - 1;
        assert_eq!(gdb.here(), trail[at]);
        let mut crossed = [0; 2];
        while crossed.contains(&0) || crossed[0] < 20 {
            gdb.ask("bs");
            at -= 1;
            assert_eq!(gdb.here(), trail[at], "tick {at} of the first processor");
            crossed[0] += usize::from(trail[at].cs == USER_CODE && trail[at + 1].rip == at::CALL);
            crossed[1] += usize::from(trail[at].cs == USER_CODE && trail[at + 1].rip == at::TIMER);
        }
        // Forward over the interrupt's delivery: out of user code into the handler.
        assert!(gdb.ask("vCont;s:p1.1").starts_with("T05"));
        assert_eq!(gdb.here(), Here { rip: at::TIMER, cs: KERNEL_CODE });
        // Continue back from interrupt to interrupt.
        assert_eq!(gdb.ask(&format!("Z2,{:x},4", at::TICKS)), "OK");
        let mut count = gdb.word(at::TICKS);
        for _ in 0..3 {
            let stop = gdb.ask("bc");
            assert!(stop.contains("watch:5010"), "{stop}");
            gdb.ask("Hgp1.1");
            assert_eq!(gdb.here(), Here { rip: at::TIMER, cs: KERNEL_CODE }, "before the handler's write");
            count -= 1;
            assert_eq!(gdb.word(at::TICKS), count);
            // The delivery lies before it, and user code before that.
            gdb.ask("bs");
            assert_eq!(gdb.here().cs, USER_CODE);
        }
        assert_eq!(gdb.ask(&format!("z2,{:x},4", at::TICKS)), "OK");
        // Back over writes of both processors.
        assert_eq!(gdb.ask(&format!("Z2,{:x},4", at::WORK)), "OK");
        let mut seen = std::collections::BTreeSet::new();
        let mut value = gdb.word(at::WORK);
        for _ in 0..60 {
            let stop = gdb.ask("bc");
            value -= 1;
            assert_eq!(gdb.word(at::WORK), value, "{stop}");
            seen.extend(stop.split(';').find_map(|field| field.split("thread:").nth(1)).map(str::to_owned));
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(gdb.ask(&format!("z2,{:x},4", at::WORK)), "OK");
        assert!(gdb.monitor(&format!("goto {END}")).contains(&format!("at tick {END}")));
        assert_eq!(gdb.ask("D;1"), "OK");
    });
    assert_eq!(machine.receipt(), plain.receipt());
}

#[test]
fn the_next_gdb_finds_the_machine_as_the_last_one_left_it() {
    let mut machine = counter();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("bound");
    let mut gone = 0;
    let ended = std::thread::scope(|scope| {
        scope.spawn(move || {
            let connect = || {
                let stream = TcpStream::connect(address).expect("server listens");
                stream.set_nodelay(true).expect("a TCP option");
                Client(stream)
            };
            let mut gdb = connect();
            gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
            assert!(gdb.monitor("goto 20000").contains("at tick 20000"));
            assert_eq!(gdb.ask(&format!("Z0,{:x},1", BASE + 5)), "OK");
            assert_eq!(gdb.ask("D;1"), "OK");
            // One that only knocks, and one that ends it.
            drop(connect());
            let mut gdb = connect();
            gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
            assert!(gdb.monitor("ticks").starts_with("tick 20000 "));
            assert!(gdb.monitor("goto -5000").contains("at tick 15000"), "the past is still there");
            assert!(gdb.monitor("goto +5").contains("at tick 15005"));
            assert!(gdb.monitor("goto 10x").starts_with("usage"));
            assert!(gdb.monitor("goto 14.2us").contains("at tick 14200, 14200 ns"), "a point in time can be named by its time");
            assert!(gdb.monitor("goto 1.5.2s").starts_with("usage") && gdb.monitor("goto 99999999999999999999s").starts_with("usage"));
            assert!(gdb.monitor("goto 15005").contains("at tick 15005"));
            assert!(gdb.ask("vCont;s:p1.63").starts_with('T'), "a thread that nobody has is the one that is shown");
            assert!(gdb.ask("vCont;c").starts_with("T0f"), "the breakpoints of the one before are not");
            gdb.send("vKill;1");
        });
        let session = sim_gdb::Session::new(&mut machine);
        sim_gdb::serve_session(session, &listener, |_, _| {
            gone += 1;
            true
        })
        .expect("the dialogues are well-formed")
    });
    assert_eq!((ended, gone), (Ended::Killed, 2));
}
