//! Request targets, as Envoy takes them, in a form that has one meaning.

use std::borrow::Cow;

use http::Uri;

use super::{
    bytes,
    verdict::{LONGEST_TARGET, Refusal},
};

/// A target that passes.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub text: Cow<'a, [u8]>,
    /// It had a fragment, which is cut off.
    pub fragment: bool,
}

/// Whether a target has only characters that it may have, where it may have them.
pub(super) fn is_valid(target: &[u8], method: &[u8]) -> bool {
    if let [b'/' | b'*', rest @ ..] = target {
        return rest.iter().all(|byte| bytes::is_target(*byte));
    }
    let after_scheme = match (method, scheme(target)) {
        (b"CONNECT", _) => target,
        (_, Some((_, rest))) => rest,
        (_, None) => return false,
    };
    let (authority, path) = split_authority(after_scheme);
    !target.is_empty()
        && authority.iter().all(|byte| bytes::is_authority(*byte))
        && !authority.windows(2).any(|two| two == b"@@")
        && path.iter().all(|byte| bytes::is_target(*byte))
}

/// Reads a target that [`is_valid`].
pub(super) fn read<'a>(target: &'a [u8], method: &[u8]) -> Result<Target<'a>, Refusal> {
    if target.len() > LONGEST_TARGET {
        return Err(Refusal::TooLong);
    }
    let hash = memchr::memchr(b'#', target);
    let fragment = hash.is_some() && method != b"CONNECT";
    let whole = target;
    let target = &target[..hash.unwrap_or(target.len())];
    let text = match (method, target) {
        (b"CONNECT", _) => {
            let authority = split_authority(whole);
            if !authority.1.is_empty() || port(authority.0).is_none() {
                return Err(Refusal::Target);
            }
            Cow::Borrowed(whole)
        }
        (_, [b'/', ..]) | (b"OPTIONS", [b'*', ..]) => Cow::Borrowed(target),
        (_, [b'*', ..]) => return Err(Refusal::Target),
        _ => Cow::Owned(absolute(target)?),
    };
    // What the parser after this one would refuse, in its own way.
    let known = (text[0] != b'*' || &*text == b"*") && Uri::try_from(&*text).is_ok();
    if known { Ok(Target { text, fragment }) } else { Err(Refusal::Codec) }
}

/// The absolute form, without what names a user, and with a path.
fn absolute(target: &[u8]) -> Result<Vec<u8>, Refusal> {
    let (scheme, rest) = scheme(target).ok_or(Refusal::Codec)?;
    let (authority, path) = split_authority(rest);
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    let bare = !host.contains(&b':') || host.ends_with(b"]");
    if host.is_empty() || !(bare || port(host).is_some()) {
        return Err(Refusal::Target);
    }
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_slice(), b"http" | b"https") {
        return Err(Refusal::Scheme);
    }
    let root: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    Ok([&scheme, &b"://"[..], host, root, path].concat())
}

/// A scheme (RFC 3986 section 3.1) and what follows its `://`.
fn scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let length = target.iter().position(|byte| !is_part(byte))?;
    let (scheme, rest) = target.split_at(length);
    let rest = rest.strip_prefix(b"://")?;
    scheme.first()?.is_ascii_alphabetic().then_some((scheme, rest))
}

/// The authority, and the path, query or fragment after it.
fn split_authority(rest: &[u8]) -> (&[u8], &[u8]) {
    rest.split_at(rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len()))
}

/// The port after a host, which may be an IPv6 address in brackets.
fn port(authority: &[u8]) -> Option<u16> {
    let colon = memchr::memrchr(b':', authority)?;
    let host = &authority[..colon];
    let bracketed = host.starts_with(b"[") == host.ends_with(b"]");
    let digits = bytes::decimal(&authority[colon + 1..])?;
    (!host.is_empty() && bracketed).then(|| u16::try_from(digits).ok()).flatten()
}
