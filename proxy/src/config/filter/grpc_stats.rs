//! Counting gRPC messages and outcomes.

/// `FilterConfig` of grpc_stats.
#[derive(Clone, Debug, Default)]
pub struct GrpcStats {
    /// Which methods have counters of their own.
    pub methods: Methods,
    /// Time the upstream too.
    pub upstream_times: bool,
    /// Dots of service names become underscores in names of statistics.
    pub replace_dots: bool,
}

/// Which methods have counters of their own.
#[derive(Clone, Debug, Default)]
pub enum Methods {
    /// None: they share one set.
    #[default]
    None,
    /// All.
    All,
    /// These: a service and its methods.
    Listed(Vec<(Box<str>, Vec<Box<str>>)>),
}

impl Methods {
    /// Whether a method has counters of its own.
    pub fn has(&self, service: &str, method: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Listed(list) => list
                .iter()
                .any(|(known, methods)| **known == *service && methods.iter().any(|known| **known == *method)),
        }
    }
}
