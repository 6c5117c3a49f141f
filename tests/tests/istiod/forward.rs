//! What `httpbin` sends to names that only a wildcard covers: where they resolve to, by a name server of this test.

use std::{
    net::{Ipv4Addr, UdpSocket},
    thread,
};

use tokio::sync::oneshot;
use weir_proto::envoy::config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier};
use weir_tests::{
    ads::recorded,
    mesh::Mesh,
    name_server::{self, TYPE_A, Verdict},
    net::Pod,
    netns::Netns,
};

use crate::{
    ask::{Answer, To},
    backend::{Backend, Speaks},
    identity::{Authority, Identity},
    scene::{Cases, Control, Place, Protocol, usable},
};

/// Where the client thinks that it goes.
const ELSEWHERE: &str = "10.50.0.9";
/// Where the name server says that it is to go.
const THERE: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 5);
/// In the namespace of the proxy.
const NAME_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 1), 5353);

const POLICIES: [&str; 2] = ["envoy.filters.network.rbac", "envoy.filters.network.ext_authz"];

fn verdict(name: &str, kind: u16) -> Verdict {
    match name.strip_suffix(".wild.example.com") {
        Some("known" | "other") if kind == TYPE_A => Verdict::Address(THERE, 600),
        Some("known" | "other") => Verdict::NoData,
        _ => Verdict::Code(3),
    }
}

/// Ended with this.
struct NameServer {
    _stop: oneshot::Sender<()>,
}

impl NameServer {
    fn start(netns: &Netns) -> Self {
        let socket = netns.run(|| UdpSocket::bind(NAME_SERVER)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
                tokio::select! {
                    () = name_server::serve(socket, verdict) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { _stop: stop }
    }

    fn address() -> Address {
        let (address, port) = NAME_SERVER;
        let address = SocketAddress {
            address: address.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        };
        Address { address: Some(address::Address::SocketAddress(address)) }
    }
}

struct Httpbin {
    web: Backend,
    secured: Backend,
    identity: Identity,
    pod: Pod,
    _mesh: Mesh,
    _control: Control,
    _names: NameServer,
    _there: Pod,
    _place: Place,
}

impl Httpbin {
    fn start(protocol: Protocol) -> Self {
        let authority = Authority::new();
        let place = Place::new();
        let pod = place.pod("httpbin", &["10.40.1.11"]);
        let there = place.pod("there", &["10.60.0.5"]);
        let identity = authority.workload("side/httpbin");
        let web = Backend::start(&there, "web", "10.60.0.5:80", Speaks::Plain);
        let secured = Backend::start(&there, "secured", "10.60.0.5:443", Speaks::mutual(&authority, &identity));
        let names = NameServer::start(&place.node.netns);
        let server = NameServer::address();
        let resources = usable("sidecar-httpbin").into_iter();
        let resources = resources.map(|(name, any)| {
            // What istiod makes here, too, of the workload's policies for requests (httpbin-deny, httpbin-custom): they say
            // nothing of TCP, and so refuse all of it.
            let any = recorded::without_network_filters(any, &POLICIES);
            (name, recorded::with_name_server(any, &server))
        });
        let control = Control::start(protocol, &authority, &identity, resources);
        let mesh = place.serve(&pod, &control);
        let (_mesh, _control, _names, _there, _place) = (mesh, control, names, there, place);
        Self { web, secured, identity, pod, _mesh, _control, _names, _there, _place }
    }

    fn to(&self, port: u16) -> To<'_> {
        To::new(&self.pod, &format!("{ELSEWHERE}:{port}"))
    }

    fn get(&self, host: &str) -> Answer {
        self.to(80).ask("GET /wild", host, &[])
    }

    fn get_secured(&self, name: &str) -> Answer {
        self.to(443).tls(name, &["http/1.1"], Some(&self.identity)).ask("GET /wild", name, &[])
    }
}

/// 10-side.yaml, ServiceEntry ext-wild (DYNAMIC_DNS): ports http and tls.
fn wildcard(httpbin: &Httpbin, cases: &mut Cases) {
    for host in ["known.wild.example.com", "other.wild.example.com", "KNOWN.wild.example.com:80"] {
        let answer = httpbin.get(host);
        let there = answer.status == 200 && answer.by() == "web" && answer.seen()["host"] == host;
        cases.check(&format!("ext-wild: http to {host} goes where it resolves to"), there, &answer);
    }
    let unknown = httpbin.get("unknown.wild.example.com");
    cases.check("ext-wild: a name that is not there", unknown.status == 503, &unknown);
    let secured = httpbin.get_secured("known.wild.example.com");
    let seen = secured.status == 200 && secured.by() == "secured";
    cases.check("ext-wild: tls goes where its SNI resolves to", seen, &secured);
    cases.check("ext-wild: TLS ends at the server", secured.seen()["sni"] == "known.wild.example.com", &secured);
    let unknown = httpbin.get_secured("unknown.wild.example.com");
    cases.check("ext-wild: an SNI that is not there", unknown.status == 0, &unknown);
    let reached = (httpbin.web.seen("/wild").len(), httpbin.secured.seen("/wild").len());
    cases.check("ext-wild: nothing else has come there", reached == (3, 1), reached);
}

fn traffic(protocol: Protocol) {
    let httpbin = Httpbin::start(protocol);
    let mut cases = Cases::default();
    wildcard(&httpbin, &mut cases);
    cases.end(8);
}

#[test]
fn names_of_a_wildcard_are_gone_to_by_deltas() {
    traffic(Protocol::Delta);
}

#[test]
fn names_of_a_wildcard_are_gone_to_by_the_state_of_the_world() {
    traffic(Protocol::Sotw);
}
