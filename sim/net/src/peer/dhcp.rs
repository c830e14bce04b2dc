//! A DHCP server (RFC 2131): addresses in order of first asking, each station always the same one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    UdpPacket, UdpRepr,
};

use crate::config::{DhcpSpec, Mac};

const SERVER: u16 = 67;
const CLIENT: u16 = 68;

/// The server and what it has given out.
#[derive(Clone, Debug)]
pub struct Dhcp {
    spec: DhcpSpec,
    address: Ipv4Addr,
    prefix: u8,
    mac: Mac,
    pub leases: BTreeMap<Mac, Ipv4Addr>,
}

impl Dhcp {
    pub fn new(spec: DhcpSpec, (address, prefix): (Ipv4Addr, u8), mac: Mac) -> Self {
        Self { spec, address, prefix, mac, leases: BTreeMap::new() }
    }

    /// The address of a station, given now if need be. `None`: all are taken.
    fn lease(&mut self, mac: Mac) -> Option<Ipv4Addr> {
        if let Some(address) = self.leases.get(&mac) {
            return Some(*address);
        }
        let range = u32::from(self.spec.first)..=u32::from(self.spec.last);
        let free = range.map(Ipv4Addr::from).find(|address| *address != self.address && !self.leases.values().any(|taken| taken == address))?;
        self.leases.insert(mac, free);
        Some(free)
    }

    /// Looks at a frame. `None`: it is no question to a DHCP server. `Some(None)`: it is, but there is nothing to say.
    pub fn answer(&mut self, frame: &[u8]) -> Option<Option<Vec<u8>>> {
        let ethernet = EthernetFrame::new_checked(frame).ok().filter(|frame| frame.ethertype() == EthernetProtocol::Ipv4)?;
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok().filter(|ip| ip.next_header() == IpProtocol::Udp)?;
        if !ip.verify_checksum() || ip.more_frags() || ip.frag_offset() != 0 {
            return None;
        }
        let udp = UdpPacket::new_checked(ip.payload()).ok().filter(|udp| udp.dst_port() == SERVER)?;
        if !udp.verify_checksum(&IpAddress::Ipv4(ip.src_addr()), &IpAddress::Ipv4(ip.dst_addr())) {
            return Some(None);
        }
        let question = DhcpPacket::new_checked(udp.payload()).ok();
        let Some(question) = question.as_ref().and_then(|packet| DhcpRepr::parse(packet).ok()) else { return Some(None) };
        Some(self.reply(&question))
    }

    fn reply(&mut self, question: &DhcpRepr<'_>) -> Option<Vec<u8>> {
        let station = Mac(question.client_hardware_address.0);
        // RFC 2131 §4.3.2: a request that names another server is a refusal of our offer.
        if question.server_identifier.is_some_and(|server| server != self.address) {
            return None;
        }
        let kind = match question.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => DhcpMessageType::Ack,
            DhcpMessageType::Inform => DhcpMessageType::Ack,
            DhcpMessageType::Release | DhcpMessageType::Decline => {
                self.leases.remove(&station);
                return None;
            }
            DhcpMessageType::Offer | DhcpMessageType::Ack | DhcpMessageType::Nak | DhcpMessageType::Unknown(_) => return None,
        };
        let mine = self.lease(station)?;
        let wanted = question.requested_ip.unwrap_or(question.client_ip);
        let refused = question.message_type == DhcpMessageType::Request && wanted != mine;
        let kind = if refused { DhcpMessageType::Nak } else { kind };
        let nothing = Ipv4Addr::UNSPECIFIED;
        let given = kind != DhcpMessageType::Nak;
        let answer = DhcpRepr {
            message_type: kind,
            transaction_id: question.transaction_id,
            secs: 0,
            client_hardware_address: question.client_hardware_address,
            client_ip: nothing,
            your_ip: if given { mine } else { nothing },
            server_ip: self.address,
            router: self.spec.router.filter(|_| given),
            subnet_mask: given.then(|| Ipv4Addr::from(u32::MAX << (32 - u32::from(self.prefix.max(1))))),
            relay_agent_ip: nothing,
            broadcast: question.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.address),
            parameter_request_list: None,
            dns_servers: self.spec.dns.filter(|_| given).map(|server| [server].into_iter().collect()),
            max_size: None,
            lease_duration: given.then_some(self.spec.lease_seconds),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let everyone = question.broadcast || !given;
        let (to_mac, to_ip) = if everyone { (Mac([0xff; 6]), Ipv4Addr::BROADCAST) } else { (station, mine) };
        Some(self.frame(&answer, to_mac, to_ip))
    }

    fn frame(&self, answer: &DhcpRepr<'_>, to_mac: Mac, to_ip: Ipv4Addr) -> Vec<u8> {
        let sums = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: SERVER, dst_port: CLIENT };
        let length = answer.buffer_len();
        let ip = Ipv4Repr { src_addr: self.address, dst_addr: to_ip, next_header: IpProtocol::Udp, payload_len: udp.header_len() + length, hop_limit: 64 };
        let ethernet = EthernetRepr { src_addr: EthernetAddress(self.mac.0), dst_addr: EthernetAddress(to_mac.0), ethertype: EthernetProtocol::Ipv4 };
        let mut bytes = vec![0; 14 + ip.buffer_len() + ip.payload_len];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &sums);
        let (from, to) = (IpAddress::Ipv4(self.address), IpAddress::Ipv4(to_ip));
        // The buffer has exactly the length the packet said it needs.
        udp.emit(&mut UdpPacket::new_unchecked(packet.payload_mut()), &from, &to, length, |body| {
            let emitted = answer.emit(&mut DhcpPacket::new_unchecked(body));
            emitted.expect("the buffer is as long as the message");
        }, &sums);
        bytes
    }
}
