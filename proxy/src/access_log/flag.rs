//! Envoy's response flags.

macro_rules! flags {
    ($($(#[doc = $doc:literal])* $name:ident = $short:literal;)*) => {
        /// Envoy's response flags: why a response is not simply the upstream's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Flag {
            $($(#[doc = $doc])* $name,)*
        }

        impl Flag {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As in `%RESPONSE_FLAGS%`.
            pub const fn short(self) -> &'static str {
                match self {
                    $(Self::$name => $short,)*
                }
            }

            /// As in `%RESPONSE_FLAGS_LONG%`.
            pub const fn long(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

flags! {
    /// UH: no healthy upstream.
    NoHealthyUpstream = "UH";
    /// UT: upstream request timeout.
    UpstreamRequestTimeout = "UT";
    /// UR: the upstream reset the stream.
    UpstreamRemoteReset = "UR";
    /// UF: the upstream connection could not be made.
    UpstreamConnectionFailure = "UF";
    /// UC: the upstream connection ended.
    UpstreamConnectionTermination = "UC";
    /// UO: a circuit breaker is open.
    UpstreamOverflow = "UO";
    /// NR: no route, or no filter chain.
    NoRouteFound = "NR";
    /// DC: the client closed its connection.
    DownstreamConnectionTermination = "DC";
    /// URX: the retries, or the connect attempts, are used up.
    UpstreamRetryLimitExceeded = "URX";
    /// SI: nothing moved within the stream idle timeout.
    StreamIdleTimeout = "SI";
    /// DPE: the client broke the protocol.
    DownstreamProtocolError = "DPE";
    /// UPE: the upstream broke the protocol.
    UpstreamProtocolError = "UPE";
    /// NC: the cluster does not exist.
    NoClusterFound = "NC";
    /// DR: the client reset the stream.
    DownstreamRemoteReset = "DR";
    /// UMSDR: the stream lasted longer than allowed.
    UpstreamMaxStreamDurationReached = "UMSDR";
    /// DT: the connection or the request lasted longer than allowed.
    DurationTimeout = "DT";
    /// LR: reset here.
    LocalReset = "LR";
    /// LH: this process fails its health checks.
    FailedLocalHealthCheck = "LH";
    /// DI: delayed on purpose.
    DelayInjected = "DI";
    /// FI: aborted on purpose.
    FaultInjected = "FI";
    /// RL: a rate limit.
    RateLimited = "RL";
    /// UAEX: external authorization denied it.
    UnauthorizedExternalService = "UAEX";
    /// RLSE: the rate limit service failed.
    RateLimitServiceError = "RLSE";
    /// IH: a strictly checked header has no valid value.
    InvalidEnvoyRequestHeaders = "IH";
    /// NFCF: a filter's configuration has not come.
    NoFilterConfigFound = "NFCF";
    /// RFCF: it comes from a cache.
    ResponseFromCacheFilter = "RFCF";
    /// OM: the process is overloaded.
    OverloadManager = "OM";
    /// DF: the name could not be resolved.
    DnsResolutionFailed = "DF";
    /// DO: dropped by its endpoint's assignment.
    DropOverload = "DO";
    /// UDO: all are dropped by the endpoint's assignment.
    UnconditionalDropOverload = "UDO";
}

impl Flag {
    /// The flag of that short name.
    pub fn named(short: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|flag| flag.short() == short)
    }
}
