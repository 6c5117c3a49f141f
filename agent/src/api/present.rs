//! The board and the kernel's facts as the API's messages.

use std::net::{IpAddr, SocketAddr};

use weir_abi::{
    Endpoint, Rule,
    map::{FlowKey, FlowValue, INBOUND_PORT},
};
use weir_proto::agent::v1 as pb;

use super::{
    clock::{Clock, nanoseconds, unix_ns},
    pods::Names,
};
use crate::{
    keeper,
    redirect::inspect::{Entry, Error, Field, Kernel, LinkTarget, MapFacts, ProgramFacts, listener},
    status::{Board, PodState, PodStatus, ProxyStatus},
};

/// A pod with its counters and listeners as the kernel has them.
pub fn pod(status: &PodStatus, kernel: &dyn Kernel) -> Result<pb::Pod, Error> {
    let mut message = pb::Pod {
        uid: status.uid.clone(),
        name: status.name.clone(),
        namespace: status.namespace.clone(),
        service_account: status.service_account.clone(),
        netns: status.netns.as_ref().map_or_else(String::new, |path| path.display().to_string()),
        netns_cookie: status.netns_cookie.unwrap_or_default(),
        ips: status.ips.iter().map(IpAddr::to_string).collect(),
        slot: status.slot.unwrap_or_default(),
        state: status.state.name().to_owned(),
        reason: status.state.reason().unwrap_or_default().to_owned(),
        overdue: matches!(status.state, PodState::Pending { overdue: true, .. }),
        probe_ports: ports(&status.probe_ports),
        excluded_outbound_ports: ports(&status.excluded_outbound_ports),
        excluded_outbound_cidrs: status.excluded_outbound_cidrs.iter().map(ToString::to_string).collect(),
        excluded_inbound_ports: ports(&status.excluded_inbound_ports),
        fail_open: status.fail_open,
        listeners: status.listeners,
        enrolled: status.enrolled.map_or(0, unix_ns),
        ..Default::default()
    };
    if let Some(slot) = status.slot {
        let happened = kernel.counters(slot)?.into_iter().filter(|(_, count)| *count > 0);
        message.counters = happened.map(|(rule, count)| (rule.name().to_owned(), count)).collect();
    }
    if let Some(cookie) = status.netns_cookie
        && let Some(config) = kernel.enrolled(cookie)?
    {
        let port = kernel.config()?.outbound_port;
        for ip in [config.redirect_v4, config.redirect_v6] {
            if ip != weir_abi::Ip::UNSPECIFIED {
                let ip = IpAddr::from(ip);
                message.outbound_listeners.push(SocketAddr::new(ip, port as u16).to_string());
                message.inbound_listeners.push(SocketAddr::new(ip, INBOUND_PORT).to_string());
            }
        }
    }
    Ok(message)
}

fn ports(ports: &[u16]) -> Vec<u32> {
    let mut ports: Vec<u32> = ports.iter().copied().map(u32::from).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A connected proxy.
pub fn proxy(status: &ProxyStatus) -> pb::Proxy {
    pb::Proxy {
        version: status.version.clone(),
        generation: status.generation,
        pid: status.pid,
        uid: status.uid,
        workers: status.workers,
        state: status.state.name().to_owned(),
        connected: unix_ns(status.connected),
        open: status.open,
        unanswered_ns: status.unanswered.map_or(0, |since| nanoseconds(since.elapsed())),
    }
}

/// The keeper.
pub fn keeper(status: keeper::Status) -> pb::Keeper {
    pb::Keeper {
        pid: status.pid.unwrap_or_default(),
        pods: status.pods,
        sockets: status.sockets,
        problem: status.problem,
    }
}

/// What was decided on, sorted by pod, direction, destination and rule.
pub fn redirects(
    kernel: &dyn Kernel,
    names: &Names,
    flows: Vec<(FlowKey, FlowValue)>,
) -> Result<Vec<pb::Redirect>, Error> {
    let (clock, outbound_port) = (Clock::now(), kernel.config()?.outbound_port);
    let mut rows = Vec::with_capacity(flows.len());
    for (key, value) in flows {
        // A rule of another version has no name to show.
        let Some(rule) = Rule::from_number(key.rule) else { continue };
        let pod = kernel.enrolled(kernel.slot(key.slot)?.netns)?;
        let destination = Endpoint { ip: key.ip, port: key.port, role: 0 };
        let address = destination.socket_addr();
        let name = names.of_slot(key.slot).cloned().unwrap_or_default();
        let listener = listener(rule, pod.as_ref(), outbound_port, &destination);
        let row = pb::Redirect {
            pod_uid: name.uid,
            pod: name.name.clone(),
            direction: rule.direction().name().to_owned(),
            original_destination: address.to_string(),
            listener: listener.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            action: rule.action().name().to_owned(),
            rule: rule.name().to_owned(),
            count: value.count,
            last_seen: clock.unix_ns(value.last_seen),
        };
        // Outbound first, as in a pod's own log.
        rows.push(((name.name, rule.direction() as u8, address, key.rule, key.slot), row));
    }
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// A pinned program.
pub fn program(facts: &ProgramFacts, board: &Board, names: &Names) -> pb::Program {
    pb::Program {
        id: facts.id,
        name: facts.name.clone(),
        r#type: facts.kind.to_owned(),
        tag: format!("{:016x}", facts.tag),
        attach: attach(facts, board, names),
        link_id: facts.link.map_or(0, |link| link.id),
        run_count: facts.run_count,
        run_time_ns: nanoseconds(facts.run_time),
        loaded: facts.loaded.map_or(0, unix_ns),
        bytes_translated: facts.bytes_translated,
        bytes_jited: facts.bytes_jited,
        memlock: facts.memlock,
        pin: facts.pin.display().to_string(),
    }
}

/// Where a program is attached, "" if nowhere.
fn attach(facts: &ProgramFacts, board: &Board, names: &Names) -> String {
    let Some(link) = facts.link else { return String::new() };
    let at = match link.target {
        LinkTarget::Cgroup => format!("cgroup {}", board.cgroup2.display()),
        LinkTarget::Netns => {
            let slot = facts.pinned_as.rsplit_once('_').and_then(|(_, slot)| slot.parse().ok());
            let pod = slot.and_then(|slot| names.of_slot(slot));
            format!("netns {}", pod.map_or("-", |pod| pod.name.as_str()))
        }
        LinkTarget::Other => "unknown".to_owned(),
    };
    if link.program_id == facts.id { at } else { format!("{at} (runs program {})", link.program_id) }
}

/// A pinned map.
pub fn map(facts: MapFacts) -> pb::Map {
    pb::Map {
        id: facts.id,
        name: facts.name,
        r#type: facts.kind.to_owned(),
        key_bytes: facts.key_bytes,
        value_bytes: facts.value_bytes,
        max_entries: facts.max_entries,
        pin: facts.pin.display().to_string(),
        memlock: facts.memlock,
    }
}

/// A map's entry, with the pod's name after whatever stands for a pod.
pub fn entry(entry: Entry, names: &Names) -> pb::MapEntry {
    let named = |fields: Vec<Field>| {
        let mut message = Vec::new();
        for (name, value) in fields {
            let pod = match name {
                "netns" => value.parse().ok().and_then(|cookie| names.of_cookie(cookie)),
                "slot" => value.parse().ok().and_then(|slot| names.of_slot(slot)),
                _ => None,
            };
            let pod_field = matches!(name, "netns" | "slot").then(|| pb::Field {
                name: "pod".to_owned(),
                value: pod.map_or_else(String::new, |pod| pod.name.clone()),
            });
            message.push(pb::Field { name: name.to_owned(), value });
            message.extend(pod_field);
        }
        message
    };
    let (key, mut value) = (named(entry.key), named(entry.value));
    // Once is enough.
    if key.iter().any(|field| field.name == "pod") {
        value.retain(|field| field.name != "pod");
    }
    let mut seen = false;
    value.retain(|field| field.name != "pod" || !std::mem::replace(&mut seen, true));
    pb::MapEntry { key, value }
}
