//! `cargo xtask proto`: the committed code and descriptor set of `proxy/proto/src/generated/`.
//!
//! Envoy's own `.proto` files come out of the published package of the crate `envoy-types` (exact version below),
//! ours from `proxy/proto/proto/`. protoc is the one that `protoc-bin-vendored` carries, so the output depends on
//! nothing that the machine has installed. `--check` regenerates into a temporary directory and compares.
//!
//! Two things are made: one descriptor set of every file (custom options kept), for JSON, YAML, `Any` and validation
//! rules; and Rust types of the files that [`TYPED_ROOTS`] reach, because each typed message costs compile time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use prost::Message;
use prost_types::FileDescriptorSet;
use xshell::{Shell, cmd};

/// The package that carries Envoy's `.proto` files.
const ENVOY_TYPES: &str = "=0.7.7";

/// Include roots inside that package.
const INCLUDES: &[&str] = &[
    "data-plane-api",
    "xds",
    "protoc-gen-validate",
    "googleapis",
    "cel-spec/proto",
    "client_model",
    "opentelemetry-proto",
    "ratelimit/api",
];

/// Our own protocols, and what that package lacks, relative to `proxy/proto/proto/`.
const OWN: &[&str] = &[
    "agent.proto",
    "handoff.proto",
    "envoy/tcp/metadataexchange/config/metadata_exchange.proto",
    "io/istio/http/peer_metadata/config.proto",
    "istio/envoy/config/filter/http/alpn/v2alpha1/config.proto",
    "stats/config.proto",
    "udpa/type/v1/typed_struct.proto",
    "xds/type/matcher/v3/cel.proto",
    "xds/type/matcher/v3/domain.proto",
    "xds/type/matcher/v3/http_inputs.proto",
    "xds/type/matcher/v3/ip.proto",
    "xds/type/v3/typed_struct.proto",
];

/// Files of Envoy whose messages the proxy handles as Rust types. What they import comes along.
const TYPED_ROOTS: &[&str] = &[
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/filters/cel/v3/cel.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/clusters/aggregate/v3/cluster.proto",
    "envoy/extensions/clusters/dns/v3/dns_cluster.proto",
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    "envoy/extensions/filters/http/buffer/v3/buffer.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/dynamic_forward_proxy/v3/dynamic_forward_proxy.proto",
    "envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/grpc_stats/v3/config.proto",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/health_check/v3/health_check.proto",
    "envoy/extensions/filters/http/jwt_authn/v3/config.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/on_demand/v3/on_demand.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/http/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/connection_limit/v3/connection_limit.proto",
    "envoy/extensions/filters/network/direct_response/v3/config.proto",
    "envoy/extensions/filters/network/echo/v3/echo.proto",
    "envoy/extensions/filters/network/ext_authz/v3/ext_authz.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/network/sni_cluster/v3/sni_cluster.proto",
    "envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3/sni_dynamic_forward_proxy.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/health_check/event_sinks/file/v3/file.proto",
    "envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.proto",
    "envoy/extensions/http/original_ip_detection/custom_header/v3/custom_header.proto",
    "envoy/extensions/http/original_ip_detection/xff/v3/xff.proto",
    "envoy/extensions/internal_redirect/allow_listed_routes/v3/allow_listed_routes_config.proto",
    "envoy/extensions/load_balancing_policies/cluster_provided/v3/cluster_provided.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/maglev/v3/maglev.proto",
    "envoy/extensions/load_balancing_policies/random/v3/random.proto",
    "envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/load_balancing_policies/wrr_locality/v3/wrr_locality.proto",
    "envoy/extensions/matching/common_inputs/network/v3/network_inputs.proto",
    "envoy/extensions/matching/input_matchers/ip/v3/ip.proto",
    "envoy/extensions/network/dns_resolver/cares/v3/cares_dns_resolver.proto",
    "envoy/extensions/network/dns_resolver/getaddrinfo/v3/getaddrinfo_dns_resolver.proto",
    "envoy/extensions/path/match/uri_template/v3/uri_template_match.proto",
    "envoy/extensions/path/rewrite/uri_template/v3/uri_template_rewrite.proto",
    "envoy/extensions/request_id/uuid/v3/uuid.proto",
    "envoy/extensions/resource_monitors/downstream_connections/v3/downstream_connections.proto",
    "envoy/extensions/resource_monitors/fixed_heap/v3/fixed_heap.proto",
    "envoy/extensions/resource_monitors/injected_resource/v3/injected_resource.proto",
    "envoy/extensions/retry/host/omit_canary_hosts/v3/omit_canary_hosts.proto",
    "envoy/extensions/retry/host/omit_host_metadata/v3/omit_host_metadata_config.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
    "envoy/extensions/transport_sockets/internal_upstream/v3/internal_upstream.proto",
    "envoy/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/extensions/upstreams/tcp/v3/tcp_protocol_options.proto",
    "envoy/service/auth/v3/external_auth.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/runtime/v3/rtds.proto",
    "envoy/type/matcher/v3/http_inputs.proto",
];

/// Packages that hold options only, which nothing reads. (`validate` is read.)
const OPTION_PACKAGES: &[&str] = &["envoy.annotations", "google.api", "udpa.annotations", "xds.annotations.v3"];

/// File name of the compressed descriptor set.
const DESCRIPTORS: &str = "descriptors.binpb.zst";
/// zstd's level: the file is written rarely and read at every start.
const ZSTD_LEVEL: i32 = 19;

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if the committed output differs from what the sources give
    #[arg(long)]
    check: bool,
}

impl Args {
    /// As `--check` gives them.
    pub fn check() -> Self {
        Self { check: true }
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/proto");
    let committed = crate_dir.join("src/generated");
    let fresh = generate(&crate_dir.join("proto"))?;
    let old = read_dir(&committed)?;
    if args.check {
        let names: BTreeSet<&String> = fresh.keys().chain(old.keys()).collect();
        let stale: Vec<&str> =
            names.into_iter().filter(|name| fresh.get(*name) != old.get(*name)).map(String::as_str).collect();
        ensure!(
            stale.is_empty(),
            "proxy/proto/src/generated is not what its sources give in {}: run `cargo xtask proto`",
            stale.join(", ")
        );
        println!("proxy/proto/src/generated: {} files are what their sources give", fresh.len());
        return Ok(());
    }
    std::fs::create_dir_all(&committed)?;
    for name in old.keys().filter(|name| !fresh.contains_key(*name)) {
        std::fs::remove_file(committed.join(name))?;
    }
    for (name, bytes) in &fresh {
        if old.get(name) != Some(bytes) {
            std::fs::write(committed.join(name), bytes)?;
        }
    }
    let total: usize = fresh.values().map(Vec::len).sum();
    println!("proxy/proto/src/generated: {} files, {} KiB", fresh.len(), total / 1024);
    Ok(())
}

/// Every generated file, by name.
fn generate(own_protos: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let work = tempfile::tempdir()?;
    let envoy = envoy_protos(work.path())?;
    let mut includes: Vec<PathBuf> = INCLUDES.iter().map(|root| envoy.join(root)).collect();
    let mut all: Vec<PathBuf> = OWN.iter().map(PathBuf::from).collect();
    for root in &includes {
        relative_protos(root, root, &mut all)?;
    }
    all.sort();
    includes.push(own_protos.to_owned());

    let every = protoc(&includes, &all, work.path())?;
    let roots: Vec<PathBuf> = TYPED_ROOTS.iter().chain(OWN).map(PathBuf::from).collect();
    let mut typed = FileDescriptorSet::decode(&protoc(&includes, &roots, work.path())?[..])?;
    typed.file.retain(|file| !OPTION_PACKAGES.contains(&file.package()));

    let out = work.path().join("generated");
    std::fs::create_dir(&out)?;
    let mut config = prost_build::Config::new();
    config.enable_type_names().bytes(["."]).disable_comments(["."]);
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .include_file("mod.rs")
        .out_dir(&out)
        .compile_fds_with_config(typed, config)?;
    std::fs::write(out.join(DESCRIPTORS), zstd::encode_all(&every[..], ZSTD_LEVEL)?)?;
    read_dir(&out)
}

/// The directory `proto/` of the pinned package, fetched by cargo if its cache has it not.
fn envoy_protos(work: &Path) -> anyhow::Result<PathBuf> {
    let scratch = work.join("sources");
    std::fs::create_dir_all(scratch.join("src"))?;
    std::fs::write(scratch.join("src/lib.rs"), "")?;
    std::fs::write(
        scratch.join("Cargo.toml"),
        format!(
            "[package]\nname = \"sources\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
             [dependencies]\nenvoy-types = {{ version = \"{ENVOY_TYPES}\", default-features = false }}\n"
        ),
    )?;
    let shell = Shell::new()?;
    shell.change_dir(&scratch);
    let metadata = cmd!(shell, "cargo metadata --quiet --format-version 1").read()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .context("cargo metadata names no envoy-types")?;
    Ok(Path::new(manifest).with_file_name("proto"))
}

/// Adds the `.proto` files below `dir`, as paths relative to `root`.
fn relative_protos(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            relative_protos(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path.strip_prefix(root)?.to_owned());
        }
    }
    Ok(())
}

/// The descriptor set of `files` and what they import, in protoc's order, without source positions.
fn protoc(includes: &[PathBuf], files: &[PathBuf], work: &Path) -> anyhow::Result<Vec<u8>> {
    let out = work.join("descriptors.binpb");
    let ran = std::process::Command::new(protoc_bin_vendored::protoc_bin_path()?)
        .args(includes.iter().map(|include| format!("-I{}", include.display())))
        .arg(format!("-I{}", protoc_bin_vendored::include_path()?.display()))
        .arg("--include_imports")
        .arg(format!("--descriptor_set_out={}", out.display()))
        .args(files)
        .output()?;
    // Its warnings concern files that are not ours.
    ensure!(ran.status.success(), "protoc: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(std::fs::read(&out)?)
}

/// Contents of the files of `dir`, by name; empty if there is no such directory.
fn read_dir(dir: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    if !dir.exists() {
        return Ok(BTreeMap::new());
    }
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?);
    }
    Ok(files)
}
