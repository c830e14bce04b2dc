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
        assert!(gdb.monitor("goto 20000").contains("at tick 20000"));
        assert_eq!(gdb.ask("D;1"), "OK");
    });
    assert_eq!(machine.receipt(), plain.receipt());
}
