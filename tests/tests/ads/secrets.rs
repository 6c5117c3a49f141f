//! Secrets by the stream that has all else: the same for both proxies.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use prost_types::Any;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use weir_tests::{
    ads::{Ads, Listen},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::Start,
    resources::one,
    served::{each, verdict},
    through::{Authority, Certified},
};

const PATIENCE: Duration = Duration::from_secs(60);

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A connection to a server that is to have this name.
pub fn connect(to: SocketAddr, authority: &Authority, name: &str) -> io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut tls = StreamOwned::new(connection, stream);
    echo(&mut tls)?;
    Ok(tls)
}

fn echo(tls: &mut Tls) -> io::Result<()> {
    tls.write_all(b"x")?;
    let mut byte = [0];
    tls.read_exact(&mut byte)
}

pub fn secret(certified: &Certified, key: &Certified) -> Any {
    let indented = |pem: &str| pem.replace('\n', "\\n");
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: s\n  \
         tls_certificate: {{ certificate_chain: {{ inline_string: \"{}\" }}, private_key: {{ inline_string: \"{}\" }} }}\n",
        indented(&certified.pem),
        indented(&key.key.serialize_pem()),
    ))
}

pub const LISTENER: &str = r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
  filter_chains:
  - transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        common_tls_context:
          tls_certificate_sds_secret_configs: [ { name: s, sds_config: { ads: {}, resource_api_version: V3 } } ]
    filters: [ { name: echo, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } } ]
"#;

#[test]
fn a_listener_waits_for_its_certificate_and_open_connections_outlive_it() {
    each(|who, protocol| {
        let authority = Authority::new();
        let [first, second] = ["one.test", "two.test"].map(|name| authority.certify(name));
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([one(LISTENER)]);
        let proxy = Start::new(who, &ads, protocol).start();
        ads.wait("a request for the secret", |event| event.kind == "sds");
        ads.wait_ack("lds");
        // Of deltas, the answer is that there is none: nothing is waited for then.
        if protocol == Protocol::Sotw {
            let ready = proxy.admin("/ready");
            assert!(ready.starts_with("INITIALIZING"), "{who:?}: {ready}");
        }
        ads.put([secret(&first, &first)]);
        let address = proxy.listener("l");
        let connected = |name: &str| {
            wait_for(name, PATIENCE, || connect(address, &authority, name).map_err(|error| error.to_string()))
        };
        let mut open = connected("one.test");
        assert!(connect(address, &authority, "two.test").is_err());
        ads.wait_ack("sds");
        ads.put([secret(&second, &second)]);
        drop(connected("two.test"));
        assert!(connect(address, &authority, "one.test").is_err());
        echo(&mut open).unwrap();
        ads.wait_ack("sds");
        // A key of another certificate.
        let mark = ads.mark();
        ads.put([secret(&first, &second)]);
        let why = verdict(&ads, mark, "sds").unwrap_err();
        assert!(!why.is_empty());
        drop(connected("two.test"));
        echo(&mut open).unwrap();
    });
}
