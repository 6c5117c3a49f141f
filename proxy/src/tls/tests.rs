//! Handshakes between the two sides of this module, over sockets.

use std::{net::IpAddr, sync::Arc};

use rustls::server::ProducesTickets;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use webpki::anchor_from_trusted_cert;

use super::{
    client::{self, Asked, ClientContext},
    failure::{Failure, Kind},
    names,
    server::{self, KeyPair, Resumption, ServerContext},
    session::PeerTls,
    testing::{Authority, Issued, authority, named},
    tickets::{KEY_BYTES, TicketKeys},
    tls13,
    verify::{Root, Validation},
};
use crate::wire::{bare::Bare, io::Io};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn suites() -> Arc<rustls::crypto::CryptoProvider> {
    let mut suites = tls13::SUITES.to_vec();
    suites.extend(names::TLS12_SUITES);
    super::provider(suites, names::CLIENT_GROUPS.to_vec())
}

fn pair(issued: &Issued) -> KeyPair {
    KeyPair { chain: vec![issued.certificate.clone()], key: issued.key.clone_key(), ocsp: Vec::new() }
}

fn trust(ca: &Authority) -> Arc<Validation> {
    let anchor = anchor_from_trusted_cert(ca.der()).unwrap().to_owned();
    let root = Root { certificate: ca.der().clone().into(), anchor };
    Arc::new(Validation { roots: vec![root], ..Validation::default() })
}

fn server(certificates: &[&Issued], validation: Arc<Validation>, required: bool) -> server::Settings {
    let tickets: Arc<dyn ProducesTickets> = Arc::new(TicketKeys::new(&[vec![7; KEY_BYTES]], b"", 60).unwrap());
    server::Settings {
        provider: suites(),
        tls12: true,
        tls13: true,
        client_order: false,
        certificates: certificates.iter().map(|issued| pair(issued)).collect(),
        validation,
        require_client_certificate: required,
        tell_roots: true,
        require_server_name: false,
        full_scan: false,
        protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        resumption: Resumption { tickets: Some(tickets), stateful: true },
        key_log: None,
    }
}

fn client(certificate: Option<&Issued>, validation: Arc<Validation>, name: &str) -> client::Settings {
    client::Settings {
        provider: suites(),
        tls12: true,
        tls13: true,
        certificate: certificate.map(pair),
        validation,
        server_name: name.into(),
        host_server_name: false,
        validate_server_name: false,
        protocols: Vec::new(),
        sessions: 1,
        key_log: None,
    }
}

type Ends = (Result<(Io, PeerTls), Failure>, Result<(Io, PeerTls), Failure>);

/// Both ends' views: the server's and the client's.
async fn shake(server: &ServerContext, client: &ClientContext, asked: Asked<'_>) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (from, _) = listener.accept().await.unwrap();
    tokio::join!(server.accept(Bare::Tcp(from), LOOPBACK, LOOPBACK, |_| {}), client.connect(Bare::Tcp(to), asked))
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = authority("ca");
    let (theirs, ours) = (named(&ca, &["a.test"]), named(&ca, &["client.test"]));
    let server = ServerContext::new(&server(&[&theirs], trust(&ca), true)).unwrap();
    let client = ClientContext::new(client(Some(&ours), trust(&ca), "A.test")).unwrap();
    let asked = Asked { protocols: &["h2"], ..Asked::default() };
    let (at_server, at_client) = shake(&server, &client, asked).await;
    let ((mut served, at_server), (mut used, at_client)) = (at_server.unwrap(), at_client.unwrap());
    assert_eq!(at_server.server_name.as_deref(), Some("a.test"));
    assert_eq!(at_server.protocol.as_deref(), Some("h2"));
    assert_eq!((at_server.version, at_server.group), ("TLSv1.3", "X25519"));
    assert_eq!(at_server.cipher, "TLS_AES_128_GCM_SHA256");
    assert_eq!(at_server.principals()[0].as_ref(), "client.test");
    assert_eq!(at_server.chain().len(), 1);
    assert!(at_server.validated() && !at_server.resumed);
    assert_eq!(at_client.peer().unwrap().content().dns().collect::<Vec<_>>(), ["a.test"]);
    assert_eq!(at_client.local.as_ref().unwrap().content().dns().collect::<Vec<_>>(), ["client.test"]);
    used.write_all(b"hello").await.unwrap();
    let mut first = Vec::new();
    served.peek(3, &mut first).await.unwrap();
    assert_eq!(first, b"hel");
    let mut got = [0; 5];
    served.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn sessions_are_resumed() {
    let ca = authority("ca");
    let theirs = named(&ca, &["a.test"]);
    let server = ServerContext::new(&server(&[&theirs], Arc::default(), false)).unwrap();
    let client = ClientContext::new(client(None, trust(&ca), "a.test")).unwrap();
    for resumed in [false, true] {
        let (at_server, at_client) = shake(&server, &client, Asked::default()).await;
        let ((mut served, at_server), (mut used, at_client)) = (at_server.unwrap(), at_client.unwrap());
        assert_eq!((at_server.resumed, at_client.resumed), (resumed, resumed));
        // The ticket comes with the first bytes.
        served.write_all(b"x").await.unwrap();
        used.read_exact(&mut [0]).await.unwrap();
    }
}

/// Accepts who is not trusted, and knows it.
fn lenient(ca: &Authority) -> Arc<Validation> {
    let roots = trust(ca).roots.clone();
    Arc::new(Validation { roots, accept_untrusted: true, ..Validation::default() })
}

#[tokio::test]
async fn who_is_not_trusted_is_not_in_a_resumed_session_either() {
    let (ca, other) = (authority("ca"), authority("other"));
    let theirs = named(&ca, &["a.test"]);
    let server = ServerContext::new(&server(&[&theirs], lenient(&ca), false)).unwrap();
    for (issuer, good) in [(&ca, true), (&other, false)] {
        let ours = named(issuer, &["client.test"]);
        for tls13 in [true, false] {
            // The server's own certificate leads to no root of the client's either, for both sides to be seen.
            let settings = client::Settings { tls13, ..client(Some(&ours), lenient(&other), "a.test") };
            let client = ClientContext::new(settings).unwrap();
            for resumed in [false, true, true] {
                let (at_server, at_client) = shake(&server, &client, Asked::default()).await;
                let ((mut served, at_server), (mut used, at_client)) = (at_server.unwrap(), at_client.unwrap());
                assert_eq!((at_server.resumed, at_client.resumed), (resumed, resumed));
                assert_eq!((at_server.validated(), at_client.validated()), (good, false), "resumed: {resumed}");
                // The ticket comes with the first bytes.
                served.write_all(b"x").await.unwrap();
                used.read_exact(&mut [0]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn what_is_found_of_one_client_is_not_said_of_another() {
    let (ca, other) = (authority("ca"), authority("other"));
    let (theirs, rogue, good) =
        (named(&ca, &["a.test"]), named(&other, &["client.test"]), named(&ca, &["client.test"]));
    let server = ServerContext::new(&server(&[&theirs], lenient(&ca), false)).unwrap();
    let good = ClientContext::new(client(Some(&good), trust(&ca), "a.test")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut to = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (from, _) = listener.accept().await.unwrap();
    // The rogue's certificate comes in other records than the end of its handshake.
    let mut rogue = in_small_records(&ca, &rogue);
    let slow = async {
        let mut flight = Vec::new();
        rogue.write_tls(&mut flight).unwrap();
        to.write_all(&flight).await.unwrap();
        while rogue.is_handshaking() {
            let mut bytes = [0; 1024];
            let count = to.read(&mut bytes).await.unwrap();
            rogue.read_tls(&mut &bytes[..count]).unwrap();
            rogue.process_new_packets().unwrap();
        }
        flight.clear();
        while rogue.wants_write() {
            rogue.write_tls(&mut flight).unwrap();
        }
        let end = flight.split_off(last_record(&flight));
        to.write_all(&flight).await.unwrap();
        let (at_server, _) = shake(&server, &good, Asked::default()).await;
        assert!(at_server.unwrap().1.validated());
        to.write_all(&end).await.unwrap();
    };
    let (at_server, ()) = tokio::join!(server.accept(Bare::Tcp(from), LOOPBACK, LOOPBACK, |_| {}), slow);
    assert!(!at_server.unwrap().1.validated());
}

fn in_small_records(ca: &Authority, issued: &Issued) -> rustls::ClientConnection {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(suites())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![issued.certificate.clone()], issued.key.clone_key())
        .unwrap();
    config.max_fragment_size = Some(64);
    rustls::ClientConnection::new(Arc::new(config), "a.test".try_into().unwrap()).unwrap()
}

/// Where the last TLS record of these begins.
fn last_record(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let next = at + 5 + usize::from(u16::from_be_bytes([bytes[at + 3], bytes[at + 4]]));
        if next == bytes.len() {
            return at;
        }
        at = next;
    }
}

#[tokio::test]
async fn who_prefers_aes_256_gets_aes_128_but_by_configuration() {
    let ca = authority("ca");
    let theirs = named(&ca, &["a.test"]);
    let [aes_128, aes_256, chacha20] = tls13::SUITES;
    for (offered, by_client, taken) in [
        (vec![aes_256, chacha20, aes_128], false, aes_128),
        (vec![aes_256, chacha20], false, aes_256),
        (vec![chacha20, aes_256, aes_128], false, chacha20),
        (vec![aes_256, chacha20, aes_128], true, aes_256),
    ] {
        let settings = server::Settings { client_order: by_client, ..server(&[&theirs], Arc::default(), false) };
        let server = ServerContext::new(&settings).unwrap();
        let provider = super::provider(offered, names::CLIENT_GROUPS.to_vec());
        let settings = client::Settings { provider, tls12: false, ..client(None, trust(&ca), "a.test") };
        let client = ClientContext::new(settings).unwrap();
        let (at_server, _) = shake(&server, &client, Asked::default()).await;
        assert_eq!(at_server.unwrap().1.cipher, names::suite_name(taken.suite()));
    }
}

#[tokio::test]
async fn the_certificate_is_the_one_for_the_name() {
    let ca = authority("ca");
    let issued = [&["a.test"][..], &["*.wild.test", "b.test"]].map(|names| named(&ca, names));
    let mut settings = server(&[&issued[0], &issued[1]], Arc::default(), false);
    settings.require_server_name = true;
    let server = ServerContext::new(&settings).unwrap();
    for (name, found) in
        [("a.test", "a.test"), ("x.wild.test", "*.wild.test"), ("b.test", "*.wild.test"), ("c.test", "a.test")]
    {
        let client = ClientContext::new(client(None, trust(&ca), name)).unwrap();
        let (_, at_client) = shake(&server, &client, Asked::default()).await;
        let (_, session) = at_client.unwrap();
        assert_eq!(session.peer().unwrap().content().dns().next(), Some(found), "{name}");
    }
    let nameless = ClientContext::new(client(None, trust(&ca), "")).unwrap();
    let (at_server, _) = shake(&server, &nameless, Asked::default()).await;
    assert_eq!(at_server.unwrap_err(), Failure::left("the client sends no server name"));
}

#[tokio::test]
async fn who_is_not_trusted_is_refused_and_told_why() {
    let (ca, other) = (authority("ca"), authority("other"));
    let (theirs, rogue) = (named(&ca, &["a.test"]), named(&other, &["client.test"]));
    let server = ServerContext::new(&server(&[&theirs], trust(&ca), true)).unwrap();
    let kind = |ends: Ends| ends.0.unwrap_err().kind();

    let without = ClientContext::new(client(None, trust(&ca), "a.test")).unwrap();
    assert_eq!(kind(shake(&server, &without, Asked::default()).await), Some(Kind::NoCertificate));
    let rogue = ClientContext::new(client(Some(&rogue), trust(&ca), "a.test")).unwrap();
    assert_eq!(kind(shake(&server, &rogue, Asked::default()).await), Some(Kind::Chain));

    let suspicious = ClientContext::new(client(None, trust(&other), "a.test")).unwrap();
    let (at_server, at_client) = shake(&server, &suspicious, Asked::default()).await;
    assert_eq!(at_client.unwrap_err().kind(), Some(Kind::Chain));
    assert!(at_server.unwrap_err().reason().contains("TLSV1_ALERT_UNKNOWN_CA"));
}

#[tokio::test]
async fn a_name_that_is_asked_for_must_be_the_certificates() {
    let ca = authority("ca");
    let theirs = named(&ca, &["a.test"]);
    let server = ServerContext::new(&server(&[&theirs], Arc::default(), false)).unwrap();
    let client = ClientContext::new(client(None, trust(&ca), "")).unwrap();
    for (name, good) in [("a.test", true), ("b.test", false)] {
        let asked = Asked { server_name: Some(name), validate: Some(name), ..Asked::default() };
        let (_, at_client) = shake(&server, &client, asked).await;
        assert_eq!(at_client.is_ok(), good, "{name}");
    }
    // Whatever is sent, and a session of it from before.
    for (name, good) in [("a.test", true), ("b.test", false), ("127.0.0.1", false), ("", false)] {
        for server_name in [None, Some("a.test")] {
            let asked = Asked { server_name, validate: Some(name), ..Asked::default() };
            let (_, at_client) = shake(&server, &client, asked).await;
            assert_eq!(at_client.is_ok(), good, "{name} {server_name:?}");
        }
    }
    let unasked = Asked { server_name: Some("b.test"), ..Asked::default() };
    let (at_server, at_client) = shake(&server, &client, unasked).await;
    assert!(at_client.is_ok());
    assert_eq!(at_server.unwrap().1.server_name.as_deref(), Some("b.test"));
}

#[tokio::test]
async fn bytes_pass_between_tls_and_bare_sockets_both_ways() {
    use crate::tcp::copy::{self, Copied, Ended};
    const BYTES: usize = 3 << 20;
    let ca = authority("ca");
    let theirs = named(&ca, &["a.test"]);
    let server = ServerContext::new(&server(&[&theirs], Arc::default(), false)).unwrap();
    let client = ClientContext::new(client(None, trust(&ca), "a.test")).unwrap();
    let (downstream, used) = shake(&server, &client, Asked::default()).await;
    let ((downstream, _), (used, _)) = (downstream.unwrap(), used.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Io::Tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let (bare, _) = listener.accept().await.unwrap();
    let mut copied = Copied::default();
    // Dropping the sockets is what ends the direction that is done last.
    let ends = (downstream, upstream);
    let copying = async {
        let (mut downstream, mut upstream) = ends;
        copy::both_ways(
            &mut copy::Ways::default(),
            (&mut downstream, &mut upstream),
            None,
            std::future::pending(),
            None::<&crate::tcp::way::Unwatched>,
            |moved| copied += moved,
        )
        .await
    };
    let (mut used_reads, mut used_writes) = tokio::io::split(used);
    let (mut bare_reads, mut bare_writes) = tokio::io::split(bare);
    let up = async {
        used_writes.write_all(&vec![1; BYTES]).await.unwrap();
        used_writes.shutdown().await.unwrap();
    };
    let down = async {
        bare_writes.write_all(&vec![2; BYTES]).await.unwrap();
        bare_writes.shutdown().await.unwrap();
    };
    let (mut at_used, mut at_bare) = (Vec::new(), Vec::new());
    let (ended, (), (), used_got, bare_got) =
        tokio::join!(copying, up, down, used_reads.read_to_end(&mut at_used), bare_reads.read_to_end(&mut at_bare));
    assert!(matches!(ended, Ended::Finished { .. }), "{ended:?}");
    assert_eq!((used_got.unwrap(), bare_got.unwrap()), (BYTES, BYTES));
    assert!(at_used.iter().all(|byte| *byte == 2) && at_bare.iter().all(|byte| *byte == 1));
    assert_eq!(copied, Copied { received: BYTES as u64, sent: BYTES as u64 });
}
