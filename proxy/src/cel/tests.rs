use super::*;

struct Known;

impl Attributes for Known {
    fn get(&self, attribute: &Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::Path => Value::text("/a?b=c"),
            Attribute::Header(name) if name == "x-a" => Value::text("one"),
            Attribute::Header(name) if name == "x-n" => Value::text("42"),
            Attribute::ResponseCode => Value::Int(404),
            Attribute::Mtls => Value::Bool(false),
            Attribute::Duration => Value::Duration(1_500_000_000),
            _ => return None,
        })
    }
}

fn holds(text: &str) -> bool {
    Expression::parse(text, Options::default()).unwrap_or_else(|error| panic!("{text}: {error}")).holds(&Known)
}

#[test]
fn what_holds() {
    for text in [
        "response.code >= 400 || connection.mtls == true",
        "response.code == 404u && response.code < 404.5",
        "request.path.startsWith('/a') && request.path.contains('b=') && request.path.endsWith(\"c\")",
        "request.headers['x-a'] == 'one' && 'x-a' in request.headers && !('x-b' in request.headers)",
        "has(request.headers.host) || has(response.code)",
        "request.headers['x-a'] in ['two', 'one']",
        "request.headers['x-a'].matches('^o.e$') && request.path.matches('/a')",
        "int(request.headers['x-n']) + 1 == 43 && size(request.path) == 6 && request.path.size() > 5",
        "request.duration > duration('1s') && request.duration - duration('500ms') == duration('1s')",
        "response.code > 500 ? false : -1 < 0",
        "timestamp('2026-01-01T00:00:00Z') < timestamp('2026-01-01T00:00:00.5Z')",
        "upstream.port == 1 || true",
        "true || upstream.port == 1",
        "!(upstream.port == 1 && false)",
        "response.code != 'text'",
        "[1, 2] == [1, 2.0]",
    ] {
        assert!(holds(text), "{text}");
    }
}

#[test]
fn what_does_not() {
    for text in [
        "response.code",
        "upstream.port == 1",
        "upstream.port != 1",
        "!(upstream.port == 1)",
        "upstream.port == 1 && true",
        "response.code < 'a'",
        "9223372036854775807 + 1 > 0",
        "1 / 0 == 1",
        "int('a') == 1",
        "request.path + 'x' != ''",
        "connection.mtls",
    ] {
        assert!(!holds(text), "{text}");
    }
}

#[test]
fn what_is_refused() {
    let refused = |text: &str| Expression::parse(text, Options::default()).unwrap_err();
    assert!(refused("response.code >=").starts_with("bad expression: "), "{}", refused("response.code >="));
    for (text, message) in [
        ("response.codes == 1", "attribute response.codes is not supported"),
        ("filter_state['a'] == 'b'", "attribute filter_state.a is not supported"),
        ("[1].all(x, x == 1)", "macros over lists and maps are not supported"),
        ("{'a': 1} == {'a': 1}", "map literals are not supported"),
        ("request.headers[request.path] == 'a'", "keys that are no string literals are not supported"),
        ("request.path.matches('(')", "bad regular expression \"(\": "),
        (
            "request.path.matches('\\\\p{L}')",
            "bad regular expression \"\\p{L}\": characters beyond ASCII are not supported",
        ),
        ("request.path.matches('[é]')", "bad regular expression \"[é]\": characters beyond ASCII are not supported"),
        ("request.path.matches(request.path)", "regular expressions that are no string literals are not supported"),
        ("string(1) == '1'", "function string with 1 arguments is not supported"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(message), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let long = vec!["true"; 2_000].join(" && ");
    let error = refused(&long);
    assert!(!error.is_empty() && !error.contains('\n'), "{error}");
}

#[test]
fn options() {
    let options = Options { string_conversion: true, string_concat: true };
    let expression = Expression::parse("string(response.code) + request.headers['x-a'] == '404one'", options).unwrap();
    assert!(expression.holds(&Known));
    let mut named = Vec::new();
    expression.each_attribute(&mut |attribute| named.push(attribute.clone()));
    assert_eq!(named, [Attribute::ResponseCode, Attribute::Header(http::HeaderName::from_static("x-a"))]);
}
