//! What is told of what is followed: the client status discovery service, and weirctl, which reads it.

use std::{process::Command, time::Duration};

use bytes::{Buf, Bytes};
use serde_json::Value;
use tokio::net::TcpStream;
use weir_tests::{
    ads::{Ads, Listen},
    mesh::binary,
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start},
    resources::{bad_cluster, cluster, endpoints, routed},
    scenario::Who,
    traffic::backend,
};

const PATH: &str = "/v3/discovery:client_status";

/// A proxy that follows a server of which one cluster is bad, and one has no endpoints.
fn begin(protocol: Protocol) -> (Ads, Proxy) {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.put([cluster("a"), endpoints("a", backend("one")), routed("l", "a", "")]);
    let proxy = Start::new(Who::Weir, &ads, protocol).start();
    proxy.listener("l");
    let mark = ads.mark();
    ads.put([bad_cluster("bad")]);
    ads.wait_nack_after(mark, "cds");
    (ads, proxy)
}

/// `TYPE NAME CONFIG-STATUS CLIENT-STATUS` of every resource.
fn statuses(response: &Value) -> Vec<String> {
    let configs = response["config"].as_array().unwrap();
    assert_eq!((configs.len(), &configs[0]["node"]["id"]), (1, &"node".into()));
    let of = |config: &Value| {
        let text = |field: &str| config[field].as_str().unwrap_or_default().to_owned();
        let kind = text("type_url").rsplit('.').next().unwrap_or_default().to_owned();
        format!("{kind} {} {} {}", text("name"), text("config_status"), text("client_status"))
    };
    configs[0]["generic_xds_configs"].as_array().unwrap().iter().map(of).collect()
}

const FOLLOWED: [&str; 4] = [
    "Cluster a SYNCED ACKED",
    "Cluster bad ERROR NACKED",
    "ClusterLoadAssignment a SYNCED ACKED",
    "Listener l SYNCED ACKED",
];

#[test]
fn every_resource_is_told_with_what_became_of_it() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let (mut ads, proxy) = begin(protocol);
        let read = |path: &str| -> Value { serde_json::from_str(&proxy.admin(path)).unwrap() };
        let response = read(PATH);
        assert_eq!(statuses(&response), FOLLOWED);
        let [good, bad] = [0, 1].map(|at| &response["config"][0]["generic_xds_configs"][at]);
        assert_eq!(good["xds_config"]["name"], "a");
        assert!(bad["error_state"]["details"].as_str().unwrap().contains("EDS config"), "{bad}");
        assert_eq!(
            read(&format!("{PATH}?exclude_resource_contents"))["config"][0]["generic_xds_configs"][0]["xds_config"],
            Value::Null
        );
        assert_eq!(statuses(&by_grpc(&proxy, "FetchClientStatus")), FOLLOWED);
        assert_eq!(statuses(&by_grpc(&proxy, "StreamClientStatus")), FOLLOWED);
        ads.stop();
        wait_for("what is stale", PATIENCE, || {
            let now = statuses(&read(PATH));
            let stale: Vec<_> = FOLLOWED.iter().map(|line| line.replace("SYNCED", "STALE")).collect();
            if now == stale { Ok(()) } else { Err(now) }
        });
    }
}

/// One request of gRPC, without contents wanted or not.
fn by_grpc(proxy: &Proxy, method: &str) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = async {
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let uri = format!("http://admin/envoy.service.status.v3.ClientStatusDiscoveryService/{method}");
        let request = http::Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        let (response, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
        // An empty request, and for a stream the end only once it is answered.
        let streams = method == "StreamClientStatus";
        send.send_data(Bytes::from_static(&[0; 5]), !streams).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        loop {
            let piece = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            bytes.extend_from_slice(&piece);
            let mut rest = &bytes[..];
            if rest.len() >= 5 && rest.get_u8() == 0 && rest.get_u32() as usize == rest.len() {
                break;
            }
        }
        if streams {
            send.send_data(Bytes::new(), true).unwrap();
        }
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        weir_proto::json_of("envoy.service.status.v3.ClientStatusResponse", &bytes[5..]).unwrap()
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap() })
}

pub fn weirctl(proxy: &Proxy, line: &str) -> String {
    let admin = proxy.address().to_string();
    let ran = Command::new(binary("weirctl")).args(line.split(' ')).args(["--admin", &admin]).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn weirctl_shows_what_a_proxy_follows_and_has_in_force() {
    let (_ads, proxy) = begin(Protocol::Delta);
    let text = weirctl(&proxy, "xds status");
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["VIEW", "SOURCE", "TYPE", "STATUS", "RESOURCES", "VERSION", "AGE", "REASON"], "{text}");
    assert_eq!(words[1][..5], ["-", "ads", "cds", "NACKED", "1/2"], "{text}");
    assert!(text.lines().nth(1).unwrap().contains("bad: eds_cluster_config: cannot create an EDS cluster"), "{text}");
    assert_eq!(words[2][..5], ["-", "ads", "eds", "SYNCED", "1/1"], "{text}");
    assert_eq!(words[3][..5], ["-", "ads", "lds", "SYNCED", "1/1"], "{text}");
    assert_eq!(words.len(), 4, "{text}");

    let lines = |line: &str| weirctl(&proxy, line).lines().map(str::to_owned).collect::<Vec<_>>();
    let clusters = lines("proxy cluster");
    assert!(
        clusters.iter().any(|line| line.split_whitespace().take(5).eq(["a", "-", "-", "-", "EDS"])),
        "{clusters:?}"
    );
    assert!(clusters.iter().any(|line| line.starts_with("xds ")), "{clusters:?}");
    assert_eq!(lines("proxy cluster --fqdn xds").len(), 2);
    let listeners = lines("proxy listener");
    assert!(listeners[1].contains("127.0.0.1") && listeners[1].ends_with("Cluster: a"), "{listeners:?}");
    let endpoints = lines("proxy endpoint --fqdn a --status HEALTHY");
    assert!(endpoints.len() == 2 && endpoints[1].ends_with(" a"), "{endpoints:?}");
    assert!(lines("proxy route").iter().any(|line| line.starts_with("inline ")));
    let bootstrap: Value = serde_json::from_str(&weirctl(&proxy, "proxy bootstrap")).unwrap();
    assert_eq!(bootstrap["node"]["id"], "node");
    let levels = weirctl(&proxy, "proxy log debug");
    assert!(levels.starts_with("LOGGER ") && levels.lines().skip(1).all(|line| line.ends_with(" debug")), "{levels}");
    let json: Value = serde_json::from_str(&weirctl(&proxy, "proxy cluster --fqdn a -o json")).unwrap();
    assert_eq!(json[0]["name"], "a");
    assert!(weirctl(&proxy, "proxy cluster -o yaml").contains("\n  name: a\n"));
    let all = weirctl(&proxy, "proxy all");
    assert!(
        ["SERVICE FQDN", "ADDRESSES", "VHOST NAME", "RESOURCE NAME", "LOCALITY"]
            .iter()
            .all(|column| all.contains(column)),
        "{all}"
    );
}
