//! A server that is a cluster of the bootstrap, with TLS that both ends ask for.

use std::{sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;
use weir_proxy::{
    config,
    telemetry::stats::{Scope, Shard},
    xds::{dial::Dial, through::Through},
};
use weir_tests::ads::{Ads, Listen, Seen};

use crate::{
    Protocol,
    follower::{Running, settings},
    resources::{cluster, endpoints, server},
};

/// A certificate of an authority, for a name, with its key.
pub struct Certified {
    pub pem: String,
    pub key: KeyPair,
    pub der: CertificateDer<'static>,
}

pub struct Authority {
    pem: String,
    pub der: CertificateDer<'static>,
    parameters: CertificateParams,
    key: KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), parameters, key }
    }

    pub fn certify(&self, name: &str) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let certificate = parameters.signed_by(&key, &Issuer::from_params(&self.parameters, &self.key)).unwrap();
        Certified { pem: certificate.pem(), der: certificate.der().clone(), key }
    }

    /// A server that only takes clients of this authority.
    pub fn server(&self, certified: &Certified) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.key.serialize_der()));
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_client_cert_verifier(clients).with_single_cert(vec![certified.der.clone()], key);
        let mut config = config.unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

/// The way to the cluster `xds` of a bootstrap, which expects the server to be called `name`.
fn through(ads: &Ads, authority: &Authority, client: &Certified, name: &str) -> Through {
    let indented = |pem: &str| pem.replace('\n', "\\n");
    let cluster = server(ads.address(), "60s");
    let bootstrap: Bootstrap = weir_proto::from_yaml(&format!(
        r#"
static_resources:
  clusters:
  - {cluster}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {name}
        common_tls_context:
          tls_certificates:
          - certificate_chain: {{ inline_string: "{certificate}" }}
            private_key: {{ inline_string: "{key}" }}
          validation_context:
            trusted_ca: {{ inline_string: "{root}" }}
            match_typed_subject_alt_names: [ {{ san_type: DNS, matcher: {{ exact: {name} }} }} ]
"#,
        certificate = indented(&client.pem),
        key = indented(&client.key.serialize_pem()),
        root = indented(&authority.pem),
    ))
    .unwrap_or_else(|error| panic!("{error}"));
    to_xds(&bootstrap)
}

/// The way to the cluster `xds` of a bootstrap.
pub fn to_xds(bootstrap: &Bootstrap) -> Through {
    let built = config::from_bootstrap(bootstrap, &Scope::default()).unwrap_or_else(|error| panic!("{error}"));
    let cluster = built.snapshot.clusters().find(|cluster| &*cluster.name == "xds").unwrap();
    Through::new(cluster.clone(), "istiod.istio-system.svc:15012", Shard::default())
}

#[test]
fn a_server_is_followed_over_tls_that_both_ends_ask_for() {
    let authority = Authority::new();
    let (server, client) = (authority.certify("istiod.istio-system.svc"), authority.certify("client"));
    let ads = Ads::start(Listen::Tls(([127, 0, 0, 1], 0).into(), authority.server(&server))).unwrap();
    ads.put([cluster("a"), endpoints("a", 1)]);
    let through = through(&ads, &authority, &client, "istiod.istio-system.svc");
    let running = Running::start(move || settings(Protocol::Delta, Box::new(through)));
    running.until("eds +a -");
    ads.wait_ack("eds");
    let opened = ads.wait("a stream", |event| matches!(event.seen, Seen::Opened { .. }));
    assert_eq!(opened.stream, 1);
}

#[test]
fn a_server_of_another_name_is_not_followed_and_the_reason_is_told() {
    let authority = Authority::new();
    let (server, client) = (authority.certify("somebody.else"), authority.certify("client"));
    let ads = Ads::start(Listen::Tls(([127, 0, 0, 1], 0).into(), authority.server(&server))).unwrap();
    let through = through(&ads, &authority, &client, "istiod.istio-system.svc");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dialled = async { tokio::time::timeout(Duration::from_secs(60), through.dial()).await };
    let refused = tokio::task::LocalSet::new().block_on(&runtime, dialled).unwrap().err().unwrap();
    assert!(refused.starts_with(&format!("{}: ", ads.address())), "{refused}");
    assert!(refused.contains("CERTIFICATE_VERIFY_FAILED"), "{refused}");
    assert!(ads.events().is_empty());
}
