//! Terminal settings: flag bits, control characters and the layouts of `ioctl_tty(2)` on x86-64.

/// Input flags.
pub mod iflag {
    pub const ISTRIP: u32 = 0o40;
    pub const INLCR: u32 = 0o100;
    pub const IGNCR: u32 = 0o200;
    pub const ICRNL: u32 = 0o400;
    pub const IXON: u32 = 0o2000;
    pub const IXANY: u32 = 0o4000;
    pub const IMAXBEL: u32 = 0o20000;
    pub const IUTF8: u32 = 0o40000;
}

/// Output flags.
pub mod oflag {
    pub const OPOST: u32 = 0o1;
    pub const ONLCR: u32 = 0o4;
    pub const OCRNL: u32 = 0o10;
    pub const ONOCR: u32 = 0o20;
    pub const ONLRET: u32 = 0o40;
    /// Expand tabs to spaces.
    pub const XTABS: u32 = 0o14000;
}

/// Local flags.
pub mod lflag {
    pub const ISIG: u32 = 0o1;
    pub const ICANON: u32 = 0o2;
    pub const ECHO: u32 = 0o10;
    pub const ECHOE: u32 = 0o20;
    pub const ECHOK: u32 = 0o40;
    pub const ECHONL: u32 = 0o100;
    pub const NOFLSH: u32 = 0o200;
    pub const TOSTOP: u32 = 0o400;
    pub const ECHOCTL: u32 = 0o1000;
    pub const ECHOKE: u32 = 0o4000;
    pub const IEXTEN: u32 = 0o100_000;
}

/// Indices of control characters.
pub mod cc {
    pub const VINTR: usize = 0;
    pub const VQUIT: usize = 1;
    pub const VERASE: usize = 2;
    pub const VKILL: usize = 3;
    pub const VEOF: usize = 4;
    pub const VTIME: usize = 5;
    pub const VMIN: usize = 6;
    pub const VSTART: usize = 8;
    pub const VSTOP: usize = 9;
    pub const VSUSP: usize = 10;
    pub const VEOL: usize = 11;
    pub const VREPRINT: usize = 12;
    pub const VWERASE: usize = 14;
    pub const VLNEXT: usize = 15;
    pub const VEOL2: usize = 16;
}

/// Number of control characters.
pub const NCCS: usize = 19;
/// Bytes of `struct termios` as the kernel has it: four words, the line discipline, the control characters.
pub const TERMIOS_BYTES: usize = 36;
/// Bytes of `struct termios2`: the same and two speeds.
pub const TERMIOS2_BYTES: usize = 44;

/// B38400, 8 bits, receiver on.
const CFLAG_DEFAULT: u32 = 0o277;
const SPEED_DEFAULT: u32 = 38_400;

/// The settings of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
    pub ispeed: u32,
    pub ospeed: u32,
}

impl Default for Termios {
    /// What a fresh terminal has (`stty sane`).
    fn default() -> Self {
        let mut chars = [0; NCCS];
        for (index, value) in [
            (cc::VINTR, 0x03),
            (cc::VQUIT, 0x1c),
            (cc::VERASE, 0x7f),
            (cc::VKILL, 0x15),
            (cc::VEOF, 0x04),
            (cc::VMIN, 1),
            (cc::VSTART, 0x11),
            (cc::VSTOP, 0x13),
            (cc::VSUSP, 0x1a),
            (cc::VREPRINT, 0x12),
            (cc::VWERASE, 0x17),
            (cc::VLNEXT, 0x16),
        ] {
            chars[index] = value;
        }
        Self {
            iflag: iflag::ICRNL | iflag::IXON | iflag::IUTF8,
            oflag: oflag::OPOST | oflag::ONLCR,
            cflag: CFLAG_DEFAULT,
            lflag: lflag::ISIG
                | lflag::ICANON
                | lflag::ECHO
                | lflag::ECHOE
                | lflag::ECHOK
                | lflag::ECHOCTL
                | lflag::ECHOKE
                | lflag::IEXTEN,
            line: 0,
            cc: chars,
            ispeed: SPEED_DEFAULT,
            ospeed: SPEED_DEFAULT,
        }
    }
}

impl Termios {
    /// True if all bits of `flag` are set in the local flags.
    #[must_use]
    pub const fn local(&self, flag: u32) -> bool {
        self.lflag & flag == flag
    }
    /// True if all bits of `flag` are set in the input flags.
    #[must_use]
    pub const fn input(&self, flag: u32) -> bool {
        self.iflag & flag == flag
    }
    /// True if all bits of `flag` are set in the output flags.
    #[must_use]
    pub const fn output(&self, flag: u32) -> bool {
        self.oflag & flag == flag
    }
    /// True if `byte` is the control character `index`, which 0 disables.
    #[must_use]
    pub const fn is(&self, byte: u8, index: usize) -> bool {
        self.cc[index] != 0 && self.cc[index] == byte
    }
    /// As `struct termios2`; the first [`TERMIOS_BYTES`] are `struct termios`.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; TERMIOS2_BYTES] {
        let mut bytes = [0; TERMIOS2_BYTES];
        let words = [self.iflag, self.oflag, self.cflag, self.lflag];
        for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes[16] = self.line;
        bytes[17..36].copy_from_slice(&self.cc);
        bytes[36..40].copy_from_slice(&self.ispeed.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.ospeed.to_le_bytes());
        bytes
    }
    /// From `struct termios` or `struct termios2`; speeds stay those of `self` if they do not come along.
    #[must_use]
    pub fn with_bytes(&self, bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let mut value = [0; 4];
            value.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(value)
        };
        let mut chars = [0; NCCS];
        chars.copy_from_slice(&bytes[17..36]);
        let (ispeed, ospeed) =
            if bytes.len() >= TERMIOS2_BYTES { (word(36), word(40)) } else { (self.ispeed, self.ospeed) };
        Self { iflag: word(0), oflag: word(4), cflag: word(8), lflag: word(12), line: bytes[16], cc: chars, ispeed, ospeed }
    }
}

/// `struct winsize`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
    pub width_pixels: u16,
    pub height_pixels: u16,
}

impl WindowSize {
    /// As stored in user memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        let values = [self.rows, self.columns, self.width_pixels, self.height_pixels];
        for (slot, value) in bytes.chunks_exact_mut(2).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }
    /// From user memory.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        let [r0, r1, c0, c1, x0, x1, y0, y1] = bytes;
        Self {
            rows: u16::from_le_bytes([r0, r1]),
            columns: u16::from_le_bytes([c0, c1]),
            width_pixels: u16::from_le_bytes([x0, x1]),
            height_pixels: u16::from_le_bytes([y0, y1]),
        }
    }
}

/// Control requests (`ioctl_tty(2)`).
pub mod request {
    pub const TCGETS: u32 = 0x5401;
    pub const TCSETS: u32 = 0x5402;
    pub const TCSETSW: u32 = 0x5403;
    pub const TCSETSF: u32 = 0x5404;
    pub const TCSBRK: u32 = 0x5409;
    pub const TCXONC: u32 = 0x540a;
    pub const TCFLSH: u32 = 0x540b;
    pub const TIOCEXCL: u32 = 0x540c;
    pub const TIOCNXCL: u32 = 0x540d;
    pub const TIOCSCTTY: u32 = 0x540e;
    pub const TIOCGPGRP: u32 = 0x540f;
    pub const TIOCSPGRP: u32 = 0x5410;
    pub const TIOCOUTQ: u32 = 0x5411;
    pub const TIOCSTI: u32 = 0x5412;
    pub const TIOCGWINSZ: u32 = 0x5413;
    pub const TIOCSWINSZ: u32 = 0x5414;
    pub const TIOCMGET: u32 = 0x5415;
    pub const FIONREAD: u32 = 0x541b;
    pub const TIOCPKT: u32 = 0x5420;
    pub const TIOCNOTTY: u32 = 0x5422;
    pub const TIOCSETD: u32 = 0x5423;
    pub const TIOCGETD: u32 = 0x5424;
    pub const TCSBRKP: u32 = 0x5425;
    pub const TIOCGSID: u32 = 0x5429;
    pub const TCGETS2: u32 = 0x802c_542a;
    pub const TCSETS2: u32 = 0x402c_542b;
    pub const TCSETSW2: u32 = 0x402c_542c;
    pub const TCSETSF2: u32 = 0x402c_542d;
    pub const TIOCGPTN: u32 = 0x8004_5430;
    pub const TIOCSPTLCK: u32 = 0x4004_5431;
    pub const TIOCGPTLCK: u32 = 0x8004_5439;
}
