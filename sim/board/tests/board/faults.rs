use iced_x86::code_asm::*;
use sim_bus::DiskBackend;

use crate::machine::{assemble, boot, elf, exit, interrupts, lapic, outb, with_handler};
use sim_board::{Board, Boot, Machine, Outcome, Until};

fn board(faults: &str) -> Board {
    let board = Board::from_toml(faults).expect("a sound board");
    assert!(!board.faults.is_empty());
    board
}

/// Runs whole and cut into odd slices: outcome and receipt must be the same. Returns the machine.
fn run(board: &Board, code: &[u8]) -> (Machine, Outcome) {
    let mut whole = boot(board, code);
    let outcome = whole.run(&Until::ticks(5_000_000));
    let mut cut = boot(board, code);
    let mut slices = [1u64, 777, 13, 9_999].into_iter().cycle();
    let mut end = Outcome::Deadline;
    while end == Outcome::Deadline && cut.ticks() < 5_000_000 {
        let until = (cut.ticks() + slices.next().expect("endless")).min(5_000_000);
        end = cut.run_until(until);
    }
    assert_eq!(end, outcome);
    assert_eq!((cut.receipt(), cut.ticks(), cut.now_ns()), (whole.receipt(), whole.ticks(), whole.now_ns()));
    (whole, outcome)
}

fn spin(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    let mut here = a.create_label();
    a.set_label(&mut here)?;
    a.jmp(here)
}

#[test]
fn the_power_goes_at_the_tick_the_time_or_the_marker() {
    let endless = assemble(spin);
    let (machine, outcome) = run(&board("[[fault]]\nkind='power-cut'\ntick=12345"), &endless);
    assert_eq!((outcome, machine.ticks()), (Outcome::PowerCut, 12_345));
    let (machine, outcome) = run(&board("[[fault]]\nkind='power-cut'\nat='20us'"), &endless);
    assert_eq!((outcome, machine.now_ns()), (Outcome::PowerCut, 20_000));
    let prints = assemble(|a| {
        for letter in b"ready to go" {
            outb(a, 0x3f8, u32::from(*letter))?;
        }
        spin(a)
    });
    let (machine, outcome) = run(&board("[[fault]]\nname='cut'\nkind='power-cut'\nmarker='ready'"), &prints);
    assert_eq!((outcome, machine.ticks()), (Outcome::PowerCut, 15), "right after the last letter");
    assert!(machine.events().iter().any(|event| event.source == "fault" && event.detail == "cut: power cut"));
}

#[test]
fn interrupts_come_from_nowhere_and_get_lost() {
    let nmi = with_handler(
        |a| {
            interrupts(a, 2)?;
            spin(a)
        },
        |a| {
            a.mov(eax, 2)?;
            exit(a)
        },
    );
    assert_eq!(run(&board("[[fault]]\nkind='nmi'\nat='10us'"), &nmi).1, Outcome::DebugExit(5));
    let vector = with_handler(
        |a| {
            interrupts(a, 0x40)?;
            lapic(a, 0xf0, 0x1ff)?;
            a.sti()?;
            spin(a)
        },
        |a| {
            a.mov(eax, 0x40)?;
            exit(a)
        },
    );
    let spurious = "[[fault]]\nkind='spurious-interrupt'\nvector=0x40\nat='10us'\n[[fault]]\nkind='spurious-interrupt'\nvector=0x40\nat='30us'\n";
    let (machine, outcome) = run(&board(spurious), &vector);
    assert_eq!((outcome, machine.now_ns() / 10_000), (Outcome::DebugExit(0x81), 1));
    let (machine, outcome) = run(&board(&format!("{spurious}[[fault]]\nkind='lost-interrupt'\nvector=0x40")), &vector);
    assert_eq!((outcome, machine.now_ns() / 10_000), (Outcome::DebugExit(0x81), 3), "the first was lost");
}

#[test]
fn a_machine_check_fills_its_bank_and_is_raised() {
    // The handler ends with the low half of MC3_STATUS's error code.
    let guest = |mce: bool| {
        with_handler(
            move |a| {
                interrupts(a, 18)?;
                if mce {
                    a.mov(eax, 0x40)?;
                    a.mov(cr4, eax)?;
                }
                spin(a)
            },
            |a| {
                a.mov(ecx, 0x40d)?;
                a.rdmsr()?;
                a.and(eax, 0xffff)?;
                exit(a)
            },
        )
    };
    let fault = "[[fault]]\nkind='machine-check'\nbank=3\ncode=0x136\naddress=0x5000\nat='10us'\nuncorrected=true";
    assert_eq!(run(&board(fault), &guest(true)).1, Outcome::DebugExit(0x136 << 1 | 1));
    assert_eq!(run(&board(fault), &guest(false)).1, Outcome::TripleFault { vcpu: 0 }, "with CR4.MCE off the processor shuts down");
    // A corrected one waits to be found.
    let poll = assemble(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(ecx, 0x40d)?;
        a.rdmsr()?;
        a.test(edx, edx)?;
        a.je(again)?;
        a.shr(edx, 24)?;
        a.mov(eax, edx)?;
        exit(a)
    });
    let corrected = fault.replace("uncorrected=true", "");
    // Valid, enabled, address valid.
    assert_eq!(run(&board(&corrected), &poll).1, Outcome::DebugExit(0x94 << 1 | 1));
}

#[test]
fn a_bit_flips_and_a_processor_stalls() {
    let wait = assemble(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(eax, dword_ptr(0x5000))?;
        a.test(eax, eax)?;
        a.je(again)?;
        exit(a)
    });
    assert_eq!(run(&board("[[fault]]\nkind='bit-flip'\naddress=0x5001\nbit=3\nat='10us'"), &wait).1, Outcome::DebugExit(0x800 << 1 | 1));
    let (machine, outcome) = run(&board("[[fault]]\nkind='stall'\nduration='1ms'\ntick=100"), &assemble(spin));
    assert_eq!((outcome, machine.now_ns() - machine.ticks()), (Outcome::Deadline, 1_000_000), "time passed without ticks");
    // Somewhere in RAM, by the fault's own stream.
    let (machine, _) = run(&board("[[fault]]\nkind='bit-flip'\nat='10us'"), &assemble(spin));
    assert!(machine.events().iter().any(|event| event.detail.ends_with("flipped")));
}

#[test]
fn a_fork_takes_another_plan() {
    let code = assemble(spin);
    let mut machine = boot(&Board::default(), &code);
    machine.run_until(1000);
    machine.set_faults(&board("[[fault]]\nkind='power-cut'\ntick=5000").faults);
    assert_eq!((machine.run_until(100_000), machine.ticks()), (Outcome::PowerCut, 5000));
}

#[test]
fn disks_keep_a_journal_if_the_board_says_so() {
    let board = Board::from_toml("disk_journal='data'\n[[disk]]\nmodel='virtio-blk'\nsize='64K'").expect("a sound board");
    let mut machine = Machine::new(&board, &Boot::new(&elf(&assemble(spin)), None, "")).expect("builds");
    let disk = machine.fault_disk_mut(0).expect("wrapped");
    disk.write(3, &[7; 512]).expect("in range");
    assert_eq!((disk.journal().len(), disk.journal().writes()), (1, 1));
    assert!(disk.base().is_some());
}
