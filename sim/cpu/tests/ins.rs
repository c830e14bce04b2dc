//! Instruction data: `*.ins` lines say what one instruction does.

mod support;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use sim_cpu::Stop;
use support::{CODE, Machine};

const NAMES: [&str; 16] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const FLAGS: [(char, u64); 6] = [('C', 1), ('P', 4), ('A', 16), ('Z', 64), ('S', 128), ('O', 2048)];
const ARITH: u64 = 0x8d5;

fn flags(letters: &str) -> u64 {
    letters.chars().map(|letter| FLAGS.iter().find(|(name, _)| *name == letter).unwrap_or_else(|| panic!("no flag {letter}")).1).sum()
}

enum Item {
    Register(usize, u64),
    Memory(u64, u64),
    Flags(u64),
}

fn items(text: &str) -> Vec<Item> {
    text.split_whitespace()
        .map(|word| {
            let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("`{word}` has no value"));
            let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("`{text}` is not a number"));
            if name == "f" {
                Item::Flags(flags(value))
            } else if let Some(address) = name.strip_prefix('[') {
                Item::Memory(number(address.trim_end_matches(']')), number(value))
            } else {
                Item::Register(NAMES.iter().position(|known| *known == name).unwrap_or_else(|| panic!("no register {name}")), number(value))
            }
        })
        .collect()
}

fn disassemble(bytes: &[u8]) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_memory_size_options(iced_x86::MemorySizeOptions::Never);
    options.set_signed_immediate_operands(true);
    options.set_small_hex_numbers_in_decimal(true);
    let mut text = String::new();
    formatter.format(&Decoder::with_ip(64, bytes, CODE, DecoderOptions::NONE).decode(), &mut text);
    text
}

fn check(line: &str) {
    let mut columns = line.split('|').map(str::trim);
    let (Some(bytes), Some(text), Some(effect)) = (columns.next(), columns.next(), columns.next()) else { panic!("`{line}` lacks a column") };
    let bytes: Vec<u8> = bytes.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("bytes are hexadecimal")).collect();
    assert_eq!(disassemble(&bytes), text);
    let (before, after) = effect.split_once("=>").unwrap_or_else(|| panic!("`{line}` has no =>"));
    let mut machine = Machine::long();
    machine.bytes(CODE, &bytes);
    let mut state = machine.cpu.state();
    for item in items(before) {
        match item {
            Item::Register(index, value) => state.gpr[index] = value,
            Item::Memory(address, value) => machine.memory.write_u64(address, 8, value).expect("in RAM"),
            Item::Flags(bits) => state.rflags = state.rflags & !ARITH | bits,
        }
    }
    machine.cpu.set_state(&state);
    assert_eq!(machine.run(1), Stop::Deadline);
    let mut expected = state.clone();
    expected.rip += bytes.len() as u64;
    expected.ticks += 1;
    for item in items(after) {
        match item {
            Item::Register(index, value) => expected.gpr[index] = value,
            Item::Memory(address, value) => assert_eq!(machine.memory.read_u64(address, 8), Ok(value), "{text}: memory at {address:#x}"),
            Item::Flags(bits) => expected.rflags = expected.rflags & !ARITH | bits,
        }
    }
    assert_eq!(expected.save().diff(&machine.cpu.state().save()), Vec::<String>::new(), "{text}: expected / found");
}

#[test]
fn integer_instructions_do_what_the_table_says() {
    let lines = include_str!("integer.ins").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let failures: Vec<String> = lines.filter_map(|line| std::panic::catch_unwind(|| check(line)).err().map(|_| line.to_owned())).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
