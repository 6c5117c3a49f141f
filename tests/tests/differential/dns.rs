//! What the name server of the cases says of names: what a rule says, or by what they begin with, or end in.

use std::net::Ipv4Addr;

use weir_tests::name_server::{TYPE_A, Verdict};

use super::case::Rule;

/// So long do addresses hold, in seconds, but for those of names that begin with `brief`.
const TTL: u32 = 600;

/// The `status` of a rule is a response code of RFC 1035.
pub fn verdict(rule: Option<&Rule>, name: &str, kind: u16) -> Verdict {
    if let Some(code) = rule.and_then(|rule| rule.status) {
        return Verdict::Code(u8::try_from(code).unwrap_or(u8::MAX));
    }
    let first = name.split('.').next().unwrap_or_default();
    match first {
        "fail" => Verdict::Code(2),
        "refused" => Verdict::Code(5),
        "silent" => Verdict::Silence,
        "nodata" => Verdict::NoData,
        _ if !name.ends_with(".test") => Verdict::Code(3),
        _ if kind == TYPE_A => Verdict::Address(Ipv4Addr::LOCALHOST, if name.starts_with("brief") { 0 } else { TTL }),
        _ => Verdict::NoData,
    }
}
