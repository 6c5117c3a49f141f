//! Fields that are `null` instead of absent.

use serde::{Deserialize, Deserializer};

/// `null` is as good as nothing.
pub fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
