//! Counting gRPC messages and outcomes.

/// `FilterConfig` of grpc_stats.
#[derive(Clone, Debug, Default)]
pub struct GrpcStats {
    /// Which methods have counters of their own.
    pub methods: Methods,
    /// Time the upstream too.
    pub upstream_times: bool,
    /// Keep how many messages have passed in filter state.
    pub keeps: bool,
}

/// Which methods have counters of their own.
#[derive(Clone, Debug, Default)]
pub enum Methods {
    /// None: they share one set.
    #[default]
    None,
    /// All.
    All {
        /// Dots of service names become underscores in names of statistics.
        replace_dots: bool,
    },
    /// These: a service and its methods.
    Listed(Vec<(Box<str>, Vec<Box<str>>)>),
}

impl Methods {
    /// What precedes the names of a method's statistics.
    pub fn prefix(&self, service: &str, method: &str) -> Box<str> {
        match self {
            Self::All { replace_dots: true } => format!("grpc.{}.{method}.", service.replace('.', "_")).into(),
            Self::All { replace_dots: false } => format!("grpc.{service}.{method}.").into(),
            Self::Listed(list) if lists(list, service, method) => format!("grpc.{service}.{method}.").into(),
            Self::None | Self::Listed(_) => "grpc.".into(),
        }
    }
}

fn lists(list: &[(Box<str>, Vec<Box<str>>)], service: &str, method: &str) -> bool {
    list.iter().any(|(known, methods)| **known == *service && methods.iter().any(|known| **known == *method))
}
