//! The secrets of the bootstrap, by name.

use std::collections::HashMap;

use weir_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};

use super::fields::{item, sub};
use crate::config::error::Error;

/// `static_resources.secrets`.
#[derive(Debug, Default)]
pub(super) struct Secrets(HashMap<String, Type>);

impl Secrets {
    /// Of the bootstrap's list.
    pub(super) fn new(messages: &[Secret], at: &str) -> Result<Self, Error> {
        let mut secrets = HashMap::new();
        for (index, message) in messages.iter().enumerate() {
            let at = item(at, "secrets", index);
            let secret = message.r#type.clone().ok_or_else(|| Error::at(&at, "expected a kind of secret"))?;
            if secrets.insert(message.name.clone(), secret).is_some() {
                return Err(Error::at(sub(&at, "name"), format!("there are several secrets \"{}\"", message.name)));
            }
        }
        Ok(Self(secrets))
    }

    /// The secret of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Type> {
        self.0.get(name)
    }
}
