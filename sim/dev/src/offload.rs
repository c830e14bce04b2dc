//! What network cards do to packets on the way: checksums filled in and checked, TCP segments cut.
//!
//! # Theory
//! Internet checksum: RFC 1071. IPv4: RFC 791; IPv6 with extension headers is not looked into (RFC 8200 §4: the first header decides). TCP: RFC 9293 §3.1; UDP: RFC 768.
//!
//! # Failure
//! Frames and figures are the guest's: whatever lies outside the frame is left alone.

/// What looking at a received packet's checksums came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// The IPv4 header's: right or wrong. `None`: there is none.
    pub header: Option<bool>,
    /// TCP's or UDP's. `None`: there is none that could be checked (other protocol, fragment, UDP without one).
    pub payload: Option<bool>,
    /// The payload is UDP's.
    pub udp: bool,
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let mut sum = u64::from(sum);
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u64::from(*last) << 8;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u32
}

/// Sums `frame[start..end]` (what is there already in the checksum field counts) and puts the complement at `at`.
pub fn fill(frame: &mut [u8], start: usize, end: usize, at: usize) {
    let end = end.min(frame.len());
    if start > end || at.checked_add(2).is_none_or(|after| after > frame.len()) {
        return;
    }
    let sum = !(add(0, &frame[start..end]) as u16);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The IP header of a frame: where it begins, where its payload begins and ends, and the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    start: usize,
    payload: usize,
    end: usize,
    protocol: u8,
    v4: bool,
    fragment: bool,
}

fn network(frame: &[u8]) -> Option<Network> {
    let mut start = 14;
    let mut kind = frame.get(12..14)?;
    if kind == [0x81, 0] {
        kind = frame.get(16..18)?;
        start = 18;
    }
    let half = |at: usize| frame.get(start + at..start + at + 2).map(|word| usize::from(u16::from_be_bytes([word[0], word[1]])));
    match kind {
        [8, 0] => {
            let length = usize::from(frame.get(start)? & 0xf) * 4;
            let end = start + half(2)?;
            let fragment = half(6)? & 0x3fff != 0;
            let good = frame[start] >> 4 == 4 && length >= 20 && start + length <= end && end <= frame.len();
            good.then(|| Network { start, payload: start + length, end, protocol: frame[start + 9], v4: true, fragment })
        }
        [0x86, 0xdd] => {
            let end = start + 40 + half(4)?;
            (end <= frame.len()).then(|| Network { start, payload: start + 40, end, protocol: frame[start + 6], v4: false, fragment: false })
        }
        _ => None,
    }
}

/// The sum of the pseudo-header for a payload of `length` bytes.
fn pseudo(frame: &[u8], ip: Network, length: usize) -> u32 {
    let addresses = if ip.v4 { &frame[ip.start + 12..ip.start + 20] } else { &frame[ip.start + 8..ip.start + 40] };
    add(add(0, addresses), &[0, ip.protocol, (length >> 8) as u8, length as u8])
}

/// Checks a received packet.
pub fn check(frame: &[u8]) -> Sums {
    let Some(ip) = network(frame) else { return Sums::default() };
    let header = ip.v4.then(|| add(0, &frame[ip.start..ip.payload]) == 0xffff);
    let body = &frame[ip.payload..ip.end];
    let field = match ip.protocol {
        6 => 16,
        17 => 6,
        _ => return Sums { header, ..Sums::default() },
    };
    let udp = ip.protocol == 17;
    let absent = udp && body.get(6..8) == Some(&[0, 0]);
    let payload = (!ip.fragment && !absent && body.len() >= field + 2).then(|| add(pseudo(frame, ip, body.len()), body) == 0xffff);
    Sums { header, payload, udp }
}

/// Where a TCP packet is cut: positions in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The IP header, and whether it is version 4.
    pub ip: usize,
    pub v4: bool,
    pub tcp: usize,
    /// All headers: where payload begins.
    pub headers: usize,
    /// Payload of one segment.
    pub segment: usize,
}

/// Cuts a TCP packet into frames, each with its own lengths, sequence number, flags and checksums; TCP's checksum field need not be prepared.
pub fn segment(frame: &[u8], cut: Cut) -> Vec<Vec<u8>> {
    let Cut { ip, v4, tcp, headers, segment } = cut;
    let sane = ip + if v4 { 20 } else { 40 } <= tcp && tcp + 20 <= headers && headers <= frame.len() && segment > 0;
    if !sane {
        return vec![frame.to_vec()];
    }
    let (head, payload) = frame.split_at(headers);
    let sequence = u32::from_be_bytes([head[tcp + 4], head[tcp + 5], head[tcp + 6], head[tcp + 7]]);
    let identification = u16::from_be_bytes([head[ip + 4], head[ip + 5]]);
    let count = payload.len().div_ceil(segment).max(1);
    let mut frames = Vec::with_capacity(count);
    for index in 0..count {
        let from = index * segment;
        let piece = &payload[from..payload.len().min(from + segment)];
        let mut out = [head, piece].concat();
        if v4 {
            let length = (out.len() - ip) as u16;
            out[ip + 2..ip + 4].copy_from_slice(&length.to_be_bytes());
            out[ip + 4..ip + 6].copy_from_slice(&identification.wrapping_add(index as u16).to_be_bytes());
            out[ip + 10..ip + 12].fill(0);
            fill(&mut out, ip, tcp, ip + 10);
        } else {
            let length = (out.len() - ip - 40) as u16;
            out[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
        }
        out[tcp + 4..tcp + 8].copy_from_slice(&sequence.wrapping_add(from as u32).to_be_bytes());
        if index + 1 < count {
            // FIN and PSH belong to the last segment.
            out[tcp + 13] &= !0x09;
        }
        if index > 0 {
            // CWR belongs to the first (RFC 3168 §6.1.2).
            out[tcp + 13] &= !0x80;
        }
        out[tcp + 16..tcp + 18].fill(0);
        let length = out.len() - tcp;
        let place = Network { start: ip, payload: tcp, end: out.len(), protocol: 6, v4, fragment: false };
        let sum = !(add(pseudo(&out, place, length), &out[tcp..]) as u16);
        out[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
        frames.push(out);
    }
    frames
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A TCP packet with right checksums.
    pub(crate) fn packet(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 1, 8, 0];
        let length = (40 + payload.len() as u16).to_be_bytes();
        frame.extend_from_slice(&[0x45, 0, length[0], length[1], 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend_from_slice(&[0x12, 0x34, 0, 80, 0, 0, 1, 0, 0, 0, 0, 0, 0x50, 0x19, 16, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(payload);
        segment(&frame, Cut { ip: 14, v4: true, tcp: 34, headers: 54, segment: 0xffff }).remove(0)
    }

    #[test]
    fn right_sums_are_right_and_every_flipped_bit_is_seen() {
        let frame = packet(b"odd");
        assert_eq!(check(&frame), Sums { header: Some(true), payload: Some(true), udp: false });
        for bit in 14 * 8..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(check(&bad), check(&frame), "bit {bit}");
        }
        for cut in 0..frame.len() {
            check(&frame[..cut]);
        }
    }

    #[test]
    fn a_long_packet_is_cut_into_segments_that_add_up() {
        let payload: Vec<u8> = (0..4000u32).map(|byte| (byte * 7) as u8).collect();
        let whole = packet(&payload);
        let pieces = segment(&whole, Cut { ip: 14, v4: true, tcp: 34, headers: 54, segment: 1448 });
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [54 + 1448, 54 + 1448, 54 + 1104]);
        let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece[54..].to_vec()).collect();
        assert_eq!(joined, payload);
        for (index, piece) in pieces.iter().enumerate() {
            assert_eq!(check(piece), Sums { header: Some(true), payload: Some(true), udp: false });
            assert_eq!(u32::from_be_bytes([piece[38], piece[39], piece[40], piece[41]]), 256 + 1448 * index as u32);
            assert_eq!(piece[47] & 9, if index == 2 { 9 } else { 0 }, "FIN and PSH");
        }
        assert_eq!(segment(&whole, Cut { ip: 14, v4: true, tcp: 30, headers: 54, segment: 1448 }), std::slice::from_ref(&whole), "makes no sense");
    }
}
