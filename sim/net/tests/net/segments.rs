use std::net::Ipv4Addr;

use sim_bus::{HashFields, Network, Point, WireId};
use sim_core::Payload;
use sim_fault::{Fault, FaultTable};
use sim_net::{ClientKind, ClientSpec, Content, Mac, Net, NetError, NetSpec, NicModel, Peer, PeerSpec, Transfer};

const SECOND: u64 = sim_bus::SECOND;

fn client(kind: ClientKind, port: u16, bytes: u64, path: &str) -> ClientSpec {
    ClientSpec {
        kind,
        at: sim_fault::Span(1_000_000),
        to: Ipv4Addr::new(10, 0, 2, 2),
        port,
        bytes,
        seed: 7,
        path: path.to_owned(),
        tries: 3,
        pause: sim_fault::Span(SECOND),
    }
}

fn station(clients: Vec<ClientSpec>) -> PeerSpec {
    PeerSpec {
        name: "station".to_owned(),
        segment: None,
        address: (Ipv4Addr::new(10, 0, 2, 50), 24),
        mac: None,
        dhcp: None,
        dns: Default::default(),
        echo: Vec::new(),
        sink: Vec::new(),
        source: Vec::new(),
        http: None,
        clients,
    }
}

fn everything() -> Vec<ClientSpec> {
    vec![
        client(ClientKind::Send, 9, 300_000, ""),
        client(ClientKind::Echo, 7, 100_000, ""),
        client(ClientKind::Get, 80, 0, "/bulk/200000/5"),
        client(ClientKind::Get, 80, 0, "/nothing"),
        client(ClientKind::Ping, 0, 0, ""),
        client(ClientKind::Send, 4444, 10, ""),
    ]
}

/// Runs a network alone to a time, in steps no longer than `step`.
fn run(net: &mut Net, until: u64, step: u64) {
    let mut now = 0;
    while let Some(at) = net.next_event().filter(|at| *at <= until) {
        // The board may look late, never early.
        now = at.max(now).next_multiple_of(step);
        net.advance(Point { ns: now, ..Point::default() });
    }
}

/// A guest of a kind: a peer's stack behind NIC 0.
#[derive(Clone)]
struct Guest {
    net: Net,
    peer: Peer,
    now: u64,
}

impl Guest {
    fn new(faults: &[Fault], clients: Vec<ClientSpec>) -> Self {
        let spec = NetSpec::lan(&[NicModel::VirtioNet]);
        let net = Net::new(&spec, faults, 1).expect("a good description");
        Self { net, peer: Peer::new(station(clients), spec.nic_mac(0), 3), now: 0 }
    }

    fn turn(&mut self, frame: Option<std::sync::Arc<[u8]>>) {
        for answer in self.peer.turn(self.now, frame) {
            self.net.send(Point { ns: self.now, ..Point::default() }, WireId(0), &answer);
        }
    }

    fn run(&mut self, until: u64) {
        loop {
            let net = self.net.next_event();
            let peer = self.peer.next();
            let Some(next) = net.into_iter().chain(peer).min().filter(|next| *next <= until) else { return };
            self.now = self.now.max(next);
            if net.is_some_and(|at| at <= self.now) {
                self.net.advance(Point { ns: self.now, ..Point::default() });
                while let Some(frame) = self.net.receive(WireId(0)) {
                    self.turn(Some(frame));
                }
            }
            if self.peer.next().is_some_and(|at| at <= self.now) {
                self.turn(None);
            }
        }
    }

    fn hash(&mut self) -> Vec<u8> {
        let mut fields = HashFields::default();
        self.net.state(&mut fields);
        self.peer.state(&mut fields);
        fields.bytes
    }
}

fn table(kind: &str, change: impl FnOnce(&mut FaultTable)) -> Fault {
    let mut table = FaultTable { name: kind.to_owned(), kind: kind.to_owned(), nic: Some(0), strikes: Some(0), ..FaultTable::default() };
    change(&mut table);
    Fault::try_from(table).expect("a good fault")
}

fn all_done(transfers: &[Transfer]) {
    let find = |what: &str| transfers.iter().find(|transfer| transfer.what == what).unwrap_or_else(|| panic!("no `{what}` in {transfers:#?}"));
    let sum = Content::new(7, 300_000).sum();
    let send = find("send");
    assert!(send.complete && send.sent == 300_000 && send.sent_sum == sum);
    assert_eq!(send.received, format!("{sum} 300000\n").len() as u64, "the sink's answer");
    let echo = find("echo");
    assert!(echo.complete && echo.sent_sum == echo.received_sum && echo.received == 100_000);
    let get = find("GET /bulk/200000/5");
    assert_eq!((get.status, get.received, &get.received_sum, get.complete), (Some(200), 200_000, &Content::new(5, 200_000).sum(), true));
    assert_eq!(find("GET /nothing").status, Some(404));
    assert!(find("ping: 3 of 3 answered").complete);
    assert!(transfers.iter().any(|transfer| transfer.service == "client, never connected"));
}

#[test]
fn peers_serve_each_other_and_the_sums_are_right() {
    let mut spec = NetSpec::lan(&[]);
    spec.peers.push(station(everything()));
    let mut net = Net::new(&spec, &[], 1).expect("a good description");
    run(&mut net, 60 * SECOND, 1);
    let of = |name: &str| net.transfers().filter(|(peer, _)| *peer == name).map(|(_, transfer)| transfer.clone()).collect::<Vec<_>>();
    all_done(&of("station"));
    let served = of("gateway");
    let sink = served.iter().find(|transfer| transfer.service == "sink").expect("the sink");
    assert_eq!((sink.received, &sink.received_sum, sink.complete), (300_000, &Content::new(7, 300_000).sum(), true));
    assert_eq!(served.len(), 4, "{served:#?}");
}

#[test]
fn the_same_network_runs_the_same_and_forks_go_on_alike() {
    let mut whole = Guest::new(&[], everything());
    whole.run(60 * SECOND);
    all_done(&whole.peer.transfers().cloned().collect::<Vec<_>>());
    let mut cut = Guest::new(&[], everything());
    for at in [500_000, 1_500_000, 3_000_000, 10_000_000, 2 * SECOND, 20 * SECOND] {
        cut.run(at);
        let mut other = cut.clone();
        assert_eq!(cut.hash(), other.hash());
        // The copy goes on; the original is thrown away.
        std::mem::swap(&mut cut, &mut other);
    }
    cut.run(60 * SECOND);
    assert_eq!(cut.hash(), whole.hash());
    assert_eq!(cut.net.report(), whole.net.report());
    assert_eq!(cut.net.pcapng(0, 0), whole.net.pcapng(0, 0));
}

#[test]
fn a_saved_network_goes_on_in_another_process() {
    for at in [1_200_000, 5_000_000, 40 * SECOND] {
        let mut guest = Guest::new(&[table("reorder", |table| table.every = Some(5))], everything());
        guest.run(at);
        let bytes = guest.net.save().encode();
        let mut loaded = guest.clone();
        loaded.net = Net::new(guest.net.spec(), &[table("reorder", |table| table.every = Some(5))], 1).expect("a good description");
        loaded.net.load(&Payload::decode(&bytes).expect("whole")).expect("of the same description");
        assert_eq!(loaded.hash(), guest.hash(), "at {at}");
        guest.run(60 * SECOND);
        loaded.run(60 * SECOND);
        assert_eq!(loaded.hash(), guest.hash(), "at {at}");
        let mut other = Net::new(&NetSpec::default(), &[], 1).expect("an empty description");
        assert!(other.load(&Payload::decode(&bytes).expect("whole")).is_err());
    }
}

#[test]
fn tcp_survives_every_fault_of_a_nic() {
    let percent = |kind: &str, part: f64| table(kind, |table| table.probability = Some(part));
    let for_a_while = |kind: &str| {
        table(kind, |table| {
            table.at = Some(sim_fault::Span(3_000_000));
            table.duration = Some(sim_fault::Span(200_000_000));
            table.strikes = Some(1);
            table.rate = Some(2_000_000);
        })
    };
    let delay = table("delay", |table| {
        table.every = Some(3);
        table.duration = Some(sim_fault::Span(300_000));
    });
    for fault in [
        percent("drop", 0.03),
        percent("duplicate", 0.2),
        percent("reorder", 0.05),
        percent("corrupt-frame", 0.03),
        delay,
        for_a_while("rate-limit"),
        for_a_while("link-down"),
        for_a_while("partition"),
    ] {
        let name = fault.name.clone();
        let mut guest = Guest::new(std::slice::from_ref(&fault), vec![client(ClientKind::Send, 9, 300_000, ""), client(ClientKind::Echo, 7, 100_000, "")]);
        guest.run(200 * SECOND);
        let transfers: Vec<Transfer> = guest.peer.transfers().cloned().collect();
        assert!(transfers.len() == 2 && transfers.iter().all(|transfer| transfer.complete), "{name}: {transfers:#?}");
        let echo = transfers.iter().find(|transfer| transfer.what == "echo").expect("the echo");
        assert_eq!(echo.sent_sum, echo.received_sum, "{name}");
        let sink = guest.net.transfers().find(|(_, transfer)| transfer.service == "sink").expect("the sink").1.clone();
        assert_eq!((sink.received, &sink.received_sum), (300_000, &Content::new(7, 300_000).sum()), "{name}");
        let struck = guest.net.counters(0).expect("nic 0").faults;
        assert!(name == "rate-limit" || struck > 0, "{name} struck nothing");
    }
}

#[test]
fn the_link_goes_down_and_comes_back_at_its_times() {
    let fault = table("link-down", |table| {
        table.at = Some(sim_fault::Span(1_000));
        table.duration = Some(sim_fault::Span(5_000));
        table.strikes = Some(1);
    });
    let mut net = Net::new(&NetSpec::lan(&[NicModel::E1000e]), &[fault], 1).expect("a good description");
    let mut seen = Vec::new();
    while let Some(at) = net.next_event().filter(|at| *at < 100_000) {
        if net.advance(Point { ns: at, ..Point::default() }).contains(&WireId(0)) {
            seen.push((at, net.is_up(WireId(0))));
        }
    }
    assert_eq!(seen, [(1_000, false), (6_000, true)]);
}

#[test]
fn frames_take_their_time_and_go_where_the_switch_learnt() {
    let mut net = Net::new(&NetSpec { peers: Vec::new(), ..NetSpec::lan(&[NicModel::VirtioNet, NicModel::E1000e, NicModel::E1000e]) }, &[], 1).expect("good");
    let mac = |nic: usize| net.spec().nic_mac(nic).0;
    let frame = |to: [u8; 6], from: [u8; 6]| [&to[..], &from, &[0x88, 0xb5], &[0; 986]].concat();
    let (first, answer) = (frame([0xff; 6], mac(0)), frame(mac(0), mac(1)));
    // 1,024 bytes with the gap at 1 Gbit/s: 8,192 ns; then 10 µs, then 8,192 ns again.
    assert_eq!(net.send(Point::default(), WireId(0), &first), 8_192);
    assert_eq!(net.send(Point::default(), WireId(0), &first), 16_384, "one after the other");
    let mut arrivals = Vec::new();
    while let Some(at) = net.next_event() {
        arrivals.extend(net.advance(Point { ns: at, ..Point::default() }).into_iter().map(|wire| (at, wire.0)));
    }
    assert_eq!(arrivals, [(26_384, 1), (26_384, 2), (34_576, 1), (34_576, 2)]);
    net.send(Point { ns: 50_000, ..Point::default() }, WireId(1), &answer);
    let mut arrivals = Vec::new();
    while let Some(at) = net.next_event() {
        arrivals.extend(net.advance(Point { ns: at, ..Point::default() }).into_iter().map(|wire| wire.0));
    }
    assert_eq!(arrivals, [0], "only to the station that was heard");
    for bad in [&[0u8; 13][..], &[0; 1519]] {
        net.send(Point { ns: 90_000, ..Point::default() }, WireId(0), bad);
    }
    assert_eq!(net.counters(0).expect("nic 0").malformed, 2);
}

#[test]
fn dhcp_gives_the_same_station_the_same_address() {
    let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    let spec = NetSpec::lan(&[NicModel::VirtioNet]);
    let discover = |kind: u8, wanted: Option<[u8; 4]>| {
        let mut body = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
        body.resize(28, 0);
        body.extend_from_slice(&mac.0);
        body.resize(236, 0);
        body.extend_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
        if let Some(address) = wanted {
            body.extend_from_slice(&[50, 4]);
            body.extend_from_slice(&address);
        }
        body.push(255);
        let udp_length = (8 + body.len() as u16).to_be_bytes();
        let udp = [&[0, 68, 0, 67][..], &udp_length, &[0, 0], &body].concat();
        let length = (20 + udp.len() as u16).to_be_bytes();
        let mut ip = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
        let sum = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [&[0xff; 6][..], &mac.0, &[8, 0], &ip, &udp].concat()
    };
    let mut net = Net::new(&spec, &[], 1).expect("good");
    let mut ask = |frame: Vec<u8>, at: u64| {
        net.send(Point { ns: at, ..Point::default() }, WireId(0), &frame);
        run(&mut net, at + 1_000_000, 1);
        net.receive(WireId(0)).map(|answer| (answer[58..62].to_vec(), answer[42 + 242]))
    };
    assert_eq!(ask(discover(1, None), 10_000), Some((vec![10, 0, 2, 15], 2)), "offer");
    assert_eq!(ask(discover(3, Some([10, 0, 2, 15])), 5_000_000), Some((vec![10, 0, 2, 15], 5)), "acknowledged");
    assert_eq!(ask(discover(3, Some([10, 0, 2, 77])), 9_000_000), Some((vec![0, 0, 0, 0], 6)), "refused");
    assert_eq!(net.leases().collect::<Vec<_>>(), [("gateway", mac, Ipv4Addr::new(10, 0, 2, 15))]);
}

#[test]
fn descriptions_that_make_no_sense_are_refused() {
    let good = NetSpec::lan(&[NicModel::VirtioNet]);
    let mut bad = good.clone();
    bad.nics[0].segment = Some("nowhere".to_owned());
    assert!(matches!(bad.check(), Err(NetError::Segment { .. })));
    let mut bad = good.clone();
    bad.segments.push(bad.segments[0].clone());
    assert!(matches!(bad.check(), Err(NetError::Twice { .. })));
    let mut bad = good.clone();
    bad.peers[0].echo = vec![80];
    assert!(matches!(bad.check(), Err(NetError::Range { .. })));
    let mut bad = good.clone();
    bad.nics = vec![bad.nics[0].clone(); 9];
    assert!(matches!(bad.check(), Err(NetError::TooMany { .. })));
    assert!(matches!(Net::new(&NetSpec { nics: Vec::new(), ..good }, &[table("drop", |_| ())], 1), Err(NetError::Nic { .. })));
}

#[test]
fn tables_read_back_as_they_were_written() {
    let text = r#"
        name = "web"
        address = "10.1.0.2/16"
        mac = "52:54:00:aa:bb:cc"
        http = 8080
        sink = [9, 10]
        [dns]
        "a.test" = "10.1.0.9"
        [dhcp]
        first = "10.1.0.10"
        last = "10.1.0.20"
        [[client]]
        kind = "get"
        at = "2s"
        to = "10.1.0.10"
        port = 80
        path = "/"
    "#;
    let peer: PeerSpec = toml::from_str(text).expect("a good table");
    assert_eq!(toml::from_str::<PeerSpec>(&toml::to_string(&peer).expect("plain data")).as_ref(), Ok(&peer));
    assert!(toml::from_str::<PeerSpec>("name = 'x'\naddress = '10.0.0.1'").is_err(), "no prefix");
    assert!(toml::from_str::<PeerSpec>("name = 'x'\naddress = '10.0.0.1/24'\nmac = '01:00:00:00:00:00'").is_err(), "a group");
}

#[test]
fn peers_take_garbage_and_the_same_garbage_has_the_same_answers() {
    let answers = sim_net::fuzz(5, 6_000);
    assert!(answers > 1_000, "{answers} answers: the peers are dead");
    assert_eq!(sim_net::fuzz(6, 500), sim_net::fuzz(6, 500));
}
