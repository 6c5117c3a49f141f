//! The tags that Envoy takes out of names by default, in its order.

/// How a tag is found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pattern {
    /// See [`super::Pattern::Parts`].
    Parts(&'static str),
    /// See [`super::Pattern::Regex`]; with the placeholders of [`expand`].
    Regex(&'static str),
}

use Pattern::{Parts, Regex};

#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub tag: &'static str,
    pub pattern: Pattern,
    pub must: &'static str,
    pub must_not: &'static str,
}

const fn tag(tag: &'static str, pattern: Pattern, must: &'static str) -> Tag {
    Tag { tag, pattern, must, must_not: "" }
}

/// What stands for parts of names in the regular expressions.
const PLACEHOLDERS: [(&str, &str); 8] = [
    ("<ADDRESS>", r"(?:(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[[a-fA-F_\d]+\])_\d+)"),
    ("<CIPHER>", r"[\w-]+"),
    ("<TLS_VERSION>", r"TLSv\d\.\d"),
    ("<TAG_VALUE>", r"[^\.]+"),
    ("<ROUTE_CONFIG_NAME>", r"[\w\-\.]+"),
    ("<SCOPED_ROUTE_CONFIG_NAME>", r"[\w\-\./]+"),
    ("<LISTENER_OR_CLUSTER_WITH_NAME>", r"(?:listener|cluster)\..*?"),
    ("<PROXY_PROTOCOL_VERSION>", r"\d"),
];

/// The regular expression with what the placeholders stand for.
pub(super) fn expand(pattern: &str) -> String {
    PLACEHOLDERS.iter().fold(pattern.to_owned(), |pattern, (name, text)| pattern.replace(name, text))
}

pub(super) const TAGS: &[Tag] = &[
    tag("envoy.response_code", Regex(r"_rq(_(\d{3}))$"), "_rq_"),
    tag("envoy.response_code_class", Regex(r"_rq_((\d))xx$"), "_rq_"),
    tag(
        "envoy.dynamo_partition_id",
        Regex(r"^http\.<TAG_VALUE>\.dynamodb\.table\.<TAG_VALUE>\.capacity\.<TAG_VALUE>(\.__partition_id=(\w{7}))$"),
        ".dynamodb.table.",
    ),
    tag(
        "envoy.dynamo_operation",
        Regex(r"^http\.<TAG_VALUE>\.dynamodb.(?:operation|table\.<TAG_VALUE>\.capacity)(\.(<TAG_VALUE>))(?:\.|$)"),
        ".dynamodb.",
    ),
    tag("envoy.mongo_callsite", Parts("mongo.*.collection.*.callsite.$.query.**"), ""),
    tag("envoy.dynamo_table", Regex(r"^http\.<TAG_VALUE>\.dynamodb.(?:table|error)\.((<TAG_VALUE>)\.)"), ".dynamodb."),
    tag("envoy.mongo_collection", Parts("mongo.*.collection.$.**.query.*"), ""),
    tag("envoy.mongo_cmd", Parts("mongo.*.cmd.$.**"), ""),
    tag("envoy.grpc_bridge_method", Parts("cluster.*.grpc.*.$.**"), ""),
    tag("envoy.http_user_agent", Parts("http.*.user_agent.$.**"), ""),
    tag("envoy.virtual_cluster", Parts("vhost.*.vcluster.$.**"), ""),
    tag("envoy.fault_downstream_cluster", Parts("http.*.fault.$.**"), ""),
    tag("envoy.ssl_cipher", Regex(r"^listener\..*?\.ssl\.ciphers(\.(<CIPHER>))$"), ".ssl.ciphers."),
    tag("envoy.ssl_curve", Regex(r"^<LISTENER_OR_CLUSTER_WITH_NAME>\.ssl\.curves(\.(<CIPHER>))$"), ".ssl.curves."),
    tag("envoy.ssl_sigalg", Regex(r"^<LISTENER_OR_CLUSTER_WITH_NAME>\.ssl\.sigalgs(\.(<CIPHER>))$"), ".ssl.sigalgs."),
    tag(
        "envoy.ssl_version",
        Regex(r"^<LISTENER_OR_CLUSTER_WITH_NAME>\.ssl\.versions(\.(<TLS_VERSION>))$"),
        ".ssl.versions.",
    ),
    tag("cipher_suite", Regex(r"^cluster\.<TAG_VALUE>\.ssl\.ciphers(\.(<CIPHER>))$"), ".ssl.ciphers."),
    tag(
        "envoy.tls_certificate",
        Regex(r"^<LISTENER_OR_CLUSTER_WITH_NAME>\.ssl\.certificate\.((<TAG_VALUE>)\.).*$"),
        ".ssl.certificate",
    ),
    tag("envoy.grpc_bridge_service", Parts("cluster.*.grpc.$.**"), ""),
    tag("envoy.tcp_prefix", Parts("tcp.$.**"), ""),
    tag("envoy.udp_prefix", Parts("udp.$.**"), ""),
    tag("envoy.clientssl_prefix", Parts("auth.clientssl.$.**"), ""),
    tag("envoy.ratelimit_prefix", Parts("ratelimit.$.**"), ""),
    tag("envoy.cluster_name", Parts("cluster.$.**"), ""),
    tag(
        "envoy.rbac_policy_name",
        Regex(
            r"^http\.<TAG_VALUE>\.rbac\.(?:<TAG_VALUE>\.)?policy\.((<TAG_VALUE>)\.)(allowed|shadow_allowed|denied|shadow_denied)$",
        ),
        ".rbac.",
    ),
    tag(
        "envoy.rbac_http_prefix",
        Regex(
            r"^http\.<TAG_VALUE>\.rbac\.((<TAG_VALUE>)\.)(?:policy\.<TAG_VALUE>\.)?(?:allowed|shadow_allowed|denied|shadow_denied)$",
        ),
        ".rbac.",
    ),
    tag("envoy.http_conn_manager_prefix", Regex(r"^listener\..*?\.http\.((<TAG_VALUE>)\.)"), ".http."),
    tag("envoy.http_conn_manager_prefix", Parts("http.$.**"), ""),
    Tag {
        tag: "envoy.listener_address",
        pattern: Regex(r"^listener\.((<ADDRESS>|<TAG_VALUE>)\.)"),
        must: "",
        must_not: "listener.admin.",
    },
    tag("envoy.virtual_host", Parts("vhost.$.**"), ""),
    tag("envoy.route", Parts("vhost.*.route.$.**"), ""),
    tag("envoy.mongo_prefix", Parts("mongo.$.**"), ""),
    tag("envoy.rds_route_config", Regex(r"^http\.<TAG_VALUE>\.rds\.((<ROUTE_CONFIG_NAME>)\.)\w+?$"), ".rds."),
    tag(
        "envoy.scoped_rds_config",
        Regex(r"^http\.<TAG_VALUE>\.scoped_rds\.((<SCOPED_ROUTE_CONFIG_NAME>)\.)\w+?$"),
        ".scoped_rds.",
    ),
    tag(
        "envoy.worker_id",
        Regex(
            r"^(?:listener\.(?:<ADDRESS>|<TAG_VALUE>)|server|listener_manager|thread_local_cluster_manager)\.worker_((\d+)\.)",
        ),
        ".worker_",
    ),
    tag("envoy.thrift_prefix", Parts("thrift.$.**"), ""),
    tag("envoy.redis_prefix", Parts("redis.$.**"), ""),
    tag("envoy.ext_authz_prefix", Parts("cluster.*.ext_authz.$.**"), ""),
    tag("envoy.ext_authz_prefix", Parts("http.*.ext_authz.$.**"), ""),
    tag("envoy.local_http_ratelimit_prefix", Parts("$.http_local_rate_limit.**"), ".http_local_rate_limit"),
    tag("envoy.local_network_ratelimit_prefix", Parts("local_rate_limit.$.**"), ""),
    tag("envoy.local_listener_ratelimit_prefix", Parts("listener_local_ratelimit.$.**"), ""),
    tag("envoy.dns_filter_prefix", Parts("dns_filter.$.**"), ""),
    tag("envoy.connection_limit_prefix", Parts("connection_limit.$.**"), ""),
    tag("envoy.rbac_prefix", Parts("$.rbac.**"), ".rbac."),
    tag(
        "envoy.proxy_protocol_version",
        Regex(r"^proxy_proto\.((?:<TAG_VALUE>\.)?versions\.v(<PROXY_PROTOCOL_VERSION>)\.)\w+$"),
        "proxy_proto.",
    ),
    Tag {
        tag: "envoy.proxy_protocol_prefix",
        pattern: Regex(r"^proxy_proto\.((<TAG_VALUE>)\.).+$"),
        must: "",
        must_not: "proxy_proto.versions.",
    },
    tag("envoy.google_grpc_client_prefix", Parts("grpc.$.**"), ""),
    tag("envoy.xds_resource_name", Regex(r"^sds\.((<TAG_VALUE>)\.).+"), ""),
    tag(
        "envoy.health_check_name",
        Regex(r"^cluster\.<TAG_VALUE>\.health_check(\.name\.(<TAG_VALUE>))\..+"),
        ".health_check.name.",
    ),
];
