//! What happens to QEMU's disks while it runs: the faults of a scenario that a person with the machine in front of them could bring about, too.
//!
//! # Theory
//! A fault that begins at a marker on the console and is `removed` is a disk that is pulled: QEMU's monitor takes the medium away, and the guest's transfers fail. One that is
//! `slow` from there on is a disk that QEMU gives only so many transfers a second. One that is `corrupt-write` is done to the image behind QEMU's back: of the pages that have
//! changed since the marker, every so many gets bits flipped. All other faults are the simulator's alone, and so are these where the marker is not their only condition.
//! A disk that is pulled stays away, however long the fault says.
//!
//! # Failure
//! An image that cannot be read or written is left as it is; the event log says what was done, and what was not.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sim_fault::{Effect, Fault, Kind, Trigger};

/// Changed pages are looked for this often.
const LOOK: Duration = Duration::from_millis(200);
const PAGE: usize = 4096;
/// Console text that is kept to find a marker in.
const TAIL: usize = 4096;

#[derive(Debug)]
enum Deed {
    Pull,
    Slow { a_second: u64 },
    Rot { every: u64, bits: u32, left: u32 },
}

#[derive(Debug)]
enum Stand {
    /// The marker has not come.
    Waits,
    /// The image as it was looked at last, and how many of its pages have changed.
    Rots { before: Vec<u8>, changed: u64, looked: Instant },
    Done,
}

#[derive(Debug)]
struct Mishap {
    name: String,
    marker: String,
    disk: usize,
    deed: Deed,
    stand: Stand,
}

fn alone(fault: &Fault) -> String {
    format!("fault `{}` is the simulator's alone: it does not happen here", fault.name)
}

/// The mishaps of a run.
#[derive(Debug, Default)]
pub struct Mishaps {
    all: Vec<Mishap>,
    images: Vec<PathBuf>,
    console: Vec<u8>,
    events: Vec<String>,
}

impl Mishaps {
    /// Those of `faults` that can happen here.
    #[must_use]
    pub fn new(faults: &[Fault], images: &[PathBuf]) -> Self {
        let mut found = Self { images: images.to_vec(), ..Self::default() };
        for fault in faults {
            let every = fault.trigger.every.unwrap_or(1);
            let Trigger { at_ns: None, tick: None, operation: None, sectors: None, chance: None, .. } = fault.trigger else {
                found.events.push(alone(fault));
                continue;
            };
            let deed = match fault.effect {
                Effect::Disk { kind: Kind::Removed { .. }, .. } => Some(Deed::Pull),
                Effect::Disk { kind: Kind::Slow { ns }, .. } if fault.strikes.is_none() => Some(Deed::Slow { a_second: (1_000_000_000 / ns.max(1)).max(1) }),
                Effect::Disk { kind: Kind::CorruptWrite { bits }, .. } => Some(Deed::Rot { every, bits, left: fault.strikes.unwrap_or(u32::MAX) }),
                _ => None,
            };
            match (deed, fault.effect, &fault.trigger.marker) {
                (Some(deed), Effect::Disk { disk, .. }, Some(marker)) => {
                    found.all.push(Mishap { name: fault.name.clone(), marker: marker.clone(), disk: usize::from(disk), deed, stand: Stand::Waits });
                }
                _ => found.events.push(alone(fault)),
            }
        }
        found
    }

    /// The guest wrote to its console.
    pub fn hear(&mut self, bytes: &[u8], monitor: &mut UnixStream) {
        self.console.extend_from_slice(bytes);
        for mishap in self.all.iter_mut().filter(|mishap| matches!(mishap.stand, Stand::Waits)) {
            if !self.console.windows(mishap.marker.len()).any(|window| window == mishap.marker.as_bytes()) {
                continue;
            }
            let (done, stand) = match mishap.deed {
                Deed::Pull => (monitor.write_all(format!("drive_del disk{}\n", mishap.disk).as_bytes()), Stand::Done),
                Deed::Slow { a_second } => (monitor.write_all(format!("block_set_io_throttle disk{} 0 0 0 {a_second} 0 0\n", mishap.disk).as_bytes()), Stand::Done),
                Deed::Rot { .. } => match self.images.get(mishap.disk).map(std::fs::read) {
                    Some(Ok(before)) => (Ok(()), Stand::Rots { before, changed: 0, looked: Instant::now() }),
                    Some(Err(error)) => (Err(error), Stand::Done),
                    None => (Err(std::io::ErrorKind::NotFound.into()), Stand::Done),
                },
            };
            mishap.stand = stand;
            self.events.push(match done {
                Ok(()) => format!("fault `{}` begins", mishap.name),
                Err(error) => format!("fault `{}` could not be brought about: {error}", mishap.name),
            });
        }
        let keep = self.console.len().saturating_sub(TAIL);
        self.console.drain(..keep);
    }

    /// Time has passed.
    pub fn go_on(&mut self) {
        for mishap in &mut self.all {
            let (Deed::Rot { every, bits, left }, Stand::Rots { before, changed, looked }) = (&mut mishap.deed, &mut mishap.stand) else { continue };
            if looked.elapsed() < LOOK {
                continue;
            }
            *looked = Instant::now();
            let Some(Ok(now)) = self.images.get(mishap.disk).map(std::fs::read) else { continue };
            let Ok(file) = std::fs::File::options().write(true).open(&self.images[mishap.disk]) else { continue };
            for (number, (old, new)) in before.chunks_mut(PAGE).zip(now.chunks(PAGE)).enumerate() {
                if *left == 0 || old == new {
                    continue;
                }
                old.copy_from_slice(new);
                *changed += 1;
                if !changed.is_multiple_of((*every).max(1)) {
                    continue;
                }
                for bit in 0..*bits as usize {
                    old[bit * 97 % new.len()] ^= 1 << (bit % 8);
                }
                if file.write_all_at(old, (number * PAGE) as u64).is_ok() {
                    *left -= 1;
                    self.events.push(format!("fault `{}` struck page {number} of disk {}", mishap.name, mishap.disk));
                }
            }
            if *left == 0 {
                mishap.stand = Stand::Done;
            }
        }
    }

    /// What was done, and what was not.
    pub fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim_fault::On;

    fn fault(kind: Kind, marker: &str) -> Fault {
        let trigger = Trigger { at_ns: None, tick: None, marker: Some(marker.into()), operation: None, every: Some(2), sectors: None, on: On::Any, chance: None, period_ns: 0 };
        Fault { name: "f".into(), effect: Effect::Disk { disk: 0, kind }, trigger, strikes: Some(2), survives: String::new() }
    }

    #[test]
    fn what_the_marker_does_not_decide_alone_does_not_happen() {
        let mut at_sectors = fault(Kind::Removed { ns: 1 }, "pull");
        at_sectors.trigger.sectors = Some([0, 7]);
        let (mut monitor, _other) = UnixStream::pair().expect("a pair");
        let mut all = Mishaps::new(&[at_sectors], &[]);
        all.hear(b"pull", &mut monitor);
        assert_eq!(all.take_events(), ["fault `f` is the simulator's alone: it does not happen here"]);
        let unlimited = Fault { strikes: None, ..fault(Kind::CorruptWrite { bits: 1 }, "rot") };
        assert!(matches!(Mishaps::new(&[unlimited], &[]).all[0].deed, Deed::Rot { left: u32::MAX, .. }));
    }

    #[test]
    fn a_marker_pulls_a_disk_and_rot_strikes_every_other_changed_page() {
        let folder = std::env::temp_dir().join(format!("mishap-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder of our own");
        let path = folder.join("disk");
        std::fs::write(&path, vec![0; 8 * PAGE]).expect("writes");
        let (mut monitor, mut other) = UnixStream::pair().expect("a pair");
        let mut all = Mishaps::new(&[fault(Kind::Removed { ns: 1 }, "pull"), fault(Kind::CorruptWrite { bits: 3 }, "rot"), fault(Kind::TornWrite, "tear")], std::slice::from_ref(&path));
        all.hear(b"now pu", &mut monitor);
        all.hear(b"ll and rot", &mut monitor);
        let mut told = [0; 16];
        std::io::Read::read_exact(&mut other, &mut told).expect("the monitor was told");
        assert_eq!(&told, b"drive_del disk0\n");
        let mut data = vec![0; 8 * PAGE];
        data[PAGE..7 * PAGE].fill(1);
        std::fs::write(&path, &data).expect("writes");
        std::thread::sleep(LOOK);
        all.go_on();
        let found = std::fs::read(&path).expect("reads");
        let struck: Vec<usize> = (0..8).filter(|page| found[page * PAGE..][..PAGE] != data[page * PAGE..][..PAGE]).collect();
        assert_eq!(struck, [2, 4]);
        assert_eq!(all.take_events().len(), 1 + 2 + 2);
        std::fs::remove_dir_all(folder).expect("was made here");
    }
}
