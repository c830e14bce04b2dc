//! The line discipline by tables: keys in, screen and reads out.

use vfs::tty::job::TtySignal;
use vfs::tty::ldisc::{Effects, LINE_MAX, LineDiscipline};
use vfs::tty::termios::{Termios, cc, iflag, lflag, oflag};

/// Types `keys`; returns the screen, the signals, and all that readers get (each read in brackets).
fn run(termios: Termios, keys: &[u8]) -> (String, Vec<TtySignal>, String) {
    let mut ldisc = LineDiscipline::new(termios);
    let mut effects = Effects::default();
    for key in keys {
        ldisc.input(*key, &mut effects);
    }
    let mut reads = String::new();
    let mut buffer = [0; 64];
    while ldisc.is_readable(1) {
        let count = ldisc.read(&mut buffer).expect("it said readable");
        reads += &format!("[{}]", buffer[..count].escape_ascii());
    }
    (effects.echo.escape_ascii().to_string(), effects.signals, reads)
}

#[test]
fn canonical_keys_give_the_expected_screen_and_lines() {
    for (what, keys, screen, reads) in [
        ("a line", &b"ls\r"[..], r"ls\r\n", r"[ls\n]"),
        ("two lines", b"a\rb\r", r"a\r\nb\r\n", r"[a\n][b\n]"),
        ("unfinished", b"abc", "abc", ""),
        ("erase", b"ab\x7fc\r", r"ab\x08 \x08c\r\n", r"[ac\n]"),
        ("erase nothing", b"\x7f\x7fa\r", r"a\r\n", r"[a\n]"),
        ("kill", b"abc\x15d\r", r"abc\x08 \x08\x08 \x08\x08 \x08d\r\n", r"[d\n]"),
        ("word", b"ab cd\x17e\r", r"ab cd\x08 \x08\x08 \x08e\r\n", r"[ab e\n]"),
        ("word and blanks", b"ab  \x17\r", r"ab  \x08 \x08\x08 \x08\x08 \x08\x08 \x08\r\n", r"[\n]"),
        ("eof at start", b"\x04", "", "[]"),
        ("eof in a line", b"ab\x04cd\r", r"abcd\r\n", r"[ab][cd\n]"),
        ("control", b"a\x01\x7fb\r", r"a^A\x08 \x08\x08 \x08b\r\n", r"[ab\n]"),
        ("tab", b"a\t\x7fb\r", r"a\t\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08b\r\n", r"[ab\n]"),
        ("literal", b"a\x16\x03\r", r"a^\x08^C\r\n", r"[a\x03\n]"),
        ("literal erased", b"\x16\x03\x7f\r", r"^\x08^C\x08 \x08\x08 \x08\r\n", r"[\n]"),
        ("reprint", b"ab\x12c\r", r"ab^R\r\nabc\r\n", r"[abc\n]"),
        ("utf-8 erased whole", b"\xc3\xa9\x7fx\r", r"\xc3\xa9\x08 \x08x\r\n", r"[x\n]"),
        ("newline key", b"a\n", r"a\r\n", r"[a\n]"),
    ] {
        let got = run(Termios::default(), keys);
        assert_eq!((got.0.as_str(), got.2.as_str()), (screen, reads), "{what}");
    }
}

#[test]
fn signal_keys_signal_and_flush() {
    for (key, signal, screen) in
        [(3, TtySignal::Interrupt, "abc^C"), (0x1c, TtySignal::Quit, r"abc^\\"), (0x1a, TtySignal::Stop, "abc^Z")]
    {
        let mut keys = b"abc".to_vec();
        keys.push(key);
        assert_eq!(run(Termios::default(), &keys), (screen.into(), vec![signal], String::new()));
    }
    let mut termios = Termios::default();
    termios.lflag |= lflag::NOFLSH;
    assert_eq!(run(termios, b"ab\x03c\r").2, r"[abc\n]");
    termios.lflag &= !lflag::ISIG;
    assert_eq!(run(termios, b"ab\x03c\r").2, r"[ab\x03c\n]");
}

#[test]
fn raw_mode_passes_everything() {
    let mut termios = Termios::default();
    termios.lflag &= !(lflag::ICANON | lflag::ECHO | lflag::ISIG | lflag::IEXTEN);
    termios.iflag &= !(iflag::ICRNL | iflag::IXON);
    let (screen, signals, reads) = run(termios, b"a\x03\r\x7f\x04\x13\x16");
    assert_eq!((screen.as_str(), signals.len(), reads.as_str()), ("", 0, r"[a\x03\r\x7f\x04\x13\x16]"));
}

#[test]
fn flags_of_input_and_echo_do_what_they_say() {
    let base = Termios::default();
    let with = |change: fn(&mut Termios)| {
        let mut termios = base;
        change(&mut termios);
        termios
    };
    for (what, termios, keys, screen, reads) in [
        ("no echo", with(|t| t.lflag &= !lflag::ECHO), &b"pw\r"[..], "", r"[pw\n]"),
        ("echonl", with(|t| t.lflag = (t.lflag & !lflag::ECHO) | lflag::ECHONL), b"pw\r", r"\r\n", r"[pw\n]"),
        ("igncr", with(|t| t.iflag |= iflag::IGNCR), b"a\rb\n", r"ab\r\n", r"[ab\n]"),
        ("inlcr", with(|t| t.iflag = iflag::INLCR), b"a\n", r"a^M", ""),
        ("istrip", with(|t| t.iflag |= iflag::ISTRIP), b"\xe1\r", r"a\r\n", r"[a\n]"),
        ("eol character", with(|t| t.cc[cc::VEOL] = b';'), b"a;b\r", r"a;b\r\n", r"[a;][b\n]"),
        ("no echoctl", with(|t| t.lflag &= !lflag::ECHOCTL), b"\x01\r", r"\x01\r\n", r"[\x01\n]"),
        ("no echoe", with(|t| t.lflag &= !lflag::ECHOE), b"a\x7f\r", r"a^?\r\n", r"[\n]"),
        ("no echoke", with(|t| t.lflag &= !lflag::ECHOKE), b"ab\x15c\r", r"ab^U\r\nc\r\n", r"[c\n]"),
        ("no opost", with(|t| t.oflag = 0), b"a\r", r"a\n", r"[a\n]"),
    ] {
        let got = run(termios, keys);
        assert_eq!((got.0.as_str(), got.2.as_str()), (screen, reads), "{what}");
    }
}

#[test]
fn output_processing_follows_its_flags() {
    for (flags, data, line) in [
        (oflag::OPOST | oflag::ONLCR, &b"a\nb"[..], r"a\r\nb"),
        (oflag::OPOST, b"a\nb", r"a\nb"),
        (0, b"a\n\tb", r"a\n\tb"),
        (oflag::OPOST | oflag::OCRNL, b"a\rb", r"a\nb"),
        (oflag::OPOST | oflag::ONOCR, b"\ra\r\r", r"a\r"),
        (oflag::OPOST | oflag::XTABS, b"ab\tc\td", r"ab      c       d"),
    ] {
        let mut ldisc = LineDiscipline::new(Termios { oflag: flags, ..Termios::default() });
        let mut out = Vec::new();
        ldisc.output(data, &mut out);
        assert_eq!(out.escape_ascii().to_string(), line, "{flags:o}");
    }
}

#[test]
fn stop_and_start_keys_hold_output_and_are_not_input() {
    let mut ldisc = LineDiscipline::default();
    let mut effects = Effects::default();
    ldisc.input(0x13, &mut effects);
    assert!(ldisc.is_stopped() && effects.flow_changed);
    ldisc.input(b'x', &mut effects);
    assert!(ldisc.is_stopped());
    ldisc.input(0x11, &mut effects);
    assert!(!ldisc.is_stopped());
    ldisc.input(b'\r', &mut effects);
    let mut buffer = [0; 8];
    assert_eq!(ldisc.read(&mut buffer), Some(2));
    ldisc.input(0x13, &mut effects);
    ldisc.input(0x03, &mut effects);
    assert!(!ldisc.is_stopped(), "a signal key starts output again");
}

#[test]
fn reads_take_at_most_one_line_and_keep_the_rest() {
    let mut ldisc = LineDiscipline::default();
    let mut effects = Effects::default();
    b"abcdef\rgh\r".iter().for_each(|key| ldisc.input(*key, &mut effects));
    let mut buffer = [0; 4];
    let mut got = Vec::new();
    while let Some(count) = ldisc.read(&mut buffer) {
        got.push(buffer[..count].to_vec());
    }
    assert_eq!(got, [&b"abcd"[..], b"ef\n", b"gh\n"]);
}

#[test]
fn switching_modes_loses_nothing() {
    let mut ldisc = LineDiscipline::default();
    let mut effects = Effects::default();
    b"one\rtw".iter().for_each(|key| ldisc.input(*key, &mut effects));
    let mut raw = *ldisc.termios();
    raw.lflag &= !lflag::ICANON;
    ldisc.set_termios(raw);
    let mut buffer = [0; 2];
    assert_eq!(ldisc.read(&mut buffer), Some(2));
    ldisc.set_termios(Termios::default());
    let mut buffer = [0; 16];
    let count = ldisc.read(&mut buffer).expect("what waited is a line now");
    assert_eq!(&buffer[..count], b"e\ntw");
    assert!(!ldisc.is_readable(1));
}

#[test]
fn full_line_still_ends() {
    let mut ldisc = LineDiscipline::default();
    let mut effects = Effects::default();
    for _ in 0..LINE_MAX * 2 {
        ldisc.input(b'x', &mut effects);
    }
    assert!(ldisc.room() >= 1);
    ldisc.input(b'\r', &mut effects);
    let mut buffer = vec![0; LINE_MAX * 2];
    assert_eq!(ldisc.read(&mut buffer), Some(LINE_MAX));
    assert_eq!(buffer[LINE_MAX - 1], b'\n');
    assert!(effects.echo.len() < LINE_MAX + 16, "what is dropped is not echoed");
}

#[test]
fn no_sequence_of_keys_and_settings_breaks_it() {
    // A small generator of our own: the point is breadth, and a failure prints its seed.
    for seed in 1..400_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut ldisc = LineDiscipline::default();
        let mut effects = Effects::default();
        let mut buffer = [0; 37];
        for _ in 0..300 {
            match next() % 40 {
                0 => {
                    let mut termios = Termios::default();
                    termios.lflag ^= (next() as u32) & 0xffff;
                    termios.iflag ^= (next() as u32) & 0x7fff;
                    termios.oflag ^= (next() as u32) & 0x1fff;
                    ldisc.set_termios(termios);
                }
                1 => ldisc.flush_input(),
                2..=4 => {
                    let count = ldisc.read(&mut buffer).unwrap_or(0);
                    assert!(count <= buffer.len(), "seed {seed}");
                }
                5..=8 => ldisc.input((next() % 32) as u8, &mut effects),
                _ => ldisc.input(next() as u8, &mut effects),
            }
            assert!(ldisc.available() <= LINE_MAX, "seed {seed}");
            effects.echo.clear();
        }
    }
}
