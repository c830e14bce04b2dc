//! What the network is made of, as the `[[segment]]`, `[[nic]]` and `[[peer]]` tables of a board or scenario spell it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use sim_bus::Nanos;
use sim_fault::Span;

/// The most NICs of a board.
pub const NICS_MAX: usize = 8;
/// The most peers of a board.
pub const PEERS_MAX: usize = 64;
/// The most bytes of seeded content one transfer may have.
pub const CONTENT_MAX: u64 = 1 << 32;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `52:54:00:12:34:56`.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(bytes))
    }
    /// Broadcast and multicast addresses name groups.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What the guest sees of a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    VirtioNet,
    /// Intel 82574L.
    E1000e,
}

/// A NIC of the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    pub model: NicModel,
    /// The segment it is plugged into; the first one if not given. Empty: no cable.
    pub segment: Option<String>,
    /// Its address; made from its number if not given.
    #[serde(default, deserialize_with = "mac", serialize_with = "mac_text", skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

/// A network segment: a switch and its cables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSpec {
    pub name: String,
    /// From a port to the switch's decision. Default 10 µs.
    #[serde(default = "latency")]
    pub latency: Span,
    /// Of each port and direction, in bits per second: `"1G"`, `"100M"`. Default 1G.
    #[serde(default = "bandwidth", deserialize_with = "rate", serialize_with = "rate_text")]
    pub bandwidth: u64,
    /// Bytes that may wait for a port that is busy; what comes then is dropped. Default 256 KiB.
    #[serde(default = "queue")]
    pub queue: u64,
}

/// A scripted computer on a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSpec {
    pub name: String,
    /// The segment it is plugged into; the first one if not given.
    pub segment: Option<String>,
    /// Address and prefix: `"10.0.2.2/24"`. Answers ARP and ping.
    #[serde(deserialize_with = "cidr", serialize_with = "cidr_text")]
    pub address: (Ipv4Addr, u8),
    #[serde(default, deserialize_with = "mac", serialize_with = "mac_text", skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Gives addresses out.
    pub dhcp: Option<DhcpSpec>,
    /// Names it resolves, on UDP port 53, if there are any. Others do not exist.
    #[serde(default)]
    pub dns: BTreeMap<String, Ipv4Addr>,
    /// TCP and UDP ports that send back what comes.
    #[serde(default)]
    pub echo: Vec<u16>,
    /// TCP ports that swallow everything up to the end and then answer with its SHA-256 and length.
    #[serde(default)]
    pub sink: Vec<u16>,
    /// TCP ports that send seeded content and close.
    #[serde(default)]
    pub source: Vec<SourceSpec>,
    /// TCP port of an HTTP server: `GET /bulk/BYTES/SEED`, `GET /sum/BYTES/SEED`, `PUT` and `POST` (answered with SHA-256 and length).
    pub http: Option<u16>,
    /// What it does of its own accord.
    #[serde(default, rename = "client")]
    pub clients: Vec<ClientSpec>,
}

/// A DHCP server's figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpSpec {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
    pub router: Option<Ipv4Addr>,
    pub dns: Option<Ipv4Addr>,
    #[serde(default = "lease_seconds")]
    pub lease_seconds: u32,
}

/// Seeded content behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    pub port: u16,
    pub bytes: u64,
    #[serde(default)]
    pub seed: u64,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientKind {
    /// Connects, sends seeded content, closes its half, and reads the answer to its end.
    Send,
    /// Fetches `path` over HTTP.
    Get,
    /// Sends seeded content and compares what comes back.
    Echo,
    /// Sends echo requests.
    Ping,
}

/// A deed of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSpec {
    pub kind: ClientKind,
    /// Virtual time at which it begins.
    #[serde(default)]
    pub at: Span,
    pub to: Ipv4Addr,
    /// Not for pings.
    #[serde(default)]
    pub port: u16,
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub path: String,
    /// How often it tries to connect, or pings.
    #[serde(default = "tries")]
    pub tries: u32,
    /// How long it waits between tries, and for an answer to a ping.
    #[serde(default = "pause")]
    pub pause: Span,
}

fn latency() -> Span {
    Span(10_000)
}
fn bandwidth() -> u64 {
    1_000_000_000
}
fn queue() -> u64 {
    256 << 10
}
fn lease_seconds() -> u32 {
    86_400
}
fn tries() -> u32 {
    10
}
fn pause() -> Span {
    Span(1_000_000_000)
}

fn mac<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Mac>, D::Error> {
    let text = String::deserialize(from)?;
    match Mac::parse(&text) {
        Some(mac) if !mac.is_group() => Ok(Some(mac)),
        Some(_) | None => Err(serde::de::Error::custom(format!("`{text}` is no Ethernet address of a station (example: 52:54:00:12:34:56)"))),
    }
}

/// Reads a rate in bits per second: a number, or one with K, M or G (powers of ten).
pub fn parse_rate(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(scale)
}

fn rate<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    parse_rate(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no rate (examples: 1G, 100M, 64K)")))
}

fn cidr<'de, D: serde::Deserializer<'de>>(from: D) -> Result<(Ipv4Addr, u8), D::Error> {
    let text = String::deserialize(from)?;
    let parsed = text.split_once('/').and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok().filter(|prefix| *prefix <= 30)?)));
    parsed.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no address with prefix (example: 10.0.2.2/24)")))
}

fn mac_text<S: serde::Serializer>(mac: &Option<Mac>, into: S) -> Result<S::Ok, S::Error> {
    match mac {
        Some(mac) => into.collect_str(mac),
        None => into.serialize_none(),
    }
}
fn rate_text<S: serde::Serializer>(rate: &u64, into: S) -> Result<S::Ok, S::Error> {
    into.collect_str(rate)
}
fn cidr_text<S: serde::Serializer>((address, prefix): &(Ipv4Addr, u8), into: S) -> Result<S::Ok, S::Error> {
    into.collect_str(&format_args!("{address}/{prefix}"))
}

/// What is wrong with a network's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetError {
    /// More of something than there may be.
    TooMany { what: &'static str, most: usize },
    /// Two segments or two peers of one name, or two stations of one address on a segment.
    Twice { what: &'static str, name: String },
    /// A NIC or peer names a segment that does not exist.
    Segment { name: String },
    /// A figure is out of its range.
    Range { name: String, key: &'static str, allowed: &'static str },
    /// A fault is about a NIC that does not exist.
    Nic { fault: String, nic: u8 },
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetError::TooMany { what, most } => write!(f, "network: at most {most} {what}"),
            NetError::Twice { what, name } => write!(f, "network: {what} `{name}` is there twice"),
            NetError::Segment { name } => write!(f, "network: no segment is called `{name}`"),
            NetError::Range { name, key, allowed } => write!(f, "network: `{key}` of `{name}` must be {allowed}"),
            NetError::Nic { fault, nic } => write!(f, "network: fault `{fault}` is about NIC {nic}, which the board does not have"),
        }
    }
}

impl std::error::Error for NetError {}

/// The whole description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetSpec {
    pub nics: Vec<NicSpec>,
    pub segments: Vec<SegmentSpec>,
    pub peers: Vec<PeerSpec>,
}

impl NetSpec {
    /// What `--nic MODEL` gives: one segment with a gateway that gives out addresses (10.0.2.15 first), resolves `gateway.test`, echoes on port 7, swallows
    /// on port 9 and serves HTTP on port 80.
    pub fn lan(models: &[NicModel]) -> Self {
        let address = Ipv4Addr::new(10, 0, 2, 2);
        Self {
            nics: models.iter().map(|&model| NicSpec { model, segment: None, mac: None }).collect(),
            segments: vec![SegmentSpec { name: "lan".to_owned(), latency: latency(), bandwidth: bandwidth(), queue: queue() }],
            peers: vec![PeerSpec {
                name: "gateway".to_owned(),
                segment: None,
                address: (address, 24),
                mac: None,
                dhcp: Some(DhcpSpec {
                    first: Ipv4Addr::new(10, 0, 2, 15),
                    last: Ipv4Addr::new(10, 0, 2, 99),
                    router: Some(address),
                    dns: Some(address),
                    lease_seconds: lease_seconds(),
                }),
                dns: BTreeMap::from([("gateway.test".to_owned(), address)]),
                echo: vec![7],
                sink: vec![9],
                source: Vec::new(),
                http: Some(80),
                clients: Vec::new(),
            }],
        }
    }

    /// The index of the segment that a NIC or peer names.
    pub(crate) fn segment(&self, name: Option<&str>) -> Option<usize> {
        match name {
            None => (!self.segments.is_empty()).then_some(0),
            Some(name) => self.segments.iter().position(|segment| segment.name == name),
        }
    }

    /// The address of a NIC.
    pub fn nic_mac(&self, nic: usize) -> Mac {
        let made = Mac([0x52, 0x54, 0x00, 0x12, 0x34, (0x56 + nic) as u8]);
        self.nics.get(nic).and_then(|spec| spec.mac).unwrap_or(made)
    }

    /// The address of a peer.
    pub fn peer_mac(&self, peer: usize) -> Mac {
        let made = Mac([0x52, 0x54, 0x00, 0xee, 0x00, peer as u8]);
        self.peers.get(peer).and_then(|spec| spec.mac).unwrap_or(made)
    }

    /// Checks everything that types cannot.
    pub fn check(&self) -> Result<(), NetError> {
        for (what, count, most) in [("NICs", self.nics.len(), NICS_MAX), ("segments", self.segments.len(), 64), ("peers", self.peers.len(), PEERS_MAX)] {
            if count > most {
                return Err(NetError::TooMany { what, most });
            }
        }
        let range = |name: &str, key, allowed| NetError::Range { name: name.to_owned(), key, allowed };
        let mut names = std::collections::BTreeSet::new();
        for segment in &self.segments {
            if !names.insert(("segment", segment.name.as_str())) {
                return Err(NetError::Twice { what: "segment", name: segment.name.clone() });
            }
            if !(1_000..=1_000_000_000_000).contains(&segment.bandwidth) {
                return Err(range(&segment.name, "bandwidth", "1K to 1000G"));
            }
            if !(1..=sim_bus::SECOND).contains(&segment.latency.0) {
                return Err(range(&segment.name, "latency", "1ns to 1s"));
            }
            if !(2_048..=1 << 30).contains(&segment.queue) {
                return Err(range(&segment.name, "queue", "2048 to 1073741824 bytes"));
            }
        }
        let nics = self.nics.iter().map(|nic| nic.segment.as_deref()).filter(|segment| *segment != Some(""));
        for segment in nics.chain(self.peers.iter().map(|peer| peer.segment.as_deref())) {
            if self.segment(segment).is_none() {
                return Err(NetError::Segment { name: segment.unwrap_or("(the first)").to_owned() });
            }
        }
        let mut macs = std::collections::BTreeSet::new();
        for mac in (0..self.nics.len()).map(|nic| self.nic_mac(nic)).chain((0..self.peers.len()).map(|peer| self.peer_mac(peer))) {
            if !macs.insert(mac) {
                return Err(NetError::Twice { what: "station", name: mac.to_string() });
            }
        }
        for peer in &self.peers {
            if !names.insert(("peer", peer.name.as_str())) {
                return Err(NetError::Twice { what: "peer", name: peer.name.clone() });
            }
            let ports: Vec<u16> = peer.echo.iter().chain(&peer.sink).copied().chain(peer.source.iter().map(|source| source.port)).chain(peer.http).collect();
            let unique: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
            if ports.len() > 16 || unique.len() != ports.len() || unique.contains(&0) {
                return Err(range(&peer.name, "echo, sink, source, http", "at most 16 different ports, none 0"));
            }
            if let Some(dhcp) = &peer.dhcp
                && (dhcp.first > dhcp.last || dhcp.lease_seconds < 10)
            {
                return Err(range(&peer.name, "dhcp", "first not after last, lease_seconds at least 10"));
            }
            if peer.source.iter().map(|source| source.bytes).chain(peer.clients.iter().map(|client| client.bytes)).any(|bytes| bytes > CONTENT_MAX) {
                return Err(range(&peer.name, "bytes", "at most 4294967296"));
            }
            if peer.clients.len() > 64 || peer.clients.iter().any(|client| client.tries == 0 || client.pause.0 == 0 || client.kind != ClientKind::Ping && client.port == 0) {
                return Err(range(&peer.name, "client", "at most 64, each with tries, pause and (but for pings) port above 0"));
            }
        }
        Ok(())
    }
}

/// Nanoseconds that `bytes` take at `bits_per_second`, rounded up. The frame's preamble, check sequence and gap (IEEE 802.3 §4.2.3) are 24 bytes more.
pub(crate) fn serialisation_ns(bytes: usize, bits_per_second: u64) -> Nanos {
    let bits = (bytes.max(60) as u128 + 24) * 8;
    u64::try_from((bits * 1_000_000_000).div_ceil(u128::from(bits_per_second.max(1)))).unwrap_or(u64::MAX)
}
