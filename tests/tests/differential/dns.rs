//! What the name server of the cases says of names: by what they begin with, or end in.

use std::net::Ipv4Addr;

use weir_tests::name_server::{TYPE_A, Verdict};

/// So long do addresses hold, in seconds, but for those of names that begin with `brief`.
const TTL: u32 = 600;

pub fn verdict(name: &str, kind: u16) -> Verdict {
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
