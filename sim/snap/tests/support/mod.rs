//! A guest of a few instructions for the tests.

use iced_x86::code_asm::*;
use sim_board::{Board, Boot, Machine};

pub const BASE: u64 = 0x10_0000;

/// A PVH ELF64 around flat 32-bit code.
pub fn elf(code: &[u8]) -> Vec<u8> {
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

/// Counts, stores, reads the seconds of the clock each 64 rounds into memory at 0x9000, echoes what is typed at the console.
/// The clock is read by the IN at `BASE + clock`.
pub fn busy() -> Vec<u8> {
    let mut a = CodeAssembler::new(32).expect("32 is a bitness");
    let write = |a: &mut CodeAssembler| -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        let mut skip = a.create_label();
        let mut quiet = a.create_label();
        a.mov(ebx, 0)?;
        a.mov(esi, 0x2_0000)?;
        a.set_label(&mut again)?;
        a.inc(ebx)?;
        a.mov(dword_ptr(esi), ebx)?;
        a.add(esi, 68)?;
        a.and(esi, 0x3_ffff)?;
        a.or(esi, 0x2_0000)?;
        a.test(ebx, 63)?;
        a.jne(skip)?;
        a.mov(al, 0)?;
        a.out(0x70, al)?;
        a.in_(al, 0x71)?;
        a.mov(byte_ptr(0x9000), al)?;
        a.set_label(&mut skip)?;
        a.mov(edx, 0x3fd)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.je(quiet)?;
        a.mov(edx, 0x3f8)?;
        a.in_(al, dx)?;
        a.out(dx, al)?;
        a.set_label(&mut quiet)?;
        a.jmp(again)
    };
    write(&mut a).expect("well-formed");
    a.assemble(BASE).expect("assembles")
}

pub fn board() -> Board {
    let mut board = Board { checkpoint_ticks: 5_000, ram: 8 << 20, ..Board::default() };
    board.disks = vec![sim_board::Disk { model: sim_board::DiskModel::VirtioBlk, size: 1 << 20, read_only: false }];
    board
}

pub fn machine(board: &Board) -> Machine {
    Machine::new(board, &Boot::new(&elf(&busy()), None, "test")).expect("loads")
}
