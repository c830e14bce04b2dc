//! A DNS server for a table of names (RFC 1035): addresses of type A, nothing else; other names do not exist.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

const HEADER: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
const CLASS_IN: [u8; 2] = [0, 1];
const TTL_SECONDS: u32 = 60;

/// Reads the first question's name (§4.1.2) in lower case; returns it with where its type begins.
fn name(query: &[u8]) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        // No label is longer than 63, no name than 255; a question is not compressed.
        if length > 63 || text.len() + length > 255 {
            return None;
        }
        let label = std::str::from_utf8(query.get(at..at + length)?).ok()?;
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&label.to_ascii_lowercase());
        at += length;
    }
}

/// Answers a query. `None`: it is none, or none that makes sense.
pub fn answer(names: &BTreeMap<String, Ipv4Addr>, query: &[u8]) -> Option<Vec<u8>> {
    // A standard query (QR and OPCODE zero) with one question.
    if query.len() < HEADER || query[2] & 0xf8 != 0 || query[4..6] != [0, 1] {
        return None;
    }
    let (name, end) = name(query)?;
    let kind = query.get(end..end + 4)?;
    let found = names.get(&name);
    let address = found.filter(|_| kind == [TYPE_A, CLASS_IN].concat());
    let mut answer = query[..end + 4].to_vec();
    answer[2] = 0x84 | query[2] & 1; // answer, authoritative, recursion as desired
    answer[3] = if found.is_some() { 0x80 } else { 0x83 }; // recursion available; NXDOMAIN
    answer[6..8].copy_from_slice(&u16::from(address.is_some()).to_be_bytes());
    answer[8..12].fill(0);
    if let Some(address) = address {
        answer.extend_from_slice(&[0xc0, HEADER as u8]); // the name, compressed (§4.1.4)
        answer.extend_from_slice(&TYPE_A);
        answer.extend_from_slice(&CLASS_IN);
        answer.extend_from_slice(&TTL_SECONDS.to_be_bytes());
        answer.extend_from_slice(&[0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
        bytes
    }

    #[test]
    fn known_names_have_addresses_and_others_do_not_exist() {
        let names = BTreeMap::from([("gateway.test".to_owned(), Ipv4Addr::new(10, 0, 2, 2))]);
        let known = answer(&names, &query("Gateway.test", 1)).expect("a query");
        assert_eq!((known[3] & 15, &known[6..8], &known[known.len() - 4..]), (0, &[0, 1][..], &[10, 0, 2, 2][..]));
        let wide = answer(&names, &query("gateway.test", 28)).expect("a query");
        assert_eq!((wide[3] & 15, &wide[6..8]), (0, &[0, 0][..]), "the name exists, without an AAAA");
        assert_eq!(answer(&names, &query("other.test", 1)).expect("a query")[3] & 15, 3);
        for cut in 0..query("gateway.test", 1).len() {
            assert_eq!(answer(&names, &query("gateway.test", 1)[..cut]), None, "{cut} bytes");
        }
    }
}
