use super::*;

#[test]
fn every_rule_of_the_api_is_implemented() {
    let mut with_rules = 0;
    let pool = crate::pool();
    let all = Rules::of(&pool);
    for descriptor in pool.all_messages() {
        let rules = all.of_message(&descriptor).unwrap_or_else(|error| panic!("{error}"));
        with_rules += usize::from(!rules.fields.is_empty());
        // A rule for another type than the field's would only show when it is checked.
        for (field, rule) in &rules.fields {
            if let Err(error) = rule.check_field(&Value::default_value_for_field(field), true, true) {
                assert!(!error.problem().contains("another type"), "{}: {error}", field.full_name());
            }
        }
    }
    assert!(with_rules > 400, "{with_rules} messages with rules: the options got lost");
}
