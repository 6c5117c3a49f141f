//! Paths in the one form that routes and policies are written for: `normalize_path`, `merge_slashes` and
//! `path_with_escaped_slashes_action`, each by itself, in Envoy's order: slashes that are escaped, the form, adjacent
//! slashes.
//!
//! What passes here as two paths and is one to the server behind is a way around a policy, so it is Envoy's form to the
//! byte.

/// Whether a path has slashes or backslashes that are escaped, and the path with them as they are. None: it has none.
pub(in crate::http) fn unescape_slashes(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (slash, length) = match rest.as_bytes().get(at + 1..at + 3) {
            Some(b"2f" | b"2F") => ('/', 3),
            Some(b"5c" | b"5C") => ('\\', 3),
            _ => ('%', 1),
        };
        out.push(slash);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    (out.len() < path.len()).then_some(out)
}

/// The path without dot segments (RFC 3986 section 5.2.4), with backslashes as slashes, as browsers take them, and each
/// character escaped only where it must be (section 6.2.2.2). None: there is a zero byte in it.
pub(in crate::http) fn canonical(path: &str) -> Option<String> {
    let path = without_parameters_of_dots(path);
    let path = path.as_bytes();
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        if out.ends_with(b"/")
            && let Some((up, next)) = dot_segment(path, at)
        {
            if up {
                leave_directory(&mut out);
            }
            at = next;
            continue;
        }
        match (byte, escaped(path, at)) {
            (_, Some(0)) => return None,
            (_, Some(plain)) if is_unreserved(plain) => {
                out.push(plain);
                at += 3;
                keep_percent(&mut out, path.get(at).copied());
            }
            (_, Some(_)) => {
                out.extend_from_slice(&path[at..at + 3]);
                at += 3;
            }
            (byte, None) => {
                push(&mut out, byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// The path with no two slashes side by side.
pub(in crate::http) fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        out.push('/');
        out.push_str(segment);
    }
    if path.ends_with('/') {
        // As in Envoy, to which slashes alone are two.
        out.push_str(if out.is_empty() && path.len() > 1 { "//" } else { "/" });
    }
    out
}

/// `/..;a=b/` is `/../` to servers that know parameters of segments.
fn without_parameters_of_dots(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment.split_once(';') {
        Some((dots @ ("." | ".."), _)) => dots,
        _ => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Whether the segment that begins here is `..` or else `.`, and where the next one begins. None: it is neither.
fn dot_segment(path: &[u8], at: usize) -> Option<(bool, usize)> {
    let after_dot = |at: usize| match path.get(at) {
        Some(b'.') => Some(at + 1),
        Some(b'%') if escaped(path, at) == Some(b'.') => Some(at + 3),
        _ => None,
    };
    let next_segment = |at: usize| match path.get(at) {
        None => Some(at),
        Some(b'/' | b'\\') => Some(at + 1),
        Some(_) => None,
    };
    let one = after_dot(at)?;
    match next_segment(one) {
        Some(next) => Some((false, next)),
        None => Some((true, next_segment(after_dot(one)?)?)),
    }
}

/// Takes the last directory off a path that ends with a slash. There is none above the root.
fn leave_directory(out: &mut Vec<u8>) {
    let inner = &out[..out.len().saturating_sub(1)];
    let parent = inner.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    out.truncate(parent + 1);
}

/// What an escape at this place stands for.
fn escaped(path: &[u8], at: usize) -> Option<u8> {
    let [b'%', high, low] = *path.get(at..at + 3)? else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A percent sign that was none of an escape stays none when the digits after it come out of escapes: `%%32e` is not
/// `%2e`. `next` comes after the character that was last.
fn keep_percent(out: &mut Vec<u8>, next: Option<u8>) {
    let percent = match *out.as_slice() {
        [.., b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => out.len() - 3,
        [.., b'%', high] if high.is_ascii_hexdigit() && next.is_some_and(|next| next.is_ascii_hexdigit()) => {
            out.len() - 2
        }
        _ => return,
    };
    out.splice(percent..=percent, *b"%25");
}

fn push(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    match byte {
        b'\\' => out.push(b'/'),
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=b' ' | 0x7f.. => {
            out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        byte => out.push(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_paths() {
        for (from, to) in [
            ("/a/../b", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/../..", "/"),
            ("/%2E%2e/a", "/a"),
            ("/a\\..\\b", "/b"),
            ("/a//../b", "/a/b"),
            ("/..//a", "//a"),
            ("/a/...", "/a/..."),
            ("/a/..;x=1/b", "/b"),
            ("/a/.;%00/b", "/a/b"),
            ("/a/%2e%2e;/b", "/a/..;/b"),
            ("/a\\..;/b", "/a/..;/b"),
            ("/%61%2fb", "/a%2fb"),
            ("/%", "/%"),
            ("/%%32e", "/%252e"),
            ("/%%32%65", "/%252e"),
            ("/%%32z", "/%2z"),
            ("/%2%65", "/%252e"),
            ("/a\"<>^`{|}\u{e9}", "/a%22%3C%3E%5E%60%7B%7C%7D%C3%A9"),
            ("/a!$&'()*+,-.:;=@[]_~", "/a!$&'()*+,-.:;=@[]_~"),
        ] {
            assert_eq!(canonical(from).as_deref(), Some(to), "{from}");
        }
        assert_eq!(canonical("/a%00"), None);
    }

    #[test]
    fn merged_slashes() {
        for (from, to) in
            [("/", "/"), ("//", "//"), ("///", "//"), ("//a", "/a"), ("/a///b//", "/a/b/"), ("/a/b", "/a/b")]
        {
            assert_eq!(merge_slashes(from), to, "{from}");
        }
    }

    #[test]
    fn escaped_slashes() {
        assert_eq!(unescape_slashes("/a%2Fb%5cc%2").as_deref(), Some("/a/b\\c%2"));
        assert_eq!(unescape_slashes("/a%252fb"), None);
    }
}
