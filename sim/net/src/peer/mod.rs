//! A scripted computer: what it did is plain data, what does it is a stack that can be made again.
//!
//! # Theory
//! `smoltcp`'s sockets can neither be copied nor saved. But a peer is a function of its description and of what came in at which time, so its state *is* the
//! [`Peer::log`] of its turns. A copy shares the log and has no stack; when it is asked for its next turn, a stack is brought up and led through the log
//! (event sourcing). When a peer is quiet (nobody talks, no timer runs, and what it knows is [`Memory`]) and its log has grown, the stack is replaced by a
//! fresh one that is told its neighbours, and the log begins anew: so a log is never longer than one busy spell.
//!
//! The receipt gets a hash over all that went in and out.

mod content;
mod dhcp;
mod dns;
mod host;
mod link;
mod service;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use sim_bus::{Fields, Nanos};
use sim_core::{LoadError, Payload};

pub use content::{Content, Meter};
use host::{Host, Memory};

use crate::config::{Mac, PeerSpec};
use crate::tape::Tape;

/// Turns after which a quiet peer begins a new log.
const LOG_LENGTH: usize = 64;

/// A conversation of a peer that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// `echo`, `sink`, `source`, `http`, `client`.
    pub service: &'static str,
    /// The request, for HTTP and clients.
    pub what: String,
    pub remote: String,
    pub began_ns: Nanos,
    pub ended_ns: Nanos,
    /// Payload bytes and their SHA-256; of HTTP, the body's.
    pub received: u64,
    pub received_sum: String,
    pub sent: u64,
    pub sent_sum: String,
    /// Of HTTP.
    pub status: Option<u16>,
    /// Both sides closed in good order and nothing was left unsent.
    pub complete: bool,
}

/// A turn: at this time, with this frame or without one.
#[derive(Clone, Debug)]
struct Turn {
    ns: Nanos,
    frame: Option<Arc<[u8]>>,
}

/// The peer.
#[derive(Debug)]
pub struct Peer {
    spec: Arc<PeerSpec>,
    mac: Mac,
    seed: u64,
    /// What the present stack began with, and when.
    memory: Memory,
    began: Nanos,
    log: Tape<Turn>,
    next: Option<Nanos>,
    /// A chain over all turns: what went in and what came out.
    hash: [u8; 32],
    leases: BTreeMap<Mac, Ipv4Addr>,
    transfers: Tape<Transfer>,
    host: Option<Host>,
}

impl Clone for Peer {
    fn clone(&self) -> Self {
        Self {
            spec: self.spec.clone(),
            mac: self.mac,
            seed: self.seed,
            memory: self.memory.clone(),
            began: self.began,
            log: self.log.clone(),
            next: self.next,
            hash: self.hash,
            leases: self.leases.clone(),
            transfers: self.transfers.clone(),
            host: None,
        }
    }
}

impl Peer {
    pub fn new(spec: PeerSpec, mac: Mac, seed: u64) -> Self {
        let spec = Arc::new(spec);
        let mut host = Host::new(&spec, mac, seed, Memory::default(), 0);
        // Listening and clients begin with the first turn.
        let next = host.next_turn(0).or(Some(1000));
        Self {
            spec,
            mac,
            seed,
            memory: Memory::default(),
            began: 0,
            log: Tape::default(),
            next,
            hash: [0; 32],
            leases: BTreeMap::new(),
            transfers: Tape::default(),
            host: Some(host),
        }
    }

    pub fn spec(&self) -> &PeerSpec {
        &self.spec
    }

    /// When it has its turn without a frame.
    pub fn next(&self) -> Option<Nanos> {
        self.next
    }

    /// Conversations that have ended, in order.
    pub fn transfers(&self) -> impl Iterator<Item = &Transfer> {
        self.transfers.iter()
    }

    /// Addresses given out by DHCP.
    pub fn leases(&self) -> &BTreeMap<Mac, Ipv4Addr> {
        &self.leases
    }

    /// The stack, made again from the log if this is a copy.
    fn host(&mut self) -> &mut Host {
        let (spec, mac, seed, memory, began, log) = (&self.spec, self.mac, self.seed, &self.memory, self.began, &self.log);
        self.host.get_or_insert_with(|| {
            let mut host = Host::new(spec, mac, seed, memory.clone(), began);
            for turn in log.iter() {
                host.turn(turn.ns, turn.frame.as_deref());
                host.next_turn(turn.ns);
            }
            host.take_finished();
            host
        })
    }

    /// Has its turn; says what it sends.
    pub fn turn(&mut self, now: Nanos, frame: Option<Arc<[u8]>>) -> Vec<Vec<u8>> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hash);
        hasher.update(&now.to_le_bytes());
        hasher.update(frame.as_deref().unwrap_or_default());
        let host = self.host();
        let answers = host.turn(now, frame.as_deref());
        let next = host.next_turn(now);
        let finished = host.take_finished();
        let leases = host.dhcp.as_ref().map(|server| server.leases.clone()).unwrap_or_default();
        self.leases = leases;
        self.log.push(Turn { ns: now, frame });
        self.next = next;
        for transfer in finished {
            self.transfers.push(transfer);
        }
        for answer in &answers {
            hasher.update(&(answer.len() as u64).to_le_bytes());
            hasher.update(answer);
        }
        self.hash = *hasher.finalize().as_bytes();
        if self.log.len() >= LOG_LENGTH && answers.is_empty() {
            self.renew(now);
        }
        answers
    }

    /// Begins a new log if nothing is going on.
    fn renew(&mut self, now: Nanos) {
        let Some(host) = self.host.as_mut().filter(|_| self.next.is_none()) else { return };
        if !host.is_quiet(now) {
            return;
        }
        self.memory = host.memory();
        self.memory.generation += 1;
        self.began = now;
        self.log.clear();
        let mut host = Host::new(&self.spec, self.mac, self.seed, self.memory.clone(), now);
        // It listens from its first turn on.
        self.next = host.next_turn(now).or(Some(now + 1000));
        self.host = Some(host);
    }

    /// What the receipt sees.
    pub fn state(&mut self, fields: &mut dyn Fields) {
        // The log comes with the copy or with [`Peer::load`]; a state that is not the log's is refused.
        let mut hash = self.hash;
        fields.array("peer_hash", &mut hash);
        if hash != self.hash {
            fields.refuse("peer_hash");
        }
        let mut turns = self.log.len() as u64;
        fields.u64("peer_turns", &mut turns);
        let mut next = self.next;
        fields.option("peer_next", &mut next);
    }

    /// All of it, for another process: the log.
    pub fn save(&self) -> Payload {
        let mut payload = Payload::new("peer", 1);
        payload.bytes("hash", &self.hash).number("next", self.next.unwrap_or(u64::MAX));
        payload.number("began", self.began).number("generation", self.memory.generation).number("clients_done", self.memory.clients_done);
        let pairs = |pairs: Vec<([u8; 4], Mac)>| pairs.into_iter().flat_map(|(address, mac)| [&address[..], &mac.0].concat()).collect::<Vec<u8>>();
        payload.bytes("neighbours", &pairs(self.memory.neighbours.iter().map(|(address, mac)| (address.octets(), *mac)).collect()));
        payload.bytes("leases", &pairs(self.memory.leases.iter().map(|(mac, address)| (address.octets(), *mac)).collect()));
        let mut times = Vec::new();
        let mut frames = Vec::new();
        for turn in self.log.iter() {
            // A length of all ones is a turn without a frame.
            times.extend([turn.ns, turn.frame.as_ref().map_or(u64::MAX, |frame| frame.len() as u64)]);
            frames.extend_from_slice(turn.frame.as_deref().unwrap_or_default());
        }
        payload.put("turns", sim_core::Value::Numbers(times)).bytes("frames", &frames);
        payload
    }

    /// Puts back what [`Peer::save`] took. Transfers before the log's beginning stay with the other process.
    pub fn load(&mut self, from: &Payload) -> Result<(), LoadError> {
        from.expect("peer", 1)?;
        let mut memory = Memory { generation: from.get_number("generation")?, clients_done: from.get_number("clients_done")?, ..Memory::default() };
        let pairs = |name: &str| -> Result<Vec<(Ipv4Addr, Mac)>, LoadError> {
            let bytes = from.get_bytes(name)?;
            let pairs = bytes.chunks_exact(10).map(|pair| {
                let mut mac = [0; 6];
                mac.copy_from_slice(&pair[4..]);
                (Ipv4Addr::new(pair[0], pair[1], pair[2], pair[3]), Mac(mac))
            });
            if bytes.len().is_multiple_of(10) { Ok(pairs.collect()) } else { Err(from.refused(name)) }
        };
        memory.neighbours = pairs("neighbours")?.into_iter().collect();
        memory.leases = pairs("leases")?.into_iter().map(|(address, mac)| (mac, address)).collect();
        let (times, mut frames) = (from.get_numbers("turns")?, from.get_bytes("frames")?);
        let mut log = Tape::default();
        let mut last = from.get_number("began")?;
        for pair in times.chunks(2) {
            let &[ns, length] = pair else { return Err(from.refused("turns")) };
            let frame = match usize::try_from(length) {
                _ if length == u64::MAX => None,
                Ok(length) if length <= frames.len() => {
                    let (frame, rest) = frames.split_at(length);
                    frames = rest;
                    Some(Arc::from(frame))
                }
                Ok(_) | Err(_) => return Err(from.refused("frames")),
            };
            if ns < last {
                return Err(from.refused("turns"));
            }
            last = ns;
            log.push(Turn { ns, frame });
        }
        if !frames.is_empty() {
            return Err(from.refused("frames"));
        }
        self.began = from.get_number("began")?;
        self.memory = memory;
        self.log = log;
        self.hash.copy_from_slice(Some(from.get_bytes("hash")?).filter(|hash| hash.len() == 32).ok_or_else(|| from.refused("hash"))?);
        self.next = Some(from.get_number("next")?).filter(|next| *next != u64::MAX);
        self.host = None;
        self.leases = self.host().memory().leases;
        Ok(())
    }
}
