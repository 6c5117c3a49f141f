//! The paths, and what is said of them at `/help` and on the home page.

use http::Method;

use super::{
    certs, client_status, clusters, config_dump, listeners, loggers, memory,
    query::Query,
    reply::{Reply, Status},
    runtime, server_info,
    state::{Admin, Command},
    stats,
};

/// A path.
struct Route {
    path: &'static str,
    help: &'static str,
    /// It changes something, so it needs POST.
    changes: bool,
    parameters: &'static [(&'static str, &'static str)],
    answer: fn(&Admin, &Query) -> Reply,
}

/// What is not compiled into Envoy's builds either, or means nothing here.
const NOT_SUPPORTED: &str = "The current build does not support ";

/// Of paths that show one view.
const OF_VIEW: &str = "view";
const VIEW: &str = "Of the view of this name instead of the process's own";

const ROUTES: &[Route] = &[
    Route { path: "/", help: "Admin home page", changes: false, parameters: &[], answer: |_, _| home() },
    Route {
        path: "/allocprofiler",
        help: "enable/disable the allocation profiler (if supported)",
        changes: true,
        parameters: &[("enable", "enable/disable the allocation profiler; One of (y, n)")],
        answer: |_, _| refused("allocation profiler"),
    },
    Route {
        path: "/certs",
        help: "print certs on machine",
        changes: false,
        parameters: &[(OF_VIEW, VIEW)],
        answer: |admin, query| admin.of_view(query, |view| certs::answer(&view.snapshot.load())),
    },
    Route {
        path: "/clusters",
        help: "upstream cluster status",
        changes: false,
        parameters: &[("filter", "Regular expression (Google re2) for filtering clusters by name"), (OF_VIEW, VIEW)],
        answer: |admin, query| admin.of_view(query, |view| clusters::answer(view, query)),
    },
    Route {
        path: "/config_dump",
        help: "dump current Envoy configs",
        changes: false,
        parameters: &[
            ("resource", "The resource to dump"),
            (
                "mask",
                "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask",
            ),
            (
                "name_regex",
                "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters.",
            ),
            (
                "include_eds",
                "Dump currently loaded configuration including EDS. See the response definition for more information",
            ),
            (OF_VIEW, VIEW),
        ],
        answer: |admin, query| admin.of_view(query, |view| config_dump::answer(admin, view, query)),
    },
    Route {
        path: "/contention",
        help: "dump current Envoy mutex contention stats (if enabled)",
        changes: false,
        parameters: &[],
        answer: |_, _| {
            let text =
                "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.";
            Reply::text(Status::OK, text)
        },
    },
    Route {
        path: "/cpuprofiler",
        help: "enable/disable the CPU profiler",
        changes: true,
        parameters: &[("enable", "enables the CPU profiler; One of (y, n)")],
        answer: |_, query| switch(query, "cpu profiler"),
    },
    Route {
        path: "/drain_listeners",
        help: "drain listeners",
        changes: true,
        parameters: &[
            (
                "graceful",
                "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI",
            ),
            (
                "skip_exit",
                "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners",
            ),
            (
                "inboundonly",
                "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to determine whether a listener is inbound or outbound.",
            ),
        ],
        answer: |admin, query| {
            let is = |name| query.get(name).is_some();
            let (graceful, inbound_only, skip_exit) = (is("graceful"), is("inboundonly"), is("skip_exit"));
            tell(admin, Command::DrainListeners { graceful, inbound_only, skip_exit })
        },
    },
    Route {
        path: "/healthcheck/fail",
        help: "cause the server to fail health checks",
        changes: true,
        parameters: &[],
        answer: |admin, _| fail_health_checks(admin, true),
    },
    Route {
        path: "/healthcheck/ok",
        help: "cause the server to pass health checks",
        changes: true,
        parameters: &[],
        answer: |admin, _| fail_health_checks(admin, false),
    },
    Route {
        path: "/heap_dump",
        help: "dump current Envoy heap (if supported)",
        changes: false,
        parameters: &[],
        answer: |_, _| refused("heap dump"),
    },
    Route {
        path: "/heapprofiler",
        help: "enable/disable the heap profiler",
        changes: true,
        parameters: &[("enable", "enable/disable the heap profiler; One of (y, n)")],
        answer: |_, _| refused("heap profiler"),
    },
    Route {
        path: "/help",
        help: "print out list of admin commands",
        changes: false,
        parameters: &[],
        answer: |admin, _| Reply::text(Status::OK, help(admin)),
    },
    Route {
        path: "/hot_restart_version",
        help: "print the hot restart compatibility version",
        changes: false,
        parameters: &[],
        answer: |_, _| Reply::text(Status::OK, "disabled"),
    },
    Route {
        path: "/init_dump",
        help: "dump current Envoy init manager information (experimental)",
        changes: false,
        parameters: &[(
            "mask",
            "The desired component to dump unready targets. The mask is parsed as a Protobuf::FieldMask. For example, get the unready targets of all listeners with /init_dump?mask=listener`",
        )],
        // Nothing is answered before everything is initialised.
        answer: |_, _| Reply::pretty(&serde_json::json!({})),
    },
    Route {
        path: "/listeners",
        help: "print listener info",
        changes: false,
        parameters: &[("format", "File format to use; One of (text, json)"), (OF_VIEW, VIEW)],
        answer: |admin, query| admin.of_view(query, |view| listeners::answer(admin, view, query)),
    },
    Route {
        path: "/logging",
        help: "query/change logging levels",
        changes: true,
        parameters: &[
            (
                "paths",
                "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>. If fine grain logging is enabled, use __FILE__ or a glob experision as the logger name. For example, source/common*:warning",
            ),
            (
                "group",
                "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a logger name.",
            ),
            (
                "level",
                "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)",
            ),
        ],
        answer: |_, query| loggers::answer(query),
    },
    Route {
        path: "/memory",
        help: "print current allocation/heap usage",
        changes: false,
        parameters: &[],
        answer: |_, _| memory::answer(),
    },
    Route {
        path: "/memory/tcmalloc",
        help: "print TCMalloc stats",
        changes: false,
        parameters: &[],
        answer: |_, _| refused("tcmalloc"),
    },
    Route {
        path: "/peak_heap_dump",
        help: "dump peak Envoy heap (if supported)",
        changes: false,
        parameters: &[],
        answer: |_, _| refused("peak heap dump"),
    },
    Route {
        path: "/quitquitquit",
        help: "exit the server",
        changes: true,
        parameters: &[],
        answer: |admin, _| tell(admin, Command::Quit),
    },
    Route {
        path: "/ready",
        help: "print server state, return 200 if LIVE, otherwise return 503",
        changes: false,
        parameters: &[],
        answer: |admin, _| server_info::ready(admin),
    },
    Route {
        path: "/reopen_logs",
        help: "reopen access logs",
        changes: true,
        parameters: &[],
        answer: |admin, _| {
            admin.reopener.reopen();
            Reply::ok()
        },
    },
    Route {
        path: "/reset_counters",
        help: "reset all counters to zero",
        changes: true,
        parameters: &[],
        answer: |admin, _| {
            admin.stats.reset_counters();
            Reply::ok()
        },
    },
    Route {
        path: "/runtime",
        help: "print runtime values",
        changes: false,
        parameters: &[],
        answer: |admin, _| runtime::show(&admin.runtime),
    },
    Route {
        path: "/runtime_modify",
        help: "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...",
        changes: true,
        parameters: &[],
        answer: runtime::modify,
    },
    Route {
        path: "/server_info",
        help: "print server version/status information",
        changes: false,
        parameters: &[],
        answer: |admin, _| server_info::answer(admin),
    },
    Route {
        path: "/stats",
        help: "print server stats",
        changes: false,
        parameters: &[
            ("usedonly", "Only include stats that have been written by system since restart"),
            ("filter", "Regular expression (Google re2) for filtering stats"),
            ("invert_filter", "Invert the filter regex"),
            ("format", "Format to use; One of (html, active-html, text, json)"),
            ("type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"),
            ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)"),
        ],
        answer: |admin, query| {
            clusters::publish(admin);
            let reply = stats::stats(&admin.stats, &admin.settings, &admin.counts, query);
            stats::flush(&admin.stats, &admin.settings);
            reply
        },
    },
    Route {
        path: "/stats/prometheus",
        help: "print server stats in prometheus format",
        changes: false,
        parameters: &[
            ("usedonly", "Only include stats that have been written by system since restart"),
            ("text_readouts", "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)"),
            ("filter", "Regular expression (Google re2) for filtering stats"),
            ("invert_filter", "Invert the filter regex"),
            ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, summary)"),
        ],
        answer: |admin, query| {
            clusters::publish(admin);
            let reply = stats::prometheus(&admin.stats, &admin.settings, &admin.counts, query);
            stats::flush(&admin.stats, &admin.settings);
            reply
        },
    },
    Route {
        path: "/stats/recentlookups",
        help: "Show recent stat-name lookups",
        changes: false,
        parameters: &[],
        answer: |_, _| {
            let text = "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n";
            Reply::text(Status::OK, text)
        },
    },
    Route {
        path: "/stats/recentlookups/clear",
        help: "clear list of stat-name lookups and counter",
        changes: true,
        parameters: &[],
        answer: |_, _| Reply::ok(),
    },
    Route {
        path: "/stats/recentlookups/disable",
        help: "disable recording of reset stat-name lookup names",
        changes: true,
        parameters: &[],
        answer: |_, _| Reply::ok(),
    },
    Route {
        path: "/stats/recentlookups/enable",
        help: "enable recording of reset stat-name lookup names",
        changes: true,
        parameters: &[],
        answer: |_, _| refused("recording of stat-name lookups"),
    },
];

/// Whether a path is one that is answered at all (`allow_paths`).
pub(super) fn is_allowed(admin: &Admin, path: &str) -> bool {
    admin.allow_paths.is_empty() || admin.allow_paths.iter().any(|allowed| allowed.matches(path.as_bytes()))
}

/// Answers a request.
pub(super) fn answer(admin: &Admin, method: &Method, path: &str, query: &Query) -> Reply {
    if !is_allowed(admin, path) {
        return Reply::text(Status::FORBIDDEN, format!("Path {path} is not in the allowlist.\n"));
    }
    // Envoy has no such path, and its list of them is no other here.
    if path == client_status::PATH {
        return client_status::answer(admin, query);
    }
    let Some(route) = ROUTES.iter().find(|route| route.path == path) else {
        return Reply::text(Status::NOT_FOUND, format!("invalid path. {}", help(admin)));
    };
    if route.changes && method != Method::POST {
        return Reply::text(Status::METHOD_NOT_ALLOWED, format!("Method {method} not allowed, POST required."));
    }
    (route.answer)(admin, query)
}

fn fail_health_checks(admin: &Admin, fail: bool) -> Reply {
    admin.lifecycle.fail_health_checks(fail);
    // The next flush would say so as well, and later.
    admin.stats.set(admin.stats.root().gauge("server.live"), u64::from(!fail));
    Reply::ok()
}

fn refused(what: &str) -> Reply {
    Reply::text(Status::NOT_IMPLEMENTED, format!("{NOT_SUPPORTED}{what}"))
}

fn switch(query: &Query, what: &str) -> Reply {
    match query.get("enable") {
        Some("y" | "n") => refused(what),
        _ => Reply::text(Status::BAD_REQUEST, "?enable=<y|n>\n"),
    }
}

fn tell(admin: &Admin, command: Command) -> Reply {
    match admin.commands.try_send(command) {
        Ok(()) => Reply::ok(),
        Err(_) => Reply::text(Status::SERVICE_UNAVAILABLE, "the server is busy or about to end\n"),
    }
}

/// As Envoy says it, and where there are views, how to ask for one.
fn help(admin: &Admin) -> String {
    let views = admin.views.len() > 1;
    let mut out = String::from("admin commands are:\n");
    for route in ROUTES {
        let post = if route.changes { " (POST)" } else { "" };
        out.push_str(&format!("  {}{post}: {}\n", route.path, route.help));
        for (name, help) in route.parameters.iter().filter(|(name, _)| views || *name != OF_VIEW) {
            out.push_str(&format!("      {name}: {help}\n"));
        }
    }
    out
}

/// A readable page: a link for each path that shows something, a button for each that changes something.
fn home() -> Reply {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut rows = String::new();
    for route in ROUTES.iter().filter(|route| route.path != "/") {
        let (path, name) = (&route.path[1..], &route.path[1..]);
        let cell = if route.changes {
            format!("<form action='{path}' method='post'><button>{name}</button></form>")
        } else {
            format!("<a href='{path}'>{name}</a>")
        };
        rows.push_str(&format!("<tr><td>{cell}</td><td>{}</td></tr>\n", escape(route.help)));
    }
    Reply::html(format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<title>weir admin</title>\n<style>\nbody {{ font-family: sans-serif; }}\n\
         td {{ padding: 4px 12px 4px 4px; vertical-align: top; }}\ntr:nth-child(odd) {{ background: #eee; }}\n\
         form {{ margin: 0; }}\n</style>\n</head>\n<body>\n<h1>weir admin</h1>\n<table>\n{rows}</table>\n</body>\n</html>\n"
    ))
}
