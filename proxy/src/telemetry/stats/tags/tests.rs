use super::*;

fn shown(name: &str) -> String {
    let tagged = TagRules::new(true).apply(name);
    let tags = tagged.tags.iter().map(|(tag, value)| format!(" {tag}={value}")).collect::<String>();
    format!("{}{tags}", tagged.name)
}

#[test]
fn every_default_pattern_compiles() {
    for known in well_known::TAGS {
        if let well_known::Pattern::Regex(pattern) = known.pattern {
            compile(&well_known::expand(pattern)).unwrap();
        }
    }
}

/// As real Envoy 1.40 has them at /stats/prometheus.
#[test]
fn the_default_tags_are_envoys() {
    for (name, expected) in [
        ("cluster.c.upstream_rq_503", "cluster.upstream_rq envoy.response_code=503 envoy.cluster_name=c"),
        (
            "cluster.c.external.upstream_rq_5xx",
            "cluster.external.upstream_rq_xx envoy.response_code_class=5 envoy.cluster_name=c",
        ),
        (
            "http.ingress.downstream_rq_2xx",
            "http.downstream_rq_xx envoy.response_code_class=2 envoy.http_conn_manager_prefix=ingress",
        ),
        (
            "listener.127.0.0.1_29910.http.ingress.downstream_rq_2xx",
            "listener.http.downstream_rq_xx envoy.response_code_class=2 envoy.http_conn_manager_prefix=ingress \
             envoy.listener_address=127.0.0.1_29910",
        ),
        (
            "listener.admin.http.admin.downstream_rq_completed",
            "listener.admin.http.downstream_rq_completed envoy.http_conn_manager_prefix=admin",
        ),
        ("listener.[__1]_80.downstream_cx_total", "listener.downstream_cx_total envoy.listener_address=[__1]_80"),
        ("server.worker_0.watchdog_miss", "server.worker_watchdog_miss envoy.worker_id=0"),
        (
            "vhost.v.vcluster.other.upstream_rq_time",
            "vhost.vcluster.upstream_rq_time envoy.virtual_cluster=other envoy.virtual_host=v",
        ),
        ("tcp.p.downstream_cx_total", "tcp.downstream_cx_total envoy.tcp_prefix=p"),
        (
            "listener.l.ssl.ciphers.TLS_AES_128_GCM_SHA256",
            "listener.ssl.ciphers envoy.ssl_cipher=TLS_AES_128_GCM_SHA256 envoy.listener_address=l",
        ),
        ("server.live", "server.live"),
    ] {
        assert_eq!(shown(name), expected, "{name}");
    }
}

#[test]
fn own_tags() {
    let mut rules = TagRules::new(false);
    rules.fix("env", "test");
    rules.extract("envoy.cluster_name", "").unwrap();
    rules.extract("ahead", r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*))\.)").unwrap();
    rules.extract("phase", r"^cluster\.[^.]+\.(phase_(\w+)\.)").unwrap();
    let tagged = rules.apply("cluster.c.phase_two.count");
    let tags: Vec<_> = tagged.tags.iter().map(|(tag, value)| (&**tag, &**value)).collect();
    assert_eq!(
        (&*tagged.name, tags),
        ("cluster.count", vec![("env", "test"), ("envoy.cluster_name", "c"), ("phase", "two")])
    );
    let tagged = rules.apply("listener.0.0.0.0_80.http.0.0.0.0_8080.downstream_rq_total");
    assert_eq!(tagged.name, "listener.0.0.0.0_80.http.downstream_rq_total");
    assert_eq!(tagged.tags[1], ("ahead".into(), "0.0.0.0_8080".into()));
}

#[test]
fn names_of_a_view_have_the_tags_that_they_have_in_it_and_its_own() {
    let mut rules = TagRules::new(true);
    let shown = |rules: &TagRules| {
        let tagged = rules.apply("view.shop.cluster.c.upstream_rq_2xx");
        let tags: Vec<_> = tagged.tags.iter().map(|(tag, value)| format!("{tag}={value}")).collect();
        format!("{} {}", tagged.name, tags.join(" "))
    };
    assert!(shown(&rules).starts_with("view.shop.cluster.c.upstream_rq"));
    rules.tell_apart(ViewNames::new(["shop".into()]).unwrap());
    assert_eq!(shown(&rules), "cluster.upstream_rq_xx envoy.response_code_class=2 envoy.cluster_name=c weir.view=shop");
}

#[test]
fn what_is_wrong_with_a_tag_is_said() {
    let mut rules = TagRules::new(true);
    assert_eq!(rules.extract("t", "(").unwrap_err().to_string(), "bad regular expression \"(\": error: unclosed group");
    assert_eq!(rules.extract("t", "").unwrap_err().to_string(), "no regex, and no default one for the tag \"t\"");
}
