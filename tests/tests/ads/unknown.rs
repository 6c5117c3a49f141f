//! Fields that a server sends and this version does not know: the same for both proxies.

use prost_types::Any;
use weir_tests::ads::{Ads, Listen};

use crate::{
    proxy::Start,
    resources::{cluster, endpoints, listener, routes},
    served::{each, verdict},
};

/// A message with fields of these numbers besides.
fn with(mut any: Any, numbers: &[u32]) -> Any {
    numbers.iter().for_each(|number| prost::encoding::uint32::encode(*number, &1, &mut any.value));
    any
}

fn small() -> Ads {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.put([cluster("a"), endpoints("a", 1), listener("l", "r"), routes("r", "text")]);
    ads
}

#[test]
fn unknown_fields_are_left_out_and_counted_once() {
    each(|who, protocol| {
        let ads = small();
        let proxy = Start::new(who, &ads, protocol).start();
        ads.wait_ack("rds");
        assert_eq!(proxy.stat("server.dynamic_unknown_fields"), Some(0));
        // Of what comes again, and of another cluster, they are no news.
        for (resource, kind, count) in [
            (with(endpoints("a", 2), &[1000]), "eds", 1),
            (with(routes("r", "other"), &[1000, 1001]), "rds", 2),
            (with(routes("r", "another"), &[1000, 1001]), "rds", 2),
            (with(routes("r", "third"), &[1000]), "rds", 3),
        ] {
            let mark = ads.mark();
            ads.put([resource]);
            assert_eq!(verdict(&ads, mark, kind), Ok(()), "{who:?}");
            assert_eq!(proxy.stat("server.dynamic_unknown_fields"), Some(count), "{who:?} {kind}");
        }
        assert_eq!(proxy.stat("server.static_unknown_fields"), Some(0));
    });
}

#[test]
fn unknown_fields_are_refused_where_that_is_wanted() {
    each(|who, protocol| {
        let ads = small();
        let proxy = Start::new(who, &ads, protocol).arguments(&["--reject-unknown-dynamic-fields"]).start();
        ads.wait_ack("rds");
        for (resource, kind, message) in [
            (with(cluster("b"), &[1000]), "cds", "envoy.config.cluster.v3.Cluster"),
            (with(routes("r", "other"), &[1000]), "rds", "envoy.config.route.v3.RouteConfiguration"),
        ] {
            let mark = ads.mark();
            ads.put([resource]);
            let why = verdict(&ads, mark, kind).unwrap_err();
            let expected =
                format!("Protobuf message (type {message}(root) with unknown field set {{1000}}) has unknown fields");
            assert!(why.contains(&expected), "{who:?}: {why}");
        }
        assert_eq!(proxy.stat("server.dynamic_unknown_fields"), Some(0), "{who:?}");
    });
}

#[test]
fn unknown_fields_are_nobodys_business_where_that_is_wanted() {
    each(|who, protocol| {
        let ads = small();
        let proxy = Start::new(who, &ads, protocol).arguments(&["--ignore-unknown-dynamic-fields"]).start();
        ads.wait_ack("rds");
        let mark = ads.mark();
        ads.put([with(endpoints("a", 2), &[1000])]);
        assert_eq!(verdict(&ads, mark, "eds"), Ok(()), "{who:?}");
        assert_eq!(proxy.stat("server.dynamic_unknown_fields"), Some(0), "{who:?}");
    });
}
