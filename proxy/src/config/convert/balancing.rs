//! Load balancing: the fields of a cluster and the extensions that replace them.

use weir_proto::envoy::{
    config::{
        cluster::{
            v3 as proto,
            v3::cluster::{LbConfig, LbPolicy, common_lb_config},
        },
        core::v3 as core,
    },
    extensions::load_balancing_policies::{
        common::v3 as common, least_request::v3 as least_request, maglev::v3 as maglev, random::v3 as random,
        ring_hash::v3 as ring_hash, round_robin::v3 as round_robin, wrr_locality::v3 as wrr_locality,
    },
};

use super::{
    context::Context,
    fields::{item, limit, sub, type_name, unpack},
};
use crate::config::{
    cluster::{
        Discovery,
        balancing::{
            HashFunction, Hashing, LeastRequest, LoadBalancing, Localities, Maglev, Policy, RingHash, SlowStart,
            ZoneAware,
        },
    },
    error::Error,
};

/// Envoy's limit of ring sizes.
const MAX_RING: u64 = RingHash::DEFAULT_MAXIMUM;

/// The load balancing of a cluster.
pub(super) fn balancing(
    cx: &mut Context,
    message: &proto::Cluster,
    discovery: &Discovery,
    at: &str,
) -> Result<LoadBalancing, Error> {
    let (mut balancing, hashing) = common_lb(cx, message.common_lb_config.as_ref(), at)?;
    match &message.load_balancing_policy {
        Some(policy) => {
            (balancing.policy, balancing.localities) = extension(cx, policy, &sub(at, "load_balancing_policy"))?;
        }
        None => balancing.policy = policy(cx, message, hashing, at)?,
    }
    let lb_at = sub(at, "lb_policy");
    let name = &message.name;
    match (discovery, &balancing.policy) {
        (
            Discovery::OriginalDestination { .. } | Discovery::Aggregate { .. } | Discovery::ForwardProxy(_),
            Policy::ClusterProvided,
        ) => Ok(balancing),
        (Discovery::OriginalDestination { .. }, _) => {
            Err(Error::at(lb_at, "clusters of type ORIGINAL_DST need CLUSTER_PROVIDED"))
        }
        (Discovery::Aggregate { .. } | Discovery::ForwardProxy(_), _) => {
            let message = format!("cluster provided LB not specified but cluster '{name}' provided one");
            Err(Error::at(lb_at, message))
        }
        (_, Policy::ClusterProvided) => {
            let message = format!("cluster provided LB specified but cluster '{name}' did not provide one");
            Err(Error::at(lb_at, message))
        }
        _ => Ok(balancing),
    }
}

fn policy(cx: &mut Context, message: &proto::Cluster, hashing: Hashing, at: &str) -> Result<Policy, Error> {
    let config = message.lb_config.as_ref();
    Ok(match (message.lb_policy(), config) {
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            let at = sub(at, "round_robin_lb_config.slow_start_config");
            Policy::RoundRobin(
                config.slow_start_config.as_ref().map_or(Ok(None), |config| slow_start(cx, config, &at))?,
            )
        }
        (LbPolicy::RoundRobin, _) => Policy::RoundRobin(None),
        (LbPolicy::Random, _) => Policy::Random,
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            let at = sub(at, "least_request_lb_config");
            let slow_at = sub(&at, "slow_start_config");
            Policy::LeastRequest(LeastRequest {
                choices: config.choice_count.unwrap_or(2),
                full_scan: false,
                bias: bias(config.active_request_bias.as_ref()),
                slow_start: config
                    .slow_start_config
                    .as_ref()
                    .map_or(Ok(None), |config| slow_start(cx, config, &slow_at))?,
            })
        }
        (LbPolicy::LeastRequest, _) => Policy::LeastRequest(LeastRequest::default()),
        (LbPolicy::RingHash, config) => {
            use proto::cluster::ring_hash_lb_config::HashFunction as Function;
            let (minimum, maximum, function) = match config {
                Some(LbConfig::RingHashLbConfig(config)) => {
                    (config.minimum_ring_size, config.maximum_ring_size, config.hash_function())
                }
                _ => (None, None, Function::XxHash),
            };
            let function = match function {
                Function::XxHash => HashFunction::Xx,
                Function::MurmurHash2 => HashFunction::Murmur2,
            };
            Policy::RingHash(ring(minimum, maximum, function, hashing, &sub(at, "ring_hash_lb_config"))?)
        }
        (LbPolicy::Maglev, config) => {
            let size = match config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
                _ => None,
            };
            Policy::Maglev(table(size, hashing, &sub(at, "maglev_lb_config"))?)
        }
        (LbPolicy::ClusterProvided, _) => Policy::ClusterProvided,
        (LbPolicy::LoadBalancingPolicyConfig, _) => {
            let at = sub(at, "load_balancing_policy");
            return Err(Error::at(at, "is required with the lb_policy LOAD_BALANCING_POLICY_CONFIG"));
        }
    })
}

/// The first extension that is known, as in Envoy.
fn extension(cx: &mut Context, message: &proto::LoadBalancingPolicy, at: &str) -> Result<(Policy, Localities), Error> {
    let mut unknown = Vec::new();
    for (index, policy) in message.policies.iter().enumerate() {
        let at = format!("{}.typed_extension_config.typed_config", item(at, "policies", index));
        let Some(any) = policy.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref()) else {
            return Err(Error::at(at, "a configuration is required"));
        };
        let Some(name) = type_name(any).strip_prefix("envoy.extensions.load_balancing_policies.") else {
            unknown.push(type_name(any));
            continue;
        };
        return Ok(match name {
            "round_robin.v3.RoundRobin" => {
                let config: round_robin::RoundRobin = unpack(any, &at)?;
                let start = new_slow_start(cx, config.slow_start_config.as_ref(), &at)?;
                (Policy::RoundRobin(start), localities(cx, config.locality_lb_config.as_ref(), &at)?)
            }
            "least_request.v3.LeastRequest" => {
                use least_request::least_request::SelectionMethod;
                let config: least_request::LeastRequest = unpack(any, &at)?;
                #[expect(deprecated, reason = "published configurations use it")]
                let full_scan = config.enable_full_scan.unwrap_or(false);
                let policy = LeastRequest {
                    choices: config.choice_count.unwrap_or(2),
                    full_scan: full_scan || config.selection_method() == SelectionMethod::FullScan,
                    bias: bias(config.active_request_bias.as_ref()),
                    slow_start: new_slow_start(cx, config.slow_start_config.as_ref(), &at)?,
                };
                (Policy::LeastRequest(policy), localities(cx, config.locality_lb_config.as_ref(), &at)?)
            }
            "random.v3.Random" => {
                let config: random::Random = unpack(any, &at)?;
                (Policy::Random, localities(cx, config.locality_lb_config.as_ref(), &at)?)
            }
            "ring_hash.v3.RingHash" => {
                use ring_hash::ring_hash::HashFunction as Function;
                let config: ring_hash::RingHash = unpack(any, &at)?;
                let function = match config.hash_function() {
                    Function::MurmurHash2 => HashFunction::Murmur2,
                    Function::DefaultHash | Function::XxHash => HashFunction::Xx,
                };
                #[expect(deprecated, reason = "published configurations use them")]
                let old = Hashing {
                    use_hostname: config.use_hostname_for_hashing,
                    balance_factor: config.hash_balance_factor.unwrap_or(0),
                };
                let hashing = match &config.consistent_hashing_lb_config {
                    Some(config) => consistent(cx, config, &at)?,
                    None => old,
                };
                let ring = ring(config.minimum_ring_size, config.maximum_ring_size, function, hashing, &at)?;
                (Policy::RingHash(ring), weighted(config.locality_weighted_lb_config.is_some()))
            }
            "maglev.v3.Maglev" => {
                let config: maglev::Maglev = unpack(any, &at)?;
                let hashing = match &config.consistent_hashing_lb_config {
                    Some(config) => consistent(cx, config, &at)?,
                    None => Hashing::default(),
                };
                let table = table(config.table_size, hashing, &at)?;
                (Policy::Maglev(table), weighted(config.locality_weighted_lb_config.is_some()))
            }
            "wrr_locality.v3.WrrLocality" => return Err(Error::at(at, wrr_locality(any))),
            "cluster_provided.v3.ClusterProvided" => (Policy::ClusterProvided, Localities::Together),
            _ => {
                unknown.push(type_name(any));
                continue;
            }
        });
    }
    let policies = sub(at, "policies");
    Err(Error::at(policies, format!("none of these is supported: {}", unknown.join(", "))))
}

/// Why weights of localities by an extension are refused: what Envoy picks hosts by then is not built.
fn wrr_locality(any: &prost_types::Any) -> String {
    const PICKS: &str =
        "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
    let config: Result<wrr_locality::WrrLocality, _> = unpack(any, "");
    let picking = config.ok().and_then(|config| config.endpoint_picking_policy).unwrap_or_default();
    let mut configs = picking.policies.iter().filter_map(|policy| policy.typed_extension_config.as_ref());
    let known = configs.any(|config| config.typed_config.as_ref().is_some_and(|any| type_name(any) == PICKS));
    match known {
        true => format!("{PICKS} is not supported yet"),
        false => "Currently WrrLocalityLoadBalancer only supports ClientSideWeightedRoundRobinLoadBalancer as its \
                  endpoint picking policy."
            .to_owned(),
    }
}

fn common_lb(
    cx: &mut Context,
    message: Option<&proto::cluster::CommonLbConfig>,
    at: &str,
) -> Result<(LoadBalancing, Hashing), Error> {
    use common_lb_config::LocalityConfigSpecifier as Specifier;
    let mut balancing =
        LoadBalancing { localities: Localities::ZoneAware(ZoneAware::default()), ..LoadBalancing::default() };
    let Some(message) = message else { return Ok((balancing, Hashing::default())) };
    let at = sub(at, "common_lb_config");
    let supported = [
        "healthy_panic_threshold",
        "consistent_hashing_lb_config",
        "zone_aware_lb_config",
        "locality_weighted_lb_config",
        "update_merge_window",
        "ignore_new_hosts_until_first_hc",
    ];
    let harmless = ["close_connections_on_host_set_change"];
    cx.only(message, &at, &supported, &harmless)?;
    if let Some(percent) = &message.healthy_panic_threshold {
        balancing.panic_threshold = percent.value.round() as u32;
    }
    match &message.locality_config_specifier {
        Some(Specifier::LocalityWeightedLbConfig(_)) => balancing.localities = Localities::Weighted,
        Some(Specifier::ZoneAwareLbConfig(config)) => {
            balancing.localities = Localities::ZoneAware(ZoneAware {
                enabled: config.routing_enabled.as_ref().map_or(100.0, |percent| percent.value),
                min_cluster_size: config.min_cluster_size.unwrap_or(ZoneAware::default().min_cluster_size),
                fail_on_panic: config.fail_traffic_on_panic,
            });
        }
        None => {}
    }
    let hashing = message.consistent_hashing_lb_config.as_ref().map_or(Hashing::default(), |config| Hashing {
        use_hostname: config.use_hostname_for_hashing,
        balance_factor: config.hash_balance_factor.unwrap_or(0),
    });
    Ok((balancing, hashing))
}

fn localities(cx: &mut Context, message: Option<&common::LocalityLbConfig>, at: &str) -> Result<Localities, Error> {
    use common::locality_lb_config::LocalityConfigSpecifier as Specifier;
    Ok(match message.and_then(|message| message.locality_config_specifier.as_ref()) {
        None => Localities::ZoneAware(ZoneAware::default()),
        Some(Specifier::LocalityWeightedLbConfig(_)) => Localities::Weighted,
        Some(Specifier::ZoneAwareLbConfig(config)) => {
            let at = sub(at, "locality_lb_config.zone_aware_lb_config");
            cx.only(config, &at, &["routing_enabled", "min_cluster_size", "fail_traffic_on_panic"], &[])?;
            Localities::ZoneAware(ZoneAware {
                enabled: config.routing_enabled.as_ref().map_or(100.0, |percent| percent.value),
                min_cluster_size: config.min_cluster_size.unwrap_or(ZoneAware::default().min_cluster_size),
                fail_on_panic: config.fail_traffic_on_panic,
            })
        }
    })
}

fn weighted(weighted: bool) -> Localities {
    if weighted { Localities::Weighted } else { Localities::Together }
}

fn consistent(cx: &mut Context, message: &common::ConsistentHashingLbConfig, at: &str) -> Result<Hashing, Error> {
    let at = sub(at, "consistent_hashing_lb_config");
    cx.only(message, &at, &["use_hostname_for_hashing", "hash_balance_factor"], &[])?;
    Ok(Hashing {
        use_hostname: message.use_hostname_for_hashing,
        balance_factor: message.hash_balance_factor.unwrap_or(0),
    })
}

/// A bias of less than none is as good as none said, as in Envoy.
fn bias(message: Option<&core::RuntimeDouble>) -> f64 {
    let said = message.map(|bias| bias.default_value).filter(|bias| *bias >= 0.0);
    said.unwrap_or(LeastRequest::default().bias)
}

fn slow_start(
    cx: &mut Context,
    message: &proto::cluster::SlowStartConfig,
    at: &str,
) -> Result<Option<SlowStart>, Error> {
    let message = common::SlowStartConfig {
        slow_start_window: message.slow_start_window,
        aggression: message.aggression.clone(),
        min_weight_percent: message.min_weight_percent,
    };
    start(cx, &message, at)
}

fn new_slow_start(
    cx: &mut Context,
    message: Option<&common::SlowStartConfig>,
    at: &str,
) -> Result<Option<SlowStart>, Error> {
    message.map_or(Ok(None), |message| start(cx, message, &sub(at, "slow_start_config")))
}

/// Without a window nothing starts slowly.
fn start(cx: &mut Context, message: &common::SlowStartConfig, at: &str) -> Result<Option<SlowStart>, Error> {
    cx.only(message, at, &["slow_start_window", "aggression", "min_weight_percent"], &[])?;
    // An aggression of none or less is as good as none said, as in Envoy.
    let said = message.aggression.as_ref().map(|aggression| aggression.default_value);
    let aggression = said.filter(|aggression| *aggression > 0.0).unwrap_or(1.0);
    let window = limit(message.slow_start_window.as_ref(), None, &sub(at, "slow_start_window"))?;
    Ok(window.map(|window| SlowStart {
        window,
        aggression,
        least: message.min_weight_percent.as_ref().map_or(0.1, |percent| percent.value / 100.0),
    }))
}

fn ring(
    minimum: Option<u64>,
    maximum: Option<u64>,
    function: HashFunction,
    hashing: Hashing,
    at: &str,
) -> Result<RingHash, Error> {
    let (minimum, maximum) = (minimum.unwrap_or(RingHash::DEFAULT_MINIMUM), maximum.unwrap_or(MAX_RING));
    if minimum > maximum {
        let message = format!("must not be more than maximum_ring_size ({minimum} > {maximum})");
        return Err(Error::at(sub(at, "minimum_ring_size"), message));
    }
    if maximum > MAX_RING {
        return Err(Error::at(sub(at, "maximum_ring_size"), format!("must be at most {MAX_RING}")));
    }
    Ok(RingHash { minimum, maximum, function, hashing })
}

fn table(size: Option<u64>, hashing: Hashing, at: &str) -> Result<Maglev, Error> {
    let table_size = size.unwrap_or(Maglev::DEFAULT_TABLE_SIZE);
    if table_size > Maglev::MAX_TABLE_SIZE || !is_prime(table_size) {
        let message = format!("must be a prime number of at most {}, not {table_size}", Maglev::MAX_TABLE_SIZE);
        return Err(Error::at(sub(at, "table_size"), message));
    }
    Ok(Maglev { table_size, hashing })
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}
