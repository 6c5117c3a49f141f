//! Filters with little to configure: grpc_stats, health_check.

use weir_proto::envoy::extensions::filters::http::{
    grpc_stats::v3::{self as grpc, filter_config::PerMethodStatSpecifier},
    health_check::v3 as health,
};

use crate::config::{
    convert::{
        context::Context,
        fields::{limit, sub},
        matcher,
    },
    error::Error,
    filter::{
        grpc_stats::{GrpcStats, Methods},
        health_check::HealthCheck,
        stats::{self, Counted},
    },
};

pub(super) fn grpc_stats(cx: &mut Context, message: &grpc::FilterConfig, at: &str) -> Result<GrpcStats, Error> {
    let supported = [
        "individual_method_stats_allowlist",
        "stats_for_all_methods",
        "enable_upstream_stats",
        "replace_dots_in_grpc_service_name",
        "emit_filter_state",
    ];
    cx.only(message, at, &supported, &[])?;
    let methods = match &message.per_method_stat_specifier {
        None | Some(PerMethodStatSpecifier::StatsForAllMethods(false)) => Methods::None,
        Some(PerMethodStatSpecifier::StatsForAllMethods(true)) => {
            Methods::All { replace_dots: message.replace_dots_in_grpc_service_name }
        }
        Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => {
            let names = |methods: &[String]| methods.iter().map(|name| name.as_str().into()).collect();
            let services = list.services.iter();
            Methods::Listed(services.map(|entry| (entry.name.as_str().into(), names(&entry.method_names))).collect())
        }
    };
    Ok(GrpcStats { methods, upstream_times: message.enable_upstream_stats, keeps: message.emit_filter_state })
}

pub(super) fn health_check(cx: &mut Context, message: &health::HealthCheck, at: &str) -> Result<HealthCheck, Error> {
    let supported = ["pass_through_mode", "cache_time", "cluster_min_healthy_percentages", "headers"];
    cx.only(message, at, &supported, &[])?;
    let pass_through = message.pass_through_mode.unwrap_or(false);
    let cache_time = limit(message.cache_time.as_ref(), None, &sub(at, "cache_time"))?;
    if !pass_through && cache_time.is_some() {
        return Err(Error::at(sub(at, "cache_time"), "only with pass_through_mode: true"));
    }
    if pass_through && !message.cluster_min_healthy_percentages.is_empty() {
        let at = sub(at, "cluster_min_healthy_percentages");
        return Err(Error::at(at, "only with pass_through_mode: false"));
    }
    let minimums = message.cluster_min_healthy_percentages.iter();
    let mut cluster_minimums: Vec<(std::sync::Arc<str>, f64)> =
        minimums.map(|(name, percent)| (name.as_str().into(), percent.value)).collect();
    cluster_minimums.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(HealthCheck {
        pass_through,
        cache_time,
        cluster_minimums,
        headers: matcher::headers(cx, &message.headers, at, "headers")?,
        cached: std::sync::Arc::default(),
        stats: Counted::<stats::HealthCheck>::new(cx.http.scope("health_check")),
    })
}
