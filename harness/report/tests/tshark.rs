//! A capture as Wireshark reads it. Needs `tshark` (Debian package of that name); without it the test says so and does nothing.

use std::process::Command;

use sim_net::{Direction, pcapng};

/// An Ethernet frame with an ARP request for 10.0.2.2 (RFC 826).
fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x52, 0x54, 0, 0, 0, 1, 0x08, 0x06]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    frame
}

#[test]
fn tshark_reads_times_directions_and_protocols() {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no tshark here, so Wireshark has not been asked about captures (apt-get install tshark)");
        return;
    }
    let path = std::env::temp_dir().join(format!("orrery-tshark-{}.pcapng", std::process::id()));
    let frames = [(1_500_000_007u64, Direction::Sent), (2_000_000_000, Direction::Received)];
    let frame = arp();
    let bytes = pcapng::write("nic0", 1_767_225_600_000_000_000, frames.iter().map(|(ns, direction)| (*ns, *direction, &frame[..])));
    std::fs::write(&path, bytes).expect("a folder for temporary files");
    let fields = ["frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "_ws.col.Protocol", "arp.dst.proto_ipv4"];
    let output = Command::new("tshark").arg("-r").arg(&path).args(["-T", "fields"]).args(fields.iter().flat_map(|field| ["-e", field])).output().expect("it told its version");
    std::fs::remove_file(&path).expect("ours");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 2, "{said}");
    for (row, (seconds, direction)) in rows.iter().zip([("1767225601.500000007", 2), ("1767225602.000000000", 1)]) {
        assert_eq!((row[0], row[1], row[3], row[4]), (seconds, "nic0", "ARP", "10.0.2.2"), "{said}");
        // 1: inbound, 2: outbound.
        let shown = row[2].strip_prefix("0x").map_or_else(|| row[2].parse(), |digits| u32::from_str_radix(digits, 16));
        assert_eq!(shown, Ok(direction), "{said}");
    }
}
