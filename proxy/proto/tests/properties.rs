//! Whatever the text says: a message or one line of refusal, and values that survive.

use proptest::prelude::*;
use serde_json::{Value, json};
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;
use weir_proto::envoy::config::core::v3::Metadata;
use weir_proto::{from_json, from_yaml, to_json};

/// JSON values that a `google.protobuf.Struct` keeps: its numbers are doubles.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(Value::from("1.5")),
        Just(Value::from("yes")),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("\\PC{0,6}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn values_survive(value in values()) {
        let document = json!({ "filter_metadata": { "a": { "value": value } } });
        let message: Metadata = from_json(&document.to_string()).unwrap();
        prop_assert_eq!(to_json(&message).unwrap(), document);
    }

    /// JSON is YAML, but for the types of unquoted floats and large integers.
    #[test]
    fn yaml_reads_json(text in "\\PC{0,12}", flag: bool, number in -1000..1000i32) {
        let document = json!({ "filter_metadata": { "a": { "t": text, "f": [flag, null], "n": number } } });
        let message: Metadata = from_yaml(&document.to_string()).unwrap();
        let expected: Metadata = from_json(&document.to_string()).unwrap();
        prop_assert_eq!(message, expected);
    }

    #[test]
    fn any_text_gives_one_line(text in "([a-z_]{1,4}|admin|node|static_resources|clusters|[-:{}\\[\\], \n\"'&*!|>%@~0-9]{1,3}){0,12}") {
        for refusal in [from_yaml::<Bootstrap>(&text).err(), from_json::<Bootstrap>(&text).err()].into_iter().flatten() {
            prop_assert!(!refusal.to_string().contains('\n'), "{}", refusal);
        }
    }

    #[test]
    fn one_changed_byte_never_panics(at in 0..3000usize, byte in "[ -~\n]") {
        let mut text = include_str!("bootstrap.yaml").to_owned();
        let at = at % text.len();
        text.replace_range(at..=at, &byte);
        if let Err(error) = from_yaml::<Bootstrap>(&text) {
            prop_assert!(!error.in_file("b.yaml").contains('\n'), "{}", error);
        }
    }
}
