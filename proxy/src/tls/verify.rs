//! Whether a peer's certificate is to be trusted: Envoy's default certificate validator.
//!
//! In its order: the chain up to a trusted certificate, with revocation; the subject alternative names; the pinned
//! hashes. Nothing configured means nothing checked. [`Verifier`] is a pure function of the certificates and the time;
//! rustls calls it through its two traits.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use super::{
    certificate::{Certificate, Name},
    key_usage,
    recast::Recast,
    san::NameMatcher,
    untrusted::{KEY_USAGE, Untrusted, explain, presented_chain},
};

/// What is asked of a peer's certificate.
#[derive(Debug, Default)]
pub struct Validation {
    /// Chains must end in one of these; none: chains are not looked at.
    pub roots: Vec<Root>,
    /// Revocation lists; none: not looked at.
    pub crls: Vec<CertRevocationList<'static>>,
    /// Only the peer's own certificate is looked up in them.
    pub only_leaf_crl: bool,
    /// One must match, if there are any.
    pub names: Vec<NameMatcher>,
    /// SHA-256 of the certificate; with `keys`, one of both must match, if there are any.
    pub hashes: Vec<[u8; 32]>,
    /// SHA-256 of the public key.
    pub keys: Vec<[u8; 32]>,
    /// Certificates that are out of date will do.
    pub allow_expired: bool,
    /// `ACCEPT_UNTRUSTED`: a certificate that fails is accepted, and known to have failed.
    pub accept_untrusted: bool,
    /// At most so many certificates above the peer's own, the trusted one among them; one is always good.
    pub max_depth: Option<u32>,
}

/// A certificate to trust.
#[derive(Clone, Debug)]
pub struct Root {
    /// The certificate.
    pub certificate: Certificate,
    /// The same, as chains are built with.
    pub anchor: TrustAnchor<'static>,
}

impl Validation {
    /// A digest of what is asked: equal where the same certificates are good.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = digest::Context::new(&digest::SHA256);
        for root in &self.roots {
            digest.update(root.certificate.der());
        }
        let Self { crls, only_leaf_crl, names, hashes, keys, allow_expired, accept_untrusted, max_depth, .. } = self;
        let rest = format!(
            "{crls:?} {only_leaf_crl} {names:?} {hashes:?} {keys:?} {allow_expired} {accept_untrusted} {max_depth:?}"
        );
        digest.update(rest.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.finish().as_ref());
        bytes
    }

    /// Whether anything is asked.
    pub fn asks(&self) -> bool {
        !self.roots.is_empty() || self.names_certificates()
    }

    /// Whether only certain certificates are good, by name or pin. A client without any is refused then, as by Envoy, also
    /// where `require_client_certificate` is not set, unless anybody is accepted.
    pub fn names_certificates(&self) -> bool {
        !self.names.is_empty() || !self.hashes.is_empty() || !self.keys.is_empty()
    }
}

/// Which side the certificate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server's.
    Server,
    /// A client's.
    Client,
}

/// Checks certificates of one role.
#[derive(Debug)]
pub struct Verifier {
    validation: Arc<Validation>,
    role: Role,
    algorithms: WebPkiSupportedAlgorithms,
    /// Of clients: without one the handshake fails.
    mandatory: bool,
    /// Names of the roots, told to clients.
    hints: Vec<DistinguishedName>,
    /// Of servers: a name that must be the certificate's too (`auto_san_validation`).
    also: Also,
}

/// A name that a server's certificate must be for, whatever else it is for.
#[derive(Debug)]
enum Also {
    None,
    /// The one that was sent.
    Sent,
    /// A name or an address.
    Named(Box<str>),
}

impl Verifier {
    /// Checks servers. With `match_server_name`, the certificate must be for the name that was asked for, too.
    pub fn of_servers(
        validation: Arc<Validation>,
        algorithms: WebPkiSupportedAlgorithms,
        match_server_name: bool,
    ) -> Self {
        let also = if match_server_name { Also::Sent } else { Also::None };
        Self { validation, role: Role::Server, algorithms, mandatory: true, hints: Vec::new(), also }
    }

    /// Checks servers as this one does, whose certificates must be for `name` too.
    pub fn of_servers_named(&self, name: &str) -> Self {
        let (validation, algorithms) = (self.validation.clone(), self.algorithms);
        Self { also: Also::Named(name.into()), ..Self::of_servers(validation, algorithms, false) }
    }

    /// Checks clients.
    pub fn of_clients(
        validation: Arc<Validation>,
        algorithms: WebPkiSupportedAlgorithms,
        mandatory: bool,
        tell_roots: bool,
    ) -> Self {
        let roots = validation.roots.iter().filter(|_| tell_roots);
        let hints = roots.map(|root| DistinguishedName::in_sequence(&root.anchor.subject)).collect();
        Self { validation, role: Role::Client, algorithms, mandatory, hints, also: Also::None }
    }

    /// What is asked of peers.
    pub fn validation(&self) -> &Arc<Validation> {
        &self.validation
    }

    /// Whether the handshake may go on. `name` is what a server was asked for.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: Option<&str>,
        now: UnixTime,
    ) -> Result<(), Untrusted> {
        if self.validation.accept_untrusted { Ok(()) } else { self.check(leaf, rest, name, now) }
    }

    /// What is wrong with a peer that was accepted, `sent` being its certificates, its own first. It is for when the
    /// handshake is done: a session that is resumed has certificates too, and no verifier saw them.
    pub fn overlooked(&self, sent: &[CertificateDer<'_>], name: Option<&str>, now: UnixTime) -> Option<Untrusted> {
        let (leaf, rest) = sent.split_first().filter(|_| self.validation.accept_untrusted)?;
        self.check(leaf, rest, name, now).err()
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: Option<&str>,
        now: UnixTime,
    ) -> Result<(), Untrusted> {
        let validation = &*self.validation;
        if !validation.roots.is_empty() {
            self.check_chain(leaf, rest, now)?;
        }
        let asked = match &self.also {
            Also::None => None,
            Also::Sent => name,
            Also::Named(name) => Some(&**name),
        };
        let names = &validation.names;
        if asked.is_none() && names.is_empty() && validation.hashes.is_empty() && validation.keys.is_empty() {
            return Ok(());
        }
        let certificate = Certificate::from(leaf.clone().into_owned());
        let content = certificate.content();
        let presented = || content.names.iter().map(Name::text).collect::<Vec<_>>().join(", ");
        if let Some(asked) = asked.filter(|asked| !NameMatcher::of_host(asked).matches(content)) {
            return Err(Untrusted::Asked { asked: asked.into(), presented: presented() });
        }
        if !names.is_empty() && !names.iter().any(|matcher| matcher.matches(content)) {
            return Err(Untrusted::Names(presented()));
        }
        if validation.hashes.is_empty() && validation.keys.is_empty() {
            return Ok(());
        }
        let pinned = |pins: &[[u8; 32]], bytes: &[u8]| {
            !pins.is_empty() && {
                let hash = digest::digest(&digest::SHA256, bytes);
                pins.iter().any(|pin| pin == hash.as_ref())
            }
        };
        if pinned(&validation.hashes, leaf) || pinned(&validation.keys, &content.public_key) {
            Ok(())
        } else {
            Err(Untrusted::Hash)
        }
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Untrusted> {
        use webpki::Error as Problem;
        let validation = &*self.validation;
        let first = self.build_chain(leaf, rest, now);
        let outcome = match first {
            Err(Problem::CertExpired { .. } | Problem::CertNotValidYet { .. }) if validation.allow_expired => {
                // What is asked then is whether it was trusted while it was in date.
                let content = Certificate::from(leaf.clone().into_owned());
                let then = u64::try_from(content.content().not_after).unwrap_or_default().saturating_sub(1);
                self.build_chain(leaf, rest, UnixTime::since_unix_epoch(std::time::Duration::from_secs(then)))
            }
            // A certificate that is trusted by itself, whoever has issued it.
            Err(Problem::UnknownIssuer) if validation.roots.iter().any(|root| root.certificate.der() == leaf) => {
                check_dates(leaf, now, validation.allow_expired)
            }
            other => other,
        };
        outcome.map_err(|error| explain(&error, presented_chain(leaf, rest, validation.max_depth), now))
    }

    fn build_chain(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        use webpki::Error as Problem;
        let outcome = self.build_chain_of(leaf, self.algorithms.all, rest, now);
        if !matches!(outcome, Err(Problem::CaUsedAsEndEntity | Problem::UnsupportedCertVersion)) {
            return outcome;
        }
        let Some(recast) = Recast::of(leaf) else { return outcome };
        let algorithms = recast.algorithms(self.algorithms.all);
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            algorithms.iter().map(|algorithm| algorithm as _).collect();
        self.build_chain_of(recast.certificate(), &algorithms, rest, now)
    }

    fn build_chain_of(
        &self,
        leaf: &CertificateDer<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let validation = &*self.validation;
        let parsed = EndEntityCert::try_from(leaf)?;
        let anchors: Vec<TrustAnchor<'_>> = validation.roots.iter().map(|root| borrow(&root.anchor)).collect();
        let crls: Vec<&CertRevocationList<'_>> = validation.crls.iter().collect();
        let depth =
            if validation.only_leaf_crl { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let usage = match self.role {
            Role::Server => KeyUsage::server_auth(),
            Role::Client => KeyUsage::client_auth(),
        };
        let path = parsed.verify_for_usage(algorithms, &anchors, rest, now, usage, revocation, None)?;
        let intermediates = path.intermediate_certificates().count();
        match validation.max_depth {
            Some(most) if intermediates > intermediates_of(most) => Err(webpki::Error::UnknownIssuer),
            _ => Ok(()),
        }
    }

    /// Whether a handshake is signed with the key of a certificate, and that is for signing.
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
        tls12: bool,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verify = if tls12 { verify_tls12_signature } else { verify_tls13_signature };
        if !key_usage::may_sign(certificate) {
            // Over TLS 1.2 a client's chain is looked at first, which then has another purpose.
            let of_chain = tls12 && self.role == Role::Client && !self.validation.roots.is_empty();
            return Err(match of_chain {
                true => Untrusted::Chain { depth: 0, what: "unsupported certificate purpose" }.into_rustls(),
                false => KEY_USAGE.into(),
            });
        }
        match verify(message, certificate, signature, &self.algorithms) {
            Err(Error::InvalidCertificate(_)) if let Some(recast) = Recast::of(certificate) => {
                verify(message, recast.certificate(), signature, &self.algorithms)
            }
            verified => verified,
        }
    }
}

/// How many certificates may come between the peer's own and the trusted one.
fn intermediates_of(max_depth: u32) -> usize {
    (max_depth as usize).saturating_sub(1)
}

fn borrow<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor.name_constraints.as_ref().map(|constraints| constraints.as_ref().into()),
    }
}

fn check_dates(leaf: &CertificateDer<'_>, now: UnixTime, allow_expired: bool) -> Result<(), webpki::Error> {
    let certificate = Certificate::from(leaf.clone().into_owned());
    let content = certificate.content();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if allow_expired || (content.not_before..=content.not_after).contains(&seconds) {
        return Ok(());
    }
    let time = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    };
    Err(if seconds < content.not_before {
        webpki::Error::CertNotValidYet { time: now, not_before: time(content.not_before) }
    } else {
        webpki::Error::CertExpired { time: now, not_after: time(content.not_after) }
    })
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, None, now)
            .map(|()| ClientCertVerified::assertion())
            .map_err(Untrusted::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss, true)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss, false)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = match server_name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            _ => None,
        };
        self.verify(end_entity, intermediates, name, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(Untrusted::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss, true)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss, false)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::default_provider;
    use webpki::anchor_from_trusted_cert;

    use super::*;
    use crate::{
        matcher::StringMatcher,
        tls::{
            san::NameType,
            testing::{Authority, authority, intermediate, leaf, named},
        },
    };

    fn root(authority: &Authority) -> Root {
        let der = authority.der().clone();
        let anchor = anchor_from_trusted_cert(&der).unwrap().to_owned();
        Root { certificate: der.into(), anchor }
    }

    fn verify(validation: Validation, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), String> {
        let algorithms = default_provider().signature_verification_algorithms;
        Verifier::of_clients(Arc::new(validation), algorithms, true, true)
            .verify(leaf, rest, None, UnixTime::now())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn chains_end_in_a_root() {
        let (ca, other) = (authority("ca"), authority("other"));
        let middle = intermediate(&ca, "middle");
        let trust = |ca| Validation { roots: vec![root(ca)], ..Validation::default() };
        let direct = named(&ca, &["a.test"]).certificate;
        assert_eq!(verify(trust(&ca), &direct, &[]), Ok(()));
        let unknown =
            "X509_verify_cert: certificate verification error at depth 0: unable to get local issuer certificate";
        assert_eq!(verify(trust(&other), &direct, &[]).unwrap_err(), unknown);
        let below = named(&middle, &["a.test"]).certificate;
        let sent = [middle.der().clone()];
        assert_eq!(verify(trust(&ca), &below, &sent), Ok(()));
        assert_eq!(verify(trust(&ca), &below, &[]).unwrap_err(), unknown);
        assert_eq!(verify(trust(&other), &below, &sent).unwrap_err(), unknown.replace("depth 0", "depth 1"));
        let deep = |most| Validation { max_depth: Some(most), ..trust(&ca) };
        assert_eq!(verify(deep(2), &below, &sent), Ok(()));
        assert_eq!(verify(deep(0), &direct, &[]), Ok(()));
        assert!(verify(deep(1), &below, &sent).unwrap_err().ends_with("unable to get local issuer certificate"));
        assert_eq!(
            verify(trust(&other), ca.der(), &[]).unwrap_err(),
            "X509_verify_cert: certificate verification error at depth 0: self signed certificate"
        );
        // Trusted by itself.
        assert_eq!(verify(trust(&ca), ca.der(), &[]), Ok(()));
        let alone = Validation { max_depth: Some(0), ..trust(&ca) };
        assert_eq!(verify(alone, ca.der(), &[]), Ok(()));
        let untrusted = Validation { accept_untrusted: true, ..trust(&other) };
        assert_eq!(verify(untrusted, &direct, &[]), Ok(()));
        let overlooked = |validation: Validation| {
            let algorithms = default_provider().signature_verification_algorithms;
            let verifier = Verifier::of_clients(Arc::new(validation), algorithms, true, true);
            verifier.overlooked(std::slice::from_ref(&direct), None, UnixTime::now()).map(|why| why.to_string())
        };
        assert_eq!(overlooked(Validation { accept_untrusted: true, ..trust(&other) }).as_deref(), Some(unknown));
        assert_eq!(overlooked(Validation { accept_untrusted: true, ..trust(&ca) }), None);
    }

    #[test]
    fn authorities_may_be_peers() {
        let (ca, other) = (authority("ca"), authority("other"));
        let trust = |ca| Validation { roots: vec![root(ca)], ..Validation::default() };
        let middle = intermediate(&ca, "middle");
        assert_eq!(verify(trust(&ca), middle.der(), &[]), Ok(()));
        assert!(
            verify(trust(&other), middle.der(), &[]).unwrap_err().ends_with("unable to get local issuer certificate")
        );
        // What was signed counts, not what is read.
        let mut forged = middle.der().to_vec();
        let at = forged.windows(6).position(|bytes| bytes == b"middle").unwrap();
        forged[at] = b'M';
        let signature = "certificate verification error at depth 0: certificate signature failure";
        assert!(verify(trust(&ca), &forged.into(), &[]).unwrap_err().ends_with(signature));
    }

    #[test]
    fn certificates_out_of_date_fail_unless_allowed() {
        let ca = authority("ca");
        let old = leaf(&ca, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        let trust = |allow_expired| Validation { roots: vec![root(&ca)], allow_expired, ..Validation::default() };
        assert_eq!(
            verify(trust(false), &old.certificate, &[]).unwrap_err(),
            "X509_verify_cert: certificate verification error at depth 0: certificate has expired"
        );
        assert_eq!(verify(trust(true), &old.certificate, &[]), Ok(()));
    }

    #[test]
    fn names_and_hashes_are_asked_for_after_the_chain() {
        let ca = authority("ca");
        let issued = named(&ca, &["a.test", "b.test"]).certificate;
        let names = |name: &str| Validation {
            names: vec![NameMatcher { kind: NameType::Dns, pattern: StringMatcher::exact(name) }],
            ..Validation::default()
        };
        assert_eq!(verify(names("b.test"), &issued, &[]), Ok(()));
        assert_eq!(
            verify(names("c.test"), &issued, &[]).unwrap_err(),
            "SAN matcher, certificate SANs are [a.test, b.test]"
        );
        let hash = |bytes: &[u8]| -> [u8; 32] { digest::digest(&digest::SHA256, bytes).as_ref().try_into().unwrap() };
        let pinned = |hashes, keys| Validation { hashes, keys, ..Validation::default() };
        let key = Certificate::from(issued.clone()).content().public_key.clone();
        assert_eq!(verify(pinned(vec![[0; 32], hash(&issued)], Vec::new()), &issued, &[]), Ok(()));
        assert_eq!(verify(pinned(vec![[0; 32]], vec![hash(&key)]), &issued, &[]), Ok(()));
        assert_eq!(verify(pinned(vec![[0; 32]], Vec::new()), &issued, &[]).unwrap_err(), "cert hash and spki");
    }
}
