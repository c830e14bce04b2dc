//! The network around a machine: segments with learning switches, scripted peers, faults, captures. All of it in virtual time.
//!
//! # Theory
//! A [`Net`] is what [`sim_bus::Network`] asks for: NICs send frames into it and take frames from it; everything else happens in events of its own at exact
//! virtual times, so two runs are the same run. A frame from a station takes its length at the segment's bandwidth to leave, then the segment's latency to
//! reach the switch. The switch learns who is where (IEEE 802.1D §7.8) and queues the frame at the ports it leaves by, where it takes its length
//! again. A port whose queue is full drops.
//!
//! Peers are computers with `smoltcp` as their stack (`peer`): DHCP, DNS, ping, TCP and UDP echo, bulk data with checksums, an HTTP server, clients of all of them.
//!
//! *Faults* are middleware at a NIC's port (`fault`), triggered as `sim-fault` says: by time, the n-th frame, a marker, a chance from a named stream.
//!
//! # Structures
//! ```text
//!  NIC --send--> Port (faults) --serialise, latency--> Switch --queue, serialise--> Port (faults) --> NIC inbox | Peer::turn --+
//!                  ^                                                                                                          |
//!                  +----------------------------------------- frames that the peer sends ------------------------------------+
//! ```
//! [`config`] (the TOML tables) is apart from the rest. Frames are shared (`Arc`): the capture, the inbox and a peer's log hold the same bytes.
//!
//! # Failure
//! Frames are the guest's: peers and switch take any bytes. Runts (below 14 bytes) and giants (above [`FRAME_MAX`]) are dropped and counted. Descriptions that make
//! no sense give [`NetError`].
//!
//! # Limits
//! 8 NICs, 64 segments, 64 peers; 1,024 stations in a switch; [`INBOX_MAX`] frames in a NIC's inbox; [`CAPTURE_MAX`] bytes in a NIC's capture, later frames are counted
//! only. IPv4 only. No VLANs, no spanning tree: segments are not joined but by the guest.
//!
//! # Reading order
//! `config.rs`, `lib.rs`, `port.rs`, `fault.rs`, `peer/mod.rs`, `peer/host.rs`, `peer/service.rs`.

pub mod config;
mod fault;
mod fuzz;
pub mod pcapng;
mod peer;
mod port;
mod tape;

use std::collections::BTreeMap;
use std::sync::Arc;

use sim_bus::{Fields, Nanos, Network, Point, WireId};
use sim_core::{EventQueue, LoadError, Payload, Streams};

pub use config::{ClientKind, ClientSpec, DhcpSpec, Mac, NetError, NetSpec, NicModel, NicSpec, PeerSpec, SegmentSpec, SourceSpec, parse_rate};
pub use fuzz::fuzz;
pub use pcapng::Direction;
pub use peer::{Content, Meter, Peer, Transfer};
pub use port::{Captured, Counters};

use fault::Faults;
use port::Port;

/// The longest frame a segment carries: 1,500 bytes of payload and a VLAN tag.
pub const FRAME_MAX: usize = 1518;
/// The shortest: two addresses and a type.
pub const FRAME_MIN: usize = 14;
/// Frames that wait for a NIC at most.
pub const INBOX_MAX: usize = 512;
/// Bytes of one NIC's capture at most.
pub const CAPTURE_MAX: u64 = 256 << 20;
/// Frames on their way at once at most; what comes then is dropped.
pub(crate) const FLIGHTS_MAX: usize = 1 << 18;
/// Stations a switch remembers.
const STATIONS_MAX: usize = 1024;

/// A frame on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flight {
    /// Reaches the switch of the port's segment.
    Switch { port: u16, frame: Arc<[u8]> },
    /// Reaches the station at the port.
    Station { port: u16, frame: Arc<[u8]> },
    /// A frame that a fault held back is sent on towards the switch, or (`inward`) to the station.
    Held { port: u16, inward: bool, frame: Arc<[u8]> },
    /// A fault of time may begin or end at the port.
    Look { port: u16 },
}

/// A segment's switch.
#[derive(Clone, Debug)]
struct Switch {
    latency: Nanos,
    bandwidth: u64,
    queue: u64,
    ports: Vec<u16>,
    stations: BTreeMap<Mac, u16>,
}

/// The network.
#[derive(Clone, Debug)]
pub struct Net {
    spec: Arc<NetSpec>,
    switches: Vec<Switch>,
    /// NICs first, in order, then peers.
    ports: Vec<Port>,
    peers: Vec<Peer>,
    flights: EventQueue<Flight>,
    /// Ports of NICs with news since the last turn.
    news: Vec<WireId>,
    /// Peers that have been due since before this was looked at are served at the next advance.
    dropped: u64,
}

impl Net {
    /// Builds a network. `faults` is the board's plan: those about NICs are this crate's.
    pub fn new(spec: &NetSpec, faults: &[sim_fault::Fault], seed: u64) -> Result<Net, NetError> {
        spec.check()?;
        if let Some((fault, nic)) = fault::missing(faults, spec.nics.len()) {
            return Err(NetError::Nic { fault, nic });
        }
        let streams = Streams::new(seed);
        let mut switches: Vec<Switch> = spec
            .segments
            .iter()
            .map(|segment| Switch { latency: segment.latency.0, bandwidth: segment.bandwidth, queue: segment.queue, ports: Vec::new(), stations: BTreeMap::new() })
            .collect();
        let cables = spec.nics.iter().map(|nic| if nic.segment.as_deref() == Some("") { None } else { spec.segment(nic.segment.as_deref()) });
        let cables = cables.chain(spec.peers.iter().map(|peer| spec.segment(peer.segment.as_deref())));
        let mut ports = Vec::new();
        for (index, segment) in cables.enumerate() {
            if let Some(switch) = segment.and_then(|segment| switches.get_mut(segment)) {
                switch.ports.push(index as u16);
            }
            let faults = if index < spec.nics.len() { Faults::new(faults, index as u8, &streams) } else { Faults::default() };
            ports.push(Port::new(segment, faults));
        }
        let peers = spec.peers.iter().enumerate().map(|(index, peer)| Peer::new(peer.clone(), spec.peer_mac(index), seed)).collect();
        let mut net = Net { spec: Arc::new(spec.clone()), switches, ports, peers, flights: EventQueue::new(), news: Vec::new(), dropped: 0 };
        for port in 0..net.spec.nics.len() {
            net.look_later(port as u16, Point::default());
        }
        Ok(net)
    }

    /// The description it was built from.
    pub fn spec(&self) -> &NetSpec {
        &self.spec
    }

    /// A NIC's frames, in order.
    pub fn captured(&self, nic: usize) -> impl Iterator<Item = &Captured> {
        self.ports.iter().take(self.spec.nics.len()).skip(nic).take(1).flat_map(|port| port.capture.iter())
    }

    /// A NIC's capture as a pcapng file. `epoch_ns` is the Unix time of power-on.
    pub fn pcapng(&self, nic: usize, epoch_ns: u64) -> Vec<u8> {
        pcapng::write(&format!("nic{nic}"), epoch_ns, self.captured(nic).map(|captured| (captured.ns, captured.direction, &captured.frame[..])))
    }

    /// What a NIC's port counted.
    pub fn counters(&self, nic: usize) -> Option<&Counters> {
        self.ports.get(nic).filter(|_| nic < self.spec.nics.len()).map(|port| &port.counters)
    }

    /// Conversations of peers that have ended: the peer's name and the conversation.
    pub fn transfers(&self) -> impl Iterator<Item = (&str, &Transfer)> {
        self.peers.iter().flat_map(|peer| peer.transfers().map(|transfer| (peer.spec().name.as_str(), transfer)))
    }

    /// Addresses given out: the server's name, the station, its address.
    pub fn leases(&self) -> impl Iterator<Item = (&str, Mac, std::net::Ipv4Addr)> {
        self.peers.iter().flat_map(|peer| peer.leases().iter().map(|(mac, address)| (peer.spec().name.as_str(), *mac, *address)))
    }

    /// Lines that say what happened: leases, conversations, counters. For reports and goldens of a reviewed run.
    pub fn report(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (server, mac, address) in self.leases() {
            lines.push(format!("{server}: lease {address} to {mac}"));
        }
        for (peer, transfer) in self.transfers() {
            let state = if transfer.complete { "complete" } else { "CUT OFF" };
            let status = transfer.status.map_or_else(String::new, |status| format!(" status {status}"));
            let sums = [("received", transfer.received, &transfer.received_sum), ("sent", transfer.sent, &transfer.sent_sum)];
            let sums: Vec<String> = sums.iter().filter(|(_, bytes, _)| *bytes > 0).map(|(word, bytes, sum)| format!("{word} {bytes} sha256 {sum}")).collect();
            lines.push(format!("{peer}: {} {} {}{status} {state} {}", transfer.service, transfer.what, transfer.remote, sums.join(" ")).trim_end().to_owned());
        }
        for nic in 0..self.spec.nics.len() {
            let Some(counters) = self.counters(nic) else { continue };
            let mut line = format!("nic{nic}: sent {} frames {} bytes, received {} frames {} bytes", counters.sent, counters.sent_bytes, counters.received, counters.received_bytes);
            for (word, count) in [("malformed", counters.malformed), ("overflow", counters.overflow), ("faults", counters.faults), ("not captured", counters.not_captured)] {
                if count > 0 {
                    line.push_str(&format!(", {word} {count}"));
                }
            }
            lines.push(line);
        }
        if self.dropped > 0 {
            lines.push(format!("switches: {} frames dropped at full queues", self.dropped));
        }
        lines
    }

    /// Sends a frame of a station on its way to the switch; returns when its last bit has left.
    fn leave(&mut self, at: Nanos, port: u16, frame: Arc<[u8]>) -> Nanos {
        let Some(station) = self.ports.get_mut(usize::from(port)) else { return at };
        let Some(switch) = station.segment.and_then(|segment| self.switches.get(segment)) else { return at };
        let rate = station.faults.rate(at).map_or(switch.bandwidth, |limit| limit.min(switch.bandwidth));
        let done = station.out_free.max(at).saturating_add(config::serialisation_ns(frame.len(), rate));
        if self.flights.len() >= FLIGHTS_MAX {
            self.dropped += 1;
            return at;
        }
        station.out_free = done;
        self.flights.post(done.saturating_add(switch.latency), Flight::Switch { port, frame });
        done
    }

    /// The switch has a frame from `port`.
    fn forward(&mut self, at: Nanos, port: u16, frame: &Arc<[u8]>) {
        let Some(segment) = self.ports.get(usize::from(port)).and_then(|port| port.segment) else { return };
        let Some(switch) = self.switches.get_mut(segment) else { return };
        let (target, source) = (address(frame, 0), address(frame, 6));
        if !source.is_group() && (switch.stations.len() < STATIONS_MAX || switch.stations.contains_key(&source)) {
            switch.stations.insert(source, port);
        }
        let known = if target.is_group() { None } else { switch.stations.get(&target).copied() };
        let targets: Vec<u16> = match known {
            Some(known) => [known].into_iter().filter(|known| *known != port).collect(),
            None => switch.ports.iter().copied().filter(|other| *other != port).collect(),
        };
        let (queue, bandwidth) = (switch.queue, switch.bandwidth);
        for target in targets {
            let Some(station) = self.ports.get_mut(usize::from(target)) else { continue };
            let rate = station.faults.rate(at).map_or(bandwidth, |limit| limit.min(bandwidth));
            let begin = station.in_free.max(at);
            // What waits, in bytes, is the time it will take.
            let waiting = u128::from(begin - at) * u128::from(rate) / 8 / 1_000_000_000;
            if waiting > u128::from(queue) || self.flights.len() >= FLIGHTS_MAX {
                self.dropped += 1;
                continue;
            }
            station.in_free = begin.saturating_add(config::serialisation_ns(frame.len(), rate));
            self.flights.post(station.in_free, Flight::Station { port: target, frame: frame.clone() });
        }
    }

    /// A frame has come to the end of its way.
    fn arrive(&mut self, at: Point, port: u16, frame: Arc<[u8]>) {
        let nics = self.spec.nics.len();
        let index = usize::from(port);
        if index < nics {
            if let Some(station) = self.ports.get_mut(index)
                && station.faults.is_up(at.ns)
            {
                station.deliver(at.ns, frame);
                self.tell(port);
            }
        } else {
            self.turn(at.ns, index - nics, Some(frame));
        }
    }

    /// A peer has its turn.
    fn turn(&mut self, now: Nanos, peer: usize, frame: Option<Arc<[u8]>>) {
        let Some(turned) = self.peers.get_mut(peer) else { return };
        let port = (self.spec.nics.len() + peer) as u16;
        for frame in turned.turn(now, frame) {
            self.leave(now, port, frame.into());
        }
    }

    fn tell(&mut self, port: u16) {
        let wire = WireId(port as u8);
        if !self.news.contains(&wire) {
            self.news.push(wire);
        }
    }

    /// A frame comes by a NIC's port: its faults decide what goes on. Returns when the frame has left the NIC.
    fn pass(&mut self, at: Point, port: u16, inward: bool, frame: Arc<[u8]>) -> Nanos {
        let Some(station) = self.ports.get_mut(usize::from(port)) else { return at.ns };
        let verdict = station.faults.frame(at, inward, frame);
        station.counters.faults += u64::from(verdict.struck);
        if verdict.link_changed {
            self.tell(port);
        }
        self.look_later(port, at);
        let mut done = at.ns;
        for (delay, frame) in verdict.frames {
            if delay > 0 {
                self.flights.post(at.ns.saturating_add(delay), Flight::Held { port, inward, frame });
            } else if inward {
                self.arrive(at, port, frame);
            } else {
                done = done.max(self.leave(at.ns, port, frame));
            }
        }
        done
    }

    /// Asks for a look at a port when its faults want one.
    fn look_later(&mut self, port: u16, at: Point) {
        if let Some(station) = self.ports.get_mut(usize::from(port))
            && let Some(when) = station.faults.next_look(at)
        {
            self.flights.post(when, Flight::Look { port });
        }
    }

    fn land(&mut self, at: Point, flight: Flight) {
        match flight {
            Flight::Switch { port, frame } => self.forward(at.ns, port, &frame),
            Flight::Station { port, frame } if usize::from(port) < self.spec.nics.len() => {
                self.pass(at, port, true, frame);
            }
            Flight::Station { port, frame } => self.arrive(at, port, frame),
            Flight::Held { port, inward: true, frame } => self.arrive(at, port, frame),
            Flight::Held { port, inward: false, frame } => {
                self.leave(at.ns, port, frame);
            }
            Flight::Look { port } => {
                let Some(station) = self.ports.get_mut(usize::from(port)) else { return };
                if station.faults.look(at) {
                    self.tell(port);
                }
                self.look_later(port, at);
            }
        }
    }
}

/// An address in a frame; frames are checked for their length when they come in.
fn address(frame: &[u8], at: usize) -> Mac {
    let mut mac = [0; 6];
    if let Some(bytes) = frame.get(at..at + 6) {
        mac.copy_from_slice(bytes);
    }
    Mac(mac)
}

impl Network for Net {
    fn send(&mut self, at: Point, wire: WireId, frame: &[u8]) -> Nanos {
        let port = u16::from(wire.0);
        let nics = self.spec.nics.len();
        let Some(station) = self.ports.get_mut(usize::from(port)).filter(|_| usize::from(port) < nics) else { return at.ns };
        if !(FRAME_MIN..=FRAME_MAX).contains(&frame.len()) {
            station.counters.malformed += 1;
            return at.ns;
        }
        let frame: Arc<[u8]> = frame.into();
        station.sent(at.ns, &frame);
        if !station.faults.is_up(at.ns) {
            return at.ns;
        }
        self.pass(at, port, false, frame)
    }

    fn receive(&mut self, wire: WireId) -> Option<Arc<[u8]>> {
        self.ports.get_mut(usize::from(wire.0))?.inbox.pop_front()
    }

    fn has_frame(&self, wire: WireId) -> bool {
        self.ports.get(usize::from(wire.0)).is_some_and(|port| !port.inbox.is_empty())
    }

    fn is_up(&self, wire: WireId) -> bool {
        self.ports.get(usize::from(wire.0)).is_some_and(|port| port.segment.is_some() && port.faults.link)
    }

    fn next_event(&self) -> Option<Nanos> {
        if !self.news.is_empty() {
            return Some(0);
        }
        self.peers.iter().filter_map(Peer::next).chain(self.flights.next_at()).min()
    }

    fn advance(&mut self, at: Point) -> Vec<WireId> {
        loop {
            let flight = self.flights.next_at();
            let peer = self.peers.iter().enumerate().filter_map(|(index, peer)| Some((peer.next()?, index))).min();
            // Frames before peers' timers, peers in order.
            match (flight, peer) {
                (Some(ns), peer) if ns <= at.ns && peer.is_none_or(|(other, _)| ns <= other) => {
                    if let Some((_, flight)) = self.flights.pop_due(ns) {
                        self.land(Point { ns, ..at }, flight);
                    }
                }
                (_, Some((ns, peer))) if ns <= at.ns => self.turn(ns, peer, None),
                _ => return std::mem::take(&mut self.news),
            }
        }
    }

    fn fork(&self) -> Box<dyn Network> {
        Box::new(self.clone())
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        for port in &mut self.ports {
            port.state(fields);
        }
        for switch in &mut self.switches {
            let mut stations: Vec<u8> = switch.stations.iter().flat_map(|(mac, port)| [&mac.0[..], &port.to_le_bytes()].concat()).collect();
            fields.bytes("stations", &mut stations);
            switch.stations = stations.chunks_exact(8).map(|row| (address(row, 0), u16::from_le_bytes([row[6], row[7]]))).collect();
        }
        fields.u64("dropped", &mut self.dropped);
        port::flights_state(&mut self.flights, self.ports.len() as u16, fields);
        let mut news: Vec<u8> = self.news.iter().map(|wire| wire.0).collect();
        fields.bytes("news", &mut news);
        self.news = news.into_iter().map(WireId).collect();
        for peer in &mut self.peers {
            peer.state(fields);
        }
    }

    fn save(&self) -> Payload {
        let mut fields = sim_bus::SaveFields::new("network", 1);
        // The walk takes `&mut`, so it goes over a copy, which is cheap.
        self.clone().state(&mut fields);
        let mut payload = Payload::new("network-all", 1);
        payload.put("state", sim_core::Value::Nested(fields.finish()));
        payload.put("peers", sim_core::Value::List(self.peers.iter().map(Peer::save).collect()));
        payload
    }

    fn load(&mut self, from: &Payload) -> Result<(), LoadError> {
        from.expect("network-all", 1)?;
        let peers = from.get_list("peers")?;
        if peers.len() != self.peers.len() {
            return Err(from.refused("peers"));
        }
        for (peer, saved) in self.peers.iter_mut().zip(peers) {
            peer.load(saved)?;
        }
        sim_bus::load("network", 1, from.get_nested("state")?, &mut |fields| self.state(fields))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
