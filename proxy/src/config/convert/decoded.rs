//! Messages that come by themselves, decoded.

use bytes::Bytes;
use prost::{Message, Name};

use crate::{config::error::Error, telemetry::unknown_fields};

/// A message that came by itself, of which nothing has been looked at yet.
pub(super) fn decoded<M: Message + Name + Default>(body: &Bytes) -> Result<M, Error> {
    let message =
        M::decode(body.clone()).map_err(|error| Error::at("", format!("not a {}: {error}", M::full_name())))?;
    let unknown = weir_proto::validate_encoded::<M>(body).map_err(|error| Error::at("", error.to_string()))?;
    unknown_fields::met(&unknown)
        .map_err(|why| Error::at("", format!("Protobuf message ({why}) has unknown fields")))?;
    Ok(message)
}
