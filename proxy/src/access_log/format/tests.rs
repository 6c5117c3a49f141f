use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::*;
use crate::access_log::{ClusterNames, Entry, Flag, Live, Upstream, View};

fn entry() -> Entry {
    let mut entry = Entry::new("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
    entry.start_time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_481_818_059_319);
    entry.protocol = Some("HTTP/1.1");
    entry
}

fn written(format: &Format, entry: &Entry) -> String {
    let mut out = Vec::new();
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("h.test"));
    headers.insert("x-a", HeaderValue::from_static("abcdef"));
    headers.insert("x-bad", HeaderValue::from_bytes(b"q\xff\"\\\t").unwrap());
    let uri = Uri::from_static("/p?q=%41%20b&r");
    let live = Live { method: &Method::GET, uri: &uri, scheme: "http", headers: &headers };
    format.write_line(&mut out, &View::live(entry, live));
    String::from_utf8_lossy(&out).into_owned()
}

fn line(source: &str, entry: &Entry) -> String {
    written(&Format::text(source).unwrap(), entry)
}

#[test]
fn operators() {
    let mut entry = entry();
    for (format, expected) in [
        ("[%START_TIME%]", "[2016-12-15T16:07:39.319Z]"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S.%3f %s)%", "2016/12/15T16:07:39.319 1481818059"),
        ("%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%", "GET /p?q=%41%20b&r HTTP/1.1"),
        ("%REQ_WITHOUT_QUERY(:PATH)% %PATH(NQ)% %PATH(NQ:ORIG)%", "/p /p -"),
        ("%REQ(x-a):3%|%REQ(x-a):30%|%REQ(x-b)%|%REQ(host)%|%REQ(x-a):0%", "abc|abcdef|-|h.test|"),
        (
            "%QUERY_PARAM(q)%|%QUERY_PARAM(q):1%|%QUERY_PARAM(r)%|%QUERY_PARAM(s)%|%QUERY_PARAMS%",
            "A b|A||-|q=%41%20b&r",
        ),
        ("100%%", "100%"),
        ("%RESPONSE_FLAGS% %ROUTE_NAME% %UPSTREAM_HOST%", "- - -"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "10.0.0.1 80"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)% %DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.0/8 10.0.0.1:4711"),
        ("%DOWNSTREAM_TLS_VERSION% %TRACE_ID% %CUSTOM_FLAGS%|", "- - |"),
        ("%REQUESTED_SERVER_NAME% %REQUESTED_SERVER_NAME(HOST_FIRST)%", "- h.test"),
        ("%COALESCE({\"operators\":[{\"command\":\"REQ\",\"param\":\"x-b\"},\"PROTOCOL\"]}):4%", "HTTP"),
        ("%COMMON_DURATION(US_TX_BEG:US_RX_BEG)% %ACCESS_LOG_TYPE%", "- NotSet"),
    ] {
        assert_eq!(line(format, &entry), expected, "{format}");
    }
    entry.raise(Flag::UpstreamRetryLimitExceeded);
    entry.raise(Flag::UpstreamConnectionFailure);
    assert_eq!(line("%RESPONSE_FLAGS%", &entry), "URX,UF");
    assert_eq!(line("%RESPONSE_FLAGS_LONG%", &entry), "UpstreamRetryLimitExceeded,UpstreamConnectionFailure");
}

#[test]
fn endpoints_have_names_and_a_history() {
    let mut entry = entry();
    // Of TCP connections, that is.
    entry.protocol = None;
    let upstream = |address: &str, name: Option<&str>| Upstream {
        address: address.parse().unwrap(),
        hostname: name.map(Arc::from),
        metadata: None,
    };
    entry.tried.push(upstream("10.0.0.8:81", Some("one.test:81")));
    entry.upstream = Some(upstream("10.0.0.9:82", None));
    for (operator, expected) in [
        ("%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS%", "10.0.0.9:82 -"),
        ("%UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%", "10.0.0.9:82 10.0.0.9"),
        ("%UPSTREAM_HOSTS_ATTEMPTED%", "10.0.0.8:81,10.0.0.9:82"),
        ("%UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT%", "one.test,10.0.0.9"),
    ] {
        assert_eq!(line(operator, &entry), expected, "{operator}");
    }
}

#[test]
fn the_defaults_parse() {
    for format in [ENVOY_DEFAULT, ISTIO_DEFAULT] {
        assert!(line(format, &entry()).starts_with("[2016-12-15T16:07:39.319Z] \"GET /p?q=%41%20b&r HTTP/1.1\" 0 - "));
    }
}

#[test]
fn json_keeps_types() {
    let mut entry = entry();
    entry.response_code = 200;
    entry.bytes_sent = 1_000_000;
    let mut metadata = crate::matcher::metadata::Metadata::default();
    metadata.set("n", "k", serde_json::json!({"b": 1.5, "a": [true, "x"]}));
    entry.cluster = Some(Arc::new(ClusterNames { metadata: Some(metadata), ..ClusterNames::default() }));
    let format = serde_json::json!({
        "z": "%RESPONSE_CODE%", "y": "%UPSTREAM_CLUSTER%", "x": "a %PROTOCOL%", "w": 100_000, "v": "%BYTES_SENT%",
        "u": {"t": "%ROUTE_NAME%"}, "s": ["%ROUTE_NAME%", 1], "r": "%RESPONSE_FLAGS%", "q": "%REQ(x-bad)%",
        "p": "%CLUSTER_METADATA(n:k)%", "o": "%REQ(x-a)%", "n": true, "m": null, "l": "é\n", "k": {}
    });
    let format = Format::json(&format).unwrap();
    assert_eq!(
        written(&format, &entry),
        "{\"k\":{},\"l\":\"é\\n\",\"m\":null,\"n\":true,\"o\":\"abcdef\",\"p\":{\"a\":[true,\"x\"],\"b\":1.5},\
         \"q\":\"q\\u00ff\\u0022\\u005c\\u0009\",\"r\":\"-\",\"s\":[null,1],\"u\":{\"t\":null},\"v\":1000000,\
         \"w\":1e+05,\"x\":\"a HTTP/1.1\",\"y\":null,\"z\":200}\n"
    );
    assert_eq!(
        written(&format.omitting(true), &entry),
        "{\"l\":\"é\\n\",\"n\":true,\"o\":\"abcdef\",\"p\":{\"a\":[true,\"x\"],\"b\":1.5},\
         \"q\":\"q\\u00ff\\u0022\\u005c\\u0009\",\"r\":\"-\",\"s\":[1],\"v\":1000000,\
         \"w\":1e+05,\"x\":\"a HTTP/1.1\",\"z\":200}\n"
    );
    let text = Format::text("%CLUSTER_METADATA(n)%|%CLUSTER_METADATA(n:k:b)%|%CLUSTER_METADATA(n:k:c)%|").unwrap();
    assert_eq!(written(&text.omitting(true), &entry), "{\"k\":{\"a\":[true,\"x\"],\"b\":1.5}}|1.5||");
}

#[test]
fn bad_formats_say_what_is_wrong() {
    for (format, message) in [
        ("%NOPE%", "Not supported field in StreamInfo: NOPE"),
        ("%CEL()%", "CEL requires parameters"),
        ("a % b\n", "Incorrect configuration: a % b. Couldn't find valid command at position 2"),
        ("%REQ(x)", "Incorrect configuration: %REQ(x). Couldn't find valid command at position 0"),
        ("%REQ(x):y%", "Incorrect configuration: %REQ(x):y%. Couldn't find valid command at position 0"),
        ("%PROTOCOL(x)%", "PROTOCOL does not take any parameters or length"),
        ("%START_TIME:3%", "START_TIME does not allow length to be specified."),
        ("%REQ%", "REQ requires parameters"),
        ("%REQ(a b)%", "Invalid header configuration. Format string contains invalid characters."),
        ("%REQ(a?b?c)%", "More than 1 alternative header specified in token: a?b?c"),
        ("%START_TIME(%n)%", "Invalid header configuration. Format string contains newline."),
        ("%COMMON_DURATION(a)%", "Invalid common duration configuration: a."),
        ("%COMMON_DURATION(a:b:x)%", "Invalid common duration precision: x."),
        ("%PATH(x)%", "Invalid PATH option: 'x', only 'WQ'/'NQ' are allowed"),
        ("%FILTER_STATE(a:X)%", "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD."),
        ("%METADATA(FOO:a)%", "FOO is not supported type of metadata"),
        ("%COALESCE({})%", "COALESCE: JSON configuration must contain 'operators' array"),
        (
            "%COALESCE({\"operators\":[\"NOPE\"]})%",
            "COALESCE: failed to parse operator at index 0: unknown command: 'NOPE'",
        ),
        (
            "%COALESCE({\"operators\":[\"COALESCE\"]})%",
            "COALESCE: failed to parse operator at index 0: COALESCE within COALESCE is not supported",
        ),
    ] {
        assert_eq!(Format::text(format).unwrap_err().to_string(), message, "{format}");
    }
}
