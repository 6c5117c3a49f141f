//! `google.protobuf.Struct` as JSON, and back.

use prost_types::{ListValue, Struct, Value, value::Kind};

/// A `Struct` as JSON.
pub fn object(message: &Struct) -> serde_json::Map<String, serde_json::Value> {
    message.fields.iter().map(|(key, value)| (key.clone(), json(value))).collect()
}

fn json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::BoolValue(flag)) => (*flag).into(),
        Some(Kind::StructValue(members)) => object(members).into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(json).collect::<Vec<_>>().into(),
    }
}

/// JSON as a `Struct`.
pub fn message(members: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: members.iter().map(|(key, value)| (key.clone(), value_of(value))).collect() }
}

fn value_of(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(list) => Kind::ListValue(ListValue { values: list.iter().map(value_of).collect() }),
        serde_json::Value::Object(members) => Kind::StructValue(message(members)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_a_message_is_the_same_again() {
        let json = serde_json::json!({ "a": [1.0, "x", null, true], "b": { "c": 2.5 } });
        let members = json.as_object().unwrap();
        assert_eq!(object(&message(members)), *members);
    }
}
