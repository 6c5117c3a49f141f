//! Resources as messages: decoded, and checked by the rules of their type.

use bytes::Bytes;
use prost::{Message, Name};
use prost_types::Any;
use weir_proto::envoy::service::discovery::v3::DiscoveryResponse;

use crate::{
    telemetry::unknown_fields,
    xds::{
        kind::Kind,
        update::{Refused, Resource},
    },
};

/// Fields whose content is a message of its own: what is wrong there is wrong with one resource, not with the response.
const OF_ITS_OWN: [&str; 2] = ["typed_config", "typed_extension_protocol_options"];

/// What is wrong with a message.
#[derive(Debug)]
pub(super) enum Wrong {
    /// Envoy refuses all that came with it.
    All(String),
    /// This one is refused.
    This(String),
}

impl Wrong {
    /// What is wrong.
    pub(super) fn why(self) -> String {
        match self {
            Self::All(why) | Self::This(why) => why,
        }
    }
}

/// The message that these bytes are.
pub(super) fn message<T: Message + Name + Default>(body: &Bytes) -> Result<T, Wrong> {
    let message = T::decode(body.clone())
        .map_err(|error| Wrong::All(format!("Unable to unpack as {}: {error}", T::full_name())))?;
    let unknown = weir_proto::validate_encoded::<T>(body).map_err(|error| {
        let apart = error
            .path()
            .segments()
            .any(|segment| matches!(segment, weir_proto::Segment::Field(name) if OF_ITS_OWN.contains(&name.as_str())));
        let why = format!("Proto constraint validation failed ({error})");
        if apart { Wrong::This(why) } else { Wrong::All(why) }
    })?;
    unknown_fields::met(&unknown).map_err(|why| Wrong::All(format!("Protobuf message ({why}) has unknown fields")))?;
    Ok(message)
}

/// Resources with the messages that they are, or why they are none.
pub(super) type Read<'a, T> = Vec<(&'a Resource, Result<T, String>)>;

/// The messages of resources. The first that breaks the rules of its type has all refused.
pub(super) fn messages<T: Message + Name + Default>(resources: &[Resource]) -> Result<Read<'_, T>, Refused> {
    let each = resources.iter().map(|resource| match message(&resource.body) {
        Ok(message) => Ok((resource, Ok(message))),
        Err(Wrong::This(why)) => Ok((resource, Err(why))),
        Err(Wrong::All(why)) => Err(Refused::All(format!("{}: {why}", resource.name))),
    });
    each.collect()
}

/// Resources as one, as cells take them that have several.
pub(super) fn together<'a>(kind: Kind, bodies: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let any = |body: &Bytes| Any { type_url: kind.type_url().to_owned(), value: body.to_vec() };
    let resources = bodies.map(any).collect();
    DiscoveryResponse { resources, ..DiscoveryResponse::default() }.encode_to_vec().into()
}

/// What a consumer says of resources of which some were refused.
pub(super) fn verdict(refused: Vec<(std::sync::Arc<str>, String)>) -> Result<(), Refused> {
    if refused.is_empty() { Ok(()) } else { Err(Refused::Some(refused)) }
}
