//! A peer's live stack: `smoltcp` with servers and clients on it. Not plain data: it is made again from the peer's log where a copy is needed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use sim_bus::Nanos;
use sim_core::Streams;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint, Ipv4Cidr};

use super::dhcp::Dhcp;
use super::link::Link;
use super::service::{Service, Talk};
use super::{Transfer, dns};
use crate::config::{ClientKind, ClientSpec, Mac, PeerSpec};

/// Connections a port takes at once.
const BACKLOG: usize = 4;
/// Bytes of a socket's buffer, each way.
const BUFFER: usize = 64 << 10;
/// Rounds of service in one turn: each moves at least a byte or a frame. What is left has its turn a microsecond later.
const ROUNDS_MAX: usize = 256;
/// A connection without a sign of life is given up after this.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Sockets that may wait out TIME-WAIT; the oldest give way.
const LINGERING_MAX: usize = 16;
/// First of the ports that clients use.
const EPHEMERAL: u16 = 49_152;
/// Payload of a ping.
const PING_BYTES: [u8; 56] = [0x6f; 56];

/// What of a host is plain data and outlives its stack.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Stations heard of.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    pub leases: BTreeMap<Mac, Ipv4Addr>,
    /// Clients that have begun their last try.
    pub clients_done: u64,
    /// How many stacks there were before this one.
    pub generation: u64,
}

/// A port that listens.
#[derive(Debug)]
struct Listener {
    port: u16,
    service: Service,
    handle: SocketHandle,
    talk: Option<Running>,
}

/// A conversation and when it began.
#[derive(Debug)]
struct Running {
    talk: Talk,
    remote: Option<IpEndpoint>,
    began: Nanos,
    /// Our half is closed.
    closed: bool,
    /// Where the connection stood when it was looked at last.
    last: tcp::State,
}

#[derive(Debug)]
enum ClientStage {
    /// Begins at this time.
    Waiting(Nanos),
    Connecting(SocketHandle),
    Talking(SocketHandle, Box<Running>),
    /// Sends the next ping at this time.
    Pinging { handle: SocketHandle, next: Nanos, sent: u32, heard: u32, began: Nanos },
    Done,
}

#[derive(Debug)]
struct Client {
    spec: ClientSpec,
    stage: ClientStage,
    tries: u32,
}

/// The stack.
pub struct Host {
    iface: Interface,
    sockets: SocketSet<'static>,
    link: Link,
    listeners: Vec<Listener>,
    /// Sockets in TIME-WAIT, oldest first.
    lingering: Vec<SocketHandle>,
    clients: Vec<Client>,
    udp_echo: Vec<SocketHandle>,
    resolver: Option<SocketHandle>,
    names: BTreeMap<String, Ipv4Addr>,
    pub dhcp: Option<Dhcp>,
    memory: Memory,
    /// Conversations that have ended since they were last taken.
    finished: Vec<Transfer>,
    next_port: u16,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("listeners", &self.listeners).field("clients", &self.clients).finish_non_exhaustive()
    }
}

fn instant(ns: Nanos) -> Instant {
    Instant::from_micros(i64::try_from(ns / 1000).unwrap_or(i64::MAX))
}

fn stream_socket() -> tcp::Socket<'static> {
    let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(vec![0; BUFFER]), tcp::SocketBuffer::new(vec![0; BUFFER]));
    socket.set_timeout(Some(TIMEOUT));
    socket.set_ack_delay(Some(Duration::from_millis(1)));
    socket
}

fn datagram_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16 << 10]);
    udp::Socket::new(buffer(), buffer())
}

impl Host {
    /// Brings a stack up at `now`.
    pub fn new(spec: &PeerSpec, mac: Mac, seed: u64, memory: Memory, now: Nanos) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        config.random_seed = Streams::new(seed).stream(&format!("peer.{}.{}", spec.name, memory.generation)).next_u64();
        let mut link = Link::default();
        let mut iface = Interface::new(config, &mut link, instant(now));
        let (address, prefix) = spec.address;
        iface.update_ip_addrs(|addresses| {
            // The list has room for two.
            let pushed = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, prefix)));
            assert!(pushed.is_ok(), "an interface has room for an address");
        });
        let mut sockets = SocketSet::new(Vec::new());
        let ports = spec.echo.iter().map(|&port| (port, Service::Echo));
        let ports = ports.chain(spec.sink.iter().map(|&port| (port, Service::Sink)));
        let ports = ports.chain(spec.source.iter().map(|source| (source.port, Service::Source { bytes: source.bytes, seed: source.seed })));
        let ports = ports.chain(spec.http.map(|port| (port, Service::Http)));
        let mut listeners = Vec::new();
        for (port, service) in ports {
            for _ in 0..BACKLOG {
                listeners.push(Listener { port, service, handle: sockets.add(stream_socket()), talk: None });
            }
        }
        let mut bound = |port: u16| {
            let mut socket = datagram_socket();
            // A fresh socket and a port above zero: binding has no other way to fail.
            let done = socket.bind(port);
            assert!(done.is_ok(), "port {port} of a fresh socket");
            sockets.add(socket)
        };
        let udp_echo = spec.echo.iter().map(|&port| bound(port)).collect();
        let resolver = (!spec.dns.is_empty()).then(|| bound(53));
        let clients = spec
            .clients
            .iter()
            .enumerate()
            .map(|(index, client)| {
                let done = memory.clients_done >> index & 1 != 0;
                let stage = if done { ClientStage::Done } else { ClientStage::Waiting(client.at.0.max(now)) };
                Client { spec: client.clone(), stage, tries: 0 }
            })
            .collect();
        let dhcp = spec.dhcp.clone().map(|dhcp| {
            let mut server = Dhcp::new(dhcp, spec.address, mac);
            server.leases.clone_from(&memory.leases);
            server
        });
        let next_port = EPHEMERAL + (memory.generation % 8_000) as u16;
        let mut host = Self { iface, sockets, link, listeners, lingering: Vec::new(), clients, udp_echo, resolver, names: spec.dns.clone(), dhcp, memory, finished: Vec::new(), next_port };
        host.introduce(address, mac, now);
        host
    }

    /// Tells a fresh stack the neighbours its predecessor knew, as ARP answers.
    fn introduce(&mut self, own: Ipv4Addr, mac: Mac, now: Nanos) {
        for (address, station) in &self.memory.neighbours {
            let mut frame = [&mac.0[..], &station.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
            frame.extend_from_slice(&station.0);
            frame.extend_from_slice(&address.octets());
            frame.extend_from_slice(&mac.0);
            frame.extend_from_slice(&own.octets());
            self.link.incoming.push_back(frame);
        }
        self.iface.poll(instant(now), &mut self.link, &mut self.sockets);
        self.link.outgoing.clear();
    }

    /// Takes a frame, or just time, and says what goes out.
    pub fn turn(&mut self, now: Nanos, frame: Option<&[u8]>) -> Vec<Vec<u8>> {
        if let Some(frame) = frame {
            match self.dhcp.as_mut().and_then(|server| server.answer(frame)) {
                Some(answer) => self.link.outgoing.extend(answer),
                None => {
                    self.learn(frame);
                    self.link.incoming.push_back(frame.to_vec());
                }
            }
        }
        for _ in 0..ROUNDS_MAX {
            let before = self.link.outgoing.len();
            self.iface.poll(instant(now), &mut self.link, &mut self.sockets);
            let moved = self.serve(now) | self.resolve() | self.play(now);
            if !moved && self.link.outgoing.len() == before {
                break;
            }
        }
        std::mem::take(&mut self.link.outgoing)
    }

    /// Notes who speaks: source addresses of ARP and IPv4.
    fn learn(&mut self, frame: &[u8]) {
        let (Some(station), Some(kind)) = (frame.get(6..12), frame.get(12..14)) else { return };
        let address = match kind {
            [8, 6] => frame.get(28..32),
            [8, 0] => frame.get(26..30),
            _ => None,
        };
        if let (Some(&[a, b, c, d]), Ok(station)) = (address, <[u8; 6]>::try_from(station)) {
            let (address, station) = (Ipv4Addr::new(a, b, c, d), Mac(station));
            let near = self.iface.ip_addrs().iter().any(|own| own.contains_addr(&IpAddress::Ipv4(address)));
            if near && !station.is_group() && !address.is_unspecified() && (self.memory.neighbours.len() < 64 || self.memory.neighbours.contains_key(&address)) {
                self.memory.neighbours.insert(address, station);
            }
        }
    }

    /// When it must have its turn without a frame.
    pub fn next_turn(&mut self, now: Nanos) -> Option<Nanos> {
        let stack = self.iface.poll_at(instant(now), &self.sockets).map(|at| u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000));
        let clients = self.clients.iter().filter_map(|client| match client.stage {
            ClientStage::Waiting(at) | ClientStage::Pinging { next: at, .. } => Some(at),
            ClientStage::Connecting(_) | ClientStage::Talking(..) | ClientStage::Done => None,
        });
        // Never at once: a stack that wants to be asked again at once is asked a microsecond later.
        clients.chain(stack).min().map(|at| at.max(now + 1000))
    }

    /// Whether nothing is going on that only the stack knows of: then it can be made afresh from [`Host::memory`].
    pub fn is_quiet(&mut self, now: Nanos) -> bool {
        let talking = self.listeners.iter().any(|listener| listener.talk.is_some() || self.sockets.get::<tcp::Socket<'_>>(listener.handle).state() != tcp::State::Listen);
        let busy = self.clients.iter().any(|client| !matches!(client.stage, ClientStage::Done));
        !talking && !busy && self.lingering.is_empty() && self.iface.poll_at(instant(now), &self.sockets).is_none()
    }

    /// What the next stack is to know.
    pub fn memory(&self) -> Memory {
        let mut memory = self.memory.clone();
        memory.leases = self.dhcp.as_ref().map(|server| server.leases.clone()).unwrap_or_default();
        memory.clients_done = self.clients.iter().enumerate().filter(|(_, client)| matches!(client.stage, ClientStage::Done)).fold(0, |done, (index, _)| done | 1 << index);
        memory
    }

    /// Conversations that have ended.
    pub fn take_finished(&mut self) -> Vec<Transfer> {
        std::mem::take(&mut self.finished)
    }

    /// Servers: listens where nobody talks, and lets those who talk go on. `true`: something moved.
    fn serve(&mut self, now: Nanos) -> bool {
        let mut moved = false;
        let crowd = self.lingering.len().saturating_sub(LINGERING_MAX);
        for index in (0..self.lingering.len()).rev() {
            let handle = self.lingering[index];
            if index < crowd || !self.sockets.get::<tcp::Socket<'_>>(handle).is_open() {
                self.sockets.remove(handle);
                self.lingering.remove(index);
            }
        }
        for listener in &mut self.listeners {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(listener.handle);
            if listener.talk.is_none() {
                match socket.state() {
                    tcp::State::Closed => {
                        // The port is not zero and the socket is closed: listening cannot fail.
                        let done = socket.listen(listener.port);
                        assert!(done.is_ok(), "port {}", listener.port);
                    }
                    tcp::State::Listen | tcp::State::SynReceived | tcp::State::TimeWait => {}
                    _ if socket.may_recv() || socket.may_send() => {
                        let talk = Talk::serve(listener.service);
                        listener.talk = Some(Running { talk, remote: socket.remote_endpoint(), began: now, closed: false, last: tcp::State::Established });
                        moved = true;
                    }
                    _ => {}
                }
            }
            if let Some(running) = &mut listener.talk {
                moved |= converse(socket, running);
                if let Some(complete) = outcome(socket, running) {
                    let waits = socket.state() == tcp::State::TimeWait;
                    self.finished.extend(listener.talk.take().map(|running| running.finish(listener.service.name(), now, complete)));
                    if waits {
                        // Its two minutes must not keep the port busy.
                        self.lingering.push(std::mem::replace(&mut listener.handle, self.sockets.add(stream_socket())));
                    }
                    moved = true;
                }
            }
        }
        moved
    }

    /// Datagram services.
    fn resolve(&mut self) -> bool {
        let mut moved = false;
        for &handle in &self.udp_echo {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
            while let Ok((bytes, from)) = socket.recv().map(|(bytes, from)| (bytes.to_vec(), from)) {
                // A full queue loses the answer, as a network may.
                moved |= socket.send_slice(&bytes, from.endpoint).is_ok();
            }
        }
        if let Some(handle) = self.resolver {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
            while let Ok((query, from)) = socket.recv().map(|(bytes, from)| (bytes.to_vec(), from)) {
                if let Some(answer) = dns::answer(&self.names, &query) {
                    moved |= socket.send_slice(&answer, from.endpoint).is_ok();
                }
            }
        }
        moved
    }

    /// Clients.
    fn play(&mut self, now: Nanos) -> bool {
        let mut moved = false;
        for index in 0..self.clients.len() {
            moved |= self.play_one(index, now);
        }
        moved
    }

    fn play_one(&mut self, index: usize, now: Nanos) -> bool {
        let client = &mut self.clients[index];
        let spec = client.spec.clone();
        let stage = std::mem::replace(&mut client.stage, ClientStage::Done);
        let (stage, moved) = match stage {
            ClientStage::Waiting(at) if at <= now => (self.begin(index, &spec, now), true),
            ClientStage::Connecting(handle) => {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
                if socket.may_send() {
                    let talk = match spec.kind {
                        ClientKind::Send => Talk::send(spec.bytes, spec.seed, true),
                        ClientKind::Echo => Talk::send(spec.bytes, spec.seed, false),
                        ClientKind::Get | ClientKind::Ping => Talk::get(&spec.path, &spec.to.to_string()),
                    };
                    (ClientStage::Talking(handle, Box::new(Running { talk, remote: socket.remote_endpoint(), began: now, closed: false, last: tcp::State::Established })), true)
                } else if socket.is_open() {
                    (ClientStage::Connecting(handle), false)
                } else {
                    self.sockets.remove(handle);
                    let client = &mut self.clients[index];
                    if client.tries < spec.tries {
                        (ClientStage::Waiting(now.saturating_add(spec.pause.0)), true)
                    } else {
                        let talk = Talk::send(0, 0, true);
                        self.finished.push(Running { talk, remote: None, began: now, closed: true, last: tcp::State::Closed }.finish("client, never connected", now, false));
                        (ClientStage::Done, true)
                    }
                }
            }
            ClientStage::Talking(handle, mut running) => {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
                let moved = converse(socket, &mut running);
                match outcome(socket, &mut running) {
                    None => (ClientStage::Talking(handle, running), moved),
                    Some(complete) => {
                        self.sockets.remove(handle);
                        self.finished.push(running.finish("client", now, complete));
                        (ClientStage::Done, true)
                    }
                }
            }
            ClientStage::Pinging { handle, next, sent, heard, began } => self.ping(&spec, index as u16, handle, (next, sent, heard, began), now),
            stage @ (ClientStage::Waiting(_) | ClientStage::Done) => (stage, false),
        };
        self.clients[index].stage = stage;
        moved
    }

    fn begin(&mut self, index: usize, spec: &ClientSpec, now: Nanos) -> ClientStage {
        if spec.kind == ClientKind::Ping {
            let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
            let mut socket = icmp::Socket::new(buffer(), buffer());
            let done = socket.bind(icmp::Endpoint::Ident(index as u16));
            assert!(done.is_ok(), "a fresh socket can be bound");
            return ClientStage::Pinging { handle: self.sockets.add(socket), next: now, sent: 0, heard: 0, began: now };
        }
        self.clients[index].tries += 1;
        let mut socket = stream_socket();
        let local = self.next_port;
        self.next_port = if local == u16::MAX { EPHEMERAL } else { local + 1 };
        match socket.connect(self.iface.context(), (IpAddress::Ipv4(spec.to), spec.port), local) {
            Ok(()) => ClientStage::Connecting(self.sockets.add(socket)),
            // No route, or an address that cannot be connected to: it will not get better.
            Err(_) => ClientStage::Done,
        }
    }

    fn ping(&mut self, spec: &ClientSpec, ident: u16, handle: SocketHandle, (next, mut sent, mut heard, began): (Nanos, u32, u32, Nanos), now: Nanos) -> (ClientStage, bool) {
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(handle);
        let mut moved = false;
        while let Ok((bytes, _)) = socket.recv() {
            let packet = Icmpv4Packet::new_checked(bytes).ok();
            let reply = packet.and_then(|packet| Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).is_ok_and(|repr| matches!(repr, Icmpv4Repr::EchoReply { data, .. } if data == PING_BYTES)).then_some(()));
            heard += u32::from(reply.is_some());
            moved = true;
        }
        if next > now && heard < spec.tries {
            return (ClientStage::Pinging { handle, next, sent, heard, began }, moved);
        }
        if sent == spec.tries || heard == spec.tries {
            self.sockets.remove(handle);
            let mut talk = Talk::send(0, 0, true);
            talk.label = format!("ping: {heard} of {sent} answered");
            let remote = Some(IpEndpoint::new(IpAddress::Ipv4(spec.to), 0));
            self.finished.push(Running { talk, remote, began, closed: true, last: tcp::State::Closed }.finish("client", now, heard == sent));
            return (ClientStage::Done, true);
        }
        let request = Icmpv4Repr::EchoRequest { ident, seq_no: sent as u16, data: &PING_BYTES };
        if let Ok(buffer) = socket.send(request.buffer_len(), IpAddress::Ipv4(spec.to)) {
            let mut packet = Icmpv4Packet::new_unchecked(buffer);
            request.emit(&mut packet, &ChecksumCapabilities::default());
        }
        sent += 1;
        (ClientStage::Pinging { handle, next: now.saturating_add(spec.pause.0), sent, heard, began }, true)
    }
}

impl Running {
    fn finish(self, service: &'static str, now: Nanos, complete: bool) -> Transfer {
        Transfer {
            service,
            what: self.talk.label.clone(),
            remote: self.remote.map(|remote| remote.to_string()).unwrap_or_default(),
            began_ns: self.began,
            ended_ns: now,
            received: self.talk.received.bytes,
            received_sum: self.talk.received.sum(),
            sent: self.talk.sent.bytes,
            sent_sum: self.talk.sent.sum(),
            status: self.talk.status,
            complete: complete && !self.talk.has_output(),
        }
    }
}

/// Moves bytes between a socket and a conversation. `true`: some moved.
fn converse(socket: &mut tcp::Socket<'_>, running: &mut Running) -> bool {
    let mut moved = false;
    while socket.can_recv() && running.talk.wants_input() {
        let took = socket.recv(|bytes| {
            running.talk.take(bytes);
            (bytes.len(), bytes.len())
        });
        match took {
            Ok(count) if count > 0 => moved = true,
            Ok(_) | Err(_) => break,
        }
    }
    if !socket.may_recv() && !socket.can_recv() {
        running.talk.ended();
    }
    while socket.can_send() && running.talk.has_output() {
        match socket.send(|room| {
            let count = running.talk.fill(room);
            (count, count)
        }) {
            Ok(count) if count > 0 => moved = true,
            Ok(_) | Err(_) => break,
        }
    }
    if running.talk.is_done() && !running.closed {
        running.closed = true;
        socket.close();
        moved = true;
    }
    moved
}

/// How a connection ended: `None`, it has not; `true`, in good order.
fn outcome(socket: &tcp::Socket<'_>, running: &mut Running) -> Option<bool> {
    match socket.state() {
        tcp::State::TimeWait => Some(true),
        // Both sides have closed and ours was acknowledged; from any other state it was cut off.
        tcp::State::Closed => Some(matches!(running.last, tcp::State::LastAck | tcp::State::Closing)),
        tcp::State::Listen
        | tcp::State::SynSent
        | tcp::State::SynReceived
        | tcp::State::Established
        | tcp::State::FinWait1
        | tcp::State::FinWait2
        | tcp::State::CloseWait
        | tcp::State::Closing
        | tcp::State::LastAck => {
            running.last = socket.state();
            None
        }
    }
}
