//! Rules of a message type, read from its descriptor.
//!
//! Every rule message of protoc-gen-validate is taken apart field by field, so that a rule added to it does not compile
//! here until somebody decides what to do with it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
};

use super::bounds::Bounds;
use super::text::{Lengths, Text};
use super::time;
use super::unsupported::Unsupported;
use crate::generated::validate::field_rules::Type;
use crate::generated::validate::{
    AnyRules, BytesRules, DurationRules, EnumRules, FieldRules, MapRules, RepeatedRules, TimestampRules,
};

/// The rules of one message type.
pub(super) struct MessageRules {
    pub fields: Vec<(FieldDescriptor, Rule)>,
    pub required_oneofs: Vec<OneofDescriptor>,
    /// Numbers of the fields whose own messages are not to be checked.
    pub skipped: HashSet<u32>,
}

/// What a field, an item or a key must satisfy.
#[derive(Debug)]
pub(super) struct Rule {
    pub required: bool,
    pub check: Option<Check>,
}

#[derive(Debug)]
pub(super) enum Check {
    Bool(bool),
    Integer(Bounds<i128>, IgnoreEmpty),
    Float(Bounds<f64>, IgnoreEmpty),
    Text(Box<Text>),
    Bytes(Lengths, IgnoreEmpty),
    Enum {
        bounds: Bounds<i128>,
        defined: Option<HashSet<i32>>,
    },
    /// Bounds in nanoseconds.
    Duration(Bounds<i128>),
    List {
        length: Lengths,
        unique: bool,
        items: Option<Box<Rule>>,
        ignore_empty: bool,
    },
    Map {
        length: Lengths,
        keys: Option<Box<Rule>>,
        values: Option<Box<Rule>>,
        ignore_empty: bool,
    },
    Any {
        one_of: Vec<String>,
        none_of: Vec<String>,
    },
}

/// Whether the rules leave the default value alone.
pub(super) type IgnoreEmpty = bool;

/// The rules of all message types of a pool, each compiled on first use.
pub(crate) struct Rules {
    compiled: RwLock<HashMap<String, Arc<MessageRules>>>,
    field: ExtensionDescriptor,
    oneof: ExtensionDescriptor,
    message: [ExtensionDescriptor; 2],
}

impl Rules {
    pub fn of(pool: &DescriptorPool) -> Self {
        let extension = |name| {
            pool.get_extension_by_name(name).expect("the embedded descriptor set has protoc-gen-validate's options")
        };
        Self {
            compiled: RwLock::default(),
            field: extension("validate.rules"),
            oneof: extension("validate.required"),
            message: ["validate.disabled", "validate.ignored"].map(extension),
        }
    }

    /// The rules of a type.
    ///
    /// # Errors
    /// A rule that is not implemented, named with its field.
    pub(super) fn of_message(&self, descriptor: &MessageDescriptor) -> Result<Arc<MessageRules>, String> {
        let name = descriptor.full_name();
        if let Some(rules) = self.compiled.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(rules.clone());
        }
        let rules = Arc::new(self.compile(descriptor)?);
        self.compiled.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), rules.clone());
        Ok(rules)
    }

    fn compile(&self, descriptor: &MessageDescriptor) -> Result<MessageRules, String> {
        let options = descriptor.options();
        if let Some(option) = self.message.iter().find(|option| options.has_extension(option)) {
            return Err(format!("{}: option {} is not implemented", descriptor.full_name(), option.full_name()));
        }
        let mut fields = Vec::new();
        let mut skipped = HashSet::new();
        for field in descriptor.fields() {
            let options = field.options();
            if !options.has_extension(&self.field) {
                continue;
            }
            let unsupported = |why: String| format!("{}: validation rule not implemented: {why}", field.full_name());
            let rules: FieldRules = options
                .get_extension(&self.field)
                .as_message()
                .ok_or_else(|| unsupported("not a message".into()))
                .and_then(|rules| {
                    DynamicMessage::transcode_to(rules).map_err(|error| unsupported(error.to_string()))
                })?;
            if is_skipped(&rules) {
                skipped.insert(field.number());
            }
            let rule = Rule::new(rules, &field.kind()).map_err(|Unsupported(why)| unsupported(why))?;
            if rule.required || rule.check.is_some() {
                fields.push((field, rule));
            }
        }
        let is_required = |oneof: &OneofDescriptor| oneof.options().get_extension(&self.oneof).as_bool() == Some(true);
        let required_oneofs = descriptor.oneofs().filter(is_required).collect();
        Ok(MessageRules { fields, required_oneofs, skipped })
    }
}

/// Whether the field's messages, or its items' or values', are exempt from their own rules.
fn is_skipped(rules: &FieldRules) -> bool {
    let own = |rules: &FieldRules| rules.message.as_ref().is_some_and(|message| message.skip());
    let nested = match &rules.r#type {
        Some(Type::Repeated(repeated)) => repeated.items.as_deref(),
        Some(Type::Map(map)) => map.values.as_deref(),
        _ => None,
    };
    own(rules) || nested.is_some_and(own)
}

/// Takes a numeric rule message apart.
macro_rules! bounds {
    ($rules:expr, $number:ty, $check:path) => {{
        let rules = $rules;
        let number = |number| <$number>::from(number);
        let bounds = Bounds {
            exactly: rules.r#const.map(number),
            less_than: rules.lt.map(number),
            at_most: rules.lte.map(number),
            greater_than: rules.gt.map(number),
            at_least: rules.gte.map(number),
            one_of: rules.r#in.into_iter().map(number).collect(),
            none_of: rules.not_in.into_iter().map(number).collect(),
        };
        $check(bounds, rules.ignore_empty.unwrap_or(false))
    }};
}

impl Rule {
    fn new(rules: FieldRules, kind: &Kind) -> Result<Self, Unsupported> {
        let FieldRules { message, r#type } = rules;
        let mut required = message.is_some_and(|message| message.required());
        let check = match r#type {
            None => None,
            Some(Type::Bool(rules)) => rules.r#const.map(Check::Bool),
            Some(Type::Float(rules)) => Some(bounds!(rules, f64, Check::Float)),
            Some(Type::Double(rules)) => Some(bounds!(rules, f64, Check::Float)),
            Some(Type::Int32(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Int64(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Uint32(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Uint64(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Sint32(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Sint64(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Fixed32(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Fixed64(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Sfixed32(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::Sfixed64(rules)) => Some(bounds!(rules, i128, Check::Integer)),
            Some(Type::String(rules)) => Some(Check::Text(Box::new(Text::new(rules)?))),
            Some(Type::Bytes(rules)) => Some(bytes(rules)?),
            Some(Type::Enum(rules)) => Some(enumeration(rules, kind)?),
            Some(Type::Repeated(rules)) => Some(list(*rules, kind)?),
            Some(Type::Map(rules)) => Some(map(*rules, kind)?),
            Some(Type::Any(AnyRules { required: is_required, r#in, not_in })) => {
                required |= is_required.unwrap_or(false);
                (!r#in.is_empty() || !not_in.is_empty()).then_some(Check::Any { one_of: r#in, none_of: not_in })
            }
            Some(Type::Duration(rules)) => {
                required |= rules.required();
                Some(duration(rules))
            }
            Some(Type::Timestamp(TimestampRules {
                required: is_required,
                r#const,
                lt,
                lte,
                gt,
                gte,
                lt_now,
                gt_now,
                within,
            })) => {
                required |= is_required.unwrap_or(false);
                let limits = [r#const, lt, lte, gt, gte];
                if limits.iter().any(Option::is_some) || lt_now.is_some() || gt_now.is_some() || within.is_some() {
                    return Err(Unsupported("timestamp".into()));
                }
                None
            }
        };
        Ok(Self { required, check })
    }

    fn nested(rules: Option<Box<FieldRules>>, kind: &Kind) -> Result<Option<Box<Self>>, Unsupported> {
        rules.map(|rules| Self::new(*rules, kind).map(Box::new)).transpose()
    }
}

fn bytes(rules: BytesRules) -> Result<Check, Unsupported> {
    let BytesRules {
        r#const,
        len,
        min_len,
        max_len,
        pattern,
        prefix,
        suffix,
        contains,
        r#in,
        not_in,
        ignore_empty,
        well_known,
    } = rules;
    let other = [r#const, prefix, suffix, contains].iter().any(Option::is_some)
        || pattern.is_some()
        || well_known.is_some()
        || !r#in.is_empty()
        || !not_in.is_empty();
    if other {
        return Err(Unsupported("bytes".into()));
    }
    Ok(Check::Bytes(Lengths { exactly: len, least: min_len, most: max_len }, ignore_empty.unwrap_or(false)))
}

fn enumeration(rules: EnumRules, kind: &Kind) -> Result<Check, Unsupported> {
    let EnumRules { r#const, defined_only, r#in, not_in } = rules;
    let numbers = |numbers: Vec<i32>| numbers.into_iter().map(i128::from).collect();
    let bounds = Bounds {
        exactly: r#const.map(i128::from),
        less_than: None,
        at_most: None,
        greater_than: None,
        at_least: None,
        one_of: numbers(r#in),
        none_of: numbers(not_in),
    };
    let defined = match (defined_only.unwrap_or(false), kind) {
        (false, _) => None,
        (true, Kind::Enum(descriptor)) => Some(descriptor.values().map(|value| value.number()).collect()),
        (true, _) => return Err(Unsupported("enum rules on another type".into())),
    };
    Ok(Check::Enum { bounds, defined })
}

fn list(rules: RepeatedRules, kind: &Kind) -> Result<Check, Unsupported> {
    let RepeatedRules { min_items, max_items, unique, items, ignore_empty } = rules;
    Ok(Check::List {
        length: Lengths { exactly: None, least: min_items, most: max_items },
        unique: unique.unwrap_or(false),
        items: Rule::nested(items, kind)?,
        ignore_empty: ignore_empty.unwrap_or(false),
    })
}

fn map(rules: MapRules, kind: &Kind) -> Result<Check, Unsupported> {
    let MapRules { min_pairs, max_pairs, no_sparse, keys, values, ignore_empty } = rules;
    let Kind::Message(entry) = kind else { return Err(Unsupported("map rules on another type".into())) };
    // no_sparse forbids values that are unset, which only Go's maps can hold.
    let _ = no_sparse;
    Ok(Check::Map {
        length: Lengths { exactly: None, least: min_pairs, most: max_pairs },
        keys: Rule::nested(keys, &entry.map_entry_key_field().kind())?,
        values: Rule::nested(values, &entry.map_entry_value_field().kind())?,
        ignore_empty: ignore_empty.unwrap_or(false),
    })
}

fn duration(rules: DurationRules) -> Check {
    let DurationRules { required: _, r#const, lt, lte, gt, gte, r#in, not_in } = rules;
    let nanos = |duration: prost_types::Duration| time::nanos(duration.seconds, duration.nanos);
    let bounds = Bounds {
        exactly: r#const.map(nanos),
        less_than: lt.map(nanos),
        at_most: lte.map(nanos),
        greater_than: gt.map(nanos),
        at_least: gte.map(nanos),
        one_of: r#in.into_iter().map(nanos).collect(),
        none_of: not_in.into_iter().map(nanos).collect(),
    };
    Check::Duration(bounds)
}
