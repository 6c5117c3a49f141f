//! Certificates of a case file, made anew in every run: `NAME.pem` (with its issuers but the root), `NAME.key`, and
//! `NAME.crl` for those that revoke.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, RevokedCertParams, SanType, SerialNumber, SigningKey as _, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use weir_proxy::tls::der;

use super::case::Certificate;

/// Makes them.
pub fn make(certificates: &BTreeMap<String, Certificate>, directory: &Path) {
    fs::create_dir_all(directory).expect("a directory of this test");
    let keys: BTreeMap<&String, KeyPair> =
        certificates.iter().map(|(name, certificate)| (name, key(certificate.key.as_deref()))).collect();
    let write = |name: &str, kind: &str, text: String| {
        fs::write(directory.join(format!("{name}.{kind}")), text).expect("write a certificate");
    };
    for (index, (name, certificate)) in certificates.iter().enumerate() {
        let key = &keys[name];
        let parameters = parameters(name, index, certificate);
        let mut chain = match &certificate.issuer {
            Some(issuer) => {
                let known = known(certificates, issuer);
                let signer = Issuer::from_params(&known.1, &keys[issuer]);
                let signed = parameters.signed_by(key, &signer).expect("a certificate");
                if certificate.first_version { first_version(signed.der(), &keys[issuer]) } else { signed.pem() }
            }
            None => parameters.self_signed(key).expect("a certificate").pem(),
        };
        // Intermediate issuers; roots are known to those that trust them.
        let mut next = certificate.issuer.as_ref();
        while let Some(issuer) = next {
            next = certificates[issuer].issuer.as_ref();
            if let Some(root) = next {
                let (_, of_issuer) = known(certificates, issuer);
                let (_, of_root) = known(certificates, root);
                let signer = Issuer::from_params(&of_root, &keys[root]);
                chain.push_str(&of_issuer.signed_by(&keys[issuer], &signer).expect("a certificate").pem());
            }
        }
        write(name, "pem", chain);
        write(name, "key", key.serialize_pem());
        if !certificate.revokes.is_empty() {
            write(name, "crl", revocations(certificates, name, &keys));
        }
    }
}

/// The SHA-256 of a certificate in a file, in hexadecimal.
pub fn hash(path: &Path) -> String {
    read(path).sha256()
}

/// The SHA-256 of the public key of a certificate in a file, in base64.
pub fn pin(path: &Path) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, &read(path).content().public_key))
}

fn read(path: &Path) -> weir_proxy::tls::certificate::Certificate {
    CertificateDer::from_pem_file(path).expect("a certificate of this test").into()
}

fn key(kind: Option<&str>) -> KeyPair {
    let algorithm = match kind {
        None => return KeyPair::generate().expect("a key"),
        Some("p521") => &PKCS_ECDSA_P521_SHA512,
        Some("rsa") => &PKCS_RSA_SHA256,
        Some("ed25519") => &PKCS_ED25519,
        Some(other) => panic!("no kind of key is named `{other}`"),
    };
    KeyPair::generate_for(algorithm).expect("a key")
}

/// The same certificate as X.509 v1, in PEM.
fn first_version(certificate: &[u8], issuer: &KeyPair) -> String {
    let (signed, rest) = der::to_be_signed(certificate).expect("a certificate");
    let kept = signed.parts().filter(|part| ![der::VERSION, der::EXTENSIONS].contains(&part.tag));
    let signed = der::write(der::SEQUENCE, &kept.map(|part| part.whole).collect::<Vec<_>>().concat());
    let (algorithm, _) = der::read(rest).expect("an algorithm");
    let signature = [&[0], &*issuer.sign(&signed).expect("a signature")].concat();
    let whole = [&*signed, algorithm.whole, &der::write(der::BIT_STRING, &signature)].concat();
    weir_proxy::tls::certificate::Certificate::from(CertificateDer::from(der::write(der::SEQUENCE, &whole))).pem()
}

fn known<'a>(certificates: &'a BTreeMap<String, Certificate>, name: &str) -> (&'a Certificate, CertificateParams) {
    let (index, (name, certificate)) = certificates
        .iter()
        .enumerate()
        .find(|(_, (known, _))| *known == name)
        .unwrap_or_else(|| panic!("no certificate is named `{name}`"));
    (certificate, parameters(name, index, certificate))
}

fn parameters(name: &str, index: usize, certificate: &Certificate) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, certificate.common_name.as_deref().unwrap_or(name));
    parameters.distinguished_name.push(DnType::OrganizationName, "weir");
    parameters.serial_number = Some(SerialNumber::from(0x1000_0000 + index as u64));
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = match certificate.expired {
        true => date_time_ymd(2021, 1, 1),
        false => date_time_ymd(2060, 1, 1),
    };
    parameters.key_identifier_method = KeyIdMethod::Sha256;
    parameters.subject_alt_names = certificate.names.iter().map(|name| alternative(name)).collect();
    if certificate.authority {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    } else {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = certificate.issuer.is_some();
    }
    if let Some(usages) = &certificate.usages {
        parameters.key_usages = usages.iter().map(|usage| key_usage(usage)).collect();
    }
    parameters
}

fn key_usage(name: &str) -> KeyUsagePurpose {
    match name {
        "DigitalSignature" => KeyUsagePurpose::DigitalSignature,
        "KeyEncipherment" => KeyUsagePurpose::KeyEncipherment,
        "KeyCertSign" => KeyUsagePurpose::KeyCertSign,
        "CrlSign" => KeyUsagePurpose::CrlSign,
        other => panic!("no use of a key is named `{other}`"),
    }
}

fn alternative(name: &str) -> SanType {
    let text = || name.try_into().unwrap_or_else(|error| panic!("{name}: {error}"));
    match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) if name.contains("://") => SanType::URI(text()),
        Err(_) if name.contains('@') => SanType::Rfc822Name(text()),
        Err(_) => SanType::DnsName(text()),
    }
}

fn revocations(certificates: &BTreeMap<String, Certificate>, name: &str, keys: &BTreeMap<&String, KeyPair>) -> String {
    let (issuer, parameters) = known(certificates, name);
    let revoked = issuer.revokes.iter().map(|name| RevokedCertParams {
        serial_number: known(certificates, name).1.serial_number.expect("all have one"),
        revocation_time: date_time_ymd(2020, 6, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 6, 1),
        next_update: date_time_ymd(2060, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::from_params(&parameters, &keys[&name.to_owned()]);
    list.signed_by(&issuer).expect("a revocation list").pem().expect("its PEM")
}
