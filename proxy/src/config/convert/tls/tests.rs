//! What is refused of TLS, and how it is said.

use std::{sync::Arc, time::SystemTime};

use prost::Message;
use weir_proto::envoy::extensions::transport_sockets::tls::v3::Secret;

use super::super::tests::build;
use crate::{
    config::cell::{Feed, State},
    tls::testing::{authority, named_with_pem},
};

const AT: &str = "static_resources.listeners[0].filter_chains[0].transport_socket.typed_config";
const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// A filter chain's transport socket, whose common context is `common`; `rest` stands beside it.
fn downstream(common: &str, rest: &str) -> String {
    format!(
        "transport_socket: {{ name: tls, typed_config: {{ \"@type\": {TYPE}.DownstreamTlsContext, {rest} \
         common_tls_context: {{ {common} }} }} }}"
    )
}

fn upstream(common: &str, rest: &str) -> String {
    downstream(common, rest).replace("DownstreamTlsContext", "UpstreamTlsContext")
}

fn quoted(text: &str) -> String {
    format!("{{ inline_string: {} }}", serde_json::Value::from(text))
}

fn pair(chain: &str, key: &str) -> String {
    format!("tls_certificates: [{{ certificate_chain: {}, private_key: {} }}]", quoted(chain), quoted(key))
}

#[test]
fn what_is_refused_names_the_field() {
    let ca = authority("ca");
    let (chain, key) = named_with_pem(&ca, &["a.test"]);
    let (_, other_key) = named_with_pem(&ca, &["b.test"]);
    let good = pair(&chain, &key);
    let root = quoted(&ca.pem());
    let common = |more: &str| downstream(&format!("{good}, {more}"), "");
    let validation = |inner: &str| common(&format!("validation_context: {{ {inner} }}"));
    for (with, at, message) in [
        (downstream("", ""), "common_tls_context", "no TLS certificates found for server context"),
        (
            downstream(&pair("x", &key), ""),
            "common_tls_context.tls_certificates[0].certificate_chain",
            "failed to load certificate chain: there is no certificate in PEM",
        ),
        (
            downstream(&pair(&chain, "x"), ""),
            "common_tls_context.tls_certificates[0].private_key",
            "failed to load private key: no items found",
        ),
        (
            downstream(&pair(&chain, &other_key), ""),
            "common_tls_context.tls_certificates[0]",
            "failed to load private key: the private key does not match the certificate",
        ),
        (
            downstream("tls_certificates: [{ certificate_chain: { filename: /nowhere } }]", ""),
            "common_tls_context.tls_certificates[0].certificate_chain.filename",
            "/nowhere: No such file or directory (os error 2)",
        ),
        (
            downstream("tls_certificates: [{ pkcs12: { filename: /nowhere } }]", ""),
            "common_tls_context.tls_certificates[0].pkcs12",
            "not supported yet",
        ),
        (
            common("tls_params: { tls_minimum_protocol_version: TLSv1_1 }"),
            "common_tls_context.tls_params.tls_minimum_protocol_version",
            "TLSv1_1 is not supported: TLSv1_2 is the lowest version",
        ),
        (
            common("tls_params: { tls_maximum_protocol_version: TLSv1_2, tls_minimum_protocol_version: TLSv1_3 }"),
            "common_tls_context.tls_params.tls_maximum_protocol_version",
            "must not be less than the minimum",
        ),
        (
            common("tls_params: { cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256, BOGUS] }"),
            "common_tls_context.tls_params.cipher_suites[1]",
            "unknown cipher suite \"BOGUS\"",
        ),
        (
            common("tls_params: { cipher_suites: [AES128-SHA] }"),
            "common_tls_context.tls_params.cipher_suites",
            "none is supported; there are ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-ECDSA-CHACHA20-POLY1305, \
             ECDHE-RSA-AES128-GCM-SHA256, ECDHE-RSA-CHACHA20-POLY1305, ECDHE-ECDSA-AES256-GCM-SHA384, \
             ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (
            common("tls_params: { ecdh_curves: [P-999] }"),
            "common_tls_context.tls_params.ecdh_curves[0]",
            "unknown curve \"P-999\"",
        ),
        (
            common("tls_params: { compliance_policies: [FIPS_202205] }"),
            "common_tls_context.tls_params.compliance_policies[0]",
            "FIPS_202205 is not supported",
        ),
        (
            validation("match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: a } }]"),
            "common_tls_context.validation_context",
            "SAN-based verification of peer certificates without trusted CA is insecure and not allowed",
        ),
        (
            validation("trusted_ca: { inline_string: x }"),
            "common_tls_context.validation_context.trusted_ca",
            "failed to load trusted CA certificates: there is no certificate in PEM",
        ),
        (
            validation(&format!("trusted_ca: {root}, crl: {{ inline_string: x }}")),
            "common_tls_context.validation_context.crl",
            "failed to load CRL: there is no CRL in PEM",
        ),
        (
            validation(
                "verify_certificate_hash: [\"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\"]",
            ),
            "common_tls_context.validation_context.verify_certificate_hash[0]",
            "\"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\" is not a SHA-256 hash",
        ),
        (
            validation("verify_certificate_spki: [\"!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!\"]"),
            "common_tls_context.validation_context.verify_certificate_spki[0]",
            "\"!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!\" is not a SHA-256 hash",
        ),
        (
            validation(
                "custom_validator_config: { name: envoy.tls.cert_validator.spiffe, typed_config: { \"@type\": type.googleapis.com/google.protobuf.Struct } }",
            ),
            "common_tls_context.validation_context.custom_validator_config",
            "not supported yet",
        ),
        (
            downstream("tls_certificate_sds_secret_configs: [{ name: s }]", ""),
            "common_tls_context.tls_certificate_sds_secret_configs[0].name",
            "unknown static secret \"s\"",
        ),
        (
            downstream("tls_certificate_sds_secret_configs: [{ name: s, sds_config: { ads: {} } }]", ""),
            "common_tls_context.tls_certificate_sds_secret_configs[0].sds_config.ads",
            "ADS must be configured to support an ADS config source",
        ),
        (
            downstream(
                "tls_certificate_sds_secret_configs: [{ name: s, sds_config: { path_config_source: { path: /nowhere } } }]",
                "",
            ),
            "common_tls_context.tls_certificate_sds_secret_configs[0].sds_config.path_config_source.path",
            "paths must refer to an existing path in the system: '/nowhere' does not exist",
        ),
        (
            downstream(&good, "session_ticket_keys: { keys: [{ inline_string: short }] },"),
            "session_ticket_keys.keys[0]",
            "incorrect TLS session ticket key length: 5, expected 80",
        ),
        (downstream(&good, "ocsp_staple_policy: MUST_STAPLE,"), "ocsp_staple_policy", "not supported yet"),
        (
            common("key_log: { path: /nowhere/keys }"),
            "common_tls_context.key_log.path",
            "/nowhere/keys: No such file or directory (os error 2)",
        ),
        (
            upstream(&good, ""),
            "",
            "transport socket envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext is not supported here",
        ),
    ] {
        let error = build("chain", &with).expect_err(&with);
        let at = if at.is_empty() { AT.into() } else { format!("{AT}.{at}") };
        assert_eq!((error.path, error.message.as_str()), (at, message), "{with}");
    }
}

#[test]
fn upstreams_have_one_certificate() {
    let (chain, key) = named_with_pem(&authority("ca"), &["a.test"]);
    let one = format!("{{ certificate_chain: {}, private_key: {} }}", quoted(&chain), quoted(&key));
    let error = build("cluster", &upstream(&format!("tls_certificates: [{one}, {one}]"), "")).unwrap_err();
    let at = "static_resources.clusters[0].transport_socket.typed_config.common_tls_context.tls_certificates";
    assert_eq!(error.path, at);
    assert_eq!(error.message, "multiple TLS certificates are not supported for client contexts");
    let name = "envoy.extensions.transport_sockets.starttls.v3.UpstreamStartTlsConfig";
    let config = "tls_socket_config: { common_tls_context: {} }";
    let socket =
        format!("transport_socket: {{ name: x, typed_config: {{ \"@type\": type.googleapis.com/{name}, {config} }} }}");
    let error = build("cluster", &socket).unwrap_err();
    assert_eq!(error.message, format!("transport socket {name} is not supported here"));
}

#[test]
fn what_only_boringssl_has_is_left_out_and_told() {
    let (chain, key) = named_with_pem(&authority("ca"), &["a.test"]);
    let parameters =
        "tls_params: { cipher_suites: [\"[ECDHE-RSA-AES128-GCM-SHA256|AES128-SHA]\"], ecdh_curves: [P-521, X25519] }";
    let with = downstream(&format!("{}, {parameters}", pair(&chain, &key)), "");
    let built = build("chain", &with).unwrap();
    let at = format!("{AT}.common_tls_context.tls_params");
    assert_eq!(built.ignored, [format!("{at}.cipher_suites[0]: AES128-SHA"), format!("{at}.ecdh_curves[0]: P-521")]);
    assert!(built.snapshot.listeners()[0].filter_chains[0].tls.is_some());
}

#[test]
fn a_context_is_made_of_the_secrets_that_come() {
    let ca = authority("ca");
    let (chain, key) = named_with_pem(&ca, &["a.test"]);
    let (other_chain, other_key) = named_with_pem(&ca, &["b.test"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let from = format!("sds_config: {{ path_config_source: {{ path: {} }} }}", file.path().display());
    let common = format!(
        "tls_certificate_sds_secret_configs: [{{ name: srv, {from} }}], \
         combined_validation_context: {{ default_validation_context: {{ match_typed_subject_alt_names: [{{ san_type: \
         DNS, matcher: {{ exact: c.test }} }}] }}, validation_context_sds_secret_config: {{ name: roots, {from} }} }}"
    );
    let built = build("chain", &downstream(&common, "")).unwrap();
    let listener = &built.snapshot.listeners()[0];
    let tls = listener.filter_chains[0].tls.as_ref().unwrap();
    let [roots, srv] = &built.cells.all()[..] else { panic!() };
    assert_eq!((&*roots.subject().name, &*srv.subject().name, listener.waits.len()), ("roots", "srv", 2));
    let offer = |cell: &Arc<dyn Feed>, yaml: &str, version: &str| {
        let secret: Secret = weir_proto::from_yaml_unvalidated(yaml).unwrap();
        cell.offer(&secret.encode_to_vec().into(), &version.into(), SystemTime::now())
    };
    let certificate = |chain: &str, key: &str| {
        let (chain, key) = (quoted(chain), quoted(key));
        format!("{{ name: srv, tls_certificate: {{ certificate_chain: {chain}, private_key: {key} }} }}")
    };
    assert_eq!(offer(srv, &certificate(&chain, &key), "1"), Ok(true));
    assert!(tls.current().is_none(), "the other one is missing");
    assert_eq!(
        offer(roots, "{ name: roots, validation_context: {} }", "1").unwrap_err(),
        format!(
            "{AT}.common_tls_context.combined_validation_context: SAN-based verification of peer certificates without \
         trusted CA is insecure and not allowed"
        )
    );
    let root = quoted(&ca.pem());
    let validation = format!("{{ name: roots, validation_context: {{ trusted_ca: {root} }} }}");
    assert_eq!(offer(roots, &validation, "2"), Ok(true));
    let first = tls.current().unwrap();
    assert_eq!((first.shown.roots.len(), &*first.shown.certificates[0].secret), (1, "srv"));
    let refused = offer(srv, &certificate(&other_chain, &key), "2").unwrap_err();
    assert!(refused.ends_with("the private key does not match the certificate"), "{refused}");
    assert!(Arc::ptr_eq(&first, &tls.current().unwrap()));
    let of_another_kind = validation.replace("name: roots", "name: srv");
    assert!(offer(srv, &of_another_kind, "3").unwrap_err().ends_with("secret \"srv\" is of another kind"));
    assert_eq!(*srv.state().borrow(), State::Ready);
    assert_eq!(offer(srv, &certificate(&other_chain, &other_key), "4"), Ok(true));
    let second = tls.current().unwrap();
    assert_ne!(
        first.shown.certificates[0].certificate.content().serial,
        second.shown.certificates[0].certificate.content().serial
    );
}
