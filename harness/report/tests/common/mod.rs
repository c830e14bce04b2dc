//! A run that did not happen, with everything a report can show.

use std::sync::Arc;

use report::{Conversation, DiskOperation, Event, Evidence, Row, Sample, Step, Symbols, Where};
use sim_board::Interrupt;
use sim_net::{Captured, Direction};

const MS: u64 = 1_000_000;

/// Names for the samples' addresses.
pub fn symbols() -> Symbols {
    Symbols::of_map("ffffffff81000000 T _start\nffffffff81001000 T schedule\nffffffff81002000 t idle_loop\nffffffff81003000 T entry_SYSCALL_64\n0000000000001000 D per_cpu\n")
}

/// A TCP segment of `payload` bytes.
fn segment(turned: bool, sequence: u32, acknowledged: u32, payload: usize) -> Arc<[u8]> {
    let length = (40 + payload as u16).to_be_bytes();
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&[8, 0, 0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 6, 0, 0]);
    let (first, second) = if turned { ([10, 0, 2, 2], [10, 0, 2, 15]) } else { ([10, 0, 2, 15], [10, 0, 2, 2]) };
    frame.extend_from_slice(&first);
    frame.extend_from_slice(&second);
    frame.extend_from_slice(if turned { &[0, 80, 0x9c, 0x40] } else { &[0x9c, 0x40, 0, 80] });
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(&acknowledged.to_be_bytes());
    frame.extend_from_slice(&[0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    frame.resize(54 + payload, 7);
    frame.into()
}

/// The run.
pub fn evidence(holds: bool) -> Evidence {
    let row = |holds, what: &str, detail: Option<&str>| Row {
        holds,
        place: "step 3".to_owned(),
        what: what.to_owned(),
        found: "as <expected> & more".to_owned(),
        detail: detail.map(str::to_owned),
    };
    let mut rows = vec![row(Some(true), "exit 0", None), row(None, "ticks", None)];
    if !holds {
        rows.push(row(Some(false), "golden: console", Some(" boot\n-expected line\n+what <came>\n")));
    }
    let samples = (0..2000u64).flat_map(|index| {
        (0..2u32).map(move |vcpu| {
            let at = match (index / 100 + u64::from(vcpu)) % 3 {
                0 => Where::Kernel,
                1 => Where::User,
                _ => Where::Halted,
            };
            let stack = if index % 2 == 0 { vec![0xffff_ffff_8100_1010, 0xffff_ffff_8100_2010, 0xffff_ffff_8100_0020] } else { vec![0xffff_ffff_8100_2004, 0xffff_ffff_8100_0020] };
            let space = 0x1000 * (1 + index / 400);
            let program = (space == 0x2000).then(|| "/usr/bin/busy".into());
            Sample { ns: index * MS, vcpu, at, space, program, lstar: 0xffff_ffff_8100_3000, stack }
        })
    });
    let frames = (0..400u64).flat_map(|index| {
        let at = 300 * MS + index * 3 * MS;
        [
            Captured { ns: at, direction: Direction::Sent, frame: segment(false, 1 + 100 * index as u32, 1, 100) },
            Captured { ns: at + 20_000 * (1 + index % 50), direction: Direction::Received, frame: segment(true, 1, 101 + 100 * index as u32, 0) },
        ]
    });
    let operations = (0..300u64).map(|index| DiskOperation {
        disk: 0,
        ticks: index * 1000,
        ns: index * 5 * MS,
        takes_ns: (index != 41).then_some(30_000 + index * 500_000),
        what: if index % 3 == 0 { "write" } else { "read" },
        sector: index * 97 % 8192,
        sectors: 8,
        trouble: (index == 40).then(|| "fault 0 (not carried out)".to_owned()),
    });
    let event = |at: u64, kind: &str, detail: &str| Event { ns: at * MS, vcpu: 0, source: "cpu".to_owned(), kind: kind.to_owned(), detail: detail.to_owned() };
    Evidence {
        name: "reports/show".to_owned(),
        property: "a page shows <everything> & nothing breaks out of it".to_owned(),
        rows,
        steps: (0..8)
            .map(|index| Step {
                name: format!("step {index} </script><b>"),
                zone: if index % 2 == 0 { String::new() } else { "alpha".to_owned() },
                began_ns: index * 240 * MS,
                ended_ns: (index * 240 + 200) * MS,
                outcome: "exit 0".to_owned(),
            })
            .collect(),
        console: "hello\x1b[31m <world>\n".to_owned(),
        receipt: "0123456789abcdef/7".to_owned(),
        summary: "simulator, 2000000 instructions".to_owned(),
        vcpus: 2,
        virtual_ns: 2_000 * MS,
        events: (0..50).map(|index| event(index * 40, "note", "of a device")).collect(),
        interrupts: (0..50).map(|index| Interrupt { ns: index * 40 * MS, vcpu: 0, vector: 0x30 }).collect(),
        disks: operations.collect(),
        frames: vec![frames.collect()],
        conversations: vec![Conversation {
            peer: "gateway".to_owned(),
            what: "http GET /".to_owned(),
            began_ns: 300 * MS,
            ended_ns: 900 * MS,
            sent: 10,
            received: 0,
            complete: true,
        }],
        network: vec!["gateway: lease 10.0.2.15".to_owned()],
        samples: samples.collect(),
        every: 1_000_000,
        captures: vec![("nic0.pcapng".to_owned(), vec![1, 2, 3])],
    }
}
