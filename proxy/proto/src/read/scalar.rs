//! Numbers, booleans, strings, bytes and enums.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{EnumDescriptor, Kind, Value as Field};

use crate::error::ConfigError;
use crate::json::is_number;
use crate::tree::{Node, Value};

/// Padding or not, and bits left over in the last letter, are no matter: protobuf reads both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Names of an enum that an error lists.
const LISTED_NAMES: usize = 12;

pub(super) fn value(kind: &Kind, node: &Node) -> Result<Field, ConfigError> {
    match kind {
        Kind::Bool => boolean(node).map(Field::Bool),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(node).map(Field::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(node).map(Field::I64),
        Kind::Uint32 | Kind::Fixed32 => integer(node).map(Field::U32),
        Kind::Uint64 | Kind::Fixed64 => integer(node).map(Field::U64),
        Kind::Double => number(node).map(Field::F64),
        Kind::Float => single(node).map(Field::F32),
        Kind::String => string(node).map(|text| Field::String(text.to_owned())),
        Kind::Bytes => bytes(node).map(|bytes| Field::Bytes(bytes.into())),
        Kind::Enum(descriptor) => enumeration(descriptor, node).map(Field::EnumNumber),
        Kind::Message(_) => Err(wanted("a map", node)),
    }
}

fn wanted(what: &str, node: &Node) -> ConfigError {
    ConfigError::new(format!("must be {what}, not {}", node.shown()))
}

fn boolean(node: &Node) -> Result<bool, ConfigError> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        _ => Err(wanted("true or false", node)),
    }
}

pub(super) fn string(node: &Node) -> Result<&str, ConfigError> {
    match &node.value {
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Number(_) => {
            Err(ConfigError::new(format!("must be a string, not {} (put it in quotes)", node.shown())))
        }
        _ => Err(wanted("a string", node)),
    }
}

/// A whole number that fits; `1e3` and `5.0` are whole numbers too.
fn integer<T: TryFrom<i128> + Bounded>(node: &Node) -> Result<T, ConfigError> {
    /// Beyond it, a double cannot tell neighbours apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let wrong = || wanted(&format!("a whole number from {} to {}", T::LOWEST, T::HIGHEST), node);
    let (Value::Number(text) | Value::String(text)) = &node.value else { return Err(wrong()) };
    if !is_number(text) {
        return Err(wrong());
    }
    let whole = match text.parse::<i128>() {
        Ok(whole) => whole,
        Err(_) => match text.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 && number.abs() <= EXACT => number as i128,
            _ => return Err(wrong()),
        },
    };
    T::try_from(whole).map_err(|_| wrong())
}

/// The range of an integer type, for messages.
trait Bounded {
    const LOWEST: i128;
    const HIGHEST: i128;
}

macro_rules! bounded {
    ($($integer:ty)*) => {
        $(impl Bounded for $integer {
            const LOWEST: i128 = <$integer>::MIN as i128;
            const HIGHEST: i128 = <$integer>::MAX as i128;
        })*
    };
}
bounded!(i32 i64 u32 u64);

fn number(node: &Node) -> Result<f64, ConfigError> {
    let wrong = || wanted("a number", node);
    let (Value::Number(text) | Value::String(text)) = &node.value else { return Err(wrong()) };
    match text.as_str() {
        "NaN" => return Ok(f64::NAN),
        "Infinity" => return Ok(f64::INFINITY),
        "-Infinity" => return Ok(f64::NEG_INFINITY),
        _ => {}
    }
    if !is_number(text) {
        return Err(wrong());
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(wrong()),
    }
}

fn single(node: &Node) -> Result<f32, ConfigError> {
    let number = number(node)?;
    let single = number as f32;
    if single.is_infinite() && number.is_finite() { Err(wanted("a single-precision number", node)) } else { Ok(single) }
}

fn bytes(node: &Node) -> Result<Vec<u8>, ConfigError> {
    let wrong = || wanted("bytes in base64", node);
    let Value::String(text) = &node.value else { return Err(wrong()) };
    // Both alphabets are read.
    BASE64.decode(text.replace('-', "+").replace('_', "/")).map_err(|_| wrong())
}

fn enumeration(descriptor: &EnumDescriptor, node: &Node) -> Result<i32, ConfigError> {
    let name = match &node.value {
        // Numbers without a name are read: a newer API may define them, and rules refuse them where it matters.
        Value::Number(_) => return integer(node),
        Value::String(text) if is_number(text) => return integer(node),
        Value::String(text) => text,
        Value::Null if descriptor.full_name() == "google.protobuf.NullValue" => return Ok(0),
        _ => "",
    };
    let named = descriptor.values().find(|value| value.name().eq_ignore_ascii_case(name));
    named.map(|value| value.number()).ok_or_else(|| {
        let mut names: Vec<String> =
            descriptor.values().take(LISTED_NAMES).map(|value| value.name().to_owned()).collect();
        if descriptor.values().len() > LISTED_NAMES {
            names.push("...".into());
        }
        wanted(&format!("one of {}", names.join(", ")), node)
    })
}
