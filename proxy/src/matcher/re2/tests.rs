use super::super::Regex;

/// A pattern, what it matches as a whole, and what it does not.
type Matches = (&'static str, &'static [&'static [u8]], &'static [&'static [u8]]);

/// Most are in `regex-dialect.yaml` too, where they are compared with Envoy.
const MATCHES: &[Matches] = &[
    // Operators on classes, and classes in classes, are what they look like.
    ("[a&&b]+", &[b"a&b"], &[b""]),
    ("[a~~b]+", &[b"a~b"], &[b"c"]),
    ("[+--]+", &[b"+,-"], &[b"."]),
    ("[x[a]]", &[b"x]", b"[]", b"a]"], &[b"x", b"a"]),
    ("[^[a]]+", &[b"x]", b"x]]"], &[b"x", b"a]"]),
    ("[[.a.]]", &[b".]", b"[]"], &[b"a", b"]"]),
    ("[[=a=]]", &[b"=]"], &[b"a"]),
    ("/[^[]+", &[b"/a]"], &[b"/["]),
    (r"[\w-.]+", &[b"a-.1"], &[b","]),
    (r"[\d-z]+", &[b"1-z"], &[b"a"]),
    (r"[\s-_]+", &[b" -_"], &[b"a"]),
    ("[]a]+", &[b"a]"], &[b"["]),
    ("[^]a]", &[b"b"], &[b"]", b"a"]),
    ("[a-c-e]+", &[b"b-e"], &[b"d"]),
    ("[[:^alpha:]]", &[b"1", b"\xe9"], &[b"a"]),
    ("[[:word:]-]+", &[b"a_-"], &[b"."]),
    ("[[:alpha]+", &[b"[:alph"], &[b"b"]),
    // Braces that count nothing stand for themselves.
    ("/users/{id}", &[b"/users/{id}"], &[b"/users/id"]),
    ("x{,2}", &[b"x{,2}"], &[b"", b"xx"]),
    ("a{1,", &[b"a{1,"], &[b"a"]),
    ("a{01}", &[b"a{01}"], &[b"a"]),
    ("a{1000000000}", &[b"a{1000000000}"], &[b"a"]),
    (r"\b{start}", &[], &[b"{start}", b""]),
    (r"a\b{2}", &[b"a"], &[b"a{2}"]),
    ("(a){0}b", &[b"b"], &[b"ab"]),
    ("a{2,3}", &[b"aa", b"aaa"], &[b"a", b"aaaa"]),
    ("(?:a{100}){10}", &[&[b'a'; 1000]], &[&[b'a'; 999]]),
    // Escapes.
    (r"\<a\>\_\%", &[b"<a>_%"], &[b"a"]),
    (r"\x{e9}\xe9\351", &[b"\xe9\xe9\xe9"], &["ééé".as_bytes()]),
    (r"\012\08\0", &[b"\n\x008\0"], &[]),
    (r"\Qa.b\E+\Q(", &[b"a.bb("], &[b"axb(", b"a.b"]),
    (r"\s|[\s]", &[b" ", b"\t", b"\n", b"\x0c"], &[b"\x0b", b"\xa0"]),
    ("[[:space:]]", &[b"\x0b"], &[]),
    (r"\Aa\z", &[b"a"], &[b"a\n"]),
    // Every byte is a character.
    (r"\C", &[b"\n", b"\xff"], &["é".as_bytes()]),
    ("..", &["é".as_bytes()], &[b"\xe9", b"a\n"]),
    ("é+", &["é".as_bytes(), b"\xc3\xa9\xa9"], &["éé".as_bytes()]),
    ("[é]", &[b"\xc3", b"\xa9"], &["é".as_bytes(), b"\xe9"]),
    ("[^é]", &[b"\xe9", b"\n"], &[b"\xc3"]),
    ("[à-ü]+", &[b"\xa0\xbc", b"\xc3"], &[b"\xe9"]),
    (r"\pL+", &[b"aZ\xaa\xb5\xff"], &[b"1", b"\xd7"]),
    (r"\p{Lu}\p{^Lu}", &[b"A1", b"\xc0a"], &[b"aa"]),
    (r"[\pN\PL]", &[b"1", b".", b"\xb2"], &[b"a"]),
    (r"\p{Greek}", &[], &[b"a", b"\xb5"]),
    (r"\P{Greek}\p{Any}", &[b"a\xff"], &[]),
    (r"\p{Latin}\p{Common}", &[b"a1", b"\xe9\xd7"], &[b"1a"]),
    // Case.
    (r"(?i)k\xe9", &[b"K\xe9", b"k\xe9"], &[b"K\xc9", b"\xe2\x84\xaa\xe9"]),
    ("(?i)[k-m]+[^x]", &[b"kLMa"], &[b"LX", b"lx"]),
    ("(?i)[[:^lower:]]", &[b"1"], &[b"a", b"A"]),
    (r"(?i)\p{Lu}", &[b"a", b"A", b"\xc9"], &[b"\xe9"]),
    ("(?i:a)b|(?i)c|d", &[b"Ab", b"C", b"D"], &[b"AB"]),
    ("(?i)a(?-i)b", &[b"Ab"], &[b"AB"]),
    ("((?i)a)b", &[b"Ab"], &[b"AB"]),
    // Groups, alternatives, repetitions, lines.
    ("a||b", &[b"", b"a", b"b"], &[b"ab"]),
    ("(?P<1>a)(?<n>b)(?P<n>c)", &[b"abc"], &[]),
    ("(?U)a+?b*", &[b"aabb"], &[]),
    ("a*(?i)*", &[b"aa"], &[]),
    ("^*a$+", &[b"a"], &[]),
    ("()", &[b""], &[b"("]),
    ("a$b", &[], &[b"a$b", b"ab"]),
    ("(?s)a.b", &[b"a\nb"], &[]),
    ("(?m)a$.^b|(?ms)a$.^b", &[b"a\nb"], &[b"axb"]),
    ("(?)a(?i-s:b)", &[b"aB"], &[]),
];

#[test]
fn patterns_match_as_in_re2() {
    for (pattern, matching, others) in MATCHES {
        let regex = Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for text in *matching {
            assert!(regex.is_match(text), "{pattern} {}", text.escape_ascii());
        }
        for text in *others {
            assert!(!regex.is_match(text), "{pattern} {}", text.escape_ascii());
        }
    }
}

#[test]
fn what_re2_refuses_is_refused_in_its_words() {
    for (pattern, message) in [
        ("(a", "missing ): (a"),
        ("a)é", "unexpected ): a)é"),
        ("/private)|(?:/public", "unexpected ): /private)|(?:/public"),
        ("a**", "bad repetition operator: **"),
        ("a*?+?", "bad repetition operator: *?+?"),
        ("a{2}{3}", "bad repetition operator: {2}{3}"),
        ("a*{1001}", "bad repetition operator: *{1001}"),
        ("a|*?", "no argument for repetition operator: *?"),
        ("(?i)+", "no argument for repetition operator: +"),
        ("({2})", "no argument for repetition operator: {2}"),
        (r"\Q\E*", "no argument for repetition operator: *"),
        ("a{1001}?", "invalid repetition size: {1001}?"),
        ("a{2,1}", "invalid repetition size: {2,1}"),
        ("(?:a{100,}){11}", "invalid repetition size: {11}"),
        ("x[y", "missing ]: [y"),
        ("[]", "missing ]: []"),
        ("[z-a]", "invalid character class range: z-a"),
        ("[a--]", "invalid character class range: a--"),
        ("[[:foo:]]", "invalid character class range: [:foo:]"),
        (r"\p{greek}", r"invalid character class range: \p{greek}"),
        (r"[\p{Lu]", r"invalid character class range: \p{Lu]"),
        (r"\pé", "invalid character class range: \\pÃ"),
        (r"\p{}", r"invalid character class range: \p{}"),
        (r"[a-\d]", r"invalid escape sequence: \d"),
        (r"[\b]", r"invalid escape sequence: \b"),
        (r"a\E", r"invalid escape sequence: \E"),
        (r"\Z", r"invalid escape sequence: \Z"),
        (r"\18", r"invalid escape sequence: \1"),
        (r"\8", r"invalid escape sequence: \8"),
        (r"\400", r"invalid escape sequence: \400"),
        (r"\u0041", r"invalid escape sequence: \u"),
        (r"\xg", r"invalid escape sequence: \xg"),
        (r"\x{100}", r"invalid escape sequence: \x{100"),
        (r"\x{}", r"invalid escape sequence: \x{}"),
        (r"a\", r"trailing \"),
        ("(?x)a", "invalid perl operator: (?x"),
        ("(?-u)a", "invalid perl operator: (?-u"),
        ("(?i-)a", "invalid perl operator: (?i-)"),
        ("(?=a)", "invalid perl operator: (?="),
        ("(?<!a)b", "invalid perl operator: (?<!"),
        ("(?", "invalid perl operator: (?"),
        ("(?P<a", "invalid named capture group: (?P<a"),
        ("(?P<a-b>c)", "invalid named capture group: (?P<a-b>"),
        ("(?<>c)", "invalid named capture group: (?<>"),
    ] {
        assert_eq!(Regex::new(pattern).unwrap_err(), message, "{pattern}");
    }
}

#[test]
fn groups_keep_their_numbers() {
    assert_eq!(Regex::search("(a){0}(?:b)(?<n>c)").unwrap().groups(), 2);
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")*".repeat(depth));
    assert!(Regex::new(&nested(100)).unwrap().is_match(b"aaa"));
    assert_eq!(Regex::new(&nested(101)).unwrap_err(), "expression nests too deeply");
    for again in ["(?)*", "(?)+", "(?)?", "(?){0}", "(?){1}", "(?){1,}", ")*", "){0}"] {
        let pattern = match again.strip_prefix(')') {
            Some(_) => format!("{}a{}", "(?:".repeat(100_000), again.repeat(100_000)),
            None => format!("a*{}", again.repeat(100_000)),
        };
        assert_eq!(Regex::new(&pattern).unwrap_err(), "expression nests too deeply", "{again}");
    }
}

#[test]
fn long_patterns_are_read_once() {
    let bytes = 256 << 10;
    for unclosed in ["{", "{1,", "[:", "(?:a|"] {
        let pattern = format!("[a{}", unclosed.repeat(bytes / unclosed.len()));
        assert!(Regex::new(&pattern).is_err(), "{unclosed}");
        assert!(Regex::new(&pattern[2..]).is_err(), "{unclosed}");
    }
}
