use std::sync::Arc;

use sim_bus::{DiskBackend, DiskError, NEVER, Point, Report};
use sim_core::Streams;

use crate::{Cutter, Fault, FaultDisk, Keep, MachineFaults, MachineKind, Op, Record, SECTOR, Unflushed};

/// A disk as plain as can be.
#[derive(Clone, Debug)]
struct Plain(Vec<u8>);

impl DiskBackend for Plain {
    fn sectors(&self) -> u64 {
        (self.0.len() / SECTOR) as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = sector as usize * SECTOR;
        into.copy_from_slice(self.0.get(at..at + into.len()).ok_or(DiskError::Range)?);
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let at = sector as usize * SECTOR;
        self.0.get_mut(at..at + from.len()).ok_or(DiskError::Range)?.copy_from_slice(from);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        self.write(sector, &vec![0; count as usize * SECTOR])
    }
    fn fork(&self) -> Box<dyn DiskBackend> {
        Box::new(self.clone())
    }
}

#[derive(Debug, serde::Deserialize, serde::Serialize, PartialEq)]
struct File {
    fault: Vec<Fault>,
}

fn plan(text: &str) -> Arc<[Fault]> {
    toml::from_str::<File>(text).expect("a sound plan").fault.into()
}

/// Sector n is full of n.
fn disk(text: &str, keep: Keep) -> FaultDisk {
    let content = (0..64 * SECTOR).map(|byte| (byte / SECTOR) as u8).collect();
    let plan = if text.is_empty() { Arc::from([]) } else { plan(text) };
    FaultDisk::new(Box::new(Plain(content)), 0, &plan, &Streams::new(7), keep)
}

fn sector(disk: &mut dyn DiskBackend, sector: u64) -> Result<u8, DiskError> {
    let mut bytes = [0; SECTOR];
    disk.read(sector, &mut bytes)?;
    let first = bytes[0];
    Ok(if bytes.iter().all(|byte| *byte == first) { first } else { 0xee })
}

fn time(disk: &mut FaultDisk, ns: u64) {
    disk.at(Point { ns, ..Point::default() });
}

#[test]
fn an_error_strikes_the_operation_it_names_and_no_other() {
    let mut disk = disk("[[fault]]\nkind='read-error'\ndisk=0\noperation=2\nsectors=[4,5]", Keep::Nothing);
    assert_eq!(sector(&mut disk, 4), Ok(4));
    assert_eq!(sector(&mut disk, 6), Ok(6), "not in the range: not counted");
    assert_eq!(sector(&mut disk, 5), Err(DiskError::Medium));
    assert_eq!(sector(&mut disk, 5), Ok(5), "once");
    assert_eq!(disk.report(), Some(Report::Note("read-error: read sector 5 +1".to_owned())));
    assert_eq!(disk.report(), None);
}

#[test]
fn a_bad_sector_heals_when_it_is_written() {
    let mut disk = disk("[[fault]]\nkind='bad-sector'\ndisk=0\nsectors=[4,5]\nat='1ms'", Keep::Nothing);
    assert_eq!(sector(&mut disk, 4), Ok(4));
    time(&mut disk, 1_000_000);
    assert_eq!(sector(&mut disk, 4), Err(DiskError::Medium));
    disk.write(4, &[9; SECTOR]).expect("writes reallocate");
    assert_eq!(sector(&mut disk, 4), Ok(9));
    assert_eq!(sector(&mut disk, 5), Err(DiskError::Medium));
}

#[test]
fn writes_are_lost_torn_misdirected_and_corrupted_in_silence() {
    let mut lost = disk("[[fault]]\nkind='lost-write'\ndisk=0", Keep::Operations);
    lost.write(3, &[9; SECTOR]).expect("it says so");
    assert_eq!(sector(&mut lost, 3), Ok(3));
    assert_eq!(lost.journal().writes(), 0);
    let mut torn = disk("[[fault]]\nkind='torn-write'\ndisk=0", Keep::Data);
    torn.write(8, &[9; 8 * SECTOR]).expect("it says so");
    assert_eq!(sector(&mut torn, 15), Ok(15), "the last sector never arrives");
    let mut astray = disk("[[fault]]\nkind='misdirected-write'\ndisk=0\nby=10", Keep::Nothing);
    astray.write(3, &[9; SECTOR]).expect("it says so");
    assert_eq!((sector(&mut astray, 3), sector(&mut astray, 13)), (Ok(3), Ok(9)));
    let mut corrupt = disk("[[fault]]\nkind='corrupt-write'\ndisk=0\nbits=1", Keep::Nothing);
    corrupt.write(3, &[9; SECTOR]).expect("it says so");
    let mut bytes = [0; SECTOR];
    corrupt.read(3, &mut bytes).expect("reads");
    assert_eq!(bytes.iter().map(|byte| (byte ^ 9).count_ones()).sum::<u32>(), 1);
}

#[test]
fn reads_are_corrupt_or_stale_and_the_medium_is_not() {
    let mut corrupt = disk("[[fault]]\nkind='corrupt-read'\ndisk=0\nbits=3", Keep::Nothing);
    assert_eq!(sector(&mut corrupt, 3), Ok(0xee));
    assert_eq!(sector(&mut corrupt, 3), Ok(3));
    let mut rot = disk("[[fault]]\nkind='bit-rot'\ndisk=0\nsectors=[3,3]", Keep::Nothing);
    assert_eq!((sector(&mut rot, 3), sector(&mut rot, 3)), (Ok(0xee), Ok(0xee)));
    let mut stale = disk("[[fault]]\nkind='stale-read'\ndisk=0\nstrikes=2\noperation=1", Keep::Nothing);
    stale.write(3, &[9; SECTOR]).expect("written");
    assert_eq!((sector(&mut stale, 3), sector(&mut stale, 3)), (Ok(3), Ok(9)));
}

#[test]
fn a_disk_is_pulled_and_comes_back_and_slow_requests_say_how_slow() {
    let mut disk = disk("[[fault]]\nkind='removed'\ndisk=0\nduration='2ms'\noperation=2\n[[fault]]\nkind='slow'\ndisk=0\nduration='7ms'\nat='3ms'\n[[fault]]\nkind='stuck'\ndisk=0\nat='4ms'", Keep::Operations);
    assert_eq!(sector(&mut disk, 1), Ok(1));
    assert_eq!(sector(&mut disk, 1), Err(DiskError::Gone));
    time(&mut disk, 1_999_999);
    assert!(!disk.is_present());
    assert_eq!(disk.flush(), Err(DiskError::Gone));
    time(&mut disk, 2_000_000);
    assert_eq!((sector(&mut disk, 1), disk.takes(0)), (Ok(1), 0));
    time(&mut disk, 3_000_000);
    assert_eq!((sector(&mut disk, 1), disk.takes(0), disk.takes(0)), (Ok(1), 7_000_000, 0));
    time(&mut disk, 4_000_000);
    assert_eq!((sector(&mut disk, 1), disk.takes(0)), (Ok(1), NEVER));
    // The journal has it: what nobody asked about, and what never came, waited for nothing.
    let waited: Vec<_> = disk.journal().records().rev().take(3).map(Record::waited).collect();
    assert_eq!(waited, [None, Some(7_000_000), Some(0)]);
    // More of one command than a chunk of the journal holds.
    time(&mut disk, 5_000_000);
    (0..600).for_each(|_| assert_eq!(sector(&mut disk, 2), Ok(2)));
    assert_eq!(disk.takes(9), 9);
    assert_eq!(disk.journal().records().filter(|record| record.waited() == Some(9)).count(), 600);
}

#[test]
fn chances_come_from_the_faults_own_stream() {
    let one = "[[fault]]\nname='a'\nkind='read-error'\ndisk=0\nstrikes=0\nprobability=0.3\n";
    let pattern = |disk: &mut FaultDisk| (0..100).map(|_| sector(disk, 1).is_err()).collect::<Vec<_>>();
    let first = pattern(&mut disk(one, Keep::Nothing));
    assert_eq!(first, pattern(&mut disk(one, Keep::Nothing)));
    let count = first.iter().filter(|failed| **failed).count();
    assert!((15..45).contains(&count), "{count}");
    let other = disk(&format!("{one}[[fault]]\nname='b'\nkind='write-error'\ndisk=0\nprobability=0.5"), Keep::Nothing);
    assert_eq!(first, pattern(&mut { other }));
    // A fork goes on as the original does.
    let mut disk = disk(one, Keep::Nothing);
    pattern(&mut disk);
    let mut fork = disk.fork();
    let forked: Vec<bool> = (0..100).map(|_| sector(fork.as_mut(), 1).is_err()).collect();
    assert_eq!(forked, pattern(&mut disk));
}

#[test]
fn a_cut_keeps_what_was_flushed_and_loses_what_was_not_as_asked() {
    let mut disk = disk("", Keep::Data);
    disk.write(1, &[101; SECTOR]).expect("written");
    disk.flush().expect("flushed");
    disk.write(2, &[102; 2 * SECTOR]).expect("written");
    disk.write_durable(9, &[109; SECTOR]).expect("written");
    disk.write(1, &[111; SECTOR]).expect("written");
    disk.flush().expect("flushed");
    let mut cutter = Cutter::new(disk.base().expect("kept"), disk.journal().clone());
    let look = |cutter: &Cutter, how| [1, 2, 3, 9].map(|at| sector(cutter.cut(how).as_mut(), at).expect("reads"));
    assert_eq!(look(&cutter, Unflushed::All), [1, 2, 3, 9]);
    assert!(cutter.advance());
    assert_eq!((cutter.unflushed(), look(&cutter, Unflushed::None), look(&cutter, Unflushed::All)), (1, [1, 2, 3, 9], [101, 2, 3, 9]));
    assert!(cutter.advance_to(3));
    assert_eq!(cutter.record().map(|record| record.op), Some(Op::WriteDurable));
    assert_eq!(look(&cutter, Unflushed::None), [101, 2, 3, 109], "FUA is durable, the write before it is not");
    assert_eq!(look(&cutter, Unflushed::All), [101, 102, 102, 109]);
    let torn: Vec<[u8; 4]> = (0..32).map(|seed| look(&cutter, Unflushed::Torn(seed))).collect();
    assert!(torn.contains(&[101, 102, 3, 109]) && torn.contains(&[101, 2, 102, 109]), "a write of two sectors tears");
    let subset: Vec<[u8; 4]> = (0..32).map(|seed| look(&cutter, Unflushed::Subset(seed))).collect();
    assert!(subset.iter().all(|cut| cut[1..3] == [2, 3] || cut[1..3] == [102, 102]) && subset.contains(&[101, 2, 3, 109]));
    assert!(cutter.advance() && !cutter.advance());
    assert_eq!(look(&cutter, Unflushed::None), [111, 102, 102, 109], "after the last flush nothing is volatile");
    assert_eq!(cutter.writes(), disk.journal().writes());
}

#[test]
fn an_ignored_flush_leaves_writes_volatile() {
    let mut disk = disk("[[fault]]\nkind='ignored-flush'\ndisk=0\nstrikes=0", Keep::Data);
    disk.write(1, &[101; SECTOR]).expect("written");
    disk.flush().expect("it says so");
    let mut cutter = Cutter::new(disk.base().expect("kept"), disk.journal().clone());
    while cutter.advance() {}
    assert_eq!(sector(cutter.cut(Unflushed::None).as_mut(), 1), Ok(1));
}

#[test]
fn machine_faults_are_due_at_their_time_and_by_alarm() {
    let plan = plan("[[fault]]\nkind='nmi'\nat='5us'\n[[fault]]\nkind='power-cut'\ndisk=0\noperation=2\n[[fault]]\nkind='stall'\nduration='1ms'\nmarker='go'\ntick=50");
    let mut faults = MachineFaults::new(&plan, &Streams::new(1));
    let point = |ns, ticks, marks| Point { ns, ticks, marks };
    assert_eq!(faults.next(point(0, 0, 0)), (5000, Some(50)));
    assert_eq!(faults.due(point(4999, 0, 0)), None);
    assert_eq!(faults.due(point(5000, 0, 0)).map(|strike| strike.kind), Some(MachineKind::Nmi { vcpu: 0 }));
    assert_eq!(faults.due(point(5001, 0, 0)), None);
    assert_eq!(faults.next(point(5001, 60, 0)), (NEVER, None), "the marker is missing");
    assert_eq!(faults.due(point(5001, 60, 1)).map(|strike| strike.number), Some(2));
    let mut disk = FaultDisk::new(Box::new(Plain(vec![0; 8 * SECTOR])), 0, &plan, &Streams::new(1), Keep::Nothing);
    disk.write(0, &[1; SECTOR]).expect("written");
    assert_eq!(disk.report(), None);
    disk.write(0, &[1; SECTOR]).expect("written");
    assert_eq!(disk.report(), Some(Report::Alarm(1)));
    faults.alarm(1);
    assert_eq!(faults.due(point(5002, 60, 1)).map(|strike| strike.kind), Some(MachineKind::PowerCut));
}

#[test]
fn tables_that_make_no_sense_are_refused_by_name() {
    for (text, says) in [
        ("kind='read-eror'\ndisk=0", "no kind is called `read-eror`"),
        ("kind='slow'\ndisk=0", "needs `duration`"),
        ("kind='slow'\nduration='1m'\ndisk=0", "no time span"),
        ("kind='lost-write'", "needs `disk`"),
        ("kind='power-cut'\noperation=3", "needs `disk`"),
        ("kind='bad-sector'\ndisk=0", "needs `sectors`"),
        ("kind='bad-sector'\ndisk=0\nsectors=[5,4]", "first not after last"),
        ("kind='read-error'\ndisk=0\nprobability=1.5", "0 to 1"),
        ("kind='read-error'\ndisk=0\noperation=0", "at least 1"),
        ("kind='read-error'\ndisk=0\nfrobs=0", "unknown field"),
    ] {
        let error = match toml::from_str::<File>(&format!("[[fault]]\n{text}")) {
            Ok(_) => panic!("{text} is taken"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn requests_past_the_end_are_refused_whatever_the_plan_says() {
    for kind in ["lost-write", "torn-write", "corrupt-write", "misdirected-write"] {
        let mut disk = disk(&format!("[[fault]]\nkind='{kind}'\nby=1\ndisk=0\nstrikes=0"), Keep::Data);
        assert_eq!(disk.write(64, &[0; SECTOR]), Err(DiskError::Range));
        assert_eq!(disk.write(u64::MAX, &[0; SECTOR]), Err(DiskError::Range));
    }
}

#[test]
fn a_plan_is_written_and_read_back_the_same() {
    let mut texts = String::new();
    for kind in crate::KINDS {
        let text = |place: &str| {
            let rest = "duration='3ms'\nby=4\nvector=33\nat='1s'\nprobability=0.25\nstrikes=0\nrate=1000\n";
            format!("[[fault]]\nname='x'\nkind='{kind}'\n{place}\n{rest}")
        };
        let of_disk = text("disk=1\nsectors=[1,2]");
        let of_nic = toml::from_str::<File>(&of_disk).is_err_and(|error| error.to_string().contains("needs `nic`"));
        texts.push_str(&if of_nic { text("nic=1") } else { of_disk });
    }
    let file: File = toml::from_str(&texts).expect("sound");
    assert_eq!(file.fault.len(), crate::KINDS.len());
    let written = toml::to_string(&file).expect("writes");
    assert_eq!(toml::from_str::<File>(&written).expect("reads"), file);
}
