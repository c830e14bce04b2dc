//! Several vCPUs that all run: turns, chaos, cuts, snapshots.

use iced_x86::code_asm::*;

use crate::machine::elf;
use sim_board::{Board, Boot, Machine, Outcome, Port, Until};

const BASE: u64 = 0x10_0000;
/// Where the other processors begin, in real mode: page 8.
const TRAMPOLINE: u32 = 0x8000;

/// Real-mode code of the other processors: they add to a word they share (one atomically, one not), count their own rounds by their stack pointer's
/// place, and say PAUSE now and then.
fn others() -> Vec<u8> {
    let mut a = CodeAssembler::new(16).expect("16 is a bitness");
    let write = |a: &mut CodeAssembler| -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        let mut skip = a.create_label();
        a.xor(bx, bx)?;
        a.mov(ds, bx)?;
        a.set_label(&mut again)?;
        a.inc(bx)?;
        a.lock().inc(dword_ptr(0x5000))?;
        a.mov(eax, dword_ptr(0x5004))?;
        a.inc(eax)?;
        a.mov(dword_ptr(0x5004), eax)?;
        a.test(bx, 31)?;
        a.jne(skip)?;
        a.pause()?;
        a.set_label(&mut skip)?;
        a.jmp(again)
    };
    write(&mut a).expect("well-formed");
    a.assemble(u64::from(TRAMPOLINE)).expect("assembles")
}

/// The first processor: copies the code, sends INIT and SIPI to all others, and then does as they do.
fn guest() -> Vec<u8> {
    let code = others();
    let mut a = CodeAssembler::new(32).expect("32 is a bitness");
    let write = |a: &mut CodeAssembler| -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        let mut wait = a.create_label();
        for (index, byte) in code.iter().enumerate() {
            a.mov(byte_ptr(TRAMPOLINE + index as u32), i32::from(*byte))?;
        }
        a.mov(dword_ptr(0xfee0_00f0u32), 0x1ff)?;
        // INIT, then SIPI with vector 8, to all but itself (SDM vol. 3 §11.6.1).
        a.mov(dword_ptr(0xfee0_0300u32), 0xc_4500)?;
        a.mov(ecx, 1_000)?;
        a.set_label(&mut wait)?;
        a.dec(ecx)?;
        a.jne(wait)?;
        a.mov(dword_ptr(0xfee0_0300u32), 0xc_4608)?;
        a.set_label(&mut again)?;
        a.lock().inc(dword_ptr(0x5000))?;
        a.mov(eax, dword_ptr(0x5004))?;
        a.inc(eax)?;
        a.mov(dword_ptr(0x5004), eax)?;
        a.jmp(again)
    };
    write(&mut a).expect("well-formed");
    a.assemble(BASE).expect("assembles")
}

fn machine(vcpus: u32, chaos: bool, seed: u64) -> Machine {
    let board = Board { vcpus, chaos, seed, ram: 8 << 20, checkpoint_ticks: 10_007, ..Board::default() };
    Machine::new(&board, &Boot::new(&elf(&guest()), None, "")).expect("loads")
}

fn word(machine: &Machine, gpa: u64) -> u32 {
    let mut bytes = [0; 4];
    assert!(machine.read_physical(gpa, &mut bytes));
    u32::from_le_bytes(bytes)
}

const END: u64 = 90_001;

#[test]
fn all_processors_run_and_race() {
    let mut machine = machine(4, true, 1);
    // Long turns are long: all have had some of them by then.
    machine.run_until(20 * END);
    for vcpu in 0..4 {
        assert!(machine.vcpu_ticks(vcpu) > 500, "vcpu {vcpu} ran {} ticks", machine.vcpu_ticks(vcpu));
    }
    let (atomic, plain) = (word(&machine, 0x5000), word(&machine, 0x5004));
    assert!(plain + 10 < atomic, "additions that are not atomic get lost: {plain} of {atomic}");
}

#[test]
fn several_running_processors_do_not_show_how_a_run_is_cut() {
    for (vcpus, chaos) in [(2, false), (4, false), (4, true), (8, true)] {
        let mut whole = machine(vcpus, chaos, 7);
        whole.run_until(END);
        let expected = whole.receipt();
        for slice in [1, 13, 777] {
            let mut cut = machine(vcpus, chaos, 7);
            while cut.ticks() < END {
                let next = (cut.ticks() + slice).min(END);
                assert_eq!(cut.run_until(next), Outcome::Deadline);
                assert_eq!(cut.ticks(), next);
            }
            assert_eq!(cut.receipt(), expected, "{vcpus} vCPUs, chaos {chaos}, slices of {slice}");
        }
        // Stepping one processor lets the others go on as their turns say.
        let mut stepped = machine(vcpus, chaos, 7);
        stepped.run_until(50_000);
        for _ in 0..200 {
            stepped.step(1, u64::MAX);
        }
        // Waiting for its turn may have taken the run far.
        let mut whole = machine(vcpus, chaos, 7);
        whole.run_until(stepped.ticks());
        assert_eq!(stepped.receipt(), whole.receipt(), "{vcpus} vCPUs, chaos {chaos}, stepped");
    }
}

#[test]
fn the_seed_decides_and_chaos_is_another_order() {
    let receipt = |chaos, seed| {
        let mut machine = machine(3, chaos, seed);
        machine.run_until(END);
        (machine.receipt(), word(&machine, 0x5004))
    };
    assert_eq!(receipt(true, 5), receipt(true, 5));
    assert_ne!(receipt(true, 5).1, receipt(true, 6).1, "another seed, another interleaving");
    assert_ne!(receipt(true, 5).1, receipt(false, 5).1);
}

#[test]
fn snapshots_of_several_running_processors_go_back_and_fork() {
    for chaos in [false, true] {
        let mut machine = machine(4, chaos, 3);
        machine.keep_snapshots();
        let mut snapshots = Vec::new();
        while machine.ticks() < 60_000 {
            machine.run(&Until { checkpoint: true, ..Until::default() });
            snapshots.push(machine.snapshot().expect("at a checkpoint"));
        }
        machine.run_until(END);
        let expected = machine.receipt();
        for snapshot in snapshots.iter().rev() {
            machine.restore(snapshot).expect("of this machine");
            machine.run_until(END);
            assert_eq!(machine.receipt(), expected, "from tick {}", snapshot.ticks());
            let mut fork = Machine::fork(snapshot).expect("the same board");
            fork.run_until(END);
            assert_eq!(fork.receipt(), expected, "forked at tick {}", snapshot.ticks());
        }
    }
}

#[test]
fn another_future_prints_anew() {
    let mut machine = machine(1, false, 3);
    machine.keep_snapshots();
    let start = machine.snapshot().expect("before the first tick");
    machine.serial_put(Port::Com1, b"x");
    machine.run_until(1_000);
    machine.restore(&start).expect("of this machine");
    machine.forget_future();
    machine.run_until(1_000);
    assert_eq!(machine.inputs(), [], "the key belongs to the other future");
}

#[test]
fn turns_by_another_seed_and_extra_checkpoints_are_inputs_and_replay() {
    let mut first = machine(4, false, 3);
    first.run_until(20_000);
    first.set_turns(true, 99);
    first.run_until(33_333);
    first.take_checkpoint();
    first.serial_put(Port::Com1, b"x");
    first.run_until(END);
    let mut again = machine(4, false, 3);
    again.replay(first.inputs().to_vec());
    again.run_until(END);
    assert_eq!(again.receipt(), first.receipt());
    let mut other = machine(4, false, 3);
    other.run_until(END);
    assert_ne!(other.receipt(), first.receipt());
}
