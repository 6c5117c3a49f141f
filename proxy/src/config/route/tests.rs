use super::*;

fn table(domains: &[&[&str]]) -> Result<RouteTable, DuplicateDomain> {
    RouteTable::new(
        "r",
        domains
            .iter()
            .map(|domains| {
                let host = VirtualHost { name: domains[0].into(), ..VirtualHost::default() };
                (host, domains.iter().map(|domain| (*domain).to_owned()).collect())
            })
            .collect(),
    )
}

#[test]
fn the_most_specific_domain_wins() {
    let mut table =
        table(&[&["*"], &["*.test"], &["*.a.test"], &["A.test", "b.test:80"], &["a.*"], &["a.b.*"]]).unwrap();
    let host = |table: &RouteTable, name: &str| {
        table.virtual_host(Some(name.as_bytes())).map(|host| host.name.to_string()).unwrap_or_default()
    };
    for (authority, expected) in [
        ("a.test", "A.test"),
        ("a.TEST", "A.test"),
        ("x.a.test", "*.a.test"),
        ("x.test", "*.test"),
        (".test", "*"),
        ("a.b.c", "a.b.*"),
        ("a.c", "a.*"),
        ("b.test:80", "A.test"),
        ("a.test:80", "a.*"),
        ("", "*"),
    ] {
        assert_eq!(host(&table, authority), expected, "{authority}");
    }
    table.ignore_port = true;
    assert_eq!(host(&table, "a.test:80"), "A.test");
}

#[test]
fn duplicate_domains_are_found() {
    let duplicate = table(&[&["*", "a"], &["b", "A"]]).unwrap_err();
    assert_eq!(duplicate, DuplicateDomain { domain: "A".into(), virtual_host: 1, position: 1 });
    assert!(table(&[&["*.a"], &["*.a"]]).is_err());
}

#[test]
fn ports() {
    for (authority, host) in
        [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1"), ("a:b", "a:b")]
    {
        assert_eq!(without_port(authority.as_bytes()), host.as_bytes(), "{authority}");
    }
}

#[test]
fn paths() {
    let separated = PathMatch::SeparatedPrefix("/a/b".into());
    assert!(separated.matches("/a/b", true) && separated.matches("/a/b/c", true));
    assert!(!separated.matches("/a/bc", true));
    assert!(PathMatch::Prefix("/a".into()).matches("/A/x", false));
    assert!(!PathMatch::Exact("/a".into()).matches("/a/", true));
}
