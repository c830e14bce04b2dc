//! Resume tokens: a place in a stream as text, `1-CHECKSUM-SIZE-PACKED`.
//!
//! PACKED is a name/value list, deflated (zlib), in hexadecimal; CHECKSUM is the first word of its Fletcher-4, SIZE the list's size before deflating.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::nvlist::{self, List, Value};
use pool_phys::nvlist_native;

use crate::SendOptions;

/// Longest list of a token.
const LIST_MAX: usize = 64 << 10;

/// Where a receiver stopped.
#[derive(Clone, Debug)]
pub struct Token {
    pub to_guid: u64,
    pub from_guid: Option<u64>,
    pub object: u64,
    pub offset: u64,
    /// Bytes received so far.
    pub bytes: u64,
    /// The snapshot's name at the sender.
    pub name: String,
    pub options: SendOptions,
}

impl Token {
    /// The text that `receive_resume_token` shows.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut pairs: Vec<(String, Value)> = Vec::new();
        if let Some(guid) = self.from_guid {
            pairs.push(("fromguid".into(), Value::Number(guid)));
        }
        for (name, value) in [("object", self.object), ("offset", self.offset), ("bytes", self.bytes), ("toguid", self.to_guid)] {
            pairs.push((name.into(), Value::Number(value)));
        }
        pairs.push(("toname".into(), Value::Text(self.name.clone())));
        for (name, set) in [("largeblockok", self.options.large_blocks), ("embedok", self.options.embed), ("compressok", self.options.compressed)] {
            if set {
                pairs.push((name.into(), Value::Boolean));
            }
        }
        let packed = nvlist::encode(&List { pairs });
        let deflated = codec::gzip_encode(&packed, 6, packed.len() * 2 + 64).expect("incompressible bytes grow by less");
        let text: String = deflated.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("1-{:x}-{:x}-{text}", codec::fletcher4(&deflated)[0], packed.len())
    }

    /// Reads a token; `None`: it is none, or damaged.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, checksum, size, packed) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let size = usize::from_str_radix(size, 16).ok().filter(|size| *size <= LIST_MAX)?;
        if version != "1" || parts.next().is_some() || packed.len() > 4 * LIST_MAX || !packed.len().is_multiple_of(2) || !packed.is_ascii() {
            return None;
        }
        let deflated = packed.as_bytes().chunks(2).map(|pair| u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()).collect::<Option<Vec<u8>>>()?;
        if u64::from_str_radix(checksum, 16).ok()? != codec::fletcher4(&deflated)[0] {
            return None;
        }
        let mut list = vec![0; size];
        codec::gzip_decode(&deflated, &mut list).ok()?;
        let list = nvlist_native::parse_either(&list).ok()?;
        let has = |name: &str| list.get(name).is_some();
        if has("rawok") || has("redact_snaps") {
            return None;
        }
        Some(Self {
            to_guid: list.number("toguid")?,
            from_guid: list.number("fromguid"),
            object: list.number("object")?,
            offset: list.number("offset")?,
            bytes: list.number("bytes").unwrap_or(0),
            name: list.text("toname")?.to_string(),
            options: SendOptions { large_blocks: has("largeblockok"), embed: has("embedok"), compressed: has("compressok") },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Token;
    use crate::SendOptions;

    #[test]
    fn a_token_is_read_back_and_a_damaged_one_is_none() {
        let options = SendOptions { embed: true, large_blocks: false, compressed: true };
        let token = Token { to_guid: 7, from_guid: Some(u64::MAX), object: 12, offset: 131_072, bytes: 99, name: "tank/a@b".into(), options };
        let text = token.encode();
        let back = Token::decode(&text).expect("decodes");
        assert_eq!((back.to_guid, back.from_guid, back.object, back.offset, back.name.as_str()), (7, Some(u64::MAX), 12, 131_072, "tank/a@b"));
        assert!(back.options.embed && back.options.compressed && !back.options.large_blocks);
        for cut in 0..text.len() {
            assert!(Token::decode(&text[..cut]).is_none());
        }
        assert!(Token::decode(&text.replacen("1-", "2-", 1)).is_none() && Token::decode("").is_none());
    }
}
