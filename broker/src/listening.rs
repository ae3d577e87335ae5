//! Where the broker listens and where others can reach it: what `--listen`, `--advertise` and `--insecure` mean together.
//!
//! - Encrypted, it listens on every address of the machine; `--insecure`, on loopback only, unless it is told twice.
//! - What others are told ([`Reachable`]) follows from what is really bound, best address first: what `--advertise` says, then
//!   addresses that other machines may have a way to, loopback last.
//! - Who listens on loopback only, and advertises nothing else, is announced to catalogs on loopback only.
//!
//! Caveat: the machine's addresses are looked up once, at the start. A catalog sees for itself where a record comes from each time.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

use kvbroker::catalog::ENDPOINTS_MAX;
use kvbroker::endpoint::TcpEndpoint;
use kvbroker_discovery::Reach;

use crate::sockets::Listener;

/// Most addresses that `--listen` may name.
const LISTEN_MAX: usize = 16;
/// Most addresses of this machine that are told to others, without loopback.
const OWN_ADDRESSES_MAX: usize = 16;
/// Longest host name of the DNS.
const HOST_BYTES_MAX: usize = 253;

/// The flags about the network, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// On which addresses TCP listens; none is part of another. Empty, which no flag makes it: there is no TCP.
    pub(crate) listen: Vec<IpAddr>,
    /// Whether the user chose them.
    pub(crate) is_chosen: bool,
    /// By which names it can be reached besides.
    pub(crate) advertise: Vec<Advertised>,
    /// Without encryption and keys.
    pub(crate) is_insecure: bool,
}

/// `HOST[:PORT]` of `--advertise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advertised {
    host: String,
    /// None: the port of the ROUTER.
    port: Option<u16>,
}

impl Network {
    /// Puts the flags together.
    ///
    /// # Errors
    /// A sentence for the user: flags that don't go together, or more than can be.
    pub(crate) fn of_flags(
        listen: &[IpAddr],
        advertise: Vec<Advertised>,
        is_insecure: bool,
        beyond_this_machine: bool,
    ) -> Result<Network, String> {
        if beyond_this_machine && !is_insecure {
            return Err("--insecure-beyond-this-machine means something beside --insecure only".to_owned());
        }
        let on_loopback = is_insecure && !beyond_this_machine;
        if on_loopback {
            const AGAIN: &str = "without encryption and keys everybody there could read and change everything. \
                                 If that is what you want, say --insecure-beyond-this-machine, too";
            if let Some(address) = listen.iter().find(|address| !address.to_canonical().is_loopback()) {
                return Err(format!("--insecure --listen {address}: {AGAIN}"));
            }
            if let Some(advertised) = advertise.first() {
                return Err(format!("--insecure --advertise {}: {AGAIN}", advertised.host));
            }
        }
        let is_chosen = !listen.is_empty();
        let listen = match listen {
            [] if on_loopback => vec![Ipv4Addr::LOCALHOST.into()],
            [] => vec![Ipv6Addr::UNSPECIFIED.into()],
            chosen => merged(chosen),
        };
        if listen.len() > LISTEN_MAX {
            return Err(format!("--listen names {} addresses; {LISTEN_MAX} are the most", listen.len()));
        }
        if advertise.len() > ENDPOINTS_MAX {
            return Err(format!("--advertise names {} addresses; {ENDPOINTS_MAX} are the most", advertise.len()));
        }
        Ok(Network { listen, is_chosen, advertise, is_insecure })
    }
}

/// Each once, and none that another one means as well: `::` is everything, `0.0.0.0` is all of IPv4.
fn merged(listen: &[IpAddr]) -> Vec<IpAddr> {
    let all: Vec<IpAddr> = listen.iter().map(IpAddr::to_canonical).collect();
    let everywhere = all.contains(&Ipv6Addr::UNSPECIFIED.into());
    let all_of_4 = everywhere || all.contains(&Ipv4Addr::UNSPECIFIED.into());
    let mut kept = Vec::new();
    for address in all {
        let meant_by_another = !address.is_unspecified() && if address.is_ipv4() { all_of_4 } else { everywhere };
        let is_part = meant_by_another || (everywhere && address == Ipv4Addr::UNSPECIFIED);
        if !is_part && !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

/// What `--listen` says.
///
/// # Errors
/// It is no IP address: a name, or one with a port.
pub(crate) fn parse_listen(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "write an IP address of this machine, such as 127.0.0.1 or ::1; the port is --port".to_owned())
}

impl FromStr for Advertised {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{:?} is no address; write HOST or HOST:PORT", text.chars().take(80).collect::<String>());
        let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
            (host, port)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let is_host = host.parse::<Ipv6Addr>().is_ok()
            || (host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
                && (1..=HOST_BYTES_MAX).contains(&host.len()));
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(wrong()),
        };
        if !is_host {
            return Err(wrong());
        }
        if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
            return Err(format!("{host} is an address to listen on; --advertise takes one that others can connect to"));
        }
        Ok(Advertised { host: host.to_owned(), port })
    }
}

/// Where the broker can be reached by TCP, as others are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reachable {
    /// Addresses of this machine, best first; never empty.
    pub(crate) hosts: Vec<IpAddr>,
    /// What `--advertise` says, as endpoints.
    pub(crate) advertised: Vec<String>,
    /// The ROUTER's port.
    pub(crate) port: u16,
    /// The XPUB's.
    pub(crate) pub_port: u16,
    /// Whether it listens on all addresses of the machine.
    pub(crate) everywhere: bool,
}

impl Reachable {
    /// From what is bound; None: no TCP.
    pub(crate) fn of(network: &Network, router: &Listener, publisher: &Listener) -> Option<Reachable> {
        let bound: Vec<IpAddr> = router.tcp().iter().map(|bound| bound.ip().to_canonical()).collect();
        let own = if bound.iter().any(IpAddr::is_unspecified) { own_addresses() } else { Vec::new() };
        let hosts = hosts(&bound, &own);
        let (port, pub_port) = (router.port(), publisher.port());
        let advertised = network.advertise.iter().map(|advertised| advertised.endpoint(port)).collect();
        let everywhere = bound.iter().any(IpAddr::is_unspecified);
        (!hosts.is_empty()).then_some(Reachable { hosts, advertised, port, pub_port, everywhere })
    }

    /// Which catalogs may be told.
    pub(crate) fn reach(&self) -> Reach {
        let beyond = self.everywhere || !self.advertised.is_empty() || self.hosts.iter().any(|host| !host.is_loopback());
        if beyond { Reach::Network } else { Reach::LoopbackOnly }
    }

    /// For the endpoint file.
    pub(crate) fn endpoint(&self) -> TcpEndpoint {
        TcpEndpoint { hosts: self.hosts.clone(), port: self.port, pub_port: self.pub_port, advertised: self.advertised.clone() }
    }

    /// For the catalogs' record: what readers elsewhere may try besides the address that the catalog saw.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let beyond = self.hosts.iter().filter(|host| !host.is_loopback());
        let own = beyond.map(|host| format!("tcp://{}", SocketAddr::new(*host, self.port)));
        let mut endpoints: Vec<String> = Vec::new();
        for endpoint in self.advertised.iter().cloned().chain(own) {
            if endpoints.len() < ENDPOINTS_MAX && !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        endpoints
    }
}

impl Advertised {
    fn endpoint(&self, port: u16) -> String {
        let port = self.port.unwrap_or(port);
        if self.host.contains(':') { format!("tcp://[{}]:{port}", self.host) } else { format!("tcp://{}:{port}", self.host) }
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (None, _) => f.write_str(&self.host),
            (Some(port), false) => write!(f, "{}:{port}", self.host),
            (Some(port), true) => write!(f, "[{}]:{port}", self.host),
        }
    }
}

/// The addresses behind what is bound: `own` stands for those that mean all.
fn hosts(bound: &[IpAddr], own: &[IpAddr]) -> Vec<IpAddr> {
    let mut hosts: Vec<IpAddr> = Vec::new();
    for address in bound {
        if !address.is_unspecified() {
            hosts.push(*address);
            continue;
        }
        hosts.extend(own.iter().filter(|own| address.is_ipv6() || own.is_ipv4()));
    }
    // The sort is stable: what was better stays better.
    hosts.sort_by_key(IpAddr::is_loopback);
    let mut seen = Vec::new();
    hosts.retain(|host| {
        !seen.contains(host) && {
            seen.push(*host);
            true
        }
    });
    hosts
}

/// This machine's addresses: those that other machines may have a way to, of these first what it would use itself to go out, and
/// those of the loopback interface that everybody knows.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!("this machine's addresses can't be learned ({error}); name one with --advertise");
            return vec![Ipv4Addr::LOCALHOST.into()];
        }
    };
    let up = interfaces.iter().filter(|interface| interface.is_oper_up()).map(|interface| interface.ip().to_canonical());
    let (mut own, mut loopback): (Vec<IpAddr>, Vec<IpAddr>) = up.partition(is_for_others);
    loopback.retain(|address| [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(address));
    let preferred = [preferred(Ipv4Addr::UNSPECIFIED.into()), preferred(Ipv6Addr::UNSPECIFIED.into())];
    own.sort_by_key(|address| (!preferred.contains(&Some(*address)), address.is_ipv6()));
    own.dedup();
    own.truncate(OWN_ADDRESSES_MAX);
    own.extend(loopback);
    if own.is_empty() {
        // Nothing is up; what will be is not known.
        own.push(Ipv4Addr::LOCALHOST.into());
    }
    own
}

fn is_for_others(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// The address that packets to far away would leave from, by the kernel's routes. Nothing is sent: connecting a UDP socket only
/// chooses a route, and the addresses asked for are set aside for documentation.
fn preferred(any: IpAddr) -> Option<IpAddr> {
    let far_away: IpAddr = match any {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far_away, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn listen(texts: &[&str], insecure: bool, beyond: bool) -> Result<Vec<IpAddr>, String> {
        Network::of_flags(&ips(texts), Vec::new(), insecure, beyond).map(|network| network.listen)
    }

    #[test]
    fn encrypted_is_everywhere_and_plain_on_loopback() {
        assert_eq!(listen(&[], false, false).unwrap(), ips(&["::"]));
        assert_eq!(listen(&[], true, false).unwrap(), ips(&["127.0.0.1"]));
        assert_eq!(listen(&["::1", "127.0.0.9"], true, false).unwrap(), ips(&["::1", "127.0.0.9"]));
        assert_eq!(listen(&[], true, true).unwrap(), ips(&["::"]));
        assert_eq!(listen(&["10.0.0.1"], true, true).unwrap(), ips(&["10.0.0.1"]));
        for plain in ["10.0.0.1", "0.0.0.0", "::", "::ffff:10.0.0.1"] {
            let error = listen(&["127.0.0.1", plain], true, false).unwrap_err();
            assert!(error.contains("--insecure-beyond-this-machine"), "{plain}: {error}");
        }
        assert!(listen(&[], false, true).unwrap_err().contains("--insecure"));
        let advertised = vec!["gate.example.org".parse().unwrap()];
        assert!(Network::of_flags(&[], advertised, true, false).unwrap_err().contains("--advertise gate"));
    }

    #[test]
    fn addresses_that_another_one_means_are_left_out() {
        let cases: [(&[&str], &[&str]); 6] = [
            (&["10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"], &["10.0.0.1"]),
            (&["10.0.0.1", "0.0.0.0", "fd00::1"], &["0.0.0.0", "fd00::1"]),
            (&["10.0.0.1", "::", "fd00::1"], &["::"]),
            (&["0.0.0.0", "::"], &["::"]),
            (&["::ffff:0.0.0.0", "127.0.0.1"], &["0.0.0.0"]),
            (&["127.0.0.1", "10.0.0.1", "::1"], &["127.0.0.1", "10.0.0.1", "::1"]),
        ];
        for (given, kept) in cases {
            assert_eq!(listen(given, false, false).unwrap(), ips(kept), "{given:?}");
        }
        let many: Vec<String> = (1..=17).map(|number| format!("127.0.0.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(listen(&many, false, false).unwrap_err().contains("16"));
    }

    #[test]
    fn advertised_addresses_are_read_and_become_endpoints() {
        let cases = [
            ("gate.example.org", "tcp://gate.example.org:7"),
            ("gate:9000", "tcp://gate:9000"),
            ("10.0.0.1:9000", "tcp://10.0.0.1:9000"),
            ("fd00::1", "tcp://[fd00::1]:7"),
            ("[fd00::1]", "tcp://[fd00::1]:7"),
            ("[fd00::1]:9000", "tcp://[fd00::1]:9000"),
        ];
        for (text, endpoint) in cases {
            let advertised: Advertised = text.parse().unwrap();
            assert_eq!(advertised.endpoint(7), endpoint);
            assert_eq!(advertised.to_string().parse(), Ok(advertised));
        }
        let long = "a".repeat(254);
        for wrong in ["", ":1", "a:0", "a:65536", "a:b", "a b", "a/b", "[fd00::1", "[fd00::1]x", "[a]:1", "0.0.0.0", "::", &long]
        {
            wrong.parse::<Advertised>().unwrap_err();
        }
        let nine = vec!["a".parse().unwrap(); 9];
        assert!(Network::of_flags(&[], nine, false, false).unwrap_err().contains("8"));
    }

    #[test]
    fn others_are_told_what_they_can_reach_first() {
        let own = ips(&["10.0.0.5", "fd00::5", "127.0.0.1", "::1"]);
        assert_eq!(hosts(&ips(&["::"]), &own), ips(&["10.0.0.5", "fd00::5", "127.0.0.1", "::1"]));
        assert_eq!(hosts(&ips(&["0.0.0.0", "fd00::7"]), &own), ips(&["10.0.0.5", "fd00::7", "127.0.0.1"]));
        assert_eq!(hosts(&ips(&["127.0.0.1", "10.0.0.9"]), &[]), ips(&["10.0.0.9", "127.0.0.1"]));
        assert_eq!(hosts(&ips(&["0.0.0.0", "::1"]), &own[2..]), ips(&["127.0.0.1", "::1"]));
        assert_eq!(hosts(&[], &own), ips(&[]));

        let advertised = vec!["tcp://gate:9".to_owned(), "tcp://10.0.0.5:7".to_owned()];
        let reachable = Reachable { hosts: hosts(&ips(&["::"]), &own), advertised, port: 7, pub_port: 8, everywhere: true };
        assert_eq!(reachable.endpoints(), ["tcp://gate:9", "tcp://10.0.0.5:7", "tcp://[fd00::5]:7"]);
        let many = (0..20).map(|number| Ipv4Addr::new(10, 0, 0, number).into()).collect();
        assert_eq!(Reachable { hosts: many, ..reachable.clone() }.endpoints().len(), ENDPOINTS_MAX);

        let at_home = Reachable { hosts: ips(&["127.0.0.1"]), advertised: Vec::new(), everywhere: false, ..reachable };
        assert_eq!((at_home.endpoints(), at_home.reach()), (Vec::new(), Reach::LoopbackOnly));
        let gated = Reachable { advertised: vec!["tcp://gate:9".to_owned()], ..at_home.clone() };
        assert_eq!(gated.reach(), Reach::Network);
        // A machine without a network today listens on tomorrow's as well.
        assert_eq!(Reachable { everywhere: true, ..at_home }.reach(), Reach::Network);
    }

    #[test]
    fn own_addresses_are_those_that_are_there_and_for_others_first() {
        let own = own_addresses();
        assert!(own.contains(&Ipv4Addr::LOCALHOST.into()), "{own:?}");
        assert!(own.is_sorted_by_key(|address| !is_for_others(address)), "{own:?}");
        assert_eq!(own.contains(&Ipv6Addr::LOCALHOST.into()), std::net::TcpListener::bind(("::1", 0)).is_ok(), "{own:?}");
        for not in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "0.0.0.0", "224.0.0.1"] {
            assert!(!is_for_others(&not.parse().unwrap()), "{not}");
        }
    }
}
