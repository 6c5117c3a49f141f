//! Secrets that contexts name: those of the bootstrap, and those that come by themselves.

use weir_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, SdsSecretConfig, secret::Type,
};

use super::{super::discovered, loading::Loading};
use crate::config::{convert::fields::sub, error::Error};

impl Loading {
    /// The secret that `config` names, which must be of the kind that `pick` takes. None: it is to come, and has not.
    pub(super) fn secret<T>(
        &mut self,
        config: &SdsSecretConfig,
        at: &str,
        pick: impl Fn(&Type) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let name = &config.name;
        let picked = |secret: &Type| {
            let kind = || Error::at(sub(at, "name"), format!("secret \"{name}\" is of another kind"));
            pick(secret).ok_or_else(kind).map(Some)
        };
        if config.sds_config.is_none() {
            let secret = self.cx.secrets.get(name);
            let unknown = || Error::at(sub(at, "name"), format!("unknown static secret \"{name}\""));
            return picked(secret.ok_or_else(unknown)?);
        }
        let cell = discovered::secret(&mut self.cx, config, &sub(at, "sds_config"))?;
        let current = cell.current();
        self.secrets.push(cell.clone());
        let Some(secret) = current.as_deref() else {
            self.missing = true;
            return Ok(None);
        };
        picked(secret)
    }

    /// The same, of a validation context.
    pub(super) fn validation_secret(
        &mut self,
        config: &SdsSecretConfig,
        at: &str,
    ) -> Result<Option<CertificateValidationContext>, Error> {
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
