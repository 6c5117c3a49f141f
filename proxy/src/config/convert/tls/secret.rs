//! Secrets that contexts name: those of the bootstrap, and those in files.

use std::fs;

use weir_proto::envoy::{
    config::core::v3::config_source::ConfigSourceSpecifier,
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, SdsSecretConfig, Secret, secret::Type},
    service::discovery::v3::DiscoveryResponse,
};

use super::loading::Loading;
use crate::config::{
    convert::fields::{item, sub, unpack},
    error::Error,
};

impl Loading {
    /// The secret that `config` names, if it is of the kind that `pick` takes.
    pub(super) fn secret<T>(
        &mut self,
        config: &SdsSecretConfig,
        at: &str,
        pick: impl Fn(&Type) -> Option<T>,
    ) -> Result<T, Error> {
        let name = &config.name;
        let kind = || Error::at(sub(at, "name"), format!("secret \"{name}\" is of another kind"));
        let Some(source) = &config.sds_config else {
            let secret = self
                .secrets
                .get(name)
                .ok_or_else(|| Error::at(sub(at, "name"), format!("unknown static secret \"{name}\"")))?;
            return pick(secret).ok_or_else(kind);
        };
        let at = sub(at, "sds_config");
        #[expect(deprecated, reason = "published configurations use it")]
        let path = match &source.config_source_specifier {
            Some(ConfigSourceSpecifier::PathConfigSource(source)) => source.path.clone(),
            Some(ConfigSourceSpecifier::Path(path)) => path.clone(),
            _ => return Err(Error::at(at, "expected path_config_source: secrets from a server are not supported yet")),
        };
        self.follow(&path);
        let failed = |error: String| Error::at(&at, format!("{path}: {error}"));
        let text = fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        let response: DiscoveryResponse = weir_proto::from_yaml(&text).map_err(|error| failed(error.to_string()))?;
        for (index, any) in response.resources.iter().enumerate() {
            let secret: Secret = unpack(any, &item(&format!("{at} ({path})"), "resources", index))?;
            if secret.name == *name {
                return secret.r#type.as_ref().and_then(&pick).ok_or_else(kind);
            }
        }
        Err(failed(format!("there is no secret \"{name}\"")))
    }

    /// The same, of a validation context.
    pub(super) fn validation_secret(
        &mut self,
        config: &SdsSecretConfig,
        at: &str,
    ) -> Result<CertificateValidationContext, Error> {
        self.secret(config, at, |secret| match secret {
            Type::ValidationContext(context) => Some(context.clone()),
            _ => None,
        })
    }
}

/// protobuf's MergeFrom: what is set in `from` wins, lists are joined.
#[expect(deprecated, reason = "published configurations use match_subject_alt_names")]
pub(super) fn merge(into: &mut CertificateValidationContext, from: CertificateValidationContext) {
    into.trusted_ca = from.trusted_ca.or(into.trusted_ca.take());
    into.system_root_certs = from.system_root_certs.or(into.system_root_certs.take());
    into.ca_certificate_provider_instance =
        from.ca_certificate_provider_instance.or(into.ca_certificate_provider_instance.take());
    into.watched_directory = from.watched_directory.or(into.watched_directory.take());
    into.require_signed_certificate_timestamp =
        from.require_signed_certificate_timestamp.or(into.require_signed_certificate_timestamp);
    into.crl = from.crl.or(into.crl.take());
    into.custom_validator_config = from.custom_validator_config.or(into.custom_validator_config.take());
    into.max_verify_depth = from.max_verify_depth.or(into.max_verify_depth);
    into.verify_certificate_spki.extend(from.verify_certificate_spki);
    into.verify_certificate_hash.extend(from.verify_certificate_hash);
    into.match_typed_subject_alt_names.extend(from.match_typed_subject_alt_names);
    into.match_subject_alt_names.extend(from.match_subject_alt_names);
    into.allow_expired_certificate |= from.allow_expired_certificate;
    into.only_verify_leaf_cert_crl |= from.only_verify_leaf_cert_crl;
    into.suppress_client_ca_list |= from.suppress_client_ca_list;
    if from.trust_chain_verification != 0 {
        into.trust_chain_verification = from.trust_chain_verification;
    }
}
