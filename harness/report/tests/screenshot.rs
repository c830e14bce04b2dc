//! The page as a browser shows it. Needs `chromium` or `chromium-headless-shell` (Debian packages of those names); without it the test says so and does nothing.

mod common;

use std::path::Path;
use std::process::Command;

/// How many pixels of a picture have a colour, each channel within a few steps.
fn count(pixels: &[u8], channels: usize, color: [u8; 3]) -> usize {
    pixels.chunks_exact(channels).filter(|pixel| pixel.iter().zip(color).all(|(have, want)| have.abs_diff(want) <= 6)).count()
}

#[test]
fn a_browser_shows_verdict_timeline_heat_and_flames() {
    let Some(browser) = ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"].into_iter().find(|name| Command::new(name).arg("--version").output().is_ok()) else {
        eprintln!("SKIPPED: no chromium here, so nobody has looked at the report page (apt-get install chromium)");
        return;
    };
    let folder = std::env::temp_dir().join(format!("orrery-screenshot-{}", std::process::id()));
    for (holds, verdict, other) in [(true, [0x2a, 0x9d, 0x5c], [0xc8, 0x32, 0x3c]), (false, [0xc8, 0x32, 0x3c], [0, 0, 0xff])] {
        report::write(&folder, &common::evidence(holds), &common::symbols()).expect("a folder for temporary files");
        let picture = folder.join("page.png");
        shoot(browser, &folder, &picture);
        let (width, height, channels, pixels) = decode(&std::fs::read(&picture).expect("the browser wrote it"));
        assert_eq!((width, height), (1280, 2400));
        let seen = |color| count(&pixels, channels, color);
        assert!(seen(verdict) > 400, "the verdict's colour: {}", seen(verdict));
        assert!(holds || seen(other) == 0, "no other");
        for (what, color) in [("header", [0x1c, 0x24, 0x30]), ("kernel lane", [0xe0, 0x78, 0x28]), ("user lane", [0x5a, 0xaa, 0x5a]), ("steps", [0x43, 0x61, 0xee]), ("programs", [0x2a, 0x9d, 0x8f]), ("interrupts", [0x72, 0x09, 0xb7]), ("frames sent", [0x00, 0x96, 0xc7])] {
            assert!(seen(color) > 100, "{what}: {} pixels", seen(color));
        }
    }
    std::fs::remove_dir_all(&folder).expect("ours");
}

/// Width, height, bytes a pixel, and the pixels of a PNG of 8-bit colour without interlacing (PNG 1.2 §4, §6).
fn decode(file: &[u8]) -> (u32, u32, usize, Vec<u8>) {
    let word = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
    let (width, height, channels) = (word(16), word(20), if file[25] == 6 { 4 } else { 3 });
    assert!(file[24] == 8 && matches!(file[25], 2 | 6) && file[28] == 0, "8-bit colour");
    let (mut at, mut packed) = (8, Vec::new());
    while at < file.len() {
        let length = word(at) as usize;
        if &file[at + 4..at + 8] == b"IDAT" {
            packed.extend_from_slice(&file[at + 8..at + 8 + length]);
        }
        at += 12 + length;
    }
    let raw = miniz_oxide::inflate::decompress_to_vec_zlib(&packed).expect("zlib");
    let stride = width as usize * channels;
    let mut pixels: Vec<u8> = Vec::with_capacity(stride * height as usize);
    for (row, line) in raw.chunks_exact(stride + 1).enumerate() {
        for (index, byte) in line[1..].iter().enumerate() {
            let old = |back: bool, up: bool| match (back && index < channels, up && row == 0) {
                (false, false) => u32::from(pixels[(row - usize::from(up)) * stride + index - if back { channels } else { 0 }]),
                _ => 0,
            };
            let predicted = match line[0] {
                0 => 0,
                1 => old(true, false),
                2 => old(false, true),
                3 => (old(true, false) + old(false, true)) / 2,
                _ => {
                    let (left, above, corner) = (old(true, false), old(false, true), old(true, true));
                    let distance = |of: u32| (left + above).abs_diff(of + corner);
                    [(distance(left), 0, left), (distance(above), 1, above), (distance(corner), 2, corner)].into_iter().min().map_or(0, |(_, _, of)| of)
                }
            };
            pixels.push(byte.wrapping_add(predicted as u8));
        }
    }
    (width, height, channels, pixels)
}

fn shoot(browser: &str, folder: &Path, picture: &Path) {
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1", "--window-size=1280,2400"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", folder.join("report.html").display()))
        .output()
        .expect("it told its version");
    assert!(picture.exists(), "{browser}: {}", String::from_utf8_lossy(&output.stderr));
}
