//! Damaged scenarios, for the campaign `scenario`: the reader must answer, whatever it is given.

/// Scenarios to damage: every construct of the language.
const SAMPLES: &[&str] = &[include_str!("samples/ours.toml"), include_str!("samples/foreign.toml")];
/// Pieces that change what the rest means.
const PIECES: &[&str] =
    &["[", "]", "[[", "]]", "{", "}", "\"", "'''", "=", "\n", ",", "\\u{0}", "#", ".", "-1", "9223372036854775808", "1e400", "true", "[[step]]\n", "[nic]\n", "\u{20ac}", "\u{0}", "<", "/(/"];

/// Numbers as `splitmix64` draws them.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }
    /// A place between two characters.
    fn place(&mut self, text: &str) -> usize {
        let mut at = self.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// Damages scenarios `cases` times and reads each. Says how many were still good.
#[must_use]
pub fn fuzz(seed: u64, cases: u64) -> String {
    let mut draw = Draw(seed);
    let mut good = 0_u64;
    for _ in 0..cases {
        let mut text = SAMPLES[draw.below(SAMPLES.len())].to_owned();
        for _ in 0..=draw.below(4) {
            let at = draw.place(&text);
            match draw.below(4) {
                0 => text.truncate(at),
                1 => text.insert_str(at, PIECES[draw.below(PIECES.len())]),
                2 => {
                    let end = (at + draw.below(12)).min(text.len());
                    let end = (at..=end).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(at);
                    text.replace_range(at..end, "");
                }
                _ => {
                    let from = draw.place(&text);
                    let line = text[from..].lines().next().unwrap_or_default().to_owned();
                    text.insert_str(at, &line);
                }
            }
        }
        match crate::parse(&text, "damaged.toml", "damaged") {
            Ok(_) => good += 1,
            // Saying what is wrong is a part of the answer.
            Err(errors) => assert!(!errors.to_string().is_empty(), "an error without words: {text}"),
        }
    }
    format!("{cases} damaged scenarios, {good} of them still good")
}
